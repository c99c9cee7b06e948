"""Blocking code off the event loop: calls in worker threads, and coroutines in threads of their own."""

from __future__ import annotations

import functools
import inspect
import os
import queue
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple, Unpack

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint, current_token

from wan_async.filesystem import is_transient

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Offload(Protocol):
    """Runs a blocking call somewhere and returns its result; it has ended when this returns or raises."""

    async def __call__(self, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        """What `func(*args)` returns or raises."""
        ...


async def inline(func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
    """An `Offload` that blocks the loop: for virtual time, in which a thread's time would not pass."""
    result = func(*args)
    await checkpoint()
    return result


def in_threads(count: int) -> Offload:
    """An `Offload` to at most `count` worker threads at once.

    However it is cancelled, it does not leave before the call is over: the call runs in a shielded child task, for
    which a task group waits even when asyncio cancels natively.
    """
    limiter = anyio.CapacityLimiter(count)

    async def offload(func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        results: list[T] = []
        raised: list[Exception] = []

        async def child() -> None:
            with anyio.CancelScope(shield=True):
                try:
                    results.append(await anyio.to_thread.run_sync(func, *args, limiter=limiter))
                except Exception as error:  # noqa: BLE001 - raised below, outside of an exception group
                    raised.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(child)
        if raised:
            raise raised[0]
        return results[0]

    return offload


def soon() -> Callable[..., object]:
    """Has this thread's event loop call something soon, from any thread, without waiting for it (anyio's own waits)."""
    native: Any = current_token().native_token
    call: Callable[..., object] = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
    return call


TICK_SECONDS = 0.25
SPARE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class OnLoop:
    """Awaited in a thread, it has the loop await what `call` gives."""

    call: Callable[[], Awaitable[None]]

    def __await__(self) -> Generator[OnLoop, None, None]:
        yield self


@dataclass(frozen=True, slots=True)
class _Ended(Generic[T]):
    value: T


class Gate:
    """An `Offload` to where it is called, until it is shut: then it refuses, and the call that was at work is over.

    Attributes:
        is_shut: whether it lets no further call through.
    """

    def __init__(self) -> None:
        self._at_work = threading.Lock()
        self.is_shut = False

    async def __call__(self, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        """What `func(*args)` returns or raises."""
        with self._at_work:
            if self.is_shut:
                raise RuntimeError("nobody waits for this any more")
            return func(*args)

    def shut(self) -> None:
        """Waits for the call that is at work; there will be no other."""
        self.is_shut = True  # without the lock: it is no queue, and a busy thread would take it again and again
        with self._at_work:
            pass


async def in_a_thread(
    work: Coroutine[OnLoop, None, T], *, tick: Callable[[], None], leave: Callable[[], None], offload: Offload
) -> T:
    """Runs a coroutine that awaits nothing but `OnLoop`s and what blocks, in threads that may be left behind.

    Args:
        work: the coroutine.
        tick: called in the loop now and then, and before this returns or raises, unless it is cancelled.
        leave: called in a thread when this is cancelled; when it returns, `work` can do no harm any more.
        offload: where `leave` runs.
    """
    step = functools.partial(work.send, None)
    try:
        while True:
            asked = await _left_behind(functools.partial(_advance, step), tick)
            if isinstance(asked, _Ended):
                value: T = asked.value
                return value
            try:
                await asked.call()
            except Exception as error:  # noqa: BLE001 - it is the coroutine's
                step = functools.partial(work.throw, error)
            else:
                step = functools.partial(work.send, None)
    finally:
        if inspect.getcoroutinestate(work) != inspect.CORO_CLOSED:
            with anyio.CancelScope(shield=True):
                try:
                    await offload(_leave, work, leave)
                except RuntimeError as error:
                    if not is_transient(error):
                        raise
                    _leave(work, leave)  # there is no further thread for it


def _advance(step: Callable[[], OnLoop]) -> OnLoop | _Ended[Any]:
    try:
        return step()
    except StopIteration as end:
        return _Ended(end.value)


def _leave(work: Coroutine[OnLoop, None, T], leave: Callable[[], None]) -> None:
    leave()
    with suppress(ValueError, RuntimeError):  # it is running in its thread; or it met a gate that is shut
        work.close()


async def _left_behind(call: Callable[[], T], tick: Callable[[], None]) -> T:
    """A call in a thread that is left behind if this is cancelled, and that the process's end doesn't wait for."""
    done, tell, outcome = anyio.Event(), soon(), Future[T]()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised in the loop
            outcome.set_exception(error)
        with suppress(RuntimeError):  # there is no loop any more
            tell(done.set)

    _in_a_spare_thread(run)
    while not done.is_set():
        with anyio.move_on_after(TICK_SECONDS):
            await done.wait()
        tick()
    return outcome.result()


class _Spare(threading.Thread):
    """A thread that may be left behind. Free again, it waits a while for more: to start one halts the loop."""

    def __init__(self) -> None:
        super().__init__(name="wan_async download", daemon=True)
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def run(self) -> None:
        while True:
            try:
                call = self.calls.get(timeout=SPARE_SECONDS)
            except queue.Empty:
                try:
                    _spares.remove(self)
                except ValueError:
                    continue  # just now somebody took it
                return
            call()
            del call  # and what it holds
            _spares.append(self)


_spares: list[_Spare] = []
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_spares.clear)  # no thread goes over into the child


def _in_a_spare_thread(call: Callable[[], None]) -> None:
    try:
        spare = _spares.pop()
    except IndexError:
        spare = _Spare()
        spare.start()
    spare.calls.put(call)
