"""A SQLite database with one writer: its lock, its layout, checks for damage."""

from __future__ import annotations

import os
import sqlite3
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wan_async.errors import Locked, Unusable
from wan_async.journal.base import FOLDER
from wan_async.journal.group_commit import Pending, Writer

NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
"""Refuses a link that is created between the check and the opening, where the system has it."""


_Fingerprint = tuple[tuple[str, int, int, int, int, int], ...]
TIMESTAMP_NS = 3_000_000_000
"""Above the resolution of every file system's timestamps (FAT: 2 s): a later change can't have the same ones."""
_verified: dict[Path, _Fingerprint] = {}
"""Databases that this process found undamaged, by path."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a database holds.

    Attributes:
        version: its `user_version`, from 1.
        schema: the statements that create this version.
        migrations: makes the statements that lead from a version to the next, given the older database.
        functions: what its triggers call, by name.
        readings: the statements (of temporary tables and views) that let a reader see an older version as the newest.
        verify: describes the damage in the rows of a database of a version; None if there is none.
    """

    version: int
    schema: str
    migrations: Mapping[int, Callable[[sqlite3.Connection], str]] = field(default_factory=dict)
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    readings: Mapping[int, str] = field(default_factory=dict)
    verify: Callable[[sqlite3.Connection, int], str | None] = lambda db, version: None


