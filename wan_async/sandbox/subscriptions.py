"""The WebSocket: subscriptions to tasks, and their messages at the time they are due."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from wan_async.sandbox.service import Sandbox

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
SHORTEST_WAIT_SECONDS = 0.001


async def serve_socket(sandbox: Sandbox, receive: Receive, send: Send) -> None:
    """Serve a WebSocket connection until the client closes it or a fault does."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps({"type": "connected", "version": "1.0"})})
    subscriptions = Subscriptions(sandbox, send)
    pushing = asyncio.create_task(subscriptions.push())
    try:
        while (message := await receive())["type"] == "websocket.receive":
            if (token := subscribed_token(message.get("text"))) is not None:
                subscriptions.add(token)
            if sandbox.faults.meets("socket_drop", "socket"):
                await send({"type": "websocket.close", "code": 1011})
                return
    finally:
        pushing.cancel()
        with contextlib.suppress(asyncio.CancelledError, RuntimeError, OSError):
            await pushing


def subscribed_token(text: str | None) -> str | None:
    """The task token that a message subscribes to; None for any other message (binary ones have no text)."""
    try:
        content = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("type") != "task_info":
        return None
    token = content.get("tasktoken")
    return token if isinstance(token, str) else None


class Subscriptions:
    """The subscriptions of one connection, in a heap by the time of each task's next message."""

    def __init__(self, sandbox: Sandbox, send: Send) -> None:
        self._sandbox = sandbox
        self._send = send
        self._sent: dict[str, int] = {}
        self._due: list[tuple[float, str]] = []
        self._wake = asyncio.Event()

    def add(self, token: str) -> None:
        """Subscribe to a task. A second subscription to the same task has no effect."""
        if token not in self._sent and not self._sandbox.faults.meets("socket_mute", "socket"):
            self._sent[token] = 0
            heapq.heappush(self._due, (0.0, token))
            self._wake.set()

    async def push(self) -> None:
        """Send messages when they are due, until cancelled."""
        now = self._sandbox.settings.now
        while True:
            while self._due and self._due[0][0] <= now():
                _, token = heapq.heappop(self._due)
                messages, more_at = self._sandbox.messages(token, self._sent[token])
                self._sent[token] += len(messages)
                for message in messages:
                    await self._send({"type": "websocket.send", "text": json.dumps(message)})
                if more_at is not None:
                    heapq.heappush(self._due, (more_at, token))
            self._wake.clear()
            wait = max(SHORTEST_WAIT_SECONDS, self._due[0][0] - now()) if self._due else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait)
