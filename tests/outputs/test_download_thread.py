"""A download in a thread that is abandoned."""

from __future__ import annotations

import threading
from collections.abc import Coroutine

import anyio
import anyio.to_thread
import pytest

from wan_async.outputs.download_thread import OnLoop, drive_in_thread
from wan_async.threads import inline

pytestmark = pytest.mark.anyio


async def test_what_was_abandoned_while_its_thread_ran_is_closed_by_that_thread() -> None:
    entered, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    async def work() -> None:
        try:
            entered.set()
            go_on.wait(10)
            await OnLoop(anyio.sleep_forever)
        finally:
            closed.set()
            raise RuntimeError("the gate is shut")

    coroutine: Coroutine[OnLoop, None, None] = work()  # a reference, so that it is not closed by being collected

    async def drive() -> None:
        await drive_in_thread(coroutine, progress=lambda: None, abandon=lambda: None, offload=inline)

    async with anyio.create_task_group() as group:
        group.start_soon(drive)
        assert await anyio.to_thread.run_sync(entered.wait, 10)
        group.cancel_scope.cancel()
    assert not closed.is_set()
    go_on.set()
    assert closed.wait(10)
