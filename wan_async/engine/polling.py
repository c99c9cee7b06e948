"""When to ask for a task next."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, TypeVar

_GOLDEN = 0.6180339887498949
_MANY = 16  # so many durations tell rather well what the longest may be


@dataclass(slots=True)
class Durations:
    """What a run has learned about how long tasks take, in seconds from the accepted Run to the end.

    The newest 256 tasks count. A poll sees an end only afterwards, so each is noted as the span it must lie in.
    """

    _window: deque[float] = field(default_factory=lambda: deque(maxlen=256))
    _sorted: list[float] = field(default_factory=list)
    _noted: int = 0

    def __len__(self) -> int:
        return len(self._sorted)

    def note(self, at_least: float, at_most: float) -> None:
        """A task took between `at_least` and `at_most` seconds."""
        if len(self._window) == self._window.maxlen:
            self._sorted.remove(self._window[0])
        # one that was done at its very first poll may have been done for long: look a little earlier next time
        at_least = at_least if at_least > 0 else at_most * 0.7
        # spread evenly over the spans (a golden section apart): middles would pile up where the polls are
        self._noted += 1
        seconds = at_least + (at_most - at_least) * (self._noted * _GOLDEN % 1.0)
        self._window.append(seconds)
        insort(self._sorted, seconds)

    def beyond(self, seconds: float) -> list[float]:
        """The durations above `seconds`, shortest first."""
        return self._sorted[bisect_right(self._sorted, seconds) :]

    def quantile(self, fraction: float) -> float | None:
        """The duration that `fraction` of the tasks did not exceed; None before any is known."""
        if not self._sorted:
            return None
        return self._sorted[min(len(self._sorted) - 1, int(fraction * len(self._sorted)))]


FIRST_POLL_SECONDS = 1.0
POLL_GROWTH = 1.35
POLL_CAP_SECONDS = 15.0
HEALTHY_SOCKET_POLL_SECONDS = 30.0
HEARD_FIRST_POLL_SECONDS = 10.0
"""The first safeguard while the socket is healthy and nothing is known of how long tasks take."""
UNASKED_SECONDS = 300.0
"""No task is left unasked for longer, whatever was learned."""
_STEPS = 6
_GRAIN = 20
_GAP = 0.15


def next_poll(age: float, durations: Durations, *, socket_healthy: bool = False) -> float:
    """The age, in seconds since its accepted Run, at which a task that still runs at `age` is asked next.

    Before anything is known polls thin out from one a second. Afterwards none falls where a task can't be done; each
    falls where another sixth of all tasks is over, or at the brink of a gap between the quick and the slow ones; and
    they thin out again beyond the longest. While the socket is healthy, polls are only a safeguard.
    """
    thinning = max(FIRST_POLL_SECONDS, min(POLL_CAP_SECONDS, age * (POLL_GROWTH - 1)))
    if socket_healthy:
        longest, margin = durations.quantile(1.0), 1.05 if len(durations) >= _MANY else 1.25
        beyond = HEARD_FIRST_POLL_SECONDS if longest is None else 0.5 + margin * longest
        if age < beyond - 0.1:  # at its very instant the age may come out a little less
            return beyond
        return age + min(HEALTHY_SOCKET_POLL_SECONDS, max(2.0, age * (POLL_GROWTH - 1)))
    if len(durations) < 4:
        return age + thinning
    longest, shortest = durations.quantile(1.0) or 0.0, durations.quantile(0.0) or 0.0
    grain = max(0.1, (longest - shortest) / _GRAIN)
    left = durations.beyond(age)
    if not left:
        return age + max(grain * 2, min(POLL_CAP_SECONDS, (age - longest) * 0.5))
    step = left[: max(1, round(len(durations) / _STEPS))]
    gap, brink = max(((later - sooner, sooner) for sooner, later in pairwise(step)), default=(0.0, 0.0))
    at = brink if gap > max(grain, _GAP * (longest - shortest)) else step[-1]
    return min(max(age + grain, at * 1.005 + 0.02), age + UNASKED_SECONDS)


K = TypeVar("K")


class PollHeap(Generic[K]):
    """Who is asked when. An entry may be moved or dropped at any time; stale heap entries are skipped when met."""

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: K) -> bool:
        return key in self._due

    def put(self, key: K, at: float) -> None:
        """`key` is due at `at`, whatever was said before."""
        self._due[key] = at
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, key))

    def advance(self, key: K, at: float) -> None:
        """`key` is due at `at`, unless it is due sooner."""
        if at < self._due.get(key, math.inf):
            self.put(key, at)

    def drop(self, key: K) -> None:
        """`key` is not asked any more."""
        self._due.pop(key, None)

    def pop_due(self, now: float) -> K | None:
        """The most overdue key, which leaves the heap; None if none is due."""
        head = self.next_at()
        if head is None or head > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._due[key]
        return key

    def next_at(self) -> float | None:
        """When the next one is due."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
