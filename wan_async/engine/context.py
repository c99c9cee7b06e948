"""What everything that carries a job of one run shares: services, clock, events, money, and the word to stop."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio

from wan_async import errors
from wan_async.domain import events, prices, task
from wan_async.domain.attempt import Attempt
from wan_async.domain.batch import Enlisted
from wan_async.domain.model import Parameters
from wan_async.engine import concurrency, task_listing
from wan_async.engine.event_stream import EventStream
from wan_async.engine.options import Options
from wan_async.engine.tracker import Tracker
from wan_async.filesystem import Files
from wan_async.http import retry
from wan_async.journal.sqlite import Journal
from wan_async.outputs.download import Downloader
from wan_async.threads import Offload, in_threads
from wan_async.wiro import messages
from wan_async.wiro.api import Api
from wan_async.wiro.websocket import WebSocket

AUTO_START = 8
LEAVE_SECONDS = 3.0
"""What Runs in flight get for their answers when a run is left."""
STOPPING_PATIENCE_SECONDS = 60.0
"""Once no more is submitted, what is denied is asked for no longer than this: the next run asks again."""
OUTAGE_TOLD_SECONDS = 30.0
"""How often people are told that the service can't be asked."""
SAMPLE_SECONDS = 0.2
"""A task's progress is told no more often than this."""

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Work:
    """A job on its way through this run.

    Attributes:
        job: what is to be made; None for an attempt whose job the batch no longer names.
        attempt: its row, once there is one; an attempt that was definitely refused is sent again.
        parameters: what will be sent; set once the image is where it has to be.
        ready: whether it may be submitted as soon as there is a slot.
        renders: how many of its renders failed in this run.
        slot: the place among the active tasks that it holds, if it holds one.
        resumed: whether an earlier run began it.
        was_missing: whether an earlier run left it as missing.
        has_lock: whether it holds its content's lock: no other Run of that content may leave.
        told_at: when its progress was last told.
    """

    key: str
    job: Enlisted | None
    attempt: Attempt | None = None
    parameters: Parameters | None = None
    ready: bool = False
    renders: int = 0
    slot: Slot | None = None
    resumed: bool = False
    was_missing: bool = False
    has_lock: bool = False
    told_at: float = -math.inf

    @property
    def content(self) -> str:
        """What shapes the clip: of two jobs with one content at most one Run may be unanswered."""
        if self.job is not None:
            return self.job.content
        return self.attempt.content if self.attempt is not None else ""

    @property
    def number(self) -> int:
        """Which attempt it is at, 0 before the first."""
        return self.attempt.number if self.attempt is not None else 0


class Slot:
    """A place among the active tasks. It is given back once, however its job goes on.

    Args:
        context: the run.
        running: whether it is for a task that the service has accepted already; such a one may exceed the limit.
    """

    def __init__(self, context: Context, *, running: bool = False) -> None:
        self._context = context
        self._is_held = True
        self._running = running
        self.epoch = 0
        if running:
            context.window.readopt()
        else:
            self.epoch = context.window.start()

    def accepted(self) -> None:
        """The service took the task."""
        if self._is_held and not self._running:
            self._running = True
            self._context.window.accepted()

    def retake(self) -> None:
        """Its task was found after all, and runs, even if the slot was given back meanwhile."""
        if not self._is_held:
            self._is_held = self._running = True
            self._context.window.readopt()

    def release(self) -> None:
        """Another job may have it."""
        if self._is_held:
            self._is_held = False
            self._context.release(was_running=self._running)


@dataclass(slots=True)
class Services:
    """What a run works with, all of it made by the caller.

    Attributes:
        api: the client of the service.
        downloader: fetches the clips; it has no credentials.
        files: the calls that reach the disk.
        offload: runs blocking calls, by default in threads.
        clock: unix seconds.
        draw: numbers in [0, 1) for jitter.
        inline: commit the journal in the event loop's own thread, for virtual time.
        open_journal: opens the journal of a folder for an account.
        socket_url: where the service's socket is; None where there is none.
    """

    api: Api
    downloader: Downloader
    files: Files = field(default_factory=Files)
    offload: Offload = field(default_factory=lambda: in_threads(8))
    clock: Callable[[], float] = time.time
    draw: Callable[[], float] = random.random
    inline: bool = False
    open_journal: Callable[..., AbstractAsyncContextManager[Journal]] = Journal.open
    socket_url: str | None = None


