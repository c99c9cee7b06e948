"""Closing the client: every call in progress ends with `Closed` and its task, whichever task closes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx
import pytest
import pytest_asyncio
import trio
from clients import Hooked, at_most, client_of, leftovers, quick_sandbox, until, virtual_client, virtual_sandbox
from harness import KEY, SECRET

from wan_async import Ambiguous, Closed, Job, Task, WanClient, open_batch
from wan_async.sandbox import transport

LONG = {"task_seconds": (600, 600)}
JOB = Job(prompt="rain")


async def generate(client: WanClient, task: Task, folder: Path) -> None:
    await client.generate(Job(prompt="snow"), folder / "snow.mp4")


async def wait(client: WanClient, task: Task, folder: Path) -> None:
    await client.wait(task, folder / "rain.mp4")


async def wait_ended(client: WanClient, task: Task, folder: Path) -> None:
    await client.wait_ended(task)


async def read(client: WanClient, task: Task, folder: Path) -> None:
    await client.read(task)


async def stream(client: WanClient, task: Task, folder: Path) -> None:
    async with client.stream(task):
        pass


async def track(client: WanClient, task: Task, folder: Path) -> None:
    async with client.track(task) as events:
        async for _ in events:
            pass


CALLS = (generate, wait, wait_ended, read, stream, track)


@pytest.mark.virtual_loops
@pytest.mark.parametrize("call", CALLS)
async def test_closing_ends_a_call_that_waits_with_its_task(
    call: Callable[[WanClient, Task, Path], Awaitable[None]], tmp_path: Path
) -> None:
    client = virtual_client(virtual_sandbox(**LONG))
    task = await client.submit(JOB)
    raised: list[Closed] = []

    async def wait_in_vain() -> None:
        with pytest.raises(Closed) as caught:
            await call(client, task, tmp_path)
        raised.append(caught.value)

    with at_most(20):
        async with anyio.create_task_group() as group:
            group.start_soon(wait_in_vain)
            await anyio.sleep(0.3)
            await client.aclose()
    (error,) = raised
    assert error.task is not None
    assert error.task_id == error.task.id
    assert (error.task.id == task.id) is (call is not generate)
    assert leftovers(tmp_path) == []


@pytest.mark.virtual_loops
async def test_closing_ends_every_call_of_many_and_those_that_wait_for_a_slot(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(**LONG)
    client = virtual_client(sandbox, max_concurrency=2)
    raised: list[Closed] = []

    async def one(number: int) -> None:
        with pytest.raises(Closed) as caught:
            await client.generate(Job(prompt=f"{number}"), tmp_path)
        raised.append(caught.value)

    with at_most(20):
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, number)
            await anyio.sleep(0.3)
            await client.aclose()
    assert {error.task.id for error in raised if error.task is not None} == set(sandbox.account.by_id)
    assert len(raised) == 10
    assert sandbox.requests["Run"] == 2


@pytest.mark.virtual_loops
async def test_closing_gives_a_run_in_flight_time_for_its_answer() -> None:
    async def slow(request: httpx.Request) -> httpx.Response | None:
        if "/Run/" in request.url.path:
            await anyio.sleep(0.3)
        return None

    sandbox = virtual_sandbox()
    carrier = Hooked(transport(sandbox), slow)
    client = virtual_client(carrier)
    raised: list[BaseException] = []

    async def submit() -> None:
        with pytest.raises(Closed) as caught:
            await client.submit(JOB)
        raised.append(caught.value)

    with at_most(20):
        async with anyio.create_task_group() as group:
            group.start_soon(submit)
            await until(lambda: any("/Run/" in path for path in carrier.paths))
            await client.aclose()
    (error,) = raised
    assert isinstance(error, Closed)
    assert error.task is not None
    assert error.task.id in sandbox.account.by_id


@pytest.mark.virtual_loops
async def test_a_run_that_is_not_answered_in_time_is_ambiguous_when_the_client_closes() -> None:
    async def never(request: httpx.Request) -> httpx.Response | None:
        if "/Run/" in request.url.path:
            await anyio.sleep(600)
        return None

    carrier = Hooked(transport(virtual_sandbox()), never)
    client = virtual_client(carrier)
    raised: list[BaseException] = []

    async def submit() -> None:
        with pytest.raises(Ambiguous) as caught:
            await client.submit(JOB)
        raised.append(caught.value)

    with at_most(20):
        async with anyio.create_task_group() as group:
            group.start_soon(submit)
            await until(lambda: any("/Run/" in path for path in carrier.paths))
            await client.aclose()
    assert len(raised) == 1


@pytest.mark.virtual_loops
async def test_closing_ends_a_batch_and_its_block_raises_closed(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(**LONG)
    client = virtual_client(sandbox)

    async def batch() -> None:
        with pytest.raises(Closed):
            async with open_batch([Job(id="a", prompt="p")], output=tmp_path, client=client) as events:
                async for _ in events:
                    pass

    with at_most(20):
        async with anyio.create_task_group() as group:
            group.start_soon(batch)
            await until(lambda: sandbox.account.tasks)
            await client.aclose()


@pytest.mark.virtual_loops
async def test_closing_within_the_block_of_a_batch_ends_it(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(**LONG)
    client = virtual_client(sandbox)
    with at_most(20), pytest.raises(Closed):
        async with open_batch([Job(id="a", prompt="p")], output=tmp_path, client=client):
            await until(lambda: sandbox.account.tasks)
            await client.aclose()


@pytest.mark.virtual_loops
@pytest.mark.parametrize("call", CALLS)
async def test_a_call_of_a_closed_client_raises_closed_and_sends_nothing(
    call: Callable[[WanClient, Task, Path], Awaitable[None]], tmp_path: Path
) -> None:
    sandbox = virtual_sandbox()
    async with virtual_client(sandbox) as client:
        pass
    with pytest.raises(Closed) as caught:
        await call(client, Task("1"), tmp_path)
    assert (caught.value.task == Task("1")) is (call is not generate)
    assert sum(sandbox.requests.values()) == 0
    with pytest.raises(Closed):
        async with client:
            pass
    with pytest.raises(Closed):
        async with open_batch([JOB], output=tmp_path / "out", client=client):
            pass


@pytest.mark.virtual_loops
async def test_closing_twice_does_nothing_and_closes_the_transport_once() -> None:
    carrier = Hooked(transport(virtual_sandbox()))
    client = virtual_client(carrier)
    async with client:
        await client.submit(JOB)
        await client.aclose()
    await client.aclose()
    assert client.closed
    assert carrier.closed == 1


@pytest.mark.virtual_loops
async def test_an_error_of_a_transport_that_is_closed_is_raised_and_the_other_is_closed_all_the_same() -> None:
    class Broken(Hooked):
        async def aclose(self) -> None:
            self.closed += 1
            raise OSError("it was closed by somebody else")

    api, downloads = Hooked(transport(virtual_sandbox())), Broken(transport(virtual_sandbox()))
    with pytest.raises(OSError, match="somebody else"):
        async with WanClient(KEY, SECRET, transport=api, download_transport=downloads):
            pass
    assert (api.closed, downloads.closed) == (1, 1)


@pytest.mark.virtual_loops
async def test_each_of_two_transports_is_closed_once() -> None:
    api, downloads = (Hooked(transport(virtual_sandbox())) for _ in range(2))
    async with WanClient(KEY, SECRET, transport=api, download_transport=downloads):
        pass
    assert (api.closed, downloads.closed) == (1, 1)
    async with WanClient(KEY, SECRET, transport=api, download_transport=api):
        pass
    assert api.closed == 2


@pytest.mark.virtual_loops
@pytest.mark.parametrize("method", ["submit", "generate"])
async def test_the_client_may_be_closed_within_on_submitted(method: str, tmp_path: Path) -> None:
    client = virtual_client(virtual_sandbox())
    seen: list[Task] = []

    async def close(task: Task) -> None:
        seen.append(task)
        await client.aclose()

    with at_most(20), pytest.raises(Closed) as caught:
        if method == "submit":
            await client.submit(JOB, on_submitted=close)
        else:
            await client.generate(JOB, tmp_path / "a.mp4", on_submitted=close)
    assert caught.value.task == seen[0]


@pytest.mark.virtual_loops
async def test_the_client_may_be_closed_within_on_submitted_of_a_call_with_a_journal(tmp_path: Path) -> None:
    client = virtual_client(virtual_sandbox(**LONG), journal=tmp_path / "journal")
    seen: list[Task] = []

    async def close(task: Task) -> None:
        seen.append(task)
        await client.aclose()

    with at_most(20), pytest.raises(Closed) as caught:
        await client.generate(JOB, tmp_path / "a.mp4", on_submitted=close)
    assert caught.value.task == seen[0]


@pytest.mark.virtual_loops
async def test_a_client_may_be_closed_in_another_task_than_the_one_that_entered_it(tmp_path: Path) -> None:
    client = virtual_client(virtual_sandbox())
    stack = AsyncExitStack()

    async def enter() -> None:
        await stack.enter_async_context(client)
        await client.submit(JOB)

    async def leave() -> None:
        await stack.aclose()

    for step in (enter, leave):
        async with anyio.create_task_group() as group:
            group.start_soon(step)
    assert client.closed


@pytest.mark.asyncio
async def test_cells_of_a_notebook_share_a_client_across_tasks(tmp_path: Path) -> None:
    client = client_of(quick_sandbox())
    await asyncio.create_task(client.__aenter__())
    task = await asyncio.create_task(client.submit(JOB))
    clip = await asyncio.create_task(client.wait(task, tmp_path / "a.mp4"))
    await asyncio.create_task(client.aclose())
    assert clip.path.exists()
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


@pytest_asyncio.fixture
async def shared() -> AsyncIterator[WanClient]:
    async with client_of(quick_sandbox()) as client:
        yield client


@pytest.mark.asyncio
async def test_a_fixture_of_pytest_asyncio_may_hold_a_client(shared: WanClient, tmp_path: Path) -> None:
    assert (await shared.generate(JOB, tmp_path / "a.mp4")).path.exists()


def test_on_trio_a_client_made_outside_is_closed_in_a_nursery_task() -> None:
    client = client_of(quick_sandbox(**LONG))

    async def main() -> None:
        async def wait_in_vain() -> None:
            with pytest.raises(Closed):
                await client.wait_ended(await client.submit(JOB))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_in_vain)
                await trio.sleep(0.2)
                nursery.start_soon(client.aclose)

    trio.run(main)


class Broken(Exception):
    pass


async def fail() -> None:
    await asyncio.sleep(0.01)
    raise Broken


@pytest.mark.asyncio
async def test_a_failing_task_group_handled_within_the_client_leaks_no_cancellation() -> None:
    sandbox = quick_sandbox(**LONG)
    async with client_of(sandbox) as client:
        task = await client.submit(JOB)
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                group.create_task(_ended(client, task))
                await client.wait_ended(task)
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    assert current.cancelling() == 0


async def _ended(client: WanClient, task: Task) -> None:
    await client.wait_ended(task)


@pytest.mark.asyncio
async def test_a_failing_task_group_handled_within_a_batch_leaks_no_cancellation(tmp_path: Path) -> None:
    async with client_of(quick_sandbox()) as client:
        async with open_batch([Job(id="a", prompt="p")], output=tmp_path, client=client) as batch:
            with pytest.raises(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())
                    await asyncio.sleep(30)
            await asyncio.sleep(0.01)
            async for _ in batch:
                pass
        assert len(batch.result.stored) == 1
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_after_closed_was_handled_the_host_task_is_not_being_cancelled() -> None:
    client = client_of(quick_sandbox(**LONG))

    async def host() -> int:
        with pytest.raises(Closed):
            await client.wait_ended(await client.submit(JOB))
        await asyncio.sleep(0.01)
        current = asyncio.current_task()
        assert current is not None
        return current.cancelling()

    task = asyncio.create_task(host())
    await asyncio.sleep(0.2)
    await client.aclose()
    assert await task == 0


@pytest.mark.asyncio
async def test_a_close_that_is_cancelled_closes_the_connections_all_the_same() -> None:
    async def slow(request: httpx.Request) -> httpx.Response | None:
        if "/Run/" in request.url.path:
            await anyio.sleep(0.5)
        return None

    carrier = Hooked(transport(quick_sandbox()), slow)
    client = WanClient(KEY, SECRET, transport=carrier)
    submitting = asyncio.create_task(client.submit(JOB))
    await asyncio.sleep(0.2)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(client.aclose(), 0.05)
    with pytest.raises(Closed):
        await submitting
    assert carrier.closed == 1
