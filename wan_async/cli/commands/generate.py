"""`generate`: render one clip."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from wan_async import errors
from wan_async.batch.batch_folder import BatchFolder
from wan_async.batch.plan import prepare
from wan_async.batch.prompts import MissingText, Prompts
from wan_async.cli.command_inputs import say_service
from wan_async.cli.display_text import sanitise
from wan_async.cli.error_messages import say, say_notices
from wan_async.cli.resume_command import program, quoted
from wan_async.cli.run_batch import execute
from wan_async.cli.run_options import run_options
from wan_async.domain import events, naming
from wan_async.domain.batch import Batch, PlannedJob, from_jobs
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import Job
from wan_async.journal.base import FOLDER

VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v", ".gif", ".mpg", ".mpeg")
"""Ends of a file name that are no part of a clip's name: the service decides on the format."""


def generate(args: argparse.Namespace) -> ExitCode:
    """Render a batch of one job, with a journal of its own; returns the run's exit code.

    Raises:
        errors.InvalidBatch: the job is invalid.
        errors.WanError: the run can't begin.
    """
    options = run_options(args)
    job = Job(**_filled({name: getattr(args, name) for name in Job.model.by_name}))
    planned = from_jobs([job]).jobs[0]
    folder, name = target(args.output, planned.name)
    if args.sandbox and args.output is None:
        folder /= "outputs.sandbox"
    home = folder / FOLDER / "generate" / name
    batch = Batch([PlannedJob(0, planned.job, name, name, "")], None, "generate")
    prepared = prepare(batch, home, upright=args.prepare)
    say_notices(prepared.remarks)
    say_service(args)
    ends: list[events.Finished] = []

    def observe(event: events.Event) -> events.Event:
        ends.extend([event] if isinstance(event, events.Finished) else [])
        return event

    code = execute(args, prepared, folder, home, options, observe)
    known = prepared.known.results if prepared.known is not None else ()
    file = next((result.file for result in known if result.file), None)
    if file and any(end.skipped for end in ends) and not (args.json or args.quiet):
        more = quoted([*program(), "again", name, "-o", str(folder), *(["--sandbox"] if args.sandbox else [])])
        print(sanitise(f"{folder / file} was rendered before; another take: {more}"))
    return code


def target(output: str | None, default: str) -> tuple[Path, str]:
    """The folder of the clip, and its name without an extension.

    Args:
        output: `-o`: a folder if it ends in a slash or exists as one, else a file. An extension of another video format
            is replaced, with a note: the service makes MP4 files.
        default: the name where `output` gives none.
    """
    if output is None:
        return Path(), default
    path = Path(output)
    if output.endswith(("/", os.sep)) or path.is_dir():
        return path, default
    suffix = path.suffix.lower()
    name = naming.safe_name(path.stem if suffix in VIDEO_SUFFIXES else path.name)
    if suffix in VIDEO_SUFFIXES and suffix != ".mp4":
        say(f"note: the service makes MP4 files: the clip will be {sanitise(str(path.parent / name))}.mp4")
    return path.parent, name


def _filled(values: dict[str, Any]) -> dict[str, Any]:
    """The job's values with the placeholders of its texts filled in, as in a batch.

    Raises:
        errors.InvalidBatch: a placeholder is misspelled, or there is nothing to fill it with.
    """
    model = Job.model
    texts = [name for name in model.texts if "{" in str(values[name])]
    if not texts:
        return values
    prompts = Prompts(BatchFolder(Path()), model, "")
    flags = {name: f"--{name.replace('_', '-')}" for name in model.by_name}
    if problems := [
        errors.Problem(flags[name], fault) for name in texts if (fault := prompts.fault_of(name, values[name]))
    ]:
        raise errors.InvalidBatch(problems)
    fields = {name: value for name, value in values.items() if value is not None}
    try:
        filled = prompts.completed(fields, number=1, suffix="", stem=None)
    except MissingText as error:
        raise errors.InvalidBatch([errors.Problem(flags[error.field], str(error))]) from None
    except ValueError as error:
        raise errors.InvalidBatch([errors.Problem(flags[model.prompt.name], str(error))]) from None
    say_notices(prompts.notices())
    return {**values, **filled}
