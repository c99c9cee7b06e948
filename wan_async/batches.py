"""`open_batch`: everything that `wan-async run` does, for apps."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread

from wan_async import errors
from wan_async.batch.output_check import target_problems
from wan_async.batch.plan import prepare
from wan_async.client import WanClient
from wan_async.domain.batch import Batch, from_jobs
from wan_async.domain.job import Job
from wan_async.engine.environment import Services
from wan_async.engine.event_stream import EventStream
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.journal.base import FOLDER


@asynccontextmanager
async def open_batch(
    batch: Iterable[Job] | Batch,
    *,
    output: str | os.PathLike[str],
    client: WanClient,
    options: Options | None = None,
) -> AsyncIterator[EventStream]:
    """Does everything that `wan-async run` does, and yields the events of it.

    Leaving the block normally waits for the end of the run. Leaving it by an exception or a cancellation acts as a
    second Ctrl-C: Runs in flight get three seconds, and the journal in `output` knows the rest.

    Args:
        batch: the jobs, or a batch read by other means.
        output: the folder of the clips and their journal.
        client: carries it; its own watching is not used.
        options: how to run it.

    Raises:
        errors.InvalidBatch: before anything is spent.
        errors.WanError: on leaving, what broke the run, if anything did.
    """
    planned = batch if isinstance(batch, Batch) else from_jobs(batch)
    if problems := await anyio.to_thread.run_sync(target_problems, planned.jobs, Path(output), None):
        raise errors.InvalidBatch(problems)
    stream = EventStream()
    runner = Run(
        await anyio.to_thread.run_sync(prepare, planned, Path(output) / FOLDER),
        services=Services(client.api, client.downloader),
        account=client.account,
        output=Path(output),
        options=options,
        stream=stream,
    )
    left: BaseException | None = None
    with client.hearing(runner.hint):
        async with anyio.create_task_group() as group:
            group.start_soon(runner.run)
            try:
                yield stream
            except BaseException as error:  # noqa: BLE001 - raised again below, outside of the task group
                left = error
                runner.leave()
            stream.leave()
    if left is not None:
        raise left
    if runner.error is not None:
        raise runner.error
