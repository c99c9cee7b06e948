"""Request and response bodies: images that are hashed while they are sent, answers of limited size."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

from wan_async import errors

ANSWER_LIMIT_BYTES = 16 * 1024 * 1024
"""No answer of the API may be longer, decoded."""


@dataclass(frozen=True, slots=True)
class InlineImage:
    """An image that travels in Run itself: its bytes, already compared with their hash."""

    data: bytes = field(repr=False)
    content_type: str


class UnusableAnswer(httpx.DecodingError):
    """An answer that is not taken in. Its text is our own and quotes no secret."""


class Body(bytes):
    """The body of an answer. Its repr hides it, so that tracebacks with local variables show no token."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


async def read_limited(response: httpx.Response) -> Body:
    """The body, unpacked in bounded steps: httpx would unpack what arrives whole, and gzip within gzip as well."""
    packing = response.headers.get("content-encoding", "").strip().lower() or "identity"
    if packing not in ("identity", "gzip", "x-gzip"):
        raise UnusableAnswer(f"an answer packed as {packing[:40]!r}")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16) if packing != "identity" else None
    assert isinstance(response.stream, httpx.AsyncByteStream)
    chunks, body = aiter(response.stream), bytearray()
    try:
        async for chunk in chunks:
            body += unpacker.decompress(chunk, ANSWER_LIMIT_BYTES + 1 - len(body)) if unpacker else chunk
            if len(body) > ANSWER_LIMIT_BYTES:
                raise UnusableAnswer(f"an answer of more than {ANSWER_LIMIT_BYTES} bytes")
    except zlib.error:
        raise UnusableAnswer("an answer whose gzip is broken") from None
    finally:
        if isinstance(chunks, AsyncGenerator):  # left before its end, trio wants it closed
            await chunks.aclose()
    return Body(body)


class HashingReader:
    """Hashes the bytes that are read from a file, so that it is known what was sent."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The hash of what was read, in hex."""
        return self._hash.hexdigest()

    def read(self, size: int = -1) -> bytes:
        """The next bytes, hashed."""
        try:
            data = self._file.read(size)
        except OSError as error:
            raise unreadable_image(self._path, error) from None
        self._hash.update(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves in the file, as httpx does to its end for its length; the hash begins anew."""
        self._hash = hashlib.sha256()
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The offset in the file."""
        return self._file.tell()

    def fileno(self) -> int:
        """The descriptor below."""
        return self._file.fileno()


def unreadable_image(path: Path, error: OSError) -> errors.JobFailed:
    """The error for an image that can't be read."""
    return errors.JobFailed(f"{path} can't be read: {error.strerror or error}", kind="image")
