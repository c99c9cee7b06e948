"""What a run reads from disk: batches and their folders, images and their hashes, `.env`.

Everything here blocks, and is called in a worker thread wherever a loop runs. Nothing here writes.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from wan_async import tree
from wan_async.batchfile import BATCH_LIMIT_BYTES, from_images, parse
from wan_async.captions import Captions
from wan_async.errors import InvalidBatch, Problem, Unusable
from wan_async.jobs import Batch, is_url, shown
from wan_async.syntaxes import Kind
from wan_async.tree import IMAGE_SUFFIXES, open_file
from wan_async.tree import sniff_image as sniff_image
from wan_async.wire import UPLOAD_LIMIT_BYTES

SETTINGS = ("WIRO_API_KEY", "WIRO_API_SECRET", "WIRO_BASE_URL", "WIRO_SOCKET_URL")

_KINDS: dict[str, Kind] = {
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
}
_HOME = re.compile(r"~[\\/]" if os.name == "nt" else "~/")
_BLOCK_BYTES = 1024 * 1024
_DIGITS = re.compile(r"(\d+)")
_SETTING = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*")
_QUOTED = re.compile(r"""(?:"((?:[^"\\]|\\.)*)"|'([^']*)')\s*(?:#.*)?""")


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file's bytes are, and by what one sees that they haven't changed since."""

    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Digested:
    """What came of reading images.

    Attributes:
        found: the digest of each readable image, by path.
        new: those among them that the given cache did not have.
        faults: what is wrong with each of the others, by path.
    """

    found: dict[str, Digest] = field(default_factory=dict)
    new: dict[str, Digest] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


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
        found = tree.images_like(root, rest)
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
    path: Path | Literal["-"], *, prompt: str | None = None, recursive: bool = False, stdin: BinaryIO | None = None
) -> Batch:
    """Reads a batch from a file, a folder of images, or standard input (JSON Lines).

    Args:
        path: a file, a folder, or `-`.
        prompt: serves jobs that have neither a prompt nor a caption; with `{caption}` in it, it wraps captions.
        recursive: of a folder, take the images in its subfolders as well.
        stdin: what `-` reads from.

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
            return parse(data, kind="jsonl", source="stdin", folder=Disk(Path()), prompt=prompt)
    try:
        if path.is_dir():
            return _read_folder(path, prompt, recursive=recursive)
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
        return parse(data, kind=kind, source=str(path), folder=Disk(path.parent), prompt=prompt)


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


def local_images(batch: Batch) -> list[str]:
    """The local images of a batch, each once, in its order."""
    images = (planned.job.image for planned in batch.jobs)
    return list(dict.fromkeys(image for image in images if image is not None and not is_url(image)))


