"""From a URL to a whole, checked, durable part: one download, written once for a loop and for a thread of its own.

- When `Fetch.run` returns, the part is as long as the answer said, is what its first bytes claim, and is fsynced.
- A part is resumed only with the strong ETag that was remembered before its first byte was written. An old part is
  emptied, durably, before another ETag is remembered, so that two contents never meet in one file. After a power cut a
  file may have kept its length and lost its data: a part with a block of zeros is begun anew.
- At any await a cancellation may strike; it loses what came since the last batch.
- Nothing the server sends becomes a path, a header or a credential; each hop's URL is checked before it is asked for.
- Not known: whether a host's name resolves to a private address, and whether the pictures in a whole file are good.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, time
from typing import TypeVar, TypeVarTuple, Unpack

import httpx

from wan_async import errors, wire
from wan_async.disk import Files, Offload
from wan_async.media import identify

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_REDIRECTS = 5
HEADERS = {"User-Agent": "wan-async", "Accept": "*/*", "Accept-Encoding": "identity"}
BROKEN_OFF = (httpx.HTTPError, ssl.SSLError)
"""What a network does. httpcore lets TLS faults in mid-body through as they are."""
BATCH_BYTES = 2**20
ZEROS = bytes(4096)


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


def check_url(url: str | httpx.URL, *, allow_private: bool, before: httpx.URL | None = None) -> httpx.URL:
    """The URL, if it may be asked for an output.

    Args:
        url: as the service or a redirect gave it.
        allow_private: whether hosts of this machine and of private networks are fine, because the API is such a one.
        before: the URL that redirected here.

    Raises:
        errors.JobFailed: of kind `download`, with the reason.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise _refused(f"the output's URL is none: {error}") from None
    if parsed.scheme not in ("http", "https"):
        raise _refused(f"an output is not fetched by {parsed.scheme or 'no scheme'}://, only by http(s)")
    if not re.fullmatch(rb"[A-Za-z0-9._:-]+", parsed.raw_host):
        raise _refused("the output's URL names no host")
    if parsed.userinfo:
        raise _refused("the output's URL carries a user or a password")
    if before is not None and before.scheme == "https" and parsed.scheme == "http":
        raise _refused("the output's server redirects from https to plain http")
    if not allow_private and _is_private(parsed.host):
        raise _refused(f"the output's URL names a private host ({parsed.host})")
    return parsed


def _refused(message: str) -> errors.JobFailed:
    return errors.JobFailed(message, kind="download")


