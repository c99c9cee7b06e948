"""An httpx transport that blocks, for coroutines that run in a thread of their own."""

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

LONG_BYTES = 4 * 2**20
"""From this rest on, a body is worth a connection of its own."""
PIECE_BYTES = 2**20


class BlockingTransport(httpx.AsyncBaseTransport):
    """One connection, for one request at a time; it blocks instead of waiting, and raises what httpx's own does.

    A request's extension `check_peer` is called with the address to connect to and may refuse it by raising. Through a
    proxy it is not called: there the proxy looks the name up, and its answer can't be known here.

    A long body is received past h11, which would copy each piece thrice, in quarters. As h11 never sees its end, such
    a connection does not serve again.

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
        self.is_closed = False

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
            self._rest(whole=False)
            raise
        tls_in_tls = self._proxy is not None and self._proxy.startswith("https:")
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Body(response, request.extensions["timeout"]["read"], self._rest, past_h11=not tls_in_tls),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Closes it, see `close`."""
        self.close()

    def close(self) -> None:
        """Shuts the connection down and closes it, from any thread; if it is in use, its user does the closing."""
        with self._lock:
            self.is_closed = True
            if self._handle is not None:
                with suppress(OSError):  # the end of reading alone: after that of writing, Linux sends no reset
                    self._handle.shutdown(socket.SHUT_RD)
            if not self._is_used:
                self._close()

    def _rest(self, *, whole: bool) -> None:
        with self._lock:
            self._is_used = False
            if self.is_closed:
                self._close()
            elif not whole:
                self._keep(None)

    def _close(self) -> None:
        self._keep(None)
        if self._inner is not None:
            self._inner.close()

    def _keep(self, handle: socket.socket | None) -> None:
        if self._handle is not None:
            self._handle.close()
        self._handle = handle

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("connect_tcp.complete"):
            stream = info["return_value"]
            with self._lock:
                self._keep(stream.get_extra_info("socket").dup())
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
                from wan_async.http.direct_connection import (
                    DirectTransport,  # it imports httpcore, which takes its time
                )

                self._inner = DirectTransport(self._verify, KEEPALIVE_SECONDS)
            else:
                self._inner = single_connection(httpx.HTTPTransport, self._verify, proxy, KEEPALIVE_SECONDS)
        return self._inner


class _Body(httpx.AsyncByteStream):
    """An answer's body. It tells `done` whether h11 saw its end. Each piece is overwritten by the next."""

    def __init__(
        self, response: httpx.Response, timeout: float | None, done: Callable[..., None], *, past_h11: bool
    ) -> None:
        self._response = response
        self._timeout = timeout
        self._done = done
        self._past_h11 = past_h11
        self._whole = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._response.stream, httpx.SyncByteStream)
        left = _known_length(self._response)
        parts = iter(self._response.stream)  # held: httpcore closes the connection when this is dropped
        for part in parts:  # the first holds all that h11 has of a body of known length
            yield part
            left -= len(part)
            if left >= LONG_BYTES and self._past_h11:
                break
        else:
            self._whole = True
            return
        connection = self._response.extensions["network_stream"].get_extra_info("socket")
        piece: Any = memoryview(bytearray(PIECE_BYTES))  # no bytes, but as good for whoever writes it at once
        while left:
            count, fault = self._receive(connection, piece[:left])
            left -= count
            if count:
                yield piece[:count]
            if fault is not None:
                raise fault

    def _receive(self, connection: socket.socket, piece: memoryview) -> tuple[int, Exception | None]:
        """Fills the piece, or as much of it as a second brings; and the fault that ended this early."""
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
    """How long the body is if it is sent as it is, else 0."""
    said = response.headers.get("content-length", "")
    plain = "transfer-encoding" not in response.headers and re.fullmatch(r"[0-9]{1,18}", said)
    return int(said) if plain else 0
