"""Where the clip of a single call goes: its folder and name, reserved before anything is paid."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.domain.naming import folded
from wan_async.engine.dependencies import Dependencies
from wan_async.filetypes import extension
from wan_async.outputs.base import NameExists
from wan_async.outputs.disk_errors import on_disk
from wan_async.outputs.local import LocalStore

MAX_NUMBER = 100_000


@dataclass(frozen=True, slots=True)
class Target:
    """A reserved name.

    Attributes:
        folder: an existing folder that can be written to.
        stem: the name without its suffix.
        suffix: the suffix that the caller asked for; empty for that of the clip's type.
        part: an empty file beside it, to which the clip is downloaded.
    """

    folder: Path
    stem: str
    suffix: str
    part: Path


class Targets:
    """Reserves names, so that no two calls of a client have the same.

    Args:
        dependencies: the disk.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._reserved: set[tuple[str, str]] = set()
        self._lock = threading.Lock()  # names are checked and reserved in worker threads

    @asynccontextmanager
    async def reserve(self, to: str | os.PathLike[str] | None, name: str) -> AsyncIterator[Target]:
        """Reserve a name within this block.

        Args:
            to: a file that does not exist, or a folder; None is the working folder.
            name: the stem in a folder; if that is taken, `NAME-2` and so on.

        Raises:
            FileExistsError: the file exists, or another call writes it.
            errors.Unusable: the folder does not exist, or can't be written to; or it is a URL.
        """
        if "://" in os.fspath(to or ""):
            raise errors.Unusable("clips of single calls go to local files: `read` and `stream` have the bytes")
        wished = Path() if to is None else Path(to)
        reserved: list[Target] = []  # a cancellation may hide what a worker thread returns
        try:
            await on_disk(self._dependencies.offload, wished, self._reserve, to, wished, name, reserved)
            if not reserved:
                raise FileExistsError(f"{wished} exists, or another call writes it: nothing was done")
            yield reserved[0]
        finally:
            for target in reserved:
                self._reserved.discard(_place(target.folder, target.stem))
                with anyio.CancelScope(shield=True):
                    await self._dependencies.offload(_remove, target.part)

    def _reserve(self, to: str | os.PathLike[str] | None, wished: Path, name: str, reserved: list[Target]) -> None:
        is_folder = to is None or os.fspath(to).endswith(("/", os.sep)) or wished.is_dir()
        if is_folder:
            wished.mkdir(parents=True, exist_ok=True)
            folder, suffix = wished, ""
        else:
            folder, suffix = wished.parent, wished.suffix
            if not folder.is_dir():
                raise errors.Unusable(f"{folder} is no folder: make it first, or end the target with / to have it made")
        with self._lock:
            stem = self._free_stem(folder, name) if is_folder else wished.name.removesuffix(suffix)
            if not is_folder and self._is_taken(folder, stem, suffix):
                return
            self._reserved.add(place := _place(folder, stem))
        part = folder / f".{stem[:40]}.{secrets.token_hex(4)}.part"
        try:
            part.touch(exist_ok=False)
        except OSError:
            self._reserved.discard(place)
            raise
        reserved.append(Target(folder, stem, suffix, part))

    def _free_stem(self, folder: Path, name: str) -> str:
        candidates = (name if number == 1 else f"{name}-{number}" for number in range(1, MAX_NUMBER))
        return next(stem for stem in candidates if not self._is_taken(folder, stem, ""))

    def _is_taken(self, folder: Path, stem: str, suffix: str) -> bool:
        names = [f"{stem}{suffix}"] if suffix else [stem, f"{stem}.mp4"]
        return _place(folder, stem) in self._reserved or any(os.path.lexists(folder / each) for each in names)

    async def publish(self, target: Target, part: Path, number: int, content_type: str, sha256: str) -> Path:
        """Give a downloaded clip its name; if that was taken meanwhile by another program, the next free one.

        Args:
            target: the reserved name.
            part: the complete download, in the target's folder.
            number: the number of the output, from 1.
            content_type: its type.
            sha256: its hash, in hex.
        """
        store = LocalStore(target.folder, self._dependencies.files, self._dependencies.offload)
        stem = target.stem if number == 1 else f"{target.stem}-{number}"
        suffix = target.suffix if target.suffix and number == 1 else extension(content_type)
        name = f"{stem}{suffix}"
        while True:
            try:
                await store.publish(part.name, name, sha256)
            except NameExists:
                name = await store.free_name(f"{stem}{suffix}")
            else:
                return target.folder / name


def _place(folder: Path, stem: str) -> tuple[str, str]:
    return str(folder.resolve()), folded(stem)


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
