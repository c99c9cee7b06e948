"""Progress of tasks, and faults that concern one call alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from clients import Hooked, at_most, client_of, quick_sandbox, virtual_client, virtual_sandbox
from harness import KEY, SECRET
from pictures import png
from servers import sandbox_server

from wan_async import AtLimit, Job, JobFailed, RequestReport, Task, TryLater, WanClient, WanError
from wan_async.domain import events
from wan_async.sandbox import transport

JOB = Job(prompt="rain")


class Mine(Exception):
    pass


def breaking(part: str, error: Callable[[], Exception], times: int = 10**9) -> Callable[[httpx.Request], None]:
    """Raise at requests whose URL contains a text."""
    left = times

    def before(request: httpx.Request) -> None:
        nonlocal left
        if part in str(request.url) and left > 0:
            left -= 1
            raise error()

    return before


@pytest.mark.virtual_loops
@pytest.mark.parametrize("kind", [Mine, RuntimeError, AssertionError, TryLater, AtLimit])
@pytest.mark.parametrize("is_async", [False, True])
async def test_what_on_submitted_raises_fails_that_call_alone_and_is_never_paid_again(
    kind: type[Exception], is_async: bool, tmp_path: Path
) -> None:
    sandbox = virtual_sandbox()

    def fail(task: Task) -> None:
        raise kind("mine")

    async def fail_later(task: Task) -> None:
        await anyio.sleep(0.1)
        raise kind("mine")

    ended: list[str] = []
    async with virtual_client(sandbox) as client:

        async def wait() -> None:
            ended.append((await client.wait_ended(await client.submit(JOB))).status)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(wait)
            for call in (client.submit, client.generate):
                with pytest.raises(kind, match="mine") as caught:
                    options: dict[str, Any] = {"to": tmp_path / "a.mp4"} if call == client.generate else {}
                    await call(JOB, on_submitted=fail_later if is_async else fail, **options)
                if isinstance(caught.value, WanError):
                    assert caught.value.task is not None
                    client.session.unclaimed.append(caught.value.task)
        assert len(client.unclaimed) == 2
    assert ended == ["task_postprocess_end"] * 3
    assert sandbox.requests["Run"] == len(sandbox.account.tasks) == 5


@pytest.mark.virtual_loops
async def test_on_submitted_is_called_before_the_end_and_may_use_the_client(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(task_seconds=(5, 5))
    seen: list[str] = []
    async with virtual_client(sandbox) as client:

        async def ask(task: Task) -> None:
            seen.append((await client.tasks.get(task)).status)

        await client.generate(JOB, tmp_path, on_submitted=ask)
    assert seen == ["task_queue"]


@pytest.mark.virtual_loops
async def test_on_submitted_is_called_for_a_call_that_was_cancelled_while_its_run_was_in_flight() -> None:
    sandbox = virtual_sandbox(latency_seconds=2.0)
    seen: list[Task] = []
    async with virtual_client(sandbox) as client:
        with anyio.move_on_after(3):  # the list takes 2 s
            await client.submit(JOB, on_submitted=seen.append)
        assert seen == client.unclaimed != []


@pytest.mark.anyio
async def test_on_request_is_told_of_each_request_and_may_raise(caplog: pytest.LogCaptureFixture) -> None:
    reports: list[RequestReport] = []

    def report(request: RequestReport) -> None:
        reports.append(request)
        raise Mine

    async with client_of(quick_sandbox(), on_request=report) as client:
        await client.wait_ended(await client.submit(JOB))
    assert {"/Task/List", "/Task/Detail"} <= {request.endpoint for request in reports}
    assert all(request.status == 200 for request in reports)
    assert any("on_request" in record.getMessage() for record in caplog.records)


@pytest.mark.virtual_loops
@pytest.mark.parametrize("part", ["Task/Detail", "Task/List", "File/Upload"])
async def test_a_foreign_transports_odd_exception_fails_one_call_and_is_not_wrapped(part: str, tmp_path: Path) -> None:
    sandbox = virtual_sandbox(task_seconds=(5, 5))
    carrier = Hooked(transport(sandbox))
    results: list[object] = []
    async with virtual_client(carrier) as client:

        async def generate(number: int) -> None:
            image = png(b"50")
            results.append(await client.generate(Job(prompt=f"{number}", image=image), tmp_path / f"{number}.mp4"))

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(generate, number)
            await anyio.sleep(1)
            victim = await client.submit(Job(prompt="victim"))
            with pytest.raises(RuntimeError, match="odd"):
                carrier.before = breaking(part, lambda: RuntimeError("odd"), times=1)
                match part:
                    case "Task/Detail":
                        await client.tasks.get(victim)
                    case "Task/List":
                        await client.tasks.list()
                    case _:
                        await client.submit(Job(prompt="x", image=png(b"60")))
    assert len(results) == 3


@pytest.mark.virtual_loops
async def test_a_download_that_breaks_oddly_is_an_error_with_the_task_and_can_be_repeated(tmp_path: Path) -> None:
    carrier = Hooked(transport(virtual_sandbox()), breaking("/cdn/", lambda: RuntimeError("odd"), times=1))
    async with virtual_client(carrier) as client:
        with pytest.raises(JobFailed, match="RuntimeError") as caught:
            await client.generate(JOB, tmp_path / "a.mp4")
        assert caught.value.task is not None
        assert (await client.wait(caught.value.task, tmp_path / "a.mp4")).path.exists()


@pytest.mark.virtual_loops
async def test_a_poll_that_always_breaks_fails_its_own_waiter_in_the_end() -> None:
    sandbox = virtual_sandbox(task_seconds=(400, 400))
    carrier = Hooked(transport(sandbox))
    async with virtual_client(carrier) as client:
        task = await client.submit(JOB)
        carrier.before = breaking("Task/Detail", lambda: RuntimeError("odd"))
        with at_most(3000), pytest.raises(RuntimeError, match="odd"):
            await client.wait_ended(task)


@pytest.mark.virtual_loops
async def test_a_slow_reader_of_progress_misses_no_end() -> None:
    async with virtual_client(virtual_sandbox(task_seconds=(10, 10))) as client:
        task = await client.submit(JOB)
        async with client.track(task) as stream:
            await anyio.sleep(100)
            received = [event async for event in stream]
        assert isinstance(received[-1], events.Ended)
        async with client.track(task) as again:
            assert isinstance([event async for event in again][-1], events.Ended)


@pytest.mark.virtual_loops
async def test_many_may_track_and_wait_for_one_task() -> None:
    sandbox = virtual_sandbox(task_seconds=(20, 20))
    ends: list[str] = []
    async with virtual_client(sandbox) as client:
        task = await client.submit(JOB)

        async def track() -> None:
            async with client.track(task) as stream:
                ends.extend([event.status async for event in stream if isinstance(event, events.Ended)])

        async def wait() -> None:
            ends.append((await client.wait_ended(task)).status)

        with at_most(60):
            async with anyio.create_task_group() as group:
                for each in (track, wait) * 5:
                    group.start_soon(each)
        assert client.session.admission.window.active == 0
    assert len(ends) == 10


@pytest.mark.virtual_loops
async def test_iterating_after_the_block_of_track_is_an_error() -> None:
    async with virtual_client(virtual_sandbox(task_seconds=(20, 20))) as client:
        task = await client.submit(JOB)
        async with client.track(task) as stream:
            pass
        with pytest.raises(RuntimeError, match="block"):
            await stream.__anext__()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_percentages_come_by_the_socket_which_only_a_followed_task_connects(backend: str) -> None:
    async def main() -> list[object]:
        async with WanClient(
            KEY, SECRET, base_url=server.info["base_url"], socket_url=server.info["socket_url"]
        ) as client:
            await client.tasks.list()
            assert not client.session.tracker._connected
            task = await client.submit(JOB)
            async with client.track(task) as stream:
                return [event async for event in stream]

    with sandbox_server("--seconds", "4,4") as server:
        received = anyio.run(main, backend=backend)
    percents = [event.percent for event in received if isinstance(event, events.Progress) and event.percent]
    assert percents == sorted(percents) != []
    assert isinstance(received[-1], events.Ended)


@pytest.mark.asyncio
async def test_native_timeouts_around_submit_leave_the_task_in_unclaimed() -> None:
    async def slow(request: httpx.Request) -> None:
        if "/Run/" in request.url.path:
            await anyio.sleep(0.3)

    sandbox = quick_sandbox()
    async with WanClient(KEY, SECRET, transport=Hooked(transport(sandbox), slow)) as client:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.submit(JOB), 0.1)
        assert [task.id for task in client.unclaimed] == list(sandbox.account.by_id)
