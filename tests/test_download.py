# ruff: noqa: ASYNC110 - a test may read a small file, and may spin until a thread has begun
from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream
from cdn import BIG, CLIP, URL, Cdn, Order, answer, digest

from wan_async import errors
from wan_async.disk import Files, in_threads, inline
from wan_async.download import Downloader
from wan_async.transport import StackTransport

pytestmark = pytest.mark.anyio


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "clip.mp4.part"


async def publish(part: Path, files: Files, content: bytes = CLIP) -> Path:
    target = part.with_suffix("")
    async with Downloader(files=files) as downloader:
        await downloader.publish(part, target, digest(content))
    return target


async def test_publishing_links_then_unlinks_then_makes_the_folder_durable(part: Path) -> None:
    part.write_bytes(CLIP)
    files = Order()
    target = await publish(part, files)
    assert files.log == ["link", "unlink", "fsync folder"]
    assert (target.read_bytes(), part.exists()) == (CLIP, False)


async def test_publishing_again_after_a_crash_at_any_step_ends_in_the_same(part: Path) -> None:
    for step in ("link", "unlink", "fsync folder"):
        part.write_bytes(CLIP)
        part.with_suffix("").unlink(missing_ok=True)
        with pytest.raises(errors.Unusable):
            await publish(part, Order(failing={step: errno.EIO}))
        target = await publish(part, Order())
        assert (target.read_bytes(), part.exists()) == (CLIP, False)


async def test_another_file_of_that_name_is_never_overwritten(part: Path) -> None:
    part.write_bytes(CLIP)
    part.with_suffix("").write_bytes(b"somebody's")
    for files in (Order(), Order(failing={"link": errno.EPERM})):
        with pytest.raises(errors.JobFailed) as caught:
            await publish(part, files)
        assert caught.value.kind == "target"
    assert (part.with_suffix("").read_bytes(), part.read_bytes()) == (b"somebody's", CLIP)


async def test_a_folder_of_that_name_is_never_overwritten(part: Path) -> None:
    part.write_bytes(CLIP)
    part.with_suffix("").mkdir()
    with pytest.raises(errors.JobFailed, match="exists"):
        await publish(part, Order())


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
async def test_where_links_are_missing_it_is_renamed(part: Path, code: int) -> None:
    part.write_bytes(CLIP)
    files = Order(failing={"link": code})
    target = await publish(part, files)
    assert files.log == ["link", "rename", "unlink", "fsync folder"]
    assert (target.read_bytes(), part.exists()) == (CLIP, False)
    part.write_bytes(CLIP)
    await publish(part, files)
    assert (target.read_bytes(), part.exists()) == (CLIP, False)


async def test_a_part_that_is_gone_must_be_fetched_again(part: Path) -> None:
    with pytest.raises(errors.TryLater, match="gone"):
        await publish(part, Order())


def test_a_folder_that_cannot_be_synced_is_left_at_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(code: int) -> None:
        def fsync(fd: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fsync)

    fail(errno.EINVAL)
    Files().fsync_folder(tmp_path)
    fail(errno.EIO)
    with pytest.raises(OSError, match=r"[Ee]rror"):
        Files().fsync_folder(tmp_path)
    monkeypatch.setattr("os.name", "nt")
    Files().fsync_folder(tmp_path)


def test_a_short_write_is_gone_on_with(tmp_path: Path) -> None:
    class Short(FileIO):
        def write(self, data: object) -> int:
            assert isinstance(data, memoryview)
            return super().write(data[:3])

    with Short(tmp_path / "x", "w") as file:
        Files().write(file, b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


class Counting(Files):
    """Knows how many calls are at work right now, and which files are open."""

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
    """A CDN with ranges, in pieces that leave room for a cancellation between them."""
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


STEPS = [*range(40), *range(40, 400, 12), *range(400, 100_000, 200)]


@pytest.mark.parametrize("carrier", [lambda: None, StackTransport])
async def test_a_cancelled_scope_at_any_await_leaves_a_part_that_can_be_resumed(
    part: Path, carrier: Callable[[], httpx.AsyncBaseTransport | None]
) -> None:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as serving,
    ):
        port = listener.extra(SocketAttribute.local_port)
        serving.start_soon(listener.serve, serve_big)
        for steps in STEPS:
            real = Real(part)
            async with Downloader(transport=carrier(), allow_private=True, files=real.files) as downloader:
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


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("carrier", [lambda: None, StackTransport])
async def test_a_native_cancellation_at_any_await_leaves_a_part_that_can_be_resumed(
    part: Path, anyio_backend: str, carrier: Callable[[], httpx.AsyncBaseTransport | None]
) -> None:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as serving,
    ):
        port = listener.extra(SocketAttribute.local_port)
        serving.start_soon(listener.serve, serve_big)
        for steps in STEPS:
            real = Real(part)
            async with Downloader(transport=carrier(), allow_private=True, files=real.files) as downloader:
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


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_native_cancellation_does_not_leave_a_thread_behind(anyio_backend: str) -> None:
    started, release, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(10)
        done.set()

    task = asyncio.create_task(in_threads(1)(work))
    while not started.is_set():
        await asyncio.sleep(0)
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    release.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert done.is_set()


async def test_in_line_or_in_threads_a_call_gives_what_it_returns_or_raises() -> None:
    for offload in (inline, in_threads(1)):
        assert await offload(int, "7") == 7
        with pytest.raises(ValueError, match="invalid literal"):
            await offload(int, "x")


async def test_without_a_loop_to_block_it_works_in_line(part: Path) -> None:
    cdn = Cdn(answer())
    async with Downloader(transport=httpx.MockTransport(cdn), offload=inline) as downloader:

        async def remember(etag: str) -> None:
            assert etag == ""

        fetched = await downloader.fetch(
            URL, part, announced_bytes=None, content_type="", etag=None, remember=remember, progress=print
        )
    assert fetched.sha256 == digest(CLIP)
