"""What a change of the journal sees of its database: the part of an SQL connection that SQLite and PostgreSQL share.

Statements are written once, in SQL that both understand: `?` for parameters, `INSERT ... ON CONFLICT`, columns of the
changed table with its name before them. Where one of them lacks a function, it is given it (`postgres_common_1.sql`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol


class Rows(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed."""
        ...

    def fetchone(self) -> Any:
        """The next row; None after the last."""
        ...

    def fetchall(self) -> list[Any]:
        """All rows."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Database(Protocol):
    """An open database, within a transaction that its owner commits."""

    def execute(self, query: str, parameters: Sequence[Any] = ..., /) -> Rows:
        """Runs a statement."""
        ...

    def executemany(self, query: str, rows: Iterable[Sequence[Any]], /) -> object:
        """Runs a statement once for each row of parameters."""
        ...


def upsert(table: str, key: tuple[str, ...] | str, *columns: str) -> str:
    """The statement that inserts a row, or replaces the other columns of the one with the same key."""
    keys = (key,) if isinstance(key, str) else key
    names = (*keys, *columns)
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns)
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"
    )
