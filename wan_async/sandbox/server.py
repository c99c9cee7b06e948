"""The sandbox over HTTP on 127.0.0.1: an ASGI app under uvicorn, and callbacks of ended tasks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from wan_async.sandbox.control import PREFIX, answer_control
from wan_async.sandbox.http import Answer, Request
from wan_async.sandbox.service import Sandbox
from wan_async.sandbox.subscriptions import Message, Receive, Send, serve_socket

if TYPE_CHECKING:
    from wan_async.sandbox.callbacks import Callbacks
    from wan_async.sandbox.render_process import Renderer

CALLBACK_INTERVAL_SECONDS = 0.5
CHUNK_BYTES = 256 * 1024
BACKLOG = 4096


class Connections(H11Protocol):
    """uvicorn's HTTP protocol with a table of the open connections, so that the app can close them."""

    open: dict[tuple[str, int], asyncio.Transport] = {}  # noqa: RUF012 - of the only server in this process

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Add a connection."""
        self.open[transport.get_extra_info("peername")[:2]] = transport
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove a connection."""
        for peer, transport in list(self.open.items()):
            if transport is self.transport:
                del self.open[peer]
        super().connection_lost(exc)


class App:
    """The ASGI app of a sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request or a WebSocket."""
        if scope["type"] == "websocket":
            await serve_socket(self.sandbox, receive, send)
            return
        with contextlib.suppress(_Disconnected):  # an incomplete request has no effect
            body = await _body(receive)
            if scope["path"].startswith(PREFIX):
                port = scope["server"][1]
                answer = answer_control(self.sandbox, scope["method"], scope["path"], _headers(scope), port, body)
            else:
                answer = await self._answer(scope, body)
            await self._send(answer, scope, send)

    async def _answer(self, scope: Message, body: bytes) -> Answer:
        headers = _headers(scope)
        base_url = f"http://{headers.get('host', '127.0.0.1')}"
        query = scope["query_string"].decode()
        return await self.sandbox.answer(Request(scope["method"], scope["path"], query, headers, body, base_url))

    async def _send(self, answer: Answer, scope: Message, send: Send) -> None:
        connection = Connections.open.get(tuple(scope["client"]))
        if answer.drop:
            if connection is not None:
                connection.abort()
            return
        headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        if answer.cut_after is not None:
            part = answer.body[: answer.cut_after]
            await send({"type": "http.response.body", "body": part, "more_body": True})
            if connection is not None:
                connection.close()
            return
        for start in range(0, max(1, len(answer.body)), CHUNK_BYTES):
            more = start + CHUNK_BYTES < len(answer.body)
            chunk = answer.body[start : start + CHUNK_BYTES]
            await send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def send_callbacks(self) -> None:
        """POST ended tasks to their callback URLs, until cancelled."""
        async with contextlib.AsyncExitStack() as stack:
            callbacks: Callbacks | None = None
            while True:
                for url, task in self.sandbox.callbacks_due():
                    if callbacks is None:
                        from wan_async.sandbox.callbacks import Callbacks  # late, see there

                        callbacks = await stack.enter_async_context(contextlib.aclosing(Callbacks()))
                    callbacks.start(url, task)
                await asyncio.sleep(CALLBACK_INTERVAL_SECONDS)


def _headers(scope: Message) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


class _Disconnected(Exception):
    """The client closed the connection before its request was complete."""


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Disconnected
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `serve`."""
        yield


def listen(port: int) -> socket.socket:
    """Return a listening socket on 127.0.0.1; port 0 stands for any free port.

    Raises:
        OSError: the port is in use.
    """
    # asyncio sets TCP_NODELAY only on sockets that name their protocol; without it every answer waits 40 ms
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # on Windows it would let a second socket listen on the same port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(os.name != "nt"))
        listening.bind(("127.0.0.1", port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


async def serve(
    sandbox: Sandbox,
    listening: socket.socket,
    *,
    rendered: bool,
    ready: Callable[[int], None],
    stop: threading.Event,
) -> None:
    """Serve until SIGINT, SIGTERM, or until `stop` is set.

    Args:
        sandbox: the sandbox.
        listening: its socket, see `listen`.
        rendered: render real clips, in a separate process.
        ready: called with the port when the server accepts requests.
        stop: may be set from any thread.
    """
    loop = asyncio.get_running_loop()
    app = App(sandbox)
    port = listening.getsockname()[1]
    sandbox.listen_at(f"http://127.0.0.1:{port}")
    config = uvicorn.Config(
        app, http=Connections, ws="wsproto", lifespan="off", log_config=None, log_level="critical", access_log=False,
        timeout_keep_alive=30, backlog=BACKLOG, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = _Server(config)

    def end(*_: object) -> None:
        server.should_exit = True

    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), end)
    renderer: Renderer | None = None
    if rendered:
        from wan_async.sandbox.render_process import Renderer  # late: placeholder clips don't need it

        renderer = Renderer(sandbox, loop)
    sandbox.resume_rendering()

    async def announce() -> None:
        while not server.started:  # noqa: ASYNC110 - uvicorn offers no event for it
            await asyncio.sleep(0.01)
        ready(port)
        while not stop.is_set():  # noqa: ASYNC110 - it is set from a thread
            await asyncio.sleep(0.05)
        end()

    others = [asyncio.create_task(announce()), asyncio.create_task(app.send_callbacks())]
    try:
        await server.serve(sockets=[listening])
    finally:
        for other in others:
            other.cancel()
        if renderer is not None:
            renderer.close()
