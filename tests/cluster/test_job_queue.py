"""Jobs in Procrastinate's tables, in a real PostgreSQL."""

from __future__ import annotations

import socket
from functools import partialmethod
from typing import Any

import psycopg
import pytest
from procrastinate import PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.schema import SchemaManager
from psycopg_pool import AsyncConnectionPool

from wan_async.cluster import job_queue
from wan_async.cluster.job_queue import QueuedJob, open_queue
from wan_async.errors import Unusable

pytestmark = [pytest.mark.anyio, pytest.mark.asyncio_only]
JOBS = [QueuedJob("out", f"j{number}", ("copy",) if number == 0 else ()) for number in range(5)]


async def test_workers_take_several_jobs_at_once_each_job_once(dsn: str) -> None:
    async with open_queue(dsn, create=True) as queue:
        first, second = await queue.register(), await queue.register()
        await queue.put(JOBS)
        taken = await queue.fetch(first, 3, ())
        assert [each.job for each in taken] == JOBS[:3]
        assert [each.job for each in await queue.fetch(second, 3, ())] == JOBS[3:]
        assert await queue.fetch(first, 3, ()) == []
        await queue.finish(second, [each.id for each in taken])  # they are another worker's
        assert await queue.counts() == (0, 5)
        await queue.finish(first, [each.id for each in taken])
        assert await queue.counts() == (0, 2)


async def test_no_worker_gets_the_id_of_one_that_the_server_has_forgotten(dsn: str) -> None:
    """Regression: after a fall-back two workers had one id, and nobody took over the jobs of the one that died."""
    async with open_queue(dsn, create=True) as queue:
        former = await queue.register()
        with psycopg.connect(dsn, autocommit=True) as link:
            link.execute("DELETE FROM procrastinate_workers")
            link.execute("ALTER TABLE procrastinate_workers ALTER COLUMN id RESTART")
        assert await queue.register() != former
        assert not await queue.beat(former)


async def test_a_queue_of_an_earlier_version_gets_its_index(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as link:
        for _ in range(2):
            async with open_queue(dsn, create=True) as queue:
                assert await queue.put(JOBS) == 5
            link.execute("DROP INDEX wan_async_locks")
            link.execute("DELETE FROM procrastinate_jobs")


async def test_a_job_is_put_into_the_queue_once_and_again_when_it_has_left_it(dsn: str) -> None:
    async with open_queue(dsn, create=True) as queue:
        worker = await queue.register()
        assert await queue.put(JOBS[:3]) == 3
        (taken,) = await queue.fetch(worker, 1, ())
        assert await queue.put(JOBS) == 2
        assert await queue.put(JOBS) == 0
        await queue.finish(worker, [taken.id])
        assert await queue.put(JOBS) == 1
        assert [each.job.key for each in await queue.fetch(worker, 9, ())] == ["j1", "j2", "j3", "j4", "j0"]


async def test_jobs_that_were_taken_by_a_call_whose_answer_was_lost_are_found(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = PsycopgConnector.execute_query_all_async

    async def loses_its_answer(*args: Any, **arguments: Any) -> Any:
        await query(*args, **arguments)
        raise ConnectorException

    async with open_queue(dsn, create=True) as queue:
        worker = await queue.register()
        await queue.put(JOBS)
        held = await queue.fetch(worker, 1, ())
        with monkeypatch.context() as patch, pytest.raises(ConnectorException):
            patch.setattr(PsycopgConnector, "execute_query_all_async", loses_its_answer)
            await queue.fetch(worker, 2, [each.id for each in held])
        found = await queue.fetch(worker, 1, [each.id for each in held])
        assert sorted(each.job.key for each in found) == ["j1", "j2", "j3"]


async def test_a_database_that_is_gone_for_a_moment_is_waited_for(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_queue, "PAUSE_SECONDS", 0.0)
    answers: list[int | Exception] = [ConnectorException("gone"), ConnectorException("gone"), 7]

    async def act() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with open_queue(dsn) as queue:
        assert (await queue.patiently(act), answers) == (7, [])


async def test_a_database_that_stays_away_is_an_error_that_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    monkeypatch.setattr(AsyncConnectionPool, "open", partialmethod(AsyncConnectionPool.open, timeout=0.1))
    with pytest.raises(Unusable, match="the queue can't be used"):
        async with open_queue(f"postgresql://someone@127.0.0.1:{port}/nothing") as queue:
            await queue.register()
    assert "waiting for the queue" in caplog.text


async def test_tables_that_cannot_be_made_are_an_error_that_says_why(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: object) -> None:
        raise ConnectorException("permission denied for schema public")

    monkeypatch.setattr(SchemaManager, "apply_schema_async", refuse)
    with pytest.raises(Unusable, match="can't be made in this database: permission denied"):
        async with open_queue(dsn, create=True):
            pass
