"""Batch text -> jobs, and everything that is wrong with it at once, each with its `file:line:column`.

Four syntaxes, one model. A syntax yields `_Row`s: plain values, and a way to find the place of each of them again.
`_Planner` knows what the values mean: defaults, aliases, globs, captions, matrices.

Guarantees:

- Nobody's scalars are guessed at. YAML is read as events, in which every scalar is text; the field that it stands in
  says what it means. So `seed: 042` is 42, `prompt: no` is "no", and `aspect_ratio: 16:9` is not 969. Only an empty
  value, `~` and `null`, unquoted, mean "not given".
- All problems are reported, in the order of the text. Only what breaks the syntax itself (of a whole YAML or JSON
  document) hides what comes after it.
- Whatever the text, time and memory are bounded by its size and the limits below.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, Literal, NoReturn, Protocol

from wan_async.errors import InvalidBatch, Problem
from wan_async.jobs import (
    DEFAULT_NAME,
    FAULTS,
    NAME_FIELDS,
    Batch,
    Job,
    Namer,
    fault_of_text,
    is_url,
    shown,
    stem_of,
    suggestion,
)
from wan_async.wire import ASPECT_RATIOS, MODEL, RESOLUTIONS

Kind = Literal["yaml", "json", "jsonl", "csv"]
Path = tuple[str | int, ...]
Spot = tuple[int, int]

BATCH_LIMIT_BYTES = 512 * 1024 * 1024
"""The size of a batch file at most."""
JOB_LIMIT = 1_000_000
"""Jobs in a batch at most, after globs and matrices."""
NESTING_LIMIT = 20
"""How deep a document may nest before it is no batch (of JSON, the decoder's own limit counts, unless keys repeat)."""
ALIAS_LIMIT = 10_000_000
"""How many values the aliases of a YAML document may stand for: defaults for each of a million jobs, but no bomb."""

ALIASES = {
    "inputImageUrl": "image",
    "inputImage": "image",
    "negativePrompt": "negative_prompt",
    "aspectRatio": "aspect_ratio",
    "callbackUrl": "callback_url",
}
"""The wire's own names, taken as well: people paste from the model's page."""
ENVELOPE = ("output", "name", "model", "defaults", "jobs")

_DESCRIPTIONS = {
    "id": "What to know the job by from one run to the next, and what to call its clip.",
    "image": "The first frame: a path from this file's folder, an http(s) URL, or a glob (a job for each file).",
    "prompt": "What happens in the clip. {caption} is the text of the .txt file beside the image.",
    "negative_prompt": "What to avoid.",
    "resolution": "The size of the clip.",
    "aspect_ratio": "The shape of the clip; Default is the image's own.",
    "seed": "The same seed and the same job make the same clip.",
    "callback_url": "Wiro sends the finished task there.",
}
_PLAIN = frozenset(FAULTS)
_FIELDS = (*FAULTS, "matrix")
_DEFAULTS = tuple(name for name in FAULTS if name != "id")
_EMPTY = frozenset({"image", "prompt"})  # where an empty text is as good as none
_CAPTION = "{caption}"
_GLOB = re.compile(r"[*?\[]")
_BLANK = re.compile(r"[ \t\r\n]*")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:int"})
_BOMS = (
    (BOM_UTF8, "utf-8"),
    (BOM_UTF32_LE, "utf-32-le"),
    (BOM_UTF32_BE, "utf-32-be"),
    (BOM_UTF16_LE, "utf-16-le"),
    (BOM_UTF16_BE, "utf-16-be"),
)


class Folder(Protocol):
    """What a batch asks of the folder that it lies in."""

    def glob(self, pattern: str) -> list[str]:
        """The images that match, in natural order, as paths that `resolve` would give."""
        ...

    def caption(self, image: str) -> str | None:
        """The stripped text of the sidecar of an image (a resolved path), None without one.

        Raises:
            ValueError: with what is wrong with the sidecar.
        """
        ...

    def resolve(self, path: str) -> str:
        """A path of the batch, as the rest of the program can open it."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is anything at a resolved path."""
        ...


def parse(text: str | bytes, *, kind: Kind, source: str, folder: Folder, prompt: str | None = None) -> Batch:
    """Reads a batch.

    Args:
        text: what the file holds: bytes in UTF-8, or in UTF-16 or UTF-32 with a mark, or text.
        kind: its syntax.
        source: the file's name for messages.
        folder: where its paths begin.
        prompt: serves jobs that have neither a prompt nor a caption; with `{caption}` in it, it wraps captions.

    Returns:
        The batch.

    Raises:
        InvalidBatch: with all that is wrong, in the order of the text.
    """
    report = _Report(source)
    planner = _Planner(report, folder, prompt)
    try:
        if len(text) > BATCH_LIMIT_BYTES:
            report.stop((1, 1), f"the batch is larger than {BATCH_LIMIT_BYTES >> 20} MiB; split it")
        told = _decoded(text, report) if isinstance(text, bytes) else text.removeprefix("\ufeff")
        planner.read(_SYNTAXES[kind](told, report))
    except _Stop:
        pass  # the problem that stopped it is in the report
    report.check()
    return Batch(planner.namer.planned, planner.output, source)


def from_images(images: Iterable[str], *, source: str, folder: Folder, prompt: str | None = None) -> Batch:
    """Makes a batch of a folder's images: a job each, with its caption as the prompt.

    Args:
        images: their names in the folder.
        source: the folder's name for messages.
        folder: gives the captions.
        prompt: as for `parse`.

    Returns:
        The batch; the jobs' `where` is the image's resolved path.

    Raises:
        InvalidBatch: with all that is wrong, in the order of the images.
    """
    report = _Report(source)
    planner = _Planner(report, folder, prompt)
    planner.read(_Images([(image, folder.resolve(image)) for image in images]))
    report.check()
    return Batch(planner.namer.planned, None, source)


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a batch file, for editors."""
    seed = {"type": ["integer", "string", "null"], "pattern": "^[+-]?[0-9]+$"}
    values: dict[str, dict[str, Any]] = {
        name: {"type": ["string", "null"]} for name in ("prompt", "image", "negative_prompt", "callback_url")
    }
    values |= {
        "resolution": {"enum": [*RESOLUTIONS, None]},
        "aspect_ratio": {"enum": [*ASPECT_RATIOS, None]},
        "seed": seed,
        "id": {"type": ["string", "integer", "null"]},
    }
    said = {name: {"description": _DESCRIPTIONS[name], **value} for name, value in values.items()}
    for name, default in (("resolution", "480P"), ("aspect_ratio", "Default"), ("seed", 42), ("negative_prompt", "")):
        said[name]["default"] = default
    said |= {alias: {**said[name], "description": f"Wiro's own name for `{name}`."} for alias, name in ALIASES.items()}
    fields = {name: value for name, value in said.items() if name != "id"}
    # A schema sees `image` and `inputImageUrl` as two fields; that they are one is left to the parser.
    axes = {name: {"type": "array", "minItems": 1, "items": value} for name, value in fields.items()}
    job = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **said,
            "matrix": {
                "description": "A job for every combination of these values, in the order written.",
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": axes,
            },
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A batch of clips for wan-async",
        "type": ["object", "array"],
        "additionalProperties": False,
        "required": ["jobs"],
        "properties": {
            "output": {
                "description": "The folder for the clips, relative to this file; `-o` overrides it.",
                "type": ["string", "null"],
            },
            "name": {
                "description": f"The clips' names, made from {', '.join(f'{{{name}}}' for name in NAME_FIELDS)}.",
                "type": ["string", "null"],
                "default": DEFAULT_NAME,
            },
            "model": {"description": "The one model that this program speaks to.", "enum": [MODEL, None]},
            "defaults": {
                "description": "What holds for each job that doesn't say otherwise.",
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": fields,
            },
            "jobs": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/job"}},
        },
        "minItems": 1,
        "items": {"$ref": "#/$defs/job"},
        "$defs": {"job": job},
    }


class _Stop(Exception):
    """Reading on makes no sense."""


class _Report:
    """Collects problems, wherever they are met, and gives them back in the order of the text."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: list[tuple[Spot, Problem]] = []

    @property
    def is_empty(self) -> bool:
        return not self._found

    def add(self, spot: Spot, message: str, where: str = "") -> None:
        self._found.append((spot, Problem(where or f"{self.source}:{spot[0]}:{spot[1]}", message)))

    def stop(self, spot: Spot, message: str) -> NoReturn:
        self.add(spot, message)
        raise _Stop

    def check(self) -> None:
        if self._found:
            raise InvalidBatch([problem for _, problem in sorted(self._found, key=lambda found: found[0])])


@dataclass(slots=True)
class _Row:
    """Values, where they begin, and what their syntax needs to find the place of one of them."""

    values: Any
    spot: Spot
    token: Any = None
    where: str = ""


class _Syntax(Protocol):
    def envelope(self) -> _Row | None: ...

    def rows(self) -> Iterable[_Row | None]:
        """The jobs; None where one could not be read, and was reported."""
        ...

    def spot(self, row: _Row, path: Path) -> Spot:
        """The place of a value, or of the nearest thing around it."""
        ...


class _Planner:
    """Knows what the values of a batch mean."""

    def __init__(self, report: _Report, folder: Folder, prompt: str | None) -> None:
        self.namer = Namer()
        self.output: str | None = None
        self._report = report
        self._folder = folder
        self._prompt = prompt or ""
        self._defaults: dict[str, Any] = {}
        self._captions: dict[str, str | None] = {}
        self._count = 0

    def read(self, document: _Syntax) -> None:
        envelope = document.envelope()
        if envelope is not None:
            self._read_envelope(document, envelope)
        index = -1
        for index, row in enumerate(document.rows()):
            if row is not None:
                self._plan_row(document, index, row)
        if index < 0 and self._report.is_empty:
            self._report.add((1, 1), "there are no jobs in it")

    def _read_envelope(self, document: _Syntax, row: _Row) -> None:
        values = row.values

        def wrong(path: Path, message: str) -> None:
            self._report.add(document.spot(row, path), f"{_said(path)}: {message}")

        for key in values:
            if key not in ENVELOPE:
                hint = "fields of a job belong into the list `jobs`" if ALIASES.get(key, key) in _FIELDS else ""
                wrong((key,), f"unknown key{f' ({hint})' if hint else suggestion(key, ENVELOPE)}")
        for key in ("output", "name", "model"):
            value = values.get(key)
            if value is None:
                continue
            if fault := fault_of_text(value) or (None if value.strip() else "is empty"):
                wrong((key,), fault + _braces(value))
            elif key == "output":
                self.output = value
            elif key == "model" and value != MODEL:
                wrong((key,), f"{shown(value)} is not the model that this program speaks to ({MODEL})")
            elif key == "name":
                try:
                    self.namer = Namer(value)
                except ValueError as error:
                    wrong((key,), str(error))
        defaults = values.get("defaults")
        if isinstance(defaults, dict):
            given, spelled = _canonical(defaults, _DEFAULTS, lambda path, message: wrong(("defaults", *path), message))
            for name, value in given.items():
                if wrongly := FAULTS[name](value):
                    wrong(("defaults", spelled[name]), wrongly + _braces(value))
                else:
                    self._defaults[name] = value
        elif defaults is not None:
            wrong(("defaults",), f"must be a mapping of fields, not {shown(defaults)}")
        if "jobs" in values and not isinstance(values["jobs"], list):
            wrong(("jobs",), f"must be a list of jobs, not {shown(values['jobs'])}")

    def _plan_row(self, document: _Syntax, index: int, row: _Row) -> None:
        sound = True

        def wrong(path: Path, message: str) -> None:
            nonlocal sound
            sound = False
            said = _said(path if row.where else ("jobs", index, *path))
            self._report.add(document.spot(row, path), f"{said}: {message}" if said else message, row.where)

        values = row.values
        if not isinstance(values, dict):
            wrong((), f"must be a mapping of fields such as prompt and image, not {shown(values)}")
            return
        spelled: dict[str, str] = {}
        if not values.keys() <= _PLAIN:
            values, spelled = _canonical(values, _FIELDS, wrong)
        fields = self._defaults.copy()
        for name, value in values.items():
            if value is None or name == "matrix" or (value == "" and name in _EMPTY):
                continue
            if name == "id" and type(value) is int:
                fields[name] = str(value)  # ids from a database
            elif fault := FAULTS[name](value):
                wrong((spelled.get(name, name),), fault + _braces(value))
            else:
                fields[name] = value
        axes: dict[str, list[Any]] = {}
        if values.get("matrix") is not None:
            axes = self._axes(values["matrix"], {name for name in fields if name in values}, wrong)
        image = fields.get("image")
        if image is not None and "image" not in axes:
            images = self._images(image)
            if images is None:
                fields["image"] = self._resolved(image)
            elif images:
                axes = {"image": images, **axes}
            else:
                wrong((spelled.get("image", "image"),), _no_match(image))
        count = prod(map(len, axes.values())) if axes else 1
        self._count += count
        if self._count > JOB_LIMIT:
            message = f"with the {count:,} jobs that it makes there are more than {JOB_LIMIT:,}; split the batch"
            self._report.stop(row.spot, f"{_said(('jobs', index))}: {message}")
        if not sound:
            return
        where = row.where or f"{self._report.source}:{row.spot[0]}:{row.spot[1]}"
        for combination in product(*axes.values()) if axes else ((),):
            found = self._plan_job(fields, dict(zip(axes, combination, strict=True)) if axes else {}, where)
            if found:
                name, message = found
                wrong((spelled.get(name, name),) if name in values or name == "prompt" else (), message)

    def _plan_job(self, fields: dict[str, Any], varied: dict[str, Any], where: str) -> tuple[str, str] | None:
        """Plans one job; answers the field and what is wrong with it, or None."""
        suffix = ""
        if varied:
            fields = fields | varied
            suffix = "".join(f"-{value}" for name, value in varied.items() if name != "image")
            if "id" in fields:
                stem = f"-{stem_of(varied['image'])}" if "image" in varied else ""
                fields["id"] = f"{fields['id']}{stem}{suffix}"
                if fault := FAULTS["id"](fields["id"]):
                    return "id", fault
        image: str | None = fields.get("image")
        prompt: str = fields.get("prompt", "")
        try:
            if not prompt.strip():
                prompt = self._prompt
                if _CAPTION not in prompt and (caption := self._caption(image)):
                    fields = fields | {"prompt": caption}
                    prompt = ""
                elif not prompt.strip():
                    beside = (
                        f", and {shown(image, whole=True)} has no caption beside it"
                        if image and not is_url(image)
                        else ""
                    )
                    return "prompt", f"is missing{beside}"
            if _CAPTION in prompt:
                caption = self._caption(image)
                if caption is None:
                    return "prompt", f"there is no {_CAPTION}: {_no_caption(image)}"
                prompt = prompt.replace(_CAPTION, caption)
        except ValueError as error:
            return "image", str(error)
        if prompt:
            fields["prompt"] = prompt
        collision = self.namer.plan(Job(**fields), where, suffix=suffix)
        return ("id", collision) if collision else None

    def _axes(self, matrix: object, given: Collection[str], wrong: Callable[[Path, str], None]) -> dict[str, list[Any]]:
        axes: dict[str, list[Any]] = {}
        if not isinstance(matrix, dict):
            wrong(("matrix",), f"must be a mapping of fields to lists of values, not {shown(matrix)}")
            return axes
        listed, spelled = _canonical(matrix, _DEFAULTS, lambda path, message: wrong(("matrix", *path), message))
        for name, values in listed.items():
            path: Path = ("matrix", spelled[name])
            if name in given:
                wrong(path, "is given outside of the matrix as well")
            elif not isinstance(values, list) or not values:
                wrong(path, f"must be a list of values, not {shown(values) if values != [] else 'an empty one'}")
            else:
                axes[name] = self._axis(name, values, path, wrong)
        return axes

    def _axis(self, name: str, values: list[Any], path: Path, wrong: Callable[[Path, str], None]) -> list[Any]:
        axis: dict[Any, None] = {}
        for index, value in enumerate(values):
            at = (*path, index)
            if fault := FAULTS[name](value) or ("is empty" if name in _EMPTY and not value.strip() else None):
                wrong(at, fault + _braces(value))
                continue
            read: list[Any] = [int(value) if name == "seed" else value]
            if name == "image":
                images = self._images(value)
                read = [self._resolved(value)] if images is None else images
                if not read:
                    wrong(at, _no_match(value))
            for one in read:
                if one in axis:
                    wrong(at, f"{shown(one)} stands here twice")
                axis[one] = None
        return list(axis)

    def _images(self, image: str) -> list[str] | None:
        """The images that a glob matches; None for what is no glob."""
        # A file may well be called `cat[1].png`: then that is what is meant.
        if not _GLOB.search(image) or is_url(image) or self._folder.exists(self._folder.resolve(image)):
            return None
        return self._folder.glob(image)

    def _resolved(self, image: str) -> str:
        return image if is_url(image) else self._folder.resolve(image)

    def _caption(self, image: str | None) -> str | None:
        if image is None or is_url(image):
            return None
        if image not in self._captions:
            self._captions[image] = self._folder.caption(image)
        return self._captions[image]


def _canonical(
    values: dict[Any, Any], allowed: Collection[str], wrong: Callable[[Path, str], None]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The values under the fields' own names, and how each was spelled."""
    given: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for key, value in values.items():
        name = ALIASES.get(key, key)
        if name not in allowed:
            wrong((key,), "can't stand here" if name in _FIELDS else f"unknown field{suggestion(key, allowed)}")
        elif value is None or (value == "" and name in _EMPTY):
            continue  # not given: the page's own samples leave one of the two image fields empty
        elif name in given:
            wrong((key,), f"is given already, as {shown(spelled[name])}")
        else:
            given[name], spelled[name] = value, key
    return given, spelled


def _said(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _braces(value: object) -> str:
    if isinstance(value, dict) and len(value) == 1 and None in value.values():
        return f' (in YAML, braces need quotes: "{{{next(iter(value))}}}")'
    return ""


def _not_a_batch(value: object) -> str:
    return f"a batch is a mapping or a list of jobs, not {shown(value)}"


def _no_match(pattern: str) -> str:
    return f"{shown(pattern, whole=True)} matches no image"


def _no_caption(image: str | None) -> str:
    if image is None:
        return "the job has no image"
    return "the image is a URL" if is_url(image) else f"{shown(image, whole=True)} has no .txt file beside it"


def _decoded(data: bytes, report: _Report) -> str:
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data[:2]:
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"  # as YAML and JSON tell it without a mark
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, errors="ignore").removeprefix("\ufeff")
        spot = before.count("\n") + 1, len(before) - before.rfind("\n")
        report.stop(spot, f"this is not {encoding.upper()} (byte 0x{data[error.start]:02x}); save the file as UTF-8")


class _Text:
    """A text, and the line and column of each offset into it."""

    def __init__(self, text: str, report: _Report) -> None:
        self._text = text
        self._report = report

    @cached_property
    def _ends(self) -> list[int]:
        return [match.start() for match in re.finditer("\n", self._text)]

    def _spot(self, offset: int) -> Spot:
        line = bisect_left(self._ends, offset)
        return line + 1, offset - (self._ends[line - 1] if line else -1)


class _Json(_Text):
    """JSON: by the C decoder for the values, and once more, member by member, for the places that are asked for."""

    def __init__(self, text: str, report: _Report) -> None:
        super().__init__(text, report)
        self._repeats = False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._mapping)
        start = _blank(text, 0)
        self._root = _Row(self._decode(text, start, 0), self._spot(start), start)

    def envelope(self) -> _Row | None:
        if isinstance(self._root.values, list):
            return None
        if not isinstance(self._root.values, dict):
            self._report.stop(self._root.spot, _not_a_batch(self._root.values))
        return self._root

    def rows(self) -> Iterator[_Row | None]:
        start = self._root.token
        if isinstance(self._root.values, dict):
            if not isinstance(self._root.values.get("jobs"), list):
                return
            start = self._find(self._text, start, ("jobs",))
        for _, _, at, value in self._members(self._text, start):
            yield _Row(value, self._spot(at), at)

    def spot(self, row: _Row, path: Path) -> Spot:
        return self._spot(self._find(self._text, row.token, path))

    def _mapping(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        self._repeats = self._repeats or len(values) != len(pairs)
        return values

    def _decode(self, text: str, start: int, offset: int) -> Any:
        """The value in `text`, which stands at `offset` of the whole; `_Stop` if there is none."""
        try:
            value, end = self._decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            self._report.stop(self._spot(offset + error.pos), f"not JSON: {error.msg[0].lower()}{error.msg[1:]}")
        except RecursionError:
            self._report.stop(self._spot(offset + start), "is nested too deep to be a batch")
        except ValueError:
            self._report.stop(self._spot(offset + start), "holds a number of thousands of digits")
        if end != len(text) and (end := _blank(text, end)) != len(text):
            self._report.stop(self._spot(offset + end), "not JSON: there is more after the end of the value")
        if self._repeats:
            self._report_repeats(text, start, offset)
            self._repeats = False
        return value

    def _report_repeats(self, text: str, start: int, offset: int, depth: int = 0) -> None:
        if depth == NESTING_LIMIT:
            self._report.stop(self._spot(offset + start), "is nested too deep to be a batch")
        seen = set()
        for key, key_at, at, value in self._members(text, start):
            if key in seen:
                self._report.add(self._spot(offset + key_at), f"{shown(key)} stands here twice")
            seen.add(key)
            if isinstance(value, dict | list):
                self._report_repeats(text, at, offset, depth + 1)

    def _members(self, text: str, start: int) -> Iterator[tuple[str | int, int, int, Any]]:
        """Key or index, its place, the value's place and the value, of an object or array that is sound JSON."""
        at = _blank(text, start + 1)
        index = 0
        while text[at] not in "]}":
            key: str | int = index
            key_at = at
            if text[start] == "{":
                key, at = self._decoder.raw_decode(text, at)
                at = _blank(text, _blank(text, at) + 1)
            value, end = self._decoder.raw_decode(text, at)
            yield key, key_at, at, value
            at = _blank(text, end)
            if text[at] == ",":
                at = _blank(text, at + 1)
            index += 1

    def _find(self, text: str, start: int, path: Path) -> int:
        for step in path:
            # The last of several equal keys is the one that counts.
            start = {key: at for key, _, at, _ in self._members(text, start)}.get(step, start)
        return start


class _JsonLines(_Json):
    """JSON Lines: a job a line. A bad line is a problem, the others are read all the same."""

    def __init__(self, text: str, report: _Report) -> None:
        _Text.__init__(self, text, report)
        self._repeats = False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._mapping)

    def envelope(self) -> None:
        return None

    def rows(self) -> Iterator[_Row | None]:
        start = 0
        number = 1
        while start < len(self._text):
            end = self._text.find("\n", start)
            end = len(self._text) if end < 0 else end
            line = self._text[start:end]
            first = 0 if line[:1] == "{" else _blank(line, 0)
            if first < len(line):
                try:
                    yield _Row(self._decode(line, first, start), (number, first + 1), start + first)
                except _Stop:
                    yield None
            start = end + 1
            number += 1


class _Csv(_Text):
    """CSV: a field a column, the first row names them. Commas, semicolons and tabs are told apart by that row."""

    def __init__(self, text: str, report: _Report) -> None:
        super().__init__(text, report)
        header = text.partition("\n")[0]
        separator = max(",;\t", key=header.count)
        self._cell = re.compile(
            rf'[ ]*(?:"((?:[^"]|"")*+)"[ ]*|(?!")([^{separator}\r\n]*))(?:({separator})|\r?\n|\r|\Z)'
        )

    def envelope(self) -> None:
        return None

    def rows(self) -> Iterator[_Row | None]:
        lines = self._lines()
        columns: list[str | None] = []
        for name, at in next(lines, []):
            known = ALIASES.get(name, name) in _PLAIN
            if not known and name:
                hint = " (a matrix can't be written in CSV)" if name == "matrix" else suggestion(name, FAULTS)
                self._report.add(self._spot(at), f"unknown column {shown(name)}{hint}")
            elif name in columns:
                self._report.add(self._spot(at), f"the column {shown(name)} stands here twice")
            columns.append(name if known else None)
        for cells in lines:
            if len(cells) > len(columns) and any(text for text, _ in cells[len(columns) :]):
                at = cells[len(columns)][1]
                self._report.add(self._spot(at), "has more cells than the header has columns; quote texts with commas")
                yield None
                continue
            given = {name: cell for name, cell in zip(columns, cells, strict=False) if name and cell[0]}
            values = {name: text for name, (text, _) in given.items()}
            yield _Row(values, self._spot(cells[0][1]), {name: at for name, (_, at) in given.items()})

    def spot(self, row: _Row, path: Path) -> Spot:
        return self._spot(row.token[path[0]]) if path and path[0] in row.token else row.spot

    def _lines(self) -> Iterator[list[tuple[str, int]]]:
        """The cells of each line that isn't blank, each with its place."""
        at = 0
        cells: list[tuple[str, int]] = []
        while at < len(self._text):
            match = self._cell.match(self._text, at)
            if match is None:
                spot = self._spot(at)
                self._report.stop(spot, "a quoted cell has no end, or goes on behind its closing quote")
            quoted = match[1]
            cells.append((match[2].strip() if quoted is None else quoted.replace('""', '"'), at))
            at = match.end()
            if match[3] is None:
                if any(text for text, _ in cells):
                    yield cells
                cells = []
        if any(text for text, _ in cells):
            yield cells


class _Table(dict[str, Any]):
    """A mapping of YAML, with the places of its values in their order."""

    __slots__ = ("marks",)
    marks: list[Any]


class _Items(list[Any]):
    """A list of YAML, with the places of its items."""

    __slots__ = ("marks",)
    marks: list[Any]


class _Yaml:
    """YAML, built from the parser's events: no scalar is resolved, no tag constructs anything, no alias is copied."""

    def __init__(self, text: str, report: _Report) -> None:
        import yaml  # not needed for the other syntaxes, and not cheap

        self._yaml = yaml
        self._report = report
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0
        self._aliased = 0
        try:
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
            self._next: Callable[[], Any] = loader.get_event
            try:
                self._root, self._mark = self._document()
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            hint = "texts that hold ': ' or ' #', or that begin with one of [ { * & ! | > % @ `, need quotes"
            report.stop(_place(mark) if mark else (1, 1), f"not YAML: {error.problem} ({hint})")
        except yaml.reader.ReaderError:
            match = yaml.reader.Reader.NON_PRINTABLE.search(text)
            at = match.start() if match else 0
            spot = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
            report.stop(spot, f"not YAML: it holds the character {text[at : at + 1]!a}")

    def envelope(self) -> _Row | None:
        if isinstance(self._root, _Items):
            return None
        if not isinstance(self._root, _Table):
            self._report.stop(_place(self._mark), _not_a_batch(self._root))
        return _Row(self._root, _place(self._mark))

    def rows(self) -> Iterator[_Row]:
        jobs = self._root.get("jobs") if isinstance(self._root, _Table) else self._root
        if isinstance(jobs, _Items):
            for value, mark in zip(jobs, jobs.marks, strict=True):
                yield _Row(value, _place(mark))

    def spot(self, row: _Row, path: Path) -> Spot:
        value, spot = row.values, row.spot
        for step in path:
            if isinstance(value, _Table) and step in value:
                spot = _place(value.marks[list(value).index(str(step))])
            elif isinstance(value, _Items) and isinstance(step, int):
                spot = _place(value.marks[step])
            else:
                break
            value = value[step]
        return spot

    def _document(self) -> tuple[Any, Any]:
        yaml = self._yaml
        self._next()
        event = self._next()
        if type(event) is yaml.StreamEndEvent:
            self._report.stop((1, 1), "there are no jobs in it")
        event = self._next()
        root = self._node(event, 0)
        self._next()
        after = self._next()
        if type(after) is not yaml.StreamEndEvent:
            self._report.stop(_place(after.start_mark), "a second document begins here; a batch is one")
        return root, event.start_mark

    def _node(self, event: Any, depth: int) -> Any:
        yaml = self._yaml
        kind = type(event)
        before = self._values
        self._values += 1
        value: Any
        if kind is yaml.ScalarEvent:
            value = None if event.implicit[0] and event.value in _NULLS else event.value
            if event.tag not in _TAGS:
                self._refuse(event)
        elif kind is yaml.AliasEvent:
            return self._alias(event)
        else:
            if depth == NESTING_LIMIT:
                self._report.stop(_place(event.start_mark), "is nested too deep to be a batch")
            if event.tag not in _TAGS:
                self._refuse(event)
            value = self._table(depth) if kind is yaml.MappingStartEvent else self._items(depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self._values - before
        return value

    def _refuse(self, event: Any) -> None:
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        self._report.add(_place(event.start_mark), f"tags such as {shown(tag)} have no meaning in a batch")

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            message = f"no &{event.anchor} stands before *{event.anchor} (a text that begins with * needs quotes)"
            self._report.stop(_place(event.start_mark), message)
        value, size = self._anchors[event.anchor]
        self._values += size
        self._aliased += size
        if self._aliased > ALIAS_LIMIT:
            self._report.stop(_place(event.start_mark), f"aliases stand for more than {ALIAS_LIMIT:,} values")
        return value

    def _items(self, depth: int) -> _Items:
        items = _Items()
        items.marks = marks = []
        event = self._next()
        while type(event) is not self._yaml.SequenceEndEvent:
            items.append(self._node(event, depth + 1))
            marks.append(event.start_mark)
            event = self._next()
        return items

    def _table(self, depth: int) -> _Table:
        yaml = self._yaml
        table = _Table()
        table.marks = marks = []
        merged: list[tuple[Any, Any]] = []
        event = self._next()
        while type(event) is not yaml.MappingEndEvent:
            mark = event.start_mark
            named = type(event) is yaml.ScalarEvent
            merges = named and event.value == "<<" and event.implicit[0]
            key = str(self._node(event, depth + 1) or event.value) if named else self._node(event, depth + 1)
            event = self._next()
            value = self._node(event, depth + 1)
            if merges:
                merged.append((value, mark))
            elif not named:
                self._report.add(_place(mark), f"a key must be text, not {shown(key)}")
            elif key in table:
                self._report.add(_place(mark), f"{shown(key)} stands here twice")
            else:
                table[key] = value
                marks.append(event.start_mark)
            event = self._next()
        for value, mark in merged:
            for source in value if isinstance(value, _Items) else [value]:
                if not isinstance(source, _Table):
                    self._report.add(_place(mark), f"<< takes in a mapping or a list of them, not {shown(source)}")
                    continue
                for (key, one), at in zip(source.items(), source.marks, strict=True):
                    if key not in table:
                        table[key] = one
                        marks.append(at)
        return table


class _Images:
    """A folder's images in place of a text: a row each."""

    def __init__(self, images: list[tuple[str, str]]) -> None:
        self._images = images

    def envelope(self) -> None:
        return None

    def rows(self) -> Iterator[_Row]:
        for number, (image, path) in enumerate(self._images, 1):
            yield _Row({"image": image}, (number, 1), where=path)

    def spot(self, row: _Row, path: Path) -> Spot:
        return row.spot


_SYNTAXES: dict[Kind, Callable[[str, _Report], _Syntax]] = {
    "yaml": _Yaml,
    "json": _Json,
    "jsonl": _JsonLines,
    "csv": _Csv,
}


def _blank(text: str, at: int) -> int:
    """Where the blanks that begin at `at` end."""
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _place(mark: Any) -> Spot:
    return mark.line + 1, mark.column + 1
