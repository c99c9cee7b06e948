"""The slots that workers share, and what a worker that was taken over can still write, in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import postgres_server
import psycopg
import pytest
from journals import ACCOUNT, attempt_at, become, end, enroll

from wan_async.cluster.shared_journal import SharedJournal
from wan_async.cluster.shared_window import SharedWindow
from wan_async.errors import LeaseLost
from wan_async.journal import reports
from wan_async.journal.base import DatabaseHome, NoSlot

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def dsn() -> Iterator[str]:
    with postgres_server.database() as found:
        yield found


@asynccontextmanager
async def shared(dsn: str, output: str = "out", *, limit: int = 3) -> AsyncIterator[SharedJournal]:
    """A journal as a worker opens it."""
    async with SharedJournal.open(DatabaseHome(dsn, output), ACCOUNT, exclusive=False, worker=1) as journal:
        journal.window = SharedWindow(limit, limit, lambda: None)
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
        await former.take_up("a", retry_failed=False, rerender=False)
        attempt = await become(former, "a", "accepted", task="1")
        fence(dsn, former)
        before = (reports.report(journal.home), rows(dsn, "SELECT * FROM wan_async.slots"))
        for write in (
            end(former, attempt),
            former.intent(attempt_at("b"), cap=None),
            former.take_up("b", retry_failed=False, rerender=False),
            former.free([attempt.id]),
            former.look(),
        ):
            with pytest.raises(LeaseLost):
                await write
        assert lost == ["former"] * 5
        assert (reports.report(journal.home), rows(dsn, "SELECT * FROM wan_async.slots")) == before
        with pytest.raises(NoSlot):  # the task goes on
            await journal.intent(attempt_at("b"), cap=None)
        taken = await journal.take_up("a", retry_failed=False, rerender=False)
        assert taken is not None
        (found,) = taken.attempts
        assert (found.task_id, taken.to_do) == ("1", False)
        assert rows(dsn, "SELECT holder FROM wan_async.slots") == [(journal.hold.holder,)]
        await end(journal, found)
        await journal.intent(attempt_at("b"), cap=None)


async def test_a_job_that_another_worker_has_taken_up_is_not_written_to(dsn: str) -> None:
    async with shared(dsn) as first, shared(dsn) as second:
        await enroll(first, "a", "b")
        await first.take_up("a", retry_failed=False, rerender=False)
        attempt = await become(first, "a", "intent")
        await second.take_up("a", retry_failed=False, rerender=False)
        before = (reports.report(first.home), rows(dsn, "SELECT * FROM wan_async.slots"))
        with pytest.raises(LeaseLost):
            await first.accepted(attempt, "1", "t", b"", 1.0, adopted=False)
        with pytest.raises(LeaseLost):
            await first.rejected(attempt, "no")
        assert attempt.state == "intent"
        assert (reports.report(first.home), rows(dsn, "SELECT * FROM wan_async.slots")) == before
        await second.accepted(attempt, "1", "t", b"", 1.0, adopted=False)


async def test_who_is_no_worker_may_have_a_clip_fetched_again_that_a_worker_stored(dsn: str) -> None:
    async with shared(dsn) as worker:
        await enroll(worker, "a")
        await worker.take_up("a", retry_failed=False, rerender=False)
        await become(worker, "a", "stored")
        async with SharedJournal.open(worker.home, ACCOUNT, exclusive=False) as enqueuing:
            ((attempt, _),) = await enqueuing.stored_attempts()
            await enqueuing.reopened(attempt)
        assert (await worker.counts())["ended"] == 1
