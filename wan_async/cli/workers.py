"""A batch that workers render: put into their queue, and waited for."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from dataclasses import replace
from decimal import Decimal

import anyio

from wan_async.batch.plan import Prepared
from wan_async.cli.api_settings import Access, required
from wan_async.cli.command_inputs import database_home
from wan_async.cli.confirmation import confirmed
from wan_async.cli.display import json_lines
from wan_async.cli.display_text import sanitise
from wan_async.cli.error_messages import of_this_command, print_json_line, say
from wan_async.cli.resume_command import program, quoted, resume_command
from wan_async.cluster.enqueuing import Planned, open_beside_workers, plan_batch, put_in_queue
from wan_async.cluster.job_queue import QueuedJob, open_queue
from wan_async.cluster.progress_watch import Standing, standings
from wan_async.domain import events, money
from wan_async.domain.attempt import Account
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.lifecycle import IN_FLIGHT, PROBLEMS, UNCLEAR, State
from wan_async.engine import run_summary
from wan_async.engine.assignment import Assigned, assign, offline
from wan_async.engine.environment import PARTS
from wan_async.engine.options import Options
from wan_async.journal.base import DatabaseHome
from wan_async.journal.journal_location import local_home, public_address
from wan_async.output_locations import Location, location_of
from wan_async.outputs.stores import store_for
from wan_async.threads import in_threads

AGAIN_SECONDS = 60.0
"""How often it is said that no worker is alive."""


def enqueue_batch(
    args: argparse.Namespace, batch: Prepared, output: Location, options: Options, *, adds: bool = False
) -> int | None:
    """Puts a batch into the queue; asks before much is spent.

    Args:
        args: the command's arguments.
        batch: the batch.
        output: where its clips go.
        options: which of its jobs, and how its workers run them.
        adds: whether it adds to the batch there, whose options stay but for those that are given.

    Returns:
        How many jobs were added; None if the user said no.

    Raises:
        errors.WanError: the journal, the queue or the service can't be used.
    """
    access = required("`run BATCH --sandbox`")
    if not confirmed(args, batch, output, database_home(args, output), options):
        say("nothing was put into the queue")
        return None
    return anyio.run(_enqueue, args, batch, output, options, access, adds)


def print_enqueued(args: argparse.Namespace, output: Location, added: int | None) -> ExitCode:
    """Prints what `enqueue_batch` did with `--json`; the exit code."""
    if args.json:
        print_json_line({"event": "enqueued", **of_this_command(), "output": str(output), "added": added})
    return ExitCode.INTERRUPTED if added is None else ExitCode.SUCCESS


async def _enqueue(
    args: argparse.Namespace, batch: Prepared, output: Location, options: Options, access: Access, adds: bool
) -> int:
    home = database_home(args, output)
    async with open_queue(args.journal, create=True) as queue:
        async with access.api() as api:
            planned = await plan_batch(
                home,
                batch,
                options,
                output=location_of(home.output),
                account=Account(access.origin, access.key),
                api=api,
                offload=in_threads(4),
                store=store_for(location_of(home.output), parts=local_home(home, output) / PARTS),
                adds=adds,
            )
        say(_summary(planned))
        args.needs_micros = None if planned.estimate is None else planned.settled + planned.estimate
        added = await put_in_queue(queue, home, planned)
        workers = await queue.workers(args.lease)
        before, now = planned.budgets
        if before != now:
            say("budget " + (f"{_budget(before)} -> " if before is not None else "") + _budget(now))
        were = "job was" if added == 1 else "jobs were"
        say(f"{added} {were} put into the queue" + _there_already(len(planned.jobs) - added))
        if not getattr(args, "waits", False):
            start = "the workers render them" if workers else f"no worker is alive: start one with `{_worker(args)}`"
            say(f"{start}; `{_typed(args, 'status')}` shows how far they are")
        return added


def _typed(args: argparse.Namespace, *words: str) -> str:
    """A command on the database, without its password."""
    return sanitise(quoted([*program(), *words, "--journal", public_address(args.journal)]))


def _worker(args: argparse.Namespace) -> str:
    return _typed(args, "worker")


def _budget(micros: int | None) -> str:
    return "none" if micros is None else f"${money.usd(micros):f}"


def _there_already(count: int) -> str:
    return f"; {count} {'was' if count == 1 else 'were'} there already" if count > 0 else ""


def _summary(planned: Planned) -> str:
    plan = planned.plan
    duplicates = sum(map(len, plan.duplicates.values()))
    cost = "an unknown amount" if planned.estimate is None else f"about ${money.usd(planned.estimate):f}"
    parts = [f"{len(plan.jobs)} job{'s' * (len(plan.jobs) != 1)}", f"{plan.done} done"]
    parts += [f"{len(plan.resumed)} to take up"] if plan.resumed else []
    parts += [f"{duplicates} duplicate{'s' * (duplicates != 1)}"] if duplicates else []
    parts += [f"{len(plan.chosen)} to render for {cost}"]
    return ", ".join(parts)


async def assign_beside_workers(args: argparse.Namespace, home: DatabaseHome) -> Assigned:
    """Makes a task the one of a quarantined job; workers take the job up if its clip isn't fetched yet.

    Raises:
        errors.WanError: there is no such task or job, or they don't fit.
    """
    dependencies = replace(offline(), open_journal=open_beside_workers)
    output = location_of(home.output)
    assigned = await assign(output, args.task, args.job, dependencies, home)
    if assigned.file is None:
        async with open_queue(args.journal, create=True) as queue:
            await queue.put([QueuedJob(home.output, assigned.job)])
    return assigned


def wait_for_workers(args: argparse.Namespace, output: Location) -> ExitCode:
    """Shows what the workers do until nothing is left to do for an output; its exit code."""
    home, latest = database_home(args, output), list[Standing]()
    try:
        return anyio.run(_wait, args, home, latest)
    except KeyboardInterrupt:
        if latest and not latest[-1].workers:
            say(f"no worker is alive: the jobs wait until one is started with `{_worker(args)}`")
        else:
            say(f"the workers go on; `{_typed(args, 'status')}` shows how far they are")
        return ExitCode.INTERRUPTED


async def _wait(args: argparse.Namespace, home: DatabaseHome, latest: list[Standing]) -> ExitCode:
    began, last, warned_at = time.time(), "", -math.inf
    first: Standing | None = None
    async with open_queue(args.journal) as queue:
        async for standing in standings(queue, home, args.lease):
            first = first or standing
            latest[:] = [standing]
            if standing.workers:
                warned_at = -math.inf
            elif not standing.is_over and time.monotonic() - warned_at >= AGAIN_SECONDS:
                say(f"no worker is alive: the jobs wait until one is started with `{_worker(args)}`")
                warned_at = time.monotonic()
            line = progress_line(standing)
            if line != last and not args.quiet:
                say(line) if args.json else print(line, flush=True)
            last = line
    assert first is not None  # there is one at least
    finished = _finished(first, standing, began)
    if args.json:
        with json_lines(sys.stdout) as display:
            display.show(finished)
    elif not args.quiet:
        _say_what_is_next(args, home, standing)
    return ExitCode(finished.exit_code)


def _say_what_is_next(args: argparse.Namespace, home: DatabaseHome, standing: Standing) -> None:
    """Prints where the clips are and how to look at them, and how to go on if something is left."""
    if standing.states[State.STORED]:
        print(f"  clips in {sanitise(home.output)}")
        print(f"  look at them with `{_typed(args, 'gallery', home.output)}`")
    if not standing.waiting or standing.parked is None:
        return
    print(f"  {standing.waiting} left to do: {sanitise(standing.parked.reason)}")
    if standing.parked.exit_code is ExitCode.FUNDS:
        again = resume_command(args.typed, budget=_sufficient(args.needs_micros), without=["--journal"])
        print(f"  go on with `{sanitise(again)} {quoted(['--journal', public_address(args.journal)])}`")
    else:
        print(f"  go on with `{_typed(args, 'worker')}` and the flag that fits")


def _sufficient(needs_micros: int | None) -> str:
    """The value of `--budget` that all jobs need: whole cents, rounded up."""
    return "AMOUNT" if needs_micros is None else f"{Decimal(-(-needs_micros // 10_000)) / 100:.2f}"


def _finished(first: Standing, last: Standing, began: float) -> events.Finished:
    """The last event of a batch that workers have rendered.

    Args:
        first: how it stood when it was in the queue.
        last: how it stands now.
        began: when that was, in unix seconds.
    """
    return run_summary.finished(
        of_this_command()["run"], time.time, began, last.states, Counter(), last.money,
        last.money.settled - first.money.settled, first.states[State.STORED],
        [last.parked.exit_code] if last.parked is not None and last.waiting else [], (), Options(),
    )  # fmt: skip


def progress_line(standing: Standing) -> str:
    """How an output stands, in a line."""
    states = standing.states
    parts = [f"{states[State.STORED]} of {states.total()} stored"]
    parts += [f"{count} in flight" for count in [sum(states[state] for state in IN_FLIGHT)] if count]
    parts += [f"{states[state]} {state}" for state in (*UNCLEAR, *PROBLEMS) if states[state]]
    parts += [f"${money.usd(standing.money.settled):f} spent"]
    parts += [f"{standing.workers} worker{'s' * (standing.workers != 1)}"]
    return ", ".join(dict.fromkeys(parts))
