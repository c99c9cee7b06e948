"""Where a scheduler gets its jobs: a batch that is known from the start, or a feed that is filled while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from wan_async.domain.batch import Enlisted
from wan_async.engine.active_job import Work


class JobSource(Protocol):
    """The jobs of a run, one after the other."""

    @property
    def is_open(self) -> bool:
        """Whether more jobs may come: the run goes on without any."""
        ...

    def next_job(self) -> Work | None:
        """The next job to submit; None if there is none now."""
        ...

    def next_attempt(self) -> Work | None:
        """The next job with an attempt that is to be taken up; None if there is none now."""
        ...

    def done(self, work: Work) -> None:
        """Nothing is left to do for a job in this run."""
        ...


class BatchSource:
    """The jobs of a batch.

    Args:
        jobs: the jobs to submit, in batch order.
    """

    is_open = False

    def __init__(self, jobs: Iterable[Enlisted]) -> None:
        self._jobs = iter(jobs)

    def next_job(self) -> Work | None:
        """The next job to submit; None after the last."""
        job = next(self._jobs, None)
        return None if job is None else Work(job.key, job)

    def next_attempt(self) -> Work | None:
        """None: the attempts of earlier runs are taken up before."""
        return None

    def done(self, work: Work) -> None:
        """The events tell."""
