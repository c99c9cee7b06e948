"""How long the renders of a folder took, for the expected time of the next ones; and when the last one changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from wan_async.journal.base import Home
from wan_async.journal.read_only import reading
from wan_async.journal.sql_interface import Database

LATEST = 2_000
"""The number of renders that are looked at."""

_RENDERS = """
SELECT form, accepted_at, ended_at FROM attempts
WHERE accepted_at IS NOT NULL AND ended_at > accepted_at AND pexit = '0' AND NOT adopted ORDER BY id DESC LIMIT ?
"""
_TIMES = ("intent_at", "accepted_at", "ended_at", "stored_at", "closed_at")


@dataclass(frozen=True, slots=True)
class PastRender:
    """A task that succeeded.

    Attributes:
        form: the parameters as sent.
        accepted_at: when the service accepted it, in unix seconds.
        ended_at: when its end was seen.
    """

    form: Mapping[str, str]
    accepted_at: float
    ended_at: float

    @property
    def seconds(self) -> float:
        """How long it took, from its acceptance to its end."""
        return self.ended_at - self.accepted_at


def renders_in(db: Database) -> list[PastRender]:
    """The latest tasks that succeeded, newest first."""
    rows = db.execute(_RENDERS, (LATEST,))
    return [PastRender(json.loads(form), begun, ended) for form, begun, ended in rows]


def last_change(home: Home) -> float | None:
    """When an attempt last changed, in unix seconds; None if there is none.

    Does not check for damage: the caller has the journal open, or had.

    Raises:
        Unusable: the journal can't be read.
    """
    times = ", ".join(f"max({column})" for column in _TIMES)
    with reading(home, verify=False) as db:
        row = None if db is None else db.execute(f"SELECT {times} FROM attempts").fetchone()
        return max((time for time in row or () if time is not None), default=None)
