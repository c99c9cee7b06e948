"""Connections of psycopg that wait for notifications until they are cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

CANCEL_SECONDS = 1.0
"""How often what goes on is cancelled again."""

log: logging.Logger = logging.getLogger(__name__)


async def closing_when_cancelled(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs what has a connection of psycopg in a task of its own, which gets the time to close it when it is cancelled.

    A scope of anyio cancels whatever a cancelled task awaits, again and again, so also the end of a transaction: the
    connection would be left open.
    """
    task = asyncio.ensure_future(act())
    try:
        await asyncio.wait([task])
    except BaseException:
        with anyio.CancelScope(shield=True):
            while not task.done():  # a cancellation at the moment of an answer can be lost
                task.cancel()
                await asyncio.wait([task], timeout=CANCEL_SECONDS)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("a connection ended by %s", type(error).__name__)
        raise
    task.result()
