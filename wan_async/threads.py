"""Blocking calls in worker threads, off the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, TypeVarTuple, Unpack

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint, current_token

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Offload(Protocol):
    """Runs a blocking call, in a thread or not; the call has ended when this returns or raises."""

    async def __call__(self, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        """Returns or raises what `func(*args)` does."""
        ...


async def inline(func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
    """An `Offload` that blocks the event loop: for virtual time, which does not pass while a thread works."""
    result = func(*args)
    await checkpoint()
    return result


def in_threads(count: int) -> Offload:
    """Makes an `Offload` to at most `count` worker threads at once.

    It does not return before the call has ended, even if it is cancelled: the call runs in a shielded child task, for
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
    """Returns a function that schedules a call in this thread's event loop, from any thread, without waiting for it."""
    native: Any = current_token().native_token
    call: Callable[..., object] = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
    return call
