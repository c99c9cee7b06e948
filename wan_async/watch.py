"""One poll loop for all tasks, moved along by hints: "this task ended".

`wait_ended` registers a task and waits; `serve` asks Task/Detail for whichever is due, at most as many at once as are
needed to be punctual. A hint (socket, webhook, task list) only moves a poll to now: the truth is always Task/Detail.

Without a socket that can be relied upon, a crowd of tasks is looked through in pages of the task list, a hundred tasks
a request, and what is over there is asked for. A task that the pages don't show is polled as if there were none.

What may happen: an answer may be late, missing, or of a task that "is not there yet"; such a task is asked again, and
believed gone only after `GONE_SECONDS` of nothing but that. `task_error` is believed when two answers in a row say so.
A hint may come while its task is being asked, or before Task/Detail knows what it says: the task is asked again, soon.
A waiter may be cancelled at any time, also while its task is being asked; the task is then not asked any more.
A fault is a stray one while other tasks are answered: its task is asked again soon. Only where nobody is answered, or
one task never is, do the pauses grow.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from wan_async import errors, pacing, wire

GONE_SECONDS = 60.0
"""How long the service must deny a task, and answer nothing else, before it is believed to be gone."""
HINTED_AGAIN_SECONDS = 0.25
"""When a task is asked again that is over after a hint, and not after Task/Detail; then ever more rarely."""
MAX_REQUESTS = 64
FEW_TASKS = 200
POLLS_PER_SECOND = 100.0
"""Above few tasks no more polls are planned than these: some 300 a second take a core, and the service's patience."""
CROWD = 16
"""From so many tasks on, looking through the list takes fewer requests than polls."""
LIST_SECONDS, LIST_CAP_SECONDS = 0.25, 2.0
"""Between two looks passes a twentieth of the time that half the tasks take, within these."""
PAGE_SECONDS = 0.2
"""It is at least so much for each page."""
FEW_LISTED = 8
"""When fewer tasks are left, the pauses grow accordingly."""
PAGE_PATIENCE_SECONDS = 10.0
"""A page that takes longer counts as failed."""
LIST_FAILURES = 2
"""After so many looks in a row that failed, or showed none of the tasks, all are polled until one succeeds."""
MISSED_ENDS = 2
"""So many ends in a row that a teller did not tell of, and it isn't relied upon."""
OUTAGE_FAILURES = 3
"""So many faults in a row are no stray ones."""
FEW_DURATIONS = 4
STRAYS = 4
"""So many faults in a row of one task, while others are answered, count as one more of a row in which nobody was."""
PROBES = 8
"""Before a teller has told of an end, or missed some, one task in so many is polled as if there were none."""
MAX_PROBES = 32
"""No more of them than these: in a crowd a few tell as well."""


class Asks(Protocol):
    """What of the API is needed here."""

    def detail(
        self, task_id: wire.TaskId | None = None, token: wire.TaskToken | None = None, *, tries: int = 5
    ) -> Awaitable[wire.Task]:
        """Task/Detail."""
        ...

    def list_tasks(self, start: int = 0, limit: int = wire.LIST_PAGE, *, tries: int = 5) -> Awaitable[wire.Answer]:
        """Task/List, the newest first."""
        ...


@dataclass(slots=True)
class _Teller:
    """What tells of ends. It is on trial until the first of them, then relied upon until it misses some in a row."""

    there: bool = False
    relied: bool = False
    missed: int = 0

    @property
    def on_trial(self) -> bool:
        return self.there and not self.relied and self.missed < MISSED_ENDS

    def tells(self, *, probe: bool) -> bool:
        return self.relied or (self.on_trial and not probe)


@dataclass(slots=True, eq=False)
class _Watched:
    task_id: wire.TaskId | None
    token: wire.TaskToken | None
    since: float
    seen: Callable[[wire.Task], None]
    done: anyio.Event = field(default_factory=anyio.Event)
    task: wire.Task | None = None
    error: errors.WanError | None = None
    ran_at: float | None = None
    asked_at: float | None = None
    asking: bool = False
    hinted_at: float | None = None
    hinted: bool = False
    listed: bool = False
    unlisted: bool = False
    status: str = ""
    probe: bool = False
    failures: int = 0
    failed: bool = False
    missing_since: float | None = None
    errored: bool = False

    @property
    def names(self) -> list[str]:
        return [name for name in (self.task_id, self.token) if name]


