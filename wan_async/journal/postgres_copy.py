"""A copy of a journal in PostgreSQL that may be changed: temporary tables, which other connections don't see.

Neither rows nor the account are locked: workers go on while a plan is made on the copy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from wan_async.domain.attempt import Account
from wan_async.journal.base import DatabaseHome
from wan_async.journal.ownership import check_owner
from wan_async.journal.postgres import PostgresJournal
from wan_async.journal.postgres_adapter import PostgresDatabase, import_psycopg
from wan_async.journal.postgres_reading import journal_at, open_for_reading
from wan_async.journal.sql_interface import Database
from wan_async.journal.sql_journal import SqlJournal
from wan_async.journal.tables import COLUMNS

if TYPE_CHECKING:
    from wan_async.journal.postgres_adapter import Link

T = TypeVar("T")

TABLES = (*COLUMNS, "money")
_LIKE = "INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES"
"""All but the identity of a column, which would refuse its copied values."""
_HELD = "SELECT EXISTS (SELECT 1 FROM wan_async.holders WHERE journal = ?)"


class ScratchJournal(SqlJournal):
    """A copy of a journal, in the temporary tables of a connection; what it is asked for is done at once, blocking.

    Args:
        link: the connection.
        home: where the journal is kept that it is a copy of.
        in_use: whether a process has that journal open.
    """

    highest_task: str = PostgresJournal.highest_task

    def __init__(self, link: Link, home: DatabaseHome, *, in_use: bool) -> None:
        self.conflicts: type[Exception] = import_psycopg().IntegrityError
        self.home: DatabaseHome = home
        self.starts = 1
        self.stale: bool = False
        self._link = link
        self._in_use = in_use
        self._write = self._change
        self._read = self._rows

    @asynccontextmanager
    async def open(self, account: Account | None) -> AsyncIterator[Self]:
        """Checks whom the journal belongs to, as whoever opens it does.

        Raises:
            Unusable: it belongs to another account.
        """
        if account is not None:
            with self._link.transaction():
                check_owner(PostgresDatabase(self._link), account, in_use=self._in_use)
        yield self

    @contextmanager
    def reading(self) -> Iterator[Database]:
        """Its tables."""
        yield PostgresDatabase(self._link)

    async def _change(self, change: Callable[[Database], T], /) -> T:
        with self._link.transaction():
            return change(PostgresDatabase(self._link))

    async def _rows(self, query: str, /, *arguments: object) -> list[tuple[Any, ...]]:
        return PostgresDatabase(self._link).execute(query, arguments).fetchall()


@contextmanager
def temporary_copy(home: DatabaseHome) -> Iterator[ScratchJournal | None]:
    """A copy of a journal as one commit left it, which ends with the block; None if there is no journal.

    Raises:
        Unusable: it can't be read, or the role may not make temporary tables.
    """
    with open_for_reading(home.dsn, home) as link:
        db = PostgresDatabase(link)
        journal = journal_at(db, home)
        if journal is None:
            yield None
            return
        in_use = bool(db.execute(_HELD, (journal,)).fetchone()[0])
        with link.transaction():
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            for table in TABLES:
                original = f"wan_async_{journal}.{table}"
                db.execute(f"CREATE TEMP TABLE {table} (LIKE {original} {_LIKE})")
                db.execute(f"INSERT INTO pg_temp.{table} SELECT * FROM {original}")
        db.execute("SET search_path TO pg_temp, wan_async, pg_catalog")
        db.execute("ANALYZE")
        yield ScratchJournal(link, home, in_use=in_use)