class Context:
    """The shared state of one run.

    Attributes:
        window: how many tasks may be active.
        exit_codes: why it stopped, as exit codes.
        high_id: the highest task id seen so far.
        releases: how many slots were given back so far.
        waiting_clips: how many ended tasks wait for their download, or are in it.
        not_repeated: jobs that are not sent again, by key, with the tasks that may be theirs.
        projects: ids of the projects that this key's own tasks showed.
        key_since: since when this key is used, in unix seconds.
        unsaved: task ids that were accepted and could not be written down.
        more_to_send: whether jobs wait for a slot.
        existing: folded names of what lay in the output folder when the run began.
    """

    def __init__(
        self, journal: Journal, services: Services, options: Options, output: Path, stream: EventStream, run_id: str
    ) -> None:
        self.journal = journal
        self.api = services.api
        self.downloader = services.downloader
        self.files = services.files
        self.offload = services.offload
        self.clock = services.clock
        self.draw = services.draw
        self.options = options
        self.output = output
        self.watch = Tracker(services.api, draw=services.draw)
        self.watch.on_outage = self._outage
        self.watch.patience = self.patience
        self._outage_told_at = -math.inf
        ceiling = options.concurrency or options.max_concurrency
        self.window = concurrency.Window(options.concurrency or AUTO_START, ceiling)
        self.backoff = retry.Backoff(first_seconds=1.0)
        self.high_id = 0
        self.waiting_clips = 0
        self.releases = 0
        self.unsaved: list[str] = []
        self.listener = self._make_listener(services)
        self._listened: dict[str, Work] = {}
        self._stream = stream
        self._run_id = run_id
        self._changed = anyio.Event()
        self._stopped = anyio.Event()
        self._tool = prices.Tool()
        self._dearest: dict[tuple[str, ...], int] = {}
        self.more_to_send: Callable[[], bool] = lambda: False
        self.existing: frozenset[str] = frozenset()
        self.not_repeated: dict[str, list[str]] = {}
        self.projects: set[str] = set()
        self.key_since = 0.0
        self._echoes: dict[str, bool] = {}
        self._taught = False
        self._sending: dict[anyio.CancelScope, tuple[Mapping[str, str], anyio.Event]] = {}
        self._leaving = False
        self.stop_reason: str | None = None
        self.exit_codes: set[int] = set()
        self.same_failures: tuple[str, int] = ("", 0)

    def _make_listener(self, services: Services) -> WebSocket | None:
        if services.socket_url is None or self.options.track == "poll":
            return None
        return WebSocket(
            services.socket_url,
            hint=self._hint,
            connected=self.watch.connected,
            draw=services.draw,
            patient=self.options.track == "socket",
        )

    def _hint(self, hint: messages.Hint) -> None:
        self.watch.hint(hint)
        work = self._listened.get(hint.token or "") or self._listened.get(hint.task_id or "")
        now = anyio.current_time()
        if work is not None and now - work.told_at >= SAMPLE_SECONDS:
            work.told_at = now
            self.tell(events.Progress, work, percent=hint.percent, status=hint.status)

    @contextmanager
    def listening(self, work: Work, task_id: str | None, token: str | None) -> Iterator[None]:
        """The socket, if there is one, tells of this task's progress and end, by its id or its token."""
        if self.listener is None or token is None:
            yield
            return
        names = [name for name in (task_id, token) if name]
        self._listened.update(dict.fromkeys(names, work))
        self.listener.subscribe(task.TaskToken(token))
        try:
            yield
        finally:
            for name in names:
                if self._listened.get(name) is work:
                    del self._listened[name]
            self.listener.unsubscribe(task.TaskToken(token))

    def emit(self, kind: type[events.Event], /, **fields: Any) -> None:
        """Tells whoever reads the run's events."""
        self._stream.put(kind(at=self.clock(), run=self._run_id, **fields))

    def tell(self, kind: type[events.JobEvent], work: Work, /, **fields: Any) -> None:
        """Tells something about a job."""
        self.emit(kind, job=work.key, attempt=work.number, **fields)

    def _outage(self, error: errors.WanError, seconds: float) -> None:
        now = anyio.current_time()
        if now - self._outage_told_at >= OUTAGE_TOLD_SECONDS:
            self._outage_told_at = now
            log.warning("%s: what runs goes on there, and is asked for again in %.0f s", error.message, seconds)

    def rate_limited(self, after_seconds: float) -> None:
        """A 429 came."""
        self.emit(events.Limited, code=429, after_seconds=after_seconds, concurrency=self.window.limit)

    def stop(self, reason: str, exit_code: int) -> None:
        """Submit no more; see through what was submitted. Only the first reason is told."""
        self.exit_codes.add(exit_code)
        if self.stop_reason is None:
            self.stop_reason = reason
            self.emit(events.Stopping, reason=reason)
        self._stopped.set()
        self.changed()

    def patience(self) -> float:
        """For how many seconds of denials something is asked for."""
        wanted = self.options.patience_seconds
        return min(wanted, STOPPING_PATIENCE_SECONDS) if self.stopping else wanted

    @property
    def stopping(self) -> bool:
        """Whether no more is submitted."""
        return self.stop_reason is not None

    def changed(self) -> None:
        """Something happened that admission may wait for."""
        self._changed.set()

    async def wait_changed(self, seconds: float | None = None) -> None:
        """Waits until something happened, or for so long."""
        with anyio.move_on_after(seconds):
            await self._changed.wait()
        self._changed = anyio.Event()

    async def pause(self, seconds: float) -> bool:
        """Sleeps, but no longer than until the run is stopped; whether it goes on."""
        with anyio.move_on_after(seconds):
            await self._stopped.wait()
        return not self.stopping

    async def unless_stopped(self, step: Callable[[], Awaitable[T]]) -> T | None:
        """What `step` returns; None if the run was stopped meanwhile, which breaks it off."""
        result: list[T] = []
        raised: list[Exception] = []
        async with anyio.create_task_group() as group:

            async def child() -> None:
                try:
                    result.append(await step())
                except Exception as error:  # noqa: BLE001 - raised below, outside of an exception group
                    raised.append(error)
                group.cancel_scope.cancel()

            group.start_soon(child)
            await self._stopped.wait()
            group.cancel_scope.cancel()
        if raised:
            raise raised[0]
        return result[0] if result else None

    async def protected(self, send: Callable[[], Awaitable[T]], form: Mapping[str, str] | None = None) -> T | None:
        """Runs what must not be broken off: intent, Run, and the commit of its answer.

        In a child task under a shield: a shield around a direct await does not stop asyncio's own cancellation. Its
        only deadline comes when the caller is cancelled or the run is left (Run itself is bounded, see `Api.run`).

        Returns:
            What `send` returns; None if that deadline passed.
        """
        result: list[T] = []
        scope, done = anyio.CancelScope(shield=True), anyio.Event()

        async def child() -> None:
            with scope:
                result.append(await send())
            done.set()

        self._sending[scope] = (form or {}, done)
        if self._leaving:
            self._hurry(scope)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(child)
                try:
                    await done.wait()
                except anyio.get_cancelled_exc_class():
                    self._hurry(scope)
                    raise
        finally:
            del self._sending[scope]
            done.set()
        return result[0] if result else None

    def _hurry(self, scope: anyio.CancelScope) -> None:
        scope.deadline = min(scope.deadline, anyio.current_time() + LEAVE_SECONDS)

    async def wait_sent(self, concerned: Callable[[Mapping[str, str]], bool] = lambda form: True) -> None:
        """Waits until those Runs in flight whose parameters are concerned have their answers, or none."""
        for form, done in list(self._sending.values()):
            if concerned(form):
                await done.wait()

    def leave(self) -> None:
        """Runs in flight get a few seconds more."""
        self._leaving = True
        for scope in self._sending:
            self._hurry(scope)

    def note_id(self, task_id: str) -> None:
        """A task of this id exists. One that is no number says nothing about the others."""
        number = task_listing.task_number(task_id)
        if number < task_listing.NO_NUMBER:
            self.high_id = max(self.high_id, number)

    def release(self, *, was_running: bool) -> None:
        """A slot is free again."""
        self.releases += 1
        self.window.released(was_running=was_running)
        self.changed()

    async def learn_prices(self) -> None:
        """What a task costs, after the service and after this journal."""
        try:
            self._tool = await self.api.tool()
        except errors.NotFound as error:
            raise errors.StopBatch(f"the model is not to be had: {error.message}") from None
        self._dearest = await self.journal.dearest(self.api.model.price_fields)

    def price(self, parameters: Parameters) -> int | None:
        """What is reserved for a task, in micro-dollars: the estimate, or the dearest such task so far."""
        estimate = self._tool.estimate(parameters, self.watch.durations.quantile(0.9))
        dearest = self._dearest.get(self._price_key(parameters))
        return max((cost for cost in (estimate, dearest) if cost is not None), default=None)

    def _price_key(self, parameters: Parameters) -> tuple[str, ...]:
        """The parameters that a task's price may depend on."""
        return tuple(parameters.get(field, "") for field in self.api.model.price_fields)

    def settled(self, attempt: Attempt) -> None:
        """A task's cost is known: it guides what is reserved for the next."""
        if attempt.cost:
            kind = self._price_key(attempt.form)
            self._dearest[kind] = max(self._dearest.get(kind, 0), attempt.cost)
        self.changed()

    async def learn_echoes(self) -> None:
        """What this journal knows of the service's echo."""
        self._echoes = await self.journal.echoes()
        self._taught = bool(self._echoes)
        self.projects = await self.journal.projects()
        self.key_since = await self.journal.key_since()

    async def echoed(self, seen: Mapping[str, bool]) -> None:
        """An own task showed how faithfully the service echoes parameters."""
        self._taught = True
        known = self._echoes
        new = {name: same for name, same in seen.items() if name not in known or (known[name] and not same)}
        if new:
            self._echoes.update(new)
            await self.journal.echoed(new)

    async def project_seen(self, project: str | None) -> None:
        """An own task showed its project: a task that shows another is a teammate's (WIRO_API 5)."""
        if project and project not in self.projects:
            self.projects.add(project)
            await self.journal.project_seen(project)

    @property
    def may_learn_echoes(self) -> bool:
        """Whether no task of ours has shown its echo yet, and one that will runs, or is still to be sent."""
        return not self._taught and (self.window.active > 0 or self.more_to_send())

    @property
    def faithful(self) -> list[str]:
        """Fields that this service echoes verbatim, as far as this journal has seen."""
        return [name for name, faithful in self._echoes.items() if faithful]
