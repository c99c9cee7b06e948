"""The estimate of a plan equals the new money that a run with the same flags takes, to the cent."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from harness import World, make_sandbox, virtually, within
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from journals import past_renders

from wan_async.batch.plan import make_plan, plan_of_new_folder, prepare
from wan_async.cli.commands.plan import summary_lines
from wan_async.cli.confirmation import is_much
from wan_async.cli.preview import Preview, ask_prices, made_preview
from wan_async.domain import money
from wan_async.domain.attempt import Account, Money
from wan_async.domain.batch import from_jobs
from wan_async.domain.events import Started, Stored
from wan_async.domain.job import Job
from wan_async.domain.lifecycle import UNANSWERED, State
from wan_async.domain.model import Resolution
from wan_async.engine.options import Options
from wan_async.errors import StopBatch
from wan_async.journal.base import FILE
from wan_async.journal.reports import read_results, scratch_copy
from wan_async.journal.sqlite import SqliteJournal
from wan_async.outputs.local import LocalStore
from wan_async.threads import inline

SIZES: tuple[Resolution, ...] = ("480P", "580P", "720P")
HOUR = 3_600.0


async def preview_of(world: World, jobs: Sequence[Job], options: Options) -> Preview:
    """What `plan` shows, with the clients of virtual time."""
    prepared = prepare(from_jobs(jobs), world.home)
    with scratch_copy(world.home) as scratch:
        async with world.dependencies().api as api:
            if scratch is None:
                made = plan_of_new_folder(prepared, options)
                return made_preview(prepared, options, made, {}, await ask_prices(api, made, None), Money(0, 0))
            async with SqliteJournal.open(scratch, Account(world.origin, world.key), inline=True) as journal:
                before = await journal.money()
                made = await make_plan(
                    journal, prepared, options, world.output, await LocalStore(world.output).sizes(), inline
                )
                quotes = await ask_prices(api, made, journal)
            states = {result.job: result.state for result in read_results(scratch)}
    return made_preview(prepared, options, made, states, quotes, before)


class Row(NamedTuple):
    """An attempt in the journal; amounts are micro-dollars."""

    job: str
    content: str
    state: str
    reserved: int
    cost: int


def attempts_of(world: World) -> dict[int, Row]:
    """Every attempt by its id."""
    path = world.home / FILE
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT id, job, content, state, reserved, coalesce(cost, 0) FROM attempts").fetchall()
    return {row[0]: Row(*row[1:]) for row in rows}


@dataclass
class Batch:
    """A batch that is edited between runs."""

    jobs: list[Job] = field(default_factory=list)

    def add(self, number: int, scene: int, size: Resolution) -> None:
        self.jobs = [job for job in self.jobs if job.id != f"job-{number}"]
        self.jobs.append(Job(id=f"job-{number}", prompt=f"scene {scene}", resolution=size))

    def rename(self, place: int, number: int) -> None:
        if not self.jobs or any(job.id == f"renamed-{number}" for job in self.jobs):
            return
        old = self.jobs[place % len(self.jobs)]
        self.jobs[place % len(self.jobs)] = Job(id=f"renamed-{number}", prompt=old.prompt, resolution=old.resolution)

    def edit(self, place: int, scene: int) -> None:
        if self.jobs:
            old = self.jobs[place % len(self.jobs)]
            self.jobs[place % len(self.jobs)] = Job(id=old.id, prompt=f"scene {scene}", resolution=old.resolution)

    def drop(self, place: int) -> None:
        if len(self.jobs) > 1:
            del self.jobs[place % len(self.jobs)]


places = st.integers(0, 7)
steps = st.one_of(
    st.tuples(st.just("add"), places, st.integers(0, 5), st.sampled_from(SIZES)),
    st.tuples(st.just("rename"), places, st.integers(0, 3)),
    st.tuples(st.just("edit"), places, st.integers(0, 5)),
    st.tuples(st.just("drop"), places),
    st.tuples(st.just("delete"), places),
    st.tuples(st.just("kill"), st.floats(0.05, 6.0)),
    st.tuples(st.just("kill"), st.sampled_from((0.05, 0.5, 1.0, 2.5, 4.0))),
    st.tuples(st.just("unanswered"), st.sampled_from(("drop_after", "drop_before"))),
    st.tuples(st.just("run"), st.integers(1, 3)),
    st.tuples(st.just("fail"), st.integers(1, 2)),
    st.tuples(st.just("prices"), st.sampled_from((1.0, 0.5, 2.0))),
)
flags = st.fixed_dictionaries(
    {},
    optional={
        "limit": st.integers(1, 4),
        "pilot": st.integers(1, 3),
        "only": st.sampled_from(("job-*", "*-1", "renamed-*", "*")),
        "retry_failed": st.booleans(),
        "render_duplicates": st.booleans(),
        "rerender": st.booleans(),
        "concurrency": st.integers(1, 4),
    },
)
BASE = {"480P": 0.05, "580P": 0.083, "720P": 0.1234}


@pytest.mark.hypothesis  # its property is within it: each example has a folder of its own
def test_the_estimate_is_the_new_money_that_the_run_takes(tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=settings().max_examples // 3, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(st.tuples(places, st.integers(0, 5), st.sampled_from(SIZES)), min_size=1, max_size=6),
        st.lists(steps, min_size=1, max_size=8),
        flags,
        st.sampled_from(("cpr", "cpo")),
        st.one_of(st.none(), st.integers(0, 60)),
    )
    def check(
        first: list[tuple[int, int, Resolution]],
        changes: list[tuple[Any, ...]],
        given_flags: dict[str, Any],
        pricing: str,
        budget_cents: int | None,
    ) -> None:
        async def scenario() -> None:
            folder = tmp_path_factory.mktemp("world")
            world = World(folder, make_sandbox(pricing=pricing, prices=dict(BASE), task_seconds=(2.0, 6.0)))
            batch = Batch()
            for number, scene, size in first:
                batch.add(number, scene, size)
            for change in changes:
                await apply(world, batch, change)
            await compare(world, batch.jobs, given_flags, budget_cents)

        virtually(scenario)

    check()


async def apply(world: World, batch: Batch, change: tuple[Any, ...]) -> None:
    match change:
        case ("add", number, scene, size):
            batch.add(number, scene, size)
        case ("rename", place, number):
            batch.rename(place, number)
        case ("edit", place, scene):
            batch.edit(place, scene)
        case ("drop", place):
            batch.drop(place)
        case ("delete", place) if world.output.exists() and world.clips:
            world.clips[place % len(world.clips)].unlink()
        case ("kill", seconds):
            await world.run_until(seconds, batch.jobs, settle_seconds=1.0)
        case ("run", limit):
            await within(HOUR, world.run(batch.jobs, limit=limit, settle_seconds=1.0))
        case ("fail", limit):
            world.sandbox.faults.set_probabilities({"failed_render": 1.0})
            await within(HOUR, world.run(batch.jobs, limit=limit, retries=0))
            world.sandbox.faults.set_probabilities({})
        case ("unanswered", fault):
            world.sandbox.faults.next(fault, "Run")
            await world.run_until(1.0, batch.jobs, settle_seconds=30.0)
        case ("prices", factor):
            for size, price in BASE.items():
                world.sandbox.settings.prices[size] = price * factor


async def compare(world: World, jobs: Sequence[Job], given_flags: dict[str, Any], budget_cents: int | None) -> None:
    options = Options(settle_seconds=1.0, **given_flags)
    if not any(options.admits(str(job.id)) for job in jobs):
        given_flags = {name: value for name, value in given_flags.items() if name != "only"}
        options = Options(settle_seconds=1.0, **given_flags)
    before = attempts_of(world)
    unanswered = {(row.job, row.content) for row in before.values() if row.state in UNANSWERED}
    one_price = len({job.resolution for job in jobs}) == 1 or options.concurrency == 1
    if budget_cents is not None and one_price and not unanswered:
        given_flags |= {"budget_micros": sum(totals(world)) + budget_cents * 10_000}
        options = Options(settle_seconds=1.0, **given_flags)
    shown = await preview_of(world, jobs, options)
    assert shown.estimate is not None
    assert shown.why_unknown is None
    assert (shown.money.settled, shown.money.reserved) == totals(world)
    await within(5 * HOUR, world.run(jobs, settle_seconds=1.0, **given_flags))
    after = attempts_of(world)
    note(f"{before}\n{after}")
    assert {row.state for row in after.values()} <= {State.STORED, State.FAILED, State.ABSENT, State.REJECTED}
    # a Run that made no task is repeated with the money that was reserved for it: that is not new
    new = [row for number, row in after.items() if number not in before and (row.job, row.content) not in unanswered]
    assert sum(row.cost for row in new) == shown.estimate
    for number, row in before.items():
        if row.state == State.ACCEPTED:
            assert after[number].cost in (row.reserved, 0 if after[number].state == State.FAILED else row.reserved)
    settled, reserved = totals(world)
    assert reserved == 0
    account = world.sandbox.account
    assert account.spent_micros == settled, "the journal has all that the service took"


def totals(world: World) -> tuple[int, int]:
    path = world.home / FILE
    if not path.exists():
        return 0, 0
    with closing(sqlite3.connect(path)) as db:
        row = db.execute("SELECT settled, reserved FROM money").fetchone()
    return (row[0], row[1]) if row else (0, 0)


@pytest.mark.parametrize("pricing", ["cps", "cp-outputVideoLength", "approximate"])
@pytest.mark.virtual_time
async def test_a_price_that_depends_on_a_duration_is_estimated_by_the_service(pricing: str, tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(pricing=pricing, task_seconds=(4.0, 4.0)))
    jobs = [Job(id=f"job-{number}", prompt=f"scene {number}") for number in range(3)]
    shown = await preview_of(world, jobs, Options())
    assert shown.estimate
    await world.run(jobs)
    assert totals(world) == (shown.estimate, 0)


@pytest.mark.virtual_time
async def test_an_unknown_price_has_a_reason(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(pricing="none"))
    shown = await preview_of(world, [Job(prompt="rain")], Options())
    assert shown.estimate is None
    assert is_much(shown, 10**9)  # it is asked about
    held_back = replace(shown, beyond_budget=shown.jobs, options=Options(budget_micros=10**6))
    assert any("can't be kept without a known price: the run is refused" in line for line in summary_lines(held_back))
    assert shown.why_unknown == "the service names no price for these parameters"


@pytest.mark.virtual_time
async def test_a_service_that_does_not_answer_has_no_price_and_one_that_refuses_the_key_is_an_error(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, make_sandbox(faults={"http_500@Tool/Detail": 1.0}))
    shown = await preview_of(world, [Job(prompt="rain")], Options())
    assert (shown.estimate, str(shown.why_unknown).partition(":")[0]) == (None, "the service can't be asked")
    world.sandbox.faults.set_probabilities({})
    world.key = "revoked"
    with pytest.raises(StopBatch):
        await preview_of(world, [Job(prompt="rain")], Options())


@pytest.mark.virtual_time
async def test_the_time_is_estimated_by_past_renders_and_the_concurrency(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(10.0, 10.0)))
    jobs = [Job(id=f"job-{number}", prompt=f"scene {number}") for number in range(9)]
    assert (await preview_of(world, jobs, Options())).seconds is None
    await world.run(jobs, limit=1)
    renders = past_renders(world.home)
    assert 10 <= renders[0].seconds < 15
    shown = replace(await preview_of(world, jobs, Options(concurrency=2)), renders=renders)
    assert shown.seconds == pytest.approx(4 * renders[0].seconds)


@pytest.mark.virtual_time
async def test_the_time_between_two_runs_is_no_time_of_a_render(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(10.0, 10.0)))
    jobs = [Job(id=f"job-{number}", prompt=f"scene {number}") for number in range(2)]
    await world.run_until(3.0, jobs)
    await anyio.sleep(HOUR)
    await world.run(jobs)
    assert [10 <= render.seconds < 15 for render in past_renders(world.home)] == [True, True]
    assert [event.seconds < 15 for event in world.events_of(Stored)] == [True, True]


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.virtual_time
async def test_the_present_price_counts_and_not_the_dearest_so_far(factor: float, tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(prices=dict(BASE)))
    batch = Batch([Job(id=f"job-{number}", prompt=f"scene {number}") for number in range(3)])
    await world.run(batch.jobs, limit=1)
    await apply(world, batch, ("prices", factor))
    shown = await preview_of(world, batch.jobs, Options())
    assert shown.estimate == round(2 * 50_000 * factor)
    before, _ = totals(world)
    await world.run(batch.jobs)
    assert totals(world) == (before + shown.estimate, 0)
    assert world.events_of(Started)[0].estimate_usd == money.usd(shown.estimate)
