"""From the text of a batch to its jobs; all problems at once, each with `file:line:column`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from itertools import product
from math import prod
from typing import Any, Protocol

from wan_async.batch import placeholders
from wan_async.batch.encoding import Undecodable, decoded
from wan_async.batch.format_csv import Csv
from wan_async.batch.formats import SYNTAXES
from wan_async.batch.labels import apart
from wan_async.batch.schema import ENVELOPE
from wan_async.batch.syntax import Images, Kind, Path, Report, Row, Stop, Syntax
from wan_async.domain.batch import Batch, Namer
from wan_async.domain.job import AnyJob, Job
from wan_async.domain.model import Model
from wan_async.domain.naming import stem_of
from wan_async.domain.text import shown, suggestion
from wan_async.domain.validation import fault_of_path, fault_of_prompt, fault_of_text, is_url
from wan_async.errors import InvalidBatch, Problem

BATCH_LIMIT_BYTES = 512 * 1024 * 1024
"""The size of a batch file at most."""
JOB_LIMIT = 1_000_000
"""Jobs in a batch at most, after globs and matrices."""

_CAPTION = "{caption}"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_GLOB = re.compile(r"[*?\[]")
_SINGLE = re.compile(r"\[([^\]!])\]")
_CHOICE = re.compile(r"\[[^\]][^\]]+\]")  # brackets in which there is something to choose from
_SHOWN_BRACES = 5


class Folder(Protocol):
    """What a batch asks of the folder that it lies in."""

    def glob(self, pattern: str) -> list[str]:
        """The images that match, in natural order, as paths that `resolve` would give."""
        ...

    def caption(self, image: str) -> str | None:
        """The stripped text that belongs to an image (a resolved path), None without one.

        Raises:
            ValueError: with what is wrong with it.
            InvalidBatch: with all that is wrong in a list of captions.
        """
        ...

    def no_caption(self, image: str) -> str:
        """Why an image has no caption, in words."""
        ...

    def resolve(self, path: str) -> str:
        """A path of the batch, as the rest of the program can open it."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is anything at a resolved path; there is not at a text that can't be a path."""
        ...

    def notices(self) -> list[str]:
        """What its globs left out, and why."""
        ...

    def fault(self, image: str) -> str | None:
        """What keeps an image (a resolved path) from being uploaded, or None."""
        ...


def parse(
    text: str | bytes,
    *,
    kind: Kind,
    source: str,
    folder: Folder,
    prompt: str | None = None,
    job: type[AnyJob] = Job,
) -> Batch:
    """Reads a batch.

    Args:
        text: what the file holds: bytes in UTF-8, or in UTF-16 or UTF-32 with a mark, or text.
        kind: its syntax.
        source: the file's name for messages.
        folder: where its paths begin.
        prompt: serves jobs that have neither a prompt nor a caption; with `{caption}` in it, it wraps captions.
        job: the jobs' class, which says what model they are for.

    Returns:
        The batch.

    Raises:
        InvalidBatch: with all that is wrong, in the order of the text.
    """

    def document(report: Report) -> Syntax:
        if len(text) > BATCH_LIMIT_BYTES:
            report.stop((1, 1), f"the batch is larger than {BATCH_LIMIT_BYTES >> 20} MiB; split it")
        told = _decoded(text, report) if isinstance(text, bytes) else text.removeprefix("\ufeff")
        return Csv(told, report, job.model) if kind == "csv" else SYNTAXES[kind](told, report)

    return _planned(document, source, folder, prompt, job)


def from_images(
    images: Iterable[str], *, source: str, folder: Folder, prompt: str | None = None, job: type[AnyJob] = Job
) -> Batch:
    """Makes a batch of a folder's images: a job each, with its caption as the prompt.

    Args:
        images: their resolved paths, in order.
        source: the folder's name for messages.
        folder: gives the captions.
        prompt: as for `parse`.
        job: as for `parse`.

    Returns:
        The batch; the jobs' `where` is the image's resolved path.

    Raises:
        InvalidBatch: with all that is wrong, in the order of the images.
    """
    found = list(images)
    if not job.model.image_name:
        raise InvalidBatch([Problem(source, f"{job.model.name} takes no image: write a batch file")])
    return _planned(lambda _: Images(found, job.model.image_name), source, folder, prompt, job, apart(found))


