"""The sandbox over HTTP on 127.0.0.1: an ASGI shell, the WebSocket, callbacks, and clips made in another process."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import httpx
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from wan_async.sandbox.clips import render
from wan_async.sandbox.exchange import Request
from wan_async.sandbox.faults import check
from wan_async.sandbox.service import Sandbox
from wan_async.sandbox.settings import ClipOrder

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
CALLBACK_SECONDS = 0.5
CHUNK = 256 * 1024


class Connections(H11Protocol):
    """Remembers each connection by its peer, so that the app can cut it."""

    open: dict[tuple[str, int], asyncio.Transport] = {}  # noqa: RUF012 - of the one server in this process

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """A client is there."""
        self.open[transport.get_extra_info("peername")[:2]] = transport
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """A client is gone."""
        for peer, transport in list(self.open.items()):
            if transport is self.transport:
                del self.open[peer]
        super().connection_lost(exc)


class App:
    """The ASGI app around one sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._changed = asyncio.Event()
        self.sandbox.changed = self._changed.set

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or one WebSocket."""
        if scope["type"] == "websocket":
            await self._socket(receive, send)
            return
        with contextlib.suppress(_Gone):  # half a request is none: nothing comes of it
            if scope["path"].startswith("/sandbox/"):
                await self._control(scope, receive, send)
            else:
                await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        base = f"http://{headers.get('host', '127.0.0.1')}"
        request = Request(
            scope["method"], scope["path"], scope["query_string"].decode(), headers, await _body(receive), base
        )
        answer = await self.sandbox.answer(request)
        connection = Connections.open.get(tuple(scope["client"]))
        if answer.drop:
            if connection is not None:
                connection.abort()
            return
        raw = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        if answer.cut_after is None:
            for start in range(0, len(answer.body), CHUNK):
                more = start + CHUNK < len(answer.body)
                await send(
                    {"type": "http.response.body", "body": answer.body[start : start + CHUNK], "more_body": more}
                )
            if not answer.body:
                await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.body", "body": answer.body[: answer.cut_after], "more_body": True})
        if connection is not None:
            connection.close()

    async def _control(self, scope: Scope, receive: Receive, send: Send) -> None:
        """For people who test: what the account holds, and how to change it from elsewhere."""
        sandbox = self.sandbox
        status = 200
        if scope["path"] == "/sandbox/control" and scope["method"] == "POST":
            wanted = json.loads(await _body(receive))
            try:
                self._apply(wanted)
            except (KeyError, ValueError) as error:
                status = 400
                wanted = {"error": str(error)}
        now = sandbox.settings.now()
        sandbox.account.settle(now)
        report = {
            "balance_usd": sandbox.account.balance_micros / 1e6,
            "spent_usd": sandbox.account.spent_micros / 1e6,
            "requests": dict(sandbox.requests),
            "leaks": sandbox.leaks,
            "tasks": [
                {
                    "id": task.id,
                    "status": task.status(now),
                    "succeeded": task.succeeded(now),
                    "cost_usd": (task.price if task.succeeded(now) else 0) / 1e6,
                    "created": task.created,
                    "seconds": task.seconds,
                    "parameters": task.parameters,
                }
                for task in sandbox.account.tasks.values()
            ],
        }
        body = json.dumps(report).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})

    def _apply(self, wanted: dict[str, Any]) -> None:
        sandbox = self.sandbox
        if "concurrency_limit" in wanted:
            sandbox.account.concurrency_limit = wanted["concurrency_limit"]
        if "balance_usd" in wanted:
            sandbox.account.balance_micros = round(wanted["balance_usd"] * 1e6)
        if "cancel" in wanted:
            sandbox.end(sandbox.account.tasks[wanted["cancel"]])
        if "faults" in wanted:
            for name in wanted["faults"]:
                check(name)
            sandbox.faults.probabilities = dict(wanted["faults"])
        if "fault_next" in wanted:
            sandbox.faults.next(**wanted["fault_next"])

    async def _socket(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps({"type": "connected", "version": "1.0"})})
        subscriptions = _Subscriptions(self.sandbox, send)
        pushing = asyncio.create_task(subscriptions.push())
        try:
            while (message := await receive())["type"] == "websocket.receive":
                try:
                    wanted = json.loads(message.get("text") or "{}")
                except ValueError:
                    continue
                if wanted.get("type") == "task_info" and isinstance(wanted.get("tasktoken"), str):
                    subscriptions.add(wanted["tasktoken"])
                if self.sandbox.faults.meets("socket_drop", "socket"):
                    await send({"type": "websocket.close", "code": 1011})
                    return
        finally:
            pushing.cancel()
            with contextlib.suppress(asyncio.CancelledError, RuntimeError, OSError):
                await pushing

    async def call_back(self) -> None:
        """POSTs what is due to callback URLs of this machine."""
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            while True:
                for url, task in self.sandbox.callbacks_due():
                    host = httpx.URL(url).host
                    if host in ("127.0.0.1", "localhost", "::1"):
                        with contextlib.suppress(httpx.HTTPError):
                            await client.post(url, json=task)
                await asyncio.sleep(CALLBACK_SECONDS)


class _Subscriptions:
    """What one WebSocket listens to: a heap of when each task next has something to say."""

    def __init__(self, sandbox: Sandbox, send: Send) -> None:
        self._sandbox = sandbox
        self._send = send
        self._said: dict[str, int] = {}
        self._due: list[tuple[float, str]] = []
        self._wake = asyncio.Event()

    def add(self, token: str) -> None:
        """Listens to a task from now on."""
        if token not in self._said and not self._sandbox.faults.meets("socket_mute", "socket"):
            self._said[token] = 0
            heapq.heappush(self._due, (0.0, token))
            self._wake.set()

    async def push(self) -> None:
        """Says what there is to say, when it happens."""
        now = self._sandbox.settings.now
        while True:
            while self._due and self._due[0][0] <= now():
                _, token = heapq.heappop(self._due)
                messages, more_at = self._sandbox.messages(token, self._said[token])
                self._said[token] += len(messages)
                for message in messages:
                    await self._send({"type": "websocket.send", "text": json.dumps(message)})
                if more_at is not None:
                    heapq.heappush(self._due, (more_at, token))
            self._wake.clear()
            wait = max(0.001, self._due[0][0] - now()) if self._due else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait)


class Renderer:
    """Makes clips in a process of its own, at low priority, so that the server's answers don't wait."""

    def __init__(self, sandbox: Sandbox, loop: asyncio.AbstractEventLoop) -> None:
        self._sandbox = sandbox
        self._loop = loop
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin_worker)
        sandbox.on_start = self.start

    def start(self, order: ClipOrder) -> None:
        """A task began: its clip is wanted."""
        future = self._pool.submit(render, order.image, order.prompt, order.resolution, order.aspect_ratio, order.seed)
        future.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._done, order.task_id, done))

    def _done(self, task_id: str, future: Future[bytes]) -> None:
        if not future.cancelled():
            self._sandbox.provide_clip(task_id, None if future.exception() else future.result())

    def close(self) -> None:
        """Waits for nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(10)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(0)  # the server is gone, however it went

    threading.Thread(target=watch, daemon=True).start()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are `serve`'s business."""
        yield


