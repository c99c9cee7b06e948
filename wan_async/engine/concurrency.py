"""How many tasks may be active at once."""

from __future__ import annotations

import math
from collections.abc import Mapping

AUTO_START = 8
"""How many tasks may be active at the beginning, where no limit is given."""
FOREIGN_LIMIT_FIRST_SECONDS = 5.0
FOREIGN_LIMIT_CAP_SECONDS = 60.0
"""With none of ours running, error 96 comes of another program: one probe after 5 s, backing off to 60 s."""

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
        self.limit: int = min(start, maximum)
        self.active: int = 0
        self.running: int = 0
        self.not_before: float = -math.inf
        self._met_limit = False
        self._refusals = 0
        self._epoch = 0
        self._hold_completions = 0
        self._since_probe = 0
        self._step = 1
        self._foreign_waits = 0

    def dump(self) -> dict[str, float]:
        """Everything but the tasks, for `load`."""
        return {name: value for name, value in vars(self).items() if name not in ("active", "running")}

    def load(self, state: Mapping[str, float], *, active: int, running: int) -> None:
        """Takes over what `dump` returned, with the tasks that there are now."""
        vars(self).update(state, active=active, running=running)

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
            epoch: what `start` returned: of several Runs that were in flight at once, one refusal counts.
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
