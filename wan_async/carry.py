"""A job's life, from the queue to the clip, and the admission to it: the one task group that carries jobs.

Guarantees. Run is sent only for a job that holds a slot, after its intent is durable; its answer is durable before
anything looks at it. The account's ceiling is kept full from the queue; images are uploaded ahead of it. After `stop`
nothing is submitted any more, and what was submitted is seen through to the disk.

What may happen: any job may fail, fall back into the queue (error 96, a rate limit, no network), or turn out to have
been sent without an answer. None of that concerns its neighbours. A cancellation may strike at any await; `protected`
keeps it away from intent, Run and answer.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.abc

from wan_async import errors, events, jobs, reconcile, wire
from wan_async.api import InlineImage, Receipt
from wan_async.context import Context, Work
from wan_async.inquiry import Inquiry
from wan_async.jobs import Enlisted, Job
from wan_async.journal import Attempt, NameTaken, OverBudget
from wan_async.keep import Keeper, outputs_of
from wan_async.unassigned import UnassignedTasks
from wan_async.uploads import Uploads

log = logging.getLogger(__name__)

BACKLOG = 4
"""No new Run while more than this many times `downloads` clips wait to be fetched."""
MAX_SENDING = 256
"""So many Runs are on their way at once, as many as the transport has connections; the other jobs wait in the queue."""
SAME_FAILURES = 5
"""So many identical permanent errors in a row, with no success between: the batch is stopped."""
NO_OUTPUT_TRIES = 5
UNSAVED_SECONDS = 1.0


class Carrier:
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
        self._keeper = Keeper(context, self._unassigned)
        self._inquiry = Inquiry(context, self._all_contents)
        self._queue: deque[Work] = deque()
        context.more_to_send = lambda: bool(self._queue)
        self._parked: dict[str, list[Work]] = {}
        self._unanswered: set[str] = set()
        self._carried = 0
        self._sending = 0
        self._hold_until = 0.0
        self._broke_at = -1
        self._not_sent = 0
        self._group: anyio.abc.TaskGroup

    async def carry_all(self, chosen: Sequence[Enlisted], resumed: Sequence[Attempt]) -> None:
        """Takes up what an earlier run left, submits what is chosen, and returns once nothing is left to do."""
        context = self._context
        context.existing = await context.offload(_names_in, context.output)
        await self._unassigned.load()
        async with anyio.create_task_group() as services:
            services.start_soon(context.watch.serve)
            services.start_soon(self._inquiry.serve)
            services.start_soon(self._unassigned.serve)
            if context.listener is not None:
                services.start_soon(context.listener.serve)
            async with anyio.create_task_group() as self._group:
                for attempt in resumed:
                    if attempt.state not in ("accepted", "ended"):
                        self._unanswered.add(attempt.content)
                    self._spawn(self._resume, Work(attempt.job, self._job_of(attempt), attempt, resumed=True))
                await self._feed(iter(chosen))
            await self._unassigned.wait_done()
            services.cancel_scope.cancel()

    def _job_of(self, attempt: Attempt) -> Enlisted | None:
        """The job for which an attempt may be repeated: none that was edited since, or that `only` leaves out."""
        job = self._jobs.get(attempt.job)
        admitted = job is not None and self._context.options.admits(job.planned.label)
        return job if admitted and job is not None and job.content == attempt.content else None

    async def _all_contents(self) -> reconcile.Contents:
        """Every content of the journal and of the batch."""
        contents = reconcile.Contents()
        for form, image in await self._context.journal.contents():
            contents.add(form, image)
        for job in self._jobs.values():
            contents.add(parameters_of(job.planned.job, "").form(), job.image)
        return contents

    def _spawn(self, carry: Callable[[Work], Awaitable[None]], work: Work) -> None:
        self._carried += 1

        async def carried() -> None:
            try:
                await carry(work)
            except errors.StopBatch as error:
                context.stop(str(error), 4 if error.authentication else 1)
            except errors.Unusable as error:
                context.stop(str(error), 6)
            except errors.WanError as error:
                log.warning("job %s is left unfinished: %s", work.key, error)
                context.exit_codes.add(1)
            finally:
                self._carried -= 1
                context.changed()

        context = self._context
        self._group.start_soon(carried)

    async def _feed(self, source: Iterator[Enlisted]) -> None:
        """Admission: prepares jobs ahead of their slots, and starts one whenever a slot is free."""
        context = self._context
        while True:
            while not context.stopping and len(self._queue) < 2 * min(context.window.limit, MAX_SENDING):
                job = next(source, None)
                if job is None:
                    break
                work = Work(job.key, job)
                self._queue.append(work)
                self._spawn(self._prepare, work)
            if context.stopping:
                self._queue.clear()
            if (chosen := self._next()) is not None:
                self._queue.remove(chosen)
                chosen.epoch = context.window.start()
                self._unanswered.add(chosen.content)
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
            or self._sending >= MAX_SENDING
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
                log.warning("job %s waits: its twin is in quarantine, see --resubmit-unknown", work.key)
        self._parked.clear()

    def _answered(self, work: Work) -> None:
        """No Run of this content is open any more: its twins may go."""
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
            if jobs.folded(file) in context.existing and await context.journal.file_known(f"{name}.mp4") is None:
                path = context.output / file
                raise errors.JobFailed(
                    f"{path} exists and is not ours: move it, or name the job otherwise", kind="target"
                )
        try:
            await context.journal.claim(job.key, jobs.folded(name), name)
        except NameTaken:
            raise errors.JobFailed(f"another job owns the name {name}", kind="target") from None

    async def _image_url(self, work: Work, job: Enlisted) -> str:
        image = job.planned.job.image
        if image is None:
            return ""
        if job.planned.job.image_is_url:
            return str(image)
        if self._context.options.upload == "inline":
            return ""
        return await self._uploads.url_of(work, Path(image), job.image.removeprefix("sha256:"))

    async def _carry(self, work: Work) -> None:
        """A job's life, from its slot to its clip."""
        attempt = await self._submit(work)
        if attempt is not None:
            await self._see_through(work, attempt)

    async def _submit(self, work: Work) -> Attempt | None:
        """Sends Run; None if nothing came of it, and the job was queued again, stopped or failed."""
        context = self._context
        job, parameters = work.job, work.parameters
        assert job is not None
        assert parameters is not None
        kept = False
        try:
            try:
                sent = await self._attempt(work, job, parameters)
            finally:
                self._sending -= 1
                context.changed()
            if sent is None:
                return None
            attempt, outcome = sent
            if isinstance(outcome, Receipt):
                kept = True
                context.window.accepted()
                self._not_sent = 0
                try:
                    await self._keep_answer(attempt, outcome)
                except sqlite3.IntegrityError:
                    context.unsaved.remove(_name(outcome))
                    context.window.running -= 1
                    said = f"Run answered with task {_name(outcome)}, which another attempt owns"
                    await context.journal.unknown(attempt, said, context.clock())
                    return await self._resolve(work, attempt, anyio.current_time(), said)
                self._answered(work)
                return attempt
            if outcome is None:
                outcome = errors.Ambiguous("no answer in time")
                await context.journal.unknown(attempt, outcome.message, context.clock())
            if isinstance(outcome, errors.Ambiguous):
                kept = True
                return await self._resolve(work, attempt, anyio.current_time(), outcome.message)
            self._answered(work)
            await self._refused(work, outcome)
        except errors.JobFailed as error:
            self._answered(work)
            await self._fail(work, error, sticky=False)
        finally:
            if not kept:
                self._answered(work)
                context.release(was_running=False)
        return None

    async def _attempt(
        self, work: Work, job: Enlisted, parameters: wire.Parameters
    ) -> tuple[Attempt, Receipt | OverBudget | errors.WanError | None] | None:
        """The attempt and what came of its Run; None if the run stops before it."""
        context = self._context
        image = None
        if context.options.upload == "inline" and job.image.startswith("sha256:"):
            image = await self._uploads.read(Path(str(job.planned.job.image)), job.image.removeprefix("sha256:"))
        await context.api.turn()
        if context.stopping:
            return None
        attempt = work.attempt
        if attempt is None or attempt.state != "rejected":
            attempt = work.attempt = Attempt(
                job=job.key, content=job.content, form=parameters.form(), image=job.image, name=job.planned.name
            )
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
        context.tell(events.Submitting, work, price_usd=None if price is None else wire.usd(price))
        callback = job.planned.job.callback_url
        assert work.parameters is not None
        try:
            receipt = await context.api.run(work.parameters, callback_url=callback, image=image)
        except errors.Ambiguous as error:
            return await self._note(journal.unknown(attempt, error.message, context.clock())) or error
        except errors.WanError as error:
            return await self._note(journal.rejected(attempt, error.message)) or error
        try:
            await self._write_answer(attempt, receipt)
        except errors.Unusable as error:
            context.unsaved.append(_name(receipt))
            context.stop(str(error), 6)
        except sqlite3.IntegrityError:
            error_text = f"Run answered with task {_name(receipt)}, which another attempt owns"
            ambiguous = errors.Ambiguous(error_text, parameters=attempt.form, job=attempt.job)
            return await self._note(journal.unknown(attempt, error_text, context.clock())) or ambiguous
        if receipt.accepted.task_id is not None:
            context.note_id(receipt.accepted.task_id)
        context.tell(events.Accepted, work, task_id=receipt.accepted.task_id, adopted=False)
        return receipt

    async def _note(self, write: Awaitable[None]) -> errors.Unusable | None:
        try:
            await write
        except errors.Unusable as error:
            return error
        return None

    async def _write_answer(self, attempt: Attempt, receipt: Receipt) -> None:
        """Step 4."""
        accepted = receipt.accepted
        await self._context.journal.accepted(
            attempt, accepted.task_id, accepted.token, receipt.answer, self._context.clock(), adopted=False
        )

    async def _keep_answer(self, attempt: Attempt, receipt: Receipt) -> None:
        """Where the disk refused step 4, it is tried again as long as we live."""
        while attempt.state != "accepted":
            await anyio.sleep(UNSAVED_SECONDS)
            with suppress(errors.Unusable):
                await self._write_answer(attempt, receipt)
                self._context.unsaved.remove(_name(receipt))

    async def _refused(self, work: Work, error: OverBudget | errors.WanError) -> None:
        """Run was refused for certain."""
        context = self._context
        match error:
            case errors.AtLimit():
                wait = context.window.refused(anyio.current_time(), work.epoch, doubtful=self._inquiry.pending)
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
        await context.journal.job_failed(work.key, error.kind, error.message, sticky=sticky)
        billed = wire.usd(error.billed_micros) if error.billed_micros else None
        context.tell(
            events.Failed, work, kind=error.kind, message=error.message, task_id=error.task_id, billed_usd=billed
        )
        if sticky:
            before, count = context.same_failures
            context.same_failures = (error.message, count + 1 if error.message == before else 1)
            if context.same_failures[1] >= SAME_FAILURES:
                context.stop(f"{SAME_FAILURES} jobs in a row failed alike: {error.message}", 1)

    async def _resolve(self, work: Work, attempt: Attempt, closed_at: float, reason: str) -> Attempt | None:
        """An unanswered Run: finds out what became of it. The slot is held until the first look."""
        context = self._context
        if attempt.state != "quarantined":
            context.tell(events.Unknown, work, task_id=None, reason=reason)
        once = attempt.state == "quarantined"  # long ago, and looked at then
        case = self._inquiry.open(attempt, -math.inf if once else closed_at, once=once)
        try:
            await self._inquiry.wait_looked(case)
        finally:
            context.release(was_running=False)
        verdict = await self._inquiry.wait_decided(case)
        match verdict:
            case reconcile.Adopt(task):
                context.window.readopt()
                self._answered(work)
                context.tell(events.Accepted, work, task_id=task.id, adopted=True)
                return attempt
            case reconcile.Absent():
                await context.journal.absent(attempt)
                self._answered(work)
                self._again(work, "it is proven that no task came of it")
            case reconcile.Quarantine(why):
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
        context.tell(events.Retrying, work, reason=reason, after_seconds=after_seconds)
        work.ready = False
        work.attempt = None
        self._queue.appendleft(work)

        async def prepare(again: Work) -> None:
            if await context.pause(after_seconds):
                await self._prepare(again)

        self._spawn(prepare, work)

    async def _resume(self, work: Work) -> None:
        """An attempt that an earlier run left."""
        context, attempt = self._context, work.attempt
        assert attempt is not None
        if attempt.state == "intent":
            await context.journal.unknown(attempt, "the process ended before an answer came", context.clock())
        if attempt.state in ("unknown", "quarantined"):
            context.window.start()
            found = await self._resolve(work, attempt, anyio.current_time(), attempt.reason or "")
            if found is None:
                return
        elif attempt.state == "accepted":
            context.window.readopt()
        if attempt.state == "ended":
            await self._keeper.renew(attempt)
        await self._see_through(work, attempt)

    async def _see_through(self, work: Work, attempt: Attempt) -> None:
        """From an accepted Run, or an ended task, to the disk."""
        context = self._context
        try:
            if attempt.state == "accepted":
                try:
                    await self._wait_ended(work, attempt)
                finally:
                    context.release(was_running=True)
            await self._settle(work, attempt)
        except errors.Missing as error:
            await context.journal.closed(attempt, "missing", error.message)
            context.tell(events.Missing, work, task_id=attempt.task_id, reason=error.message)

    async def _wait_ended(self, work: Work, attempt: Attempt) -> None:
        context = self._context
        age = max(0.0, context.clock() - (attempt.accepted_at or context.clock()))

        def seen(task: wire.Task) -> None:
            context.tell(events.Progress, work, percent=None, status=task.status)

        with context.listening(work, attempt.token):
            task = await context.watch.wait_ended(
                wire.TaskId(attempt.task_id) if attempt.task_id else None,
                wire.TaskToken(attempt.token) if attempt.token else None,
                since=anyio.current_time() - age,
                seen=seen,
            )
        end = wire.ending(task)
        assumed = attempt.reserved if end is wire.Ending.SUCCEEDED else 0
        ended = partial(
            context.journal.ended,
            attempt,
            status=task.status,
            pexit=task.pexit,
            cost=assumed if task.totalcost is None else max(0, task.totalcost),
            outputs=outputs_of(task),
            reason=None if end is wire.Ending.SUCCEEDED else _why(task),
            at=context.clock(),
        )
        try:
            await ended(task_id=attempt.task_id or task.id or None)
        except sqlite3.IntegrityError:  # known by its token alone, and the service calls it by another task's id
            await ended(task_id=None)
        context.settled(attempt)
        if not attempt.adopted:
            await context.echoed(reconcile.verbatim(attempt.form, task))
        context.tell(
            events.Ended,
            work,
            task_id=attempt.task_id,
            status=task.status,
            pexit=task.pexit,
            cost_usd=wire.usd(attempt.cost or 0),
        )

    async def _settle(self, work: Work, attempt: Attempt) -> None:
        """The task has ended: what is owed to whom."""
        context = self._context
        end = wire.ending(
            wire.Task(status=attempt.status or "", pexit=attempt.pexit, outputs=[wire.Output()] * len(attempt.outputs))
        )
        if end is wire.Ending.SUCCEEDED:
            context.same_failures = ("", 0)
            await self._wait_outputs(attempt)
        if attempt.outputs and (end in (wire.Ending.SUCCEEDED, wire.Ending.CANCELLED) or attempt.cost):
            try:
                await self._keeper.keep(work, attempt)
            except errors.Missing:
                raise
            except errors.JobFailed as error:  # it is paid for, and stays owed: the next start tries again
                context.exit_codes.add(1)
                billed = wire.usd(attempt.cost) if attempt.cost else None
                said = f"{error.message}; the next run tries again"
                context.tell(
                    events.Failed, work, kind=error.kind, message=said, task_id=attempt.task_id, billed_usd=billed
                )
            return
        reason = attempt.reason or attempt.status or ""
        if end is wire.Ending.CANCELLED:
            await context.journal.closed(attempt, "cancelled", reason)
            context.tell(events.Cancelled, work, task_id=attempt.task_id, reason=reason)
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

    async def _wait_outputs(self, attempt: Attempt) -> None:
        """Outputs may lag behind the status for a moment."""
        context = self._context
        for tries in range(1, NO_OUTPUT_TRIES + 1):
            if attempt.outputs:
                return
            await anyio.sleep(context.backoff.delay(tries, context.draw()))
            await self._keeper.renew(attempt)
        if not attempt.outputs:
            raise errors.Missing("the task succeeded and offers no output", kind="missing", task_id=attempt.task_id)


def parameters_of(job: Job, image_url: str) -> wire.Parameters:
    """What is sent for a job, its image being at `image_url`."""
    return wire.Parameters(
        prompt=job.prompt,
        image_url=image_url,
        negative_prompt=job.negative_prompt,
        resolution=job.resolution,
        aspect_ratio=job.aspect_ratio,
        seed=str(job.seed),
    )


def _name(receipt: Receipt) -> str:
    return receipt.accepted.task_id or "(known by its token only)"


def _why(task: wire.Task) -> str:
    """What the service says about a failure: the end of its error output, else of its log."""
    said = " ".join((task.debugerror or task.debugoutput).split())[-300:]
    exit_code = f" with exit code {task.pexit}" if task.pexit not in (None, "0") else ""
    match wire.ending(task):
        case wire.Ending.CANCELLED:
            return "the task was cancelled or killed"
        case wire.Ending.ERRORED:
            return f"the task broke before it began{': ' + said if said else ''}"
    return f"the render failed{exit_code}{': ' + said if said else ''}"


def _names_in(folder: Path) -> frozenset[str]:
    return frozenset(jobs.folded(path.name) for path in folder.iterdir())
