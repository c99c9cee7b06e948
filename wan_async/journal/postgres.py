"""The journal in PostgreSQL: a schema for each output, in a database that several machines share.

`wan_async.journal.postgres_connection` commits; the tables are in `wan_async/journal/migrations/`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import reduce
from typing import TYPE_CHECKING, Self

from wan_async.domain.attempt import Account
from wan_async.errors import Locked, Unusable
from wan_async.journal.base import DatabaseHome
from wan_async.journal.ownership import check_owner
from wan_async.journal.postgres_adapter import PostgresDatabase, import_psycopg, scripts, search_path
from wan_async.journal.postgres_connection import (
    LOCK_OF_ACCOUNT,
    LOCK_OF_LAYOUT,
    Hold,
    PostgresConnection,
    fence_if_changed,
    session_of,
)
from wan_async.journal.postgres_reading import key_in
from wan_async.journal.server_history import FENCED, Unchecked
from wan_async.journal.sql_journal import SqlJournal

if TYPE_CHECKING:
    from wan_async.journal.postgres_adapter import Link
    from wan_async.journal.sql_interface import Database


NUMBERS = 256
"""How many processes of an account get a number of their own."""
_FREE_NUMBER = """
SELECT min(n) FROM generate_series(0, ?) AS n WHERE NOT EXISTS (
    SELECT 1 FROM wan_async.holders h JOIN wan_async.journals j ON j.id = h.journal WHERE j.account = ? AND h.number = n
)
"""


class PostgresJournal(SqlJournal):
    """The open journal of one output. Make it with `PostgresJournal.open`.

    Attributes:
        hold: what this process has of the journal.
    """

    highest_task = "SELECT coalesce(max(task_id::bigint), 0) FROM attempts WHERE task_id ~ '^[0-9]{1,18}$'"

    def __init__(self, connection: PostgresConnection, home: DatabaseHome, hold: Hold, starts: int) -> None:
        self.conflicts: type[Exception] = import_psycopg().IntegrityError
        self._write = connection.write
        self._read = connection.read
        self.home: DatabaseHome = home
        self.hold = hold
        self.starts = starts
        self.stale: bool = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        home: DatabaseHome,
        account: Account | None,
        *,
        inline: bool = False,
        exclusive: bool = True,
        worker: int | None = None,
    ) -> AsyncIterator[Self]:
        """Opens the journal of an output, created if it doesn't exist, and holds it until the block is left.

        Args:
            home: the database and the output.
            account: the owner that it must have, unless it has no attempts yet; None for what makes no requests.
            inline: commit in the event loop's own thread; for virtual time, where threads can't be waited for.
            exclusive: whether no other process may hold it.
            worker: the worker of Procrastinate that this process is, if it is one.

        Raises:
            Unusable: another process holds it, the journal belongs to another account, or the database can't be used.
        """
        starts = 0

        def take(link: Link) -> Hold:
            nonlocal starts
            journal = _made(link, home)
            link.execute(session_of(journal))
            hold, starts = _take(link, home, journal, account, worker, exclusive=exclusive)
            return hold

        connection = PostgresConnection(home, take, inline=inline)
        try:
            yield cls(connection, home, await connection.open(), starts)
        finally:
            await connection.close()

    async def accept_key(self, account: Account, at: float) -> None:
        await super().accept_key(account, at)

        def change(db: Database) -> None:
            db.execute(
                "INSERT INTO wan_async.account_keys VALUES (?, ?) ON CONFLICT (hash) DO UPDATE SET "
                "account = excluded.account",
                (key_in(db, account), self.hold.account),
            )

        await self._write(change)


def _made(link: Link, home: DatabaseHome) -> int:
    """The id of the journal of an output; its tables are created or migrated if necessary.

    Raises:
        Unusable: the database is of a newer version.
    """
    db = PostgresDatabase(link)
    with link.transaction():
        db.execute("SELECT pg_advisory_xact_lock(?, 0)", (LOCK_OF_LAYOUT,))
        if db.execute("SELECT to_regclass('wan_async.journals')").fetchone()[0] is None:
            link.execute(b"CREATE SCHEMA IF NOT EXISTS wan_async; CREATE TABLE wan_async.versions (common integer)")
            link.execute(b"INSERT INTO wan_async.versions VALUES (0)")
        common = _migrate(link, "common", db.execute("SELECT common FROM wan_async.versions").fetchone()[0], {})
        db.execute("UPDATE wan_async.versions SET common = ?", (common,))
        found = db.execute("SELECT id, version FROM wan_async.journals WHERE output = ?", (home.output,)).fetchone()
        if found is None:
            owner = db.execute("INSERT INTO wan_async.accounts DEFAULT VALUES RETURNING id").fetchone()[0]
            found = db.execute(
                "INSERT INTO wan_async.journals (output, account) VALUES (?, ?) RETURNING id, version",
                (home.output, owner),
            ).fetchone()
            link.execute(f"CREATE SCHEMA wan_async_{found[0]}".encode())
        journal, version = int(found[0]), int(found[1])
        link.execute(f"SET LOCAL search_path TO {search_path(journal)}".encode())
        latest = _migrate(link, "journal", version, {"JOURNAL_ID": str(journal)})
        db.execute("UPDATE wan_async.journals SET version = ? WHERE id = ?", (latest, journal))
    return journal


def _migrate(link: Link, kind: str, version: int, names: dict[str, str]) -> int:
    """Runs the SQL files above a version; the latest version.

    Raises:
        Unusable: the version is a newer one.
    """
    latest = len(scripts(kind, 0))
    if version > latest:
        raise Unusable("the journals in this database were written by a newer version of wan_async: upgrade to use it")
    for _, script in scripts(kind, version):
        link.execute(reduce(lambda text, name: text.replace(name, names[name]), names, script).encode())
    return latest


def _take(
    link: Link,
    home: DatabaseHome,
    journal: int,
    account: Account | None,
    worker: int | None,
    *,
    exclusive: bool,
) -> tuple[Hold, int]:
    """Takes hold of a journal; also, how often it was opened before.

    Raises:
        Unusable: another process holds it, or it belongs to another account.
    """
    db = PostgresDatabase(link)
    hold = Hold(journal, 0, 0, exclusive=exclusive, is_worker=worker is not None)
    _refuse_unchecked(db, hold, home)  # before the lock, which the worker that checks it may be waiting for
    row = link.execute(hold.lock).fetchone()
    assert row is not None
    if not row[0]:
        names = db.execute("SELECT name FROM wan_async.holders WHERE journal = ? ORDER BY id", (journal,)).fetchall()
        who = f" ({', '.join(name for (name,) in names)})" if names else ""
        raise Locked(f"another process{who} is working on {home}: wait for it (--wait), or choose another -o")
    hold.account = _account_of(db, journal)
    is_fenced = fence_if_changed(link, hold) is None
    if is_fenced and not exclusive:
        raise Unchecked(f"all processes that had {home} open must open it anew")
    with link.transaction():
        hold.account = _account_of(db, journal)
        db.execute("SELECT pg_advisory_xact_lock(?, ?)", (LOCK_OF_ACCOUNT, hold.account))
        if exclusive:
            db.execute("DELETE FROM wan_async.holders WHERE journal = ?", (journal,))
        _refuse_unchecked(db, hold, home)
        if account is not None:
            others = db.execute("SELECT EXISTS (SELECT 1 FROM wan_async.holders WHERE journal = ?)", (journal,))
            hold.account = _owner(db, journal, account, in_use=others.fetchone()[0])
        name = f"process {os.getpid()} on {socket.gethostname()}"
        hold.number = db.execute(_FREE_NUMBER, (NUMBERS - 1, hold.account)).fetchone()[0] or 0
        query = (
            "INSERT INTO wan_async.holders (journal, name, worker, number) VALUES (?, ?, ?, ?) RETURNING id, commits"
        )
        hold.holder, hold.commits = db.execute(query, (journal, name, worker, hold.number)).fetchone()
        link.execute(hold.connected)
        query = "UPDATE wan_async.journals SET starts = starts + 1 WHERE id = ? RETURNING starts - 1"
        starts = db.execute(query, (journal,)).fetchone()[0]
    return hold, int(starts)


def _refuse_unchecked(db: PostgresDatabase, hold: Hold, home: DatabaseHome) -> None:
    """A worker may not open a journal beside others that must be checked first."""
    query = "SELECT 1 FROM meta WHERE name = ?"
    if hold.is_worker and not hold.exclusive and db.execute(query, (FENCED,)).fetchone():
        raise Unchecked(f"a worker must check {home} alone")


def _account_of(db: PostgresDatabase, journal: int) -> int:
    return int(db.execute("SELECT account FROM wan_async.journals WHERE id = ?", (journal,)).fetchone()[0])


def _owner(db: PostgresDatabase, journal: int, account: Account, *, in_use: bool) -> int:
    """Checks whom a journal belongs to; the id of that account. A journal without attempts gets a new owner.

    Args:
        db: the database, in a transaction.
        journal: the journal.
        account: the account of whoever opens it.
        in_use: whether another process has it open, so that its owner can't change.
    """
    check_owner(db, account, in_use=in_use)
    if in_use or db.execute("SELECT EXISTS (SELECT 1 FROM attempts)").fetchone()[0]:
        return _account_of(db, journal)
    key = key_in(db, account)
    found = db.execute("SELECT account FROM wan_async.account_keys WHERE hash = ?", (key,)).fetchone()
    if found is None:
        found = (_account_of(db, journal),)
        if db.execute("SELECT 1 FROM wan_async.account_keys WHERE account = ?", found).fetchone():
            found = db.execute("INSERT INTO wan_async.accounts DEFAULT VALUES RETURNING id").fetchone()
        db.execute("INSERT INTO wan_async.account_keys VALUES (?, ?)", (key, found[0]))
    db.execute("UPDATE wan_async.journals SET account = ? WHERE id = ?", (found[0], journal))
    return int(found[0])
