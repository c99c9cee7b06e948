"""The contents of sidecars (`NAME.json` beside each clip) and of `results.jsonl`, as text for `Store.replace`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from wan_async.domain import money
from wan_async.domain.attempt import Attempt, Clip, Unassigned
from wan_async.domain.model import Model


def of_attempt(
    model: Model, attempt: Attempt, clips: Sequence[Clip], image_file: str | None, stored_at: float
) -> dict[str, object]:
    """What the sidecar says of a job's clips.

    Args:
        model: the model that made them.
        attempt: the attempt that made them.
        clips: its files; the first one has the sidecar.
        image_file: the path of its local image from the output folder; None if it has none, or it isn't known.
        stored_at: the time now, in unix seconds.
    """
    first, *further = clips
    return {
        "job": attempt.job,
        "file": first.file,
        "sha256": first.sha256,
        "bytes": first.bytes,
        "further_files": [clip.file for clip in further],
        "model": model.name,
        "parameters": attempt.form,
        "image": attempt.image or None,
        "image_file": image_file,
        "task_id": attempt.task_id,
        "attempt": attempt.number,
        "status": attempt.status,
        "cost_usd": _usd(attempt.cost),
        "submitted_at": attempt.intent_at,
        "accepted_at": attempt.accepted_at,
        "ended_at": attempt.ended_at,
        "stored_at": stored_at,
    }


def of_unassigned(model: Model, row: Unassigned, parameters: Mapping[str, str]) -> dict[str, object]:
    """What the sidecar says of the clips of an unassigned task.

    Args:
        model: the model that made them.
        row: the task's row; it has clips.
        parameters: the parameters that the service echoed.
    """
    first, *further = row.clips
    return {
        "task_id": row.task_id,
        "jobs": row.jobs,
        "file": PurePosixPath(first.file).name,
        "sha256": first.sha256,
        "bytes": first.bytes,
        "further_files": [PurePosixPath(clip.file).name for clip in further],
        "model": model.name,
        "parameters": dict(parameters),
        "status": row.task.status,
        "cost_usd": _usd(row.task.totalcost),
        "created_at": row.task.createtime,
        "seen_at": row.seen_at,
        "ended_at": row.ended_at,
    }


def _usd(micros: int | None) -> str | None:
    return None if micros is None else f"{money.usd(micros):f}"


def json_text(content: Mapping[str, object]) -> list[str]:
    """One JSON object, indented."""
    return [json.dumps(content, indent=2, ensure_ascii=False) + "\n"]


def json_lines(rows: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """A line of JSON for each of `rows`."""
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
