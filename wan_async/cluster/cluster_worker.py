"""A worker: takes jobs from the queue, runs them, and takes over those of workers that are gone.

The queue hands a job to one worker at a time, by a lease that the worker's heartbeat renews. A worker whose heartbeat
has stopped loses its journals and its jobs in one transaction (`dead_workers`); if it was only slow, it can write
nothing from then on (`LeaseLost`), drops everything, and begins anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import anyio
import anyio.abc
import anyio.to_thread

from wan_async import errors
from wan_async.cluster.dead_workers import is_unavailable, take_over
from wan_async.cluster.job_queue import FetchedJob, JobQueue, open_queue
from wan_async.cluster.shared_run import PARKED_SECONDS, SharedRun
from wan_async.cluster.worker_statistics import WorkerStatistics
from wan_async.domain import events
from wan_async.domain.attempt import Account
from wan_async.domain.exit_codes import INTERRUPTIONS, ExitCode
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.leases import Wake
from wan_async.engine.options import Options
from wan_async.engine.run_events import EventStream
from wan_async.journal.base import DatabaseHome
from wan_async.output_locations import location_of

HEARTBEATS = 5
"""How many heartbeats a lease spans."""
FETCH_SECONDS = 2.0
"""How often the queue is looked at without a notification."""
DRAIN_POLL_SECONDS = 0.1
FETCHED_AT_ONCE = 16
"""How many jobs are taken from the queue by one statement: so few that workers that start together share them."""

log: logging.Logger = logging.getLogger(__name__)


class _Forwarded(EventStream):
    """The events of one output's run, for the worker's stream.

    Args:
        stream: the worker's.
        count: gets each event.
        park: gets why the run stops; whether only this output is concerned, so that the worker goes on.
    """

    def __init__(
        self, stream: EventStream, count: Callable[[events.Event], None], park: Callable[[events.Stopping], bool]
    ) -> None:
        super().__init__()
        self._stream = stream
        self._count = count
        self._park = park
        self.finished: events.Finished | None = None

    def put(self, event: events.AnyEvent) -> None:
        """An event goes to the worker's stream, but for the last one."""
        self._count(event)
        if isinstance(event, events.Finished):
            self.finished = event
        elif not (isinstance(event, events.Stopping) and self._park(event)):
            self._stream.put(event)

    def close(self) -> None:
        """Nothing more comes of this run."""
        self.closed = True


