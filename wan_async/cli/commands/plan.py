"""`plan`: validate a batch, and show what a run would do and cost."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.batch.plan import Prepared
from wan_async.cli.display_text import aligned, sanitise, truncate
from wan_async.cli.inputs import open_access, prepared_batch
from wan_async.cli.reporting import print_json_line, say
from wan_async.cli.settings import Access
from wan_async.domain import money, prices
from wan_async.domain.batch import Enlisted
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import image_of, parameters_of, values_of
from wan_async.domain.lifecycle import IN_FLIGHT, State
from wan_async.engine.options import Options
from wan_async.journal.base import FILE, FOLDER
from wan_async.journal.reports import doubt, todo

SHOWN_JOBS = 20
PROMPT_LENGTH = 60

_Kind = tuple[str | bool, ...]


def plan(args: argparse.Namespace) -> int:
    """Show what `run` with the same flags would do; spends nothing.

    Raises:
        errors.InvalidBatch: with every problem of the batch.
        errors.Unusable: the journal can't be read.
    """
    prepared, output, notices = prepared_batch(args)
    warn_of_incomplete_journal(output / FOLDER)
    enlisted, states = prepared.jobs, _states(prepared)
    wanted = _todo(args, prepared, output / FOLDER, states)
    price = _prices(args, output, enlisted)
    costs = [price.get(_kind(job)) for job in wanted]
    known_costs = [cost for cost in costs if cost is not None]
    total = sum(known_costs) if len(known_costs) == len(costs) else None
    estimate = None if total is None else f"{money.usd(total):f}"
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


def _todo(args: argparse.Namespace, prepared: Prepared, home: Path, states: Mapping[str, str]) -> list[Enlisted]:
    """The jobs that a run with these flags would submit or finish."""
    anew = todo(home, retry_failed=args.retry_failed, rerender=args.rerender)
    going_on = {*IN_FLIGHT, State.UNKNOWN, *([State.QUARANTINED] if args.resubmit_unknown else [])}
    options = Options(only=args.only)
    fresh = [job for job in prepared.jobs if states[job.key] == "planned" or job.key in anew]
    fresh = [job for job in fresh if options.admits(job.planned.label)][: args.limit]
    return fresh + [job for job in prepared.jobs if states[job.key] in going_on]


def _facts(job: Enlisted) -> list[str]:
    """The cells of a row that describe the job: its choices, its integers and the start of its prompt."""
    model, values = job.planned.job.model, values_of(job.planned.job)
    prompt = truncate(values[model.prompt.name], PROMPT_LENGTH)
    return [*(str(values[name]) for name in (*model.choices, *model.integers)), prompt]


def _states(prepared: Prepared) -> dict[str, str]:
    """Each job's state by key; a job whose content has changed since its last attempt is `planned`."""
    enlisted, known = prepared.jobs, prepared.known
    if known is None:
        return {job.key: "planned" for job in enlisted}
    stand = {result.job: result.state for result in known.results}
    return {
        job.key: stand.get(job.key, "planned") if known.contents.get(job.key) == job.content else "planned"
        for job in enlisted
    }


def _kind(job: Enlisted) -> _Kind:
    """The parameters that a price may depend on."""
    parameters = parameters_of(job.planned.job, "")
    return *(parameters[field] for field in job.planned.job.model.price_fields), image_of(job.planned.job) is None


def _prices(args: argparse.Namespace, output: Path, enlisted: Sequence[Enlisted]) -> Mapping[_Kind, int | None]:
    """The service's own estimate for each kind of job, in micro-dollars; empty without credentials or network."""
    if args.sandbox and not output.exists():
        return {}

    async def ask(service: Access) -> prices.Tool:
        async with service.api() as api:
            return await api.tool()

    with open_access(args, output, optional=True) as service:
        if service is None:
            return {}
        try:
            tool = anyio.run(ask, service)
        except (errors.TryLater, errors.NotFound) as error:
            say(f"the price is unknown: {error}")
            return {}
    examples = {_kind(job): job for job in enlisted}
    return {kind: tool.estimate(parameters_of(job.planned.job, "")) for kind, job in examples.items()}


def _plan_lines(
    enlisted: Sequence[Enlisted],
    states: Mapping[str, str],
    price: Mapping[_Kind, int | None],
    summary: Mapping[str, object],
) -> None:
    run_id, at = os.urandom(6).hex(), time.time()
    for job in enlisted:
        cost = price.get(_kind(job))
        line = {
            "event": "job",
            "at": at,
            "run": run_id,
            "job": job.key,
            "name": job.planned.name,
            "state": states[job.key],
            **values_of(job.planned.job),
            "price_usd": None if cost is None else f"{money.usd(cost):f}",
        }
        print_json_line(sys.stdout, line)
    done = sum(state == State.STORED for state in states.values())
    print_json_line(
        sys.stdout, {"event": "plan", "at": at, "run": run_id, "jobs": len(enlisted), "done": done, **summary}
    )
