"""The command that goes on after a run, where the same command would not: `--budget`, `--only` and `--limit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal

from wan_async.cli.resume_command import resume_command
from wan_async.domain import events
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.lifecycle import RECOVERABLE

HAS_TRIED_ALL = (ExitCode.SUCCESS, ExitCode.FAILURES, ExitCode.UNRESOLVED)
"""A run that ended so has taken up every job that it was asked for."""
NOT_OF_RUN = ("again", "watch")
"""Commands that don't take the flags of `run` for jobs which have failed, or are quarantined."""


class ResumeHint:
    """Watches a run, and corrects the command that resumes it.

    Args:
        typed: the arguments of this run, without the program's name.
        limit: `--limit`.
        before: the states of the jobs before the run, by key: what was submitted earlier is not part of the limit.
    """

    def __init__(self, typed: Sequence[str], limit: int | None, before: Mapping[str, str]) -> None:
        self._typed = typed
        self._limit = limit
        self._earlier = {job for job, state in before.items() if state in RECOVERABLE}
        self._taken_up: set[str] = set()
        self._started: events.Started | None = None
        self._submitted: dict[str, Decimal] = {}

    @property
    def limit_left(self) -> int | None:
        """How many jobs of the limit are still to be submitted; None without a limit."""
        return None if self._limit is None else max(0, self._limit - len(self._taken_up))

    def observe(self, event: events.Event) -> events.Event:
        """The event; `Finished` names a command with a sufficient budget if the present one is exhausted.

        After a run that has tried every job of its `--only`, the command for the others is without it. After one that
        has submitted only some of its `--limit`, the command has the rest of it: 0 finishes what was submitted.
        """
        match event:
            case events.Started():
                self._started = event
            case events.Submitting(job=job, price_usd=price):
                self._taken_up.discard(job)
                if price is not None:
                    self._submitted[job] = price
            case events.Accepted() | events.Unknown() | events.Quarantined() | events.Failed():
                self._taken_up |= {event.job} - self._earlier
            case events.Finished() if event.resume:
                lacks = ("--resubmit-unknown",) if self._typed[:1] and self._typed[0] in NOT_OF_RUN else ()
                choices = tuple(flag for flag in event.choices if flag not in lacks)
                return replace(event, resume=self._resume(event), choices=choices)
        return event

    def _resume(self, end: events.Finished) -> str:
        has_tried_all = end.exit_code in HAS_TRIED_ALL
        limit = None if has_tried_all and self.limit_left == 0 else self.limit_left
        without = ("--only", *(("--limit",) if self._limit == 0 else ())) if has_tried_all else ()
        needed = self._needed(end) if end.exit_code == ExitCode.FUNDS else None
        return resume_command(
            self._typed,
            budget=None if needed is None else f"{needed:f}",
            limit=limit,
            without=without,
        )

    def _needed(self, end: events.Finished) -> Decimal | None:
        """The budget for everything, in whole cents; None if the budget was not the reason."""
        started = self._started
        if started is None or started.budget_usd is None or started.estimate_usd is None:
            return None
        rest = max(Decimal(0), started.estimate_usd - sum(self._submitted.values(), Decimal(0)))
        needed = (end.spent_usd + end.reserved_usd + rest).quantize(Decimal("0.01"), ROUND_CEILING)
        return needed if needed > started.budget_usd else None
