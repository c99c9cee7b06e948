"""Asks Task/List on behalf of attempts whose Run was not answered, and tells each what became of it.

`reconcile` decides; this room only lists, for all of them at once. It looks soon (an own task that is listed at once is
adopted at once), then when absence could first be proven, and once more. No doubt is final before the first task of
ours that ends has shown what this service's echo is worth, if there will be one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from wan_async import errors, reconcile, wire
from wan_async.context import Context
from wan_async.journal import Attempt

FIRST_LOOK_SECONDS = 0.5
LEARNING_SECONDS = 1.0
"""How often is looked while a doubt may go, since the first of our own tasks to end teaches what the echo is worth."""
MAX_PAGES = 400
"""More pages than this are not listed at once: such a listing counts as incomplete."""


@dataclass(slots=True, eq=False)
class _Case:
    attempt: Attempt
    unanswered: reconcile.Unanswered
    look_at: float
    once: bool
    looked: anyio.Event = field(default_factory=anyio.Event)
    done: anyio.Event = field(default_factory=anyio.Event)
    verdict: reconcile.Adopt | reconcile.Absent | reconcile.Quarantine | None = None
    error: errors.StopBatch | None = None


class Inquiry:
    """What became of unanswered Runs.

    Args:
        context: the run.
        contents: gets all contents of the journal, to know which a task can stand for.
    """

    def __init__(self, context: Context, contents: Callable[[], Awaitable[reconcile.Contents]]) -> None:
        self._context = context
        self._get_contents = contents
        self._contents = reconcile.Contents()
        self._cases: set[_Case] = set()
        self._wake = anyio.Event()

    def open(self, attempt: Attempt, closed_at: float, *, once: bool = False) -> _Case:
        """Takes up an attempt.

        Args:
            attempt: the attempt; its Run was sent, or may have been.
            closed_at: when its connection was gone, on `anyio.current_time`'s clock.
            once: look once, and leave it in quarantine if that doesn't find its task.
        """
        unanswered = reconcile.Unanswered(
            attempt.id, attempt.form, attempt.image, attempt.high_id, attempt.intent_at, closed_at
        )
        case = _Case(attempt, unanswered, anyio.current_time() + (0.0 if once else FIRST_LOOK_SECONDS), once)
        self._cases.add(case)
        self._wake.set()
        return case

    @property
    def pending(self) -> int:
        """How many Runs are in doubt now: each of them may have made a task."""
        return len(self._cases)

    async def wait_looked(self, case: _Case) -> bool:
        """Waits for the first listing; whether that decided the case."""
        await case.looked.wait()
        return case.done.is_set()

    async def wait_decided(self, case: _Case) -> reconcile.Adopt | reconcile.Absent | reconcile.Quarantine:
        """Waits for the verdict. An adopted task is committed as the attempt's own by then.

        Raises:
            errors.StopBatch: the service refuses the credentials.
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
        failures, known = 0, False
        while True:
            now = anyio.current_time()
            due = min((case.look_at for case in self._cases), default=None)
            if due is None or due > now:
                self._wake = anyio.Event()
                with anyio.move_on_after(None if due is None else due - now):
                    await self._wake.wait()
                continue
            try:
                if not known:
                    self._contents, known = await self._get_contents(), True
                pages = await self._list()
                # whose answer is under way may own what was listed: hear it first, and only then ask who owns what
                await self._context.wait_sent()
                owned = await self._context.journal.owned()
                failures = 0
            except errors.StopBatch as error:
                for case in list(self._cases):
                    case.error = error
                    self._decide(case, None)
                continue
            except errors.WanError as error:
                failures += 1
                asked = error.after_seconds if isinstance(error, errors.TryLater) else None
                await anyio.sleep(self._context.backoff.delay(failures, self._context.draw(), asked))
                continue
            for case in list(self._cases):
                await self._judge(case, pages, now, owned)

    async def _list(self) -> reconcile.Pages:
        pages = reconcile.pages_for([case.unanswered for case in self._cases])
        for _ in range(MAX_PAGES):
            answer = await self._context.api.list_tasks(pages.start, tries=3)
            pages.add(answer.tasklist)
            if pages.complete:
                break
        return pages

    async def _judge(self, case: _Case, pages: reconcile.Pages, now: float, owned: set[str]) -> None:
        if case.unanswered.closed_at > now or (case.done.is_set()):
            return
        verdict = reconcile.judge(
            case.unanswered,
            pages.tasks.values(),
            complete=pages.complete,
            now=now,
            settle=self._context.options.settle_seconds,
            owned=owned,
            echoed=self._context.faithful,
            contents=self._contents,
        )
        match verdict:
            case reconcile.Adopt(task):
                if await self._adopt(case.attempt, task):
                    owned.add(task.id)
                    self._decide(case, verdict)
                else:
                    case.look_at = now + FIRST_LOOK_SECONDS
            case reconcile.Wait(at) if not case.once:
                soon = case.unanswered.closed_at + 2 * (now - case.unanswered.closed_at) + 2 * FIRST_LOOK_SECONDS
                case.look_at = min(at, soon)
            case reconcile.Wait():
                self._decide(case, reconcile.Quarantine("its task was not found"))
            case reconcile.Quarantine() if not case.once and self._context.may_learn_echoes:
                case.look_at = now + LEARNING_SECONDS
            case _:
                self._decide(case, verdict)
        case.looked.set()

    def _decide(self, case: _Case, verdict: reconcile.Adopt | reconcile.Absent | reconcile.Quarantine | None) -> None:
        case.verdict = verdict
        self._cases.discard(case)
        case.done.set()
        case.looked.set()

    async def _adopt(self, attempt: Attempt, task: wire.Task) -> bool:
        try:
            await self._context.journal.accepted(
                attempt,
                task.id,
                task.socketaccesstoken or None,
                task.model_dump_json().encode(),
                self._context.clock(),
                adopted=True,
            )
        except sqlite3.IntegrityError:  # somebody else's answer came in the meantime: it is theirs
            return False
        except errors.Unusable as error:
            self._context.stop(str(error), 6)
            return False
        return True
