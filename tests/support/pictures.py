"""Pictures for tests: whole by their headers and ends, and small."""

from __future__ import annotations

import struct
import zlib

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(content: bytes = b"", width: int = 640, height: int = 480, *, bits: int = 8, more: bytes = b"") -> bytes:
    """A grey PNG; `content` makes it differ from others.

    Args:
        content: a comment in it.
        width: in pixels.
        height: in pixels.
        bits: bits a channel.
        more: chunks before the picture's data.
    """
    rows = zlib.compress(bytes((width * bits // 8 + 1) * height), 1) if width * height < 1_000_000 else b""
    return b"".join(
        [
            PNG_SIGNATURE,
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)),
            more,
            chunk(b"tEXt", b"Comment\0" + content),
            chunk(b"IDAT", rows),
            chunk(b"IEND"),
        ]
    )


def chunk(name: bytes, data: bytes = b"") -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def exif(orientation: int, order: str = "<") -> bytes:
    """An EXIF block that holds nothing but an orientation."""
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(f"{order}HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def jpeg(width: int = 640, height: int = 480, *, orientation: int | None = None, channels: int = 3) -> bytes:
    """A JPEG whose picture can't be decoded, but whose header and end are right."""
    turned = b"" if orientation is None else segment(0xE1, b"Exif\0\0" + exif(orientation))
    components = bytes([1, 17, 0]) * channels
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
            turned,
            segment(0xC0, struct.pack(">BHHB", 8, height, width, channels) + components),
            segment(0xDA, b"\1\1\0\0\x3f\0"),
            b"data",
            b"\xff\xd9",
        ]
    )


def segment(code: int, data: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, code]) + struct.pack(">H", len(data) + 2) + data


def webp(width: int = 640, height: int = 480, *, flags: int = 0, more: bytes = b"") -> bytes:
    """A WebP of the extended format, without a picture."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0]) + size + more
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif(frames: int = 1, width: int = 640, height: int = 480) -> bytes:
    """A GIF with empty frames."""
    frame = b"!\xf9\4\0\0\0\0\0" + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\1D\0"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + frame * frames + b";"


def heic(width: int = 640, height: int = 480) -> bytes:
    """The boxes of a HEIC file, with a picture that can't be decoded."""
    kind = struct.pack(">I4s4sI4s", 20, b"ftyp", b"heic", 0, b"mif1")
    size = struct.pack(">I4sIII", 20, b"ispe", 0, width, height)
    return kind + struct.pack(">I4s", 8 + len(size), b"meta") + size + struct.pack(">I4s", 108, b"mdat") + bytes(100)
