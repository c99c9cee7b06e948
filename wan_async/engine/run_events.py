"""The events of a run, for one reader: facts queue without bound, levels (percent, bytes) are coalesced.

Nothing that writes here waits, so that a slow reader never slows a run; without a reader events cost nothing.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio

from wan_async import errors
from wan_async.domain import events
from wan_async.engine.active_job import Work

OUTAGE_SECONDS = 30.0
"""An outage of the service is logged no more often than this."""

log: logging.Logger = logging.getLogger(__name__)


class EventStream:
    """The events of one run, for one reader: `async for event in stream`.

    Attributes:
        closed: nothing more comes.
    """

    def __init__(self) -> None:
        self._facts: deque[events.AnyEvent] = deque()
        self._levels: dict[tuple[type[events.JobEvent], str], events.Progress | events.Downloading] = {}
        self._wake = anyio.Event()
        self.closed: bool = False
        self._gone = False

    def put(self, event: events.AnyEvent) -> None:
        """A fact is queued; a level replaces the one before."""
        if self._gone:
            return
        if isinstance(event, events.Progress | events.Downloading):
            self._levels[type(event), event.job] = event
        else:
            if isinstance(event, events.JobEvent):  # a fact about its job makes a level stale
                self._levels.pop((events.Progress, event.job), None)
                self._levels.pop((events.Downloading, event.job), None)
            self._facts.append(event)
        self._wake.set()

    def close(self) -> None:
        """Nothing more comes."""
        self.closed = True
        self._wake.set()

    def leave(self) -> None:
        """There is no reader any more: further events are dropped."""
        self._gone = True
        self._facts.clear()
        self._levels.clear()

    def poll(self) -> events.AnyEvent | None:
        """The next event if there is one now."""
        if self._facts:
            return self._facts.popleft()
        return self._levels.pop(next(iter(self._levels))) if self._levels else None

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> events.AnyEvent:
        while (event := self.poll()) is None:
            if self.closed:
                raise StopAsyncIteration
            self._wake = anyio.Event()
            await self._wake.wait()
        return event


class Events:
    """Makes the events of a run.

    Args:
        stream: where they go.
        run_id: names the run.
        clock: unix seconds.
    """

    def __init__(self, stream: EventStream, run_id: str, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._run_id = run_id
        self._clock = clock
        self._outage_at = -math.inf

    def emit(self, kind: type[events.AnyEvent], /, **fields: Any) -> None:
        """Reports something about the run."""
        self._stream.put(kind(at=self._clock(), run=self._run_id, **fields))

    def tell(self, kind: type[events.AnyEvent], work: Work, /, **fields: Any) -> None:
        """Reports something about a job."""
        self.emit(kind, job=work.key, attempt=work.number, **fields)

    def outage(self, error: errors.WanError, seconds: float) -> None:
        """The service can't be asked; it will be asked again after `seconds`."""
        now = anyio.current_time()
        if now - self._outage_at >= OUTAGE_SECONDS:
            self._outage_at = now
            log.warning("%s: tasks go on remotely; trying again in %.0f s", error.message, seconds)
