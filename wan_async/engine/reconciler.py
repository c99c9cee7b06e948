"""Reconciliation: lists tasks, and finds out for each unanswered Run whether it created one.

`matching` decides; this module lists, for all cases at once. The newest page is listed soon and then ever more rarely,
since the task is mostly there; it is adopted if it is certainly ours. The complete list is read when absence can first
be proven, and once more. No doubt is final until the first task of ours that ends has shown which fields the service
echoes, if one will.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import partial

import anyio

from wan_async import errors
from wan_async.domain.attempt import Attempt
from wan_async.engine import matching, task_listing
from wan_async.engine.environment import Environment
from wan_async.engine.shutdown import STOPPING_PATIENCE_SECONDS
from wan_async.journal.base import TaskTaken

log: logging.Logger = logging.getLogger(__name__)

FIRST_GLANCE_SECONDS = 0.5
LEARNING_SECONDS = 1.0
"""How often the list is read while the first task of ours to end may still resolve a doubt."""
LISTINGS_AT_ONCE = 3
"""Complete listings at once, so that a slow page delays only the cases of its own listing."""
MAX_IDLE_PAGES = 4
"""After this number of pages in a row that show nothing new the listing counts as incomplete."""
UNEXPECTED_FAULTS = 20
"""After this number of unexpected exceptions in a row all cases fail with the last of them."""
MAX_PAGES = 400
"""A listing of more pages counts as incomplete."""


@dataclass(slots=True, eq=False)
class _Case:
    attempt: Attempt
    unanswered: matching.Unanswered
    glance_at: float
    look_at: float
    once: bool
    looked: anyio.Event = field(default_factory=anyio.Event)
    done: anyio.Event = field(default_factory=anyio.Event)
    verdict: matching.Final | None = None
    error: Exception | None = None


class Reconciler:
    """Finds out what became of unanswered Runs.

    Args:
        environment: the run.
        contents: gets all contents of the journal, to know which a task can stand for.
        learns_once: whether they stay the same; else they are read for each listing.
    """

    def __init__(
        self,
        environment: Environment,
        contents: Callable[[], Awaitable[matching.Contents]],
        *,
        learns_once: bool = True,
    ) -> None:
        self._learns_once = learns_once
        self._environment = environment
        self._get_contents = contents
        self._contents: matching.Contents | None = None
        self._getting = anyio.Lock()
        self._judging = anyio.Lock()
        self._cases: set[_Case] = set()
        self._opened = anyio.Event()

    def open(self, attempt: Attempt, closed_at: float, *, once: bool = False) -> _Case:
        """Takes up an attempt.

        Args:
            attempt: the attempt; its Run was sent, or may have been.
            closed_at: when its connection was gone, on `anyio.current_time`'s clock.
            once: look once, and leave it in quarantine if that doesn't find its task.
        """
        now, settle = anyio.current_time(), self._environment.options.settle_seconds
        soon = now + FIRST_GLANCE_SECONDS
        case = _Case(
            attempt,
            self._unanswered(attempt, closed_at),
            glance_at=math.inf if once else soon,
            look_at=now if once else max(soon, closed_at + settle),
            once=once,
        )
        self._cases.add(case)
        self._opened.set()
        return case

    def _unanswered(self, attempt: Attempt, closed_at: float) -> matching.Unanswered:
        model = self._environment.api.model
        return matching.Unanswered(
            model, attempt.id, attempt.form, attempt.image, attempt.high_id, attempt.intent_at, closed_at
        )

    @property
    def pending(self) -> int:
        """How many Runs are in doubt now: each of them may have made a task."""
        return len(self._cases)

    async def wait_looked(self, case: _Case) -> bool:
        """Waits for the first glance; whether that decided the case."""
        await case.looked.wait()
        return case.done.is_set()

    async def wait_decided(self, case: _Case) -> matching.Final:
        """Waits for the verdict. An adopted task is committed as the attempt's own by then.

        Raises:
            errors.StopBatch: the service refuses the credentials.
            errors.Unusable: its task was found, and could not be written down; the next run finds it, too.
            Exception: comparing it with the list failed again and again.
        """
        try:
            await case.done.wait()
        finally:
            self._cases.discard(case)
        if case.error is not None:
            raise case.error
        assert case.verdict is not None
        return case.verdict

    async def serve(self) -> None:
        """Lists whenever a case wants it, until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._serve, lambda case: case.glance_at, self._glance)
            for _ in range(LISTINGS_AT_ONCE):
                group.start_soon(self._serve, lambda case: case.look_at, self._look)

    async def _serve(self, at: Callable[[_Case], float], act: Callable[[float], Awaitable[None]]) -> None:
        failures = 0
        failing_since: float | None = None
        while True:
            now = anyio.current_time()
            due = min(map(at, self._cases), default=math.inf)
            if due > now:
                if self._opened.is_set():
                    self._opened = anyio.Event()
                with anyio.move_on_after(due - now):
                    await self._opened.wait()
                continue
            try:
                await act(now)
                failures, failing_since = 0, None
                self._opened.set()  # the others sleep until what was due when this began
            except (errors.StopBatch, errors.Unusable) as error:
                for case in list(self._cases):
                    case.error = error
                    self._decide(case, None)
            except errors.WanError as error:
                failures += 1
                failing_since = anyio.current_time() if failing_since is None else failing_since
                self._not_listed(error, failing_since)
                await anyio.sleep(self._environment.delay(failures, error))
            except Exception as error:
                failures += 1
                log.exception("the task list could not be compared with unanswered Runs")
                if failures >= UNEXPECTED_FAULTS:
                    for case in list(self._cases):
                        case.error = error
                        self._decide(case, None)
                await anyio.sleep(self._environment.delay(failures))

    def _not_listed(self, error: errors.WanError, since: float) -> None:
        """Task/List is not available: no slot waits for it, and while the run stops no case waits for long."""
        environment, now = self._environment, anyio.current_time()
        environment.events.outage(error, environment.backoff.cap_seconds)
        for case in list(self._cases):
            case.looked.set()
            if environment.shutdown.stopping and now - since >= STOPPING_PATIENCE_SECONDS:
                case.error = error
                self._decide(case, None)

    async def _glance(self, now: float) -> None:
        """Reads the newest page alone: what is not certainly ours by that is left to `_look`."""
        cases = [case for case in self._cases if case.glance_at <= now]
        pages = matching.pages_for([case.unanswered for case in cases])
        answer = await self._environment.api.list_tasks()
        pages.add(answer.tasklist)
        whole = answer.total is not None and len(answer.tasklist) >= answer.total
        covered = [case for case in cases if whole or task_listing.reaches(answer.tasklist, case.unanswered.high_id)]
        await self._judge(covered, pages, now, settle=math.inf)
        for case in cases:
            closed_at = case.unanswered.closed_at
            next_at = closed_at + 2 * (now - closed_at) + 2 * FIRST_GLANCE_SECONDS
            case.glance_at = next_at if next_at < closed_at + self._environment.options.settle_seconds else math.inf
            case.looked.set()

    async def _look(self, now: float) -> None:
        """Reads the complete list, for the cases that are due and that no other listing serves."""
        cases = [case for case in self._cases if case.look_at <= now]
        for case in cases:
            case.look_at = math.inf
        try:
            await self._look_for(cases, now)
        except Exception as error:
            for case in cases:
                case.look_at = now
                if isinstance(error, errors.JobFailed):
                    self._refused(case, now, error)
            raise

    def _refused(self, case: _Case, now: float, error: errors.JobFailed) -> None:
        """The service refuses to list: that may pass, but not every case can wait for it."""
        unanswered = case.unanswered
        if unanswered.incomplete_since is None:
            unanswered.incomplete_since = now
        if now >= unanswered.incomplete_since + matching.INCOMPLETE_SECONDS:
            self._decide(case, matching.Quarantine(f"the service lists no tasks: {error.message}"))

    async def _look_for(self, cases: list[_Case], now: float) -> None:
        pages = matching.pages_for([case.unanswered for case in cases])
        idle = 0
        for _ in range(MAX_PAGES):
            known = len(pages.tasks)
            pages.add((await self._environment.api.list_tasks(pages.start)).tasklist)
            idle = 0 if len(pages.tasks) > known else idle + 1
            if pages.complete or idle >= MAX_IDLE_PAGES:
                break
        unanswered = await self._environment.journal.unanswered()
        judged = await self._judge(cases, pages, now, settle=self._environment.options.settle_seconds)
        for case, verdict in judged.items():
            case.looked.set()
            match verdict:
                case matching.Adopt():  # and another attempt's answer was quicker: its task has an owner now
                    case.look_at = now + FIRST_GLANCE_SECONDS
                case matching.Wait(at) if not case.once:
                    case.look_at = at
                case matching.Wait():
                    self._decide(case, matching.Quarantine("its task was not found"))
                case matching.Quarantine() if not case.once and (
                    self._may_learn_echoes() or self._is_of_another(case, unanswered, now)
                ):
                    case.look_at = now + LEARNING_SECONDS
                case _:
                    self._decide(case, verdict)

    async def _judge(
        self, cases: list[_Case], pages: task_listing.Pages, now: float, *, settle: float
    ) -> dict[_Case, matching.Verdict]:
        """Adopts what is ours, and returns the verdicts on the others. One listing at a time, or two would adopt."""
        ended = anyio.current_time()
        contents = await self._learn_contents()
        owned = task_listing.Owners(await self._environment.journal.owned())
        faithful = self._environment.account.echoed
        in_doubt = await self._wait_in_flight(cases, pages, owned, faithful)
        judged: dict[_Case, matching.Verdict] = {}
        async with self._judging:
            if in_doubt:
                owned = task_listing.Owners(await self._environment.journal.owned())
            for case in cases:
                if case.done.is_set():
                    continue
                verdict = matching.judge(
                    case.unanswered,
                    pages.tasks.values(),
                    complete=pages.complete,
                    now=now,
                    settle=settle,
                    owned=owned,
                    echoed=faithful,
                    contents=contents,
                    projects=self._projects_for(case),
                    ended=ended,
                )
                if isinstance(verdict, matching.Adopt):
                    await self._adopt(case, verdict, owned)
                if not case.done.is_set():
                    judged[case] = verdict
        return judged

    async def _wait_in_flight(
        self, cases: list[_Case], pages: task_listing.Pages, owned: task_listing.Owners, faithful: list[str]
    ) -> bool:
        """A task in doubt may be of a Run in flight: waits for those answers. Returns whether any task is in doubt."""
        tasks = pages.tasks.values()
        doubts = [
            task
            for case in cases
            for task in matching.doubts(case.unanswered, tasks, owned, faithful, self._projects_for(case)).values()
        ]
        model = self._environment.api.model
        await self._environment.in_flight.wait(
            lambda form: any(not matching.differs(model, form, task, faithful) for task in doubts)
        )
        return bool(doubts)

    def _may_learn_echoes(self) -> bool:
        """Whether no task of ours has shown yet what the service echoes, and one will."""
        slots = self._environment.slots
        return not self._environment.account.taught and (slots.window.active > 0 or slots.queued > 0)

    def _is_of_another(self, case: _Case, unanswered: Collection[Attempt], now: float) -> bool:
        """Whether a task in doubt is what another of these attempts made, which adopts it soon or just did."""
        assert self._contents is not None
        if now >= case.unanswered.closed_at + matching.INCOMPLETE_SECONDS:
            return False
        others = [self._unanswered(other, 0.0) for other in unanswered if other.id != case.attempt.id]
        tasks = case.unanswered.doubts.values()
        return any(matching.matches(other, task, self._contents) for other in others for task in tasks)

    def _projects_for(self, case: _Case) -> Collection[str]:
        """The projects that the attempt's task can be of; none are known of one that was sent with an earlier key."""
        environment = self._environment
        return environment.account.projects if case.attempt.intent_at >= environment.account.key_since else ()

    async def _learn_contents(self) -> matching.Contents:
        async with self._getting:
            if self._contents is None or not self._learns_once:
                self._contents = await self._get_contents()
            return self._contents

    def _decide(self, case: _Case, verdict: matching.Final | None) -> None:
        case.verdict = verdict
        self._cases.discard(case)
        case.done.set()
        case.looked.set()

    async def _adopt(self, case: _Case, verdict: matching.Adopt, owned: task_listing.Owners) -> None:
        task = verdict.task
        token, answer = task.socketaccesstoken or None, task.model_dump_json().encode()
        accepted = partial(self._environment.journal.accepted, case.attempt, task.id, adopted=True)
        try:
            try:
                await accepted(token, answer, self._environment.clock())
            except TaskTaken:  # another's token, on a list that hides them
                await accepted(None, answer, self._environment.clock())
        except TaskTaken:  # another attempt's answer came meanwhile: the task is its own
            return
        except errors.Unusable as error:
            case.error = error
            self._decide(case, None)
            return
        owned.add(task.id, token)
        self._decide(case, verdict)