def _planned(
    document: Callable[[Report], Syntax],
    source: str,
    folder: Folder,
    prompt: str | None,
    job: type[AnyJob],
    stems: Mapping[str, str] | None = None,
) -> Batch:
    def read(*, look_at_images: bool) -> tuple[Report, _Planner]:
        report = Report(source)
        planner = _Planner(report, folder, prompt, job, stems or {}, look_at_images=look_at_images)
        with suppress(Stop):  # the problem that stopped it is in the report
            planner.read(document(report))
        return report, planner

    report, planner = read(look_at_images=False)
    if not report.is_empty:
        report, planner = read(look_at_images=True)
    report.check()
    return Batch(planner.namer.planned, planner.output, source, (*folder.notices(), *planner.notices()))


class _Unfilled(Exception):
    """A placeholder that there is no value for."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class _Planner:
    """Knows what the values of a batch mean."""

    def __init__(
        self,
        report: Report,
        folder: Folder,
        prompt: str | None,
        job: type[AnyJob],
        stems: Mapping[str, str],
        *,
        look_at_images: bool,
    ) -> None:
        model = self._model = job.model
        self._job = job
        self._checks = model.checks
        self._image_name, self._prompt_name = model.image_name, model.prompt.name
        self._plain = frozenset(model.checks)
        self._fields = _Fields(model, (*model.checks, "matrix"))
        self._default_fields = _Fields(model, tuple(name for name in model.checks if name != "id"))
        self.namer = Namer(model=model)
        self.output: str | None = None
        self._report = report
        self._folder = folder
        self._prompt = prompt or ""
        self._stems = stems
        self._look_at_images = look_at_images
        self._defaults: dict[str, Any] = {}
        self._captions: dict[str, str | None] = {}
        self._told: set[Problem] = set()
        self._braces: dict[str, None] = {}
        self._patterns: dict[str, None] = {}
        self._count = 0

    def notices(self) -> list[str]:
        """What the author should know, though nothing is wrong."""
        found = [f"{shown(pattern, whole=True)} is taken for a pattern" for pattern in self._patterns]
        if self._braces:
            examples = ", ".join(shown(text) for text in list(self._braces)[:_SHOWN_BRACES])
            more = len(self._braces) - _SHOWN_BRACES
            fields = ", ".join(f"{{{name}}}" for name in self._model.prompt_placeholders)
            found.append(
                f"in prompts, {examples}{f' and {more} more' if more > 0 else ''} "
                f"{'is' if len(self._braces) == 1 else 'are'} sent as written; what is filled in is {fields}"
            )
        return found

    def read(self, document: Syntax) -> None:
        if fault := self._fault(self._prompt_name, self._prompt):
            self._report.add((1, 1), fault, "--prompt")
            self._prompt = "-"  # so that what else is wrong is told as well
        envelope = document.envelope()
        if envelope is not None:
            self._read_envelope(document, envelope)
        index = -1
        for index, row in enumerate(document.rows()):
            if row is not None:
                self._plan_row(document, index, row)
        if index < 0 and self._report.is_empty:
            self._report.add((1, 1), "there are no jobs in it")

    def _read_envelope(self, document: Syntax, row: Row) -> None:
        values = row.values

        def wrong(path: Path, message: str) -> None:
            self._report.add(document.spot(row, path), f"{_said(path)}: {message}")

        for key in values:
            if key not in ENVELOPE:
                hint = "fields of a job belong into the list `jobs`" if self._fields.knows(key) else ""
                wrong((key,), f"unknown key{f' ({hint})' if hint else suggestion(key, ENVELOPE)}")
        for key in ("output", "name", "model"):
            value = values.get(key)
            if value is None:
                continue
            if fault := fault_of_text(value) or (None if value.strip() else "is empty"):
                wrong((key,), fault + _braces(value))
            elif key == "output" and _CONTROL.search(value):
                wrong((key,), f"{shown(value)} is not a path")
            elif key == "output":
                self.output = value
            elif key == "model" and value != self._model.name:
                wrong((key,), f"{shown(value)} is not the model that this program speaks to ({self._model.name})")
            elif key == "name":
                try:
                    self.namer = Namer(value, self._model)
                except ValueError as error:
                    wrong((key,), str(error))
        defaults = values.get("defaults")
        if isinstance(defaults, dict):
            given, spelled = self._default_fields.canonical(
                defaults, lambda path, message: wrong(("defaults", *path), message)
            )
            for name, value in given.items():
                if wrongly := self._fault(name, value):
                    wrong(("defaults", spelled[name]), wrongly + _braces(value))
                else:
                    self._defaults[name] = value
        elif defaults is not None:
            wrong(("defaults",), f"must be a mapping of fields, not {shown(defaults)}")
        if "jobs" in values and not isinstance(values["jobs"], list):
            wrong(("jobs",), f"must be a list of jobs, not {shown(values['jobs'])}")

    def _plan_row(self, document: Syntax, index: int, row: Row) -> None:
        sound = True

        def tell(path: Path, message: str) -> None:
            said = _said(path if row.where else ("jobs", index, *path))
            self._report.add(document.spot(row, path), f"{said}: {message}" if said else message, row.where)

        def wrong(path: Path, message: str) -> None:
            nonlocal sound
            sound = False
            tell(path, message)

        values = row.values
        if not isinstance(values, dict):
            wrong(
                (), f"must be a mapping of fields such as {' and '.join(list(self._checks)[:2])}, not {shown(values)}"
            )
            return
        spelled: dict[str, str] = {}
        if not values.keys() <= self._plain:
            values, spelled = self._fields.canonical(values, wrong)
        fields = self._defaults.copy()
        for name, value in values.items():
            if value is None or name == "matrix" or (value == "" and name in self._fields.empty):
                continue
            if name == "id" and type(value) is int:
                fields[name] = str(value)  # ids from a database
            elif row.where:
                fields[name] = value  # a file that was found, whatever its name looks like
            elif fault := self._checks[name](value):
                wrong((spelled.get(name, name),), fault + _braces(value))
            elif type(value) is str and "{" in value and (fault := self._fault(name, value)):
                wrong((spelled.get(name, name),), fault)
            else:
                fields[name] = value
        axes: dict[str, list[Any]] = {}
        if values.get("matrix") is not None:
            axes = self._axes(values["matrix"], {name for name in fields if name in values}, wrong)
        image_name = self._image_name
        image = fields.get(image_name)
        sought = axes.get(image_name, [])
        stems = self._stems
        if row.where:
            sought = [image]
        elif image is not None and image_name not in axes:
            images = self._images(image)
            if images is None:
                fields[image_name] = self._resolved(image)
                sought = [fields[image_name]]
            elif images:
                sought = images
                axes = {image_name: images, **axes}
            else:
                wrong((spelled.get(image_name, image_name),), _no_match(image))
        if axes and len(sought) > 1:
            stems = apart(sought)
        for one in sought:
            if is_url(one):
                continue
            at = (spelled.get(image_name, image_name),) if image_name in values else ()
            if fault := fault_of_path(one):
                wrong(at, fault)
            elif self._look_at_images and (fault := self._folder.fault(one)):
                tell(at, fault)
        count = prod(map(len, axes.values())) if axes else 1
        self._count += count
        if self._count > JOB_LIMIT:
            message = f"with the {count:,} jobs that it makes there are more than {JOB_LIMIT:,}; split the batch"
            self._report.stop(row.spot, f"{_said(('jobs', index))}: {message}")
        if not sound:
            return
        where = row.where or f"{self._report.source}:{row.spot[0]}:{row.spot[1]}"
        for combination in product(*axes.values()) if axes else ((),):
            varied = dict(zip(axes, combination, strict=True)) if axes else {}
            found = self._plan_job(fields, varied, where, stems, in_file=not row.where)
            if found:
                name, message = found
                wrong((spelled.get(name, name),) if name in values or name == self._prompt_name else (), message)

    def _plan_job(
        self, fields: dict[str, Any], varied: dict[str, Any], where: str, stems: Mapping[str, str], *, in_file: bool
    ) -> tuple[str, str] | None:
        """Plans one job; answers the field and what is wrong with it, or None."""
        suffix, image_name, prompt_name = "", self._image_name, self._prompt_name
        image: str | None = varied.get(image_name, fields.get(image_name))
        stem = stems.get(image) if image is not None else None
        if varied:
            fields = fields | varied
            suffix = "".join(f"-{value}" for name, value in varied.items() if name != image_name)
            if "id" in fields:
                between = f"-{stem or stem_of(varied[image_name])}" if image_name in varied else ""
                fields["id"] = f"{fields['id']}{between}{suffix}"
                if fault := self._checks["id"](fields["id"]):
                    return "id", fault
        prompt: str = fields.get(prompt_name, "")
        try:
            if not prompt.strip():
                prompt = self._prompt
                if _CAPTION not in prompt and (caption := self._caption(image)):
                    fields = fields | {prompt_name: caption}
                    prompt = ""
                elif not prompt.strip():
                    beside = f", and {self._folder.no_caption(image)}" if image and not is_url(image) else ""
                    return prompt_name, f"is missing{beside}"
            if prompt:
                fields[prompt_name] = prompt
            if "{" in prompt:
                fields = fields | {prompt_name: self._filled(fields, prompt_name, suffix, stem)}
            for name in self._model.texts[1:]:
                if "{" in fields.get(name, ""):
                    fields = fields | {name: self._filled(fields, name, suffix, stem)}
        except _Unfilled as error:
            return error.field, str(error)
        except InvalidBatch as error:
            self._tell_once(error.problems)
            return None
        except ValueError as error:
            return image_name, str(error)
        for name in self._model.required[1:]:
            if fields.get(name) in (None, "") and self._model.by_name[name].default in (None, ""):
                return name, "is missing"
        advice = "give one of them another id" if in_file else "rename one of them"
        if in_file and stem is not None:
            advice = "rename one of them, or give each a job of its own, with an id"
        collision = self.namer.plan(self._job(**fields), where, suffix=suffix, stem=stem, advice=advice)
        return ("id", collision) if collision else None

    def _filled(self, fields: dict[str, Any], name: str, suffix: str, stem: str | None) -> str:
        """A prompt with its placeholders filled in.

        Raises:
            _Unfilled: there is no value for one of them.
            ValueError: as `Folder.caption`.
        """
        template: str = fields[name]
        image: str | None = fields.get(self._image_name)
        known = self._model.prompt_placeholders
        if stem is None and image:
            stem = stem_of(image)
        wanted = placeholders.fields_in(template, known)
        values = {"index": str(len(self.namer.planned) + 1)}
        for integer in wanted.intersection(self._model.integers):
            given = fields.get(integer, self._model.by_name[integer].default)
            if given is None:
                raise _Unfilled(name, f"there is no {{{integer}}}: the job doesn't give it")
            values[integer] = str(int(given))
        if "stem" in wanted:
            if not stem:
                raise _Unfilled(name, "there is no {stem}: the job has no image")
            values["stem"] = stem
        if "id" in wanted:
            if not stem and "id" not in fields:
                raise _Unfilled(name, "there is no {id}: the job has neither an id nor an image")
            values["id"] = fields.get("id") or f"{stem}{suffix}"
        if "caption" in wanted:
            caption = self._caption(image)
            if not caption:
                raise _Unfilled(name, f"there is no {_CAPTION}: {self._no_caption(image)}")
            values["caption"] = caption
        text = placeholders.filled(template, known, values.__getitem__)
        if fault := fault_of_prompt(text):
            raise _Unfilled(name, f"{fault} once its placeholders are filled in")
        return text

    def _tell_once(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            if problem not in self._told:
                self._told.add(problem)
                self._report.add((1, 1), problem.message, problem.where)

    def _fault(self, name: str, value: Any) -> str | None:
        """What is wrong with a field's value as its author wrote it."""
        if fault := self._checks[name](value):
            return fault
        if name not in self._model.texts or "{" not in value:
            return None
        for text in placeholders.others_in(value, self._model.prompt_placeholders):
            self._braces[text] = None
        return placeholders.fault_of_placeholders(value, self._model.prompt_placeholders)

    def _axes(self, matrix: object, given: Collection[str], wrong: Callable[[Path, str], None]) -> dict[str, list[Any]]:
        axes: dict[str, list[Any]] = {}
        if not isinstance(matrix, dict):
            wrong(("matrix",), f"must be a mapping of fields to lists of values, not {shown(matrix)}")
            return axes
        listed, spelled = self._default_fields.canonical(
            matrix, lambda path, message: wrong(("matrix", *path), message)
        )
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
            if fault := self._fault(name, value) or (
                "is empty" if name in self._fields.empty and not value.strip() else None
            ):
                wrong(at, fault + _braces(value))
                continue
            read: list[Any] = [int(value) if name in self._model.integers else value]
            if name == self._image_name:
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
        if "*" not in image and "?" not in image:
            if not _CHOICE.search(image):
                return []  # browsers call files so; a pattern that can match but one name is none
            self._patterns[image] = None
        return self._folder.glob(image)

    def _resolved(self, image: str) -> str:
        return image if is_url(image) else self._folder.resolve(image)

    def _caption(self, image: str | None) -> str | None:
        if image is None or is_url(image):
            return None
        if image not in self._captions:
            caption = self._folder.caption(image)
            if caption and (fault := fault_of_prompt(caption)):
                raise ValueError(f"its caption {fault}")
            self._captions[image] = caption
            if caption and "{" in caption:
                self._braces.update(dict.fromkeys(placeholders.others_in(caption, self._model.prompt_placeholders)))
        return self._captions[image]

    def _no_caption(self, image: str | None) -> str:
        if image is None:
            return "the job has no image"
        return "the image is a URL" if is_url(image) else self._folder.no_caption(image)


