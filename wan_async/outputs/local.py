"""Outputs in a local folder."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack

from wan_async import errors
from wan_async.filesystem import Files, refuse_link
from wan_async.output_locations import OWNER, Owner
from wan_async.outputs.base import NameExists, Store, numbered, sidecar_name
from wan_async.outputs.disk_errors import on_disk
from wan_async.outputs.output_owner import RESULTS, USED, refuse_other
from wan_async.threads import Offload, in_threads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NO_HARD_LINKS = (
    errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES, errno.EINVAL, errno.EXDEV
)  # fmt: skip
"""What file systems without hard links report: exFAT on Windows EINVAL, some in user space EXDEV."""
TEXTS_PER_WRITE = 1000
COPY_BYTES = 1 << 20


class LocalStore(Store):
    """A `Store` in a local folder. Parts are in the folder, too: a hard link can't cross file systems.

    Args:
        folder: where the files are; it exists.
        files: the file operations.
        offload: where they run, by default in up to 8 threads.
    """

    def __init__(self, folder: Path, files: Files | None = None, offload: Offload | None = None) -> None:
        self._folder = folder
        self._files = files or Files()
        self._offload = offload or in_threads(8)

    def part_path(self, part: str) -> Path:
        """See `Store`; it is in the folder."""
        return self._folder / part

    async def claim(
        self, identity: Callable[[], Awaitable[str | None]], *, make: bool, database: str | None = None
    ) -> bool:
        """See `Store`: a file names the journal, unless the folder holds it."""
        if database is None:
            return False
        owner = Owner(await identity(), database)
        return await self._on_disk(self._folder / OWNER, _claim, self._files, self._folder, owner, make)

    async def names(self) -> set[str]:
        return await self._on_disk(self._folder, lambda: {path.name for path in self._folder.iterdir()})

    async def sizes(self) -> Callable[[str], int | None]:
        return lambda name: _size(self._folder / name)

    async def read(self, name: str) -> bytes | None:
        return await self._on_disk(self._folder / name, _read, self._folder / name)

    async def make_folder(self, folder: str) -> None:
        """See `Store`. A folder that is a symbolic link is refused."""
        path = self._folder / folder
        await self._on_disk(path, _make_folder, path)

    async def exists(self, name: str) -> bool:
        path = self._folder / name
        return await self._on_disk(path, os.path.lexists, path)

    async def sha256(self, name: str, *, follow_links: bool = True) -> str | None:
        path = self._folder / name
        return await self._on_disk(path, _hash_of, path, follow_links)

    async def publish(self, source: str, name: str, sha256: str) -> None:
        """See `Store`: a hard link, then the old name is removed."""
        path = self._folder / name
        await self._on_disk(path, _publish, self._files, self._folder / source, path, sha256)

    async def free_name(self, name: str) -> str:
        return await self._on_disk(self._folder / name, _free_name, self._folder, name)

    async def copy(self, name: str, new: str) -> None:
        """See `Store`: a hard link; the sidecar is renamed."""
        path = self._folder / name
        await self._on_disk(path, _copy, self._files, path, self._folder / new)

    async def link(self, name: str, new: str) -> None:
        """See `Store`."""
        path = self._folder / new
        await self._on_disk(path, _link, self._files, self._folder / name, path)

    async def find_copy(self, name: str) -> str | None:
        """See `Store`: the second hard link of the file."""
        return await self._on_disk(self._folder / name, _find_copy, self._folder, name)

    async def replace(self, name: str, texts: Iterable[str]) -> None:
        """See `Store`: a temporary file, renamed once it is durable."""
        path = self._folder / name
        await self._on_disk(path, _replace, self._files, path, texts)

    async def remove(self, name: str, *further: str) -> None:
        await self._on_disk(self._folder / name, _remove, self._files, self._folder, (name, *further))

    async def _on_disk(self, path: Path, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        return await on_disk(self._offload, path, func, *args)


def _claim(files: Files, folder: Path, owner: Owner, make: bool) -> bool:
    found = _read(folder / OWNER)
    was_used = found is None and any(os.path.lexists(folder / name) for name in (USED, RESULTS))
    if found is None and make and owner.journal is not None:
        _make_folder((folder / OWNER).parent)
        for name in (USED, OWNER):
            _create(files, folder / name, owner.dumps())
        found = _read(folder / OWNER)
    if found is not None:
        refuse_other(found, owner, folder)
    return was_used


def _create(files: Files, path: Path, content: bytes) -> None:
    """Makes a small file in one step, unless another process has made it."""
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    files.unlink(part)
    with files.open(part) as file:
        files.write(file, content)
        files.fsync(file)
    with suppress(FileExistsError):
        _link_or_rename(files, part, path)
    files.unlink(part)
    files.fsync_folder(path.parent)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _make_folder(path: Path) -> None:
    refuse_link(path)
    path.mkdir(exist_ok=True)


def _hash_of(path: Path, follow_links: bool) -> str | None:
    if not follow_links and path.is_symlink():
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _publish(files: Files, source: Path, target: Path, sha256: str) -> None:
    try:
        refuse_link(source)
        _link_or_rename(files, source, target)
    except FileExistsError:
        _check_same(target, sha256)
    except FileNotFoundError as error:
        if _hash_of(target, False) != sha256:
            raise errors.TryLater(f"{source.name} is gone: it must be downloaded again") from error
    files.unlink(source)
    files.fsync_folder(target.parent)


def _link_or_rename(files: Files, source: Path, target: Path) -> None:
    """Gives a file a second name, or where there are no hard links its only name, without overwriting anything."""
    try:
        files.link(source, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        if not os.path.lexists(source):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source)) from error
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        files.rename(source, target)


def _check_same(target: Path, sha256: str) -> None:
    if _hash_of(target, False) != sha256:
        raise NameExists(target.name)


def _free_name(folder: Path, name: str) -> str:
    number = 1
    while os.path.lexists(folder / numbered(name, number)):
        number += 1
    return numbered(name, number)


def _link(files: Files, source: Path, target: Path) -> None:
    try:
        try:
            files.link(source, target)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            _copy_content(files, source, target)
    except FileExistsError:
        _check_same(target, _hash_of(source, True) or "")
    files.fsync_folder(target.parent)


def _copy_content(files: Files, source: Path, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    files.unlink(part)
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    with source.open("rb") as original, files.open(part) as copy:
        while block := original.read(COPY_BYTES):
            files.write(copy, block)
        files.fsync(copy)
    files.rename(part, target)


def _find_copy(folder: Path, name: str) -> str | None:
    number, file = 1, folder / name
    while file.exists() and (folder / (other := numbered(name, number))).exists():
        if file.samefile(folder / other):
            return other
        number += 1
    return None


def _copy(files: Files, source: Path, target: Path) -> None:
    if not (target.exists() and target.samefile(source)):  # else an interrupted call has come so far
        _link_or_rename(files, source, target)
    sidecar = source.with_name(sidecar_name(source.name))
    if sidecar.exists():
        files.replace(sidecar, target.with_name(sidecar_name(target.name)))
    files.fsync_folder(target.parent)


def _replace(files: Files, path: Path, texts: Iterable[str]) -> None:
    temporary = _temporary(path)
    for each in (path, temporary):
        refuse_link(each)
    files.unlink(temporary)
    with files.open(temporary) as file:
        batch: list[bytes] = []
        for text in texts:
            batch.append(text.encode("utf-8", "replace"))
            if len(batch) == TEXTS_PER_WRITE:
                files.write(file, b"".join(batch))
                batch.clear()
        files.write(file, b"".join(batch))
        files.fsync(file)
    files.replace(temporary, path)
    files.fsync_folder(path.parent)


def _remove(files: Files, folder: Path, names: Iterable[str]) -> None:
    paths = [folder / name for name in names]
    for path in paths:
        files.unlink(path)
        if path.suffix == ".json":
            files.unlink(_temporary(path))
    for subfolder in {path.parent for path in paths} - {folder}:
        with suppress(OSError):  # other files are in it, or it does not exist
            subfolder.rmdir()


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")
