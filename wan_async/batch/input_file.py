"""Opens and reads files that a user named. Blocking."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from wan_async.domain.text import shown

BLOCK_BYTES = 1024 * 1024
NOT_A_FILE = "neither a file nor a folder"


def open_file(path: str, *, buffering: int = -1) -> BinaryIO:
    """Opens a regular file for reading; opening a pipe would block.

    Raises:
        OSError: the file can't be opened.
        ValueError: it is not a regular file, or the text can't be a path.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - quicker
    except ValueError:
        raise ValueError(f"{shown(path, whole=True)} can't be a path") from None
    if not stat.S_ISREG(mode):
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise ValueError(f"{shown(path, whole=True)} is {NOT_A_FILE}")
    return Path(path).open("rb", buffering=buffering)


def read_at_most(file: BinaryIO, limit: int) -> bytes:
    """Reads a file's first bytes, in blocks: `read(limit)` would allocate as much memory, however short the file."""
    blocks, size = [], 0
    while size < limit and (block := file.read(min(BLOCK_BYTES, limit - size))):
        blocks.append(block)
        size += len(block)
    return b"".join(blocks)
