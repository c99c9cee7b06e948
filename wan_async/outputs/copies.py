"""Copies of clips in another folder: complete and durable before they have their names. Overwrites nothing."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from wan_async import errors
from wan_async.filesystem import Files
from wan_async.outputs.base import NameExists, numbered, sidecar_name
from wan_async.outputs.disk_errors import on_disk
from wan_async.outputs.local import COPY_BYTES, LocalStore
from wan_async.threads import Offload, inline

Describe = Callable[[str], Iterable[str]]
"""Makes the text of a clip's sidecar from the clip's name."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy.

    Attributes:
        name: its name; a number is in it if the clip's own was another file's.
        is_new: whether it was made now, rather than found there.
    """

    name: str
    is_new: bool


class Copies:
    """Copies clips into a folder.

    Args:
        folder: where to; it exists.
        files: the file operations.
        offload: where they run.
    """

    def __init__(self, folder: Path, files: Files | None = None, offload: Offload = inline) -> None:
        self._folder = folder
        self._files = files or Files()
        self._offload = offload
        self._store = LocalStore(folder, self._files, offload)

    async def copy(self, source: Path, sha256: str, describe: Describe | None) -> Copied:
        """Copy a clip and give it a sidecar. A copy that is there already stays as it is.

        Args:
            source: the clip.
            sha256: its hash.
            describe: makes its sidecar; None makes none.

        Raises:
            errors.JobFailed: the file has changed since it was stored; or a name in the folder is a symbolic link.
            errors.TryLater: there are too many open files right now.
            errors.Unusable: the disk refused.
        """
        names = (numbered(source.name, number) if number else source.name for number in count())
        while True:
            name = next(names)
            sidecar = sidecar_name(name)
            has_clip = await self._store.exists(name)
            if has_clip and await self._store.sha256(name, follow_links=False) != sha256:
                continue
            has_sidecar = describe is not None and await self._store.exists(sidecar)
            if has_sidecar and self._sha256_in(sidecar) != sha256:
                continue
            try:
                if not has_clip:
                    await self._publish(name, sha256, partial(_blocks, source))
                if describe is not None and not has_sidecar:
                    text = "".join(describe(name)).encode("utf-8", "replace")
                    await self._publish(sidecar, hashlib.sha256(text).hexdigest(), partial(iter, [text]))
            except NameExists:  # another program was faster
                continue
            return Copied(name, not has_clip)

    async def _publish(self, name: str, sha256: str, blocks: Callable[[], Iterable[bytes]]) -> None:
        part = f"{name}.{secrets.token_hex(4)}.part"
        path = self._folder / part
        try:
            if await on_disk(self._offload, path, self._write, path, blocks) != sha256:
                raise errors.JobFailed(f"{name} has changed since it was stored: it is not copied", kind="content")
            await self._store.publish(part, name, sha256)
        finally:
            await self._store.remove(part)

    def _write(self, path: Path, blocks: Callable[[], Iterable[bytes]]) -> str:
        """Writes a file durably; returns its hash."""
        hashed = hashlib.sha256()
        with self._files.open(path) as file:
            for block in blocks():
                hashed.update(block)
                self._files.write(file, block)
            self._files.fsync(file)
        return hashed.hexdigest()

    def _sha256_in(self, sidecar: str) -> object:
        """The hash that a sidecar names; None if it is none."""
        try:
            content = json.loads((self._folder / sidecar).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return content.get("sha256") if isinstance(content, dict) else None


def _blocks(source: Path) -> Iterable[bytes]:
    with source.open("rb") as file:
        while block := file.read(COPY_BYTES):
            yield block
