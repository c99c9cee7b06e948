"""The queue of jobs: Procrastinate's tables, reached through its job manager.

Procrastinate's own worker runs whatever it fetches to its end, and marks it as done. Here a job is held for as long as
its task runs at the service; it may only be fetched if the scheduler wants more, and a worker that lost its lease must
not mark anything. So `wan_async.cluster.cluster_worker` has a loop of its own, and this module the calls.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

from wan_async.cluster.database_notifications import closing_when_cancelled
from wan_async.errors import Unusable
from wan_async.journal.postgres_adapter import advice, connect, connection_defaults, import_psycopg
from wan_async.journal.postgres_connection import is_refusal

if TYPE_CHECKING:
    from procrastinate import App

QUEUE, TASK = "wan_async", "wan_async.job"
CHUNK = 2_000
"""How many jobs are put into the queue by one statement."""
PAUSE_SECONDS = 1.0
"""How often a server that is gone is tried again."""
_INDEX = "CREATE INDEX IF NOT EXISTS wan_async_locks ON procrastinate_jobs (lock)"
"""Procrastinate looks for other jobs with the same lock whenever it takes one, and would read all of them."""
_PUT = """
WITH wanted AS (
    SELECT each ->> 'lock' AS lock, each -> 'args' AS args, number
    FROM jsonb_array_elements(%(jobs)s::jsonb) WITH ORDINALITY AS jobs (each, number)
), absent AS (
    SELECT * FROM wanted w
    WHERE NOT EXISTS (SELECT 1 FROM procrastinate_jobs j WHERE j.queueing_lock = w.lock AND j.status = 'todo')
    AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs j WHERE j.lock = w.lock AND j.status = 'doing')
)
SELECT array_length(procrastinate_defer_jobs_v1(array_agg(
    ROW(%(queue)s, %(task)s, 0, lock, lock, args, NULL)::procrastinate_job_to_defer_v1 ORDER BY number
)), 1) AS added FROM absent
"""
"""The arguments of Procrastinate's own method are an array of composites, which psycopg takes long to write."""
_MAKE_DUE = """
UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE id IN (
    SELECT id FROM procrastinate_jobs
    WHERE queueing_lock = ANY(%(locks)s) AND status = 'todo' AND scheduled_at > now() FOR UPDATE SKIP LOCKED
)
"""
_MAKE_ALL_DUE = """
UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE id IN (
    SELECT id FROM procrastinate_jobs
    WHERE task_name = %(task)s AND status = 'todo' AND scheduled_at > now() FOR UPDATE SKIP LOCKED
)
"""
_POSTPONE = """
UPDATE procrastinate_jobs SET scheduled_at = now() + make_interval(secs => %(seconds)s) WHERE id IN (
    SELECT id FROM procrastinate_jobs
    WHERE task_name = %(task)s AND status = 'todo' AND args ->> 'output' = %(output)s FOR UPDATE SKIP LOCKED
)
"""
_FETCH = """
SELECT (f).id, (f).args FROM (
    SELECT procrastinate_fetch_job_v2(%(queues)s::varchar[], %(worker)s) AS f
    FROM generate_series(1, %(count)s) OFFSET 0
) AS fetched WHERE (f).id IS NOT NULL
"""
"""Several jobs at once: each call of the function takes one, or none."""
_FETCHED = """
SELECT id, args FROM procrastinate_jobs WHERE status = 'doing' AND worker_id = %(worker)s AND id <> ALL(%(held)s)
"""

