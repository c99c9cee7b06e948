"""A connected WebSocket: its frames, limits and pings. Loads wsproto, so it is imported only to connect.

It belongs to no task: whoever calls `receive` reads it, and a cancelled `receive` loses nothing, so that another caller
goes on where it stopped. (The session of httpx-ws lives in a task group of its own, which ends with its caller.)
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import Protocol, Self

import anyio
import httpx
from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionType
from wsproto.events import CloseConnection, Event, Ping, TextMessage

MESSAGE_LIMIT_BYTES = 1024 * 1024
BATCH_SECONDS = 0.02
BATCH_BYTES = 32 * 1024
"""The most that is parsed at once, some 150 messages: parsing blocks the event loop."""
PING_SECONDS = 20.0


class Disconnected(Exception):
    """The connection is gone, or can't be used any more."""


class Stream(Protocol):
    """The bytes of a connection, as httpx offers them after an upgrade."""

    async def read(self, max_bytes: int) -> bytes:
        """The next bytes; none at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""
        ...

    async def aclose(self) -> None:
        """Close the connection."""
        ...


class Connection:
    """A connected WebSocket, made by `connect`. It must be closed.

    Args:
        stream: its bytes.
        on_text: called with each text message as soon as it is parsed.
    """

    def __init__(self, stream: Stream, on_text: Callable[[str], None]) -> None:
        self._stream = stream
        self._on_text = on_text
        self._frames = Frames(ConnectionType.CLIENT)
        self._pieces: list[str] = []
        self._length = 0
        self._next_at = 0.0
        self._writing = anyio.Lock()
        self._cut_off = False
        self._heard = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, without a farewell."""
        await self._stream.aclose()

    async def receive(self) -> None:
        """Read what has arrived, at most every `BATCH_SECONDS` unless more than `BATCH_BYTES` wait; answer pings.

        Raises:
            Disconnected: the connection is gone.
        """
        await anyio.sleep_until(self._next_at)
        data = await self._stream.read(BATCH_BYTES)
        self._next_at = 0.0 if len(data) >= BATCH_BYTES else anyio.current_time() + BATCH_SECONDS
        self._heard = True
        self._frames.receive_data(data or None)
        answers: list[Event] = []
        for event in self._frames.events():
            match event:
                case TextMessage():
                    self._take(event)
                case Ping():
                    answers.append(event.response())
                case CloseConnection():
                    raise Disconnected(f"closed with code {event.code}")
        for answer in answers:
            await self._send(answer)
        if not data:
            raise Disconnected("the connection was closed")

    def _take(self, event: TextMessage) -> None:
        self._pieces.append(event.data)
        self._length += len(event.data)
        if self._length > MESSAGE_LIMIT_BYTES:
            raise Disconnected(f"a message of more than {MESSAGE_LIMIT_BYTES} characters")
        if event.message_finished:
            text, self._pieces, self._length = "".join(self._pieces), [], 0
            self._on_text(text)

    async def send_text(self, text: str) -> None:
        """Send a text message.

        Raises:
            Disconnected: an earlier message was cut off by a cancellation.
        """
        await self._send(TextMessage(text))

    async def keep_alive(self) -> None:
        """Send a ping whenever nothing was heard for a while, until it is cancelled.

        Raises:
            Disconnected: nothing was heard after a ping.
        """
        has_asked = False
        while True:
            self._heard = False
            await anyio.sleep(PING_SECONDS)
            if self._heard:
                has_asked = False
                continue
            if has_asked:
                raise Disconnected(f"nothing was heard for {PING_SECONDS:.0f} s after a ping")
            has_asked = True
            await self._send(Ping(b"wan-async"))

    async def _send(self, event: Event) -> None:
        async with self._writing:
            if self._cut_off:
                raise Disconnected("a message was cut off")
            self._cut_off = True  # until it is known that all of it was written
            await self._stream.write(self._frames.send(event))
            self._cut_off = False


async def connect(url: str, client: httpx.AsyncClient, on_text: Callable[[str], None]) -> Connection:
    """Connect to a WebSocket.

    Args:
        url: its address, `ws:` or `wss:`.
        client: connects.
        on_text: called with each text message as soon as it is parsed.

    Raises:
        Disconnected: the server does not upgrade the connection.
        httpx.HTTPError: there is no connection.
    """
    headers = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-key": base64.b64encode(os.urandom(16)).decode(),
        "sec-websocket-version": "13",
    }
    request = client.build_request("GET", url.replace("ws", "http", 1), headers=headers)
    response = await client.send(request, stream=True)
    stream: Stream | None = response.extensions.get("network_stream")
    if response.status_code != httpx.codes.SWITCHING_PROTOCOLS or stream is None:
        await response.aclose()
        raise Disconnected(f"HTTP {response.status_code} instead of an upgrade")
    return Connection(stream, on_text)
