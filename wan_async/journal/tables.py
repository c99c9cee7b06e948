"""The tables of the journal, their checksums and migrations.

| table | a row is |
|---|---|
| attempts | an attempt: its `state` (see `domain.lifecycle`), what was sent, what it cost, its task, its own checksum |
| jobs | a job: content, output name, last failure; `position` is NULL if the latest batch does not name it |
| clips | a file of an attempt: `sha256` is NULL until its bytes are durable |
| names | an output name (folded by NFC and casefold) and the job that owns it |
| money | the one row of totals: triggers keep it the sum of the attempts |
| unassigned, candidates | tasks that may be those of quarantined attempts, and of which |
| images, uploads | hashes of image files by path; URLs of uploaded images by hash |
| echoes, projects, meta | what is known of the service and the account; the start counter |
| checksums | for each table the sum of its rows' checksums: triggers keep it, so that a missing row is noticed, too |
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping

from wan_async.domain.lifecycle import OPEN, UNANSWERED, State

VERSION = 3


def sql_list(states: Iterable[State]) -> str:
    """States as SQL literals, separated by commas."""
    return ", ".join(f"'{state}'" for state in states)


IS_OPEN = f"state IN ({sql_list(OPEN)})"
IS_UNANSWERED = f"state IN ({sql_list(UNANSWERED)})"
_OPEN_INDEX = f"CREATE INDEX attempts_open ON attempts (state) WHERE {IS_OPEN};"


def _unanswered_index(exempt_to: int = 0) -> str:
    """The index by which at most one attempt of a content is unanswered; attempts up to an id may be exempt."""
    exempt = f" AND id > {exempt_to}" if exempt_to else ""
    return f"CREATE UNIQUE INDEX attempts_unanswered ON attempts (content) WHERE {IS_UNANSWERED}{exempt};"


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


def columns_of(table: str, prefix: str = "") -> list[str]:
    """The columns of a table that its checksum covers."""
    return [f"{prefix}{column}" for column in COLUMNS[table].split(", ")]


def checksum_of(table: str, prefix: str = "") -> str:
    """The SQL of a row's checksum. Times count to the millisecond: to write all their digits takes SQLite too long."""
    columns = columns_of(table, prefix)
    values = [f"CAST({column} * 1000 AS INTEGER)" if column.endswith("_at") else column for column in columns]
    return f"checksum_of(CAST(printf('{'|'.join(['%s'] * len(values))}', {', '.join(values)}) AS BLOB))"


def _seal(table: str, change: str) -> str:
    return f"UPDATE checksums SET total = total + {change} WHERE name = '{table}';"


def _checksum_triggers(table: str) -> str:
    if table == "attempts":
        return f"""
CREATE TRIGGER attempts_made AFTER INSERT ON attempts BEGIN
    UPDATE attempts SET checksum = {checksum_of(table)} WHERE id = new.id;
END;
CREATE TRIGGER attempts_changed AFTER UPDATE OF {COLUMNS[table]} ON attempts BEGIN
    UPDATE attempts SET checksum = {checksum_of(table)} WHERE id = new.id;
END;
CREATE TRIGGER attempts_sealed AFTER UPDATE OF checksum ON attempts BEGIN
    {_seal(table, "new.checksum - coalesce(old.checksum, 0)")}
END;
"""
    new, old = ", ".join(columns_of(table, "new.")), ", ".join(columns_of(table, "old."))
    return f"""
CREATE TRIGGER {table}_made AFTER INSERT ON {table} BEGIN {_seal(table, checksum_of(table, "new."))} END;
CREATE TRIGGER {table}_gone AFTER DELETE ON {table} BEGIN {_seal(table, "-" + checksum_of(table, "old."))} END;
CREATE TRIGGER {table}_changed AFTER UPDATE ON {table} WHEN ({new}) IS NOT ({old}) BEGIN
    {_seal(table, f"{checksum_of(table, 'new.')} - {checksum_of(table, 'old.')}")}
END;
"""


CHECKSUM_SUMS = {table: f"SELECT coalesce(sum({checksum_of(table)}), 0) FROM {table}" for table in COLUMNS}
_CHECKSUMS = f"""
CREATE TABLE checksums (name TEXT PRIMARY KEY, total INTEGER NOT NULL) WITHOUT ROWID;
UPDATE attempts SET checksum = {checksum_of("attempts")};
{"".join(f"INSERT INTO checksums VALUES ('{table}', ({query}));" for table, query in CHECKSUM_SUMS.items())}
{"".join(map(_checksum_triggers, COLUMNS))}
"""
"""Each attempt has a checksum, and each table the sum of its rows' checksums, which shows rows that are gone, too."""

TABLES_SINCE_2 = """
CREATE TABLE unassigned (
    task_id TEXT PRIMARY KEY, token TEXT, state TEXT NOT NULL, task TEXT NOT NULL, seen_at REAL NOT NULL,
    ended_at REAL, clips TEXT NOT NULL, reason TEXT
);
CREATE TABLE candidates (
    task_id TEXT NOT NULL, attempt INTEGER NOT NULL, PRIMARY KEY (task_id, attempt)
) WITHOUT ROWID;
CREATE TABLE projects (id TEXT PRIMARY KEY) WITHOUT ROWID;
"""

SCHEMA = f"""
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
{_unanswered_index()}
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
{TABLES_SINCE_2}
{_CHECKSUMS}
"""

_FROM_1 = f"""
ALTER TABLE attempts ADD COLUMN recheck INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN checksum INTEGER;
UPDATE attempts SET state = 'missing' WHERE state = 'lost';
UPDATE attempts SET recheck = 1 WHERE state = 'cancelled' AND coalesce(cost, 0) = 0;
DROP INDEX attempts_open;
{_OPEN_INDEX}
CREATE INDEX attempts_recheck ON attempts (id) WHERE recheck;
{TABLES_SINCE_2}
{_CHECKSUMS}
"""


def _from_2(db: sqlite3.Connection) -> str:
    """Adds the index on unanswered attempts.

    Nothing prevented two unanswered attempts of one content before. Each of them may have a task, so that none may be
    changed: if there are any, all attempts so far are exempt from the index up to the last of them. The journal's own
    check before each intent has no exemption.
    """
    (last,) = db.execute(
        f"SELECT coalesce(max(id), 0) FROM attempts a WHERE {IS_UNANSWERED} AND EXISTS "
        f"(SELECT 1 FROM attempts b WHERE b.content = a.content AND b.id < a.id AND b.{IS_UNANSWERED})"
    ).fetchone()
    return _unanswered_index(last)


MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], str]] = {1: lambda db: _FROM_1, 2: _from_2}
"""What makes the statements that lead from a version to the next; it reads the database before any of them ran."""
