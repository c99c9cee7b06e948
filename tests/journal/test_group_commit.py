"""Changes that wait share a transaction."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from wan_async.journal.group_commit import MOST_CHANGES, Pending, Writer

pytestmark = [pytest.mark.anyio, pytest.mark.asyncio_only]


class Counting(Writer[None]):
    def __init__(self) -> None:
        self.may_begin = threading.Event()
        self.sizes: list[int] = []
        super().__init__("a list", inline=False)

    def commit(self, batch: Sequence[Pending[None, Any]]) -> None:
        self.may_begin.wait(10)
        self.sizes.append(len(batch))


async def test_many_changes_at_once_are_several_transactions() -> None:
    writer = Counting()
    count = 2 * MOST_CHANGES + 10
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(writer.write, lambda db: None)
        await anyio.lowlevel.checkpoint()
        writer.may_begin.set()
    await writer.close()
    assert sum(writer.sizes) == count
    assert max(writer.sizes) == MOST_CHANGES


class Broken(Writer[None]):
    def commit(self, batch: Sequence[Pending[None, Any]]) -> None:
        raise ZeroDivisionError


async def test_an_unforeseen_error_of_a_commit_is_raised_to_all_who_wait_and_does_not_end_the_writer() -> None:
    """Regression: its thread ended, and whoever waited for it waited for ever."""
    writer = Broken("a list", inline=False)
    for _ in range(2):
        with anyio.fail_after(30), pytest.raises(ZeroDivisionError):
            await writer.write(lambda db: None)
    await writer.close()
