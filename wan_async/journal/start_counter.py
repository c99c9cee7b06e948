"""How often a journal was opened for writing, kept twice: in the journal itself, and in a small file beside it.

A journal that was restored from a backup, or lost the end of its write-ahead log, counts fewer starts than its folder.
The journal is written first, then the file, then the journal again, so that a crash in between is told from that.
"""

from __future__ import annotations

import os
from pathlib import Path

from wan_async.filesystem import Files

FILE = "starts"
_LONGEST = 20
"""No count has more digits than this."""


def read(home: Path) -> int | None:
    """The count that the file holds; 0 if there is none, None if it can't be understood."""
    try:
        with (home / FILE).open("rb") as file:
            said = file.read(_LONGEST + 1).strip()
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return int(said) if said.isdigit() and len(said) <= _LONGEST else None


def write(home: Path, count: int) -> None:
    """Replaces the file, durably, in one step.

    Raises:
        OSError: it could not be written; the file is as it was.
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
    """What is odd about the two counts, in words; None if nothing is.

    Args:
        journal: how often the journal was opened, as it says itself.
        written: the latest count that it knows to be in the file.
        file: the count in the file, 0 without one; None if it can't be understood.
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
