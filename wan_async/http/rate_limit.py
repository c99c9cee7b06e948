"""A token bucket for rate limits (429)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from wan_async.http.retry import RETRY_AFTER_CAP_SECONDS


class TokenBucket:
    """One rate for all requests of a run: unlimited until the first 429, then what the service seems to accept.

    A request that met a 429 waits for as long as the service asked. A single one is little evidence about the others;
    where more than one answer in five is a 429 all requests pause for as long, and the rate is halved. Successes let it
    grow again.

    Attributes:
        rate: requests per second.
        on_pause: called with the seconds for which all requests will pause.
    """

    _BURST = 4.0
    _STRAY = 1 / 5
    _ANSWERS = 16  # the fewest answers from which the share of 429s is estimated
    _FREE = 1000.0  # requests/s from which on no rate is kept any more

    def __init__(self) -> None:
        self.rate: float = math.inf
        self.on_pause: Callable[[float], None] = lambda seconds: None
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
        if not strays:
            is_first = now >= self._not_before
            self.slow_down(now, pause)
            if is_first:
                self.on_pause(pause)
        return pause

    def slow_down(self, now: float, seconds: float) -> None:
        """All requests pause for so long, and the rate is halved: this process, or another one, met the limit."""
        if now >= self._not_before:  # the other answers to one burst are no news
            span = max(1.0, now - self._sent[0]) if self._sent else 1.0
            self.rate = max(0.5, min(self.rate, len(self._sent) / span) / 2)
            self._tokens, self._filled_at = 0.0, now + seconds
        self._not_before = max(self._not_before, now + seconds)

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
