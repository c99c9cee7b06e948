"""When to poll a task next, by how long tasks have taken so far."""

from __future__ import annotations

import heapq
from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, TypeVar

_GOLDEN_SECTION = 0.6180339887498949
_MANY_DURATIONS = 16
"""From this number on the longest duration is a good estimate."""


@dataclass(slots=True)
class Durations:
    """How long tasks took, in seconds from the accepted Run to the end; the newest 256 count.

    A poll shows an end only afterwards, so that each duration is noted as the span in which it lies.
    """

    _window: deque[float] = field(default_factory=lambda: deque(maxlen=256))
    _sorted: list[float] = field(default_factory=list)
    _noted: int = 0

    def __len__(self) -> int:
        return len(self._sorted)

    def note(self, at_least: float, at_most: float) -> None:
        """Notes that a task took between `at_least` and `at_most` seconds."""
        if len(self._window) == self._window.maxlen:
            self._sorted.remove(self._window[0])
        # a task that had ended by its first poll may have ended long before: poll a little earlier next time
        at_least = at_least if at_least > 0 else at_most * 0.7
        # spread evenly over the span: middles would pile up where the polls are
        self._noted += 1
        seconds = at_least + (at_most - at_least) * (self._noted * _GOLDEN_SECTION % 1.0)
        self._window.append(seconds)
        insort(self._sorted, seconds)

    def beyond(self, seconds: float) -> list[float]:
        """Returns the durations above `seconds`, shortest first."""
        return self._sorted[bisect_right(self._sorted, seconds) :]

    def quantile(self, fraction: float) -> float | None:
        """Returns the duration that `fraction` of the tasks did not exceed; None before any is known."""
        if not self._sorted:
            return None
        return self._sorted[min(len(self._sorted) - 1, int(fraction * len(self._sorted)))]


FIRST_POLL_SECONDS = 1.0
POLL_GROWTH = 1.35
POLL_CAP_SECONDS = 15.0
SAFEGUARD_CAP_SECONDS = 30.0
FIRST_SAFEGUARD_SECONDS = 10.0
"""The age at which a covered task is polled first while no duration is known."""
UNPOLLED_SECONDS = 300.0
"""No uncovered task is left unpolled for longer, whatever the durations say."""
MIN_DURATIONS = 4
"""With fewer known durations, polls do not follow them."""
_STEPS = 6
_GRAIN = 20
_GAP = 0.15


def next_poll(age: float, durations: Durations, *, covered: bool = False) -> float:
    """Returns the age at which a task that still runs at `age` is polled next; ages are in seconds since its Run.

    Before durations are known, polls thin out from one a second. Then the next poll is where another sixth of all tasks
    has ended, or just before a gap between quick and slow tasks; none is where no task ends. Beyond the longest known
    duration they thin out again.

    Args:
        age: the task's age now.
        durations: how long tasks took.
        covered: a socket or the task list is expected to report the end; polls are then a safeguard only.
    """
    thinning = max(FIRST_POLL_SECONDS, min(POLL_CAP_SECONDS, age * (POLL_GROWTH - 1)))
    if covered:
        longest, margin = durations.quantile(1.0), 1.05 if len(durations) >= _MANY_DURATIONS else 1.25
        beyond = FIRST_SAFEGUARD_SECONDS if longest is None else 0.5 + margin * longest
        if age < beyond - 0.1:  # by rounding, the age may be a little less when the poll is due
            return beyond
        return age + min(SAFEGUARD_CAP_SECONDS, max(2.0, age * (POLL_GROWTH - 1)))
    if len(durations) < MIN_DURATIONS:
        return age + thinning
    longest, shortest = durations.quantile(1.0) or 0.0, durations.quantile(0.0) or 0.0
    grain = max(0.1, (longest - shortest) / _GRAIN)
    left = durations.beyond(age)
    if not left:
        return age + max(grain * 2, min(POLL_CAP_SECONDS, (age - longest) * 0.5))
    step = left[: max(1, round(len(durations) / _STEPS))]
    gap, before_gap = max(((later - sooner, sooner) for sooner, later in pairwise(step)), default=(0.0, 0.0))
    at = before_gap if gap > max(grain, _GAP * (longest - shortest)) else step[-1]
    return min(max(age + grain, at * 1.005 + 0.02), age + UNPOLLED_SECONDS)


K = TypeVar("K")


class PollHeap(Generic[K]):
    """When each key is due. A key may be moved or dropped at any time; its stale heap entries are skipped when met.

    An entry has the number of its key, since it may stay for minutes after the key is dropped, which is free by then.
    """

    def __init__(self) -> None:
        self._due: dict[K, tuple[float, int]] = {}
        self._keys: dict[int, K] = {}
        self._heap: list[tuple[float, int]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: K) -> bool:
        return key in self._due

    def put(self, key: K, at: float) -> None:
        """Makes `key` due at `at`, whenever it was due before."""
        self.drop(key)
        self._count += 1
        self._due[key] = at, self._count
        self._keys[self._count] = key
        heapq.heappush(self._heap, (at, self._count))

    def advance(self, key: K, at: float) -> None:
        """Makes `key` due at `at`, unless it is due sooner."""
        due = self._due.get(key)
        if due is None or at < due[0]:
            self.put(key, at)

    def drop(self, key: K) -> None:
        """Removes `key`, if it is there."""
        due = self._due.pop(key, None)
        if due is not None:
            del self._keys[due[1]]

    def pop_due(self, now: float) -> K | None:
        """Removes and returns the most overdue key; None if none is due."""
        head = self.next_at()
        if head is None or head > now:
            return None
        key = self._keys[self._heap[0][1]]
        self.drop(key)
        return key

    def next_at(self) -> float | None:
        """Returns when the next key is due; None if there is none."""
        while self._heap and self._heap[0][1] not in self._keys:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
