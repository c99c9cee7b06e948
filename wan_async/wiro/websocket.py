"""One WebSocket for all tasks of a run: it says that something happened, never what is true.

It connects, subscribes to every token it was given, and passes messages on as hints. A connection that drops is made
anew, with backoff, and every open subscription with it. Whatever goes wrong here (no socket, a mute one, one that lies)
costs a poll's latency and nothing else: `watch` believes Task/Detail alone.

At any await the connection may be gone; a token that was to be subscribed stays in the set and goes out with the next.
What is said of a crowd of tasks is most of what a run has to read: it is gathered for some hundredths of a second, and
each text is heard where its frame is parsed, instead of in a task that would have to be woken for it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import httpx

from wan_async.domain import task
from wan_async.http import retry, urls
from wan_async.http.transport import StackTransport
from wan_async.wiro import messages

if TYPE_CHECKING:
    from httpx_ws import AsyncWebSocketSession

log = logging.getLogger(__name__)

CONNECT_SECONDS = 15.0
GIVE_UP_FAILURES = 8
"""So many failures to connect in a row, with no connection ever, and `serve` returns: there is no socket to be had."""


class WebSocket:
    """Listens for all tasks of a run.

    Args:
        url: the address of the socket.
        hint: told what the socket says of a task.
        connected: told whether the socket is there.
        transport: makes the connection.
        draw: numbers in [0, 1) for jitter.
        patient: never give up, though there never was a connection.

    Raises:
        errors.InvalidBatch: if the address is none, or would send tokens in plain text.
    """

    def __init__(
        self,
        url: str,
        *,
        hint: Callable[[messages.Hint], None],
        connected: Callable[[bool], None],
        transport: httpx.AsyncBaseTransport | None = None,
        draw: Callable[[], float] = random.random,
        patient: bool = False,
    ) -> None:
        self._url = urls.check_url(url, "WIRO_SOCKET_URL", ("wss", "ws"))
        self._hint = hint
        self._connected = connected
        self._transport = transport
        self._draw = draw
        self._patient = patient
        self._tokens: set[task.TaskToken] = set()
        self._fresh: list[task.TaskToken] = []
        self._wake = anyio.Event()

    def subscribe(self, token: task.TaskToken) -> None:
        """Hears of this task from now on."""
        self._tokens.add(token)
        self._fresh.append(token)
        self._wake.set()

    def unsubscribe(self, token: task.TaskToken) -> None:
        """This task's business is done; the protocol knows no word for it, so it is only not subscribed again."""
        self._tokens.discard(token)

    async def serve(self) -> None:
        """Listens until it is cancelled, or until it is clear that there is no socket to be had."""
        from wan_async.wiro.websocket_session import connect

        backoff, failures, ever = retry.Backoff(first_seconds=0.5), 0, False
        async with httpx.AsyncClient(
            transport=self._transport or StackTransport(),
            timeout=httpx.Timeout(CONNECT_SECONDS, pool=None),
            trust_env=False,
        ) as client:
            while ever or self._patient or failures < GIVE_UP_FAILURES:
                try:
                    async with connect(self._url, client, self._hear) as socket:
                        failures, ever = 0, True
                        self._connected(True)
                        await self._listen(socket)
                except* Exception as group:  # noqa: BLE001 - three libraries raise here, and none may end a run
                    log.debug("the socket is gone: %s", ", ".join(type(e).__name__ for e in group.exceptions))
                finally:
                    self._connected(False)
                failures += 1
                await anyio.sleep(backoff.delay(failures, self._draw()))
        log.info("no socket to be had at %s: tasks are polled", self._url)

    def _hear(self, text: str) -> None:
        if (hint := messages.parse_message(text)) is not None:  # it may be a greeting
            self._hint(hint)

    async def _listen(self, socket: AsyncWebSocketSession) -> None:
        self._fresh = list(self._tokens)
        async with anyio.create_task_group() as group:
            group.start_soon(self._send_subscriptions, socket)
            while True:
                await socket.receive()  # a realtime model's binary frames, until the connection's end is raised

    async def _send_subscriptions(self, socket: AsyncWebSocketSession) -> None:
        while True:
            fresh, self._fresh = self._fresh, []
            for token in fresh:
                if token in self._tokens:
                    await socket.send_text(messages.subscription(token))
            if not self._fresh:
                self._wake = anyio.Event()
                await self._wake.wait()
