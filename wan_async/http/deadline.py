"""A deadline that counts only the time during which this process ran."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


async def while_running(seconds: float, send: Callable[[], Awaitable[T]]) -> T:
    """What `send` returns, unless that takes longer than `seconds` during which this process ran.

    Seconds are counted one by one: after a suspension (a closed lid, SIGSTOP) a timer of the loop would be due at once,
    before what has arrived is read.

    Raises:
        TimeoutError: it took longer; whatever `send` was doing is cancelled.
    """
    results: list[T] = []
    raised: list[BaseException] = []
    async with anyio.create_task_group() as group:

        async def child() -> None:
            try:
                results.append(await send())
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 - raised below, outside of an exception group
                raised.append(error)
            group.cancel_scope.cancel()

        group.start_soon(child)
        while seconds > 0:
            await anyio.sleep(min(1.0, seconds))
            seconds -= 1.0
        group.cancel_scope.cancel()
    if raised:
        raise raised[0]
    if not results:
        raise TimeoutError
    return results[0]