class _Fields:
    """The fields that may be given somewhere in a batch.

    Args:
        model: the model that the batch is for.
        allowed: their names.
    """

    def __init__(self, model: Model, allowed: Collection[str]) -> None:
        self.empty = frozenset({model.image_name, model.prompt.name})  # where an empty text is as good as none
        self._allowed = allowed
        self._known = (*model.checks, "matrix")
        self._aliases = model.aliases

    def knows(self, key: str) -> bool:
        """Whether the key is a field, or an alias of one."""
        return self._aliases.get(key, key) in self._known

    def canonical(
        self, values: dict[Any, Any], wrong: Callable[[Path, str], None]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The values under the fields' own names, and how each was spelled."""
        given: dict[str, Any] = {}
        spelled: dict[str, str] = {}
        for key, value in values.items():
            name = self._aliases.get(key, key)
            if name not in self._allowed:
                hint = "can't stand here" if self.knows(key) else f"unknown field{suggestion(key, self._allowed)}"
                wrong((key,), hint)
            elif value is None or (value == "" and name in self.empty):
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


def _no_match(pattern: str) -> str:
    meant = _SINGLE.sub(r"\1", pattern)
    if meant != pattern and not _GLOB.search(meant):
        return f"{shown(pattern, whole=True)} doesn't exist (its brackets match but {shown(meant)}: is that meant?)"
    return f"{shown(pattern, whole=True)} matches no image"


def _decoded(data: bytes, report: Report) -> str:
    try:
        return decoded(data)
    except Undecodable as error:
        report.stop((error.line, error.column), str(error))
