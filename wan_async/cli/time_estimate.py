"""How fast a run is: how long renders and downloads take, and when the last one will have ended."""

from __future__ import annotations

import bisect
import heapq
import math
import random
import statistics
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

_SAMPLES = 100
"""The latest renders of a group that are remembered."""
_ROLLS = 16
SIMULATED_JOBS = 200
"""The last jobs to start are simulated one by one; those before them count as work that is spread over the slots."""
_FEW, _ENOUGH = 3, 10
_SPREAD, _FEW_SPREAD = 1.25, 1.14
"""By what factor the durations of fewer than 3 and of fewer than 10 renders may be wrong."""
_LEAST_PERCENT = 10.0
_BY_PERCENT = 0.8, 2.0
"""What tasks take, as multiples of what their percentages say: most services are slow with the last percent."""
_OVERDUE = 1.1, 2.5
"""What tasks take that are older than any that has ended, as multiples of their age."""
_PLAYED_SLOTS = 200
"""With more slots than that a part of the run is played through, of the same shape."""
_DECIDED = 0.5, 1.0
"""When it is decided what became of an unanswered Run, as a part of the longest time: it is often found before."""
_BEYOND, _ALLOWANCE, _ALLOWANCE_SECONDS = 1.5, 1.05, 3.0
"""A range is wider than its few courses: they show neither the rarest one nor what none of them knows."""
_SLOW_FACTOR, _SLOW_SECONDS = 3.0, 10.0


class Rendering(NamedTuple):
    """A task that has not ended.

    Attributes:
        group: which tasks it resembles.
        age: seconds since its Run; None if an earlier run sent it.
        percent: how far it is, if the service says so.
    """

    group: str
    age: float | None
    percent: float | None


