"""What only a journal in PostgreSQL meets: a server that goes and comes back, processes that take over."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import journals
import postgres_server
import psycopg
import pytest
from harness import World, make_sandbox, text_jobs
from journals import ACCOUNT, attempt_at, become, enroll, job, opened_in

from wan_async.cluster.shared_journal import SharedJournal
from wan_async.domain.attempt import Money
from wan_async.domain.lifecycle import OPEN, UNANSWERED
from wan_async.domain.remote_task import TaskDetail
from wan_async.errors import LeaseLost, Locked, Unusable
from wan_async.journal import postgres_adapter, postgres_connection, reports, server_history
from wan_async.journal.base import STALE, ContentLocked, DatabaseHome, Home, TaskTaken
from wan_async.journal.enrolled_jobs import enrolled_jobs
from wan_async.journal.journal_location import database_of
from wan_async.journal.postgres import PostgresJournal
from wan_async.journal.postgres_adapter import scripts
from wan_async.journal.sql_journal import SqlJournal
from wan_async.journal.tables import sql_list

pytestmark = [pytest.mark.anyio, pytest.mark.asyncio_only]
OUT = Path("out")


def home_of(dsn: str, output: str = "out") -> DatabaseHome:
    return DatabaseHome(dsn, output)


def kill_connections(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as link:
        link.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()"
        )


class Losing:
    """A connection that breaks at a COMMIT, before or after the server has got it."""

    def __init__(self, link: psycopg.Connection[Any], *, after: bool) -> None:
        self._link = link
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def execute(self, query: bytes, *parameters: Any) -> Any:
        if query != b"COMMIT":
            return self._link.execute(query, *parameters)
        if self._after:
            self._link.execute(query)
        self._link.close()
        raise psycopg.OperationalError("the connection was cut")


class Lingering:
    """A connection of whose end the server has not heard yet."""

    def __init__(self, link: psycopg.Connection[Any]) -> None:
        self._link = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def close(self) -> None:
        pass


def connection_of(journal: SqlJournal) -> Any:
    """The journal's private connection, to break it."""
    return journal._write.__self__  # type: ignore[attr-defined] # a bound method's own object


def end_session(dsn: str, link: psycopg.Connection[Any]) -> None:
    """Close a connection, and wait until the server has released its locks."""
    session = link.info.backend_pid
    link.close()
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", (session,))


async def test_a_closed_journal_can_be_opened_before_the_server_has_noticed_the_end_of_the_connection(dsn: str) -> None:
    async with opened_in(dsn, OUT, inline=False) as journal:
        await become(journal, "a", "intent")
        connection = connection_of(journal)
        link, connection._link = connection._link, Lingering(connection._link)
    assert not link.closed
    async with opened_in(dsn, OUT, inline=False) as journal:
        assert len(await journal.open_attempts()) == 1
    link.close()


@pytest.mark.parametrize("after", [False, True])
async def test_a_commit_whose_answer_is_lost_is_made_once(dsn: str, after: bool) -> None:
    async with opened_in(dsn, OUT, inline=False) as journal:
        await enroll(journal, "a", "b")
        first = await become(journal, "a", "accepted", task="1")
        connection = connection_of(journal)
        connection._link = Losing(connection._link, after=after)
        second = attempt_at("b", reserved=5)
        await journal.intent(second, cap=None)
        assert (second.id, second.number) == (2, 1)
        connection._link = Losing(connection._link, after=after)
        await journal.accepted(second, "2", "t", b"answer", 1.0, adopted=False)
        assert await journal.open_attempts() == [first, second]
        assert await journal.money() == Money(0, 65)


async def test_writes_wait_for_a_server_that_restarts(dsn: str) -> None:
    async with opened_in(dsn, OUT, inline=False) as journal:
        attempt = await become(journal, "a", "intent")
        for mode in ("fast", "immediate"):
            await anyio.to_thread.run_sync(postgres_server.stop, mode)
            async with anyio.create_task_group() as group:
                group.start_soon(partial(journal.accepted, attempt, "1", "t", b"", 1.0, adopted=False))
                await anyio.to_thread.run_sync(postgres_server.start)
            assert attempt.state == "accepted"
        assert await journal.owned() == [("1", "t")]


