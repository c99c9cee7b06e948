"""Jobs as workers read them from the journal."""

from __future__ import annotations

import json
from pathlib import Path

from wan_async.batch.plan import INPUTS
from wan_async.domain.batch import Enlisted, PlannedJob
from wan_async.domain.job import Job, image_of
from wan_async.journal.base import FOLDER

JobRow = tuple[str, int | None, str, str, str]
"""Key, position, content, output name, and the parameters with the label as JSON."""


def input_path(output: Path, name: str) -> Path:
    """Where an input image is, which is named by its content."""
    return output / FOLDER / INPUTS / name


def enlisted_of(row: JobRow, output: Path) -> Enlisted:
    """The job of a row. Its image is the output's copy, wherever that is on this machine."""
    key, position, content, name, text = row
    spec = json.loads(text)
    label = str(spec.pop("label", key))
    values = {field: value for field, value in spec.items() if field in Job.model.by_name}
    job = Job(id=key, **values)
    image, source = "", image_of(job)
    if source is not None and job.image_is_url:
        image = f"url:{source}"
    elif source is not None:
        path = input_path(output, Path(source).name)
        image = f"sha256:{path.stem}"
        job = Job(id=key, **(values | {Job.model.image_name: str(path)}))
    return Enlisted(PlannedJob(position or 0, job, name, label, ""), key, content, image)
