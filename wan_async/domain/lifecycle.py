"""The states of an attempt."""

from __future__ import annotations

from typing import Literal

State = Literal[
    "intent",
    "unknown",
    "absent",
    "quarantined",
    "rejected",
    "accepted",
    "ended",
    "stored",
    "failed",
    "cancelled",
    "missing",
    "given_up",
    "abandoned",
]
PREVIOUS_STATES: dict[State, tuple[State, ...]] = {
    "intent": ("rejected",),
    "rejected": ("intent",),
    "unknown": ("intent", "unknown"),
    "absent": ("unknown", "quarantined"),
    "quarantined": ("unknown", "quarantined"),
    "abandoned": ("quarantined",),
    "accepted": ("intent", "unknown", "quarantined", "accepted", "missing"),
    "ended": ("accepted", "ended", "stored", "missing", "cancelled"),
    "stored": ("ended",),
    "failed": ("ended",),
    "cancelled": ("ended",),
    "missing": ("accepted", "ended", "missing"),
    "given_up": ("missing",),
}
"""What an attempt may have been before it becomes this; the database refuses all else, whatever memory believes."""
OPEN: tuple[State, ...] = ("intent", "unknown", "quarantined", "accepted", "ended", "missing")
"""States of attempts that a later start has to take up again."""
