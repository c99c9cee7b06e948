"""A scripted CDN, a file layer that records its calls, and a download with both."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import ClassVar

import anyio
import httpx

from wan_async.filesystem import Files
from wan_async.http.blocking_transport import BlockingTransport
from wan_async.outputs.downloader import MAX_BYTES, Downloader
from wan_async.outputs.resumable_download import Fetched


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def clip(length: int = 100) -> bytes:
    media = hashlib.shake_256(b"media").digest(length)
    return box(b"ftyp", b"isom\0\0\2\0") + box(b"moov", b"index") + box(b"mdat", media)


CLIP = clip()
BIG = clip(3 * 2**20)
URL = "https://cdn.example/clip"


@dataclass
class Order(Files):
    """Records the file operations, and raises in those that a test chooses."""

    log: list[str] = field(default_factory=list)
    failing: dict[str, int] = field(default_factory=dict)

    def note(self, name: str) -> None:
        self.log.append(name)
        if name in self.failing:
            raise OSError(self.failing[name], os.strerror(self.failing[name]))

    def open(self, path: Path) -> FileIO:
        self.note("open")
        return super().open(path)

    def write(self, file: FileIO, data: bytes) -> None:
        self.note("write")
        super().write(file, data)

    def fsync(self, file: FileIO) -> None:
        self.note("fsync")
        super().fsync(file)

    def link(self, source: Path, target: Path) -> None:
        self.note("link")
        super().link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        self.note("rename")
        super().rename(source, target)

    def replace(self, source: Path, target: Path) -> None:
        self.note("replace")
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        self.note("unlink")
        super().unlink(path)

    def fsync_folder(self, folder: Path) -> None:
        self.note("fsync folder")
        super().fsync_folder(folder)


class Cdn:
    """Returns one scripted response per request, repeats the last one, and records the requests."""

    def __init__(self, *steps: Callable[[httpx.Request], httpx.Response] | httpx.Response) -> None:
        self.steps = list(steps)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return step if isinstance(step, httpx.Response) else step(request)

    def ranges(self) -> list[str | None]:
        return [request.headers.get("range") for request in self.requests]


def answer(content: bytes = CLIP, *, status: int = 200, **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers={"content-length": str(len(content)), **given}, stream=Pieces(content))


class Pieces(httpx.AsyncByteStream):
    """A response body in chunks, which may end with an error."""

    def __init__(self, content: bytes, broken: Exception | None = None, size: int = 2**16) -> None:
        self.content, self.broken, self.size = content, broken, size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.content), self.size):
            if threading.current_thread() is threading.main_thread():  # the event loop's thread
                await anyio.lowlevel.checkpoint()
            yield self.content[at : at + self.size]
        if self.broken is not None:
            raise self.broken


def broken(content: bytes, total: int, **headers: str) -> httpx.Response:
    given = {"content-length": str(total), **headers}
    return httpx.Response(200, headers=given, stream=Pieces(content, httpx.ReadError("reset")))


class Scripted(BlockingTransport):
    """A scripted CDN for downloads in a thread."""

    def __init__(self, cdn: Cdn) -> None:
        super().__init__()
        self.cdn = cdn

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self.cdn(request)


@dataclass
class Fetching:
    """The download of one part file, with the ETag that the journal would keep."""

    part: Path
    cdn: Cdn
    files: Order = field(default_factory=Order)
    etag: str | None = None
    levels: list[tuple[int, int | None]] = field(default_factory=list)
    announced_bytes: int | None = None
    content_type: str = "video/mp4"
    max_bytes: int = MAX_BYTES
    allow_private: bool = False
    base_url: str | None = None
    in_a_thread: ClassVar[bool] = False

    async def remember(self, etag: str) -> None:
        self.files.note("remember")
        self.etag = etag

    def downloader(self) -> Downloader:
        return Downloader(
            transport=None if self.in_a_thread else httpx.MockTransport(self.cdn),
            files=self.files,
            max_bytes=self.max_bytes,
            allow_private=self.allow_private,
            base_url=self.base_url,
        )

    async def fetch(self, url: str = URL) -> Fetched:
        async with self.downloader() as downloader:
            return await self.fetch_with(downloader, url)

    async def fetch_with(self, downloader: Downloader, url: str = URL) -> Fetched:
        if self.in_a_thread:
            downloader._idle = [Scripted(self.cdn)]
        return await downloader.fetch(
            url,
            self.part,
            announced_bytes=self.announced_bytes,
            content_type=self.content_type,
            etag=self.etag,
            remember=self.remember,
            progress=lambda there, total: self.levels.append((there, total)),
        )


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
