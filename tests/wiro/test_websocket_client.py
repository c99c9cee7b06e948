"""One WebSocket for the hints of all tasks; when it fails, only the latency of polling is left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from pydantic import SecretStr
from servers import Server, sandbox_server
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError

from wan_async import errors
from wan_async.domain.job import Job, parameters_of
from wan_async.domain.remote_task import TaskId, TaskToken
from wan_async.wiro import notification_messages, websocket_frames
from wan_async.wiro.api import Api
from wan_async.wiro.websocket_client import GIVE_UP_FAILURES, WebSocket


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sandbox_server() as running:
        yield running


class Received:
    """What a WebSocket reported."""

    def __init__(self) -> None:
        self.hints: list[notification_messages.Hint] = []
        self.connections: list[bool] = []
        self.changed = anyio.Event()

    def hint(self, hint: notification_messages.Hint) -> None:
        self.hints.append(hint)
        self.changed.set()

    def connected(self, connected: bool) -> None:
        self.connections.append(connected)
        self.changed.set()

    async def wait(self, enough: Callable[[], bool]) -> None:
        with anyio.fail_after(20):
            while not enough():
                self.changed = anyio.Event()
                await self.changed.wait()


@asynccontextmanager
async def open_websocket(server: Server, received: Received) -> AsyncIterator[tuple[WebSocket, Api]]:
    websocket = WebSocket(
        server.info["socket_url"], hint=received.hint, connected=received.connected, draw=lambda: 0.0
    )  # fmt: skip
    api = Api(SecretStr(server.info["api_key"]), SecretStr(server.info["api_secret"]), base_url=server.info["base_url"])
    async with api, anyio.create_task_group() as group:
        group.start_soon(websocket.serve)
        yield websocket, api
        group.cancel_scope.cancel()
    await websocket.aclose()


async def submit(api: Api, prompt: str) -> tuple[TaskId, TaskToken]:
    accepted = (await api.run(parameters_of(Job(prompt=prompt), ""))).accepted
    assert accepted.task_id is not None
    assert accepted.token is not None
    return accepted.task_id, accepted.token


@pytest.mark.anyio
async def test_one_connection_reports_many_tasks_until_they_end(server: Server) -> None:
    received = Received()
    async with open_websocket(server, received) as (websocket, api):
        tasks = [await submit(api, f"p{n}") for n in range(5)]
        for _, token in tasks:
            websocket.subscribe(token)
        await received.wait(
            lambda: {hint.task_id for hint in received.hints if hint.over} >= {task for task, _ in tasks}
        )
    assert received.connections == [True, False]
    percents = [hint.percent for hint in received.hints if hint.task_id == tasks[0][0] and hint.percent is not None]
    assert percents == sorted(percents)
    assert percents[-1] == 100.0


@pytest.mark.anyio
async def test_after_a_dropped_connection_it_reconnects_and_subscribes_again(server: Server) -> None:
    received = Received()
    async with open_websocket(server, received) as (websocket, api):
        server.control(fault_next={"name": "socket_drop", "endpoint": "socket", "times": 1})
        _, token = await submit(api, "p")
        websocket.subscribe(token)
        await received.wait(lambda: any(hint.over for hint in received.hints))
        assert received.connections[:3] == [True, False, True]


@pytest.mark.anyio
async def test_a_task_that_was_unsubscribed_gets_no_hints(server: Server) -> None:
    received = Received()
    async with open_websocket(server, received) as (websocket, api):
        (_, done), (task, token) = await submit(api, "a"), await submit(api, "b")
        websocket.subscribe(done)
        websocket.unsubscribe(done)
        websocket.subscribe(token)
        await received.wait(lambda: any(hint.over for hint in received.hints))
    assert {hint.task_id for hint in received.hints} == {task}


@pytest.mark.anyio
async def test_it_gives_up_after_repeated_connection_failures() -> None:
    received, attempts = Received(), 0

    async def refuse(request: httpx.Request) -> httpx.Response:
        nonlocal attempts
        attempts += 1
        raise httpx.ConnectError("refused")

    websocket = WebSocket(
        "wss://socket.example/v1",
        hint=received.hint,
        connected=received.connected,
        transport=httpx.MockTransport(refuse),
        draw=lambda: -0.999,
    )
    with anyio.fail_after(30):
        await websocket.serve()
    assert attempts == GIVE_UP_FAILURES
    assert True not in received.connections


@pytest.mark.anyio
async def test_an_answer_other_than_an_upgrade_is_a_connection_failure() -> None:
    received = Received()

    async def answer(request: httpx.Request) -> httpx.Response:
        received.connected(False)
        return httpx.Response(502, html="<html>")

    websocket = WebSocket(
        "wss://socket.example/v1",
        hint=received.hint,
        connected=lambda connected: None,
        transport=httpx.MockTransport(answer),
        draw=lambda: -0.999,
        patient=True,
    )
    async with anyio.create_task_group() as group:
        group.start_soon(websocket.serve)
        await received.wait(lambda: len(received.connections) > GIVE_UP_FAILURES)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("url", ["ws://example.com/v1", "https://socket.example", "no url"])
def test_an_unencrypted_or_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidBatch):
        WebSocket(url, hint=lambda hint: None, connected=lambda connected: None)


@pytest.mark.anyio
async def test_any_exception_of_the_connection_leads_to_a_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen with injected faults: wsproto raises its own error if a subscription is sent while the server closes."""
    received, raised = Received(), [LocalProtocolError("closing"), RuntimeError("a bug in a library"), OSError("gone")]

    class Failing(FakeStream):
        async def write(self, data: bytes) -> None:
            raise raised.pop(0)

    async def connect(*args: object) -> websocket_frames.Connection:
        return websocket_frames.Connection(Failing(), lambda text: None)

    monkeypatch.setattr(websocket_frames, "connect", connect)
    websocket = WebSocket(
        "wss://socket.example/v1", hint=received.hint, connected=received.connected, draw=lambda: -0.999
    )  # fmt: skip
    websocket.subscribe(TaskToken("token"))
    async with anyio.create_task_group() as group:
        group.start_soon(websocket.serve)
        await received.wait(lambda: not raised)
        group.cancel_scope.cancel()
    assert received.connections[:4] == [True, False, True, False]


