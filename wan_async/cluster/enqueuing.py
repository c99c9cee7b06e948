"""Puts a batch into the queue: plans it, stores its images by content, enrolls it in the journal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePath

import anyio

from wan_async import errors
from wan_async.batch.plan import Plan, Prepared, make_plan
from wan_async.cluster.batch_options import kept_options
from wan_async.cluster.job_queue import JobQueue, QueuedJob
from wan_async.cluster.job_rows import stored_input
from wan_async.cluster.shared_journal import SharedJournal
from wan_async.cluster.worker_records import OPTIONS, PARKED, budget_in
from wan_async.domain.attempt import Account
from wan_async.domain.batch import Enlisted
from wan_async.domain.job import image_of, with_image
from wan_async.engine.leases import Wake
from wan_async.engine.options import Options
from wan_async.engine.pricing import Prices
from wan_async.engine.run import claim_store
from wan_async.engine.task_listing import NO_NUMBER, task_number
from wan_async.journal.base import DatabaseHome
from wan_async.output_locations import Location
from wan_async.outputs.base import NameExists, Store
from wan_async.outputs.disk_errors import on_disk
from wan_async.threads import Offload
from wan_async.wiro.api import Api

LOCKED_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Planned:
    """A batch that is enrolled, and not in the queue yet.

    Attributes:
        plan: what its workers will do.
        estimate: the new money, in micro-dollars; None if it is unknown.
        settled: what was spent or reserved before.
        budgets: what the output might cost over its lifetime before, and now, in micro-dollars; None without a limit.
    """

    plan: Plan
    estimate: int | None
    settled: int
    budgets: tuple[int | None, int | None] = (None, None)

    @property
    def jobs(self) -> list[str]:
        """Keys of the jobs for the queue: to submit first, then those with an attempt to take up."""
        chosen = [job.key for job in self.plan.chosen]
        return list(dict.fromkeys([*chosen, *(one.job for one in (*self.plan.resumed, *self.plan.late))]))


@asynccontextmanager
async def open_beside_workers(
    home: DatabaseHome, account: Account | None, *, inline: bool = False
) -> AsyncIterator[SharedJournal]:
    """Opens a journal beside its workers; waits while the first of them checks it."""
    while True:
        opened = SharedJournal.open(home, account, inline=inline, exclusive=False)
        try:
            journal = await opened.__aenter__()
        except errors.Locked:
            await anyio.sleep(LOCKED_SECONDS)
            continue
        break
    try:
        yield journal
    finally:
        await opened.__aexit__(None, None, None)


async def plan_batch(
    home: DatabaseHome, prepared: Prepared, options: Options, *, output: Location, account: Account, api: Api,
    offload: Offload, store: Store, adds: bool = False,
) -> Planned:  # fmt: skip
    """Stores the images of a batch, enrolls it, and reads what is to be done.

    Args:
        home: where the journal is kept.
        prepared: the batch.
        options: how its jobs are to be run; the workers read that in the journal.
        output: the output folder, or its URL.
        account: whose money it is.
        api: the client of the service, for the prices.
        offload: runs blocking calls.
        store: the store of the output.
        adds: whether it adds to the batch there, whose options stay but for those that are no defaults.

    Raises:
        errors.Unusable: the journal or the disk can't be used.
        errors.StopBatch: the service refuses the credentials.
    """
    if isinstance(output, Path):
        await on_disk(offload, output, partial(output.mkdir, parents=True, exist_ok=True))
    async with open_beside_workers(home, account) as journal:
        await claim_store(store, journal)
        if await journal.is_new() and not journal.stale:
            await journal.begins_at(await _newest_task(api))
        stored = replace(prepared, jobs=await _store_images(prepared, output, store, offload), hashed={})
        plan = await make_plan(journal, stored, options, output, await store.sizes(), offload)
        before = await journal.kept(OPTIONS)
        now = kept_options(options, await journal.newest_attempt(), before if adds else None)
        await journal.keep(OPTIONS, now)
        await journal.keep(PARKED, "")
        money = await journal.money()
        prices = Prices(api, journal, lambda: None, Wake())
        await prices.learn()
        budgets = (budget_in(before), budget_in(now))
        return Planned(plan, plan.estimate(options, prices.expected), money.settled + money.reserved, budgets)


async def _newest_task(api: Api) -> int:
    """The highest id of the account's tasks; 0 if there are none."""
    numbers = [task_number(task.id) for task in (await api.list_tasks()).tasklist]
    return max((number for number in numbers if number < NO_NUMBER), default=0)


async def put_in_queue(queue: JobQueue, home: DatabaseHome, planned: Planned) -> int:
    """Makes the jobs available to the workers; how many of them were not in the queue before."""
    duplicates: Mapping[str, tuple[str, ...]] = {
        key: tuple(job.key for job in jobs) for key, jobs in planned.plan.duplicates.items()
    }
    keys = list(dict.fromkeys([*planned.jobs, *duplicates]))
    return await queue.put([QueuedJob(home.output, key, duplicates.get(key, ())) for key in keys])


async def _store_images(prepared: Prepared, output: Location, store: Store, offload: Offload) -> list[Enlisted]:
    """Puts each distinct image where workers find it by its content; the jobs, with these images."""
    jobs: list[Enlisted] = []
    there: set[str] = set()
    for job in prepared.jobs:
        source = image_of(job.planned.job)
        if source is None or job.planned.job.image_is_url:
            jobs.append(job)
            continue
        digest = job.image.removeprefix("sha256:")
        name = stored_input(f"{digest}{PurePath(source).suffix.lower() or '.bin'}")
        if name not in there and await store.sha256(name) != digest:
            for folder in reversed(PurePath(name).parents[:-1]):
                await store.make_folder(folder.as_posix())
            part = f"{digest}.part"
            await offload(_copy, prepared.inputs.get(Path(source)), Path(source), store.part_path(part), digest)
            with suppress(NameExists):  # another process has put it there
                await store.publish(part, name, digest)
        there.add(name)
        place = str(output / name) if isinstance(output, Path) else name  # reports show the image in the folder
        named = replace(job.planned, job=with_image(job.planned.job, place))
        jobs.append(replace(job, planned=named))
    return jobs


def _copy(data: bytes | None, source: Path, part: Path, digest: str) -> None:
    try:
        data = source.read_bytes() if data is None else data
        if sha256(data).hexdigest() != digest:
            raise errors.Unusable(f"{source} has changed since the batch was read: enqueue it again")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
    except OSError as error:
        raise errors.Unusable(f"{source} can't be copied to {part}: {error.strerror or error}") from None
