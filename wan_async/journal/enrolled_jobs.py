"""The jobs that a journal knows, as they were enrolled: enough to enroll them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_async.errors import Unusable
from wan_async.journal.base import FILE, Home
from wan_async.journal.read_only import reading

_JOBS = """
SELECT key, position, content, name, spec, failure IS NOT NULL,
       (SELECT json_group_array(state) FROM attempts a WHERE a.job = j.key AND a.content = j.content),
       (SELECT json_group_array(form) FROM attempts a WHERE a.job = j.key),
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


def enrolled_jobs(home: Home) -> list[EnrolledJob]:
    """Every job of the journal in `home`, those of the batch first; none if there is no journal.

    Raises:
        Unusable: it can't be read.
    """
    with reading(home) as db:
        rows = db.execute(_JOBS).fetchall() if db is not None else []
    try:
        return [
            EnrolledJob(
                key, position, content, name, json.loads(spec), bool(failed), frozenset(json.loads(states)),
                tuple(map(json.loads, json.loads(forms))), image,
            )
            for key, position, content, name, spec, failed, states, forms, image in rows
        ]  # fmt: skip
    except (ValueError, TypeError):
        path = home / FILE if isinstance(home, Path) else home
        raise Unusable(f"the journal {path} is damaged: a job in it can't be read") from None
