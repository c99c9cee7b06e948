"""One output's run in a worker: the engine's run, whose jobs come from the queue while it goes on.

The first worker that opens a journal looks for tasks that should be in it, as a run does (`engine.stale_journal`);
the others wait for that. What a job needs is what the journal says of it: an attempt that was not answered is
reconciled, one that was accepted is tracked, one that has ended is downloaded, and only a job without any is submitted.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from wan_async import errors
from wan_async.batch.plan import Plan, Prepared
from wan_async.cluster.batch_options import LASTING, Decided, merged
from wan_async.cluster.dead_workers import count_live_workers
from wan_async.cluster.job_feed import JobFeed
from wan_async.cluster.job_queue import FetchedJob, QueuedJob
from wan_async.cluster.job_rows import enlisted_of, stored_input
from wan_async.cluster.shared_concurrency import SharedConcurrency
from wan_async.cluster.shared_journal import SharedJournal, TakenUp
from wan_async.cluster.slot_notifications import SlotNotifications
from wan_async.cluster.worker_records import OPTIONS, PARKED, Parked
from wan_async.domain import events
from wan_async.domain.attempt import Account, Attempt
from wan_async.domain.batch import Enlisted
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import image_of
from wan_async.domain.lifecycle import IN_FLIGHT, State
from wan_async.engine.active_job import Work
from wan_async.engine.concurrency import AUTO_START
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.environment import Environment, make_environment
from wan_async.engine.options import Options
from wan_async.engine.run import Run, claim_store, write_inputs
from wan_async.engine.run_events import EventStream
from wan_async.engine.scheduler import Scheduler
from wan_async.journal.base import DatabaseHome, Journal
from wan_async.journal.postgres import NUMBERS
from wan_async.journal.postgres_connection import lasting_clock
from wan_async.journal.server_history import Unchecked
from wan_async.output_locations import Location
from wan_async.outputs.disk_errors import on_disk
from wan_async.wiro.credentials import NONCES

LOCKED_SECONDS = 0.2
"""How often a journal is tried again while its first worker checks it."""
AGAIN_SECONDS = 30.0
"""After so long a job is taken up again whose clip could not be had."""
PARKED_SECONDS = 300.0
"""After so long an output whose own state lets nothing be submitted is tried again; after `enqueue`, at once."""
FRESH = 0.5
"""The part of the lease in which a Run may leave after the journal was last found to be held."""

log: logging.Logger = logging.getLogger(__name__)

Outcome = Callable[[FetchedJob, float | None], None]
"""Gets a job that this run no longer has: None if it is done, else in how many seconds it is to be taken up again."""


@dataclass(slots=True)
class _Held:
    fetched: FetchedJob
    left: int = 0
    again: float | None = None
    may_rerender: bool = False


class SharedRun(Run):
    """A worker's run of one output.

    Args:
        home: where the journal is kept.
        dependencies: the clients, the clock and the disk.
        account: whose money it is.
        output: where the clips go: a folder, or a URL.
        options: how to run it; what the batch says itself takes precedence.
        stream: takes the events.
        worker: the worker's id in the queue.
        lease_seconds: for how long a worker without a heartbeat keeps its jobs.
        on_outcome: gets each job that is done, or to be taken up again.
        on_lost: called when another worker has taken this one's jobs.
        put_in_queue: adds jobs to the queue that are not in it.

    Attributes:
        is_renewed: whether its output was enqueued again since it was parked.
    """

    def __init__(
        self,
        home: DatabaseHome,
        *,
        dependencies: Dependencies,
        account: Account,
        output: Location,
        options: Options,
        stream: EventStream,
        worker: int,
        lease_seconds: float,
        on_outcome: Outcome,
        on_lost: Callable[[], None],
        put_in_queue: Callable[[Sequence[QueuedJob]], Awaitable[object]],
    ) -> None:
        super().__init__(
            Prepared([]),
            dependencies=replace(dependencies, open_journal=self._open),
            account=account,
            output=output,
            home=home,
            options=replace(options, takeover_seconds=lease_seconds),
            stream=stream,
        )
        self._database = home
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._on_outcome = on_outcome
        self._on_lost = on_lost
        self._put_in_queue = put_in_queue
        self._jobs: dict[str, Enlisted] = {}
        self._held: dict[str, _Held] = {}
        self._ready = anyio.Event()
        self._images = anyio.Lock()
        self._leads = self._is_noted = False
        self._journal: SharedJournal | None = None
        self._window: SharedConcurrency | None = None
        self._news: SlotNotifications | None = None
        self.is_renewed: bool = False
        self.feed: JobFeed = JobFeed(self._done)

    @property
    def wanted(self) -> int:
        """How many more jobs it wants to have: none, until a quarter of its places are free."""
        limit = AUTO_START if self._window is None else self._window.limit
        places = 2 * limit + 8
        free = places - len(self._held)
        return free if 4 * free >= places else 0

    @property
    def is_parked(self) -> bool:
        """Whether it was stopped by nothing but the state of its output: its jobs wait, the worker goes on."""
        return self._environment is not None and self._environment.shutdown.is_of_output

    @property
    def may_run(self) -> bool:
        """Whether its journal was found to be held so lately that no other worker can have taken over."""
        return self._journal is not None and lasting_clock() - self._journal.held_at < FRESH * self._lease_seconds

    async def confirm_hold(self) -> None:
        """Finds out whether this worker still holds the journal, also on a server that has just come back."""
        if self._journal is not None and not self.ended.is_set():
            with suppress(errors.WanError):  # then `on_lost` was called, or the run ends
                await self._journal.kept(OPTIONS)

    def pause(self, seconds: float) -> None:
        """Tells all workers of the account that the service's rate limit lets none of them send a Run for so long."""
        if self._news is not None:
            self._news.pause(seconds)

    def hold(self, fetched: FetchedJob) -> None:
        """A job is this run's, for `take`."""
        self._held[fetched.job.key] = _Held(fetched)

    async def take(self, fetched: Sequence[FetchedJob]) -> None:
        """Takes up jobs that it holds."""
        await self._ready.wait()
        journal, again = self._journal, 0.0
        if journal is not None and not self.ended.is_set() and self.feed.is_open:
            keys = [each.job.key for each in fetched]
            try:
                told = await journal.kept(OPTIONS)  # another `enqueue` may have come
                decided = Decided.of(told, self._options)
                until = decided.until if decided.options.rerender else None
                retry_failed = decided.options.retry_failed
                taken = await journal.take_up(keys, retry_failed=retry_failed, rerender_until=until)
            except errors.WanError as error:
                log.warning("%d jobs could not be taken up: %s", len(keys), error)
                again = AGAIN_SECONDS
            else:
                for each in fetched:
                    await self._begin(each, taken.get(each.job.key), journal, decided)
                return
        for each in fetched:
            self._give_back(each.job.key, again)

    async def _begin(
        self, fetched: FetchedJob, taken: TakenUp | None, journal: SharedJournal, decided: Decided
    ) -> None:
        """Gives the scheduler what a job needs."""
        key, scheduler = fetched.job.key, self._scheduler
        assert scheduler is not None
        held = self._held.get(key)
        if taken is None or held is None:  # in the latter case the run has ended, and given it back
            self._give_back(key, None)
            return
        try:
            job = enlisted_of((key, taken.position, taken.content, taken.name, taken.spec), self._inputs)
            is_meant = decided.options.admits(job.planned.label)
            submits = taken.to_do or (taken.rerenders and is_meant)
            if submits or any(attempt.image for attempt in taken.attempts):
                await self._fetch_image(job)
            self._jobs[key] = job
            if fetched.job.duplicates:
                rows = await journal.jobs_of(fetched.job.duplicates)
                same = [each for row in rows if (each := enlisted_of(row, self._inputs)).content == job.content]
                if same:
                    await scheduler.share_with(key, same)
        except errors.WanError as error:
            log.warning("job %s could not be taken up: %s", key, error)
            self._give_back(key, AGAIN_SECONDS)
            return
        works, missing = [], 0
        for attempt in taken.attempts:
            is_same = taken.position is not None and attempt.content == job.content
            missing += is_same and attempt.state == State.MISSING
            concerned = is_meant and attempt.id <= decided.until
            work = Work(key, job if is_same else None, attempt, resumed=True)
            work.gives_up = concerned and decided.options.give_up
            work.resubmits = concerned and decided.options.resubmit_unknown
            works.append(work)
        held.may_rerender = submits and missing > 0
        if held.may_rerender:
            scheduler.rerender_if_denied(job, missing)
        elif submits:
            works.append(Work(key, job))
        held.left = len(works)
        if not works:
            self._give_back(key, None)
        for work in works:
            self.feed.put(work)

    async def _fetch_image(self, job: Enlisted) -> None:
        """Copies a job's image from the store to this machine, unless it is here."""
        path = image_of(job.planned.job)
        if path is None or job.planned.job.image_is_url or self._environment is None:
            return
        local = Path(path)
        async with self._images:  # many jobs have the same one
            if await anyio.to_thread.run_sync(local.exists):
                return
            data = await self._environment.store.read(stored_input(local.name))
            if data is None:
                raise errors.Unusable(f"the input image {local.name} is missing in the store: enqueue the batch again")
            await on_disk(
                self._dependencies.offload, local.parent, write_inputs, self._dependencies.files, {local: data}
            )

    def stop_feed(self) -> None:
        """Takes no more jobs, and gives back those that were not begun."""
        while (work := self.feed.next_job()) is not None:
            self._done(work)
        self.feed.close()
        self._ready.set()

    def _done(self, work: Work) -> None:
        held = self._held.get(work.key)
        if held is None:  # a job that gets its clip from another
            return
        again = self._again_after(work)
        if again is not None:
            held.again = again
        if held.may_rerender and self._scheduler is not None and self._scheduler.rerenders(work.key):
            held.may_rerender, held.left = False, held.left + 1
        held.left -= 1
        if held.left <= 0:
            self._give_back(work.key, held.again)

    def _again_after(self, work: Work) -> float | None:
        """In how many seconds a job is to be taken up again; None if it is done."""
        stopping = not self.feed.is_open or (self._environment is not None and self._environment.shutdown.stopping)
        state = State.PLANNED if work.attempt is None else work.attempt.state
        if state in (*IN_FLIGHT, State.UNKNOWN):
            return 0.0 if stopping else AGAIN_SECONDS
        return 0.0 if stopping and state in (State.PLANNED, State.REJECTED, State.ABSENT) else None

    def _give_back(self, key: str, again: float | None) -> None:
        held = self._held.pop(key, None)
        self._jobs.pop(key, None)
        if held is not None:
            pause = PARKED_SECONDS if self.is_parked and not self.is_renewed else 0.0
            self._on_outcome(held.fetched, None if again is None else max(again, pause))

    def give_back_all(self) -> None:
        """The run has ended: what it still has is to be taken up by others."""
        self._ready.set()
        for key in list(self._held):
            self._give_back(key, 0.0)

    @asynccontextmanager
    async def _open(self, home: DatabaseHome, account: Account, *, inline: bool) -> AsyncIterator[SharedJournal]:
        """Makes the output folder, and opens the journal: alone if no other worker has it, to check it first."""
        if isinstance(self._output, Path):
            make = partial(self._output.mkdir, parents=True, exist_ok=True)
            await on_disk(self._dependencies.offload, self._output, make)
        is_unchecked = False
        while True:
            leads = is_unchecked or not await count_live_workers(home.dsn, home.output, self._lease_seconds)
            opened = SharedJournal.open(home, account, inline=inline, exclusive=leads, worker=self._worker)
            try:
                journal = await opened.__aenter__()
            except errors.Locked as error:
                is_unchecked = isinstance(error, Unchecked)
                await anyio.sleep(LOCKED_SECONDS)
                continue
            break
        try:
            self._leads, self._journal = leads, journal
            journal.on_lost = self._on_lost
            self._options = merged(self._options, await journal.kept(OPTIONS), (*LASTING, "retry_failed"))
            yield journal
        finally:
            self.feed.close()
            await opened.__aexit__(None, None, None)

    def make_environment(self, journal: Journal) -> Environment:
        """What everything in the run works with; its slots are those of all workers."""
        assert isinstance(journal, SharedJournal)
        start = self._options.concurrency or AUTO_START
        ceiling = self._options.concurrency or self._options.max_concurrency
        self._window = SharedConcurrency(start, ceiling, self.feed.wake)
        environment = make_environment(
            journal, self._dependencies, self._options, self._output, self._stream, self._run_id, self._window
        )
        self.feed.wake = environment.wake.set
        self._window.wake = environment.wake.set
        journal.window, journal.limits = self._window, (start, ceiling)
        NONCES.share(journal.hold.number, NUMBERS)
        journal.on_pause = lambda seconds: environment.api.rate_limit.slow_down(anyio.current_time(), seconds)
        return environment

    async def carry(self, environment: Environment) -> None:
        """Greets the service, checks the journal if no other worker did, and works on what comes from the queue."""
        journal = self._journal
        assert journal is not None
        await claim_store(environment.store, journal)
        checks = self._leads
        if checks:  # Runs of its former holders may be in flight
            checks = await environment.shutdown.pause(self._lease_seconds - await journal.seconds_since_fence())
        if await journal.kept(PARKED):
            await journal.keep(PARKED, "")
        self._settled_before = (await journal.money()).settled
        plan = await self._plan(journal) if self._leads else Plan({}, (), ())
        newest = await self._greet(environment, plan)
        not_repeated: Mapping[str, list[str]] = {}
        resumed: Sequence[Attempt] = []
        if checks:
            checked = await self._check_journal(environment, plan, newest)
            not_repeated = checked.not_repeated
            if environment.shutdown.stopping:  # others would not check it, and submit
                resumed = plan.resumed
                self._jobs.update(plan.jobs)
            else:
                # one may have left the queue as done, by what the server lacks now
                attempts = [*plan.resumed, *checked.adopted]
                unfinished = {each.job for each in attempts if each.state in (*IN_FLIGHT, State.UNKNOWN)}
                await self._put_in_queue([QueuedJob(self._database.output, key) for key in sorted(unfinished)])
                await journal.let_others_in()
        self._scheduler = Scheduler(environment, self._jobs, not_repeated, {}, shared=True, leads=self._leads)
        self._news = SlotNotifications(self._database.dsn, journal, environment.slots)
        with self._scope:
            async with anyio.create_task_group() as group:
                group.start_soon(self._news.serve)
                group.start_soon(self._watch_stop, environment)
                group.start_soon(self._track_unassigned, journal, self._scheduler)
                self._ready.set()
                await self._scheduler.run([], resumed, [], self.feed)
                group.cancel_scope.cancel()

    async def finish(self, environment: Environment, began: float) -> events.Finished:
        """Writes the results, while no other worker does, and sums the run up."""
        assert self._journal is not None
        await self._note_parked(self._journal, environment)
        self.is_renewed = self.is_parked and not await self._journal.kept(PARKED)
        async with self._journal.writing_results():
            return await super().finish(environment, began)

    async def _watch_stop(self, environment: Environment) -> None:
        """Closes the feed once the run is stopped."""
        while not environment.shutdown.stopping:
            await environment.shutdown.pause(60.0)
        self.stop_feed()
        if self._journal is not None:
            await self._note_parked(self._journal, environment)

    async def _note_parked(self, journal: SharedJournal, environment: Environment) -> None:
        """Writes once into the journal why nothing is submitted; `enqueue` deletes it."""
        reason = environment.shutdown.reason
        if self.is_parked and reason is not None and not self._is_noted:
            self._is_noted = True
            await journal.keep(PARKED, Parked(reason, ExitCode.first_of(self.codes)).dumps())

    async def _track_unassigned(self, journal: SharedJournal, scheduler: Scheduler) -> None:
        """Has the tasks of quarantined attempts tracked for as long as no worker is here that came before this one."""
        while True:
            await anyio.sleep(self._lease_seconds / 2)
            try:
                if await journal.is_first():
                    await scheduler.track_unassigned()
            except errors.WanError as error:
                log.warning("tasks that may be those of quarantined jobs can't be tracked: %s", error)

    async def _plan(self, journal: SharedJournal) -> Plan:
        jobs = {row[0]: enlisted_of(row, self._inputs) for row in await journal.all_jobs()}
        keys = await journal.todo(retry_failed=self._options.retry_failed, rerender=False)
        todo = [jobs[key] for key in keys]
        done = (await journal.counts())[State.STORED]
        return Plan(jobs, todo, todo, resumed=await journal.open_attempts(), done=done)