async def serve(
    sandbox: Sandbox, *, port: int, rendered: bool, ready: Callable[[int], None], stop: threading.Event
) -> None:
    """Serves on 127.0.0.1 until a signal comes or `stop` is set.

    Args:
        sandbox: what to serve.
        port: 0 for a free one.
        rendered: make real clips, in another process.
        ready: told the port once it listens.
        stop: set from any thread.
    """
    loop = asyncio.get_running_loop()
    app = App(sandbox)
    # asyncio sets TCP_NODELAY only on sockets that name their protocol; without it every answer waits 40 ms
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    config = uvicorn.Config(
        app, http=Connections, ws="wsproto", lifespan="off", log_config=None, log_level="critical", access_log=False,
        timeout_keep_alive=30, backlog=4096, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = _Server(config)

    def end(*_: object) -> None:
        server.should_exit = True

    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), end)
    renderer = Renderer(sandbox, loop) if rendered else None
    resume(sandbox)

    async def announce() -> None:
        while not server.started:  # noqa: ASYNC110 - uvicorn offers no event for it
            await asyncio.sleep(0.01)
        ready(listening.getsockname()[1])
        while not stop.is_set():  # noqa: ASYNC110 - it is set from a thread
            await asyncio.sleep(0.05)
        end()

    others = [asyncio.create_task(announce()), asyncio.create_task(app.call_back())]
    try:
        await server.serve(sockets=[listening])
    finally:
        for other in others:
            other.cancel()
        if renderer is not None:
            renderer.close()


def resume(sandbox: Sandbox) -> None:
    """Tasks whose clip was being made when an earlier process ended: it is made now."""
    for task in list(sandbox.account.tasks.values()):
        if task.held:
            order = sandbox.order_of(task)
            if sandbox.on_start is not None:
                sandbox.on_start(order)
            else:
                sandbox.provide_clip(task.id, sandbox.tiny(order))


class _Gone(Exception):
    """The client went away in the middle of its request."""


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
