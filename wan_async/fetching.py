"""From a URL to a whole, checked, durable part: one download, written once for a loop and for a thread of its own.

- When `Fetch.run` returns, the part is as long as the answer said, is what its first bytes claim, and is fsynced.
- A part is resumed with the strong ETag that was remembered before its first byte was written; or, where the server has
  none or ignores it, with a plain Range that begins a little before the end of the part: what is there already must
  come once more, and the total must be what it was. An old part is emptied, durably, before another ETag is remembered.
  So two contents never meet in one file. After a power cut a file may have kept its length and lost its data: a part
  that this process did not write itself and that has a block of zeros is begun anew.
- At any await a cancellation may strike; it loses what came since the last batch.
- Nothing the server sends becomes a path, a header or a credential; each hop's URL is checked before it is asked for,
  and the address behind its name before anything is sent there. Not known: that address where a proxy looks it up, or
  where a caller's transport connects; and whether the pictures in a whole file are good.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import os
import re
import socket
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, time
from typing import Any, TypeVar, TypeVarTuple, Unpack

import anyio
import httpx

from wan_async import errors, wire
from wan_async.disk import Files, IsALink, Offload, is_transient
from wan_async.media import identify

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_REDIRECTS = 5
HEADERS = {"User-Agent": "wan-async", "Accept": "*/*", "Accept-Encoding": "identity"}
BROKEN_OFF = (httpx.HTTPError, ssl.SSLError, anyio.BrokenResourceError, anyio.ClosedResourceError)
"""What a network does. httpcore lets TLS faults in mid-body through as they are."""
TRY_LATER = frozenset({202, 204, 401, 407, 408, 409, 421, 425, 429})
"""What a CDN answers (besides 5xx) while a file or a node of it is not ready."""
BATCH_BYTES = 2**20
ZEROS = bytes(4096)
OVERLAP_BYTES = 256
"""How much of a part comes once more where only the bytes can tell that the content is still the same. It is less than
the least that is worth a connection, so that there is progress however early each is cut."""
COMPRESSED = ("gzip", "x-gzip", "deflate")


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


def check_url(
    url: str | httpx.URL, *, allow_private: bool, before: httpx.URL | None = None, base_url: str | None = None
) -> httpx.URL:
    """The URL, if it may be asked for an output.

    Args:
        url: as the service or a redirect gave it; white space around it doesn't count.
        allow_private: whether hosts of this machine and of private networks are fine, because the API is such a one.
        before: the URL that redirected here, to which this one may be relative.
        base_url: where the API is, to which it may be relative as well; its own host is never refused.

    Raises:
        errors.JobFailed: of kind `download`, with the reason.
    """
    try:
        parsed = _absolute(str(url).strip(WHITE_SPACE), before, base_url)
        host = parsed.host and parsed.raw_host.decode("ascii")  # the former raises where the latter is no valid IDNA
        private_too = allow_private or _is_host_of(parsed, base_url)
    except Exception as error:  # noqa: BLE001 - whatever httpx and idna make of it
        raise _refused(f"the output's URL is none: {error}") from None
    if parsed.scheme not in ("http", "https"):
        raise _refused(f"an output is not fetched by {parsed.scheme or 'no scheme'}://, only by http(s)")
    if not HOST.fullmatch(host):
        raise _refused("the output's URL names no host")
    if parsed.port is not None and not 0 < parsed.port < 2**16:
        raise _refused("the output's URL names no port that there is")
    if parsed.userinfo:
        raise _refused("the output's URL carries a user or a password")
    if before is not None and before.scheme == "https" and parsed.scheme == "http":
        raise _refused("the output's server redirects from https to plain http")
    if not private_too and _is_private(host):
        raise _refused(f"the output's URL names a private host ({host})")
    return parsed


WHITE_SPACE = "".join(map(chr, range(33))) + "\x7f\x85\xa0\u2028\u2029\ufeff"
HOST = re.compile(r"(?=.{1,254}\Z)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
"""A name whose labels fit the DNS, or an IPv6 address."""


def _absolute(url: str, before: httpx.URL | None, base_url: str | None) -> httpx.URL:
    if not url:
        raise ValueError("it is empty")
    parsed = httpx.URL(url)
    if parsed.scheme:
        return parsed
    if before is None and base_url is not None:
        before = httpx.URL(base_url.rstrip("/") + "/")
    if before is not None:
        return before.join(url)
    if url.startswith("//"):
        return httpx.URL(f"https:{url}")
    raise ValueError("it is relative, and to what is not known")


def _is_host_of(url: httpx.URL, base_url: str | None) -> bool:
    return base_url is not None and url.raw_host == httpx.URL(base_url).raw_host


def _refused(message: str) -> errors.JobFailed:
    return errors.JobFailed(message, kind="download")


LOCAL_NAMES = ("localhost", "localdomain", "localdomain4", "localdomain6", "local", "internal", "home.arpa")
"""Domains that never are public (RFC 6761, 6762, 8375), and those of a usual /etc/hosts."""
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
DOCUMENTATION = ipaddress.ip_network("3fff::/20")
HOLDS_IPV4 = tuple(map(ipaddress.ip_network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
FAKED = ipaddress.ip_network("198.18.0.0/15")


def _is_private(host: str) -> bool:
    """Whether a host isn't public: a literal address, in any of the forms that resolvers take, or a local name."""
    name = host.rstrip(".").lower()
    try:
        address = ipaddress.ip_address(name if ":" in name else socket.inet_aton(name))  # inet_aton: 2130706433, 0x7f.1
    except (OSError, ValueError):
        return "." not in name or name.endswith(tuple(f".{local}" for local in LOCAL_NAMES))
    return not _is_public(address)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is reached over the internet; one that leads to an IPv4 address, whether that one is."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.sixtofour is not None:
            address = address.sixtofour
        elif address in NAT64_LOCAL or any(address in network for network in HOLDS_IPV4):
            address = ipaddress.IPv4Address(address.packed[-4:])
        elif address not in GLOBAL_UNICAST or address in DOCUMENTATION:
            return False
    return address.is_global and not address.is_multicast