class Connection(Writer[sqlite3.Connection]):
    """An open, locked database. Make it with `open_connection`."""

    def __init__(self, path: Path, db: sqlite3.Connection, *, inline: bool) -> None:
        self.path = path
        self._db = db
        super().__init__(path, inline=inline)

    async def read(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Rows of a query, as the last commit left them."""
        return await self.write(lambda db: db.execute(query, arguments).fetchall())

    def commit(self, batch: Sequence[Pending[sqlite3.Connection, Any]]) -> None:
        """Commits all changes at once; if the database refuses that, each alone."""
        try:
            self._apply(batch)
        except sqlite3.DatabaseError:
            for pending in batch:
                try:
                    self._apply([pending])
                except sqlite3.DatabaseError as error:
                    pending.error = Unusable(_advice(str(error), self.path))

    def _apply(self, batch: Sequence[Pending[sqlite3.Connection, Any]]) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            for pending in batch:
                pending.error = None
                db.execute("SAVEPOINT one")
                try:
                    pending.value = pending.change(db)
                except Exception as error:  # raised to its own caller; only the database's errors concern all
                    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.IntegrityError):
                        raise
                    pending.error = error
                    db.execute("ROLLBACK TO one")
                db.execute("RELEASE one")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


@asynccontextmanager
async def open_connection(
    path: Path, *, layout: Layout, check: Callable[[sqlite3.Connection], None], inline: bool
) -> AsyncIterator[Connection]:
    """Opens the database at `path`, created or migrated if necessary, and holds its lock until the block is left.

    Args:
        path: the database; the lock and the file with the holder's process id are beside it.
        layout: its tables.
        check: runs on the open database before anything else, and may write.
        inline: commit in the event loop's own thread; for virtual time, where threads can't be waited for.

    Raises:
        Locked: another process holds it.
        Unusable: it can't be read or written, or it is of a newer version.
    """
    refuse_links(path)
    with translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        with translated(path):
            db = _open_database(path, layout)
        with closing(db):
            with translated(path):
                check(db)
            ledger = Connection(path, db, inline=inline)
            try:
                yield ledger
            finally:
                await ledger.close()


def peek(path: Path, layout: Layout, *, verify: bool = True) -> sqlite3.Connection:
    """Opens the database at `path` read-only and without the lock, also while another process writes it.

    Args:
        path: the database.
        layout: its tables; an older version is read as if it were of this one.
        verify: check for damage first; not needed right after another check.

    Raises:
        Unusable: it doesn't exist, can't be read, or is damaged.
    """
    refuse_links(path)
    if not path.is_file():
        raise Unusable(f"there is no journal at {path}: is this an output folder of a run?")
    with translated(path):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            found = _check_version(db, path, layout)
            _add_functions(db, layout)
            if verify:
                _verify_once(db, path, layout, found)
            db.executescript(layout.readings.get(found, ""))
        except BaseException:
            db.close()
            raise
    return db


def refuse_links(path: Path) -> None:
    """Refuses a database whose files or folder are symbolic links, for reading and for writing.

    Raises:
        Unusable: one of its files, or its own folder, is a link.
    """
    beside = [path.with_name(name) for name in ("lock", "holder")]
    for file in (
        path.parent,
        path,
        *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")),
        *beside,
    ):
        refuse_link(file)


def refuse_link(path: Path) -> None:
    """Refuses one file or folder that is a symbolic link.

    Raises:
        Unusable: it is one.
    """
    if path.is_symlink():
        raise Unusable(
            f"{path} is a symbolic link: the files of a journal are never written through one. Remove the link, or "
            "use another output folder (-o)"
        )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translates errors of SQLite and of the disk about `path` to `Unusable`, with advice."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        raise Unusable(_advice(str(error), path)) from None
    except UnicodeError:  # from SQLite's own messages about damaged names
        raise Unusable(_advice("malformed: a text is not UTF-8", path)) from None
    except OSError as error:
        raise Unusable(f"{path} can't be used: {error.strerror or error}") from None


def _advice(said: str, path: Path) -> str:
    said = "".join(letter if letter.isprintable() else "?" for letter in " ".join(said.split()))
    if "full" in said:
        return f"the disk is full: the journal {path} can't be written; free some space and run the same command again"
    if "readonly" in said or "unable to open" in said:
        return f"the journal {path} can't be written: its disk or folder is read-only for you ({said})"
    if any(word in said for word in ("malformed", "not a database", "decode", "user-defined function")):
        return (
            f"the journal {path} is damaged ({said}); nothing was changed. Restore it from a backup, or move the "
            "folder away and start a new one, which then does not know the tasks that were paid for"
        )
    return f"the journal {path} can't be used: {said}"


def refuse_locked(home: Path) -> None:
    """Checks that no other process holds the lock of a journal's folder; creates nothing.

    Raises:
        Locked: one does.
        Unusable: that can't be found out.
    """
    if (home / "lock").exists():
        with _locked(home):
            pass


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Holds the kernel's lock, which is released when the process ends, however it ends."""
    import filelock  # asyncio comes with it

    lock = filelock.FileLock(home / "lock", timeout=0, fallback_to_soft=False)
    holder = home / "holder"
    try:
        lock.acquire()
    except filelock.Timeout:
        who = ""
        with suppress(OSError, ValueError):
            who = f" (process {int(holder.read_text())})"
        raise Locked(
            f"another process{who} is working on {_shown(home)}: wait for it (--wait), or choose another -o"
        ) from None
    except OSError as error:
        raise Unusable(f"{home} can't be locked: {error.strerror or error}") from None
    try:
        with translated(holder):
            fd = os.open(holder, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NOFOLLOW, 0o666)
            with open(fd, "w") as file:  # noqa: PTH123 - a Path can't open a descriptor
                file.write(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


def _shown(home: Path) -> Path:
    """What is said to be in use: the output folder, or the journal of an object store."""
    return home.parent if FOLDER in home.parts else home


def _check_version(db: sqlite3.Connection, path: Path, layout: Layout) -> int:
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > layout.version:
        raise Unusable(f"the journal {path} was written by a newer version of wan_async: upgrade to use it")
    if found < 0 or (found == 0 and db.execute("SELECT 1 FROM sqlite_schema").fetchone()):
        raise sqlite3.DatabaseError("malformed: its version is missing")
    return found


def _add_functions(db: sqlite3.Connection, layout: Layout) -> None:
    for name, function in layout.functions.items():
        db.create_function(name, -1, function, deterministic=True)


def _schema_id(db: sqlite3.Connection) -> int:
    """A checksum of the definitions of tables, indexes and triggers, never 0; stored as `application_id`."""
    definitions = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
    return zlib.crc32(repr(definitions).encode()) >> 1 | 1


def _verify(db: sqlite3.Connection, layout: Layout, found: int) -> None:
    """Checks a snapshot of the whole database for damage."""
    if not found:
        return
    db.execute("PRAGMA cache_size = -65536")  # KiB: indexes are looked up in the order of their table
    db.execute("BEGIN")
    try:
        if (state := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(f"malformed: {state}")
        if db.execute("PRAGMA application_id").fetchone()[0] not in (0, _schema_id(db)):
            raise sqlite3.DatabaseError("malformed: the definitions of its tables have changed")
        if damage := layout.verify(db, found):
            raise sqlite3.DatabaseError(f"malformed: {damage}")
    finally:
        db.execute("ROLLBACK")


def _fingerprint(path: Path) -> _Fingerprint | None:
    """Identifies the bytes of a database and its log; None if they changed too recently to be identified."""
    found = []
    for file in (path, path.with_name(f"{path.name}-wal")):
        with suppress(FileNotFoundError):
            stat = file.stat()
            if not stat.st_size:  # a reader makes an empty log, too
                continue
            if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) < TIMESTAMP_NS:
                return None
            found.append((str(file), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return tuple(found)


def _verify_once(db: sqlite3.Connection, path: Path, layout: Layout, found: int) -> None:
    """Checks for damage, unless this process has checked the same bytes before.

    A run reads the journal for its plan before it opens it; a check of 100,000 attempts takes two seconds.
    """
    path = path.absolute()
    before = _fingerprint(path)
    if before is not None and _verified.get(path) == before:
        return
    _verified.pop(path, None)
    _verify(db, layout, found)
    if before is not None and _fingerprint(path) == before:
        _verified[path] = before


def _inspect(path: Path, layout: Layout) -> None:
    """Checks a database through a read-only connection: closing another kind merges the log into the file."""
    log = path.with_name(f"{path.name}-wal")
    if path.is_file() and path.stat().st_size:
        peek(path, layout).close()
    elif log.exists() and log.stat().st_size:  # SQLite would create a new file and delete the log
        raise sqlite3.DatabaseError("malformed: only its write-ahead log is left")


def _open_database(path: Path, layout: Layout) -> sqlite3.Connection:
    _inspect(path, layout)
    # created with mode 0600 first: key hashes and task tokens must not be readable for others, even for a moment
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | NOFOLLOW, 0o600))
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        found = _check_version(db, path, layout)
        _add_functions(db, layout)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA recursive_triggers = ON")  # else OR REPLACE deletes rows without their triggers
        steps = (
            [layout.schema] if found == 0 else [layout.migrations[step](db) for step in range(found, layout.version)]
        )
        if steps:
            db.executescript(f"BEGIN IMMEDIATE; {' '.join(steps)} PRAGMA user_version = {layout.version};")
            db.execute(f"PRAGMA application_id = {_schema_id(db)}")
            db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db
