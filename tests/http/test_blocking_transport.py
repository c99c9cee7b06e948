# ruff: noqa: ASYNC110 - a test may poll until a thread has reached a point
from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream
from cdn import CLIP, Order, clip, digest
from connections import Server, deaf, loopback_tls, mute, refusing, serving
from sampling import sampled_product

from wan_async import errors
from wan_async.http import blocking_transport, direct_connection
from wan_async.http.blocking_transport import DIRECT_READ_BYTES, PIECE_BYTES, BlockingTransport
from wan_async.outputs import download_thread
from wan_async.outputs import downloader as downloader_module
from wan_async.outputs.download_thread import Gate
from wan_async.outputs.downloader import Downloader
from wan_async.outputs.resumable_download import Fetched

pytestmark = pytest.mark.anyio
Handler = Callable[[Server, SocketStream], Awaitable[None]]

AT_ONCE_SECONDS = 5.0
"""An upper bound on a busy machine; code that waits for a blocked thread takes 10 s or more."""
LONG = clip(DIRECT_READ_BYTES + 2 * PIECE_BYTES)


def sends(
    content: bytes = LONG, *, head: int = 0, sent: int | None = None, after: bytes = b"", then: str = ""
) -> Handler:
    """A handler that announces `content`, sends `head` bytes with the head, `sent` in all, and `after`; then `then`."""

    async def handler(server: Server, stream: SocketStream) -> None:
        while True:
            request = await server.request(stream)
            start = next((int(line[13:-1]) for line in request.split(b"\r\n") if line.lower().startswith(b"range:")), 0)
            status = f"206 P\r\nContent-Range: bytes {start}-{len(content) - 1}/{len(content)}" if start else "200 OK"
            headers = f'HTTP/1.1 {status}\r\nContent-Length: {len(content) - start}\r\nETag: "a"\r\n\r\n'
            end = len(content) if sent is None else sent
            await stream.send(headers.encode() + content[start : start + head])
            for at in range(start + head, end, 300_007):
                await stream.send(content[at : min(at + 300_007, end)])
            await stream.send(after)
            if then == "reset":
                await received(stream)
                raw = stream.extra(SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if then in ("leave", "reset"):
                return
            if then == "wait":
                await stream.receive()

    return handler


async def received(stream: SocketStream) -> None:
    """Wait until the peer's system has received all that was sent, since a reset discards unsent data."""
    import fcntl  # not on Windows
    import termios

    raw = stream.extra(SocketAttribute.raw_socket)
    while any(fcntl.ioctl(raw, termios.TIOCOUTQ, bytes(4))):
        await anyio.sleep(0.01)


async def sends_chunks(server: Server, stream: SocketStream) -> None:
    while True:
        await server.request(stream)
        await stream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await stream.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(LONG), LONG))


