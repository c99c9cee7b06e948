"""The events of a run that never took place: the number of slots and the durations of renders are given."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from sample_events import ended, running, started, stored, submitting

from wan_async.domain import events

PRICES = {"480P": "0.02", "720P": "0.035"}
SECONDS = {"480P": (8.0, 13.0), "720P": (25.0, 45.0)}


def simulated_run(
    jobs: Mapping[str, str],
    *,
    slots: int,
    seed: int = 0,
    percentages: bool = False,
    prices: Mapping[str, str] = PRICES,
    seconds: Mapping[str, Sequence[float]] = SECONDS,
) -> list[events.Event]:
    """A run of jobs with the names and the groups given, in that order, without any fault."""
    rng = random.Random(seed)
    groups = tuple(
        events.PriceGroup(
            name=name,
            to_do=sum(each == name for each in jobs.values()),
            price_usd=Decimal(prices[name]),
            unsettled=0,
            unsettled_usd=Decimal(0),
        )
        for name in dict.fromkeys(jobs.values())
    )
    estimate = sum((Decimal(prices[group]) for group in jobs.values()), Decimal(0))
    found: list[events.Event] = [started(jobs=len(jobs), groups=groups, estimate_usd=estimate)]
    free = [0.0] * slots
    for name, group in jobs.items():
        at = heapq.heappop(free)
        until = at + rng.uniform(*seconds[group])
        heapq.heappush(free, until)
        found.append(submitting(name, at=at, price=prices[group]))
        if percentages:
            found += _samples(name, at, until)
        found.append(ended(name, prices[group], at=until))
        found.append(stored(name, at=until + rng.uniform(0.3, 1.5), cost=prices[group]))
    return sorted(found, key=lambda event: event.at)


def _samples(name: str, begin: float, end: float) -> Iterator[events.Event]:
    for percent in range(0, 100, 10):
        yield running(name, percent, at=begin + (end - begin) * percent / 100)
