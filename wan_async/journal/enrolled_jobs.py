"""The jobs that a journal knows, as they were enrolled: enough to enroll them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_async.errors import Unusable
from wan_async.journal.base import FILE
from wan_async.journal.connection import peek, translated
from wan_async.journal.integrity import LAYOUT

_JOBS = """
SELECT key, position, content, name, spec, failure IS NOT NULL,
       (SELECT json_group_array(state) FROM attempts a WHERE a.job = j.key AND a.content = j.content),
       (SELECT json_group_array(json(form)) FROM attempts a WHERE a.job = j.key),
       (SELECT image FROM attempts a WHERE a.job = j.key AND a.content = j.content LIMIT 1)
FROM jobs j ORDER BY position IS NULL, position, key
"""


@dataclass(frozen=True, slots=True)
class EnrolledJob:
    """A job of a journal.

    Attributes:
        key: its key.
        position: its place in the batch; None if the latest batch does not name it.
        content: the hash of all that shapes its clip.
        name: its output name, without an extension.
        spec: its parameters by their names in a batch, and its `label`.
        has_failed: whether it failed for good.
        states: the states of its attempts at this content.
        forms: the parameters of all its attempts, as sent.
        image: the identity of its image, as far as an attempt has it.
    """

    key: str
    position: int | None
    content: str
    name: str
    spec: Mapping[str, Any]
    has_failed: bool
    states: frozenset[str]
    forms: tuple[Mapping[str, str], ...]
    image: str | None

    @property
    def label(self) -> str:
        """The value of `{id}`."""
        return str(self.spec.get("label", self.key))


def enrolled_jobs(home: Path) -> list[EnrolledJob]:
    """Every job of the journal in `home`, those of the batch first; none if there is no journal.

    Raises:
        Unusable: it can't be read.
    """
    path = home / FILE
    if not path.exists():
        return []
    with closing(peek(path, LAYOUT)) as db, translated(path):
        rows = db.execute(_JOBS).fetchall()
    try:
        return [
            EnrolledJob(
                key, position, content, name, json.loads(spec), bool(failed), frozenset(json.loads(states)),
                tuple(json.loads(forms)), image,
            )
            for key, position, content, name, spec, failed, states, forms, image in rows
        ]  # fmt: skip
    except (ValueError, TypeError):
        raise Unusable(f"the journal {path} is damaged: a job in it can't be read") from None
