"""When to try again: backoff, and how long something has been denied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime


def retry_after(value: str | None, now: float) -> float | None:
    """A `Retry-After` header (seconds or an HTTP date) as seconds from `now`; None if there is none to read."""
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
"""The longest `Retry-After` that is believed; a server that asks for a year is asked again after five minutes."""


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
