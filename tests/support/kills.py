"""The kill matrix: a batch is killed at each step of a run, and run again to its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from servers import Server, untraced

IMAGE = Path(__file__).parents[2] / "batches" / "images" / "cat.jpg"
JOBS = 3
SETTLE_SECONDS = 0.3
PARALLEL = 8
"""Cases at a time: each waits for two thirds of its time."""

Kill = tuple[str, int]
"""Name of a step, and the occurrence at which the process is killed."""

AFTER_DEATH: dict[str, tuple[str, ...]] = {
    "Run: before": ("unknown: before", "unknown: after", "Task/List: after", "absent: before", "absent: after"),
    "Run: after": ("unknown: before", "unknown: after", "accepted: before", "accepted: after"),
    "accepted: after": ("Task/Detail: before", "Task/Detail: after", "ended: before", "ended: after"),
    "ended: after": ("Task/Detail: before", "ended: before", "ended: after", "checked: after"),
    "checked: after": ("link .mp4: before", "link .mp4: after", "unlink .part: before", "stored: before"),
}
"""Steps of the second kill, by the step of the first."""


@dataclass(frozen=True)
class Killables:
    """A process that runs each case in a process of its own."""

    address: str

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Killables]:
        """Start the process; end it with the block."""
        with TemporaryDirectory() as folder:
            address = f"{folder}/socket"
            with subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("killable.py")), address],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=untraced(dict(os.environ)),
            ) as process:  # fmt: skip
                assert process.stdin is not None
                assert process.stdout is not None
                with process.stdin:
                    assert process.stdout.readline() == b"ready\n"
                    yield cls(address)

    def run(self, case: dict[str, Any]) -> dict[str, Any]:
        """Run a case; return its exit code (negative: the signal) and the occurrences of each step."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.address)
            with connection.makefile("rw") as stream:
                stream.write(json.dumps(case) + "\n")
                stream.flush()
                answer: dict[str, Any] = json.loads(stream.read())
        return answer


@dataclass(frozen=True)
class Matrix:
    """All cases with one way to upload and one way to track tasks.

    Attributes:
        steps: prefixes of the steps of the first kill.
        every: takes each n-th case.
    """

    server: Server
    killables: Killables
    folder: Path
    upload: str
    track: str
    steps: tuple[str, ...] = ("",)
    every: int = 1

    def case(self, output: Path, kill: Kill | None) -> dict[str, Any]:
        """A case as `killable.py` reads it."""
        info = self.server.info
        name, occurrence = kill or (None, 1)
        return {
            "output": str(output),
            "prompts": [f"{output} scene {number}" for number in range(JOBS)],
            "image": str(IMAGE),
            "key": info["api_key"],
            "secret": info["api_secret"],
            "base_url": info["base_url"],
            "socket_url": info["socket_url"],
            "upload": self.upload,
            "track": self.track,
            "settle_seconds": SETTLE_SECONDS,
            "kill": name,
            "occurrence": occurrence,
        }

    def kills(self) -> list[tuple[Kill, ...]]:
        """All steps of a complete run, at their second occurrence if there is one; some with a second kill."""
        output = self.folder / "dry"
        output.mkdir()
        ran = self.killables.run(self.case(output, None))
        assert ran["code"] == 0
        once = [((name, min(2, count)),) for name, count in ran["points"].items()]
        twice = [((first, 2), (second, 1)) for first, seconds in AFTER_DEATH.items() for second in seconds]
        return [kills for kills in (*once, *twice) if kills[0][0].startswith(self.steps)][:: self.every]

    def fails(self, kills: Sequence[Kill]) -> str:
        """Kill the batch at each of these steps in turn, then run it to its end; return the errors found."""
        name = "-".join(f"{step}-{occurrence}" for step, occurrence in kills)
        output = self.folder / "".join(letter if letter.isalnum() else "-" for letter in name)
        output.mkdir()
        for kill in kills:
            ended = self.killables.run(self.case(output, kill))
            if ended["code"] != -signal.SIGKILL:
                return f"{kills}: step {kill} was not reached, exit code {ended['code']}"
        ended = self.killables.run(self.case(output, None))
        if ended["code"] != 0:
            return f"{kills}: the last run had exit code {ended['code']}"
        return "; ".join(f"{kills}: {wrong}" for wrong in self._wrong(output))

    def _wrong(self, output: Path) -> Iterator[str]:
        prompts = [task["parameters"]["prompt"] for task in self.server.report()["tasks"]]
        mine = sorted(prompt for prompt in prompts if prompt.startswith(f"{output} "))
        if mine != self.case(output, None)["prompts"]:
            yield f"{len(mine)} tasks for {JOBS} jobs"
        results = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
        for result in results:
            path = output / str(result["file"])
            if result["state"] != "stored" or sha256(path.read_bytes()).hexdigest() != result["sha256"]:
                yield f"{result['job']} is {result['state']}, or its clip differs"
            if not path.with_suffix(".json").is_file():
                yield f"{result['job']} has no sidecar"
        if len(results) != JOBS:
            yield f"{len(results)} results"
        clips = {f"job-{number}.{kind}" for number in range(JOBS) for kind in ("mp4", "json")}
        expected = clips | {".wan_async", "results.jsonl"}
        if (left := {path.name for path in output.iterdir()}) != expected:
            yield f"the folder holds {sorted(left ^ expected)}"

    def failures(self) -> tuple[int, list[str]]:
        """Run all cases; return their number and the errors found."""
        cases = self.kills()
        with ThreadPoolExecutor(PARALLEL) as pool:
            return len(cases), [failed for failed in pool.map(self.fails, cases) if failed]
