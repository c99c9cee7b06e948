"""A journal that several workers have open: who works on which job, and the account's slots that they share.

Every statement here runs in a transaction of `wan_async.journal.postgres_connection`, of which those of one account run
one after the other. So the window of `wan_async.engine.concurrency`, made for one process, decides for all of them: its
state is a row, and its tasks are the rows of `wan_async.slots`. A slot is taken with the intent and given back with the
attempt's last state. Those of a worker that died stay taken until another worker has taken up its jobs, since its tasks
go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wan_async.cluster.shared_window import SharedWindow
from wan_async.domain.attempt import Attempt
from wan_async.domain.lifecycle import OPEN, State
from wan_async.engine.concurrency import AUTO_START, Window
from wan_async.engine.options import DEFAULT_CONCURRENCY_LIMIT
from wan_async.errors import LeaseLost
from wan_async.journal.base import DatabaseHome, NoSlot
from wan_async.journal.database import Database, upsert
from wan_async.journal.postgres import PostgresJournal
from wan_async.journal.postgres_connection import LOCK_OF_JOURNAL, Hold, PostgresConnection
from wan_async.journal.queries import ATTEMPT_COLUMNS, attempt_of, marks_for, todo_query

T = TypeVar("T")

CHANNEL = "wan_async_slots"
"""The channel of NOTIFY on which news of slots is sent: account, limit, free slots."""

_ADMISSION = """
SELECT admission, extract(epoch FROM clock_timestamp())::float8,
       (SELECT count(*) FROM wan_async.slots s WHERE s.account = a.id),
       (SELECT count(*) FROM wan_async.slots s WHERE s.account = a.id AND s.running)
