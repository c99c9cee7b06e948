"""Outputs in an object store: S3, Google Cloud Storage, Azure, or a local folder by `file://`.

A clip is downloaded to a part in a local folder and checked there; the part is removed once the store has the clip.
A process that died in between finds the part, and the same call goes on from it.

A name that exists is never overwritten. Stores refuse that themselves in the same request; where one has no such
request (compatible ones, copies in S3, clips above 64 MiB), the name is looked up right before. The hash of a clip is
kept as its object's metadata, and compared after it was stored; an object without one (`file://`, or one that another
program wrote) is read. `file://` does not wait until the disk has the bytes: it is meant for trials.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import SpooledTemporaryFile
from typing import TypeVar, TypeVarTuple, Unpack

from wan_async import errors
from wan_async.filesystem import Files, refuse_link
from wan_async.output_locations import OWNER, Owner
from wan_async.outputs.base import NameExists, Store, numbered, sidecar_name
from wan_async.outputs.disk_errors import on_disk
from wan_async.outputs.obstore_client import SHA256, Exists, ObstoreClient
from wan_async.outputs.output_owner import RESULTS, USED, refuse_other
from wan_async.threads import Offload, in_threads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREADS = 16
_PART = ".part"
_SPOOLED_BYTES = 8 << 20
_TYPES = {".mp4": "video/mp4", ".json": "application/json", ".jsonl": "application/x-ndjson", ".html": "text/html"}
_MARKS = {RESULTS: b'{"job": "', "gallery.html": b'content="wan_async"'}
"""What is in the files that a run or `gallery` replaces, if they are ours."""


class ObjectStore(Store):
    """A `Store` in an object store, with its parts in a local folder.

    Args:
        calls: the object store.
        parts: the folder of the parts; it is made when it is needed.
        files: the operations on parts.
        offload: where calls run, by default in up to `THREADS` threads.
    """

    def __init__(
        self, calls: ObstoreClient, parts: Path, files: Files | None = None, offload: Offload | None = None
    ) -> None:
        self._calls = calls
        self._parts = parts
        self._files = files or Files()
        self._offload = offload or in_threads(THREADS)

    def part_path(self, part: str) -> Path:
        """See `Store`; it is in the local folder."""
        path = self._parts / part
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    async def claim(
        self, identity: Callable[[], Awaitable[str | None]], *, make: bool, database: str | None = None
    ) -> bool:
        """See `Store`: an object names the journal."""
        return await self._run(self._claim, Owner(await identity(), database), make)

    async def make_folder(self, folder: str) -> None:
        """See `Store`: there are no folders but that of the parts."""
        await self._run(_make_folder, self._parts / folder)

    async def exists(self, name: str) -> bool:
        return await self._run(self._calls.facts, name) is not None

    async def names(self) -> set[str]:
        return await self._run(self._calls.names)

    async def sizes(self) -> Callable[[str], int | None]:
        """See `Store`: of one list of all objects."""
        return (await self._run(self._calls.sizes)).get

    async def read(self, name: str) -> bytes | None:
        return await self._run(self._calls.read, name)

    async def sha256(self, name: str, *, follow_links: bool = True) -> str | None:
        """See `Store`; an object's hash is in its metadata, else it is read."""
        return await self._run(self._sha256, name)

    async def publish(self, source: str, name: str, sha256: str) -> None:
        """See `Store`: the object is made and compared, then the part is removed."""
        await self._run(self._publish, source, name, sha256)

    async def free_name(self, name: str) -> str:
        return await self._run(self._free_name, name)

    async def link(self, name: str, new: str) -> None:
        """See `Store`: a copy, which the store makes itself."""
        await self._run(self._copy, name, new)

    async def copy(self, name: str, new: str) -> None:
        """See `Store`: copies, which the store makes itself."""
        await self._run(self._copy_with_sidecar, name, new)

    async def find_copy(self, name: str) -> str | None:
        """See `Store`: the first numbered name with the same bytes."""
        return await self._run(self._find_copy, name)

    async def replace(self, name: str, texts: Iterable[str]) -> None:
        """See `Store`: one request."""
        await self._run(self._replace, name, texts)

    async def remove(self, name: str, *further: str) -> None:
        await self._run(self._remove, (name, *further))

    async def _run(self, func: Callable[[Unpack[Ts]], T], /, *args: *Ts) -> T:
        return await on_disk(self._offload, self._parts, func, *args)

    def _claim(self, owner: Owner, make: bool) -> bool:
        found = self._calls.read(OWNER)
        was_used = found is None and any(self._calls.facts(name) is not None for name in (USED, RESULTS))
        if found is None and make and owner.journal is not None:
            for name, mark in _MARKS.items():
                if mark not in (self._calls.read(name) or mark):
                    raise errors.Unusable(f"{self._calls.url}/{name} is not ours: choose another folder with -o")
            text = owner.dumps()
            for name in (USED, OWNER):
                with suppress(Exists):  # made by another process, or by a request that was sent twice
                    self._calls.create(name, text, _attributes(name, hashlib.sha256(text).hexdigest()))
            found = self._calls.read(OWNER)
        if found is not None:
            refuse_other(found, owner, self._calls.url)
        return was_used

    def _sha256(self, name: str) -> str | None:
        if _is_part(name):
            return self._hash_of_part(name)
        facts = self._calls.facts(name)
        return None if facts is None else facts.sha256 or self._calls.sha256(name)

    def _hash_of_part(self, part: str) -> str | None:
        try:
            with (self._parts / part).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None

    def _publish(self, source: str, name: str, sha256: str) -> None:
        if _is_part(source):
            self._publish_part(source, name, sha256)
            return
        try:
            self._copy(source, name)
        except FileNotFoundError:
            self._check_published(source, name, sha256)
        self._calls.delete(source)

    def _publish_part(self, part: str, name: str, sha256: str) -> None:
        path = self._parts / part
        refuse_link(path)
        if self._hash_of_part(part) == sha256:
            try:
                self._calls.create(name, path, _attributes(name, sha256))
            except Exists:
                if self._sha256(name) != sha256:
                    raise NameExists(name) from None
            self._verify(name, path.stat().st_size, sha256)
        else:
            self._check_published(part, name, sha256)
        self._files.unlink(path)

    def _verify(self, name: str, size: int, sha256: str) -> None:
        """Checks that the store has what was sent."""
        facts = self._calls.facts(name)
        if facts is None or facts.bytes != size or (facts.sha256 or self._calls.sha256(name)) != sha256:
            raise errors.TryLater(f"{self._calls.url}/{name} is not what was sent to the store")

    def _check_published(self, source: str, name: str, sha256: str) -> None:
        """There is nothing to publish any more: an interrupted call must have done it."""
        if self._sha256(name) != sha256:
            raise errors.TryLater(f"{source} is gone: it must be downloaded again")

    def _copy(self, name: str, new: str) -> None:
        try:
            self._calls.copy(name, new)
        except Exists:
            found = self._sha256(new)
            if found is None or found != self._sha256(name):
                raise NameExists(new) from None

    def _copy_with_sidecar(self, name: str, new: str) -> None:
        self._copy(name, new)
        old_sidecar = sidecar_name(name)
        if (content := self._calls.read(old_sidecar)) is not None:
            self._replace(sidecar_name(new), [content.decode("utf-8", "replace")])
            self._calls.delete(old_sidecar)

    def _free_name(self, name: str) -> str:
        number = 1
        while self._calls.facts(numbered(name, number)) is not None:
            number += 1
        return numbered(name, number)

    def _find_copy(self, name: str) -> str | None:
        original, number = self._sha256(name), 1
        while original is not None and (found := self._sha256(numbered(name, number))) is not None:
            if found == original:
                return numbered(name, number)
            number += 1
        return None

    def _replace(self, name: str, texts: Iterable[str]) -> None:
        digest = hashlib.sha256()
        with SpooledTemporaryFile(_SPOOLED_BYTES) as file:
            for text in texts:
                data = text.encode("utf-8", "replace")
                digest.update(data)
                file.write(data)
            file.seek(0)
            self._calls.replace(name, file, _attributes(name, digest.hexdigest()))

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            if not _is_part(name):
                self._calls.delete(name)
                continue
            part = self._parts / name
            self._files.unlink(part)
            if part.parent != self._parts:
                with suppress(OSError):  # other parts are in it, or it does not exist
                    part.parent.rmdir()


def _attributes(name: str, sha256: str) -> dict[str, str]:
    """What is stored with an object: its hash, and its type where its name tells it."""
    kind = _TYPES.get(PurePosixPath(name).suffix)
    return {SHA256: sha256, **({"Content-Type": kind} if kind else {})}


def _is_part(name: str) -> bool:
    return PurePosixPath(name).suffix == _PART


def _make_folder(path: Path) -> None:
    refuse_link(path)
    path.mkdir(parents=True, exist_ok=True)
