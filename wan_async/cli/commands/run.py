"""`run`: render a batch."""

from __future__ import annotations

import argparse

from wan_async.cli.argument_types import is_database
from wan_async.cli.command_inputs import journal_home, prepared_batch, refuse_run_flags, say_service
from wan_async.cli.run_batch import execute
from wan_async.cli.run_options import run_options
from wan_async.domain.exit_codes import ExitCode


def run(args: argparse.Namespace) -> ExitCode:
    """Render a batch; returns the run's exit code.

    Raises:
        errors.InvalidBatch: the batch is invalid, or the flags contradict each other.
        errors.WanError: the run can't begin.
    """
    if is_database(args.journal):
        return _run_by_workers(args)
    options = run_options(args)
    batch, output, _ = prepared_batch(args, options)
    say_service(args)
    return execute(args, batch, output, journal_home(args, output), options)


def _run_by_workers(args: argparse.Namespace) -> ExitCode:
    """Put the batch into the queue, and show what the workers do until its end."""
    from wan_async.cli.workers import enqueue_batch, wait_for_workers  # what they need is in an extra

    refuse_run_flags(args)
    options = run_options(args)
    batch, output, _ = prepared_batch(args, options)
    say_service(args)
    args.waits = True
    if enqueue_batch(args, batch, output, options) is None:
        return ExitCode.INTERRUPTED
    return wait_for_workers(args, output)
