"""How many tasks may be active at once, as a worker sees it: the journal decides, for all workers of the account."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Self

from wan_async.engine.concurrency import Window

YIELD_SECONDS = 0.05
"""For so long a worker that has its share of the slots leaves a free one to those that have less."""


@dataclass(frozen=True, slots=True)
class News:
    """How the slots of an account stand.

    Attributes:
        account: its id.
        limit: how many tasks may be active.
        free: how many more may be submitted now.
        workers: how many workers share them.
        no_run_before: before when no Run may be sent because of a rate limit, in the server's unix seconds.
        pause_seconds: how long that is from the moment when the news was made.
    """

    account: int
    limit: int
    free: int
    workers: int
    no_run_before: float
    pause_seconds: float

    def dumps(self) -> str:
        """The news as a text."""
        return " ".join(map(str, astuple(self)))

    @classmethod
    def loads(cls, text: str) -> Self:
        """What `dumps` returned."""
        account, limit, free, workers, no_run_before, pause_seconds = text.split()
        return cls(int(account), int(limit), int(free), int(workers), float(no_run_before), float(pause_seconds))


class SharedConcurrency(Window):
    """A worker's view of the account's slots.

    It says whether a submission is worth a try; the transaction of the intent takes the slot, or refuses it.

    Args:
        start: the limit until the journal names one.
        maximum: never more than this many.
        wake: called when slots became free.

    Attributes:
        wake: likewise.
        free: how many slots were free at the last news, less the submissions begun since.
    """

    limit: int
    active: int
    running: int
    not_before: float

    def __init__(self, start: int, maximum: int, wake: Callable[[], None]) -> None:
        super().__init__(start, maximum)
        self.free: int = start
        self.wake = wake
        self._workers: int = 1
        self._has_released = False
        self._open_at = self._paused_until = -math.inf

    def seen(self, news: News, now: float) -> None:
        """News of the journal.

        Args:
            news: how the slots stand.
            now: the time.
        """
        if self.free <= 0:
            self._open_at = now + YIELD_SECONDS
        self.limit, self.free = news.limit, news.free
        self._workers = max(1, news.workers)
        self._paused_until = now + news.pause_seconds
        if news.free > 0:
            self.wake()

    def may_start(self, now: float) -> bool:
        """Whether a submission is worth a try; if a slot is free, `not_before` says from when on."""
        # of two workers with the same number of tasks, the one of which a task has just ended takes the slot
        has_share = self.active >= (self.limit + self._has_released * (self._workers - 1)) // self._workers
        self.not_before = max(self._paused_until, self._open_at if has_share else -math.inf)
        return self.free > 0 and now >= self.not_before

    def start(self) -> int:
        """A submission begins."""
        self.active += 1
        self.free -= 1
        self._has_released = False
        return 0

    def accepted(self) -> None:
        """The service took it. The journal has counted that."""
        self.running += 1

    def released(self, *, was_running: bool) -> None:
        """A slot of this worker is free again. The journal counts that, too."""
        self.active -= 1
        self.running -= was_running
        self._has_released = self._has_released or was_running

    def refused(self, now: float, epoch: int, doubtful: int = 0) -> float | None:
        """Error 96 came, which the journal knows: its news is waited for."""
        self.free = 0
        return None
