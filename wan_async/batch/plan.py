"""Plans: what a run does with a batch and a journal.

`run` executes a plan, and `plan` prints it: both get it from `make_plan`, which enrolls the batch in the journal and
reads there what is left to do. `plan` does so with a copy of the journal (`journal.journal_copy`), so that renamed
jobs, missing files and flags mean the same to both.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from wan_async import errors
from wan_async.batch.image_inspection import needs_copy
from wan_async.batch.images import Digest, Digested, digests, image_problems, local_images, remarks_on, with_image_files
from wan_async.batch.invalid_batch import BadImages
from wan_async.batch.stable_names import with_stable_names
from wan_async.domain.attempt import Attempt, Clip
from wan_async.domain.batch import Batch, Enlisted, PlannedJob, enlist
from wan_async.domain.job import content_hash, image_of, values_of
from wan_async.domain.lifecycle import IN_FLIGHT, State
from wan_async.domain.naming import folded
from wan_async.domain.text import nearest, shown
from wan_async.journal.base import PREPARES, DatabaseHome, Journal
from wan_async.journal.image_paths import ImagePaths
from wan_async.journal.reports import Report, report
from wan_async.output_locations import Location
from wan_async.threads import Offload

INPUTS = "inputs"
"""Where in the journal's folder the images are that jobs held in memory."""
SUGGESTED_AMONG = 10_000
"""The jobs, from the first on, whose ids may be suggested."""
SHOWN_LABELS = 5
WITHOUT_WILDCARDS = str.maketrans("", "", "*?[]")
CHECKED_AT_ONCE = 1000
"""How many stored attempts are compared with the disk at a time."""

SizeOf = Callable[[str], int | None]
"""The length of a file in bytes, None if there is none. It may block."""


@dataclass(frozen=True, slots=True, repr=False)
class Prepared:
    """A batch whose jobs have their identity.

    Attributes:
        jobs: all of them, in batch order.
        hashed: images that had to be read for it, by path; a run keeps them for the next time.
        known: how the folder's journal stands, None if there is none.
        inputs: images that the jobs held in memory, by the files that a run writes them to.
        remarks: what is unusual about its images.
        left_out: what is wrong with the jobs that were left out, because bad ones are to be skipped.
        left_out_jobs: how many those are.
        upright: whether upright copies take the place of images that need it.
    """

    jobs: list[Enlisted]
    hashed: Mapping[str, Digest] = field(default_factory=dict)
    known: Report | None = None
    inputs: Mapping[Path, bytes] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    left_out: tuple[errors.Problem, ...] = ()
    left_out_jobs: int = 0
    upright: bool = False

    @property
    def is_enrolled(self) -> bool:
        """Whether the journal has these jobs already: the batch is that of the last run."""
        known = self.known
        return (
            known is not None
            and [result.job for result in known.results] == [job.key for job in self.jobs]
            and all(
                (known.contents[job.key], known.names[job.key]) == (job.content, job.planned.name) for job in self.jobs
            )
        )


def prepare(
    batch: Batch,
    home: Path,
    *,
    database: DatabaseHome | None = None,
    upright: bool | None = None,
    skip_bad: bool = False,
    after: Sequence[Enlisted] = (),
) -> Prepared:
    """Gives each job of a batch its identity. Blocks: local images are read, unless they haven't changed since.

    Args:
        batch: the batch.
        home: the journal's folder.
        database: where the journal is kept, if not in its folder.
        upright: upload upright, converted copies of images that need it: see `batch.image_conversion`. None does as
            the last run of this folder: a copy is another content than its original, which would be paid for again.
        skip_bad: leave out jobs whose images can't be uploaded, and go on with the rest.
        after: jobs with their identity that come before those of the batch.

    Raises:
        errors.InvalidBatch: images that are missing, empty, too large, cut off or no images: all of them.
        errors.Unusable: the journal can't be read.
    """
    known = report(database or home)
    batch, inputs, faults = with_image_files(batch, home / INPUTS)
    on_disk = [path for path in local_images(batch) if Path(path) not in inputs]
    cache = _cached(known)
    read = digests(on_disk, cache)
    faults |= read.faults
    found = {path: digest.sha256 for path, digest in read.found.items()}
    found |= {str(path): path.stem for path in inputs}
    is_upright = known is not None and _prepared_before(batch, read, known) if upright is None else upright
    copies = None
    if is_upright:
        from wan_async.batch.image_conversion import with_copies  # loads what few batches need

        copies = with_copies(batch, read.found, read.facts, inputs, home / INPUTS, cache)
        faults |= copies.faults
    problems = image_problems(batch, faults)
    if copies is not None:
        batch, found = copies.batch, found | copies.digests
    sound = [one for one in batch.jobs if image_of(one.job) not in faults]
    left_out = batch.left_out_jobs + len(batch.jobs) - len(sound)
    is_refused = bool(problems) and not (skip_bad and sound)
    try:
        jobs = enlist(replace(batch, jobs=sound), found, copies.originals if copies is not None else {})
    except errors.InvalidBatch as error:
        raise errors.InvalidBatch([*problems, *error.problems] if is_refused else error.problems) from None
    told = tuple(remarks_on(read.facts, upright=is_upright, unasked=upright is None))
    if is_refused:
        raise BadImages(problems, len(sound), told)
    jobs = [*after, *jobs]
    return Prepared(
        jobs if known is None else with_stable_names(batch, jobs, known),
        read.new | copies.new if copies is not None else read.new,
        known,
        inputs if copies is None else copies.inputs,
        told,
        tuple(problems) or batch.left_out,
        left_out,
        is_upright,
    )


