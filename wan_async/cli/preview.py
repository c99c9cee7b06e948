"""What a run with the same flags would do and cost, worked out on a copy of the journal."""

from __future__ import annotations

import argparse
import heapq
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import median

import anyio

from wan_async import errors
from wan_async.batch.plan import Plan, Prepared, make_plan, plan_of_new_folder
from wan_async.cli import local_sandbox
from wan_async.cli.api_settings import Access, from_environment
from wan_async.cli.display_text import price_parts, sanitise
from wan_async.cli.error_messages import say
from wan_async.cli.statistics import kind_of
from wan_async.domain import money
from wan_async.domain.attempt import Account, Money
from wan_async.domain.batch import Enlisted
from wan_async.domain.job import parameters_of
from wan_async.domain.lifecycle import State
from wan_async.domain.model import WAN, Model
from wan_async.engine.environment import PARTS
from wan_async.engine.leases import Wake
from wan_async.engine.options import Options
from wan_async.engine.pricing import Prices
from wan_async.journal.base import Home, Journal
from wan_async.journal.journal_copy import Scratch, scratch
from wan_async.journal.journal_location import database_of, local_home
from wan_async.journal.render_times import PastRender, renders_in
from wan_async.journal.reports import results_in
from wan_async.output_locations import Location
from wan_async.outputs.base import Store
from wan_async.outputs.stores import store_for
from wan_async.threads import inline
from wan_async.wiro.api import Api

AUTO_AT_FIRST = 8
"""How many tasks `--concurrency auto` begins with."""


@dataclass(frozen=True, slots=True, repr=False)
class Quotes:
    """The prices of jobs by key, in micro-dollars; None where a price is unknown.

    Attributes:
        expected: what each will cost.
        reserved: what the budget must have left for each.
        why_unknown: why there are none.
    """

    expected: Mapping[str, int | None] = field(default_factory=dict)
    reserved: Mapping[str, int | None] = field(default_factory=dict)
    why_unknown: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Preview:
    """What a run would do and cost.

    Attributes:
        jobs: the batch.
        options: the run's.
        plan: the plan.
        states: each job's state by key.
        quotes: the prices.
        money: settled and reserved so far, over the folder's lifetime.
        left_out: how many jobs something is wrong with, so that `--skip-bad` skips them.
        to_pay: the jobs that the run would submit, as far as the budget allows.
        beyond_budget: those that the budget does not allow.
        renders: past renders of the folder.
        renamed: keys of the jobs whose earlier take gets its plain name back.
    """

    jobs: Sequence[Enlisted]
    options: Options
    plan: Plan
    states: Mapping[str, str]
    quotes: Quotes
    money: Money
    left_out: int
    to_pay: Sequence[Enlisted]
    beyond_budget: Sequence[Enlisted]
    renders: Sequence[PastRender]
    renamed: Sequence[str]

    @property
    def estimate(self) -> int | None:
        """The new money that the run would take, in micro-dollars; None if a price is unknown."""
        return self._sum(self.to_pay)

    @property
    def estimate_without_budget(self) -> int | None:
        """The same if the budget allowed everything."""
        return self._sum([*self.to_pay, *self.beyond_budget])

    def _sum(self, jobs: Sequence[Enlisted]) -> int | None:
        costs = [self.quotes.expected.get(job.key) for job in jobs]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    @property
    def why_unknown(self) -> str | None:
        """Why the estimate is unknown; None if it is known."""
        if self.estimate is not None:
            return None
        return self.quotes.why_unknown or "the service names no price for these parameters"

    @property
    def not_chosen(self) -> list[Enlisted]:
        """Jobs without a clip that `--limit`, `--only`, `--pilot` and the like leave to a later run."""
        chosen = {job.key for job in self.plan.chosen}
        return [job for job in self.plan.unfinished if job.key not in chosen]

    @property
    def to_fetch(self) -> list[str]:
        """Keys of the batch's jobs that an earlier run submitted, and that have no clip yet."""
        return [job.key for job in self.plan.to_finish()]

    def actions(self) -> dict[str, str]:
        """What the run does with each job, by key: `done`, `fetch`, `duplicate`, `render`, ..., or its state."""
        found = {job.key: self.states[job.key] for job in self.jobs}
        found |= {key: "done" for key, state in found.items() if state == State.STORED}
        found |= {job.key: "duplicate" for jobs in self.plan.duplicates.values() for job in jobs}
        found |= dict.fromkeys((job.key for job in self.not_chosen), "not chosen")
        found |= dict.fromkeys(self.to_fetch, "fetch")
        found |= {job.key: "render" for job in self.to_pay}
        return found | {job.key: "beyond the budget" for job in self.beyond_budget}

    def by_kind(self) -> list[tuple[str, int, int | None]]:
        """Resolution (and what else the price depends on), number of jobs and micro-dollars of what is to be paid."""
        groups: dict[str, list[Enlisted]] = {}
        for job in self.to_pay:
            groups.setdefault(_size_of(job), []).append(job)
        return [(size, len(jobs), self._sum(jobs)) for size, jobs in sorted(groups.items())]

    @property
    def at_once(self) -> int:
        """How many tasks are expected to be active at once."""
        if self.options.concurrency is not None:
            return self.options.concurrency
        return min(max(AUTO_AT_FIRST, _most_at_once(self.renders)), self.options.max_concurrency)

    @property
    def seconds(self) -> float | None:
        """How long the run will take, by past renders of this folder; None if there are none."""
        if not self.renders:
            return None
        model = self.jobs[0].planned.job.model if self.jobs else WAN
        by_size: dict[str, list[float]] = {}
        for render in self.renders:
            by_size.setdefault(_kind(render.form, model), []).append(render.seconds)
        usual = median(render.seconds for render in self.renders)
        medians = {size: median(times) for size, times in by_size.items()}
        waiting = [*self.plan.to_finish(), *self.to_pay]
        ends = [0.0] * min(self.at_once, max(1, len(waiting)))
        for job in waiting:
            heapq.heapreplace(ends, ends[0] + medians.get(_size_of(job), usual))
        return max(ends)


