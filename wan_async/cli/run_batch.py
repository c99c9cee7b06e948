"""Run a prepared batch with its log, account, display, hooks and signals."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from wan_async import errors
from wan_async.batch.plan import Prepared
from wan_async.cli import live_display
from wan_async.cli.api_settings import Access
from wan_async.cli.command_inputs import open_access, required_access
from wan_async.cli.confirmation import ask, confirmed, may_ask
from wan_async.cli.display import Display, json_lines, plain
from wan_async.cli.display_text import sanitise
from wan_async.cli.error_messages import quiet_stdout, say
from wan_async.cli.gallery_in_object_store import put_at_end
from wan_async.cli.gallery_updates import GalleryUpdates
from wan_async.cli.hooks import Hooks
from wan_async.cli.logs import logging_to
from wan_async.cli.preview import preview
from wan_async.cli.resume_command import resume_command
from wan_async.cli.resume_hint import NOT_OF_RUN, ResumeHint
from wan_async.cli.signals import drive
from wan_async.cli.statistics import Retries
from wan_async.domain import events
from wan_async.domain.attempt import Account
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import local_image_of, parameters_of
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.engine.run_events import EventStream
from wan_async.http import descriptor_limit
from wan_async.http.urls import is_private
from wan_async.journal.base import FOLDER
from wan_async.journal.last_command import LastCommand, keep
from wan_async.journal.sqlite import SqliteJournal
from wan_async.journal.sqlite_connection import refuse_locked
from wan_async.output_locations import Location
from wan_async.outputs.downloader import Downloader

log: logging.Logger = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
"""How often `--wait` looks whether the folder is free."""
AFTER_A_PILOT = (ExitCode.SUCCESS, ExitCode.FAILURES, ExitCode.UNRESOLVED)
"""How a pilot may have ended so that going on makes sense."""


Observe = Callable[[events.Event], events.Event]
"""Gets each event of a run before it is shown; what it returns is shown."""


def execute(
    args: argparse.Namespace,
    batch: Prepared,
    output: Location,
    home: Path,
    options: Options,
    observe: Observe = lambda event: event,
    on_signal: Callable[[], None] | None = None,
) -> ExitCode:
    """Run a prepared batch to its end and show it; ask before much is spent, and after a pilot.

    Args:
        args: the command's arguments.
        batch: what to run.
        output: the folder of the clips, or the URL in its place.
        home: the folder of the journal.
        options: how to run it.
        observe: gets each event first.
        on_signal: called when a signal asks the run to stop, even if there is nothing left to stop.

    Returns:
        The run's exit code.

    Raises:
        errors.Locked: another run holds the folder.
        errors.StopBatch: the environment names no account.
        errors.Unusable: the output folder can't be made.
    """
    if args.wait or args.sandbox:  # a sandbox has a lock of its own, which would be waited for without a message
        _wait_until_free(home, patient=args.wait)
    if not args.sandbox:
        required_access(output)  # before the output folder is made
    if not confirmed(args, batch, output, home, options):
        say("nothing was spent")
        return ExitCode.INTERRUPTED
    try:
        if isinstance(output, Path):
            output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.Unusable(f"{output} can't be made: {error.strerror or error}") from None
    descriptor_limit.raise_limit()
    with ExitStack() as stack:
        stack.enter_context(logging_to(args.verbose, args.log_file))
        hooks = Hooks(args.on_done, args.on_end, output, {job.key: job.planned.label for job in batch.jobs})
        known = batch.known.results if batch.known is not None else ()
        resume_hint = ResumeHint(args.typed, options.limit, {result.job: result.state for result in known})
        # a single clip's folder may be anyone's, such as the working folder: no page is put there unasked
        updates = (
            stack.enter_context(GalleryUpdates(output, same_batch=batch.is_enrolled))
            if isinstance(output, Path) and home == output / FOLDER
            else None
        )

        def watched(event: events.Event) -> events.Event:
            hooks.observe(event)
            if isinstance(event, events.Started) and args.command == "run" and isinstance(output, Path):
                _keep_command(args, output, home)
            if updates is not None:
                updates.observe(event)
            return observe(resume_hint.observe(event))

        finished = _execute(args, batch, output, home, options, watched, on_signal)
        if options.pilot is not None and finished.exit_code in AFTER_A_PILOT and finished.unfinished:
            left = resume_hint.limit_left
            rest = replace(options, pilot=None, limit=left, resume=resume_command(args.typed, limit=left))
            if _goes_on(args, batch, output, home, rest):
                finished = _execute(args, batch, output, home, rest, watched, on_signal)
        if not isinstance(output, Path):
            put_at_end(output, home, finished, quiet=args.json or args.quiet)
        hooks.finish(finished)
    return ExitCode(finished.exit_code)


def _keep_command(args: argparse.Namespace, output: Path, home: Path) -> None:
    """Keeps how this run was called, for the review page; what can't be kept is not worth a fault."""
    if args.batch == "-":
        return
    values = [("--prompt", args.prompt), *(("--set", "=".join(each)) for each in args.set), ("--budget", args.budget)]
    flags = [
        word
        for flag, value in values
        if value is not None
        for word in ([f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)])
    ]
    switches = ("recursive", "skip_bad", "render_duplicates")
    flags += [f"--{name.replace('_', '-')}" for name in switches if getattr(args, name)]
    try:
        keep(home, LastCommand(args.batch, str(output), args.sandbox, tuple(flags)))
    except OSError as error:
        log.debug("the command was not kept: %s", error)


