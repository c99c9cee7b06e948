"""One download: from a URL to a whole, checked, durable part file."""

from __future__ import annotations

import re
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, time
from typing import Any, TypeVar, TypeVarTuple, Unpack

import anyio
import httpx

from wan_async import errors
from wan_async.filesystem import Files, is_transient
from wan_async.http import retry
from wan_async.http.urls import MAX_REDIRECTS, check_output_url, check_peer, is_host_of, refused_url
from wan_async.outputs.content_encoding import Decompressor, claims_compression, encodings_of
from wan_async.outputs.disk_errors import on_disk
from wan_async.outputs.part_file import OVERLAP_BYTES, OverlapDiffers, PartFile
from wan_async.threads import Offload

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

HEADERS = {"User-Agent": "wan-async", "Accept": "*/*", "Accept-Encoding": "identity"}
BROKEN_OFF = (httpx.HTTPError, ssl.SSLError, anyio.BrokenResourceError, anyio.ClosedResourceError)
"""What a network does. httpcore lets TLS faults in mid-body through as they are."""
TRY_LATER = frozenset({202, 204, 401, 407, 408, 409, 421, 425, 429})
"""What a CDN answers (besides 5xx) while a file or a node of it is not ready."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A complete, checked and durable part.

    Attributes:
        bytes: its length.
        sha256: its hash, in hex.
        content_type: what its bytes are, whatever the server called them.
        etag: the strong ETag it came with, None without one.
        warning: what is odd about it all the same, for people; usually empty.
    """

    bytes: int
    sha256: str
    content_type: str
    etag: str | None
    warning: str = ""


@dataclass(slots=True)
class Known:
    """What this process has seen of a part.

    Attributes:
        total: how long the whole is, as its server said.
        etag: the ETag of what was begun, weak ones too; empty if there was none.
        written: how long the part was when it was last written here.
        compressed: whether what came was unpacked, so that no range can go on after it.
        ignores_if_range: whether the server answers If-Range with what can't be used.
    """

    total: int | None = None
    etag: str = ""
    written: int = 0
    compressed: bool = False
    ignores_if_range: bool = False


def _strong(etag: str | None) -> str:
    """The ETag if it is a strong one (RFC 9110, 8.8.3), else nothing."""
    return etag if etag and re.fullmatch(r'"[\x21\x23-\x7e]+"', etag) else ""


