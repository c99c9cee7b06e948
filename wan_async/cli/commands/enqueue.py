"""`enqueue`: put a batch into the queue of workers."""

from __future__ import annotations

import argparse

from wan_async.cli.command_inputs import prepared_batch, refuse_run_flags, say_service
from wan_async.cli.run_options import run_options
from wan_async.cli.workers import enqueue_batch, print_enqueued
from wan_async.domain.exit_codes import ExitCode


def enqueue(args: argparse.Namespace) -> ExitCode:
    """Plan a batch, enroll it in the journal, and put its jobs into the queue.

    Raises:
        errors.InvalidBatch: the batch is invalid, or the flags contradict each other.
        errors.WanError: the journal, the queue or the service can't be used.
    """
    refuse_run_flags(args)
    options = run_options(args)
    batch, output, _ = prepared_batch(args, options)
    say_service(args)
    return print_enqueued(args, output, enqueue_batch(args, batch, output, options))
