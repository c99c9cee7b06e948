"""Scripted servers on loopback that count connections and requests."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
from anyio.abc import SocketAttribute, SocketStream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Runs a handler for each connection, and counts connections and requests."""

    def __init__(self, handler: Callable[[Server, SocketStream], Awaitable[None]]) -> None:
        self.handler = handler
        self.port = 0
        self.connections = 0
        self.open = 0
        self.requests: list[bytes] = []
        self.changed = anyio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(10):
            while not condition():
                await self.changed.wait()

    async def serve(self, stream: SocketStream) -> None:
        self.connections += 1
        self.open += 1
        self.notify()
        try:
            async with stream:
                await self.handler(self, stream)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
        finally:
            self.open -= 1
            self.notify()

    async def request(self, stream: SocketStream) -> bytes:
        """Read a request and return its head."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), 0)
        while len(body) < length:
            body += await stream.receive()
        self.requests.append(head)
        self.notify()
        return head


LOOPBACK = """
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg9YoGZTzWWL0UhQpe
h8sHA8k766NxbXVXa/NsFwXCW5WhRANCAAQnXVLiJcFFRw6vQ5hwmSikeJWViouF
yDqVksdR/G5D7p55WypzGbc9f3AuTf+OB3I2eXp9QNaiAMI5oFsg828K
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBjjCCATSgAwIBAgIUCT08mkuTl9tFzsgnUFlNnpbV5JgwCgYIKoZIzj0EAwIw
EzERMA8GA1UEAwwIbG9vcGJhY2swIBcNMjYxMTIzMDAwODI2WhgPMjEyNjEwMzAw
MDA4MjZaMBMxETAPBgNVBAMMCGxvb3BiYWNrMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEJ11S4iXBRUcOr0OYcJkopHiVlYqLhcg6lZLHUfxuQ+6eeVsqcxm3PX9w
Lk3/jgdyNnl6fUDWogDCOaBbIPNvCqNkMGIwHQYDVR0OBBYEFNEuf3G8uM0KVKbF
M61BHj2+ztevMB8GA1UdIwQYMBaAFNEuf3G8uM0KVKbFM61BHj2+ztevMA8GA1Ud
EQQIMAaHBH8AAAEwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEA
gg+ihUXas/3/zTyZBA/3paLRwAOv+HZvC5GZclsMD/YCIDDsM1CXsCI09BlcOw5a
dV2dnVYRVQu4SowxsRyaICsW
-----END CERTIFICATE-----
"""
"""Key and certificate for 127.0.0.1, used only by these tests."""


@asynccontextmanager
async def serving(handler: Callable[[Server, SocketStream], Awaitable[None]]) -> AsyncIterator[Server]:
    server = Server(handler)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        server.port = listener.extra(SocketAttribute.local_port)
        group.start_soon(listener.serve, server.serve)
        yield server
        group.cancel_scope.cancel()


@contextmanager
def refusing() -> Iterator[str]:
    """URL of a port that refuses connections and is reserved for the duration of the block."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/"


async def polite(server: Server, stream: SocketStream) -> None:
    while True:
        await server.request(stream)
        await stream.send(OK)


async def mute(server: Server, stream: SocketStream) -> None:
    await server.request(stream)
    await stream.receive()


async def deaf(server: Server, stream: SocketStream) -> None:
    while True:
        await stream.receive()


def loopback_tls(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """The context of a server with a certificate for 127.0.0.1 that nobody trusts, and the file of the certificate."""
    pem = folder / "loopback.pem"
    pem.write_text(LOOPBACK)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context, pem
