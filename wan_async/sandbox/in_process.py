"""The sandbox as an httpx transport in this process: streaming, on asyncio and trio, in real or virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Unpack

import httpx
from anyio.lowlevel import checkpoint

from wan_async.sandbox.http import Request
from wan_async.sandbox.service import Sandbox
from wan_async.sandbox.settings import Overrides

CHUNK = 65536


class SandboxTransport(httpx.AsyncBaseTransport):
    """An httpx transport that sends every request, whatever its host, to one sandbox.

    Attributes:
        sandbox: the sandbox, for its account and faults.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request.

        Raises:
            httpx.RemoteProtocolError: a fault closed the connection.
        """
        body = await request.aread()
        url = request.url
        base_url = f"{url.scheme}://{url.netloc.decode()}"
        headers = {name.lower(): value for name, value in request.headers.items()}
        answer = await self.sandbox.answer(
            Request(request.method, url.path, url.query.decode(), headers, body, base_url)
        )
        await checkpoint()
        if answer.drop:
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.", request=request)
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer.body, answer.cut_after), request=request
        )


class _Body(httpx.AsyncByteStream):
    def __init__(self, data: bytes, cut_after: int | None) -> None:
        self._data = data
        self._cut_after = cut_after

    async def __aiter__(self) -> AsyncIterator[bytes]:
        end = len(self._data) if self._cut_after is None else self._cut_after
        for start in range(0, end, CHUNK):
            yield self._data[start : min(end, start + CHUNK)]
            await checkpoint()
        if self._cut_after is not None:
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")


def transport(sandbox: Sandbox | None = None, **settings: Unpack[Overrides]) -> SandboxTransport:
    """Create an httpx transport that is answered by a sandbox in this process.

    Args:
        sandbox: the sandbox, if several transports share one; by default a new one.
        settings: of the new one, see `Settings` (durations in seconds, amounts in USD).

    Raises:
        ValueError: a setting has a value that is not allowed.

    Example:
        >>> import httpx
        >>> local = transport(balance_usd=5, task_seconds=(0.1, 0.2))
        >>> client = httpx.AsyncClient(transport=local, base_url="https://api.wiro.ai/v1")
        >>> local.sandbox.faults.next("http_429", "Run")
    """
    return SandboxTransport(sandbox if sandbox is not None else Sandbox(**settings))
