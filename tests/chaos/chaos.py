"""`nox -s chaos`: the complete kill matrix, a suspended run, and runs killed at random times with all faults.

Prints the charges and the number of clips on disk. The exit code is 1 if a clip was paid twice, lost or given up, or if
an attempt was left unresolved. The printed seed repeats the times of the kills, not the races between processes.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "support"))

from kills import IMAGE, Killables, Matrix
from servers import Server, events_of, sandbox_server, start, write_batch

from wan_async.sandbox.faults import TRANSIENT

JOBS = 40
WAYS = [("file", "socket"), ("file", "poll"), ("inline", "socket"), ("inline", "poll")]
LAST_RUNS = 10
LAST_RUN_SECONDS = 600
SETTLE_SECONDS = 2.0
DENIED_SECONDS = 1.5
"""Shorter than the pause between two listings: a task denied in both would be considered absent."""
PATIENCE_SECONDS = 20
"""Time after which a run leaves a denied task to the next run as missing."""


@dataclass
class Batch:
    """A batch that is killed repeatedly, then run until it is done."""

    server: Server
    folder: Path
    number: int
    random: random.Random
    kills: int = 0

    @property
    def output(self) -> Path:
        """Its output folder."""
        return self.folder / "out"

    def prepare(self) -> None:
        """Write the batch file; every second job has an image of its own."""
        self.folder.mkdir(parents=True)
        listed: list[dict[str, Any]] = []
        for job in range(JOBS):
            listed.append({"id": f"job-{job}", "prompt": f"batch {self.number}, scene {job}"})
            if job % 2:
                image = self.folder / f"{job}.jpg"
                image.write_bytes(IMAGE.read_bytes() + str(job).encode())
                listed[-1]["image"] = str(image)
        self.batch = write_batch(self.folder, listed)

    def launch(self) -> subprocess.Popen[str]:
        """Start a run with a random way to upload and to track."""
        upload, track = self.random.choice(WAYS)
        return start(
            "run", self.batch, "-o", self.output, "--json", "--retries", "9", "--retry-failed",
            "--settle", str(SETTLE_SECONDS), "--patience", str(PATIENCE_SECONDS), "--upload", upload, "--track", track,
            env=self.server.env,
        )  # fmt: skip

    def run(self, kills: int) -> str:
        """Kill it `kills` times, then run it to its end; return the errors found, or an empty string."""
        self.prepare()
        code = -9
        while self.kills < kills and code != 0:
            process = self.launch()
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=0.5 + self.random.expovariate(0.8))
            if process.poll() is None:
                process.kill()
                self.kills += 1
                process.communicate()
            code = process.returncode
        stderr, states = "", Counter[str]()
        for _ in range(LAST_RUNS):
            process = self.launch()
            try:
                out, stderr = process.communicate(timeout=LAST_RUN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                return (
                    f"batch {self.number}: has not ended after {LAST_RUN_SECONDS} s: {process.communicate()[1][-2000:]}"
                )
            states = Counter(result["state"] for result in self.results())
            if process.returncode == 0 and not states["missing"]:
                return self.errors(events_of(out))
        return f"batch {self.number}: not done after the last run: {dict(states)}, {stderr[-2000:]}"

    def results(self) -> list[dict[str, Any]]:
        """The results file of the last run that wrote one."""
        path = self.output / "results.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def errors(self, events: list[dict[str, Any]]) -> str:
        """Compare charges, results and files; return the errors found, or an empty string."""
        mine = f"batch {self.number}, "
        paid = Counter(
            task["parameters"]["prompt"]
            for task in self.server.report()["tasks"]
            if task["succeeded"] and task["parameters"]["prompt"].startswith(mine)
        )
        found = []
        if twice := [prompt for prompt, count in paid.items() if count > 1]:
            found.append(f"paid twice: {twice}")
        results = self.results()
        lost = [
            result["job"]
            for result in results
            if result["state"] != "stored"
            or sha256((self.output / result["file"]).read_bytes()).hexdigest() != result["sha256"]
        ]
        if lost or len(results) != JOBS or len(paid) != JOBS:
            found.append(f"lost: {lost}, {len(paid)} paid, {len(results)} results for {JOBS} jobs")
        # an unfinished page may be that of `gallery` in another process: only runs a minute later remove it
        unfinished = [path.name for path in self.output.iterdir() if path.suffix in (".part", ".tmp")]
        if left := [name for name in unfinished if not name.startswith("gallery.html.")]:
            found.append(f"left behind: {left}")
        spent = float(events[-1]["spent_usd"])
        if abs(spent - sum(float(result["cost_usd"]) for result in results)) > 1e-9:
            found.append(f"the run reports ${spent} as spent")
        if given_up := [result["job"] for result in results if result["state"] == "given_up"]:
            found.append(f"given up: {given_up}")
        return f"batch {self.number}: {'; '.join(found)}" if found else ""


def chaos(kills: int, seed: int, folder: Path) -> list[str]:
    """Kill runs at random times with 5 % of every transient fault; return the errors found."""
    faults = [word for name in TRANSIENT for word in ("--fault", f"{name}=0.05")]
    flags = [
        "--seconds", "0.3,1.5", "--limit", "12", "--balance", "100000", "--visible-after", "0.5",
        "--denied-seconds", str(DENIED_SECONDS), *faults,
    ]  # fmt: skip
    with sandbox_server("--seed", str(seed), *flags) as server, ThreadPoolExecutor(4) as pool:
        per_batch = 20
        batches = [
            Batch(server, folder / f"batch-{number}", number, random.Random(f"{seed}-{number}"))
            for number in range(-(-kills // per_batch))
        ]
        wrong = [found for found in pool.map(lambda batch: batch.run(per_batch), batches) if found]
        killed = sum(batch.kills for batch in batches)
        extra = Batch(server, folder / "rest", len(batches), random.Random(seed))
        if killed < kills:  # some batches ended before all of their kills
            wrong += [found for found in [extra.run(kills - killed)] if found]
        report = server.report()
        jobs = sum(path.name.endswith(".mp4") for path in folder.rglob("*.mp4"))
        print(f"random kills   {killed + extra.kills}, faults of {len(TRANSIENT)} kinds at 5 % each, seed {seed}")
        print(f"tasks          {len(report['tasks'])} created, {server.paid} paid, for {jobs} clips")
        if server.paid != jobs:
            wrong.append(f"{server.paid} paid for {jobs} clips")
        if report["leaks"]:
            wrong.append(f"credentials were sent with {len(report['leaks'])} downloads")
        return wrong


def matrix(folder: Path) -> list[str]:
    """Kill runs at every step, with every way to upload and to track; return the errors found."""
    wrong: list[str] = []
    flags = ["--seconds", "0.05,0.1", "--limit", "50", "--balance", "1000"]
    for upload, track in WAYS:
        with sandbox_server(*flags) as server, Killables.running() as killables:
            place = folder / f"{upload}-{track}"
            place.mkdir(parents=True)
            count, failures = Matrix(server, killables, place, upload, track).failures()
            print(f"kill matrix    {count} cases, {len(failures)} wrong ({upload}, {track})", flush=True)
            wrong += failures
    return wrong


def suspension(seconds: float, folder: Path) -> list[str]:
    """Suspend a run for longer than any timeout while its Runs are in flight; return the errors found."""
    folder.mkdir(parents=True)
    batch = write_batch(folder, [{"id": f"job-{job}", "prompt": f"scene {job}"} for job in range(8)])
    with sandbox_server("--latency", "1") as server:
        process = start("run", batch, "-o", folder / "out", "--json", env=server.env)
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "submitting":
                break
        time.sleep(0.5)  # the answer takes a second
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)
        events = events_of(process.communicate(timeout=LAST_RUN_SECONDS)[0])
        unanswered = [event for event in events if event["event"] == "unknown"]
        facts = (process.returncode, server.paid, len(unanswered))
    print(f"suspension     {seconds:.0f} s, exit code {facts[0]}, {facts[1]} paid for 8 jobs, {facts[2]} unanswered")
    return [] if facts == (0, 8, 0) else [f"a suspended run: {facts}"]


def main() -> int:
    """Run all and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--no-matrix", action="store_true")
    parser.add_argument("--suspend", type=float, default=90.0, metavar="SECONDS")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    wrong = [] if args.no_matrix else matrix(folder / "matrix")
    wrong += suspension(args.suspend, folder / "suspended")
    wrong += chaos(args.kills, args.seed, folder / "chaos")
    for line in wrong:
        print(line)
    if wrong:
        print(f"files are kept in {folder}")
    else:
        shutil.rmtree(folder)
        print("paid twice     0\nlost           0\ngiven up       0")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
