"""Further takes of jobs that a journal knows: the same job with another seed, as a job of its own.

The batch is enrolled again as it was, with the new jobs after it: so the next `run BATCH` finds everything. That run
drops the new jobs, whose clips and attempts stay and are shown as before, and finishes those that were submitted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from wan_async import errors
from wan_async.batch.plan import Prepared, prepare
from wan_async.domain.batch import Batch, Enlisted, PlannedJob
from wan_async.domain.job import AnyJob, Job, content_hash
from wan_async.domain.lifecycle import State
from wan_async.domain.model import SEED
from wan_async.domain.naming import folded, safe_name
from wan_async.domain.text import shown, suggestion
from wan_async.journal.base import DatabaseHome, Home
from wan_async.journal.enrolled_jobs import EnrolledJob, enrolled_jobs
from wan_async.journal.further_takes import take_key, values_of_shot
from wan_async.journal.image_paths import image_path
from wan_async.journal.reports import report
from wan_async.output_locations import Location

ENDED = frozenset({State.STORED, State.FAILED, State.CANCELLED, State.GIVEN_UP})
"""A take with an attempt in one of these is not taken up again without being asked."""


@dataclass(frozen=True, slots=True)
class Takes:
    """The batch with further takes.

    Attributes:
        prepared: the batch as it was, with the new jobs.
        labels: the ids of the new jobs.
        stored: keys of those that have their clip already.
        resumed: whether these takes are of an earlier command that was interrupted.
    """

    prepared: Prepared
    labels: frozenset[str]
    stored: frozenset[str]
    resumed: bool


def further_takes(home: Home, output: Location, names: Sequence[str], seed: int | None) -> Takes:
    """Make a further take of each of some jobs.

    Args:
        home: where the journal is kept.
        output: where the clips are.
        names: jobs by key, id or output name.
        seed: the seed; None for the first above the job's own that no take of it has. Takes that an earlier command
            began and did not finish come first: then only those are taken up.

    Raises:
        errors.InvalidBatch: there is no such job, the seed is the job's own, or its image can't be read.
        errors.Unusable: the journal can't be read.
    """
    known = enrolled_jobs(home)
    bases = _unique([_job_called(known, name) for name in names])
    problems = [
        errors.Problem(base.label, f"is rendered with seed {seed} already: choose another --seed")
        for base in bases
        if seed is not None and base.spec.get(SEED) == seed
    ]
    if problems:
        raise errors.InvalidBatch(problems)
    begun = {base.key: _begun(known, base) for base in bases} if seed is None else {}
    resumed = any(begun.values())
    keys, places = {job.key: job for job in known}, {folded(job.name) for job in known}
    present = [job for job in known if job.position is not None]
    index = max((job.position for job in present if job.position is not None), default=-1)
    planned, reused = list[tuple[PlannedJob, EnrolledJob]](), set[str]()
    for base in bases:
        chosen = begun[base.key][:1] if resumed else []
        if resumed and not chosen:
            continue
        wanted = seed if seed is not None else chosen[0].spec[SEED] if chosen else _free_seed(known, base)
        same = chosen or [job for job in _takes(known, base) if job.spec[SEED] == wanted and _is_further(job, base)]
        key, name = (same[0].key, same[0].name) if same else _names(base, wanted, keys, places)
        reused |= {key} if same else set()
        places.add(folded(name))
        index += 1
        planned.append((PlannedJob(index, _job({**base.spec, SEED: wanted}, key, output), name, key, ""), base))
    known_report = report(home)
    digests = {path: sha for path, (_, _, sha) in (known_report.images if known_report else {}).items()}
    kept = [_enlisted(job, digests, output) for job in present if job.key not in reused]
    if isinstance(home, DatabaseHome):  # the images are in the store, by the hash that the journal has
        new = [_take(each, _image_of(base, _job(base.spec, base.key, output), digests)) for each, base in planned]
        prepared = Prepared([*kept, *new], upright=known_report is not None and known_report.prepares)
    else:
        prepared = prepare(Batch([each for each, _ in planned], None, "again"), home, after=kept)
    labels = frozenset(each.label for each, _ in planned)
    stored = frozenset(job.key for job in known if State.STORED in job.states)
    return Takes(prepared, labels, labels & stored, resumed)


def knows(home: Home, names: Sequence[str]) -> bool:
    """Whether the journal in `home` has all these jobs."""
    called = {word for job in enrolled_jobs(home) for word in (job.key, job.label, job.name)}
    return called.issuperset(names)


def _unique(jobs: Sequence[EnrolledJob]) -> list[EnrolledJob]:
    return list({job.key: job for job in jobs}.values())


def _job_called(known: Sequence[EnrolledJob], name: str) -> EnrolledJob:
    for words in ("key", "label", "name"):
        found = [job for job in known if getattr(job, words) == name]
        if len(found) > 1:
            keys = ", ".join(job.key for job in found)
            raise errors.InvalidBatch([errors.Problem(name, f"may be any of the jobs {keys}: use one of these")])
        if found:
            return found[0]
    labels = list(dict.fromkeys(job.label for job in known))
    stem = PurePath(name).stem  # of a clip or an image of that job
    begun = [stem] if stem in labels else [label for label in labels if name and label.startswith(name)]
    hint = f" (did you mean {', '.join(map(shown, begun[:3]))}?)" if begun else ""
    hint = hint or (suggestion(name, labels[:1000])[:300] if labels else "")
    raise errors.InvalidBatch([errors.Problem(name, f"is no job of this output{hint}")])


def _takes(known: Sequence[EnrolledJob], base: EnrolledJob) -> list[EnrolledJob]:
    """The jobs that differ from `base` in nothing but the seed, itself included."""
    return [
        job
        for job in known
        if values_of_shot(job.spec) == values_of_shot(base.spec) and isinstance(job.spec.get(SEED), int)
    ]


def _is_further(job: EnrolledJob, base: EnrolledJob) -> bool:
    """Whether the job was made as a further take of `base`."""
    return job.key.startswith(take_key(base.label, job.spec[SEED]))


def _begun(known: Sequence[EnrolledJob], base: EnrolledJob) -> list[EnrolledJob]:
    """Further takes of a job that were begun and have not ended."""
    return [job for job in _takes(known, base) if _is_further(job, base) and not (job.has_failed or job.states & ENDED)]


def _free_seed(known: Sequence[EnrolledJob], base: EnrolledJob) -> int:
    wire = Job.model.by_name[SEED].wire
    used = {job.spec[SEED] for job in _takes(known, base)} | {int(form.get(wire) or 0) for form in base.forms}
    seed = int(base.spec[SEED]) + 1
    while seed in used:
        seed += 1
    return seed


def _names(base: EnrolledJob, seed: int, keys: Mapping[str, EnrolledJob], places: set[str]) -> tuple[str, str]:
    """A key and an output name that no other job has."""
    number = 1
    while True:
        end = "" if number == 1 else f"-{number}"
        key, name = f"{take_key(base.label, seed)}{end}", safe_name(f"{base.name}-seed{seed}{end}")
        if key not in keys and folded(name) not in places:
            return key, name
        number += 1


def _job(spec: Mapping[str, Any], key: str, output: Location) -> AnyJob:
    values = {name: spec[name] for name in Job.model.by_name if name in spec}
    if "image_file" in spec:  # the other path is relative to the folder in which the run's command was typed
        path, name = image_path(output, spec["image_file"]), Job.model.image_name
        values |= {} if os.path.abspath(values[name]) == path else {name: path}  # noqa: PTH100 - links not followed
    return Job(id=key, **values)


def _enlisted(known: EnrolledJob, digests: Mapping[str, str], output: Location) -> Enlisted:
    """A job of the batch as it was enrolled; its content is not computed anew, since its image may be gone."""
    assert known.position is not None
    job = _job(known.spec, known.key, output)
    planned = PlannedJob(known.position, job, known.name, known.label, "")
    return Enlisted(planned, known.key, known.content, _image_of(known, job, digests))


def _take(planned: PlannedJob, image: str) -> Enlisted:
    """A further take of a job whose image has this identity."""
    return Enlisted(planned, planned.label, content_hash(planned.job, image), image)


def _image_of(known: EnrolledJob, job: AnyJob, digests: Mapping[str, str]) -> str:
    """The identity of a job's image: the one with which it has its content."""
    source = known.spec.get(job.model.image_name)
    by_name = f"sha256:{PurePath(source).stem}" if source else ""  # workers' images are named by their content
    candidates = [known.image or "", f"url:{source}", f"sha256:{digests.get(source or '', '')}", by_name, ""]
    return next((each for each in candidates if content_hash(job, each) == known.content), candidates[0])
