"""`open_batch`: everything that `wan-async run` does, for apps."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.abc

from wan_async import errors
from wan_async.batch.output_check import folder_problem, target_problems
from wan_async.batch.plan import prepare
from wan_async.client.wan_client import WanClient
from wan_async.domain import events
from wan_async.domain.batch import Batch, from_jobs
from wan_async.domain.job import AnyJob
from wan_async.domain.lifecycle import State
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.engine.run_events import EventStream
from wan_async.journal.base import FOLDER
from wan_async.journal.reports import Result, report


@dataclass(frozen=True, slots=True)
class JobResult:
    """How one job of a batch stands at the end of a run.

    Attributes:
        job: the job, as it was given.
        key: what events call it.
        state: `stored`, `failed`, `missing`, ...: see README, "How it works".
        file: its clip; None if there is none.
        task_id: its latest task, if it has one.
        cost_micros: what its latest attempt cost, in millionths of a US dollar; None if that is not known.
        error: why it has no clip, None if that needs no reason.
    """

    job: AnyJob
    key: str
    state: str
    file: Path | None
    task_id: str | None
    cost_micros: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How a batch stands at the end of a run.

    Attributes:
        jobs: the result of each job, in the order in which they were given.
        finished: the run's last event: counts, money, exit code.
    """

    jobs: tuple[JobResult, ...] = field(repr=False)
    finished: events.Finished

    def _in(self, *states: State) -> list[JobResult]:
        return [result for result in self.jobs if result.state in states]

    @property
    def stored(self) -> list[JobResult]:
        """Jobs whose clip is on disk."""
        return self._in(State.STORED)

    @property
    def failed(self) -> list[JobResult]:
        """Jobs that failed."""
        return self._in(State.FAILED)

    @property
    def cancelled(self) -> list[JobResult]:
        """Jobs whose task was cancelled."""
        return self._in(State.CANCELLED)

    @property
    def missing(self) -> list[JobResult]:
        """Jobs whose task or clip is not available now: a later run asks for it again."""
        return self._in(State.MISSING)

    @property
    def unknown(self) -> list[JobResult]:
        """Jobs of which it is not known whether they have a task."""
        return self._in(State.UNKNOWN, State.QUARANTINED)

    @property
    def unfinished(self) -> list[JobResult]:
        """All other jobs without a clip: a later run does them."""
        ended = {id(result) for result in (*self.stored, *self.failed, *self.cancelled, *self.missing, *self.unknown)}
        return [result for result in self.jobs if id(result) not in ended]

    def raise_for_failures(self) -> None:
        """Raise if a job has no clip.

        Raises:
            errors.BatchFailed: naming the first of them.
        """
        without = [result for result in self.jobs if result.file is None]
        if without:
            named = "; ".join(f"{result.key}: {result.state} ({result.error or 'no reason'})" for result in without[:5])
            raise errors.BatchFailed(f"{len(without)} of {len(self.jobs)} jobs have no clip: {named}")


class BatchRun:
    """A running batch: its events, for one reader, and its result once it has ended. Made by `open_batch`.

    Attributes:
        jobs: the jobs by the key that events call them by.
    """

    def __init__(self, stream: EventStream, jobs: Mapping[str, AnyJob]) -> None:
        self._stream = stream
        self._result: BatchResult | None = None
        self.jobs = jobs

    def __aiter__(self) -> BatchRun:
        return self

    async def __anext__(self) -> events.AnyEvent:
        """The next event."""
        return await self._stream.__anext__()

    def job_of(self, event: events.Event) -> AnyJob | None:
        """The job that an event is about; None if it is about the run."""
        return self.jobs.get(event.job) if isinstance(event, events.JobEvent) else None

    @property
    def result(self) -> BatchResult:
        """How the batch stands, once the block is left.

        Raises:
            RuntimeError: the batch has not ended.
        """
        if self._result is None:
            raise RuntimeError("the batch has no result before its block is left")
        return self._result

    def end(self, result: BatchResult) -> None:
        """Set the result."""
        self._result = result


@asynccontextmanager
async def open_batch(
    jobs: Iterable[AnyJob] | Batch,
    *,
    output: str | os.PathLike[str],
    client: WanClient,
    options: Options | None = None,
) -> AsyncIterator[BatchRun]:
    """Do everything that `wan-async run` does, and yield the events of it.

        async with open_batch(jobs, output="clips", client=client) as batch:
            async for event in batch: ...
        batch.result.raise_for_failures()

    Leaving the block normally waits for the end of the run. Leaving it by an exception or a cancellation acts as a
    second Ctrl-C: Runs in flight get three seconds, and the journal in `output` knows the rest.

    Args:
        jobs: the jobs, or a batch read by other means.
        output: the local folder of the clips and their journal; object stores are for the command line.
        client: carries it. Its concurrency limit is not shared with the batch, which has its own.
        options: how to run it.

    Raises:
        errors.InvalidBatch: before anything is spent.
        errors.Closed: the client is closed, or was while the batch ran.
        errors.WanError: on leaving, what broke the run, if anything did.
    """
    session = client.session
    session.check_open()
    batch = jobs if isinstance(jobs, Batch) else from_jobs(jobs)
    given = {planned.index: planned.job for planned in batch.jobs}
    offload, folder = session.dependencies.offload, Path(output)
    if problem := await offload(folder_problem, folder):
        raise errors.InvalidBatch([errors.Problem("output", problem)])
    if problems := await offload(target_problems, batch.jobs, folder, None):
        raise errors.InvalidBatch(problems)
    await offload(partial(folder.mkdir, parents=True, exist_ok=True))
    prepared = await offload(prepare, batch, folder / FOLDER)
    stream = EventStream()
    run = Run(
        prepared,
        dependencies=session.dependencies,
        account=client.account,
        output=folder,
        options=options,
        stream=stream,
    )
    batch_run = BatchRun(stream, {job.key: given[job.planned.index] for job in prepared.jobs})
    finished: list[events.Finished] = []
    left: BaseException | None = None

    async def carry() -> None:
        finished.append(await run.run())

    session.runs.add(run)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(carry)
            try:
                yield batch_run
            except BaseException as error:  # noqa: BLE001 - raised again below, outside of the task group
                left = error
                run.leave()
            stream.leave()
    finally:
        session.runs.discard(run)
        run.ended.set()
    if left is not None:
        raise left
    session.check_open()
    if run.error is not None:
        raise run.error
    known = await offload(report, folder / FOLDER)
    batch_run.end(_result(batch_run.jobs, known.results if known is not None else [], folder, finished[0]))


def _result(
    jobs: Mapping[str, AnyJob], results: Iterable[Result], folder: Path, finished: events.Finished
) -> BatchResult:
    def result_of(result: Result) -> JobResult:
        file = folder / result.file if result.file and result.state == State.STORED else None
        return JobResult(jobs[result.job], result.job, result.state, file, result.task_id, result.cost, result.error)

    return BatchResult(tuple(result_of(result) for result in results if result.job in jobs), finished)
