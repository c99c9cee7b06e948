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


def stored_input(name: str) -> str:
    """The name of an input image in the store; it is named by its content."""
    return f"{FOLDER}/{INPUTS}/{name}"


def enlisted_of(row: JobRow, inputs: Path) -> Enlisted:
    """The job of a row.

    Args:
        row: the row.
        inputs: the folder of this machine's copies of input images.
    """
    key, position, content, name, text = row
    spec = json.loads(text)
    label = str(spec.pop("label", key))
    values = {field: value for field, value in spec.items() if field in Job.model.by_name}
    job = Job(id=key, **values)
    image, source = "", image_of(job)
    if source is not None and job.image_is_url:
        image = f"url:{source}"
    elif source is not None:
        path = inputs / Path(source).name
        image = f"sha256:{path.stem}"
        job = Job(id=key, **(values | {Job.model.image_name: str(path)}))
    return Enlisted(PlannedJob(position or 0, job, name, label, ""), key, content, image)