def check_peer(address: str) -> None:
    """Refuses to send anything to an address that a name turned out to have.

    198.18.0.0/15 is let through: nothing is there, but some proxies that work as a network interface answer every name
    with such an address.

    Raises:
        errors.JobFailed: of kind `download`: it is not public.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if not _is_public(parsed) and parsed not in FAKED:
        raise _refused(f"the output's URL leads to a private address ({address})")


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


class _Unpacking:
    """Undoes a body's Content-Encoding where its bytes show that there is one; some servers only say so."""

    def __init__(self, encodings: str) -> None:
        self._head = b"" if _claims_compression(encodings) else None
        self._decoder: Any = None

    @property
    def is_at_work(self) -> bool:
        return self._decoder is not None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """What a piece of the body holds, in pieces of bounded length."""
        if self._head is not None:
            self._head += bytes(chunk)
            if len(self._head) < 2:
                return
            chunk, self._head = self._head, None
            self._decoder = _decoder(chunk)
        if self._decoder is None:
            yield chunk
            return
        while chunk:
            if self._decoder.eof:  # a gzip file may have several members, and zeros behind them
                if chunk[:1] != b"\x1f":
                    return
                self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
            yield self._decoder.decompress(chunk, BATCH_BYTES)
            chunk = self._decoder.unconsumed_tail or self._decoder.unused_data

    def end(self) -> bytes:
        """What was held back, once the body is over."""
        if self._decoder is None:
            return self._head or b""
        rest: bytes = self._decoder.flush()
        if not self._decoder.eof:
            raise zlib.error("it ends too early")
        return rest


def _decoder(head: bytes) -> Any:
    """What unpacks a body that begins so; None if it isn't packed. No kind of clip begins like either."""
    if head[:2] == b"\x1f\x8b":
        return zlib.decompressobj(zlib.MAX_WBITS | 16)
    if head[0] & 15 == 8 and int.from_bytes(head[:2], "big") % 31 == 0:  # RFC 1950, 2.2
        return zlib.decompressobj()
    return None


class _Differs(Exception):
    """What came once more is not what there is."""


