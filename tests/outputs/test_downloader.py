from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream
from cdn import BIG, CLIP, URL, Cdn, answer, clip, digest
from sampling import SLOW_STEPS, sampled_product

from wan_async import errors
from wan_async.filesystem import Files
from wan_async.http.transport import StackTransport
from wan_async.outputs import download_thread
from wan_async.outputs.downloader import Downloader
from wan_async.outputs.resumable_download import Fetched
from wan_async.threads import inline

pytestmark = pytest.mark.anyio


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "clip.mp4.part"


class Counting(Files):
    """Counts the running calls, and records the opened files."""

    def __init__(self) -> None:
        self.at_work = 0
        self.opened: list[FileIO] = []
        self.lock = threading.Lock()

    def open(self, path: Path) -> FileIO:
        file = super().open(path)
        self.opened.append(file)
        return file

    def write(self, file: FileIO, data: bytes) -> None:
        with self.lock:
            self.at_work += 1
        try:
            super().write(file, data)
        finally:
            with self.lock:
                self.at_work -= 1


async def serve_big(stream: SocketStream) -> None:
    """A CDN with ranges that sends small pieces, so that a download can be cancelled between them."""
    async with stream:
        data = b""
        while True:
            try:
                while b"\r\n\r\n" not in data:
                    data += await stream.receive()
                head, data = data.split(b"\r\n\r\n", 1)
                start = next(
                    (int(line[13:-1]) for line in head.split(b"\r\n") if line.lower().startswith(b"range:")), 0
                )
                status = f"206 P\r\nContent-Range: bytes {start}-{len(BIG) - 1}/{len(BIG)}" if start else "200 OK"
                text = f'HTTP/1.1 {status}\r\nContent-Length: {len(BIG) - start}\r\nETag: "a"\r\n\r\n'
                await stream.send(text.encode())
                for at in range(start, len(BIG), 2**18):
                    await stream.send(BIG[at : at + 2**18])
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return


@dataclass
class Real:
    """A download over a real socket, which can be cancelled and begun again."""

    part: Path
    files: Counting = field(default_factory=Counting)
    etag: str | None = None
    finished: bool = False
    resumed: bool = False

    async def remember(self, etag: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.etag = etag

    async def fetch(self, downloader: Downloader, port: int) -> None:
        fetched = await downloader.fetch(
            f"http://127.0.0.1:{port}/",
            self.part,
            announced_bytes=len(BIG),
            content_type="video/mp4",
            etag=self.etag,
            remember=self.remember,
            progress=lambda there, total: None,
        )
        assert fetched.sha256 == digest(BIG)
        self.finished = True

    def check(self) -> None:
        assert self.files.at_work == 0
        assert all(file.closed for file in self.files.opened)
        if self.part.exists():
            assert BIG.startswith(self.part.read_bytes())


@pytest.mark.parametrize("again", [False, True])
async def test_a_download_that_gets_no_thread_is_retried_and_leaves_nothing_open(
    part: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """No thread is available: to start in, to continue in after a call of the journal, or to clean up in."""
    start, threads = download_thread._start, [0]

    def no_thread(call: Callable[[], None]) -> None:
        threads[0] += 1
        if threads[0] > again:
            raise RuntimeError("can't start new thread")
        start(call)

    async def no_worker_thread(*args: object, **options: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(download_thread, "_start", no_thread)
    monkeypatch.setattr(anyio.to_thread, "run_sync", no_worker_thread)
    async with real_server(serve_big) as port:
        real = Real(part)
        async with Downloader(allow_private=True, files=real.files) as downloader:
            with pytest.raises(errors.TryLater, match="thread"):
                await real.fetch(downloader, port)
            real.check()
            assert downloader._busy == set()


@asynccontextmanager
async def real_server(handler: Callable[[SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as serving,
    ):
        serving.start_soon(listener.serve, handler)
        yield listener.extra(SocketAttribute.local_port)
        serving.cancel_scope.cancel()


CUT = 2**16
WHOLE = clip(3 * CUT)


@dataclass
class Origin:
    """A server that cuts each response, and handles ranges in its own way.

    Attributes:
        contents: the bodies: the first for the first request, and so on; the last for all later ones.
        etags: likewise; None for no ETag.
        cut: after how many bytes of a body the connection is closed.
        ignores: the header with which it ignores Range, if any.
        shift: the offset of its ranges from the requested ones, in bytes.
        longer: by how many bytes the total in Content-Range is too large.
    """

    contents: tuple[bytes, ...] = (WHOLE,)
    etags: tuple[str | None, ...] = (None,)
    cut: int = CUT
    ignores: str = ""
    shift: int = 0
    longer: int = 0
    requests: int = 0
    sent: int = 0

    async def __call__(self, stream: SocketStream) -> None:
        async with stream:
            data = b""
            try:
                while b"\r\n\r\n" not in data:
                    data += await stream.receive()
                head = dict(line.lower().split(": ", 1) for line in data.decode().split("\r\n")[1:] if line)
                content = self.contents[min(self.requests, len(self.contents) - 1)]
                etag = self.etags[min(self.requests, len(self.etags) - 1)]
                self.requests += 1
                first = int(head.get("range", "bytes=0-")[6:-1])
                ranged = "range" in head and not (self.ignores and self.ignores in head)
                if head.get("if-range", etag) != etag:
                    ranged = False
                first = max(0, first + self.shift) if ranged else 0
                lines = [f"Content-Length: {len(content) - first}"] + ([f"ETag: {etag}"] if etag else [])
                if ranged:
                    lines.append(f"Content-Range: bytes {first}-{len(content) - 1}/{len(content) + self.longer}")
                status = "206 Partial Content" if ranged else "200 OK"
                await stream.send("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode())
                body = content[first : first + self.cut]
                self.sent += len(body)
                await stream.send(body)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return


TRIES = 6


@dataclass
class Retrying(Real):
    """Retries as a run does: until the download is complete, or several tries in a row made no progress."""

    furthest: int = 0
    tries_without_progress: int = 0

    async def remember(self, etag: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.etag = etag

    def progress(self, there: int, total: int | None) -> None:
        if there > self.furthest:
            self.furthest, self.tries_without_progress = there, 0

    async def fetch_until_complete(
        self, downloader: Downloader, port: int, announced: int | None, *, once: bool = False
    ) -> Fetched | None:
        while self.tries_without_progress < TRIES:
            self.tries_without_progress += 1
            try:
                return await downloader.fetch(
                    f"http://127.0.0.1:{port}/",
                    self.part,
                    announced_bytes=announced,
                    content_type="video/mp4",
                    etag=self.etag,
                    remember=self.remember,
                    progress=self.progress,
                )
            except errors.TryLater:
                if once:
                    break
        return None


async def result_of(
    part: Path,
    make_transport: Callable[[], httpx.AsyncBaseTransport | None],
    origin: Origin,
    *,
    announced: int | None = None,
    processes: int = 1,
) -> Fetched | None:
    """The result in the end; with several processes, each but the last makes only one try."""
    retrying, fetched = Retrying(part), None
    async with real_server(origin) as port:
        for number in range(processes):
            async with Downloader(transport=make_transport(), allow_private=True, files=retrying.files) as downloader:
                retrying.tries_without_progress = 0
                fetched = await retrying.fetch_until_complete(downloader, port, announced, once=number < processes - 1)
            assert all(file.closed for file in retrying.files.opened)
    return fetched


TRANSPORTS = [lambda: None, StackTransport]
both_transports = pytest.mark.parametrize("make_transport", TRANSPORTS)
ETAGS = ['"a"', 'W/"a"', None]


@pytest.mark.parametrize(
    ("make_transport", "etag", "announced", "processes"),
    sampled_product(5, TRANSPORTS, ETAGS, [None, len(WHOLE)], [1, 3]),
)
async def test_a_download_is_resumed_from_a_server_that_cuts_each_connection(
    part: Path,
    make_transport: Callable[[], httpx.AsyncBaseTransport | None],
    etag: str | None,
    announced: int | None,
    processes: int,
) -> None:
    origin = Origin(etags=(etag,))
    fetched = await result_of(part, make_transport, origin, announced=announced, processes=processes)
    assert fetched is not None
    assert fetched.sha256 == digest(WHOLE) == digest(part.read_bytes())
    assert origin.requests == 4
    assert origin.sent < len(WHOLE) + 2048


@both_transports
async def test_a_download_is_resumed_from_a_server_that_ignores_range_with_if_range(
    part: Path, make_transport: Callable[[], httpx.AsyncBaseTransport | None]
) -> None:
    origin = Origin(etags=('"a"',), ignores="if-range")
    fetched = await result_of(part, make_transport, origin)
    assert fetched is not None
    assert (fetched.sha256, fetched.etag) == (digest(WHOLE), '"a"')
    assert origin.requests == 5


@pytest.mark.parametrize(
    ("make_transport", "etag", "shift"), sampled_product(5, TRANSPORTS, ETAGS, [-1, -5000, -(2**14)])
)
async def test_a_download_is_resumed_from_a_server_whose_ranges_begin_earlier(
    part: Path, make_transport: Callable[[], httpx.AsyncBaseTransport | None], etag: str | None, shift: int
) -> None:
    fetched = await result_of(part, make_transport, Origin(etags=(etag,), shift=shift))
    assert fetched is not None
    assert fetched.sha256 == digest(WHOLE) == digest(part.read_bytes())


ODD = [{"shift": 300}, {"shift": -(2**18)}, {"longer": 1}, {"longer": -1}, {"ignores": "range"}, {"cut": 0}]


@pytest.mark.parametrize(("odd", "make_transport", "etag"), sampled_product(3, ODD, TRANSPORTS, ['"a"', None]))
async def test_a_download_without_progress_ends_with_a_valid_part(
    part: Path, make_transport: Callable[[], httpx.AsyncBaseTransport | None], etag: str | None, odd: dict[str, Any]
) -> None:
    origin = Origin(etags=(etag,), **odd)
    assert await result_of(part, make_transport, origin) is None
    assert origin.requests <= 3 * (TRIES + 1)
    assert WHOLE.startswith(part.read_bytes())


NEW = WHOLE[:100] + bytes(byte ^ 255 for byte in WHOLE[100:])
LONGER = clip(3 * CUT + 5)


CHANGED = [('"a"', '"b"'), ('W/"a"', 'W/"b"'), (None,), ('W/"a"',), ('"a"', None), ('"a"',)]


@pytest.mark.parametrize(
    ("etags", "make_transport", "change"), sampled_product(3, CHANGED, TRANSPORTS, [(NEW, 1), (LONGER, 2)])
)
async def test_content_that_changed_between_two_tries_is_never_appended_to_the_old_content(
    part: Path,
    make_transport: Callable[[], httpx.AsyncBaseTransport | None],
    etags: tuple[str | None, ...],
    change: tuple[bytes, int],
) -> None:
    content, processes = change
    if etags == ('"a"',):  # the server violates HTTP; only another total length reveals the change
        content = LONGER
    origin = Origin(contents=(WHOLE, content), etags=etags)
    fetched = await result_of(part, make_transport, origin, processes=processes)
    assert fetched is not None
    assert fetched.sha256 == digest(content) == digest(part.read_bytes())


async def test_a_part_that_was_complete_before_a_crash_is_not_downloaded_again(part: Path) -> None:
    part.write_bytes(WHOLE)
    origin = Origin(etags=('W/"a"',))
    retrying = Retrying(part, etag="")
    async with real_server(origin) as port, Downloader(allow_private=True) as downloader:
        fetched = await retrying.fetch_until_complete(downloader, port, None)
    assert fetched is not None
    assert fetched.sha256 == digest(WHOLE)
    assert origin.sent == 256


STEPS = {
    "asyncio": [*range(0, 40, 2), *range(40, 400, 48), *range(400, 100_000, 1000)],
    "trio": [*range(1, 40, 2), *range(64, 400, 48), *range(900, 100_000, 1000)],
}
"""After how many steps of the event loop a download is cancelled; it has ended after the last of them."""


@SLOW_STEPS
@both_transports
async def test_a_cancelled_scope_at_any_await_leaves_a_part_that_can_be_resumed(
    part: Path, anyio_backend: str, make_transport: Callable[[], httpx.AsyncBaseTransport | None], every: int
) -> None:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as serving,
    ):
        port = listener.extra(SocketAttribute.local_port)
        serving.start_soon(listener.serve, serve_big)
        for steps in STEPS[anyio_backend][::every]:
            real = Real(part)
            async with Downloader(transport=make_transport(), allow_private=True, files=real.files) as downloader:
                async with anyio.create_task_group() as group:
                    group.start_soon(real.fetch, downloader, port)
                    for _ in range(steps):
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()
                real.check()
                if real.finished:
                    break
                await real.fetch(downloader, port)
                real.check()
                part.unlink()
        else:
            pytest.fail("the download never ended")
        serving.cancel_scope.cancel()


@SLOW_STEPS
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@both_transports
async def test_a_native_cancellation_at_any_await_leaves_a_part_that_can_be_resumed(
    part: Path, anyio_backend: str, make_transport: Callable[[], httpx.AsyncBaseTransport | None], every: int
) -> None:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as serving,
    ):
        port = listener.extra(SocketAttribute.local_port)
        serving.start_soon(listener.serve, serve_big)
        for steps in STEPS[anyio_backend][::every]:
            real = Real(part)
            async with Downloader(transport=make_transport(), allow_private=True, files=real.files) as downloader:
                task = asyncio.create_task(real.fetch(downloader, port))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                real.check()
                if real.finished:
                    break
                assert task.cancelled()
                await real.fetch(downloader, port)
                real.check()
                part.unlink()
        else:
            pytest.fail("the download never ended")
        serving.cancel_scope.cancel()


async def test_it_works_inline(part: Path) -> None:
    cdn = Cdn(answer())
    async with Downloader(transport=httpx.MockTransport(cdn), offload=inline) as downloader:

        async def remember(etag: str) -> None:
            assert etag == ""

        fetched = await downloader.fetch(
            URL, part, announced_bytes=None, content_type="", etag=None, remember=remember, progress=print
        )
    assert fetched.sha256 == digest(CLIP)
