"""The slots that workers share, and what a worker that was taken over can still write, in a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest
from journals import ACCOUNT, attempt_at, become, end, enroll

from wan_async.cluster.batch_options import kept_options
from wan_async.cluster.shared_concurrency import YIELD_SECONDS, News, SharedConcurrency
from wan_async.cluster.shared_journal import SharedJournal
from wan_async.cluster.slot_notifications import SlotNotifications
from wan_async.cluster.worker_records import OPTIONS
from wan_async.engine.leases import Slots, Wake
from wan_async.engine.options import Options
from wan_async.errors import LeaseLost
from wan_async.journal import reports
from wan_async.journal.base import DatabaseHome, NoSlot, OverBudget

pytestmark = [pytest.mark.anyio, pytest.mark.asyncio_only]


@asynccontextmanager
async def shared(dsn: str, output: str = "out", *, limit: int = 3) -> AsyncIterator[SharedJournal]:
    """A journal as a worker opens it."""
    async with SharedJournal.open(DatabaseHome(dsn, output), ACCOUNT, exclusive=False, worker=1) as journal:
        journal.window = SharedConcurrency(limit, limit, lambda: None)
        journal.limits = (limit, limit)
        yield journal


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as link:
        return link.execute(query.encode()).fetchall()


def slots(dsn: str) -> int:
    return int(rows(dsn, "SELECT count(*) FROM wan_async.slots")[0][0])


def fence(dsn: str, journal: SharedJournal) -> None:
    with psycopg.connect(dsn, autocommit=True) as link:
        link.execute("DELETE FROM wan_async.holders WHERE id = %s", (journal.hold.holder,))


@pytest.mark.parametrize("other_output", ["out", "other"])
async def test_two_workers_never_take_more_slots_than_the_limit(dsn: str, other_output: str) -> None:
    taken: list[str] = []
    refused: list[str] = []

    async def submit(journal: SharedJournal, key: str) -> None:
        try:
            await journal.intent(attempt_at(key), cap=None)
        except NoSlot:
            refused.append(key)
        else:
            taken.append(key)

    async with shared(dsn) as first, shared(dsn, other_output) as second:
        async with anyio.create_task_group() as group:
            for number in range(10):
                for name, journal in (("first", first), ("second", second)):
                    group.start_soon(submit, journal, f"{name}-{number}")
        assert (len(taken), len(refused), slots(dsn)) == (3, 17, 3)
        for journal in (first, second):
            await journal.look()
            assert (journal.window.limit, journal.window.free) == (3, 0)


@pytest.mark.parametrize(
    ("state", "is_free"),
    [("unknown", False), ("accepted", False), ("rejected", True), ("absent", True), ("quarantined", True),
     ("ended", True), ("stored", True), ("failed", True), ("cancelled", True), ("missing", True)],
)  # fmt: skip
async def test_a_slot_is_given_back_with_the_last_state(dsn: str, state: str, is_free: bool) -> None:
    async with shared(dsn, limit=1) as first, shared(dsn, limit=1) as second:
        await become(first, "a", state)
        assert slots(dsn) == (not is_free)
        if is_free:
            await second.intent(attempt_at("b"), cap=None)
        else:
            with pytest.raises(NoSlot):
                await second.intent(attempt_at("b"), cap=None)


async def test_refusals_of_one_moment_lower_the_shared_limit_once(dsn: str) -> None:
    async with shared(dsn, limit=10) as first, shared(dsn, limit=10) as second:
        running = [await become(journal, f"{place}-{number}", "accepted", task=f"{place}{number}")
                   for place, journal in enumerate((first, second), start=1) for number in range(4)]  # fmt: skip
        in_flight = [(journal, await become(journal, f"r{place}", "intent"))
                     for place, journal in enumerate((first, second))]  # fmt: skip
        for journal, attempt in in_flight:
            await journal.rejected(attempt, "error 96", at_limit=True)
        for journal in (first, second):
            await journal.look()
            assert (journal.window.limit, journal.window.free) == (8, 0)
            with pytest.raises(NoSlot):
                await journal.intent(attempt_at("more"), cap=None)
        await end(first, running[0])  # had they counted twice, two completions would be waited for
        await second.intent(attempt_at("more"), cap=None)
        with pytest.raises(NoSlot):
            await first.intent(attempt_at("one more"), cap=None)


async def test_a_worker_that_was_taken_over_writes_nothing_and_its_slot_stays_until_its_job_is_taken_up(
    dsn: str,
) -> None:
    lost: list[str] = []
    async with shared(dsn, limit=1) as former, shared(dsn, limit=1) as journal:
        former.on_lost = lambda: lost.append("former")
        await enroll(former, "a", "b")
        await former.take_up(["a"], retry_failed=False)
        attempt = await become(former, "a", "accepted", task="1")
        fence(dsn, former)
        before = (reports.report(journal.home), rows(dsn, "SELECT * FROM wan_async.slots"))
        for write in (
            end(former, attempt),
            former.intent(attempt_at("b"), cap=None),
            former.take_up(["b"], retry_failed=False),
            former.free([attempt.id]),
            former.look(),
        ):
            with pytest.raises(LeaseLost):
                await write
        assert lost == ["former"] * 5
        assert (reports.report(journal.home), rows(dsn, "SELECT * FROM wan_async.slots")) == before
        with pytest.raises(NoSlot):  # the task goes on
            await journal.intent(attempt_at("b"), cap=None)
        taken = (await journal.take_up(["a"], retry_failed=False))["a"]
        (found,) = taken.attempts
        assert (found.task_id, taken.to_do) == ("1", False)
        assert rows(dsn, "SELECT holder FROM wan_async.slots") == [(journal.hold.holder,)]
        await end(journal, found)
        await journal.intent(attempt_at("b"), cap=None)


async def test_a_job_that_another_worker_has_taken_up_is_not_written_to(dsn: str) -> None:
    async with shared(dsn) as first, shared(dsn) as second:
        await enroll(first, "a", "b")
        await first.take_up(["a"], retry_failed=False)
        attempt = await become(first, "a", "intent")
        await second.take_up(["a"], retry_failed=False)
        before = (reports.report(first.home), rows(dsn, "SELECT * FROM wan_async.slots"))
        with pytest.raises(LeaseLost):
            await first.accepted(attempt, "1", "t", b"", 1.0, adopted=False)
        with pytest.raises(LeaseLost):
            await first.rejected(attempt, "no")
        assert attempt.state == "intent"
        assert (reports.report(first.home), rows(dsn, "SELECT * FROM wan_async.slots")) == before
        await second.accepted(attempt, "1", "t", b"", 1.0, adopted=False)


async def test_a_rate_limit_that_one_worker_meets_lets_no_worker_send_a_run_until_it_is_over(dsn: str) -> None:
    paused: list[float] = []
    told = anyio.Event()

    def note(seconds: float) -> None:
        paused.append(seconds)
        told.set()

    async with shared(dsn) as first, shared(dsn, "other") as second, anyio.create_task_group() as group:
        second.on_pause = note
        news = [SlotNotifications(dsn, journal, Slots(journal.window, Wake())) for journal in (first, second)]
        for each in news:
            group.start_soon(each.serve)
        news[0].pause(60.0)
        with anyio.fail_after(30):
            await told.wait()
        assert 50.0 < paused[0] <= 60.0
        now = anyio.current_time()
        for journal in (first, second):
            with pytest.raises(NoSlot):
                await journal.intent(attempt_at("a"), cap=None)
            assert not journal.window.may_start(now)
            assert now + 50.0 < journal.window.not_before <= now + 61.0
            assert journal.window.free == 3
        assert (len(paused), slots(dsn)) == (1, 0)
        rows(dsn, "UPDATE wan_async.accounts SET no_run_before = extract(epoch FROM now()) RETURNING id")
        await second.intent(attempt_at("a"), cap=None)
        await second.look()
        assert (len(paused), second.window.may_start(anyio.current_time())) == (1, True)
        group.cancel_scope.cancel()


async def test_intents_that_share_a_commit_take_the_slots_that_are_given_back_in_it(dsn: str) -> None:
    refused: list[str] = []

    async def attempt(write: Awaitable[None], name: str) -> None:
        try:
            await write
        except NoSlot:
            refused.append(name)

    async with shared(dsn, limit=2) as first, shared(dsn, limit=2) as second:
        in_flight = await become(first, "a", "intent")
        async with anyio.create_task_group() as group:  # all but the first of them are one commit
            group.start_soon(attempt, first.rejected(in_flight, "no"), "a")
            for key in ("b", "c", "d"):
                group.start_soon(attempt, first.intent(attempt_at(key), cap=None), key)
        assert (refused, slots(dsn)) == (["d"], 2)
        await second.look()
        assert second.window.free == 0


async def test_two_processes_write_their_results_one_after_the_other(dsn: str) -> None:
    steps: list[str] = []

    async def write(journal: SharedJournal, name: str) -> None:
        async with journal.writing_results():
            steps.append(name)
            await anyio.lowlevel.checkpoint()
            await journal.kept("anything")
            steps.append(name)

    async with shared(dsn) as first, shared(dsn) as second, anyio.create_task_group() as group:
        for name, journal in (("first", first), ("second", second)):
            group.start_soon(write, journal, name)
    assert steps[0] == steps[1] != steps[2] == steps[3]


def test_a_worker_with_its_share_of_the_slots_leaves_a_free_one_to_the_others_for_a_moment() -> None:
    window = SharedConcurrency(4, 4, lambda: None)

    def tell(free: int, now: float) -> None:
        window.seen(News(1, 4, free, 2, 0.0, 0.0), now)

    tell(4, 0.0)
    for _ in range(2):
        assert window.may_start(0.0)
        window.start()
    tell(0, 0.0)
    tell(1, 10.0)
    assert not window.may_start(10.0)
    assert window.not_before == 10.0 + YIELD_SECONDS
    assert window.may_start(10.0 + YIELD_SECONDS)
    window.accepted()
    window.released(was_running=True)
    tell(0, 20.0)
    tell(1, 30.0)
    assert window.may_start(30.0)


def test_news_of_slots_are_read_as_they_were_written() -> None:
    news = News(3, 40, 2, 4, 1764187200.25, 0.5)
    assert News.loads(news.dumps()) == news


async def test_who_is_no_worker_may_have_a_clip_fetched_again_that_a_worker_stored(dsn: str) -> None:
    async with shared(dsn) as worker:
        await enroll(worker, "a")
        await worker.take_up(["a"], retry_failed=False)
        await become(worker, "a", "stored")
        async with SharedJournal.open(worker.home, ACCOUNT, exclusive=False) as enqueuing:
            ((attempt, _),) = await enqueuing.stored_attempts()
            await enqueuing.reopened(attempt)
        assert (await worker.counts())["ended"] == 1


async def test_a_decision_to_render_missing_jobs_anew_concerns_no_attempt_that_was_made_after_it(dsn: str) -> None:
    async with shared(dsn) as worker:
        await enroll(worker, "a")
        for count in (1, 2):
            attempt = await become(worker, "a", "missing")
            taken = await worker.take_up(["a"], retry_failed=False, rerender_until=1)
            assert (attempt.id, len(taken["a"].attempts)) == (count, count)
            assert (taken["a"].to_do, taken["a"].rerenders) == (False, count == 1)


async def test_of_the_workers_of_a_journal_the_one_that_came_first_tracks_unassigned_tasks(dsn: str) -> None:
    async with SharedJournal.open(DatabaseHome(dsn, "out"), ACCOUNT, exclusive=False) as enqueuing:
        async with shared(dsn) as first, shared(dsn) as second, shared(dsn, "elsewhere") as alone:
            order = (enqueuing, first, second, alone)
            assert [await journal.is_first() for journal in order] == [False, True, False, True]
            fence(dsn, first)
            assert [await journal.is_first() for journal in order] == [False, False, True, True]


async def test_the_budget_is_that_of_the_latest_enqueue(dsn: str) -> None:
    async with shared(dsn) as journal:
        for budget, count in ((100, 1), (150, 2), (None, 3)):
            await journal.keep(OPTIONS, kept_options(Options(budget_micros=budget), 0))
            await journal.intent(attempt_at(f"j{count}", reserved=60), cap=10)
            if budget is not None:
                with pytest.raises(OverBudget):
                    await journal.intent(attempt_at("more", reserved=60), cap=None)


def test_what_adds_to_a_batch_keeps_its_options_but_for_those_that_may_pay_again() -> None:
    options = Options(
        budget_micros=5, concurrency=3, resubmit_unknown=True, retry_failed=True, rerender=True, only="a*"
    )
    kept = json.loads(kept_options(Options(concurrency=4), 7, kept_options(options, 6)))
    assert (kept["budget_micros"], kept["concurrency"], kept["only"]) == (5, 4, None)
    assert not any(kept[name] for name in ("resubmit_unknown", "retry_failed", "rerender", "give_up"))
    assert kept == json.loads(kept_options(Options(concurrency=4, budget_micros=5), 7))
