"""Where clips end up: the protocol between a run and the store that holds its outputs.

Files are known by name, relative to the store; in a subfolder the name is `FOLDER/NAME`. A download is first written to
a local part file, checked there, and then published under its name.

What every store guarantees, and `tests/support/store_conformance.py` checks:

- Nothing is overwritten: `publish` and `copy` refuse a name that another file has. Only `replace` replaces.
- What a method did is durable when it returns.
- The process may die at any instant. A clip then has its old name, its new one, or both, and the same call made again
  completes the step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Protocol

from wan_async import errors


class NameExists(errors.JobFailed):
    """Another file has the name already; it was left alone."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} exists already and is another file", kind="target")


class Store(Protocol):
    """A folder, or what takes its place.

    Every method may raise `errors.Unusable` (the store can't be used: the disk is full, permission is denied) and
    `errors.TryLater` (too many open files or threads: the same call may succeed in a moment); those that write raise
    `errors.JobFailed` of kind `target` where the name is a symbolic link.
    """

    def part_path(self, part: str) -> Path:
        """The local path of a part file, to which a clip is downloaded before it is published."""
        ...

    async def claim(
        self, identity: Callable[[], Awaitable[str | None]], *, make: bool, database: str | None = None
    ) -> bool:
        """Checks that the clips here are those of a journal. Those beside a journal in a local folder are its own.

        Args:
            identity: returns the journal's identity; None if there is no journal.
            make: whether the journal takes what belongs to none.
            database: the database that holds the journal, without a password; None if it is in a folder.

        Returns:
            Whether they belong to none now, but did: that journal was lost, and what it paid for is not known here.

        Raises:
            errors.Unusable: they belong to another journal.
        """
        ...

    async def names(self) -> set[str]:
        """The names at the top: of files and of folders."""
        ...

    async def sizes(self) -> Callable[[str], int | None]:
        """A function that tells the length of a file in bytes, None if there is none. It may block."""
        ...

    async def read(self, name: str) -> bytes | None:
        """The content of a small file; None if there is no file that can be read."""
        ...

    async def make_folder(self, folder: str) -> None:
        """Makes a subfolder, if it does not exist."""
        ...

    async def exists(self, name: str) -> bool:
        """Whether anything has the name, be it a folder or a broken link."""
        ...

    async def sha256(self, name: str, *, follow_links: bool = True) -> str | None:
        """The SHA-256 of a stored file or of a part, in hex; None if there is no file that can be read."""
        ...

    async def publish(self, source: str, name: str, sha256: str) -> None:
        """Gives a complete file its name, and takes its old one away.

        Where the file has the name already, this completes a call that was interrupted.

        Args:
            source: a part, or a stored file that gets another name.
            name: the name from now on.
            sha256: its hash, committed to the journal before this call.

        Raises:
            NameExists: another file has the name; nothing was changed.
            errors.TryLater: neither name exists: the file must be downloaded again.
        """
        ...

    async def free_name(self, name: str) -> str:
        """The first of `NAME.1.EXT`, `NAME.2.EXT`, ... that does not exist."""
        ...

    async def link(self, name: str, new: str) -> None:
        """Gives a clip a second name that stays: a hard link, or a copy where there are none.

        Raises:
            NameExists: another file has the name.
        """
        ...

    async def copy(self, name: str, new: str) -> None:
        """Gives a clip a second name, and its sidecar that name instead of the old one.

        The caller commits the new name to the journal, then removes the old one. Where there are no hard links, the
        clip is renamed.
        """
        ...

    async def find_copy(self, name: str) -> str | None:
        """The numbered name that `copy` gave the clip `name`, where the old name was not removed afterwards."""
        ...

    async def replace(self, name: str, texts: Iterable[str]) -> None:
        """Writes a text file in one step: a reader sees the old content or the new, never a part of it.

        Args:
            name: the file; what it held before is gone afterwards.
            texts: the content, in pieces. They are requested in a worker thread.
        """
        ...

    async def remove(self, name: str, *further: str) -> None:
        """Removes files and parts that exist, what an interrupted `replace` left of them, and empty subfolders."""
        ...


def numbered(name: str, number: int) -> str:
    """The name of an earlier or a second file: `cat.mp4` becomes `cat.1.mp4`."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}.{number}{path.suffix}"))


def sidecar_name(name: str) -> str:
    """The name of a clip's sidecar: `cat.json` for `cat.mp4`."""
    return str(PurePosixPath(name).with_suffix(".json"))
