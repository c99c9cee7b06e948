"""Clips and uploaded images, in memory or in the database's folder; and MP4-shaped placeholder clips."""

from __future__ import annotations

import hashlib
import re
import struct

from wan_async.sandbox.database import Database
from wan_async.sandbox.http import File
from wan_async.sandbox.settings import ClipOrder


class FileStore:
    """Files by name."""

    def __init__(self, database: Database | None) -> None:
        self._database = database
        self._files: dict[str, File] = {}

    def put(self, name: str, file: File) -> None:
        """Store a file."""
        if self._database is not None:
            self._database.put_file(name, *file)
        else:
            self._files[name] = file

    def get(self, name: str) -> File | None:
        """Return a file, or None if there is no such file."""
        return self._files.get(name) if self._database is None else self._database.get_file(name)

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        self._files.pop(name, None)
        if self._database is not None:
            self._database.delete_file(name)

    def upload_at(self, url: str) -> File | None:
        """Return the upload that is served at a path or URL, whatever its host and port."""
        found = re.match(r"(?:https?://[^/?#]*)?/v1/File/(\w+)/", url)
        return self.get(upload_name(found[1])) if found else None


def clip_name(task_key: str) -> str:
    """Name of a task's clip in the file store."""
    return f"clip-{task_key}"


def upload_name(upload_id: str) -> str:
    """Name of an upload in the file store."""
    return f"upload-{upload_id}"


def placeholder_clip(order: ClipOrder) -> bytes:
    """Bytes with the box structure of an MP4, different for every task."""
    content = hashlib.sha256(repr(order).encode()).digest() * 2
    return (
        _box(b"ftyp", b"isom\0\0\2\0isomiso2mp41") + _box(b"moov", _box(b"mvhd", bytes(100))) + _box(b"mdat", content)
    )


def pad_clip(data: bytes, size: int) -> bytes:
    """Pad a clip to `size` bytes with a `free` box, which players skip, if there is room for one."""
    missing = size - len(data)
    if missing < 8:
        return data
    return data + _box(b"free", (hashlib.sha256(data).digest() * (missing // 32 + 1))[: missing - 8])


def _box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data
