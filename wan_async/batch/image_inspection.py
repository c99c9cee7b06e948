"""What an image is, by its header and its end: its size, its shape, and whether it is whole. Without decoding it.

The header of each format is read by hand, which takes some ten microseconds: batches have ten thousands of images. A
fault is what certainly can't be rendered (the file is cut off, or holds no image); all else that is unusual is a
remark, and the job is rendered all the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from wan_async.filetypes import sniff_image

HEAD_BYTES = 4096
"""Of most files nearly all that is asked is in their first bytes."""
SMALL_PIXELS = 64
"""An image with fewer pixels a side is probably an icon or a thumbnail."""
LARGE_PIXELS = 100_000_000
LONG_RATIO = 4.0
"""The sides of clips differ by less than half of this."""

_ADVICE = "--prepare uploads an upright, converted copy"
_CUT_OFF = "is cut off: its end is missing"
_TAIL_BYTES = 64
_BLOCK_BYTES = 64 * 1024
_EXIF_BYTES = 64 * 1024
_SEGMENTS = 4096
_SOF = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_ORIENTATION = 0x0112


class Damaged(ValueError):
    """The file certainly holds no whole image; the message says why."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a header says about an image.

    Attributes:
        kind: its content type.
        width: in pixels, as stored; 0 if it isn't known.
        height: the same.
        orientation: EXIF's: 1 is upright, 3 upside down, 6 and 8 lie on a side; the others are mirrored.
        bits: bits a channel.
        is_cmyk: whether its colours are for printing.
        is_animated: whether it has more than one frame.
    """

    kind: str
    width: int = 0
    height: int = 0
    orientation: int = 1
    bits: int = 8
    is_cmyk: bool = False
    is_animated: bool = False


def inspect(file: BinaryIO, size: int, head: bytes = b"", *, is_whole: bool = False) -> Facts | None:
    """Reads the header of an image, and looks whether its end is there.

    Args:
        file: the file; it is moved.
        size: its length in bytes.
        head: its first bytes, if they were read already.
        is_whole: whether its end was seen before, under the same size and time.

    Returns:
        What it is; None if it is no image by its first bytes.

    Raises:
        Damaged: the file is cut off, or holds nothing after its first bytes.
        OSError: it can't be read.
    """
    if not head:
        file.seek(0)
        head = file.read(HEAD_BYTES)
    kind = sniff_image(head[:64])
    if kind is None:
        return None
    reader = _READERS.get(kind)
    facts = Facts(kind)
    try:
        return reader(_Bytes(file, head, size, is_whole=is_whole), facts) if reader is not None else facts
    except (struct.error, IndexError):
        raise Damaged(_CUT_OFF) from None


def needs_copy(facts: Facts) -> bool:
    """Whether `--prepare` uploads a converted copy of an image."""
    return facts.orientation != 1 or is_often_refused(facts)


def is_often_refused(facts: Facts) -> bool:
    """Whether an image is of a kind that the service may refuse or fail to render; `--prepare` converts them all."""
    is_taken = facts.kind in TAKEN_KINDS and facts.kind != "image/heic"
    return facts.bits > 8 or facts.is_cmyk or not is_taken


def remarks(facts: Facts) -> list[str]:
    """What is unusual about an image, each as the end of a sentence that begins with `is`."""
    found = []
    shorter, longer = sorted((facts.width, facts.height))
    if 0 < shorter < SMALL_PIXELS:
        found.append(f"smaller than {SMALL_PIXELS} pixels")
    if shorter * longer > LARGE_PIXELS:
        found.append(f"larger than {LARGE_PIXELS // 1_000_000} megapixels")
    if shorter and longer / shorter > LONG_RATIO:
        found.append(f"more than {LONG_RATIO:.0f} times as long as wide")
    if facts.orientation != 1:
        found.append(f"turned by EXIF alone, which the service may ignore ({_ADVICE})")
    if facts.bits > 8:
        found.append(f"of more than 8 bits a channel ({_ADVICE})")
    if facts.is_cmyk:
        found.append(f"in CMYK, the colours of printing ({_ADVICE})")
    if facts.kind == "image/heic":
        found.append(f"HEIC, which not every renderer reads ({_ADVICE})")
    if facts.is_animated:
        found.append("animated; a clip begins with one frame")
    if facts.kind not in TAKEN_KINDS:
        found.append(f"of a format that Wiro doesn't list: jpg, png, gif, webp, heic ({_ADVICE})")
    return found


TAKEN_KINDS = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp", "image/heic"})
"""What Wiro's documentation of File Upload lists."""


