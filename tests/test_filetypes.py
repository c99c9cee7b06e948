from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wan_async import errors
from wan_async.filetypes import extension, identify


def box(kind: bytes, content: bytes = b"", *, size: int | None = None) -> bytes:
    """A box of ISO-BMFF, whose size field holds its true size in bytes or the given one."""
    return (8 + len(content) if size is None else size).to_bytes(4, "big") + kind + content


def wide_box(kind: bytes, content: bytes = b"", *, size: int | None = None) -> bytes:
    """A box with a size field of 64 bits."""
    return box(kind, (16 + len(content) if size is None else size).to_bytes(8, "big") + content, size=1)


FTYP = box(b"ftyp", b"isom\0\0\2\0")
MOOV = box(b"moov", b"index")
MDAT = box(b"mdat", b"media")
CLIP = FTYP + MOOV + MDAT


class Counted(io.BytesIO):
    """A file that counts how much was read of it."""

    read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.read_bytes += len(data)
        return data


def of(content: bytes, announced: str = "application/octet-stream") -> str:
    return identify(io.BytesIO(content), len(content), announced)


def refused(content: bytes, announced: str = "video/mp4") -> str:
    with pytest.raises(errors.JobFailed) as caught:
        of(content, announced)
    assert caught.value.kind == "content"
    return caught.value.message


