from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import httpx
import httpx_ws
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream
from connections import OK, Server, deaf, loopback_tls, mute, polite, refusing, serving
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, TextMessage
from wsproto.events import Request as WSRequest

from wan_async import errors
from wan_async.http import transport as transport_module
from wan_async.http.network_errors import explain
from wan_async.http.proxies import environment_proxy
from wan_async.http.transport import StackTransport, shared_ssl_context

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def leaves_without_an_answer(server: Server, stream: SocketStream) -> None:
    await server.request(stream)


async def speaks_garbage(server: Server, stream: SocketStream) -> None:
    await stream.receive()
    await stream.send(b"\x15\x03 what is HTTP?\r\n\r\n")
    await stream.receive()


async def cuts_the_body(server: Server, stream: SocketStream) -> None:
    await server.request(stream)
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")


async def resets_in_mid_body(server: Server, stream: SocketStream) -> None:
    await server.request(stream)
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def resets_without_an_answer(server: Server, stream: SocketStream) -> None:
    await server.request(stream)
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def answers_slowly(server: Server, stream: SocketStream) -> None:
    await server.request(stream)
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    await stream.receive()


async def proxies(server: Server, stream: SocketStream) -> None:
    """A proxy that forwards to the origin of the request line, and does not tunnel."""
    head = await server.request(stream)
    method, target, _ = head.split(b"\r\n")[0].split(b" ")
    if method == b"CONNECT":
        await stream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        return
    url = httpx.URL(target.decode())
    async with await anyio.connect_tcp(url.host, url.port or 80) as origin:
        await origin.send(head.replace(target, url.raw_path) + b"\r\n\r\n{}")
        while True:
            try:
                await stream.send(await origin.receive())
            except anyio.BrokenResourceError:
                raw = stream.extra(SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return


def both(proxy: str | None = None, max_connections: int = 100) -> list[httpx.AsyncBaseTransport]:
    limits = httpx.Limits(max_connections=max_connections)
    theirs = httpx.AsyncHTTPTransport(verify=shared_ssl_context(), proxy=proxy, limits=limits)
    return [theirs, StackTransport(proxy=proxy, max_connections=max_connections)]


async def raised_by(transport: httpx.AsyncBaseTransport, url: str, **timeouts: float) -> type[Exception] | None:
    timeout = httpx.Timeout(**{"timeout": 10.0, **timeouts})
    async with httpx.AsyncClient(transport=transport, timeout=timeout) as client:
        try:
            await client.post(url, content=b"{}")
        except httpx.HTTPError as error:
            return type(error)
    return None


FAULTS: list[tuple[Callable[[Server, SocketStream], Awaitable[None]], dict[str, float], type[Exception]]] = [
    (mute, {"read": 0.05}, httpx.ReadTimeout),
    (answers_slowly, {"read": 0.05}, httpx.ReadTimeout),
    (leaves_without_an_answer, {}, httpx.RemoteProtocolError),
    (resets_without_an_answer, {}, httpx.ReadError),
    (speaks_garbage, {}, httpx.RemoteProtocolError),
    (cuts_the_body, {}, httpx.RemoteProtocolError),
    (resets_in_mid_body, {}, httpx.ReadError),
]


@pytest.mark.parametrize(("handler", "timeouts", "expected"), FAULTS)
@pytest.mark.parametrize("through", ["directly", "through a proxy"])
async def test_a_fault_of_the_server_raises_what_httpx_raises(
    handler: Callable[[Server, SocketStream], Awaitable[None]],
    timeouts: dict[str, float],
    expected: type[Exception],
    through: str,
) -> None:
    async with serving(handler) as server, serving(proxies) as proxy:
        used = proxy.url if through == "through a proxy" else None
        met = [await raised_by(transport, server.url, **timeouts) for transport in both(used)]
        assert met == [expected, expected]
        if used is None:
            await server.until(lambda: server.open == 0)


async def test_a_refused_connection_raises_what_httpx_raises() -> None:
    with refusing() as url:
        assert [await raised_by(transport, url) for transport in both()] == [httpx.ConnectError] * 2
        met = [await raised_by(transport, "http://example.org") for transport in both(url)]
        assert met == [httpx.ConnectError] * 2


async def test_a_handshake_without_an_answer_is_a_connect_timeout_and_its_socket_is_closed() -> None:
    async with serving(deaf) as server:
        url = f"https://127.0.0.1:{server.port}/"
        met = [await raised_by(transport, url, connect=0.05) for transport in both()]
        assert met == [httpx.ConnectTimeout] * 2
        await server.until(lambda: server.open == 0)


async def test_over_tls_a_connection_is_reused_and_an_unknown_certificate_is_a_connect_error(tmp_path: Path) -> None:
    ours, pem = loopback_tls(tmp_path)

    async def secure(server: Server, stream: SocketStream) -> None:
        with suppress(ssl.SSLError):
            tls = await TLSStream.wrap(stream, ssl_context=ours, server_side=True, standard_compatible=False)
            while await tls.receive():
                await tls.send(OK)

    async with serving(secure) as server:
        url = f"https://127.0.0.1:{server.port}/"
        trusting = ssl.create_default_context(cafile=str(pem))
        async with httpx.AsyncClient(transport=StackTransport(verify=trusting)) as client:
            for _ in range(3):
                assert (await client.get(url)).text == "ok"
            assert server.connections == 1
        await server.until(lambda: server.open == 0)
        assert [await raised_by(transport, url) for transport in both()] == [httpx.ConnectError] * 2
        await server.until(lambda: server.open == 0)


async def test_a_server_without_tls_is_a_connect_error() -> None:
    async with serving(speaks_garbage) as server:
        url = f"https://127.0.0.1:{server.port}/"
        assert [await raised_by(transport, url) for transport in both()] == [httpx.ConnectError] * 2


async def test_a_proxy_that_refuses_to_tunnel_is_a_proxy_error() -> None:
    async with serving(proxies) as proxy:
        met = [await raised_by(transport, "https://example.org") for transport in both(proxy.url)]
        assert met == [httpx.ProxyError] * 2


async def test_an_unknown_scheme_is_an_unsupported_protocol() -> None:
    assert [await raised_by(transport, "ftp://127.0.0.1/") for transport in both()] == [httpx.UnsupportedProtocol] * 2


async def test_waiting_for_a_slot_ends_in_a_pool_timeout() -> None:
    async with serving(polite) as server:
        for transport in both(max_connections=1):
            async with (
                httpx.AsyncClient(transport=transport) as client,
                client.stream("GET", server.url),
            ):
                with pytest.raises(httpx.PoolTimeout):
                    await client.get(server.url, timeout=httpx.Timeout(10, pool=0.01))


async def test_a_slot_that_is_freed_in_time_serves_a_waiting_request() -> None:
    async with serving(polite) as server, httpx.AsyncClient(transport=StackTransport(max_connections=2)) as client:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(client.get, server.url)
        assert len(server.requests) == 20
        assert server.connections <= 2


@pytest.mark.parametrize("proxy", ["socks4://127.0.0.1:1", "http://127.0.0.1:port", "gopher://x"])
async def test_a_proxy_that_cannot_be_used_is_a_proxy_error(proxy: str) -> None:
    assert await raised_by(StackTransport(proxy=proxy), "http://example.org") is httpx.ProxyError


async def test_a_connection_is_reused_last_in_first_out() -> None:
    async with serving(polite) as server, httpx.AsyncClient(transport=StackTransport()) as client:
        async with client.stream("GET", server.url) as first, client.stream("GET", server.url) as second:
            ports = [r.extensions["network_stream"].get_extra_info("client_addr")[1] for r in (first, second)]
            await second.aread()
            await first.aread()
        for _ in range(3):
            async with client.stream("GET", server.url) as response:
                address = response.extensions["network_stream"].get_extra_info("client_addr")
                await response.aread()
            assert address[1] == ports[0]
        assert server.connections == 2


async def test_each_origin_has_its_own_stack() -> None:
    async with (
        serving(polite) as one,
        serving(polite) as other,
        httpx.AsyncClient(transport=StackTransport()) as client,
    ):
        for _ in range(3):
            await client.get(one.url)
            await client.get(other.url)
        assert (one.connections, other.connections) == (1, 1)


async def test_an_idle_connection_of_another_origin_is_closed_for_a_new_one() -> None:
    async with (
        serving(polite) as one,
        serving(polite) as other,
        httpx.AsyncClient(transport=StackTransport(max_connections=1)) as client,
    ):
        await client.get(one.url)
        await client.get(other.url)
        await one.until(lambda: one.open == 0)


async def test_the_connection_idle_for_longest_is_closed_first() -> None:
    async with (
        serving(polite) as one,
        serving(polite) as other,
        httpx.AsyncClient(transport=StackTransport(max_connections=2)) as client,
    ):
        async with client.stream("GET", one.url) as first, client.stream("GET", one.url) as second:
            await first.aread()
            await second.aread()
        await client.get(other.url)
        await one.until(lambda: one.open == 1)
        assert other.open == 1


async def test_a_connection_idle_for_too_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(transport_module, "monotonic", lambda: now)
    async with serving(polite) as server, httpx.AsyncClient(transport=StackTransport(keepalive_expiry=5)) as client:
        async with client.stream("GET", server.url) as first:
            await client.get(server.url)
            now += 4
            await first.aread()
        now += 2
        await client.get(server.url)
        await server.until(lambda: server.open == 1)
        now += 6
        await client.get(server.url)
        assert server.connections == 3
        await server.until(lambda: server.open == 1)


async def test_a_post_does_not_fail_on_a_connection_that_the_server_closed_meanwhile() -> None:
    leave = anyio.Event()

    async def once(server: Server, stream: SocketStream) -> None:
        await server.request(stream)
        await stream.send(OK)
        await leave.wait()

    async with serving(once) as server, httpx.AsyncClient(transport=StackTransport()) as client:
        for count in range(1, 4):
            response = await client.post(server.url, content=b"{}")
            assert response.content == b"ok"
            assert server.connections == count
            leave.set()
            await server.until(lambda: server.open == 0)
            with anyio.fail_after(10):
                while not response.extensions["network_stream"].get_extra_info("is_readable"):
                    await anyio.lowlevel.checkpoint()
            leave = anyio.Event()


async def test_a_connection_whose_body_was_read_in_part_is_closed() -> None:
    async with serving(answers_slowly) as server, httpx.AsyncClient(transport=StackTransport()) as client:
        async with client.stream("GET", server.url) as response:
            assert response.status_code == 200
        await server.until(lambda: server.open == 0)
        await response.aclose()


async def test_a_failed_request_releases_its_slot() -> None:
    transport = StackTransport(max_connections=1)
    async with serving(leaves_without_an_answer) as server, httpx.AsyncClient(transport=transport) as client:
        for _ in range(3):
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(server.url, timeout=httpx.Timeout(10, pool=1))


async def test_closing_closes_idle_and_active_connections() -> None:
    async with serving(polite) as server:
        transport = StackTransport(max_connections=3)
        client = httpx.AsyncClient(transport=transport)
        async with client.stream("GET", server.url) as used:
            await client.get(server.url)
            await server.until(lambda: server.open == 2)
            await transport.aclose()
            await server.until(lambda: server.open == 0)
            with pytest.raises(httpx.ConnectError, match="closed"):
                await client.get(server.url)
        assert used.is_closed
        await client.aclose()


async def test_a_body_that_ends_after_the_transport_was_closed_does_not_reopen_it() -> None:
    async with serving(polite) as server:
        transport = StackTransport()
        request = httpx.Request("GET", server.url)
        response = await transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        assert [part async for part in response.stream] == [b"ok"]
        await transport.aclose()
        await response.aclose()
        await server.until(lambda: server.open == 0)


async def test_the_trace_extension_of_the_caller_is_called() -> None:
    traced: list[str] = []

    async def trace(event: str, info: object) -> None:
        traced.append(event)

    async with serving(polite) as server, httpx.AsyncClient(transport=StackTransport()) as client:
        await client.get(server.url, extensions={"trace": trace})
    assert "connection.connect_tcp.complete" in traced


async def test_a_websocket_works_and_its_connection_is_not_reused() -> None:
    async def upgrades(server: Server, stream: SocketStream) -> None:
        data = await stream.receive()
        server.requests.append(data)
        if b"upgrade: websocket" not in data.lower():
            await stream.send(OK)
            return
        protocol = WSConnection(ConnectionType.SERVER)
        protocol.receive_data(data)
        while True:
            for event in protocol.events():
                if isinstance(event, WSRequest):
                    await stream.send(protocol.send(AcceptConnection()))
                elif isinstance(event, TextMessage):
                    await stream.send(protocol.send(TextMessage(event.data.upper())))
                elif isinstance(event, CloseConnection):
                    await stream.send(protocol.send(event.response()))
                    return
            protocol.receive_data(await stream.receive())

    transport = StackTransport(max_connections=1)
    async with serving(upgrades) as server, httpx.AsyncClient(transport=transport) as client:
        for _ in range(2):
            session: httpx_ws.AsyncWebSocketSession
            async with httpx_ws.aconnect_ws(f"ws://127.0.0.1:{server.port}/", client) as session:
                await session.send_text("hello")
                assert await session.receive_text() == "HELLO"
            await server.until(lambda: server.open == 0)
        assert (await client.get(server.url)).text == "ok"
        assert server.connections == 3


async def echoes_the_path(server: Server, stream: SocketStream) -> None:
    """Answers in two pieces, so that a cancellation can occur between them."""
    while True:
        path = (await server.request(stream)).split(b" ")[1]
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path))
        await anyio.lowlevel.checkpoint()
        await stream.send(path)