def _size_of(job: Enlisted) -> str:
    return _kind(parameters_of(job.planned.job, ""), job.planned.job.model)


def _kind(form: Mapping[str, str], model: Model) -> str:
    """What the price of a task depends on: its resolution, and what else is not the default."""
    first, *others = [parameter for parameter in model.parameters if parameter.selects_price] or [model.prompt]
    values = [form.get(other.wire, "") for other in others if form.get(other.wire) != other.default]
    return " ".join([form.get(first.wire, ""), *values])


def _most_at_once(renders: Sequence[PastRender]) -> int:
    changes = sorted([(each.accepted_at, 1) for each in renders] + [(each.ended_at, -1) for each in renders])
    most = active = 0
    for _, change in changes:
        active += change
        most = max(most, active)
    return most


def preview(
    args: argparse.Namespace, prepared: Prepared, output: Location, home: Home, options: Options, *, all_prices: bool
) -> Preview:
    """Work out what a run with the same flags would do and cost.

    Args:
        args: the command's arguments.
        prepared: the batch.
        output: the output folder, or the URL in its place.
        home: where the journal is kept.
        options: the run's options.
        all_prices: ask for the prices also if there is nothing to pay for.

    Raises:
        errors.InvalidBatch: no job is admitted.
        errors.StopBatch: the service refuses the credentials.
        errors.Unusable: the journal can't be read, or belongs to another account.
    """
    store = store_for(output, parts=local_home(home, output) / PARTS, offload=inline)
    access = local_sandbox.without_a_process() if args.sandbox else from_environment()
    with scratch(home) as copy:
        place = database_of(home)
        made, money, quotes = anyio.run(_make, prepared, options, output, store, copy, place, access, all_prices)
        states, renders = dict[str, str](), list[PastRender]()
        if copy is not None:
            with copy.reading() as db:
                states = {result.job: result.state for result in results_in(db)}
                renders = renders_in(db)
    if access is None:
        quotes = Quotes(why_unknown="without an API key the service names no price: set WIRO_API_KEY")
    return made_preview(prepared, options, made, states, quotes, money, renders)


