"""Runs in flight: what must not be cancelled between an intent and the commit of its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import anyio

T = TypeVar("T")

LEAVE_SECONDS = 3.0
"""How long Runs in flight may take once their callers leave."""


class InFlight:
    """The Runs in flight of one run.

    Args:
        leave_seconds: their deadline once the run is left.
    """

    def __init__(self, leave_seconds: float = LEAVE_SECONDS) -> None:
        self._leave_seconds = leave_seconds
        self._sending: dict[anyio.CancelScope, tuple[Mapping[str, str], anyio.Event]] = {}
        self._leaving = False

    async def protect(self, send: Callable[[], Awaitable[T]], form: Mapping[str, str] | None = None) -> T | None:
        """Runs `send` (intent, Run, and the commit of its answer) so that no cancellation interrupts it.

        In a child task under a shield: a shield around a direct await does not stop asyncio's own cancellation. Its
        only deadline comes when the caller is cancelled or the run is left (Run itself is bounded, see `Api.run`).

        Args:
            send: what to run.
            form: the parameters of the Run, for `wait`.

        Returns:
            What `send` returns; None if that deadline passed.
        """
        result: list[T] = []
        scope, done = anyio.CancelScope(shield=True), anyio.Event()

        async def child() -> None:
            with scope:
                result.append(await send())
            done.set()

        self._sending[scope] = (form or {}, done)
        if self._leaving:
            self._hurry(scope)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(child)
                try:
                    await done.wait()
                except anyio.get_cancelled_exc_class():
                    self._hurry(scope)
                    raise
        finally:
            del self._sending[scope]
            done.set()
        return result[0] if result else None

    def _hurry(self, scope: anyio.CancelScope) -> None:
        scope.deadline = min(scope.deadline, anyio.current_time() + self._leave_seconds)

    async def wait(self, concerns: Callable[[Mapping[str, str]], bool] = lambda form: True) -> None:
        """Waits until each Run in flight whose parameters satisfy `concerns` has its answer, or none."""
        for form, done in list(self._sending.values()):
            if concerns(form):
                await done.wait()

    def leave(self) -> None:
        """The run is left: Runs in flight get `leave_seconds` more."""
        self._leaving = True
        for scope in self._sending:
            self._hurry(scope)
