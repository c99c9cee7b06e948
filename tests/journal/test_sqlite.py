from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from journals import (
    ACCOUNT,
    ELSEWHERE,
    FORM,
    KEY,
    OUTPUTS,
    attempt_at,
    become,
    end,
    enroll,
    job,
    opened,
    result_of,
    results_of,
    todo,
)

from wan_async.domain.attempt import Account, Attempt, Clip, Money
from wan_async.domain.lifecycle import ATTEMPT_STATES, OPEN, PREVIOUS_STATES, UNANSWERED, State
from wan_async.errors import Unusable
from wan_async.journal import tables
from wan_async.journal.base import FILE, ContentLocked, NameTaken, OverBudget, TaskTaken
from wan_async.journal.integrity import LAYOUT
from wan_async.journal.ownership import SANDBOX
from wan_async.journal.reports import Result, report
from wan_async.journal.sql_interface import Database
from wan_async.journal.sqlite import SqliteJournal
from wan_async.journal.sqlite_connection import peek

pytestmark = pytest.mark.anyio
T = TypeVar("T")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("inline", [False, True])
async def test_an_attempt_is_unchanged_after_reopening(tmp_path: Path, inline: bool) -> None:
    async with opened(tmp_path, inline=inline) as journal:
        assert journal.path == tmp_path / FILE
        (one,) = await enroll(journal, "a")
        left = await become(journal, one, "ended")
        assert left.id == 1
    async with opened(tmp_path, inline=inline) as journal:
        (found,) = await journal.open_attempts()
        assert found == left
        assert (found.cost, found.reserved, found.high_id, found.intent_at) == (50, 0, 7, 1000.0)
        assert found.outputs == OUTPUTS
        assert found.form == FORM


async def test_the_raw_answer_is_stored_and_the_token_never_shown(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        attempt = await become(journal, "a", "accepted")
        assert "token-101" not in repr(attempt)
        assert KEY not in repr(ACCOUNT)
    with closing(peek(tmp_path / FILE, LAYOUT)) as db:
        assert db.execute("SELECT answer, adopted, accepted_at FROM attempts").fetchone() == (b'{"raw": true}', 0, 1002)


async def test_the_object_is_updated_only_after_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as journal:
        attempt = attempt_at("a", reserved=5)

        async def refuse(change: object) -> None:
            raise Unusable("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(journal, "_write", refuse)
            with pytest.raises(Unusable):
                await journal.intent(attempt, cap=None)
        assert (attempt.id, attempt.state) == (0, "rejected")
        await journal.intent(attempt, cap=None)
        with monkeypatch.context() as patched:
            patched.setattr(journal, "_write", refuse)
            with pytest.raises(Unusable):
                await journal.accepted(attempt, "1", "t", b"", 1.0, adopted=False)
        assert (attempt.state, attempt.task_id, attempt.token) == ("intent", None, None)


def inputs(journal: SqliteJournal, attempt: Attempt) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
    return {
        "intent": lambda: journal.intent(attempt, cap=None),
        "rejected": lambda: journal.rejected(attempt, "a reason"),
        "unknown": lambda: journal.unknown(attempt, "a reason", 5.0),
        "absent": lambda: journal.absent(attempt),
        "quarantined": lambda: journal.quarantined(attempt, "a reason"),
        "abandoned": lambda: journal.abandoned(attempt),
        "accepted": lambda: journal.accepted(attempt, "77", "token-77", b"raw", 6.0, adopted=True),
        "ended": lambda: end(journal, attempt),
        "stored": lambda: journal.stored(attempt, 8.0),
        "failed": lambda: journal.closed(attempt, State.FAILED, "a reason"),
        "cancelled": lambda: journal.closed(attempt, State.CANCELLED, "a reason"),
        "missing": lambda: journal.closed(attempt, State.MISSING, "a reason"),
        "given_up": lambda: journal.closed(attempt, State.GIVEN_UP, "a reason"),
    }


@pytest.mark.parametrize("state", ATTEMPT_STATES)
async def test_every_input_in_every_state_is_accepted_or_refused_as_in_the_table(tmp_path: Path, state: State) -> None:
    async with opened(tmp_path) as journal:
        for becomes in ATTEMPT_STATES:
            attempt = await become(journal, f"{becomes} after {state}", state)
            was, money = replace(attempt), await journal.money()
            write = inputs(journal, attempt)[becomes]
            if state in PREVIOUS_STATES[becomes]:
                await write()
                assert attempt.state == becomes
            else:
                with pytest.raises(Unusable, match=f"can't become {becomes}"):
                    await write()
                assert attempt == was
                assert await journal.money() == money
            with closing(peek(tmp_path / FILE, LAYOUT)) as db:
                found = db.execute("SELECT state FROM attempts WHERE id = ?", (attempt.id,)).fetchone()[0]
            assert found == attempt.state


async def test_a_refused_attempt_is_sent_again_in_its_own_row(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        (one,) = await enroll(journal, "a")
        attempt = await become(journal, one, "rejected")
        assert await journal.money() == Money(0, 0)
        await journal.job_failed("a", "refused", "no", sticky=True)
        attempt.reserved, attempt.high_id, attempt.intent_at = 70, 8, 2000.0
        attempt.form = FORM | {"inputImageUrl": "https://cdn.example/fresh.png"}
        await journal.intent(attempt, cap=70)
        assert await journal.money() == Money(0, 70)
        (found,) = await journal.open_attempts()
        assert found == attempt
        assert found.reason is None
        assert (found.id, found.state, found.high_id, found.intent_at) == (1, "intent", 8, 2000.0)
        assert await result_of(journal, "a") == Result("a", "intent", None, None, None, None, None)


async def test_an_intent_over_budget_writes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await enroll(journal, "a")
        await journal.job_failed("a", "image", "is gone", sticky=False)
        with pytest.raises(OverBudget):
            await journal.intent(attempt_at("a", reserved=2), cap=1)
        assert await journal.open_attempts() == []
        assert (await result_of(journal, "a")).error == "is gone"


steps = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.integers(0, 99), st.none() | st.integers(-9, 99)),
        st.tuples(st.just("settle"), st.integers(1, 9), st.none() | st.integers(-9, 99)),
        st.tuples(st.just("reserve"), st.integers(0, 99), st.integers(1, 9)),
        st.tuples(st.just("all"), st.integers(0, 99), st.none() | st.integers(0, 99)),
        st.tuples(st.just("upsert"), st.integers(1, 9), st.integers(0, 99)),
        st.tuples(st.just("rollback"), st.integers(0, 99), st.integers(0, 99)),
    )
)