T = TypeVar("T")
log: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job in the queue.

    Attributes:
        output: the output that it is for, which names the journal.
        key: the job's key.
        duplicates: keys of jobs that get its clip.
    """

    output: str
    key: str
    duplicates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FetchedJob:
    """A job that this worker has to do.

    Attributes:
        id: its id in the queue.
        worker: the worker that has it.
        job: what it is.
    """

    id: int
    worker: int
    job: QueuedJob


class JobQueue:
    """The queue of a database. Make it with `open_queue`."""

    def __init__(self, app: App) -> None:
        from procrastinate import exceptions

        self._manager = app.job_manager
        self._connector = app.connector
        self._exceptions = exceptions
        self._is_unsure = False

    async def put(self, jobs: Sequence[QueuedJob]) -> int:
        """Adds jobs that are not in the queue already; how many those were. The others wait no longer."""
        added = 0
        for start in range(0, len(jobs), CHUNK):
            chunk = [{"lock": _lock(job), "args": asdict(job)} for job in jobs[start : start + CHUNK]]
            rows = await self._connector.execute_query_all_async(_PUT, jobs=json.dumps(chunk), queue=QUEUE, task=TASK)
            added += rows[0]["added"] or 0
            await self._connector.execute_query_async(_MAKE_DUE, locks=[each["lock"] for each in chunk])
        return added

    async def register(self) -> int:
        """Makes this process a worker; its id.

        The id is random: a server that falls back to an earlier state would give a number of its own out again, while
        the worker that had it goes on.
        """
        worker = secrets.randbits(48)
        await self._connector.execute_query_async(
            "INSERT INTO procrastinate_workers (id) OVERRIDING SYSTEM VALUE VALUES (%(worker)s)", worker=worker
        )
        return worker

    async def beat(self, worker: int) -> bool:
        """The worker's heartbeat; whether it still is one."""
        row = await self._connector.execute_query_all_async(
            "UPDATE procrastinate_workers SET last_heartbeat = now() WHERE id = %(worker)s RETURNING id", worker=worker
        )
        return bool(row)

    async def unregister(self, worker: int) -> None:
        """The worker ends."""
        await self._manager.unregister_worker(worker)

    async def fetch(self, worker: int, count: int, held: Collection[int]) -> list[FetchedJob]:
        """Takes the next jobs.

        Args:
            worker: the worker that takes them.
            count: how many at most.
            held: ids of the jobs that it has. If the answer to an earlier call was lost, its jobs are not among them,
                and are returned now.
        """
        rows = []
        if self._is_unsure:
            rows += await self._connector.execute_query_all_async(_FETCHED, worker=worker, held=list(held))
        self._is_unsure = True
        rows += await self._connector.execute_query_all_async(_FETCH, queues=[QUEUE], worker=worker, count=count)
        self._is_unsure = False
        return [FetchedJob(int(row["id"]), worker, _job_of(row["args"])) for row in rows]

    async def finish(self, worker: int, ids: Collection[int]) -> None:
        """Jobs are done: they leave the queue, but for those that another worker has by now."""
        await self._connector.execute_query_async(
            "DELETE FROM procrastinate_jobs WHERE id = ANY(%(ids)s) AND status = 'doing' AND worker_id = %(worker)s",
            ids=list(ids),
            worker=worker,
        )

    async def put_back(self, fetched: FetchedJob, after_seconds: float = 0.0) -> None:
        """The job is not done: some worker takes it again."""
        at = datetime.now(UTC) + timedelta(seconds=after_seconds)
        await self._connector.execute_query_async(
            "SELECT procrastinate_retry_job_v2(id, %(at)s, NULL, NULL, NULL) FROM procrastinate_jobs "
            "WHERE id = %(id)s AND status = 'doing' AND worker_id = %(worker)s",
            id=fetched.id,
            worker=fetched.worker,
            at=at,
        )

    async def postpone(self, output: str, seconds: float) -> None:
        """Lets the jobs of an output that no worker has wait for so long."""
        await self._connector.execute_query_async(_POSTPONE, task=TASK, output=output, seconds=seconds)

    async def make_all_due(self) -> None:
        """No job waits any longer: a worker that begins may have what they wait for, such as another flag."""
        await self._connector.execute_query_async(_MAKE_ALL_DUE, task=TASK)

    async def counts(self, output: str | None = None) -> tuple[int, int]:
        """How many jobs wait, and how many are being worked on; those of one output, or all."""
        rows = await self._connector.execute_query_all_async(
            "SELECT status::text AS status, count(*) AS count FROM procrastinate_jobs WHERE task_name = %(task)s "
            "AND status IN ('todo', 'doing') AND (%(output)s::text IS NULL OR args ->> 'output' = %(output)s) "
            "GROUP BY 1",
            task=TASK,
            output=output,
        )
        found = {row["status"]: int(row["count"]) for row in rows}
        return found.get("todo", 0), found.get("doing", 0)

    async def workers(self, lease_seconds: float) -> int:
        """How many workers had a heartbeat in this number of seconds."""
        rows = await self._connector.execute_query_all_async(
            "SELECT count(*) AS count FROM procrastinate_workers "
            "WHERE last_heartbeat > now() - make_interval(secs => %(lease)s)",
            lease=lease_seconds,
        )
        return int(rows[0]["count"])

    async def wait_inserted(self, wake: Callable[[], None]) -> None:
        """Calls `wake` whenever a job is put into the queue, until cancelled."""

        async def notified(*, channel: str, notification: Any) -> None:
            wake()

        await closing_when_cancelled(
            lambda: self.patiently(lambda: self._manager.listen_for_jobs(on_notification=notified, queues=[QUEUE]))
        )

    async def patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        """What `act` returns, tried again for as long as the database is not available."""
        failures = 0
        while True:
            try:
                return await act()
            except self._exceptions.ConnectorException as error:
                if not failures:
                    log.warning("waiting for the queue: %s", " ".join(str(error.__cause__ or error).split()))
                failures += 1
                await anyio.sleep(PAUSE_SECONDS)


