"""Local images: whether they can be sent, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from wan_async.batch.image_inspection import HEAD_BYTES, Damaged, Facts, inspect, needs_copy, remarks
from wan_async.batch.images_in_folders import hint_at_similar, is_image_name
from wan_async.batch.input_file import BLOCK_BYTES, open_file
from wan_async.domain.batch import Batch
from wan_async.domain.job import image_bytes_of, image_of, with_image
from wan_async.domain.model import UPLOAD_LIMIT_BYTES
from wan_async.domain.text import shown
from wan_async.domain.validation import is_url
from wan_async.errors import Problem
from wan_async.filetypes import sniff_image as sniff_image

MOST_HINTS = 10
"""Names that are suggested for missing images, at most: each costs a look at all names of a folder."""

_COPIED = "uploaded as an upright, converted copy"
_COPIED_AS_BEFORE = f"{_COPIED}, as in the last run of this folder (--no-prepare renders the original, and pays for it)"
_SHOWN_IMAGES = 3


@dataclass(frozen=True, slots=True)
class Digest:
    """The hash of a file, and the size and time by which a change of it is noticed."""

    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Digested:
    """The result of hashing images.

    Attributes:
        found: the digest of each readable image, by path.
        new: those among them that the given cache did not have.
        faults: what is wrong with each of the others, by path.
        facts: what the header of each readable image says, by path; of one whose header can't be read, nothing.
    """

    found: dict[str, Digest] = field(default_factory=dict)
    new: dict[str, Digest] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)


def local_images(batch: Batch) -> list[str]:
    """The local images of a batch, each once, in its order."""
    images = (image_of(planned.job) for planned in batch.jobs)
    return list(dict.fromkeys(image for image in images if image is not None and not is_url(image)))


def with_image_files(batch: Batch, folder: Path) -> tuple[Batch, dict[Path, bytes], dict[str, str]]:
    """Gives each job that holds its image in memory a file for it, without writing any.

    Args:
        batch: the batch.
        folder: where the files are to be; they are named by the hash of their content.

    Returns:
        The batch with paths instead; the contents of the files; what is wrong with those that are no images, by path.
    """
    jobs, inputs, faults = [], dict[Path, bytes](), dict[str, str]()
    for planned in batch.jobs:
        image = image_bytes_of(planned.job)
        if image is None:
            jobs.append(planned)
            continue
        path = folder / f"{image.sha256}.{image_suffix(image.data)}"
        inputs[path] = image.data
        if fault := fault_of_bytes(image.data):
            faults[str(path)] = f"the image {fault}"
        jobs.append(replace(planned, job=with_image(planned.job, str(path))))
    return (replace(batch, jobs=jobs) if inputs else batch), inputs, faults


def image_suffix(data: bytes) -> str:
    """The suffix for a file with these bytes, without the dot."""
    return (sniff_image(data[:64]) or "application/image").rpartition("/")[2]


def fault_of_bytes(data: bytes) -> str | None:
    """Why an image in memory can't be sent, None if it can."""
    if len(data) > UPLOAD_LIMIT_BYTES:
        return f"is larger than {UPLOAD_LIMIT_BYTES // 1_000_000} MB, Wiro's limit"
    try:
        return None if inspect(io.BytesIO(data), len(data), data) is not None else "is not an image"
    except Damaged as error:
        return str(error)


def digests(paths: Iterable[str], cache: Mapping[str, Digest]) -> Digested:
    """Hashes images, but for those that the cache has under the same size and time, and reads their headers.

    An image that the cache has was whole when it was hashed, so that its end is not looked for again.

    May run in several threads, each with its share of the paths.

    Args:
        paths: local images.
        cache: digests of an earlier run, by path.

    Returns:
        What was found, and what is wrong with the rest.
    """
    read = Digested()
    for path in paths:
        try:
            known = cache.get(path)
            if known is not None and is_unchanged(path, known):
                facts = facts_of(path)
                read.found[path] = known
            else:
                read.new[path], facts = inspected(path)
                read.found[path] = read.new[path]
            if facts is not None:
                read.facts[path] = facts
        except ValueError as error:
            read.faults[path] = str(error)
    return read


def image_problems(batch: Batch, faults: Mapping[str, str]) -> list[Problem]:
    """A problem for each job whose image has one of these faults (by path), at its place in the batch."""
    if not faults:
        return []
    missing = (path for path in faults if not os.path.exists(path))  # noqa: PTH110 - no error, whatever the text
    faults = {**faults, **{path: faults[path] + hint_at_similar_image(path) for path in islice(missing, MOST_HINTS)}}
    if batch.problems_with is not None:
        return batch.problems_with(faults)
    return [
        Problem(
            planned.where,
            f"{'' if planned.where else f'jobs[{planned.index}].'}{planned.job.model.image_name}: {faults[image]}",
        )
        for planned in batch.jobs
        if (image := image_of(planned.job)) is not None and image in faults
    ]