def made_preview(
    prepared: Prepared,
    options: Options,
    made: Plan,
    states: Mapping[str, str],
    quotes: Quotes,
    money: Money,
    renders: Sequence[PastRender] = (),
) -> Preview:
    """The preview of a plan whose prices are known; see `preview`."""
    to_pay, beyond = within_budget(made.to_pay(options), quotes, money, options.budget_micros)
    return Preview(
        prepared.jobs,
        options,
        made,
        {job.key: states.get(job.key, State.PLANNED) for job in prepared.jobs},
        quotes,
        money,
        prepared.left_out_jobs,
        to_pay,
        beyond,
        renders,
        list(dict.fromkeys(attempt.job for attempt, _ in made.numbered)),
    )


def within_budget(
    jobs: Sequence[Enlisted], quotes: Quotes, money: Money, budget: int | None
) -> tuple[list[Enlisted], list[Enlisted]]:
    """Splits the jobs to pay for into those that the budget allows, in order, and the others.

    A run stops at the first job that the budget does not allow: so does this.
    """
    if budget is None:
        return list(jobs), []
    total = money.settled + money.reserved
    for number, job in enumerate(jobs):
        total += quotes.reserved.get(job.key) or 0
        if total > budget:
            return list(jobs[:number]), list(jobs[number:])
    return list(jobs), []


async def _make(
    prepared: Prepared,
    options: Options,
    output: Location,
    store: Store,
    copy: Scratch | None,
    database: str | None,
    access: Access | None,
    all_prices: bool,
) -> tuple[Plan, Money, Quotes]:
    if copy is None:
        _warn_of_lost_journal(output, was_used=await store.claim(_no_identity, make=False, database=database))
        made = plan_of_new_folder(prepared, options)
        return made, Money(0, 0), await _quotes(access, made, options, None, all_prices)
    account = None if access is None else Account(access.origin, access.key)
    async with copy.open(account) as journal:
        _warn_of_lost_journal(output, was_used=await store.claim(journal.identity, make=False, database=database))
        money = await journal.money()
        made = await make_plan(journal, prepared, options, output, await store.sizes(), inline)
        return made, money, await _quotes(access, made, options, journal, all_prices)


def _warn_of_lost_journal(output: Location, *, was_used: bool) -> None:
    if was_used:
        say(f"the journal of {sanitise(str(output))} was lost: a run looks for the tasks that it paid for first")


async def _no_identity() -> None:
    return None


async def _quotes(
    access: Access | None, made: Plan, options: Options, journal: Journal | None, all_prices: bool
) -> Quotes:
    if access is None or not (all_prices or made.to_pay(options)):
        return Quotes()
    async with access.api() as api:
        return await ask_prices(api, made, journal)


async def ask_prices(api: Api, made: Plan, journal: Journal | None) -> Quotes:
    """Ask the service for the prices of a plan's jobs.

    Raises:
        errors.StopBatch: the service refuses the credentials.
    """
    prices = Prices(api, journal, lambda: None, Wake())
    try:
        await prices.learn()
    except errors.TryLater as error:
        return Quotes(why_unknown=f"the service can't be asked: {error.message}")
    except errors.StopBatch as error:
        if error.authentication:
            raise
        return Quotes(why_unknown=error.message)
    jobs = made.jobs.values()
    return Quotes(
        {job.key: prices.expected(job) for job in jobs},
        {job.key: prices.of(job) for job in jobs},
    )


def counts_of(shown: Preview) -> Counter[str]:
    """How many jobs the run does what with, by the words of `Preview.actions`."""
    return Counter(shown.actions().values())


def money_line(shown: Preview) -> str:
    """The new money that the run would take, by resolution."""
    if not shown.to_pay:
        return "new money: $0.00"
    count = f"{len(shown.to_pay)} job{'s' * (len(shown.to_pay) != 1)}"
    if shown.estimate is None:
        return f"new money for {count}: unknown ({sanitise(shown.why_unknown or '')})"
    counts: Counter[tuple[str, Decimal]] = Counter()
    for size, jobs, total in shown.by_kind():
        if total is not None:
            counts[sanitise(kind_of(size)), money.usd(total) / jobs] += jobs
    return f"new money for {count}: ${money.usd(shown.estimate):f} ({', '.join(price_parts(counts))})"


def is_terminal() -> bool:
    """Whether a person can be asked: both standard input and standard output are terminals."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