class FakeStream:
    """A connection's stream whose server is the test; each read returns all that was sent."""

    def __init__(self) -> None:
        self.reads = 0
        self._server = Connection(ConnectionType.SERVER)
        self._waiting = b""
        self._changed = anyio.Event()

    def send(self, *events: Event) -> None:
        self._waiting += b"".join(map(self._server.send, events))
        self._changed.set()

    async def read(self, max_bytes: int) -> bytes:
        self.reads += 1
        while not self._waiting:
            self._changed = anyio.Event()
            await self._changed.wait()
        data, self._waiting = self._waiting[:max_bytes], self._waiting[max_bytes:]
        return data

    async def write(self, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def fake_connection(received: Received) -> AsyncIterator[FakeStream]:
    stream = FakeStream()

    async def upgrade(request: httpx.Request) -> httpx.Response:
        return httpx.Response(101, extensions={"network_stream": stream})

    websocket = WebSocket(
        "wss://socket.example/v1",
        hint=received.hint,
        connected=received.connected,
        transport=httpx.MockTransport(upgrade),
    )
    async with anyio.create_task_group() as group:
        group.start_soon(websocket.serve)
        yield stream
        group.cancel_scope.cancel()
    await websocket.aclose()


def text(token: str, *, finished: bool = True) -> TextMessage:
    return TextMessage(f'{{"type": "task_start", "tasktoken": "{token}"}}', message_finished=finished)


@pytest.mark.anyio
async def test_messages_that_arrive_within_the_batch_interval_wait_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_frames, "BATCH_SECONDS", 3600.0)
    received = Received()
    async with fake_connection(received) as stream:
        stream.send(text("first"))
        await received.wait(lambda: bool(received.hints))
        for number in range(20):
            stream.send(text(f"{number}"))
            await anyio.wait_all_tasks_blocked()
    assert stream.reads == 1
    assert [hint.token for hint in received.hints] == ["first"]


@pytest.mark.anyio
async def test_more_bytes_than_one_batch_are_read_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_frames, "BATCH_SECONDS", 3600.0)
    received, count = Received(), 3 * websocket_frames.BATCH_BYTES // len(text("0000").data)
    async with fake_connection(received) as stream:
        stream.send(*(text(f"{number:04}") for number in range(count)))
        await received.wait(lambda: len(received.hints) == count)
    assert [hint.token for hint in received.hints] == [f"{number:04}" for number in range(count)]


