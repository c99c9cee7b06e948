"""Further takes of jobs, which `again` makes: jobs with another seed, which a later run of the batch doesn't name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wan_async.domain.model import SEED, WAN
from wan_async.journal.sql_interface import Database


def take_key(label: str, seed: object) -> str:
    """The key of a further take of a job; a number may follow."""
    return f"{label}-seed{seed}"


def values_of_shot(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a job's takes have in common."""
    own = {SEED, "label"} | ({WAN.image_name} if "image_file" in spec else set())  # a path from any folder
    return {name: value for name, value in spec.items() if name not in own}


def unnamed_takes(db: Database) -> frozenset[str]:
    """Keys of the further takes of the batch's jobs that the batch doesn't name itself."""
    dropped = db.execute("SELECT key, spec FROM jobs WHERE position IS NULL AND key LIKE '%-seed%'").fetchall()
    if not dropped:
        return frozenset()
    shots: dict[str, list[dict[str, Any]]] = {}
    for key, text in db.execute("SELECT key, spec FROM jobs WHERE position IS NOT NULL"):
        if (spec := _read(text)) is not None:
            shots.setdefault(str(spec.get("label", key)), []).append(values_of_shot(spec))
    found = set[str]()
    for key, text in dropped:
        spec, label = _read(text), key.rpartition("-seed")[0]
        if spec is not None and key.startswith(take_key(label, spec.get(SEED))):
            found |= {key} if values_of_shot(spec) in shots.get(label, ()) else set()
    return frozenset(found)


def _read(text: str) -> dict[str, Any] | None:
    """A job as it was enrolled; None if it is damaged, which whoever shows the job reports."""
    try:
        spec = json.loads(text)
    except ValueError:
        return None
    return spec if isinstance(spec, dict) else None
