"""One job's life: image, submission, tracking, delivery; reconciliation where a Run was not answered.

`carry` reads from top to bottom. A worker gets a lease from the scheduler and hands an outcome back; it never calls the
scheduler. A job may fail, go back to the queue (error 96, a rate limit, no network), or be submitted without an answer:
that concerns this job alone. Once a Run may have left, the attempt stays recoverable whatever happens.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.domain import events
from wan_async.domain.attempt import Attempt
from wan_async.domain.batch import Enlisted
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import image_of, parameters_of
from wan_async.domain.lifecycle import OPEN, State
from wan_async.domain.money import usd
from wan_async.domain.remote_task import Ending, TaskDetail
from wan_async.engine import matching
from wan_async.engine.active_job import CANCELLED, DONE, READY, Again, Outcome, Requeue, Work
from wan_async.engine.delivery import Delivery, end_of, note_end, task_id_of, token_of
from wan_async.engine.environment import Environment
from wan_async.engine.leases import Lease
from wan_async.engine.missing_tasks import MissingTasks
from wan_async.engine.output_names import claim_name
from wan_async.engine.reconciler import Reconciler
from wan_async.engine.shared_clips import SharedClips
from wan_async.engine.submission import Refusal, Submission
from wan_async.engine.unassigned_clips import UnassignedClips
from wan_async.engine.uploads import Uploads
from wan_async.journal.base import ContentLocked, NoSlot, OverBudget
from wan_async.wiro.answers import TEXT_PROOFS
from wan_async.wiro.api import Receipt

LOCKED_SECONDS = 5.0
"""How long a job waits whose content has an unanswered Run."""

log: logging.Logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """Works on the jobs of one run, one call a job.

    Attributes:
        environment: the run.
        uploads: the images.
        submission: sends Runs.
        reconciler: finds out what became of unanswered Runs.
        missing_tasks: keeps count of what is missing.
        delivery: gets the clips.
        unassigned: clips of quarantined Runs.
        shared: jobs that get the clip of another job.
        not_repeated: jobs that are not sent again, by key, with the tasks that may be theirs.
    """

    environment: Environment
    uploads: Uploads
    submission: Submission
    reconciler: Reconciler
    missing_tasks: MissingTasks
    delivery: Delivery
    unassigned: UnassignedClips
    shared: SharedClips
    not_repeated: Mapping[str, list[str]]
    _absences: Counter[str] = field(init=False, default_factory=Counter)
    _accepted: int = field(init=False, default=0)
    _not_sent: int = field(init=False, default=0)

    async def prepare(self, work: Work) -> Outcome:
        """Everything that costs nothing, before the slot: the name, the disk, the image."""
        environment, job = self.environment, work.job
        assert job is not None
        failures = 0
        while True:
            try:
                await claim_name(environment, job)
                url = await self._image_url(work, job)
            except (errors.TryLater, errors.AtLimit) as error:
                failures += 1
                wait = environment.delay(failures, error)
                environment.events.tell(events.Retrying, work, reason=error.message, after_seconds=round(wait, 3))
                if not await environment.shutdown.pause(wait):
                    return DONE
            except errors.JobFailed as error:
                await self.fail(work, error, sticky=False)
                return DONE
            except errors.OutOfFunds as error:
                environment.shutdown.stop(f"the balance is used up: {error.message}", ExitCode.FUNDS)
                return DONE
            else:
                work.parameters = parameters_of(job.planned.job, url)
                return READY

    async def prepare_again(self, work: Work, before: Attempt | None, after_seconds: float) -> Outcome:
        """The same for a new attempt, unless there is a reason not to make one."""
        environment = self.environment
        if not await environment.shutdown.pause(after_seconds):
            return DONE
        if (tasks := self.not_repeated.get(work.key)) is not None:
            log.warning(
                "job %s is not submitted again: the service has a task (%s) that equals it and that this journal does "
                "not know; --adopt takes it over, --ignore-unowned submits the job anyway",
                work.key,
                ", ".join(tasks),
            )
            environment.shutdown.add_code(ExitCode.UNRESOLVED, ["--adopt", "--ignore-unowned"])
            return DONE
        or_missing = not (environment.options.rerender or work.rerenders)
        if before is not None and await environment.journal.has_another(before, or_missing=or_missing):
            log.info("job %s is not submitted again: another attempt has its clip, or may get it", work.key)
            return DONE
        return await self.prepare(work)

    async def _image_url(self, work: Work, job: Enlisted) -> str:
        image = image_of(job.planned.job)
        if image is None:
            return ""
        if job.planned.job.image_is_url:
            return str(image)
        digest = job.image.removeprefix("sha256:")
        upload = self.environment.shutdown.unless_stopped(lambda: self.uploads.url_of(work, Path(image), digest))
        return await upload or ""

    async def carry(self, work: Work, lease: Lease) -> Outcome:
        """A job's life, from its lease to its clip."""
        try:
            try:
                submitted = await self.submission.submit(work)
            except errors.JobFailed as error:
                lease.unlock()
                await self.fail(work, error, sticky=False)
                return DONE
            finally:
                lease.sent()
            if submitted is None:
                lease.unlock()
                return DONE
            attempt, answer = submitted
            lease.attempt = attempt
            if isinstance(answer, errors.Ambiguous):
                return await self._reconcile(work, attempt, anyio.current_time(), answer, lease)
            if not isinstance(answer, Receipt):
                lease.unlock()
                return await self._refused(work, answer, lease)
            lease.accepted()
            self._not_sent = 0
            self._accepted += 1
            await self.submission.retry_commit(attempt, answer)
            lease.unlock()
            return await self._see_through(work, attempt, lease)
        finally:
            lease.release()

    async def resume(self, work: Work, lease: Lease) -> Outcome:
        """An attempt that an earlier run left."""
        environment, attempt = self.environment, work.attempt
        assert attempt is not None
        closed_at = anyio.current_time() + environment.options.takeover_seconds
        lease.attempt = attempt
        if attempt.state == State.INTENT:
            await environment.journal.unknown(attempt, "the process ended before an answer came", environment.clock())
        try:
            if attempt.state in (State.UNKNOWN, State.QUARANTINED):
                lease.take()
                unanswered = errors.Ambiguous(attempt.reason or "")
                return await self._reconcile(work, attempt, closed_at, unanswered, lease)
            if attempt.state == State.ACCEPTED:
                lease.take(running=True)
            elif attempt.state == State.ENDED:
                await self.delivery.renew(attempt)
            return await self._see_through(work, attempt, lease)
        finally:
            lease.release()

    async def _refused(self, work: Work, refusal: Refusal, lease: Lease) -> Outcome:
        """Run was refused for certain: no task exists."""
        environment, window = self.environment, self.environment.slots.window
        match refusal:
            case errors.AtLimit():
                wait = window.refused(anyio.current_time(), lease.epoch, doubtful=self.reconciler.pending)
                environment.events.emit(
                    events.Limited, code=96, after_seconds=wait, concurrency=window.limit, job=work.key
                )
                return Requeue()
            case ContentLocked():  # the journal knows of an unanswered Run that this process does not
                log.warning("job %s waits: a Run of the same content is unanswered in the journal", work.key)
                return Requeue(after_seconds=LOCKED_SECONDS)
            case NoSlot():
                return Requeue()
            case OverBudget():
                if window.active > 1:  # active tasks may turn out cheaper than what is reserved for them
                    return Requeue(after_release=True)
                environment.shutdown.stop("the budget does not allow another task", ExitCode.FUNDS, of_output=True)
            case errors.OutOfFunds():
                environment.events.emit(events.Limited, code=97, after_seconds=None, concurrency=None)
                environment.shutdown.stop(f"the balance is used up: {refusal.message}", ExitCode.FUNDS)
            case errors.TryLater():
                self._not_sent += not refusal.sent
                wait = environment.delay(max(1, self._not_sent), refusal)
                environment.events.tell(events.Retrying, work, reason=refusal.message, after_seconds=round(wait, 3))
                # a rate limit concerns this job: where it concerns all, the API client lets none through
                return Requeue(after_seconds=wait) if refusal.sent else Requeue(hold_seconds=wait)
            case errors.JobFailed():
                await self.fail(work, refusal, sticky=True)
            case _:
                raise refusal
        return DONE

    async def fail(self, work: Work, error: errors.JobFailed, *, sticky: bool) -> None:
        """The job failed for good.

        Args:
            work: the job.
            error: why.
            sticky: whether later runs leave it alone without `--retry-failed`; such failures count as permanent.
        """
        environment = self.environment
        if work.job is not None:  # else another content of the job, or one that `only` leaves out
            await environment.journal.job_failed(work.key, error.kind, error.message, sticky=sticky)
            await self.shared.failed(work.key, error, sticky=sticky)
        self._tell_failed(work, error.kind, error.message, error.task_id, error.billed_micros)
        if sticky:
            environment.shutdown.failed(error.message)

    def _tell_failed(self, work: Work, kind: str, message: str, task_id: str | None, billed: int | None) -> None:
        self.environment.events.tell(
            events.Failed, work, kind=kind, message=message, task_id=task_id, billed_usd=usd(billed) if billed else None
        )

    async def leave(self, work: Work, error: errors.JobFailed, lease: Lease | None) -> None:
        """After an unexpected exception: a job that may be paid for is left to the next run, any other fails."""
        attempt = work.attempt
        self.environment.shutdown.add_code(ExitCode.FAILURES)
        if attempt is not None and attempt.state == State.STORED:
            return  # it has its clip; the log has what came after
        if attempt is None or attempt.state not in OPEN:
            if lease is not None:
                lease.unlock()
            await self.fail(work, error, sticky=False)
            return
        message = f"{error.message}; the next run resumes it"
        self._tell_failed(work, error.kind, message, attempt.task_id, attempt.cost)

    async def _reconcile(
        self, work: Work, attempt: Attempt, closed_at: float, unanswered: errors.Ambiguous, lease: Lease
    ) -> Outcome:
        """An unanswered Run: finds out what became of it. The slot is held until the first look."""
        environment, reason, accepted = self.environment, unanswered.message, self._accepted
        once = attempt.state == State.QUARANTINED  # an earlier run looked for it in vain
        if not once:
            waits = 2 * environment.options.settle_seconds + max(0.0, closed_at - anyio.current_time())
            decided_at = environment.clock() + waits
            environment.events.tell(events.Unknown, work, task_id=None, reason=reason, decided_at=decided_at)
        case = self.reconciler.open(attempt, -math.inf if once else closed_at, once=once)
        try:
            await self.reconciler.wait_looked(case)
        finally:
            lease.release()
        match await self.reconciler.wait_decided(case):
            case matching.Adopt(task):
                lease.take(running=True)
                lease.unlock()
                environment.events.tell(events.Accepted, work, task_id=task.id, adopted=True)
                return await self._see_through(work, attempt, lease)
            case matching.Absent():
                await environment.journal.absent(attempt)
                lease.unlock()
                self._count_absence(work, unanswered, accepted)
                return self._again(work, "it is proven that no task was created")
            case matching.Quarantine(why):
                reason = attempt.reason if once and attempt.reason else why
                await self.unassigned.quarantine(attempt, reason, case.unanswered.doubts.values())
                environment.events.tell(events.Quarantined, work, task_id=None, reason=attempt.reason or why)
                resubmits = (
                    work.resubmits or environment.options.resubmit_unknown
                ) and once  # else it could pay for ever
                if resubmits and work.job is not None and not environment.shutdown.stopping:
                    await environment.journal.abandoned(attempt)
                    lease.unlock()
                    return self._again(work, "it is submitted again at the risk of paying twice (--resubmit-unknown)")
        return DONE

    def _count_absence(self, work: Work, unanswered: errors.Ambiguous, accepted: int) -> None:
        """A Run that got this answer, and made no task: the same again and again is a refusal.

        A text of the service concerns all jobs alike; of pages that are not the service's each job must meet enough.
        """
        reason = unanswered.message
        place = reason if unanswered.proofs == TEXT_PROOFS else f"{work.key}: {reason}"
        self._absences[place] = self._absences[place] + 1 if self._accepted == accepted else 0
        if 0 < unanswered.proofs <= self._absences[place]:
            self.environment.shutdown.stop(f"the service refuses every Run: {reason}", ExitCode.FAILURES)

    def _again(self, work: Work, reason: str, after_seconds: float = 0.0) -> Outcome:
        if work.job is None or self.environment.shutdown.stopping:
            return DONE
        self.environment.events.tell(events.Retrying, work, reason=reason, after_seconds=after_seconds)
        work.was_missing = False
        return Again(after_seconds)

    async def _see_through(self, work: Work, attempt: Attempt, lease: Lease) -> Outcome:
        """From an accepted Run, or an ended task, to the disk."""
        try:
            if attempt.state == State.ACCEPTED:
                await self._wait_ended(work, attempt, lease)
                lease.release()
            return await self._settle(work, attempt)
        except errors.Missing as error:
            await self.missing_tasks.still_missing(work, attempt, error.message, denied=True)
            return DONE

    async def _wait_ended(self, work: Work, attempt: Attempt, lease: Lease) -> None:
        environment = self.environment
        age = max(0.0, environment.clock() - (attempt.accepted_at or environment.clock()))

        def seen(task: TaskDetail) -> None:
            environment.events.tell(events.Progress, work, percent=None, status=task.status)

        def doubtful(reason: str) -> None:
            task = attempt.task_id or "(known by its token only)"
            log.warning(
                "task %s of job %s: %s; it is still tracked, its slot goes to another job, and `task kill %s` ends it",
                task, attempt.job, reason, task,
            )  # fmt: skip
            lease.release()

        with environment.hints.following(work, attempt.task_id, attempt.token):
            task = await environment.tracker.wait_ended(
                task_id_of(attempt),
                token_of(attempt),
                since=anyio.current_time() - age,
                seen=seen,
                doubtful=doubtful,
            )
        await note_end(environment, attempt, task)
        if not attempt.adopted:
            await environment.account.note_echoes(matching.verbatim(environment.api.model, attempt.form, task))
            await environment.account.note_project(task.projectid)
        environment.events.tell(
            events.Ended,
            work,
            task_id=attempt.task_id,
            status=task.status,
            pexit=task.pexit,
            cost_usd=usd(attempt.cost or 0),
        )

    async def _settle(self, work: Work, attempt: Attempt) -> Outcome:
        """The task has ended: fetches its clip, or closes the attempt."""
        environment = self.environment
        await self.delivery.wait_outputs(work, attempt)
        end = end_of(attempt)
        if end is Ending.SUCCEEDED:
            environment.shutdown.succeeded()
        if attempt.outputs and (end in (Ending.SUCCEEDED, Ending.CANCELLED) or attempt.cost):
            try:
                await self.delivery.keep(work, attempt)
                await self.shared.share(attempt)
            except errors.Missing:
                raise
            except errors.JobFailed as error:  # it may be paid for, and stays `ended`: the next start tries again
                environment.shutdown.add_code(ExitCode.FAILURES)
                message = f"{error.message}; the next run tries again"
                self._tell_failed(work, error.kind, message, attempt.task_id, attempt.cost)
            return DONE
        reason = attempt.reason or attempt.status or ""
        if end is Ending.CANCELLED:
            await environment.journal.closed(attempt, State.CANCELLED, reason)
            environment.events.tell(events.Cancelled, work, task_id=attempt.task_id, reason=reason)
            return CANCELLED
        await environment.journal.closed(attempt, State.FAILED, reason)
        work.renders += 1
        if not attempt.cost and work.renders <= environment.options.retries and work.job is not None:
            if attempt.image.startswith("sha256:"):
                await self.uploads.forget(attempt.image.removeprefix("sha256:"))
            wait = environment.delay(work.renders)
            return self._again(work, reason, round(wait, 3))
        failed = errors.JobFailed(reason, kind="render", billed_micros=attempt.cost or 0, task_id=attempt.task_id)
        await self.fail(work, failed, sticky=True)
        return DONE
