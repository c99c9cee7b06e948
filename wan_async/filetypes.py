"""Content types by magic bytes, and whether an MP4 file is complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

from wan_async import errors


def sniff_image(first: bytes) -> str | None:
    """The content type of an image by its first 16 bytes; None if it is none that is known here."""
    if first.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if first.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if first.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if first.startswith(b"RIFF") and first[8:12] == b"WEBP":
        return "image/webp"
    if first.startswith((b"II*\0", b"MM\0*")):
        return "image/tiff"
    if first.startswith(b"BM") and first[6:10] == bytes(4):
        return "image/bmp"
    if first[4:8] == b"ftyp":
        if first[8:12] in {b"avif", b"avis"}:
            return "image/avif"
        if first[8:12] in {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
            return "image/heic"
    return None


_TYPES: tuple[tuple[bytes, str, str], ...] = (
    (rb"\x89PNG\r\n\x1a\n", "image/png", ".png"),
    (rb"\xff\xd8\xff", "image/jpeg", ".jpg"),
    (rb"GIF8[79]a", "image/gif", ".gif"),
    (rb"RIFF....WEBP", "image/webp", ".webp"),
    (rb"RIFF....AVI ", "video/x-msvideo", ".avi"),
    (rb"RIFF....WAVE", "audio/wav", ".wav"),
    (rb"\x1a\x45\xdf\xa3.{0,60}?webm", "video/webm", ".webm"),
    (rb"\x1a\x45\xdf\xa3", "video/x-matroska", ".mkv"),
    (rb"OggS", "audio/ogg", ".ogg"),
    (rb"ID3|\xff[\xf2\xf3\xfa\xfb]", "audio/mpeg", ".mp3"),
    (rb"PK\x03\x04", "application/zip", ".zip"),
    (rb"....ftypqt  ", "video/quicktime", ".mov"),
    (rb"....ftyp(avif|avis|heic|heix|mif1|msf1)", "image/avif", ".avif"),
    (rb"....ftyp", "video/mp4", ".mp4"),
    (rb"....(moov|mdat|wide|free|skip|pnot)", "video/quicktime", ".mov"),
)
_PATTERNS = tuple((re.compile(pattern, re.DOTALL), kind) for pattern, kind, _ in _TYPES)
_EXTENSIONS = {kind: suffix for _, kind, suffix in _TYPES}


def extension(content_type: str) -> str:
    """The file name's extension for a content type, `.bin` for one that isn't known."""
    return _EXTENSIONS.get(content_type.partition(";")[0].strip().lower(), ".bin")


def identify(file: BinaryIO, size: int, announced: str) -> str:
    """Determines the content type of an output by its bytes, and checks that an MP4 or QuickTime file is complete.

    Args:
        file: the complete output.
        size: its length in bytes.
        announced: the content type that the service announced; it is returned for a type that can't be checked.

    Raises:
        errors.JobFailed: of kind `content`: it is no output, or not complete.
    """
    file.seek(0)
    head = file.read(512)
    found = next((kind for pattern, kind in _PATTERNS if pattern.match(head)), None)
    if found in ("video/mp4", "video/quicktime"):
        _walk_boxes(file, size)
    if found is not None:
        return found
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    said = announced.partition(";")[0].strip().lower()
    known = said in _EXTENSIONS or said.partition("/")[0] in ("video", "image", "text", "")
    if not head or text.startswith((b"<", b"{", b"[")) or known or said == "application/octet-stream":
        what = "an empty file" if not head else "a web page" if text.startswith(b"<") else "no clip"
        raise errors.JobFailed(f"what the server sent as {said or 'an output'} is {what}", kind="content")
    return said


def _walk_boxes(file: BinaryIO, size: int) -> None:
    """Checks that the boxes of an ISO-BMFF file (ISO 14496-12, 4.2) end where it ends, with an index and media."""
    position, seen = 0, set()
    for _ in range(100_000):
        if position == size:
            break
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        least = 8
        if length == 1:
            length, least = int.from_bytes(header[8:16], "big"), 16
        elif length == 0:
            length = size - position
        if length < least or len(header) < least or position + length > size:
            raise errors.JobFailed(
                f"the clip's boxes don't fit its {size} bytes: it is truncated or damaged", kind="content"
            )
        seen.add(kind)
        position += length
    if position != size or not seen >= {b"moov", b"mdat"}:
        raise errors.JobFailed("the clip is incomplete: its index or its media is missing", kind="content")


def image_type_of(path: Path) -> str:
    """The content type of an image file, by its first bytes. Blocking."""
    with path.open("rb") as file:
        return sniff_image(file.read(64)) or "application/octet-stream"
