"""One WebSocket for all tasks of a run. Its messages are notifications: a reason to ask Task/Detail, never the truth.

It connects, subscribes every token that it was given, and passes each message on as a hint. After a disconnect it
connects again, with backoff, and renews every open subscription. No socket, a silent one or a wrong message costs
latency only: the tracker relies on Task/Detail alone.

The connection may be lost at any await; a token that was not subscribed yet is kept, and subscribed after reconnecting.
Messages about many tasks are most of what a run reads. So reads are batched for some hundredths of a second, and each
text is handled where its frame is parsed, without waking another task for it.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import httpx

from wan_async.domain import remote_task
from wan_async.http import retry, urls
from wan_async.http.transport import StackTransport
from wan_async.wiro.notification_messages import Hint, parse_message, subscription

if TYPE_CHECKING:
    from wan_async.wiro.websocket_frames import Connection

log: logging.Logger = logging.getLogger(__name__)

CONNECT_SECONDS = 15.0
GIVE_UP_FAILURES = 8
"""After this number of failures to connect in a row, without any connection before, `serve` returns."""


class WebSocket:
    """Receives notifications about all tasks of a run.

    Args:
        url: the socket's URL.
        hint: called with each message about a task.
        connected: called with True after connecting, with False after a disconnect or a failure to connect.
        transport: makes the connection.
        draw: returns numbers in [0, 1) for jitter.
        patient: keep trying even if there never was a connection.

    Raises:
        errors.InvalidBatch: the URL is invalid, or would send tokens in plain text.
    """

    def __init__(
        self,
        url: str,
        *,
        hint: Callable[[Hint], None],
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
        self._tokens: set[remote_task.TaskToken] = set()
        self._fresh: deque[remote_task.TaskToken] = deque()
        self._wake = anyio.Event()
        self._client: httpx.AsyncClient | None = None
        self._connection: Connection | None = None

    def subscribe(self, token: remote_task.TaskToken) -> None:
        """Subscribes to a task's messages."""
        self._tokens.add(token)
        self._fresh.append(token)
        self._wake.set()

    def unsubscribe(self, token: remote_task.TaskToken) -> None:
        """Does not subscribe to the task again after reconnecting; the protocol has no message to unsubscribe."""
        self._tokens.discard(token)

    async def serve(self) -> None:
        """Listens until it is cancelled, or until connecting has failed too often (`GIVE_UP_FAILURES`).

        A cancellation leaves the connection open, and `serve` may be called again. `aclose` closes it.
        """
        backoff, failures, ever = retry.Backoff(first_seconds=0.5), 0, self._connection is not None
        while ever or self._patient or failures < GIVE_UP_FAILURES:
            try:
                connection = self._connection or await self._connect()
                failures, ever = 0, True
                self._connected(True)
                await self._listen(connection)
            except* Exception as group:  # noqa: BLE001 - three libraries raise here, and none may end a run
                log.debug("the socket was disconnected: %s", ", ".join(type(e).__name__ for e in group.exceptions))
                await self._disconnect()
            finally:
                self._connected(False)
            failures += 1
            await anyio.sleep(backoff.delay(failures, self._draw()))
        log.info("the socket at %s cannot be reached; tasks are polled instead", self._url)

    async def aclose(self) -> None:
        """Closes the connection, if there is one."""
        await self._disconnect()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _connect(self) -> Connection:
        from wan_async.wiro.websocket_frames import connect

        if self._client is None:
            self._client = httpx.AsyncClient(
                transport=self._transport or StackTransport(),
                timeout=httpx.Timeout(CONNECT_SECONDS, pool=None),
                trust_env=False,
            )
        self._connection = await connect(self._url, self._client, self._hear)
        self._fresh = deque(self._tokens)
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with anyio.CancelScope(shield=True):
                await connection.aclose()

    def _hear(self, text: str) -> None:
        if (hint := parse_message(text)) is not None:  # None for a greeting
            self._hint(hint)

    async def _listen(self, connection: Connection) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._send_subscriptions, connection)
            group.start_soon(connection.keep_alive)
            while True:
                await connection.receive()

    async def _send_subscriptions(self, connection: Connection) -> None:
        while True:
            while self._fresh:
                if self._fresh[0] in self._tokens:
                    await connection.send_text(subscription(self._fresh[0]))
                self._fresh.popleft()  # after it was sent: a cancellation loses no subscription
            self._wake = anyio.Event()
            await self._wake.wait()
