"""The moments in which a request leaves: the last ones in which it can be held back."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import httpx


class HeldBack(Exception):
    """A request was held back before the first byte of its body: nothing can have come of it."""


class HeldBackHalfway(Exception):
    """A request was held back after a part of its body."""


def hold_back(request: httpx.Request, may: Callable[[], bool]) -> None:
    """Ask before a request's head and before each piece of its body: the process may be suspended between them.

    Sending it raises `HeldBack` or `HeldBackHalfway` where it may not be sent.

    Args:
        request: its body is in memory, as JSON or a form.
        may: whether it may be sent.
    """
    assert isinstance(request.stream, Iterable)  # of the two ways to read it, the one that leaves no generator open
    request.extensions["trace"] = functools.partial(_leaves, may)
    request.stream = _Body(request.stream, may)


async def _leaves(may: Callable[[], bool], event: str, info: Mapping[str, Any]) -> None:
    """Httpx's `trace`: called at each step of a request."""
    if event.endswith("send_request_headers.started") and not may():
        raise HeldBack


class _Body(httpx.AsyncByteStream):
    def __init__(self, pieces: Iterable[bytes], may: Callable[[], bool]) -> None:
        self._pieces = pieces
        self._may = may

    async def __aiter__(self) -> AsyncIterator[bytes]:
        held: type[Exception] = HeldBack
        for piece in self._pieces:
            if not self._may():
                raise held
            yield piece
            held = HeldBackHalfway
