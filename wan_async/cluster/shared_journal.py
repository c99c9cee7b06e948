"""A journal that several workers have open: who works on which job, and the account's slots that they share.

Every statement here runs in a transaction of `wan_async.journal.postgres_connection`, of which those of one account run
one after the other. So the window of `wan_async.engine.concurrency`, made for one process, decides for all of them: its
state is a row, and its tasks are the rows of `wan_async.slots`. A slot is taken with the intent and given back with the
attempt's last state. Those of a worker that died stay taken until another worker has taken up its jobs, since its tasks
go on.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio

from wan_async.cluster.shared_concurrency import News, SharedConcurrency
from wan_async.cluster.worker_records import OPTIONS
from wan_async.domain.attempt import Attempt
from wan_async.domain.lifecycle import OPEN, State
from wan_async.engine.concurrency import AUTO_START, Window
from wan_async.engine.options import DEFAULT_CONCURRENCY_LIMIT
from wan_async.errors import LeaseLost
from wan_async.journal.base import DatabaseHome, NoSlot
from wan_async.journal.postgres import PostgresJournal
from wan_async.journal.postgres_connection import LOCK_OF_JOURNAL, LOCK_OF_RESULTS, Hold, PostgresConnection
from wan_async.journal.queries import ATTEMPT_COLUMNS, attempt_of, marks_for, todo_query
from wan_async.journal.server_history import FENCED
from wan_async.journal.sql_interface import Database, upsert

T = TypeVar("T")

CHANNEL = "wan_async_slots"
"""The channel of NOTIFY on which `News` is sent."""

_ADMISSION = """
SELECT admission, no_run_before, extract(epoch FROM clock_timestamp())::float8,
       (SELECT count(*) FROM wan_async.slots s WHERE s.account = a.id),
       (SELECT count(*) FROM wan_async.slots s WHERE s.account = a.id AND s.running),
       (SELECT count(DISTINCT h.worker) FROM wan_async.holders h JOIN wan_async.journals j ON j.id = h.journal
        WHERE j.account = a.id)
