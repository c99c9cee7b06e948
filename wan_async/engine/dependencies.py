"""What the caller of a run, or of single calls, provides: clients, clock, randomness, disk."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wan_async.filesystem import Files
from wan_async.journal.base import DatabaseHome, Home
from wan_async.threads import Offload, in_threads

if TYPE_CHECKING:
    from wan_async.journal.base import Journal
    from wan_async.output_locations import Location
    from wan_async.outputs.base import Store
    from wan_async.outputs.downloader import Downloader
    from wan_async.wiro.api import Api


def open_journal(home: Home, *args: Any, **options: Any) -> AbstractAsyncContextManager[Journal]:
    """Opens the journal that is kept at a home: see `SqliteJournal.open` and `PostgresJournal.open`."""
    if isinstance(home, DatabaseHome):
        from wan_async.journal.postgres import PostgresJournal  # its driver is in an extra

        return PostgresJournal.open(home, *args, **options)
    from wan_async.journal.sqlite import SqliteJournal  # single calls do without it

    return SqliteJournal.open(home, *args, **options)


def _open_store(output: Location, *, parts: Path, files: Files, offload: Offload) -> Store:
    from wan_async.outputs.stores import store_for  # likewise

    # requests to an object store have threads of their own: they wait for a network, and others for the disk
    return store_for(output, parts=parts, files=files, offload=offload if isinstance(output, Path) else None)


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the caller of a run provides.

    Attributes:
        api: the client of the service.
        downloader: fetches the clips; it has no credentials.
        files: the calls that reach the disk.
        offload: runs blocking calls, by default in threads.
        clock: unix seconds.
        draw: numbers in [0, 1) for jitter.
        inline: whether the journal commits in the event loop's own thread, for virtual time.
        open_journal: opens the journal that is kept at a home for an account.
        open_store: opens the store of an output.
        socket_url: where the service's WebSocket is; None where there is none.
    """

    api: Api
    downloader: Downloader
    files: Files = field(default_factory=Files)
    offload: Offload = field(default_factory=lambda: in_threads(8))
    clock: Callable[[], float] = time.time
    draw: Callable[[], float] = random.random
    inline: bool = False
    open_journal: Callable[..., AbstractAsyncContextManager[Journal]] = open_journal
    open_store: Callable[..., Store] = _open_store
    socket_url: str | None = None
