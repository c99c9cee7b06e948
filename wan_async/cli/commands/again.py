"""`again`: render jobs again with another seed, keeping the earlier takes."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from wan_async import errors
from wan_async.cli.another_take import Takes, further_takes, knows
from wan_async.cli.argument_types import is_database
from wan_async.cli.command_inputs import kept_in, refuse_run_flags, say_service
from wan_async.cli.display_text import sanitise
from wan_async.cli.error_messages import say
from wan_async.cli.resume_command import quoted
from wan_async.cli.run_batch import execute
from wan_async.cli.run_options import run_options
from wan_async.domain import events
from wan_async.domain.exit_codes import ExitCode
from wan_async.journal.base import Home
from wan_async.journal.journal_location import home_of, homes_of, is_of_single_clip, trial_of
from wan_async.journal.reports import read_all, report
from wan_async.output_locations import Location


def again(args: argparse.Namespace) -> ExitCode:
    """Render a further take of each job; returns the run's exit code.

    Raises:
        errors.InvalidBatch: there is no such job, or its seed is not another one.
        errors.WanError: the run can't begin.
    """
    if is_database(args.journal):
        return _by_workers(args)
    output: Location = args.output
    if args.sandbox and isinstance(output, Path) and not home_of(output, args.journal).is_dir():
        output = trial_of(output)  # where `run --sandbox` puts its clips
    args.output = output
    kept_in(args, output)
    read_all(output, report, args.journal)  # there must be a journal
    homes = homes_of(output, args.journal)
    home = next((each for each in homes if knows(each, args.jobs)), homes[0])
    _refuse_other_image(args, home)
    takes = _takes(args, home)
    left = {job.key for job in takes.prepared.jobs if job.planned.label in takes.labels} - takes.stored

    def observe(event: events.Event) -> events.Event:
        if isinstance(event, events.Stored):
            left.discard(event.job)
        if isinstance(event, events.Finished) and not left:  # what else the folder lacks is not this command's
            return replace(event, resume=None)
        return event

    options = run_options(args, labels=takes.labels)
    say_service(args)
    return execute(args, takes.prepared, output, home, options, observe)


def _by_workers(args: argparse.Namespace) -> ExitCode:
    """Put the takes into the queue of workers."""
    from wan_async.cli.workers import enqueue_batch, print_enqueued  # what they need is in an extra

    refuse_run_flags(args)
    home = kept_in(args, args.output)
    read_all(args.output, report, home)
    _refuse_other_image(args, home)
    takes = _takes(args, home)
    options = run_options(args, labels=takes.labels)
    return print_enqueued(args, args.output, enqueue_batch(args, takes.prepared, args.output, options, adds=True))


def _refuse_other_image(args: argparse.Namespace, home: Home) -> None:
    """Refuses `--prepare` where the last run did not have it, and `--no-prepare` where it did.

    Raises:
        errors.InvalidBatch: one of them was typed.
    """
    flag = next((word for word in reversed(args.typed) if word in ("--prepare", "--no-prepare")), None)
    known = report(home)
    if flag is None or (known is not None and known.prepares) == args.prepare:  # a default in a file is for others
        return
    made_of = "the images as they are" if args.prepare else "converted copies"
    if is_of_single_clip(home, args.output):
        command = f"generate ... {flag}"
    else:
        command = quoted(["run", "BATCH", flag, "--only", args.jobs[0]])
    problem = (
        f"the last run of {args.output} rendered {made_of}, and a further take differs in nothing but the seed: use "
        f"`{command}`"
    )
    raise errors.InvalidBatch([errors.Problem(flag, problem)])


def _takes(args: argparse.Namespace, home: Home) -> Takes:
    takes = further_takes(home, args.output, args.jobs, args.seed)
    if takes.resumed:
        say(f"first what an earlier command began: {sanitise(', '.join(sorted(takes.labels)))}")
    return takes
