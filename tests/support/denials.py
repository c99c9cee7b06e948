"""A sandbox behind a transport that answers some requests itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from harness import World, make_sandbox

HOUR = 3600.0
Deny = Callable[[httpx.Request], httpx.Response | None]
"""Returns the answer to a request, or None to pass it on to the sandbox."""


class Denying(httpx.AsyncBaseTransport):
    """A transport that passes on the requests that `deny` does not answer, and records all paths."""

    def __init__(self, inner: httpx.AsyncBaseTransport, deny: Deny, requested: list[str]) -> None:
        self.inner, self.deny, self.requested = inner, deny, requested

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requested.append(request.url.path)
        return self.deny(request) or await self.inner.handle_async_request(request)


def denied(tmp_path: Path, deny: Deny, **settings: Any) -> tuple[World, list[str]]:
    """A world with such a transport, and the list of requested paths."""
    requested: list[str] = []
    world = World(tmp_path, make_sandbox(**settings))
    world.wrap = lambda inner: Denying(inner, deny, requested)
    return world, requested


def no_task() -> httpx.Response:
    return httpx.Response(200, json={"result": False, "errors": [{"code": 1, "message": "There is no task yet."}]})
