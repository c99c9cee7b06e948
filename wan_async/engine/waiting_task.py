"""A task that is waited for: what is known of it, without I/O and clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from wan_async.domain.remote_task import TASK_ERROR, TaskDetail, TaskId, TaskToken, ending
from wan_async.http import retry

DOUBTFUL_SECONDS = 60.0
"""For how long the service must deny a task before it is doubtful."""
STUCK_SECONDS = 3600.0
"""For how long a task must show nothing but `task_error` before it is doubtful."""
CONFIRM_AGAIN_SECONDS = 0.25
"""The first pause after a poll that did not confirm a reported end; the pauses double."""


@dataclass(slots=True, eq=False)
class WaitingTask:
    """A task that is waited for. Times are on the event loop's clock.

    Attributes:
        since: when its Run was answered.
        seen: called with each answer before the last one.
        doubtful: called at most once, with the reason, if the task is denied or shows only `task_error` for long.
        done: set when the wait is over, with `task` or `error`, or because its waiter left.
        polling: a poll is in progress.
        polled_at: when the last poll began.
        must_poll: the planned poll is made even if the socket or the list covers the task.
        running_at: until when the task is known to have run; None if that is not known.
        patience_seconds: for how long it must be denied before it is missing; None as for all tasks.
        reported_at: when its end was last reported.
        notified: a notification reported its end.
        listed: the latest reading of the list showed that it runs.
        unlisted: readings in a row that did not show it.
        failures: polls in a row that failed.
        unexpected: unexpected exceptions in a row.
    """

    task_id: TaskId | None
    token: TaskToken | None
    since: float
    seen: Callable[[TaskDetail], None]
    doubtful: Callable[[str], None]
    running_at: float | None = None
    patience_seconds: float | None = None
    done: anyio.Event = field(default_factory=anyio.Event)
    task: TaskDetail | None = None
    error: Exception | None = None
    polling: bool = False
    polled_at: float = -math.inf
    must_poll: bool = True
    reported_at: float | None = None
    notified: bool = False
    listed: bool = False
    unlisted: int = 0
    failures: int = 0
    unexpected: int = 0
    _status: str = ""
    _denials: retry.Denials = field(default_factory=retry.Denials)
    _errored_since: float | None = None
    _is_doubtful: bool = False

    @property
    def names(self) -> list[str]:
        """The id and the token, as far as they are known."""
        return [name for name in (self.task_id, self.token) if name]

    def plan(self, *, must_poll: bool) -> None:
        """A poll is planned."""
        self.must_poll = must_poll

    def begin_poll(self) -> None:
        """A poll is due, and waits for a slot."""
        self.polling = True

    def send_poll(self, now: float) -> None:
        """The poll's request is sent."""
        self.polled_at = now

    def end_poll(self) -> None:
        """The poll is over."""
        self.polling = False

    def notify_end(self, now: float) -> None:
        """A notification reports the end; it is taken to come at once."""
        if self.running_at is not None and not self.notified:
            self.running_at = now
        self.notified, self.reported_at = True, now

    def note_listed(self, task: TaskDetail, asked_at: float, now: float) -> bool:
        """The list shows the task; returns whether that reports its end for the first time."""
        self.unlisted = 0
        if self.polling or self.polled_at > asked_at:
            return False  # Task/Detail is newer
        self.listed = ending(task) is None
        if not self.listed:
            is_first, self.reported_at = self.reported_at is None, self.reported_at or now
            return is_first
        self.running_at = asked_at
        if task.status != self._status:
            self._status = task.status
            self.seen(task)
        return False

    def note_unlisted(self) -> None:
        """A reading of the list did not show the task."""
        self.unlisted += 1

    def uncover(self) -> None:
        """The list does not cover the task any more."""
        self.listed = False

    def note_answer(self) -> None:
        """Task/Detail knows the task."""
        self._denials.seen()

    def note_running(self, task: TaskDetail) -> None:
        """Task/Detail shows that the task runs."""
        self.running_at, self._status, self.failures = self.polled_at, task.status, 0
        if task.status != TASK_ERROR:
            self._errored_since = None
        elif self._errored_since is None:
            self._errored_since = self.polled_at
        elif self.polled_at - self._errored_since >= STUCK_SECONDS:
            self._doubt(f"it has shown nothing but {TASK_ERROR} for an hour")
        self.seen(task)
        self.unexpected = 0

    def note_denied(self, now: float, message: str) -> float:
        """Task/Detail denies the task; returns for how many seconds it has done so."""
        seconds = self._denials.denied(now)
        if seconds >= DOUBTFUL_SECONDS:
            self._doubt(f"the service has denied it for {seconds:.0f} s ({message})")
        return seconds

    def note_failure(self) -> None:
        """A poll failed, which says nothing about the task."""
        self._denials.no_answer()
        self.failures += 1

    def note_unexpected(self) -> None:
        """An unexpected exception was raised."""
        self.unexpected += 1

    def _doubt(self, reason: str) -> None:
        if not self._is_doubtful:
            self._is_doubtful = True
            self.doubtful(reason)

    def confirm_at(self, now: float) -> float:
        """When to poll after its end was reported: now, but not right after a poll that did not confirm it."""
        assert self.reported_at is not None
        if self.reported_at > self.polled_at:
            return max(now, self.polled_at + CONFIRM_AGAIN_SECONDS)
        return now + max(CONFIRM_AGAIN_SECONDS, now - self.reported_at)

    def duration(self, *, covered: bool) -> tuple[float, float, bool] | None:
        """At least and at most how long the task took, now that it has succeeded, and whether that may be far too long.

        Args:
            covered: it was polled as a safeguard only.

        Returns:
            None if it was never known to run.
        """
        if self.running_at is None:
            return None
        running_at, at_least = self.running_at, max(0.0, self.running_at - self.since)
        if self.reported_at is not None and self.reported_at >= running_at:
            return at_least, max(0.0, min(self.reported_at, self.polled_at) - self.since), False
        return at_least, max(0.0, self.polled_at - self.since), covered or self.failures > 0

    def result(self) -> TaskDetail:
        """The answer that shows the end, once the wait is over.

        Raises:
            Exception: what ended the wait instead.
        """
        if self.error is not None:
            raise self.error
        assert self.task is not None
        return self.task

    def finish(self, *, task: TaskDetail | None = None, error: Exception | None = None) -> None:
        """Ends the wait, unless it is over already."""
        if not self.done.is_set():
            self.task, self.error = task, error
            self.done.set()
