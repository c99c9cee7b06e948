"""What earlier runs left as missing or cancelled: asked for again before anything is submitted.

A missing task or clip that is there again is taken up. One that is denied once more stays missing, or is given up if
the user wants that (`--give-up`); with `--rerender` its job may be rendered anew once each of its missing attempts was
denied once more. A cancelled task may be charged, or show outputs, late (WIRO_API 4).
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from wan_async import errors
from wan_async.domain import events
from wan_async.domain.attempt import Attempt
from wan_async.domain.batch import Enlisted
from wan_async.domain.lifecycle import State
from wan_async.domain.money import usd
from wan_async.domain.remote_task import ending, outputs_of
from wan_async.engine.active_job import Work
from wan_async.engine.delivery import note_end, task_id_of, token_of
from wan_async.engine.environment import Environment

log: logging.Logger = logging.getLogger(__name__)


class MissingTasks:
    """Missing and cancelled attempts of one run.

    Args:
        environment: the run.
        batch: its jobs by key.
    """

    def __init__(self, environment: Environment, batch: Mapping[str, Enlisted]) -> None:
        self._environment = environment
        self._batch = batch
        self._rerendered: dict[str, Enlisted] = {}
        self._not_denied: Counter[str] = Counter()
        self._denied: deque[Work] = deque()

    def begin(self, missing: Sequence[Attempt], chosen: Sequence[Enlisted]) -> set[str]:
        """Notes which jobs have missing attempts.

        Args:
            missing: the attempts that earlier runs left as missing.
            chosen: the jobs to submit.

        Returns:
            Keys of jobs that must not be submitted before their missing attempts were asked for.
        """
        asked = Counter((attempt.job, attempt.content) for attempt in missing)
        waiting = {job.key: job for job in chosen if (job.key, job.content) in asked}
        for job in waiting.values():
            self.expect(job, asked[job.key, job.content])
        return set(waiting)

    def expect(self, job: Enlisted, missing: int) -> None:
        """Renders a job anew once this number of missing attempts was denied once more."""
        self._rerendered[job.key] = job
        self._not_denied[job.key] = missing

    def is_denied(self, key: str) -> bool:
        """Whether a job of which that was expected is rendered anew."""
        return key in self._not_denied and key not in self._rerendered

    def next_denied(self) -> Work | None:
        """A job to render anew, since each of its missing attempts was denied once more."""
        return self._denied.popleft() if self._denied else None

    async def find(self, work: Work) -> bool:
        """Whether the service knows the task of a missing attempt again; the journal holds what it says."""
        environment, attempt = self._environment, work.attempt
        assert attempt is not None
        work.was_missing = attempt.ended_at is not None  # one that was never seen to end may have done so just now
        try:
            task = await environment.api.detail(task_id_of(attempt), token_of(attempt), tries=2)
        except errors.NotFound as error:
            work.was_missing = True
            await self.still_missing(work, attempt, error.message, denied=not isinstance(error, errors.NoSuchAddress))
            return False
        except (errors.TryLater, errors.JobFailed) as error:
            await self.still_missing(work, attempt, error.message, denied=False)
            return False
        if ending(task) is None:
            await environment.journal.found(attempt)
        else:
            await note_end(environment, attempt, task)
        return True

    async def still_missing(self, work: Work, attempt: Attempt, reason: str, *, denied: bool) -> None:
        """A task or its clip is not available now.

        Args:
            work: the job.
            attempt: its attempt.
            reason: what was met, for people.
            denied: whether the service denied it, rather than gave no answer.
        """
        environment, options = self._environment, self._environment.options
        job = self._batch.get(attempt.job)
        concerned = options.only is None or (job is not None and options.admits(job.planned.label))
        gives_up = work.gives_up or (options.give_up and concerned)
        if gives_up and denied and work.was_missing:
            if attempt.state != State.MISSING:
                await environment.journal.closed(attempt, State.MISSING, reason)
            await environment.journal.closed(attempt, State.GIVEN_UP, reason)
            environment.events.tell(
                events.Failed,
                work,
                kind="given_up",
                message=f"given up: {reason}",
                task_id=attempt.task_id,
                billed_usd=usd(attempt.cost) if attempt.cost else None,
            )
            return
        await environment.journal.closed(attempt, State.MISSING, reason)
        environment.events.tell(events.Missing, work, task_id=attempt.task_id, reason=reason)
        job = self._rerendered.get(attempt.job)
        if denied and job is not None and job.content == attempt.content:
            self._not_denied[job.key] -= 1
            if not self._not_denied[job.key]:
                del self._rerendered[job.key]
                self._denied.append(Work(job.key, job, rerenders=True))
                environment.wake.set()

    async def recheck(self, work: Work, *, later: bool = False) -> bool:
        """Asks once more for a cancelled task: a charge or outputs may appear late.

        One that was charged and shows no outputs is asked for at every start.

        Args:
            work: the job.
            later: whether the next run asks again, whatever comes.

        Returns:
            Whether it has outputs now.
        """
        environment, attempt = self._environment, work.attempt
        assert attempt is not None
        try:
            task = await environment.api.detail(task_id_of(attempt), token_of(attempt), tries=2)
        except errors.StopBatch:
            raise
        except errors.WanError as error:
            log.debug("the cancelled task %s could not be asked for: %s", attempt.task_id, error)
            return False
        if outputs_of(task) and ending(task) is not None:
            await note_end(environment, attempt, task)
            return True
        cost = max(0, task.totalcost or 0)
        await environment.journal.rechecked(attempt, cost, again=later or cost > 0)
        environment.prices.settled(attempt)
        return False
