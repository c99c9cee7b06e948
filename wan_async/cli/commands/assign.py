"""`assign`: make an unassigned clip the clip of a quarantined job."""

from __future__ import annotations

import argparse

import anyio

from wan_async.cli.command_inputs import named_journal
from wan_async.cli.display_text import sanitise
from wan_async.domain.exit_codes import ExitCode
from wan_async.journal.base import DatabaseHome


def assign(args: argparse.Namespace) -> ExitCode:
    """Assign a task to a job, and settle the job's attempt; nothing is asked of the service.

    Raises:
        errors.WanError: there is no such task or job, or they don't fit.
    """
    from wan_async.engine import assignment

    named = named_journal(args, args.output)
    if isinstance(named, DatabaseHome):
        from wan_async.cli.workers import assign_beside_workers  # what it needs is in an extra

        assigned, then = anyio.run(assign_beside_workers, args, named), "the workers take it up"
    else:
        assigned = anyio.run(assignment.assign, args.output, args.task, args.job, None, named)
        then = "the next run resumes it"
    task, job = sanitise(args.task), sanitise(args.job)
    if assigned.file is not None:
        print(f"task {task} is the clip of job {job}: {args.output / assigned.file}")
    else:
        print(f"task {task} is the task of job {job}: {then}")
    return ExitCode.SUCCESS
