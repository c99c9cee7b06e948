"""Checks a journal for damage: checksums of rows and tables, totals, and indexes against their tables."""

from __future__ import annotations

import sqlite3
import zlib
from collections import deque

from wan_async.domain.lifecycle import ATTEMPT_STATES
from wan_async.journal.sqlite_connection import Layout
from wan_async.journal.tables import (
    CHECKSUM_SUMS,
    MIGRATIONS,
    SCHEMA,
    TABLES_SINCE_2,
    VERSION,
    checksum_of,
    columns_of,
    sql_list,
)

_READINGS = {
    1: f"""
CREATE TEMP VIEW attempts AS SELECT
    {", ".join(c for c in columns_of("attempts") if c not in ("state", "recheck"))},
    CASE state WHEN 'lost' THEN 'missing' ELSE state END AS state,
    state = 'cancelled' AND coalesce(cost, 0) = 0 AS recheck, NULL AS checksum
FROM main.attempts;
{TABLES_SINCE_2.replace("CREATE TABLE", "CREATE TEMP TABLE")}
"""
}
"""What lets a reader, which can't migrate, read an older version as the newest."""

_CHANGED = "the table {!r} does not match its checksum"
_ATTEMPTS = f"""
SELECT coalesce(sum({checksum_of("attempts")}), 0), coalesce(sum(checksum), 0), coalesce(sum(cost), 0),
       coalesce(sum(reserved), 0)
FROM attempts NOT INDEXED
"""
_ATTEMPTS_SUMS = """
SELECT (SELECT total FROM checksums WHERE name = 'attempts'), (SELECT total FROM checksums WHERE name = 'attempts'),
       (SELECT settled FROM money), (SELECT reserved FROM money)
"""
_PARTIAL_INDEXES = """
SELECT name, substr(sql, instr(sql, ' WHERE ')) FROM sqlite_schema
WHERE type = 'index' AND tbl_name = 'attempts' AND instr(sql, ' WHERE ')
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
    """Describes damage that `quick_check` doesn't find: changed contents, missing rows, indexes that lack rows.

    Takes two seconds for 100,000 attempts and jobs; `integrity_check`, which finds less, takes three.
    """
    if version == 1:
        return _damage_of_first(db)
    totals = dict(db.execute("SELECT name, total FROM checksums"))
    for table, query in CHECKSUM_SUMS.items():
        if table != "attempts" and db.execute(query).fetchone()[0] != totals.get(table):
            return _CHANGED.format(table)
    found, kept = db.execute(_ATTEMPTS).fetchone(), db.execute(_ATTEMPTS_SUMS).fetchone()
    if found[:2] != kept[:2]:
        return _CHANGED.format("attempts") + _which(db)
    if found[2:4] != kept[2:4]:
        return "the totals are not the sums of the attempts"
    if db.execute(f"SELECT 1 FROM attempts a NOT INDEXED WHERE {_NOT_INDEXED} LIMIT 1").fetchone():
        return "an index lacks rows"
    ids = "SELECT coalesce(sum(id), 0) FROM attempts"
    for index, where in db.execute(_PARTIAL_INDEXES).fetchall():
        rows, indexed = (f"{ids} {by} {where}" for by in ("NOT INDEXED", f"INDEXED BY {index}"))
        if db.execute(rows).fetchone() != db.execute(indexed).fetchone():
            return "an index lacks rows"
    return None


def _which(db: sqlite3.Connection) -> str:
    query = f"SELECT id FROM attempts NOT INDEXED WHERE checksum IS NOT {checksum_of('attempts')} ORDER BY id"
    found = db.execute(query).fetchone()
    return f" (row {found[0]})" if found else ""


def _damage_of_first(db: sqlite3.Connection) -> str | None:
    """The same for the first version, which has no checksums: its values must be readable and valid."""
    for table in ("jobs", "attempts", "clips", "names", "images", "uploads", "echoes", "meta"):
        deque(db.execute(f"SELECT * FROM {table} NOT INDEXED"), maxlen=0)  # refused if it is no UTF-8
    bad_attempts = (
        f"state NOT IN ({sql_list(ATTEMPT_STATES)}, 'lost') OR NOT json_valid(form) OR json_type(form) <> 'object' OR "
        "NOT json_valid(coalesce(outputs, '[]')) OR json_type(coalesce(outputs, '[]')) <> 'array' OR "
        "typeof(reserved) <> 'integer' OR typeof(cost) NOT IN ('integer', 'null') OR typeof(intent_at) <> 'real'"
    )
    if db.execute(f"SELECT 1 FROM main.attempts WHERE {bad_attempts} LIMIT 1").fetchone():
        return "an attempt has invalid values"
    bad_jobs = "NOT json_valid(spec) OR NOT json_valid(coalesce(failure, '{}'))"
    if db.execute(f"SELECT 1 FROM jobs WHERE {bad_jobs} LIMIT 1").fetchone():
        return "a job has invalid values"
    if db.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
        return "its indexes lack rows"
    sums = db.execute("SELECT coalesce(sum(cost), 0), coalesce(sum(reserved), 0) FROM main.attempts").fetchone()
    if db.execute("SELECT settled, reserved FROM money").fetchall() != [sums]:
        return "the totals are not the sums of the attempts"
    return None


LAYOUT = Layout(VERSION, SCHEMA, MIGRATIONS, {"checksum_of": zlib.crc32}, _READINGS, _damage)
