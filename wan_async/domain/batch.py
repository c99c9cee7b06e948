"""Batches: jobs in order, the names of their clips, and their keys. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from wan_async.domain.job import KEY_DIGITS, AnyJob, content_hash, image_of, job_stem
from wan_async.domain.model import WAN, Model
from wan_async.domain.naming import folded, safe_name
from wan_async.domain.text import shown, suggestion
from wan_async.errors import InvalidBatch, Problem

DEFAULT_NAME = "{id}"

_FIELD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job with its place in a batch.

    Attributes:
        index: its place in the batch, from 0.
        job: what to render; a local image's path is already resolved.
        name: its clip's file name without the extension.
        label: the value of `{id}`: the job's `id`, or a name derived from its image or content. `--only` matches it.
        where: `file:line:column`; the image's path for a folder; "" for a job made in Python.
    """

    index: int
    job: AnyJob
    name: str
    label: str
    where: str


@dataclass(frozen=True, slots=True)
class Batch:
    """The contents of a batch.

    Attributes:
        jobs: in the order of the batch.
        output: the output folder as written in the batch file, relative to that file; or None.
        source: what the batch was read from, for messages.
        notices: remarks for its author that are not errors.
        left_out: what is wrong with the jobs that were left out, because bad ones are to be skipped.
        left_out_jobs: how many those are.
        template: of the clips' names.
        problems_with: all problems, each at its place, if these images (by path) have these faults; None for a batch
            that was made in Python.
    """

    jobs: list[PlannedJob] = field(repr=False)  # of a hundred thousand jobs it would be 70 MB
    output: str | None
    source: str
    notices: tuple[str, ...] = ()
    left_out: tuple[Problem, ...] = field(default=(), repr=False)
    left_out_jobs: int = 0
    template: str = DEFAULT_NAME
    problems_with: Callable[[Mapping[str, str]], list[Problem]] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Enlisted:
    """A planned job with its identity, which needs the hash of its image.

    Attributes:
        planned: the job and its place.
        key: the job's key in the journal, unique in the batch.
        content: the hash of all that shapes the clip: 64 hex digits.
        image: `sha256:...` of a local image, `url:...`, or "" for none.
    """

    planned: PlannedJob
    key: str
    content: str
    image: str


def from_jobs(jobs: Iterable[AnyJob], name: str = DEFAULT_NAME) -> Batch:
    """Make a batch of jobs that were made in Python.

    Args:
        jobs: the jobs of one model, in order.
        name: the template of the clips' names, see `Namer`.

    Returns:
        The batch.

    Raises:
        InvalidBatch: with all problems of all jobs.
    """
    jobs = list(jobs)
    model = jobs[0].model if jobs else WAN
    try:
        namer = Namer(name, model)
    except ValueError as error:
        raise InvalidBatch([Problem("", f"name: {error}")]) from None
    problems: list[Problem] = []
    for index, job in enumerate(jobs):
        faults = job.problems()
        if job.model is not model:
            faults.insert(0, ("model", f"is {job.model.name}, that of the first job {model.name}: a batch has one"))
        problems += [Problem("", f"jobs[{index}].{field}: {fault}") for field, fault in faults]
        collision = namer.plan(job, "", index=index) if not faults else None
        if collision:
            problems.append(Problem("", f"jobs[{index}]: {collision}"))
    if problems:
        raise InvalidBatch(problems)
    return Batch(namer.planned, None, "", template=name)


def enlist(
    batch: Batch, digests: Mapping[str, str], originals: Mapping[str, str] = MappingProxyType({})
) -> list[Enlisted]:
    """Compute key and content of every job of a batch.

    The key is the `id`, or else the first `KEY_DIGITS` digits of the content. Exact repetitions get the suffixes `-2`,
    `-3` and so on.

    Args:
        batch: the batch.
        digests: the sha256 of each local image, by the path that the job has.
        originals: for images that are converted copies, what stands for them in contents in place of their hash.

    Returns:
        The jobs in the order of the batch.

    Raises:
        InvalidBatch: if an image has no digest, or one `id` stands for two different contents.
    """
    problems: list[Problem] = []
    # Given ids first: a generated key must never take one of them.
    taken: dict[str, Enlisted | None] = {planned.job.id: None for planned in batch.jobs if planned.job.id is not None}
    numbers: dict[str, int] = {}
    enlisted = []
    for planned in batch.jobs:
        job = planned.job
        image, source = "", image_of(job)
        if source is not None and job.image_is_url:
            image = f"url:{source}"
        elif source is not None:
            if source not in digests:
                field = f"jobs[{planned.index}].{job.model.image_name}"
                problems.append(Problem(planned.where, f"{field}: {shown(source, whole=True)} was not read"))
                continue
            image = f"sha256:{digests[source]}"
        content = content_hash(job, originals.get(source, image) if source is not None else image)
        key = content[:KEY_DIGITS] if job.id is None else job.id
        if job.id is not None and (first := taken[key]) is not None and first.content != content:
            place = first.planned.where or f"jobs[{first.planned.index}]"
            message = f"jobs[{planned.index}].id: {shown(key)} is the id of another job as well, at {place}"
            problems.append(Problem(planned.where, message))
            continue
        if key in taken and (job.id is None or taken[key] is not None):
            stem = key
            number = numbers.get(stem, 1)
            while key in taken:
                number += 1
                key = f"{stem}-{number}"
            numbers[stem] = number
        taken[key] = one = Enlisted(planned, key, content, image)
        enlisted.append(one)
    if problems:
        raise InvalidBatch(problems)
    return enlisted


