"""Reads the journals in a PostgreSQL database, also while workers write them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from wan_async.domain.attempt import Account
from wan_async.errors import Unusable
from wan_async.journal.base import DatabaseHome
from wan_async.journal.ownership import keyed_hash
from wan_async.journal.postgres_adapter import PostgresDatabase, advice, connect, import_psycopg, search_path
from wan_async.journal.sql_interface import Database

if TYPE_CHECKING:
    from wan_async.journal.postgres_adapter import Link

_ALL = "SELECT output FROM wan_async.journals WHERE version > 0 ORDER BY id"
_OF_KEY = """
SELECT j.output FROM wan_async.journals j JOIN wan_async.account_keys k ON k.account = j.account
WHERE j.version > 0 AND k.hash = ? ORDER BY j.id
"""
_ALIVE = "SELECT count(*) FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => ?)"


@contextmanager
def snapshot(home: DatabaseHome) -> Iterator[PostgresDatabase | None]:
    """A journal as one commit left it, for reading; None if it doesn't exist.

    Raises:
        Unusable: it can't be read.
    """
    with open_for_reading(home.dsn, home) as link:
        db = PostgresDatabase(link)
        journal = journal_at(db, home)
        if journal is None:
            yield None
            return
        db.execute(f"SET search_path TO {search_path(journal)}")
        db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield db


def journal_at(db: Database, home: DatabaseHome) -> int | None:
    """The id of a journal; None if it doesn't exist."""
    if not has_journals(db):
        return None
    query = "SELECT id FROM wan_async.journals WHERE output = ? AND version > 0"
    found = db.execute(query, (home.output,)).fetchone()
    return None if found is None else int(found[0])


def outputs_in(dsn: str, account: Account | None = None) -> list[str]:
    """The outputs whose journals are in a database.

    Args:
        dsn: the database.
        account: only those of the account that this key is known to be of; None for all.

    Raises:
        Unusable: it can't be read, or there are none.
    """
    with open_for_reading(dsn, "the database") as link:
        db = PostgresDatabase(link)
        if not has_journals(db) or not (found := db.execute(_ALL).fetchall()):
            raise Unusable("there is no journal in this database: does --journal name the right one?")
        if account is not None and not (found := db.execute(_OF_KEY, (key_in(db, account),)).fetchall()):
            raise Unusable(
                f"no journal in this database is known to belong to the account of this API key at {account.origin}: "
                "is it the key of the workers?"
            )
    return [output for (output,) in found]


def workers_alive(dsn: str, lease_seconds: float) -> int:
    """How many workers of a database had a heartbeat in this number of seconds.

    Raises:
        Unusable: it can't be read.
    """
    with open_for_reading(dsn, "the database") as link:
        db = PostgresDatabase(link)
        if db.execute("SELECT to_regclass('procrastinate_workers')").fetchone()[0] is None:
            return 0
        return int(db.execute(_ALIVE, (lease_seconds,)).fetchone()[0])


def has_journals(db: Database) -> bool:
    """Whether a database has the tables of journals."""
    return db.execute("SELECT to_regclass('wan_async.journals')").fetchone()[0] is not None


def key_in(db: Database, account: Account) -> str:
    """The keyed hash of an API key at its origin, by which the database recognises an account."""
    salt = db.execute("SELECT value FROM wan_async.settings WHERE name = 'salt'").fetchone()[0]
    return keyed_hash(salt, f"{account.origin}\n{account.key}")


@contextmanager
def open_for_reading(dsn: str, name: object) -> Iterator[Link]:
    """A connection.

    Args:
        dsn: the database.
        name: what it is called in messages.

    Raises:
        Unusable: for every error of the database in the block.
    """
    try:
        with closing(connect(dsn)) as link:
            yield link
    except import_psycopg().Error as error:
        raise Unusable(advice(error, name)) from None
