"""Copies of journals that may be changed: `plan` makes its plan on one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wan_async.domain.attempt import Account
from wan_async.journal.base import DatabaseHome, Home
from wan_async.journal.read_only import reading
from wan_async.journal.reports import scratch_copy
from wan_async.journal.sql_interface import Database
from wan_async.journal.sql_journal import SqlJournal
from wan_async.journal.sqlite import SqliteJournal


@dataclass(frozen=True, slots=True)
class Scratch:
    """A copy of a journal.

    Attributes:
        open: opens it for an account, or for none; raises `Unusable` if it belongs to another.
        reading: opens it for reading.
    """

    open: Callable[[Account | None], AbstractAsyncContextManager[SqlJournal]]
    reading: Callable[[], AbstractContextManager[Database]]


@contextmanager
def scratch(home: Home) -> Iterator[Scratch | None]:
    """A copy of the journal in `home`, which ends with the block; None if there is no journal.

    Raises:
        Unusable: it can't be read, or not be copied.
    """
    if isinstance(home, DatabaseHome):
        from wan_async.journal.postgres_copy import temporary_copy  # psycopg is in an extra

        with temporary_copy(home) as copy:
            yield None if copy is None else Scratch(copy.open, copy.reading)
        return
    with scratch_copy(home) as folder:
        yield (
            None
            if folder is None
            else Scratch(partial(SqliteJournal.open, folder, inline=True), partial(_existing, folder))
        )


@contextmanager
def _existing(folder: Path) -> Iterator[Database]:
    with reading(folder, verify=False) as db:
        assert db is not None
        yield db