@given(steps)
def test_the_money_is_the_sum_of_the_attempts_after_any_changes(
    steps: list[tuple[str, int, int | None]],
) -> None:
    insert = (
        "INSERT INTO attempts (id, job, number, content, state, form, image, name, intent_at, reserved, cost) "
        "VALUES (?, 'j', 1, 'c', 'accepted', '{}', '', 'n', 0, ?, ?)"
    )
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.create_function("checksum_of", -1, zlib.crc32, deterministic=True)
        db.executescript(tables.SCHEMA)
        for kind, first, second in steps:
            db.execute("BEGIN")
            if kind in ("insert", "rollback"):
                db.execute(insert, (None, first, second))
            elif kind == "settle":
                db.execute("UPDATE attempts SET cost = ?, reserved = 0 WHERE id = ?", (second, first))
            elif kind == "reserve":
                db.execute("UPDATE attempts SET reserved = ? WHERE id = ?", (first, second))
            elif kind == "all":
                db.execute("UPDATE attempts SET reserved = ?, cost = ?", (first, second))
            else:
                conflict = " ON CONFLICT (id) DO UPDATE SET reserved = excluded.reserved"
                db.execute(insert + conflict, (first, second, None))
            db.execute("ROLLBACK" if kind == "rollback" else "COMMIT")
            total = db.execute("SELECT coalesce(sum(cost), 0), coalesce(sum(reserved), 0) FROM attempts").fetchone()
            assert db.execute("SELECT settled, reserved FROM money").fetchone() == total


DUE: dict[str, tuple[bool, bool]] = {
    # submitted again by default, and on request: --retry-failed, or --rerender for missing and given up
    "intent": (False, False),
    "unknown": (False, False),
    "quarantined": (False, False),
    "accepted": (False, False),
    "ended": (False, False),
    "stored": (False, False),
    "absent": (True, True),
    "rejected": (True, True),
    "abandoned": (True, True),
    "failed": (True, True),
    "cancelled": (False, True),
    "missing": (False, True),
    "given_up": (False, True),
}