FROM wan_async.accounts a WHERE id = ?
"""
_SAVE_AND_TELL = """
WITH saved AS (UPDATE wan_async.accounts SET admission = ?, no_run_before = ? WHERE id = ?) SELECT pg_notify(?, ?)
"""
_HOLDER_AND_SLOT = """
SELECT (SELECT holder FROM jobs WHERE key = ?), s.running, s.epoch
FROM (SELECT 1) AS one LEFT JOIN wan_async.slots s ON s.journal = ? AND s.attempt = ?
"""
_JOBS = "SELECT key, position, content, name, spec FROM jobs"
_TAKE_SLOT = """
INSERT INTO wan_async.slots (journal, attempt, account, holder, running, epoch) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (journal, attempt) DO UPDATE SET holder = excluded.holder, running = excluded.running,
epoch = excluded.epoch
"""


@dataclass(frozen=True, slots=True)
class TakenUp:
    """A job that this worker has taken.

    Attributes:
        position: its place in the batch; None if the batch no longer names it.
        content: the hash of all that shapes its clip.
        name: its output name.
        spec: its parameters, and its label, in JSON.
        attempts: what is to be taken up, oldest first: open attempts, and cancelled ones that may still be charged.
        to_do: whether it is to be submitted.
        rerenders: whether it is if jobs whose clip is missing or was given up are rendered anew.
    """

    position: int | None
    content: str
    name: str
    spec: str
    attempts: Sequence[Attempt]
    to_do: bool
    rerenders: bool


@dataclass(slots=True)
class _Admission:
    """The account's slots in one transaction: read once, and saved at its end if they have changed.

    Changes that share a transaction share this, too. Each of them alters it last, once nothing can refuse it.

    Attributes:
        window: their window.
        no_run_before: before when no Run may be sent, in unix seconds.
        now: the time in unix seconds.
        workers: how many workers share them.
        has_changed: whether the other workers must be told.
    """

    window: Window
    no_run_before: float
    now: float
    workers: int
    has_changed: bool = False

    def news(self, account: int) -> News:
        window, pause = self.window, max(0.0, self.no_run_before - self.now)
        free = max(0, window.limit - window.active) if window.may_start(self.now) else 0
        return News(account, window.limit, free, self.workers, self.no_run_before, pause)


class SharedJournal(PostgresJournal):
    """A journal in PostgreSQL that several workers have open.

    Attributes:
        window: what this worker knows of the account's slots.
        limits: the most tasks that may be active at the beginning, and ever.
        on_lost: called when another process has taken over.
        on_pause: called with the seconds for which the service's rate limit lets no worker send a Run.
    """

    window: SharedConcurrency
    limits: tuple[int, int] = (AUTO_START, DEFAULT_CONCURRENCY_LIMIT)

    def __init__(self, connection: PostgresConnection, home: DatabaseHome, hold: Hold, starts: int) -> None:
        super().__init__(connection, home, hold, starts)
        self.on_lost: Callable[[], None] = lambda: None
        self.on_pause: Callable[[float], None] = lambda seconds: None
        self._no_run_before = 0.0
        self._shared: _Admission | None = None
        self._refused_by: News | None = None
        self._connection = connection
        connection.on_begin, connection.before_commit = self._forget, self._save_and_tell
        self._write, self._read = self._write_held, self._read_held

    @property
    def held_at(self) -> float:
        """When the journal was last found to be held, by `lasting_clock`."""
        return self._connection.held_at

    async def _write_held(self, change: Callable[[Database], T], /) -> T:
        try:
            return await self._connection.write(change)
        except LeaseLost:
            self.on_lost()
            raise

    async def _read_held(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        try:
            return await self._connection.read(query, *arguments)
        except LeaseLost:
            self.on_lost()
            raise

    async def let_others_in(self) -> None:
        """Gives up that no other process may have the journal open, once it has been checked."""
        self.hold.exclusive = False
        await self._execute("DELETE FROM meta WHERE name = ?", (FENCED,))
        lock = f"pg_advisory_lock_shared({LOCK_OF_JOURNAL}, {self.hold.journal})"
        await self._read(f"SELECT {lock}, pg_advisory_unlock({LOCK_OF_JOURNAL}, {self.hold.journal})")

    @asynccontextmanager
    async def writing_results(self) -> AsyncIterator[None]:
        """Waits until no other process is in such a block: two that replace one file at once spoil it."""
        lock = f"({LOCK_OF_RESULTS}, {self.hold.journal})"
        await self._read(f"SELECT pg_advisory_lock{lock}")
        try:
            yield
        finally:
            await self._read(f"SELECT pg_advisory_unlock{lock}")

    async def intent(self, attempt: Attempt, *, cap: int | None) -> None:
        """See `Journal`; where no slot is free, `window` says when one may be."""
        try:
            await super().intent(attempt, cap=cap)
        except NoSlot:
            if self._refused_by is not None:
                self.seen(self._refused_by)
            raise

    def before_intent(self, db: Database, attempt: Attempt, cap: int | None) -> int | None:
        """Refuses the intent of a job that another worker has, or for which no slot is free.

        Returns:
            The budget of the latest `enqueue`, which may have come after this worker had begun.
        """
        query = "SELECT (SELECT holder FROM jobs WHERE key = ?), (SELECT value FROM meta WHERE name = ?)"
        holder, options = db.execute(query, (attempt.job, OPTIONS)).fetchone()
        self._refuse_foreign(attempt.job, holder)
        shared = self._admission(db)
        if shared.now < shared.no_run_before or not shared.window.may_start(shared.now):
            self._refused_by = shared.news(self.hold.account)
            raise NoSlot
        return cap if options is None else json.loads(options).get("budget_micros", cap)

    def after_write(
        self, db: Database, attempt_id: int, attempt: Attempt, state: State, *, at_limit: bool = False
    ) -> None:
        """Takes and gives back slots."""
        if state is State.INTENT:
            shared = self._admission(db)
            self._take(db, attempt_id, running=False, epoch=shared.window.start())
            shared.has_changed = True
            return
        holder, running, epoch = db.execute(_HOLDER_AND_SLOT, (attempt.job, self.hold.journal, attempt_id)).fetchone()
        self._refuse_foreign(attempt.job, holder)
        has_slot = running is not None
        is_unchanged = state is State.UNKNOWN or (state is State.ACCEPTED and running)
        if is_unchanged or (not has_slot and state is not State.ACCEPTED):
            return
        shared = self._admission(db)
        window, shared.has_changed = shared.window, True
        if state is State.ACCEPTED:
            self._take(db, attempt_id, running=True, epoch=epoch or 0)
            window.accepted() if has_slot else window.readopt()
        else:
            if at_limit:
                query = "SELECT count(*) FROM attempts WHERE state = 'unknown'"
                window.refused(shared.now, epoch, doubtful=db.execute(query).fetchone()[0])
            self._give_back(db, [attempt_id])
            window.released(was_running=running)

    async def free(self, attempts: Sequence[int]) -> None:
        """Gives back the slots of attempts that go on without: a Run in doubt, a task that no longer seems to run.

        Args:
            attempts: their ids, at least one.
        """

        def change(db: Database) -> None:
            shared = self._admission(db)
            shared.has_changed = True
            for running in self._give_back(db, attempts):
                shared.window.released(was_running=running)

        await self._write(change)

    async def pause(self, seconds: float) -> None:
        """No worker of the account sends a Run for so long: this one has met the service's rate limit."""

        def change(db: Database) -> None:
            shared = self._admission(db)
            shared.no_run_before = max(shared.no_run_before, shared.now + seconds)
            shared.has_changed = True

        await self._write(change)

    async def look(self) -> None:
        """Reads how many slots are free, should a notification be lost."""
        self.seen(await self._write(lambda db: self._admission(db).news(self.hold.account)))

    def seen(self, news: News) -> None:
        """News of the account's slots. Must be called from the event loop's thread."""
        self.window.seen(news, anyio.current_time())
        if news.no_run_before > self._no_run_before:
            self._no_run_before = news.no_run_before
            if news.pause_seconds:
                self.on_pause(news.pause_seconds)

    async def take_up(
        self, keys: Sequence[str], *, retry_failed: bool, rerender_until: int | None = None
    ) -> dict[str, TakenUp]:
        """Makes this worker the holder of jobs; these by key, without those that there are not.

        Args:
            keys: their keys, at least one.
            retry_failed: whether failed ones are to be submitted again.
            rerender_until: the newest attempt when it was decided to render missing ones anew, which concerns no job
                that has a newer one; None if that was not decided.
        """
        marks = marks_for(keys)

        def change(db: Database) -> dict[str, TakenUp]:
            query = f"UPDATE jobs SET holder = ? WHERE key IN ({marks}) RETURNING key, position, content, name, spec"
            rows = db.execute(query, (self.hold.holder, *keys)).fetchall()
            query = (
                f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE job IN ({marks}) "
                f"AND (state IN ({marks_for(OPEN)}) OR recheck) ORDER BY id"
            )
            attempts = [attempt_of(found) for found in db.execute(query, (*keys, *OPEN))]
            if attempts:
                db.execute(
                    f"UPDATE wan_async.slots SET holder = ? WHERE journal = ? AND attempt IN ({marks_for(attempts)})",
                    (self.hold.holder, self.hold.journal, *(attempt.id for attempt in attempts)),
                )

            def todo(*, rerender: bool) -> set[str]:
                query, values = todo_query(retry_failed=retry_failed, rerender=rerender)
                found = db.execute(f"SELECT key FROM ({query}) AS t WHERE key IN ({marks})", (*values, *keys))
                return {key for (key,) in found}

            to_do, again = todo(rerender=False), set[str]()
            if rerender_until is not None:
                query = f"SELECT DISTINCT job FROM attempts WHERE job IN ({marks}) AND id > ?"
                again = todo(rerender=True) - {job for (job,) in db.execute(query, (*keys, rerender_until))}
            return {
                key: TakenUp(
                    position, content, name, spec, [each for each in attempts if each.job == key], key in to_do,
                    key in again,
                )
                for key, position, content, name, spec in rows
            }  # fmt: skip

        return await self._write(change)

    async def assignable(self, job: str, task_id: str) -> Attempt | None:
        """See `Journal`; no worker may write about the job from now on, unless it takes it up anew."""
        attempt = await super().assignable(job, task_id)
        if attempt is not None:
            await self._execute("UPDATE jobs SET holder = ? WHERE key = ?", (self.hold.holder, attempt.job))
        return attempt

    async def seconds_since_fence(self) -> float:
        """How long ago all lost the journal, since the server may lack commits; infinite once it has been checked."""
        query = "SELECT extract(epoch FROM now())::float8 - value::float8 FROM meta WHERE name = ?"
        rows = await self._read(query, FENCED)
        return float(rows[0][0]) if rows else math.inf

    async def is_first(self) -> bool:
        """Whether no worker that has the journal open has had it for longer than this process."""
        query = "SELECT min(id) FROM wan_async.holders WHERE journal = ? AND worker IS NOT NULL"
        return bool((await self._read(query, self.hold.journal))[0][0] == self.hold.holder)

    async def newest_attempt(self) -> int:
        """The number of the newest attempt; 0 if there is none."""
        return int((await self._read("SELECT coalesce(max(id), 0) FROM attempts"))[0][0])

    async def jobs_of(self, keys: Sequence[str]) -> list[tuple[str, int | None, str, str, str]]:
        """Key, position, content, name and spec of jobs, of which there is one at least."""
        rows = await self._read(f"{_JOBS} WHERE key IN ({marks_for(keys)}) ORDER BY position", *keys)
        return [(key, position, content, name, spec) for key, position, content, name, spec in rows]

    async def all_jobs(self) -> list[tuple[str, int | None, str, str, str]]:
        """The same of every job of the batch, in batch order."""
        rows = await self._read(f"{_JOBS} WHERE position IS NOT NULL ORDER BY position")
        return [(key, position, content, name, spec) for key, position, content, name, spec in rows]

    async def kept(self, name: str) -> str | None:
        """A text that `keep` stored; None if there is none."""
        rows = await self._read("SELECT value FROM meta WHERE name = ?", name)
        return str(rows[0][0]) if rows else None

    async def keep(self, name: str, value: str) -> None:
        """Stores a text for the workers of the journal."""
        await self._execute(upsert("meta", "name", "value"), (name, value))

    def _refuse_foreign(self, job: str, holder: int | None) -> None:
        # the first worker adopts tasks for jobs that none has taken yet; `enqueue` has lost files fetched again
        if self.hold.exclusive or not self.hold.is_worker:
            return
        if holder not in (None, self.hold.holder):
            raise LeaseLost(f"job {job} is another worker's by now: nothing was changed")

    def _forget(self) -> None:
        self._shared = None

    def _admission(self, db: Database) -> _Admission:
        """The account's slots, as they stand in this transaction."""
        if self._shared is None:
            row = db.execute(_ADMISSION, (self.hold.account,)).fetchone()
            admission, no_run_before, now, active, running, workers = row
            window = Window(*self.limits)
            window.load(json.loads(admission) if admission else {}, active=active, running=running)
            window.maximum = self.limits[1]
            window.limit = min(window.limit, window.maximum)
            self._shared = _Admission(window, no_run_before, now, workers)
        return self._shared

    def _save_and_tell(self, db: Database) -> None:
        """Saves the slots if they have changed; once that is committed, all workers are told, this one included."""
        if self._shared is None or not self._shared.has_changed:
            return
        account, state = self.hold.account, json.dumps(self._shared.window.dump())
        news = self._shared.news(account).dumps()
        db.execute(_SAVE_AND_TELL, (state, self._shared.no_run_before, account, CHANNEL, news))

    def _take(self, db: Database, attempt: int, *, running: bool, epoch: int) -> None:
        hold = self.hold
        db.execute(_TAKE_SLOT, (hold.journal, attempt, hold.account, hold.holder, running, epoch))

    def _give_back(self, db: Database, attempts: Sequence[int]) -> list[bool]:
        """Frees slots; of each one, whether its task was running."""
        query = (
            f"DELETE FROM wan_async.slots WHERE journal = ? AND attempt IN ({marks_for(attempts)}) RETURNING running"
        )
        return [bool(running) for (running,) in db.execute(query, (self.hold.journal, *attempts))]