def _goes_on(args: argparse.Namespace, batch: Prepared, output: Location, home: Path, rest: Options) -> bool:
    """Whether the jobs that are not in the pilot are to be rendered, too."""
    if not may_ask(args):
        say(f"the pilot is done: look at its clips, then go on with {sanitise(rest.resume or '')}")
        return False
    shown = preview(args, batch, output, home, rest, all_prices=False)
    return ask(shown, "the pilot is done: go on with the rest?")


def _wait_until_free(home: Path, *, patient: bool) -> None:
    is_said = False
    while True:
        try:
            return refuse_locked(home)
        except errors.Locked as error:
            if not patient:
                raise
            if not is_said:
                say(f"{error.message.partition(':')[0]}: waiting until it ends")
            is_said = True
        time.sleep(WAIT_SECONDS)


def _execute(
    args: argparse.Namespace,
    batch: Prepared,
    output: Location,
    home: Path,
    options: Options,
    observe: Observe,
    on_signal: Callable[[], None] | None,
) -> events.Finished:
    """One run, with a display of its own."""
    with ExitStack() as stack:
        access = stack.enter_context(open_access(args, output, home))
        display = stack.enter_context(_display(args, batch))
        finished, runner = anyio.run(_run, args, batch, output, home, access, display, options, observe, on_signal)
        if display.broken:
            quiet_stdout()
    if runner.unsaved:
        say(f"these tasks were paid for and could not be written down: {', '.join(runner.unsaved)}")
    if args.json and runner.error is not None:
        say(f"error: {sanitise(str(runner.error))}")
    return finished


async def _run(
    args: argparse.Namespace,
    batch: Prepared,
    output: Location,
    home: Path,
    access: Access,
    display: Display,
    options: Options,
    observe: Observe,
    on_signal: Callable[[], None] | None,
) -> tuple[events.Finished, Run]:
    api, stream = access.api(), EventStream()
    async with (
        api,
        Downloader(allow_private=is_private(api.base_url), base_url=api.base_url) as downloader,
    ):
        dependencies = Dependencies(api, downloader, socket_url=access.socket_url)
        runner = Run(
            batch,
            dependencies=replace(dependencies, open_journal=_open_patiently) if args.wait else dependencies,
            account=Account(access.origin, access.key),
            output=output,
            home=home,
            options=options,
            stream=stream,
        )
        names = None if args.json else _names(batch)
        return await drive(runner, stream, display, names, observe, on_signal), runner


@asynccontextmanager
async def _open_patiently(*args: Any, **options: Any) -> AsyncIterator[SqliteJournal]:
    """Opens the journal; if another process was faster since the folder was free, waits for it."""
    async with AsyncExitStack() as stack:
        journal: SqliteJournal | None = None
        while journal is None:
            try:
                journal = await stack.enter_async_context(SqliteJournal.open(*args, **options))
            except errors.Locked:
                await anyio.sleep(WAIT_SECONDS)
        yield journal


def _names(batch: Prepared) -> dict[str, str]:
    """What the display calls the jobs, by key: their ids, or their clips' names where several have the same id."""
    times = Counter(job.planned.label for job in batch.jobs)
    return {job.key: job.planned.label if times[job.planned.label] == 1 else job.planned.name for job in batch.jobs}


def _display(args: argparse.Namespace, batch: Prepared) -> Display:
    if args.json:
        return json_lines(sys.stdout)
    names = _names(batch)
    groups = {
        names[each.key]: each.planned.job.model.price_group(parameters_of(each.planned.job, "")) for each in batch.jobs
    }
    images = {names[each.key]: image for each in batch.jobs if (image := local_image_of(each.planned.job)) is not None}
    remark = "this take: the same command again, which uses another seed" if args.command == "again" else ""
    retries = Retries(images, "run BATCH" if args.command in NOT_OF_RUN else "", remark)
    quiet, verbose = args.quiet, args.verbose > 0
    if sys.stdout.isatty():
        return live_display.terminal(sys.stdout, quiet=quiet, verbose=verbose, groups=groups, retries=retries)
    every = args.summary_every
    return plain(sys.stdout, quiet=quiet, verbose=verbose, summary_seconds=every, groups=groups, retries=retries)
