"""Opens a journal for reading alone, also while a run writes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from wan_async.journal.base import FILE, DatabaseHome, Home, folders_of
from wan_async.journal.integrity import LAYOUT
from wan_async.journal.journal_location import refuse_foreign
from wan_async.journal.sql_interface import Database
from wan_async.journal.sqlite_connection import peek, refuse_link, refuse_links, translated


@contextmanager
def reading(home: Home, *, verify: bool = True) -> Iterator[Database | None]:
    """Opens a snapshot of a journal; None if there is none, or its creation was interrupted.

    Args:
        home: where it is kept.
        verify: check a file for damage first; not needed by whoever has it open.

    Raises:
        Unusable: it can't be read; also while the block reads it. Or the clips belong to a journal in a database.
    """
    if isinstance(home, DatabaseHome):
        from wan_async.journal.postgres_reading import snapshot  # psycopg is in an extra

        with snapshot(home) as found:
            yield found
        return
    path = home / FILE
    for folder in folders_of(home):
        refuse_link(folder)
    refuse_links(path)
    if not path.exists():
        refuse_foreign(home)
        yield None
        return
    with closing(peek(path, LAYOUT, verify=verify)) as db, translated(path):
        db.execute("BEGIN")
        yield db if db.execute("PRAGMA user_version").fetchone()[0] else None