@dataclass(slots=True)
class Fetch:
    """One download. Two of one part must not run at once.

    Attributes:
        url: where the output is.
        path: the part; its folder exists.
        announced_bytes: the length that the service announced, None or 0 if it announced none.
        content_type: the type that the service announced; the bytes themselves decide.
        etag: what `remember` was last given for this part: a strong ETag, or "" if what was begun has none. None if it
            was never called.
        remember: stores an ETag durably; awaited before the first byte of a body is written.
        progress: told how many bytes are there, and of how many if that is known; also before a fault is raised.
        transport: carries the requests.
        offload: where the calls to the disk run.
        files: the calls themselves.
        batch_bytes: what arrives is written in batches of this size, or each second where it trickles in. With 0, each
            piece is written before the next is received.
        known: what this process has seen of the part.
        allow_private: ask hosts of this machine and of private networks too.
        base_url: where the API is, to which URLs may be relative.
        max_bytes: no output is longer.
        timeout: for each step of a request.
    """

    url: str
    path: Path
    announced_bytes: int | None
    content_type: str
    etag: str | None
    remember: Callable[[str], Awaitable[None]]
    progress: Callable[[int, int | None], None]
    transport: httpx.AsyncBaseTransport
    offload: Offload
    files: Files
    batch_bytes: int
    known: Known
    allow_private: bool
    base_url: str | None
    max_bytes: int
    timeout: httpx.Timeout
    _part: PartFile = field(init=False)
    _joined: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._part = PartFile(self.files, self.path)

    def close(self) -> None:
        """Closes the part where `run` was kept from doing so. It blocks."""
        self._part.close()

    async def run(self) -> Fetched:
        """Fills the part, checks it and makes it durable; a second time if its length is not what was announced.

        Raises:
            errors.WanError: see `Downloader.fetch`.
        """
        try:
            first = await self._once(self.etag)
        except errors.JobFailed as error:
            if error.kind != "content" or not self._joined:
                raise
            first = await self._once(None)  # it was put together, and wrongly
        if (self.announced_bytes or first.bytes) == first.bytes:
            return first
        second = await self._once(None)
        if second.sha256 != first.sha256:
            await self._disk(self.files.unlink, self.path)
            raise errors.JobFailed("two downloads of it differ, and neither has the announced length", kind="content")
        warning = f"it has {second.bytes} bytes, twice alike, where {self.announced_bytes} were announced"
        return replace(second, warning=warning)

    async def _disk(self, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        return await on_disk(self.offload, self.path, func, *args)

    async def _once(self, etag: str | None) -> Fetched:
        part, known = self._part, self.known
        self._joined = False
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
        """Fills the part, after what is there if that can be; returns the strong ETag of the whole, or nothing.

        If nothing that the server answers can be joined to what is there, it is begun anew, once.
        """
        known, anew = self.known, False
        strong = bool(etag) and not known.ignores_if_range
        while True:
            start = part.size
            try:
                async with self._answer(self._range(start, etag if strong else "")) as response:
                    span = _span_of(response, known.total or self.announced_bytes or None)
                    if span is not None and (start == 0 == span.first or response.status_code == 200):
                        if strong and start and response.headers.get("etag") == etag:
                            known.ignores_if_range, strong = True, False  # the same content: without If-Range, then
                            continue
                        etag, strong = await self._begin(response, part, span), False
                    elif span is None or not self._fits(response, span, start, etag, strong=strong):
                        if start == 0:
                            raise refused_url("the output's server answered HTTP 206, which wasn't asked for")
                        if strong:
                            known.ignores_if_range, strong = True, False
                            continue
                        raise OverlapDiffers
                    else:
                        self._joined = True
                    await self._pour(response, part, span)
            except BROKEN_OFF as error:
                raise errors.TryLater(f"the download broke off ({type(error).__name__}: {error})") from error
            except OverlapDiffers:
                if anew:
                    raise errors.TryLater("the server's ranges don't fit together") from None
                anew = True
                await self._disk(part.restart)  # it has another content now, or can't resume
                continue
            if span.total is None or span.end in (None, span.total):
                return etag
            if part.size == start:
                raise errors.TryLater(f"the server sends no more than {start} of {span.total} bytes")
            strong = bool(etag) and not known.ignores_if_range  # it sends the whole in pieces

    def _range(self, start: int, etag: str) -> dict[str, str]:
        """The headers that ask for what comes after `start` bytes."""
        if not start:
            return {}
        if etag:
            return {"Range": f"bytes={start}-", "If-Range": etag}
        return {"Range": f"bytes={start - min(OVERLAP_BYTES, start // 2)}-"}

    async def _begin(self, response: httpx.Response, part: PartFile, span: _Span) -> str:
        """Gets ready for a whole from its first byte; returns its strong ETag."""
        await self._disk(part.restart)
        said = response.headers.get("etag", "")
        compressed = claims_compression(encodings_of(response))  # its ranges would be those of what is packed
        etag = "" if compressed else _strong(said)
        self.known.total, self.known.etag, self.known.compressed = None if compressed else span.total, said, False
        self._joined = False
        await self.remember(etag)
        return etag

    def _fits(self, response: httpx.Response, span: _Span, start: int, etag: str, *, strong: bool) -> bool:
        """Whether this answer brings something after `start` bytes of the same whole, as far as its head tells."""
        known, said = self.known, response.headers.get("etag", "")
        if span.total is None or span.end is None or not span.first <= start <= span.end <= span.total:
            return False
        if start == span.end < span.total:  # nothing new
            return False
        if known.total not in (None, span.total):
            return False
        if strong:
            return span.first == start and said == etag and not claims_compression(encodings_of(response))
        if known.total is None and self.announced_bytes and span.total != self.announced_bytes:
            return False
        return not said or said == (etag or known.etag or said)

    async def _pour(self, response: httpx.Response, part: PartFile, span: _Span) -> None:
        """Appends a body; what of it is in the part already is compared."""
        unpacking = Decompressor(encodings_of(response) if span.first == 0 else "")
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
            self.progress(part.size, (None if unpacking.is_at_work else span.total) or self.announced_bytes)

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

        async with _reading(response) as raw:
            try:
                async for chunk in raw:
                    received += len(chunk)
                    for data in unpacking.feed(chunk):
                        self.known.compressed = unpacking.is_at_work
                        await take(data)
            except BROKEN_OFF:
                await write()  # for the next call to go on after
                raise
            except zlib.error as error:
                raise errors.JobFailed(f"the output's compression is broken ({error})", kind="content") from None
        try:
            await take(unpacking.end())
        except zlib.error as error:
            raise errors.JobFailed(f"the output's compression is broken ({error})", kind="content") from None
        await write()
        if span.end is not None and received != span.end - span.first:
            there = span.first + received
            raise errors.TryLater(f"the download ended after {there} of {span.end} bytes", status=200)

    def _too_long(self) -> errors.JobFailed:
        return errors.JobFailed(f"the output is longer than {self.max_bytes} bytes, the limit", kind="size")

    @asynccontextmanager
    async def _answer(self, range_: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """The answer to a GET, after redirects: 200, or where a range was asked for 206 or 416."""
        hop = check_output_url(self.url, allow_private=self.allow_private, base_url=self.base_url)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._send(hop, range_)
            try:
                if not response.has_redirect_location:
                    _check_answer(response, ranged=bool(range_))
                    yield response
                    return
                to = response.headers["location"]
            finally:
                await response.aclose()
            hop = check_output_url(to, allow_private=self.allow_private, before=hop, base_url=self.base_url)
        raise refused_url(f"the output's URL redirects more than {MAX_REDIRECTS} times")

    async def _send(self, url: httpx.URL, range_: dict[str, str]) -> httpx.Response:
        extensions: dict[str, Any] = {"timeout": self.timeout.as_dict()}
        if not self.allow_private and not is_host_of(url, self.base_url):
            extensions["check_peer"] = check_peer
        try:
            request = httpx.Request("GET", url, headers=HEADERS | range_, extensions=extensions)
            response = await self.transport.handle_async_request(request)
        except (*BROKEN_OFF, errors.WanError):
            raise
        except OSError as error:
            raise errors.TryLater(f"no connection to the output's server ({error})") from error
        except Exception as error:
            if is_transient(error):
                raise errors.TryLater(f"no connection to the output's server ({error})") from error
            raise refused_url(f"the output's URL can't be asked for ({type(error).__name__}: {error})") from error
        response.request = request
        return response


@asynccontextmanager
async def _reading(response: httpx.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body. One that is left early is closed, and then read on to the error that this makes.

    Otherwise the generators below it would be left to the garbage collector, which trio warns of. A transport that
    goes on giving after it was closed is not followed for long.
    """
    assert isinstance(response.stream, httpx.AsyncByteStream)
    raw = aiter(response.stream)  # not aiter_raw: a transport may give a response that was read already
    try:
        yield raw
    finally:
        await response.aclose()
        with suppress(*BROKEN_OFF, StopAsyncIteration):
            for _ in range(8):
                await anext(raw)
            if isinstance(raw, AsyncGenerator):
                await raw.aclose()


def _check_answer(response: httpx.Response, *, ranged: bool) -> None:
    status = response.status_code
    if status in (403, 404, 410):
        raise errors.NotFound(f"the output's URL is no longer good (HTTP {status})", kind="expired")
    if status in TRY_LATER or status >= 500:
        after_seconds = retry.retry_after(response.headers.get("retry-after"), time())
        raise errors.TryLater(f"the output's server answered HTTP {status}", after_seconds=after_seconds, status=status)
    if status not in (200, 206) and not (ranged and status == 416):
        raise refused_url(f"the output's server answered HTTP {status}")


@dataclass(frozen=True, slots=True)
class _Span:
    """What of the whole an answer brings: from `first` to before `end`, of `total`. None is not known."""

    first: int
    end: int | None
    total: int | None


def _span_of(response: httpx.Response, total_before: int | None) -> _Span | None:
    """What an answer brings; None if that can't be told or is nothing. A server may leave the total as it was."""
    if response.status_code == 200:
        said = response.headers.get("content-length", "")
        length = int(said) if re.fullmatch(r"[0-9]{1,18}", said) else None
        return _Span(0, length, length)
    said = response.headers.get("content-range", "")
    found = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", said)
    if response.status_code != 206 or found is None:
        return None
    first, last, total = found.groups()
    return _Span(int(first), int(last) + 1, total_before if total == "*" else int(total))