async def check_that_nothing_leaked(server: Server, client: httpx.AsyncClient, number: int) -> None:
    """Check that the slot is free, and that no request gets the answer of a cancelled one."""
    response = await client.get(f"{server.url}after/{number}", timeout=httpx.Timeout(10, pool=5))
    assert response.text == f"/after/{number}"
    await server.until(lambda: server.open <= 1)


@pytest.mark.parametrize("warm", [False, True])
async def test_a_cancelled_scope_at_any_await_leaks_nothing(warm: bool) -> None:
    async with serving(echoes_the_path) as server:
        for number in range(1000):
            transport = StackTransport(max_connections=1)
            async with httpx.AsyncClient(transport=transport) as client:
                if warm:
                    await client.get(server.url)
                finished = False

                async def ask(client: httpx.AsyncClient = client, number: int = number) -> None:
                    nonlocal finished
                    assert (await client.post(f"{server.url}{number}", content=b"{}")).text == f"/{number}"
                    finished = True

                async with anyio.create_task_group() as group:
                    group.start_soon(ask)
                    for _ in range(number):
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()
                await check_that_nothing_leaked(server, client, number)
            await server.until(lambda: server.open == 0)
            if finished:
                return
    pytest.fail("the request never ended")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("again_after", [0, 1, 2, 3])
