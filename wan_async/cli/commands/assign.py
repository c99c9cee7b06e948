"""`assign`."""

from __future__ import annotations

import argparse

import anyio

from wan_async.cli import display_text


def assign(args: argparse.Namespace) -> int:
    """`assign`: makes an unassigned clip the clip of a quarantined job."""
    from wan_async.engine import assignment

    assigned = anyio.run(assignment.assign, args.output, args.task, args.job)
    task, job = display_text.sanitise(args.task), display_text.sanitise(args.job)
    if assigned.file is not None:
        print(f"task {task} is the clip of job {job}: {args.output / assigned.file}")
    else:
        print(f"task {task} is the task of job {job}: the next run goes on with it")
    return 0
