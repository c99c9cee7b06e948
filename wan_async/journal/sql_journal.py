"""The journal in an SQL database, but for how it is opened: `SqliteJournal` and `PostgresJournal` do that.

Each method is one statement, or one function that runs in the next group commit of the database's one writer.
`wan_async.journal.tables` describes the tables.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from typing import Any

from wan_async.domain.attempt import Attempt, Clip, Money, Unassigned
from wan_async.domain.batch import Enlisted
from wan_async.domain.lifecycle import LIFECYCLE, OPEN, PREVIOUS_STATES, RECOVERABLE, UNDECIDED, State
from wan_async.domain.remote_task import TaskDetail
from wan_async.errors import Unusable
from wan_async.journal.base import ContentLocked, Journal, NameTaken, OverBudget, TaskTaken
from wan_async.journal.enrollment import JobRow, enroll
from wan_async.journal.metadata import SqlMetadata
from wan_async.journal.queries import (
    ALL,
    ATTEMPT_COLUMNS,
    JOBS_CALLED,
    RESULTS,
    STORED,
    UNANSWERED_OF,
    UNASSIGNED,
    attempt_of,
    marks_for,
    stored_of,
    todo_query,
    unassigned_of,
)
from wan_async.journal.sql_interface import Database, upsert


class SqlJournal(SqlMetadata, Journal):
    """The attempts of a journal.

    Attributes:
        conflicts: what the database raises for a row that a constraint refuses.
    """

    conflicts: type[Exception]

    def before_intent(self, db: Database, attempt: Attempt, cap: int | None) -> int | None:
        """Called in the transaction of an intent, before it is written. What it raises refuses the intent.

        Returns:
            The budget that counts, in micro-dollars; `cap` is that of this process.
        """
        return cap

    def after_write(
        self, db: Database, attempt_id: int, attempt: Attempt, state: State, *, at_limit: bool = False
    ) -> None:
        """Called in the transaction that writes an attempt's row, with its new state."""

    async def money(self) -> Money:
        return Money(*(await self._read("SELECT settled, reserved FROM money"))[0])

    async def enroll(self, jobs: Sequence[Enlisted], specs: Iterable[str]) -> None:
        rows: list[JobRow] = []

        def change(db: Database) -> None:
            if not rows:  # a change may be run twice, and `specs` can be read only once
                rows.extend(
                    (j.key, j.planned.index, j.content, j.planned.name, s) for j, s in zip(jobs, specs, strict=True)
                )
            enroll(db, rows)

        await self._write(change)

    async def todo(self, *, retry_failed: bool, rerender: bool) -> list[str]:
        query, values = todo_query(retry_failed=retry_failed, rerender=rerender)
        return [key for (key,) in await self._read(query, *values)]

    async def counts(self) -> Counter[str]:
        rows = await self._read(f"SELECT state, count(*) FROM ({RESULTS}) AS results GROUP BY state")
        return Counter(dict(rows))

    async def job_failed(self, job: str, kind: str, message: str, *, sticky: bool) -> None:
        failure = json.dumps({"kind": kind, "message": message})
        await self._execute("UPDATE jobs SET failure = ?, sticky = ? WHERE key = ?", (failure, int(sticky), job))

    async def jobs_called(self, name: str) -> list[str]:
        found = await self._read(JOBS_CALLED, name, name)
        return [key for key, rank in found if rank == found[0][1]]

    async def claim(self, job: str, folded: str, name: str) -> None:
        def change(db: Database) -> None:
            db.execute(
                "INSERT INTO names VALUES (?, ?, ?) ON CONFLICT (folded) DO UPDATE SET name = excluded.name, "
                "job = excluded.job WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.key = names.job AND j.position "
                "IS NOT NULL)",
                (folded, name, job),
            )
            if db.execute("SELECT job FROM names WHERE folded = ?", (folded,)).fetchone()[0] != job:
                raise NameTaken

        await self._write(change)

    async def owner_of(self, folded: str) -> str | None:
        rows = await self._read("SELECT job FROM names WHERE folded = ?", folded)
        return str(rows[0][0]) if rows else None

    async def open_attempts(self) -> list[Attempt]:
        return await self._attempts_in(OPEN)

    async def unanswered(self) -> list[Attempt]:
        return await self._attempts_in(UNDECIDED)

    async def _attempts_in(self, states: Sequence[State]) -> list[Attempt]:
        query = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE state IN ({marks_for(states)}) ORDER BY id"
        return [attempt_of(row) for row in await self._read(query, *states)]

    async def to_recheck(self) -> list[Attempt]:
        query = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE recheck ORDER BY id"
        return [attempt_of(row) for row in await self._read(query)]

    async def stored_attempts(self, after: int = 0, limit: int = -1) -> list[tuple[Attempt, list[Clip]]]:
        return stored_of(await self._read(STORED, after, ALL if limit < 0 else limit))

    async def holders(self) -> dict[str, str]:
        query = (
            f"SELECT content, job FROM attempts WHERE state IN ({marks_for(RECOVERABLE)}) "
            "ORDER BY state = 'stored', token IS NOT NULL OR task_id IS NOT NULL, id DESC"
        )
        return dict(await self._read(query, *RECOVERABLE))

    async def jobs_with_clips(self) -> set[str]:
        return {key for (key,) in await self._read("SELECT DISTINCT job FROM attempts WHERE state = 'stored'")}

    async def stored_at(self, job: str, content: str) -> tuple[Attempt, list[Clip]] | None:
        query = (
            f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE job = ? AND content = ? AND state = 'stored' "
            "ORDER BY id DESC LIMIT 1"
        )
        rows = await self._read(query, job, content)
        if not rows:
            return None
        attempt = attempt_of(rows[0])
        return attempt, await self.clips(attempt)

    async def share(self, attempt: Attempt, clips: Sequence[Clip], at: float) -> None:
        def change(db: Database) -> tuple[int, int]:
            row = _write_row(db, attempt, State.STORED)
            db.execute("UPDATE attempts SET cost = 0, stored_at = ? WHERE id = ?", (at, row[0]))
            db.executemany(
                "INSERT INTO clips VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(row[0], *astuple(clip)) for clip in clips],
            )
            return row

        attempt.id, attempt.number = await self._write(change)
        attempt.state, attempt.cost = State.STORED, 0

    async def unshared(self, attempt: Attempt) -> None:
        await self._update(attempt, state=State.REJECTED, reason="the clip shared with another job is gone")

    async def has_another(self, attempt: Attempt, *, or_missing: bool) -> bool:
        states = [state for state in RECOVERABLE if or_missing or state is not State.MISSING]
        query = "SELECT 1 FROM attempts WHERE job = ? AND content = ? AND id <> ?"
        query += f" AND state IN ({marks_for(states)}) LIMIT 1"
        return bool(await self._read(query, attempt.job, attempt.content, attempt.id, *states))

    async def contents(self) -> list[tuple[dict[str, str], str]]:
        rows = await self._read(
            "SELECT form, image FROM attempts WHERE id IN (SELECT max(id) FROM attempts GROUP BY content)"
        )
        return [(json.loads(form), image) for form, image in rows]

    async def dearest(self, fields: Sequence[str]) -> dict[tuple[str, ...], int]:
        columns = "".join("json_extract(form, ?), " for _ in fields)
        groups = ", ".join(map(str, range(1, len(fields) + 1)))
        query = f"SELECT {columns}max(cost) FROM attempts WHERE cost > 0" + (f" GROUP BY {groups}" if fields else "")
        rows = await self._read(query, *(f"$.{field}" for field in fields))
        return {tuple(values): cost for *values, cost in rows if cost is not None}

    async def latest_tasks(self) -> list[str]:
        rows = await self._read("SELECT task_id FROM attempts WHERE task_id IS NOT NULL ORDER BY id DESC LIMIT 5")
        return [task for (task,) in rows]

    async def owned(self) -> list[tuple[str | None, str | None]]:
        query = "SELECT task_id, token FROM attempts WHERE task_id IS NOT NULL OR token IS NOT NULL"
        return [(task_id, token) for task_id, token in await self._read(query)]

    async def token_of(self, task_id: str) -> str | None:
        rows = await self._read("SELECT token FROM attempts WHERE task_id = ?", task_id)
        return rows[0][0] if rows else None

    async def intent(self, attempt: Attempt, *, cap: int | None) -> None:
        def change(db: Database) -> tuple[int, int]:
            budget = self.before_intent(db, attempt, cap)
            if budget is not None:
                settled, reserved = db.execute("SELECT settled, reserved FROM money").fetchone()
                if settled + reserved + attempt.reserved > budget:
                    raise OverBudget
            if db.execute(UNANSWERED_OF, (attempt.content, attempt.id)).fetchone():
                raise ContentLocked
            try:
                row = _write_row(db, attempt, State.INTENT)
            except self.conflicts:  # the unique index is the second guard
                raise ContentLocked from None
            self.after_write(db, row[0], attempt, State.INTENT)
            return row

        attempt.id, attempt.number = await self._write(change)
        attempt.state = State.INTENT
        attempt.closed_at = attempt.reason = None

    async def adopt(self, attempt: Attempt, task_id: str, token: str | None, answer: bytes, at: float) -> None:
        def change(db: Database) -> tuple[int, int]:
            row = _write_row(db, attempt, State.ACCEPTED)
            query = "UPDATE attempts SET task_id = ?, token = ?, answer = ?, accepted_at = ?, adopted = ? WHERE id = ?"
            with self._task_taken():
                db.execute(query, (task_id, token, answer, at, True, row[0]))
            self.after_write(db, row[0], attempt, State.ACCEPTED)
            return row

        attempt.id, attempt.number = await self._write(change)
        attempt.state, attempt.adopted, attempt.accepted_at = State.ACCEPTED, True, at
        attempt.task_id, attempt.token = task_id, token

    async def accepted(
        self, attempt: Attempt, task_id: str | None, token: str | None, answer: bytes, at: float, *, adopted: bool
    ) -> None:
        await self._update(
            attempt, state=State.ACCEPTED, task_id=task_id, token=token, answer=answer, accepted_at=at, adopted=adopted
        )

    async def rejected(self, attempt: Attempt, reason: str, *, at_limit: bool = False) -> None:
        await self._update(attempt, state=State.REJECTED, reason=reason, at_limit=at_limit)

    async def unknown(self, attempt: Attempt, reason: str, at: float) -> None:
        await self._update(attempt, state=State.UNKNOWN, closed_at=at, reason=reason)

    async def absent(self, attempt: Attempt) -> None:
        await self._update(attempt, state=State.ABSENT)

    async def quarantined(
        self, attempt: Attempt, reason: str, candidates: Sequence[TaskDetail] = (), at: float = 0.0
    ) -> None:
        rows = [(task.id, task.socketaccesstoken or None, task.model_dump_json(), at) for task in candidates]

        def also(db: Database) -> None:
            db.executemany(
                "INSERT INTO unassigned (task_id, token, state, task, seen_at, clips) "
                "VALUES (?, ?, 'running', ?, ?, '[]') ON CONFLICT (task_id) DO NOTHING",
                rows,
            )
            links = [(task_id, attempt.id) for task_id, *_ in rows]
            db.executemany("INSERT INTO candidates VALUES (?, ?) ON CONFLICT DO NOTHING", links)

        await self._update(attempt, also, state=State.QUARANTINED, reason=reason)

    async def abandoned(self, attempt: Attempt) -> None:
        await self._update(attempt, state=State.ABANDONED)

    async def found(self, attempt: Attempt) -> None:
        await self._update(attempt, state=State.ACCEPTED)

    async def ended(
        self,
        attempt: Attempt,
        *,
        task_id: str | None,
        status: str,
        pexit: str | None,
        cost: int,
        outputs: Sequence[tuple[str, int | None, str]],
        reason: str | None,
        at: float,
    ) -> None:
        await self._update(
            attempt,
            state=State.ENDED,
            task_id=task_id,
            status=status,
            pexit=pexit,
            cost=cost,
            outputs=list(outputs),
            reason=reason,
            ended_at=at,
            recheck=False,
        )

    async def closed(self, attempt: Attempt, state: State, reason: str) -> None:
        await self._update(attempt, state=state, reason=reason, recheck=state is State.CANCELLED)

    async def rechecked(self, attempt: Attempt, cost: int, *, again: bool) -> None:
        await self._update(attempt, cost=cost, recheck=again)

    async def reopened(self, attempt: Attempt) -> None:
        await self._update(attempt, state=State.ENDED)

    async def stored(self, attempt: Attempt, at: float) -> None:
        await self._update(attempt, state=State.STORED, stored_at=at)

    async def clips(self, attempt: Attempt) -> list[Clip]:
        query = "SELECT number, file, etag, sha256, bytes, content_type FROM clips WHERE attempt = ? ORDER BY number"
        return [Clip(*row) for row in await self._read(query, attempt.id)]

    async def part(self, attempt: Attempt, number: int, file: str, etag: str) -> None:
        await self._execute(
            "INSERT INTO clips (attempt, number, file, etag) VALUES (?, ?, ?, ?) ON CONFLICT (attempt, number) "
            "DO UPDATE SET file = excluded.file, etag = excluded.etag",
            (attempt.id, number, file, etag),
        )

    async def checked(self, attempt: Attempt, clip: Clip) -> None:
        await self._execute(
            upsert("clips", ("attempt", "number"), "file", "etag", "sha256", "bytes", "content_type"),
            (attempt.id, clip.number, clip.file, clip.etag, clip.sha256, clip.bytes, clip.content_type),
        )

    async def renamed(self, old: str, new: str) -> None:
        await self._execute("UPDATE clips SET file = ? WHERE file = ?", (new, old))

    async def file_known(self, file: str) -> int | None:
        rows = await self._read("SELECT attempt FROM clips WHERE file = ?", file)
        return int(rows[0][0]) if rows else None

    async def present_take(self, one: int, other: int) -> int:
        query = (
            "SELECT attempts.id FROM attempts LEFT JOIN jobs ON jobs.key = attempts.job AND jobs.position IS NOT NULL "
            "WHERE attempts.id IN (?, ?) ORDER BY coalesce(jobs.content = attempts.content, FALSE) DESC, id DESC"
        )
        return int((await self._read(query, one, other))[0][0])

    async def hash_of(self, file: str) -> str | None:
        rows = await self._read("SELECT sha256 FROM clips WHERE file = ? AND sha256 IS NOT NULL", file)
        return str(rows[0][0]) if rows else None

    async def unassigned(self) -> list[Unassigned]:
        return [unassigned_of(row) for row in await self._read(UNASSIGNED)]

    async def unassigned_changed(self, row: Unassigned, **columns: Any) -> None:
        values = [
            value.model_dump_json() if isinstance(value, TaskDetail)
            else json.dumps([astuple(clip) for clip in value]) if isinstance(value, list)
            else value
            for value in columns.values()
        ]  # fmt: skip
        names = ", ".join(f"{name} = ?" for name in columns)
        await self._execute(f"UPDATE unassigned SET {names} WHERE task_id = ?", (*values, row.task_id))
        for name, value in columns.items():
            setattr(row, name, value)

    async def unassigned_gone(self, row: Unassigned) -> None:
        def change(db: Database) -> None:
            db.execute("DELETE FROM unassigned WHERE task_id = ?", (row.task_id,))
            db.execute("DELETE FROM candidates WHERE task_id = ?", (row.task_id,))

        await self._write(change)

    async def candidates(self) -> set[str]:
        query = "SELECT c.task_id FROM candidates c JOIN attempts a ON a.id = c.attempt AND a.state = 'quarantined'"
        return {task for (task,) in await self._read(query)}

    async def assignable(self, job: str, task_id: str) -> Attempt | None:
        query = (
            f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE job = ? AND (state = 'quarantined' OR task_id = ?) ORDER BY "
            "task_id IS NOT NULL DESC, id IN (SELECT attempt FROM candidates WHERE task_id = ?) DESC, id DESC LIMIT 1"
        )
        rows = await self._read(query, job, task_id, task_id)
        return attempt_of(rows[0]) if rows else None

    @contextmanager
    def _task_taken(self) -> Iterator[None]:
        try:
            yield
        except self.conflicts as error:
            raise TaskTaken(str(error)) from None

    async def _update(
        self,
        attempt: Attempt,
        also: Callable[[Database], None] | None = None,
        *,
        at_limit: bool = False,
        **columns: Any,
    ) -> None:
        if "state" in columns and not LIFECYCLE[columns["state"]].keeps_reservation:
            columns["reserved"] = 0
        values = {name: json.dumps(value) if isinstance(value, list) else value for name, value in columns.items()}
        before = PREVIOUS_STATES[columns["state"]] if "state" in columns else ()
        query = f"UPDATE attempts SET {', '.join(f'{name} = ?' for name in values)} WHERE id = ?"
        query += f" AND state IN ({marks_for(before)})" if before else ""

        def change(db: Database) -> None:
            with self._task_taken():
                cursor = db.execute(query, (*values.values(), attempt.id, *before))
            if cursor.rowcount != 1:
                raise _impossible(attempt, columns.get("state", attempt.state))
            if also is not None:
                also(db)
            self.after_write(db, attempt.id, attempt, columns.get("state", attempt.state), at_limit=at_limit)

        await self._write(change)
        for name, value in columns.items():
            if name in Attempt.__slots__:
                setattr(attempt, name, value)


