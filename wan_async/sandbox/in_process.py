"""The sandbox as an httpx transport, in process: streaming, on asyncio and trio, in real or virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
from anyio.lowlevel import checkpoint

from wan_async.sandbox.http import Request
from wan_async.sandbox.service import Sandbox

CHUNK = 65536


class SandboxTransport(httpx.AsyncBaseTransport):
    """Answers every request, whatever its host, from one sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The sandbox's answer, or the exception that a cut connection makes."""
        body = await request.aread()
        url = request.url
        base = f"{url.scheme}://{url.netloc.decode()}"
        headers = {name.lower(): value for name, value in request.headers.items()}
        answer = await self.sandbox.answer(Request(request.method, url.path, url.query.decode(), headers, body, base))
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


def transport(sandbox: Sandbox | None = None, **settings: Any) -> SandboxTransport:
    """An httpx transport that answers from a sandbox in this process.

    Args:
        sandbox: the sandbox, for several transports to share; by default a new one.
        settings: of the new one, see `Settings`.
    """
    return SandboxTransport(sandbox if sandbox is not None else Sandbox(**settings))
