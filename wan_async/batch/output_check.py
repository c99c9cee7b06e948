"""Checks which files a run would write, and whether a file of the user is in the way. Blocking; writes nothing.

A file in the output folder counts as ours only if the folder has a journal *and* the journal or the file's content says
so. Everything else is refused before a run begins, so that nothing is overwritten and no paid clip lacks its place.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from wan_async.domain.batch import PlannedJob
from wan_async.domain.job import image_of
from wan_async.domain.naming import folded
from wan_async.domain.text import shown
from wan_async.domain.validation import is_url
from wan_async.errors import Problem
from wan_async.journal import start_counter
from wan_async.journal.base import FILE, FOLDER, DatabaseHome, Home
from wan_async.journal.journal_location import homes_of
from wan_async.journal.reports import clip_names

RESULTS = "results.jsonl"
GALLERY = "gallery.html"
TEMPORARY = ".tmp"

_HEAD_BYTES = 64 * 1024
_GALLERY_MARKS = (b'<meta name="generator" content="wan_async">', b"media-src 'self' file:; img-src 'self' file:")
_RESULT_KEYS = {"job", "state", "file", "task_id"}
_SIDECAR_KEYS = {"job", "file", "sha256", "task_id"}
_PER_JOB = (".mp4", ".json", f".json{TEMPORARY}")
_PART = re.compile(r"(.*)\.\d+\.part", re.DOTALL)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(?=[\\/])")
_OF_THE_KERNEL = frozenset({Path("/proc"), Path("/sys")})
"""Folders that take no files, though `os.access` says that root may write them."""
_LONGEST = ".999999.part"
_ADVICE = "move it, or choose another folder with -o"


def folder_problem(output: Path) -> str | None:
    """Why a path can't be an output folder; None if nothing is known against it."""
    if match := _SCHEME.match(str(output)):
        return f"{shown(str(output), whole=True)} is not a folder: clips go to local folders, not to {match[0]}"
    try:
        if not stat.S_ISDIR(output.stat().st_mode):
            return f"{shown(str(output), whole=True)} is a file, not a folder: choose another output folder"
        os.lstat(output / FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return None  # it will be made, or the error is reported when that fails
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no path"
        return f"{shown(str(output), whole=True)} can't be the output folder: {reason}"
    return None


def why_not_writable(output: Path) -> str | None:
    """Why a run could not make this output folder, or write into it; None if nothing is known against it."""
    path = Path(os.path.abspath(output))  # noqa: PTH100 - links are not followed
    for folder in (path / FOLDER, path, *path.parents):
        if os.path.lexists(folder):
            break
    what = "can't be written" if folder in (path, path / FOLDER) else "can't be made"
    if not folder.is_dir():
        return f"{output} {what}: {folder} is not a folder"
    if _OF_THE_KERNEL.intersection((folder, *folder.parents)):
        return f"{output} {what}: {folder} is not on a disk"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{output} {what}: you may not write into {folder}"
    return None


def target_problems(
    planned: Sequence[PlannedJob], output: Path, source: Path | None, database: DatabaseHome | None = None
) -> list[Problem]:
    """The files of the user that a run would have to overwrite.

    Args:
        planned: the jobs.
        output: the folder of the clips.
        source: the batch file, None if there is none.
        database: where the journal is kept, if not in the folder.

    Raises:
        errors.Unusable: the journal can't be read.
    """
    problems = [*_unwritable(planned, output)]
    try:
        names = os.listdir(output)  # noqa: PTH208 - names are all that is needed
    except OSError:
        return problems  # there is none yet, or opening the journal reports the error
    inputs = {problem.where: problem for problem in _inputs(planned, output, source)}
    existing = {folded(name): name for name in names}
    if database is None:
        has_journal = any((home / FILE).exists() for home in homes_of(output))
    else:
        has_journal = clip_names(database) is not None
    for name in (RESULTS, RESULTS + TEMPORARY, GALLERY, FOLDER):
        path = output / existing.get(name, name)
        if name in existing and not _is_ours(path, name, has_journal=has_journal):
            problems.append(_foreign(path))
    problems += _clips(planned, output, existing, database or output / FOLDER, has_journal=has_journal)
    return [*(problem for problem in problems if problem.where not in inputs), *inputs.values()]


def is_our_gallery(page: Path) -> bool:
    """Whether a page is one that `gallery` made, or there is none."""
    return not os.path.lexists(page) or any(mark in _head(page) for mark in _GALLERY_MARKS)


def _foreign(path: Path, where: str = "") -> Problem:
    message = f"exists and is not ours: {_ADVICE}"
    if not where:
        return Problem(str(path), message)
    return Problem(where, f"{shown(str(path), whole=True)} {message}, or give the job another id")


def _is_ours(path: Path, name: str, *, has_journal: bool) -> bool:
    if name == FOLDER:
        return path.is_dir()
    if name == GALLERY:
        return is_our_gallery(path)
    head = _head(path)
    if not has_journal:
        return False
    if not head:
        return True
    line, end, _ = head.partition(b"\n")
    return _holds(line, _RESULT_KEYS) if end else head.startswith(b'{"job": "')


def _clips(
    planned: Sequence[PlannedJob], output: Path, existing: Mapping[str, str], home: Home, *, has_journal: bool
) -> Iterator[Problem]:
    parts = {match[1]: name for place, name in existing.items() if (match := _PART.fullmatch(place))}
    known: frozenset[str] | None = None
    for one in planned:
        place = folded(one.name)
        found = [existing[place + suffix] for suffix in _PER_JOB if place + suffix in existing]
        found += [parts[place]] if place in parts else []
        if found and known is None:
            known = clip_names(home)
            if known is None and os.path.lexists(
                output / FOLDER / start_counter.FILE
            ):  # it had a journal: see `unowned`
                known = frozenset()
        if found and known is not None and (place in known or _is_clip_of_ours(output, existing, place)):
            continue
        if has_journal:  # a killed process leaves these two
            found = [name for name in found if not name.casefold().endswith((".part", TEMPORARY))]
        yield from (_foreign(output / name, one.where or f"jobs[{one.index}]") for name in found)


def _is_clip_of_ours(output: Path, existing: Mapping[str, str], place: str) -> bool:
    """Whether a clip that this journal doesn't know has a sidecar of ours: an older or another journal may know it."""
    sidecar = existing.get(f"{place}.json")
    return sidecar is not None and _holds(_head(output / sidecar), _SIDECAR_KEYS)


def _inputs(planned: Sequence[PlannedJob], output: Path, source: Path | None) -> Iterator[Problem]:
    """The batch file and its images that a run would overwrite."""
    here = os.path.realpath(output)
    inputs = dict.fromkeys(str(source) for _ in range(source is not None))
    images = (image_of(one.job) for one in planned)
    inputs |= dict.fromkeys(image for image in images if image is not None and not is_url(image))
    folders: dict[str, bool] = {}
    near = []
    for path in inputs:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder or ".") == here
        if folders[folder]:
            near.append((path, folded(name)))
    if not near:
        return
    targets = {folded(one.name) + suffix for one in planned for suffix in _PER_JOB}
    targets |= {RESULTS, RESULTS + TEMPORARY, GALLERY}
    for path, place in near:
        if place in targets:
            yield Problem(path, f"a run into {shown(str(output), whole=True)} would write this file itself: {_ADVICE}")


def _unwritable(planned: Sequence[PlannedJob], output: Path) -> Iterator[Problem]:
    """Names that this system can't write."""
    longest: PlannedJob | None = None
    for one in planned:
        if not one.name.isascii():
            try:
                os.fsencode(one.name)
            except UnicodeEncodeError:
                fault = f"its clip's name {shown(one.name)} has a character that this system's encoding lacks"
                yield Problem(one.where or f"jobs[{one.index}]", f"{fault}: set LC_ALL=C.UTF-8, or give it another id")
                continue
        if longest is None or len(one.name) > len(longest.name):
            longest = one
    if longest is not None:
        try:
            os.lstat(output / f"{longest.name}{_LONGEST}")
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            message = f"its clip {shown(str(output / longest.name), whole=True)} can't be made: {error.strerror}"
            yield Problem(longest.where or f"jobs[{longest.index}]", message)


def _head(path: Path) -> bytes:
    """A file's first bytes; of what can't be read, bytes that no file of ours begins with."""
    try:
        if not path.is_file():
            return b"\0"
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b"\0"


def _holds(text: bytes, keys: Iterable[str]) -> bool:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() >= set(keys)
