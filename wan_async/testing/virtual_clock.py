"""A clock that jumps to the next deadline whenever all tasks wait, in the event loop of a running test.

On asyncio the loop's clock gets an offset, and its selector advances that instead of waiting. On trio a system task
advances the clock's offset; a clock that the test brings itself (`MockClock`) is left alone. Where neither is possible
(uvloop) time passes as usual.

Before each jump it waits a millisecond for real input and output, so that an app's own sockets and threads are heard.
What takes longer sees time fly: timeouts around it may expire.
"""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from typing import Any
from weakref import WeakSet

import anyio

GRACE_SECONDS = 0.001
EPOCH = 1_790_000_000.0


def now() -> float:
    """Unix seconds on the test's clock."""
    try:
        return EPOCH + anyio.current_time()
    except RuntimeError:  # no event loop runs
        return EPOCH


class VirtualClock:
    """Makes time virtual in the event loops that it is started in, until it is stopped."""

    def __init__(self) -> None:
        self._running = False
        self._loops: WeakSet[Any] = WeakSet()
        self._trio_tokens: WeakSet[Any] = WeakSet()

    def start(self) -> None:
        """Make time virtual in the running event loop; does nothing the second time."""
        self._running = True
        trio = sys.modules.get("trio")
        if trio is not None and _runs(trio):
            if (token := trio.lowlevel.current_trio_token()) not in self._trio_tokens:
                self._trio_tokens.add(token)
                if hasattr(trio.lowlevel.current_clock(), "offset"):
                    trio.lowlevel.spawn_system_task(self._advance_trio, trio, import_module("trio.testing"))
            return
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            self._loops.add(loop)
            if hasattr(loop, "_selector"):
                self._take_over(loop)

    def stop(self) -> None:
        """Let time pass as usual again. It does not go back."""
        self._running = False

    def _take_over(self, loop: Any) -> None:
        real_time, real_select, offset = loop.time, loop._selector.select, 0.0

        def select(timeout: float | None = None) -> Any:
            nonlocal offset
            if not self._running or not timeout or timeout <= GRACE_SECONDS:
                return real_select(timeout)
            events = real_select(GRACE_SECONDS)
            if not events:
                offset += timeout
            return events

        loop.time = lambda: real_time() + offset
        loop._selector.select = select

    async def _advance_trio(self, trio: Any, testing: Any) -> None:
        clock = trio.lowlevel.current_clock()
        while self._running:
            await testing.wait_all_tasks_blocked(GRACE_SECONDS)
            seconds = trio.lowlevel.current_statistics().seconds_to_next_deadline
            if 0 < seconds < float("inf"):
                object.__setattr__(clock, "offset", clock.offset + seconds)  # it is frozen against accidents


def _runs(trio: Any) -> bool:
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True
