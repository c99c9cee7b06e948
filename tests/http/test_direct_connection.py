from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest
from connections import Server, mute, polite, serving

from wan_async import errors
from wan_async.http import direct_connection
from wan_async.http.blocking_transport import BlockingTransport
from wan_async.http.direct_connection import connect
from wan_async.http.transport import StackTransport
from wan_async.outputs.downloader import Downloader

pytestmark = pytest.mark.anyio
Resolve = Callable[..., list[tuple[Any, ...]]]
NAME = "cdn.example"
resolve: Resolve = socket.getaddrinfo


def stream(address: tuple[Any, ...], family: int = socket.AF_INET) -> tuple[Any, ...]:
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)


@pytest.fixture
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that does not answer: a listening socket whose backlog is full."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()


def name_has(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[Any, ...]) -> None:
    def fake(host: Any, port: Any, *args: Any, **options: Any) -> list[tuple[Any, ...]]:
        if host in (NAME, NAME.encode()):
            return [stream(address) for address in addresses]
        return resolve(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", fake)


async def in_thread(*args: Any) -> socket.socket:
    return await anyio.to_thread.run_sync(lambda: connect(*args), abandon_on_cancel=True)


async def test_an_address_that_does_not_answer_causes_a_short_delay(
    monkeypatch: pytest.MonkeyPatch, black_hole: tuple[str, int], tmp_path: Path
) -> None:
    async with serving(polite) as server:
        name_has(monkeypatch, black_hole, ("127.0.0.1", server.port))
        began = time.monotonic()
        with await in_thread(NAME, server.port, 15.0) as sock:
            assert sock.getpeername() == ("127.0.0.1", server.port)
            assert sock.gettimeout() == 15.0
        assert direct_connection.STAGGER_SECONDS <= time.monotonic() - began < 2
        async with Downloader(allow_private=True) as downloader:
            with pytest.raises(errors.JobFailed, match="no clip"):
                await fetch(downloader, f"http://{NAME}:{server.port}/", tmp_path)
        assert len(server.requests) == 1


async def test_an_address_that_refuses_causes_no_delay(
    monkeypatch: pytest.MonkeyPatch, black_hole: tuple[str, int]
) -> None:
    monkeypatch.setattr(direct_connection, "STAGGER_SECONDS", 60.0)
    async with serving(mute) as gone:
        refusing = ("127.0.0.1", gone.port)
    async with serving(polite) as server:
        name_has(monkeypatch, refusing, ("127.0.0.1", server.port), black_hole)
        with await in_thread(NAME, server.port, 60.0) as sock:
            assert sock.getpeername()[1] == server.port
    name_has(monkeypatch, refusing, refusing)
    with pytest.raises(ConnectionRefusedError):
        connect(NAME, 1, None)


async def test_an_address_to_which_there_is_no_way_causes_no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_connection, "STAGGER_SECONDS", 60.0)
    nowhere = ("255.255.255.255", 9)
    async with serving(polite) as server:
        name_has(monkeypatch, nowhere, ("127.0.0.1", server.port))
        with await in_thread(NAME, server.port, 60.0) as sock:
            assert sock.getpeername()[1] == server.port
    name_has(monkeypatch, nowhere)
    with pytest.raises(OSError, match=r"."):
        connect(NAME, 9, 5.0)


def test_the_timeout_is_for_all_addresses_together(
    monkeypatch: pytest.MonkeyPatch, black_hole: tuple[str, int]
) -> None:
    monkeypatch.setattr(direct_connection, "STAGGER_SECONDS", 0.01)
    name_has(monkeypatch, black_hole, black_hole, black_hole)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        connect(NAME, 1, 0.1)
    assert 0.1 <= time.monotonic() - began < 1


def test_the_address_families_alternate() -> None:
    four = [(*stream((f"192.0.2.{number}", 1))[:3], (f"192.0.2.{number}", 1)) for number in range(2)]
    six = [(socket.AF_INET6, *stream(())[1:3], (f"2001:db8::{number}", 1, 0, 0)) for number in range(3)]
    assert direct_connection._alternating([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert direct_connection._alternating([*four, *six]) == [four[0], six[0], four[1], six[1], six[2]]
    assert direct_connection._alternating([]) == []


def test_an_unsupported_address_family_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(address: Any) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "x")

    monkeypatch.setattr(direct_connection, "_start_connecting", lacks)
    with pytest.raises(OSError, match="x") as caught:
        connect("127.0.0.1", 1, 1.0)
    assert caught.value.errno == errno.EAFNOSUPPORT
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: [])
    with pytest.raises(OSError, match="no address"):
        connect(NAME, 1, 1.0)


