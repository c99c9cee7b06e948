"""An httpx transport whose cost per request does not grow with the requests in flight.

httpcore's pool walks all of its connections at every request and again at every answer: its cost is quadratic in them.
Here each connection is an `httpx.AsyncHTTPTransport` limited to one, and each origin has a stack of idle ones: the
warmest is taken first, the cold ones sink and expire. What a connection does and which exception it raises stays
httpx's own; this module only decides which of them serves a request.

- A slot belongs to a request from before its connection is chosen until its body is closed. At each await in between a
  cancellation may strike, asyncio's native kind even inside a shield: whatever leaves by an exception gives its slot
  back first, without an await, and then closes its connection instead of stacking it.
- Only a connection whose answer was read to its end is stacked. It may be dead nevertheless: the server may have closed
  it since, which httpcore notices (an idle socket that is readable) before it sends anything, and connects afresh.
- Not known: whether a server closes an idle connection in the very moment in which a request leaves on it. Therefore
  they expire sooner than the shortest common timeout of servers.
"""

from __future__ import annotations

import functools
import os
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any, TypeVar

import anyio
import httpx

from wan_async import errors
from wan_async.http.proxies import environment_proxy

Transport = TypeVar("Transport", httpx.HTTPTransport, httpx.AsyncHTTPTransport)
KEEPALIVE_SECONDS = 4.0
_Origin = tuple[str, bytes, int | None]


