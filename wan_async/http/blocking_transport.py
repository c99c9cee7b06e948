"""An httpx transport that blocks, for a coroutine that a thread drives."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

import httpx

from wan_async.http.proxies import environment_proxy
from wan_async.http.transport import KEEPALIVE_SECONDS, shared_ssl_context, single_connection

if TYPE_CHECKING:
    from wan_async.http.direct_connection import DirectTransport

DIRECT_READ_BYTES = 4 * 2**20
"""If at least this much of a body remains, it is read from the socket directly."""
PIECE_BYTES = 2**20


class BlockingTransport(httpx.AsyncBaseTransport):
    """One connection, for one request at a time; it blocks instead of awaiting, and raises httpx's exceptions.

    A request's extension `check_peer` is called with the address to connect to and may refuse it by raising. It is not
    called where a proxy is used: the proxy resolves the name.

    A long body is read from the socket directly, because h11 would copy each piece three times. The connection is
    closed afterwards, because h11 did not see the end of the body.

    Args:
        verify: the SSL context, by default `shared_ssl_context()`.
    """

    def __init__(self, *, verify: ssl.SSLContext | None = None) -> None:
        self._verify = verify or shared_ssl_context()
        self._lock = threading.Lock()
        self._proxy: str | None = None
        self._inner: httpx.HTTPTransport | DirectTransport | None = None
        self._handle: socket.socket | None = None
        self._is_used = False
        self.is_closed: bool = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request; the connection is held until the response is closed."""
        with self._lock:
            if self.is_closed:
                raise httpx.ConnectError("the transport is closed")
            self._is_used = True
        request.extensions = {**request.extensions, "trace": self._trace}
        try:
            response = self._connection_for(request.url).handle_request(request)
        except BaseException:
            self._finished(whole=False)
            raise
        tls_in_tls = self._proxy is not None and self._proxy.startswith("https:")
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Body(response, request.extensions["timeout"]["read"], self._finished, direct_read=not tls_in_tls),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Closes it, see `close`."""
        self.close()

    def close(self) -> None:
        """Shuts the connection down, from any thread. If it is in use, the thread that uses it closes it."""
        with self._lock:
            self.is_closed = True
            if self._handle is not None:
                with suppress(OSError):  # reading only: after a shutdown of writing, Linux would send no reset
                    self._handle.shutdown(socket.SHUT_RD)
            if not self._is_used:
                self._close()

    def _finished(self, *, whole: bool) -> None:
        with self._lock:
            self._is_used = False
            if self.is_closed:
                self._close()
            elif not whole:
                self._set_handle(None)

    def _close(self) -> None:
        self._set_handle(None)
        if self._inner is not None:
            self._inner.close()

    def _set_handle(self, handle: socket.socket | None) -> None:
        if self._handle is not None:
            self._handle.close()
        self._handle = handle

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("connect_tcp.complete"):
            stream = info["return_value"]
            with self._lock:
                self._set_handle(stream.get_extra_info("socket").dup())
                if self.is_closed:
                    stream.close()
                    raise httpx.ConnectError("the transport is closed")

    def _connection_for(self, url: httpx.URL) -> httpx.HTTPTransport | DirectTransport:
        proxy = environment_proxy(url)
        if self._inner is None or proxy != self._proxy:
            if self._inner is not None:
                self._inner.close()
            self._proxy = proxy
            if proxy is None:
                from wan_async.http.direct_connection import DirectTransport  # late: importing httpcore takes time

                self._inner = DirectTransport(self._verify, KEEPALIVE_SECONDS)
            else:
                self._inner = single_connection(httpx.HTTPTransport, self._verify, proxy, KEEPALIVE_SECONDS)
        return self._inner


class _Body(httpx.AsyncByteStream):
    """A response's body; each piece is overwritten by the next. `done` learns whether h11 saw its end."""

    def __init__(
        self, response: httpx.Response, timeout: float | None, done: Callable[..., None], *, direct_read: bool
    ) -> None:
        self._response = response
        self._timeout = timeout
        self._done = done
        self._direct_read = direct_read
        self._whole = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._response.stream, httpx.SyncByteStream)
        left = _known_length(self._response)
        parts = iter(self._response.stream)  # referenced: once it is collected, httpcore closes the connection
        for part in parts:  # the first one is all that h11 has buffered of a body of known length
            yield part
            left -= len(part)
            if left >= DIRECT_READ_BYTES and self._direct_read:
                break
        else:
            self._whole = True
            return
        connection = self._response.extensions["network_stream"].get_extra_info("socket")
        piece: Any = memoryview(bytearray(PIECE_BYTES))  # a reused buffer: the consumer writes it before the next
        while left:
            count, fault = self._receive(connection, piece[:left])
            left -= count
            if count:
                yield piece[:count]
            if fault is not None:
                raise fault

    def _receive(self, connection: socket.socket, piece: memoryview) -> tuple[int, Exception | None]:
        """Fills the piece, for a second at most; returns the length, and the error that ended it early."""
        count, until = 0, monotonic() + 1
        try:
            connection.settimeout(self._timeout)
            while count < len(piece) and monotonic() < until:
                received = connection.recv_into(piece[count:])
                if not received:
                    return count, httpx.RemoteProtocolError("peer closed connection in mid-body")
                count += received
        except TimeoutError as error:
            return count, httpx.ReadTimeout(str(error))
        except OSError as error:
            return count, httpx.ReadError(str(error))
        return count, None

    async def aclose(self) -> None:
        self._response.close()
        self._done(whole=self._whole)


def _known_length(response: httpx.Response) -> int:
    """The length of the body if it is known and not encoded for transfer, else 0."""
    said = response.headers.get("content-length", "")
    plain = "transfer-encoding" not in response.headers and re.fullmatch(r"[0-9]{1,18}", said)
    return int(said) if plain else 0
