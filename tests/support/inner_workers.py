"""Workers in this process, which saves the start of Python where none is killed or suspended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
from anyio.from_thread import start_blocking_portal
from servers import Server

from wan_async.cli.api_settings import Access
from wan_async.cluster.cluster_worker import ClusterWorker
from wan_async.domain.attempt import Account
from wan_async.domain.exit_codes import ExitCode
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.options import Options
from wan_async.engine.run_events import EventStream
from wan_async.outputs.downloader import Downloader

LEASE_SECONDS = 4.0


def access_to(server: Server) -> Access:
    """The account of a sandbox."""
    info = server.info
    return Access(str(info["base_url"]), str(info["api_key"]), str(info["api_secret"]), server.root, info["socket_url"])


@asynccontextmanager
async def working(dsn: str, access: Access, lease_seconds: float = LEASE_SECONDS) -> AsyncIterator[EventStream]:
    """A worker that runs while the block does, which gets its events."""
    stream = EventStream()
    async with access.api() as api, Downloader(allow_private=True, base_url=access.base_url) as downloader:
        worker = ClusterWorker(
            dsn, dependencies=Dependencies(api, downloader, socket_url=access.socket_url),
            account=Account(access.origin, access.key), options=Options(), stream=stream,
            lease_seconds=lease_seconds, once=False,
        )  # fmt: skip
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            yield stream
            worker.stop("enough", ExitCode.SUCCESS)


@contextmanager
def worker_in_thread(dsn: str, server: Server) -> Iterator[None]:
    """A worker in another thread while the block runs."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(working(dsn, access_to(server))):
        yield