def _impossible(attempt: Attempt, state: State) -> Unusable:
    return Unusable(
        f"attempt {attempt.number} at job {attempt.job} can't become {state}: its state in the journal does not allow "
        "that. The journal was not changed; run the same command again"
    )


def _write_row(db: Database, attempt: Attempt, state: State) -> tuple[int, int]:
    """Inserts a new attempt, or writes a rejected one again; its id and number."""
    before = PREVIOUS_STATES[State.INTENT]
    row: tuple[int, int] | None = db.execute(
        "INSERT INTO attempts (id, job, number, content, state, form, image, name, reserved, high_id, intent_at) "
        "VALUES (coalesce(?, 1 + (SELECT max(id) FROM attempts), 1), ?, "
        "coalesce(nullif(?, 0), 1 + (SELECT max(number) FROM attempts WHERE job = ?), 1), ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET state = excluded.state, form = excluded.form, "
        "image = excluded.image, reserved = excluded.reserved, high_id = excluded.high_id, "
        "intent_at = excluded.intent_at, closed_at = NULL, reason = NULL "
        f"WHERE attempts.state IN ({marks_for(before)}) RETURNING id, number",
        (
            attempt.id or None, attempt.job, attempt.number, attempt.job, attempt.content, state,
            json.dumps(attempt.form), attempt.image, attempt.name, attempt.reserved, attempt.high_id,
            attempt.intent_at, *before,
        ),
    ).fetchone()  # fmt: skip
    if row is None:
        raise _impossible(attempt, state)
    db.execute("UPDATE jobs SET failure = NULL, sticky = 0 WHERE key = ?", (attempt.job,))
    return row
