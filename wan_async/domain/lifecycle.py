"""The life of a job and its attempts: every state, what it means, and what it may follow.

    planned -> intent -> accepted -> ended -> stored
                 |          |          |----> failed
                 |          |          |----> cancelled
                 |          '-> missing <'     missing -> accepted | ended | given_up
                 |-> rejected
                 '-> unknown -> accepted | absent | quarantined
                                                    '-> accepted | absent | abandoned

A task that exists already is adopted as a new attempt: planned -> accepted.

`LIFECYCLE` is the only table of states. The journal's guards, indexes and queries, the exit code and counts of a
run, the display, `status`, `plan` and the gallery derive their lists of states from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The state of an attempt; `PLANNED` is that of a job without one. Members equal their names in lower case."""

    PLANNED = "planned"
    INTENT = "intent"
    UNKNOWN = "unknown"
    ABSENT = "absent"
    QUARANTINED = "quarantined"
    ABANDONED = "abandoned"
    REJECTED = "rejected"
    ACCEPTED = "accepted"
    ENDED = "ended"
    STORED = "stored"
    FAILED = "failed"
    CANCELLED = "cancelled"
    MISSING = "missing"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What holds for an attempt in a state. Several of the flags may be set.

    Attributes:
        meaning: the state in a sentence, for people.
        after: the states it may follow; itself where its facts may be recorded again.
        is_open: every later run takes the attempt up again.
        is_unanswered: between `intent` and `accepted`: whether a task exists is not known. At most one attempt of a
            content may be in such a state.
        in_flight: the attempt proceeds to its clip, and nothing is known to be wrong with it.
        keeps_reservation: what was reserved stays so until a cost is known; elsewhere it is released.
        is_repeatable: the next run submits the job again without being asked, unless a failure was billed or refused.
        is_problem: the job has no clip, for a reason that people are shown.
    """

    meaning: str
    after: tuple[State, ...]
    is_open: bool = False
    is_unanswered: bool = False
    in_flight: bool = False
    keeps_reservation: bool = False
    is_repeatable: bool = False
    is_problem: bool = False


LIFECYCLE: dict[State, Phase] = {
    State.PLANNED: Phase(meaning="Not submitted yet.", after=(), is_repeatable=True),
    State.INTENT: Phase(
        meaning="The intent to pay is durable; Run is about to be sent, or was sent.",
        after=(State.PLANNED, State.REJECTED),
        is_open=True,
        is_unanswered=True,
        in_flight=True,
        keeps_reservation=True,
    ),
    State.UNKNOWN: Phase(
        meaning="Run was sent and got no answer; the run finds out whether a task exists.",
        after=(State.INTENT, State.UNKNOWN),
        is_open=True,
        is_unanswered=True,
        keeps_reservation=True,
    ),
    State.ABSENT: Phase(
        meaning="It is proven that the unanswered Run created no task.",
        after=(State.UNKNOWN, State.QUARANTINED),
        is_repeatable=True,
    ),
    State.QUARANTINED: Phase(
        meaning="Whether the unanswered Run created a task can't be determined; it counts as spent.",
        after=(State.UNKNOWN, State.QUARANTINED),
        is_open=True,
        is_unanswered=True,
        keeps_reservation=True,
        is_problem=True,
    ),
    State.ABANDONED: Phase(
        meaning="It was quarantined, and the user had the job submitted again; it still counts as spent.",
        after=(State.QUARANTINED,),
        keeps_reservation=True,
        is_repeatable=True,
    ),
    State.REJECTED: Phase(
        meaning="The service refused Run, or a clip shared with another job is gone; no task exists.",
        after=(State.INTENT, State.STORED),
        is_repeatable=True,
    ),
    State.ACCEPTED: Phase(
        meaning="The service has a task and renders it.",
        after=(State.PLANNED, State.INTENT, State.UNKNOWN, State.QUARANTINED, State.ACCEPTED, State.MISSING),
        is_open=True,
        in_flight=True,
        keeps_reservation=True,
    ),
    State.ENDED: Phase(
        meaning="The task has ended and its cost is settled; its clip is not on disk yet.",
        after=(State.ACCEPTED, State.ENDED, State.STORED, State.MISSING, State.CANCELLED),
        is_open=True,
        in_flight=True,
    ),
    State.STORED: Phase(
        meaning="Every file of the attempt is on disk.",
        after=(State.PLANNED, State.ENDED),
    ),
    State.FAILED: Phase(
        meaning="The render failed.",
        after=(State.ENDED,),
        is_repeatable=True,
        is_problem=True,
    ),
    State.CANCELLED: Phase(
        meaning="The task was cancelled or killed.",
        after=(State.ENDED,),
        is_problem=True,
    ),
    State.MISSING: Phase(
        meaning="The task or its output is not available now; every later run asks for it again.",
        after=(State.ACCEPTED, State.ENDED, State.MISSING),
        is_open=True,
        keeps_reservation=True,
        is_problem=True,
    ),
    State.GIVEN_UP: Phase(
        meaning="Its task or output was missing, and the user gave it up.",
        after=(State.MISSING,),
        keeps_reservation=True,
        is_problem=True,
    ),
}

PREVIOUS_STATES: dict[State, tuple[State, ...]] = {state: phase.after for state, phase in LIFECYCLE.items()}
"""The states that each state may follow; the journal refuses every other transition."""

ATTEMPT_STATES: tuple[State, ...] = tuple(state for state in State if state is not State.PLANNED)
"""The states that a row of the journal may be in."""
OPEN: tuple[State, ...] = tuple(state for state in State if LIFECYCLE[state].is_open)
"""An attempt in one of these is taken up again by every later run."""
FINAL: tuple[State, ...] = tuple(state for state in ATTEMPT_STATES if not LIFECYCLE[state].is_open)
"""An attempt in one of these stays as it is. It leaves it only when facts change: `stored` if its file is gone,
`cancelled` if outputs appear late, `rejected` when the same row is submitted again in the same run."""
UNANSWERED: tuple[State, ...] = tuple(state for state in State if LIFECYCLE[state].is_unanswered)
"""Whether a task exists is not known; at most one attempt of a content is in one of these."""
IN_FLIGHT: tuple[State, ...] = tuple(state for state in State if LIFECYCLE[state].in_flight)
"""An attempt in one of these proceeds to its clip."""
UNCLEAR: tuple[State, ...] = tuple(state for state in UNANSWERED if state not in IN_FLIGHT)
"""Run got no answer, and whether a task exists is still to be determined, or can't be."""
UNDECIDED: tuple[State, ...] = tuple(state for state in UNANSWERED if state is not State.QUARANTINED)
"""Whether a task exists will be determined in this run."""
RECOVERABLE: tuple[State, ...] = (*OPEN, State.STORED)
"""An attempt in one of these has its clip or may still get it without another payment: its job is not submitted."""
REPEATABLE: tuple[State, ...] = tuple(state for state in State if LIFECYCLE[state].is_repeatable)
"""A job whose attempt is in one of these is submitted by the next run without being asked."""
JOB_STATES: tuple[State, ...] = tuple(
    state for state in State if not LIFECYCLE[state].is_repeatable or state in (State.PLANNED, State.FAILED)
)
"""What reports say of a job: its attempt's state, or where that is repeatable `PLANNED`, and `FAILED` with a reason."""
UNFINISHED: tuple[State, ...] = (State.PLANNED, *IN_FLIGHT)
"""A job in one of these has nothing wrong with it, and work left."""
PROBLEMS: tuple[State, ...] = tuple(state for state in State if LIFECYCLE[state].is_problem)
"""A job in one of these has no clip, for a reason that people are shown."""
