"""A worker that may be killed at any time: it does one job, and goes on with what an earlier process left.

    python tests/apps/worker.py task FOLDER       keeps the task in a file
    python tests/apps/worker.py journal FOLDER    leaves that to the client's journal

It prints each step, so that a test can kill it there.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from wan_async import Clip, Job, RequestReport, Task, WanClient

JOB = Job(id="rain", prompt="rain on a tin roof")


def step(name: str) -> None:
    """Tell that a step is reached; KILL_AT is where the process ends, as by `kill -9`."""
    if os.environ.get("KILL_AT") == name:
        os.kill(os.getpid(), 9)
    print(name, flush=True)


def sent(report: RequestReport) -> None:
    """The service has answered a request, which the client does not know yet."""
    if report.endpoint.startswith("/Run/"):
        step("answered")


async def with_task(folder: Path) -> Clip:
    """Submit the job, unless an earlier process did so, and wait for its clip."""
    stored = folder / "task.json"

    def keep(task: Task) -> None:
        part = stored.with_suffix(".part")
        part.write_text(task.dumps())
        part.replace(stored)
        step("submitted")

    async with WanClient() as client:
        task = Task.loads(stored.read_text()) if stored.exists() else await client.submit(JOB, on_submitted=keep)
        return await client.wait(task, to=folder / "rain.mp4")


async def with_journal(folder: Path) -> Clip:
    """The same call as in an earlier process: it does not pay again."""
    async with WanClient(journal=folder / "journal", on_request=sent) as client:
        return await client.generate(JOB, to=folder / "rain.mp4", on_submitted=lambda task: step("submitted"))


if __name__ == "__main__":
    way = {"task": with_task, "journal": with_journal}[sys.argv[1]]
    print(asyncio.run(way(Path(sys.argv[2]))).path.name)
