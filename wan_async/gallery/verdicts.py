"""Verdicts of a review: which clips were picked and which rejected, with stars and notes, by the clips' hashes.

The review page exports them as a file, which `gallery --verdicts` and `pick` read:

    {"verdicts": 1, "folder": "clips", "exported_at": 1764100000.0,
     "clips": {SHA256: {"verdict": "pick", "stars": 4, "note": "the tail!", "file": "cat.mp4", "at": 1764099990.5}}}

Unknown fields are ignored. A clip without `verdict`, `stars` and `note` is one whose verdict was taken back.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, cast, get_args

from wan_async.domain.text import shown
from wan_async.errors import InvalidBatch, Problem, Unusable

VERSION = 1
SIZE_LIMIT = 64 * 1024 * 1024
"""Bytes of a verdicts file at most: those of 100,000 clips have 25 MB."""
MOST_STARS = 5

Decision = Literal["pick", "reject"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_PROPER_FILE = "export it from the review page again"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about a clip.

    Attributes:
        verdict: `pick`, `reject`, or None.
        stars: 1 to 5, or None.
        note: a remark, or empty.
        file: the clip's path in the output folder when it was judged; may be empty.
        at: when it was last changed, in unix seconds.
    """

    verdict: Decision | None
    stars: int | None
    note: str
    file: str
    at: float

    def to_json(self) -> dict[str, object]:
        """The verdict as it is in a file, without what is absent."""
        values = {"verdict": self.verdict, "stars": self.stars, "note": self.note, "file": self.file}
        return {name: value for name, value in values.items() if value} | {"at": self.at}


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts about the clips of a folder.

    Attributes:
        folder: the folder's name; may be empty.
        exported_at: when the file was written, in unix seconds.
        clips: the verdicts by the sha256 of their clips, in the order of the file.
    """

    folder: str = ""
    exported_at: float = 0.0
    clips: Mapping[str, Verdict] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The verdicts as they are in a file. It may hold `<`, which must be escaped in a page."""
        clips = {sha256: verdict.to_json() for sha256, verdict in self.clips.items()}
        return {"verdicts": VERSION, "folder": self.folder, "exported_at": self.exported_at, "clips": clips}


