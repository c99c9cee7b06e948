"""When: polls, retries, how many tasks at once, how many requests a second.

Everything here is arithmetic on a `now` in seconds (any monotonic clock) and on a `draw` in [0, 1) where chance takes
part, both given by the caller, so that a run can be replayed and simulated in virtual time.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, TypeVar

RETRY_AFTER_CAP_SECONDS = 300.0
"""The longest `Retry-After` that is believed; a server that asks for a year is asked again after five minutes."""

FOREIGN_LIMIT_FIRST_SECONDS = 5.0
FOREIGN_LIMIT_CAP_SECONDS = 60.0
"""With none of ours running, error 96 comes of another program: one probe after 5 s, backing off to 60 s."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with jitter: between half and all of `first_seconds` x 2^n, never above `cap_seconds`."""

    first_seconds: float = 0.5
    cap_seconds: float = 30.0

    def delay(self, failures: int, draw: float, asked_seconds: float | None = None) -> float:
        """Seconds to wait after the `failures`-th failure in a row, at least what the server asked for (capped)."""
        full = min(self.cap_seconds, self.first_seconds * 2.0 ** min(failures - 1, 60))
        wait = full * (0.5 + draw / 2)
        return wait if asked_seconds is None else max(wait, min(asked_seconds, RETRY_AFTER_CAP_SECONDS))


@dataclass(slots=True)
class Denials:
    """For how long something has been denied, and nothing else been heard of it.

    Only the time between two denials in a row counts: an outage in between proves nothing, and forgets nothing either.

    Attributes:
        seconds: for how long, in all.
    """

    seconds: float = 0.0
    _last_at: float | None = None

    @property
    def begun(self) -> bool:
        """Whether there was a denial since it was last seen."""
        return self._last_at is not None or self.seconds > 0

    def denied(self, now: float) -> float:
        """It is denied; for how long it has been now."""
        if self._last_at is not None:
            self.seconds += max(0.0, now - self._last_at)
        self._last_at = now
        return self.seconds

    def no_answer(self) -> None:
        """It could not be asked for."""
        self._last_at = None

    def seen(self) -> None:
        """It is there."""
        self.seconds, self._last_at = 0.0, None


class TokenBucket:
    """One rate for all requests of a run: unlimited until the first 429, then what the service seems to bear.

    A request that met a 429 waits for as long as the service asked. A stray one says little about the others; where
    more than one answer in five is a 429 everything pauses for as long, and the rate is halved. Successes let it grow
    again.
    """

    _BURST = 4.0
    _STRAY = 1 / 5
    _ANSWERS = 16  # so few answers at least tell how many of them are 429
    _FREE = 1000.0  # requests/s from which on no rate is kept any more

    def __init__(self) -> None:
        self.rate = math.inf
        self._tokens = self._BURST
        self._filled_at = 0.0
        self._not_before = 0.0
        self._sent: deque[float] = deque(maxlen=64)
        self._refused: deque[bool] = deque(maxlen=64)

    def reserve(self, now: float) -> float:
        """Takes a token; the seconds to wait before the request it stands for may leave."""
        wait = max(0.0, self._not_before - now)
        if self.rate < math.inf:
            self._tokens = min(self._BURST, self._tokens + (now - self._filled_at) * self.rate) - 1
            self._filled_at = now
            wait = max(wait, -self._tokens / self.rate)
        self._sent.append(now + wait)
        return wait

    def limited(self, now: float, asked_seconds: float | None) -> float:
        """A 429 came: the seconds for which the request that met it pauses, and perhaps all of them."""
        pause = min(1.0 if asked_seconds is None else asked_seconds, RETRY_AFTER_CAP_SECONDS)
        self._refused.append(True)
        strays = sum(self._refused) <= self._STRAY * max(len(self._refused), self._ANSWERS)
        if strays:
            return pause
        if now >= self._not_before:  # the other answers to one burst say nothing new
            span = max(1.0, now - self._sent[0]) if self._sent else 1.0
            self.rate = max(0.5, min(self.rate, len(self._sent) / span) / 2)
            self._tokens, self._filled_at = 0.0, now + pause
        self._not_before = max(self._not_before, now + pause)
        return pause

    @property
    def not_before(self) -> float:
        """Until when everything pauses."""
        return self._not_before

    def succeeded(self) -> None:
        """A request was answered: the rate may grow a little."""
        self._refused.append(False)
        if self.rate < math.inf:
            self.rate += max(0.1, self.rate * 0.02)
            if self.rate > self._FREE:
                self.rate = math.inf


