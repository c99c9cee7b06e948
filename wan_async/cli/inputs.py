"""What a command works on, from its arguments: the batch, its output folder, the account."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wan_async import errors
from wan_async.batch import output_check, reader
from wan_async.batch.plan import Prepared, check_only, prepare
from wan_async.cli import local_sandbox, remote_output, settings
from wan_async.cli.argument_types import is_database
from wan_async.cli.reporting import SHOWN_PROBLEMS, say_notices
from wan_async.cli.settings import Access
from wan_async.domain.batch import Batch, PlannedJob
from wan_async.engine.options import Options
from wan_async.journal.base import DatabaseHome, Home
from wan_async.journal.homes import home_of, local_home, name_of_output, refuse_second
from wan_async.locations import Location


@contextmanager
def open_access(args: argparse.Namespace, output: Location, home: Path) -> Iterator[Access]:
    """Access to the account of the environment, or with `--sandbox` to a local sandbox that ends with this block.

    Args:
        args: the command's arguments.
        output: the output folder; a local sandbox keeps its account and tasks there.
        home: the folder of the journal; it takes the place of an output that is no folder.

    Raises:
        errors.StopBatch: the environment names no account.
        errors.Unusable: the sandbox doesn't start.
    """
    if args.sandbox:
        with local_sandbox.own_sandbox(output if isinstance(output, Path) else home) as access:
            yield access
    else:
        yield settings.required()


def prepared_batch(args: argparse.Namespace, options: Options) -> tuple[Prepared, Location, tuple[str, ...]]:
    """Read the batch and its images.

    Returns:
        The batch compared with its journal, the output, and notices for the batch's author.

    Raises:
        errors.InvalidBatch: with every problem of the batch, its images and its output folder, or that
            `--only` selects nothing.
    """
    batch, output = _read(args)
    source = Path(args.batch)
    batch_file = None if args.batch == "-" or source.is_dir() else source
    kept = kept_in(args, output)
    database = kept if isinstance(kept, DatabaseHome) else None
    home = local_home(kept, output)
    if database is not None:
        remote_output.refuse_other_journal(output, database)

    def target_problems(jobs: Sequence[PlannedJob]) -> list[errors.Problem]:
        if isinstance(output, Path):
            return output_check.target_problems(jobs, output, batch_file, database)
        return remote_output.target_problems(jobs, output, kept)

    try:
        prepared = prepare(batch, home, database=database, upright=args.prepare, skip_bad=args.skip_bad)
    except errors.InvalidBatch as error:
        problems = target_problems(batch.jobs)
        raise errors.InvalidBatch([*error.problems, *problems]) from None
    if problems := target_problems([job.planned for job in prepared.jobs]):
        raise errors.InvalidBatch(problems)
    check_only(prepared.jobs, options)
    notices = (*batch.notices, *prepared.remarks, *_left_out(prepared))
    say_notices(notices)
    return prepared, output, notices


def _left_out(prepared: Prepared) -> list[str]:
    """What `--skip-bad` leaves out, and why."""
    if not prepared.left_out:
        return []
    lines = [f"left out: {problem}" for problem in prepared.left_out[:SHOWN_PROBLEMS]]
    more = len(prepared.left_out) - SHOWN_PROBLEMS
    jobs = f"{prepared.left_out_jobs} job{'s' * (prepared.left_out_jobs != 1)}"
    others = f", and {more} more problems" if more > 0 else ""
    return [*lines, f"--skip-bad leaves out {jobs}{others}; correct them and run again: the others are not paid again"]


def database_home(args: argparse.Namespace, output: Location) -> DatabaseHome:
    """Where the journal of an output is kept that workers share."""
    return DatabaseHome(args.journal, name_of_output(output))


def kept_in(args: argparse.Namespace, output: Location) -> Home:
    """Where the journal of an output is kept: in the database that `--journal` names, or in a folder.

    Raises:
        errors.InvalidBatch: `--journal` names another folder for a folder, which holds its own.
        errors.Unusable: it names a database for a folder that holds its own journal, or it is missing for the clips of
            workers in an object store. Those in a folder are refused when the journal there is read.
    """
    if is_database(args.journal):
        home = database_home(args, output)
        refuse_second(home, output)
        return home
    folder = journal_home(args, output)
    if not isinstance(output, Path) and args.journal is None:
        remote_output.refuse_foreign(output, folder)
    return folder


def named_journal(args: argparse.Namespace, output: Location) -> Home | None:
    """Where `--journal` says that the journal of an output is kept; None where it is looked for.

    Raises:
        errors.WanError: likewise.
    """
    kept = kept_in(args, output)
    return None if args.journal is None else kept


def refuse_flags(args: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Refuses flags that were given, by the names of their values.

    Raises:
        errors.InvalidBatch: one was.
    """
    given = [name for name in names if getattr(args, name, None)]
    if given:
        raise errors.InvalidBatch([errors.Problem(f"--{name.replace('_', '-')}", why) for name in given])


def journal_home(args: argparse.Namespace, output: Location) -> Path:
    """The folder of an output's journal.

    Raises:
        errors.InvalidBatch: `--journal` names another for a folder, which holds its own.
    """
    if args.journal is not None and isinstance(output, Path):
        problem = f"a folder holds its own journal ({output}): --journal is for an object store, such as -o s3://..."
        raise errors.InvalidBatch([errors.Problem("--journal", problem)])
    return home_of(output, args.journal)


def checked_folder(args: argparse.Namespace, output: Path, where: str) -> Path:
    """The folder of a command's clips: with `--sandbox` another one beside it, unless it was named.

    Raises:
        errors.InvalidBatch: it is a file, or can't be a folder; the problem is at `where`.
    """
    if args.sandbox and args.output is None:
        output = output.with_name(f"{output.name}.sandbox")
    output = Path(os.path.normpath(output))
    if problem := output_check.folder_problem(output):
        raise errors.InvalidBatch([errors.Problem(where, problem)])
    return output


def _read(args: argparse.Namespace) -> tuple[Batch, Location]:
    source = "-" if args.batch == "-" else Path(args.batch)
    if not args.batch:  # `Path("")` would be the working folder
        raise errors.InvalidBatch([errors.Problem("BATCH", "is empty: name a file or a folder")])
    batch = reader.read_batch(
        source,  # type: ignore[arg-type] # "-" or a path
        prompt=args.prompt,
        recursive=args.recursive,
        stdin=sys.stdin.buffer,
        skip_bad=args.skip_bad,
        defaults=args.set,
    )
    output = reader.output_folder(source, batch, args.output)  # type: ignore[arg-type] # likewise
    if isinstance(output, Path):
        return batch, checked_folder(args, output, "-o" if args.output else batch.source)
    return batch, output.beside("sandbox") if args.sandbox and args.output is None else output