def digests(paths: Iterable[str], cache: Mapping[str, Digest]) -> Digested:
    """Hashes images, but for those that the cache has under the same size and time.

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
            if known is not None and _is_unchanged(path, known):
                read.found[path] = known
            else:
                read.found[path] = read.new[path] = digest(path)
        except ValueError as error:
            read.faults[path] = str(error)
    return read


def image_problems(batch: Batch, faults: Mapping[str, str]) -> list[Problem]:
    """What `digests` found wrong, at each job that it concerns; by its number where it was written in no file."""
    return [
        Problem(
            planned.where, f"{'' if planned.where else f'jobs[{planned.index}].'}image: {faults[planned.job.image]}"
        )
        for planned in batch.jobs
        if planned.job.image is not None and planned.job.image in faults
    ]


def check_image(path: str) -> str | None:
    """What keeps a local image from being uploaded, or None. Reads no more than its first bytes."""
    try:
        with open_file(path) as file:
            _judge(path, os.fstat(file.fileno()), file.read(32))
    except OSError as error:
        return _fault_of(path, error)
    except ValueError as error:
        return str(error)
    return None


def digest(path: str) -> Digest:
    """Hashes an image, a block at a time.

    Raises:
        ValueError: with what keeps it from being uploaded.
    """
    try:
        with open_file(path, buffering=0) as file:
            before = os.fstat(file.fileno())
            block = file.read(_BLOCK_BYTES)
            _judge(path, before, block)
            hashed = hashlib.sha256()
            while block:
                hashed.update(block)
                block = file.read(_BLOCK_BYTES)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise ValueError(_fault_of(path, error)) from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ValueError(f"{shown(path, whole=True)} changed while it was read")
    return Digest(hashed.hexdigest(), after.st_size, after.st_mtime_ns)


def read_env(folder: Path) -> dict[str, str]:
    r"""Reads `.env`: `KEY=VALUE` a line, with `export`, quotes and `#` comments, without interpolation.

    In double quotes `\n`, `\"` and `\\` mean what they do elsewhere. Lines of any other form are passed over: the file
    often serves other programs too.

    Raises:
        Unusable: if there is such a file and it can't be read.
    """
    path = folder / ".env"
    if not path.is_file():  # a virtual environment may be called so
        return {}
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise Unusable(f"{path} can't be read: {error.strerror}") from error
    found = {}
    for line in text.splitlines():
        if (match := _SETTING.fullmatch(line)) is None:
            continue
        key, value = match.groups()
        if quoted := _QUOTED.fullmatch(value):
            escaped, plain = quoted.groups()
            value = plain if escaped is None else re.sub(r"\\(.)", _unescaped, escaped)
        else:
            value = re.split(r"(?:^|\s)#", value, maxsplit=1)[0].rstrip()
        found[key] = value
    return found


def settings(environ: Mapping[str, str], dotenv: Mapping[str, str]) -> dict[str, str]:
    """The `WIRO_*` settings there are; the real environment wins, and an empty value is none.

    A foreign `.env` must neither lend its secret to the user's key nor have the user's credentials sent to its own
    URLs: its secret counts only with its own key, and its URLs only if no credential comes from the environment.

    Args:
        environ: the process's environment.
        dotenv: what `read_env` found.

    Returns:
        Those of `SETTINGS` that have a value.
    """
    chosen = {name: environ[name] for name in SETTINGS if environ.get(name)}
    if "WIRO_API_KEY" in chosen or not dotenv.get("WIRO_API_KEY"):
        return chosen
    own = ("WIRO_API_KEY",) if "WIRO_API_SECRET" in chosen else SETTINGS
    return {name: dotenv[name] for name in own if dotenv.get(name)} | chosen


def natural(path: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts `cat-2` before `cat-10`, whatever the case."""
    parts = filter(None, _DIGITS.split(path.casefold()))
    steps = [(0, int(step), "") if step.isdecimal() else (1, 0, step) for step in parts]
    return steps, path


def _read_folder(path: Path, prompt: str | None, *, recursive: bool) -> Batch:
    folder = Disk(path)
    found = tree.images_in(path, recursive=recursive)
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
    return from_images(sorted(found.images, key=natural), source=str(path), folder=folder, prompt=prompt)


def _read_at_most(file: BinaryIO, limit: int) -> bytes:
    """The file's first bytes; `read(limit)` would ask for as much memory, however short the file."""
    blocks, size = [], 0
    while size < limit and (block := file.read(min(_BLOCK_BYTES, limit - size))):
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


def _is_unchanged(path: str, known: Digest) -> bool:
    try:
        now = Path(path).stat()
    except OSError as error:
        raise ValueError(_fault_of(path, error)) from None
    return (now.st_size, now.st_mtime_ns) == (known.size, known.mtime_ns) and stat.S_ISREG(now.st_mode)


def _judge(path: str, status: os.stat_result, first: bytes) -> None:
    if status.st_size == 0:
        raise ValueError(f"{shown(path, whole=True)} has 0 bytes")
    if status.st_size > UPLOAD_LIMIT_BYTES:
        raise ValueError(
            f"{shown(path, whole=True)} is larger than {UPLOAD_LIMIT_BYTES // 1_000_000} MB, which is what Wiro takes"
        )
    if sniff_image(first) is None:
        raise ValueError(f"{shown(path, whole=True)} is not an image")


def _fault_of(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) or error.errno == errno.ENAMETOOLONG:
        return f"{shown(path, whole=True)} doesn't exist"
    if isinstance(error, IsADirectoryError):
        return f"{shown(path, whole=True)} is a folder; for all of its images write {shown(f'{path}/*', whole=True)}"
    return f"{shown(path, whole=True)} can't be read: {error.strerror}"


def _invalid(where: str, message: str) -> InvalidBatch:
    return InvalidBatch([Problem(where, message)])


def _at_home(path: str) -> str:
    """The path with `~/` at its start as the home folder; nothing else that begins with `~` is anybody's home."""
    return os.path.expanduser(path) if _HOME.match(path) else path  # noqa: PTH111 - no error without a home


def _unescaped(match: re.Match[str]) -> str:
    return {"n": "\n", "t": "\t"}.get(match[1], match[1])