@pytest.mark.parametrize("warm", [False, True])
async def test_a_native_cancellation_at_any_await_leaks_nothing(
    anyio_backend: str, again_after: int, warm: bool
) -> None:
    async with serving(echoes_the_path) as server:
        for number in range(1000):
            transport = StackTransport(max_connections=1)
            async with httpx.AsyncClient(transport=transport) as client:
                if warm:
                    await client.get(server.url)
                task = asyncio.create_task(client.post(f"{server.url}{number}", content=b"{}"))
                for _ in range(number):
                    await asyncio.sleep(0)
                finished = task.done()
                task.cancel()
                for _ in range(again_after):
                    await asyncio.sleep(0)
                if again_after:
                    task.cancel()
                await asyncio.wait([task])
                assert finished or task.cancelled()
                await check_that_nothing_leaked(server, client, number)
            await server.until(lambda: server.open == 0)
            if finished:
                return
    pytest.fail("the request never ended")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_native_cancellation_while_connections_are_closed_closes_all_of_them(anyio_backend: str) -> None:
    async with serving(polite) as server:
        transport = StackTransport()
        client = httpx.AsyncClient(transport=transport)
        async with client.stream("GET", server.url) as one, client.stream("GET", server.url) as other:
            await one.aread()
            await other.aread()
        task = asyncio.create_task(transport.aclose())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await server.until(lambda: server.open == 0)
        await client.aclose()


