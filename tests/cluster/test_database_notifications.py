"""Connections that wait for notifications are closed when they are cancelled."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from wan_async.cluster.database_notifications import closing_when_cancelled


def test_what_has_a_connection_closes_it_before_a_cancelled_scope_is_left() -> None:
    steps: list[str] = []

    async def connected() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            steps.append("rolling back")
            await asyncio.sleep(0)
            steps.append("closed")

    async def cancel() -> None:
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_soon(scope.cancel)
            await closing_when_cancelled(connected)
        steps.append("left")

    anyio.run(cancel)
    assert steps == ["rolling back", "closed", "left"]


def test_an_error_of_what_has_a_connection_is_raised() -> None:
    async def broken() -> None:
        raise ValueError("no route")

    with pytest.raises(ValueError, match="no route"):
        anyio.run(closing_when_cancelled, broken)