class _Bytes:
    """The bytes of a file by their offsets, from the head that was read, or from the file."""

    def __init__(self, file: BinaryIO, head: bytes, size: int, *, is_whole: bool) -> None:
        self._file, self._head, self.size, self.is_whole = file, head, size, is_whole

    def at(self, offset: int, count: int) -> bytes:
        """Some bytes; fewer, or none, after the end."""
        if offset + count <= len(self._head) or len(self._head) == self.size:
            return self._head[offset : offset + count]
        self._file.seek(offset)
        return self._file.read(count)

    def unpack(self, form: str, offset: int) -> tuple[Any, ...]:
        """Values at an offset; `struct.error` after the end."""
        return struct.unpack(form, self.at(offset, struct.calcsize(form)))

    def tail(self, count: int) -> bytes:
        """The last bytes."""
        return self.at(max(0, self.size - count), count)


def _read_png(data: _Bytes, facts: Facts) -> Facts:
    if data.at(12, 4) != b"IHDR":
        raise Damaged("is damaged: it is no PNG but for its first bytes")
    width, height, bits = data.unpack(">IIB", 16)
    facts = replace(facts, width=width, height=height, bits=bits)
    at = 33
    for _ in range(_SEGMENTS):
        length, name = data.unpack(">I4s", at)
        if name in (b"IDAT", b"IEND"):
            break
        if name == b"acTL":
            facts = replace(facts, is_animated=data.unpack(">I", at + 8)[0] > 1)
        elif name == b"eXIf":
            facts = replace(facts, orientation=_orientation(data.at(at + 8, min(length, _EXIF_BYTES))))
        at += 12 + length
    if not data.is_whole and b"IEND" not in data.tail(_TAIL_BYTES) and not _reaches_end(data, at):
        raise Damaged(_CUT_OFF)
    return facts


def _reaches_end(data: _Bytes, at: int) -> bool:
    """Whether the chunks of a PNG come to its end; other programs' data may follow that."""
    while len(header := data.at(at, 8)) == 8:
        length, name = struct.unpack(">I4s", header)
        if name == b"IEND":
            return True
        at += 12 + length
    return False


def _read_jpeg(data: _Bytes, facts: Facts) -> Facts:
    at = 2
    for _ in range(_SEGMENTS):
        marker, code = data.unpack(">BB", at)
        if marker != 0xFF:
            raise Damaged("is damaged: it is no JPEG but for its first bytes")
        if code == 0xFF:  # padding
            at += 1
            continue
        if code == 0x01 or 0xD0 <= code <= 0xD8:
            at += 2
            continue
        if code in (0xD9, 0xDA):
            break
        (length,) = data.unpack(">H", at + 2)
        if code == 0xE1 and data.at(at + 4, 6) == b"Exif\0\0":
            facts = replace(facts, orientation=_orientation(data.at(at + 10, max(0, length - 8))))
        elif code in _SOF:
            bits, height, width, channels = data.unpack(">BHHB", at + 4)
            facts = replace(facts, width=width, height=height, bits=bits, is_cmyk=channels == 4)
        at += 2 + length
    if not facts.width:
        raise Damaged("is damaged: it holds no picture")
    if not data.is_whole and not _has_jpeg_end(data, at):
        raise Damaged(_CUT_OFF)
    return facts


def _has_jpeg_end(data: _Bytes, at: int) -> bool:
    """Whether the end marker is there after the picture's data; cameras may append more after it."""
    end = max(at, data.size - 4096)
    if b"\xff\xd9" in data.at(end, data.size - end):
        return True
    while len(block := data.at(at, _BLOCK_BYTES)) > 1:
        if b"\xff\xd9" in block:
            return True
        at += len(block) - 1
    return False