async def test_a_cancelled_handshake_closes_its_socket() -> None:
    async with serving(deaf) as server:
        transport = StackTransport()
        async with anyio.create_task_group() as group:
            group.start_soon(raised_by, transport, f"https://127.0.0.1:{server.port}/")
            await server.until(lambda: server.connections == 1)
            group.cancel_scope.cancel()
        await server.until(lambda: server.open == 0)


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("anyio_backend", ["asyncio", pytest.param("trio", marks=pytest.mark.slow)])
async def test_many_requests_at_once_are_served_by_as_many_connections_as_allowed(count: int) -> None:
    async with (
        serving(polite) as server,
        httpx.AsyncClient(transport=StackTransport(max_connections=50, keepalive_expiry=600.0)) as client,
    ):
        timeout = httpx.Timeout(30, pool=None)
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(partial(client.get, server.url, timeout=timeout))
        assert len(server.requests) == count
        assert server.connections <= 50


def test_there_is_one_ssl_context_in_the_process() -> None:
    assert shared_ssl_context() is shared_ssl_context()


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize(
    ("variables", "url", "expected"),
    [
        ({}, "http://example.org", None),
        ({"HTTP_PROXY": "http://proxy:8080"}, "http://example.org", "http://proxy:8080"),
        ({"HTTP_PROXY": "http://proxy:8080"}, "https://example.org", None),
        ({"HTTPS_PROXY": "proxy:8080"}, "https://example.org", "http://proxy:8080"),
        ({"HTTPS_PROXY": "proxy:8080"}, "wss://example.org", "http://proxy:8080"),
        ({"ALL_PROXY": "socks5://proxy"}, "https://example.org", "socks5://proxy"),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "example.org"}, "https://cdn.example.org", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "*"}, "https://example.org", None),
        ({"ALL_PROXY": "proxy"}, "https://93.184.216.34", "http://proxy"),
        ({"ALL_PROXY": "proxy"}, "http://127.0.0.1:8000", None),
        ({"ALL_PROXY": "proxy"}, "http://[::1]:8000", None),
        ({"ALL_PROXY": "proxy"}, "http://localhost:8000", None),
        ({"ALL_PROXY": "proxy"}, "http://sandbox.localhost.", None),
        ({"ALL_PROXY": "proxy"}, "http://xn--12-.example", "http://proxy"),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "a.org:8443"}, "https://a.org:8443", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "a.org:8443"}, "https://b.a.org:8443", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "a.org:8443"}, "https://a.org", "http://proxy"),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "a.org:443, b.org:80"}, "https://a.org", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "a.org:443, b.org:80"}, "wss://a.org", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "a.org:443, b.org:80"}, "http://b.org", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "a.org:443, b.org:80"}, "https://b.org", "http://proxy"),
        ({"ALL_PROXY": "proxy", "NO_PROXY": ".a.org"}, "https://A.ORG.", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "*.a.org"}, "https://b.a.org", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "a.org"}, "https://aa.org", "http://proxy"),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "fd00::1,::1"}, "https://[fd00::1]", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "fd00::1"}, "https://[fd00:0::1]:8443", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "fd00::1"}, "https://[fd00::2]", "http://proxy"),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "[fd00::1]"}, "https://[fd00::1]:8443", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "[fd00::1]:443"}, "https://[fd00::1]", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "[fd00::1]:443"}, "https://[fd00::1]:8443", "http://proxy"),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "10.0.0.0/8"}, "https://11.1.2.3", "http://proxy"),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "fd00::/8"}, "https://[fd12::3]", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "fd00::/8"}, "https://10.1.2.3", "http://proxy"),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "10.1.2.3:8443"}, "https://10.1.2.3:8443", None),
        ({"ALL_PROXY": "proxy", "NO_PROXY": "10.1.2.3:8443"}, "https://10.1.2.3", "http://proxy"),
        ({"ALL_PROXY": "proxy", "NO_PROXY": " ,., *., :80, [, a.org:x, 1.2.3/x"}, "https://a.org", "http://proxy"),
    ],
)
def test_the_proxy_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, expected: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment_proxy(httpx.URL(url)) == expected


