"""A batch of text jobs with the in-process sandbox, in virtual time.

python tests/bench/bench_in_process.py JOBS FOLDER
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import anyio
from harness import KEY, ORIGIN, World, make_sandbox, virtually

from wan_async import Job
from wan_async.batch.plan import prepare
from wan_async.domain.attempt import Account
from wan_async.domain.batch import from_jobs
from wan_async.engine.run import Run
from wan_async.engine.run_events import EventStream


async def render(folder: Path, count: int) -> None:
    world = World(folder, make_sandbox(concurrency_limit=500, balance_usd=1e6))
    world.output.mkdir()
    stream = EventStream()
    batch = from_jobs(Job(id=f"job-{number}", prompt=f"scene {number}") for number in range(count))
    runner = Run(
        prepare(batch, world.home),
        dependencies=world.dependencies(),
        account=Account(ORIGIN, KEY),
        output=world.output,
        stream=stream,
    )

    async def read() -> None:
        async for _ in stream:
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        finished = await runner.run()
    if finished.stored != count:
        raise RuntimeError(f"{finished.stored} of {count} jobs are stored")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[2]) as name:
        virtually(lambda: render(Path(name), int(sys.argv[1])))


if __name__ == "__main__":
    main()