@functools.cache
def shared_ssl_context() -> ssl.SSLContext:
    """The process's one SSL context, made when it is first asked for (some 20 ms).

    It trusts what httpx does by default: `SSL_CERT_FILE` or `SSL_CERT_DIR` where set, else certifi's bundle.

    Raises:
        errors.Unusable: those can't be read.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        named = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
        said = f"the certificates of {named} can't be used ({error.strerror or error}): fix SSL_CERT_FILE, or unset it"
        raise errors.Unusable(said) from None


def single_connection(
    kind: type[Transport],
    verify: ssl.SSLContext,
    proxy: httpx.Proxy | str | None,
    keepalive_expiry: float | None = None,
) -> Transport:
    """A transport of httpx's own that is limited to one connection.

    Raises:
        httpx.ProxyError: there can't be such a proxy.
    """
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=keepalive_expiry)
    try:
        return kind(verify=verify, limits=limits, proxy=proxy)
    except (ValueError, ImportError, httpx.InvalidURL) as error:  # whose text may hold a piece of a password
        raise httpx.ProxyError("the proxy can't be used") from error


async def _close(transports: list[httpx.AsyncHTTPTransport]) -> None:
    """Closes all of them; a native cancellation in the middle is raised once the last is closed."""
    if transports:
        with anyio.CancelScope(shield=True):
            async with AsyncExitStack() as stack:
                for transport in transports:
                    stack.push_async_callback(transport.aclose)


async def _connect_and_send(
    transport: httpx.AsyncHTTPTransport, request: httpx.Request, check_peer: Callable[[str], None] | None
) -> httpx.Response:
    """Sends the first request of a connection, to an address that `check_peer` doesn't object to.

    httpcore forgets the socket of a TLS handshake that is cancelled or times out: it stays open until it is
    garbage. httpx's `trace` extension shows it, so that it can be closed here.
    """
    sockets: list[Any] = []
    also = request.extensions.get("trace")

    async def trace(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            sockets.append(info["return_value"])
            if check_peer is not None:
                check_peer(info["return_value"].get_extra_info("server_addr")[0])
        elif event == "connection.start_tls.complete":
            sockets.clear()
        if also is not None:
            await also(event, info)

    request.extensions = {**request.extensions, "trace": trace}
    try:
        return await transport.handle_async_request(request)
    except BaseException:
        with anyio.CancelScope(shield=True):
            for socket in sockets:
                await socket.aclose()
        raise


class _Upload(httpx.AsyncByteStream):
    """A request's body. It can be closed, for httpcore leaves its generator behind when sending fails."""

    def __init__(self, inner: AsyncIterable[bytes]) -> None:
        self._inner = inner
        self._parts: list[AsyncIterator[bytes]] = []

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._parts.append(self._inner.__aiter__())
        return self._parts[-1]

    async def aclose(self) -> None:
        for part in self._parts:
            if isinstance(part, AsyncGenerator):
                await part.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of a response. It calls `done`, once, with whether it was read to its end."""

    def __init__(self, inner: AsyncIterable[bytes], done: Callable[[bool], Awaitable[None]]) -> None:
        self._inner = inner
        self._done = done
        self._whole = False
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            yield part
        self._whole = True

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._done(self._whole)


class StackTransport(httpx.AsyncBaseTransport):
    """A stack of single HTTP/1.1 connections per origin, for `httpx.AsyncClient(transport=...)`.

    A request's extension `check_peer` is called with the address that was connected to, before anything is sent, and
    may refuse it by raising. Through a proxy it is not called: there the proxy looks the name up.

    Raises what httpx's own transport raises in each case. It belongs to the event loop that first uses it.

    Args:
        verify: the SSL context, by default `shared_ssl_context()`.
        max_connections: how many requests may hold a connection at once; the others wait, for as long as the request's
            pool timeout allows (`httpx.PoolTimeout`). Idle connections of other origins make room.
        keepalive_expiry: for how many seconds an idle connection is kept. The default stays below the 5 s
            after which Node.js servers close theirs. What has expired is closed at the next request or answer.
        proxy: every request goes through this proxy.
        trust_env: without `proxy`, use the one that the environment names (`environment_proxy`).
    """

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | None = None,
        max_connections: int = 256,
        keepalive_expiry: float = KEEPALIVE_SECONDS,
        proxy: httpx.Proxy | str | None = None,
        trust_env: bool = True,
    ) -> None:
        self._verify = verify
        self._max_connections = max_connections
        self._keepalive_expiry = keepalive_expiry
        self._proxy = proxy
        self._trust_env = trust_env
        self._slots = anyio.Semaphore(max_connections, fast_acquire=True)
        self._idle: dict[_Origin, deque[tuple[float, httpx.AsyncHTTPTransport]]] = {}
        self._busy: set[httpx.AsyncHTTPTransport] = set()
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request; its slot and connection are held until the response is closed."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        await self._take_slot(request.extensions.get("timeout", {}))
        origin = (request.url.scheme, request.url.raw_host, request.url.port)
        transport: httpx.AsyncHTTPTransport | None = None
        body = _Upload(request.stream)
        sent = httpx.Request(
            request.method, request.url, headers=request.headers, stream=body, extensions=request.extensions
        )
        try:
            await _close(self._expired())
            transport = self._pop(origin)
            if transport is None:
                proxy = self._proxy or (environment_proxy(request.url) if self._trust_env else None)
                transport = self._connect(proxy)
                self._busy.add(transport)
                await _close(self._surplus())
                check_peer = request.extensions.get("check_peer") if proxy is None else None
                response = await _connect_and_send(transport, sent, check_peer)
            else:
                self._busy.add(transport)
                response = await transport.handle_async_request(sent)
        except BaseException:
            self._slots.release()
            if transport is not None:
                self._busy.discard(transport)
                await _close([transport])
            await body.aclose()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        done = functools.partial(self._done, origin, transport, response.stream)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Body(response.stream, done),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Closes every connection, those in use as well; the transport takes no more requests."""
        self._closed = True
        transports = [*self._busy, *(transport for stack in self._idle.values() for _, transport in stack)]
        self._idle.clear()
        await _close(transports)

    async def _take_slot(self, timeouts: Mapping[str, float | None]) -> None:
        try:
            self._slots.acquire_nowait()
        except anyio.WouldBlock:
            try:
                with anyio.fail_after(timeouts.get("pool")):
                    await self._slots.acquire()
            except TimeoutError:
                raise httpx.PoolTimeout(f"all {self._max_connections} connections stayed in use") from None

    async def _done(
        self, origin: _Origin, transport: httpx.AsyncHTTPTransport, body: httpx.AsyncByteStream, whole: bool
    ) -> None:
        reusable = False
        try:
            await body.aclose()
            reusable = whole and not self._closed
        finally:
            self._slots.release()
            self._busy.discard(transport)
            cold = self._expired()
            if reusable:
                self._idle.setdefault(origin, deque()).append((monotonic(), transport))
            else:
                cold.append(transport)
            await _close(cold)

    def _pop(self, origin: _Origin) -> httpx.AsyncHTTPTransport | None:
        stack = self._idle.get(origin)
        if stack is None:
            return None
        _, transport = stack.pop()
        if not stack:
            del self._idle[origin]
        return transport

    def _expired(self) -> list[httpx.AsyncHTTPTransport]:
        """Takes out what has been idle for too long: the bottom of each stack is its coldest."""
        horizon = monotonic() - self._keepalive_expiry
        cold = []
        for origin in [origin for origin, stack in self._idle.items() if stack[0][0] <= horizon]:
            stack = self._idle[origin]
            while stack and stack[0][0] <= horizon:
                cold.append(stack.popleft()[1])
            if not stack:
                del self._idle[origin]
        return cold

    def _surplus(self) -> list[httpx.AsyncHTTPTransport]:
        """Takes out the coldest of all idle ones, where a new connection has become one too many."""
        if len(self._busy) + sum(map(len, self._idle.values())) <= self._max_connections:
            return []
        origin = min(self._idle, key=lambda origin: self._idle[origin][0][0])
        _, transport = self._idle[origin].popleft()
        if not self._idle[origin]:
            del self._idle[origin]
        return [transport]

    def _connect(self, proxy: httpx.Proxy | str | None) -> httpx.AsyncHTTPTransport:
        if self._closed:
            raise httpx.ConnectError("the transport is closed")
        return single_connection(httpx.AsyncHTTPTransport, self._verify or shared_ssl_context(), proxy)
