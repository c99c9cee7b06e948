"""POSTs ended tasks to their callback URLs.

Imported with the first callback that is due: importing httpx takes as long as the rest of the sandbox's start.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx


class Callbacks:
    """The requests in progress, with one client for all of them."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(trust_env=False, timeout=5)
        self._posting: set[asyncio.Task[None]] = set()

    def start(self, url: str, task: dict[str, Any]) -> None:
        """Begin to send a task; a URL that is invalid, or of another machine, is ignored."""
        post = asyncio.create_task(self._post(url, task))
        self._posting.add(post)
        post.add_done_callback(self._posting.discard)

    async def _post(self, url: str, task: dict[str, Any]) -> None:
        # an invalid URL must not end the callbacks of other tasks
        with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, OverflowError):
            if httpx.URL(url).host in ("127.0.0.1", "localhost", "::1"):
                await self._client.post(url, json=task)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
