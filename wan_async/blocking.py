"""A coroutine in a thread of its own, and the httpx transport on which it blocks there.

What is written once, as a coroutine, runs in a loop where its awaits wait, and in a thread where they block: there one
`send` takes it to its end, and receiving, hashing and writing wait neither for the loop nor, mostly, for the GIL.

- Whoever is cancelled leaves at once. The thread may be left behind, where it connects or reads: its connection is shut
  down, and whatever it does to a file it does through a `Gate`, which is shut by then.
- A socket is closed by the thread that uses it, or while none does: else the next file to be opened might get its
  number. From outside it is only shut down, by a duplicate of it, which outlives even a TLS handshake.
- Not known: for how long a thread that was left while it looks up a name or connects stays there. Nobody waits for it,
  not even the end of the process.
"""

from __future__ import annotations

import functools
import inspect
import os
import queue
import re
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple, Unpack

import anyio
import httpx

from wan_async.disk import Offload, is_transient, soon
from wan_async.transport import KEEPALIVE_SECONDS, environment_proxy, shared_ssl_context, single_connection

if TYPE_CHECKING:
    from wan_async.connect import DirectTransport

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LONG_BYTES = 4 * 2**20
"""From this rest on, a body is worth a connection of its own."""
PIECE_BYTES = 2**20
TICK_SECONDS = 0.25
SPARE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class OnLoop:
    """Awaited in a thread, it has the loop await what `call` gives."""

    call: Callable[[], Awaitable[None]]

    def __await__(self) -> Generator[OnLoop, None, None]:
        yield self


@dataclass(frozen=True, slots=True)
class _Ended(Generic[T]):
    value: T


class Gate:
    """An `Offload` to where it is called, until it is shut: then it refuses, and the call that was at work is over.

    Attributes:
        is_shut: whether it lets no further call through.
    """

    def __init__(self) -> None:
        self._at_work = threading.Lock()
        self.is_shut = False

    async def __call__(self, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        """What `func(*args)` returns or raises."""
        with self._at_work:
            if self.is_shut:
                raise RuntimeError("nobody waits for this any more")
            return func(*args)

    def shut(self) -> None:
        """Waits for the call that is at work; there will be no other."""
        self.is_shut = True  # without the lock: it is no queue, and a busy thread would take it again and again
        with self._at_work:
            pass


async def in_a_thread(
    work: Coroutine[OnLoop, None, T], *, tick: Callable[[], None], leave: Callable[[], None], offload: Offload
) -> T:
    """Runs a coroutine that awaits nothing but `OnLoop`s and what blocks, in threads that may be left behind.

    Args:
        work: the coroutine.
        tick: called in the loop now and then, and before this returns or raises, unless it is cancelled.
        leave: called in a thread when this is cancelled; when it returns, `work` can do no harm any more.
        offload: where `leave` runs.
    """
    step = functools.partial(work.send, None)
    try:
        while True:
            asked = await _left_behind(functools.partial(_advance, step), tick)
            if isinstance(asked, _Ended):
                value: T = asked.value
                return value
            try:
                await asked.call()
            except Exception as error:  # noqa: BLE001 - it is the coroutine's
                step = functools.partial(work.throw, error)
            else:
                step = functools.partial(work.send, None)
    finally:
        if inspect.getcoroutinestate(work) != inspect.CORO_CLOSED:
            with anyio.CancelScope(shield=True):
                try:
                    await offload(_leave, work, leave)
                except RuntimeError as error:
                    if not is_transient(error):
                        raise
                    _leave(work, leave)  # there is no further thread for it


def _advance(step: Callable[[], OnLoop]) -> OnLoop | _Ended[Any]:
    try:
        return step()
    except StopIteration as end:
        return _Ended(end.value)


def _leave(work: Coroutine[OnLoop, None, T], leave: Callable[[], None]) -> None:
    leave()
    with suppress(ValueError, RuntimeError):  # it is running in its thread; or it met a gate that is shut
        work.close()


async def _left_behind(call: Callable[[], T], tick: Callable[[], None]) -> T:
    """A call in a thread that is left behind if this is cancelled, and that the process's end doesn't wait for."""
    done, tell, outcome = anyio.Event(), soon(), Future[T]()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised in the loop
            outcome.set_exception(error)
        with suppress(RuntimeError):  # there is no loop any more
            tell(done.set)

    _in_a_spare_thread(run)
    while not done.is_set():
        with anyio.move_on_after(TICK_SECONDS):
            await done.wait()
        tick()
    return outcome.result()


class _Spare(threading.Thread):
    """A thread that may be left behind. Free again, it waits a while for more: to start one halts the loop."""

    def __init__(self) -> None:
        super().__init__(name="wan_async download", daemon=True)
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def run(self) -> None:
        while True:
            try:
                call = self.calls.get(timeout=SPARE_SECONDS)
            except queue.Empty:
                try:
                    _spares.remove(self)
                except ValueError:
                    continue  # just now somebody took it
                return
            call()
            del call  # and what it holds
            _spares.append(self)


_spares: list[_Spare] = []
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_spares.clear)  # no thread goes over into the child


def _in_a_spare_thread(call: Callable[[], None]) -> None:
    try:
        spare = _spares.pop()
    except IndexError:
        spare = _Spare()
        spare.start()
    spare.calls.put(call)


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
                from wan_async.connect import DirectTransport  # it imports httpcore, which takes its time

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
