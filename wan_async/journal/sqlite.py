"""The journal in SQLite: `OUT/.wan_async/journal.sqlite3`.

`wan_async.journal.sqlite_connection` commits, `wan_async.journal.tables` describes the tables.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from wan_async.domain.attempt import Account
from wan_async.journal.base import FILE, folders_of
from wan_async.journal.integrity import LAYOUT
from wan_async.journal.journal_location import refuse_foreign
from wan_async.journal.ownership import check_owner
from wan_async.journal.sql_journal import SqlJournal
from wan_async.journal.sqlite_connection import Connection, open_connection, refuse_link
from wan_async.journal.start_counter import count_start


class SqliteJournal(SqlJournal):
    """The open journal of one output folder. Make it with `SqliteJournal.open`.

    Args:
        connection: the open database.
        starts: how often the journal was opened before, by its own count and by the file beside it.
        stale: whether the two counts differed, and the tasks that it may lack were not looked for since.
    """

    conflicts: type[Exception] = sqlite3.IntegrityError
    highest_task = (
        "SELECT coalesce(max(CAST(task_id AS INTEGER)), 0) FROM attempts "
        "WHERE task_id NOT GLOB '*[^0-9]*' AND length(task_id) BETWEEN 1 AND 18"
    )

    def __init__(self, connection: Connection, starts: int, *, stale: bool) -> None:
        self._write = connection.write
        self._read = connection.read
        self.starts = starts
        self.stale: bool = stale
        self.path: Path = connection.path
        self.home: Path = connection.path.parent

    @classmethod
    @asynccontextmanager
    async def open(cls, home: Path, account: Account | None, *, inline: bool = False) -> AsyncIterator[SqliteJournal]:
        """Opens the journal in `home`, created if it doesn't exist, and holds its lock until the block is left.

        Args:
            home: the folder that holds the journal and nothing else: `FOLDER` in the output folder.
            account: the owner that it must have, unless it has no attempts yet; None for what makes no requests.
            inline: commit in the event loop's own thread; for virtual time, where threads can't be waited for.

        Raises:
            Unusable: another process holds the lock, the journal belongs to another account, is damaged, or can't be
                read or written; or the clips of its folder belong to a journal in a database.
        """
        found = (0, False)

        def check(db: sqlite3.Connection) -> None:
            nonlocal found
            if account is not None:
                db.execute("BEGIN IMMEDIATE")
                try:
                    check_owner(db, account)
                finally:
                    db.execute("COMMIT")  # an error comes before any change
            found = count_start(db, home)

        for folder in folders_of(home):
            refuse_link(folder)
        refuse_foreign(home)
        async with open_connection(home / FILE, layout=LAYOUT, check=check, inline=inline) as connection:
            yield cls(connection, found[0], stale=found[1])