class Watched(Order):
    """Records its open files, and can block a write."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[FileIO] = []
        self.writing, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def open(self, path: Path) -> FileIO:
        self.opened.append(super().open(path))
        return self.opened[-1]

    def write(self, file: FileIO, data: bytes) -> None:
        self.writing.set()
        self.go_on.wait(10)
        super().write(file, data)


@dataclass
class One:
    """A download in its own thread, over real sockets."""

    part: Path
    files: Watched = field(default_factory=Watched)
    etag: str | None = None
    levels: list[int] = field(default_factory=list)
    timeout: float = 30

    async def remember(self, etag: str) -> None:
        self.etag = etag

    @asynccontextmanager
    async def downloader(self) -> AsyncIterator[Downloader]:
        async with Downloader(allow_private=True, files=self.files, timeout=httpx.Timeout(self.timeout)) as downloader:
            yield downloader

    async def fetch(self, url: str, downloader: Downloader | None = None) -> Fetched:
        if downloader is None:
            async with self.downloader() as downloader:
                return await self.fetch(url, downloader)
        return await downloader.fetch(
            url,
            self.part,
            announced_bytes=None,
            content_type="video/mp4",
            etag=self.etag,
            remember=self.remember,
            progress=lambda there, total: self.levels.append(there),
        )


@pytest.fixture
def one(tmp_path: Path) -> One:
    return One(tmp_path / "clip.mp4.part")


def is_busy(thread: threading.Thread) -> bool:
    """Whether it is a download thread that is not idle."""
    return "download" in thread.name and thread not in download_thread._idle_threads


@pytest.fixture(autouse=True)
def _no_thread_remains(monkeypatch: pytest.MonkeyPatch) -> Any:
    yield
    until = time.monotonic() + 30
    while remaining := [thread for thread in threading.enumerate() if is_busy(thread)]:
        assert time.monotonic() < until, remaining
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("after", "head"), sampled_product(2, [b"", b"more than was announced"], [0, 1, 2**16, 2**20, len(LONG)])
)
async def test_a_long_body_is_received_completely_and_its_connection_is_not_reused(
    one: One, head: int, after: bytes
) -> None:
    async with serving(sends(head=head, after=after)) as server, one.downloader() as downloader:
        for number in (1, 2):
            assert (await one.fetch(server.url, downloader)).sha256 == digest(LONG)
            assert server.connections == number
            await server.until(lambda: server.open == 0)
            one.etag = None
    assert one.levels[-1] == len(LONG)


@pytest.mark.parametrize(("handler", "content"), [(sends(CLIP), CLIP), (sends_chunks, LONG)])
async def test_a_connection_is_reusable_if_h11_read_the_end_of_its_body(
    one: One, handler: Handler, content: bytes
) -> None:
    async with serving(handler) as server, one.downloader() as downloader:
        for _ in range(3):
            assert (await one.fetch(server.url, downloader)).sha256 == digest(content)
            one.etag = None
        assert (server.connections, server.open) == (1, 1)
        await downloader.aclose()
        await server.until(lambda: server.open == 0)
        with pytest.raises(errors.TryLater, match="ConnectError"):
            await one.fetch(server.url, downloader)


@pytest.mark.parametrize(
    ("handler", "timeout", "error", "kept"),
    [
        (mute, 0.05, "ReadTimeout", 0),
        (sends(CLIP, sent=50, then="wait"), 1, "ReadTimeout", 50),
        (sends(CLIP, sent=50, then="leave"), 30, "RemoteProtocolError", 50),
        (sends(sent=len(LONG) - 1, then="wait"), 1, "ReadTimeout", len(LONG) - 1),
        (sends(sent=len(LONG) - 1, then="leave"), 30, "RemoteProtocolError", len(LONG) - 1),
        (sends(sent=2**19, then="reset"), 30, "ReadError", 2**19),
    ],
)
async def test_bytes_before_a_fault_are_kept_and_the_download_is_resumed(
    one: One, handler: Handler, timeout: float, error: str, kept: int
) -> None:
    one.timeout = timeout
    async with serving(handler) as server:
        with pytest.raises(errors.TryLater, match=error):
            await one.fetch(server.url)
        await server.until(lambda: server.open == 0)
    assert one.part.stat().st_size == kept
    assert all(file.closed for file in one.files.opened)
    whole, one.timeout = CLIP if kept == 50 else LONG, 30
    async with serving(sends(whole)) as server:
        assert (await one.fetch(server.url)).sha256 == digest(whole)
        assert (b"range: bytes=%d-" % kept in server.requests[0].lower()) == (kept > 0)


async def test_a_refused_connection_is_retried(one: One) -> None:
    with refusing() as url, pytest.raises(errors.TryLater, match="ConnectError"):
        await one.fetch(url)


async def test_a_redirect_is_followed_from_one_server_to_another(one: One) -> None:
    async def redirects(server: Server, stream: SocketStream) -> None:
        await server.request(stream)
        await stream.send(b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % there.url.encode())
        await stream.receive()

    async with serving(sends()) as there, serving(redirects) as server:
        assert (await one.fetch(server.url)).bytes == len(LONG)
        assert (there.connections, server.connections) == (1, 1)


async def test_over_tls_it_arrives_completely_and_only_from_a_trusted_server(
    one: One, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, pem = loopback_tls(tmp_path)

    async def secure(server: Server, stream: SocketStream) -> None:
        with suppress(ssl.SSLError):
            tls = await TLSStream.wrap(stream, ssl_context=ours, server_side=True, standard_compatible=False)
            await tls.receive()
            await tls.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(LONG), LONG))
            await tls.receive()

    async with serving(secure) as server:
        url = f"https://127.0.0.1:{server.port}/"
        with pytest.raises(errors.TryLater, match="ConnectError"):
            await one.fetch(url)
        await server.until(lambda: server.open == 0)
        trusting = ssl.create_default_context(cafile=str(pem))
        monkeypatch.setattr(downloader_module, "BlockingTransport", lambda: BlockingTransport(verify=trusting))
        assert (await one.fetch(url)).sha256 == digest(LONG)
        await server.until(lambda: server.open == 0)


async def test_the_proxy_of_the_environment_is_used_and_an_unusable_one_is_retried(
    one: One, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(sends()) as proxy, one.downloader() as downloader:
        monkeypatch.setattr(blocking_transport, "environment_proxy", lambda url: proxy.url)
        assert (await one.fetch("http://clips.example/x", downloader)).bytes == len(LONG)
        assert proxy.requests[0].startswith(b"GET http://clips.example/x")
        monkeypatch.setattr(blocking_transport, "environment_proxy", lambda url: "gopher://127.0.0.1/")
        with pytest.raises(errors.TryLater, match="ProxyError"):
            await one.fetch("http://clips.example/x", downloader)


async def test_progress_is_reported_while_it_runs_and_at_its_end(one: One, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_thread, "PROGRESS_SECONDS", 0.01)

    async def in_halves(server: Server, stream: SocketStream) -> None:
        await server.request(stream)
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CLIP) + CLIP[:50])
        with anyio.fail_after(10):
            while not one.levels:
                await anyio.sleep(0.01)
        await stream.send(CLIP[50:])
        await stream.receive()

    async with serving(in_halves) as server:
        await one.fetch(server.url)
    assert (one.levels[0], one.levels[-1]) == (50, len(CLIP))


async def cancelled_when(
    reached: Callable[[], bool], work: Callable[[], Coroutine[Any, Any, object]], how: str, then: Callable[[], None]
) -> float:
    """Cancel the work once it has reached a point, call `then`, and return how many seconds the cancellation took."""
    if how == "a scope":
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            while not reached():
                await anyio.sleep(0.001)
            began = anyio.current_time()
            group.cancel_scope.cancel()
            then()
    else:
        task = asyncio.ensure_future(work())
        while not reached():
            await anyio.sleep(0.001)
        began = anyio.current_time()
        task.cancel()
        then()
        await asyncio.wait([task])
        assert task.cancelled()
    return anyio.current_time() - began


@pytest.fixture(params=["a scope", "asyncio's own"])
def how(request: pytest.FixtureRequest, anyio_backend: str) -> str:
    if anyio_backend == "trio" and request.param != "a scope":
        pytest.skip("trio has only scopes")  # its tasks have no `cancel()`
    return str(request.param)


@pytest.mark.parametrize("stage", ["connecting", "handshake", "head", "head, on a connection that served", "body"])
async def test_a_cancelled_download_returns_at_once_and_changes_nothing_afterwards(
    one: One, stage: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting, go_on = threading.Event(), threading.Event()
    begin = direct_connection._start_connecting

    def connect_slowly(address: Any) -> socket.socket:
        connecting.set()
        go_on.wait(10)
        return begin(address)

    async def answers_once(server: Server, stream: SocketStream) -> None:
        await server.request(stream)
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(CLIP), CLIP))
        await mute(server, stream)

    handler = {
        "handshake": deaf,
        "head, on a connection that served": answers_once,
        "body": sends(sent=2 * PIECE_BYTES, then="wait"),
    }.get(stage, mute)
    async with serving(handler) as server, one.downloader() as downloader:
        reached = {
            "connecting": connecting.is_set,
            "handshake": lambda: server.connections == 1,
            "head": lambda: len(server.requests) == 1,
            "head, on a connection that served": lambda: len(server.requests) == 2,
            "body": lambda: one.part.exists() and one.part.stat().st_size >= PIECE_BYTES,
        }[stage]
        if "served" in stage:
            await one.fetch(server.url, downloader)
        if stage == "connecting":
            monkeypatch.setattr(direct_connection, "_start_connecting", connect_slowly)
        url = server.url.replace("http:", "https:") if stage == "handshake" else server.url
        took = await cancelled_when(reached, lambda: one.fetch(url, downloader), how, lambda: None)
        assert took < AT_ONCE_SECONDS
        assert all(thread.daemon for thread in threading.enumerate() if "download" in thread.name)
        assert all(file.closed for file in one.files.opened)
        log, content = one.files.log.copy(), one.part.read_bytes()
        go_on.set()
        await server.until(lambda: server.open == 0)
        await anyio.sleep(0.05)
        assert (one.files.log, one.part.read_bytes()) == (log, content)
        if stage == "connecting":
            assert server.requests == []


async def test_a_cancelled_download_waits_for_a_write_without_blocking_the_loop(one: One, how: str) -> None:
    one.files.go_on.clear()
    ticked: list[float] = []

    async def tick() -> None:
        while len(ticked) < 10:
            await anyio.sleep(0.01)
            ticked.append(anyio.current_time())
        assert not all(file.closed for file in one.files.opened)
        one.files.go_on.set()

    async with serving(sends()) as server, anyio.create_task_group() as group:

        def begin_ticking() -> None:
            group.start_soon(tick)

        began = anyio.current_time()
        await cancelled_when(one.files.writing.is_set, lambda: one.fetch(server.url), how, begin_ticking)
        assert anyio.current_time() - began >= 0.1
        assert all(file.closed for file in one.files.opened)
        log = one.files.log.copy()
        await server.until(lambda: server.open == 0)
        assert one.files.log == log


async def test_it_can_be_cancelled_while_the_journal_stores_the_etag(
    one: One, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    etags: list[str] = []

    async def remember(etag: str) -> None:
        etags.append(etag)
        await anyio.sleep_forever()

    monkeypatch.setattr(one, "remember", remember)
    async with serving(sends()) as server:
        took = await cancelled_when(lambda: etags == ['"a"'], lambda: one.fetch(server.url), how, lambda: None)
        assert took < AT_ONCE_SECONDS
        assert all(file.closed for file in one.files.opened)
        assert one.part.read_bytes() == b""
        await server.until(lambda: server.open == 0)


async def test_it_can_be_cancelled_before_it_starts(one: One, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloader_module, "MAX_THREADS", 1)
    async with serving(mute) as server, one.downloader() as downloader:
        async with anyio.create_task_group() as group:
            group.start_soon(one.fetch, server.url, downloader)
            await server.until(lambda: len(server.requests) == 1)
            with anyio.move_on_after(0.05) as scope:
                await one.fetch(server.url, downloader)
            assert scope.cancelled_caught
            group.cancel_scope.cancel()
        assert server.connections == 1


@pytest.mark.parametrize("handler", [mute, sends(sent=2 * PIECE_BYTES, then="wait")])
async def test_closing_the_downloader_interrupts_running_downloads(one: One, handler: Handler) -> None:
    async with serving(handler) as server, one.downloader() as downloader, anyio.create_task_group() as group:

        async def close() -> None:
            await server.until(lambda: len(server.requests) == 1)
            await downloader.aclose()

        group.start_soon(close)
        with anyio.fail_after(5), pytest.raises(errors.TryLater, match="interrupted"):
            await one.fetch(server.url, downloader)
        await server.until(lambda: server.open == 0)


async def test_a_gate_that_is_shut_refuses_calls() -> None:
    gate = Gate()
    assert await gate(int, "7") == 7
    gate.shut()
    with pytest.raises(RuntimeError, match="abandoned"):
        await gate(int, "7")


def test_shutting_a_gate_waits_for_the_running_call_and_refuses_the_next() -> None:
    gate, at_work, go_on = Gate(), threading.Event(), threading.Event()
    calls: list[int] = []

    def call(number: int) -> None:
        calls.append(number)
        at_work.set()
        go_on.wait(10)

    async def call_repeatedly() -> None:
        for number in range(1_000):
            await gate(call, number)

    def work() -> None:
        with pytest.raises(RuntimeError, match="abandoned"):
            call_repeatedly().send(None)

    worker, shutter = threading.Thread(target=work), threading.Thread(target=gate.shut)
    worker.start()
    at_work.wait(10)
    shutter.start()
    while not gate.is_shut:
        pass
    assert shutter.is_alive()
    go_on.set()
    shutter.join(10)
    worker.join(10)
    assert calls == [0]


async def test_an_idle_thread_is_reused_and_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def served_by() -> threading.Thread:
        return await download_thread._call_in_thread(threading.current_thread, lambda: None)

    first = await served_by()
    with anyio.fail_after(10):
        while first not in download_thread._idle_threads:
            await anyio.lowlevel.checkpoint()
    assert await served_by() is first
    with anyio.fail_after(10):
        while first not in download_thread._idle_threads:
            await anyio.lowlevel.checkpoint()
    monkeypatch.setattr(download_thread, "IDLE_THREAD_SECONDS", 0.0)
    assert await served_by() is first
    first.join(10)
    assert not first.is_alive()
    assert first not in download_thread._idle_threads


FORKS = """
import os, threading
from wan_async.outputs.download_thread import _idle_threads, _start

called = threading.Event()
_start(called.set)
called.wait()
while not _idle_threads:
    pass
if not (child := os.fork()):
    threading.Timer(60, os._exit, [1]).start()
    _start(lambda: os._exit(7))
else:
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
def test_a_forked_process_uses_no_thread_of_its_parent() -> None:
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS], timeout=120).returncode == 7
