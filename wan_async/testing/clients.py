"""A sandbox, and a client that talks to it in process."""

from __future__ import annotations

import random
from io import FileIO
from pathlib import Path
from typing import Unpack

import anyio
import httpx
from pydantic import SecretStr

from wan_async.client.wan_client import WanClient
from wan_async.domain.attempt import Account
from wan_async.engine.dependencies import Dependencies
from wan_async.filesystem import Files
from wan_async.http.urls import origin
from wan_async.outputs.downloader import Downloader
from wan_async.sandbox import ClipOrder, Sandbox, transport
from wan_async.sandbox.settings import Overrides
from wan_async.testing.clip_files import tiny_mp4
from wan_async.testing.virtual_clock import VirtualClock, now
from wan_async.threads import inline
from wan_async.wiro.api import Api


def make_sandbox(**settings: Unpack[Overrides]) -> Sandbox:
    """A sandbox on the test's clock, whose clips are `tiny_mp4`.

    Args:
        **settings: see `wan_async.sandbox.Settings`.

    Example:
        >>> make_sandbox(balance_usd=5).account.balance_micros
        5000000
    """
    usual: Overrides = {"now": now, "sleep": anyio.sleep, "balance_usd": 1_000.0, "clip": _clip}
    usual.update(settings)
    return Sandbox(**usual)


def make_client(sandbox: Sandbox, clock: VirtualClock | None = None) -> WanClient:
    """A client of a sandbox in process. It starts no thread, and what it writes is not synced to the disk.

    Args:
        sandbox: made by `make_sandbox`.
        clock: is started with the first request; None lets time pass as usual.
    """
    secret = sandbox.settings.api_secret
    connection = _Connection(sandbox, clock)
    draw = random.Random(sandbox.settings.seed).random  # noqa: S311 - repeatable on purpose
    key = SecretStr(sandbox.settings.api_key)
    api = Api(key, None if secret is None else SecretStr(secret), transport=connection, clock=now, draw=draw)
    files = _UnsyncedFiles()
    downloader = Downloader(transport=connection, offload=inline, files=files, base_url=api.base_url)
    dependencies = Dependencies(api, downloader, files, inline, now, draw, inline=True)
    return WanClient.of_dependencies(dependencies, Account(origin(api.base_url), sandbox.settings.api_key))


class _Connection(httpx.AsyncBaseTransport):
    def __init__(self, sandbox: Sandbox, clock: VirtualClock | None) -> None:
        self._inner = transport(sandbox)
        self._clock = clock

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._clock is not None:
            self._clock.start()
        return await self._inner.handle_async_request(request)


class _UnsyncedFiles(Files):
    def fsync(self, file: FileIO) -> None:
        """Does nothing: a test's files need not survive a power cut."""

    def fsync_folder(self, folder: Path) -> None:
        """Does nothing."""


def _clip(order: ClipOrder) -> bytes:
    return tiny_mp4(repr((order.prompt, order.seed, order.task_id)))
