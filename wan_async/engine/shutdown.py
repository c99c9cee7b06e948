"""Graceful shutdown: submit no more, see through what was submitted; and why, as exit codes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

import anyio

from wan_async.domain.events import Stopping
from wan_async.domain.exit_codes import ExitCode
from wan_async.engine.leases import Wake
from wan_async.engine.run_events import Events

STOPPING_PATIENCE_SECONDS = 60.0
"""Once no more is submitted, what is denied is asked for no longer than this: the next run asks again."""
SAME_FAILURES = 5
"""The batch is stopped after this number of identical permanent errors in a row, with no success between."""

T = TypeVar("T")


class Shutdown:
    """Whether the run still submits, and the exit codes that it has earned.

    Args:
        events: where the reason is reported.
        wake: is set when the run is stopped.
        patience_seconds: for how long something that is denied is asked for while the run goes on.

    Attributes:
        reason: why it was stopped; None while it submits.
        exit_codes: all that apply.
        choices: flags of a later run between which the user has to choose, since it ends as this one without.
        is_of_output: whether it was stopped by nothing but the state of its output, such as a budget that is used up.
    """

    def __init__(self, events: Events, wake: Wake, patience_seconds: float) -> None:
        self.reason: str | None = None
        self.exit_codes: set[ExitCode] = set()
        self.choices: set[str] = set()
        self.is_of_output: bool = False
        self._events = events
        self._wake = wake
        self._patience_seconds = patience_seconds
        self._stopped = anyio.Event()
        self._last_failure, self._same_failures = "", 0

    def stop(self, reason: str, exit_code: ExitCode, *, of_output: bool = False, choices: Collection[str] = ()) -> None:
        """Submit no more; see through what was submitted. Only the first reason is reported.

        Args:
            reason: why.
            exit_code: how the run ends.
            of_output: whether that concerns this output alone, and not the account or the machine.
            choices: more of those flags.
        """
        self.add_code(exit_code, choices)
        self.is_of_output = of_output and (self.is_of_output or not self.stopping)
        if self.reason is None:
            self.reason = reason
            self._events.emit(Stopping, reason=reason)
        self._stopped.set()
        self._wake.set()

    def add_code(self, exit_code: ExitCode, choices: Collection[str] = ()) -> None:
        """The run goes on, and will end with this exit code unless one of higher precedence applies."""
        self.exit_codes.add(exit_code)
        self.choices |= set(choices)

    def failed(self, message: str) -> None:
        """A job failed for good: several identical failures in a row stop the run."""
        self._same_failures = self._same_failures + 1 if message == self._last_failure else 1
        self._last_failure = message
        if self._same_failures >= SAME_FAILURES:
            self.stop(f"{SAME_FAILURES} jobs in a row failed with the same error: {message}", ExitCode.FAILURES)

    def succeeded(self) -> None:
        """A render succeeded."""
        self._last_failure, self._same_failures = "", 0

    @property
    def stopping(self) -> bool:
        """Whether no more is submitted."""
        return self.reason is not None

    def patience(self) -> float:
        """For how many seconds something that is denied is asked for."""
        return min(self._patience_seconds, STOPPING_PATIENCE_SECONDS) if self.stopping else self._patience_seconds

    async def pause(self, seconds: float) -> bool:
        """Sleeps until then, or until the run is stopped; whether it still submits."""
        with anyio.move_on_after(seconds):
            await self._stopped.wait()
        return not self.stopping

    async def unless_stopped(self, step: Callable[[], Awaitable[T]]) -> T | None:
        """The result of `step`; None if the run was stopped meanwhile, which cancels it."""
        result: list[T] = []
        raised: list[Exception] = []
        async with anyio.create_task_group() as group:

            async def child() -> None:
                try:
                    result.append(await step())
                except Exception as error:  # noqa: BLE001 - raised below, outside of an exception group
                    raised.append(error)
                group.cancel_scope.cancel()

            group.start_soon(child)
            await self._stopped.wait()
            group.cancel_scope.cancel()
        if raised:
            raise raised[0]
        return result[0] if result else None
