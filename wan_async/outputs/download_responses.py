"""The responses of an output's server: their status, the bytes that they contain, and reading their body."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import time

import anyio
import httpx

from wan_async import errors
from wan_async.http import retry
from wan_async.http.urls import refused_url

NETWORK_ERRORS = (httpx.HTTPError, ssl.SSLError, anyio.BrokenResourceError, anyio.ClosedResourceError)
"""Errors of the network. httpcore does not translate TLS errors in the middle of a body."""
RETRIED_STATUSES = frozenset({202, 204, 401, 407, 408, 409, 421, 425, 429})
"""What a CDN responds with (besides 5xx) while a file or a node is not ready."""


@asynccontextmanager
async def reading(response: httpx.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body. If it is not read to its end, it is closed and then read until it raises.

    Otherwise the garbage collector would finalise its generators, which trio warns of. The number of reads is limited,
    because a transport may yield more data after it was closed.
    """
    assert isinstance(response.stream, httpx.AsyncByteStream)
    raw = aiter(response.stream)  # not aiter_raw: a transport may return a response that was read already
    try:
        yield raw
    finally:
        await response.aclose()
        with suppress(*NETWORK_ERRORS, StopAsyncIteration):
            for _ in range(8):
                await anext(raw)
            if isinstance(raw, AsyncGenerator):
                await raw.aclose()


def check_status(response: httpx.Response, *, ranged: bool) -> None:
    """Raises an error for a status other than success.

    Args:
        response: the response.
        ranged: whether a range was requested: then 416 is no error.

    Raises:
        errors.NotFound: of kind `expired`: the URL is not valid any more.
        errors.TryLater: a temporary fault.
        errors.JobFailed: any other status.
    """
    status = response.status_code
    if status in (403, 404, 410):
        raise errors.NotFound(f"the output's URL is not valid any more (HTTP {status})", kind="expired")
    if status in RETRIED_STATUSES or status >= 500:
        after_seconds = retry.retry_after(response.headers.get("retry-after"), time())
        raise errors.TryLater(f"the output's server answered HTTP {status}", after_seconds=after_seconds, status=status)
    if status not in (200, 206) and not (ranged and status == 416):
        raise refused_url(f"the output's server answered HTTP {status}")


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes that a response contains: from `first` to before `end`, of `total`. None is unknown."""

    first: int
    end: int | None
    total: int | None


def span_of(response: httpx.Response, total_before: int | None) -> Span | None:
    """The bytes that a response contains; None if there are none, or if they are unknown."""
    if response.status_code == 200:
        said = response.headers.get("content-length", "")
        length = int(said) if re.fullmatch(r"[0-9]{1,18}", said) else None
        return Span(0, length, length)
    said = response.headers.get("content-range", "")
    found = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", said)
    if response.status_code != 206 or found is None:
        return None
    first, last, total = found.groups()
    return Span(int(first), int(last) + 1, total_before if total == "*" else int(total))
