"""A folder with the account, tasks, nonces and files of a sandbox, so that a killed one continues after a restart."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import fields
from pathlib import Path

from wan_async.sandbox.account import Account
from wan_async.sandbox.tasks import Task

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (id INTEGER PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS account (
    id INTEGER PRIMARY KEY CHECK (id = 1), balance INTEGER NOT NULL, spent INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS starts (id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS nonces (place INTEGER PRIMARY KEY, nonce TEXT NOT NULL);
"""
_COLUMNS = tuple(each.name for each in fields(Task))


class Database:
    """SQLite for account, tasks and nonces; one file for each clip and upload.

    It survives the death of the process, not of the machine: nothing is fsynced.

    Attributes:
        earlier_starts: how often this folder was opened before.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._db = sqlite3.connect(folder / "sandbox.sqlite3", isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.executescript(_SCHEMA)
            self.earlier_starts: int = int(self._db.execute("INSERT INTO starts DEFAULT VALUES").lastrowid or 1) - 1
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def load(self, account: Account) -> None:
        """Load balance and tasks into a new account. What has ended meanwhile is settled at the next access."""
        row = self._db.execute("SELECT balance, spent FROM account").fetchone()
        if row is not None:
            account.restore(*row)
        rows = self._db.execute("SELECT content FROM tasks ORDER BY id").fetchall()
        stored = [json.loads(content) for (content,) in rows]
        for content in sorted(stored, key=lambda each: float(each["created"])):  # restarted ids are not in this order
            account.add(Task(**{name: value for name, value in content.items() if name in _COLUMNS}))
        if account.tasks:
            account.reseed()

    def save(self, account: Account, *tasks: Task) -> None:
        """Store these tasks, those settled since the last call, and the balance, in one transaction."""
        changed = {each.key: each for each in (*account.take_settled(), *tasks)}
        rows = [(_row(each), json.dumps({name: getattr(each, name) for name in _COLUMNS})) for each in changed.values()]
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO tasks VALUES (?, ?)", rows)
        row = (account.balance_micros, account.spent_micros)
        self._db.execute("INSERT OR REPLACE INTO account VALUES (1, ?, ?)", row)
        self._db.execute("COMMIT")

    def nonces(self, count: int) -> list[str]:
        """Return the latest nonces, the oldest first."""
        rows = self._db.execute("SELECT nonce FROM nonces ORDER BY place DESC LIMIT ?", (count,)).fetchall()
        return [nonce for (nonce,) in reversed(rows)]

    def put_nonce(self, nonce: str, count: int) -> None:
        """Store a nonce; delete all but the latest `count`."""
        place = self._db.execute("INSERT INTO nonces (nonce) VALUES (?)", (nonce,)).lastrowid or 0
        if place > count:
            self._db.execute("DELETE FROM nonces WHERE place <= ?", (place - count,))

    def put_file(self, name: str, kind: str, data: bytes) -> None:
        """Store a file and its content type by an atomic rename."""
        part = self._folder / f"{name}.part"
        part.write_bytes(kind.encode() + b"\n" + data)
        part.replace(self._folder / name)

    def get_file(self, name: str) -> tuple[str, bytes] | None:
        """Return a file's content type and bytes, or None if there is no such file."""
        try:
            kind, _, data = (self._folder / name).read_bytes().partition(b"\n")
        except OSError:
            return None
        return kind.decode(), data

    def delete_file(self, name: str) -> None:
        """Delete a file if it exists."""
        (self._folder / name).unlink(missing_ok=True)


def _row(task: Task) -> int:
    """A unique row number, also for tasks with the same id."""
    return task.again * 10**12 + int(task.id)
