"""`assign`: makes an unassigned clip the clip of a quarantined job. The service is not asked.

The attempt is settled in the journal first: the task is its own, it has ended, it cost what the task cost. Then its
clip is stored by the same steps as any other, with the file in `OUT/unassigned/` in the part's place. The process may
die between any two of these: the same command, or the next run, goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from pydantic import SecretStr

from wan_async import errors
from wan_async.domain.attempt import Attempt, Unassigned
from wan_async.domain.lifecycle import State
from wan_async.domain.remote_task import Ending, ending
from wan_async.engine.active_job import Work
from wan_async.engine.delivery import Delivery
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.environment import Environment, make_environment
from wan_async.engine.options import Options
from wan_async.engine.results_file import write_results
from wan_async.engine.run_events import EventStream
from wan_async.engine.unassigned_clips import UnassignedClips
from wan_async.journal.base import Home, Journal
from wan_async.journal.journal_location import database_of
from wan_async.journal.reports import Report, read_all, report
from wan_async.output_locations import Location
from wan_async.outputs.downloader import Downloader
from wan_async.wiro.api import Api


@dataclass(frozen=True, slots=True)
class Assigned:
    """What came of it.

    Attributes:
        job: the job's key.
        file: its clip, relative to the output folder; None while it isn't fetched yet: the next run does that.
    """

    job: str
    file: str | None


async def assign(
    output: Location, task_id: str, job: str, dependencies: Dependencies | None = None, journal_home: Home | None = None
) -> Assigned:
    """Makes a recorded task the one of a quarantined job.

    Args:
        output: the output of a run.
        task_id: the task's id.
        job: the job's key, its id in the batch, or its output name.
        dependencies: the disk and the clock; by default no service can be asked.
        journal_home: where the journal is kept, if it is not where `journal.journal_location` looks for it.

    Raises:
        errors.InvalidBatch: there is no such task, or no such job, or it has no quarantined attempt.
        errors.Unusable: there is no journal, another process holds it, or the disk refuses.
    """
    seen = read_all(output, report, journal_home)
    owners = {home: known.names.get(r.job) for home, known in seen for r in known.results if r.task_id == task_id}
    listed = [(home, known) for home, known in seen if any(row.task_id == task_id for row in known.unassigned)]
    homes = [(home, known) for home, known in seen if home in owners] or listed
    if not homes:
        raise _no_such_task(task_id, [known for _, known in seen])
    dependencies = dependencies or offline()
    problems: list[errors.InvalidBatch] = []
    async with dependencies.api, dependencies.downloader:
        for home, known in homes:
            async with dependencies.open_journal(home, None, inline=dependencies.inline) as journal:
                try:
                    return await _assign_in(journal, dependencies, output, known, task_id, job)
                except errors.InvalidBatch as problem:  # single clips have journals of their own, and candidates alike
                    if home in owners:
                        raise _wrong("TASK", f"task {task_id} is the task of job {owners[home]} already") from None
                    problems.append(problem)
    raise problems[0]


async def _assign_in(
    journal: Journal, dependencies: Dependencies, output: Location, known: Report, task_id: str, job: str
) -> Assigned:
    environment = make_environment(journal, dependencies, Options(), output, EventStream(), "assign")
    await environment.store.claim(journal.identity, make=False, database=database_of(journal.home))
    unassigned = UnassignedClips(environment)
    attempt = await _attempt_at(journal, job, task_id)
    row = next((row for row in await journal.unassigned() if row.task_id == task_id), None)
    if attempt.state == State.QUARANTINED:
        if row is None or row.owner is not None:
            raise _no_such_task(task_id, [known])
        await _settle(environment, attempt, row)
    elif attempt.state == State.ACCEPTED and row is not None:
        await _end(environment, attempt, row)
    await unassigned.load()
    if attempt.state == State.ENDED and await _has_all(environment, unassigned, attempt):
        await Delivery(environment, unassigned).keep(Work(attempt.job, None, attempt, resumed=True), attempt)
    await write_results(environment, journal.home, known.names)
    clips = await journal.clips(attempt) if attempt.state == State.STORED else []
    return Assigned(attempt.job, clips[0].file if clips else None)


async def _attempt_at(journal: Journal, job: str, task_id: str) -> Attempt:
    keys = await journal.jobs_called(job)
    if not keys:
        raise _wrong("JOB", f"no job is called {job!r}: see `wan-async status`")
    found = [attempt for key in keys if (attempt := await journal.assignable(key, task_id)) is not None]
    if not found:
        raise _wrong("JOB", f"job {job} has no quarantined attempt: nothing can be assigned to it")
    if len(found) > 1:
        raise _wrong("JOB", f"several jobs are called {job!r}: name one by its key ({', '.join(keys)})")
    return found[0]


async def _settle(environment: Environment, attempt: Attempt, row: Unassigned) -> None:
    answer = row.task.model_dump_json().encode()
    await environment.journal.accepted(attempt, row.task_id, row.token, answer, environment.clock(), adopted=True)
    await _end(environment, attempt, row)


async def _end(environment: Environment, attempt: Attempt, row: Unassigned) -> None:
    """The attempt ends as its task did; one whose end was not seen yet is tracked by the next run."""
    if row.state == "running":
        return
    task = row.task
    assumed = attempt.reserved if ending(task) is Ending.SUCCEEDED else 0
    await environment.journal.ended(
        attempt,
        task_id=row.task_id,
        status=task.status,
        pexit=task.pexit,
        cost=assumed if task.totalcost is None else max(0, task.totalcost),
        outputs=row.outputs,
        reason=None if row.state in ("ended", "stored") else row.reason,
        at=row.ended_at or environment.clock(),
    )


async def _has_all(environment: Environment, unassigned: UnassignedClips, attempt: Attempt) -> bool:
    """Whether every output of the attempt is on disk: where it was fetched to or, after a crash, where it goes."""
    clips = {clip.number: clip for clip in await environment.journal.clips(attempt)}
    for number in range(len(attempt.outputs)):
        clip = clips.get(number)
        published = clip and clip.sha256 and await environment.store.sha256(clip.file) == clip.sha256
        if not published and await unassigned.find(attempt, number) is None:
            return False
    return bool(attempt.outputs)


def _wrong(where: str, message: str) -> errors.InvalidBatch:
    return errors.InvalidBatch([errors.Problem(where, message)])


def _no_such_task(task_id: str, known: Sequence[Report]) -> errors.InvalidBatch:
    there = list(dict.fromkeys(row.task_id for each in known for row in each.unassigned if row.shown))
    names = f"there are {', '.join(there[:20])}{', ...' if len(there) > 20 else ''}" if there else "there are none"
    return _wrong("TASK", f"no unassigned task is called {task_id!r}: {names}")


class _NoNetwork(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nothing is asked for here", request=request)


def offline() -> Dependencies:
    """What an assignment needs of a run: the disk and the clock; no request is sent."""
    api = Api(SecretStr("none"), None, transport=_NoNetwork())
    return Dependencies(api, Downloader(transport=_NoNetwork()))
