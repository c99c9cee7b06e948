"""What a worker hands back up to the scheduler."""

from __future__ import annotations

from dataclasses import dataclass


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