@pytest.mark.usefixtures("_environment")
async def test_requests_use_the_proxy_of_the_environment_unless_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(proxies) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert await raised_by(StackTransport(), "https://example.invalid") is httpx.ProxyError
        assert await raised_by(StackTransport(trust_env=False), "https://example.invalid") is httpx.ConnectError
        assert [head.split(b" ")[1] for head in proxy.requests] == [b"example.invalid:443"]


async def fault_of(transport: httpx.AsyncBaseTransport, url: str) -> tuple[str, bool]:
    """The explanation of a request's failure, and whether it is permanent."""
    request = httpx.Request("POST", url, content=b"{}", extensions={"timeout": httpx.Timeout(10).as_dict()})
    async with transport:
        try:
            await transport.handle_async_request(request)
        except httpx.HTTPError as error:
            return explain(error)
    raise AssertionError("no fault")


async def test_an_untrusted_certificate_is_explained(tmp_path: Path) -> None:
    ours, _ = loopback_tls(tmp_path)

    async def secure(server: Server, stream: SocketStream) -> None:
        with suppress(ssl.SSLError):
            await TLSStream.wrap(stream, ssl_context=ours, server_side=True, standard_compatible=False)

    async with serving(secure) as server:
        explanation, permanent = await fault_of(StackTransport(), f"https://127.0.0.1:{server.port}/")
    assert permanent
    assert "certificate is not trusted (self-signed certificate)" in explanation
    assert "SSL_CERT_FILE" in explanation


