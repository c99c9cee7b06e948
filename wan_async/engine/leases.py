"""Leases: a slot among the active tasks, and the lock on a content, for one job.

The scheduler hands a lease down to the worker, who gives back each part of it once: the lock when the Run is answered
or proven absent, the slot when the task has ended. `Wake` tells the scheduler that something may have changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import anyio

from wan_async.domain.attempt import Attempt
from wan_async.engine.concurrency import Window


class Wake:
    """An event that can be set again and again, for one waiter."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Wakes the waiter, or the next one to wait."""
        self._event.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Waits until it is set, `seconds` at most."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
        self._event = anyio.Event()


class Slots:
    """The slots of one run, and the locks on contents.

    Args:
        window: how many tasks may be active.
        wake: is set whenever a slot or a lock is given back.

    Attributes:
        window: as given.
        releases: how many slots were given back so far.
        sending: how many leases have a Run that is not answered yet.
        queued: how many jobs wait for a slot.
        on_release: gets the attempt whose slot was given back.
    """

    def __init__(self, window: Window, wake: Wake) -> None:
        self.window = window
        self.releases: int = 0
        self.sending: int = 0
        self.queued: int = 0
        self.on_release: Callable[[Attempt], None] = lambda attempt: None
        self._wake = wake
        self._locked: Counter[str] = Counter()

    def lease(self, content: str) -> Lease:
        """A slot for a Run, with the lock on its content."""
        self.sending += 1
        lease = Lease(self, content, is_sending=True)
        lease.take()
        lease.lock()
        return lease

    def is_locked(self, content: str) -> bool:
        """Whether a Run of this content may be unanswered."""
        return self._locked[content] > 0

    def set_queued(self, count: int) -> None:
        """Sets the number of jobs that wait for a slot."""
        self.queued = count

    def lock(self, content: str) -> None:
        """Takes the lock on a content."""
        self._locked[content] += 1

    def unlock(self, content: str) -> None:
        """Gives back the lock on a content."""
        self._locked[content] -= 1
        if not self._locked[content]:
            del self._locked[content]
        self._wake.set()

    def released(self, *, was_running: bool, attempt: Attempt | None = None) -> None:
        """A slot was given back, that of an attempt if there was one."""
        self.releases += 1
        if attempt is not None:
            self.on_release(attempt)
        self.window.released(was_running=was_running)
        self._wake.set()

    def sent(self) -> None:
        """A Run was answered, or came to nothing."""
        self.sending -= 1
        self._wake.set()


class Lease:
    """One job's slot and lock; each is given back once.

    Args:
        slots: where they come from.
        content: what the lock is on.
        is_sending: whether it is for a Run that is still to be sent.

    Attributes:
        epoch: what `Window.refused` wants to know of the slot.
        attempt: the attempt that has it, once there is one.
    """

    def __init__(self, slots: Slots, content: str, *, is_sending: bool = False) -> None:
        self._slots = slots
        self._content = content
        self._is_held = False
        self._is_running = False
        self._is_locked = False
        self._is_sending = is_sending
        self.epoch: int = 0
        self.attempt: Attempt | None = None

    def lock(self) -> None:
        """Takes the lock."""
        self._is_locked = True
        self._slots.lock(self._content)

    def unlock(self) -> None:
        """The Run is answered, or proven absent: jobs of the same content may go."""
        if self._is_locked:
            self._is_locked = False
            self._slots.unlock(self._content)

    def take(self, *, running: bool = False) -> None:
        """Takes a slot, if it holds none.

        Args:
            running: for a task that the service has accepted already; such a one may exceed the limit.
        """
        if self._is_held:
            return
        self._is_held, self._is_running = True, running
        if running:
            self._slots.window.readopt()
        else:
            self.epoch = self._slots.window.start()

    def accepted(self) -> None:
        """The service accepted the task."""
        if self._is_held and not self._is_running:
            self._is_running = True
            self._slots.window.accepted()

    def sent(self) -> None:
        """Its Run was answered, or came to nothing."""
        if self._is_sending:
            self._is_sending = False
            self._slots.sent()

    def release(self) -> None:
        """Gives back the slot; another job may have it."""
        if self._is_held:
            self._is_held = False
            self._slots.released(was_running=self._is_running, attempt=self.attempt)
