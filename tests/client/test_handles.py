"""Tasks: what a caller keeps of a paid Run, in this process or another."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Awaitable
from pathlib import Path

import anyio
import httpx
import pytest
from clients import Hooked, at_most, virtual_client, virtual_now, virtual_sandbox

from wan_async import Job, JobFailed, Missing, Task, TimedOut, TryLater, WanError
from wan_async.sandbox import transport

JOB = Job(prompt="rain")


def test_a_task_survives_its_text_form() -> None:
    for task in (Task("1"), Task(None, "t"), Task("1", "t", 0.0, "cat", "key"), Task("1", "t", 1.5e9, "Zoë/ü")):
        assert Task.loads(task.dumps()) == task
        assert Task.loads(task.dumps().encode()) == task
        assert pickle.loads(pickle.dumps(task)) == task


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"wan_async_task": 2, "id": "1"}',
        '{"wan_async_task": 1}',
        '{"wan_async_task": 1, "id": 5}',
        '{"wan_async_task": 1, "id": "1", "submitted_at": []}',
        '{"wan_async_task": 1, "id": "1", "submitted_at": "x"}',
        '{"wan_async_task": 1, "id": null}',
        b"\xff",
    ],
)
def test_what_is_no_text_of_a_task_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="task"):
        Task.loads(text)


def test_a_task_without_id_and_token_is_refused() -> None:
    with pytest.raises(ValueError, match="id or its token"):
        Task()


def test_fields_of_a_later_version_are_ignored() -> None:
    text = json.dumps({"wan_async_task": 1, "id": "1", "new": [1]})
    assert Task.loads(text) == Task("1")


@pytest.mark.virtual_loops
@pytest.mark.parametrize("kept", ["id", "token", "text"])
async def test_a_stored_task_is_taken_up_by_another_client(kept: str, tmp_path: Path) -> None:
    sandbox = virtual_sandbox(task_seconds=(3, 3))
    async with virtual_client(sandbox) as client:
        task = await client.submit(JOB)
    kinds = {"id": Task(task.id), "token": Task(None, task.token), "text": Task.loads(task.dumps())}
    async with virtual_client(sandbox) as other:
        began = anyio.current_time()
        clip = await other.wait(kinds[kept], tmp_path / "rain.mp4")
        assert anyio.current_time() - began < 6
    assert clip.path.exists()
    assert clip.task_id == task.id
    assert sandbox.requests["Run"] == 1


@pytest.mark.virtual_loops
async def test_a_task_that_ended_long_ago_is_fetched_at_once(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(task_seconds=(3, 3))
    async with virtual_client(sandbox) as client:
        task = await client.submit(JOB)
        await anyio.sleep(1000)
        began = anyio.current_time()
        await client.wait(Task.loads(task.dumps()), tmp_path / "a.mp4")
        assert anyio.current_time() - began < 1


@pytest.mark.virtual_loops
async def test_a_task_stored_on_a_machine_whose_clock_differs_is_waited_for(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(task_seconds=(3, 3))
    async with virtual_client(sandbox) as client:
        task = await client.submit(JOB)
        for number, shift in enumerate((1e6, -1e6, 1e12, -1e12)):
            shifted = Task(task.id, task.token, virtual_now() + shift)
            with at_most(60):
                await client.wait(shifted, tmp_path / f"{number}.mp4")


@pytest.mark.virtual_loops
@pytest.mark.parametrize("task", [Task("42"), Task(None, "no such token"), Task("0"), Task("42", "neither")])
async def test_waiting_for_an_unknown_task_ends_soon(task: Task) -> None:
    async with virtual_client(virtual_sandbox()) as client:
        began = anyio.current_time()
        with pytest.raises(Missing) as caught:
            await client.wait_ended(task)
        assert anyio.current_time() - began < 10
    assert caught.value.task == task


@pytest.mark.virtual_loops
async def test_each_of_several_waiters_gets_an_error_with_its_own_task() -> None:
    sandbox = virtual_sandbox(task_seconds=(600, 600))
    caught: dict[str | None, WanError] = {}
    async with virtual_client(sandbox) as client:
        tasks = [await client.submit(Job(prompt=f"{number}")) for number in range(3)]

        async def wait(task: Task) -> None:
            try:
                await client.wait_ended(task)
            except WanError as error:
                caught[task.id] = error

        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(wait, task)
            await anyio.sleep(3)
            sandbox.change(api_secret="another")
    assert {name: error.task.id for name, error in caught.items() if error.task} == {task.id: task.id for task in tasks}
    assert len({id(error) for error in caught.values()}) == 3


@pytest.mark.virtual_loops
async def test_an_error_after_run_carries_the_task(tmp_path: Path) -> None:
    async with virtual_client(virtual_sandbox(faults={"failed_render": 1.0})) as client:
        with pytest.raises(JobFailed) as caught:
            await client.generate(JOB, tmp_path)
        assert caught.value.task is not None
        assert caught.value.task.id == caught.value.task_id
    async with virtual_client(virtual_sandbox(faults={"cut_download": 1.0})) as client:
        with pytest.raises(TryLater) as later:
            await client.generate(JOB, tmp_path)
        assert later.value.task is not None


@pytest.mark.virtual_loops
async def test_a_timeout_leaves_the_task_in_the_error_in_unclaimed_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = virtual_sandbox(task_seconds=(60, 60))
    async with virtual_client(sandbox) as client:
        with pytest.raises(TimeoutError) as caught:
            await client.generate(JOB, tmp_path / "a.mp4", timeout=10)
        assert isinstance(caught.value, TimedOut)
        task = caught.value.task
        assert task is not None
        assert task in client.unclaimed
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert any(f"task {task.id}" in message for message in warnings)
        for task in client.unclaimed:
            await client.read(task)
        assert client.unclaimed == []
    assert len(sandbox.account.tasks) == 1


@pytest.mark.virtual_loops
async def test_a_timeout_can_cancel_the_task(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(task_seconds=(60, 60))
    async with virtual_client(sandbox) as client:
        with pytest.raises(TimedOut) as caught:
            await client.generate(JOB, tmp_path / "a.mp4", timeout=10, on_timeout="cancel")
        assert caught.value.task is not None
        assert (await client.tasks.get(caught.value.task)).status == "task_cancel"
        assert client.unclaimed == []
    assert sandbox.account.spent_micros == 0


@pytest.mark.virtual_loops
async def test_a_task_that_can_not_be_cancelled_at_the_timeout_stays_available(tmp_path: Path) -> None:
    async def refuse(request: httpx.Request) -> httpx.Response:
        raise OSError("no network")

    def before(request: httpx.Request) -> Awaitable[httpx.Response] | None:
        return refuse(request) if request.url.path.endswith(("/Cancel", "/Kill")) else None

    carrier = Hooked(transport(virtual_sandbox(task_seconds=(60, 60))), before)
    async with virtual_client(carrier) as client:
        with pytest.raises(TimedOut) as caught:
            await client.generate(JOB, tmp_path / "a.mp4", timeout=10, on_timeout="cancel")
        assert client.unclaimed == [caught.value.task]


@pytest.mark.virtual_loops
async def test_discard_takes_a_task_from_the_unclaimed(tmp_path: Path) -> None:
    async with virtual_client(virtual_sandbox(task_seconds=(60, 60))) as client:
        with anyio.move_on_after(5):
            await client.generate(JOB, tmp_path)
        (task,) = client.unclaimed
        client.discard(task)
        assert client.unclaimed == []


@pytest.mark.virtual_loops
async def test_submitting_the_end_and_the_clip_are_logged_at_info(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wan_async")
    async with virtual_client(virtual_sandbox()) as client:
        await client.generate(JOB, tmp_path / "a.mp4")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("wan_async.client")]
    words = ["saved", "ended", "submitted", "submitting"]
    assert [next(word for word in words if f"{word} " in f"{message} ") for message in said] == words[::-1]
    assert all("500001" in message for message in said[1:])
    assert {record.levelname for record in caplog.records} == {"INFO"}