class Rest(NamedTuple):
    """What is left of a run.

    Attributes:
        renders: the tasks that have not ended.
        downloads: the clips being fetched, by how many seconds ago their tasks ended; None if that isn't known.
        waiting: the groups of the last jobs to start, in their order.
        more: the jobs before those, by group.
        slots: how many tasks are active at once.
        prices: of one task by group, as far as they are known: what costs more doesn't take less time.
        undecided: seconds until it is decided at the latest what became of unanswered Runs.
    """

    renders: Sequence[Rendering]
    downloads: Sequence[float | None]
    waiting: Sequence[str]
    more: Mapping[str, float]
    slots: int
    prices: Mapping[str, float]
    undecided: float = 0.0

    def part(self, scale: int) -> Rest:
        """One `scale`-th of it, which takes as long."""
        return Rest(
            self.renders[::scale],
            self.downloads[::scale],
            self.waiting[::-scale][::-1],  # from the end: the last ones decide
            {group: count / scale for group, count in self.more.items()},
            -(-self.slots // scale),
            self.prices,
            self.undecided,
        )


class Eta(NamedTuple):
    """When a run will have ended: between `low` and `high` seconds from now, `likely` in the median.

    In simulated runs with renders of mixed durations the end is in the range at 99 of 100 moments.
    """

    low: float
    likely: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether one number says it: the range is narrow."""
        return self.high - self.low <= max(5.0, 0.4 * self.likely)


class Pace:
    """How long the tasks of a run take, by group: those of a group resemble each other, as by their resolution.

    Attributes:
        slow_after: no task that is younger, in seconds, is slow.
    """

    def __init__(self) -> None:
        self.slow_after: float = math.inf
        self._renders: dict[str, deque[float]] = {}
        self._downloads: deque[float] = deque(maxlen=_SAMPLES)
        self._slow_after: dict[str, float] = {}

    def rendered(self, group: str, seconds: float) -> None:
        """A render succeeded."""
        known = self._renders.setdefault(group, deque(maxlen=_SAMPLES))
        known.append(max(0.0, seconds))
        if len(known) >= _FEW:
            self._slow_after[group] = max(_SLOW_SECONDS, _SLOW_FACTOR * statistics.median(known))
            self.slow_after = min(self._slow_after.values())

    def downloaded(self, seconds: float) -> None:
        """A clip was stored, this long after its task had ended."""
        self._downloads.append(max(0.0, seconds))

    def is_slow(self, group: str, age: float) -> bool:
        """Whether a task of this age takes far longer than the others of its group."""
        return age > self._slow_after.get(group, math.inf)

    def eta(self, rest: Rest) -> Eta | None:
        """When the last clip will be on disk.

        The rest of the run is played through several times. Each time tasks take as long as some that have ended,
        drawn anew; a group of which none has ended is estimated by its percentages, or else by the other groups, with
        a wide range.

        Returns:
            None while no render has ended and no percentage is known.
        """
        if (scale := -(-rest.slots // _PLAYED_SLOTS)) > 1:
            rest = rest.part(scale)
        groups = dict.fromkeys([*(each.group for each in rest.renders), *rest.waiting, *rest.more])
        is_known = any(self._known(group, rest.renders, 0.0) for group in groups)
        if not is_known if groups else not (rest.downloads and self._downloads):
            return None
        ends = sorted(self._play(rest, groups, random.Random(roll), roll / (_ROLLS - 1)) for roll in range(_ROLLS))  # noqa: S311
        likely = statistics.median(ends)
        is_sampled = all(self._renders.get(group) for group in groups)
        beyond = _BEYOND if is_sampled else 1.0  # a range of durations is wide already
        low, high = likely - beyond * (likely - ends[0]), likely + beyond * (ends[-1] - likely)
        return Eta(max(0.0, low / _ALLOWANCE - _ALLOWANCE_SECONDS), likely, high * _ALLOWANCE + _ALLOWANCE_SECONDS)

    def _known(self, group: str, renders: Sequence[Rendering], place: float) -> list[float]:
        """The durations of a group's tasks, as far as something is known of them."""
        ages = [(each.age, each.percent) for each in renders if each.group == group and each.age]
        if known := self._renders.get(group):
            longest = max(known)
            return [*known, *(_between(_OVERDUE, place) * age for age, _ in ages if age > longest)]
        factor = _between(_BY_PERCENT, place)
        return [factor * 100 * age / percent for age, percent in ages if percent and percent >= _LEAST_PERCENT]

    def _play(self, rest: Rest, groups: Collection[str], rng: random.Random, place: float) -> float:
        """One course that the rest of the run may take: seconds until its end.

        `place` runs from 0 to 1 over the courses: where only a range of durations is known, all those of a course lie
        at this place of it, since they may all be wrong in the same way.
        """
        known = {group: self._known(group, rest.renders, place) for group in groups}
        everything = [seconds for each in known.values() for seconds in each]
        durations: dict[str, list[float]] = {}
        for group, seconds in known.items():
            count = len(self._renders.get(group, ()))
            if count >= _ENOUGH or (seconds and not count):
                durations[group] = sorted(rng.choices(seconds, k=len(seconds)))
            else:
                spread = _FEW_SPREAD if count >= _FEW else _SPREAD
                factor = _between(
                    (1 / spread, spread) if seconds else _range_by_price(group, known, rest.prices), place
                )
                durations[group] = sorted(factor * each for each in seconds or [statistics.fmean(everything)])
        free = [self._remaining(rng, durations[each.group], each.age) for each in rest.renders]
        free += [0.0] * (rest.slots - len(free))
        heapq.heapify(free)
        if rest.more:
            work = sum(count * statistics.fmean(durations[group]) for group, count in rest.more.items())
            level = (sum(free) + work) / len(free)
            jumps = rng.choices(everything, k=len(free))
            free = [level + each * (rng.random() - 0.5) for each in jumps]
            heapq.heapify(free)
        drawn = {group: iter(rng.choices(durations[group], k=count)) for group, count in Counter(rest.waiting).items()}
        for group in rest.waiting:
            heapq.heapreplace(free, free[0] + next(drawn[group]))
        fetch = statistics.fmean(self._downloads) if self._downloads else 0.0
        fetching = [max(0.0, fetch - (age or 0.0)) for age in rest.downloads]
        decided = rest.undecided * _between(_DECIDED, place)
        return max([*fetching, decided, max(free) + fetch] if groups else fetching)

    def _remaining(self, rng: random.Random, durations: Sequence[float], age: float | None) -> float:
        if age is None:
            return rng.choice(durations) * rng.random()
        shorter = bisect.bisect_right(durations, age)
        longer = len(durations) - shorter
        return durations[shorter + int(longer * rng.random())] - age if longer else 0.3 * age * rng.random()


def _between(limits: tuple[float, float], place: float) -> float:
    low, high = limits
    return low * math.pow(high / low, place)


def _range_by_price(
    group: str, known: Mapping[str, Sequence[float]], prices: Mapping[str, float]
) -> tuple[float, float]:
    """Between which multiples of the known durations those of another group may lie."""
    price, others = prices.get(group), [prices[each] for each in known if known[each] and each in prices]
    if price is None or not others or min(others) < price < max(others):
        return 0.25, 4.0
    return (1.0, 4.0) if price >= max(others) else (0.25, 1.0)
