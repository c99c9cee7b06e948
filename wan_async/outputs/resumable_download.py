"""One download: from a URL to a complete, checked and durable part file.

A part is resumed only if the content is shown to be the same: by a strong ETag with If-Range, else by the last bytes
of the part, which are requested again and compared. A resumed file that turns out to be damaged is downloaded once
more. An ETag is committed before its first byte is written. A compressed body can't be resumed.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import TypeVar, TypeVarTuple, Unpack

import httpx

from wan_async import errors
from wan_async.filesystem import Files
from wan_async.http.urls import refused_url
from wan_async.outputs.content_encoding import Decompressor, claims_compression, encodings_of
from wan_async.outputs.disk_errors import on_disk
from wan_async.outputs.download_requests import Requests
from wan_async.outputs.download_responses import NETWORK_ERRORS, Span, reading, span_of
from wan_async.outputs.part_file import OVERLAP_BYTES, OverlapDiffers, PartFile
from wan_async.threads import Offload

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A complete, checked and durable part.

    Attributes:
        bytes: its length.
        sha256: its hash, in hex.
        content_type: the type of its bytes, whatever the server announced.
        etag: its strong ETag, None without one.
        warning: what the user should know about it; usually empty.
    """

    bytes: int
    sha256: str
    content_type: str
    etag: str | None
    warning: str = ""


@dataclass(slots=True)
class Known:
    """What this process knows of a part from earlier calls.

    Attributes:
        total: the length of the complete content, according to its server.
        etag: the ETag of the content, also a weak one; empty if there is none.
        written: the length of the part after this process's last write.
        compressed: whether the body was decompressed, so that no range can continue it.
        ignores_if_range: whether the server's responses to If-Range can't be used.
    """

    total: int | None = None
    etag: str = ""
    written: int = 0
    compressed: bool = False
    ignores_if_range: bool = False


def _strong(etag: str | None) -> str:
    """The ETag if it is a strong one (RFC 9110, 8.8.3), else an empty string."""
    return etag if etag and re.fullmatch(r'"[\x21\x23-\x7e]+"', etag) else ""


