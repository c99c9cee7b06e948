"""Event loops in virtual time that do something at their n-th step: for cancellation at every await."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
import trio.testing
from harness import no_threads

T = TypeVar("T")
Act = Callable[[], object]


class Steps:
    """Counts the steps of an event loop while it is armed, and acts at some of them.

    Attributes:
        count: the steps so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._acts: dict[int, Act] = {}
        self._armed = False

    def arm(self, acts: dict[int, Act]) -> None:
        """Count from now on, and call each of these at its step."""
        self.count, self._acts, self._armed = 0, acts, True

    def disarm(self) -> None:
        """Count no more."""
        self._armed = False

    def step(self) -> None:
        """A step of the loop."""
        if self._armed:
            self.count += 1
            if (act := self._acts.get(self.count)) is not None:
                act()


class _VirtualSelector(selectors.SelectSelector):
    """Never waits: the time that it should wait passes at once."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self.passed = 0.0
        self._steps = steps

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._steps.step()
        if timeout is None:
            raise RuntimeError("the event loop would wait for ever")
        self.passed += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose clock jumps whenever all tasks wait."""

    def __init__(self, steps: Steps | None = None) -> None:
        self._virtual = _VirtualSelector(steps or Steps())
        super().__init__(self._virtual)

    def time(self) -> float:
        """The virtual time in seconds."""
        return self._virtual.passed


class _StepInstrument(trio.abc.Instrument):
    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps.step()


def run_virtually(backend: str, test: Callable[[Steps], Awaitable[T]]) -> T:
    """Run an async test in virtual time on `asyncio` or `trio`. No threads: see `harness.virtually`."""
    steps = Steps()
    with no_threads():
        if backend == "trio":
            clock = trio.testing.MockClock(autojump_threshold=0)
            return trio.run(test, steps, clock=clock, instruments=[_StepInstrument(steps)])
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(steps)) as runner:
            return runner.run(_coroutine(test, steps))


async def _coroutine(test: Callable[[Steps], Awaitable[T]], steps: Steps) -> T:
    return await test(steps)
