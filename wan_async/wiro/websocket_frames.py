"""A connected WebSocket: its frames, limits and pings. Loads httpx-ws, so it is imported only to connect."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import anyio
import httpx
import httpx_ws
from wsproto.connection import Connection, ConnectionType
from wsproto.events import Event, TextMessage

MESSAGE_LIMIT_BYTES = 1024 * 1024
BATCH_SECONDS = 0.02
BATCH_BYTES = 32 * 1024
"""The most that is parsed at once, some 150 messages: parsing blocks the event loop."""
PING_SECONDS = 20.0


def connect(
    url: str, client: httpx.AsyncClient, on_text: Callable[[str], None]
) -> AbstractAsyncContextManager[httpx_ws.AsyncWebSocketSession]:
    """A session that lasts as long as this context manager.

    Args:
        url: the socket's address.
        client: connects.
        on_text: called with each text message as soon as it is parsed.
    """

    def session(stream: Any, **settings: Any) -> httpx_ws.AsyncWebSocketSession:
        batched: Any = _BatchedReads(stream)
        made = httpx_ws.AsyncWebSocketSession(batched, **settings)
        made.connection = _TextConnection(on_text)
        return made

    return httpx_ws.aconnect_ws(
        url,
        client,
        session_class=cast("type[httpx_ws.AsyncWebSocketSession]", session),
        max_message_size_bytes=MESSAGE_LIMIT_BYTES,
        keepalive_ping_interval_seconds=PING_SECONDS,
        keepalive_ping_timeout_seconds=PING_SECONDS,
    )


class _BatchedReads:
    """A connection's stream, read at most every `BATCH_SECONDS` unless more than `BATCH_BYTES` are waiting."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._next_at = 0.0
        self.write = stream.write
        self.aclose = stream.aclose

    async def read(self, max_bytes: int) -> bytes:
        await anyio.sleep_until(self._next_at)
        data: bytes = await self._stream.read(min(max_bytes, BATCH_BYTES))
        self._next_at = 0.0 if len(data) >= BATCH_BYTES else anyio.current_time() + BATCH_SECONDS
        return data


class _TextConnection(Connection):
    """The protocol's state; whole text messages go to `on_text`, in their order, instead of becoming events."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        super().__init__(ConnectionType.CLIENT)
        self._on_text = on_text
        self._pieces: list[str] = []

    def events(self) -> Generator[Event, None, None]:
        for event in super().events():
            if not isinstance(event, TextMessage):
                yield event
                continue
            self._pieces.append(event.data)
            if event.message_finished:
                text, self._pieces = "".join(self._pieces), []
                self._on_text(text)
