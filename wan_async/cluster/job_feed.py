"""The jobs that a worker has taken from the queue, for its scheduler."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from wan_async.engine.active_job import Work
from wan_async.engine.job_source import JobSource


class JobFeed(JobSource):
    """Jobs that are added while the scheduler runs.

    Args:
        on_done: gets each job for which nothing is left to do.
    """

    def __init__(self, on_done: Callable[[Work], None]) -> None:
        self._jobs: deque[Work] = deque()
        self._attempts: deque[Work] = deque()
        self._is_open = True
        self._on_done = on_done
        self.wake: Callable[[], None] = lambda: None

    @property
    def is_open(self) -> bool:
        """Whether more jobs may come."""
        return self._is_open

    def put(self, work: Work) -> None:
        """Adds a job: to be submitted, or with an attempt that is to be taken up."""
        (self._jobs if work.attempt is None else self._attempts).append(work)
        self.wake()

    def close(self) -> None:
        """No more jobs come."""
        self._is_open = False
        self.wake()

    def next_job(self) -> Work | None:
        """The next job to submit; None if there is none now."""
        return self._jobs.popleft() if self._jobs else None

    def next_attempt(self) -> Work | None:
        """The next job with an attempt to take up; None if there is none now."""
        return self._attempts.popleft() if self._attempts else None

    def done(self, work: Work) -> None:
        """Nothing is left to do for a job."""
        self._on_done(work)
