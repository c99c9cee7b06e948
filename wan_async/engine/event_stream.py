"""From the run to whoever reads: facts queue without bound, levels are only ever the latest.

Nothing that writes here waits, so that a slow reader never slows a run; a reader that has gone costs nothing.
"""

from __future__ import annotations

from collections import deque

import anyio

from wan_async.domain import events


class EventStream:
    """One writer's events, for one reader: `async for event in stream`."""

    def __init__(self) -> None:
        self._facts: deque[events.Event] = deque()
        self._levels: dict[tuple[type[events.Event], str], events.Event] = {}
        self._wake = anyio.Event()
        self._closed = False
        self._gone = False

    def put(self, event: events.Event) -> None:
        """A fact joins the queue; a level takes the place of the one before."""
        if self._gone:
            return
        if isinstance(event, events.Progress | events.Downloading):
            self._levels[type(event), event.job] = event
        else:
            if isinstance(event, events.JobEvent):  # a level is out of date once a fact about its job follows
                self._levels.pop((events.Progress, event.job), None)
                self._levels.pop((events.Downloading, event.job), None)
            self._facts.append(event)
        self._wake.set()

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._wake.set()

    def leave(self) -> None:
        """Nobody reads any more: what comes is thrown away."""
        self._gone = True
        self._facts.clear()
        self._levels.clear()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> events.Event:
        while True:
            if self._facts:
                return self._facts.popleft()
            if self._levels:
                return self._levels.pop(next(iter(self._levels)))
            if self._closed:
                raise StopAsyncIteration
            self._wake = anyio.Event()
            await self._wake.wait()