@pytest.mark.parametrize("state", ATTEMPT_STATES)
async def test_which_states_are_submitted_again(tmp_path: Path, state: State) -> None:
    async with opened(tmp_path) as journal:
        one, _ = await enroll(journal, "a", "b")
        await become(journal, one, state, cost=0 if state == "failed" else 50)
        by_default, on_request = DUE[state]
        requested_by_rerender = state in ("missing", "given_up")
        for retry_failed in (False, True):
            for rerender in (False, True):
                requested = rerender if requested_by_rerender else retry_failed
                expected = ["a", "b"] if (on_request if requested else by_default) else ["b"]
                assert await todo(journal, retry_failed=retry_failed, rerender=rerender) == expected
        if by_default:
            await journal.job_failed("a", "refused", "it is not allowed", sticky=True)
            assert await todo(journal, rerender=True) == ["b"]
            assert await todo(journal, retry_failed=True) == ["a", "b"]
            found = await result_of(journal, "a")
            assert (found.state, found.error) == ("failed", "it is not allowed")
            await journal.job_failed("a", "image", "not this time", sticky=False)
            assert await todo(journal) == ["a", "b"]


async def test_a_billed_failure_is_final_even_if_the_process_died_before_marking_its_job(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        one, _ = await enroll(journal, "a", "b")
        await become(journal, one, "failed", cost=1)
    async with opened(tmp_path) as journal:
        await enroll(journal, "a", "b")
        assert await todo(journal, rerender=True) == ["b"]
        assert await todo(journal, retry_failed=True) == ["a", "b"]
        assert await result_of(journal, "a") == Result("a", "failed", None, "101", 1, None, "because")


SHOWN: dict[str, str] = dict.fromkeys(("absent", "rejected", "abandoned"), "planned")  # all others: unchanged


@pytest.mark.parametrize("state", ATTEMPT_STATES)
async def test_the_state_of_a_job_follows_from_its_attempt(tmp_path: Path, state: State) -> None:
    async with opened(tmp_path) as journal:
        one, _ = await enroll(journal, "a", "b")
        await become(journal, one, state)
        first, second = results_of(journal)
        assert first.state == SHOWN.get(state, state)
        assert second == Result("b", "planned", None, None, None, None, None)
        if state == "stored":
            assert first == Result("a", "stored", "a-1.mp4", "101", 50, "5ha", None)
        reasons = {"rejected": "no", "unknown": "no answer", "absent": "no answer"}
        reasons |= dict.fromkeys(("quarantined", "abandoned"), "who knows")
        reasons |= dict.fromkeys(("failed", "cancelled", "missing", "given_up"), "because")
        assert first.error == reasons.get(state)


async def test_the_latest_attempt_decides_the_state_of_a_job(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        (one,) = await enroll(journal, "a")
        await become(journal, one, "abandoned")
        await become(journal, one, "stored")
        assert (await result_of(journal, "a")).state == "stored"
        assert await todo(journal, retry_failed=True, rerender=True) == []


async def test_a_batch_is_listed_in_its_own_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await enroll(journal, "z", "a", "m")
        assert await todo(journal) == ["z", "a", "m"]
        assert [one.job for one in results_of(journal)] == ["z", "a", "m"]
        await enroll(journal, "m", "z")
        assert await todo(journal) == ["m", "z"]
        assert [one.job for one in results_of(journal)] == ["m", "z"]
        await enroll(journal)
        assert await todo(journal) == []


async def test_a_changed_job_is_submitted_again_and_its_failure_dropped(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        a, b, _ = await enroll(journal, ("a", "1"), ("b", "1b"), ("c", "1c"))
        await become(journal, a, "stored")
        await journal.job_failed("b", "refused", "no", sticky=True)
        await journal.job_failed("c", "refused", "no", sticky=True)
        assert await todo(journal) == []
        await enroll(journal, ("a", "2"), ("b", "2b"), ("c", "1c"))
        assert await todo(journal) == ["a", "b"]
        assert [one.state for one in results_of(journal)] == ["planned", "planned", "failed"]
        await enroll(journal, ("a", "1"), ("b", "1b"))
        assert await todo(journal) == ["b"]
        assert [one.state for one in results_of(journal)] == ["stored", "planned"]
        assert b.content == "1b"


async def test_a_renamed_job_keeps_its_clip(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        (old,) = await enroll(journal, ("old", "same"))
        attempt = await become(journal, old, "stored")
        await enroll(journal, ("new", "same"))
        assert await todo(journal, retry_failed=True, rerender=True) == []
        assert await result_of(journal, "new") == Result("new", "stored", "old-1.mp4", "101", 50, "5ha", None)
        ((found, clips),) = await journal.stored_attempts()
        assert found == replace(attempt, job="new")
        assert [clip.file for clip in clips] == ["old-1.mp4"]
        await enroll(journal, ("old", "same"), ("new", "same"))
        assert await todo(journal) == ["old"]


async def test_renamed_repetitions_take_a_clip_each_and_no_clip_is_taken_twice(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        for one in await enroll(journal, ("x", "same"), ("x-2", "same"), ("y", "other")):
            await become(journal, one, "stored")
        await enroll(journal, ("p", "same"), ("q", "same"), ("r", "same"), ("y", "other"))
        assert await todo(journal) == ["r"]
        files = [one.file for one in results_of(journal)]
        assert files == ["x-1.mp4", "x-2-2.mp4", None, "y-3.mp4"]


async def test_a_job_with_an_attempt_takes_over_no_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        old, new = await enroll(journal, ("old", "same"), ("new", "same"))
        await become(journal, old, "stored")
        await become(journal, new, "accepted")
        await enroll(journal, ("new", "same"))
        assert (await result_of(journal, "new")).state == "accepted"


async def test_an_enrolment_on_a_full_disk_fails_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(sqlite3.Connection):
        failures = 0

        def executemany(self, *args: Any) -> sqlite3.Cursor:
            if Full.failures:
                Full.failures -= 1
                list(args[1])
                raise sqlite3.OperationalError("database or disk is full")
            return super().executemany(*args)

    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, **more, factory=Full))
    async with opened(tmp_path) as journal:
        Full.failures = 2
        with pytest.raises(Unusable, match="the disk is full"):
            await enroll(journal, "a")
        Full.failures = 1
        await enroll(journal, "a", "b")
        assert await todo(journal) == ["a", "b"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_ten_thousand_jobs_take_linear_time(tmp_path: Path) -> None:
    jobs = [job(f"j{number}", f"c{number % 7500}", number) for number in range(10_000)]
    renamed = [job(f"k{number}", f"c{number % 7500}", number) for number in range(10_000)]
    began = time.process_time()
    async with opened(tmp_path) as journal:
        await journal.enroll(jobs, ("{}" for _ in jobs))

        def store(db: Database) -> None:
            db.execute(
                "INSERT INTO attempts (job, number, content, state, form, image, name, intent_at, cost) "
                "SELECT key, 1, content, 'stored', '{}', '', key, 0, 5 FROM jobs"
            )
            db.execute("INSERT INTO clips SELECT id, 0, name || '.mp4', '', 's', 1, '' FROM attempts")

        await journal._write(store)
        assert await todo(journal) == []
        await journal.enroll(renamed, ("{}" for _ in renamed))
        assert await todo(journal) == []
        results = results_of(journal)
        assert len({one.file for one in results}) == 10_000
        assert await journal.money() == Money(50_000, 0)
        assert len(await journal.stored_attempts()) == 10_000
    assert time.process_time() - began < 10  # two seconds at most here; quadratic time takes minutes


async def test_a_clip_whose_file_is_gone_is_reopened_at_no_cost(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        (one,) = await enroll(journal, "a")
        await become(journal, one, "stored")
        ((attempt, (clip,)),) = await journal.stored_attempts()
        assert clip.sha256 == "5ha"
        await journal.reopened(attempt)
        assert [found.state for found in await journal.open_attempts()] == ["ended"]
        assert await todo(journal, retry_failed=True, rerender=True) == []
        assert await journal.money() == Money(50, 0)
        await journal.stored(attempt, 2000.0)
        assert (await result_of(journal, "a")).state == "stored"


async def test_further_outputs_belong_to_the_same_attempt(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        for one in await enroll(journal, "a", "b"):
            attempt = await become(journal, one, "stored")
            await journal.checked(attempt, Clip(1, f"{one.key}-2.png", "", "x", 1, "image/png"))
        found = await journal.stored_attempts()
        assert [[clip.file for clip in clips] for _, clips in found] == [
            ["a-1.mp4", "a-2.png"],
            ["b-2.mp4", "b-2.png"],
        ]
        assert [one.file for one in results_of(journal)] == ["a-1.mp4", "b-2.mp4"]


async def test_hashes_of_images_are_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.hashed({"cat.png": (1, 2, "s1"), "dog.png": (3, 4, "s2")})
        await journal.hashed({"cat.png": (5, 6, "s3")})
    seen = report(tmp_path)
    assert seen is not None
    assert seen.images == {"cat.png": (5, 6, "s3"), "dog.png": (3, 4, "s2")}


async def test_a_folder_of_the_sandbox_and_a_real_one_are_kept_apart_with_advice(tmp_path: Path) -> None:
    trial = replace(ACCOUNT, origin=SANDBOX)
    for name, owner, other, advice in (("a", trial, ACCOUNT, "add --sandbox"), ("b", ACCOUNT, trial, "OUT.sandbox")):
        async with opened(tmp_path / name, account=owner) as journal:
            await become(journal, "a", "absent")
        with pytest.raises(Unusable, match=advice):
            async with opened(tmp_path / name, account=other):
                pytest.fail("it was opened")


async def test_a_journal_with_attempts_belongs_to_one_origin(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await become(journal, "a", "absent")
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(Unusable) as caught:
        async with opened(tmp_path, account=replace(ACCOUNT, origin=ELSEWHERE.origin)):
            pytest.fail("it was opened")
    message = caught.value.message
    assert "belongs to the account at https://api.example, not to http://127.0.0.1:8000" in message
    assert "use another output folder (-o), or the same WIRO_BASE_URL as before" in message
    assert (tmp_path / FILE).read_bytes() == before
    async with opened(tmp_path) as journal:
        assert not await journal.rotated(ACCOUNT)


@pytest.mark.parametrize("other", [ELSEWHERE, replace(ACCOUNT, key="other-key")])
async def test_a_new_owner_does_not_reuse_the_uploads_of_another_account(tmp_path: Path, other: Account) -> None:
    async with opened(tmp_path) as journal:
        await journal.uploaded("sha", "https://cdn.example/1", 100.0)
        await journal.hashed({"cat.png": (1, 2, "sha")})
    async with opened(tmp_path) as journal:
        assert await journal.upload_of("sha", 0.0) == "https://cdn.example/1"
    async with opened(tmp_path, account=other) as journal:
        assert await journal.upload_of("sha", 0.0) is None
    seen = report(tmp_path)
    assert seen is not None
    assert seen.images


async def test_the_api_key_is_not_written_to_disk(tmp_path: Path) -> None:
    rotated = replace(ACCOUNT, key="a-new-key-of-the-same-account")
    for account in (ACCOUNT, rotated):
        async with opened(tmp_path, account=account) as journal:
            await enroll(journal, "a")
            await become(journal, "a", "accepted", task=account.key[:3])
            await journal.accept_key(account, 5.0)
            written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
            assert b"token-" in written
            assert KEY.encode() not in written
            assert rotated.key.encode() not in written


async def test_two_journals_hash_one_key_differently(tmp_path: Path) -> None:
    hashes = set()
    for name in "ab":
        async with opened(tmp_path / name):
            pass
        with closing(peek(tmp_path / name / FILE, LAYOUT)) as db:
            hashes.add(db.execute("SELECT value FROM meta WHERE name = 'key'").fetchone()[0])
    assert len(hashes) == 2


# The journal compared with a model of it in plain Python.


@dataclass
class Row:
    """An attempt in the model, and the journal's object for it."""

    attempt: Attempt
    job: str
    content: str
    state: str
    reserved: int
    cost: int | None = None
    task: str | None = None
    token: str | None = None
    reason: str | None = None
    file: str | None = None


@dataclass
class Entry:
    """A job in the model."""

    content: str
    position: int | None
    failure: str | None = None
    sticky: bool = False


KEYS = st.sampled_from(["a", "b", "c", "d"])
CONTENTS = st.sampled_from(["X", "Y"])
TASKS = st.none() | st.sampled_from(["1", "2", "3", "4", "5", "6", "7", "8"])
TOKENS = st.none() | st.sampled_from(["t1", "t2", "t3", "t4", "t5", "t6"])
AMOUNTS = st.integers(0, 30)
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class JournalMachine(RuleBasedStateMachine):
    """Every input in every state, with a restart or a crash at any point."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        self.starts = 0
        self.rows: list[Row] = []
        self.jobs: dict[str, Entry] = {}
        self.names: dict[str, str] = {}

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    @property
    def home(self) -> Path:
        return self.folder / str(self.starts)

    @initialize()
    def start(self) -> None:
        self.context = opened(self.home)
        self.journal = self.do(self.context.__aenter__())
        self.do(self.skip_fsync())

    async def skip_fsync(self) -> None:
        """Skip fsync: a simulated crash copies the files as the operating system has them."""
        # the connection is private to the journal, and no user has a reason to skip fsync
        database = self.journal._write.__self__._db  # type: ignore[attr-defined] # a bound method's own object
        database.execute("PRAGMA synchronous = OFF")

    def stop(self) -> None:
        self.do(self.context.__aexit__(None, None, None))

    def teardown(self) -> None:
        if hasattr(self, "context"):
            self.stop()
        self.loop.close()
        shutil.rmtree(self.folder)

    def reload_open(self) -> None:
        """Replace the open attempts by those that a new process reads from the journal."""
        found = {attempt.id: attempt for attempt in self.do(self.journal.open_attempts())}
        for row in self.rows:
            if row.attempt.id in found:
                row.attempt = found[row.attempt.id]

    @rule()
    def restart(self) -> None:
        self.stop()
        self.start()
        self.reload_open()

    @rule()
    def crash(self) -> None:
        """Continue with a copy of the files as they are now."""
        before = self.home
        after = self.folder / str(self.starts + 1)
        after.mkdir()
        for name in (FILE, f"{FILE}-wal"):
            shutil.copy(before / name, after / name)
        self.stop()
        shutil.rmtree(before)
        self.starts += 1
        self.start()
        self.reload_open()

    def mine(self, key: str) -> list[Row]:
        return [row for row in self.rows if (row.job, row.content) == (key, self.jobs[key].content)]

    def batch(self) -> list[str]:
        listed = [(entry.position, key) for key, entry in self.jobs.items() if entry.position is not None]
        return [key for _, key in sorted(listed)]

    @rule(pairs=st.lists(st.tuples(KEYS, CONTENTS), max_size=4, unique_by=lambda pair: pair[0]))
    def enroll(self, pairs: list[tuple[str, str]]) -> None:
        self.do(enroll(self.journal, *pairs))
        self.names.clear()  # no job is called so, nor is an attempt
        for entry in self.jobs.values():
            entry.position = None
        for position, (key, content) in enumerate(pairs):
            entry = self.jobs.setdefault(key, Entry(content, position))
            if entry.content != content:
                entry.failure, entry.sticky = None, False
            entry.content, entry.position = content, position
        wanting = [key for key in self.batch() if not self.mine(key)]
        free = [row for row in self.rows if row.state in ("stored", *OPEN) and self.jobs[row.job].position is None]
        free.sort(key=lambda row: row.state != "stored")  # a stored clip comes before an open attempt
        for key in wanting:
            for row in free:
                if row.content == self.jobs[key].content:
                    free.remove(row)
                    row.job = row.attempt.job = key
                    break

    @precondition(lambda self: self.batch())
    @rule(data=st.data(), reserved=AMOUNTS, cap=st.none() | st.integers(0, 120))
    def submit(self, data: st.DataObject, reserved: int, cap: int | None) -> None:
        self.intend(data, reserved, cap)

    def is_locked(self, content: str) -> bool:
        return any(row.content == content and row.state in UNANSWERED for row in self.rows)

    def intend(self, data: st.DataObject, reserved: int, cap: int | None) -> None:
        key = data.draw(st.sampled_from(self.batch()))
        content = self.jobs[key].content
        attempt = attempt_at(job(key, content), reserved=reserved, number=len(self.rows) + 1)
        if cap is not None and sum(self.money()) + reserved > cap:
            with pytest.raises(OverBudget):
                self.do(self.journal.intent(attempt, cap=cap))
            return
        if self.is_locked(content):
            with pytest.raises(ContentLocked):
                self.do(self.journal.intent(attempt, cap=cap))
            return
        self.do(self.journal.intent(attempt, cap=cap))
        assert attempt.id not in {row.attempt.id for row in self.rows}
        self.rows.append(Row(attempt, key, content, "intent", reserved))
        self.jobs[key].failure, self.jobs[key].sticky = None, False

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), becomes=st.sampled_from([*ATTEMPT_STATES]))
    def apply_any(self, data: st.DataObject, becomes: State) -> None:
        """Apply any input to any attempt."""
        self.apply(data, data.draw(st.sampled_from(self.rows)), becomes)

    @precondition(lambda self: self.batch())
    @rule(data=st.data(), steps=st.integers(1, 6))
    def apply_allowed(self, data: st.DataObject, steps: int) -> None:
        """Apply allowed inputs to an attempt, mostly the latest."""
        if not self.rows:
            self.intend(data, 5, None)
        row = data.draw(st.sampled_from([self.rows[-1], *self.rows]))
        for _ in range(steps):
            allowed = [state for state in ATTEMPT_STATES if row.state in PREVIOUS_STATES[state]]
            if not allowed:
                break
            self.apply(data, row, data.draw(st.sampled_from(allowed)))
            self.do(self.compare())

    def apply(self, data: st.DataObject, row: Row, becomes: State) -> None:
        task, token, amount = data.draw(TASKS), data.draw(TOKENS), data.draw(AMOUNTS)
        attempt, journal = row.attempt, self.journal
        reason = f"{becomes} after {row.state}"
        if becomes == "intent":
            attempt.reserved = amount
        writes: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "intent": lambda: journal.intent(attempt, cap=None),
            "rejected": lambda: journal.rejected(attempt, reason),
            "unknown": lambda: journal.unknown(attempt, reason, 5.0),
            "absent": lambda: journal.absent(attempt),
            "quarantined": lambda: journal.quarantined(attempt, reason),
            "abandoned": lambda: journal.abandoned(attempt),
            "accepted": lambda: journal.accepted(attempt, task, token, b"raw", 6.0, adopted=True),
            "ended": lambda: self.ended(attempt, task, amount, reason),
            "stored": lambda: journal.stored(attempt, 8.0),
        }
        write = writes.get(becomes, lambda: journal.closed(attempt, becomes, reason))
        if row.state not in PREVIOUS_STATES[becomes]:
            was = replace(attempt)
            rivals = [other for other in self.rows if other is not row and other.content == row.content]
            is_locked = becomes == "intent" and any(other.state in UNANSWERED for other in rivals)
            with pytest.raises(ContentLocked if is_locked else Unusable):
                self.do(write())
            assert replace(attempt) == was
            attempt.reserved = row.reserved
            return
        if becomes == "intent" and self.is_locked(row.content):
            with pytest.raises(ContentLocked):
                self.do(write())
            attempt.reserved = row.reserved
            return
        new_task = task if becomes == "accepted" else row.task or task if becomes == "ended" else row.task
        new_token = token if becomes == "accepted" else row.token
        others = [other for other in self.rows if other is not row]
        if (new_task is not None and new_task in [other.task for other in others]) or (
            new_token is not None and new_token in [other.token for other in others]
        ):
            with pytest.raises(TaskTaken):
                self.do(write())
            return
        self.do(write())
        row.task, row.token, row.state = new_task, new_token, becomes
        if becomes in ("rejected", "absent", "ended", "failed", "cancelled"):
            row.reserved = 0
        if becomes not in ("absent", "abandoned", "accepted", "stored"):
            row.reason = reason
        if becomes == "ended":
            row.cost = amount
        if becomes == "intent":
            row.reserved, row.reason = amount, None
            self.jobs[row.job].failure, self.jobs[row.job].sticky = None, False

    async def ended(self, attempt: Attempt, task: str | None, cost: int, reason: str) -> None:
        await self.journal.ended(
            attempt,
            task_id=attempt.task_id or task,
            status="over",
            pexit=None,
            cost=cost,
            outputs=OUTPUTS,
            reason=reason,
            at=7.0,
        )

    @precondition(lambda self: any(row.state == "stored" for row in self.rows))
    @rule(data=st.data())
    def reopen(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from([row for row in self.rows if row.state == "stored"]))
        self.do(self.journal.reopened(row.attempt))
        row.state = "ended"

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def check_clip(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self.rows))
        row.file = f"{row.attempt.id}.mp4"
        self.do(self.journal.part(row.attempt, 0, "", "etag"))
        self.do(self.journal.checked(row.attempt, Clip(0, row.file, "etag", f"5ha-{row.file}", 9, "video/mp4")))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), sticky=st.booleans())
    def fail_job(self, data: st.DataObject, sticky: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.jobs)))
        self.do(self.journal.job_failed(key, "kind", "the message", sticky=sticky))
        self.jobs[key].failure, self.jobs[key].sticky = "the message", sticky

    @precondition(lambda self: self.batch())
    @rule(data=st.data(), name=st.sampled_from(["n1", "n2"]))
    def claim(self, data: st.DataObject, name: str) -> None:
        key = data.draw(st.sampled_from(self.batch()))
        owner = self.names.get(name)
        if owner is not None and owner != key and owner in self.batch():
            with pytest.raises(NameTaken):
                self.do(self.journal.claim(key, name, name))
            return
        self.do(self.journal.claim(key, name, name.upper()))
        self.names[name] = key

    def money(self) -> tuple[int, int]:
        return sum(row.cost or 0 for row in self.rows), sum(row.reserved for row in self.rows)

    @invariant()
    def the_journal_equals_the_model(self) -> None:
        self.do(self.compare())

    async def compare(self) -> None:
        journal = self.journal
        assert await journal.money() == Money(*self.money())
        expected = [row for row in self.rows if row.state in OPEN]
        found = await journal.open_attempts()
        assert found == [row.attempt for row in expected]
        assert [(one.id, one.job, one.state, one.task_id, one.token, one.reserved, one.cost) for one in found] == [
            (row.attempt.id, row.job, row.state, row.task, row.token, row.reserved, row.cost) for row in expected
        ]
        to_recheck = [row.attempt.id for row in self.rows if row.state == "cancelled"]
        assert [attempt.id for attempt in await journal.to_recheck()] == to_recheck
        tasks = [row.task for row in self.rows if row.task is not None]
        assert len(tasks) == len(set(tasks))
        owned = {task_id or token for task_id, token in await journal.owned()}
        assert owned == {row.task or row.token for row in self.rows if row.task or row.token}
        stored = await journal.stored_attempts()
        assert {attempt.id: [clip.file for clip in clips] for attempt, clips in stored} == {
            row.attempt.id: [row.file]
            for key in self.batch()
            for row in self.mine(key)
            if row.state == "stored" and row.file
        }
        for retry_failed in (False, True):
            for rerender in (False, True):
                due = [key for key in self.batch() if self.is_due(key, retry_failed, rerender)]
                assert await todo(journal, retry_failed=retry_failed, rerender=rerender) == due
        results = [self.result(key) for key in self.batch()]
        assert results_of(journal) == results
        assert await journal.counts() == Counter(result.state for result in results)
        seen = report(self.home)
        assert seen is not None
        assert (seen.results, seen.money) == (results, Money(*self.money()))
        assert seen.strays == sum(row.state in OPEN and row.job not in self.batch() for row in self.rows)
        for name in ("n1", "n2"):
            assert await journal.owner_of(name) == self.names.get(name)

    def deciding(self, key: str) -> Any:
        """The attempt that decides the state of a job."""
        ranks: dict[str, int] = {**dict.fromkeys(OPEN, 3), "stored": 2, "missing": 1}
        return max(self.mine(key), key=lambda row: (ranks.get(row.state, 0), row.attempt.id))

    def result(self, key: str) -> Result:
        failure = self.jobs[key].failure
        if not self.mine(key):
            return Result(key, "failed" if failure else "planned", None, None, None, None, failure)
        last = self.deciding(key)
        state: str = last.state
        if state in ("rejected", "absent", "abandoned", "failed"):
            state = "failed" if failure or last.cost else "planned"
        sha = f"5ha-{last.file}" if last.file else None
        error = None if state == "stored" else failure or last.reason
        return Result(key, state, last.file, last.task, last.cost, sha, error)

    def is_due(self, key: str, retry_failed: bool, rerender: bool) -> bool:
        if self.jobs[key].sticky and not retry_failed:
            return False
        if not self.mine(key):
            return True
        last = self.deciding(key)
        if last.state == "failed":
            return retry_failed or not last.cost
        if last.state == "cancelled":
            return retry_failed
        if last.state in ("missing", "given_up"):
            return rerender
        return last.state in ("rejected", "absent", "abandoned")


JournalMachine.TestCase.settings = settings(max_examples=max(6, settings().max_examples // 10), stateful_step_count=25)
TestTheJournalAgainstItsModel = JournalMachine.TestCase
