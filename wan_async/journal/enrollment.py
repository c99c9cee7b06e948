"""Enrolls a batch: its jobs replace those of the batch before, and take over attempts of jobs that are gone."""

from __future__ import annotations

from collections.abc import Sequence

from wan_async.domain.lifecycle import RECOVERABLE
from wan_async.journal.queries import marks_for
from wan_async.journal.sql_interface import Database

JobRow = tuple[str, int, str, str, str]
"""A row of `jobs`: key, position, content, name, spec."""


def enroll(db: Database, rows: Sequence[JobRow]) -> None:
    """Makes `rows` the batch, within the caller's transaction.

    A name that a job no longer has, and under which it has no attempt, is free for others.

    Jobs that are not among them keep their attempts and lose their position. A new key whose content has a recoverable
    attempt under such a job takes that attempt over: a stored one first, then the latest.
    """
    named = {row[0] for row in rows}
    before = db.execute("SELECT key FROM jobs WHERE position IS NOT NULL")
    dropped = [(key,) for (key,) in before if key not in named]
    db.executemany("UPDATE jobs SET position = NULL WHERE key = ?", dropped)
    db.executemany(
        "INSERT INTO jobs (key, position, content, name, spec) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (key) DO UPDATE SET position = excluded.position, name = excluded.name, "
        "spec = excluded.spec, content = excluded.content, "
        "failure = CASE WHEN jobs.content = excluded.content THEN jobs.failure END, "
        "sticky = CASE WHEN jobs.content = excluded.content THEN jobs.sticky ELSE 0 END "
        "WHERE jobs.position IS NULL OR (jobs.position, jobs.content, jobs.name, jobs.spec) <> "
        "(excluded.position, excluded.content, excluded.name, excluded.spec)",
        rows,
    )
    db.execute(
        "DELETE FROM names WHERE EXISTS (SELECT 1 FROM jobs j WHERE j.key = names.job AND j.name != names.name) "
        "AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.job = names.job AND a.name = names.name)"
    )
    free: dict[str, list[int]] = {}
    for content, attempt in db.execute(
        "SELECT a.content, a.id FROM jobs o JOIN attempts a "
        f"ON a.job = o.key AND a.state IN ({marks_for(RECOVERABLE)}) WHERE o.position IS NULL "
        "ORDER BY a.state = 'stored', a.id DESC",
        RECOVERABLE,
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
