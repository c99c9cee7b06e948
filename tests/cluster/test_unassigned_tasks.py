"""Tasks that may be those of quarantined attempts, where several workers have the journal open."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import postgres_server
from journals import become
from servers import in_process, sandbox_server, write_batch

from wan_async import Job, WanClient
from wan_async.cli.settings import Access
from wan_async.cluster.cluster_worker import ClusterWorker
from wan_async.cluster.job_queue import open_queue
from wan_async.cluster.shared_journal import SharedJournal
from wan_async.domain.attempt import Account
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.task import TaskDetail
from wan_async.engine.event_stream import EventStream
from wan_async.engine.options import Options
from wan_async.engine.services import Services
from wan_async.journal.base import DatabaseHome
from wan_async.journal.homes import name_of_output
from wan_async.outputs.downloader import Downloader

LEASE_SECONDS = 4.0


def wait_until(exists: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 60
    while not exists():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


async def work_after_another(dsn: str, output: Path, access: Access) -> list[bool]:
    """Runs a worker that comes after one that has quarantined an attempt, and is never heard of again.

    Returns:
        Whether the clip of the task in question was there once the worker's own job was stored, and later.
    """
    account, home = Account(access.origin, access.key), DatabaseHome(dsn, name_of_output(output))
    async with WanClient(access.key, access.secret, base_url=access.base_url) as client:
        task = await client.submit(Job(prompt="whose"))
    clip, found = output / "unassigned" / f"task-{task.id}.mp4", list[bool]()
    async with open_queue(dsn) as queue, access.api() as api:
        gone = await queue.register()
        async with SharedJournal.open(home, account, exclusive=False, worker=gone) as journal:
            attempt = await become(journal, "whose", "unknown")
            await journal.quarantined(attempt, "who knows", [TaskDetail(id=task.id, socketaccesstoken=task.token)], 1.0)
            async with Downloader(allow_private=True, base_url=access.base_url) as downloader:
                worker = ClusterWorker(
                    dsn, services=Services(api, downloader), account=account, options=Options(track="poll"),
                    stream=EventStream(), lease_seconds=LEASE_SECONDS, once=False,
                )  # fmt: skip
                async with anyio.create_task_group() as group:
                    group.start_soon(worker.run)
                    await anyio.to_thread.run_sync(wait_until, (output / "own.mp4").exists)
                    found.append(clip.exists())
                    await anyio.to_thread.run_sync(wait_until, clip.exists)
                    found.append(clip.exists())
                    worker.stop("enough", ExitCode.SUCCESS)
    return found


def test_a_worker_tracks_them_once_the_one_before_it_is_gone(tmp_path: Path) -> None:
    output, batch = tmp_path / "out", write_batch(tmp_path, [{"id": "own", "prompt": "own"}])
    with sandbox_server() as server, postgres_server.database() as dsn:
        enqueued = in_process("enqueue", batch, "-o", output, "--journal", dsn, env=server.env)
        assert enqueued.returncode == 0, enqueued.stderr
        info = server.info
        access = Access(str(info["base_url"]), str(info["api_key"]), str(info["api_secret"]), server.root, None)
        assert anyio.run(partial(work_after_another, dsn, output, access)) == [False, True]
