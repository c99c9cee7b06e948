"""What a run must never forget: `OUT/.wan_async/journal.sqlite3`, written by the runner alone.

A method that returns has made its row durable (see `ledger`), so that "written before sent" is visible in the runner as
line order. An `Attempt` in memory follows the commit, never leads it. What the money stands at is kept by triggers,
inside the same transactions as the rows that move it.

    intent -> accepted -> ended -> stored
      |          |          |-> failed | cancelled -> ended   (a cancelled task may show its charge and outputs later)
      |          '-> missing <-'                       (not available now; every later run asks for it again)
      |-> rejected -> intent                           (a definite refusal: the same attempt is sent again)
      '-> unknown -> accepted | absent | quarantined -> accepted | abandoned (sent again at the user's own risk)
    missing -> accepted | ended                        (it is available again)
    missing -> given_up                                (at the user's request)
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import sqlite3
import zlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal

from wan_async import starts
from wan_async.errors import Unusable
from wan_async.jobs import Enlisted
from wan_async.ledger import Layout, Ledger, open_ledger, refuse_link
from wan_async.wire import Task

log = logging.getLogger(__name__)

VERSION = 2
FOLDER = ".wan_async"
FILE = "journal.sqlite3"
CLOCK_SECONDS = 600.0
"""How far our clock and the service's may be apart."""

State = Literal[
    "intent",
    "unknown",
    "absent",
    "quarantined",
    "rejected",
    "accepted",
    "ended",
    "stored",
    "failed",
    "cancelled",
    "missing",
    "given_up",
    "abandoned",
]
BEFORE: dict[State, tuple[State, ...]] = {
    "intent": ("rejected",),
    "rejected": ("intent",),
    "unknown": ("intent", "unknown"),
    "absent": ("unknown", "quarantined"),
    "quarantined": ("unknown", "quarantined"),
    "abandoned": ("quarantined",),
    "accepted": ("intent", "unknown", "quarantined", "accepted", "missing"),
    "ended": ("accepted", "ended", "stored", "missing", "cancelled"),
    "stored": ("ended",),
    "failed": ("ended",),
    "cancelled": ("ended",),
    "missing": ("accepted", "ended", "missing"),
    "given_up": ("missing",),
}
"""What an attempt may have been before it becomes this; the database refuses all else, whatever memory believes."""
OPEN: tuple[State, ...] = ("intent", "unknown", "quarantined", "accepted", "ended", "missing")
"""States of attempts that a later start has to take up again."""

_IS_OPEN = f"state IN ({', '.join(map(repr, OPEN))})"
_OPEN_INDEX = f"CREATE INDEX attempts_open ON attempts (state) WHERE {_IS_OPEN};"

COLUMNS = {
    "attempts": (
        "id, job, number, content, state, form, image, name, reserved, cost, high_id, intent_at, closed_at, "
        "accepted_at, ended_at, stored_at, task_id, token, answer, adopted, status, pexit, outputs, reason, recheck"
    ),
    "jobs": "key, position, content, name, spec, failure, sticky",
    "clips": "attempt, number, file, etag, sha256, bytes, content_type",
    "names": "folded, name, job",
    "images": "path, size, mtime_ns, sha256",
    "uploads": "sha256, url, at",
    "echoes": "field, faithful",
    "meta": "name, value",
    "unassigned": "task_id, token, state, task, seen_at, ended_at, clips, reason",
    "candidates": "task_id, attempt",
    "projects": "id",
}
"""The columns that checksums cover: all of every table, but for `money`, which is the sum of the attempts."""


def _columns(table: str, prefix: str = "") -> list[str]:
    return [f"{prefix}{column}" for column in COLUMNS[table].split(", ")]


def _checksum(table: str, prefix: str = "") -> str:
    """The SQL of a row's checksum. Times count to the millisecond: to write all their digits takes SQLite too long."""
    columns = _columns(table, prefix)
    values = [f"CAST({column} * 1000 AS INTEGER)" if column.endswith("_at") else column for column in columns]
    return f"checksum_of(CAST(printf('{'|'.join(['%s'] * len(values))}', {', '.join(values)}) AS BLOB))"


