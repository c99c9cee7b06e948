"""What a command works on, from its arguments: the batch, its output folder, the account."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wan_async import errors
from wan_async.batch import output_check, reader
from wan_async.batch.invalid_batch import BadImages, Refused
from wan_async.batch.plan import Prepared, later_faults, prepare, problems_of_only
from wan_async.cli import api_settings, local_sandbox, remote_output
from wan_async.cli.api_settings import Access
from wan_async.cli.argument_types import is_database
from wan_async.cli.display_text import sanitise
from wan_async.cli.error_messages import SHOWN_PROBLEMS, say, say_notices
from wan_async.cli.run_arguments import NOT_FOR_WORKERS, OF_EACH_WORKER, OF_WORKER
from wan_async.domain.batch import Batch, PlannedJob
from wan_async.engine.options import Options
from wan_async.journal.base import DatabaseHome, Home
from wan_async.journal.journal_location import home_of, local_home, name_of_output, refuse_second, trial_of
from wan_async.output_locations import Location
from wan_async.wiro import protocol


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
        yield required_access(output)


def say_service(args: argparse.Namespace) -> None:
    """Write which service is used if that is not Wiro's own, such as a sandbox whose exports are in the shell.

    Raises:
        errors.WanError: its URL is wrong, or `.env` can't be read.
    """
    url = api_settings.base_url()
    if url != protocol.BASE_URL and not (args.sandbox or args.json or getattr(args, "quiet", False)):
        say(f"service: {sanitise(url)} (not Wiro's own)")


def required_access(output: Location) -> Access:
    """The account of the environment.

    Raises:
        errors.StopBatch: it names none.
    """
    if api_settings.from_environment() is None and isinstance(output, Path) and local_sandbox.state_in(output).is_dir():
        problem = f"there is no API key, and the clips in {output} are those of a trial: add --sandbox"
        raise errors.StopBatch(problem, authentication=True)
    return api_settings.required()


def prepared_batch(args: argparse.Namespace, options: Options) -> tuple[Prepared, Location, tuple[str, ...]]:
    """Read the batch and its images.

    Returns:
        The batch compared with its journal, the output, and notices for the batch's author.

    Raises:
        errors.InvalidBatch: with every problem of the batch, its images and its output folder, or that
            `--only` selects nothing.
    """
    try:
        batch = _read(args)
    except Refused as refused:
        found, others = _all_problems(args, refused)
        hint = "" if others else _hint(refused.sound_jobs)
        raise errors.InvalidBatch([*found, *others], hint) from None
    output = _output_of(args, batch)
    place = _place(args, output)

    def other_problems(jobs: Sequence[PlannedJob]) -> list[errors.Problem]:
        return [*place.target_problems(jobs), *problems_of_only(jobs, options)]

    try:
        prepared = prepare(batch, place.home, database=place.database, upright=args.prepare, skip_bad=args.skip_bad)
    except errors.InvalidBatch as error:
        others, hint = other_problems(batch.jobs), ""
        if isinstance(error, BadImages):
            say_notices((*batch.notices, *error.remarks))
            hint = "" if others else _hint(error.sound_jobs)
        raise errors.InvalidBatch([*error.problems, *others], hint) from None
    if problems := other_problems([job.planned for job in prepared.jobs]):
        raise errors.InvalidBatch(problems)
    notices = (*batch.notices, *prepared.remarks, *_left_out(prepared))
    say_notices(notices)
    return prepared, output, notices


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a batch's clips and its journal are.

    Attributes:
        output: where the clips go.
        kept: where the journal is kept.
        source: the batch file, None if there is none.
    """

    output: Location
    kept: Home
    source: Path | None

    @property
    def home(self) -> Path:
        """The folder of the journal, or what is on this machine beside a journal in PostgreSQL."""
        return local_home(self.kept, self.output)

    @property
    def database(self) -> DatabaseHome | None:
        """Where the journal is kept, if it is in PostgreSQL."""
        return self.kept if isinstance(self.kept, DatabaseHome) else None

    def target_problems(self, jobs: Sequence[PlannedJob]) -> list[errors.Problem]:
        """The files and objects in the way of the clips."""
        if isinstance(self.output, Path):
            return output_check.target_problems(jobs, self.output, self.source, self.database)
        return remote_output.target_problems(jobs, self.output, self.kept)