class ClusterWorker:
    """A worker.

    Args:
        dsn: the database of the journals and the queue.
        dependencies: the clients, the clock and the disk.
        account: whose money it is.
        options: how to run; what a batch says itself takes precedence.
        stream: takes the events.
        lease_seconds: for how long a worker without a heartbeat keeps its jobs.
        once: whether it ends when nothing is left to do.

    Attributes:
        lost: whether another worker took over its jobs: it must begin anew.
        reason: why it ended by itself; None if it did not.
    """

    def __init__(
        self,
        dsn: str,
        *,
        dependencies: Dependencies,
        account: Account,
        options: Options,
        stream: EventStream,
        lease_seconds: float,
        once: bool,
    ) -> None:
        self.lost: bool = False
        self.reason: str | None = None
        self._dsn = dsn
        self._dependencies = dependencies
        self._account = account
        self._options = options
        self._stream = stream
        self._lease_seconds = lease_seconds
        self._once = once
        self._runs: dict[str, tuple[SharedRun, _Forwarded]] = {}
        self._fetched: set[int] = set()
        self._fetching = anyio.Lock()
        self._outcomes: list[tuple[FetchedJob, float | None]] = []
        self._wake, self._ended = Wake(), Wake()
        self._stopping: tuple[str, ExitCode] | None = None
        self._has_left = self._is_done = False
        self._codes: set[ExitCode] = set()
        self._parked: dict[str, set[ExitCode]] = {}
        self._to_postpone: dict[str, float] = {}
        self._said: set[tuple[str, str]] = set()
        self._total = WorkerStatistics()
        self._scope = anyio.CancelScope()
        # the runs share the API client, and whoever takes over takes all of a worker's journals at once
        dependencies.api.may_run = lambda: any(run.may_run for run, _ in self._runs.values())
        dependencies.api.rate_limit.on_pause = self._pause

    def _pause(self, seconds: float) -> None:
        for run, _ in self._runs.values():
            run.pause(seconds)

    def stop(self, reason: str, exit_code: ExitCode) -> None:
        """Take no more jobs; see through what was submitted."""
        self._stopping = self._stopping or (reason, exit_code)
        for run, _ in self._runs.values():
            run.stop(reason, exit_code)
        self._wake.set()

    def leave(self) -> None:
        """Don't even see through what was submitted: other workers do."""
        self._stopping = self._stopping or ("the worker is left", ExitCode.INTERRUPTED)
        for run, _ in self._runs.values():
            run.leave()
        self._wake.set()

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            log.warning("this worker no longer holds its jobs (others may have taken them up): it begins anew")
            self.leave()
            self._scope.cancel()

    async def run(self) -> events.Finished:
        """Works until it is stopped, or with `once` until nothing is left; returns the last event."""
        began = self._dependencies.clock()
        try:
            async with open_queue(self._dsn, create=True) as queue:
                worker = await queue.patiently(queue.register)
                await queue.patiently(queue.make_all_due)
                try:
                    with self._scope:
                        await self._work(queue, worker)
                finally:
                    with anyio.move_on_after(5.0, shield=True):
                        await self._settle(queue)
                        await queue.unregister(worker)
        except errors.WanError as error:
            self.reason = self.reason or str(error)
            self._stopping = self._stopping or (self.reason, ExitCode.of_error(error))
        finally:
            finished = self._finished(began)
            self._stream.put(finished)
            self._stream.close()
        return finished

    async def _work(self, queue: JobQueue, worker: int) -> None:
        await self._take_over()
        async with anyio.create_task_group() as dependencies, anyio.create_task_group() as runs:
            for serve in (
                partial(self._beat, queue, worker),
                self._take_over_always,
                partial(queue.wait_inserted, self._wake.set),
                partial(self._settle_always, queue),
            ):
                dependencies.start_soon(serve)
            await self._fetch(queue, worker, runs)
            self._is_done = True
            for run, _ in self._runs.values():
                run.stop_feed()
            while self._runs:
                await self._ended.wait(DRAIN_POLL_SECONDS)
            dependencies.cancel_scope.cancel()

    async def _fetch(self, queue: JobQueue, worker: int, runs: anyio.abc.TaskGroup) -> None:
        """Takes jobs from the queue for as long as their runs want more."""
        while self._stopping is None:
            wanted = min((FETCHED_AT_ONCE, *(run.wanted for run, _ in self._runs.values())))
            found: list[FetchedJob] = []
            async with self._fetching:
                if wanted:
                    found = await queue.patiently(partial(queue.fetch, worker, wanted, self._fetched))
                self._fetched |= {each.id for each in found}
            taken: dict[SharedRun, list[FetchedJob]] = {}
            for each in found:
                run = self._run_of(each.job.output, queue, worker, runs)
                run.hold(each)
                taken.setdefault(run, []).append(each)
            for run, some in taken.items():
                runs.start_soon(run.take, some)
            if found:
                continue
            if self._once and wanted and not self._fetched:
                return
            await self._wake.wait(FETCH_SECONDS if wanted else DRAIN_POLL_SECONDS)

    def _run_of(self, output: str, queue: JobQueue, worker: int, runs: anyio.abc.TaskGroup) -> SharedRun:
        if output not in self._runs:
            self._parked.pop(output, None)
            stream = _Forwarded(self._stream, partial(self._total.fold, output), partial(self._park, output))
            run = SharedRun(
                DatabaseHome(self._dsn, output),
                dependencies=self._dependencies,
                account=self._account,
                output=location_of(output),
                options=self._options,
                stream=stream,
                worker=worker,
                lease_seconds=self._lease_seconds,
                on_outcome=self._outcome,
                on_lost=self._lose,
                put_in_queue=lambda jobs: queue.patiently(partial(queue.put, jobs)),
            )
            self._runs[output] = (run, stream)
            runs.start_soon(self._carry, output, run, stream)
        return self._runs[output][0]

    async def _carry(self, output: str, run: SharedRun, stream: _Forwarded) -> None:
        """Runs an output's jobs to the end of the run.

        That is the end of the worker, unless nothing but the state of the output is the reason.
        """
        try:
            await run.run()
        finally:
            run.give_back_all()
            del self._runs[output]
            if run.is_parked:
                self._parked[output] = run.codes
                self._to_postpone |= {output: 0.0} if run.is_renewed else {}
            elif stream.finished is not None:
                self._codes |= run.codes
            has_ended_itself = self._stopping is None and not self._is_done
            if has_ended_itself and not run.is_parked:  # this worker can't go on
                code = ExitCode.of_error(run.error, otherwise=ExitCode.ENVIRONMENT) if run.error else ExitCode.FAILURES
                self.reason = run.why or str(run.error or "the run of an output ended")
                self.stop(self.reason, ExitCode.first_of(run.codes or {code}))
            self._ended.set()

    def _park(self, output: str, event: events.Stopping) -> bool:
        """Puts an output off whose run stops, if nothing but its own state is the reason; whether it is."""
        if not self._runs[output][0].is_parked:
            return False
        self._to_postpone[output] = PARKED_SECONDS
        if (output, event.reason) not in self._said:
            self._said.add((output, event.reason))
            again = (
                f"in {PARKED_SECONDS / 60:.0f} minutes, once it is enqueued again, or when another worker is started"
            )
            message = f"{event.reason}: its jobs wait, and are tried again {again}"
            self._stream.put(events.Problem(at=event.at, run=event.run, where=output, message=message))
        return True

    def _outcome(self, fetched: FetchedJob, again: float | None) -> None:
        self._has_left = self._has_left or again is not None
        self._outcomes.append((fetched, again))
        self._wake.set()
        self._ended.set()

    async def _settle_always(self, queue: JobQueue) -> None:
        while True:
            if not self._outcomes:
                await anyio.sleep(DRAIN_POLL_SECONDS)
            await self._settle(queue)

    async def _settle(self, queue: JobQueue) -> None:
        """Tells the queue which jobs are done, and which are to be taken up again, and when."""
        while self._outcomes:
            for run, _ in list(self._runs.values()):
                await run.confirm_hold()
            if self.lost:  # what this worker has seen stored may not be so in the journal
                self._outcomes = [(fetched, 0.0) for fetched, _ in self._outcomes]
            outcomes = list(self._outcomes)
            done = [fetched for fetched, again in outcomes if again is None]
            if done:
                await queue.patiently(partial(queue.finish, done[0].worker, [fetched.id for fetched in done]))
            async with self._fetching:  # else one that was put back might be taken again before it is forgotten
                for fetched, again in outcomes:
                    if again is not None:
                        await queue.patiently(partial(queue.put_back, fetched, again))
                self._fetched -= {fetched.id for fetched, _ in outcomes}
            self._outcomes = self._outcomes[len(outcomes) :]
            self._wake.set()
        while self._to_postpone:
            await queue.patiently(partial(queue.postpone, *self._to_postpone.popitem()))

    async def _beat(self, queue: JobQueue, worker: int) -> None:
        while True:
            await anyio.sleep(self._lease_seconds / HEARTBEATS)
            if not await queue.patiently(lambda: queue.beat(worker)):
                self._lose()

    async def _take_over_always(self) -> None:
        """Looks for workers that are gone. After an outage of the database all seem to be: they get a lease's time."""
        while True:
            await anyio.sleep(self._lease_seconds / 2)
            if not await self._take_over():
                await anyio.sleep(self._lease_seconds)

    async def _take_over(self) -> bool:
        """Puts the jobs of workers that are gone back into the queue; whether the database was available."""
        try:
            count = await anyio.to_thread.run_sync(take_over, self._dsn, self._lease_seconds)
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.debug("workers that are gone can't be looked for: %s", error)
            return False
        if count:
            log.warning("%d jobs of workers that are gone are taken up again", count)
            self._wake.set()
        return True

    def _finished(self, began: float) -> events.Finished:
        now = self._dependencies.clock()
        codes = self._codes.union(*self._parked.values(), {self._stopping[1]} if self._stopping is not None else ())
        codes -= set() if self._has_left else INTERRUPTIONS
        return self._total.finished(now, round(now - began, 3), int(ExitCode.first_of(codes)))
