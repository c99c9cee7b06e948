"""Whether a PostgreSQL server lacks commits that it had confirmed: a replica took over, or a backup was restored.

A replica that takes over, and a restore to a point in time, begin a new timeline; a dump has another system identifier
where it is restored. So both are recorded in the journal, and compared by each new connection. A snapshot of the disk
keeps them: there, a process finds that the server has not counted the transactions that it committed last, or does not
know that it opened the journal.

What the journal lacks by then may have been paid for. So nobody holds it any more, and it is marked as stale: each
process must open it anew, and the first worker looks for tasks that it does not know
(`wan_async.engine.stale_journal`). Until that is done, no other worker can open it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from wan_async.errors import Locked
from wan_async.journal.base import STALE
from wan_async.journal.postgres_adapter import PostgresDatabase, import_psycopg
from wan_async.journal.sql_interface import upsert

if TYPE_CHECKING:
    from wan_async.journal.postgres_adapter import Link

_HISTORY = b"""
SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
"""
FENCED = "fenced_at"
"""The name under which the journal has the time, in unix seconds of the server, until a worker has checked it."""
_UNOWNED_SINCE = """
INSERT INTO meta (name, value)
SELECT 'unowned_since', greatest(
    coalesce(max(high_id), 0),
    coalesce(max(CASE WHEN task_id ~ '^[0-9]{1,18}$' THEN task_id::bigint END), 0),
    coalesce((SELECT value::bigint FROM meta WHERE name = 'first_id'), 0)
)::text FROM attempts WHERE intent_at < extract(epoch FROM pg_postmaster_start_time()) - 60
ON CONFLICT (name) DO UPDATE SET value = least(meta.value::bigint, excluded.value::bigint)::text
"""
"""From which task id on tasks without an owner are looked for: what was submitted since the server has begun anew, by a
process that did not lack anything, may be above those that the journal lacks. Clocks may differ by a minute."""
_NOT_TOLD = ("0A", "42")
"""SQLSTATEs of a server that has no such functions, or keeps them from its users."""

log: logging.Logger = logging.getLogger(__name__)


class Unchecked(Locked):
    """The journal must be opened by one worker alone, which checks it."""


def history_of(link: Link) -> str | None:
    """The server's system identifier and timeline; None if it does not tell. Not to be called in a transaction.

    Raises:
        psycopg.Error: the server is not available.
    """
    try:
        row = link.execute(_HISTORY).fetchone()
    except import_psycopg().Error as error:
        if not str(error.sqlstate or "").startswith(_NOT_TOLD):
            raise
        return None
    assert row is not None
    return str(row[0])


def note_history(db: PostgresDatabase, journal: int, history: str | None, *, lacks_commits: bool) -> bool:
    """Records a server's history; lets nobody hold a journal any more that may lack commits, and marks it as stale.

    Args:
        db: the database, in a transaction that has the lock of the account.
        journal: the journal.
        history: the server's, if it is known.
        lacks_commits: whether it is known otherwise to lack commits.

    Returns:
        Whether the journal may lack commits.
    """
    row = db.execute("SELECT server FROM wan_async.journals WHERE id = ?", (journal,)).fetchone()
    if row is None:
        return True  # the server lacks the whole journal
    is_another = history is not None and history != row[0]
    if is_another:
        db.execute("UPDATE wan_async.journals SET server = ? WHERE id = ?", (history, journal))
    if not lacks_commits and (row[0] is None or not is_another):
        return False
    log.warning(
        "the database may lack its latest changes: a replica took over, or a backup was restored. All workers begin "
        "anew, and the first one looks for tasks that the journal does not know"
    )
    now = db.execute("SELECT extract(epoch FROM now())::text").fetchone()[0]
    db.executemany(upsert("meta", "name", "value"), [(STALE, "1"), (FENCED, now)])
    if lacks_commits and not is_another:
        db.execute(_UNOWNED_SINCE)
    db.execute("UPDATE wan_async.holders SET fenced = TRUE WHERE journal = ?", (journal,))
    db.execute("DELETE FROM wan_async.holders WHERE journal = ?", (journal,))
    return True
