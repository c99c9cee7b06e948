"""`plan`: validate a batch, and show what a run would do and cost."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.batch.plan import Plan, Prepared, make_plan, plan_of_new_folder
from wan_async.cli.display_text import aligned, sanitise, truncate
from wan_async.cli.inputs import open_access, prepared_batch
from wan_async.cli.reporting import of_this_command, print_json_line, say
from wan_async.cli.settings import Access
from wan_async.domain import money
from wan_async.domain.batch import Enlisted
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import parameters_of, values_of
from wan_async.domain.lifecycle import State
from wan_async.engine.leases import Wake
from wan_async.engine.options import Options
from wan_async.engine.pricing import Prices
from wan_async.journal.base import FILE, FOLDER, Journal
from wan_async.journal.reports import doubt, read_results, scratch_copy
from wan_async.journal.sqlite import SqliteJournal
from wan_async.threads import inline

SHOWN_JOBS = 20
PROMPT_LENGTH = 60


def plan(args: argparse.Namespace) -> ExitCode:
    """Show what `run` with the same flags would do; spends nothing.

    Raises:
        errors.InvalidBatch: with every problem of the batch.
        errors.Unusable: the journal can't be read.
    """
    prepared, output, notices = prepared_batch(args)
    warn_of_incomplete_journal(output / FOLDER)
    options = Options(limit=args.limit, only=args.only, retry_failed=args.retry_failed, rerender=args.rerender)
    needs_price = output.exists() or not args.sandbox  # a new sandbox has no price to ask for
    with (
        scratch_copy(output / FOLDER) as scratch,
        open_access(args, output, optional=True) if needs_price else nullcontext() as access,
    ):
        made, price = anyio.run(_make, prepared, options, output, scratch, access)
        states = _states(prepared.jobs, scratch)
    enlisted = prepared.jobs
    to_pay = [*made.chosen, *(made.to_resubmit(options) if args.resubmit_unknown else ())]
    costs = [price.get(job.key) for job in to_pay]
    known_costs = [cost for cost in costs if cost is not None]
    total = sum(known_costs) if len(known_costs) == len(costs) else None
    estimate = None if total is None else f"{money.usd(total):f}"
    wanted = [*to_pay, *made.to_finish()]
    if args.json:
        summary = {"todo": len(wanted), "output": str(output), "estimate_usd": estimate, "warnings": notices}
        _plan_lines(enlisted, states, price, summary)
        return ExitCode.SUCCESS
    counts = Counter(states.values())
    print(f"{len(enlisted)} job{'s' * (len(enlisted) != 1)} → {output}")
    rows = [
        (str(job.planned.index + 1), sanitise(job.planned.name), states[job.key], *_facts(job))
        for job in enlisted[:SHOWN_JOBS]
    ]
    for line in aligned(rows):
        print(f"  {line}")
    if len(enlisted) > SHOWN_JOBS:
        print(f"  ... and {len(enlisted) - SHOWN_JOBS} more")
    print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    print(f"estimated cost of the {len(wanted)} to do: " + ("unknown" if estimate is None else f"${estimate}"))
    return ExitCode.SUCCESS


def warn_of_incomplete_journal(home: Path) -> None:
    """Write a warning if the journal in `home` may lack attempts that were paid for."""
    if (reason := doubt(home)) is not None:
        say(f"the journal {home / FILE} may not know all that it paid for: {reason}")


def _facts(job: Enlisted) -> list[str]:
    """The cells of a row that describe the job: its choices, its integers and the start of its prompt."""
    model, values = job.planned.job.model, values_of(job.planned.job)
    prompt = truncate(values[model.prompt.name], PROMPT_LENGTH)
    return [*(str(values[name]) for name in (*model.choices, *model.integers)), prompt]


def _states(jobs: Sequence[Enlisted], home: Path | None) -> dict[str, str]:
    """Each job's state by key, from the journal in `home` in which the batch is enrolled."""
    states = {result.job: result.state for result in read_results(home)} if home is not None else {}
    return {job.key: states.get(job.key, State.PLANNED) for job in jobs}


async def _make(
    prepared: Prepared, options: Options, output: Path, scratch: Path | None, access: Access | None
) -> tuple[Plan, Mapping[str, int | None]]:
    """The plan, and the price of each job by key in micro-dollars; no prices without credentials or network."""
    if scratch is None:
        made = plan_of_new_folder(prepared, options)
        return made, await _prices(access, made, None)
    async with SqliteJournal.open(scratch, None, inline=True) as journal:
        made = await make_plan(journal, prepared, options, output, inline)
        return made, await _prices(access, made, journal)


async def _prices(access: Access | None, made: Plan, journal: Journal | None) -> Mapping[str, int | None]:
    if access is None:
        return {}
    async with access.api() as api:
        prices = Prices(api, journal, lambda: None, Wake())
        try:
            await prices.learn()
        except (errors.TryLater, errors.StopBatch) as error:
            if isinstance(error, errors.StopBatch) and error.authentication:
                raise
            say(f"the price is unknown: {error}")
            return {}
    return {key: prices.price(parameters_of(job.planned.job, "")) for key, job in made.jobs.items()}


def _plan_lines(
    enlisted: Sequence[Enlisted],
    states: Mapping[str, str],
    price: Mapping[str, int | None],
    summary: Mapping[str, object],
) -> None:
    common = of_this_command()
    for job in enlisted:
        cost = price.get(job.key)
        line = {
            "event": "job",
            **common,
            "job": job.key,
            "name": job.planned.name,
            "state": states[job.key],
            **values_of(job.planned.job),
            "price_usd": None if cost is None else f"{money.usd(cost):f}",
        }
        print_json_line(line)
    done = sum(state == State.STORED for state in states.values())
    print_json_line({"event": "plan", **common, "jobs": len(enlisted), "done": done, **summary})
