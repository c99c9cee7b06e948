"""A zip of the review page with its clips and source images, to hand to somebody else.

It holds what the page shows, and nothing of the journal: neither sidecars nor results, which name the service's URLs.
Media are stored as they are, since they don't get smaller, and are read in blocks; the page is compressed.
"""

from __future__ import annotations

import os
import secrets
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path, PurePosixPath
from shutil import copyfileobj

from wan_async.domain.naming import folded, safe_name
from wan_async.domain.validation import is_url
from wan_async.errors import InvalidBatch, Problem, Unusable
from wan_async.gallery.page import NAME, html, read_journals
from wan_async.gallery.source_images import Sources
from wan_async.gallery.verdicts import Verdicts
from wan_async.journal.reports import GalleryReport

IMAGES = "images"
MARK = b"wan_async gallery"
"""The comment of our zips, by which an older one is told from a file of the user."""
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Packed:
    """What a zip holds.

    Attributes:
        clips: how many clips.
        images: how many source images.
        bytes: the size of the zip.
        gone: the clips that are not in the output folder, or cut.
    """

    clips: int
    images: int
    bytes: int
    gone: list[str]


def pack(output: Path, target: Path, verdicts: Verdicts) -> Packed:
    """Write the zip; a reader sees the old one or the new one, never a part of it. Blocking.

    Args:
        output: the output folder.
        target: the zip. One that this function wrote before is replaced.
        verdicts: of an earlier review, which the page will have.

    Raises:
        InvalidBatch: there is another file already.
        Unusable: the journal can't be read, or the zip not be written.
    """
    if not _is_ours(target):
        raise InvalidBatch([Problem(str(target), "exists and is not such a zip: choose another name")])
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.tmp")
    with ExitStack() as stack:
        reports = [
            replace(report, items=list(report.items))  # they are read twice: for the files, and for the page
            for report in read_journals(stack, output, None)
        ]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            packed = _write(part, output, reports, verdicts)
            part.replace(target)
        except BaseException as error:
            part.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise Unusable(f"{target} can't be written: {error.strerror or error}") from None
            raise
    return packed


def _write(part: Path, output: Path, reports: Sequence[GalleryReport], verdicts: Verdicts) -> Packed:
    title = output.resolve().name
    root = safe_name(title)
    clips, gone = _clips_of(output, reports)
    images = _images_of(output, reports)
    with part.open("xb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.comment = MARK
            text = html(reports, title, sources=Sources(output, images.names), verdicts=verdicts)
            _add_text(archive, f"{root}/{NAME}", text)
            for name in clips:
                _add_file(archive, f"{root}/{name}", output / name)
            for path, name in images.files.items():
                _add_file(archive, f"{root}/{name}", Path(path))
        file.flush()
        os.fsync(file.fileno())
        return Packed(len(clips), len(images.files), file.tell(), gone)


def _add_text(archive: zipfile.ZipFile, name: str, pieces: Iterable[str]) -> None:
    info = zipfile.ZipInfo(name, time.localtime()[:6])
    info.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(info, "w", force_zip64=True) as entry:
        for piece in pieces:
            entry.write(piece.encode("utf-8", "replace"))


def _add_file(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    info = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
    with path.open("rb") as file, archive.open(info, "w", force_zip64=True) as entry:
        copyfileobj(file, entry, BLOCK_BYTES)


def _clips_of(output: Path, reports: Sequence[GalleryReport]) -> tuple[list[str], list[str]]:
    """The clips that are whole, and those that are not; each once."""
    clips: dict[str, None] = {}
    gone: dict[str, None] = {}
    for clip in (clip for report in reports for item in report.items for clip in item.clips):
        (clips if _size(output / clip.file) == clip.bytes else gone)[clip.file] = None
    return list(clips), list(gone)


@dataclass(frozen=True, slots=True)
class _Images:
    """The local images of jobs.

    Attributes:
        names: their paths in the zip, by what the page knows them by.
        files: the same, by where they are.
    """

    names: Mapping[str, str]
    files: Mapping[str, str]


def _images_of(output: Path, reports: Sequence[GalleryReport]) -> _Images:
    names: dict[str, str] = {}
    files: dict[str, str] = {}
    taken: set[str] = set()
    for image, path in _sources(output, reports):
        if image in names or _size(Path(path)) is None:
            continue
        if path not in files:
            files[path] = f"{IMAGES}/{_free(PurePosixPath(Path(path).name), taken)}"
        names[image] = files[path]
    return _Images(names, files)


def _sources(output: Path, reports: Sequence[GalleryReport]) -> Iterator[tuple[str, str]]:
    """What the page knows the local images of jobs by, and where these are."""
    sources = Sources(output)
    for item in (item for report in reports for item in report.items):
        image = (item.image or "") if item.job is None else sources.image_of(item.job)
        if image and not is_url(image):
            yield image, os.path.abspath(image)  # noqa: PTH100 - links stay


def _free(name: PurePosixPath, taken: set[str]) -> str:
    """A name for an image that no other has, valid on every system."""
    stem = safe_name(name.stem)
    names = (f"{stem}{f'-{number}' if number > 1 else ''}{name.suffix}" for number in count(1))
    found = next(each for each in names if folded(each) not in taken)
    taken.add(folded(found))
    return found


def _size(path: Path) -> int | None:
    """The size of a file; None if there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
        return None


def _is_ours(target: Path) -> bool:
    """Whether the file may be written: there is none, or one that `pack` wrote."""
    if not os.path.lexists(target):
        return True
    try:
        with zipfile.ZipFile(target) as archive:
            return archive.comment == MARK
    except (OSError, zipfile.BadZipFile):
        return False
