"""Clips and images: kept in memory, or in the folder of a store."""

from __future__ import annotations

import hashlib
import struct

from wan_async.sandbox.database import Store
from wan_async.sandbox.http import File
from wan_async.sandbox.settings import ClipOrder


class Shelf:
    """Files by name."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._files: dict[str, File] = {}

    def put(self, name: str, file: File) -> None:
        """Keeps a file."""
        if self._store is not None:
            self._store.put_file(name, *file)
        else:
            self._files[name] = file

    def get(self, name: str) -> File | None:
        """A kept file."""
        return self._files.get(name) if self._store is None else self._store.get_file(name)

    def drop(self, name: str) -> None:
        """Forgets a file, if there is one."""
        self._files.pop(name, None)
        if self._store is not None:
            self._store.drop_file(name)


def tiny(order: ClipOrder) -> bytes:
    """Something that has the shape of an MP4, and differs from task to task."""
    content = hashlib.sha256(repr(order).encode()).digest() * 2
    return (
        _box(b"ftyp", b"isom\0\0\2\0isomiso2mp41") + _box(b"moov", _box(b"mvhd", bytes(100))) + _box(b"mdat", content)
    )


def _box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data


def padded(data: bytes, size: int) -> bytes:
    """A clip made this long with a box that players skip, if it is shorter by the length of one."""
    missing = size - len(data)
    if missing < 8:
        return data
    return data + _box(b"free", (hashlib.sha256(data).digest() * (missing // 32 + 1))[: missing - 8])
