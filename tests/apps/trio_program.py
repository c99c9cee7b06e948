"""A trio program that uses the library: some clips at once, one of them by a deadline, and a task that is read.

python tests/apps/trio_program.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

from wan_async import Job, Task, WanClient


async def main(folder: Path) -> None:
    """Make the clips; prints what came of them as JSON."""
    submitted: list[Task] = []
    client = WanClient()

    async def generate(number: int) -> None:
        await client.generate(Job(prompt=f"wave {number}"), to=folder / f"{number}.mp4")

    async def hurry() -> None:
        with trio.CancelScope() as scope:

            def leave(task: Task) -> None:
                submitted.append(task)
                scope.cancel()

            await client.generate(Job(prompt="too slow"), to=folder / "slow.mp4", on_submitted=leave)
        assert scope.cancelled_caught

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(generate, number)
        nursery.start_soon(hurry)

    (left,) = client.unclaimed
    async with client.track(left) as events:
        seen = [type(event).__name__ async for event in events]
    data = await client.read(left)
    report = {"same": left == submitted[0], "last": seen[-1], "bytes": len(data), "unclaimed": len(client.unclaimed)}
    async with trio.open_nursery() as nursery:  # closed in another task than it was made in
        nursery.start_soon(client.aclose)
    print(json.dumps(report))


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
