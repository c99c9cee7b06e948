"""Group commit: changes that wait share a transaction, which one thread commits.

A slow disk or a distant server neither stalls the event loop nor serialises the jobs.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from wan_async.errors import Unusable
from wan_async.threads import soon

MOST_CHANGES = 64
"""How many changes share a transaction at most: other processes may wait for its end."""

T = TypeVar("T")
D = TypeVar("D")


@dataclass(slots=True, eq=False)
class Pending(Generic[D, T]):
    """A change that waits for its commit.

    Attributes:
        change: makes it, in a transaction; may be called again if that transaction fails.
        only_reads: whether it needs no commit.
        done: set once it is durable, or failed.
        value: what `change` returned.
        error: why nothing was changed.
    """

    change: Callable[[D], T]
    only_reads: bool = False
    done: anyio.Event = field(default_factory=anyio.Event)
    value: T | None = None
    error: Exception | None = None


def _set_done(batch: Sequence[Pending[Any, Any]]) -> None:
    for pending in batch:
        pending.done.set()


class Writer(ABC, Generic[D]):
    """The one writer of a database in this process.

    Args:
        name: the database, for messages.
        inline: commit in the event loop's own thread; for virtual time, where threads can't be waited for.
    """

    def __init__(self, name: object, *, inline: bool) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Pending[D, Any] | None] | None = None if inline else queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, args=(soon(),), daemon=True)
        if not inline:
            self._thread.start()

    @abstractmethod
    def commit(self, batch: Sequence[Pending[D, Any]]) -> None:
        """Makes the changes durable and sets their values or errors; raises nothing. Blocking."""

    async def write(self, change: Callable[[D], T]) -> T:
        """Runs `change` in the next commit and returns what it returned, once that is durable.

        Raises:
            Exception: whatever `change` itself raised; its rows are rolled back.
            Unusable: the rows could not be made durable.
        """
        return await self.submit(Pending(change))

    async def submit(self, pending: Pending[D, T]) -> T:
        """Puts a change in the queue and waits for it; see `write`."""
        if self._closed:
            raise Unusable(f"the journal {self._name} is closed already")
        if self._queue is None:
            self.commit([pending])
            await anyio.lowlevel.cancel_shielded_checkpoint()
        else:
            self._queue.put(pending)
            await self.wait_done(pending)
        if pending.error is not None:
            raise pending.error
        return pending.value  # type: ignore[return-value] # without an error the change ran

    async def wait_done(self, pending: Pending[D, Any]) -> None:
        """Waits until a change is done, also if the caller is cancelled."""
        with anyio.CancelScope(shield=True):
            await pending.done.wait()

    async def close(self) -> None:
        """Commits what is queued, and refuses further changes."""
        self._closed = True
        if self._queue is not None:
            self._queue.put(None)
            interrupted: BaseException | None = None
            while self._thread.is_alive():
                try:
                    with anyio.CancelScope(shield=True):
                        await anyio.to_thread.run_sync(self._thread.join)
                except anyio.get_cancelled_exc_class() as error:  # asyncio's own cancellation goes through shields
                    interrupted = error
            if interrupted is not None:
                raise interrupted

    def _serve(self, soon: Callable[..., object]) -> None:
        assert self._queue is not None
        pending: Pending[D, Any] | None = None
        while (pending := self._queue.get()) is not None:
            batch = [pending]
            while len(batch) < MOST_CHANGES and not self._queue.empty() and (pending := self._queue.get()) is not None:
                batch.append(pending)
            try:
                self.commit(batch)
            except Exception as error:  # noqa: BLE001 - whoever waits gets it; without this thread all would hang
                for each in batch:
                    each.error = each.error or error
            with suppress(RuntimeError):  # the event loop is closed; the rows are durable all the same
                soon(_set_done, batch)
            if pending is None:
                return
