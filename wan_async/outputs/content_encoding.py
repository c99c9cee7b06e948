"""Decompresses response bodies; a body may have a Content-Encoding header without being compressed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import httpx

BATCH_BYTES = 2**20
"""Data is hashed and written in batches of this size."""

COMPRESSED = ("gzip", "x-gzip", "deflate")


class Decompressor:
    """Decompresses a body if its first bytes are those of a compressed one, whatever its header says."""

    def __init__(self, encodings: str) -> None:
        self._head = b"" if claims_compression(encodings) else None
        self._decoder: Any = None

    @property
    def is_active(self) -> bool:
        """Whether the body turned out to be compressed."""
        return self._decoder is not None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yields the decompressed data of a piece of the body, in pieces of limited length."""
        if self._head is not None:
            self._head += bytes(chunk)
            if len(self._head) < 2:
                return
            chunk, self._head = self._head, None
            self._decoder = _decoder(chunk)
        if self._decoder is None:
            yield chunk
            return
        while chunk:
            if self._decoder.eof:  # a gzip file may have several members, and zeros behind them
                if chunk[:1] != b"\x1f":
                    return
                self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
            yield self._decoder.decompress(chunk, BATCH_BYTES)
            chunk = self._decoder.unconsumed_tail or self._decoder.unused_data

    def end(self) -> bytes:
        """Returns the remaining data at the end of the body.

        Raises:
            zlib.error: the compressed data ends too early.
        """
        if self._decoder is None:
            return self._head or b""
        rest: bytes = self._decoder.flush()
        if not self._decoder.eof:
            raise zlib.error("it ends too early")
        return rest


def _decoder(head: bytes) -> Any:
    """The decompressor for a body with these first bytes; None if it isn't compressed. No kind of clip has either."""
    if head[:2] == b"\x1f\x8b":
        return zlib.decompressobj(zlib.MAX_WBITS | 16)
    if head[0] & 15 == 8 and int.from_bytes(head[:2], "big") % 31 == 0:  # RFC 1950, 2.2
        return zlib.decompressobj()
    return None


def encodings_of(response: httpx.Response) -> str:
    """The content encodings of a response, in lower case."""
    said: str = response.headers.get("content-encoding", "")
    return said


def claims_compression(encodings: str) -> bool:
    """Whether one of the encodings names a compression."""
    return any(each.strip().lower() in COMPRESSED for each in encodings.split(","))
