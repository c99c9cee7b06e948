"""The part file of a download: written, hashed and checked."""

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
"""Without a strong ETag, this many bytes of a part are requested again and compared. Few, so that there is progress
even if each connection is cut early."""


class OverlapDiffers(Exception):
    """The bytes that were requested again are not those of the part."""


class PartFile:
    """A part file that is being filled, its length and its hash. All methods but `__init__` block."""

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._path = path
        self._closing = ExitStack()
        self.size: int = 0

    def open(self, keep: bool, written: int) -> None:
        """Opens the file.

        Args:
            keep: whether to keep its content. A block of zeros means that it lost data in a power cut: then it is
                emptied all the same.
            written: the length after this process's last write; a file of this length had no power cut since.
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
        """Empties the file, durably if it was not empty."""
        old = self._file.seek(0, os.SEEK_END)
        if old:
            self._file.seek(0)
            self._file.truncate()
            self._files.fsync(self._file)
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, chunks: list[bytes]) -> None:
        """Appends data."""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._files.write(self._file, data)
        self._hash.update(data)
        self.size += len(data)

    def holds(self, at: int, data: bytes) -> bool:
        """Whether the file has these bytes at this offset."""
        self._file.seek(at)
        same = self._file.read(len(data)) == data
        self._file.seek(0, os.SEEK_END)
        return same

    def finish(self, announced: str) -> str:
        """Makes the file durable and returns its content type.

        Raises:
            errors.JobFailed: of kind `content`: it is no complete output.
        """
        self._files.fsync(self._file)
        return identify(self._file, self.size, announced)

    def hexdigest(self) -> str:
        """The SHA-256 of the content."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """Closes the file."""
        self._closing.close()