FROM wan_async.accounts a WHERE id = ?
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
    """

    position: int | None
    content: str
    name: str
    spec: str
    attempts: Sequence[Attempt]
    to_do: bool


class SharedJournal(PostgresJournal):
    """A journal in PostgreSQL that several workers have open.

    Attributes:
        window: what this worker knows of the account's slots.
        limits: the most tasks that may be active at the beginning, and ever.
        on_lost: called when another process has taken over.
    """

    window: SharedWindow
    limits: tuple[int, int] = (AUTO_START, DEFAULT_CONCURRENCY_LIMIT)

    def __init__(self, connection: PostgresConnection, home: DatabaseHome, hold: Hold, starts: int) -> None:
        super().__init__(connection, home, hold, starts)
        self.on_lost: Callable[[], None] = lambda: None
        self._connection = connection
        self._write = self._write_held

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

    async def let_others_in(self) -> None:
        """Gives up that no other process may have the journal open."""
        self.hold.exclusive = False
        lock = f"pg_advisory_lock_shared({LOCK_OF_JOURNAL}, {self.hold.journal})"
        await self._read(f"SELECT {lock}, pg_advisory_unlock({LOCK_OF_JOURNAL}, {self.hold.journal})")

    def before_intent(self, db: Database, attempt: Attempt) -> None:
        """Refuses the intent of a job that another worker has, or for which no slot is free."""
        self._refuse_foreign(db, attempt.job)
        window, now = self._admission(db)
        if not window.may_start(now):
            self.window.seen(window.limit, 0)
            raise NoSlot

    def after_write(
        self, db: Database, attempt_id: int, attempt: Attempt, state: State, *, at_limit: bool = False
    ) -> None:
        """Takes and gives back slots."""
        if state is State.INTENT:
            window, now = self._admission(db)
            self._take(db, attempt_id, running=False, epoch=window.start())
            self._tell(db, window, now)
            return
        self._refuse_foreign(db, attempt.job)
        query = "SELECT running, epoch FROM wan_async.slots WHERE journal = ? AND attempt = ?"
        slot = db.execute(query, (self.hold.journal, attempt_id)).fetchone()
        is_unchanged = state is State.UNKNOWN or (state is State.ACCEPTED and slot is not None and slot[0])
        if is_unchanged or (slot is None and state is not State.ACCEPTED):
            return
        window, now = self._admission(db)
        if state is State.ACCEPTED:
            self._take(db, attempt_id, running=True, epoch=slot[1] if slot else 0)
            window.readopt() if slot is None else window.accepted()
        else:
            assert slot is not None
            if at_limit:
                query = "SELECT count(*) FROM attempts WHERE state = 'unknown'"
                window.refused(now, slot[1], doubtful=db.execute(query).fetchone()[0])
            self._give_back(db, [attempt_id])
            window.released(was_running=slot[0])
        self._save(db, window)
        self._tell(db, window, now)

    async def free(self, attempts: Sequence[int]) -> None:
        """Gives back the slots of attempts that go on without: a Run in doubt, a task that no longer seems to run.

        Args:
            attempts: their ids, at least one.
        """

        def change(db: Database) -> None:
            window, now = self._admission(db)
            for running in self._give_back(db, attempts):
                window.released(was_running=running)
            self._save(db, window)
            self._tell(db, window, now)

        await self._write(change)

    async def look(self) -> None:
        """Reads how many slots are free, should a notification be lost."""

        def change(db: Database) -> None:
            window, now = self._admission(db)
            self.window.seen(window.limit, _free(window, now))

        await self._write(change)

    async def take_up(self, key: str, *, retry_failed: bool, rerender: bool) -> TakenUp | None:
        """Makes this worker the holder of a job; None if there is no such job."""

        def change(db: Database) -> TakenUp | None:
            query = "UPDATE jobs SET holder = ? WHERE key = ? RETURNING position, content, name, spec"
            row = db.execute(query, (self.hold.holder, key)).fetchone()
            if row is None:
                return None
            position, content, name, spec = row
            query = (
                f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE job = ? AND (state IN ({marks_for(OPEN)}) OR recheck) "
                "ORDER BY id"
            )
            attempts = [attempt_of(found) for found in db.execute(query, (key, *OPEN))]
            for attempt in attempts:
                db.execute(
                    "UPDATE wan_async.slots SET holder = ? WHERE journal = ? AND attempt = ?",
                    (self.hold.holder, self.hold.journal, attempt.id),
                )
            query, values = todo_query(retry_failed=retry_failed, rerender=rerender)
            to_do = db.execute(f"SELECT 1 FROM ({query}) AS t WHERE key = ?", (*values, key)).fetchone()
            return TakenUp(position, content, name, spec, attempts, to_do is not None)

        return await self._write(change)

    async def assignable(self, job: str, task_id: str) -> Attempt | None:
        """See `Journal`; no worker may write about the job from now on, unless it takes it up anew."""
        attempt = await super().assignable(job, task_id)
        if attempt is not None:
            await self._execute("UPDATE jobs SET holder = ? WHERE key = ?", (self.hold.holder, attempt.job))
        return attempt

    async def jobs_of(self, keys: Sequence[str]) -> list[tuple[str, int | None, str, str, str]]:
        """Key, position, content, name and spec of jobs."""
        if not keys:
            return []
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

    def _refuse_foreign(self, db: Database, job: str) -> None:
        # the first worker adopts tasks for jobs that none has taken yet; `enqueue` has lost files fetched again
        if self.hold.exclusive or not self.hold.is_worker:
            return
        row = db.execute("SELECT holder FROM jobs WHERE key = ?", (job,)).fetchone()
        if row is not None and row[0] not in (None, self.hold.holder):
            raise LeaseLost(f"job {job} is another worker's by now: nothing was changed")

    def _admission(self, db: Database) -> tuple[Window, float]:
        """The account's window, and the time."""
        admission, now, active, running = db.execute(_ADMISSION, (self.hold.account,)).fetchone()
        window = Window(*self.limits)
        window.load(json.loads(admission) if admission else {}, active=active, running=running)
        window.maximum = self.limits[1]
        window.limit = min(window.limit, window.maximum)
        return window, now

    def _save(self, db: Database, window: Window) -> None:
        state = json.dumps(window.dump())
        db.execute("UPDATE wan_async.accounts SET admission = ? WHERE id = ?", (state, self.hold.account))

    def _take(self, db: Database, attempt: int, *, running: bool, epoch: int) -> None:
        hold = self.hold
        db.execute(_TAKE_SLOT, (hold.journal, attempt, hold.account, hold.holder, running, epoch))

    def _give_back(self, db: Database, attempts: Sequence[int]) -> list[bool]:
        """Frees slots; of each one, whether its task was running."""
        query = (
            f"DELETE FROM wan_async.slots WHERE journal = ? AND attempt IN ({marks_for(attempts)}) RETURNING running"
        )
        return [bool(running) for (running,) in db.execute(query, (self.hold.journal, *attempts))]

    def _tell(self, db: Database, window: Window, now: float) -> None:
        """Tells all workers, this one included, how many slots are free once the transaction is committed."""
        free = _free(window, now)
        db.execute("SELECT pg_notify(?, ?)", (CHANNEL, f"{self.hold.account} {window.limit} {free}"))


def _free(window: Window, now: float) -> int:
    is_open = window.may_start(now)
    return max(0, min(window.limit - window.active, window.maximum)) if is_open else 0


def parsed(payload: str) -> tuple[int, int, int]:
    """Account, limit and free slots of a notification."""
    account, limit, free = map(int, payload.split())
    return account, limit, free