@pytest.mark.anyio
async def test_a_fragmented_text_is_reassembled_and_other_messages_are_ignored() -> None:
    received, whole = Received(), text("b").data
    async with fake_connection(received) as stream:
        stream.send(
            text("a"), BytesMessage(b"frame"), TextMessage(whole[:9], message_finished=False),
            TextMessage(whole[9:20], message_finished=False), TextMessage(whole[20:]), TextMessage("{}"), text("c"),
        )  # fmt: skip
        await received.wait(lambda: len(received.hints) == 3)
    assert [hint.token for hint in received.hints] == ["a", "b", "c"]


def more_than(count: int, hints: list[notification_messages.Hint]) -> bool:
    return len(hints) > count


@pytest.mark.anyio
async def test_a_cancelled_listener_is_continued_by_another_on_the_same_connection(server: Server) -> None:
    received, connects = Received(), 0
    websocket = WebSocket(server.info["socket_url"], hint=received.hint, connected=received.connected)
    original = websocket._connect

    async def count() -> websocket_frames.Connection:
        nonlocal connects
        connects += 1
        return await original()

    websocket._connect = count  # type: ignore[method-assign] # counts
    api = Api(SecretStr(server.info["api_key"]), SecretStr(server.info["api_secret"]), base_url=server.info["base_url"])
    async with api:
        tasks = [await submit(api, f"p{n}") for n in range(3)]
        for _, token in tasks:
            websocket.subscribe(token)
        ids = {task for task, _ in tasks}
        while not {hint.task_id for hint in received.hints if hint.over} >= ids:
            async with anyio.create_task_group() as group:
                group.start_soon(websocket.serve)
                await received.wait(partial(more_than, len(received.hints), received.hints))
                # a subscription that is cut off in the middle makes it connect again
                await received.wait(lambda: {hint.task_id for hint in received.hints} >= ids)
                group.cancel_scope.cancel()
        await websocket.aclose()
    assert connects == 1
    assert received.connections == [True, False] * (len(received.connections) // 2)


@pytest.mark.anyio
async def test_a_ping_is_answered_and_a_silent_connection_is_pinged_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    class Recording(FakeStream):
        async def write(self, data: bytes) -> None:
            written.append(data)

    stream = Recording()
    connection = websocket_frames.Connection(stream, lambda text: None)
    stream.send(Ping(b"you"))
    await connection.receive()
    assert [data[0] & 15 for data in written] == [10]  # a pong
    monkeypatch.setattr(websocket_frames, "PING_SECONDS", 0.01)
    with pytest.raises(websocket_frames.Disconnected, match="nothing was heard"):
        await connection.keep_alive()
    assert [data[0] & 15 for data in written] == [10, 9]  # and a ping


@pytest.mark.virtual_time
async def test_a_connection_that_is_heard_between_pings_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    pings: list[float] = []

    class Answering(FakeStream):
        async def write(self, data: bytes) -> None:
            pings.append(anyio.current_time())
            self.send(Ping(b"I am here"))

    stream = Answering()
    connection = websocket_frames.Connection(stream, lambda text: None)
    began = anyio.current_time()
    with anyio.move_on_after(4.5 * websocket_frames.PING_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(connection.keep_alive)
            while True:
                await anyio.sleep(websocket_frames.PING_SECONDS * 1.25)
                stream.send(Ping(b"you"))
                await connection.receive()
    assert anyio.current_time() - began == 4.5 * websocket_frames.PING_SECONDS
    assert pings


@pytest.mark.anyio
async def test_the_end_of_the_stream_ends_the_connection() -> None:
    class Ended(FakeStream):
        async def read(self, limit: int) -> bytes:
            return b""

    with pytest.raises(websocket_frames.Disconnected):
        await websocket_frames.Connection(Ended(), lambda text: None).receive()


@pytest.mark.anyio
async def test_a_message_that_was_cut_off_ends_the_connection() -> None:
    class Slow(FakeStream):
        async def write(self, data: bytes) -> None:
            scope.cancel()
            await anyio.sleep_forever()

    connection = websocket_frames.Connection(Slow(), lambda text: None)
    with anyio.CancelScope() as scope:
        await connection.send_text("half")
    with pytest.raises(websocket_frames.Disconnected, match="cut off"):
        await connection.send_text("more")


@pytest.mark.anyio
async def test_an_endless_message_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_frames, "MESSAGE_LIMIT_BYTES", 10)
    stream = FakeStream()
    connection = websocket_frames.Connection(stream, lambda text: None)
    stream.send(TextMessage("0123456789a", message_finished=False))
    with pytest.raises(websocket_frames.Disconnected, match="more than 10"):
        await connection.receive()
