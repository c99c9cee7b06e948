"""Planned jobs as jobs of our own model."""

from __future__ import annotations

from wan_async.domain.batch import PlannedJob
from wan_async.domain.job import Job


def job_of(planned: PlannedJob) -> Job:
    """The planned job, narrowed to our own model."""
    assert isinstance(planned.job, Job)
    return planned.job
