"""The progress of one task as a stream of events."""

from __future__ import annotations

import math
import time

import anyio

from wan_async.client.session import Call, Session
from wan_async.domain import events, money
from wan_async.domain.remote_task import TaskDetail
from wan_async.engine.run_events import EventStream
from wan_async.engine.waiting_task import WaitingTask
from wan_async.task_handles import Task
from wan_async.wiro.notification_messages import Hint

SAMPLE_SECONDS = 0.5
"""Progress is returned no more often than this: each return may pass the shared work on to another call."""


class TaskEvents:
    """The events of one task: `Progress` as it changes, then `Ended`. Made by `WanClient.track`.

    Whoever waits for the next event drives the tracking. A slow reader misses samples of progress, never the end.
    """

    def __init__(self, session: Session, task: Task) -> None:
        self._session = session
        self._task = task
        self._stream = EventStream()
        self._news = anyio.Event()
        self._percent = -1.0
        self._returned_at = -math.inf
        self._waiting: WaitingTask | None = None
        self._job = task.id or ""

    def begin(self, waiting: WaitingTask) -> None:
        """The task is tracked."""
        self._waiting = waiting

    def seen(self, detail: TaskDetail) -> None:
        """A poll showed the task."""
        self._put(None, detail.status)

    def heard(self, hint: Hint) -> None:
        """A notification about the task; after a reconnect the socket repeats it."""
        if not hint.over and hint.percent is not None and hint.percent > self._percent:
            self._percent = hint.percent
            self._put(hint.percent, hint.status)

    def _put(self, percent: float | None, status: str) -> None:
        self._stream.put(
            events.Progress(at=time.time(), run="", job=self._job, attempt=1, percent=percent, status=status)
        )
        self._news.set()

    def __aiter__(self) -> TaskEvents:
        return self

    async def __anext__(self) -> events.Progress | events.Ended:
        """The next event.

        Raises:
            errors.Missing: the service denies the task.
            errors.Closed: the client was closed.
            RuntimeError: the block of `track` was left.
        """
        waiting = self._waiting
        if waiting is None or (waiting.done.is_set() and waiting.task is None and waiting.error is None):
            raise RuntimeError("events are read within the block of `track`")
        while True:
            event = self._stream.poll()
            self._returned_at = anyio.current_time() if event is not None else self._returned_at
            if isinstance(event, events.Progress | events.Ended):
                return event
            if self._stream.closed:
                raise StopAsyncIteration
            if waiting.done.is_set():
                end = waiting.result()
                self._stream.put(
                    events.Ended(
                        at=time.time(),
                        run="",
                        job=self._job,
                        attempt=1,
                        task_id=end.id or self._task.id,
                        status=end.status,
                        pexit=end.pexit,
                        cost_usd=None if end.totalcost is None else money.usd(end.totalcost),
                    )
                )
                self._stream.close()
            else:
                self._news = anyio.Event()
                await self._session.call(self._wait, task=self._task)

    async def _wait(self, call: Call) -> None:
        """Waits for news or for the end."""
        assert self._waiting is not None
        async with anyio.create_task_group() as group:

            async def wait(done: anyio.Event) -> None:
                await done.wait()
                group.cancel_scope.cancel()

            group.start_soon(wait, self._waiting.done)
            await self._news.wait()
            await anyio.sleep_until(self._returned_at + SAMPLE_SECONDS)
            group.cancel_scope.cancel()