async def test_a_write_survives_a_connection_that_is_cut(dsn: str) -> None:
    async with opened_in(dsn, OUT, inline=False) as journal:
        for number in range(3):
            kill_connections(dsn)
            await become(journal, f"j{number}", "intent")
        assert [attempt.id for attempt in await journal.open_attempts()] == [1, 2, 3]


class Deaf(Losing):
    """The same, of whose end the server has not heard yet."""

    closed = False

    def execute(self, query: bytes, *parameters: Any) -> Any:
        found = self._link.execute(query, *parameters)
        if query == b"COMMIT":
            self.closed = True
            raise psycopg.OperationalError("the connection was cut")
        return found


async def test_a_commit_whose_answer_is_lost_is_made_once_though_the_server_has_the_former_connection_for_a_while(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the second of two new connections no longer knew that it was done."""
    async with opened_in(dsn, OUT, inline=False) as journal:
        connection, pauses = connection_of(journal), list[float]()
        former = connection._link

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                end_session(dsn, former)

        await journal.remember("any")
        connection._link = Deaf(former, after=True)
        calls = list[int]()
        monkeypatch.setattr(time, "sleep", pause)
        await journal._write(lambda db: calls.append(len(calls)))
        assert (calls, len(pauses)) == ([0], 3)


async def test_commits_whose_answers_are_lost_are_not_taken_for_commits_that_the_server_lacks(dsn: str) -> None:
    async with opened_in(dsn, OUT, inline=False) as journal:
        connection = connection_of(journal)
        for number in range(3):
            connection._link = Losing(connection._link, after=True)
            await journal.begins_at(number)
        kill_connections(dsn)
        await become(journal, "b", "intent")
        assert not await journal.remembers(STALE)


@pytest.mark.parametrize(
    "change",
    ["UPDATE wan_async.holders SET commits = commits - 1", "UPDATE wan_async.journals SET server = '1/00000001'"],
    ids=["commits", "history"],
)
async def test_a_server_that_lacks_commits_makes_all_lose_the_journal_which_is_stale_then(
    dsn: str, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        SharedJournal.open(home_of(dsn), ACCOUNT, exclusive=False) as one,
        SharedJournal.open(home_of(dsn), ACCOUNT, exclusive=False) as other,
    ):
        for journal in (one, other):
            await journal.keep("any", "thing")
        with psycopg.connect(dsn, autocommit=True) as link:
            link.execute(change.encode())
        kill_connections(dsn)
        for journal in (one, other):
            with pytest.raises(LeaseLost):
                await journal.keep("any", "other thing")
    assert [record.getMessage()[:42] for record in caplog.records].count(
        "the database may lack its latest changes: "
    ) == 1
    async with SharedJournal.open(home_of(dsn), ACCOUNT) as journal:
        assert await journal.remembers(STALE)
        assert await journal.kept("any") == "thing"
        await journal.none_unowned()
    async with SharedJournal.open(home_of(dsn), ACCOUNT) as journal:
        assert not await journal.remembers(STALE)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM wan_async.holders; DELETE FROM wan_async.former_holders",
        "UPDATE wan_async.holders SET commits = commits - 1; DELETE FROM wan_async.holders",
    ],
    ids=["opened later", "taken over"],
)
async def test_a_process_that_the_server_does_not_know_any_more_finds_that_it_lacks_commits(
    dsn: str, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SharedJournal.open(home_of(dsn), ACCOUNT, exclusive=False) as journal:
        await become(journal, "a", "accepted", task="77")
        with psycopg.connect(dsn, autocommit=True) as link:
            link.execute(change.encode())
            link.execute("UPDATE wan_async_1.attempts SET intent_at = 1.0")
        kill_connections(dsn)
        for _ in range(2):
            with pytest.raises(LeaseLost):
                await journal.keep("any", "thing")
    assert [record.getMessage()[:42] for record in caplog.records].count(
        "the database may lack its latest changes: "
    ) == 1
    async with SharedJournal.open(home_of(dsn), ACCOUNT) as journal:
        assert await journal.seconds_since_fence() < 600
        await become(journal, "b", "accepted", task="99")
        assert await journal.complete_to() == 77  # what was submitted since may be above what is missing


async def test_a_process_that_was_taken_over_does_not_take_that_for_missing_commits(dsn: str) -> None:
    async with SharedJournal.open(home_of(dsn), ACCOUNT, exclusive=False) as journal:
        await become(journal, "a", "intent")
        with psycopg.connect(dsn, autocommit=True) as link:
            link.execute("DELETE FROM wan_async.holders")
        kill_connections(dsn)
        with pytest.raises(LeaseLost):
            await journal.keep("any", "thing")
    async with SharedJournal.open(home_of(dsn), ACCOUNT) as journal:
        assert not await journal.remembers(STALE)


async def test_a_server_that_lacks_the_whole_journal_makes_its_process_lose_it(dsn: str) -> None:
    """Regression: the writer's thread ended, and whoever waited for it waited for ever."""
    lost = list[bool]()
    async with SharedJournal.open(home_of(dsn), ACCOUNT, exclusive=False) as journal:
        journal.on_lost = lambda: lost.append(True)
        with psycopg.connect(dsn, autocommit=True) as link:
            link.execute("DELETE FROM wan_async.holders; DELETE FROM wan_async.journals")
        kill_connections(dsn)
        with pytest.raises(LeaseLost):
            await journal.kept("any")
    assert lost == [True]


async def test_the_first_worker_that_opens_a_journal_on_another_server_checks_it_alone(dsn: str) -> None:
    async with opened_in(dsn, OUT, inline=False) as journal:
        await become(journal, "a", "intent")
    with psycopg.connect(dsn, autocommit=True) as link:
        link.execute("UPDATE wan_async.journals SET server = '1/00000001'")
    for _ in range(2):
        with pytest.raises(Locked):
            async with SharedJournal.open(home_of(dsn), ACCOUNT, exclusive=False, worker=1):
                pytest.fail("it was opened beside others")
    async with SharedJournal.open(home_of(dsn), ACCOUNT, exclusive=False) as journal:  # `enqueue`
        assert await journal.remembers(STALE)
    async with SharedJournal.open(home_of(dsn), ACCOUNT, worker=1) as journal:
        assert 0 <= await journal.seconds_since_fence() < 600
        await journal.let_others_in()
        assert await journal.seconds_since_fence() == math.inf
        async with SharedJournal.open(home_of(dsn), ACCOUNT, exclusive=False, worker=2) as other:
            assert await other.remembers(STALE)


def test_the_history_of_a_server_that_does_not_tell_it_is_unknown(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as link:
        history = server_history.history_of(link)
        assert history is not None
        assert server_history.history_of(link) == history
        link.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        link.execute("SET ROLE pg_read_all_data")
        assert server_history.history_of(link) is None
    with pytest.raises(psycopg.OperationalError):
        server_history.history_of(link)


async def test_whoever_was_taken_over_writes_nothing(dsn: str) -> None:
    async with opened_in(dsn, OUT, inline=False) as former:
        await enroll(former, "a", "b", "c")
        attempt = await become(former, "a", "intent")
        end_session(dsn, connection_of(former)._link)  # a network that was cut; the server noticed it
        async with opened_in(dsn, OUT, inline=False) as journal:
            (found,) = await journal.open_attempts()
            await journal.unknown(found, "the process ended", 5.0)
            before = reports.report(home_of(dsn))
            for write in (
                former.accepted(attempt, "1", "t", b"", 1.0, adopted=False),
                former.intent(attempt_at("b"), cap=None),
                former.claim("c", "c", "c"),
                former.rejected(attempt, "no"),
            ):
                with pytest.raises(LeaseLost):
                    await write
            assert (attempt.state, attempt.task_id) == ("intent", None)
            assert reports.report(home_of(dsn)) == before
            with pytest.raises(Locked, match="process"):
                async with opened_in(dsn, OUT):
                    pytest.fail("it was opened twice")


async def test_a_transaction_that_stops_in_the_middle_delays_the_others_only_for_a_while(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_adapter, "IDLE_SECONDS", 1)
    reached = anyio.Event()

    def stop(db: object) -> None:
        if not reached.is_set():
            reached.set()
            time.sleep(2.0)  # as a process that is suspended does

    async with opened_in(dsn, OUT, inline=False) as journal, opened_in(dsn, Path("other"), inline=False) as other:

        async def write_stopping() -> None:
            await journal._write(stop)

        async with anyio.create_task_group() as group:
            group.start_soon(write_stopping)
            await anyio.sleep(0.2)
            began = time.monotonic()
            await other.remember("x")
            assert time.monotonic() - began < 1.9
        await journal.remember("x")
        assert await journal.remembers("x")


async def test_a_caller_who_leaves_does_not_wait_for_a_server_that_is_gone(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connection, "LEAVING_SECONDS", 0.1)
    monkeypatch.setattr(postgres_connection, "LEAVING_POLL_SECONDS", 0.1)
    async with opened_in(dsn, OUT, inline=False) as journal:
        attempt = await become(journal, "a", "intent")
        await anyio.to_thread.run_sync(postgres_server.stop)
        try:
            with anyio.CancelScope() as scope:
                scope.cancel()
                with pytest.raises(Unusable):
                    await journal.accepted(attempt, "1", "t", b"", 1.0, adopted=False)
        finally:
            await anyio.to_thread.run_sync(postgres_server.start)
        await journal.accepted(attempt, "1", "t", b"", 1.0, adopted=False)
        assert attempt.state == "accepted"


async def test_a_content_has_one_unanswered_attempt_over_all_outputs_of_an_account(dsn: str) -> None:
    other_account = replace(ACCOUNT, key="another account's key")
    async with (
        opened_in(dsn, OUT) as first,
        opened_in(dsn, Path("second")) as second,
        opened_in(dsn, Path("third"), account=other_account) as third,
    ):
        attempt = await become(first, job("a", "same"), "intent")
        duplicate = attempt_at(job("b", "same"))
        with pytest.raises(ContentLocked):
            await second.intent(duplicate, cap=None)
        await third.intent(attempt_at(job("c", "same")), cap=None)
        await first.accepted(attempt, "1", "t", b"", 1.0, adopted=False)
        await second.intent(duplicate, cap=None)
        assert duplicate.state == "intent"


async def test_a_new_key_of_an_account_is_recognised_at_its_other_outputs(dsn: str) -> None:
    rotated = replace(ACCOUNT, key="a-new-key")
    async with opened_in(dsn, OUT) as journal:
        await become(journal, job("a", "same"), "unknown")
    async with opened_in(dsn, OUT, account=rotated) as journal:
        assert await journal.rotated(rotated)
        await journal.accept_key(rotated, 5.0)
    async with opened_in(dsn, Path("second"), account=rotated) as second:
        with pytest.raises(ContentLocked):
            await second.intent(attempt_at(job("b", "same")), cap=None)


async def test_texts_that_postgresql_can_not_hold_are_kept_as_far_as_possible(dsn: str) -> None:
    async with opened_in(dsn, OUT) as journal:
        await enroll(journal, "a", "b")
        attempt = await become(journal, "a", "intent")
        await journal.unknown(attempt, "a NUL \0 and half a pair \ud800", 5.0)
        (found,) = await journal.open_attempts()
        assert found.reason == "a NUL \ufffd and half a pair ?"
        await journal.job_failed("b", "refused", "a NUL \0", sticky=True)
        assert [result.error for result in journals.results_of(journal)][1] == "a NUL \ufffd"


async def test_one_row_that_is_refused_does_not_fail_its_neighbours(dsn: str) -> None:
    async with opened_in(dsn, OUT, inline=False) as journal:
        await become(journal, "a", "accepted", task="1")
        other = await become(journal, "b", "intent")
        raised: list[Exception] = []

        async def attempt_at_too_much() -> None:
            try:
                await journal.intent(attempt_at("c", reserved=2**70), cap=None)
            except Unusable as error:
                raised.append(error)

        async def taken() -> None:
            try:
                await journal.accepted(other, "1", None, b"", 1.0, adopted=False)
            except TaskTaken as error:
                raised.append(error)

        async with anyio.create_task_group() as group:
            for act in (attempt_at_too_much, taken, partial(become, journal, "d", "intent")):
                group.start_soon(act)
        assert sorted(type(error).__name__ for error in raised) == ["TaskTaken", "Unusable"]
        assert [attempt.job for attempt in await journal.open_attempts()] == ["a", "b", "d"]


async def test_a_server_that_is_not_there_is_reported_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_connection, "OPENING_SECONDS", 0.2)
    with pytest.raises(Unusable, match="the journal of out") as caught:
        async with PostgresJournal.open(home_of("postgresql://me:s3cret@127.0.0.1:1/db"), ACCOUNT):
            pytest.fail("it was opened")
    assert "s3cret" not in str(caught.value)


async def test_a_database_that_does_not_exist_is_reported_at_once(dsn: str) -> None:
    with pytest.raises(Unusable, match="does not exist"):
        async with PostgresJournal.open(home_of(dsn.replace("/test_", "/nonesuch_")), ACCOUNT):
            pytest.fail("it was opened")


async def test_a_journal_of_a_newer_version_is_refused(dsn: str) -> None:
    async with opened_in(dsn, OUT):
        pass
    with psycopg.connect(dsn, autocommit=True) as link:
        link.execute("UPDATE wan_async.journals SET version = 99")
    with pytest.raises(Unusable, match="newer version"):
        async with opened_in(dsn, OUT):
            pytest.fail("it was opened")


async def test_a_journal_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(Unusable, match=r"wan-async\[cluster\]"):
        async with PostgresJournal.open(home_of("postgresql://"), ACCOUNT):
            pytest.fail("it was opened")


def test_the_states_in_the_sql_files_are_those_of_the_lifecycle() -> None:
    _, script = scripts("journal", 0)[0]
    for states, times in ((OPEN, 1), (UNANSWERED, 3)):
        assert script.count(f"IN ({sql_list(states)})") == times


async def fill(journal: SqlJournal) -> None:
    """Brings a journal into a state in which each report has something to show."""
    a, b, c, *_ = await enroll(journal, "a", "b", "c", "d")
    await become(journal, a, "stored")
    await become(journal, job("a", "older"), "stored")
    await become(journal, b, "accepted")
    unknown = await become(journal, c, "unknown")
    await become(journal, job("stray"), "failed")
    await journal.job_failed("d", "refused", "no", sticky=True)
    await journal.hashed({"/cat.png": (5, 7, "5ha")})
    await journal.quarantined(unknown, "doubt", [TaskDetail(id="900", socketaccesstoken="t900")], 5.0)


def reported(home: Home) -> Sequence[object]:
    with reports.gallery_report(home) as found:
        assert found is not None
        gallery = (found.states, found.money, list(found.items))
    return (
        reports.report(home),
        reports.clip_names(home),
        reports.owned_tasks(home),
        gallery,
        journals.past_renders(home),
        enrolled_jobs(home),
    )


async def test_every_report_is_the_same_of_both_kinds_of_journals(tmp_path: Path, dsn: str) -> None:
    async with journals.opened(tmp_path) as sqlite:
        await fill(sqlite)
    async with opened_in(dsn, OUT) as postgres:
        await fill(postgres)
        assert reported(home_of(dsn)) == reported(tmp_path)


def test_there_are_no_reports_of_a_journal_that_does_not_exist(dsn: str) -> None:
    assert reports.report(home_of(dsn)) is None
    assert enrolled_jobs(home_of(dsn)) == []


@pytest.mark.virtual_time
async def test_a_whole_run_with_its_journal_in_postgresql(tmp_path: Path, dsn: str) -> None:
    world = World(tmp_path, make_sandbox(), database=home_of(dsn))
    finished = await world.run_until(3.0, text_jobs(5))
    assert finished.exit_code != 0
    finished = await world.run(text_jobs(5))
    assert (finished.exit_code, finished.stored + finished.skipped) == (0, 5)
    assert world.tasks == len(world.clips) == 5
    assert not (world.output / ".wan_async" / "journal.sqlite3").exists()
    assert len((world.output / "results.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://me:s3cret@db.example:5433/clips", "postgresql://me@db.example:5433/clips"),
        ("postgres://me:s3cret@a:1,b:2/clips?sslmode=require&passfile=x", "postgres://me@a:1,b:2/clips"),
        ("postgresql://:s3cret@/clips?host=/run/pg&password=s3cret", "postgresql://@/clips?host=/run/pg"),
        ("postgresql://db?user=me&password=s3cret&port=7", "postgresql://db?user=me&port=7"),
        ("postgresql:///clips", "postgresql:///clips"),
    ],
)
def test_what_is_shown_of_an_address_has_no_secrets(dsn: str, shown: str) -> None:
    assert database_of(DatabaseHome(dsn, "out")) == shown
