"""The `.part` file of a download."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path

from wan_async.filesystem import Files
from wan_async.filetypes import identify
from wan_async.outputs.content_encoding import BATCH_BYTES

ZEROS = bytes(4096)
OVERLAP_BYTES = 256
"""How much of a part comes once more where only the bytes can tell that the content is still the same. It is less than
the least that is worth a connection, so that there is progress however early each is cut."""


class OverlapDiffers(Exception):
    """What came once more is not what there is."""


class PartFile:
    """A part file that is being filled: its length and its hash. All methods but `__init__` block."""

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._path = path
        self._closing = ExitStack()
        self.size = 0

    def open(self, keep: bool, written: int) -> None:
        """Opens it, to go on after what is there (if `keep`, and if it looks sound) or to begin anew.

        Args:
            keep: whether to go on.
            written: how long it is if nobody but this process wrote to it: then no power cut came between.
        """
        self._file = self._closing.enter_context(self._files.open(self._path))
        self._hash = hashlib.sha256()
        self.size = 0
        ours = written > 0 and written == os.fstat(self._file.fileno()).st_size
        while keep and (data := self._file.read(BATCH_BYTES)):
            if not ours and any(data.startswith(ZEROS, at) for at in range(0, len(data), len(ZEROS))):
                keep = False  # lost in a power cut
            self._hash.update(data)
            self.size += len(data)
        if not keep:
            self.restart()

    def restart(self) -> None:
        """Empties it, durably if there was something in it."""
        old = self._file.seek(0, os.SEEK_END)
        if old:
            self._file.seek(0)
            self._file.truncate()
            self._files.fsync(self._file)
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, chunks: list[bytes]) -> None:
        """Appends what arrived."""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._files.write(self._file, data)
        self._hash.update(data)
        self.size += len(data)

    def holds(self, at: int, data: bytes) -> bool:
        """Whether it has these bytes there."""
        self._file.seek(at)
        same = self._file.read(len(data)) == data
        self._file.seek(0, os.SEEK_END)
        return same

    def finish(self, announced: str) -> str:
        """Makes it durable and says what it is."""
        self._files.fsync(self._file)
        return identify(self._file, self.size, announced)

    def hexdigest(self) -> str:
        """The sha256 of what is written."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """Closes the file."""
        self._closing.close()
