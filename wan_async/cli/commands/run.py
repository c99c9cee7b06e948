"""`run` and `generate`."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.batch import output_check, reader
from wan_async.batch.plan import Prepared, prepare
from wan_async.cli import display_text, live_display, local_sandbox, settings
from wan_async.cli.display import Display, json_lines, plain
from wan_async.cli.logs import logging_to
from wan_async.cli.reporting import quiet_stdout, say
from wan_async.cli.settings import Access
from wan_async.cli.signals import drive
from wan_async.client import is_private
from wan_async.domain import events, money, naming
from wan_async.domain.attempt import Account
from wan_async.domain.batch import Batch, PlannedJob, from_jobs
from wan_async.domain.job import Job
from wan_async.engine.context import Services
from wan_async.engine.event_stream import EventStream
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.http import descriptor_limit
from wan_async.journal.base import FOLDER
from wan_async.outputs.download import Downloader


@contextmanager
def open_access(args: argparse.Namespace, output: Path, *, optional: bool = False) -> Iterator[Access | None]:
    """The access that the arguments ask for: an account's, or a sandbox of our own."""
    if args.sandbox:
        with local_sandbox.own_sandbox(output) as there:
            yield there
    else:
        yield settings.from_environment() if optional else settings.required()


def _read(args: argparse.Namespace) -> tuple[Batch, Path]:
    source = "-" if args.batch == "-" else Path(args.batch)
    if not args.batch:  # `Path("")` would be the working folder
        raise errors.InvalidBatch([errors.Problem("BATCH", "is empty: name a file or a folder")])
    batch = reader.read_batch(
        source,  # type: ignore[arg-type] # "-" or a path
        prompt=args.prompt,
        recursive=args.recursive,
        stdin=sys.stdin.buffer,
    )
    output = reader.output_folder(source, batch, args.output)  # type: ignore[arg-type] # likewise
    if args.sandbox and args.output is None:
        output = output.with_name(f"{output.name}.sandbox")
    output = Path(os.path.normpath(output))
    if problem := output_check.folder_problem(output):
        raise errors.InvalidBatch([errors.Problem("-o" if args.output else batch.source, problem)])
    return batch, output


def prepared_batch(args: argparse.Namespace) -> tuple[Prepared, Path, tuple[str, ...]]:
    """The batch with its images read, its output folder, and what its author should know.

    Raises:
        errors.InvalidBatch: with all that is wrong with any of these.
    """
    batch, output = _read(args)
    source = Path(args.batch)
    problems = output_check.target_problems(
        batch.jobs, output, None if args.batch == "-" or source.is_dir() else source
    )
    try:
        prepared = prepare(batch, output / FOLDER)
    except errors.InvalidBatch as error:
        raise errors.InvalidBatch([*error.problems, *problems]) from None
    if problems:
        raise errors.InvalidBatch(problems)
    for notice in batch.notices:
        say(display_text.sanitise(f"note: {notice}"))
    return prepared, output, batch.notices


def run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """`run`: renders a batch."""
    if args.rerender and args.give_up:
        problem = "renders missing clips anew, and --give-up ends them: choose one"
        raise errors.InvalidBatch([errors.Problem("--rerender", problem)])
    batch, output, _ = prepared_batch(args)
    return _carry(args, argv, batch, output, output / FOLDER)


def generate(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """`generate`: a batch of one, with a journal of its own."""
    job = Job(**{name: getattr(args, name) for name in Job.model.by_name})
    planned = from_jobs([job]).jobs[0]
    wanted: Path = args.output or Path(planned.name)
    folder, name = wanted.parent, naming.safe_name(wanted.stem if wanted.suffix == ".mp4" else wanted.name)
    if args.sandbox and args.output is None:
        folder /= "outputs.sandbox"
    args.concurrency, args.max_concurrency, args.downloads = 1, 1, 1
    args.limit = args.only = None
    home = folder / FOLDER / "generate" / name
    batch = Batch([PlannedJob(0, planned.job, name, name, "")], None, "generate")
    return _carry(args, argv, prepare(batch, home), folder, home)


def _options(args: argparse.Namespace, argv: Sequence[str]) -> Options:
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
        resume=_command_line(argv),
    )


ONCE = ("--rerender", "--resubmit-unknown", "--ignore-unowned", "--give-up")
"""What was asked for once, and may pay again or end something: it is no part of going on."""


def _command_line(argv: Sequence[str]) -> str:
    """The command that goes on from here: as it was typed, but for what was asked for once."""
    name = Path(sys.argv[0]).name
    start = ["python", "-m", "wan_async"] if name in ("__main__.py", "-c", "-m") else [name]
    return as_typed([*start, *(word for word in argv if word not in ONCE)])


def as_typed(words: Sequence[str]) -> str:
    """Words as they are typed into this system's shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _carry(args: argparse.Namespace, argv: Sequence[str], batch: Prepared, output: Path, home: Path) -> int:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.Unusable(f"{output} can't be made: {error.strerror or error}") from None
    descriptor_limit.raise_limit()
    with ExitStack() as stack:
        stack.enter_context(logging_to(args.verbose, args.log_file))
        service = stack.enter_context(open_access(args, output))
        assert service is not None
        display = stack.enter_context(_display(args))
        finished, runner = anyio.run(_drive, args, argv, batch, output, home, service, display)
        if display.broken:
            quiet_stdout()
    if runner.unsaved:
        say(f"these tasks were paid for and could not be written down: {', '.join(runner.unsaved)}")
    if args.json and runner.error is not None:
        say(f"error: {display_text.sanitise(str(runner.error))}")
    return finished.exit_code


async def _drive(
    args: argparse.Namespace,
    argv: Sequence[str],
    batch: Prepared,
    output: Path,
    home: Path,
    service: Access,
    display: Display,
) -> tuple[events.Finished, Run]:
    api, stream = service.api(), EventStream()
    async with (
        api,
        Downloader(allow_private=is_private(api.base_url), base_url=api.base_url) as downloader,
    ):
        runner = Run(
            batch,
            services=Services(api, downloader, socket_url=service.socket_url),
            account=Account(service.origin, service.key),
            output=output,
            home=home,
            options=_options(args, argv),
            stream=stream,
        )
        names = None if args.json else {job.key: job.planned.label for job in batch.jobs}
        return await drive(runner, stream, display, names), runner


def _display(args: argparse.Namespace) -> Display:
    if args.json:
        return json_lines(sys.stdout)
    if sys.stdout.isatty():
        return live_display.terminal(sys.stdout, quiet=args.quiet, verbose=args.verbose > 0)
    return plain(sys.stdout, quiet=args.quiet, verbose=args.verbose > 0)
