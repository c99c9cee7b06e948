"""The remote tasks of an account, its prices and its balance; calls without await."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
import uvloop
from clients import client_of, quick_sandbox, virtual_client, virtual_sandbox

from wan_async import Clip, Closed, InvalidBatch, Job, NotFound, WanClient, generate_sync

JOB = Job(prompt="rain")


@pytest.mark.virtual_loops
async def test_tasks_are_listed_shown_and_killed_by_task_or_id() -> None:
    sandbox = virtual_sandbox(task_seconds=(60, 60))
    async with virtual_client(sandbox) as client:
        assert await client.tasks.list() == []
        first = await client.submit(JOB)
        second = await client.submit(JOB)
        assert [task.id for task in await client.tasks.list()] == [second.id, first.id]
        assert [task.id for task in await client.tasks.list(1, start=1)] == [first.id]
        assert first.id is not None
        assert (await client.tasks.get(first.id)).id == (await client.tasks.get(first)).id == first.id
        await client.tasks.cancel(first.id)
        assert (await client.tasks.get(first)).status == "task_cancel"
        with pytest.raises(NotFound) as caught:
            await client.tasks.get("42")
        assert caught.value.task is not None
        assert caught.value.task.id == "42"


@pytest.mark.virtual_loops
async def test_the_files_of_an_ended_task_are_deleted_more_than_once() -> None:
    sandbox = virtual_sandbox()
    async with virtual_client(sandbox) as client:
        task = await client.submit(JOB)
        await client.wait_ended(task)
        assert task.id is not None
        await client.tasks.delete_files(task.id)
        await client.tasks.delete_files(task)
    assert sandbox.requests["Task/InputOutputDelete"] == 2


@pytest.mark.virtual_loops
async def test_prices_and_the_balance_are_decimals_and_cost_nothing() -> None:
    sandbox = virtual_sandbox(balance_usd=12.5)
    async with virtual_client(sandbox) as client:
        assert await client.estimate(JOB) == Decimal("0.05")
        assert await client.estimate(Job(prompt="x", resolution="720P")) == Decimal("0.12")
        assert await client.balance() == Decimal("12.5")
        with pytest.raises(InvalidBatch):
            await client.estimate(Job(prompt=""))
    assert sandbox.requests["Run"] == 0
    async with virtual_client(virtual_sandbox(pricing="none")) as client:
        assert await client.estimate(JOB) is None


@pytest.mark.virtual_loops
async def test_every_call_of_a_closed_client_raises_closed(tmp_path: Path) -> None:
    client = virtual_client(virtual_sandbox())
    await client.aclose()
    for call in (
        client.estimate(JOB),
        client.balance(),
        client.upload("cat.png"),
        client.tasks.list(),
        client.tasks.get("1"),
        client.tasks.cancel("1"),
        client.tasks.kill("1"),
        client.tasks.delete_files("1"),
    ):
        with pytest.raises(Closed):
            await call


def test_a_clip_is_generated_without_await(tmp_path: Path) -> None:
    sandbox = quick_sandbox()
    made: list[WanClient] = []

    def make() -> WanClient:
        made.append(client_of(sandbox))
        return made[-1]

    assert generate_sync(JOB, tmp_path / "a.mp4", client=make).path.exists()

    async def in_a_notebook() -> Clip:
        return generate_sync(JOB, tmp_path / "b.mp4", client=make)

    assert asyncio.run(in_a_notebook()).path.exists()
    assert all(client.closed for client in made)
    with pytest.raises(FileExistsError):
        generate_sync(JOB, tmp_path / "b.mp4", client=make)


def test_the_client_runs_on_uvloop(tmp_path: Path) -> None:
    client = client_of(quick_sandbox())

    async def main() -> list[Clip]:
        async with client:
            return await asyncio.gather(*(client.generate(JOB, tmp_path) for _ in range(5)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        clips = runner.run(main())
    assert len({clip.path for clip in clips}) == 5