def _read_gif(data: _Bytes, facts: Facts) -> Facts:
    width, height, flags = data.unpack("<HHB", 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frames = 0
    while frames < 2:
        (code,) = data.unpack("B", at)
        if code == 0x3B:
            break
        if code == 0x2C:
            frames += 1
            (local,) = data.unpack("B", at + 9)
            at += 11 + (3 << (local & 7) + 1 if local & 0x80 else 0)
        elif code == 0x21:
            at += 2
        else:
            raise Damaged("is damaged: it is no GIF but for its first bytes")
        while length := data.unpack("B", at)[0]:
            at += 1 + length
        at += 1
    if not frames:
        raise Damaged("is damaged: it holds no picture")
    return replace(facts, width=width, height=height, is_animated=frames > 1)


def _read_webp(data: _Bytes, facts: Facts) -> Facts:
    (length,) = data.unpack("<I", 4)
    if length + 8 > data.size:
        raise Damaged(_CUT_OFF)
    name = data.at(12, 4)
    if name == b"VP8 ":
        width, height = data.unpack("<HH", 26)
        return replace(facts, width=width & 0x3FFF, height=height & 0x3FFF)
    if name == b"VP8L":
        (packed,) = data.unpack("<I", 21)
        return replace(facts, width=(packed & 0x3FFF) + 1, height=(packed >> 14 & 0x3FFF) + 1)
    if name != b"VP8X":
        raise Damaged("is damaged: it is no WebP but for its first bytes")
    (flags,) = data.unpack("B", 20)
    size = data.at(24, 6)
    if len(size) < 6:
        raise Damaged(_CUT_OFF)
    width, height = (int.from_bytes(part, "little") + 1 for part in (size[:3], size[3:]))
    orientation = 1
    at = 12
    while flags & 0x08 and at + 8 <= data.size:
        name, count = data.at(at, 4), data.unpack("<I", at + 4)[0]
        if name == b"EXIF":
            orientation = _orientation(data.at(at + 8, min(count, _EXIF_BYTES)).removeprefix(b"Exif\0\0"))
            break
        at += 8 + count + (count & 1)
    return replace(facts, width=width, height=height, orientation=orientation, is_animated=bool(flags & 0x02))


def _read_bmp(data: _Bytes, facts: Facts) -> Facts:
    (length,) = data.unpack("<I", 2)
    if length > data.size:
        raise Damaged(_CUT_OFF)
    header, width, height = data.unpack("<Iii", 14)
    if header == 12:
        width, height = data.unpack("<HH", 18)
    return replace(facts, width=abs(width), height=abs(height))


def _read_tiff(data: _Bytes, facts: Facts) -> Facts:
    order = "<" if data.at(0, 2) == b"II" else ">"
    (start,) = data.unpack(f"{order}I", 4)
    values = _tags(data.unpack, order, start)
    bits = values.get(258, 8)
    if any(start + count > data.size for start, count in _strips(data.unpack, order, start)):
        raise Damaged(_CUT_OFF)
    return replace(
        facts,
        width=values.get(256, 0),
        height=values.get(257, 0),
        orientation=values.get(_ORIENTATION, 1) if 1 <= values.get(_ORIENTATION, 1) <= 8 else 1,
        bits=bits if bits in (1, 2, 4, 8, 16, 32) else 8,
        is_cmyk=values.get(262) == 5,
    )


def _strips(unpack: Callable[[str, int], tuple[Any, ...]], order: str, start: int) -> Iterator[tuple[int, int]]:
    """Where the last strip or tile of a TIFF's first picture begins, and its length."""
    last = {}
    (count,) = unpack(f"{order}H", start)
    for number in range(min(count, 512)):
        at = start + 2 + 12 * number
        tag, kind, many = unpack(f"{order}HHI", at)
        form, width = {3: ("H", 2), 4: ("I", 4)}.get(kind, ("", 0))
        if tag in (273, 279, 324, 325) and many and form:
            inside = many * width <= 4
            place = at + 8 if inside else unpack(f"{order}I", at + 8)[0]
            last[tag] = unpack(f"{order}{form}", place + width * (many - 1))[0]
    for offsets, lengths in ((273, 279), (324, 325)):
        if offsets in last and lengths in last:
            yield last[offsets], last[lengths]


def _read_boxes(data: _Bytes, facts: Facts) -> Facts:
    """HEIC and AVIF: boxes, as in MP4. The largest size among their properties is that of the picture."""
    at = 0
    while at + 8 <= data.size:
        length = data.unpack(">I", at)[0]
        if length == 1:
            length = data.unpack(">Q", at + 8)[0]
        if length == 0:
            break
        if length < 8 or at + length > data.size:
            raise Damaged(_CUT_OFF)
        at += length
    head = data.at(0, _BLOCK_BYTES)
    place, sizes = head.find(b"ispe"), [(0, 0)]
    while place >= 0 and place + 16 <= len(head):
        width, height = struct.unpack(">II", head[place + 8 : place + 16])
        sizes.append((width, height))
        place = head.find(b"ispe", place + 4)
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return replace(facts, width=width, height=height)


def _orientation(exif: bytes) -> int:
    """The orientation of an EXIF block, 1 if it holds none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1

    def unpack(form: str, offset: int) -> tuple[int, ...]:
        return struct.unpack_from(form, exif, offset)

    try:
        value = _tags(unpack, order, unpack(f"{order}I", 4)[0]).get(_ORIENTATION, 1)
    except struct.error:
        return 1
    return value if 1 <= value <= 8 else 1


def _tags(unpack: Callable[[str, int], tuple[Any, ...]], order: str, start: int) -> dict[int, int]:
    """The integers of a TIFF directory by their tags; of a list the first that is in the directory itself."""
    (count,) = unpack(f"{order}H", start)
    found = {}
    for number in range(min(count, 512)):
        at = start + 2 + 12 * number
        tag, kind, many = unpack(f"{order}HHI", at)
        if kind == 3 and many <= 2:
            found[tag] = unpack(f"{order}H", at + 8)[0]
        elif kind == 3:
            found[tag] = unpack(f"{order}H", unpack(f"{order}I", at + 8)[0])[0] if tag == 258 else 0
        elif kind == 4:
            found[tag] = unpack(f"{order}I", at + 8)[0]
    return found


_READERS: dict[str, Callable[[_Bytes, Facts], Facts]] = {
    "image/png": _read_png,
    "image/jpeg": _read_jpeg,
    "image/gif": _read_gif,
    "image/webp": _read_webp,
    "image/bmp": _read_bmp,
    "image/tiff": _read_tiff,
    "image/heic": _read_boxes,
    "image/avif": _read_boxes,
}