def tunnels_nothing(status: str) -> Callable[[Server, SocketStream], Awaitable[None]]:
    async def handler(server: Server, stream: SocketStream) -> None:
        await server.request(stream)
        await stream.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    return handler


@pytest.mark.parametrize(
    ("status", "explanation", "permanent"),
    [
        ("407 Proxy Authentication Required", "requires a user and a password", True),
        ("502 hunter2", "refused the connection (HTTP 502)", False),
        ("403 Forbidden", "refused the connection (HTTP 403)", False),
    ],
)
async def test_a_refusal_by_a_proxy_is_explained_without_its_password(
    status: str, explanation: str, permanent: bool
) -> None:
    async with serving(tunnels_nothing(status)) as proxy:
        url = proxy.url.replace("//", "//user:hunter2@")
        explained = await fault_of(StackTransport(proxy=url), "https://api.example/")
    assert explanation in explained[0]
    assert explained[1] is permanent
    assert "hunter2" not in explained[0]


@pytest.mark.parametrize(
    "proxy",
    ["gopher://user:secret@proxy", "http://user:se/cret@proxy", "http://user:sec:ret@proxy:x"],
)
async def test_an_unusable_proxy_is_explained_without_its_password(proxy: str) -> None:
    explanation, permanent = await fault_of(StackTransport(proxy=proxy), "https://api.example/")
    assert (permanent, "HTTPS_PROXY" in explanation) == (True, True)
    assert not {"secret", "cret", "se", "sec", "ret"} & set(re.findall(r"[a-z]+", explanation))


async def test_a_socks_proxy_without_its_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    explanation, permanent = await fault_of(StackTransport(proxy="socks5://user:secret@proxy"), "https://api.example/")
    assert permanent
    assert "pip install 'httpx[socks]'" in explanation
    assert "secret" not in explanation


async def test_a_transient_fault_is_explained_and_not_permanent() -> None:
    async with serving(mute) as server:
        gone = server.url
    assert await fault_of(StackTransport(), gone) == ("connection refused", False)

    async def speaks_http(server: Server, stream: SocketStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(speaks_http) as server:
        explanation, permanent = await fault_of(StackTransport(), server.url.replace("http:", "https:"))
    assert "TLS" in explanation
    assert not permanent


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "explanation", "permanent"),
    [
        (caused(httpx.ConnectError("x"), socket.gaierror(-2, "x")), "looked up", False),
        (caused(httpx.ConnectError("x"), OSError(24, "Too many open files")), "too many open files", False),
        (httpx.ConnectTimeout(""), "in time", False),
        (httpx.PoolTimeout("secret"), "PoolTimeout", False),
        (httpx.ConnectError("secret"), "ConnectError", False),
        (httpx.ProxyError("secret"), "ProxyError", False),
        (httpx.ProxyError("Invalid username/password"), "the user and password", True),
        (httpx.ProxyError("Requested X from proxy server, but got Y."), "the user and password", True),
    ],
)
def test_other_faults_are_explained(error: Exception, explanation: str, permanent: bool) -> None:
    explained = explain(error)
    assert explanation in explained[0]
    assert explained[1] is permanent
    assert "secret" not in explained[0]


def test_a_cycle_of_causes_terminates() -> None:
    one, other = httpx.ConnectError("x"), ValueError("x")
    one.__cause__, other.__cause__ = other, one
    assert explain(one) == ("ConnectError", False)


def test_missing_certificate_files_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/certificates.pem")
    with pytest.raises(errors.Unusable, match=r"/nowhere/certificates\.pem"):
        shared_ssl_context.__wrapped__()
