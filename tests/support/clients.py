"""Clients of the sandbox in process, for tests of `wan_async.client`."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
from anyio.lowlevel import checkpoint
from harness import EPOCH, KEY, ORIGIN, SECRET
from pictures import png
from pydantic import SecretStr

from wan_async import WanClient
from wan_async.domain.attempt import Account
from wan_async.engine.dependencies import Dependencies
from wan_async.outputs.downloader import Downloader
from wan_async.sandbox import Sandbox, transport
from wan_async.threads import inline
from wan_async.wiro.api import Api

PNG = png(b"cat" * 50)


def virtual_now() -> float:
    """Unix seconds on the clock of the running event loop, whichever it is."""
    return EPOCH + anyio.current_time()


def virtual_sandbox(**settings: Any) -> Sandbox:
    """A sandbox on that clock, with money for every test."""
    return Sandbox(**{"now": virtual_now, "sleep": anyio.sleep, "balance_usd": 1_000.0, **settings})


def quick_sandbox(**settings: Any) -> Sandbox:
    """A sandbox on the real clock whose tasks end soon."""
    return Sandbox(**{"task_seconds": (0.05, 0.1), "balance_usd": 1_000.0, **settings})


def virtual_client(
    carrier: httpx.AsyncBaseTransport | Sandbox, *, key: str = KEY, secret: str = SECRET, **options: Any
) -> WanClient:
    """A client on the loop's clock that uses no thread."""
    carrier = transport(carrier) if isinstance(carrier, Sandbox) else carrier
    draw = random.Random(0).random
    api = Api(SecretStr(key), SecretStr(secret), transport=carrier, clock=virtual_now, draw=draw)
    downloader = Downloader(transport=Lent(carrier), offload=inline)
    dependencies = Dependencies(api, downloader, offload=inline, clock=virtual_now, draw=draw, inline=True)
    return WanClient.of_dependencies(dependencies, Account(ORIGIN, key), **options)


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so, without letting virtual time pass."""
    while not condition():
        await checkpoint()


def client_of(sandbox: Sandbox, **options: Any) -> WanClient:
    """A client as its users make it, but for the transport."""
    return WanClient(KEY, SECRET, transport=transport(sandbox), **options)


class Lent(httpx.AsyncBaseTransport):
    """A transport that is closed by its owner alone."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.inner.handle_async_request(request)


Hook = Callable[[httpx.Request], Awaitable[httpx.Response | None] | None]


class Hooked(httpx.AsyncBaseTransport):
    """A transport that calls a function before each request: it may raise, wait, or answer itself.

    Attributes:
        before: that function.
        closed: how often the transport was closed.
        paths: of all requests.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, before: Hook = lambda request: None) -> None:
        self.inner = inner
        self.before = before
        self.closed = 0
        self.paths: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.path)
        awaitable = self.before(request)
        answered = None if awaitable is None else await awaitable
        return answered if answered is not None else await self.inner.handle_async_request(request)

    async def aclose(self) -> None:
        self.closed += 1
        await self.inner.aclose()


def leftovers(folder: Path) -> list[str]:
    """Part and temporary files in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".part", ".tmp"))


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail a test that waits in vain, instead of blocking the suite."""
    with anyio.fail_after(seconds):
        yield
