"""Blocking connections without a proxy, to the first of a host's addresses that answers (RFC 8305, Happy Eyeballs).

httpcore's own blocking backend tries a host's addresses one after the other, each for the whole connect timeout; in an
event loop, anyio and trio do what is done here. Only public names of httpcore are used. This module is imported late,
because importing httpcore takes time.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, zip_longest
from time import monotonic
from typing import Any

import httpcore
import httpx

STAGGER_SECONDS = 0.25
"""The next address is tried in parallel if one has not answered after this time."""
CONNECTING = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK))
HTTPCORE_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)

CheckPeer = Callable[[str], None]
_Address = tuple[int, int, int, Any]


class DirectTransport(httpx.BaseTransport):
    """One connection without a proxy, for one request at a time. It raises httpx's exceptions.

    A request's extension `check_peer` is called with each address before anything is sent there. If it raises, the
    address is not used; if no address remains, its exception is raised.

    Args:
        verify: the SSL context.
        keepalive_expiry: how long an idle connection is kept, in seconds.
    """

    def __init__(self, verify: ssl.SSLContext, keepalive_expiry: float) -> None:
        self._backend = _Backend()
        self._pool = httpcore.ConnectionPool(
            ssl_context=verify,
            max_connections=1,
            max_keepalive_connections=1,
            keepalive_expiry=keepalive_expiry,
            network_backend=self._backend,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request; the connection is held until the response is closed."""
        assert isinstance(request.stream, httpx.SyncByteStream)
        url = request.url
        self._backend.check_peer = request.extensions.get("check_peer")
        sent = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx():
            answer = self._pool.handle_request(sent)
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions)

    def close(self) -> None:
        """Closes the connection."""
        self._pool.close()


@contextmanager
def _as_httpx() -> Iterator[None]:
    """Raises httpx's exception of the same name instead of httpcore's."""
    try:
        yield
    except HTTPCORE_ERRORS as error:
        kind: type[httpx.HTTPError] = getattr(httpx, type(error).__name__)
        raise kind(str(error)) from error


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Backend(httpcore.NetworkBackend):
    """Makes the connections."""

    check_peer: CheckPeer | None = None

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        assert local_address is None
        assert socket_options is None
        with _translating(httpcore.ConnectTimeout, httpcore.ConnectError):
            return _Stream(connect(host, port, timeout, self.check_peer))


class _Stream(httpcore.NetworkStream):
    """A connected socket, plain or TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _translating(httpcore.ReadTimeout, httpcore.ReadError):
            self._socket.settimeout(timeout)
            return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _translating(httpcore.WriteTimeout, httpcore.WriteError):
            self._socket.settimeout(timeout)
            self._socket.sendall(buffer)

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            with _translating(httpcore.ConnectTimeout, httpcore.ConnectError):
                self._socket.settimeout(timeout)
                return _Stream(ssl_context.wrap_socket(self._socket, server_hostname=server_hostname))
        except BaseException:
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        if info == "socket":
            return self._socket
        if info == "is_readable":
            return _is_readable(self._socket)
        return None


@contextmanager
def _translating(timeout: type[Exception], fault: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise timeout(str(error)) from error
    except OSError as error:
        raise fault(str(error)) from error


def _is_readable(sock: socket.socket) -> bool:
    """Whether an idle connection was closed, by the server or here."""
    if sock.fileno() < 0:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def connect(host: str, port: int, timeout: float | None, check_peer: CheckPeer | None = None) -> socket.socket:
    """Connects a blocking TCP socket to the first address of `host` that answers.

    Addresses are tried in the resolver's order, alternating between IPv6 and IPv4; the next one as soon as one has
    failed or has not answered within `STAGGER_SECONDS`.

    Args:
        host: a name or an address.
        port: the port.
        timeout: the limit for all addresses together, in seconds; None for no limit. Resolving the name has no limit.
        check_peer: raises for an address that must not be connected to.

    Raises:
        TimeoutError: no address answered in time.
        OSError: the name can't be resolved, or all addresses failed; the last one's error.
    """
    waiting = _alternating(_allowed(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), check_peer))
    until = None if timeout is None else monotonic() + timeout
    fault = OSError(f"{host} has no address")
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                if waiting:
                    try:
                        selector.register(_start_connecting(waiting.pop(0)), selectors.EVENT_WRITE)
                    except OSError as error:
                        fault = error
                        continue
                left = None if until is None else until - monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError("timed out")
                wait = min(STAGGER_SECONDS if waiting else float("inf"), float("inf") if left is None else left)
                for key, _ in selector.select(None if wait == float("inf") else wait):
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    selector.unregister(sock)
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code:
                        sock.close()
                        fault = OSError(code, os.strerror(code))
                        continue
                    sock.settimeout(timeout)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return sock
            raise fault
        finally:
            for key in list(selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()


def _allowed(found: Sequence[tuple[Any, ...]], check_peer: CheckPeer | None) -> list[_Address]:
    """The addresses that may be connected to; if there is none, the exception of `check_peer` is raised."""
    allowed, refused = [], None
    for family, kind, protocol, _, address in found:
        if check_peer is not None:
            try:
                check_peer(address[0])
            except Exception as error:  # noqa: BLE001 - it is raised below
                refused = error
                continue
        allowed.append((family, kind, protocol, address))
    if refused is not None and not allowed:
        raise refused
    return allowed


def _alternating(addresses: list[_Address]) -> list[_Address]:
    """Alternates between the family of the first address and the others."""
    mine = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for address in chain.from_iterable(zip_longest(mine, others)) if address is not None]


def _start_connecting(address: _Address) -> socket.socket:
    """Starts to connect to an address; the socket does not block."""
    family, kind, protocol, place = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(place)
        if code not in CONNECTING:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock
