"""What a journal in an SQL database remembers about its account, the service and the images."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from wan_async.domain.attempt import Account
from wan_async.journal.base import Metadata
from wan_async.journal.ownership import keyed_hash
from wan_async.journal.sql_interface import Database, upsert

T = TypeVar("T")

_META = upsert("meta", "name", "value")


class Write(Protocol):
    """Runs a change in the next commit, and returns what it returned once that is durable."""

    def __call__(self, change: Callable[[Database], T], /) -> Awaitable[T]:
        """Returns or raises what the change does; `Unusable` if it could not be made durable."""
        ...


class Read(Protocol):
    """Runs a query."""

    def __call__(self, query: str, /, *arguments: object) -> Awaitable[list[tuple[Any, ...]]]:
        """The rows, as the last commit left them."""
        ...


class SqlMetadata(Metadata):
    """The part of the journal that is not about attempts; see `wan_async.journal.base.Metadata`.

    Attributes:
        highest_task: the query of the highest id of a task that an attempt owns; 0 without one.
        starts: how often the journal was opened before.
    """

    highest_task: str
    starts: int
    _write: Write
    _read: Read

    async def _execute(self, query: str, values: Sequence[object]) -> None:
        def change(db: Database) -> None:
            db.execute(query, values)

        await self._write(change)

    async def _execute_many(self, query: str, rows: Sequence[Sequence[object]]) -> None:
        def change(db: Database) -> None:
            db.executemany(query, rows)

        await self._write(change)

    async def rotated(self, account: Account) -> bool:
        return bool(await self._read("SELECT 1 FROM meta WHERE name = 'key' AND value <> ?", await self._hash(account)))

    async def accept_key(self, account: Account, at: float) -> None:
        rows = [("key", await self._hash(account)), ("key_since", repr(at))]

        def change(db: Database) -> None:
            db.executemany(_META, rows)
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
        await self._execute("INSERT INTO projects VALUES (?) ON CONFLICT DO NOTHING", (project,))

    async def upload_of(self, sha256: str, since: float) -> str | None:
        rows = await self._read("SELECT url FROM uploads WHERE sha256 = ? AND at > ?", sha256, since)
        return str(rows[0][0]) if rows else None

    async def upload_urls(self) -> dict[str, str]:
        return dict(await self._read("SELECT sha256, url FROM uploads"))

    async def uploaded(self, sha256: str, url: str, at: float) -> None:
        await self._execute(upsert("uploads", "sha256", "url", "at"), (sha256, url, at))

    async def forget_upload(self, sha256: str) -> None:
        await self._execute("DELETE FROM uploads WHERE sha256 = ?", (sha256,))

    async def hashed(self, images: Mapping[str, tuple[int, int, str]]) -> None:
        rows = [(path, *facts) for path, facts in images.items()]
        await self._execute_many(upsert("images", "path", "size", "mtime_ns", "sha256"), rows)

    async def echoes(self) -> dict[str, bool]:
        return {name: bool(faithful) for name, faithful in await self._read("SELECT field, faithful FROM echoes")}

    async def echoed(self, seen: Mapping[str, bool]) -> None:
        await self._execute_many(
            "INSERT INTO echoes VALUES (?, ?) ON CONFLICT (field) DO UPDATE SET "
            "faithful = echoes.faithful * excluded.faithful",
            [(name, int(faithful)) for name, faithful in seen.items()],
        )

    async def remembers(self, name: str) -> bool:
        return bool(await self._read("SELECT 1 FROM meta WHERE name = ?", name))

    async def remember(self, name: str, *, holds: bool = True) -> None:
        if holds:
            await self._execute(_META, (name, "1"))
        else:
            await self._execute("DELETE FROM meta WHERE name = ?", (name,))

    async def identity(self) -> str:
        def change(db: Database) -> str:
            query = "INSERT INTO meta (name, value) VALUES ('identity', ?) ON CONFLICT (name) DO NOTHING"
            db.execute(query, (secrets.token_hex(16),))
            return str(db.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()[0])

        return await self._write(change)

    async def is_new(self) -> bool:
        return not self.starts and not await self._read("SELECT 1 FROM attempts LIMIT 1")

    async def complete_to(self) -> int:
        rows = await self._read("SELECT name, value FROM meta WHERE name IN ('first_id', 'unowned_since')")
        kept = {name: int(value) for name, value in rows}
        sent = (await self._read("SELECT coalesce(max(high_id), 0) FROM attempts"))[0][0]
        owned = (await self._read(self.highest_task))[0][0]
        known = max(sent, owned, kept.get("first_id", 0))
        return int(min(known, kept.get("unowned_since", known)))

    async def begins_at(self, task_id: int) -> None:
        await self._execute(_META, ("first_id", str(task_id)))

    async def unowned_since(self, task_id: int) -> None:
        await self._execute(_META, ("unowned_since", str(task_id)))

    async def none_unowned(self) -> None:
        await self._execute("DELETE FROM meta WHERE name IN ('unowned_since', 'stale')", ())
        self.stale = False
