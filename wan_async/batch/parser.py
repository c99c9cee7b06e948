"""The text of a batch -> its jobs. All problems are reported at once, each with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

from wan_async.batch.base import Folder
from wan_async.batch.batch_defaults import BatchDefaults
from wan_async.batch.batch_defaults import Defaults as Defaults
from wan_async.batch.encoding import Undecodable, decoded
from wan_async.batch.field_names import FieldNames, braces_hint
from wan_async.batch.format_csv import Csv
from wan_async.batch.formats import SYNTAXES
from wan_async.batch.image_labels import apart
from wan_async.batch.invalid_batch import FaultsOfImages, Refused
from wan_async.batch.matrix_expansion import Expansion
from wan_async.batch.missing_values import LONGEST
from wan_async.batch.prompts import MissingText, Prompts
from wan_async.batch.row_problems import RowProblems, path_text
from wan_async.batch.schema import ENVELOPE
from wan_async.batch.syntax import Images, Kind, Path, Report, Row, Stop, Syntax
from wan_async.domain.batch import Batch, PlannedJob, name_by
from wan_async.domain.job import AnyJob, Job, content_hash, image_of
from wan_async.domain.naming import stem_of
from wan_async.domain.text import shown
from wan_async.domain.validation import fault_of_path, is_url
from wan_async.errors import InvalidBatch, Problem

BATCH_LIMIT_BYTES = 512 * 1024 * 1024
"""The size of a batch file at most."""
JOB_LIMIT = 1_000_000
"""Jobs in a batch at most, after globs and matrices."""


def parse(
    text: str | bytes,
    *,
    kind: Kind,
    source: str,
    folder: Folder,
    prompt: str | None = None,
    job: type[AnyJob] = Job,
    skip_bad: bool = False,
    defaults: Defaults = (),
) -> Batch:
    """Reads a batch.

    Args:
        text: what the file holds: bytes in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, or text.
        kind: its format.
        source: the file's name for messages.
        folder: where its paths begin.
        prompt: serves jobs that have neither a prompt nor a caption; with `{caption}` in it, it wraps captions.
        job: the jobs' class, which says what model they are for.
        skip_bad: leave out the jobs that something is wrong with, and go on with the rest.
        defaults: names and values of parameters for the jobs that don't give them; they come before the batch's own.

    Returns:
        The batch.

    Raises:
        InvalidBatch: with all problems, in the order of the text; with `skip_bad` only if one concerns more than a job,
            or no job is left.
    """

    def document(report: Report) -> Syntax:
        if len(text) > BATCH_LIMIT_BYTES:
            report.stop((1, 1), f"the batch is larger than {BATCH_LIMIT_BYTES >> 20} MiB; split it")
        content = _decoded(text, report) if isinstance(text, bytes) else text.removeprefix("\ufeff")
        if kind in ("csv", "tsv"):
            return Csv(content, report, job.model, separator="\t" if kind == "tsv" else "")
        return SYNTAXES[kind](content, report)

    return _planned(document, source, folder, prompt, job, skip_bad=skip_bad, defaults=defaults)


def from_images(
    images: Iterable[str],
    *,
    source: str,
    folder: Folder,
    prompt: str | None = None,
    job: type[AnyJob] = Job,
    skip_bad: bool = False,
    defaults: Defaults = (),
) -> Batch:
    """Makes a batch of a folder's images: a job each, with its caption as the prompt.

    Args:
        images: their resolved paths, in order.
        source: the folder's name for messages.
        folder: gives the captions.
        prompt: as for `parse`.
        job: as for `parse`.
        skip_bad: as for `parse`.
        defaults: as for `parse`.

    Returns:
        The batch; the jobs' `where` is the image's resolved path.

    Raises:
        InvalidBatch: with all problems, in the order of the images.
    """
    found = list(images)
    if not job.model.image_name:
        raise InvalidBatch([Problem(source, f"{job.model.name} takes no image: write a batch file")])
    images_of = Images(found, job.model.image_name)
    return _planned(
        lambda _: images_of, source, folder, prompt, job, apart(found), skip_bad=skip_bad, defaults=defaults
    )


def check_defaults(defaults: Defaults, folder: Folder, job: type[AnyJob] = Job) -> None:
    """Checks the defaults of the command line alone, before there is a batch.

    Raises:
        InvalidBatch: with every fault of them.
    """
    report = Report("")
    BatchDefaults(job.model, FieldNames(job.model), Prompts(folder, job.model, "")).read_given(defaults, report)
    report.check()


def _planned(
    document: Callable[[Report], Syntax],
    source: str,
    folder: Folder,
    prompt: str | None,
    job: type[AnyJob],
    stems: Mapping[str, str] | None = None,
    *,
    skip_bad: bool,
    defaults: Defaults,
) -> Batch:
    def read(fault_of_image: Callable[[str], str | None] | None) -> tuple[Report, _Planner]:
        report = Report(source)
        planner = _Planner(report, folder, prompt or "", job, stems or {}, fault_of_image)
        planner.envelope.read_given(defaults, report)
        with suppress(Stop):  # the problem that stopped it is in the report
            planner.read(document(report))
        return report, planner

    def problems_with(faults: Mapping[str, str]) -> list[Problem]:
        return read(faults.get)[0].problems()

    report, planner = read(None)  # the images of a sound batch are looked at when they are hashed
    envelope = planner.envelope
    batch = Batch(
        envelope.namer.planned,
        envelope.output,
        source,
        (*report.notices, *folder.notices(), *planner.notices()),
        left_out=tuple(report.problems()),
        left_out_jobs=planner.left_out,
        template=envelope.namer.template,
        problems_with=problems_with,
    )
    if not report.is_empty and (not skip_bad or report.concerns_all or not batch.jobs):
        looked_at = FaultsOfImages(folder)
        problems = read(looked_at.of)[0].problems()
        jobs = sorted([*batch.jobs, *planner.unsound], key=lambda one: one.index)
        bad = {path for path, fault in looked_at.found.items() if fault}
        sound = [] if report.concerns_all else [one for one in batch.jobs if image_of(one.job) not in bad]
        raise Refused(
            problems,
            replace(batch, jobs=jobs),
            looked_at.found,
            is_placed=envelope.is_sound,
            sound_jobs=len(sound),
        )
    return batch


class _Planner:
    """Interprets the values of a batch."""

    def __init__(
        self,
        report: Report,
        folder: Folder,
        prompt: str,
        job: type[AnyJob],
        stems: Mapping[str, str],
        fault_of_image: Callable[[str], str | None] | None,
    ) -> None:
        self._job, self._model = job, job.model
        self._names = FieldNames(job.model)
        self._image_name = job.model.image_name
        self._required = job.model.required[1:]  # but the prompt
        self._report = report
        self._folder = folder
        self._stems = stems
        self._fault_of_image = fault_of_image
        self._prompts = Prompts(folder, job.model, prompt)
        self._expansion = Expansion(folder, self._prompts, job.model)
        self.envelope = BatchDefaults(job.model, self._names, self._prompts)
        self.unsound: list[PlannedJob] = []
        self._reported: set[Problem] = set()
        self._count = 0
        self._next = 0
        self._repeated: dict[str, int] = {}

    @property
    def left_out(self) -> int:
        """How many jobs could not be planned."""
        return self._next - len(self.envelope.namer.planned)

    def notices(self) -> list[str]:
        """What the author of the batch should know, though nothing is wrong."""
        return [*self._expansion.notices(), *self._prompts.notices(), *self.envelope.notices()]

    def read(self, document: Syntax) -> None:
        """Plans the jobs of a document, and reports its problems."""
        if self._prompts.default_fault:
            self._report.add((1, 1), self._prompts.default_fault, "--prompt")
        envelope = document.envelope()
        if envelope is None:
            self.envelope.is_sound = True
        else:
            problems = RowProblems(self._report, document, envelope, ())
            if self._is_job(envelope.values):
                self.envelope.read({key: envelope.values[key] for key in ENVELOPE if key in envelope.values}, problems)
                values = {key: value for key, value in envelope.values.items() if key not in ENVELOPE}
                self._plan_row(envelope, 0, problems, values)
                return
            self.envelope.read(envelope.values, problems)
        index = -1
        for index, row in enumerate(document.rows()):
            if row is not None:
                prefix = () if row.where else ("jobs", index)
                self._plan_row(row, index, RowProblems(self._report, document, row, prefix, of_row=True), row.values)
            else:
                self._next += 1
        if index < 0 and self._report.is_empty:
            self._report.add((1, 1), "there are no jobs in it")

    def _is_job(self, values: Mapping[str, Any]) -> bool:
        """Whether a mapping is a batch of one job: it has the fields of a job, and no list of jobs."""
        return "jobs" not in values and any(self._names.name_of(key) for key in values if key not in ENVELOPE)

    def _plan_row(self, row: Row, index: int, problems: RowProblems, values: Any) -> None:
        first = self._next
        self._next += 1
        if not isinstance(values, dict):
            examples = " and ".join(list(self._model.by_name)[:2])
            problems.add((), f"must be a mapping of fields such as {examples}, not {shown(values)}")
            return
        spelled: dict[str, str] = {}
        if not values.keys() <= self._names.plain:
            values, spelled = self._names.canonical(values, self._names.job, problems.add_key)
        fields = self._fields(row, values, spelled, problems)
        axes: dict[str, list[Any]] = {}
        if values.get("matrix") is not None:
            given = {name for name in fields if name in values}
            matrix = spelled.get("matrix", "matrix")
            axes = self._expansion.axes(values["matrix"], given, problems.add, problems.add_key, matrix)
        if self.envelope.given:
            self.envelope.note_needed({*axes, *(name for name, value in values.items() if value is not None)})
        images, axes = self._images(row, fields, axes, spelled, problems)
        stems = apart(images) if axes and len(images) > 1 else self._stems
        if images:
            image_path: Path = (spelled.get(self._image_name, self._image_name),)
            if self._image_name in axes and values.get("matrix") is not None and self._image_name not in fields:
                image_path = (spelled.get("matrix", "matrix"), *image_path)
            self._check_images(images, image_path, problems)
        count = prod(map(len, axes.values())) if axes else 1
        self._count += count
        if self._count > JOB_LIMIT:
            message = f"with the {count:,} jobs that it makes there are more than {JOB_LIMIT:,}; split the batch"
            self._report.stop(row.spot, f"{path_text(('jobs', index))}: {message}")
        self._next = first + max(count, 1)
        where = row.where or self._report.where(row.spot)
        if not problems.is_sound:
            if not axes and not values.get("matrix"):
                self._name_unsound(fields.get("id"), images, where, first)
            return
        for place, combination in enumerate(product(*axes.values()) if axes else ((),), first):
            varied = dict(zip(axes, combination, strict=True)) if axes else {}
            found = self._plan_job(fields, varied, where, stems, place, in_file=not row.where)
            if found:
                name, message = found
                at = (spelled.get(name, name),) if name in values or name == self._model.prompt.name else ()
                problems.add(at, message)

    def _check_images(self, images: list[str], path: Path, problems: RowProblems) -> None:
        for image in images:
            if is_url(image):
                continue
            if fault := fault_of_path(image):
                problems.add(path, fault)
            elif self._fault_of_image is not None and (fault := self._fault_of_image(image)):
                problems.mention(path, fault)

    def _name_unsound(self, id_: str | None, images: list[str], where: str, index: int) -> None:
        """Notes a job that something is wrong with, if what its clip would be called is known all the same."""
        namer, image = self.envelope.namer, next(iter(images), None)
        stem = "" if image is None else self._stems.get(image) or stem_of(image)
        others = (*self._model.choices, *self._model.integers)
        is_path = image is None or is_url(image) or fault_of_path(image) is None
        if is_path and (label := id_ or stem) and not any(f"{{{name}}}" in namer.template for name in others):
            job = self._job(id=id_, **({self._image_name: image} if image is not None else {}))
            self.unsound.append(PlannedJob(index, job, name_by(namer.template, index, job, label, stem), label, where))

    def _fields(
        self, row: Row, values: dict[str, Any], spelled: Mapping[str, str], problems: RowProblems
    ) -> dict[str, Any]:
        """The sound ones among the values of a row, and the defaults for the rest."""
        fields = self.envelope.defaults.copy()
        for name, value in values.items():
            if value is None or name == "matrix" or (value == "" and name in self._names.optional_texts):
                continue
            if name == "id" and type(value) is int:
                fields[name] = str(value)  # ids from a database
            elif row.where:
                fields[name] = value  # the path of a file that was found, whatever it looks like
            elif fault := self._model.checks[name](value):
                problems.add((spelled.get(name, name),), fault + braces_hint(value))
            elif name in self._model.texts and ("{" in value or len(value) <= LONGEST):
                if fault := self._prompts.fault_of(name, value):
                    problems.add((spelled.get(name, name),), fault)
                    continue
                if self._prompts.missing.may_be(value):
                    self._prompts.missing.note(value, problems.where((spelled.get(name, name),)))
                fields[name] = value
            else:
                fields[name] = value
        return fields

    def _images(
        self,
        row: Row,
        fields: dict[str, Any],
        axes: dict[str, list[Any]],
        spelled: Mapping[str, str],
        problems: RowProblems,
    ) -> tuple[list[str], dict[str, list[Any]]]:
        """The images of a row, and its axes, among which a glob is the first. Resolves the path in `fields`."""
        name = self._image_name
        image = fields.get(name)
        if row.where:
            return [fields[name]], axes  # found in a folder
        if image is None or name in axes:
            return axes.get(name, []), axes
        images = self._expansion.images(image)
        if images is None:
            fields[name] = self._expansion.resolved(image)
            return [fields[name]], axes
        if images:
            return images, {name: images, **axes}
        problems.add((spelled.get(name, name),), self._expansion.no_match(image))
        return [], axes

    def _plan_job(
        self,
        fields: dict[str, Any],
        varied: dict[str, Any],
        where: str,
        stems: Mapping[str, str],
        index: int,
        *,
        in_file: bool,
    ) -> tuple[str, str] | None:
        """Plans one job; returns the field at fault and what is wrong with it, or None."""
        suffix, image_name = "", self._image_name
        image: str | None = varied.get(image_name, fields.get(image_name))
        stem = stems.get(image) if image is not None else None
        if varied:
            fields = fields | varied
            suffix = "".join(f"-{value}" for name, value in varied.items() if name != image_name)
            if "id" in fields:
                between = f"-{stem or stem_of(varied[image_name])}" if image_name in varied else ""
                fields["id"] = f"{fields['id']}{between}{suffix}"
                if fault := self._model.checks["id"](fields["id"]):
                    return "id", fault
        try:
            fields = self._prompts.completed(fields, number=index + 1, suffix=suffix, stem=stem)
        except MissingText as error:
            return error.field, str(error)
        except InvalidBatch as error:
            self._report_once(error.problems)
            return None
        except ValueError as error:
            return image_name, str(error)
        for name in self._required:
            if fields.get(name) in (None, "") and self._model.by_name[name].default in (None, ""):
                return name, "is missing"
        job = self._job(**fields)
        advice = "give one of them another id" if in_file else "rename one of them"
        collision = self.envelope.namer.plan(job, where, suffix=suffix, index=index, stem=stem, advice=advice)
        if collision and in_file and job.id is None and "{id}" in self.envelope.namer.template:
            content = content_hash(job, image or "")
            suffix = f"{suffix}-{content_hash(job, '')[:8]}" if image else suffix
            while collision:  # the content is that of another job as well, or of many
                number = self._repeated[content] = self._repeated.get(content, 0) + 1
                end = f"-{number}" if number > 1 else ""
                collision = self.envelope.namer.plan(job, where, suffix=f"{suffix}{end}", index=index, stem=stem)
        return ("id", collision) if collision else None

    def _report_once(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            if problem not in self._reported:
                self._reported.add(problem)
                self._report.add((1, 1), problem.message, problem.where)


def _decoded(data: bytes, report: Report) -> str:
    try:
        return decoded(data)
    except Undecodable as error:
        report.stop((error.line, error.column), str(error))
