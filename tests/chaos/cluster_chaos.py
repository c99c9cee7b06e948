"""`nox -s cluster`: 1,000 jobs on 4 workers that are killed, while requests fail and PostgreSQL restarts or falls back.

What the workers committed in the last seconds is lost then, as after the takeover of an asynchronous replica or with a
snapshot of the disk. They run with --adopt.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import postgres_server
from crews import crew
from servers import sandbox_server

from wan_async.domain.lifecycle import State
from wan_async.sandbox.faults import TRANSIENT

LONGEST_SECONDS = 1_800.0
LEASE_SECONDS = 10.0
SECONDS_LOST = 2.0


def main() -> int:
    """Run the jobs; print what came of them."""
    parser = argparse.ArgumentParser()
    defaults = {"jobs": 1000, "workers": 4, "limit": 40, "kills": 60, "restarts": 2, "falls": 2, "seed": 1}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    flags = [
        "--seconds", "0.3,1.5", "--limit", str(args.limit), "--balance", "100000", "--visible-after", "0.5",
        "--denied-seconds", "1", "--seed", str(args.seed),
        *(word for name in TRANSIENT for word in ("--fault", f"{name}=0.05")),
    ]  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres_server.database() as dsn,
        sandbox_server(*flags) as server,
        crew(dsn, server, Path(folder), args.workers, ["--adopt"], LEASE_SECONDS) as workers,
    ):
        if args.falls:  # of two tasks of a job, of which the journal lacks both, one may have to be told from the other
            workers.ends |= {State.QUARANTINED}
        jobs = [{"id": f"j{number}", "prompt": f"scene {number}"} for number in range(args.jobs)]
        done = workers.enqueue(jobs)
        if done.returncode:
            print(done.stderr)
            return 1
        began = time.monotonic()
        instants = sorted(draw.sample(range(args.jobs // 50, args.jobs * 95 // 100), args.kills))
        restarts = falls = 0
        copied: float | None = None

        def disturb() -> None:
            """Kill a worker at each of these numbers of tasks made, after a moment; restart the database meanwhile."""
            nonlocal restarts, falls, copied
            if workers.kills < args.kills and len(server.report()["tasks"]) >= instants[workers.kills]:
                time.sleep(draw.uniform(0.0, 0.5))
                workers.kill(draw)
            if restarts < args.restarts and workers.kills >= (restarts + 1) * args.kills // (args.restarts + 1):
                restarts += 1
                postgres_server.stop("immediate" if restarts % 2 else "fast")
                time.sleep(draw.uniform(0.5, 3.0))
                postgres_server.start()
            copy = Path(folder, f"copy-{falls}")
            if copied is not None and time.monotonic() - copied > SECONDS_LOST:
                copied = None
                postgres_server.fall_back(copy, promoted=falls % 2 == 0)
                falls += 1
            elif copied is None and falls < args.falls and workers.kills > falls * args.kills // args.falls:
                postgres_server.copy_files(copy)
                copied = time.monotonic()

        is_done = workers.wait_all_stored(LONGEST_SECONDS, disturb)
        wrong = workers.wrong(args.jobs)
        seconds = time.monotonic() - began
        report = server.report()
        print(f"cluster        {args.jobs} jobs, {args.workers} workers, limit {args.limit}, seed {args.seed}")
        events = f"{workers.kills} kills, {restarts} restarts of PostgreSQL, {falls} times fallen back"
        print(f"               {events}, {seconds:.0f} s")
        print(f"tasks          {len(report['tasks'])} created, {server.paid} paid")
        if not is_done or wrong:
            Path("cluster-chaos.log").write_text(workers.said())
            print(f"WRONG          all stored: {is_done}; {wrong}; see cluster-chaos.log")
            return 1
        quarantined = Counter(workers.states().values())[State.QUARANTINED]
        print(f"               paid twice 0, missing 0, quarantined {quarantined}, every other clip whole")
    return 0


if __name__ == "__main__":
    sys.exit(main())
