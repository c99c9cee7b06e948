"""Admission: which job is submitted next, and when. The task group in which all jobs of a run live.

Guarantees. A job is submitted only with a lease: a slot among the active tasks, and the lock on its content, so that of
two jobs of equal content never two Runs are unanswered. The account's ceiling is kept full from the queue; images are
uploaded ahead of it. Once the run is stopped nothing is submitted, and what was submitted is tracked and downloaded.

An unexpected exception affects one job: it is logged with its traceback, and a job that may have been paid
for stays recoverable. A service of the run (tracker, reconciler, WebSocket) that breaks is started again.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import anyio
import anyio.abc

from wan_async import errors
from wan_async.domain.attempt import Attempt
from wan_async.domain.batch import Enlisted
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import parameters_of
from wan_async.domain.lifecycle import UNANSWERED, State
from wan_async.domain.model import Model
from wan_async.engine.active_job import DONE, READY, Again, Cancelled, Outcome, Ready, Requeue, Work
from wan_async.engine.delivery import Delivery
from wan_async.engine.environment import Environment
from wan_async.engine.job_source import BatchSource, JobSource
from wan_async.engine.leases import Lease
from wan_async.engine.matching import Contents
from wan_async.engine.missing_tasks import MissingTasks
from wan_async.engine.reconciler import Reconciler
from wan_async.engine.shared_clips import SharedClips
from wan_async.engine.submission import Submission
from wan_async.engine.unassigned_clips import UnassignedClips
from wan_async.engine.uploads import Uploads
from wan_async.engine.worker import Worker
from wan_async.http.descriptor_limit import connections
from wan_async.journal.base import Journal

BACKLOG = 4
"""No new Run while more than this many times `downloads` clips wait to be fetched."""
ASKED_AT_ONCE = 16
"""How many missing and cancelled tasks of earlier runs are asked for at once."""
RECHECK_SECONDS = 60.0
"""After so long a cancelled task is asked for once more, since its charge may appear late (WIRO_API 4)."""
SERVICE_FAULTS, SERVICE_QUIET_SECONDS = 20, 60.0
"""The run ends after this number of unexpected ends of a service, each within a minute of the one before."""
SERVICE_PAUSE_SECONDS = 1.0

log: logging.Logger = logging.getLogger(__name__)


class Scheduler:
    """The jobs of one run.

    Args:
        environment: the run.
        batch: its jobs by key, in batch order.
        not_repeated: jobs that are not submitted again, by key, with the tasks that may be theirs.
        duplicates: jobs that get the clip of another job, by the key of that job.
        shared: whether other workers make attempts in this journal, too.
        leads: whether it tracks the tasks that may be those of quarantined attempts; one worker of a journal does. The
            others do so once `track_unassigned` is called.
    """

    def __init__(
        self,
        environment: Environment,
        batch: Mapping[str, Enlisted],
        not_repeated: Mapping[str, list[str]],
        duplicates: Mapping[str, Sequence[Enlisted]],
        *,
        shared: bool = False,
        leads: bool = True,
    ) -> None:
        self._environment = environment
        self._leads = leads
        self._batch = batch
        self._uploads = Uploads(environment)
        self._unassigned = UnassignedClips(environment, leads=leads)
        self._delivery = Delivery(environment, self._unassigned)
        self._shared = SharedClips(environment, self._delivery, duplicates)
        self._reconciler = Reconciler(
            environment, partial(contents_of, environment.api.model, environment.journal, batch), learns_once=not shared
        )
        self._missing_tasks = MissingTasks(environment, batch)
        self._submission = Submission(environment, self._uploads)
        self._worker = Worker(
            environment=environment,
            uploads=self._uploads,
            submission=self._submission,
            reconciler=self._reconciler,
            missing_tasks=self._missing_tasks,
            delivery=self._delivery,
            unassigned=self._unassigned,
            shared=self._shared,
            not_repeated=not_repeated,
        )
        self._queue: deque[Work] = deque()
        self._parked: dict[str, list[Work]] = {}
        self._carried = 0
        self._most_sending = connections()
        self._hold_until = 0.0
        self._broke_at = -1
        self._is_over = False
        self._done: Callable[[Work], None] = lambda work: None
        self._group: anyio.abc.TaskGroup
        self._dependencies: anyio.abc.TaskGroup

    @property
    def unsaved(self) -> Sequence[str]:
        """Ids of tasks that were accepted and could not be committed."""
        return self._submission.unsaved

    async def share_with(self, key: str, jobs: Sequence[Enlisted]) -> None:
        """Gives further jobs the clip of a job, once it is stored."""
        await self._shared.add(key, jobs)

    def rerender_if_denied(self, job: Enlisted, missing: int) -> None:
        """Renders a job anew once this number of its missing attempts, which the feed brings, was denied once more."""
        self._missing_tasks.expect(job, missing)

    def rerenders(self, key: str) -> bool:
        """Whether that happened, so that the job has one more piece of work."""
        return self._missing_tasks.is_denied(key)

    async def track_unassigned(self) -> None:
        """Tracks the tasks that may be those of quarantined attempts, also of those that other workers quarantined."""
        await self._unassigned.load()

    async def run(
        self,
        chosen: Sequence[Enlisted],
        resumed: Sequence[Attempt],
        late: Sequence[Attempt],
        feed: JobSource | None = None,
    ) -> None:
        """Takes up what an earlier run left, submits what is chosen, and returns once nothing is left to do.

        Args:
            chosen: the jobs to submit.
            resumed: the open attempts.
            late: the cancelled attempts whose charge may appear yet.
            feed: where further jobs come from while it runs.
        """
        environment = self._environment
        environment.taken.load(await environment.store.names())
        await self._shared.share_stored()
        await self._uploads.recall()
        if self._leads:
            await self._unassigned.load()
        async with anyio.create_task_group() as self._dependencies:
            for service in (
                environment.tracker.serve,
                environment.hints.serve,
                self._reconciler.serve,
                self._unassigned.serve,
            ):
                self._dependencies.start_soon(self._serve, service)
            async with anyio.create_task_group() as self._group:
                for attempt in resumed:
                    if attempt.state != State.MISSING:
                        self._resume(Work(attempt.job, self._job_of(attempt), attempt, resumed=True))
                missing = [attempt for attempt in resumed if attempt.state == State.MISSING]
                asked = self._missing_tasks.begin(missing, chosen)
                found = await self._ask_first(late, missing)
                left = (job for job in chosen if job.key not in asked and (job.key, job.content) not in found)
                await self._feed(feed or BatchSource(left))
                self._is_over = True
            if not environment.shutdown.stopping:
                self._shared.report_left()
            await self._unassigned.wait_done()
            self._dependencies.cancel_scope.cancel()

    async def _serve(self, service: Callable[[], Awaitable[None]]) -> None:
        """Runs a service, and again if it breaks unexpectedly, unless it does so again and again."""
        faults, broke_at = 0, -math.inf
        while True:
            try:
                return await service()
            except Exception:
                now = anyio.current_time()
                faults, broke_at = faults + 1 if now - broke_at < SERVICE_QUIET_SECONDS else 1, now
                if faults >= SERVICE_FAULTS:
                    raise
                log.exception("a service of the run broke, and is started again")
                await anyio.sleep(SERVICE_PAUSE_SECONDS)

    def _job_of(self, attempt: Attempt) -> Enlisted | None:
        """The job for which an attempt may be repeated: none that was edited since, or that `only` leaves out."""
        job = self._batch.get(attempt.job)
        admitted = job is not None and self._environment.options.admits(job.planned.label)
        return job if admitted and job is not None and job.content == attempt.content else None

    def _resume(self, work: Work) -> None:
        assert work.attempt is not None
        lease = Lease(self._environment.slots, work.attempt.content)
        if work.attempt.state in UNANSWERED:
            lease.lock()
        self._spawn(work, partial(self._worker.resume, work, lease), lease)

    def _take_up(self, work: Work) -> None:
        """Takes up an attempt that the feed brings; a missing or cancelled one is asked for first."""
        attempt = work.attempt
        assert attempt is not None
        looks = {State.MISSING: self._missing_tasks.find, State.CANCELLED: self._missing_tasks.recheck}
        look = looks.get(attempt.state)
        if look is None:
            self._resume(work)
            return

        async def ask() -> Outcome:
            if await look(work):
                self._resume(work)
            return DONE

        self._spawn(work, ask)

    def _spawn(self, work: Work, step: Callable[[], Awaitable[Outcome]], lease: Lease | None = None) -> None:
        """Takes a step of a job in a task of its own, and acts on its outcome."""
        self._carried += 1
        work.steps += 1

        async def act() -> None:
            outcome = await step()
            self._act(work, outcome)

        async def carry() -> None:
            try:
                await self._isolated(work, act, lease)
            finally:
                self._carried -= 1
                work.steps -= 1
                if not work.steps and work not in self._queue and work not in self._parked.get(work.content, ()):
                    self._done(work)
                self._environment.wake.set()

        self._group.start_soon(carry)

    def _act(self, work: Work, outcome: Outcome) -> None:
        match outcome:
            case Ready():
                if work not in self._queue:  # a new attempt; a new job has its place in the queue already
                    self._queue.appendleft(work)
            case Requeue(after_seconds, hold_seconds, after_release):
                if hold_seconds:
                    self._hold_until = anyio.current_time() + hold_seconds
                if after_release:
                    self._broke_at = self._environment.slots.releases
                if after_seconds:
                    self._spawn(work, partial(self._ready_after, after_seconds))
                else:
                    self._queue.appendleft(work)
            case Again(after_seconds):
                before, work.attempt, work.parameters = work.attempt, None, None
                self._spawn(work, partial(self._worker.prepare_again, work, before, after_seconds))
            case Cancelled() if not self._is_over:
                self._dependencies.start_soon(self._recheck_later, work)

    async def _ready_after(self, seconds: float) -> Outcome:
        return READY if await self._environment.shutdown.pause(seconds) else DONE

    async def _prepare(self, work: Work) -> Outcome:
        """Prepares a job that has its place in the queue; loses the place unless it is ready then."""
        is_ready = False
        try:
            outcome = await self._worker.prepare(work)
            is_ready = isinstance(outcome, Ready)
            return outcome
        finally:
            if not is_ready and work in self._queue:
                self._queue.remove(work)

    async def _isolated(self, work: Work, step: Callable[[], Awaitable[None]], lease: Lease | None = None) -> None:
        """One job's step. Whatever goes wrong in it concerns this job, or stops the run in good order."""
        shutdown = self._environment.shutdown
        try:
            try:
                await step()
            except errors.WanError:
                raise
            except Exception as error:
                cause: BaseException = error
                while isinstance(cause, BaseExceptionGroup):
                    cause = cause.exceptions[0]
                log.exception("job %s met an unexpected %s", work.key, type(cause).__name__)
                failed = errors.JobFailed(f"unexpected {type(cause).__name__}: {cause}", kind="internal")
                try:
                    await self._worker.leave(work, failed, lease)
                except errors.WanError:
                    raise
                except Exception:
                    log.exception("job %s is left unfinished", work.key)
        except (errors.StopBatch, errors.Unusable) as error:
            shutdown.stop(str(error), ExitCode.of_error(error))
        except errors.WanError as error:
            log.warning("job %s is left unfinished: %s", work.key, error)
            shutdown.add_code(ExitCode.FAILURES)

    async def _feed(self, source: JobSource) -> None:
        """Prepares jobs ahead of their slots, and submits one whenever a slot is free."""
        environment = self._environment
        slots, shutdown = environment.slots, environment.shutdown
        self._done = source.done
        while True:
            while (found := source.next_attempt()) is not None:
                self._take_up(found)
            while not shutdown.stopping and len(self._queue) < 2 * min(slots.window.limit, self._most_sending):
                work = self._missing_tasks.next_denied() or self._shared.next_promoted() or source.next_job()
                if work is None:
                    break
                self._queue.append(work)
                self._spawn(work, partial(self._prepare, work))
            if shutdown.stopping:
                self._queue.clear()
                self._parked.clear()
            self._unpark()
            slots.set_queued(len(self._queue))
            if (chosen := self._next()) is not None:
                self._queue.remove(chosen)
                lease = slots.lease(chosen.content)
                self._spawn(chosen, partial(self._worker.carry, chosen, lease), lease)
                continue
            if not self._carried and not self._queue and not source.is_open:
                if not shutdown.stopping:
                    self._report_parked()
                return
            await environment.wake.wait(self._pause())

    def _next(self) -> Work | None:
        """The first job that may be submitted now; one whose content is locked is parked."""
        slots, now = self._environment.slots, anyio.current_time()
        if (
            self._environment.shutdown.stopping
            or now < self._hold_until
            or (self._broke_at == slots.releases and slots.window.active > 0)
            or self._delivery.waiting > BACKLOG * self._environment.options.downloads
            or slots.sending >= self._most_sending
            or not slots.window.may_start(now)
        ):
            return None
        for work in list(self._queue):
            if work.ready and slots.is_locked(work.content):
                self._queue.remove(work)
                self._parked.setdefault(work.content, []).append(work)
            elif work.ready:
                return work
        return None

    def _unpark(self) -> None:
        for content in [content for content in self._parked if not self._environment.slots.is_locked(content)]:
            self._queue.extendleft(reversed(self._parked.pop(content)))

    def _pause(self) -> float | None:
        """How long admission may sleep if nothing happens."""
        now = anyio.current_time()
        at = max(self._hold_until, self._environment.slots.window.not_before)
        return at - now if at > now else None

    def _report_parked(self) -> None:
        """Only jobs of the same content as quarantined attempts are left: they stay unsubmitted."""
        for work in (work for waiting in self._parked.values() for work in waiting):
            log.warning(
                "job %s waits: the same clip was already submitted and got no answer; see --resubmit-unknown", work.key
            )

    async def _ask_first(self, late: Sequence[Attempt], missing: Sequence[Attempt]) -> set[tuple[str, str]]:
        """Asks for what earlier runs left as cancelled or missing, before anything is submitted.

        Returns:
            Keys and contents of the jobs whose task was found; these are taken up.
        """
        found = set[tuple[str, str]]()
        places = anyio.CapacityLimiter(ASKED_AT_ONCE)

        async def ask(work: Work, look: Callable[[Work], Awaitable[bool]]) -> None:
            async with places:
                if not self._environment.shutdown.stopping and await look(work):
                    found.add((work.key, work.content))
                    self._resume(work)

        async with anyio.create_task_group() as group:
            for attempts, look in ((late, self._missing_tasks.recheck), (missing, self._missing_tasks.find)):
                for attempt in attempts:
                    work = Work(attempt.job, self._job_of(attempt), attempt, resumed=True)
                    group.start_soon(self._isolated, work, partial(ask, work, look))
        return found

    async def _recheck_later(self, work: Work) -> None:
        async def ask() -> None:
            if await self._missing_tasks.recheck(work, later=True) and not self._is_over:
                self._resume(work)

        await anyio.sleep(RECHECK_SECONDS)
        await self._isolated(work, ask)


async def contents_of(model: Model, journal: Journal, batch: Mapping[str, Enlisted]) -> Contents:
    """Every content of the journal and of the batch: what a listed task may stand for."""
    contents = Contents(model)
    for form, image in await journal.contents():
        contents.add(form, image)
    for job in batch.values():
        contents.add(parameters_of(job.planned.job, ""), job.image)
    return contents
