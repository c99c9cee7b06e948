"""Run a prepared batch with its log, account, display and signals."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.batch.plan import Prepared
from wan_async.cli import live_display
from wan_async.cli.display import Display, json_lines, plain
from wan_async.cli.display_text import sanitise
from wan_async.cli.inputs import open_access
from wan_async.cli.logs import logging_to
from wan_async.cli.reporting import quiet_stdout, say
from wan_async.cli.resume_command import resume_command
from wan_async.cli.settings import Access
from wan_async.cli.signals import drive
from wan_async.domain import events, money
from wan_async.domain.attempt import Account
from wan_async.domain.exit_codes import ExitCode
from wan_async.engine.event_stream import EventStream
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.engine.services import Services
from wan_async.http import descriptor_limit
from wan_async.http.urls import is_private
from wan_async.outputs.downloader import Downloader


def execute(args: argparse.Namespace, batch: Prepared, output: Path, home: Path) -> ExitCode:
    """Run a prepared batch to its end and show it.

    Args:
        args: the command's arguments.
        batch: what to run.
        output: the folder of the clips.
        home: the folder of the journal.

    Returns:
        The run's exit code.

    Raises:
        errors.Unusable: the output folder can't be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.Unusable(f"{output} can't be made: {error.strerror or error}") from None
    descriptor_limit.raise_limit()
    with ExitStack() as stack:
        stack.enter_context(logging_to(args.verbose, args.log_file))
        access = stack.enter_context(open_access(args, output))
        assert access is not None
        display = stack.enter_context(_display(args))
        finished, runner = anyio.run(_run, args, batch, output, home, access, display)
        if display.broken:
            quiet_stdout()
    if runner.unsaved:
        say(f"these tasks were paid for and could not be written down: {', '.join(runner.unsaved)}")
    if args.json and runner.error is not None:
        say(f"error: {sanitise(str(runner.error))}")
    return ExitCode(finished.exit_code)


async def _run(
    args: argparse.Namespace,
    batch: Prepared,
    output: Path,
    home: Path,
    access: Access,
    display: Display,
) -> tuple[events.Finished, Run]:
    api, stream = access.api(), EventStream()
    async with (
        api,
        Downloader(allow_private=is_private(api.base_url), base_url=api.base_url) as downloader,
    ):
        runner = Run(
            batch,
            services=Services(api, downloader, socket_url=access.socket_url),
            account=Account(access.origin, access.key),
            output=output,
            home=home,
            options=_options(args),
            stream=stream,
        )
        names = None if args.json else {job.key: job.planned.label for job in batch.jobs}
        return await drive(runner, stream, display, names), runner


def _options(args: argparse.Namespace) -> Options:
    budget = None if args.budget is None else money.micros(args.budget)
    return Options(
        concurrency=args.concurrency,
        max_concurrency=args.max_concurrency,
        downloads=descriptor_limit.downloads(args.downloads),
        upload=args.upload,
        track=args.track,
        retries=args.retries,
        budget_micros=budget,
        limit=args.limit,
        only=args.only,
        retry_failed=args.retry_failed,
        rerender=args.rerender,
        give_up=args.give_up,
        patience_seconds=args.patience,
        resubmit_unknown=args.resubmit_unknown,
        adopt=args.adopt,
        ignore_unowned=args.ignore_unowned,
        settle_seconds=args.settle,
        resume=resume_command(args.typed),
    )


def _display(args: argparse.Namespace) -> Display:
    if args.json:
        return json_lines(sys.stdout)
    if sys.stdout.isatty():
        return live_display.terminal(sys.stdout, quiet=args.quiet, verbose=args.verbose > 0)
    return plain(sys.stdout, quiet=args.quiet, verbose=args.verbose > 0)
