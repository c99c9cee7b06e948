"""How many tasks may be active at once, as a worker sees it: the journal decides, for all workers of the account."""

from __future__ import annotations

from collections.abc import Callable

from wan_async.engine.concurrency import Window


class SharedWindow(Window):
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

    def __init__(self, start: int, maximum: int, wake: Callable[[], None]) -> None:
        super().__init__(start, maximum)
        self.free: int = start
        self.wake = wake

    def seen(self, limit: int, free: int) -> None:
        """News of the journal.

        Args:
            limit: how many tasks may be active.
            free: how many more may be submitted now.
        """
        self.limit, self.free = limit, free
        if free > 0:
            self.wake()

    def may_start(self, now: float) -> bool:
        """Whether a submission is worth a try."""
        return self.free > 0

    def start(self) -> int:
        """A submission begins."""
        self.active += 1
        self.free -= 1
        return 0

    def accepted(self) -> None:
        """The service took it. The journal has counted that."""
        self.running += 1

    def released(self, *, was_running: bool) -> None:
        """A slot of this worker is free again. The journal counts that, too."""
        self.active -= 1
        self.running -= was_running

    def refused(self, now: float, epoch: int, doubtful: int = 0) -> float | None:
        """Error 96 came, which the journal knows: its news is waited for."""
        self.free = 0
        return None
