"""Drives a download's coroutine in a thread that can be abandoned.

The coroutine awaits nothing but `OnLoop`s and calls that block at once, so that a thread can step through it. When the
download is cancelled, the loop does not wait for a `recv` that may last for its whole timeout: the connection and the
`Gate` are shut, so that the thread can neither read nor write any more, and the thread ends by itself.
"""

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
from typing import Any, Generic, TypeVar, TypeVarTuple, Unpack

import anyio

from wan_async.filesystem import is_transient
from wan_async.threads import Offload, soon

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PROGRESS_SECONDS = 0.25
IDLE_THREAD_SECONDS = 10.0
"""A thread without work ends after this time."""


@dataclass(frozen=True, slots=True)
class OnLoop:
    """Awaited in the thread, it makes the event loop await what `call` returns."""

    call: Callable[[], Awaitable[None]]

    def __await__(self) -> Generator[OnLoop, None, None]:
        yield self


@dataclass(frozen=True, slots=True)
class _Returned(Generic[T]):
    value: T


class Gate:
    """An `Offload` that makes the call in the calling thread, until it is shut; then it refuses further calls.

    Attributes:
        is_shut: whether it refuses.
    """

    def __init__(self) -> None:
        self._calling = threading.Lock()
        self.is_shut: bool = False

    async def __call__(self, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        """Returns or raises what `func(*args)` does.

        Raises:
            RuntimeError: the gate is shut.
        """
        with self._calling:
            if self.is_shut:
                raise RuntimeError("the download was abandoned")
            return func(*args)

    def shut(self) -> None:
        """Refuses further calls, and waits for the one that is running."""
        self.is_shut = True  # before the lock, which is not fair: a busy thread would take it again and again
        with self._calling:
            pass


async def drive_in_thread(
    work: Coroutine[OnLoop, None, T], *, progress: Callable[[], None], abandon: Callable[[], None], offload: Offload
) -> T:
    """Runs a coroutine that awaits nothing but `OnLoop`s and blocking calls, in threads that may be abandoned.

    Args:
        work: the coroutine.
        progress: called in the event loop each `PROGRESS_SECONDS`, and before this returns or raises, unless it is
            cancelled.
        abandon: called in a thread when this is cancelled; once it returns, `work` must not be able to change anything.
        offload: where `abandon` runs.

    Returns:
        What `work` returns.
    """
    step, abandoned = functools.partial(work.send, None), threading.Event()
    try:
        while True:
            awaited = await _call_in_thread(functools.partial(_advance, work, step, abandoned), progress)
            if isinstance(awaited, _Returned):
                value: T = awaited.value
                return value
            try:
                await awaited.call()
            except Exception as error:  # noqa: BLE001 - it is raised in the coroutine
                step = functools.partial(work.throw, error)
            else:
                step = functools.partial(work.send, None)
    finally:
        if inspect.getcoroutinestate(work) != inspect.CORO_CLOSED:
            abandoned.set()
            with anyio.CancelScope(shield=True):
                try:
                    await offload(_abandon, work, abandon)
                except RuntimeError as error:
                    if not is_transient(error):
                        raise
                    _abandon(work, abandon)  # there is no further thread for it


def _advance(
    work: Coroutine[OnLoop, None, T], step: Callable[[], OnLoop], abandoned: threading.Event
) -> OnLoop | _Returned[Any]:
    try:
        awaited = step()
    except StopIteration as end:
        return _Returned(end.value)
    if abandoned.is_set():
        _close(work)  # nobody goes on with it, and it was running when `_abandon` tried to close it
    return awaited


def _abandon(work: Coroutine[OnLoop, None, T], abandon: Callable[[], None]) -> None:
    abandon()
    _close(work)


def _close(work: Coroutine[OnLoop, None, T]) -> None:
    with suppress(ValueError, RuntimeError):  # it is running in its thread, or its clean-up met the shut gate
        work.close()


async def _call_in_thread(call: Callable[[], T], progress: Callable[[], None]) -> T:
    """Makes a call in a daemon thread, which is abandoned if this is cancelled."""
    done, call_in_loop, outcome = anyio.Event(), soon(), Future[T]()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised in the loop
            outcome.set_exception(error)
        with suppress(RuntimeError):  # the loop is closed
            call_in_loop(done.set)

    _start(run)
    while not done.is_set():
        with anyio.move_on_after(PROGRESS_SECONDS):
            await done.wait()
        progress()
    return outcome.result()


class _Thread(threading.Thread):
    """A daemon thread that waits for further calls, since starting a thread stalls the loop."""

    def __init__(self) -> None:
        super().__init__(name="wan_async download", daemon=True)
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def run(self) -> None:
        while True:
            try:
                call = self.calls.get(timeout=IDLE_THREAD_SECONDS)
            except queue.Empty:
                try:
                    _idle_threads.remove(self)
                except ValueError:
                    continue  # it was taken in this moment
                return
            call()
            del call  # and the objects that it references
            _idle_threads.append(self)


_idle_threads: list[_Thread] = []
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_idle_threads.clear)  # a forked child has none of these threads


def _start(call: Callable[[], None]) -> None:
    try:
        thread = _idle_threads.pop()
    except IndexError:
        thread = _Thread()
        thread.start()
    thread.calls.put(call)
