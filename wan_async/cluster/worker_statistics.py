"""What a worker itself has done, over all outputs, told from the events of its runs."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from wan_async.domain import events
from wan_async.domain.lifecycle import State

_ENDS = (events.Stored, events.Failed, events.Cancelled, events.Missing, events.Quarantined)


class WorkerStatistics:
    """How the jobs of a worker stand, and what it has paid. What other workers do is not its own."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], State] = {}
        self._costs: dict[tuple[str, str, int], Decimal] = {}

    def fold(self, output: str, event: events.Event) -> None:
        """Takes an event of an output's run in."""
        if isinstance(event, _ENDS):
            self._states[output, event.job] = State(events.name_of(type(event)))
        if isinstance(event, events.Ended) and event.cost_usd is not None:
            self._costs[output, event.job, event.attempt] = event.cost_usd

    def finished(self, at: float, seconds: float, exit_code: int) -> events.Finished:
        """The worker's last event.

        Args:
            at: when it ended, in unix seconds.
            seconds: for how long it worked.
            exit_code: how it ended.
        """
        counts = Counter(self._states.values())
        spent = sum(self._costs.values(), Decimal("0.00"))
        return events.Finished(
            at=at,
            run="",
            exit_code=exit_code,
            jobs=len(self._states),
            stored=counts[State.STORED],
            skipped=0,
            failed=counts[State.FAILED],
            cancelled=counts[State.CANCELLED],
            missing=counts[State.MISSING],
            unknown=counts[State.QUARANTINED],
            unfinished=0,
            run_usd=spent,
            spent_usd=spent,
            reserved_usd=Decimal("0.00"),
            seconds=seconds,
            resume=None,
        )
