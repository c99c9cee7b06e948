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
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import Any

import httpx
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from wan_async.sandbox.clips import render
from wan_async.sandbox.faults import check
from wan_async.sandbox.http import Answer, Request, json_answer
from wan_async.sandbox.service import Sandbox
from wan_async.sandbox.settings import ClipOrder

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
CALLBACK_SECONDS = 0.5
CHUNK = 256 * 1024
BACKLOG = 4096


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
        await send({"type": "http.response.start", "status": answer.status, "headers": _raw(answer)})
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
        status, content = 200, None
        if scope["method"] not in ("GET", "HEAD") and not _is_own(scope):
            status, content = 403, {"error": "only this address itself may change the sandbox"}
        elif scope["path"] == "/sandbox/control" and scope["method"] == "POST":
            body = await _body(receive)
            try:
                self._apply(json.loads(body))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                status, content = 400, {"error": str(error)}
        answer = json_answer(status, self._report() if content is None else content)
        await send({"type": "http.response.start", "status": answer.status, "headers": _raw(answer)})
        await send({"type": "http.response.body", "body": answer.body})

    def _report(self) -> dict[str, Any]:
        sandbox = self.sandbox
        now = sandbox.settings.now()
        sandbox.account.settle(now)
        fetched = {task: at for at, endpoint, task in reversed(sandbox.log) if endpoint == "cdn"}
        return {
            "balance_usd": sandbox.account.balance_micros / 1e6,
            "spent_usd": sandbox.account.spent_micros / 1e6,
            "requests": dict(sandbox.requests),
            "leaks": sandbox.leaks,
            "tasks": [
                {
                    "id": task.id,
                    "status": task.status(now),
                    "succeeded": task.succeeded(now),
                    "cost_usd": task.cost(now) / 1e6,
                    "projectid": task.project_id,
                    "created": task.created,
                    "seconds": task.seconds,
                    "fetched": fetched.get(task.id),
                    "parameters": task.parameters,
                }
                for task in sandbox.account.tasks.values()
            ],
        }

    def _apply(self, wanted: dict[str, Any]) -> None:
        sandbox = self.sandbox
        for name in wanted.get("faults", {}):
            check(name)
        if "settings" in wanted:
            sandbox.change(**wanted["settings"])
        if "refuse_runs" in wanted:
            sandbox.refuse_runs(**wanted["refuse_runs"])
        if "teammates" in wanted:
            sandbox.add_teammate_tasks(**wanted["teammates"])
        if "next_task_id" in wanted:
            sandbox.restart_ids(int(wanted["next_task_id"]))
        if "concurrency_limit" in wanted:
            sandbox.account.concurrency_limit = wanted["concurrency_limit"]
        if "balance_usd" in wanted:
            sandbox.account.settle(sandbox.settings.now())
            sandbox.account.balance_micros = round(wanted["balance_usd"] * 1e6)
            sandbox.keep()
        if "cancel" in wanted:
            sandbox.end(sandbox.account.tasks[wanted["cancel"]])
        if "faults" in wanted:
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
                if (token := _subscribed(message.get("text"))) is not None:
                    subscriptions.add(token)
                if self.sandbox.faults.meets("socket_drop", "socket"):
                    await send({"type": "websocket.close", "code": 1011})
                    return
        finally:
            pushing.cancel()
            with contextlib.suppress(asyncio.CancelledError, RuntimeError, OSError):
                await pushing

    async def call_back(self) -> None:
        """POSTs what is due to callback URLs of this machine."""
        posting: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            while True:
                for url, task in self.sandbox.callbacks_due():
                    post = asyncio.create_task(_post(client, url, task))
                    posting.add(post)
                    post.add_done_callback(posting.discard)
                await asyncio.sleep(CALLBACK_SECONDS)


async def _post(client: httpx.AsyncClient, url: str, task: dict[str, Any]) -> None:
    # an address that is none is its owner's fault, and no reason to call nobody back any more
    with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, OverflowError):
        if httpx.URL(url).host in ("127.0.0.1", "localhost", "::1"):
            await client.post(url, json=task)


def _is_own(scope: Scope) -> bool:
    """Whether a request was meant for this server, and doesn't come from a page of another."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get("host", "").lower()
    own = f"http://{host}"
    # any other name may have been bound to this machine after a page of it was loaded
    known = {f"{name}:{scope['server'][1]}" for name in ("127.0.0.1", "localhost", "[::1]")}
    return host in known and headers.get("origin", own).lower() == own


def _raw(answer: Answer) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]


def _subscribed(text: str | None) -> str | None:
    """The token that a message subscribes to. Other messages, binary ones among them, are of no interest."""
    try:
        wanted = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(wanted, dict) or wanted.get("type") != "task_info":
        return None
    token = wanted.get("tasktoken")
    return token if isinstance(token, str) else None


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
        self._pool = _pool()
        sandbox.on_start = self.start

    def start(self, order: ClipOrder) -> None:
        """A task began: its clip is wanted."""
        args = (order.image, order.prompt, order.resolution, order.aspect_ratio, order.seed)
        try:
            future = self._pool.submit(render, *args)
        except BrokenExecutor:  # the process was killed: its tasks failed, the next ones need not
            self._pool = _pool()
            future = self._pool.submit(render, *args)
        future.add_done_callback(lambda done: self._tell(order.task_id, done))

    def _tell(self, task_id: str, future: Future[bytes]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._done, task_id, future)

    def _done(self, task_id: str, future: Future[bytes]) -> None:
        if not future.cancelled():
            self._sandbox.provide_clip(task_id, None if future.exception() else future.result())

    def close(self) -> None:
        """Waits for nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin_worker)


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


def listen(port: int) -> socket.socket:
    """A listening socket on 127.0.0.1; 0 is a free port.

    Raises:
        OSError: the port is in use.
    """
    # asyncio sets TCP_NODELAY only on sockets that name their protocol; without it every answer waits 40 ms
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # on Windows it would let a second one listen at the same port
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
    """Serves until a signal comes or `stop` is set.

    Args:
        sandbox: what to serve.
        listening: where, see `listen`.
        rendered: make real clips, in another process.
        ready: told the port once it answers.
        stop: set from any thread.
    """
    loop = asyncio.get_running_loop()
    app = App(sandbox)
    port = listening.getsockname()[1]
    sandbox.base = f"http://127.0.0.1:{port}"
    config = uvicorn.Config(
        app, http=Connections, ws="wsproto", lifespan="off", log_config=None, log_level="critical", access_log=False,
        timeout_keep_alive=30, backlog=BACKLOG, timeout_graceful_shutdown=1,
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
        ready(port)
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