_PROBE_AFTER = 4  # completions at least: an account that allows one task would else refuse every other Run


class Window:
    """How many tasks may be active at once: grows while all goes well, falls to what runs on error 96.

    After a 96 it follows completions one for one and now and then tries one more, since the account's limit moves with
    its balance. Several 96s in a row (the limit fell below what runs) make it wait for ever more completions.

    Attributes:
        limit: the most tasks that may hold a slot now.
        active: how many hold one: Runs in flight and tasks that have not ended.
        running: how many of those the service has accepted.
    """

    def __init__(self, start: int, maximum: int) -> None:
        self.maximum = maximum
        self.limit = min(start, maximum)
        self.active = 0
        self.running = 0
        self.not_before = -math.inf
        self._met_limit = False
        self._refusals = 0
        self._epoch = 0
        self._hold_completions = 0
        self._since_probe = 0
        self._step = 1
        self._foreign_waits = 0

    def may_start(self, now: float) -> bool:
        """Whether one more task may be submitted now."""
        return self.active < self.limit and self._hold_completions <= 0 and now >= self.not_before

    def start(self) -> int:
        """A slot is taken: a Run will be sent. Returns what `refused` wants to know of it."""
        self.active += 1
        return self._epoch

    def accepted(self) -> None:
        """The service took it."""
        self.running += 1
        self._refusals = self._foreign_waits = 0
        self._hold_completions = 0
        self.not_before = -math.inf
        self.limit = max(self.limit, min(self.maximum, self.running))  # a refusal may have overtaken this answer
        if not self._met_limit:
            self.limit = min(self.maximum, self.limit + 1)

    def readopt(self) -> None:
        """A task that exists already takes a slot, even above the limit."""
        self.active += 1
        self.running += 1

    def released(self, *, was_running: bool) -> None:
        """A slot is free again: its task ended, or its Run came to nothing."""
        self.active -= 1
        if not was_running:
            return
        self.running -= 1
        self._hold_completions -= 1
        if self._met_limit:
            self._since_probe += 1
            if self._since_probe >= max(self.limit, _PROBE_AFTER) and self._refusals == 0:
                self._since_probe = 0
                self.limit = min(self.maximum, self.limit + self._step)
                self._step = min(self._step * 2, 8)

    def refused(self, now: float, epoch: int, doubtful: int = 0) -> float | None:
        """Error 96 came for a slot that is still counted in `active`.

        Args:
            now: the time.
            epoch: what `start` returned: of several Runs that were under way at once, one refusal counts.
            doubtful: how many Runs were not answered, and may have made a task each.

        Returns:
            Seconds to wait before the next try, or None if the next completion of ours is what to wait for.
        """
        self._met_limit = True
        if epoch == self._epoch:
            self._epoch += 1
            self._refusals += 1
        self._since_probe, self._step = 0, 1
        self.limit = max(1, min(self.limit, self.running + doubtful))
        if self.running:
            self._hold_completions = min(2 ** min(self._refusals - 1, 16), max(1, self.running // 4))
            return None
        wait = min(FOREIGN_LIMIT_CAP_SECONDS, FOREIGN_LIMIT_FIRST_SECONDS * 2.0 ** min(self._foreign_waits, 16))
        if now >= self.not_before:
            self._foreign_waits += 1
            self.not_before = now + wait
        self._hold_completions = 0
        return self.not_before - now


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