def _prepared_before(batch: Batch, read: Digested, known: Report) -> bool:
    """Whether the last run uploaded copies; also of a journal that is older than the note of it."""
    if known.prepares:
        return True
    sources = {path for path, facts in read.facts.items() if needs_copy(facts)}
    if not sources:
        return False
    from wan_async.batch.image_conversion import MARK  # loads what few batches need

    contents = set(known.contents.values())
    return any(
        content_hash(one.job, f"sha256:{read.found[image].sha256}{MARK}") in contents
        for one in batch.jobs
        if (image := image_of(one.job)) in sources
    )


def later_faults(
    images: Mapping[str, str | None], home: Path | None, *, database: DatabaseHome | None, upright: bool | None
) -> dict[str, str]:
    """What `prepare` would find wrong with images, for a batch whose text is refused before. Blocks, and hashes none.

    Args:
        images: what is already known to be wrong with each (by path), None if nothing is.
        home: the journal's folder; None if it isn't known.
        database: as for `prepare`.
        upright: as for `prepare`.

    Raises:
        errors.Unusable: the journal can't be read.
    """
    at = database or home
    known = report(at) if at is not None else None
    if not (known is not None and known.prepares if upright is None else upright):
        return {}
    from wan_async.batch.image_conversion import faults_of_copies  # loads what few batches need

    cache = _cached(known)
    return faults_of_copies((path for path, fault in images.items() if fault is None), (home or Path()) / INPUTS, cache)


def _cached(known: Report | None) -> dict[str, Digest]:
    """The digests of images that a run has kept, by path."""
    images = known.images if known is not None else {}
    return {path: Digest(sha, size, mtime) for path, (size, mtime, sha) in images.items()}