class _Part:
    """A part file that is being filled: its length and its hash. All methods but `__init__` block."""

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._path = path
        self._closing = ExitStack()
        self.size = 0

    def open(self, keep: bool, written: int) -> None:
        """Opens it, to go on after what is there (if `keep`, and if it looks sound) or to begin anew.

        Args:
            keep: whether to go on.
            written: how long it is if nobody but this process wrote to it: then no power cut came between.
        """
        self._file = self._closing.enter_context(self._files.open(self._path))
        self._hash = hashlib.sha256()
        self.size = 0
        ours = written > 0 and written == os.fstat(self._file.fileno()).st_size
        while keep and (data := self._file.read(BATCH_BYTES)):
            if not ours and any(data.startswith(ZEROS, at) for at in range(0, len(data), len(ZEROS))):
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

    def holds(self, at: int, data: bytes) -> bool:
        """Whether it has these bytes there."""
        self._file.seek(at)
        same = self._file.read(len(data)) == data
        self._file.seek(0, os.SEEK_END)
        return same

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
        errors.TryLater: there are too many open files or threads right now.
        errors.JobFailed: of kind `target`: what was to be written is a symbolic link.
        errors.Unusable: the disk refused; it says what to do about it.
    """
    try:
        return await offload(func, *args)
    except IsALink as error:
        raise errors.JobFailed(f"{error.filename}: {error.strerror}", kind="target") from None
    except (OSError, RuntimeError) as error:
        if is_transient(error):
            raise errors.TryLater(f"{path.name} can't be written right now ({error})") from error
        if not isinstance(error, OSError):
            raise
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
    _part: _Part = field(init=False)
    _joined: bool = field(init=False, default=False)

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

    async def _receive(self, part: _Part, etag: str) -> str:
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
                            raise _refused("the output's server answered HTTP 206, which wasn't asked for")
                        if strong:
                            known.ignores_if_range, strong = True, False
                            continue
                        raise _Differs
                    else:
                        self._joined = True
                    await self._pour(response, part, span)
            except BROKEN_OFF as error:
                raise errors.TryLater(f"the download broke off ({type(error).__name__}: {error})") from error
            except _Differs:
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

    async def _begin(self, response: httpx.Response, part: _Part, span: _Span) -> str:
        """Gets ready for a whole from its first byte; returns its strong ETag."""
        await self._disk(part.restart)
        said = response.headers.get("etag", "")
        compressed = _claims_compression(_encodings(response))  # its ranges would be those of what is packed
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
            return span.first == start and said == etag and not _claims_compression(_encodings(response))
        if known.total is None and self.announced_bytes and span.total != self.announced_bytes:
            return False
        return not said or said == (etag or known.etag or said)

    async def _pour(self, response: httpx.Response, part: _Part, span: _Span) -> None:
        """Appends a body; what of it is in the part already is compared."""
        unpacking = _Unpacking(_encodings(response) if span.first == 0 else "")
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
                    raise _Differs
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
        hop = check_url(self.url, allow_private=self.allow_private, base_url=self.base_url)
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
            hop = check_url(to, allow_private=self.allow_private, before=hop, base_url=self.base_url)
        raise _refused(f"the output's URL redirects more than {MAX_REDIRECTS} times")

    async def _send(self, url: httpx.URL, range_: dict[str, str]) -> httpx.Response:
        extensions: dict[str, Any] = {"timeout": self.timeout.as_dict()}
        if not self.allow_private and not _is_host_of(url, self.base_url):
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
            raise _refused(f"the output's URL can't be asked for ({type(error).__name__}: {error})") from error
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
        after_seconds = wire.retry_after(response.headers.get("retry-after"), time())
        raise errors.TryLater(f"the output's server answered HTTP {status}", after_seconds=after_seconds, status=status)
    if status not in (200, 206) and not (ranged and status == 416):
        raise _refused(f"the output's server answered HTTP {status}")


def _encodings(response: httpx.Response) -> str:
    said: str = response.headers.get("content-encoding", "")
    return said


def _claims_compression(encodings: str) -> bool:
    return any(each.strip().lower() in COMPRESSED for each in encodings.split(","))


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
