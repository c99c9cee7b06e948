"""The concurrency limit that all calls of a client share: in order of arrival, at most as many as the account allows.

A slot is taken before Run and given back when the task is known to have ended, whoever saw that. A call that was
cancelled leaves its task running, so its slot stays taken until `watch` sees the end.
"""

from __future__ import annotations

import itertools
import math
from bisect import insort
from dataclasses import dataclass, field

import anyio

from wan_async.engine.concurrency import Window


class Slot:
    """One call's slot, given back once."""

    def __init__(self, admission: Admission, epoch: int, *, running: bool = False) -> None:
        self._admission = admission
        self._running = running
        self._held = True
        self.epoch = epoch

    def accepted(self) -> None:
        """The service accepted the task."""
        if self._running:
            return
        self._running = True
        self._admission.window.accepted()
        self._admission.changed()

    def refused(self) -> None:
        """Error 96: the account runs as many tasks as it allows."""
        self.note_refusal()
        self.release()

    def note_refusal(self) -> None:
        """The same, of a call that keeps its slot and tries again by itself."""
        self._admission.window.refused(anyio.current_time(), self.epoch)

    def release(self) -> None:
        """The task has ended, or there is none."""
        if self._held:
            self._held = False
            self._admission.window.released(was_running=self._running)
            self._admission.changed()


@dataclass(slots=True, eq=False)
class _Place:
    ticket: int
    wake: anyio.Event = field(default_factory=anyio.Event)


class Admission:
    """Admits calls in order of arrival.

    Args:
        window: how many tasks may be active.

    Attributes:
        window: as given.
        queued: an event that is set while calls wait for a slot.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.queued: anyio.Event = anyio.Event()
        self._queue: list[_Place] = []
        self._tickets = itertools.count()

    def ticket(self) -> int:
        """A call's place in the order of arrival, which it keeps if it is refused and takes a slot again."""
        return next(self._tickets)

    async def take(self, ticket: int | None = None) -> Slot:
        """Wait for a slot.

        Args:
            ticket: the call's place in the queue; by default at its end.
        """
        place = _Place(self.ticket() if ticket is None else ticket)
        insort(self._queue, place, key=lambda other: other.ticket)
        try:
            while self._queue[0] is not place or not self.window.may_start(anyio.current_time()):
                self.queued.set()
                place.wake = anyio.Event()
                pause = self.window.not_before - anyio.current_time() if self._queue[0] is place else math.inf
                with anyio.move_on_after(pause if pause > 0 else math.inf):
                    await place.wake.wait()
            return Slot(self, self.window.start())
        finally:
            self._queue.remove(place)
            if not self._queue and self.queued.is_set():
                self.queued = anyio.Event()
            self.changed()

    def adopt(self) -> Slot:
        """A slot for a task that runs already, even above the limit."""
        self.window.readopt()
        return Slot(self, 0, running=True)

    def changed(self) -> None:
        """A slot may be free: wakes the first in the queue."""
        if self._queue:
            self._queue[0].wake.set()
