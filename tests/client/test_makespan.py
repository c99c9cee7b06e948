"""How long single calls take beside a batch of the same jobs, on the virtual clock."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from wan_async import Job, open_batch
from wan_async.testing import make_client, make_sandbox

JOBS = [Job(id=f"{number}", prompt=f"scene {number}") for number in range(30)]


@pytest.mark.virtual_time
async def test_many_calls_at_a_limit_of_ten_take_hardly_longer_than_a_batch_of_the_same_jobs(
    tmp_path: Path,
) -> None:
    seconds = {}
    for way in ("batch", "calls"):
        sandbox, began = make_sandbox(concurrency_limit=10), anyio.current_time()
        async with make_client(sandbox) as client:
            if way == "batch":
                async with open_batch(JOBS, output=tmp_path / way, client=client) as batch:
                    pass
                batch.result.raise_for_failures()
            else:
                async with anyio.create_task_group() as group:
                    for job in JOBS:
                        group.start_soon(client.generate, job, f"{tmp_path / way}/")
        seconds[way] = anyio.current_time() - began
        assert len(sandbox.account.tasks) == len(list((tmp_path / way).glob("*.mp4"))) == len(JOBS)
    assert seconds["calls"] <= 1.15 * seconds["batch"]