async def test_a_refused_address_is_not_connected_to_and_another_one_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check(address: str) -> None:
        if address == "127.0.0.2":
            raise errors.JobFailed("private", kind="download")

    async with serving(polite) as server:
        name_has(monkeypatch, ("127.0.0.2", server.port), ("127.0.0.1", server.port))
        with await in_thread(NAME, server.port, 5.0, check) as sock:
            assert sock.getpeername()[0] == "127.0.0.1"
        name_has(monkeypatch, ("127.0.0.2", server.port), ("127.0.0.2", server.port))
        with pytest.raises(errors.JobFailed, match="private"):
            await in_thread(NAME, server.port, 5.0, check)


async def fetch(downloader: Downloader, url: str, folder: Path) -> None:
    async def remember(etag: str) -> None:
        pass

    await downloader.fetch(
        url,
        folder / "part",
        announced_bytes=None,
        content_type="video/mp4",
        etag=None,
        remember=remember,
        progress=lambda there, total: None,
    )


@pytest.mark.parametrize("carrier", [lambda: None, StackTransport])
async def test_a_name_that_resolves_to_a_private_address_is_allowed_only_for_a_private_api(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, carrier: Callable[[], httpx.AsyncBaseTransport | None]
) -> None:
    async with serving(polite) as server:
        name_has(monkeypatch, ("127.0.0.1", server.port))
        url = f"http://{NAME}:{server.port}/x"
        async with Downloader(transport=carrier()) as downloader:
            with pytest.raises(errors.JobFailed, match="private address") as caught:
                await fetch(downloader, url, tmp_path)
            assert caught.value.kind == "download"
        assert server.requests == []
        for options in ({"allow_private": True}, {"base_url": f"https://{NAME}/v1"}):
            async with Downloader(transport=carrier(), **options) as downloader:
                with pytest.raises(errors.JobFailed, match="no clip"):
                    await fetch(downloader, url, tmp_path)
        assert len(server.requests) == 2


@pytest.mark.parametrize("carrier", [lambda: None, StackTransport])
async def test_a_redirect_to_a_name_that_resolves_to_a_private_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, carrier: Callable[[], httpx.AsyncBaseTransport | None]
) -> None:
    async def redirects(server: Server, stream: Any) -> None:
        await server.request(stream)
        location = f"http://{NAME}:{there.port}/x"
        await stream.send(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

    async with serving(polite) as there, serving(redirects) as server:
        name_has(monkeypatch, ("127.0.0.1", there.port))
        async with Downloader(transport=carrier(), base_url=server.url) as downloader:
            with pytest.raises(errors.JobFailed, match="private address"):
                await fetch(downloader, server.url, tmp_path)
        assert there.requests == []


async def test_a_connection_that_the_server_closed_while_idle_is_not_used_again(tmp_path: Path) -> None:
    async def once(server: Server, stream: Any) -> None:
        await server.request(stream)
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with serving(once) as server, Downloader(allow_private=True) as downloader:
        for number in (1, 2):
            with pytest.raises(errors.JobFailed, match="no clip"):
                await fetch(downloader, server.url, tmp_path)
            await server.until(lambda: server.open == 0)
            assert server.connections == number


async def test_an_upload_that_stalls_raises_the_timeout_of_httpx() -> None:
    transport = BlockingTransport()
    with socket.create_server(("127.0.0.1", 0)) as server:  # never accepts, so that the system's buffers fill
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        timeout = httpx.Timeout(30.0, write=0.5).as_dict()
        request = httpx.Request("POST", url, content=bytes(2**25), extensions={"timeout": timeout})
        with pytest.raises(httpx.WriteTimeout):
            await anyio.to_thread.run_sync(lambda: transport.handle_async_request(request).send(None))
        transport.close()
