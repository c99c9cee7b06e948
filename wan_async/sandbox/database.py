"""Where a sandbox keeps its account, tasks and files, so that a killed one goes on as the same remote service."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import fields
from pathlib import Path

from wan_async.sandbox.account import Account, Task

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (id INTEGER PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS account (
    id INTEGER PRIMARY KEY CHECK (id = 1), balance INTEGER NOT NULL, spent INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS starts (id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS nonces (place INTEGER PRIMARY KEY, nonce TEXT NOT NULL);
"""
_KEPT = tuple(each.name for each in fields(Task))


class Store:
    """A folder with a database of tasks and a file for each clip and upload.

    Only the death of processes matters here, not of machines: nothing is fsynced.

    Attributes:
        start: how often this folder was opened before.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._db = sqlite3.connect(folder / "sandbox.sqlite3", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(_SCHEMA)
        self.start = int(self._db.execute("INSERT INTO starts DEFAULT VALUES").lastrowid or 1) - 1

    def close(self) -> None:
        """Closes the database."""
        self._db.close()

    def load(self, account: Account) -> None:
        """Puts what was kept into a fresh account. What ended meanwhile is settled when somebody looks."""
        row = self._db.execute("SELECT balance, spent FROM account").fetchone()
        if row is not None:
            account.balance_micros, account.spent_micros = row
        rows = self._db.execute("SELECT content FROM tasks ORDER BY id").fetchall()
        kept = [json.loads(content) for (content,) in rows]
        for content in sorted(kept, key=lambda each: float(each["created"])):  # ids may have begun again
            account.add(Task(**{name: value for name, value in content.items() if name in _KEPT}))
        if account.tasks:
            account.resume()

    def put(self, account: Account, *tasks: Task) -> None:
        """Keeps tasks as they stand, and the account with all that its balance reckons with."""
        changed = {each.key: each for each in (*account.settled, *tasks)}
        account.settled.clear()
        rows = [(_row(each), json.dumps({name: getattr(each, name) for name in _KEPT})) for each in changed.values()]
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO tasks VALUES (?, ?)", rows)
        row = (account.balance_micros, account.spent_micros)
        self._db.execute("INSERT OR REPLACE INTO account VALUES (1, ?, ?)", row)
        self._db.execute("COMMIT")

    def nonces(self, count: int) -> list[str]:
        """The latest nonces, the oldest first."""
        rows = self._db.execute("SELECT nonce FROM nonces ORDER BY place DESC LIMIT ?", (count,)).fetchall()
        return [nonce for (nonce,) in reversed(rows)]

    def put_nonce(self, nonce: str, count: int) -> None:
        """Keeps a nonce; forgets the oldest of more than `count`."""
        place = self._db.execute("INSERT INTO nonces (nonce) VALUES (?)", (nonce,)).lastrowid or 0
        if place > count:
            self._db.execute("DELETE FROM nonces WHERE place <= ?", (place - count,))

    def put_file(self, name: str, kind: str, data: bytes) -> None:
        """Keeps a file and its content type."""
        part = self._folder / f"{name}.part"
        part.write_bytes(kind.encode() + b"\n" + data)
        part.replace(self._folder / name)

    def get_file(self, name: str) -> tuple[str, bytes] | None:
        """A kept file: its content type and its bytes."""
        try:
            kind, _, data = (self._folder / name).read_bytes().partition(b"\n")
        except OSError:
            return None
        return kind.decode(), data

    def drop_file(self, name: str) -> None:
        """Forgets a file, if there is one."""
        (self._folder / name).unlink(missing_ok=True)


def _row(task: Task) -> int:
    """A number of its own for each task, also where ids began again."""
    return task.again * 10**12 + int(task.id)
