"""Images that a job holds itself, instead of a path or a URL."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, BinaryIO, Protocol, runtime_checkable
from urllib.parse import unquote_to_bytes

_DATA_URI = re.compile(r"data:[^,]*?(;base64)?,", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """An encoded image (PNG, JPEG, ...) in memory.

    Attributes:
        data: the bytes of the file.
    """

    data: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        """The hash of the bytes, in hex."""
        return sha256(self.data).hexdigest()

    def __str__(self) -> str:
        return f"image-{self.sha256[:8]}"


@runtime_checkable
class SavesImage(Protocol):
    """An image of Pillow, or what saves itself as one does."""

    def save(self, fp: BinaryIO, /, format: str) -> object:  # noqa: A002 - Pillow's name for it
        """Write the image, encoded, to a binary file."""
        ...


ImageInput = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | SavesImage | ImageBytes
"""What a job takes as its image: a path, an http(s) URL, a data URI, the bytes of an image file, a binary file that is
read to its end, or an image of Pillow, which is encoded as PNG."""


def read_image(value: Any) -> Any:
    """An image as a job keeps it: a path or URL as text, everything else as `ImageBytes`, nothing as None.

    What is no image is returned as it is, so that it can be reported.
    """
    if value is None:
        return None
    if isinstance(value, str) and (match := _DATA_URI.match(value)):
        return ImageBytes(_decoded(value[match.end() :], is_base64=bool(match[1])))
    if isinstance(value, str | os.PathLike):
        return os.fspath(value) or None
    if isinstance(value, bytes | bytearray | memoryview):
        return ImageBytes(bytes(value))
    if callable(getattr(value, "read", None)):
        data = value.read()
        return ImageBytes(data) if isinstance(data, bytes) else value
    if isinstance(value, SavesImage):
        buffer = io.BytesIO()
        value.save(buffer, format="PNG")
        return ImageBytes(buffer.getvalue())
    return value


def _decoded(text: str, *, is_base64: bool) -> bytes:
    """The content of a data URI; empty if it can't be decoded, which is then reported as an empty image."""
    if not is_base64:
        return unquote_to_bytes(text)
    try:
        return base64.b64decode(unquote_to_bytes(text), validate=True)
    except binascii.Error:
        return b""