def hint_at_similar_image(path: str) -> str:
    """A hint at the image that a missing one's folder has under a similar name; empty if it has none."""
    return hint_at_similar(Path(path), lambda each: is_image_name(each.name))


def check_image(path: str) -> str | None:
    """Why a local image can't be uploaded, None if it can. Reads only its header and its end."""
    try:
        with open_file(path, buffering=0) as file:
            status, head = os.fstat(file.fileno()), file.read(HEAD_BYTES)
            _check(path, status, head)
            inspect(file, status.st_size, head)
    except OSError as error:
        return _fault_of(path, error)
    except Damaged as error:
        return f"{shown(path, whole=True)} {error}"
    except ValueError as error:
        return str(error)
    return None


def digest(path: str) -> Digest:
    """Hashes an image, a block at a time.

    Raises:
        ValueError: why it can't be uploaded.
    """
    return inspected(path)[0]


def inspected(path: str) -> tuple[Digest, Facts | None]:
    """Hashes an image, a block at a time, and reads its header.

    Raises:
        ValueError: why it can't be uploaded.
    """
    try:
        with open_file(path, buffering=0) as file:
            before = os.fstat(file.fileno())
            block = first = file.read(BLOCK_BYTES)
            _check(path, before, block)
            hashed = hashlib.sha256()
            while block:
                hashed.update(block)
                block = file.read(BLOCK_BYTES)
            after = os.fstat(file.fileno())
            facts = inspect(file, after.st_size, first)
    except OSError as error:
        raise ValueError(_fault_of(path, error)) from None
    except Damaged as error:
        raise ValueError(f"{shown(path, whole=True)} {error}") from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ValueError(f"{shown(path, whole=True)} changed while it was read")
    return Digest(hashed.hexdigest(), after.st_size, after.st_mtime_ns), facts


def facts_of(path: str) -> Facts | None:
    """What the header of an image says whose end was seen before; None if it can't be read now."""
    try:
        with open_file(path, buffering=0) as file:
            return inspect(file, os.fstat(file.fileno()).st_size, is_whole=True)
    except (OSError, ValueError):
        return None


def remarks_on(facts: Mapping[str, Facts], *, upright: bool, unasked: bool = False) -> list[str]:
    """What is unusual about images, a line for each kind of it.

    Args:
        facts: what their headers say, by path.
        upright: whether copies are uploaded in place of those that need it.
        unasked: whether that is so only because the last run of the folder did it.
    """
    groups: dict[str, list[str]] = {}
    for path, known in facts.items():
        is_copied = upright and needs_copy(known)
        for remark in [_COPIED_AS_BEFORE if unasked else _COPIED] if is_copied else remarks(known):
            groups.setdefault(remark, []).append(path)
    return [_line(remark, paths) for remark, paths in groups.items()]


def _line(remark: str, paths: list[str]) -> str:
    names = ", ".join(shown(path, whole=True) for path in paths[:_SHOWN_IMAGES])
    more = f" and {len(paths) - _SHOWN_IMAGES} more" if len(paths) > _SHOWN_IMAGES else ""
    what = "1 image is" if len(paths) == 1 else f"{len(paths)} images are"
    return f"{what} {remark}: {names}{more}"


def is_unchanged(path: str, known: Digest) -> bool:
    """Whether an image has the size and time under which it was hashed.

    Raises:
        ValueError: it can't be looked at; the message says why.
    """
    try:
        now = Path(path).stat()
    except OSError as error:
        raise ValueError(_fault_of(path, error)) from None
    return (now.st_size, now.st_mtime_ns) == (known.size, known.mtime_ns) and stat.S_ISREG(now.st_mode)


def _check(path: str, status: os.stat_result, first: bytes) -> None:
    if status.st_size == 0:
        raise ValueError(f"{shown(path, whole=True)} has 0 bytes")
    if status.st_size > UPLOAD_LIMIT_BYTES:
        raise ValueError(f"{shown(path, whole=True)} is larger than {UPLOAD_LIMIT_BYTES // 1_000_000} MB, Wiro's limit")
    if sniff_image(first) is None:
        raise ValueError(f"{shown(path, whole=True)} is not an image")


def _fault_of(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) or error.errno == errno.ENAMETOOLONG:
        return f"{shown(path, whole=True)} doesn't exist"
    if isinstance(error, IsADirectoryError):
        return f"{shown(path, whole=True)} is a folder; for all images in it write {shown(f'{path}/*', whole=True)}"
    return f"{shown(path, whole=True)} can't be read: {error.strerror}"
