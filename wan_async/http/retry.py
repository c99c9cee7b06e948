"""When to retry: backoff, and for how long something has been denied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime


def retry_after(value: str | None, now: float) -> float | None:
    """Returns a `Retry-After` header (seconds or an HTTP date) as seconds from `now`; None if it can't be read."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.inf
    if abs(seconds) < 1e18:
        return max(0.0, seconds)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now)


RETRY_AFTER_CAP_SECONDS = 300.0
"""The longest `Retry-After` that is respected."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with jitter: between half and all of `first_seconds` x 2^n, never above `cap_seconds`."""

    first_seconds: float = 0.5
    cap_seconds: float = 30.0

    def delay(self, failures: int, draw: float, asked_seconds: float | None = None) -> float:
        """Returns the seconds to wait after the `failures`-th failure in a row, at least `asked_seconds` (capped)."""
        full = min(self.cap_seconds, self.first_seconds * 2.0 ** min(failures - 1, 60))
        wait = full * (0.5 + draw / 2)
        return wait if asked_seconds is None else max(wait, min(asked_seconds, RETRY_AFTER_CAP_SECONDS))


@dataclass(slots=True)
class Denials:
    """For how long something has been denied.

    Only the time between two successive denials counts. An outage in between adds nothing and resets nothing.

    Attributes:
        seconds: the total.
    """

    seconds: float = 0.0
    _last_at: float | None = None

    def denied(self, now: float) -> float:
        """Notes a denial; returns for how many seconds it has been denied."""
        if self._last_at is not None:
            self.seconds += max(0.0, now - self._last_at)
        self._last_at = now
        return self.seconds

    def no_answer(self) -> None:
        """Notes that there was no answer."""
        self._last_at = None

    def seen(self) -> None:
        """Notes that it exists, which resets the time."""
        self.seconds, self._last_at = 0.0, None
