"""Headers of images: what they say, and whether the end is there."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import chunk, exif, gif, heic, jpeg, png, segment, webp
from PIL import Image

from wan_async.batch.image_inspection import Damaged, Facts, inspect, needs_copy, remarks


def facts_of(data: bytes, *, head: bytes = b"", is_whole: bool = False) -> Facts:
    facts = inspect(io.BytesIO(data), len(data), head, is_whole=is_whole)
    assert facts is not None
    return facts


def saved(kind: str, mode: str = "RGB", size: tuple[int, int] = (320, 200), **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 40).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind: str) -> bytes:
    frames = [Image.effect_noise((320, 200), 40).convert("RGB") for _ in range(2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


WHOLE: dict[str, tuple[Callable[[], bytes], Facts]] = {
    "png": (lambda: saved("PNG"), Facts("image/png", 320, 200)),
    "png, 16 bits": (lambda: saved("PNG", "I;16"), Facts("image/png", 320, 200, bits=16)),
    "png, turned": (lambda: saved("PNG", exif=turned(6)), Facts("image/png", 320, 200, orientation=6)),
    "png, animated": (lambda: animated("PNG"), Facts("image/png", 320, 200, is_animated=True)),
    "jpeg": (lambda: saved("JPEG"), Facts("image/jpeg", 320, 200)),
    "jpeg, progressive": (lambda: saved("JPEG", progressive=True), Facts("image/jpeg", 320, 200)),
    "jpeg, grey": (lambda: saved("JPEG", "L"), Facts("image/jpeg", 320, 200)),
    "jpeg, CMYK": (lambda: saved("JPEG", "CMYK"), Facts("image/jpeg", 320, 200, is_cmyk=True)),
    "jpeg, turned": (lambda: saved("JPEG", exif=turned(8)), Facts("image/jpeg", 320, 200, orientation=8)),
    "jpeg, with a profile": (lambda: saved("JPEG", icc_profile=bytes(200_000)), Facts("image/jpeg", 320, 200)),
    "jpeg, with more after its end": (lambda: saved("JPEG") + bytes(9000), Facts("image/jpeg", 320, 200)),
    "png, with more after its end": (lambda: saved("PNG") + bytes(9000), Facts("image/png", 320, 200)),
    "gif": (lambda: saved("GIF"), Facts("image/gif", 320, 200)),
    "gif, animated": (lambda: animated("GIF"), Facts("image/gif", 320, 200, is_animated=True)),
    "webp, lossy": (lambda: saved("WEBP"), Facts("image/webp", 320, 200)),
    "webp, lossless": (lambda: saved("WEBP", lossless=True), Facts("image/webp", 320, 200)),
    "webp, turned": (lambda: saved("WEBP", exif=turned(3)), Facts("image/webp", 320, 200, orientation=3)),
    "webp, animated": (lambda: animated("WEBP"), Facts("image/webp", 320, 200, is_animated=True)),
    "bmp": (lambda: saved("BMP"), Facts("image/bmp", 320, 200)),
    "tiff": (lambda: saved("TIFF"), Facts("image/tiff", 320, 200)),
    "tiff, turned": (lambda: saved("TIFF", exif=turned(6)), Facts("image/tiff", 320, 200, orientation=6)),
    "tiff, CMYK": (lambda: saved("TIFF", "CMYK"), Facts("image/tiff", 320, 200, is_cmyk=True)),
    "tiff, 16 bits": (lambda: saved("TIFF", "I;16"), Facts("image/tiff", 320, 200, bits=16)),
    "heic": (lambda: heic(320, 200), Facts("image/heic", 320, 200)),
    "heic, of a size in 64 bits": (
        lambda: heic(320, 200) + struct.pack(">I4sQ", 1, b"free", 16 + 2000) + bytes(2000),
        Facts("image/heic", 320, 200),
    ),
    "png, of many chunks": (
        lambda: png(b"", 320, 200, more=chunk(b"tEXt") * 5000) + bytes(9000),
        Facts("image/png", 320, 200),
    ),
    "jpeg, with padding and marks without a length": (
        lambda: jpeg(320, 200).replace(b"\xff\xc0", b"\xff\x01\xff\xd0\xff\xff\xff\xc0"),
        Facts("image/jpeg", 320, 200),
    ),
    "bmp, of OS/2": (
        lambda: b"BM" + struct.pack("<IIIIHHHH", 2026, 0, 26, 12, 320, 200, 1, 8) + bytes(2000),
        Facts("image/bmp", 320, 200),
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_header_of_a_whole_image_says_what_it_is(name: str) -> None:
    make, expected = WHOLE[name]
    data = make()
    assert facts_of(data) == expected
    assert facts_of(data, head=data[:100_000]) == expected
    assert facts_of(data, is_whole=True) == expected


@pytest.mark.parametrize("name", [name for name in WHOLE if "after its end" not in name])
def test_an_image_that_is_cut_off_is_no_whole_one(name: str) -> None:
    data = WHOLE[name][0]()
    for length in (len(data) // 2, len(data) * 4 // 5):
        with pytest.raises(Damaged):
            facts_of(data[:length])


@pytest.mark.parametrize("end", [14, 18, 21, 24, 29])
def test_a_webp_that_ends_in_its_header_is_cut_off(end: int) -> None:
    data = webp()[:end]
    with pytest.raises(Damaged):
        facts_of(data[:4] + struct.pack("<I", end - 8) + data[8:])


def test_the_helpers_of_the_tests_are_whole_images() -> None:
    for data in (png(b"x"), jpeg(), jpeg(orientation=6), webp(), gif(), heic()):
        facts_of(data)
    assert facts_of(png(width=70_000, height=70_000)).width == 70_000


def test_the_end_of_an_image_that_was_whole_before_is_not_looked_for() -> None:
    for data in (saved("PNG"), saved("JPEG")):
        with pytest.raises(Damaged):
            facts_of(data[:-100])
        assert facts_of(data[:-100], is_whole=True) == facts_of(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\xff\xd8\xff\xe0" + bytes(100),
        b"\xff\xd8\xff\xd9" + bytes(20),
        b"\xff\xd8" + segment(0xE0, b"JFIF") + b"\xff\xd9",
        b"GIF89a" + bytes(20),
        b"GIF89a" + bytes(7) + b";",
        b"RIFF\x10\0\0\0WEBPABCD" + bytes(20),
        b"\xff\xd8" + segment(0xE0, b"") * 5000,
    ],
)
def test_a_file_that_begins_as_an_image_and_holds_none_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged, match="damaged"):
        facts_of(data)


def test_what_is_no_image_has_no_facts() -> None:
    assert inspect(io.BytesIO(b"text"), 4) is None


def test_an_exif_block_in_either_byte_order_gives_the_orientation() -> None:
    for order in "<>":
        data = png(more=chunk(b"eXIf", exif(5, order)))
        assert facts_of(data).orientation == 5
    for broken in (b"", b"XX" + bytes(20), exif(9), exif(6)[:12]):
        assert facts_of(png(more=chunk(b"eXIf", broken))).orientation == 1


def test_only_what_is_unusual_is_remarked_upon() -> None:
    assert remarks(Facts("image/png", 640, 480)) == []
    unusual = [
        Facts("image/png", 640, 63),
        Facts("image/png", 20_000, 20_000),
        Facts("image/png", 1000, 100),
        Facts("image/jpeg", 640, 480, orientation=6),
        Facts("image/png", 640, 480, bits=16),
        Facts("image/jpeg", 640, 480, is_cmyk=True),
        Facts("image/gif", 640, 480, is_animated=True),
        Facts("image/tiff", 640, 480),
        Facts("image/heic", 640, 480),
    ]
    assert all(remarks(facts) for facts in unusual)
    assert [needs_copy(facts) for facts in unusual] == [False, False, False, True, True, True, False, True, True]


@cache
def start_of(name: str) -> bytes:
    make, _ = WHOLE[name]
    return make()[:600]


@given(
    st.sampled_from(list(WHOLE)).map(start_of),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4), st.binary(max_size=6)), max_size=6),
)
def test_any_bytes_are_inspected_or_found_damaged(start: bytes, changes: list[tuple[float, int, bytes]]) -> None:
    data = start
    for place, dropped, put in changes:
        at = int(place * len(data))
        data = data[:at] + put + data[at + dropped :]
    try:
        facts = inspect(io.BytesIO(data), len(data))
    except Damaged:
        return
    if facts is not None:
        assert 1 <= facts.orientation <= 8
        remarks(facts)


def test_ten_thousand_headers_are_read_without_decoding_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> object:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image, "open", decode)
    data = jpeg(orientation=6)
    for _ in range(10_000):
        assert facts_of(data).orientation == 6
    assert struct.unpack(">H", data[2:4])
