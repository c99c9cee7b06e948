"""Reads a batch from a file, a folder or standard input. Blocking."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from wan_async.batch import images_in_folders
from wan_async.batch.batch_folder import BatchFolder, expand_home, natural
from wan_async.batch.detection import NoFormat, kind_of
from wan_async.batch.encoding import Undecodable, decoded
from wan_async.batch.images_in_folders import IMAGE_SUFFIXES
from wan_async.batch.input_file import open_file, read_at_most
from wan_async.batch.parser import BATCH_LIMIT_BYTES, Defaults, from_images, parse
from wan_async.batch.syntax import Kind
from wan_async.domain.batch import Batch
from wan_async.domain.job import AnyJob, Job
from wan_async.errors import InvalidBatch, Problem
from wan_async.output_locations import Location, OutputUrl, location_of

STDIN = "stdin"
"""Standard input in messages."""

_KINDS: dict[str, Kind] = {
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
}


def read_batch(
    path: Path | Literal["-"],
    *,
    prompt: str | None = None,
    recursive: bool = False,
    stdin: BinaryIO | None = None,
    job: type[AnyJob] = Job,
    skip_bad: bool = False,
    defaults: Defaults = (),
) -> Batch:
    """Reads a batch from a file, a folder of images, or standard input, in any of the formats.

    Args:
        path: a file, a folder, or `-`.
        prompt: serves jobs that have neither a prompt nor a caption; with `{caption}` in it, it wraps captions.
        recursive: of a folder, take the images in its subfolders as well.
        stdin: what `-` reads from.
        job: the jobs' class, which says what model they are for.
        skip_bad: leave out the jobs that something is wrong with, and go on with the rest.
        defaults: see `parse`.

    Returns:
        The batch.

    Raises:
        InvalidBatch: there is no batch, or with all problems in it; see `parse` for `skip_bad`.
    """
    if path == "-":
        if stdin is None:
            raise _invalid("-", "there is no standard input to read a batch from")
        data = read_at_most(stdin, BATCH_LIMIT_BYTES + 1)
        kind = _kind_of_input(data, job)
        with _gc_paused():
            return parse(
                data, kind=kind, source=STDIN, folder=BatchFolder(Path()), prompt=prompt, job=job, skip_bad=skip_bad,
                defaults=defaults,
            )  # fmt: skip
    try:
        if path.is_dir():
            return _read_folder(path, prompt, job, recursive=recursive, skip_bad=skip_bad, defaults=defaults)
        known = _KINDS.get(path.suffix.lower())
        if known is None and path.exists():
            raise _invalid(str(path), f"a batch is a folder or ends in {', '.join(_KINDS)}")
        with open_file(str(path)) as file:
            data = read_at_most(file, BATCH_LIMIT_BYTES + 1)
    except FileNotFoundError:
        near = images_in_folders.hint_at_similar(path, lambda each: each.suffix.lower() in _KINDS or each.is_dir())
        raise _invalid(str(path), f"there is no such file or folder{near}") from None
    except OSError as error:
        raise _invalid(str(path), f"can't be read: {error.strerror}") from None
    except ValueError as error:
        raise _invalid(str(path), str(error)) from None
    if not data.strip():
        raise _invalid(str(path), "is empty; see `wan-async schema` for what a batch holds")
    assert known is not None
    with _gc_paused():
        return parse(
            data, kind=known, source=str(path), folder=BatchFolder(path.parent), prompt=prompt, job=job,
            skip_bad=skip_bad, defaults=defaults,
        )  # fmt: skip


def output_folder(source: Path | Literal["-"], batch: Batch, override: Location | None) -> Location:
    """Where a batch's clips go.

    Args:
        source: where the batch was read from.
        batch: the batch.
        override: `-o`.

    Returns:
        `override`; else the batch's own `output`, from its folder; else `outputs/<stem>` beside a file, `X.clips`
        beside a folder `X`.

    Raises:
        InvalidBatch: if the batch comes from standard input and there is no `override`.
    """
    if override is not None:
        return override
    if source == "-":
        raise _invalid("-", "a batch from standard input needs -o")
    if source.is_dir():
        # `.` and `..` have no name of their own.
        folder = source if source.name not in {"", ".."} else source.resolve()
        return folder.with_name(f"{folder.name}.clips") if folder.name else folder / "clips"
    if batch.output is not None and isinstance(url := location_of(batch.output), OutputUrl):
        return url
    if batch.output is not None:
        return source.parent / expand_home(batch.output)
    return source.parent / "outputs" / source.stem


def images_of_folder(path: Path, *, recursive: bool) -> tuple[list[str], list[str]]:
    """The images of a folder, in natural order, and what was left out and why.

    Raises:
        InvalidBatch: there are none.
    """
    try:
        return _images_of(path, recursive=recursive)
    except FileNotFoundError:
        raise _invalid(str(path), "there is no such folder") from None
    except NotADirectoryError:
        raise _invalid(str(path), "is no folder") from None
    except OSError as error:
        raise _invalid(str(path), f"can't be read: {error.strerror}") from None
    except ValueError as error:
        raise _invalid(str(path), str(error)) from None


def _images_of(path: Path, *, recursive: bool) -> tuple[list[str], list[str]]:
    found = images_in_folders.images_in(path, recursive=recursive)
    notice = found.notice(str(path))
    deeper = None
    if found.deeper:
        where = f"{found.folders} subfolder{'s' * (found.folders != 1)}"
        deeper = f"{found.deeper} more in {where}: --recursive takes them"
    if not found.images:
        words = [f"there are no images in this folder ({', '.join(IMAGE_SUFFIXES)})", deeper, notice]
        raise _invalid(str(path), "; ".join(word for word in words if word))
    notes = [note for note in (notice, deeper and f"{path}: {deeper}") if note]
    return sorted(found.images, key=natural), notes


def _read_folder(
    path: Path, prompt: str | None, job: type[AnyJob], *, recursive: bool, skip_bad: bool, defaults: Defaults
) -> Batch:
    folder = BatchFolder(path)
    images, notes = _images_of(path, recursive=recursive)
    for note in notes:
        folder.note(note)
    return from_images(
        images, source=str(path), folder=folder, prompt=prompt, job=job, skip_bad=skip_bad, defaults=defaults
    )


def _kind_of_input(data: bytes, job: type[AnyJob]) -> Kind:
    """The format of what standard input held."""
    if not data.strip():
        raise _invalid(f"{STDIN}:1:1", "is empty; see `wan-async schema` for what a batch holds")
    try:
        text = decoded(data)
    except Undecodable:
        return "yaml"  # which reports the place
    try:
        return kind_of(text, job.model)
    except NoFormat as error:
        raise _invalid(f"{STDIN}:1:1", f"{error}; or save it to a file, whose name says what it is") from None


@contextmanager
def _gc_paused() -> Iterator[None]:
    # A batch is many small objects without cycles; collecting garbage again and again would double the time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _invalid(where: str, message: str) -> InvalidBatch:
    return InvalidBatch([Problem(where, message)])
