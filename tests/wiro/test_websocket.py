"""One socket for all tasks: hints that come at once, and nothing worse than a poll's latency when it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import httpx_ws
import pytest
from pydantic import SecretStr
from servers import Server, sandbox_server
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Event, TextMessage
from wsproto.utilities import LocalProtocolError

from wan_async import errors
from wan_async.domain.job import Job, parameters_of
from wan_async.domain.task import TaskId, TaskToken
from wan_async.wiro import messages, websocket_session
from wan_async.wiro.api import Api
from wan_async.wiro.websocket import GIVE_UP_FAILURES, WebSocket


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sandbox_server() as running:
        yield running


class Heard:
    """What a listener was told."""

    def __init__(self) -> None:
        self.hints: list[messages.Hint] = []
        self.connections: list[bool] = []
        self.changed = anyio.Event()

    def hint(self, hint: messages.Hint) -> None:
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
async def listening(server: Server, heard: Heard) -> AsyncIterator[tuple[WebSocket, Api]]:
    listener = WebSocket(
        server.info["socket_url"], hint=heard.hint, connected=heard.connected, draw=lambda: 0.0
    )  # fmt: skip
    api = Api(SecretStr(server.info["api_key"]), SecretStr(server.info["api_secret"]), base_url=server.info["base_url"])
    async with api, anyio.create_task_group() as group:
        group.start_soon(listener.serve)
        yield listener, api
        group.cancel_scope.cancel()


async def submit(api: Api, prompt: str) -> tuple[TaskId, TaskToken]:
    accepted = (await api.run(parameters_of(Job(prompt=prompt), ""))).accepted
    assert accepted.task_id is not None
    assert accepted.token is not None
    return accepted.task_id, accepted.token


@pytest.mark.anyio
async def test_one_connection_tells_of_many_tasks_until_their_ends(server: Server) -> None:
    heard = Heard()
    async with listening(server, heard) as (listener, api):
        tasks = [await submit(api, f"p{n}") for n in range(5)]
        for _, token in tasks:
            listener.subscribe(token)
        await heard.wait(lambda: {hint.task_id for hint in heard.hints if hint.over} >= {task for task, _ in tasks})
    assert heard.connections == [True, False]
    percents = [hint.percent for hint in heard.hints if hint.task_id == tasks[0][0] and hint.percent is not None]
    assert percents == sorted(percents)
    assert percents[-1] == 100.0


@pytest.mark.anyio
async def test_a_dropped_connection_is_made_anew_with_every_open_subscription(server: Server) -> None:
    heard = Heard()
    async with listening(server, heard) as (listener, api):
        server.control(fault_next={"name": "socket_drop", "endpoint": "socket", "times": 1})
        _, token = await submit(api, "p")
        listener.subscribe(token)
        await heard.wait(lambda: any(hint.over for hint in heard.hints))
        assert heard.connections[:3] == [True, False, True]


@pytest.mark.anyio
async def test_a_task_whose_business_is_done_is_not_subscribed_again(server: Server) -> None:
    heard = Heard()
    async with listening(server, heard) as (listener, api):
        (_, done), (task, token) = await submit(api, "a"), await submit(api, "b")
        listener.subscribe(done)
        listener.unsubscribe(done)
        listener.subscribe(token)
        await heard.wait(lambda: any(hint.over for hint in heard.hints))
    assert {hint.task_id for hint in heard.hints} == {task}


@pytest.mark.anyio
async def test_without_a_socket_it_gives_up_and_says_so() -> None:
    heard, tried = Heard(), 0

    async def refuse(request: httpx.Request) -> httpx.Response:
        nonlocal tried
        tried += 1
        raise httpx.ConnectError("refused")

    listener = WebSocket(
        "wss://socket.example/v1",
        hint=heard.hint,
        connected=heard.connected,
        transport=httpx.MockTransport(refuse),
        draw=lambda: -0.999,
    )
    with anyio.fail_after(30):
        await listener.serve()
    assert tried == GIVE_UP_FAILURES
    assert True not in heard.connections


@pytest.mark.anyio
async def test_an_answer_that_is_no_socket_is_a_failure_to_connect() -> None:
    heard = Heard()

    async def answer(request: httpx.Request) -> httpx.Response:
        heard.connected(False)
        return httpx.Response(502, html="<html>")

    listener = WebSocket(
        "wss://socket.example/v1",
        hint=heard.hint,
        connected=lambda connected: None,
        transport=httpx.MockTransport(answer),
        draw=lambda: -0.999,
        patient=True,
    )
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve)
        await heard.wait(lambda: len(heard.connections) > GIVE_UP_FAILURES)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("url", ["ws://example.com/v1", "https://socket.example", "no url"])
def test_tokens_never_travel_in_plain_text(url: str) -> None:
    with pytest.raises(errors.InvalidBatch):
        WebSocket(url, hint=lambda hint: None, connected=lambda connected: None)


@pytest.mark.anyio
async def test_whatever_the_socket_raises_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Met under faults: wsproto's own error, when a subscription is sent while the other side closes."""
    heard, raised = Heard(), [LocalProtocolError("closing"), RuntimeError("a bug in a library"), OSError("gone")]

    class Session:
        async def receive(self) -> None:
            await anyio.sleep_forever()

        async def send_text(self, text: str) -> None:
            raise raised.pop(0)

    @asynccontextmanager
    async def connect(*args: object, **options: object) -> AsyncIterator[Session]:
        yield Session()

    monkeypatch.setattr(httpx_ws, "aconnect_ws", connect)
    listener = WebSocket(
        "wss://socket.example/v1", hint=heard.hint, connected=heard.connected, draw=lambda: -0.999
    )  # fmt: skip
    listener.subscribe(TaskToken("token"))
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve)
        await heard.wait(lambda: not raised)
        group.cancel_scope.cancel()
    assert heard.connections[:4] == [True, False, True, False]


