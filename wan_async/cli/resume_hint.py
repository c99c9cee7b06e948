"""The command that goes on after a run where the same command would not: with more budget, or without `--only`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal

from wan_async.cli.resume_command import resume_command
from wan_async.domain import events
from wan_async.domain.exit_codes import ExitCode

HAS_TRIED_ALL = (ExitCode.SUCCESS, ExitCode.FAILURES, ExitCode.UNRESOLVED)
"""A run that ended so has taken up every job that it was asked for."""


class ResumeHint:
    """Watches a run, and corrects the command that resumes it.

    Args:
        typed: the arguments of this run, without the program's name.
    """

    def __init__(self, typed: Sequence[str]) -> None:
        self._typed = typed
        self._started: events.Started | None = None
        self._submitted: dict[str, Decimal] = {}

    def observe(self, event: events.Event) -> events.Event:
        """The event; `Finished` names a command with a sufficient budget if the present one is exhausted.

        After a run that has tried every job of its `--only`, the command for the others is without it.
        """
        if isinstance(event, events.Started):
            self._started = event
        elif isinstance(event, events.Submitting) and event.price_usd is not None:
            self._submitted[event.job] = event.price_usd
        elif isinstance(event, events.Finished) and event.resume:
            if event.exit_code == ExitCode.FUNDS and (needed := self._needed(event)) is not None:
                return replace(event, resume=resume_command(self._typed, budget=f"{needed:f}"))
            if event.exit_code in HAS_TRIED_ALL:
                return replace(event, resume=resume_command(self._typed, without="--only"))
        return event

    def _needed(self, end: events.Finished) -> Decimal | None:
        """The budget for everything, in whole cents; None if the budget was not the reason."""
        started = self._started
        if started is None or started.budget_usd is None or started.estimate_usd is None:
            return None
        rest = max(Decimal(0), started.estimate_usd - sum(self._submitted.values(), Decimal(0)))
        needed = (end.spent_usd + end.reserved_usd + rest).quantize(Decimal("0.01"), ROUND_CEILING)
        return needed if needed > started.budget_usd else None
