"""Notifications of the WebSocket: hints for the tracker, percentages for the display."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

from wan_async.domain.events import Progress
from wan_async.domain.remote_task import TaskToken
from wan_async.engine.active_job import Work
from wan_async.engine.run_events import Events
from wan_async.engine.tracker import Tracker
from wan_async.wiro.notification_messages import Hint
from wan_async.wiro.websocket_client import WebSocket

SAMPLE_SECONDS = 0.2
"""A task's progress is reported no more often than this."""


class TaskHints:
    """Takes hints, from the WebSocket or from elsewhere, to the tracker and to the events.

    Args:
        tracker: asks for the task that a hint names.
        events: where percentages go.
        socket_url: where the service's WebSocket is; None does without it.
        draw: numbers in [0, 1) for jitter.
        patient: whether the WebSocket is tried for ever.
    """

    def __init__(
        self,
        tracker: Tracker,
        events: Events,
        socket_url: str | None,
        draw: Callable[[], float],
        *,
        patient: bool,
    ) -> None:
        self._tracker = tracker
        self._events = events
        self._followed: dict[str, Work] = {}
        self._sampled_at: dict[str, float] = {}
        self._socket = (
            WebSocket(socket_url, hint=self.hint, connected=tracker.connected, draw=draw, patient=patient)
            if socket_url is not None
            else None
        )

    async def serve(self) -> None:
        """Listens until cancelled; returns at once without a WebSocket."""
        if self._socket is not None:
            try:
                await self._socket.serve()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._socket.aclose()

    def hint(self, hint: Hint) -> None:
        """Something happened to a task."""
        self._tracker.hint(hint)
        work = self._followed.get(hint.token or "") or self._followed.get(hint.task_id or "")
        now = anyio.current_time()
        if work is not None and now - self._sampled_at.get(work.key, -SAMPLE_SECONDS) >= SAMPLE_SECONDS:
            self._sampled_at[work.key] = now
            self._events.tell(Progress, work, percent=hint.percent, status=hint.status)

    @contextmanager
    def subscribed(self, token: str | None) -> Iterator[None]:
        """Subscribes to a task's notifications, if there is a WebSocket and the token is known."""
        if self._socket is None or token is None:
            yield
            return
        self._socket.subscribe(TaskToken(token))
        try:
            yield
        finally:
            self._socket.unsubscribe(TaskToken(token))

    @contextmanager
    def following(self, work: Work, task_id: str | None, token: str | None) -> Iterator[None]:
        """Subscribes to the notifications of a job's task, and reports its progress.

        Notifications name the task by its id or its token.
        """
        names = [name for name in (task_id, token) if name]
        self._followed.update(dict.fromkeys(names, work))
        try:
            with self.subscribed(token):
                yield
        finally:
            for name in names:
                if self._followed.get(name) is work:
                    del self._followed[name]
            self._sampled_at.pop(work.key, None)
