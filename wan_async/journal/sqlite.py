"""The journal in SQLite."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

from wan_async.domain.attempt import Account, Attempt, Clip, Money, Unassigned
from wan_async.domain.batch import Enlisted
from wan_async.domain.lifecycle import OPEN, PREVIOUS_STATES, State
from wan_async.domain.task import Task
from wan_async.errors import Unusable
from wan_async.journal import start_counter
from wan_async.journal.base import FILE, NameTaken, OverBudget, folders_of
from wan_async.journal.connection import Connection, open_connection, refuse_link
from wan_async.journal.integrity import LAYOUT
from wan_async.journal.queries import (
    ATTEMPT_COLUMNS,
    RESULTS,
    UNASSIGNED,
    attempt_of,
    marks_for,
    todo_query,
    unassigned_of,
)

log = logging.getLogger(__name__)


def _impossible(attempt: Attempt, state: State) -> Unusable:
    return Unusable(
        f"attempt {attempt.number} at job {attempt.job} can't become {state}: the journal knows better than this run, "
        "and stays as it is; run the same command again"
    )


class Journal:
    """The open journal of one output folder. Make it with `Journal.open`.

    Attributes:
        starts: how often it was opened before, by itself or by the file beside it.
        stale: whether the two differed, and what that may have lost was not looked for since.
    """

    def __init__(self, ledger: Connection, starts: int, *, stale: bool) -> None:
        self.path = ledger.path
        self.starts = starts
        self.stale = stale
        self._write = ledger.write
        self._read = ledger.read

    @classmethod
    @asynccontextmanager
    async def open(cls, home: Path, account: Account | None, *, inline: bool = False) -> AsyncIterator[Journal]:
        """The journal that lies in `home`, made if it isn't there, locked until the block is left.

        Args:
            home: the folder of its own that it lies in: `FOLDER` in the output folder.
            account: whose it must be, unless it has no attempts yet; None for what asks no service anything.
            inline: commit in the event loop's own thread; for virtual time, where threads can't be waited for.

        Raises:
            Unusable: another process holds it, it belongs to another account, it is damaged, or it can't be read or
                written.
        """
        found = (0, False)

        def check(db: sqlite3.Connection) -> None:
            nonlocal found
            if account is not None:
                _belong(db, account)
            found = _count_start(db, home)

        for folder in folders_of(home):
            refuse_link(folder)
        async with open_connection(home / FILE, layout=LAYOUT, check=check, inline=inline) as ledger:
            yield cls(ledger, found[0], stale=found[1])

    async def _execute(self, query: str, values: Sequence[object]) -> None:
        def change(db: sqlite3.Connection) -> None:
            db.execute(query, values)

        await self._write(change)

    async def _execute_many(self, query: str, rows: Sequence[Sequence[object]]) -> None:
        def change(db: sqlite3.Connection) -> None:
            db.executemany(query, rows)

        await self._write(change)

    async def rotated(self, account: Account) -> bool:
        """Whether the journal has attempts, and another API key than the account's made the last of them."""
        return bool(await self._read("SELECT 1 FROM meta WHERE name = 'key' AND value <> ?", await self._hash(account)))

    async def accept_key(self, account: Account, at: float) -> None:
        """The account's key was proven to be of the same account: record it. Its project may be another."""
        rows = [("key", await self._hash(account)), ("key_since", repr(at))]

        def change(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
            db.execute("DELETE FROM projects")

        await self._write(change)

    async def _hash(self, account: Account) -> str:
        return _keyed_hash((await self._read("SELECT value FROM meta WHERE name = 'salt'"))[0][0], account.key)

    async def money(self) -> Money:
        """Settled and reserved amounts over the journal's lifetime."""
        return Money(*(await self._read("SELECT settled, reserved FROM money"))[0])

    async def enroll(self, jobs: Sequence[Enlisted], specs: Iterable[str]) -> None:
        """The batch as it stands now. Jobs that it no longer names keep their attempts.

        A new key whose content is stored, or under way, under a key that the batch no longer names takes that over.

        Args:
            jobs: all of them, in batch order.
            specs: a JSON text a job, for people: what `status` and the gallery show of it.
        """
        rows: list[tuple[object, ...]] = []

        def change(db: sqlite3.Connection) -> None:
            if not rows:  # a change may be tried twice, and `specs` read only once
                rows.extend(
                    (j.key, j.planned.index, j.content, j.planned.name, s) for j, s in zip(jobs, specs, strict=True)
                )
            named = {row[0] for row in rows}
            before = db.execute("SELECT key FROM jobs WHERE position IS NOT NULL")
            dropped = [(key,) for (key,) in before if key not in named]
            db.executemany("UPDATE jobs SET position = NULL WHERE key = ?", dropped)
            db.executemany(
                "INSERT INTO jobs (key, position, content, name, spec) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET position = excluded.position, name = excluded.name, "
                "spec = excluded.spec, content = excluded.content, "
                "failure = CASE WHEN content = excluded.content THEN failure END, "
                "sticky = CASE WHEN content = excluded.content THEN sticky ELSE 0 END "
                "WHERE (position, content, name, spec) IS NOT "
                "(excluded.position, excluded.content, excluded.name, excluded.spec)",
                rows,
            )
            free: dict[str, list[int]] = {}
            kept = ("stored", *OPEN)
            for content, attempt in db.execute(
                "SELECT a.content, a.id FROM jobs o JOIN attempts a "
                f"ON a.job = o.key AND a.state IN ({marks_for(kept)}) WHERE o.position IS NULL "
                "ORDER BY a.state = 'stored', a.id DESC",
                kept,
            ):
                free.setdefault(content, []).append(attempt)
            if not free:
                return
            wanting = db.execute(
                "SELECT key, content FROM jobs j WHERE position IS NOT NULL AND NOT EXISTS "
                "(SELECT 1 FROM attempts b WHERE b.job = j.key AND b.content = j.content) ORDER BY position"
            ).fetchall()
            for key, content in wanting:
                if free.get(content):
                    db.execute("UPDATE attempts SET job = ? WHERE id = ?", (key, free[content].pop()))

        await self._write(change)

    async def todo(self, *, retry_failed: bool, rerender: bool) -> list[str]:
        """Keys of the batch's jobs that nothing was or is being done for, in batch order.

        Args:
            retry_failed: also those that failed for good, were billed for a failure, or were cancelled.
            rerender: also those whose paid clip is missing, or was given up.
        """
        query, values = todo_query(retry_failed=retry_failed, rerender=rerender)
        return [key for (key,) in await self._read(query, *values)]

    async def open_attempts(self) -> list[Attempt]:
        """Every attempt that is to be taken up again, oldest first, whether or not the batch names its job."""
        query = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE state IN ({marks_for(OPEN)}) ORDER BY id"
        return [attempt_of(row) for row in await self._read(query, *OPEN)]

    async def has_another(self, attempt: Attempt, *, or_missing: bool) -> bool:
        """Whether another attempt at the same job and content has a clip, or may get one: then none is to be made.

        Args:
            attempt: the one that is not asked about.
            or_missing: whether one that is missing counts.
        """
        states = ["stored", *(state for state in OPEN if or_missing or state != "missing")]
        query = "SELECT 1 FROM attempts WHERE job = ? AND content = ? AND id <> ?"
        query += f" AND state IN ({marks_for(states)}) LIMIT 1"
        return bool(await self._read(query, attempt.job, attempt.content, attempt.id, *states))

    async def stored_attempts(self, after: int = 0, limit: int = -1) -> list[tuple[Attempt, list[Clip]]]:
        """The stored clips of the batch's jobs, to be compared with the disk.

        Args:
            after: only attempts with a higher id.
            limit: at most so many of them.
        """
        rows = await self._read(
            f"SELECT {', '.join('a.' + c for c in ATTEMPT_COLUMNS.split(', '))}, "
            "c.number, c.file, c.etag, c.sha256, c.bytes, c.content_type "
            "FROM attempts a JOIN clips c ON c.attempt = a.id WHERE a.id IN ("
            "SELECT b.id FROM attempts b JOIN jobs j ON j.key = b.job AND j.content = b.content "
            "AND j.position IS NOT NULL WHERE b.state = 'stored' AND b.id > ? ORDER BY b.id LIMIT ?) "
            "ORDER BY a.id, c.number",
            after,
            limit,
        )
        found: dict[int, tuple[Attempt, list[Clip]]] = {}
        width = len(ATTEMPT_COLUMNS.split(", "))
        for row in rows:
            if row[0] not in found:
                found[row[0]] = (attempt_of(row[:width]), [])
            found[row[0]][1].append(Clip(*row[width:]))
        return list(found.values())

    async def claim(self, job: str, folded: str, name: str) -> None:
        """The job owns the output name from now on. It takes it over from a job that the batch no longer names.

        Raises:
            NameTaken: another job of the batch owns it.
        """

        def change(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO names VALUES (?, ?, ?) ON CONFLICT (folded) DO UPDATE SET name = excluded.name, "
                "job = excluded.job WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.key = names.job AND j.position "
                "IS NOT NULL)",
                (folded, name, job),
            )
            if db.execute("SELECT job FROM names WHERE folded = ?", (folded,)).fetchone()[0] != job:
                raise NameTaken

        await self._write(change)

    async def intent(self, attempt: Attempt, *, cap: int | None) -> None:
        """Step 2: the intent to pay, before Run is sent. A new row gets its id and number; a refused one is used again.

        Raises:
            OverBudget: settled, reserved and this one would be above `cap` micro-dollars.
            Unusable: the row could not be made durable, or is in no state for it: nothing may be sent.
        """

        def change(db: sqlite3.Connection) -> tuple[int, int]:
            if cap is not None:
                settled, reserved = db.execute("SELECT settled, reserved FROM money").fetchone()
                if settled + reserved + attempt.reserved > cap:
                    raise OverBudget
            values = (
                attempt.id or None, attempt.job, attempt.number, attempt.job, attempt.content,
                json.dumps(attempt.form), attempt.image, attempt.name, attempt.reserved, attempt.high_id,
                attempt.intent_at,
            )  # fmt: skip
            cursor = db.execute(
                "INSERT INTO attempts (id, job, number, content, state, form, image, name, reserved, "
                "high_id, intent_at) VALUES (?, ?, coalesce(nullif(?, 0), 1 + (SELECT max(number) FROM attempts WHERE "
                "job = ?), 1), ?, 'intent', ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                "state = 'intent', form = excluded.form, image = excluded.image, "
                "reserved = excluded.reserved, high_id = excluded.high_id, intent_at = excluded.intent_at, "
                "closed_at = NULL, reason = NULL "
                f"WHERE state IN ({marks_for(PREVIOUS_STATES['intent'])}) RETURNING id, number",
                (*values, *PREVIOUS_STATES["intent"]),
            )
            row: tuple[int, int] | None = cursor.fetchone()
            if row is None:
                raise _impossible(attempt, "intent")
            db.execute("UPDATE jobs SET failure = NULL, sticky = 0 WHERE key = ?", (attempt.job,))
            return row

        attempt.id, attempt.number = await self._write(change)
        attempt.state = "intent"
        attempt.closed_at = attempt.reason = None

    async def accepted(
        self, attempt: Attempt, task_id: str | None, token: str | None, answer: bytes, at: float, *, adopted: bool
    ) -> None:
        """Step 4: the raw answer, before anything else looks at it.

        Raises:
            sqlite3.IntegrityError: another attempt of this journal owns the task.
            Unusable: the row could not be made durable.
        """
        await self._update(
            attempt, state="accepted", task_id=task_id, token=token, answer=answer, accepted_at=at, adopted=adopted
        )

    async def rejected(self, attempt: Attempt, reason: str) -> None:
        """A definite refusal: no task exists, nothing is reserved."""
        await self._update(attempt, state="rejected", reserved=0, reason=reason)

    async def unknown(self, attempt: Attempt, reason: str, at: float) -> None:
        """Run was sent and not answered; its connection was gone at `at`. What was reserved stays so."""
        await self._update(attempt, state="unknown", closed_at=at, reason=reason)

    async def absent(self, attempt: Attempt) -> None:
        """It is proven that the unanswered Run made no task."""
        await self._update(attempt, state="absent", reserved=0)

    async def quarantined(
        self, attempt: Attempt, reason: str, candidates: Sequence[Task] = (), at: float = 0.0
    ) -> None:
        """Nobody can tell whether the unanswered Run made a task: it counts as spent.

        Args:
            attempt: the attempt.
            reason: why it can't be told.
            candidates: tasks with an id that may be its own; recorded in the same commit, see `unassigned`.
            at: when that was, in unix seconds.
        """
        rows = [(task.id, task.socketaccesstoken or None, task.model_dump_json(), at) for task in candidates]

        def also(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO unassigned (task_id, token, state, task, seen_at, clips) "
                "VALUES (?, ?, 'running', ?, ?, '[]') ON CONFLICT (task_id) DO NOTHING",
                rows,
            )
            links = [(task_id, attempt.id) for task_id, *_ in rows]
            db.executemany("INSERT OR IGNORE INTO candidates VALUES (?, ?)", links)

        await self._update(attempt, also, state="quarantined", reason=reason)

    async def abandoned(self, attempt: Attempt) -> None:
        """The user wants the job sent again at the risk of paying twice; this one goes on counting as spent."""
        await self._update(attempt, state="abandoned")

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
        """Step 5: what the ended task says and costs; from here on its clip is owed to the user."""
        await self._update(
            attempt,
            state="ended",
            task_id=task_id,
            status=status,
            pexit=pexit,
            cost=cost,
            reserved=0,
            outputs=list(outputs),
            reason=reason,
            ended_at=at,
            recheck=False,
        )

    async def closed(self, attempt: Attempt, state: State, reason: str) -> None:
        """The attempt has no clip: `failed`, `cancelled`, `missing` or `given_up`.

        What it cost stays settled. A missing one was paid for: while its cost is unknown, its reservation stays. A
        cancelled one is asked for once more, since its charge or its outputs may appear late (WIRO_API 4).
        """
        kept = attempt.reserved if state in ("missing", "given_up") else 0
        recheck = state == "cancelled"
        await self._update(attempt, state=state, reserved=kept, reason=reason, recheck=recheck)

    async def rechecked(self, attempt: Attempt, cost: int, *, again: bool) -> None:
        """A cancelled task was asked once more: this is what it cost, and whether the next start asks again."""
        await self._update(attempt, cost=cost, recheck=again)

    async def to_recheck(self) -> list[Attempt]:
        """Cancelled attempts whose charge may appear yet, oldest first."""
        return [
            attempt_of(row)
            for row in await self._read(f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE recheck ORDER BY id")
        ]

    async def reopened(self, attempt: Attempt) -> None:
        """The file of a stored clip is gone: it is owed again."""
        await self._update(attempt, state="ended")

    async def job_failed(self, job: str, kind: str, message: str, *, sticky: bool) -> None:
        """The job failed; a sticky failure is not tried again unless asked."""
        failure = json.dumps({"kind": kind, "message": message})
        await self._execute("UPDATE jobs SET failure = ?, sticky = ? WHERE key = ?", (failure, sticky, job))

    async def clips(self, attempt: Attempt) -> list[Clip]:
        """What is known of the attempt's files."""
        query = "SELECT number, file, etag, sha256, bytes, content_type FROM clips WHERE attempt = ? ORDER BY number"
        return [Clip(*row) for row in await self._read(query, attempt.id)]

    async def part(self, attempt: Attempt, number: int, file: str, etag: str) -> None:
        """A download begins: `etag` is what its part may be resumed with."""
        await self._execute(
            "INSERT INTO clips (attempt, number, file, etag) VALUES (?, ?, ?, ?) ON CONFLICT (attempt, number) "
            "DO UPDATE SET file = excluded.file, etag = excluded.etag",
            (attempt.id, number, file, etag),
        )

    async def checked(self, attempt: Attempt, clip: Clip) -> None:
        """The part is complete, valid and durable: its hash is committed before the file gets its name."""
        await self._execute(
            "INSERT OR REPLACE INTO clips (attempt, number, file, etag, sha256, bytes, content_type) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (attempt.id, clip.number, clip.file, clip.etag, clip.sha256, clip.bytes, clip.content_type),
        )

    async def renamed(self, old: str, new: str) -> None:
        """A file of an earlier attempt has a new name."""
        await self._execute("UPDATE clips SET file = ? WHERE file = ?", (new, old))

    async def stored(self, attempt: Attempt, at: float) -> None:
        """The last step: every file of the attempt, and its sidecar, are durable under their names."""
        await self._update(attempt, state="stored", stored_at=at)

    async def unassigned(self) -> list[Unassigned]:
        """Tasks that may be quarantined attempts' own, oldest first; those that an attempt owns by now, too."""
        return [unassigned_of(row) for row in await self._read(UNASSIGNED)]

    async def unassigned_changed(self, row: Unassigned, **columns: Any) -> None:
        """What is known of an unassigned task has changed: its `state`, `task`, `ended_at`, `clips` or `reason`."""
        values = [
            value.model_dump_json() if isinstance(value, Task)
            else json.dumps([astuple(clip) for clip in value]) if isinstance(value, list)
            else value
            for value in columns.values()
        ]  # fmt: skip
        names = ", ".join(f"{name} = ?" for name in columns)
        await self._execute(f"UPDATE unassigned SET {names} WHERE task_id = ?", (*values, row.task_id))
        for name, value in columns.items():
            setattr(row, name, value)

    async def unassigned_gone(self, row: Unassigned) -> None:
        """The task has an owner who stored its clip: nothing of it is left to be done."""

        def change(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM unassigned WHERE task_id = ?", (row.task_id,))
            db.execute("DELETE FROM candidates WHERE task_id = ?", (row.task_id,))

        await self._write(change)

    async def jobs_called(self, name: str) -> list[str]:
        """Keys of jobs by their key, else by their label, else by their output name; also of those no batch names."""
        query = (
            "SELECT key, CASE ?1 WHEN key THEN 0 WHEN json_extract(spec, '$.label') THEN 1 ELSE 2 END AS rank "
            "FROM jobs WHERE ?1 IN (key, json_extract(spec, '$.label'), name) ORDER BY rank, key"
        )
        found = await self._read(query, name)
        return [key for key, rank in found if rank == found[0][1]]

    async def assignable(self, job: str, task_id: str) -> Attempt | None:
        """The attempt at a job that a task may be assigned to, or already was: the latest that it is a candidate of."""
        query = (
            f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE job = ? AND (state = 'quarantined' OR task_id = ?) ORDER BY "
            "task_id IS NOT NULL DESC, id IN (SELECT attempt FROM candidates WHERE task_id = ?) DESC, id DESC LIMIT 1"
        )
        rows = await self._read(query, job, task_id, task_id)
        return attempt_of(rows[0]) if rows else None

    async def _update(
        self, attempt: Attempt, also: Callable[[sqlite3.Connection], None] | None = None, **columns: Any
    ) -> None:
        values = {
            name: json.dumps(value) if isinstance(value, list) else int(value) if isinstance(value, bool) else value
            for name, value in columns.items()
        }
        before = PREVIOUS_STATES[columns["state"]] if "state" in columns else ()
        query = f"UPDATE attempts SET {', '.join(f'{name} = ?' for name in values)} WHERE id = ?"
        query += f" AND state IN ({marks_for(before)})" if before else ""

        def change(db: sqlite3.Connection) -> None:
            cursor = db.execute(query, (*values.values(), attempt.id, *before))
            if cursor.rowcount != 1:
                raise _impossible(attempt, columns.get("state", attempt.state))
            if also is not None:
                also(db)

        await self._write(change)
        for name, value in columns.items():
            if name in Attempt.__slots__:
                setattr(attempt, name, value)

    async def upload_of(self, sha256: str, since: float) -> str | None:
        """The URL of an image that was uploaded after `since`."""
        rows = await self._read("SELECT url FROM uploads WHERE sha256 = ? AND at > ?", sha256, since)
        return str(rows[0][0]) if rows else None

    async def uploaded(self, sha256: str, url: str, at: float) -> None:
        """An image lies with the service."""
        await self._execute("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?)", (sha256, url, at))

    async def forget_upload(self, sha256: str) -> None:
        """The uploaded image is to be sent anew next time."""
        await self._execute("DELETE FROM uploads WHERE sha256 = ?", (sha256,))

    async def hashed(self, images: Mapping[str, tuple[int, int, str]]) -> None:
        """Hashes of images, by path: (size in bytes, mtime in nanoseconds, sha256)."""
        rows = [(path, *facts) for path, facts in images.items()]
        await self._execute_many("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", rows)

    async def echoes(self) -> dict[str, bool]:
        """Parameters that this service was seen to echo, and whether always verbatim."""
        return {name: bool(faithful) for name, faithful in await self._read("SELECT field, faithful FROM echoes")}

    async def echoed(self, seen: Mapping[str, bool]) -> None:
        """What an own task taught about the echo; once a field came back changed, it is never trusted again."""
        await self._execute_many(
            "INSERT INTO echoes VALUES (?, ?) ON CONFLICT (field) DO UPDATE SET faithful = min(faithful, "
            "excluded.faithful)",
            [(name, int(faithful)) for name, faithful in seen.items()],
        )

    async def projects(self) -> set[str]:
        """Ids of the projects that this key's own tasks showed."""
        return {project for (project,) in await self._read("SELECT id FROM projects")}

    async def key_since(self) -> float:
        """Since when this key is used, in unix seconds: attempts from before may be of another project."""
        rows = await self._read("SELECT value FROM meta WHERE name = 'key_since'")
        return float(rows[0][0]) if rows else 0.0

    async def project_seen(self, project: str) -> None:
        """An own task is of this project."""
        await self._execute("INSERT OR IGNORE INTO projects VALUES (?)", (project,))

    async def remembers(self, name: str) -> bool:
        """Whether `remember` was called with this."""
        return bool(await self._read("SELECT 1 FROM meta WHERE name = ?", name))

    async def remember(self, name: str) -> None:
        """Keeps a fact about the account for later runs."""
        await self._execute("INSERT OR REPLACE INTO meta VALUES (?, '1')", (name,))

    async def is_new(self) -> bool:
        """Whether no run opened it before, so that it can't have lost anything."""
        return not self.starts and not await self._read("SELECT 1 FROM attempts LIMIT 1")

    async def complete_to(self) -> int:
        """The task id up to which this journal knows every task that came of it.

        Ids sort, and an intent is written before its Run is sent: of a task with a lower id than the highest known one
        the journal has at least the intent, even if its later changes were lost.
        """
        digits = "task_id NOT GLOB '*[^0-9]*' AND length(task_id) BETWEEN 1 AND 18"
        rows = await self._read(
            "SELECT max(coalesce((SELECT max(high_id) FROM attempts), 0), "
            f"coalesce((SELECT max(CAST(task_id AS INTEGER)) FROM attempts WHERE {digits}), 0), "
            "coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'first_id'), 0)), "
            "(SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'unowned_since')"
        )
        known, unowned_since = rows[0]
        return int(known) if unowned_since is None else min(known, unowned_since)

    async def begins_at(self, task_id: int) -> None:
        """A new journal: no task up to this id came of it."""
        await self._execute("INSERT OR REPLACE INTO meta VALUES ('first_id', ?)", (str(task_id),))

    async def unowned_since(self, task_id: int) -> None:
        """Tasks above this id that no attempt owns may have come of it: later runs look for them, too."""
        await self._execute("INSERT OR REPLACE INTO meta VALUES ('unowned_since', ?)", (str(task_id),))

    async def none_unowned(self) -> None:
        """Nothing that came of it is missing in it, as far as can be told."""
        await self._execute("DELETE FROM meta WHERE name IN ('unowned_since', 'stale')", ())
        self.stale = False

    async def upload_urls(self) -> dict[str, str]:
        """The URL of every image that was uploaded, by its sha256."""
        return dict(await self._read("SELECT sha256, url FROM uploads"))

    async def candidates(self) -> set[str]:
        """Ids of tasks that may be those of quarantined attempts."""
        query = "SELECT c.task_id FROM candidates c JOIN attempts a ON a.id = c.attempt AND a.state = 'quarantined'"
        return {task for (task,) in await self._read(query)}

    async def owned(self) -> list[tuple[str | None, str | None]]:
        """Id and token of every task that an attempt of this journal owns, as far as they are known."""
        query = "SELECT task_id, token FROM attempts WHERE task_id IS NOT NULL OR token IS NOT NULL"
        return [(task_id, token) for task_id, token in await self._read(query)]

    async def token_of(self, task_id: str) -> str | None:
        """The token of the attempt that owns a task id; None if none does, or none is known."""
        rows = await self._read("SELECT token FROM attempts WHERE task_id = ?", task_id)
        return rows[0][0] if rows else None

    async def found(self, attempt: Attempt) -> None:
        """The task of a missing attempt is there again, and runs."""
        await self._update(attempt, state="accepted")

    async def contents(self) -> list[tuple[dict[str, str], str]]:
        """Parameters and image of every content that was ever sent."""
        rows = await self._read("SELECT form, image FROM attempts GROUP BY content")
        return [(json.loads(form), image) for form, image in rows]

    async def latest_tasks(self) -> list[str]:
        """Ids of a few tasks, newest first."""
        rows = await self._read("SELECT task_id FROM attempts WHERE task_id IS NOT NULL ORDER BY id DESC LIMIT 5")
        return [task for (task,) in rows]

    async def dearest(self, fields: Sequence[str]) -> dict[tuple[str, ...], int]:
        """The cost of the dearest task so far, in micro-dollars, by the values that `fields` of its form have."""
        columns = "".join("json_extract(form, ?), " for _ in fields)
        groups = ", ".join(map(str, range(1, len(fields) + 1)))
        query = f"SELECT {columns}max(cost) FROM attempts WHERE cost > 0" + (f" GROUP BY {groups}" if fields else "")
        rows = await self._read(query, *(f"$.{field}" for field in fields))
        return {tuple(values): cost for *values, cost in rows if cost is not None}

    async def file_known(self, file: str) -> int | None:
        """The attempt whose clip the file is; None if it is none of ours."""
        rows = await self._read("SELECT attempt FROM clips WHERE file = ?", file)
        return int(rows[0][0]) if rows else None

    async def owner_of(self, folded: str) -> str | None:
        """The job that owns an output name."""
        rows = await self._read("SELECT job FROM names WHERE folded = ?", folded)
        return str(rows[0][0]) if rows else None

    async def counts(self) -> Counter[str]:
        """How many jobs of the batch stand how."""
        rows = await self._read(f"SELECT state, count(*) FROM ({RESULTS}) GROUP BY state")
        return Counter(dict(rows))


def _keyed_hash(salt: str, key: str) -> str:
    return hmac.new(bytes.fromhex(salt), key.encode(), hashlib.sha256).hexdigest()


def _count_start(db: sqlite3.Connection, home: Path) -> tuple[int, bool]:
    """Counts this start, here and in the file beside; how many there were before, and whether the journal is stale."""
    kept = dict(db.execute("SELECT name, value FROM meta WHERE name IN ('starts', 'starts_written', 'stale')"))
    for name in (start_counter.FILE, f"{start_counter.FILE}.tmp"):
        refuse_link(home / name)
    journal, written, file = int(kept.get("starts", 0)), int(kept.get("starts_written", 0)), start_counter.read(home)
    said = start_counter.difference(journal, written, file)
    if said is not None:
        log.warning("the journal %s may not know all that it paid for: %s", home / FILE, said)
    before = max(journal, file or 0)
    stale = said is not None or "stale" in kept
    now = str(before + 1)
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT OR REPLACE INTO meta VALUES ('starts', ?)", (now,))
    if stale:
        db.execute("INSERT OR REPLACE INTO meta VALUES ('stale', '1')")
    db.execute("COMMIT")
    start_counter.write(home, before + 1)
    db.execute("INSERT OR REPLACE INTO meta VALUES ('starts_written', ?)", (now,))
    return before, stale


def _belong(db: sqlite3.Connection, account: Account) -> None:
    kept = dict(db.execute("SELECT name, value FROM meta"))
    used = db.execute("SELECT EXISTS (SELECT 1 FROM attempts)").fetchone()[0]
    if used and kept["origin"] != account.origin:
        raise Unusable(
            f"this folder's journal belongs to the account at {kept['origin']}, not to {account.origin}: use another "
            "output folder (-o), or the same WIRO_BASE_URL as before"
        )
    if used:
        return
    salt = kept.get("salt") or secrets.token_hex(16)
    rows = {"salt": salt, "origin": account.origin, "key": _keyed_hash(salt, account.key)}
    if not rows.items() <= kept.items():
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM uploads")  # they lie with another account
        db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows.items())
        db.execute("COMMIT")
