"""What the SQLite journal remembers about its account, the service and the images."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from wan_async.domain.attempt import Account
from wan_async.journal.base import Metadata
from wan_async.journal.connection import Connection
from wan_async.journal.ownership import keyed_hash


class SqliteMetadata(Metadata):
    """The part of the journal that is not about attempts; see `wan_async.journal.base.Metadata`.

    Args:
        connection: the open database.
        starts: how often the journal was opened before, by its own count and by the file beside it.
        stale: whether the two counts differed, and the tasks that it may lack were not looked for since.
    """

    def __init__(self, connection: Connection, starts: int, *, stale: bool) -> None:
        self.starts = starts
        self.stale: bool = stale
        self._write = connection.write
        self._read = connection.read

    async def _execute(self, query: str, values: Sequence[object]) -> None:
        def change(db: sqlite3.Connection) -> None:
            db.execute(query, values)

        await self._write(change)

    async def _execute_many(self, query: str, rows: Sequence[Sequence[object]]) -> None:
        def change(db: sqlite3.Connection) -> None:
            db.executemany(query, rows)

        await self._write(change)

    async def rotated(self, account: Account) -> bool:
        return bool(await self._read("SELECT 1 FROM meta WHERE name = 'key' AND value <> ?", await self._hash(account)))

    async def accept_key(self, account: Account, at: float) -> None:
        rows = [("key", await self._hash(account)), ("key_since", repr(at))]

        def change(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
            db.execute("DELETE FROM projects")

        await self._write(change)

    async def _hash(self, account: Account) -> str:
        return keyed_hash((await self._read("SELECT value FROM meta WHERE name = 'salt'"))[0][0], account.key)

    async def key_since(self) -> float:
        rows = await self._read("SELECT value FROM meta WHERE name = 'key_since'")
        return float(rows[0][0]) if rows else 0.0

    async def projects(self) -> set[str]:
        return {project for (project,) in await self._read("SELECT id FROM projects")}

    async def project_seen(self, project: str) -> None:
        await self._execute("INSERT OR IGNORE INTO projects VALUES (?)", (project,))

    async def upload_of(self, sha256: str, since: float) -> str | None:
        rows = await self._read("SELECT url FROM uploads WHERE sha256 = ? AND at > ?", sha256, since)
        return str(rows[0][0]) if rows else None

    async def upload_urls(self) -> dict[str, str]:
        return dict(await self._read("SELECT sha256, url FROM uploads"))

    async def uploaded(self, sha256: str, url: str, at: float) -> None:
        await self._execute("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?)", (sha256, url, at))

    async def forget_upload(self, sha256: str) -> None:
        await self._execute("DELETE FROM uploads WHERE sha256 = ?", (sha256,))

    async def hashed(self, images: Mapping[str, tuple[int, int, str]]) -> None:
        rows = [(path, *facts) for path, facts in images.items()]
        await self._execute_many("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", rows)

    async def echoes(self) -> dict[str, bool]:
        return {name: bool(faithful) for name, faithful in await self._read("SELECT field, faithful FROM echoes")}

    async def echoed(self, seen: Mapping[str, bool]) -> None:
        await self._execute_many(
            "INSERT INTO echoes VALUES (?, ?) ON CONFLICT (field) DO UPDATE SET faithful = min(faithful, "
            "excluded.faithful)",
            [(name, int(faithful)) for name, faithful in seen.items()],
        )

    async def remembers(self, name: str) -> bool:
        return bool(await self._read("SELECT 1 FROM meta WHERE name = ?", name))

    async def remember(self, name: str, *, holds: bool = True) -> None:
        if holds:
            await self._execute("INSERT OR REPLACE INTO meta VALUES (?, '1')", (name,))
        else:
            await self._execute("DELETE FROM meta WHERE name = ?", (name,))

    async def is_new(self) -> bool:
        return not self.starts and not await self._read("SELECT 1 FROM attempts LIMIT 1")

    async def complete_to(self) -> int:
        digits = "task_id NOT GLOB '*[^0-9]*' AND length(task_id) BETWEEN 1 AND 18"
        rows = await self._read(
            "SELECT max(coalesce((SELECT max(high_id) FROM attempts), 0), "
            f"coalesce((SELECT max(CAST(task_id AS INTEGER)) FROM attempts WHERE {digits}), 0), "
            "coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'first_id'), 0)), "
            "(SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'unowned_since')"
        )
        known, unowned_since = rows[0]
        return int(known) if unowned_since is None else min(known, unowned_since)

    async def begins_at(self, task_id: int) -> None:
        await self._execute("INSERT OR REPLACE INTO meta VALUES ('first_id', ?)", (str(task_id),))

    async def unowned_since(self, task_id: int) -> None:
        await self._execute("INSERT OR REPLACE INTO meta VALUES ('unowned_since', ?)", (str(task_id),))

    async def none_unowned(self) -> None:
        await self._execute("DELETE FROM meta WHERE name IN ('unowned_since', 'stale')", ())
        self.stale = False
