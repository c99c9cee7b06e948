"""Workers as processes of their own, that are killed and started again at random instants."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from servers import Command, Server, in_process, start_forked, write_batch

from wan_async.domain.lifecycle import State
from wan_async.journal.base import DatabaseHome
from wan_async.journal.reports import report

LEASE_SECONDS, SETTLE_SECONDS = 5.0, 0.7
POLL_SECONDS = 0.5


class Crew:
    """Workers on one queue.

    Args:
        dsn: the database of the journal and the queue.
        server: the sandbox.
        folder: of the batch file and the logs.
        count: how many workers.
        flags: further flags of a worker.
        lease_seconds: how long a worker that is not heard of keeps its jobs.

    Attributes:
        ends: the states in which a job has nothing left to do.
    """

    ends: frozenset[State] = frozenset({State.STORED})

    def __init__(
        self,
        dsn: str,
        server: Server,
        folder: Path,
        count: int,
        flags: Sequence[str] = (),
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self.dsn = dsn
        self.server = server
        self.folder = folder
        self.output = folder / "out"
        self.flags = ("--lease", str(lease_seconds), "--settle", str(SETTLE_SECONDS), *flags)
        self.kills = 0
        self.logs: list[Path] = []
        self.workers = [self._start() for _ in range(count)]

    def _start(self) -> Command:
        path = self.folder / f"worker-{len(self.logs)}.log"
        self.logs.append(path)
        with path.open("w") as log:
            return start_forked("worker", "--journal", self.dsn, *self.flags, "-v", env=self.server.env, log=log)

    def add(self) -> None:
        """Start one more worker."""
        self.workers.append(self._start())

    def enqueue(self, jobs: Sequence[dict[str, Any]], *flags: str) -> subprocess.CompletedProcess[str]:
        """Put a batch into the queue."""
        batch = write_batch(self.folder, jobs)
        arguments = ("enqueue", batch, "--journal", self.dsn, "-o", self.output, "--settle", str(SETTLE_SECONDS))
        return in_process(*arguments, *flags, env=self.server.env)

    def kill(self, draw: random.Random) -> None:
        """Kill one of the workers, and start another in its place."""
        place = draw.randrange(len(self.workers))
        worker = self.workers[place]
        worker.kill()
        worker.wait(20)
        self.kills += 1
        self.workers[place] = self._start()

    def restart_ended(self) -> None:
        """Start a worker in the place of each one that ended by itself, as a supervisor does."""
        for place, worker in enumerate(self.workers):
            if worker.poll() is not None:
                self.workers[place] = self._start()

    def states(self) -> dict[str, str]:
        """The state of each job."""
        known = report(DatabaseHome(self.dsn, str(self.output.resolve())))
        return {} if known is None else {result.job: result.state for result in known.results}

    def wait_all_stored(self, seconds: float, act: Callable[[], None] = lambda: None) -> bool:
        """Wait until every job is in one of `ends`; whether that came to pass. `act` is called again and again."""
        give_up_at = time.monotonic() + seconds
        while time.monotonic() < give_up_at:
            act()
            self.restart_ended()
            states = self.states()
            if states and set(states.values()) <= self.ends:
                return True
            time.sleep(POLL_SECONDS)
        return False

    def stop(self) -> list[int]:
        """End the workers by SIGTERM; their exit codes."""
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        return [worker.wait(60) for worker in self.workers]

    def said(self) -> str:
        """What the workers printed."""
        return "\n".join(f"{path.name}\n{path.read_text()}" for path in self.logs)

    def wrong(self, count: int) -> list[str]:
        """What is wrong with a batch of `count` jobs whose prompts differ."""
        found = []
        prompts = [task["parameters"]["prompt"] for task in self.server.report()["tasks"] if task["succeeded"]]
        if (twice := len(prompts) - len(set(prompts))) > 0:
            found.append(f"{twice} jobs were paid twice")
        if len(set(prompts)) != count:
            found.append(f"{len(set(prompts))} jobs were paid")
        known = report(DatabaseHome(self.dsn, str(self.output.resolve())))
        results = known.results if known is not None else []
        for result in results:
            if result.state == State.QUARANTINED and result.state in self.ends:
                continue
            path = self.output / str(result.file)
            if result.state != State.STORED or sha256(path.read_bytes()).hexdigest() != result.sha256:
                found.append(f"{result.job} is {result.state}, or its clip differs")
            elif not path.with_suffix(".json").is_file():
                found.append(f"{result.job} has no sidecar")
        if len(results) != count:
            found.append(f"{len(results)} results")
        return found


@contextmanager
def crew(
    dsn: str,
    server: Server,
    folder: Path,
    count: int,
    flags: Sequence[str] = (),
    lease_seconds: float = LEASE_SECONDS,
) -> Iterator[Crew]:
    """Workers that are ended with the block."""
    made = Crew(dsn, server, folder, count, flags, lease_seconds)
    try:
        yield made
    finally:
        for worker in made.workers:
            worker.kill()
            worker.wait(20)