class Selection(Protocol):
    """Which jobs a run takes up; `engine.options.Options` has it."""

    @property
    def retry_failed(self) -> bool:
        """Whether jobs that failed for good or were cancelled are taken up again."""
        ...

    @property
    def rerender(self) -> bool:
        """Whether jobs whose clip is missing are rendered again."""
        ...

    @property
    def resubmit_unknown(self) -> bool:
        """Whether quarantined jobs are submitted again."""
        ...

    @property
    def render_duplicates(self) -> bool:
        """Whether each of several jobs with equal content is rendered."""
        ...

    @property
    def limit(self) -> int | None:
        """The largest number of jobs to submit; None for all."""
        ...

    @property
    def pilot(self) -> int | None:
        """The number of jobs to submit, drawn evenly from those within `limit`; None for all."""
        ...

    @property
    def only(self) -> str | None:
        """A pattern of job ids, for messages."""
        ...

    def admits(self, label: str) -> bool:
        """Whether a job of this id may be submitted."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """What a run does with a batch and a journal.

    Attributes:
        jobs: the jobs of the batch by key, in batch order.
        unfinished: every job that is still to be submitted, in batch order.
        chosen: those of them that this run submits.
        duplicates: jobs that get the clip of another job with the same content, by the key of that job.
        resumed: the open attempts of earlier runs, whether or not the batch names their jobs.
        late: cancelled attempts whose charge or outputs may still appear.
        done: how many jobs of the batch have their clip.
        numbered: the stored attempts that decide their job's state whose clips have a number in their names, since
            another take has the plain name. Where that has become another job's name, the clip keeps its own.
        gone: stored attempts whose file is gone or cut: it is downloaded again, for free.
        changed: those of the chosen jobs that have a clip of an earlier content, which is kept beside the new one.
    """

    jobs: Mapping[str, Enlisted]
    unfinished: Sequence[Enlisted]
    chosen: Sequence[Enlisted]
    duplicates: Mapping[str, Sequence[Enlisted]] = field(default_factory=dict)
    resumed: Sequence[Attempt] = ()
    late: Sequence[Attempt] = ()
    done: int = 0
    numbered: Sequence[tuple[Attempt, Sequence[Clip]]] = ()
    gone: Sequence[Attempt] = ()
    changed: Sequence[Enlisted] = ()

    def to_pay(self, selection: Selection) -> list[Enlisted]:
        """The jobs that the run submits, and pays for if they succeed."""
        return [*self.chosen, *(self.to_resubmit(selection) if selection.resubmit_unknown else ())]

    def estimate(self, selection: Selection, price: Callable[[Enlisted], int | None]) -> int | None:
        """The new money that the run takes, in micro-dollars; None if a price is unknown.

        Args:
            selection: which jobs the run takes up.
            price: the price of a job in micro-dollars, None if it is unknown.
        """
        prices = [price(job) for job in self.to_pay(selection)]
        known = [each for each in prices if each is not None]
        return sum(known) if len(known) == len(prices) else None

    def to_resubmit(self, selection: Selection) -> list[Enlisted]:
        """Jobs in quarantine, which `--resubmit-unknown` pays for again."""
        return [job for job in self._jobs_in(State.QUARANTINED) if selection.admits(job.planned.label)]

    def to_finish(self) -> list[Enlisted]:
        """Jobs that an earlier run submitted, and that are not finished."""
        return self._jobs_in(*IN_FLIGHT, State.UNKNOWN)

    def _jobs_in(self, *states: State) -> list[Enlisted]:
        """Jobs of the batch with an open attempt at their present content in one of these states."""
        found = {(attempt.job, attempt.content) for attempt in self.resumed if attempt.state in states}
        return [job for job in self.jobs.values() if (job.key, job.content) in found]


async def make_plan(
    journal: Journal, prepared: Prepared, selection: Selection, output: Location, size_of: SizeOf, offload: Offload
) -> Plan:
    """Enrolls a batch in a journal, and reads there what a run has to do.

    Args:
        journal: the journal; it is changed.
        prepared: the batch.
        selection: which jobs the run takes up.
        output: where the clips go.
        size_of: the size of a file of the output: clips that are not there are downloaded again.
        offload: runs blocking calls.

    Raises:
        errors.InvalidBatch: no job is admitted.
        errors.Unusable: the journal can't be read or written.
    """
    jobs = {job.key: job for job in prepared.jobs}
    images = ImagePaths(output)
    await journal.enroll(prepared.jobs, (_description(job, images) for job in prepared.jobs))
    if prepared.hashed:
        await journal.hashed({path: (d.size, d.mtime_ns, d.sha256) for path, d in prepared.hashed.items()})
    if prepared.upright is not await journal.remembers(PREPARES):
        await journal.remember(PREPARES, holds=prepared.upright)
    numbered, gone = await _check_files(journal, jobs, size_of, offload)
    keys = await journal.todo(retry_failed=selection.retry_failed, rerender=selection.rerender)
    unfinished = [jobs[key] for key in keys]
    unfinished, duplicates = _split(unfinished, await journal.holders() if unfinished else {}, selection)
    chosen = _chosen(prepared.jobs, unfinished, selection)
    rendered = await journal.jobs_with_clips() if chosen else ()
    return Plan(
        jobs=jobs,
        unfinished=unfinished,
        chosen=chosen,
        changed=[job for job in chosen if job.key in rendered],
        duplicates=duplicates,
        resumed=await journal.open_attempts(),
        late=await journal.to_recheck(),
        done=(await journal.counts())[State.STORED],
        numbered=numbered,
        gone=gone,
    )


def plan_of_new_folder(prepared: Prepared, selection: Selection) -> Plan:
    """The same where there is no journal yet: every job is still to be submitted.

    Raises:
        errors.InvalidBatch: no job is admitted.
    """
    jobs = {job.key: job for job in prepared.jobs}
    unfinished, duplicates = _split(prepared.jobs, {}, selection)
    return Plan(jobs, unfinished, _chosen(prepared.jobs, unfinished, selection), duplicates)


def _split(
    unfinished: Sequence[Enlisted], holders: Mapping[str, str], selection: Selection
) -> tuple[list[Enlisted], dict[str, list[Enlisted]]]:
    """Separates the jobs that are rendered from those that get the clip of another job with the same content.

    Args:
        unfinished: jobs without a clip, and without a task that may still bring one.
        holders: the jobs that have a clip or such a task, by content.
        selection: which jobs the run takes up.

    Returns:
        The jobs that are rendered; the others by the key of the job whose clip they get.
    """
    if selection.render_duplicates:
        return list(unfinished), {}
    first = dict(holders)
    rendered, duplicates = [], dict[str, list[Enlisted]]()
    for job in unfinished:
        if not selection.admits(job.planned.label) or (holder := first.setdefault(job.content, job.key)) == job.key:
            rendered.append(job)
        else:
            duplicates.setdefault(holder, []).append(job)
    return rendered, duplicates


def problems_of_only(jobs: Sequence[PlannedJob], selection: Selection) -> list[errors.Problem]:
    """The problem of a pattern of ids that selects no job, with a suggestion."""
    if any(selection.admits(job.label) for job in jobs):
        return []
    labels, pattern = [job.label for job in jobs[:SUGGESTED_AMONG]], selection.only or ""
    same = [label for label in labels if fnmatch.fnmatchcase(label.casefold(), pattern.casefold())]
    if len(same) > 1:
        hint = f"case counts: {len(same)} jobs match in another, such as {shown(same[0])}"
    elif near := same[0] if same else nearest(pattern.translate(WITHOUT_WILDCARDS), labels):
        hint = f"did you mean {shown(near)}?"
    else:
        some = ", ".join(shown(label) for label in labels[:SHOWN_LABELS])
        hint = f"there are {some}" + (f" and {len(jobs) - SHOWN_LABELS} more" if len(jobs) > SHOWN_LABELS else "")
    return [errors.Problem("--only", f"no job is called {shown(pattern)} ({hint})")]


def _chosen(jobs: Sequence[Enlisted], unfinished: Sequence[Enlisted], selection: Selection) -> list[Enlisted]:
    if problems := problems_of_only([job.planned for job in jobs], selection):
        raise errors.InvalidBatch(problems)
    chosen = [job for job in unfinished if selection.admits(job.planned.label)][: selection.limit]
    pilot = selection.pilot
    if pilot is None or pilot >= len(chosen):
        return chosen
    return [chosen[(2 * number + 1) * len(chosen) // (2 * pilot)] for number in range(pilot)]


async def _check_files(
    journal: Journal, jobs: Mapping[str, Enlisted], size_of: SizeOf, offload: Offload
) -> tuple[list[tuple[Attempt, Sequence[Clip]]], list[Attempt]]:
    """Reopens stored attempts whose file is gone or cut: they are downloaded again.

    Returns:
        Those with a number in their name, and those that are downloaded again.
    """
    numbered: dict[str, tuple[Attempt, Sequence[Clip]]] = {}
    reopened: list[Attempt] = []

    def gone(stored: Sequence[tuple[Attempt, Sequence[Clip]]]) -> list[Attempt]:
        return [attempt for attempt, clips in stored if not all(size_of(clip.file) == clip.bytes for clip in clips)]

    after = 0
    while stored := await journal.stored_attempts(after, CHECKED_AT_ONCE):
        after = stored[-1][0].id
        for attempt, clips in stored:
            numbered.pop(attempt.job, None)  # that of an earlier take, which has a number for good
            is_own_name = folded(attempt.name) == folded(jobs[attempt.job].planned.name)
            if clips and is_own_name and clips[0].file != plain_name(attempt, clips):
                numbered[attempt.job] = attempt, clips
        for attempt in await offload(gone, stored):
            if attempt.is_shared:
                await journal.unshared(attempt)
                continue
            await journal.reopened(attempt)
            reopened.append(attempt)
    return list(numbered.values()), reopened


def plain_name(attempt: Attempt, clips: Sequence[Clip], number: int = 0) -> str:
    """The name of a clip that no other take has."""
    suffix = PurePosixPath(clips[number].file).suffix
    return f"{attempt.name}{suffix}" if number == 0 else f"{attempt.name}-{number + 1}{suffix}"


def _description(job: Enlisted, images: ImagePaths) -> str:
    """A job as `status` and the gallery show it, in JSON."""
    planned = job.planned
    image_file = images.of_job(planned.job)
    place = {} if image_file is None else {"image_file": image_file}
    return json.dumps({**values_of(planned.job), "label": planned.label, **place})
