"""Wiro's webhook as an ASGI app: a POST to an unguessable path means that a task has ended.

Wiro does not sign what it POSTs to a task's `callbackUrl` (its API documentation), so nothing in it is trusted: it
only makes the client ask Task/Detail now instead of later. Somebody who guesses the path can cause requests, no more.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Protocol

from wan_async import errors
from wan_async.http import urls
from wan_async.wiro.notification_messages import Hint, parse_callback

Scope = MutableMapping[str, object]
Receive = Callable[[], Awaitable[MutableMapping[str, object]]]
Send = Callable[[MutableMapping[str, object]], Awaitable[None]]

BODY_LIMIT_BYTES = 4 * 1024 * 1024
SECRET_LENGTH = 16
"""No path with fewer characters counts as unguessable."""


class TakesHints(Protocol):
    """A `WanClient`, or whatever else wants to hear of a task."""

    def hint(self, hint: Hint) -> None:
        """Something may have happened to a task."""
        ...


class CallbackApp:
    """An ASGI app that takes Wiro's webhook; mount it in any other, or serve it by itself.

    It must run in the event loop of the client that it notifies.

    Attributes:
        path: the path that it answers to, below wherever it is mounted.
    """

    def __init__(self, client: TakesHints, secret: str) -> None:
        self._client = client
        self.path: str = f"/wiro/{secret}"

    def url(self, base_url: str) -> str:
        """What to give as a job's `callback_url`.

        Args:
            base_url: where the app is reached from outside, with the path that it is mounted at.
        """
        return urls.check_url(base_url, "the callback's base URL") + self.path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's word that it starts and stops."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        if not secrets.compare_digest(path.encode(), self.path.encode()):
            await _reply(send, 404)
            return
        if scope["method"] != "POST":
            await _reply(send, 405)
            return
        body = await _body(receive)
        if body is None:
            await _reply(send, 413)
            return
        hints = parse_callback(body)
        for hint in hints:
            self._client.hint(hint)
        await _reply(send, 204 if hints else 400)


def callback_app(client: TakesHints, *, secret: str | None = None) -> CallbackApp:
    """An ASGI app through which Wiro notifies a client that tasks have ended.

        app = callback_app(client)
        job = Job(prompt="rain", callback_url=app.url("https://hooks.example"))

    Args:
        client: whose tasks they are; batches that it carries hear of it, too.
        secret: makes the path unguessable, by default a new one each time. Keep one where tasks outlive the process.

    Raises:
        errors.InvalidBatch: the secret is too short, or doesn't fit into a path.
    """
    secret = secret if secret is not None else secrets.token_urlsafe(24)
    if len(secret) < SECRET_LENGTH or not secret.isascii() or not secret.replace("-", "").replace("_", "").isalnum():
        what = f"it must have at least {SECRET_LENGTH} letters, digits, - or _"
        raise errors.InvalidBatch([errors.Problem("secret", what)])
    return CallbackApp(client, secret)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _body(receive: Receive) -> bytes | None:
    """The body; None if it is too long, or was not sent to its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        if not isinstance(part, bytes):
            return None
        body += part
        if len(body) > BODY_LIMIT_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _reply(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
