"""A SQLite database that keeps its word: one process, one writer thread, group commit.

Guarantees. `write` returns once its rows are durable (WAL, `synchronous=FULL`). Writes that wait at the same time share
one commit; a change that fails is rolled back alone (a savepoint each), and only its own caller hears of it; a commit
that fails as a whole is repeated one change at a time, to find out whose row can't be written.

A cancelled scope lets a write that has begun come to its end, so that what its caller keeps in memory never lags behind
the commit; asyncio's own cancellation breaks off the waiting, but the row is written all the same. The process may die
anywhere: a row is there or it is not. A kernel lock keeps a second process out. What is not known here: whether the
disk lies about fsync.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import filelock

from wan_async.disk import soon
from wan_async.errors import Unusable

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Write(Generic[T]):
    change: Callable[[sqlite3.Connection], T]
    done: anyio.Event = field(default_factory=anyio.Event)
    value: T | None = None
    error: Exception | None = None


def _tell(batch: Sequence[_Write[Any]]) -> None:
    for write in batch:
        write.done.set()


@dataclass(frozen=True, slots=True)
class Layout:
    """What a database holds.

    Attributes:
        version: its `user_version`, from 1.
        schema: the statements that make this version.
        migrations: the statements that lead from a version to the next.
        functions: what its triggers call, by name.
    """

    version: int
    schema: str
    migrations: Mapping[int, str] = field(default_factory=dict)
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


class Ledger:
    """An open, locked database. Make it with `open_ledger`."""

    def __init__(self, path: Path, db: sqlite3.Connection, *, inline: bool) -> None:
        self.path = path
        self._db = db
        self._queue: queue.SimpleQueue[_Write[Any] | None] | None = None if inline else queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, args=(soon(),), daemon=True)
        if not inline:
            self._thread.start()

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `change` in the next commit and returns what it returned, once that is durable.

        Raises:
            Exception: whatever `change` itself raised; its rows are rolled back.
            Unusable: the rows could not be made durable.
        """
        if self._closed:
            raise Unusable(f"the journal {self.path} is closed already")
        write = _Write(change)
        if self._queue is None:
            self._commit([write])
            await anyio.lowlevel.cancel_shielded_checkpoint()
        else:
            self._queue.put(write)
            with anyio.CancelScope(shield=True):
                await write.done.wait()
        if write.error is not None:
            raise write.error
        return write.value  # type: ignore[return-value] # without an error the change ran

    async def read(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Rows of a query, as the last commit left them."""
        return await self.write(lambda db: db.execute(query, arguments).fetchall())

    async def close(self) -> None:
        """What waits is still committed; from now on nothing is taken."""
        self._closed = True
        if self._queue is not None:
            self._queue.put(None)
            interrupted: BaseException | None = None
            while self._thread.is_alive():
                try:
                    with anyio.CancelScope(shield=True):
                        await anyio.to_thread.run_sync(self._thread.join)
                except anyio.get_cancelled_exc_class() as error:  # asyncio's own cancellation goes through shields
                    interrupted = error
            if interrupted is not None:
                raise interrupted

    def _serve(self, soon: Callable[..., object]) -> None:
        assert self._queue is not None
        write: _Write[Any] | None = None
        while (write := self._queue.get()) is not None:
            batch = [write]
            while not self._queue.empty() and (write := self._queue.get()) is not None:
                batch.append(write)
            self._commit(batch)
            with suppress(RuntimeError):  # nobody is left to be told; the rows are durable all the same
                soon(_tell, batch)
            if write is None:
                return

    def _commit(self, batch: Sequence[_Write[Any]]) -> None:
        try:
            self._apply(batch)
        except sqlite3.DatabaseError:
            for write in batch:
                try:
                    self._apply([write])
                except sqlite3.DatabaseError as error:
                    write.error = Unusable(_advice(str(error), self.path))

    def _apply(self, batch: Sequence[_Write[Any]]) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            for write in batch:
                write.error = None
                db.execute("SAVEPOINT one")
                try:
                    write.value = write.change(db)
                except Exception as error:  # its own caller gets it; only the database itself concerns all
                    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.IntegrityError):
                        raise
                    write.error = error
                    db.execute("ROLLBACK TO one")
                db.execute("RELEASE one")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


@asynccontextmanager
async def open_ledger(
    path: Path, *, layout: Layout, check: Callable[[sqlite3.Connection], None], inline: bool
) -> AsyncIterator[Ledger]:
    """The database at `path`, made if it isn't there, migrated if it is older, and locked until the block is left.

    Args:
        path: the database; the lock and the holder's process id lie beside it.
        layout: its tables.
        check: looks at the open database before anything is done with it, and may write.
        inline: commit in the event loop's own thread; for virtual time, where threads can't be waited for.

    Raises:
        Unusable: another process holds it, or it can't be read or written, or it is of a newer version.
    """
    with translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        with translated(path):
            db = _open_database(path, layout)
        with closing(db):
            with translated(path):
                check(db)
            ledger = Ledger(path, db, inline=inline)
            try:
                yield ledger
            finally:
                await ledger.close()


def peek(path: Path, version: int) -> sqlite3.Connection:
    """The database at `path` for reading, without the lock, whoever else writes it.

    Raises:
        Unusable: there is none, or it can't be read.
    """
    if not path.is_file():
        raise Unusable(f"there is no journal at {path}: is this an output folder of a run?")
    with translated(path):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            _check_version(db, path, version)
        except BaseException:
            db.close()
            raise
    return db


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's and the disk's errors about `path`, as the one that says what to do."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        raise Unusable(_advice(str(error), path)) from None
    except OSError as error:
        raise Unusable(f"{path} can't be used: {error.strerror or error}") from None


def _advice(said: str, path: Path) -> str:
    if "full" in said:
        return f"the disk is full: the journal {path} can't be written; free some space and run the same command again"
    if "readonly" in said or "unable to open" in said:
        return f"the journal {path} can't be written: its disk or folder is read-only for you ({said})"
    if "malformed" in said or "not a database" in said:
        return (
            f"the journal {path} is damaged ({said}); nothing was changed. Restore it from a backup, or move the "
            "folder away and start a new one: what this one paid for is then no longer known"
        )
    return f"the journal {path} can't be used: {said}"


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """The kernel's own lock: it goes when its holder does, however that goes."""
    lock = filelock.FileLock(home / "lock", timeout=0, fallback_to_soft=False)
    holder = home / "holder"
    try:
        lock.acquire()
    except filelock.Timeout:
        who = ""
        with suppress(OSError, ValueError):
            who = f" (process {int(holder.read_text())})"
        raise Unusable(f"another process{who} is working on {home.parent}: wait for it, or choose another -o") from None
    except OSError as error:
        raise Unusable(f"{home} can't be locked: {error.strerror or error}") from None
    try:
        with translated(holder):
            holder.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


def _check_version(db: sqlite3.Connection, path: Path, version: int) -> int:
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > version:
        raise Unusable(f"the journal {path} was written by a newer version of wan_async: upgrade to use it")
    return found


def _inspect(path: Path, version: int) -> None:
    """Looks at a database for reading only: one that may write merges the log into the file when it is closed."""
    log = path.with_name(f"{path.name}-wal")
    if path.is_file() and path.stat().st_size:
        with closing(peek(path, version)) as db:
            if (state := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(f"malformed: {state}")
    elif log.exists() and log.stat().st_size:  # SQLite would make a new file, and delete the log
        raise sqlite3.DatabaseError("malformed: only its write-ahead log is left")


def _open_database(path: Path, layout: Layout) -> sqlite3.Connection:
    _inspect(path, layout.version)
    # made by hand first, so that key hashes and task tokens are never readable for others, not even for an instant
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        found = _check_version(db, path, layout.version)
        for name, function in layout.functions.items():
            db.create_function(name, -1, function, deterministic=True)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        steps = [layout.schema] if found == 0 else [layout.migrations[step] for step in range(found, layout.version)]
        if steps:
            script = " ".join(steps)
            db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {layout.version}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db