def _job_of(given: dict[str, Any]) -> QueuedJob:
    return QueuedJob(given["output"], given["key"], tuple(given["duplicates"]))


def _lock(job: QueuedJob) -> str:
    """Names a job in the whole database: it is at most once in the queue."""
    return hashlib.sha256(f"{job.output}\n{job.key}".encode()).hexdigest()[:32]


@asynccontextmanager
async def open_queue(dsn: str, *, create: bool = False) -> AsyncIterator[JobQueue]:
    """Opens the queue of a database.

    Args:
        dsn: the database.
        create: make its tables if there are none.

    Raises:
        Unusable: Procrastinate is not installed, or the database can't be used.
    """
    try:
        import procrastinate
        import psycopg
    except ImportError:
        raise Unusable("workers need Procrastinate, which is not installed: pip install 'wan-async[cluster]'") from None
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of what a restart or the worker's end cut off
    unreached = await anyio.to_thread.run_sync(_why_unreached, dsn)
    if unreached is not None:
        log.warning("waiting for the queue: %s", unreached)
    connector = procrastinate.PsycopgConnector(
        conninfo=dsn, kwargs=connection_defaults(dsn), min_size=1, max_size=4, timeout=10.0
    )
    app = procrastinate.App(connector=connector)
    try:
        async with app.open_async():
            if create:
                await _create(app)
            yield JobQueue(app)
    except (procrastinate.exceptions.ConnectorException, psycopg.Error) as error:
        said = unreached if isinstance(error, psycopg.OperationalError) else None
        raise Unusable(f"the queue can't be used: {said or ' '.join(str(error.__cause__ or error).split())}") from None


def _why_unreached(dsn: str) -> str | None:
    """Why a database can't be reached now, but may be soon; None if it can. Blocking.

    Raises:
        Unusable: it refuses, or its address is wrong.
    """
    psycopg = import_psycopg()
    try:
        connect(dsn).close()
    except psycopg.Error as error:
        if not isinstance(error, psycopg.OperationalError) or is_refusal(error):
            raise Unusable(advice(error, "the queue")) from None
        return " ".join(str(error).split())
    return None


async def _create(app: App) -> None:
    """Makes the tables of Procrastinate, and our index, unless they are there. Two processes may do so at once."""
    from procrastinate import exceptions

    said = ""
    for _ in range(3):
        (found,) = await app.connector.execute_query_all_async(
            "SELECT to_regclass('procrastinate_jobs')::text AS jobs, to_regclass('wan_async_locks')::text AS locks"
        )
        if None not in found.values():
            return
        try:
            if found["jobs"] is None:
                await app.schema_manager.apply_schema_async()
            await app.connector.execute_query_async(_INDEX)
        except exceptions.ConnectorException as error:
            said = " ".join(str(error.__cause__ or error).split())
            log.debug("another process may have made the tables: %s", said)
    raise Unusable(f"the tables of Procrastinate can't be made in this database: {said}")
