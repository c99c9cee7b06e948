"""News of the account's slots: which other workers give back, and which this one gives back early."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

import anyio

from wan_async.cluster.database_notifications import closing_when_cancelled
from wan_async.cluster.shared_concurrency import News
from wan_async.cluster.shared_journal import CHANNEL, SharedJournal
from wan_async.domain.attempt import Attempt
from wan_async.domain.lifecycle import State
from wan_async.engine.leases import Slots, Wake
from wan_async.errors import Unusable
from wan_async.journal.postgres_adapter import connection_defaults, import_psycopg

POLL_SECONDS = 2.0
"""How often the journal is asked whether a slot is free, while jobs wait for one."""
PAUSE_SECONDS = 1.0

log: logging.Logger = logging.getLogger(__name__)


class SlotNotifications:
    """Listens to the journal's notifications, and gives slots back that their attempts no longer need.

    Args:
        dsn: the database.
        journal: the journal.
        slots: the run's slots.
    """

    def __init__(self, dsn: str, journal: SharedJournal, slots: Slots) -> None:
        self._dsn = dsn
        self._journal = journal
        self._slots = slots
        self._unneeded: list[int] = []
        self._pause_seconds = 0.0
        self._wake = Wake()
        self._psycopg = import_psycopg()
        slots.on_release = self._released

    async def serve(self) -> None:
        """Listens until cancelled."""
        async with anyio.create_task_group() as group:
            for act in (partial(closing_when_cancelled, self._listen), self._poll, self._report):
                group.start_soon(self._again_and_again, act)

    async def _again_and_again(self, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await act()
            except (self._psycopg.Error, Unusable) as error:
                log.debug("no news of slots: %s", error)
            await anyio.sleep(PAUSE_SECONDS)

    async def _listen(self) -> None:
        defaults = connection_defaults(self._dsn)
        async with await self._psycopg.AsyncConnection.connect(self._dsn, autocommit=True, **defaults) as link:
            await link.execute(f"LISTEN {CHANNEL}".encode())
            await self._journal.look()
            async for note in link.notifies():
                news = News.loads(note.payload)
                if news.account == self._journal.hold.account:
                    self._journal.seen(news)

    async def _poll(self) -> None:
        """A notification may be lost with its connection, and a wait ends without one."""
        while True:
            await anyio.sleep(POLL_SECONDS)
            if self._journal.window.free <= 0 and self._slots.queued:
                await self._journal.look()

    def _released(self, attempt: Attempt) -> None:
        """A slot was given back; where the attempt goes on all the same, the journal doesn't know yet."""
        if attempt.state in (State.UNKNOWN, State.ACCEPTED):
            self._unneeded.append(attempt.id)
            self._wake.set()

    def pause(self, seconds: float) -> None:
        """This worker has met the service's rate limit: no worker may send a Run for so long."""
        self._pause_seconds = max(self._pause_seconds, seconds)
        self._wake.set()

    async def _report(self) -> None:
        while True:
            await self._wake.wait()
            if self._pause_seconds:
                seconds, self._pause_seconds = self._pause_seconds, 0.0
                await self._journal.pause(seconds)
            if self._unneeded:
                unneeded, self._unneeded = self._unneeded, []
                await self._journal.free(unneeded)
