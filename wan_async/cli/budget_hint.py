"""The command that resumes a run after its budget is exhausted: the same budget would not get further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal

from wan_async.cli.resume_command import resume_command
from wan_async.domain import events
from wan_async.domain.exit_codes import ExitCode


class BudgetHint:
    """Watches a run, and names the budget that the rest of it needs.

    Args:
        typed: the arguments of this run, without the program's name.
    """

    def __init__(self, typed: Sequence[str]) -> None:
        self._typed = typed
        self._started: events.Started | None = None
        self._submitted: dict[str, Decimal] = {}

    def observe(self, event: events.Event) -> events.Event:
        """The event; `Finished` names a command with a sufficient budget if the present one is exhausted."""
        if isinstance(event, events.Started):
            self._started = event
        elif isinstance(event, events.Submitting) and event.price_usd is not None:
            self._submitted[event.job] = event.price_usd
        elif isinstance(event, events.Finished) and event.exit_code == ExitCode.FUNDS and event.resume:
            needed = self._needed(event)
            if needed is not None:
                return replace(event, resume=resume_command(self._typed, budget=f"{needed:f}"))
        return event

    def _needed(self, end: events.Finished) -> Decimal | None:
        """The budget for everything, in whole cents; None if the budget was not the reason."""
        started = self._started
        if started is None or started.budget_usd is None or started.estimate_usd is None:
            return None
        rest = max(Decimal(0), started.estimate_usd - sum(self._submitted.values(), Decimal(0)))
        needed = (end.spent_usd + end.reserved_usd + rest).quantize(Decimal("0.01"), ROUND_CEILING)
        return needed if needed > started.budget_usd else None