class Wire:
    """A connection's stream whose other side says what a test wants; each read takes all that is there."""

    def __init__(self) -> None:
        self.reads = 0
        self._server = Connection(ConnectionType.SERVER)
        self._waiting = b""
        self._changed = anyio.Event()

    def say(self, *events: Event) -> None:
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
async def wired(heard: Heard) -> AsyncIterator[Wire]:
    stream = Wire()

    async def upgrade(request: httpx.Request) -> httpx.Response:
        return httpx.Response(101, extensions={"network_stream": stream})

    ear = WebSocket(
        "wss://socket.example/v1", hint=heard.hint, connected=heard.connected, transport=httpx.MockTransport(upgrade)
    )  # fmt: skip
    async with anyio.create_task_group() as group:
        group.start_soon(ear.serve)
        yield stream
        group.cancel_scope.cancel()


def text(token: str, *, finished: bool = True) -> TextMessage:
    return TextMessage(f'{{"type": "task_start", "tasktoken": "{token}"}}', message_finished=finished)


@pytest.mark.anyio
async def test_what_is_said_close_together_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_session, "BATCH_SECONDS", 3600.0)
    heard = Heard()
    async with wired(heard) as stream:
        stream.say(text("first"))
        await heard.wait(lambda: bool(heard.hints))
        for number in range(20):
            stream.say(text(f"{number}"))
            await anyio.wait_all_tasks_blocked()
    assert stream.reads == 1
    assert [hint.token for hint in heard.hints] == ["first"]


@pytest.mark.anyio
async def test_more_than_is_parsed_at_once_is_read_on_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_session, "BATCH_SECONDS", 3600.0)
    heard, count = Heard(), 3 * websocket_session.BATCH_BYTES // len(text("0000").data)
    async with wired(heard) as stream:
        stream.say(*(text(f"{number:04}") for number in range(count)))
        await heard.wait(lambda: len(heard.hints) == count)
    assert [hint.token for hint in heard.hints] == [f"{number:04}" for number in range(count)]


@pytest.mark.anyio
async def test_a_text_in_pieces_is_heard_whole_and_what_is_no_text_is_not_heard() -> None:
    heard, whole = Heard(), text("b").data
    async with wired(heard) as stream:
        stream.say(
            text("a"), BytesMessage(b"frame"), TextMessage(whole[:9], message_finished=False),
            TextMessage(whole[9:20], message_finished=False), TextMessage(whole[20:]), TextMessage("{}"), text("c"),
        )  # fmt: skip
        await heard.wait(lambda: len(heard.hints) == 3)
    assert [hint.token for hint in heard.hints] == ["a", "b", "c"]
