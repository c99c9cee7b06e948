"""Names and keys that last: what a journal holds of a job keeps them, whatever is added to the batch before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from wan_async.domain.batch import Batch, Enlisted, PlannedJob, name_by
from wan_async.domain.job import KEY_DIGITS, job_stem
from wan_async.domain.naming import folded, safe_name
from wan_async.journal.reports import Report


def with_stable_names(batch: Batch, jobs: Sequence[Enlisted], known: Report) -> list[Enlisted]:
    """Gives jobs the keys and names that a journal has for them.

    A job with an attempt keeps the name of that attempt, so that a new job before it does not shift the names by
    `{index}` of all others; if several have attempts of one name, whichever had it last. So does a new key that takes
    over the attempt of one that the batch no longer names. The others get the name of the template, or if that is
    another job's, the next `{index}`, or a number, that is free.

    Of equal jobs without an id, each keeps the key that it had under its name.

    Args:
        batch: the batch, for its template.
        jobs: its jobs.
        known: how the journal stands.
    """
    jobs = _with_former_keys(jobs, known)
    keys = {job.key for job in jobs}
    free = {content: name for job, content, name, recoverable in known.attempts if recoverable and job not in keys}
    own = {(job, content): name for job, content, name, _ in known.attempts}
    kept: dict[str, str] = {}
    taken: dict[str, str] = {}
    for job in sorted(jobs, key=lambda job: known.owners.get(folded(own.get((job.key, job.content), ""))) != job.key):
        name = own.get((job.key, job.content)) or free.pop(job.content, None)
        if name is not None and taken.setdefault(folded(name), job.key) == job.key:
            kept[job.key] = name
    owners = {place: owner for place, owner in known.owners.items() if owner in keys}
    numbers = iter(range(len(jobs) + len(owners)))
    named = []
    for job in jobs:
        name = kept.get(job.key)
        if name is None:
            name = next(
                candidate
                for candidate in _candidates(batch.template, job.planned, numbers)
                if owners.get(place := folded(candidate), job.key) == job.key
                and taken.setdefault(place, job.key) == job.key
            )
        named.append(job if name == job.planned.name else replace(job, planned=replace(job.planned, name=name)))
    return named


def _candidates(template: str, planned: PlannedJob, numbers: Iterator[int]) -> Iterator[str]:
    """Names for a job, the best first. `numbers` are the indexes that none had so far, shared by all jobs."""
    yield planned.name
    if "{index" in template:
        for index in numbers:
            yield name_by(template, index, planned.job, planned.label, job_stem(planned.job))
    number = 2
    while True:
        yield safe_name(f"{planned.name}-{number}")
        number += 1


def _with_former_keys(jobs: Sequence[Enlisted], known: Report) -> list[Enlisted]:
    """Gives each of several equal jobs without an id the key that it had under its name."""
    former = {(known.contents[key], name): key for key, name in known.names.items()}
    groups: dict[str, list[Enlisted]] = {}
    for job in jobs:
        if job.planned.job.id is None:
            groups.setdefault(job.content, []).append(job)
    changed: dict[str, str] = {}
    given = {job.planned.job.id for job in jobs}
    for content, group in groups.items():
        own = {}
        for job in group:
            key = former.get((content, job.planned.name), "")
            if key.startswith(content[:KEY_DIGITS]) and key not in given:
                own[job.key] = key
        others = iter(sorted({job.key for job in group} - set(own.values()), key=[job.key for job in group].index))
        changed |= {job.key: own.get(job.key) or next(others) for job in group}
    return [replace(job, key=changed.get(job.key, job.key)) for job in jobs]
