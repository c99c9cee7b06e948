"""Reads a batch from a file, a folder or standard input. Blocking."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from wan_async.batch import folders
from wan_async.batch.captions import Captions
from wan_async.batch.folders import IMAGE_SUFFIXES, open_file
from wan_async.batch.images import BLOCK_BYTES, check_image
from wan_async.batch.parser import BATCH_LIMIT_BYTES, from_images, parse
from wan_async.batch.syntax import Kind
from wan_async.domain.batch import Batch
from wan_async.domain.job import AnyJob, Job
from wan_async.domain.text import shown
from wan_async.errors import InvalidBatch, Problem

_KINDS: dict[str, Kind] = {
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
}
_HOME = re.compile(r"~[\\/]" if os.name == "nt" else "~/")

_DIGITS = re.compile(r"(\d+)")


class Disk:
    """The folder of a batch, as `batchfile` asks about it.

    Args:
        root: where relative paths begin.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._captions = Captions(root)
        self._notices: dict[str, None] = {}

    def glob(self, pattern: str) -> list[str]:
        """The images that match, in natural order; `**` goes through folders, hidden files don't count."""
        root, rest = self._root, pattern
        if home := _HOME.match(pattern):  # whose own name is no pattern
            root, rest = Path(_at_home(home[0])), pattern[home.end() :]
        found = folders.images_like(root, rest)
        self.note(found.notice(shown(pattern, whole=True)))
        return sorted(found.images, key=natural)

    def caption(self, image: str) -> str | None:
        """The stripped text that belongs to an image (a resolved path), None without one; see `Captions.of`.

        Raises:
            ValueError: if it is too large, unreadable, or in no encoding of Unicode.
            InvalidBatch: if its folder's list of captions can't be read.
        """
        return self._captions.of(image)

    def no_caption(self, image: str) -> str:
        """Why an image has no caption, in words."""
        return self._captions.why_none(image)

    def resolve(self, path: str) -> str:
        """The path from where the program runs; `~/` is the home folder."""
        return str(self._root / _at_home(path))

    def exists(self, path: str) -> bool:
        """Whether there is anything at a resolved path."""
        return os.path.exists(path)  # noqa: PTH110 - no error, whatever the text

    def note(self, notice: str | None) -> None:
        """Something that the author of the batch should know."""
        if notice is not None:
            self._notices[notice] = None

    def notices(self) -> list[str]:
        """What was left out, and why."""
        return [*self._notices, *self._captions.notices()]

    def fault(self, image: str) -> str | None:
        """What keeps an image (a resolved path) from being uploaded, or None."""
        return check_image(image)


def read_batch(
    path: Path | Literal["-"],
    *,
    prompt: str | None = None,
    recursive: bool = False,
    stdin: BinaryIO | None = None,
    job: type[AnyJob] = Job,
) -> Batch:
    """Reads a batch from a file, a folder of images, or standard input (JSON Lines).

    Args:
        path: a file, a folder, or `-`.
        prompt: serves jobs that have neither a prompt nor a caption; with `{caption}` in it, it wraps captions.
        recursive: of a folder, take the images in its subfolders as well.
        stdin: what `-` reads from.
        job: the jobs' class, which says what model they are for.

    Returns:
        The batch.

    Raises:
        InvalidBatch: if there is none to be read there, or with all that is wrong with it.
    """
    if path == "-":
        if stdin is None:
            raise _invalid("-", "there is no standard input to read a batch from")
        data = _read_at_most(stdin, BATCH_LIMIT_BYTES + 1)
        with _gc_paused():
            return parse(data, kind="jsonl", source="stdin", folder=Disk(Path()), prompt=prompt, job=job)
    try:
        if path.is_dir():
            return _read_folder(path, prompt, job, recursive=recursive)
        kind = _KINDS.get(path.suffix.lower())
        if kind is None and path.exists():
            raise _invalid(str(path), f"a batch is a folder or ends in {', '.join(_KINDS)}")
        with open_file(str(path)) as file:
            data = _read_at_most(file, BATCH_LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise _invalid(str(path), "there is no such file or folder") from None
    except OSError as error:
        raise _invalid(str(path), f"can't be read: {error.strerror}") from None
    except ValueError as error:
        raise _invalid(str(path), str(error)) from None
    if not data.strip():
        raise _invalid(str(path), "is empty; see `wan-async schema` for what a batch holds")
    assert kind is not None
    with _gc_paused():
        return parse(data, kind=kind, source=str(path), folder=Disk(path.parent), prompt=prompt, job=job)


def output_folder(source: Path | Literal["-"], batch: Batch, override: Path | None) -> Path:
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
        # `.` and `..` have names too.
        folder = source if source.name not in {"", ".."} else source.resolve()
        return folder.with_name(f"{folder.name}.clips") if folder.name else folder / "clips"
    if batch.output is not None:
        return source.parent / _at_home(batch.output)
    return source.parent / "outputs" / source.stem


def natural(path: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts `cat-2` before `cat-10`, whatever the case."""
    parts = filter(None, _DIGITS.split(path.casefold()))
    steps = [(0, int(step), "") if step.isdecimal() else (1, 0, step) for step in parts]
    return steps, path


def _read_folder(path: Path, prompt: str | None, job: type[AnyJob], *, recursive: bool) -> Batch:
    folder = Disk(path)
    found = folders.images_in(path, recursive=recursive)
    notice = found.notice(str(path))
    deeper = None
    if found.deeper:
        where = f"{found.folders} subfolder{'s' * (found.folders != 1)}"
        deeper = f"{found.deeper} more in {where}: --recursive takes them"
    if not found.images:
        words = [f"there are no images in this folder ({', '.join(IMAGE_SUFFIXES)})", deeper, notice]
        raise _invalid(str(path), "; ".join(word for word in words if word))
    folder.note(notice)
    folder.note(deeper and f"{path}: {deeper}")
    return from_images(sorted(found.images, key=natural), source=str(path), folder=folder, prompt=prompt, job=job)


def _read_at_most(file: BinaryIO, limit: int) -> bytes:
    """The file's first bytes; `read(limit)` would ask for as much memory, however short the file."""
    blocks, size = [], 0
    while size < limit and (block := file.read(min(BLOCK_BYTES, limit - size))):
        blocks.append(block)
        size += len(block)
    return b"".join(blocks)


@contextmanager
def _gc_paused() -> Iterator[None]:
    # A batch is many small objects and no cycles: looking for some over and over takes as long as reading it.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _invalid(where: str, message: str) -> InvalidBatch:
    return InvalidBatch([Problem(where, message)])


def _at_home(path: str) -> str:
    """The path with `~/` at its start as the home folder; nothing else that begins with `~` is anybody's home."""
    return os.path.expanduser(path) if _HOME.match(path) else path  # noqa: PTH111 - no error without a home
