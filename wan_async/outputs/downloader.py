"""Downloads outputs with an HTTP client that has no credentials.

`resumable_download.Fetch` is one coroutine with two drivers. With the default transport it runs in a thread of its own,
where its requests and file operations block (`download_thread`): that is as fast as curl, and the event loop is not
stalled by any of it. With a transport that the caller passed in, it runs in the event loop, as it does in virtual time.

A plain function for the thread beside a coroutine for the loop was considered: the driver would become 40 lines
shorter, but the 230 lines that decide what may be appended to a part (ranges, ETags, overlaps, compression, limits)
would have to exist twice, or be split into a state machine that two loops feed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import httpx

from wan_async import errors
from wan_async.filesystem import Files, is_transient
from wan_async.http.blocking_transport import BlockingTransport
from wan_async.http.transport import StackTransport
from wan_async.outputs.content_encoding import BATCH_BYTES
from wan_async.outputs.download_requests import Requests
from wan_async.outputs.download_thread import Gate, OnLoop, drive_in_thread
from wan_async.outputs.resumable_download import Fetch, Fetched, Known
from wan_async.threads import Offload, in_threads, inline

MAX_BYTES = 4 * 2**30
"""The default limit for the length of an output: an endless body is cut off there."""
MAX_THREADS = 256


class Downloader:
    """Downloads outputs into part files. It sends no credentials and no cookies, and reads no netrc.

    It calls the transport directly: an `httpx.AsyncClient` would add what must not be sent.
    Downloads may run in parallel, but not two of the same part.

    Args:
        transport: sends the requests of all downloads, from the event loop, and is closed with this object. By default
            each download has a thread and a connection of its own.
        allow_private: allow URLs of this machine and of private networks, because the API is there, too. Otherwise
            our own transports also check the addresses that host names resolve to, where there is no proxy.
        base_url: the URL of the API: relative URLs are relative to it, and its own host is always allowed.
        max_bytes: the limit for the length of an output.
        timeout: for each step of a request; a body may take any time as long as it keeps arriving.
        offload: where other blocking calls run, by default in up to 8 threads. With `inline`, no thread is used.
        files: the file operations.
    """

    def __init__(
        self,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        allow_private: bool = False,
        base_url: str | None = None,
        max_bytes: int = MAX_BYTES,
        timeout: httpx.Timeout | None = None,
        offload: Offload | None = None,
        files: Files | None = None,
    ) -> None:
        self._transport = StackTransport() if transport is None and offload is inline else transport
        self._busy: set[BlockingTransport] = set()
        self._idle: list[BlockingTransport] = []
        self._is_closed = False
        self._threads = anyio.CapacityLimiter(MAX_THREADS)
        self._timeout = timeout or httpx.Timeout(30.0, connect=15.0, pool=None)
        self._allow_private = allow_private
        self._base_url = base_url
        self._known: dict[Path, Known] = {}
        self._max_bytes = max_bytes
        self._offload = offload or in_threads(8)
        self._files = files or Files()

    async def __aenter__(self) -> Downloader:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections; downloads in flight fail."""
        self._is_closed = True
        if self._transport is not None:
            await self._transport.aclose()
        for each in (*self._busy, *self._idle):
            each.close()

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
        """Downloads `url` into `part`, checks it and makes it durable.

        A file that is complete and valid but not of the announced length is downloaded a second time, and accepted with
        a warning if both are equal.

        Args:
            url: the URL of the output.
            part: the file to fill; its folder exists.
            announced_bytes: the length that the service announced, None or 0 if it announced none.
            content_type: the type that the service announced; the bytes themselves decide.
            etag: the last argument of `remember` for this part: a strong ETag, or "" if the content has none. None if
                it was never called: then the download starts from the first byte, whatever the part holds.
            remember: stores an ETag durably; awaited before the first byte of a body is written.
            progress: called with the number of bytes in the part, and the total if it is known; also before an error.

        Raises:
            errors.TryLater: a temporary fault (the network, the server, too many open files or threads); the bytes that
                arrived are kept, and the next call resumes after them.
            errors.NotFound: of kind `expired`: the URL is not valid any more, Task/Detail may show a fresh one.
            errors.JobFailed: of kind `content` (the bytes are no complete output; another attempt may succeed), `size`
                (above `max_bytes`), `target` (the part is a link) or `download` (the URL or the response is refused).
            errors.Unusable: the disk.
        """
        fetch = partial(
            Fetch,
            url=url,
            path=part,
            announced_bytes=announced_bytes,
            content_type=content_type,
            etag=etag,
            files=self._files,
            known=self._known.setdefault(part, Known()),
            max_bytes=self._max_bytes,
        )
        try:
            if self._transport is None:
                fetched = await self._fetch_in_a_thread(fetch, remember, progress)
            else:
                fetched = await fetch(
                    remember=remember,
                    progress=progress,
                    requests=self._requests(self._transport),
                    offload=self._offload,
                    batch_bytes=BATCH_BYTES,
                ).run()
        except RuntimeError as error:
            if not is_transient(error):
                raise
            raise errors.TryLater(f"no thread for the download ({error})") from error
        self._known.pop(part, None)
        return fetched

    async def _fetch_in_a_thread(
        self,
        fetch: Callable[..., Fetch],
        remember: Callable[[str], Awaitable[None]],
        progress: Callable[[int, int | None], None],
    ) -> Fetched:
        levels: deque[tuple[int, int | None]] = deque(maxlen=1)
        gate = Gate()

        def report() -> None:
            while levels:
                progress(*levels.pop())

        async with self._threads:
            transport = self._take_transport()
            one = fetch(
                remember=lambda etag: OnLoop(partial(remember, etag)),
                progress=lambda *level: levels.append(level),
                requests=self._requests(transport),
                offload=gate,
                batch_bytes=0,
            )

            def abandon() -> None:
                transport.close()
                gate.shut()
                one.close()

            try:
                return await drive_in_thread(one.run(), progress=report, abandon=abandon, offload=self._offload)
            finally:
                self._return_transport(transport)

    def _requests(self, transport: httpx.AsyncBaseTransport) -> Requests:
        return Requests(transport, self._allow_private, self._base_url, self._timeout)

    def _take_transport(self) -> BlockingTransport:
        transport = self._idle.pop() if self._idle else BlockingTransport()
        self._busy.add(transport)
        if self._is_closed:
            transport.close()
        return transport

    def _return_transport(self, transport: BlockingTransport) -> None:
        self._busy.remove(transport)
        if not transport.is_closed:
            self._idle.append(transport)
