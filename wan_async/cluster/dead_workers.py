"""Takes journals and jobs away from workers whose heartbeat has stopped."""

from __future__ import annotations

import logging
from contextlib import closing

import anyio
import anyio.to_thread

from wan_async.cluster.job_queue import PAUSE_SECONDS, TASK
from wan_async.journal.postgres_adapter import PostgresDatabase, connect, import_psycopg
from wan_async.journal.postgres_connection import LOCK_OF_ACCOUNT
from wan_async.journal.queries import marks_for

_NO_HEARTBEAT = """
NOT EXISTS (SELECT 1 FROM procrastinate_workers w
            WHERE w.id = {worker} AND w.last_heartbeat > now() - make_interval(secs => ?))
"""
_HOLDERS = f"""
SELECT h.id, j.account FROM wan_async.holders h JOIN wan_async.journals j ON j.id = h.journal
WHERE h.worker IS NOT NULL AND {_NO_HEARTBEAT.format(worker="h.worker")}
"""
_END_CONNECTIONS = """
SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a JOIN wan_async.holders h
ON h.pid = a.pid AND h.connected_at = a.backend_start WHERE h.id IN ({marks})
"""
_PUT_BACK = f"""
SELECT count(procrastinate_retry_job_v2(id, now(), NULL, NULL, NULL)) FROM (
    SELECT j.id FROM procrastinate_jobs j
    WHERE j.status = 'doing' AND j.task_name = ? AND {_NO_HEARTBEAT.format(worker="j.worker_id")}
    FOR UPDATE SKIP LOCKED
) AS stalled
"""
_FORGET_WORKERS = """
DELETE FROM procrastinate_workers WHERE id IN (
    SELECT id FROM procrastinate_workers WHERE last_heartbeat <= now() - make_interval(secs => ?)
    FOR UPDATE SKIP LOCKED
)
"""
"""What a suspended worker has locked is left until the server has ended its transaction."""
_LIVE = """
SELECT count(*) FROM wan_async.holders h JOIN wan_async.journals j ON j.id = h.journal
JOIN procrastinate_workers w ON w.id = h.worker
WHERE j.output = ? AND w.last_heartbeat > now() - make_interval(secs => ?)
"""

log: logging.Logger = logging.getLogger(__name__)


def take_over(dsn: str, lease_seconds: float) -> int:
    """Fences workers without a heartbeat, and puts their jobs back into the queue. Blocking.

    The rows by which they hold journals are deleted once their transactions have ended, and in the same transaction
    their jobs become available: whoever takes one up knows that the former worker can't write any more.

    Args:
        dsn: the database.
        lease_seconds: how old a heartbeat may be.

    Returns:
        How many jobs were put back.

    Raises:
        psycopg.Error: the database is not available.
    """
    with closing(connect(dsn)) as link:
        db = PostgresDatabase(link)
        if db.execute("SELECT to_regclass('wan_async.holders')").fetchone()[0] is None:
            return 0
        with link.transaction():
            stalled = db.execute(_HOLDERS, (lease_seconds,)).fetchall()
            ids = [holder for holder, _ in stalled]
            if ids:
                db.execute(_END_CONNECTIONS.format(marks=marks_for(ids)), ids)
            for account in sorted({account for _, account in stalled}):
                db.execute("SELECT pg_advisory_xact_lock(?, ?)", (LOCK_OF_ACCOUNT, account))
            if ids:
                db.execute(f"DELETE FROM wan_async.holders WHERE id IN ({marks_for(ids)})", ids)
            count = db.execute(_PUT_BACK, (TASK, lease_seconds)).fetchone()[0]
            db.execute(_FORGET_WORKERS, (lease_seconds,))
    return int(count)


def live_workers(dsn: str, output: str, lease_seconds: float) -> int:
    """How many workers have the journal of an output open. Blocking.

    Raises:
        psycopg.Error: the database is not available.
    """
    with closing(connect(dsn)) as link:
        db = PostgresDatabase(link)
        if db.execute("SELECT to_regclass('wan_async.holders')").fetchone()[0] is None:
            return 0
        return int(db.execute(_LIVE, (output, lease_seconds)).fetchone()[0])


async def count_live_workers(dsn: str, output: str, lease_seconds: float) -> int:
    """The same, for the event loop; tried again for as long as the database is not available."""
    while True:
        try:
            return await anyio.to_thread.run_sync(live_workers, dsn, output, lease_seconds)
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.warning("waiting for the database: %s", " ".join(str(error).split()))
            await anyio.sleep(PAUSE_SECONDS)


def is_unavailable(error: Exception) -> bool:
    """Whether an error is the database's, which may be available again later."""
    return isinstance(error, import_psycopg().Error)
