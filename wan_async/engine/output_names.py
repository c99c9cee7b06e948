"""The output name of a job: it is the job's own before anything is paid for."""

from __future__ import annotations

from wan_async import errors
from wan_async.domain.batch import Enlisted
from wan_async.domain.naming import folded
from wan_async.engine.environment import Environment
from wan_async.journal.base import NameTaken


async def claim_name(environment: Environment, job: Enlisted) -> None:
    """Records that a job owns its output name.

    Raises:
        errors.JobFailed: of kind `target`: a file that is not ours, or another job, has the name.
    """
    name = job.planned.name
    for file in (f"{name}.mp4", f"{name}.json"):
        if file in environment.taken and await environment.journal.file_known(f"{name}.mp4") is None:
            path = environment.output / file
            raise errors.JobFailed(
                f"{path} exists and was not written by wan_async: move it, or give the job another id", kind="target"
            )
    try:
        await environment.journal.claim(job.key, folded(name), name)
    except NameTaken:
        raise errors.JobFailed(f"another job of this folder has the name {name}", kind="target") from None