class Namer:
    r"""Numbers the jobs of a batch and names their clips.

    A template holds text and the fields `{id}`, `{stem}`, `{index}` (from 1; `{index:04}` pads it), and the model's
    integers and choices: `{seed}`, `{resolution}`. The result is a single name: `/` and `\` become `-`, never folders,
    since a clip, its sidecar and its part are in one folder.

    For a job without an id, `{id}` is the image's stem, or `text-` and 8 hex digits of its content (16 if those collide
    with another content's, which happens by chance in batches of 100,000); then `suffix` follows.

    Args:
        template: the template.
        model: whose jobs are named.

    Raises:
        ValueError: if it holds a field that doesn't exist.

    Attributes:
        planned: the jobs so far.
        template: the template.
    """

    def __init__(self, template: str = DEFAULT_NAME, model: Model = WAN) -> None:
        if not template.strip():
            raise ValueError("is empty")
        self.planned: list[PlannedJob] = []
        self._taken: dict[str, PlannedJob] = {}
        self.template: str = template
        for match in _FIELD.finditer(template):
            field, _, width = match[1].partition(":")
            if field not in model.name_placeholders:
                hint = suggestion(field, model.name_placeholders)
                raise ValueError(f"{shown(match[0])} is not a field of a name{hint}")
            if ":" in match[1] and not (field == "index" and re.fullmatch("0[1-9]", width)):
                raise ValueError(f"{shown(match[0])}: only {{index:0N}} takes a width")

    def plan(
        self,
        job: AnyJob,
        where: str,
        *,
        suffix: str = "",
        index: int | None = None,
        stem: str | None = None,
        advice: str = "give one of them another id",
    ) -> str | None:
        """Add a job.

        Args:
            job: a job without problems.
            where: where it was written, for messages.
            suffix: distinguishes the jobs of a matrix: `-1-480P`. Only used in labels that are not an `id`.
            index: its number, from 0; by default the next.
            stem: the value of `{stem}`; by default the image's stem.
            advice: how to resolve a name that another job has; part of the message.

        Returns:
            None, or what is wrong with its name.
        """
        at = len(self.planned) if index is None else index
        stem = job_stem(job) if stem is None else stem
        label = job.id or f"{stem or 'text-' + content_hash(job, '')[:8]}{suffix}"
        planned = PlannedJob(at, job, name_by(self.template, at, job, label, stem), label, where)
        place = folded(planned.name)
        first = self._taken.get(place)
        if first is not None and not job.id and not image_of(job):
            content = content_hash(job, "")
            if first.job.id or image_of(first.job) or content != content_hash(first.job, ""):
                label = f"text-{content[:16]}{suffix}"
                planned = PlannedJob(at, job, name_by(self.template, at, job, label, stem), label, where)
                place = folded(planned.name)
                first = self._taken.get(place)
        if first is not None:
            other = first.where or f"jobs[{first.index}]"
            if "{id}" not in self.template:
                advice = "write {id} or {index} into the template of the names"
            return f"its clip would be called {shown(planned.name)}, as that of {other}; {advice}"
        self._taken[place] = planned
        self.planned.append(planned)
        return None


def name_by(template: str, index: int, job: AnyJob, label: str, stem: str) -> str:
    """The name of a clip by a template: see `Namer`.

    Args:
        template: a valid one.
        index: the job's number, from 0.
        job: the job.
        label: the value of `{id}`.
        stem: the value of `{stem}`; empty for a job without an image.
    """
    if template == DEFAULT_NAME:
        return safe_name(label)

    def fill(match: re.Match[str]) -> str:
        field, _, width = match[1].partition(":")
        if field == "id":
            return label
        if field == "index":
            return f"{index + 1:{width}}"
        return (stem or "text") if field == "stem" else str(getattr(job, field))

    return safe_name(_FIELD.sub(fill, template))
