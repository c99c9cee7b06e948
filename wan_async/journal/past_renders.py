"""How long the renders of a folder took, for the expected time of the next ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from wan_async.journal.base import FILE
from wan_async.journal.connection import peek, translated
from wan_async.journal.integrity import LAYOUT

LATEST = 2_000
"""The number of renders that are looked at."""

_RENDERS = """
SELECT form, accepted_at, ended_at FROM attempts
WHERE accepted_at IS NOT NULL AND ended_at > accepted_at AND pexit = '0' AND adopted = 0 ORDER BY id DESC LIMIT ?
"""


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


def past_renders(home: Path) -> list[PastRender]:
    """The latest tasks that succeeded, newest first.

    Does not check for damage: the caller has the journal open, or had.

    Raises:
        Unusable: the journal can't be read.
    """
    path = home / FILE
    with closing(peek(path, LAYOUT, verify=False)) as db, translated(path):
        return [PastRender(json.loads(form), begun, ended) for form, begun, ended in db.execute(_RENDERS, (LATEST,))]