class Watch:
    """Watches any number of tasks.

    Args:
        api: asks Task/Detail and Task/List.
        draw: numbers in [0, 1) for jitter.

    Attributes:
        durations: what was learned about how long tasks take.
        on_outage: told of a fault that is no stray one, and after how many seconds the task is asked again.
    """

    def __init__(self, api: Asks, *, draw: Callable[[], float] = random.random) -> None:
        self._api = api
        self._draw = draw
        self._heap: pacing.PollHeap[_Watched] = pacing.PollHeap()
        self._by_id: dict[str, _Watched] = {}
        self._wake = anyio.Event()
        self._backoff = pacing.Backoff()
        self._faults = 0
        self._places = anyio.CapacityLimiter(MAX_REQUESTS)
        self.durations = pacing.Durations()
        self._socket, self._list = _Teller(), _Teller()
        self._list_at = math.inf
        self._listing = False
        self._list_failures = 0
        self._deepest = 0
        self._over_before: dict[str, float] = {}
        self._waiting = 0
        self._count = 0
        self._probes = 0
        self.on_outage: Callable[[errors.WanError, float], None] = lambda error, seconds: None

    @property
    def socket_healthy(self) -> bool:
        """Set by whoever listens: polls are then only a safeguard. Once it is not, all are due as without a socket."""
        return self._socket.relied

    @socket_healthy.setter
    def socket_healthy(self, healthy: bool) -> None:
        was, self._socket.relied = self._socket.relied, healthy
        if was and not healthy:
            self._poll_all(self._socket)
        self._list_if_wanted()

    def _poll_all(self, teller: _Teller) -> None:
        for watched in dict.fromkeys(self._by_id.values()):
            self._poll_sooner(watched, teller)
        self._wake.set()

    def _poll_sooner(self, watched: _Watched, teller: _Teller) -> None:
        """Plans its polls without this teller. A socket may be back soon; what a list did not show is overdue."""
        if not watched.asking:  # sooner, never later: one that comes and goes would put it off for ever
            self._heap.advance(watched, self._next_poll(watched, watched.asked_at if teller is self._list else None))

    async def wait_ended(
        self,
        task_id: wire.TaskId | None,
        token: wire.TaskToken | None,
        *,
        since: float,
        seen: Callable[[wire.Task], None] = lambda task: None,
    ) -> wire.Task:
        """The task, once it has reached a terminal status.

        Args:
            task_id: its id, if that is known.
            token: its token, if that is known.
            since: when its Run was answered, on `anyio.current_time`'s clock.
            seen: called with every answer before the last.

        Raises:
            errors.Lost: the service does not know it any more.
            errors.StopBatch: the service refuses the credentials.
        """
        probe = self._count % PROBES == 0 and self._probes < MAX_PROBES
        watched = _Watched(task_id, token, since, seen, probe=probe)
        self._count += 1
        self._probes += probe
        self._waiting += 1
        self._by_id.update(dict.fromkeys(watched.names, watched))
        now = anyio.current_time()
        if now - since >= pacing.FIRST_POLL_SECONDS:
            self._put(watched, now)  # an earlier process left it: it may have ended long ago
        else:
            watched.ran_at = watched.asked_at = since
            self._put(watched, self._next_poll(watched))
        self._list_if_wanted()
        try:
            await watched.done.wait()
        finally:
            watched.done.set()
            self._probes -= probe
            self._waiting -= 1
            self._heap.drop(watched)
            for name in watched.names:
                if self._by_id.get(name) is watched:
                    del self._by_id[name]
            if not self._waiting:
                self._list_if_wanted()
        if watched.error is not None:
            raise watched.error
        assert watched.task is not None
        return watched.task

    def connected(self, connected: bool) -> None:
        """A socket is there, or gone. It is on trial until the first end that it tells of; then it is relied upon."""
        on_trial = self._socket.on_trial
        self._socket.there, self._socket.missed = connected, 0
        if not connected:
            self.socket_healthy = False
        if on_trial and not connected:
            self._poll_all(self._socket)
        self._list_if_wanted()

    def hint(self, hint: wire.Hint) -> None:
        """Somebody says that something happened to a task: if it is over, ask now, or soon if it was asked just now."""
        watched = self._by_id.get(hint.token or "") or self._by_id.get(hint.task_id or "")
        if watched is not None and hint.over:
            watched.hinted = True
            self._over(watched)

    def _over(self, watched: _Watched) -> None:
        now = watched.hinted_at = anyio.current_time()
        if not watched.asking:
            self._put(watched, now if watched.ran_at is None else max(now, watched.ran_at + HINTED_AGAIN_SECONDS))

    def _put(self, watched: _Watched, at: float) -> None:
        self._heap.put(watched, at)
        self._wake.set()

    def _next_poll(self, watched: _Watched, asked_at: float | None = None) -> float:
        now = anyio.current_time()
        age = max(0.0, (now if asked_at is None else asked_at) - watched.since)
        socket, listed = self._socket.tells(probe=watched.probe), self._is_listed(watched)
        if listed and not socket and not watched.probe:
            return watched.since + age + pacing.UNASKED_SECONDS
        at = watched.since + pacing.next_poll(age, self.durations, socket_healthy=socket or listed)
        return max(at, now + (len(self._heap) - FEW_TASKS) / POLLS_PER_SECOND)

    def _is_listed(self, watched: _Watched) -> bool:
        return not watched.unlisted and self._list.tells(probe=watched.probe)

    async def serve(self) -> None:
        """Asks for whatever is due, until it is cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                due = self._heap.next_at()
                now = anyio.current_time()
                if self._list_at <= now:
                    self._list_at, self._listing = math.inf, True
                    group.start_soon(self._look_through)
                watched = self._heap.pop_due(now)
                if watched is None:
                    self._wake = anyio.Event()
                    with anyio.move_on_after(min(self._list_at, math.inf if due is None else due) - now):
                        await self._wake.wait()
                    continue
                if (later := self._safeguard_at(watched)) > now:
                    self._heap.put(watched, later)
                    continue
                watched.asking, watched.asked_at = True, now
                await self._places.acquire_on_behalf_of(watched)
                group.start_soon(self._ask, watched)

    def _safeguard_at(self, watched: _Watched) -> float:
        """When a safeguard is due by what was learned since it was planned: by then tasks may have taken longer."""
        asked_at = watched.asked_at
        if asked_at is None or watched.failures or watched.missing_since is not None or watched.hinted_at is not None:
            return 0.0
        listed = self._is_listed(watched)
        if listed and not self._socket.relied and not watched.probe:  # it was seen running
            return asked_at + pacing.UNASKED_SECONDS
        if asked_at > watched.since or not (listed or self._socket.relied):
            return 0.0
        return watched.since + pacing.next_poll(0.0, self.durations, socket_healthy=True)

    def _list_if_wanted(self) -> bool:
        """Lists tasks as long as there is a crowd of them, and no socket that tells of them or may turn out to."""
        there = self._list.there
        crowd = self._waiting >= (1 if there else CROWD)
        wanted = crowd and not self._socket.relied and not self._socket.on_trial
        if wanted and not self._listing and self._list_at == math.inf:
            self._list.there = True
            self._list_at = anyio.current_time() + self._list_pause(self._waiting)
            self._wake.set()
        elif there and not wanted:
            self._stop_listing()
        return wanted

    def _stop_listing(self) -> None:
        there, self._list, self._list_at = self._list.there, _Teller(), math.inf
        self._over_before.clear()
        if there:
            self._poll_all(self._list)

    def _list_pause(self, tasks: int) -> float:
        known = self.durations.quantile(0.5) if len(self.durations) >= FEW_DURATIONS else None
        pause = LIST_SECONDS * 2 if known is None else known / 20
        pause = max(LIST_SECONDS, min(LIST_CAP_SECONDS, pause)) * max(1.0, FEW_LISTED / max(1, self._waiting))
        return max(pause, PAGE_SECONDS * tasks / wire.LIST_PAGE)

    async def _look_through(self) -> None:
        """Looks through the list once, and plans the next time."""
        asked: float | None = None
        try:
            listed = await self._list_all()
        except (errors.WanError, TimeoutError) as error:
            listed, asked = 0, getattr(error, "after_seconds", None)
        finally:
            self._listing = False
        if listed:
            self._list_failures, self._list.there = 0, True
            pause = self._list_pause(listed)
        else:
            self._list_failures += 1
            pause = self._backoff.delay(self._list_failures, self._draw(), asked)
            if self._list_failures >= LIST_FAILURES:
                self._stop_listing()
        self._list_at = anyio.current_time() + pause
        if not self._list_if_wanted():
            self._list_at = math.inf
        self._wake.set()

    async def _list_all(self) -> int:
        """Lists tasks as far as there may be some that are waited for; how many, or 0 if none of these is there."""
        began = anyio.current_time()
        sought = {watched: None for watched in self._by_id.values() if not watched.unlisted}
        enough = 2 * max(self._waiting, self._deepest) + wire.LIST_PAGE
        listed, deepest, page = 0, 0, [wire.Task()]
        while page and (sought or not listed) and listed < enough:
            asked_at = anyio.current_time()
            with anyio.fail_after(PAGE_PATIENCE_SECONDS):
                page = (await self._api.list_tasks(listed, tries=2)).tasklist
            listed += len(page)
            for task in page:
                names = (task.id, task.socketaccesstoken)
                if any(self._over_before.pop(name, math.inf) < asked_at for name in names):
                    self._rely(self._list, told=wire.ending(task) is not None)
                watched = self._by_id.get(names[0]) or self._by_id.get(names[1])
                if watched is not None:
                    deepest = listed
                    sought.pop(watched, None)
                    self._listed(watched, task, asked_at)
        self._deepest = deepest
        if not deepest:
            return 0
        self._over_before = {name: at for name, at in self._over_before.items() if at >= began}
        for watched in sought:
            watched.unlisted = True
            self._poll_sooner(watched, self._list)
        return listed

    def _listed(self, watched: _Watched, task: wire.Task, asked_at: float) -> None:
        watched.unlisted = False
        if wire.ending(task) is not None:
            if not watched.listed:
                watched.listed = True
                self._over(watched)
        elif not watched.asking:
            watched.ran_at = asked_at
            if task.status != watched.status:
                watched.status = task.status
                watched.seen(task)

    async def _ask(self, watched: _Watched) -> None:
        asked_at = anyio.current_time()
        try:
            if watched.done.is_set():  # its waiter left while it waited for a place
                return
            task = await self._api.detail(watched.task_id, watched.token, tries=1)
        except errors.StopBatch as error:
            for other in dict.fromkeys([watched, *self._by_id.values()]):  # each would only hear the same
                self._finish(other, error=error)
        except errors.WanError as error:
            if isinstance(error, errors.NotFound) and not isinstance(error, errors.NoSuchAddress):
                self._missing(watched, error)
                return
            watched.failures += 1
            watched.failed = True
            self._faults += 1
            watched.missing_since = None
            asked = error.after_seconds if isinstance(error, errors.TryLater) else None
            in_a_row = min(watched.failures, self._faults + watched.failures // STRAYS)
            wait = self._backoff.delay(in_a_row, self._draw(), asked)
            if in_a_row >= OUTAGE_FAILURES:
                self.on_outage(error, wait)
            self._again(watched, wait)
        else:
            watched.failures, self._faults, watched.missing_since = 0, 0, None
            self._seen(watched, task, asked_at)
        finally:
            watched.asking = False
            self._places.release_on_behalf_of(watched)

    def _seen(self, watched: _Watched, task: wire.Task, asked_at: float) -> None:
        end = wire.ending(task)
        if end is wire.Ending.ERRORED and not watched.errored:
            watched.errored = True
            self._again(watched, 1.0)
            return
        if end is None:
            watched.errored = False
            watched.ran_at, watched.failed, watched.status = asked_at, False, task.status
            watched.seen(task)
            now = anyio.current_time()
            at = self._next_poll(watched)
            if watched.hinted_at is not None:
                soon = max(HINTED_AGAIN_SECONDS, now - watched.hinted_at)
                at = min(at, now if watched.hinted_at > asked_at else now + soon)
            self._again(watched, at - now)
            return
        if end is wire.Ending.SUCCEEDED and watched.ran_at is not None:
            self._learn(watched, watched.ran_at, asked_at)
        self._rely(self._socket, told=watched.hinted)
        if watched.listed:
            self._rely(self._list, told=True)
        elif self._list.there:
            self._over_before.update(dict.fromkeys(watched.names, anyio.current_time()))
        self._list_if_wanted()
        self._finish(watched, task=task)

    def _learn(self, watched: _Watched, ran_at: float, asked_at: float) -> None:
        """Notes how long the task took, unless its end was overlooked: it may have been over for long."""
        told = watched.hinted_at is not None and watched.hinted_at > ran_at
        overlooked = not told and (self._socket.relied or self._list.relied or watched.failed)
        if not overlooked or len(self.durations) < FEW_DURATIONS:
            seen_at = min(asked_at, watched.hinted_at or asked_at) if told else asked_at
            self.durations.note(max(0.0, ran_at - watched.since), max(0.0, seen_at - watched.since))

    def _rely(self, teller: _Teller, *, told: bool) -> None:
        """A teller that told of an end is relied upon; one that missed two in a row isn't, until it tells again."""
        if not teller.there:
            return
        told_before = teller.on_trial or teller.relied
        teller.missed = 0 if told else teller.missed + 1
        if teller.missed in (0, MISSED_ENDS):
            teller.relied = told
            if told_before and not told:
                self._poll_all(teller)

    def _missing(self, watched: _Watched, error: errors.NotFound) -> None:
        now = anyio.current_time()
        if watched.missing_since is None:
            watched.missing_since = now
        if now - watched.missing_since >= GONE_SECONDS:
            said = f"the service does not know this task any more ({error.message})"
            self._finish(watched, error=errors.Lost(said, kind="lost", task_id=watched.task_id))
        else:
            self._again(watched, min(10.0, 1.0 + (now - watched.missing_since) / 2))

    def _again(self, watched: _Watched, seconds: float) -> None:
        if not watched.done.is_set():
            self._put(watched, anyio.current_time() + max(0.0, seconds))

    def _finish(
        self, watched: _Watched, *, task: wire.Task | None = None, error: errors.WanError | None = None
    ) -> None:
        if watched.done.is_set():
            return
        watched.task, watched.error = task, error
        self._heap.drop(watched)
        watched.done.set()
