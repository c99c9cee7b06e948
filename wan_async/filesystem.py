"""The file operations on which durability depends, in one replaceable object."""

from __future__ import annotations

import errno
import os
from io import FileIO
from pathlib import Path

TRANSIENT = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)


class IsALink(OSError):
    """The file to be written is a symbolic link, which is not followed."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ELOOP, "it is a symbolic link, and links are not followed for writing", str(path))


def refuse_link(path: Path) -> None:
    """Raises `IsALink` if the last part of `path` is a symbolic link; the folders above it may be."""
    if path.is_symlink():
        raise IsALink(path)


def is_transient(error: Exception) -> bool:
    """Whether a call failed for lack of descriptors, threads or buffers, which may soon be available again."""
    if isinstance(error, OSError):
        return error.errno in TRANSIENT
    return isinstance(error, RuntimeError) and "start new thread" in str(error)


class Files:
    """The file operations. Tests replace them, to record their order or to make them fail."""

    def open(self, path: Path) -> FileIO:
        """Opens a file unbuffered for reading and appending; creates it if it does not exist.

        Raises:
            IsALink: it is a symbolic link.
        """
        refuse_link(path)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        return FileIO(os.open(path, flags, 0o666), "r+")

    def write(self, file: FileIO, data: bytes) -> None:
        """Writes all of `data`, in several calls if one writes less."""
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]

    def fsync(self, file: FileIO) -> None:
        """Makes the file's content durable."""
        os.fsync(file.fileno())

    def link(self, source: Path, target: Path) -> None:
        """Makes a hard link.

        Raises:
            FileExistsError: the name is taken.
        """
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        """Renames a file. On POSIX it overwrites an existing one."""
        source.rename(target)

    def replace(self, source: Path, target: Path) -> None:
        """Renames a file over an existing one, atomically."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Removes a file, if it exists."""
        path.unlink(missing_ok=True)

    def fsync_folder(self, folder: Path) -> None:
        """Makes the names in a folder durable, where the system can (Windows can't)."""
        if os.name == "nt":
            return
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
                raise
        finally:
            os.close(fd)
