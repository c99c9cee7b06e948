"""The moment in which a request leaves: the last one in which it can be held back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class HeldBack(Exception):
    """A request was held back before its first byte."""


async def leaves(may: Callable[[], bool], event: str, info: Mapping[str, Any]) -> None:
    """Httpx's `trace`: called at each step of a request, the last time before its first byte is written.

    Args:
        may: whether it may be sent.
        event: the step.
        info: what httpx says of it.

    Raises:
        HeldBack: it may not.
    """
    if event.endswith("send_request_headers.started") and not may():
        raise HeldBack
