"""Blocking calls in worker threads."""

from __future__ import annotations

import asyncio
import errno
import threading
from contextlib import suppress

import anyio
import anyio.to_thread
import pytest

from wan_async.threads import in_threads, inline

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Slow:
    """A blocking call that takes as long as the test wants."""

    def __init__(self) -> None:
        self.started, self.go_on, self.done = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, value: int, error: Exception | None = None) -> int:
        self.started.set()
        assert self.go_on.wait(10)
        self.done.set()
        if error is not None:
            raise error
        return value

    async def wait_started(self) -> None:
        await anyio.to_thread.run_sync(self.started.wait, 10)


async def test_a_call_returns_its_result_or_raises_its_exception_outside_of_a_group() -> None:
    def fail(error: Exception) -> None:
        raise error

    for offload in (inline, in_threads(2)):
        assert await offload(int, "7") == 7
        assert await offload(dict) == {}
        error = OSError(errno.ENOSPC, "full")
        with pytest.raises(OSError, match="full") as caught:
            await offload(fail, error)
        assert caught.value is error


async def test_threads_do_not_block_the_loop_and_their_number_is_limited() -> None:
    offload, calls = in_threads(2), [Slow() for _ in range(3)]
    assert threading.current_thread() is threading.main_thread()
    results: list[int] = []

    async def call(number: int) -> None:
        results.append(await offload(calls[number], number))

    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(call, number)
            await calls[number].wait_started()
        group.start_soon(call, 2)
        await anyio.wait_all_tasks_blocked()
        assert not calls[2].started.is_set()
        calls[1].go_on.set()
        await calls[2].wait_started()
        calls[0].go_on.set()
        calls[2].go_on.set()
    assert sorted(results) == [0, 1, 2]


async def test_inline_runs_in_the_thread_of_the_loop() -> None:
    assert await inline(threading.get_ident) == threading.get_ident()
    assert await in_threads(1)(threading.get_ident) != threading.get_ident()


@pytest.mark.parametrize("error", [None, ValueError("not awaited")])
async def test_a_cancelled_scope_waits_until_the_call_is_over(error: Exception | None) -> None:
    slow, scope = Slow(), anyio.CancelScope()

    async def call() -> None:
        with scope:
            with suppress(ValueError):
                await in_threads(1)(slow, 1, error)
            assert slow.done.is_set()
            await anyio.sleep_forever()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await slow.wait_started()
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert not slow.done.is_set()
            assert not scope.cancelled_caught
            slow.go_on.set()
    assert slow.done.is_set()
    assert scope.cancelled_caught


@asyncio_only
async def test_repeated_cancellation_does_not_abandon_the_call(anyio_backend: str) -> None:
    slow = Slow()
    task = asyncio.create_task(in_threads(1)(slow, 1))
    await slow.wait_started()
    for _ in range(3):
        task.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not task.done()
    slow.go_on.set()
    await asyncio.wait([task])
    assert slow.done.is_set()
    assert task.cancelled()


@asyncio_only
async def test_a_timeout_waits_until_the_call_is_over(anyio_backend: str) -> None:
    slow = Slow()
    waiting = asyncio.create_task(asyncio.wait_for(in_threads(1)(slow, 1), 0.001))
    await slow.wait_started()
    slow.go_on.set()
    with suppress(TimeoutError):  # the call may have been faster
        await waiting
    assert slow.done.is_set()


async def test_inline_is_cancelled_after_the_call() -> None:
    called: list[int] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await inline(called.append, 1)
    assert called == [1]
    assert scope.cancelled_caught