def _seal(table: str, change: str) -> str:
    return f"UPDATE checksums SET total = total + {change} WHERE name = '{table}';"


def _checksum_triggers(table: str) -> str:
    if table == "attempts":
        return f"""
CREATE TRIGGER attempts_made AFTER INSERT ON attempts BEGIN
    UPDATE attempts SET checksum = {_checksum(table)} WHERE id = new.id;
END;
CREATE TRIGGER attempts_changed AFTER UPDATE OF {COLUMNS[table]} ON attempts BEGIN
    UPDATE attempts SET checksum = {_checksum(table)} WHERE id = new.id;
END;
CREATE TRIGGER attempts_sealed AFTER UPDATE OF checksum ON attempts BEGIN
    {_seal(table, "new.checksum - coalesce(old.checksum, 0)")}
END;
"""
    new, old = ", ".join(_columns(table, "new.")), ", ".join(_columns(table, "old."))
    return f"""
CREATE TRIGGER {table}_made AFTER INSERT ON {table} BEGIN {_seal(table, _checksum(table, "new."))} END;
CREATE TRIGGER {table}_gone AFTER DELETE ON {table} BEGIN {_seal(table, "-" + _checksum(table, "old."))} END;
CREATE TRIGGER {table}_changed AFTER UPDATE ON {table} WHEN ({new}) IS NOT ({old}) BEGIN
    {_seal(table, f"{_checksum(table, 'new.')} - {_checksum(table, 'old.')}")}
END;
"""


_SUMS = {table: f"SELECT coalesce(sum({_checksum(table)}), 0) FROM {table}" for table in COLUMNS}
_CHECKSUMS = f"""
CREATE TABLE checksums (name TEXT PRIMARY KEY, total INTEGER NOT NULL) WITHOUT ROWID;
UPDATE attempts SET checksum = {_checksum("attempts")};
{"".join(f"INSERT INTO checksums VALUES ('{table}', ({query}));" for table, query in _SUMS.items())}
{"".join(map(_checksum_triggers, COLUMNS))}
"""
"""Each attempt has a checksum, and each table the sum of its rows' checksums, which shows rows that are gone, too."""

_SINCE_2 = """
CREATE TABLE unassigned (
    task_id TEXT PRIMARY KEY, token TEXT, state TEXT NOT NULL, task TEXT NOT NULL, seen_at REAL NOT NULL,
    ended_at REAL, clips TEXT NOT NULL, reason TEXT
);
CREATE TABLE candidates (
    task_id TEXT NOT NULL, attempt INTEGER NOT NULL, PRIMARY KEY (task_id, attempt)
) WITHOUT ROWID;
CREATE TABLE projects (id TEXT PRIMARY KEY) WITHOUT ROWID;
"""

_SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (
    key TEXT PRIMARY KEY, position INTEGER, content TEXT NOT NULL, name TEXT NOT NULL, spec TEXT NOT NULL,
    failure TEXT, sticky INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX jobs_position ON jobs (position) WHERE position IS NOT NULL;
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY, job TEXT NOT NULL, number INTEGER NOT NULL, content TEXT NOT NULL, state TEXT NOT NULL,
    form TEXT NOT NULL, image TEXT NOT NULL, name TEXT NOT NULL,
    reserved INTEGER NOT NULL DEFAULT 0, cost INTEGER, high_id INTEGER NOT NULL DEFAULT 0,
    intent_at REAL NOT NULL, closed_at REAL, accepted_at REAL, ended_at REAL, stored_at REAL,
    task_id TEXT UNIQUE, token TEXT UNIQUE, answer BLOB, adopted INTEGER NOT NULL DEFAULT 0,
    status TEXT, pexit TEXT, outputs TEXT, reason TEXT, recheck INTEGER NOT NULL DEFAULT 0, checksum INTEGER
);
CREATE INDEX attempts_job ON attempts (job, content);
CREATE INDEX attempts_content ON attempts (content);
{_OPEN_INDEX}
CREATE INDEX attempts_recheck ON attempts (id) WHERE recheck;
CREATE TABLE clips (
    attempt INTEGER NOT NULL, number INTEGER NOT NULL, file TEXT NOT NULL, etag TEXT NOT NULL DEFAULT '',
    sha256 TEXT, bytes INTEGER, content_type TEXT, PRIMARY KEY (attempt, number)
) WITHOUT ROWID;
CREATE TABLE names (folded TEXT PRIMARY KEY, name TEXT NOT NULL, job TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE images (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE uploads (sha256 TEXT PRIMARY KEY, url TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE echoes (field TEXT PRIMARY KEY, faithful INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE money (id INTEGER PRIMARY KEY CHECK (id = 1), settled INTEGER NOT NULL, reserved INTEGER NOT NULL);
INSERT INTO money VALUES (1, 0, 0);
CREATE TRIGGER money_made AFTER INSERT ON attempts BEGIN
    UPDATE money SET settled = settled + coalesce(new.cost, 0), reserved = reserved + new.reserved;
END;
CREATE TRIGGER money_moved AFTER UPDATE OF cost, reserved ON attempts BEGIN
    UPDATE money SET settled = settled + coalesce(new.cost, 0) - coalesce(old.cost, 0),
                     reserved = reserved + new.reserved - old.reserved;
END;
{_SINCE_2}
{_CHECKSUMS}
"""

_MIGRATIONS = {
    1: f"""
ALTER TABLE attempts ADD COLUMN recheck INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN checksum INTEGER;
UPDATE attempts SET state = 'missing' WHERE state = 'lost';
UPDATE attempts SET recheck = 1 WHERE state = 'cancelled' AND coalesce(cost, 0) = 0;
DROP INDEX attempts_open;
{_OPEN_INDEX}
CREATE INDEX attempts_recheck ON attempts (id) WHERE recheck;
{_SINCE_2}
{_CHECKSUMS}
"""
}
"""The statements that lead from a version to the next."""

_READINGS = {
    1: f"""
CREATE TEMP VIEW attempts AS SELECT
    {", ".join(c for c in _columns("attempts") if c not in ("state", "recheck"))},
    CASE state WHEN 'lost' THEN 'missing' ELSE state END AS state,
    state = 'cancelled' AND coalesce(cost, 0) = 0 AS recheck, NULL AS checksum
FROM main.attempts;
{_SINCE_2.replace("CREATE TABLE", "CREATE TEMP TABLE")}
"""
}
"""How a reader sees an older version, which it may not change."""

_UNLIKE = "the table {!r} is not as it was written"
_ATTEMPTS = f"""
SELECT coalesce(sum({_checksum("attempts")}), 0), coalesce(sum(checksum), 0), coalesce(sum(cost), 0),
       coalesce(sum(reserved), 0), coalesce(sum(id) FILTER (WHERE {_IS_OPEN}), 0),
       coalesce(sum(id) FILTER (WHERE recheck), 0)
FROM attempts NOT INDEXED
"""
_ATTEMPTS_SUMS = f"""
SELECT (SELECT total FROM checksums WHERE name = 'attempts'), (SELECT total FROM checksums WHERE name = 'attempts'),
       (SELECT settled FROM money), (SELECT reserved FROM money),
       (SELECT coalesce(sum(id), 0) FROM attempts INDEXED BY attempts_open WHERE {_IS_OPEN}),
       (SELECT coalesce(sum(id), 0) FROM attempts INDEXED BY attempts_recheck WHERE recheck)
"""
_NOT_INDEXED = " OR ".join(
    f"NOT EXISTS (SELECT 1 FROM attempts b INDEXED BY {index} WHERE {equal} AND b.id = a.id)"
    for index, equal in (
        ("attempts_job", "b.job = a.job AND b.content = a.content"),
        ("attempts_content", "b.content = a.content"),
        ("sqlite_autoindex_attempts_1", "b.task_id IS a.task_id"),
        ("sqlite_autoindex_attempts_2", "b.token IS a.token"),
    )
)


def _damage(db: sqlite3.Connection, version: int) -> str | None:
    """What `quick_check` doesn't see: contents that changed, and indexes without some of the rows.

    Of 100,000 attempts and jobs that takes two seconds, with `integrity_check` in its place three.
    """
    if version == 1:
        return _damage_of_first(db)
    totals = dict(db.execute("SELECT name, total FROM checksums"))
    for table, query in _SUMS.items():
        if table != "attempts" and db.execute(query).fetchone()[0] != totals.get(table):
            return _UNLIKE.format(table)
    found, kept = db.execute(_ATTEMPTS).fetchone(), db.execute(_ATTEMPTS_SUMS).fetchone()
    if found[:2] != kept[:2]:
        return _UNLIKE.format("attempts") + _which(db)
    if found[2:4] != kept[2:4]:
        return "what was spent is not the sum of its attempts"
    if found != kept or db.execute(f"SELECT 1 FROM attempts a NOT INDEXED WHERE {_NOT_INDEXED} LIMIT 1").fetchone():
        return "an index lacks rows"
    return None


def _which(db: sqlite3.Connection) -> str:
    query = f"SELECT id FROM attempts NOT INDEXED WHERE checksum IS NOT {_checksum('attempts')} ORDER BY id"
    found = db.execute(query).fetchone()
    return f" (row {found[0]})" if found else ""


def _damage_of_first(db: sqlite3.Connection) -> str | None:
    """The first version has no checksums: what can be read and makes sense is taken for whole."""
    for table in ("jobs", "attempts", "clips", "names", "images", "uploads", "echoes", "meta"):
        deque(db.execute(f"SELECT * FROM {table} NOT INDEXED"), maxlen=0)  # refused if it is no UTF-8
    states = ", ".join(map(repr, (*BEFORE, "lost")))
    bad_attempts = (
        f"state NOT IN ({states}) OR NOT json_valid(form) OR json_type(form) <> 'object' OR "
        "NOT json_valid(coalesce(outputs, '[]')) OR json_type(coalesce(outputs, '[]')) <> 'array' OR "
        "typeof(reserved) <> 'integer' OR typeof(cost) NOT IN ('integer', 'null') OR typeof(intent_at) <> 'real'"
    )
    if db.execute(f"SELECT 1 FROM main.attempts WHERE {bad_attempts} LIMIT 1").fetchone():
        return "an attempt makes no sense"
    bad_jobs = "NOT json_valid(spec) OR NOT json_valid(coalesce(failure, '{}'))"
    if db.execute(f"SELECT 1 FROM jobs WHERE {bad_jobs} LIMIT 1").fetchone():
        return "a job makes no sense"
    if db.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
        return "its indexes lack rows"
    sums = db.execute("SELECT coalesce(sum(cost), 0), coalesce(sum(reserved), 0) FROM main.attempts").fetchone()
    if db.execute("SELECT settled, reserved FROM money").fetchall() != [sums]:
        return "what was spent is not the sum of its attempts"
    return None


@dataclass(frozen=True, slots=True)
class Account:
    """Whose money a journal counts: the API's origin, and a key that only its keyed hash is kept of."""

    origin: str
    key: str = field(repr=False)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt at a job, as its row stands. Amounts are micro-dollars, times unix seconds.

    Attributes:
        form: the six parameters exactly as they are sent.
        image: what the content knows its image by: `sha256:...`, `url:...`, or empty.
        high_id: the highest task id that was known when the intent was written.
        closed_at: when the connection of an unanswered Run was gone for certain.
        outputs: what the ended task offered, as (content type, announced size, URL).
        recheck: whether a cancelled task is to be asked once more, since its charge may appear late.
    """

    id: int = 0
    job: str
    number: int = 0
    content: str
    state: State = "rejected"
    form: dict[str, str]
    image: str
    name: str
    reserved: int = 0
    cost: int | None = None
    high_id: int = 0
    intent_at: float = 0.0
    closed_at: float | None = None
    accepted_at: float | None = None
    ended_at: float | None = None
    task_id: str | None = None
    token: str | None = field(default=None, repr=False)
    adopted: bool = False
    status: str | None = None
    pexit: str | None = None
    outputs: list[tuple[str, int | None, str]] = field(default_factory=list, repr=False)
    reason: str | None = None
    recheck: bool = False


@dataclass(frozen=True, slots=True)
class Clip:
    """A file of an attempt: `file` is relative to the output folder; `sha256` is set once the bytes are durable."""

    number: int
    file: str
    etag: str
    sha256: str | None
    bytes: int | None
    content_type: str | None


@dataclass(slots=True, kw_only=True)
class Unassigned:
    """A task that may be a quarantined attempt's, as its row stands.

    Attributes:
        state: `running` until it is known to have ended, `ended` until its outputs are on disk.
        task: what the service said of it last.
        seen_at: when it was recorded, in unix seconds; `ended_at`: when its end was seen.
        clips: its files, as far as they are known, by number.
        reason: why it has no file, or none yet.
        owner: the state of the attempt that owns it by now, None if none does.
        jobs: keys of the jobs that it may belong to.
        assignable: those of them whose attempt is still quarantined.
    """

    task_id: str
    token: str | None = field(repr=False)
    state: Literal["running", "ended", "stored", "failed", "cancelled"]
    task: Task
    seen_at: float
    ended_at: float | None
    clips: list[Clip]
    reason: str | None
    owner: str | None
    jobs: list[str]
    assignable: list[str]

    @property
    def outputs(self) -> list[tuple[str, int | None, str]]:
        """What the task offers: (content type, announced bytes, URL)."""
        return [(output.contenttype, output.size, output.url) for output in self.task.outputs if output.url]

    @property
    def pending(self) -> bool:
        """Whether it is to be tracked or fetched."""
        return self.state in ("running", "ended") and self.owner is None and bool(self.jobs)

    @property
    def shown(self) -> bool:
        """Whether it is shown to people: no attempt owns it, and it may be a job's or is on disk."""
        return self.owner is None and (bool(self.jobs) or self.state == "stored")


@dataclass(frozen=True, slots=True)
class Money:
    """What the journal's attempts cost so far, and what is held back for those not settled; micro-dollars."""

    settled: int
    reserved: int


_STANDS = f"""
CASE WHEN state = 'stored' THEN 2 WHEN state = 'missing' THEN 1 WHEN {_IS_OPEN} THEN 3 ELSE 0 END DESC, id DESC
"""
"""The order of a job's attempts by what they say of it: what is under way, a clip that is there, one that is missing,
and only then a later attempt that came to nothing."""

RESULTS = f"""
SELECT j.key,
       CASE WHEN a.state IN ('rejected', 'absent', 'abandoned', 'failed') OR a.state IS NULL
            THEN CASE WHEN j.failure IS NULL AND coalesce(a.cost, 0) <= 0 THEN 'planned' ELSE 'failed' END
            ELSE a.state END AS state,
       c.file, a.task_id, a.cost, c.sha256,
       CASE WHEN a.state = 'stored' THEN NULL ELSE coalesce(json_extract(j.failure, '$.message'), a.reason) END
FROM jobs j
LEFT JOIN attempts a ON a.id = (
    SELECT id FROM attempts WHERE job = j.key AND content = j.content ORDER BY {_STANDS} LIMIT 1
)
LEFT JOIN clips c ON c.attempt = a.id AND c.number = 0
WHERE j.position IS NOT NULL ORDER BY j.position
"""
"""How each job of the batch stands, in batch order; the columns of `snapshot.Result`."""


def _jobs_in(states: str) -> str:
    return (
        "(SELECT json_group_array(job) FROM (SELECT DISTINCT a.job FROM candidates c "
        f"JOIN attempts a ON a.id = c.attempt WHERE c.task_id = u.task_id AND a.state IN ({states}) ORDER BY a.job))"
    )


UNASSIGNED = f"""
SELECT u.task_id, u.token, u.state, u.task, u.seen_at, u.ended_at, u.clips, u.reason,
       (SELECT a.state FROM attempts a WHERE a.task_id = u.task_id OR a.token = u.token),
       {_jobs_in("'quarantined', 'abandoned'")}, {_jobs_in("'quarantined'")}
FROM unassigned u ORDER BY u.seen_at, u.rowid
"""
"""Every recorded task, oldest first; `unassigned_of` reads a row."""


def unassigned_of(row: Sequence[Any]) -> Unassigned:
    """A row of `UNASSIGNED`."""
    task_id, token, state, task, seen_at, ended_at, clips, reason, owner, jobs, assignable = row
    return Unassigned(
        task_id=task_id,
        token=token,
        state=state,
        task=Task.model_validate_json(task),
        seen_at=seen_at,
        ended_at=ended_at,
        clips=[Clip(*clip) for clip in json.loads(clips)],
        reason=reason,
        owner=owner,
        jobs=json.loads(jobs),
        assignable=json.loads(assignable),
    )


def todo_query(*, retry_failed: bool, rerender: bool) -> tuple[str, list[str | int]]:
    """What finds the jobs that `Journal.todo` gives, and its parameters."""
    final: list[str] = ["stored", *OPEN]
    final += [] if retry_failed else ["cancelled", "billed"]
    final = [state for state in final if state != "missing"] if rerender else [*final, "given_up"]
    query = (
        "SELECT key FROM jobs j WHERE position IS NOT NULL AND (sticky = 0 OR ?) AND coalesce((SELECT "
        "CASE WHEN a.state = 'failed' AND a.cost > 0 THEN 'billed' ELSE a.state END "
        f"FROM attempts a WHERE a.job = j.key AND a.content = j.content ORDER BY {_STANDS} LIMIT 1), '') "
        f"NOT IN ({_marks(final)}) ORDER BY position"
    )
    return query, [int(retry_failed), *final]


LAYOUT = Layout(VERSION, _SCHEMA, _MIGRATIONS, {"checksum_of": zlib.crc32}, _READINGS, _damage)


class OverBudget(Exception):
    """The intent would have broken the budget; it was not written."""


class NameTaken(Exception):
    """Another job of this folder owns the output name."""


_ATTEMPT = (
    "id, job, number, content, state, form, image, name, reserved, cost, high_id, intent_at, closed_at, "
    "accepted_at, ended_at, task_id, token, adopted, status, pexit, outputs, reason, recheck"
)


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _impossible(attempt: Attempt, state: State) -> Unusable:
    return Unusable(
        f"attempt {attempt.number} at job {attempt.job} can't become {state}: the journal knows better than this run, "
        "and stays as it is; run the same command again"
    )


def _attempt(row: tuple[Any, ...]) -> Attempt:
    values = list(row)
    try:
        values[5] = json.loads(values[5])
        values[20] = [(str(kind), size, str(url)) for kind, size, url in json.loads(values[20] or "[]")]
    except (ValueError, TypeError):  # a journal of the first version has no checksums
        raise Unusable(f"the journal is damaged: attempt {row[0]} at job {row[1]} can't be read") from None
    values[17] = bool(values[17])
    values[22] = bool(values[22])
    return Attempt(**dict(zip(_ATTEMPT.split(", "), values, strict=True)))


class Journal:
    """The open journal of one output folder. Make it with `Journal.open`.

    Attributes:
        starts: how often it was opened before, by itself or by the file beside it.
        stale: whether the two differed, and what that may have lost was not looked for since.
    """

    def __init__(self, ledger: Ledger, starts: int, *, stale: bool) -> None:
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
        async with open_ledger(home / FILE, layout=LAYOUT, check=check, inline=inline) as ledger:
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
                f"SELECT a.content, a.id FROM jobs o JOIN attempts a ON a.job = o.key AND a.state IN ({_marks(kept)}) "
                "WHERE o.position IS NULL ORDER BY a.state = 'stored', a.id DESC",
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
        query = f"SELECT {_ATTEMPT} FROM attempts WHERE state IN ({_marks(OPEN)}) ORDER BY id"
        return [_attempt(row) for row in await self._read(query, *OPEN)]

    async def has_another(self, attempt: Attempt, *, or_missing: bool) -> bool:
        """Whether another attempt at the same job and content has a clip, or may get one: then none is to be made.

        Args:
            attempt: the one that is not asked about.
            or_missing: whether one that is missing counts.
        """
        states = ["stored", *(state for state in OPEN if or_missing or state != "missing")]
        query = (
            f"SELECT 1 FROM attempts WHERE job = ? AND content = ? AND id <> ? AND state IN ({_marks(states)}) LIMIT 1"
        )
        return bool(await self._read(query, attempt.job, attempt.content, attempt.id, *states))

    async def stored_attempts(self, after: int = 0, limit: int = -1) -> list[tuple[Attempt, list[Clip]]]:
        """The stored clips of the batch's jobs, to be compared with the disk.

        Args:
            after: only attempts with a higher id.
            limit: at most so many of them.
        """
        rows = await self._read(
            f"SELECT {', '.join('a.' + c for c in _ATTEMPT.split(', '))}, c.number, c.file, c.etag, c.sha256, c.bytes, "
            "c.content_type FROM attempts a JOIN clips c ON c.attempt = a.id WHERE a.id IN ("
            "SELECT b.id FROM attempts b JOIN jobs j ON j.key = b.job AND j.content = b.content "
            "AND j.position IS NOT NULL WHERE b.state = 'stored' AND b.id > ? ORDER BY b.id LIMIT ?) "
            "ORDER BY a.id, c.number",
            after,
            limit,
        )
        found: dict[int, tuple[Attempt, list[Clip]]] = {}
        width = len(_ATTEMPT.split(", "))
        for row in rows:
            if row[0] not in found:
                found[row[0]] = (_attempt(row[:width]), [])
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
                f"closed_at = NULL, reason = NULL WHERE state IN ({_marks(BEFORE['intent'])}) RETURNING id, number",
                (*values, *BEFORE["intent"]),
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
        return [_attempt(row) for row in await self._read(f"SELECT {_ATTEMPT} FROM attempts WHERE recheck ORDER BY id")]

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
            f"SELECT {_ATTEMPT} FROM attempts WHERE job = ? AND (state = 'quarantined' OR task_id = ?) ORDER BY "
            "task_id IS NOT NULL DESC, id IN (SELECT attempt FROM candidates WHERE task_id = ?) DESC, id DESC LIMIT 1"
        )
        rows = await self._read(query, job, task_id, task_id)
        return _attempt(rows[0]) if rows else None

    async def _update(
        self, attempt: Attempt, also: Callable[[sqlite3.Connection], None] | None = None, **columns: Any
    ) -> None:
        values = {
            name: json.dumps(value) if isinstance(value, list) else int(value) if isinstance(value, bool) else value
            for name, value in columns.items()
        }
        before = BEFORE[columns["state"]] if "state" in columns else ()
        query = f"UPDATE attempts SET {', '.join(f'{name} = ?' for name in values)} WHERE id = ?"
        query += f" AND state IN ({_marks(before)})" if before else ""

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

    async def dearest(self) -> dict[tuple[str, str], int]:
        """The dearest task so far by resolution and aspect ratio, in micro-dollars."""
        rows = await self._read(
            "SELECT json_extract(form, '$.resolution'), json_extract(form, '$.aspectRatio'), max(cost) FROM attempts "
            "WHERE cost > 0 GROUP BY 1, 2"
        )
        return {(resolution, aspect): cost for resolution, aspect, cost in rows}

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


def folders_of(home: Path) -> list[Path]:
    """The folders that a journal's home consists of, from `FOLDER` on."""
    parts = [home, *home.parents]
    names = [folder.name for folder in parts]
    return parts[: names.index(FOLDER) + 1] if FOLDER in names else parts[:1]


def _count_start(db: sqlite3.Connection, home: Path) -> tuple[int, bool]:
    """Counts this start, here and in the file beside; how many there were before, and whether the journal is stale."""
    kept = dict(db.execute("SELECT name, value FROM meta WHERE name IN ('starts', 'starts_written', 'stale')"))
    for name in (starts.FILE, f"{starts.FILE}.tmp"):
        refuse_link(home / name)
    journal, written, file = int(kept.get("starts", 0)), int(kept.get("starts_written", 0)), starts.read(home)
    said = starts.difference(journal, written, file)
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
    starts.write(home, before + 1)
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
