"""The journal's statements in PostgreSQL: parameter marks, texts that PostgreSQL can't hold, advice on errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from wan_async.errors import Unusable
from wan_async.journal.sql_interface import Rows

if TYPE_CHECKING:
    import psycopg

    Link = psycopg.Connection[tuple[Any, ...]]
    """A connection in autocommit mode."""

_HINT = re.compile(r" INDEXED BY \w+")
_FILE = "postgres_{kind}_{number}.sql"


@lru_cache(maxsize=256)
def translated(query: str) -> bytes:
    """A shared statement as psycopg takes it: `%s` for parameters, and without hints for SQLite."""
    return _HINT.sub("", query).replace("%", "%%").replace("?", "%s").encode()


def storable(value: object) -> object:
    """A parameter that PostgreSQL can hold: a text of the service may have a NUL or half of a surrogate pair."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


class PostgresDatabase:
    """A connection as a `wan_async.journal.sql_interface.Database`.

    Args:
        connection: the connection, in autocommit mode or within a transaction.
    """

    def __init__(self, connection: Link) -> None:
        self._connection = connection

    def execute(self, query: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Runs a statement."""
        return self._connection.execute(translated(query), [storable(value) for value in parameters])

    def executemany(self, query: str, rows: Iterable[Sequence[Any]], /) -> object:
        """Runs a statement once for each row of parameters, all of them in few round trips."""
        with self._connection.cursor() as cursor:
            cursor.executemany(translated(query), [[storable(value) for value in row] for row in rows])
        return None


def import_psycopg() -> Any:
    """The module `psycopg`, which the extra `cluster` installs.

    Raises:
        Unusable: it is not installed.
    """
    try:
        import psycopg
    except ImportError:
        raise Unusable(
            "a journal in PostgreSQL needs psycopg, which is not installed: pip install 'wan-async[cluster]'"
        ) from None
    return psycopg


def scripts(kind: str, after: int) -> list[tuple[int, str]]:
    """The SQL files of a kind (`common`, `journal`) with a higher number, in order."""
    found: list[tuple[int, str]] = []
    while (file := files(__package__).joinpath("migrations", _FILE.format(kind=kind, number=after + 1))).is_file():
        after += 1
        found.append((after, file.read_text(encoding="utf-8")))
    return found


def advice(error: Exception, name: object) -> str:
    """What an error of the database means, in one line for people."""
    said = " ".join(str(error).split())
    return f"{name} can't be used: {said}"


IDLE_SECONDS = 10
"""How long a transaction may wait for its next statement. What a suspended process holds would block the others."""
_CONNECTION = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "wan-async",
}
"""How soon a server that has gone is noticed; what the address itself says takes precedence."""


def connect(dsn: str) -> Link:
    """A connection in autocommit mode.

    Raises:
        psycopg.Error: there is none.
        Unusable: psycopg is not installed.
    """
    connection: Link = import_psycopg().connect(dsn, autocommit=True, **connection_defaults(dsn))
    return connection


def connection_defaults(dsn: str) -> dict[str, Any]:
    """What a connection is made with, unless the address says otherwise."""
    given = import_psycopg().conninfo.conninfo_to_dict(dsn)
    idle = f"-c idle_in_transaction_session_timeout={IDLE_SECONDS}s"
    defaults = {name: value for name, value in _CONNECTION.items() if name not in given}
    return defaults | {"options": f"{given.get('options') or ''} {idle}".strip()}


def search_path(journal: int) -> str:
    """Where the statements of a journal find their tables and functions."""
    return f"wan_async_{journal}, wan_async, pg_catalog"
