"""Submission: intent, Run, answer. The only place where money is spent.

Guarantees. The intent is durable before Run is sent; the answer is durable before anything looks at it. Both happen
under `InFlight.protect`, so that a cancellation can't separate them. What goes wrong after the intent is a value, not
an exception: a refusal that is certain, or `Ambiguous`, whose attempt is `unknown` in the journal.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from functools import partial
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.domain import events
from wan_async.domain.attempt import Attempt
from wan_async.domain.batch import Enlisted
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import image_of
from wan_async.domain.lifecycle import State
from wan_async.domain.money import usd
from wan_async.engine.active_job import Work
from wan_async.engine.environment import Environment
from wan_async.engine.uploads import Uploads
from wan_async.journal.base import ContentLocked, NoSlot, OverBudget, TaskTaken
from wan_async.wiro.api import Receipt
from wan_async.wiro.bodies import InlineImage

UNSAVED_SECONDS, UNSAVED_PAUSE_SECONDS = 20.0, 1.0
"""For how long, and how often, the commit of an answer that the disk refused is tried again."""

Refusal = ContentLocked | NoSlot | OverBudget | errors.WanError
Answer = Receipt | Refusal
"""The outcome of a Run; `errors.Ambiguous` if it is unknown whether a task was created."""

log: logging.Logger = logging.getLogger(__name__)


class Submission:
    """Submits jobs of one run.

    Args:
        environment: the run.
        uploads: has the images that travel inside Run.

    Attributes:
        unsaved: ids of tasks that were accepted and could not be committed.
    """

    def __init__(self, environment: Environment, uploads: Uploads) -> None:
        self._environment = environment
        self._uploads = uploads
        self.unsaved: list[str] = []

    async def submit(self, work: Work) -> tuple[Attempt, Answer] | None:
        """Sends the job's Run.

        Returns:
            The attempt and what came of it; None if the run was stopped before it.

        Raises:
            errors.JobFailed: before anything was sent.
        """
        environment, job, parameters = self._environment, work.job, work.parameters
        assert job is not None
        assert parameters is not None
        image, model = None, environment.api.model
        if job.image.startswith("sha256:") and model.image is not None and not parameters[model.image.wire]:
            path = Path(str(image_of(job.planned.job)))
            image = await self._uploads.read(path, job.image.removeprefix("sha256:"))
        await environment.shutdown.unless_stopped(environment.api.turn)
        if environment.shutdown.stopping:
            return None
        attempt = work.attempt
        if attempt is None or attempt.state != State.REJECTED:
            attempt = work.attempt = Attempt(
                job=job.key, content=job.content, form=parameters, image=job.image, name=job.planned.name
            )
        attempt.form = parameters
        attempt.reserved = environment.prices.price(parameters) or 0
        attempt.high_id, attempt.intent_at = environment.account.high_id, environment.clock()
        answer = await environment.in_flight.protect(partial(self._send, work, attempt, job, image), attempt.form)
        if answer is None:
            answer = errors.Ambiguous("no answer in time")
            await environment.journal.unknown(attempt, answer.message, environment.clock())
        return attempt, answer

    async def _send(self, work: Work, attempt: Attempt, job: Enlisted, image: InlineImage | None) -> Answer:
        """Intent, Run, answer. Runs in a task of its own, and raises nothing."""
        environment, journal = self._environment, self._environment.journal
        price = attempt.reserved or None
        try:
            await journal.intent(attempt, cap=environment.options.budget_micros)
        except (ContentLocked, NoSlot, OverBudget, errors.Unusable) as error:
            return error
        environment.events.tell(events.Submitting, work, price_usd=None if price is None else usd(price))
        callback = job.planned.job.callback_url
        assert work.parameters is not None
        try:
            receipt = await environment.api.run(work.parameters, callback_url=callback, image=image)
        except errors.Ambiguous as error:
            return await _noted(journal.unknown(attempt, error.message, environment.clock())) or error
        except errors.WanError as error:
            rejected = journal.rejected(attempt, error.message, at_limit=isinstance(error, errors.AtLimit))
            return await _noted(rejected) or error
        except Exception as error:  # noqa: BLE001 - logged there
            return await self._unexpected(error, attempt)
        try:
            await self._commit(attempt, receipt)
        except errors.Unusable as error:
            self.unsaved.append(task_name(receipt))
            environment.shutdown.stop(str(error), ExitCode.ENVIRONMENT)
        except TaskTaken:
            reason = f"Run answered with task {task_name(receipt)}, which another attempt owns"
            ambiguous = errors.Ambiguous(reason, parameters=attempt.form, job=attempt.job)
            return await _noted(journal.unknown(attempt, reason, environment.clock())) or ambiguous
        except Exception as error:  # noqa: BLE001 - logged there
            return await self._unexpected(error, attempt)
        if receipt.accepted.task_id is not None:
            environment.account.note_id(receipt.accepted.task_id)
        environment.events.tell(events.Accepted, work, task_id=receipt.accepted.task_id, adopted=False)
        return receipt

    async def _unexpected(self, error: Exception, attempt: Attempt) -> errors.WanError:
        """An unexpected exception between Run and its commit: a task may exist."""
        reason = f"unexpected {type(error).__name__} while Run was in flight: {error}"
        log.error("job %s: %s", attempt.job, reason, exc_info=error)
        unknown = self._environment.journal.unknown(attempt, reason, self._environment.clock())
        return await _noted(unknown) or errors.Ambiguous(reason, parameters=attempt.form, job=attempt.job)

    async def _commit(self, attempt: Attempt, receipt: Receipt) -> None:
        """Commits the answer. A task whose id is known already, because the ids began again, is kept by its token."""
        accepted, journal = receipt.accepted, self._environment.journal
        write = partial(journal.accepted, attempt, answer=receipt.answer, at=self._environment.clock(), adopted=False)
        try:
            await write(accepted.task_id, accepted.token)
        except TaskTaken:
            known = await journal.token_of(accepted.task_id) if accepted.task_id else None
            if known is None or accepted.token in (None, known):
                raise
            log.warning("the service's task ids began again: task %s is kept by its token", accepted.task_id)
            await write(None, accepted.token)

    async def retry_commit(self, attempt: Attempt, receipt: Receipt) -> None:
        """Tries again for a while to commit an answer that the disk refused; returns at once if it was committed.

        Raises:
            errors.Unusable: the disk goes on refusing. The next run looks for the task, as for any unanswered Run.
        """
        give_up_at = anyio.current_time() + UNSAVED_SECONDS
        while attempt.state != State.ACCEPTED:
            await anyio.sleep(UNSAVED_PAUSE_SECONDS)
            try:
                await self._commit(attempt, receipt)
            except errors.Unusable:
                if anyio.current_time() >= give_up_at:
                    raise
            else:
                self.unsaved.remove(task_name(receipt))


async def _noted(write: Awaitable[None]) -> errors.Unusable | None:
    try:
        await write
    except errors.Unusable as error:
        return error
    return None


def task_name(receipt: Receipt) -> str:
    """The id of an accepted task, for people."""
    return receipt.accepted.task_id or "(known by its token only)"
