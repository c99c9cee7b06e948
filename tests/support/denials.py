"""A sandbox behind a transport that may answer requests in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from harness import World, make_sandbox

HOUR = 3600.0
Deny = Callable[[httpx.Request], httpx.Response | None]
"""Answers a request in the service's place, or returns None to pass it on."""


class Denying(httpx.AsyncBaseTransport):
    """A transport that passes on the requests that `deny` does not answer, and records the paths."""

    def __init__(self, inner: httpx.AsyncBaseTransport, deny: Deny, asked: list[str]) -> None:
        self.inner, self.deny, self.asked = inner, deny, asked

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        return self.deny(request) or await self.inner.handle_async_request(request)


def denied(tmp_path: Path, deny: Deny, **settings: Any) -> tuple[World, list[str]]:
    """A world with such a transport, and the list of the requested paths."""
    asked: list[str] = []
    world = World(tmp_path, make_sandbox(**settings))
    world.wrap = lambda inner: Denying(inner, deny, asked)
    return world, asked


def no_task() -> httpx.Response:
    return httpx.Response(200, json={"result": False, "errors": [{"code": 1, "message": "There is no task yet."}]})