@dataclass(slots=True)
class Fetch:
    """One download. Two of the same part must not run at once.

    The attributes that are not listed are as for `Downloader` and its `fetch`.

    Attributes:
        path: the part.
        requests: how the URL is requested.
        offload: where the file operations run.
        batch_bytes: a body is written in batches of this size, or each second if it arrives slowly. With 0, each piece
            is written before the next is received.
        known: what this process knows of the part.
    """

    url: str
    path: Path
    announced_bytes: int | None
    content_type: str
    etag: str | None
    remember: Callable[[str], Awaitable[None]]
    progress: Callable[[int, int | None], None]
    requests: Requests
    offload: Offload
    files: Files
    batch_bytes: int
    known: Known
    max_bytes: int
    _part: PartFile = field(init=False)
    _resumed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._part = PartFile(self.files, self.path)

    def close(self) -> None:
        """Closes the part file if `run` could not. It blocks."""
        self._part.close()

    async def run(self) -> Fetched:
        """Fills the part, checks it and makes it durable; a second time if its length is not the announced one.

        Raises:
            errors.WanError: see `Downloader.fetch`.
        """
        try:
            first = await self._download(self.etag)
        except errors.JobFailed as error:
            if error.kind != "content" or not self._resumed:
                raise
            first = await self._download(None)  # pieces of different contents were joined
        if (self.announced_bytes or first.bytes) == first.bytes:
            return first
        second = await self._download(None)
        if second.sha256 != first.sha256:
            await self._disk(self.files.unlink, self.path)
            raise errors.JobFailed("two downloads differ, and neither has the announced length", kind="content")
        warning = f"two downloads have {second.bytes} bytes alike, but {self.announced_bytes} were announced"
        return replace(second, warning=warning)

    async def _disk(self, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        return await on_disk(self.offload, self.path, func, *args)

    async def _download(self, etag: str | None) -> Fetched:
        part, known = self._part, self.known
        self._resumed = False
        try:
            try:
                await self._disk(part.open, etag is not None and not known.compressed, known.written)
                new_etag = await self._receive(part, _strong(etag))
                kind = await self._disk(part.finish, self.content_type)
            finally:
                known.written = part.size
                await self._disk(part.close)
        except errors.JobFailed as error:
            if error.kind in ("content", "size"):
                await self._disk(self.files.unlink, self.path)
            raise
        return Fetched(part.size, part.hexdigest(), kind, new_etag or None)

    async def _receive(self, part: PartFile, etag: str) -> str:
        """Fills the part, resuming it if possible; returns the strong ETag of the content, or an empty string.

        If no response continues the part, the download starts again from the first byte, once.
        """
        known, restarted = self.known, False
        strong = bool(etag) and not known.ignores_if_range
        while True:
            start = part.size
            try:
                async with self.requests.get(self.url, self._range(start, etag if strong else "")) as response:
                    span = span_of(response, known.total or self.announced_bytes or None)
                    if span is not None and (start == 0 == span.first or response.status_code == 200):
                        if strong and start and response.headers.get("etag") == etag:
                            known.ignores_if_range, strong = True, False  # the same content: retry without If-Range
                            continue
                        etag, strong = await self._begin(response, part, span), False
                    elif span is None or not self._fits(response, span, start, etag, strong=strong):
                        if start == 0:
                            raise refused_url("the output's server answered HTTP 206 to a request without a range")
                        if strong:
                            known.ignores_if_range, strong = True, False
                            continue
                        raise OverlapDiffers
                    else:
                        self._resumed = True
                    await self._append(response, part, span)
            except NETWORK_ERRORS as error:
                raise errors.TryLater(f"the download was interrupted ({type(error).__name__}: {error})") from error
            except OverlapDiffers:
                if restarted:
                    raise errors.TryLater("the server's ranges don't fit together") from None
                restarted = True
                await self._disk(part.restart)  # the content has changed, or the server can't resume
                continue
            if span.total is None or span.end in (None, span.total):
                return etag
            if part.size == start:
                raise errors.TryLater(f"the server sends no more than {start} of {span.total} bytes")
            # The server limits the length of a range: the next one is requested.
            strong = bool(etag) and not known.ignores_if_range

    def _range(self, start: int, etag: str) -> dict[str, str]:
        """The headers that request the bytes after the first `start`."""
        if not start:
            return {}
        if etag:
            return {"Range": f"bytes={start}-", "If-Range": etag}
        return {"Range": f"bytes={start - min(OVERLAP_BYTES, start // 2)}-"}

    async def _begin(self, response: httpx.Response, part: PartFile, span: Span) -> str:
        """Prepares the part for a complete body; returns its strong ETag."""
        await self._disk(part.restart)
        said = response.headers.get("etag", "")
        compressed = claims_compression(encodings_of(response))  # its ranges would count compressed bytes
        etag = "" if compressed else _strong(said)
        self.known.total, self.known.etag, self.known.compressed = None if compressed else span.total, said, False
        self._resumed = False
        await self.remember(etag)
        return etag

    def _fits(self, response: httpx.Response, span: Span, start: int, etag: str, *, strong: bool) -> bool:
        """Whether this response continues the same content after `start` bytes, according to its headers."""
        known, said = self.known, response.headers.get("etag", "")
        if span.total is None or span.end is None or not span.first <= start <= span.end <= span.total:
            return False
        if start == span.end < span.total:  # it adds nothing
            return False
        if known.total not in (None, span.total):
            return False
        if strong:
            return span.first == start and said == etag and not claims_compression(encodings_of(response))
        if known.total is None and self.announced_bytes and span.total != self.announced_bytes:
            return False
        return not said or said == (etag or known.etag or said)

    async def _append(self, response: httpx.Response, part: PartFile, span: Span) -> None:
        """Appends a body; bytes that the part has already are compared."""
        decompressor = Decompressor(encodings_of(response) if span.first == 0 else "")
        again = part.size - span.first
        chunks: list[bytes] = []
        held, received, written_at = 0, 0, monotonic()
        if span.total is not None and span.total > self.max_bytes:
            raise self._too_long()

        async def write() -> None:
            nonlocal held, written_at
            if chunks:
                await self._disk(part.write, chunks)
                chunks.clear()
                held, written_at = 0, monotonic()
            self.progress(part.size, (None if decompressor.is_active else span.total) or self.announced_bytes)

        async def take(data: bytes) -> None:
            nonlocal again, held
            if again and data:
                old, data = data[:again], data[again:]
                if not await self._disk(part.holds, part.size - again, old):
                    raise OverlapDiffers
                again -= len(old)
            if not data:
                return
            chunks.append(data)
            held += len(data)
            if part.size + held > self.max_bytes:
                raise self._too_long()
            if held >= self.batch_bytes or monotonic() - written_at >= 1:
                await write()

        async with reading(response) as raw:
            try:
                async for chunk in raw:
                    received += len(chunk)
                    for data in decompressor.feed(chunk):
                        self.known.compressed = decompressor.is_active
                        await take(data)
            except NETWORK_ERRORS:
                await write()  # the next call resumes after it
                raise
            except zlib.error as error:
                raise errors.JobFailed(f"the output's compression is broken ({error})", kind="content") from None
        try:
            await take(decompressor.end())
        except zlib.error as error:
            raise errors.JobFailed(f"the output's compression is broken ({error})", kind="content") from None
        await write()
        if span.end is not None and received != span.end - span.first:
            there = span.first + received
            raise errors.TryLater(f"the download ended after {there} of {span.end} bytes", status=200)

    def _too_long(self) -> errors.JobFailed:
        return errors.JobFailed(f"the output exceeds the limit of {self.max_bytes} bytes", kind="size")
