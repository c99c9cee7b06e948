"""A job in progress within one run, and what its worker hands back up to the scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from wan_async.domain.attempt import Attempt
from wan_async.domain.batch import Enlisted
from wan_async.domain.model import Parameters


@dataclass(slots=True, eq=False)
class Work:
    """A job in progress within this run, owned by the coroutine that currently works on it.

    Attributes:
        key: the job's key.
        job: what is to be made; None for an attempt whose job the batch no longer names.
        attempt: its row in the journal, once there is one.
        parameters: what will be sent; set once the image is uploaded, or known to travel inside Run.
        renders: how many of its renders failed in this run.
        resumed: whether an earlier run began it.
        was_missing: whether an earlier run left it as missing.
        gives_up: whether it is given up if it is denied once more, also where the run's options don't say so.
        rerenders: whether it is rendered although a clip of it is missing, likewise.
        resubmits: whether it is submitted again if it is still not known what became of its Run, likewise.
        steps: how many of its steps are in progress.
    """

    key: str
    job: Enlisted | None
    attempt: Attempt | None = None
    parameters: Parameters | None = None
    renders: int = 0
    resumed: bool = False
    was_missing: bool = False
    gives_up: bool = False
    rerenders: bool = False
    resubmits: bool = False
    steps: int = 0

    @property
    def ready(self) -> bool:
        """Whether it may be submitted as soon as there is a slot."""
        return self.parameters is not None

    @property
    def content(self) -> str:
        """The content hash: of two jobs with equal content at most one Run may be unanswered."""
        if self.job is not None:
            return self.job.content
        return self.attempt.content if self.attempt is not None else ""

    @property
    def number(self) -> int:
        """The number of its attempt, 0 before the first."""
        return self.attempt.number if self.attempt is not None else 0


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do for this job in this run."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The job may be submitted as soon as there is a slot."""


@dataclass(frozen=True, slots=True)
class Requeue:
    """The same submission again: nothing was sent, or it was refused for a passing reason.

    Attributes:
        after_seconds: how long this job waits.
        hold_seconds: how long all jobs wait.
        after_release: whether all jobs wait until a slot is given back.
    """

    after_seconds: float = 0.0
    hold_seconds: float = 0.0
    after_release: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """A new attempt at the job, from its image on.

    Attributes:
        after_seconds: how long it waits.
    """

    after_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Its task was cancelled: it is asked for once more after a minute, since its charge may appear late."""


Outcome = Done | Ready | Requeue | Again | Cancelled

DONE, READY, CANCELLED = Done(), Ready(), Cancelled()
