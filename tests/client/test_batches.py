"""`open_batch`: its events, its result, its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from clients import virtual_client, virtual_sandbox
from sampling import SLOW_STEPS

from wan_async import (
    BatchFailed,
    InvalidBatch,
    Job,
    Options,
    open_batch,
)
from wan_async.domain import events


class Broken(Exception):
    pass


@pytest.mark.virtual_loops
async def test_the_result_names_each_given_job_with_its_state(tmp_path: Path) -> None:
    sandbox = virtual_sandbox()
    sandbox.faults.next("failed_render", "Run", times=1)
    jobs = [Job(prompt=f"scene {number}") for number in range(4)]
    async with virtual_client(sandbox) as client:
        options = Options(retries=0, concurrency=1)
        async with open_batch(jobs, output=tmp_path, client=client, options=options) as batch:
            seen = [batch.job_of(event) async for event in batch if isinstance(event, events.Accepted)]
            with pytest.raises(RuntimeError, match="block"):
                _ = batch.result
    result = batch.result
    assert [each.job for each in result.jobs] == jobs
    assert seen == jobs
    assert [each.job for each in result.failed] == jobs[:1]
    assert [each.job for each in result.stored] == jobs[1:]
    assert all(each.file and each.file.exists() and each.cost_micros == 50_000 for each in result.stored)
    assert [result.missing, result.cancelled, result.unknown, result.unfinished] == [[]] * 4
    with pytest.raises(BatchFailed, match="1 of 4"):
        result.raise_for_failures()


@pytest.mark.virtual_loops
async def test_the_output_of_an_app_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with virtual_client(virtual_sandbox()) as client:
        with pytest.raises(InvalidBatch, match="clips go to local folders"):
            async with open_batch([Job(prompt="x")], output="s3://bucket/clips", client=client):
                pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.virtual_loops
async def test_a_batch_whose_jobs_all_fail_has_a_result_that_raises(tmp_path: Path) -> None:
    async with virtual_client(virtual_sandbox(faults={"failed_render": 1.0})) as client:
        jobs = [Job(prompt=f"{number}") for number in range(3)]
        async with open_batch(jobs, output=tmp_path, client=client, options=Options(retries=0)) as batch:
            pass
    assert len(batch.result.failed) == 3
    with pytest.raises(BatchFailed, match="3 of 3"):
        batch.result.raise_for_failures()


@pytest.mark.parametrize(
    "wrong",
    [
        {"downloads": 0},
        {"concurrency": -1},
        {"concurrency": 0},
        {"max_concurrency": 0},
        {"track": "bogus"},
        {"upload": "bogus"},
        {"retries": -1},
        {"budget_micros": 0.05},
        {"budget_micros": -1},
        {"settle_seconds": -1},
        {"patience_seconds": "x"},
        {"limit": True},
    ],
)
def test_options_are_checked_where_they_are_given(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidBatch, match=next(iter(wrong))):
        Options(**wrong)


@pytest.mark.virtual_loops
async def test_two_batches_and_single_calls_run_side_by_side(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(concurrency_limit=4)
    async with virtual_client(sandbox) as client:

        async def batch(name: str) -> None:
            jobs = [Job(prompt=f"{name} {number}") for number in range(6)]
            async with open_batch(jobs, output=tmp_path / name, client=client) as run:
                async for _ in run:
                    pass
            run.result.raise_for_failures()

        async def single(number: int) -> None:
            await client.generate(Job(prompt=f"single {number}"), tmp_path / f"{number}.mp4")

        async with anyio.create_task_group() as group:
            for name in "ab":
                group.start_soon(batch, name)
            for number in range(6):
                group.start_soon(single, number)
    assert len(sandbox.account.tasks) == 18


@SLOW_STEPS
@pytest.mark.virtual_loops
async def test_a_batch_that_is_left_at_any_event_is_resumed_and_paid_once(tmp_path: Path, every: int) -> None:
    for left_at in range(1, 14, every):
        sandbox = virtual_sandbox()
        folder = tmp_path / f"{left_at}"
        job = Job(id="a", prompt="p")
        async with virtual_client(sandbox) as client:
            count = 0
            try:
                async with open_batch([job], output=folder, client=client) as run:
                    async for _ in run:
                        count += 1
                        if count == left_at:
                            raise Broken
            except Broken:
                pass
            async with open_batch([job], output=folder, client=client) as run:
                pass
        run.result.raise_for_failures()
        assert len(sandbox.account.tasks) == 1


@pytest.mark.virtual_loops
async def test_a_block_that_raises_raises_just_that(tmp_path: Path) -> None:
    async with virtual_client(virtual_sandbox()) as client:
        with pytest.raises(Broken):
            async with open_batch([Job(prompt="a")], output=tmp_path, client=client):
                raise Broken