def _place(args: argparse.Namespace, output: Location) -> _Place:
    source = Path(args.batch)
    batch_file = None if args.batch == "-" or source.is_dir() else source
    kept = kept_in(args, output)
    if isinstance(kept, DatabaseHome):
        remote_output.refuse_other_journal(output, kept)
    return _Place(output, kept, batch_file)


def _hint(sound_jobs: int) -> str:
    """How to render the jobs of a batch that nothing is wrong with; empty if there are none."""
    others = "the other job" if sound_jobs == 1 else f"the other {sound_jobs} jobs"
    return f"--skip-bad renders {others}" if sound_jobs else ""


def _all_problems(
    args: argparse.Namespace, refused: Refused
) -> tuple[Sequence[errors.Problem], Sequence[errors.Problem]]:
    """The problems of a text, and with them those that are otherwise found when the text is sound."""
    found, others = list(refused.problems), dict[errors.Problem, None]()
    place = None
    with _reported(others):
        if refused.is_placed:
            place = _place(args, _output_of(args, refused.batch))
            others |= dict.fromkeys(place.target_problems(refused.batch.jobs))
    with _reported(others):
        home, database = (None, None) if place is None else (place.home, place.database)
        faults = later_faults(refused.images, home, database=database, upright=args.prepare)
        if faults and refused.batch.problems_with is not None:
            earlier = {path: fault for path, fault in refused.images.items() if fault is not None}
            found = refused.batch.problems_with(earlier | faults)
    return found, [*others]


@contextmanager
def _reported(problems: dict[errors.Problem, None]) -> Iterator[None]:
    """Adds an error to the problems of a batch that is refused in any case."""
    try:
        yield
    except errors.InvalidBatch as error:
        problems |= dict.fromkeys(error.problems)
    except errors.WanError as error:
        problems[errors.Problem("", error.message)] = None


def _left_out(prepared: Prepared) -> list[str]:
    """What `--skip-bad` leaves out, and why."""
    if not prepared.left_out:
        return []
    lines = [f"left out: {problem}" for problem in prepared.left_out[:SHOWN_PROBLEMS]]
    more = len(prepared.left_out) - SHOWN_PROBLEMS
    jobs = f"{prepared.left_out_jobs} job{'s' * (prepared.left_out_jobs != 1)}"
    others = f", and {more} more problems" if more > 0 else ""
    them = "it" if prepared.left_out_jobs == 1 else "them"
    advice = f"correct {them} and run again: the others are not paid again"
    return [*lines, f"--skip-bad leaves out {jobs}{others}; {advice}"]


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


def refuse_run_flags(args: argparse.Namespace) -> None:
    """Refuses flags of a run that can't have an effect, since workers render the batch.

    Raises:
        errors.InvalidBatch: one was given.
    """
    refuse_flags(args, NOT_FOR_WORKERS, "is not for batches that workers render (--journal postgresql://...)")
    typed = {word.partition("=")[0].removeprefix("--") for word in args.typed}
    own = [name for name in OF_EACH_WORKER if name in typed]
    refuse_flags(args, (*OF_WORKER, *own), "is a flag of `worker`, where workers render the batch")


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
        output = trial_of(output)
    output = Path(os.path.normpath(output))
    if problem := output_check.folder_problem(output):
        raise errors.InvalidBatch([errors.Problem(where, problem)])
    return output


def _read(args: argparse.Namespace) -> Batch:
    if not args.batch:  # `Path("")` would be the working folder
        raise errors.InvalidBatch([errors.Problem("BATCH", "is empty: name a file or a folder")])
    return reader.read_batch(
        _source(args),
        prompt=args.prompt,
        recursive=args.recursive,
        stdin=sys.stdin.buffer,
        skip_bad=args.skip_bad,
        defaults=args.set,
    )


def _output_of(args: argparse.Namespace, batch: Batch) -> Location:
    output = reader.output_folder(_source(args), batch, args.output)
    if isinstance(output, Path):
        return checked_folder(args, output, "-o" if args.output else batch.source)
    return output.beside("sandbox") if args.sandbox and args.output is None else output


def _source(args: argparse.Namespace) -> Path | Literal["-"]:
    return "-" if args.batch == "-" else Path(args.batch)
