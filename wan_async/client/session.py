"""What all calls of one client share: connections, tracking, the concurrency limit, and the tasks that it knows.

A call registers here, drives the shared work while it waits (`Driver`), and leaves its task behind in `unclaimed` if it
ends without handing the task to its caller. Closing ends every call.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel

from wan_async import errors
from wan_async.client.concurrency_limit import Admission, Slot
from wan_async.client.shared_waiting import Driver
from wan_async.domain.remote_task import TaskDetail, TaskId, TaskToken
from wan_async.engine import matching
from wan_async.engine.concurrency import AUTO_START, Window
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.runs_in_flight import InFlight
from wan_async.engine.task_listing import NO_NUMBER, task_number
from wan_async.engine.tracker import Tracker
from wan_async.engine.waiting_task import WaitingTask
from wan_async.task_handles import Task
from wan_async.wiro.notification_messages import Hint
from wan_async.wiro.websocket_client import WebSocket

if TYPE_CHECKING:
    from wan_async.engine.run import Run

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
"""For how long a call asks for what the service denies; then it raises `Missing`, and can be made again."""
UNKNOWN_PATIENCE_SECONDS = 5.0
"""The same for a task of which nothing is known but its id or token: probably there is no such task."""
UNATTENDED_SECONDS = 1.0
"""How often tasks without a waiting call are taken up, while calls wait for a slot."""
REMEMBERED_TASKS = 10_000
"""How many of the latest tasks a client remembers, to tell its own from others in the task list."""

log: logging.Logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Call:
    """One call of a client.

    Attributes:
        scope: what closing cancels.
        task: the task that it has submitted or waits for.
        submitted: whether the call itself submitted it, so that its caller may not know it.
        unanswered: its Run, if that left and was not answered.
        answered: set when its latest Run is not in flight any more; None before the first.
    """

    scope: anyio.CancelScope
    task: Task | None = None
    submitted: bool = False
    unanswered: errors.Ambiguous | None = None
    answered: anyio.Event | None = None


@dataclass(slots=True, eq=False)
class _Active:
    task: Task
    slot: Slot
    form: Mapping[str, str] = field(default_factory=dict)
    ended: bool = False
    waiting: set[WaitingTask] = field(default_factory=set)


class Session:
    """The shared state of a client's calls.

    Args:
        dependencies: connections, clock, disk.
        max_concurrency: the most tasks that may be active at once.

    Attributes:
        unclaimed: tasks whose callers did not get them.
        unanswered: unanswered Runs whose callers did not get the error.
        owned: id and token of the latest tasks of this client.
        sent: parameters and image of the latest Runs of this client.
        echoes: which fields the service was seen to echo, and whether verbatim.
        high_id: the highest task id seen; None before the task list was read.
        runs: the batches that the client carries.
    """

    def __init__(self, dependencies: Dependencies, max_concurrency: int) -> None:
        self.dependencies = dependencies
        self.tracker: Tracker = Tracker(dependencies.api, draw=dependencies.draw, patience=lambda: PATIENCE_SECONDS)
        self.admission: Admission = Admission(Window(min(AUTO_START, max_concurrency), max_concurrency))
        self.in_flight: InFlight = InFlight()
        self.unclaimed: list[Task] = []
        self.unanswered: list[errors.Ambiguous] = []
        self.owned: OrderedDict[tuple[str | None, str | None], None] = OrderedDict()
        self.sent: OrderedDict[tuple[tuple[str, str], ...], str] = OrderedDict()
        self.echoes: dict[str, bool] = {}
        self.high_id: int | None = None
        self.runs: set[Run] = set()
        self.closed: bool = False
        self._loop: anyio.lowlevel.EventLoopToken | None = None
        self._driver = Driver(self._serve)
        self._calls: set[Call] = set()
        self._followed, self._anyone = 0, anyio.Event()
        self._active: dict[str, _Active] = {}
        self._listeners: dict[str, list[Callable[[Hint], None]]] = {}
        self._socket = (
            WebSocket(
                dependencies.socket_url,
                hint=self.hint,
                connected=self.tracker.connected,
                draw=dependencies.draw,
                patient=True,
            )
            if dependencies.socket_url is not None
            else None
        )

    async def call(
        self, work: Callable[[Call], Awaitable[T]], *, task: Task | None = None, timeout: float | None = None
    ) -> T:
        """Make a call: what `work` returns or raises.

        Args:
            work: what the call does.
            task: the task that it is about, if it has one already.
            timeout: how long it may take, in seconds.

        Raises:
            errors.Closed: the client is, or was meanwhile, closed.
            errors.TimedOut: the time is up.
            errors.Ambiguous: the same, while a Run was not answered.
            RuntimeError: an earlier call was made in another event loop, to which the connections belong.
        """
        loop = anyio.lowlevel.current_token()
        if self._loop not in (None, loop):
            raise RuntimeError("the client was used in another event loop: make a client in each; nothing was done")
        self._loop = loop
        deadline = math.inf if timeout is None else anyio.current_time() + timeout
        call = Call(anyio.CancelScope(deadline=deadline), task)
        self._calls.add(call)
        try:
            self.check_open()
            with call.scope:
                return await self._driver.during(partial(work, call))
            if call.unanswered is not None:
                raise call.unanswered
            self.check_open()
            raise errors.TimedOut(f"the call has not ended in {timeout:g} s")
        except errors.WanError as error:
            self._complete(error, call)
            if isinstance(error, errors.TimedOut):
                self._leave_behind(call, error)
            raise
        except BaseException as error:
            self._leave_behind(call, error)
            raise
        finally:
            self._calls.discard(call)

    def check_open(self, task: Task | None = None) -> None:
        """Raise `errors.Closed`, with the task, if the client is closed."""
        if self.closed:
            closed = errors.Closed("the client is closed", task_id=None if task is None else task.id)
            closed.task = task
            raise closed

    def _complete(self, error: errors.WanError, call: Call) -> None:
        """Errors about a task carry it."""
        if call.task is not None and error.task is None:
            error.task, error.task_id = call.task, error.task_id or call.task.id

    def _leave_behind(self, call: Call, error: BaseException) -> None:
        if call.unanswered is not None:
            self.unanswered.append(call.unanswered)
            log.warning(
                "a call ended (%s) while its Run was unanswered: a task may exist, see client.unanswered",
                type(error).__name__,
            )
        elif call.submitted and call.task is not None:
            self.unclaimed.append(call.task)
            log.warning(
                "task %s goes on although its call ended (%s): see client.unclaimed",
                call.task.id,
                type(error).__name__,
            )

    def started(self, call: Call, task: Task, slot: Slot, form: Mapping[str, str]) -> None:
        """A Run of this client was accepted."""
        call.task, call.submitted, call.unanswered = task, True, None
        slot.accepted()
        self.own(task)
        active = _Active(task, slot, form)
        self._active.update(dict.fromkeys(_names(task), active))
        log.info("task %s: submitted", task.id)

    def own(self, task: Task) -> None:
        """Remember a task as one of this client's."""
        _remember(self.owned, (task.id, task.token), None)
        self.note_id(task.id)

    def note_listing(self, newest: Iterable[TaskDetail]) -> None:
        """The newest page of the task list."""
        self.high_id = self.high_id or 0
        for task in newest:
            self.note_id(task.id)

    def note_id(self, task_id: str | None) -> None:
        """A task with this id exists."""
        if self.high_id is not None and task_id and (number := task_number(task_id)) < NO_NUMBER:
            self.high_id = max(self.high_id, number)

    def note_sent(self, form: Mapping[str, str], image: str) -> None:
        """A Run with these parameters is about to leave."""
        _remember(self.sent, tuple(form.items()), image)

    def claim(self, task: Task) -> None:
        """The caller has the task, or its clip."""
        self.unclaimed = [other for other in self.unclaimed if not (set(_names(other)) & set(_names(task)))]

    @contextmanager
    def following(
        self,
        task: Task,
        *,
        seen: Callable[[TaskDetail], None] = lambda detail: None,
        heard: Callable[[Hint], None] | None = None,
    ) -> Iterator[WaitingTask]:
        """Track a task within this block, with its slot; `seen` and `heard` get what polls and notifications show."""
        names = _names(task)
        active = next((self._active[name] for name in names if name in self._active), None)
        if active is None:
            active = _Active(task, self.admission.adopt())
            self._active.update(dict.fromkeys(names, active))
        self._followed += 1
        self._anyone.set()
        for name in names if heard is not None else ():
            self._listeners.setdefault(name, []).append(heard)  # type: ignore[arg-type] # checked above
        if self._socket is not None and task.token:
            self._socket.subscribe(TaskToken(task.token))
        age = None if task.submitted_at is None else max(0.0, self.dependencies.clock() - task.submitted_at)
        try:
            with self.tracker.registered(
                *names_of(task),
                since=None if age is None else anyio.current_time() - age,
                seen=seen,
                doubtful=lambda reason: _doubt(active, reason),
                patience_seconds=UNKNOWN_PATIENCE_SECONDS if age is None else None,
            ) as waiting:
                active.waiting.add(waiting)
                try:
                    yield waiting
                finally:
                    active.waiting.discard(waiting)
                    self._note_end(active, waiting)
        finally:
            self._followed -= 1
            if not self._followed:
                self._anyone = anyio.Event()
            if self._socket is not None and task.token:
                self._socket.unsubscribe(TaskToken(task.token))
            for name in names if heard is not None else ():
                self._listeners[name].remove(heard)  # type: ignore[arg-type] # checked above
                if not self._listeners[name]:
                    del self._listeners[name]

    def _note_end(self, active: _Active, waiting: WaitingTask) -> None:
        if waiting.task is None and waiting.error is None and active.form:
            return  # it runs, and is one of ours
        active.slot.release()
        for name in _names(active.task):
            if self._active.get(name) is active:
                del self._active[name]
        if waiting.task is not None and not active.ended:
            active.ended = True
            log.info("task %s: ended as %s", active.task.id, waiting.task.status)
            self.note_id(waiting.task.id)
            seen = matching.verbatim(self.dependencies.api.model, active.form, waiting.task)
            self.echoes.update({name: same and self.echoes.get(name, True) for name, same in seen.items()})

    async def wait_ended(self, task: Task) -> TaskDetail:
        """Wait until a task has ended.

        Raises:
            errors.Missing: the service denies it.
        """
        with self.following(task) as waiting:
            await waiting.done.wait()
        return waiting.result()

    def hint(self, hint: Hint) -> None:
        """Something may have happened to a task: it is asked for now, and those who listen hear of it."""
        self.tracker.hint(hint)
        for run in self.runs:
            run.hint(hint)
        for name in (hint.task_id, hint.token):
            for heard in list(self._listeners.get(name or "", ())):
                heard(hint)

    async def _serve(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self.tracker.serve)
            if self._socket is not None:
                group.start_soon(self._listen, self._socket)
            while True:
                await self.admission.queued.wait()
                for active in set(self._active.values()):
                    ended = next((waiting for waiting in active.waiting if waiting.done.is_set()), None)
                    if ended is not None:  # one who tracks it has not read the end yet
                        self._note_end(active, ended)
                    elif not active.waiting:
                        group.start_soon(self._watch, active.task)
                await anyio.sleep(UNATTENDED_SECONDS)

    async def _listen(self, socket: WebSocket) -> None:
        """Connects when a task is followed: many calls need no socket."""
        await self._anyone.wait()
        await socket.serve()

    async def _watch(self, task: Task) -> None:
        """Waits for a task that no call waits for, since a call waits for its slot."""
        try:
            await self.wait_ended(task)
        except errors.WanError as error:
            log.info("task %s: %s", task.id, error.message)

    async def runs_answered(self) -> None:
        """Wait until no Run that is in flight now is in flight any more."""
        for call in list(self._calls):
            if call.answered is not None:
                await call.answered.wait()

    async def aclose(self) -> None:
        """End every call with `errors.Closed`; Runs in flight get three seconds. Closing again does nothing."""
        if self.closed:
            return
        self.closed = True
        self.in_flight.leave()
        for call in self._calls:
            call.scope.cancel()
        for run in self.runs:
            run.leave()
        raised: list[Exception] = []

        async def close_all() -> None:
            with anyio.CancelScope(shield=True):
                await self.runs_answered()
                for run in list(self.runs):
                    await run.ended.wait()
                close_socket = [self._socket.aclose] if self._socket is not None else []
                for close in (*close_socket, self.dependencies.downloader.aclose, self.dependencies.api.aclose):
                    try:
                        await close()
                    except Exception as error:  # noqa: BLE001 - raised below, outside of an exception group
                        raised.append(error)

        async with anyio.create_task_group() as group:  # asyncio's own cancellation would pass a shield in this task
            group.start_soon(close_all)
        if raised:
            raise raised[0]


def names_of(task: Task) -> tuple[TaskId | None, TaskToken | None]:
    """Id and token of a task, as the API takes them."""
    return TaskId(task.id) if task.id else None, TaskToken(task.token) if task.token else None


def _names(task: Task) -> list[str]:
    return [name for name in names_of(task) if name]


def _doubt(active: _Active, reason: str) -> None:
    log.warning("task %s: %s; it is still tracked, and its slot goes to another call", active.task.id, reason)
    active.slot.release()


K = TypeVar("K")
V = TypeVar("V")


def _remember(memory: OrderedDict[K, V], key: K, value: V) -> None:
    memory[key] = value
    if len(memory) > REMEMBERED_TASKS:
        memory.popitem(last=False)
