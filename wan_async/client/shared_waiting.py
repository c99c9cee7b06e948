"""Background work without a background task: whoever waits drives it.

A client may be made and closed in any task, so it can't own a task group. Instead each call runs the shared work (the
tracker, the socket) in a task group of its own, but only one call at a time, the leader. When the leader's call ends,
by whatever means, another waiting call becomes the leader: the newest, which will probably wait longest. Changing
leaders costs the requests in flight of the shared work, which are sent again; the socket's connection stays.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")

RESTART_SECONDS = 1.0

log: logging.Logger = logging.getLogger(__name__)


class Driver:
    """Runs `serve` while any call is in `during`, in the task of one of them.

    Args:
        serve: the shared work: runs until it is cancelled, and continues when it is called again.
    """

    def __init__(self, serve: Callable[[], Awaitable[None]]) -> None:
        self._serve = serve
        self._calls: list[anyio.Event] = []
        self._leader: anyio.Event | None = None

    async def during(self, work: Callable[[], Awaitable[T]]) -> T:
        """Returns or raises what `work()` does; `serve` runs meanwhile, here or in another call."""
        results: list[T] = []
        raised: list[BaseException] = []
        call = anyio.Event()
        self._calls.append(call)
        self._appoint()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._lead, call)
                try:
                    results.append(await work())
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as error:  # noqa: BLE001 - raised below, outside of an exception group
                    raised.append(error)
                group.cancel_scope.cancel()
        finally:
            self._calls.remove(call)
            if self._leader is call:
                self._leader = None
                self._appoint()
        if raised:
            raise raised[0]
        return results[0]

    def _appoint(self) -> None:
        if self._leader is None and self._calls:
            self._leader = self._calls[-1]
            self._leader.set()

    async def _lead(self, call: anyio.Event) -> None:
        await call.wait()
        while True:
            try:
                await self._serve()
            except Exception:
                log.exception("tracking met an unexpected error, and continues")
            await anyio.sleep(RESTART_SECONDS)