def _is_private(host: str) -> bool:
    """Whether a host is a literal address that isn't public, in any of the forms that resolvers take, or localhost."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name if ":" in name else socket.inet_aton(name))  # inet_aton: 2130706433, 0x7f.1
    except (OSError, ValueError):
        return False
    inner: list[ipaddress.IPv4Address | None] = []
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour]
        if address in ipaddress.ip_network("64:ff9b::/96"):
            inner.append(ipaddress.IPv4Address(address.packed[-4:]))
    found = next((v4 for v4 in inner if v4 is not None), address)
    return not found.is_global or found.is_multicast


class _Part:
    """A part file that is being filled: its length and its hash. All methods but `__init__` block."""

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._path = path
        self._closing = ExitStack()

    def open(self, keep: bool) -> None:
        """Opens it, to go on after what is there (if `keep`, and if it looks sound) or to begin anew."""
        self._file = self._closing.enter_context(self._files.open(self._path))
        self._hash = hashlib.sha256()
        self.size = 0
        while keep and (data := self._file.read(BATCH_BYTES)):
            if any(data.startswith(ZEROS, at) for at in range(0, len(data), len(ZEROS))):
                keep = False  # lost in a power cut
            self._hash.update(data)
            self.size += len(data)
        if not keep:
            self.restart()

    def restart(self) -> None:
        """Empties it, durably if there was something in it."""
        old = self._file.seek(0, os.SEEK_END)
        if old:
            self._file.seek(0)
            self._file.truncate()
            self._files.fsync(self._file)
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, chunks: list[bytes]) -> None:
        """Appends what arrived."""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._files.write(self._file, data)
        self._hash.update(data)
        self.size += len(data)

    def finish(self, announced: str) -> str:
        """Makes it durable and says what it is."""
        self._files.fsync(self._file)
        return identify(self._file, self.size, announced)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        self._closing.close()


async def on_disk(offload: Offload, path: Path, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
    """What `func(*args)` returns.

    Raises:
        errors.Unusable: the disk refused; it says what to do about it.
    """
    try:
        return await offload(func, *args)
    except OSError as error:
        again = "run the same command again: what was paid for is not lost"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.Unusable(f"the disk is full ({path.parent}): free some space and {again}") from error
        why = error.strerror or str(error)
        raise errors.Unusable(f"{path} can't be written ({why}): mend that and {again}") from error


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
        etag: what `remember` was last given for this part.
        remember: stores an ETag durably; awaited before the first byte of a body is written.
        progress: told how many bytes are there, and of how many if that is known.
        transport: carries the requests.
        offload: where the calls to the disk run.
        files: the calls themselves.
        batch_bytes: what arrives is written in batches of this size, or each second where it trickles in. With 0, each
            piece is written before the next is received.
        allow_private: ask hosts of this machine and of private networks too.
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
    allow_private: bool
    max_bytes: int
    timeout: httpx.Timeout
    _part: _Part = field(init=False)

    def __post_init__(self) -> None:
        self._part = _Part(self.files, self.path)

    def close(self) -> None:
        """Closes the part where `run` was kept from doing so. It blocks."""
        self._part.close()

    async def run(self) -> Fetched:
        """Fills the part, checks it and makes it durable; a second time if its length is not what was announced.

        Raises:
            errors.WanError: see `Downloader.fetch`.
        """
        first = await self._once(_strong(self.etag))
        if (self.announced_bytes or first.bytes) == first.bytes:
            return first
        second = await self._once("")
        if second.sha256 != first.sha256:
            await self._disk(self.files.unlink, self.path)
            raise errors.JobFailed("two downloads of it differ, and neither has the announced length", kind="content")
        warning = f"it has {second.bytes} bytes, twice alike, where {self.announced_bytes} were announced"
        return replace(second, warning=warning)

    async def _disk(self, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        return await on_disk(self.offload, self.path, func, *args)

    async def _once(self, etag: str) -> Fetched:
        part = self._part
        try:
            try:
                await self._disk(part.open, bool(etag))
                new_etag = await self._receive(part, etag)
                kind = await self._disk(part.finish, self.content_type)
            finally:
                await self._disk(part.close)
        except errors.JobFailed as error:
            if error.kind in ("content", "size"):
                await self._disk(self.files.unlink, self.path)
            raise
        return Fetched(part.size, part.hexdigest(), kind, new_etag or None)

    async def _receive(self, part: _Part, etag: str) -> str:
        """Fills the part, after what is there if that can be; returns the strong ETag of the whole, or nothing."""
        while True:
            start = part.size
            try:
                async with self._answer(start, etag) as response:
                    fresh = response.status_code == 200
                    total = _length(response) if fresh else _total_after(response, start, etag)
                    if fresh or total is not None:
                        if fresh:
                            await self._disk(part.restart)
                            etag = _strong(response.headers.get("etag"))
                            await self.remember(etag)
                        await self._pour(response, part, total)
                        return etag
            except BROKEN_OFF as error:
                raise errors.TryLater(f"the download broke off ({type(error).__name__}: {error})") from error
            await self._disk(part.restart)  # the server has another content now, or can't resume

    async def _pour(self, response: httpx.Response, part: _Part, total: int | None) -> None:
        known = total or self.announced_bytes
        chunks: list[bytes] = []
        held, written_at = 0, monotonic()
        if total is not None and total > self.max_bytes:
            raise self._too_long()
        async with _reading(response) as raw:
            try:
                async for chunk in raw:
                    chunks.append(chunk)
                    held += len(chunk)
                    if part.size + held > self.max_bytes:
                        raise self._too_long()
                    if held >= self.batch_bytes or monotonic() - written_at >= 1:
                        await self._disk(part.write, chunks)
                        self.progress(part.size, known)
                        chunks, held, written_at = [], 0, monotonic()
            except BROKEN_OFF:
                await self._disk(part.write, chunks)  # for the next call to go on after
                raise
        if chunks:
            await self._disk(part.write, chunks)
        self.progress(part.size, known)
        if total is not None and part.size != total:
            raise errors.TryLater(f"the download ended after {part.size} of {total} bytes", status=200)

    def _too_long(self) -> errors.JobFailed:
        return errors.JobFailed(f"the output is longer than {self.max_bytes} bytes, the limit", kind="size")

    @asynccontextmanager
    async def _answer(self, start: int, etag: str) -> AsyncIterator[httpx.Response]:
        """The answer to a GET, after redirects: 200, or where a range was asked for 206 or 416."""
        headers = HEADERS | ({"Range": f"bytes={start}-", "If-Range": etag} if start else {})
        hop = check_url(self.url, allow_private=self.allow_private)
        for _ in range(MAX_REDIRECTS + 1):
            request = httpx.Request("GET", hop, headers=headers, extensions={"timeout": self.timeout.as_dict()})
            response = await self.transport.handle_async_request(request)
            response.request = request
            try:
                if not response.has_redirect_location:
                    _check_answer(response, ranged=start > 0)
                    yield response
                    return
                to = _joined(hop, response.headers["location"])
            finally:
                await response.aclose()
            hop = check_url(to, allow_private=self.allow_private, before=hop)
        raise _refused(f"the output's URL redirects more than {MAX_REDIRECTS} times")


def _joined(hop: httpx.URL, location: str) -> str:
    try:
        return str(hop.join(location))
    except httpx.InvalidURL as error:
        raise _refused(f"the output's URL redirects to none: {error}") from None


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


def _check_answer(response: httpx.Response, *, ranged: bool) -> None:
    status = response.status_code
    if status in (403, 404, 410):
        raise errors.NotFound(f"the output's URL is no longer good (HTTP {status})", kind="expired")
    if status in (408, 425, 429) or status >= 500:
        after_seconds = wire.retry_after(response.headers.get("retry-after"), time())
        raise errors.TryLater(f"the output's server answered HTTP {status}", after_seconds=after_seconds, status=status)
    if status != 200 and not (ranged and status in (206, 416)):
        raise _refused(f"the output's server answered HTTP {status}")
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise _refused("the output's server compressed it, which was not asked for")


def _length(response: httpx.Response) -> int | None:
    said = response.headers.get("content-length", "")
    return int(said) if re.fullmatch(r"[0-9]{1,18}", said) else None


def _total_after(response: httpx.Response, start: int, etag: str) -> int | None:
    """The whole's length if this answer goes on after `start` bytes of the same whole, to its end; else None."""
    found = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", response.headers.get("content-range", ""))
    if response.status_code != 206 or found is None or response.headers.get("etag") != etag:
        return None
    first, last, total = map(int, found.groups())
    return total if first == start and last == total - 1 else None
