"""The start counter: how often a journal was opened for writing, stored in the journal and in a file beside it.

A journal that was restored from a backup, or lost the end of its write-ahead log, has a lower count than the file.
The journal is written first, then the file, then the journal again, so that a crash in between is distinguishable.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

from wan_async.filesystem import Files
from wan_async.journal.base import FILE as JOURNAL_FILE
from wan_async.journal.sqlite_connection import refuse_link

log: logging.Logger = logging.getLogger(__name__)

FILE = "starts"
_MAX_DIGITS = 20


def read(home: Path) -> int | None:
    """The count in the file; 0 if there is no file, None if it holds no count."""
    try:
        with (home / FILE).open("rb") as file:
            said = file.read(_MAX_DIGITS + 1).strip()
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return int(said) if said.isdigit() and len(said) <= _MAX_DIGITS else None


def write(home: Path, count: int) -> None:
    """Replaces the file by an atomic rename, durably.

    Raises:
        OSError: it could not be written; the file is unchanged.
    """
    part = home / f"{FILE}.tmp"
    part.unlink(missing_ok=True)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    with open(fd, "wb") as file:  # noqa: PTH123 - a Path can't open a descriptor
        file.write(b"%d\n" % count)
        file.flush()
        os.fsync(fd)
    part.replace(home / FILE)
    Files().fsync_folder(home)


def difference(journal: int, written: int, file: int | None) -> str | None:
    """How the two counts contradict each other, in words; None if they don't.

    Args:
        journal: how often the journal was opened, by its own count.
        written: the latest count that the journal knows to be in the file.
        file: the count in the file; 0 without a file, None if it holds no count.
    """
    if file in (journal, written) and journal - written in (0, 1):
        return None
    if file is None:
        return f"the file {FILE!r} beside it can't be read"
    if not file:
        return f"the file {FILE!r} beside it is missing: the journal was copied, or restored without it"
    if not journal:
        return f"its folder had one that was opened {file} times, which was moved, deleted, or replaced by an older one"
    if file > journal:
        return (
            f"it is older than its folder (it was opened {journal} times, the folder's journal {file} times): it was "
            "restored from a backup, or lost its latest changes"
        )
    return (
        f"it is newer than its folder (opened {journal} times, the folder's journal {file} times): it was copied here"
    )


def count_start(db: sqlite3.Connection, home: Path) -> tuple[int, bool]:
    """Counts this start in the journal and in the file beside it.

    Returns:
        How many starts there were before, and whether the journal is stale: older than its folder, and the tasks that
        it may lack not looked for since.

    Raises:
        Unusable: the file is a symbolic link.
        OSError: the file can't be written.
    """
    kept = dict(db.execute("SELECT name, value FROM meta WHERE name IN ('starts', 'starts_written', 'stale')"))
    for name in (FILE, f"{FILE}.tmp"):
        refuse_link(home / name)
    journal, written, file = int(kept.get("starts", 0)), int(kept.get("starts_written", 0)), read(home)
    said = difference(journal, written, file)
    if said is not None:
        log.warning("the journal %s may lack tasks that it paid for: %s", home / JOURNAL_FILE, said)
    before = max(journal, file or 0)
    stale = said is not None or "stale" in kept
    now = str(before + 1)
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT OR REPLACE INTO meta VALUES ('starts', ?)", (now,))
    if stale:
        db.execute("INSERT OR REPLACE INTO meta VALUES ('stale', '1')")
    db.execute("COMMIT")
    write(home, before + 1)
    db.execute("INSERT OR REPLACE INTO meta VALUES ('starts_written', ?)", (now,))
    return before, stale
