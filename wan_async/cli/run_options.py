"""The options of a run, from the command's arguments."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from wan_async import errors
from wan_async.cli.resume_command import resume_command
from wan_async.domain import money
from wan_async.engine.options import Options
from wan_async.http import descriptor_limit


def run_options(args: argparse.Namespace, **changes: Any) -> Options:
    """The options of a run.

    Args:
        args: the command's arguments.
        changes: options that differ from the arguments.

    Raises:
        errors.InvalidBatch: the flags contradict each other.
    """
    if args.rerender and args.give_up:
        problem = "renders missing clips again, and --give-up ends them: choose one"
        raise errors.InvalidBatch([errors.Problem("--rerender", problem)])
    budget = None if args.budget is None else money.micros(args.budget)
    options = Options(
        concurrency=args.concurrency,
        max_concurrency=args.max_concurrency,
        downloads=descriptor_limit.downloads(args.downloads),
        upload=args.upload,
        track=args.track,
        retries=args.retries,
        budget_micros=budget,
        limit=args.limit,
        pilot=args.pilot,
        only=args.only,
        retry_failed=args.retry_failed,
        rerender=args.rerender,
        give_up=args.give_up,
        patience_seconds=args.patience,
        resubmit_unknown=args.resubmit_unknown,
        render_duplicates=args.render_duplicates,
        adopt=args.adopt,
        ignore_unowned=args.ignore_unowned,
        settle_seconds=args.settle,
        resume=resume_command(args.typed),
    )
    return replace(options, **changes)