def read(path: Path) -> Verdicts:
    """Read a verdicts file.

    Raises:
        InvalidBatch: it is not one, or too large; with every problem.
        Unusable: it can't be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except FileNotFoundError:
        raise InvalidBatch([Problem(str(path), "there is no such file")]) from None
    except IsADirectoryError:
        raise InvalidBatch([Problem(str(path), "is a folder, not a verdicts file")]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unusable(f"{shown(str(path), whole=True)} can't be read: {reason}") from None
    if len(data) > SIZE_LIMIT:
        raise InvalidBatch([Problem(str(path), f"has more than {SIZE_LIMIT >> 20} MB: is it a verdicts file?")])
    return parse(data, str(path))


def parse(data: bytes, source: str) -> Verdicts:
    """Parse the content of a verdicts file.

    Args:
        data: the content.
        source: its name in messages.

    Raises:
        InvalidBatch: with every problem.
    """
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        reason = f"{error.msg[0].lower()}{error.msg[1:]}"
        raise InvalidBatch([Problem(f"{source}:{error.lineno}:{error.colno}", f"not JSON: {reason}")]) from None
    except UnicodeDecodeError as error:
        message = f"not UTF-8 from byte {error.start} on: {_NO_PROPER_FILE}"
        raise InvalidBatch([Problem(source, message)]) from None
    except RecursionError:
        raise InvalidBatch([Problem(source, "is nested too deeply for a verdicts file")]) from None
    except ValueError:
        raise InvalidBatch([Problem(source, "holds a number of thousands of digits")]) from None
    return _Reader(source).verdicts(content)


def read_all(paths: Iterable[Path]) -> Verdicts:
    """Read several files, and merge what they hold.

    Raises:
        InvalidBatch: with every problem of all of them.
        Unusable: one can't be read.
    """
    found: list[Verdicts] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            found.append(read(path))
        except InvalidBatch as error:
            problems += error.problems
    if problems:
        raise InvalidBatch(problems)
    return merge(found)


def merge(many: Iterable[Verdicts]) -> Verdicts:
    """All verdicts in one: of several about a clip the newest counts, of equally old ones the last.

    The folder's name is that of the file that was exported last.
    """
    folder, exported_at = "", 0.0
    clips: dict[str, Verdict] = {}
    for each in many:
        if each.exported_at >= exported_at:
            folder, exported_at = each.folder, each.exported_at
        for sha256, verdict in each.clips.items():
            if sha256 not in clips or verdict.at >= clips[sha256].at:
                clips[sha256] = verdict
    return Verdicts(folder, exported_at, clips)


class _Reader:
    """Checks the content of a verdicts file and collects its problems.

    Args:
        source: the file's name in messages.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._problems: list[Problem] = []

    def verdicts(self, content: object) -> Verdicts:
        if not isinstance(content, dict) or "verdicts" not in content:
            self._stop("", f'is no verdicts file: it has no "verdicts": {VERSION}; {_NO_PROPER_FILE}')
        version = content["verdicts"]
        if isinstance(version, int) and version > VERSION:
            self._stop("verdicts", f"is {version}, which a newer wan-async wrote: update this one")
        if version != VERSION or isinstance(version, bool):
            self._stop("verdicts", f"is {shown(version)}, not {VERSION}: {_NO_PROPER_FILE}")
        clips = content.get("clips")
        if not isinstance(clips, dict):
            self._stop("clips", f"is {_kind(clips)}, not a mapping: {_NO_PROPER_FILE}")
        read = {sha256.lower(): self._verdict(sha256, each) for sha256, each in clips.items()}
        folder, exported_at = self._text(content, "folder", ""), self._time(content, "exported_at", "")
        if self._problems:
            raise InvalidBatch(self._problems)
        return Verdicts(folder, exported_at, read)

    def _verdict(self, sha256: str, given: object) -> Verdict:
        place = f"clips.{sha256[:64]}"
        if not _SHA256.fullmatch(sha256.lower()):
            self._add(f"clips.{shown(sha256)}", "is not the sha256 of a clip: 64 hexadecimal digits")
        if not isinstance(given, dict):
            self._add(place, f"is {_kind(given)}, not a mapping")
            given = {"at": 0}
        decision = given.get("verdict")
        if decision is not None and decision not in DECISIONS:
            self._add(f"{place}.verdict", f"is {shown(decision)}: it must be {' or '.join(DECISIONS)}")
        stars = given.get("stars")
        if stars is not None and (type(stars) is not int or not 0 <= stars <= MOST_STARS):
            self._add(f"{place}.stars", f"is {shown(stars)}: it must be 1 to {MOST_STARS}")
        at = self._time(given, "at", place)
        note, file = self._text(given, "note", place), self._text(given, "file", place)
        return Verdict(cast("Decision | None", decision), cast("int | None", stars or None), note, file, at)

    def _text(self, values: Mapping[str, Any], name: str, place: str) -> str:
        value = values.get(name)
        if value is not None and not isinstance(value, str):
            self._add(f"{place}.{name}".strip("."), f"is {_kind(value)}, not a text")
        return value if isinstance(value, str) else ""

    def _time(self, values: Mapping[str, Any], name: str, place: str) -> float:
        value = values.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
            return value
        self._add(f"{place}.{name}".strip("."), f"is {_kind(value)}: it must be a time in unix seconds")
        return 0.0

    def _add(self, place: str, message: str) -> None:
        self._problems.append(Problem(f"{self._source}: {place}" if place else self._source, message))

    def _stop(self, place: str, message: str) -> NoReturn:
        self._add(place, message)
        raise InvalidBatch(self._problems)


def _kind(value: object) -> str:
    return "absent" if value is None else shown(value)
