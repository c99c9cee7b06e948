"""A job's life, from the queue to the clip, and the admission to it: the one task group that carries jobs.

Guarantees. Run is sent only for a job that holds a slot, after its intent is durable; its answer is durable before
anything looks at it. The account's ceiling is kept full from the queue; images are uploaded ahead of it. After `stop`
nothing is submitted any more, and what was submitted is tracked and downloaded.

What may happen: any job may fail, fall back into the queue (error 96, a rate limit, no network), or turn out to have
been sent without an answer. None of that concerns its neighbours, nor does an exception that nobody expected: it is
logged with its traceback, and a job that may have been paid for stays recoverable. A cancellation may strike at any
await; `protected` keeps it away from intent, Run and answer.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import anyio
import anyio.abc

from wan_async import errors
from wan_async.domain import events, money, naming
from wan_async.domain.attempt import Attempt
from wan_async.domain.batch import Enlisted
from wan_async.domain.job import image_of, parameters_of
from wan_async.domain.lifecycle import OPEN
from wan_async.domain.model import Parameters
from wan_async.domain.task import Ending, Task, ending
from wan_async.engine import matching
from wan_async.engine.context import Context, Slot, Work
from wan_async.engine.delivery import Delivery, end_of, note_end, outputs_of, task_id_of, token_of
from wan_async.engine.reconciler import Reconciler
from wan_async.engine.unassigned import UnassignedTasks
from wan_async.engine.uploads import Uploads
from wan_async.http.descriptor_limit import connections
from wan_async.journal.base import NameTaken, OverBudget
from wan_async.wiro import answers
from wan_async.wiro.api import Receipt
from wan_async.wiro.bodies import InlineImage

log = logging.getLogger(__name__)

BACKLOG = 4
"""No new Run while more than this many times `downloads` clips wait to be fetched."""
SAME_FAILURES = 5
"""The batch is stopped after this number of identical permanent errors in a row, with no success between."""
UNSAVED_SECONDS, UNSAVED_PAUSE_SECONDS = 20.0, 1.0
"""For how long, and how often, an answer that the disk refused is written again."""
ASKED_AT_ONCE = 16
RECHECK_SECONDS = 60.0
"""After so long a cancelled task is asked for once more, since its charge may appear late (WIRO_API 4)."""
SERVICE_FAULTS, SERVICE_QUIET_SECONDS = 20, 60.0
"""The run ends after this number of unexpected ends of a service, each within a minute of the one before."""


class Scheduler:
    """The jobs of one run, in the one task group that carries them.

    Args:
        context: the run.
        batch: its jobs by key, in batch order.
    """

    def __init__(self, context: Context, batch: dict[str, Enlisted]) -> None:
        self._context = context
        self._jobs = batch
        self._uploads = Uploads(context)
        self._unassigned = UnassignedTasks(context)
        self._keeper = Delivery(context, self._unassigned)
        self._inquiry = Reconciler(context, self._all_contents)
        self._queue: deque[Work] = deque()
        context.more_to_send = lambda: bool(self._queue)
        self._parked: dict[str, list[Work]] = {}
        self._rendered_anew: dict[str, Enlisted] = {}
        self._undenied: Counter[str] = Counter()
        self._is_over = False
        self._denied_again: deque[Enlisted] = deque()
        self._unanswered: set[str] = set()
        self._carried = 0
        self._sending = 0
        self._most_sending = connections()
        self._absences: Counter[str] = Counter()
        self._accepted = 0
        self._hold_until = 0.0
        self._broke_at = -1
        self._not_sent = 0
        self._group: anyio.abc.TaskGroup
        self._services: anyio.abc.TaskGroup

    async def carry_all(self, chosen: Sequence[Enlisted], resumed: Sequence[Attempt], late: Sequence[Attempt]) -> None:
        """Takes up what an earlier run left, submits what is chosen, and returns once nothing is left to do.

        Args:
            chosen: the jobs to submit.
            resumed: the open attempts.
            late: the cancelled attempts whose charge may appear yet.
        """
        context = self._context
        context.existing = await context.offload(_names_in, context.output)
        await self._uploads.recall()
        await self._unassigned.load()
        async with anyio.create_task_group() as self._services:
            self._services.start_soon(self._serve, context.watch.serve)
            self._services.start_soon(self._serve, self._inquiry.serve)
            self._services.start_soon(self._serve, self._unassigned.serve)
            if context.listener is not None:
                self._services.start_soon(self._serve, context.listener.serve)
            async with anyio.create_task_group() as self._group:
                for attempt in resumed:
                    if attempt.state == "missing":
                        continue
                    work = Work(attempt.job, self._job_of(attempt), attempt, resumed=True)
                    if attempt.state in ("intent", "unknown", "quarantined"):
                        self._lock(work, attempt.content)
                    self._spawn(self._resume, work)
                missing = [attempt for attempt in resumed if attempt.state == "missing"]
                asked = {attempt.job for attempt in missing}
                self._rendered_anew = {job.key: job for job in chosen if job.key in asked}
                self._undenied = Counter(attempt.job for attempt in missing)
                found = await self._ask_first(late, missing)
                await self._feed(iter([job for job in chosen if job.key not in asked | found]))
                self._is_over = True
            await self._unassigned.wait_done()
            self._services.cancel_scope.cancel()

    async def _serve(self, service: Callable[[], Awaitable[None]]) -> None:
        """Runs a service, again if it breaks in a way that nobody expected, unless it does so again and again."""
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
                await anyio.sleep(UNSAVED_PAUSE_SECONDS)

    def _job_of(self, attempt: Attempt) -> Enlisted | None:
        """The job for which an attempt may be repeated: none that was edited since, or that `only` leaves out."""
        job = self._jobs.get(attempt.job)
        admitted = job is not None and self._context.options.admits(job.planned.label)
        return job if admitted and job is not None and job.content == attempt.content else None

    async def _all_contents(self) -> matching.Contents:
        """Every content of the journal and of the batch."""
        contents = matching.Contents(self._context.api.model)
        for form, image in await self._context.journal.contents():
            contents.add(form, image)
        for job in self._jobs.values():
            contents.add(parameters_of(job.planned.job, ""), job.image)
        return contents

    def _spawn(self, carry: Callable[[Work], Awaitable[None]], work: Work) -> None:
        self._carried += 1

        async def carried() -> None:
            try:
                await self._isolated(carry, work)
            finally:
                self._carried -= 1
                self._context.changed()

        self._group.start_soon(carried)

    async def _isolated(self, carry: Callable[[Work], Awaitable[None]], work: Work) -> None:
        """One job's step. Whatever goes wrong in it concerns this job, or stops the run in good order."""
        context = self._context
        try:
            try:
                await carry(work)
            except errors.WanError:
                raise
            except Exception as error:
                cause: BaseException = error
                while isinstance(cause, BaseExceptionGroup):
                    cause = cause.exceptions[0]
                log.exception("job %s met an unexpected %s", work.key, type(cause).__name__)
                try:
                    await self._unexpected(work, cause)
                except errors.WanError:
                    raise
                except Exception:  # it can't even be said: the log has it
                    log.exception("job %s is left unfinished", work.key)
        except errors.StopBatch as error:
            context.stop(str(error), 4 if error.authentication else 1)
        except errors.Unusable as error:
            context.stop(str(error), 6)
        except errors.WanError as error:
            log.warning("job %s is left unfinished: %s", work.key, error)
            context.exit_codes.add(1)

    async def _unexpected(self, work: Work, error: BaseException) -> None:
        """Leaves the job of an unexpected exception to the next run, if it may have been paid for; else it failed."""
        context, attempt = self._context, work.attempt
        self._drop(work)
        said = f"unexpected {type(error).__name__}: {error}"
        context.exit_codes.add(1)
        if attempt is not None and attempt.state == "stored":
            return  # it has its clip; what came after is in the log
        if attempt is None or attempt.state not in OPEN:
            self._answered(work)
            await self._fail(work, errors.JobFailed(said, kind="internal"), sticky=False)
            return
        message, billed = f"{said}; the next run takes it up again", money.usd(attempt.cost) if attempt.cost else None
        context.tell(events.Failed, work, kind="internal", message=message, task_id=attempt.task_id, billed_usd=billed)

    async def _feed(self, source: Iterator[Enlisted]) -> None:
        """Admission: prepares jobs ahead of their slots, and starts one whenever a slot is free."""
        context = self._context
        while True:
            while not context.stopping and len(self._queue) < 2 * min(context.window.limit, self._most_sending):
                job = self._denied_again.popleft() if self._denied_again else next(source, None)
                if job is None:
                    break
                work = Work(job.key, job)
                self._queue.append(work)
                self._spawn(self._prepare, work)
            if context.stopping:
                self._queue.clear()
            if (chosen := self._next()) is not None:
                self._queue.remove(chosen)
                chosen.slot = Slot(context)
                self._lock(chosen, chosen.content)
                self._sending += 1
                self._spawn(self._carry, chosen)
                continue
            if not self._carried and not self._queue and (context.stopping or not self._parked):
                return
            if not self._carried and not self._queue:
                self._unblock()
                continue
            await context.wait_changed(self._pause())

    def _next(self) -> Work | None:
        """The first job that may be submitted now; one whose twin is unanswered is parked."""
        context, now = self._context, anyio.current_time()
        if (
            context.stopping
            or now < self._hold_until
            or (self._broke_at == context.releases and context.window.active > 0)
            or context.waiting_clips > BACKLOG * context.options.downloads
            or self._sending >= self._most_sending
            or not context.window.may_start(now)
        ):
            return None
        for work in list(self._queue):
            if work.ready and work.content in self._unanswered:
                self._queue.remove(work)
                self._parked.setdefault(work.content, []).append(work)
            elif work.ready:
                return work
        return None

    def _pause(self) -> float | None:
        """How long admission may sleep if nothing happens."""
        now = anyio.current_time()
        at = max(self._hold_until, self._context.window.not_before)
        return at - now if at > now else None

    def _unblock(self) -> None:
        """Only twins of quarantined attempts are left: they stay unsent, or nobody could tell the clips apart."""
        for waiting in self._parked.values():
            for work in waiting:
                log.warning(
                    "job %s waits: the same clip was already submitted and got no answer; see --resubmit-unknown",
                    work.key,
                )
        self._parked.clear()

    def _lock(self, work: Work, content: str) -> None:
        work.has_lock = True
        self._unanswered.add(content)

    def _answered(self, work: Work) -> None:
        """The Run that holds its content's lock is open no more: its twins may go."""
        if work.has_lock:
            work.has_lock = False
            self._unanswered.discard(work.content)
            self._queue.extendleft(reversed(self._parked.pop(work.content, [])))
            self._context.changed()

    def _requeue(self, work: Work) -> None:
        self._queue.appendleft(work)
        self._context.changed()

    async def _requeue_later(self, seconds: float, work: Work) -> None:
        if await self._context.pause(seconds):
            self._requeue(work)

    async def _prepare(self, work: Work) -> None:
        """Everything that costs nothing, before the slot: the name, the disk, the image."""
        context, job = self._context, work.job
        assert job is not None
        failures = 0
        while True:
            try:
                await self._claim(job)
                url = await self._image_url(work, job)
            except (errors.TryLater, errors.AtLimit) as error:
                failures += 1
                asked = error.after_seconds if isinstance(error, errors.TryLater) else None
                wait = context.backoff.delay(failures, context.draw(), asked)
                context.tell(events.Retrying, work, reason=error.message, after_seconds=round(wait, 3))
                if not await context.pause(wait):
                    return
            except errors.JobFailed as error:
                self._drop(work)
                await self._fail(work, error, sticky=False)
                return
            except errors.OutOfFunds as error:
                context.stop(f"the balance is used up: {error.message}", 3)
                return
            except errors.WanError:
                self._drop(work)
                raise
            else:
                work.parameters = parameters_of(job.planned.job, url)
                work.ready = True
                context.changed()
                return

    def _drop(self, work: Work) -> None:
        if work in self._queue:
            self._queue.remove(work)

    async def _claim(self, job: Enlisted) -> None:
        context, name = self._context, job.planned.name
        for file in (f"{name}.mp4", f"{name}.json"):
            if naming.folded(file) in context.existing and await context.journal.file_known(f"{name}.mp4") is None:
                path = context.output / file
                raise errors.JobFailed(
                    f"{path} exists and is not ours: move it, or name the job otherwise", kind="target"
                )
        try:
            await context.journal.claim(job.key, naming.folded(name), name)
        except NameTaken:
            raise errors.JobFailed(f"another job owns the name {name}", kind="target") from None

    async def _image_url(self, work: Work, job: Enlisted) -> str:
        image = image_of(job.planned.job)
        if image is None:
            return ""
        if job.planned.job.image_is_url:
            return image
        digest = job.image.removeprefix("sha256:")
        url = await self._context.unless_stopped(lambda: self._uploads.url_of(work, Path(image), digest))
        return url or ""

    async def _carry(self, work: Work) -> None:
        """A job's life, from its slot to its clip."""
        slot = work.slot  # a job that is queued again gets another
        assert slot is not None
        try:
            attempt = await self._submit(work, slot)
            if attempt is not None:
                await self._see_through(work, attempt, slot)
        finally:
            slot.release()

    async def _submit(self, work: Work, slot: Slot) -> Attempt | None:
        """Sends Run; None if nothing came of it, and the job was queued again, stopped or failed."""
        context = self._context
        job, parameters = work.job, work.parameters
        assert job is not None
        assert parameters is not None
        try:
            try:
                sent = await self._attempt(work, job, parameters)
            finally:
                self._sending -= 1
                context.changed()
        except errors.JobFailed as error:  # before anything was sent
            self._answered(work)
            await self._fail(work, error, sticky=False)
            return None
        if sent is None:
            self._answered(work)
            return None
        attempt, outcome = sent
        if isinstance(outcome, Receipt):
            slot.accepted()
            self._not_sent = 0
            self._accepted += 1
            await self._keep_answer(attempt, outcome)
            self._answered(work)
            return attempt
        if outcome is None:
            outcome = errors.Ambiguous("no answer in time")
            await context.journal.unknown(attempt, outcome.message, context.clock())
        if isinstance(outcome, errors.Ambiguous):
            return await self._resolve(work, attempt, anyio.current_time(), outcome, slot)
        self._answered(work)
        await self._refused(work, outcome, slot)
        return None

    async def _attempt(
        self, work: Work, job: Enlisted, parameters: Parameters
    ) -> tuple[Attempt, Receipt | OverBudget | errors.WanError | None] | None:
        """The attempt and what came of its Run; None if the run stops before it."""
        context = self._context
        image = None
        model = context.api.model
        if job.image.startswith("sha256:") and model.image is not None and not parameters[model.image.wire]:
            source = Path(str(image_of(job.planned.job)))
            image = await self._uploads.read(source, job.image.removeprefix("sha256:"))
        await context.unless_stopped(context.api.turn)
        if context.stopping:
            return None
        attempt = work.attempt
        if attempt is None or attempt.state != "rejected":
            attempt = work.attempt = Attempt(
                job=job.key, content=job.content, form=parameters, image=job.image, name=job.planned.name
            )
        attempt.form = parameters
        attempt.reserved = context.price(parameters) or 0
        attempt.high_id, attempt.intent_at = context.high_id, context.clock()
        sent = attempt
        return attempt, await context.protected(lambda: self._send(work, sent, job, image), sent.form)

    async def _send(
        self, work: Work, attempt: Attempt, job: Enlisted, image: InlineImage | None
    ) -> Receipt | OverBudget | errors.WanError:
        """Steps 2 to 4. What goes wrong is returned, not raised: this runs in a task of its own."""
        context, journal = self._context, self._context.journal
        price = attempt.reserved or None
        try:
            await journal.intent(attempt, cap=context.options.budget_micros)
        except (OverBudget, errors.Unusable) as error:
            return error
        context.tell(events.Submitting, work, price_usd=None if price is None else money.usd(price))
        callback = job.planned.job.callback_url
        assert work.parameters is not None
        try:
            receipt = await context.api.run(work.parameters, callback_url=callback, image=image)
        except errors.Ambiguous as error:
            return await self._note(journal.unknown(attempt, error.message, context.clock())) or error
        except errors.WanError as error:
            return await self._note(journal.rejected(attempt, error.message)) or error
        except Exception as error:  # noqa: BLE001 - logged there
            return await self._unanswered_by(error, attempt)
        try:
            await self._write_answer(attempt, receipt)
        except errors.Unusable as error:
            context.unsaved.append(_name(receipt))
            context.stop(str(error), 6)
        except sqlite3.IntegrityError:
            said = f"Run answered with task {_name(receipt)}, which another attempt owns"
            ambiguous = errors.Ambiguous(said, parameters=attempt.form, job=attempt.job)
            return await self._note(journal.unknown(attempt, said, context.clock())) or ambiguous
        except Exception as error:  # noqa: BLE001 - likewise
            return await self._unanswered_by(error, attempt)
        if receipt.accepted.task_id is not None:
            context.note_id(receipt.accepted.task_id)
        context.tell(events.Accepted, work, task_id=receipt.accepted.task_id, adopted=False)
        return receipt

    async def _unanswered_by(self, error: Exception, attempt: Attempt) -> errors.WanError:
        """Something unexpected came between Run and its answer: a task may exist."""
        said = f"unexpected {type(error).__name__} while Run was in flight: {error}"
        log.error("job %s: %s", attempt.job, said, exc_info=error)
        unknown = self._context.journal.unknown(attempt, said, self._context.clock())
        return await self._note(unknown) or errors.Ambiguous(said, parameters=attempt.form, job=attempt.job)

    async def _note(self, write: Awaitable[None]) -> errors.Unusable | None:
        try:
            await write
        except errors.Unusable as error:
            return error
        return None

    async def _write_answer(self, attempt: Attempt, receipt: Receipt) -> None:
        """Step 4. A task whose id is known already, because the service's ids began again, is kept by its token."""
        accepted, journal = receipt.accepted, self._context.journal
        write = partial(journal.accepted, attempt, answer=receipt.answer, at=self._context.clock(), adopted=False)
        try:
            await write(accepted.task_id, accepted.token)
        except sqlite3.IntegrityError:
            known = await journal.token_of(accepted.task_id) if accepted.task_id else None
            if known is None or accepted.token in (None, known):
                raise
            log.warning("the service's task ids began again: task %s is kept by its token", accepted.task_id)
            await write(None, accepted.token)

    async def _keep_answer(self, attempt: Attempt, receipt: Receipt) -> None:
        """Where the disk refused step 4, it is tried again for a while.

        Raises:
            errors.Unusable: the disk goes on refusing. The next run looks for the task, as for any unanswered Run.
        """
        give_up_at = anyio.current_time() + UNSAVED_SECONDS
        while attempt.state != "accepted":
            await anyio.sleep(UNSAVED_PAUSE_SECONDS)
            try:
                await self._write_answer(attempt, receipt)
            except errors.Unusable:
                if anyio.current_time() >= give_up_at:
                    raise
            else:
                self._context.unsaved.remove(_name(receipt))

    async def _refused(self, work: Work, error: OverBudget | errors.WanError, slot: Slot) -> None:
        """Run was refused for certain."""
        context = self._context
        match error:
            case errors.AtLimit():
                wait = context.window.refused(anyio.current_time(), slot.epoch, doubtful=self._inquiry.pending)
                context.emit(events.Limited, code=96, after_seconds=wait, concurrency=context.window.limit)
                self._requeue(work)
            case OverBudget():
                if context.window.active > 1:  # what runs may turn out cheaper than what was reserved for it
                    self._broke_at = context.releases + 1  # the slot that is given back now counts
                    self._requeue(work)
                else:
                    context.stop("the budget does not allow another task", 3)
            case errors.OutOfFunds():
                context.emit(events.Limited, code=97, after_seconds=None, concurrency=None)
                context.stop(f"the balance is used up: {error.message}", 3)
            case errors.TryLater():
                self._not_sent += not error.sent
                wait = context.backoff.delay(max(1, self._not_sent), context.draw(), error.after_seconds)
                context.tell(events.Retrying, work, reason=error.message, after_seconds=round(wait, 3))
                if error.sent:  # a rate limit: it waits, and where all have to, the API lets none through
                    self._spawn(partial(self._requeue_later, wait), work)
                else:
                    self._hold_until = anyio.current_time() + wait
                    self._requeue(work)
            case errors.JobFailed():
                await self._fail(work, error, sticky=True)
            case _:
                raise error

    async def _fail(self, work: Work, error: errors.JobFailed, *, sticky: bool) -> None:
        """The job failed for good; five alike in a row stop the batch."""
        context = self._context
        if work.job is not None:  # else another content of the job, or one that `only` leaves out
            await context.journal.job_failed(work.key, error.kind, error.message, sticky=sticky)
        billed = money.usd(error.billed_micros) if error.billed_micros else None
        context.tell(
            events.Failed, work, kind=error.kind, message=error.message, task_id=error.task_id, billed_usd=billed
        )
        if sticky:
            before, count = context.same_failures
            context.same_failures = (error.message, count + 1 if error.message == before else 1)
            if context.same_failures[1] >= SAME_FAILURES:
                context.stop(f"{SAME_FAILURES} jobs in a row failed alike: {error.message}", 1)

    async def _resolve(
        self, work: Work, attempt: Attempt, closed_at: float, unanswered: errors.Ambiguous, slot: Slot
    ) -> Attempt | None:
        """An unanswered Run: finds out what became of it. The slot is held until the first look."""
        context, reason, accepted = self._context, unanswered.message, self._accepted
        if attempt.state != "quarantined":
            context.tell(events.Unknown, work, task_id=None, reason=reason)
        once = attempt.state == "quarantined"  # long ago, and looked at then
        case = self._inquiry.open(attempt, -math.inf if once else closed_at, once=once)
        try:
            await self._inquiry.wait_looked(case)
        finally:
            slot.release()
        verdict = await self._inquiry.wait_decided(case)
        match verdict:
            case matching.Adopt(task):
                slot.retake()
                self._answered(work)
                context.tell(events.Accepted, work, task_id=task.id, adopted=True)
                return attempt
            case matching.Absent():
                await context.journal.absent(attempt)
                self._answered(work)
                # a text of the service is the same for all jobs; of somebody's pages each job must meet enough itself
                place = reason if unanswered.proofs == answers.TEXT_PROOFS else f"{work.key}: {reason}"
                self._absences[place] = self._absences[place] + 1 if self._accepted == accepted else 0
                if 0 < unanswered.proofs <= self._absences[place]:
                    context.stop(f"the service refuses every Run: {reason}", 1)
                self._again(work, "it is proven that no task came of it")
            case matching.Quarantine(why):
                reason = attempt.reason if once and attempt.reason else why
                await self._unassigned.quarantine(attempt, reason, case.unanswered.doubts.values())
                context.tell(events.Quarantined, work, task_id=None, reason=attempt.reason or why)
                if context.options.resubmit_unknown and work.job is not None and not context.stopping:
                    await context.journal.abandoned(attempt)
                    self._answered(work)
                    self._again(work, "it is sent again at the risk of paying twice, as asked")
        return None

    def _again(self, work: Work, reason: str, after_seconds: float = 0.0) -> None:
        """A new attempt at the job, from its image on."""
        context = self._context
        if work.job is None or context.stopping:
            return
        before = work.attempt
        context.tell(events.Retrying, work, reason=reason, after_seconds=after_seconds)
        work.ready = work.was_missing = False
        work.attempt = None

        async def prepare(again: Work) -> None:
            or_missing = not context.options.rerender
            if not await context.pause(after_seconds):
                return
            if again.key in context.not_repeated:
                log.warning(
                    "job %s is not sent again: the service has a task (%s) that equals it and that this journal does "
                    "not know; --adopt takes it over, --ignore-unowned sends the job all the same",
                    again.key,
                    ", ".join(context.not_repeated[again.key]),
                )
                context.exit_codes.add(5)
                return
            if before is not None and await context.journal.has_another(before, or_missing=or_missing):
                log.info("job %s is not sent again: another attempt at it has its clip, or may get it", again.key)
                return
            self._queue.appendleft(again)
            await self._prepare(again)

        self._spawn(prepare, work)

    async def _resume(self, work: Work) -> None:
        """An attempt that an earlier run left."""
        context, attempt = self._context, work.attempt
        assert attempt is not None
        if attempt.state == "intent":
            await context.journal.unknown(attempt, "the process ended before an answer came", context.clock())
        slot = None
        try:
            if attempt.state in ("unknown", "quarantined"):
                slot = Slot(context)
                unanswered = errors.Ambiguous(attempt.reason or "")
                if await self._resolve(work, attempt, anyio.current_time(), unanswered, slot) is None:
                    return
            elif attempt.state == "accepted":
                slot = Slot(context, running=True)
            elif attempt.state == "ended":
                await self._keeper.renew(attempt)
            await self._see_through(work, attempt, slot)
        finally:
            if slot is not None:
                slot.release()

    async def _ask_first(self, late: Sequence[Attempt], missing: Sequence[Attempt]) -> set[str]:
        """Asks for what earlier runs left as cancelled or missing, before anything is submitted.

        What is there again is taken up. What is denied once more stays missing, or is given up if the user wants that.

        Returns:
            Keys of the jobs whose task was found.
        """
        found: set[str] = set()
        places = anyio.CapacityLimiter(ASKED_AT_ONCE)

        async def ask(work: Work, look: Callable[[Work], Awaitable[bool]]) -> None:
            async with places:
                if not self._context.stopping and await look(work):
                    found.add(work.key)
                    self._spawn(self._resume, work)

        async with anyio.create_task_group() as group:
            for attempts, look in ((late, self._recheck), (missing, self._find)):
                for attempt in attempts:
                    work = Work(attempt.job, self._job_of(attempt), attempt, resumed=True)
                    group.start_soon(self._isolated, partial(ask, look=look), work)
        return found

    async def _find(self, work: Work) -> bool:
        """Whether the service knows the task of a missing attempt again; the journal holds what it says."""
        context, attempt = self._context, work.attempt
        assert attempt is not None
        work.was_missing = attempt.ended_at is not None  # one that was never seen to end may have done so just now
        try:
            task = await context.api.detail(task_id_of(attempt), token_of(attempt), tries=2)
        except errors.NotFound as error:
            work.was_missing = True
            await self._still_missing(work, attempt, error.message, denied=not isinstance(error, errors.NoSuchAddress))
            return False
        except (errors.TryLater, errors.JobFailed) as error:
            await self._still_missing(work, attempt, error.message, denied=False)
            return False
        if ending(task) is None:
            await context.journal.found(attempt)
        else:
            await note_end(context, attempt, task)
        return True

    async def _still_missing(self, work: Work, attempt: Attempt, reason: str, *, denied: bool) -> None:
        context = self._context
        planned = self._jobs.get(attempt.job)
        concerned = context.options.only is None or (
            planned is not None and context.options.admits(planned.planned.label)
        )
        if context.options.give_up and denied and concerned and work.was_missing:
            if attempt.state != "missing":
                await context.journal.closed(attempt, "missing", reason)
            await context.journal.closed(attempt, "given_up", reason)
            said = f"given up: {reason}"
            billed = money.usd(attempt.cost) if attempt.cost else None
            context.tell(events.Failed, work, kind="given_up", message=said, task_id=attempt.task_id, billed_usd=billed)
            return
        await context.journal.closed(attempt, "missing", reason)
        context.tell(events.Missing, work, task_id=attempt.task_id, reason=reason)
        if denied:
            self._undenied[attempt.job] -= 1
            if not self._undenied[attempt.job] and (job := self._rendered_anew.pop(attempt.job, None)) is not None:
                self._denied_again.append(job)  # each of its tasks, or their clips, was denied once more

    async def _recheck(self, work: Work, *, later: bool = False) -> bool:
        """Asks once more for a cancelled task: a charge or outputs may appear late. Whether it has outputs now.

        One that was charged and shows no outputs is asked for at every start.
        """
        context, attempt = self._context, work.attempt
        assert attempt is not None
        try:
            task = await context.api.detail(task_id_of(attempt), token_of(attempt), tries=2)
        except errors.StopBatch:
            raise
        except errors.WanError as error:
            log.debug("the cancelled task %s could not be asked for: %s", attempt.task_id, error)
            return False
        if outputs_of(task) and ending(task) is not None:
            await note_end(context, attempt, task)
            return True
        cost = max(0, task.totalcost or 0)
        await context.journal.rechecked(attempt, cost, again=later or cost > 0)
        context.settled(attempt)
        return False

    async def _recheck_later(self, work: Work) -> None:
        async def ask(work: Work) -> None:
            if await self._recheck(work, later=True) and not self._is_over:
                self._spawn(self._resume, work)

        await anyio.sleep(RECHECK_SECONDS)
        await self._isolated(ask, work)

    async def _see_through(self, work: Work, attempt: Attempt, slot: Slot | None) -> None:
        """From an accepted Run, or an ended task, to the disk."""
        try:
            if attempt.state == "accepted":
                assert slot is not None
                await self._wait_ended(work, attempt, slot)
                slot.release()
            await self._settle(work, attempt)
        except errors.Missing as error:
            await self._still_missing(work, attempt, error.message, denied=True)

    async def _wait_ended(self, work: Work, attempt: Attempt, slot: Slot) -> None:
        context = self._context
        age = max(0.0, context.clock() - (attempt.accepted_at or context.clock()))

        def seen(task: Task) -> None:
            context.tell(events.Progress, work, percent=None, status=task.status)

        def doubtful(reason: str) -> None:
            task = attempt.task_id or "(known by its token only)"
            log.warning(
                "task %s of job %s: %s; it is still tracked, its slot goes to another job, and `task kill %s` ends it",
                task, attempt.job, reason, task,
            )  # fmt: skip
            slot.release()

        with context.listening(work, attempt.task_id, attempt.token):
            task = await context.watch.wait_ended(
                task_id_of(attempt),
                token_of(attempt),
                since=anyio.current_time() - age,
                seen=seen,
                doubtful=doubtful,
            )
        await note_end(context, attempt, task)
        if not attempt.adopted:
            await context.echoed(matching.verbatim(context.api.model, attempt.form, task))
            await context.project_seen(task.projectid)
        context.tell(
            events.Ended,
            work,
            task_id=attempt.task_id,
            status=task.status,
            pexit=task.pexit,
            cost_usd=money.usd(attempt.cost or 0),
        )

    async def _settle(self, work: Work, attempt: Attempt) -> None:
        """The task has ended: fetches its clip, or closes the attempt."""
        context = self._context
        await self._keeper.wait_outputs(work, attempt)
        end = end_of(attempt)
        if end is Ending.SUCCEEDED:
            context.same_failures = ("", 0)
        if attempt.outputs and (end in (Ending.SUCCEEDED, Ending.CANCELLED) or attempt.cost):
            try:
                await self._keeper.keep(work, attempt)
            except errors.Missing:
                raise
            except errors.JobFailed as error:  # it may be paid for, and stays `ended`: the next start tries again
                context.exit_codes.add(1)
                billed = money.usd(attempt.cost) if attempt.cost else None
                said = f"{error.message}; the next run tries again"
                context.tell(
                    events.Failed, work, kind=error.kind, message=said, task_id=attempt.task_id, billed_usd=billed
                )
            return
        reason = attempt.reason or attempt.status or ""
        if end is Ending.CANCELLED:
            await context.journal.closed(attempt, "cancelled", reason)
            context.tell(events.Cancelled, work, task_id=attempt.task_id, reason=reason)
            if not self._is_over:
                self._services.start_soon(self._recheck_later, work)
            return
        await context.journal.closed(attempt, "failed", reason)
        work.renders += 1
        if not attempt.cost and work.renders <= context.options.retries and work.job is not None:
            if attempt.image.startswith("sha256:"):
                await self._uploads.forget(attempt.image.removeprefix("sha256:"))
            self._again(work, reason, round(context.backoff.delay(work.renders, context.draw()), 3))
            return
        failed = errors.JobFailed(reason, kind="render", billed_micros=attempt.cost or 0, task_id=attempt.task_id)
        await self._fail(work, failed, sticky=True)


def _name(receipt: Receipt) -> str:
    return receipt.accepted.task_id or "(known by its token only)"


def _names_in(folder: Path) -> frozenset[str]:
    return frozenset(naming.folded(path.name) for path in folder.iterdir())
