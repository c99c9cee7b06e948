"""Clips in a local folder: hashes, free names, publishing without overwriting."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from wan_async import errors
from wan_async.filesystem import Files, IsALink, refuse_link

NO_HARD_LINKS = (
    errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES, errno.EINVAL, errno.EXDEV
)  # fmt: skip
"""What file systems say that have no hard links: exFAT on Windows EINVAL, some in user space EXDEV."""


def hash_of(path: Path) -> str | None:
    """The SHA-256 of a file, None if there is no file to read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def publish_file(files: Files, part: Path, target: Path, sha256: str) -> None:
    """Gives a checked part its name, without overwriting anything."""
    try:
        refuse_link(part)
        files.link(part, target)
    except FileExistsError:
        _settle(target, sha256)
    except FileNotFoundError as error:
        if target.is_symlink() or hash_of(target) != sha256:
            raise errors.TryLater(f"{part.name} is gone: it must be fetched again") from error
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        if os.path.lexists(target):  # no hard links here
            _settle(target, sha256)
        else:
            files.rename(part, target)
    files.unlink(part)
    files.fsync_folder(target.parent)


def _settle(target: Path, sha256: str) -> None:
    if target.is_symlink():
        raise IsALink(target)
    if hash_of(target) != sha256:
        raise errors.JobFailed(f"{target.name} exists already and is another file", kind="target")


def _numbered(base: str, suffix: str, number: int) -> str:
    return f"{base}.{number}{suffix}"


def first_free_name(folder: Path, base: str, suffix: str) -> str:
    """The first numbered name that no file has."""
    number = 1
    while os.path.lexists(folder / _numbered(base, suffix, number)):
        number += 1
    return _numbered(base, suffix, number)


def find_hard_link(folder: Path, base: str, suffix: str) -> str | None:
    """The second, numbered name that the file has already, if it has one."""
    number, file = 1, folder / (base + suffix)
    while file.exists() and (folder / (other := _numbered(base, suffix, number))).exists():
        if file.samefile(folder / other):
            return other
        number += 1
    return None


def link_or_copy(files: Files, source: Path, target: Path) -> None:
    """A second name for a file; where there are no hard links, a new one."""
    try:
        files.link(source, target)
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise
        files.rename(source, target)
