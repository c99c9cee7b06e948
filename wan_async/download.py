"""From a URL to a whole, checked, durable file, by an HTTP client that knows no credentials.

`fetch` fills a `.part` file, the caller commits its hash, `publish` gives it its name: file first, row second.

- When `fetch` returns, the part is as long as the answer said, is what its first bytes claim, and is fsynced.
- A part is resumed only with the strong ETag that was remembered before its first byte was written. An old part is
  emptied, durably, before another ETag is remembered, so that two contents never meet in one file. After a power cut a
  file may have kept its length and lost its data: a part with a block of zeros is begun anew.
- At any await a cancellation may strike; it loses what came since the last batch. No thread works on a part once
  `fetch` or `publish` is left: asyncio's native cancellation would leave one behind, so `in_threads` waits for it.
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
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, time
from typing import TypeVar, TypeVarTuple, Unpack

import httpx

from wan_async import errors, wire
from wan_async.disk import Files, Offload, in_threads
from wan_async.media import identify
from wan_async.transport import StackTransport

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_BYTES = 4 * 2**30
"""No output is longer than this, by default: it ends an endless body."""
MAX_REDIRECTS = 5
HEADERS = {"User-Agent": "wan-async", "Accept": "*/*", "Accept-Encoding": "identity"}
BROKEN_OFF = (httpx.HTTPError, ssl.SSLError)
"""What a network does. httpcore lets TLS faults in mid-body through as they are."""
BATCH_BYTES = 2**20
"""What arrives is written in batches of this size, or each second where it trickles in."""
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
        self._hash = hashlib.sha256()
        self.size = 0

    def open(self, keep: bool) -> None:
        """Opens it, to go on after what is there (if `keep`, and if it looks sound) or to begin anew."""
        self._file = self._closing.enter_context(self._files.open(self._path))
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
        data = b"".join(chunks)
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


def _strong(etag: str | None) -> str:
    """The ETag if it is a strong one (RFC 9110, 8.8.3), else nothing."""
    return etag if etag and re.fullmatch(r'"[\x21\x23-\x7e]+"', etag) else ""


class Downloader:
    """Fetches and publishes outputs. It has no credentials, keeps no cookies and reads no netrc.

    It talks to the transport itself: an `httpx.AsyncClient` would add just what must not be sent here.
    Two fetches of one part must not run at once; any number of others may.

    Args:
        transport: by default a `StackTransport` of its own; a transport that is passed in is closed with this one.
        allow_private: ask hosts of this machine and of private networks too, because the API is such a one.
        max_bytes: no output is longer.
        timeout: for each step of a request; a body may take any time as long as it keeps arriving.
        offload: where blocking calls run, by default in up to 8 threads.
        files: the calls that reach the disk.
    """

    def __init__(
        self,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        allow_private: bool = False,
        max_bytes: int = MAX_BYTES,
        timeout: httpx.Timeout | None = None,
        offload: Offload | None = None,
        files: Files | None = None,
    ) -> None:
        self._transport = transport or StackTransport()
        self._timeout = timeout or httpx.Timeout(30.0, connect=15.0, pool=None)
        self._allow_private = allow_private
        self._max_bytes = max_bytes
        self._offload = offload or in_threads(8)
        self._files = files or Files()

    async def __aenter__(self) -> Downloader:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._transport.aclose()

    async def fetch(
        self,
        url: str,
        part: Path,
        *,
        announced_bytes: int | None,
        content_type: str,
        etag: str | None,
        remember: Callable[[str], Awaitable[None]],
        progress: Callable[[int, int | None], None],
    ) -> Fetched:
        """Fills `part` from `url`, checks it and makes it durable.

        A file that is complete and valid but not of the announced length is fetched a second time, and accepted with a
        warning if both are equal.

        Args:
            url: where the output is.
            part: the file to fill; its folder exists.
            announced_bytes: the length that the service announced, None or 0 if it announced none.
            content_type: the type that the service announced; the bytes themselves decide.
            etag: what `remember` was last given for this part.
            remember: stores an ETag durably; awaited before the first byte of a body is written.
            progress: told how many bytes are there, and of how many if that is known.

        Raises:
            errors.TryLater: a fault that may pass; what has arrived is kept, and the next call goes on after it.
            errors.NotFound: of kind `expired`: the URL is no longer good, Task/Detail may give a fresh one.
            errors.JobFailed: of kind `content` (what came is no whole output; another attempt may do better), `size`
                (above `max_bytes`) or `download` (the URL or the answer is one that is refused).
            errors.Unusable: the disk.
        """
        source = _Source(url, content_type, announced_bytes or None, remember, progress)
        first = await self._fetch_once(source, part, _strong(etag))
        if source.announced_bytes in (None, first.bytes):
            return first
        second = await self._fetch_once(source, part, "")
        if second.sha256 != first.sha256:
            await self._disk(part, self._files.unlink, part)
            raise errors.JobFailed("two downloads of it differ, and neither has the announced length", kind="content")
        warning = f"it has {second.bytes} bytes, twice alike, where {announced_bytes} were announced"
        return replace(second, warning=warning)

    async def publish(self, part: Path, target: Path, sha256: str) -> None:
        """Gives a fetched part its name, durably and without overwriting anything. May be repeated after a crash.

        Args:
            part: the part, in the target's folder.
            target: its name from now on.
            sha256: what `fetch` said, committed by now.

        Raises:
            errors.JobFailed: of kind `target`: there is another file of that name.
            errors.TryLater: neither the part nor the target is there: it must be fetched again.
            errors.Unusable: the disk.
        """
        await self._disk(target, _publish, self._files, part, target, sha256)

    async def _disk(self, path: Path, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        try:
            return await self._offload(func, *args)
        except OSError as error:
            again = "run the same command again: what was paid for is not lost"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise errors.Unusable(f"the disk is full ({path.parent}): free some space and {again}") from error
            why = error.strerror or str(error)
            raise errors.Unusable(f"{path} can't be written ({why}): mend that and {again}") from error

    async def _fetch_once(self, source: _Source, path: Path, etag: str) -> Fetched:
        part = _Part(self._files, path)
        try:
            try:
                await self._disk(path, part.open, bool(etag))
                new_etag = await self._receive(source, part, path, etag)
                kind = await self._disk(path, part.finish, source.content_type)
            finally:
                await self._disk(path, part.close)
        except errors.JobFailed as error:
            if error.kind in ("content", "size"):
                await self._disk(path, self._files.unlink, path)
            raise
        return Fetched(part.size, part.hexdigest(), kind, new_etag or None)

    async def _receive(self, source: _Source, part: _Part, path: Path, etag: str) -> str:
        """Fills the part, after what is there if that can be; returns the strong ETag of the whole, or nothing."""
        while True:
            start = part.size
            try:
                async with self._answer(source.url, start, etag) as response:
                    fresh = response.status_code == 200
                    total = _length(response) if fresh else _total_after(response, start, etag)
                    if fresh or total is not None:
                        if fresh:
                            await self._disk(path, part.restart)
                            etag = _strong(response.headers.get("etag"))
                            await source.remember(etag)
                        await self._pour(source, response, part, path, total)
                        return etag
            except BROKEN_OFF as error:
                raise errors.TryLater(f"the download broke off ({type(error).__name__}: {error})") from error
            await self._disk(path, part.restart)  # the server has another content now, or can't resume

    async def _pour(
        self, source: _Source, response: httpx.Response, part: _Part, path: Path, total: int | None
    ) -> None:
        known = total or source.announced_bytes
        chunks: list[bytes] = []
        held, written_at = 0, monotonic()
        if total is not None and total > self._max_bytes:
            raise self._too_long()
        async with _reading(response) as raw:
            try:
                async for chunk in raw:
                    chunks.append(chunk)
                    held += len(chunk)
                    if part.size + held > self._max_bytes:
                        raise self._too_long()
                    if held >= BATCH_BYTES or monotonic() - written_at >= 1:
                        await self._disk(path, part.write, chunks)
                        source.progress(part.size, known)
                        chunks, held, written_at = [], 0, monotonic()
            except BROKEN_OFF:
                await self._disk(path, part.write, chunks)  # for the next call to go on after
                raise
        await self._disk(path, part.write, chunks)
        source.progress(part.size, known)
        if total is not None and part.size != total:
            raise errors.TryLater(f"the download ended after {part.size} of {total} bytes", status=200)

    def _too_long(self) -> errors.JobFailed:
        return errors.JobFailed(f"the output is longer than {self._max_bytes} bytes, the limit", kind="size")

    @asynccontextmanager
    async def _answer(self, url: str, start: int, etag: str) -> AsyncIterator[httpx.Response]:
        """The answer to a GET, after redirects: 200, or where a range was asked for 206 or 416."""
        headers = HEADERS | ({"Range": f"bytes={start}-", "If-Range": etag} if start else {})
        hop = check_url(url, allow_private=self._allow_private)
        for _ in range(MAX_REDIRECTS + 1):
            request = httpx.Request("GET", hop, headers=headers, extensions={"timeout": self._timeout.as_dict()})
            response = await self._transport.handle_async_request(request)
            response.request = request
            try:
                if not response.has_redirect_location:
                    _check_answer(response, ranged=start > 0)
                    yield response
                    return
                to = _joined(hop, response.headers["location"])
            finally:
                await response.aclose()
            hop = check_url(to, allow_private=self._allow_private, before=hop)
        raise _refused(f"the output's URL redirects more than {MAX_REDIRECTS} times")


@dataclass(frozen=True, slots=True)
class _Source:
    url: str
    content_type: str
    announced_bytes: int | None
    remember: Callable[[str], Awaitable[None]]
    progress: Callable[[int, int | None], None]


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


def _hash_of(path: Path) -> str | None:
    """The SHA-256 of a file, None if there is no file to read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _publish(files: Files, part: Path, target: Path, sha256: str) -> None:
    try:
        files.link(part, target)
    except FileExistsError:
        _settle(target, sha256)
    except FileNotFoundError as error:
        if _hash_of(target) != sha256:
            raise errors.TryLater(f"{part.name} is gone: it must be fetched again") from error
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES):
            raise
        if os.path.lexists(target):  # no hard links here
            _settle(target, sha256)
        else:
            files.rename(part, target)
    files.unlink(part)
    files.fsync_folder(target.parent)


def _settle(target: Path, sha256: str) -> None:
    if _hash_of(target) != sha256:
        raise errors.JobFailed(f"{target.name} exists already and is another file", kind="target")
