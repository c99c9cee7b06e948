"""What a run has paid, has reserved, and will pay, computed from its events."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from wan_async.domain import events

_COSTS = 100
"""How many costs of a group are remembered: their median is what the next job will probably cost."""
_FEW_COSTS = 5
"""Until this number of costs is known the service's price counts: some tasks are billed in part."""


@dataclass(slots=True)
class _Group:
    """Jobs that cost the same.

    Attributes:
        left: how many are not submitted yet.
        held: for how many a price is reserved now; `due`: how many are submitted again.
        price: of one; None if it is unknown.
        unsettled: attempts of earlier runs that may still cost something, and what is reserved for each.
        costs: the latest settled costs.
        spent: what all of them have cost in this run; `paid`: how many those were.
    """

    left: int = 0
    held: int = 0
    due: int = 0
    price: Decimal | None = None
    unsettled: int = 0
    unsettled_each: Decimal = Decimal(0)
    costs: deque[Decimal] = field(default_factory=lambda: deque(maxlen=_COSTS))
    spent: Decimal = Decimal(0)
    paid: int = 0

    @property
    def expected(self) -> Decimal | None:
        """What the next job will probably cost."""
        is_known = len(self.costs) >= (_FEW_COSTS if self.price is not None else 1)
        return statistics.median_high(self.costs) if is_known else self.price


class Spending:
    """The money of a run.

    An attempt is settled by its `Ended`, once; the cost in `Stored` or `billed_usd` in `Failed` fills in only where
    `Ended` had none, so a clip that an earlier run paid for and this one only downloads adds nothing.

    Args:
        groups: the groups of jobs by their names, as far as they are known; else a job's price tells.

    Attributes:
        settled_usd: what has been paid.
    """

    def __init__(self, groups: Mapping[str, str]) -> None:
        self.settled_usd: Decimal = Decimal(0)
        self._names = dict(groups)
        self._groups: dict[str, _Group] = {}
        self._begun: set[str] = set()
        self._settled: dict[tuple[str, int], Decimal | None] = {}
        self._reserved: dict[str, Decimal | None] = {}
        self._due: set[str] = set()

    @property
    def reserved_usd(self) -> Decimal:
        """The reserved prices of active, unknown and quarantined attempts of this run."""
        return sum((price for price in self._reserved.values() if price is not None), Decimal(0))

    def left(self) -> dict[str, int]:
        """How many jobs are not submitted yet, by group."""
        return {name: group.left for name, group in self._groups.items() if group.left}

    def prices(self) -> dict[str, float]:
        """What one job will probably cost, by group."""
        return {name: float(price) for name, group in self._groups.items() if (price := group.expected) is not None}

    def by_group(self) -> dict[str, tuple[int, Decimal]]:
        """How many attempts were paid for in this run, and what they have cost, by group."""
        return {name: (group.paid, group.spent) for name, group in self._groups.items() if group.paid}

    def group_of(self, job: str) -> str:
        """The group of a job."""
        return self._names.get(job, "")

    def is_settled(self, job: str, attempt: int) -> bool:
        """Whether the attempt has ended."""
        return (job, attempt) in self._settled

    def projected_usd(self, *, stopping: bool) -> Decimal | None:
        """The run's expected total: what is settled and reserved, and the price of every job that is still to come.

        Args:
            stopping: whether nothing more is submitted.

        Returns:
            None while a price is unknown.
        """
        total = self.settled_usd
        for group in self._groups.values():
            total += group.unsettled * group.unsettled_each
            if count := group.held + (0 if stopping else group.left + group.due):
                if group.expected is None:
                    return None
                total += count * group.expected
        return total if self._groups else None

    def begin(self, event: events.Started) -> None:
        """Take in what is to be paid for."""
        for each in event.groups:
            group = self._groups.setdefault(each.name, _Group())
            group.left, group.price, group.unsettled = each.to_do, each.price_usd, each.unsettled
            group.unsettled_each = each.unsettled_usd / each.unsettled if each.unsettled else Decimal(0)
        if not event.groups and event.to_do:
            self._groups.setdefault("", _Group()).left = event.to_do

    def submit(self, event: events.Submitting) -> None:
        """A price is reserved."""
        if event.job not in self._names:
            self._names[event.job] = self._guess(event.price_usd)
        group = self._group(event.job)
        if event.job not in self._begun:
            self._begun.add(event.job)
            group.left = max(0, group.left - 1)
        if group.price is None:  # what is reserved may be more than the price: the dearest such task so far
            group.price = event.price_usd
        self._hold(event.job, event.price_usd)

    def adopt(self, job: str) -> None:
        """A task was found. That of a job that has not begun was made by an earlier run, or is taken over by this."""
        group = self._group(job)
        if job not in self._begun and not group.unsettled and group.left:
            self._begun.add(job)
            group.left -= 1
            self._hold(job, group.expected)

    def refuse(self, job: str) -> None:
        """The job is submitted again: its Run made no task, or its render failed and cost nothing."""
        if job in self._begun:
            self._release(job)
            self._due.add(job)
            self._group(job).due += 1

    def settle(self, job: str, attempt: int, cost: Decimal | None) -> None:
        """An attempt has ended."""
        before = self._settled.get((job, attempt))
        cost = before if cost is None else cost
        self._settled[job, attempt] = cost
        change = (cost or Decimal(0)) - (before or Decimal(0))
        self.settled_usd += change
        if job not in self._names and job not in self._begun:
            pending = (name for name, each in self._groups.items() if each.unsettled)
            self._names[job] = next(pending, self.group_of(job))
        group = self._group(job)
        group.spent += change
        group.paid += bool(cost) - bool(before)
        if cost and not before:
            group.costs.append(cost)
        if job not in self._begun:
            self._begun.add(job)
            group.unsettled = max(0, group.unsettled - 1)
        self._release(job)

    def fill_in(self, job: str, attempt: int, cost: Decimal | None) -> None:
        """A cost that the end of the attempt did not name."""
        if cost and self._settled.get((job, attempt), cost) is None:
            self.settle(job, attempt, cost)

    def leave(self, job: str, *, unsubmitted: bool = False) -> None:
        """The job costs nothing more in this run.

        Args:
            job: the job's name.
            unsubmitted: whether it failed before it was ever submitted.
        """
        if unsubmitted and job not in self._begun:
            group = self._group(job)
            group.left = max(0, group.left - 1)
            self._begun.add(job)
        self._release(job)

    def _hold(self, job: str, price: Decimal | None) -> None:
        self._release(job)
        self._reserved[job] = price
        self._group(job).held += 1

    def _release(self, job: str) -> None:
        """Nothing is reserved for the job, and it is not to be submitted again."""
        group = self._group(job)
        if job in self._reserved:
            del self._reserved[job]
            group.held -= 1
        if job in self._due:
            self._due.remove(job)
            group.due -= 1

    def _guess(self, price: Decimal | None) -> str:
        """The group of a job of which only the price is known."""
        candidates = [name for name, group in self._groups.items() if group.left] or [*self._groups] or [""]
        return next(
            (name for name in candidates if name in self._groups and self._groups[name].price == price), candidates[0]
        )

    def _group(self, job: str) -> _Group:
        return self._groups.setdefault(self.group_of(job), _Group())
