"""`generate`: render one clip."""

from __future__ import annotations

import argparse
from pathlib import Path

from wan_async.batch.plan import prepare
from wan_async.cli.run_batch import execute
from wan_async.cli.run_options import run_options
from wan_async.domain import naming
from wan_async.domain.batch import Batch, PlannedJob, from_jobs
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import Job
from wan_async.journal.base import FOLDER


def generate(args: argparse.Namespace) -> ExitCode:
    """Render a batch of one job, with a journal of its own; returns the run's exit code.

    Raises:
        errors.InvalidBatch: the job is invalid.
        errors.WanError: the run can't begin.
    """
    job = Job(**{name: getattr(args, name) for name in Job.model.by_name})
    planned = from_jobs([job]).jobs[0]
    clip: Path = args.output or Path(planned.name)
    folder, name = clip.parent, naming.safe_name(clip.stem if clip.suffix == ".mp4" else clip.name)
    if args.sandbox and args.output is None:
        folder /= "outputs.sandbox"
    home = folder / FOLDER / "generate" / name
    batch = Batch([PlannedJob(0, planned.job, name, name, "")], None, "generate")
    return execute(args, prepare(batch, home), folder, home, run_options(args))