@pytest.mark.parametrize(
    ("content", "content_type", "suffix"),
    [
        (CLIP, "video/mp4", ".mp4"),
        (FTYP + MDAT + MOOV, "video/mp4", ".mp4"),
        (box(b"ftyp", b"qt  ") + MOOV + MDAT, "video/quicktime", ".mov"),
        (box(b"wide") + MDAT + MOOV, "video/quicktime", ".mov"),
        (MOOV + MDAT, "video/quicktime", ".mov"),
        (box(b"ftyp", b"avif") + box(b"meta"), "image/avif", ".avif"),
        (box(b"ftyp", b"heic") + box(b"meta"), "image/avif", ".avif"),
        (b"\x89PNG\r\n\x1a\n...", "image/png", ".png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg", ".jpg"),
        (b"GIF87a", "image/gif", ".gif"),
        (b"GIF89a", "image/gif", ".gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp", ".webp"),
        (b"RIFF\n\n\n\nWEBPVP8 ", "image/webp", ".webp"),
        (b"RIFF\0\0\0\0AVI LIST", "video/x-msvideo", ".avi"),
        (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav", ".wav"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm", "video/webm", ".webm"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x88matroska", "video/x-matroska", ".mkv"),
        (b"OggS\0", "audio/ogg", ".ogg"),
        (b"ID3\4", "audio/mpeg", ".mp3"),
        (b"\xff\xfb\x90", "audio/mpeg", ".mp3"),
        (b"PK\x03\x04", "application/zip", ".zip"),
    ],
)
@pytest.mark.parametrize("announced", ["application/octet-stream", "video/mp4", "text/html", ""])
def test_the_bytes_decide_the_type_regardless_of_the_announced_one(
    content: bytes, content_type: str, suffix: str, announced: str
) -> None:
    assert of(content, announced) == content_type
    assert extension(content_type) == suffix


@pytest.mark.parametrize(
    ("content_type", "suffix"),
    [
        ("video/mp4", ".mp4"),
        (" Video/MP4 ; codecs=avc1", ".mp4"),
        ("application/x-mpegurl", ".bin"),
        ("", ".bin"),
        ("../../etc", ".bin"),
    ],
)
def test_an_extension_is_one_of_a_fixed_list(content_type: str, suffix: str) -> None:
    assert extension(content_type) == suffix


@pytest.mark.parametrize("announced", ["application/x-mpegurl; a=b", "APPLICATION/X-MPEGURL"])
def test_a_type_that_cannot_be_checked_is_returned_as_announced(announced: str) -> None:
    assert of(b"#EXTM3U", announced) == "application/x-mpegurl"


@pytest.mark.parametrize("announced", ["video/mp4", "video/unheard-of", "image/png", "text/plain", "", "audio/wav"])
def test_a_type_with_known_magic_bytes_is_refused_without_them(announced: str) -> None:
    assert refused(b"just text", announced).endswith("is no clip")


@pytest.mark.parametrize(
    ("content", "announced", "description"),
    [
        (b"", "video/mp4", "empty"),
        (b"", "application/x-unknown", "empty"),
        (b"\n<!doctype html><title>Sorry", "video/mp4", "web page"),
        (b"\xef\xbb\xbf <html>", "application/x-unknown", "web page"),
        (b'{"error": "gone"}', "application/x-unknown", "no clip"),
        (b"[1]", "application/x-unknown", "no clip"),
        (b"just text", "", "no clip"),
        (b"just text", "application/octet-stream", "no clip"),
    ],
)
def test_bytes_that_are_no_output_are_refused_with_a_description(
    content: bytes, announced: str, description: str
) -> None:
    message = refused(content, announced)
    assert description in message
    assert announced in message


@pytest.mark.parametrize(
    "content",
    [
        FTYP + wide_box(b"mdat", b"media") + MOOV,
        wide_box(b"ftyp", b"isom") + wide_box(b"moov") + wide_box(b"mdat"),
        FTYP + MOOV + box(b"mdat", b"goes on to the end", size=0),
        FTYP + MOOV + box(b"mdat", size=0),
        FTYP + MDAT + MDAT + box(b"free") + MOOV + box(b"uuid", b"x" * 16),
        FTYP + box(b"moov", box(b"trak", box(b"mdia") * 50) * 50) + MDAT,
        FTYP + box(b"free") * 99_997 + MOOV + MDAT,
    ],
)
def test_a_complete_clip_may_use_any_size_field_of_the_format(content: bytes) -> None:
    assert of(content) == "video/mp4"


def test_zeros_after_the_last_box_are_accepted() -> None:
    assert of(CLIP + bytes(100)) == "video/mp4"


@pytest.mark.parametrize("length", range(9, len(CLIP)))
def test_a_clip_that_is_truncated_anywhere_is_refused(length: int) -> None:
    refused(CLIP[:length])


@pytest.mark.parametrize(
    "content",
    [
        CLIP + b"more",
        CLIP + b"\0" * 7,
        FTYP + MOOV + box(b"mdat", b"media", size=4),
        FTYP + MOOV + box(b"mdat", b"media", size=7),
        FTYP + MOOV + box(b"mdat", b"media", size=14),
        FTYP + MOOV + box(b"mdat", b"media", size=0xFFFFFFFF),
        FTYP + MOOV + wide_box(b"mdat", size=9),
        FTYP + MOOV + wide_box(b"mdat", size=15),
        FTYP + MOOV + wide_box(b"mdat", size=2**64 - 1),
        FTYP + MOOV + box(b"mdat", b"\0\0\0\0", size=1),
        FTYP + MOOV + box(b"mdat", size=1),
        box(b"ftyp", b"isom", size=2**31) + MOOV + MDAT,
    ],
)
def test_a_wrong_box_size_is_refused(content: bytes) -> None:
    assert str(len(content)) in refused(content)


@pytest.mark.parametrize(
    "content",
    [
        FTYP,
        FTYP + MOOV,
        FTYP + MDAT,
        FTYP + box(b"moov", MDAT),
        FTYP + box(b"free", MOOV, size=0) + MDAT,
        FTYP + MOOV + bytes(len(MDAT)),
        FTYP + MDAT + bytes(len(MOOV)),
        FTYP + box(b"free") * 100_000 + MOOV + MDAT,
    ],
)
def test_a_clip_without_its_index_or_its_media_is_refused(content: bytes) -> None:
    assert "index" in refused(content)


def test_of_a_large_clip_only_the_box_headers_are_read() -> None:
    content = FTYP + box(b"mdat", bytes(5_000_000)) + MOOV
    file = Counted(content)
    assert identify(file, len(content), "video/mp4") == "video/mp4"
    assert file.read_bytes <= 512 + 3 * 16


def test_reading_starts_at_the_beginning_at_any_file_position() -> None:
    file = io.BytesIO(CLIP)
    file.seek(0, io.SEEK_END)
    assert identify(file, len(CLIP), "video/mp4") == "video/mp4"


@given(st.binary(max_size=80), st.sampled_from([b"", FTYP, CLIP, b"\x89PNG", b"RIFF"]), st.text(max_size=20))
def test_any_bytes_give_a_type_or_a_reason(content: bytes, begin: bytes, announced: str) -> None:
    try:
        found = of(begin + content, announced)
    except errors.JobFailed as error:
        found = f"{error.kind}/"
    assert (
        found.startswith("content/")
        or extension(found) != ".bin"
        or found == announced.partition(";")[0].strip().lower()
    )
