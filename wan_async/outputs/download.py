"""Downloads of outputs, by an HTTP client that has no credentials."""

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
from wan_async.outputs.transfer import Fetch, Fetched, Known
from wan_async.threads import Gate, Offload, OnLoop, in_a_thread, in_threads, inline

MAX_BYTES = 4 * 2**30
"""No output is longer than this, by default: it ends an endless body."""
MAX_THREADS = 256


class Downloader:
    """Downloads outputs into part files. It has no credentials, keeps no cookies and reads no netrc.

    It talks to the transport itself: an `httpx.AsyncClient` would add just what must not be sent here.
    Two fetches of one part must not run at once; any number of others may.

    Args:
        transport: by default each download has a thread and a connection of its own. A transport that is passed in
            carries all of them in the loop, and is closed with this one.
        allow_private: ask hosts of this machine and of private networks too, because the API is such a one. Otherwise
            the addresses of names are checked as well, by our own transports and where there is no proxy.
        base_url: where the API is: relative URLs are relative to it, and its own host is never refused.
        max_bytes: no output is longer.
        timeout: for each step of a request; a body may take any time as long as it keeps arriving.
        offload: where other blocking calls run, by default in up to 8 threads. With `inline`, no thread is used.
        files: the calls that reach the disk.
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
        self._places = anyio.CapacityLimiter(MAX_THREADS)
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
        """Closes the connections; the downloads that are under way break off."""
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
        """Fills `part` from `url`, checks it and makes it durable.

        A file that is complete and valid but not of the announced length is fetched a second time, and accepted with a
        warning if both are equal.

        Args:
            url: where the output is.
            part: the file to fill; its folder exists.
            announced_bytes: the length that the service announced, None or 0 if it announced none.
            content_type: the type that the service announced; the bytes themselves decide.
            etag: what `remember` was last given for this part: a strong ETag, or "" if what was begun has none. None if
                it was never called: then the part is begun anew, whatever there is.
            remember: stores an ETag durably; awaited before the first byte of a body is written.
            progress: told how many bytes are there, and of how many if that is known; also before a fault is raised.

        Raises:
            errors.TryLater: a fault that may pass (the network, the server, too many open files or threads); what has
                arrived is kept, and the next call goes on after it.
            errors.NotFound: of kind `expired`: the URL is no longer good, Task/Detail may give a fresh one.
            errors.JobFailed: of kind `content` (what came is no whole output; another attempt may do better), `size`
                (above `max_bytes`), `target` (the part is a link) or `download` (the URL or the answer is one that is
                refused).
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
            allow_private=self._allow_private,
            base_url=self._base_url,
            max_bytes=self._max_bytes,
            timeout=self._timeout,
        )
        try:
            if self._transport is None:
                fetched = await self._fetch_in_a_thread(fetch, remember, progress)
            else:
                fetched = await fetch(
                    remember=remember,
                    progress=progress,
                    transport=self._transport,
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

        def tick() -> None:
            while levels:
                progress(*levels.pop())

        async with self._places:
            transport = self._take()

            one = fetch(
                remember=lambda etag: OnLoop(partial(remember, etag)),
                progress=lambda *level: levels.append(level),
                transport=transport,
                offload=gate,
                batch_bytes=0,
            )

            def leave() -> None:
                transport.close()
                gate.shut()
                one.close()

            try:
                return await in_a_thread(one.run(), tick=tick, leave=leave, offload=self._offload)
            finally:
                self._give_back(transport)

    def _take(self) -> BlockingTransport:
        transport = self._idle.pop() if self._idle else BlockingTransport()
        self._busy.add(transport)
        if self._is_closed:
            transport.close()
        return transport

    def _give_back(self, transport: BlockingTransport) -> None:
        self._busy.remove(transport)
        if not transport.is_closed:
            self._idle.append(transport)
