"""One poll loop for all tasks, moved along by hints: "this task ended".

`wait_ended` registers a task and waits; `serve` asks Task/Detail for whichever is due, at most as many at once as are
needed to be punctual. A hint (socket, webhook, task list) only moves a poll to now: the truth is always Task/Detail.

Without a socket, a crowd of tasks is looked through in pages of the task list, a hundred tasks a request. What is over
there is asked for; what was shown running is asked later than planned, for as long as that is fresh. So a list that
fails, hangs, lies or lacks some of the tasks costs latency: polls go on as planned.

What may happen: an answer may be late, missing, or of a task that "is not there yet"; such a task is asked for again,
and after `patience` seconds of nothing but denials it is left as missing, for a later run. Its waiter hears before that
it is doubtful, so that it can lend its slot. A task in `task_error` awaits recovery: it is tracked like any that runs.
A hint may come while its task is being asked, or before Task/Detail knows what it says: the task is asked again, soon.
A waiter may be cancelled at any time, also while its task is being asked; the task is then not asked any more.
A fault is a stray one while other tasks are answered: its task is asked again soon. Only where nobody is answered, or
one task never is, do the pauses grow.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from wan_async import errors
from wan_async.domain.task import TASK_ERROR, Ending, Task, TaskId, TaskToken, ending
from wan_async.engine import polling
from wan_async.http import retry
from wan_async.wiro import messages, protocol, schemas

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 600.0
"""How long the service must deny a task, and answer nothing else, before a run leaves it as missing."""
DOUBTFUL_SECONDS = 60.0
"""After so much of that a task is doubtful."""
STUCK_SECONDS = 3600.0
"""So is one that has shown nothing but `task_error` for so long."""
DENIED_AGAIN_CAP_SECONDS = 15.0
UNEXPECTED_FAULTS = 20
"""After this number of unexpected exceptions in a row about one task its waiter gets the last of them."""
HINTED_AGAIN_SECONDS = 0.25
"""When a task is asked again that is over after a hint, and not after Task/Detail; then ever more rarely."""
MAX_REQUESTS = 64
FEW_TASKS = 200
POLLS_PER_SECOND = 100.0
"""Above few tasks no more polls are planned than these: some 300 a second take a core, and the service's patience."""
CROWD, SMALL_CROWD = 16, 8
"""From so many tasks on, looking through the list takes fewer requests than polls; below the other, it does not."""
LOOK_SECONDS, LOOK_CAP_SECONDS = 0.25, 2.0
"""Between two looks passes a twentieth of the time that half the tasks take, within these."""
PAGE_SECONDS = 0.2
"""It is at least so much for each page."""
PAGE_PATIENCE_SECONDS = 10.0
"""A page that takes longer counts as failed."""
FRESH_CAP_SECONDS = 15.0
"""What a look showed is fresh during the next two and a little more, but no longer than this, or twice this."""
LISTED_POLL_SECONDS, LISTED_POLLS_PER_SECOND = 60.0, 20.0
"""Whatever the list shows, a task is asked about so often, or so many of a huge crowd are."""
DEEP = 4
"""The list is looked through no further than to so many times as many tasks as are waited for."""
UNSHOWN_LOOKS, UNSHOWN_EVERY = 2, 8
"""A task that so many looks did not show is looked for in as many of every eight only."""
AHEAD_SECONDS = 5.0
"""A list that calls a task over may be so far ahead of Task/Detail; one that is further ahead lied."""
LIES_SECONDS, LIES_CAP_SECONDS = 15.0, 240.0
"""For so long a list that lied isn't looked at, and twice as long each time, until it tells of an end."""
MISSED_ENDS = 2
"""So many ends in a row that the socket did not tell of, and it isn't relied upon."""
OUTAGE_FAILURES = 3
"""So many faults in a row are no stray ones."""
FEW_DURATIONS = 4
STRAYS = 4
"""So many faults in a row of one task, while others are answered, count as one more of a row in which nobody was."""
PROBES = 8
"""One task in so many is polled as if there were no list, nor a socket that has not told of an end yet."""
MAX_PROBES = 32
"""No more of them than these: in a crowd a few tell as well."""


class Asks(Protocol):
    """What of the API is needed here."""

    def detail(
        self, task_id: TaskId | None = None, token: TaskToken | None = None, *, tries: int = 5
    ) -> Awaitable[Task]:
        """Task/Detail."""
        ...

    def list_tasks(
        self, start: int = 0, limit: int = protocol.LIST_PAGE, *, tries: int = 5
    ) -> Awaitable[schemas.Answer]:
        """Task/List, the newest first."""
        ...


@dataclass(slots=True, eq=False)
class _Tracked:
    task_id: TaskId | None
    token: TaskToken | None
    since: float
    seen: Callable[[Task], None]
    doubtful: Callable[[str], None]
    done: anyio.Event = field(default_factory=anyio.Event)
    task: Task | None = None
    error: Exception | None = None
    ran_at: float | None = None
    asked_at: float | None = None
    asking: bool = False
    hinted_at: float | None = None
    hinted: bool = False
    probe: bool = False
    failures: int = 0
    failed: bool = False
    denials: retry.Denials = field(default_factory=retry.Denials)
    errored_since: float | None = None
    is_doubtful: bool = False
    unexpected: int = 0
    status: str = ""
    shown_at: float | None = None
    shown_over: bool = False
    unshown: int = 0
    phase: float = 0.0

    @property
    def names(self) -> list[str]:
        return [name for name in (self.task_id, self.token) if name]


class Tracker:
    """Watches any number of tasks.

    Args:
        api: asks Task/Detail and Task/List.
        draw: numbers in [0, 1) for jitter.
        on_outage: called with a fault that is no stray one, and the seconds until the task is asked again.
        patience: for how many seconds of nothing but denials a task is asked for.

    Attributes:
        durations: what was learned about how long tasks take.
    """

    def __init__(
        self,
        api: Asks,
        *,
        draw: Callable[[], float] = random.random,
        on_outage: Callable[[errors.WanError, float], None] = lambda error, seconds: None,
        patience: Callable[[], float] = lambda: PATIENCE_SECONDS,
    ) -> None:
        self._api = api
        self._draw = draw
        self._heap: polling.PollHeap[_Tracked] = polling.PollHeap()
        self._by_id: dict[str, _Tracked] = {}
        self._wake = anyio.Event()
        self._backoff = retry.Backoff()
        self._faults = 0
        self._places = anyio.CapacityLimiter(MAX_REQUESTS)
        self.durations = polling.Durations()
        self._connected = False
        self._socket_healthy = False
        self._unhinted = 0
        self._count = 0
        self._probes = 0
        self._waiting = 0
        self._crowded = False
        self._looking = False
        self._look_at = 0.0
        self._look_seconds = 0.0
        self._look_failures = 0
        self._shown_since = 0.0
        self._over_before: dict[str, float] = {}
        self._missed = 0
        self._lies = 0
        self._on_outage = on_outage
        self._patience = patience

    @property
    def socket_healthy(self) -> bool:
        """Set by whoever listens: polls are then only a safeguard. Once it is not, all are due as without a socket."""
        return self._socket_healthy

    @socket_healthy.setter
    def socket_healthy(self, healthy: bool) -> None:
        was, self._socket_healthy = self._socket_healthy, healthy
        if was and not healthy:
            self._poll_all()

    def _poll_all(self) -> None:
        for ahead, watched in enumerate(dict.fromkeys(self._by_id.values())):
            if not watched.asking:  # sooner, never later: a socket that comes and goes would put it off for ever
                self._heap.advance(watched, self._next_poll(watched, ahead))
        self._wake.set()

    @property
    def _on_trial(self) -> bool:
        return self._connected and not self._socket_healthy and self._unhinted < MISSED_ENDS

    async def wait_ended(
        self,
        task_id: TaskId | None,
        token: TaskToken | None,
        *,
        since: float,
        seen: Callable[[Task], None] = lambda task: None,
        doubtful: Callable[[str], None] = lambda reason: None,
    ) -> Task:
        """The task, once it has reached a terminal status.

        Args:
            task_id: its id, if that is known.
            token: its token, if that is known.
            since: when its Run was answered, on `anyio.current_time`'s clock.
            seen: called with every answer before the last.
            doubtful: called once with the reason if the task is denied, or shows nothing but `task_error`, for long.

        Raises:
            errors.Missing: the service has denied it for as long as `patience` says.
            errors.StopBatch: the service refuses the credentials.
        """
        probe = self._count % PROBES == 0 and self._probes < MAX_PROBES
        watched = _Tracked(task_id, token, since, seen, doubtful, probe=probe, phase=self._draw())
        self._count += 1
        self._probes += probe
        self._waiting += 1
        self._by_id.update(dict.fromkeys(watched.names, watched))
        now = anyio.current_time()
        if now - since >= polling.FIRST_POLL_SECONDS:
            self._put(watched, now)  # an earlier process left it: it may have ended long ago
        else:
            watched.ran_at = watched.asked_at = since
            self._put(watched, self._next_poll(watched))
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
        if watched.error is not None:
            raise watched.error
        assert watched.task is not None
        return watched.task

    def connected(self, connected: bool) -> None:
        """A socket is there, or gone. It is on trial until the first end that it tells of; then it is relied upon."""
        on_trial = self._on_trial
        self._connected, self._unhinted = connected, 0
        if not connected:
            self.socket_healthy = False
        if on_trial and not connected:
            self._poll_all()
        self._wake.set()

    def hint(self, hint: messages.Hint) -> None:
        """Somebody says that something happened to a task: if it is over, ask now, or soon if it was asked just now."""
        watched = self._by_id.get(hint.token or "") or self._by_id.get(hint.task_id or "")
        if watched is not None and hint.over:
            watched.hinted = True
            self._over(watched)

    def _over(self, watched: _Tracked) -> None:
        now = watched.hinted_at = anyio.current_time()
        if not watched.asking:
            self._put(watched, now if watched.ran_at is None else max(now, watched.ran_at + HINTED_AGAIN_SECONDS))

    def _put(self, watched: _Tracked, at: float) -> None:
        self._heap.put(watched, at)
        self._wake.set()

    def _next_poll(self, watched: _Tracked, ahead: int | None = None) -> float:
        age = max(0.0, anyio.current_time() - watched.since)
        heard = self._socket_healthy or (self._on_trial and not watched.probe)
        at = polling.next_poll(age, self.durations, socket_healthy=heard)
        ahead = len(self._heap) if ahead is None else ahead
        return watched.since + max(at, age + (ahead - FEW_TASKS) / POLLS_PER_SECOND)

    async def serve(self) -> None:
        """Asks for whatever is due, until it is cancelled. Begun again, it asks for all that it was at."""
        self._looking = False
        for left in dict.fromkeys(self._by_id.values()):
            if left not in self._heap:
                self._put(left, anyio.current_time())
        async with anyio.create_task_group() as group:
            while True:
                look_at = self._look_at if self._wants_look() else math.inf
                due = self._heap.next_at()
                now = anyio.current_time()
                if look_at <= now:
                    self._looking = True
                    group.start_soon(self._look)
                    continue
                watched = self._heap.pop_due(now)
                if watched is None:
                    self._wake = anyio.Event()
                    with anyio.move_on_after(min(look_at, math.inf if due is None else due) - now):
                        await self._wake.wait()
                    continue
                if (later := self._later(watched)) > now:
                    self._heap.put(watched, later)
                    continue
                watched.asking, watched.asked_at = True, now
                await self._places.acquire_on_behalf_of(watched)
                group.start_soon(self._ask, watched)

    def _later(self, watched: _Tracked) -> float:
        """Until when a poll that is due may wait by what was learned since it was planned, if it may."""
        in_doubt = watched.failures or watched.denials.begun
        if watched.asked_at is None or watched.hinted_at is not None or in_doubt:
            return 0.0
        shown_at = watched.shown_at
        if self._socket_healthy:  # only a safeguard: by then tasks may have taken longer
            unasked = watched.asked_at == watched.since and shown_at is None
            return watched.since + polling.next_poll(0.0, self.durations, socket_healthy=True) if unasked else 0.0
        if watched.probe or shown_at is None or shown_at < self._shown_since or not self._crowded:
            return 0.0
        fresh = min(FRESH_CAP_SECONDS, LOOK_SECONDS + 2.5 * self._look_seconds)
        most = max(LISTED_POLL_SECONDS, self._waiting / LISTED_POLLS_PER_SECOND)
        return min(shown_at + (1 + watched.phase) * fresh, watched.asked_at + (0.75 + watched.phase / 2) * most)

    def _wants_look(self) -> bool:
        was, self._crowded = self._crowded, self._waiting >= (SMALL_CROWD if self._crowded else CROWD)
        if was and not self._crowded:  # nobody looks for the last ones any more
            self._poll_all()
        return self._crowded and not (self._looking or self._socket_healthy or self._on_trial)

    async def _look(self) -> None:
        """Looks through the list, and says when to do so again."""
        began, asked, listed = anyio.current_time(), None, 0
        try:
            listed = await self._look_through(began)
        except (errors.WanError, TimeoutError) as error:
            asked = getattr(error, "after_seconds", None)
        except Exception:  # whatever it is, polls go on as planned
            log.exception("the task list could not be looked through")
        finally:
            self._looking = False
        now = anyio.current_time()
        if listed:
            self._look_failures, pause = 0, self._look_pause(listed)
            self._look_seconds = now - began + pause
        else:
            self._look_failures += 1
            pause = self._backoff.delay(self._look_failures, self._draw(), asked)
        self._look_at = max(self._look_at, now + pause)
        self._wake.set()

    def _look_pause(self, listed: int) -> float:
        known = self.durations.quantile(0.5) if len(self.durations) >= FEW_DURATIONS else None
        pause = LOOK_SECONDS * 2 if known is None else known / 20
        return max(LOOK_SECONDS, min(LOOK_CAP_SECONDS, pause), PAGE_SECONDS * listed / protocol.LIST_PAGE)

    async def _look_through(self, began: float) -> int:
        """Lists tasks as far as there may be some that are waited for; how many, or 0 if none of these is there."""
        crowd = dict.fromkeys(self._by_id.values())
        sought = {watched: None for watched in crowd if watched.unshown % UNSHOWN_EVERY < UNSHOWN_LOOKS}
        enough, listed, known, shown = DEEP * self._waiting + protocol.LIST_PAGE, 0, set[str](), False
        while (sought or not listed) and listed < enough:
            asked_at = anyio.current_time()
            with anyio.fail_after(PAGE_PATIENCE_SECONDS):
                page = (await self._api.list_tasks(listed, tries=1)).tasklist
            listed += len(page)
            page = [task for task in page if (task.id or task.socketaccesstoken) not in known]
            known.update(task.id or task.socketaccesstoken for task in page)
            for task in page:
                names = (task.id, task.socketaccesstoken)
                if min([self._over_before.pop(name, math.inf) for name in names]) < asked_at:
                    self._believe(ending(task) is not None)
                watched = self._by_id.get(names[0]) or self._by_id.get(names[1])
                if watched is not None:
                    shown, watched.unshown = True, 0
                    sought.pop(watched, None)
                    crowd.pop(watched, None)
                    self._show(watched, task, asked_at)
            if not page:  # the end, or a service that gives the same page again
                break
        for watched in crowd:
            watched.unshown += 1
        self._over_before = {name: at for name, at in self._over_before.items() if at >= began}
        return listed if shown else 0

    def _show(self, watched: _Tracked, task: Task, asked_at: float) -> None:
        if watched.asking or (watched.asked_at or 0.0) > asked_at:
            return
        if ending(task) is not None:
            if not watched.shown_over:
                watched.shown_over = True
                self._over(watched)
        else:
            watched.shown_at = asked_at
            if task.status != watched.status:
                watched.status = task.status
                watched.seen(task)

    def _believe(self, told: bool) -> None:
        """Notes whether the list told of an end. One that lied about two in a row isn't looked at for a while."""
        self._missed = 0 if told else self._missed + 1
        if told:
            self._lies = 0
        elif self._missed >= MISSED_ENDS:
            now, self._missed = anyio.current_time(), 0
            self._look_at = now + min(LIES_CAP_SECONDS, LIES_SECONDS * 2.0 ** min(self._lies, 60))
            self._shown_since = now
            self._lies += 1
            self._poll_all()

    async def _ask(self, watched: _Tracked) -> None:
        try:
            if not watched.done.is_set():  # else its waiter left while it waited for a place
                await self._ask_once(watched)
        except errors.StopBatch as error:
            for other in dict.fromkeys([watched, *self._by_id.values()]):  # each would only hear the same
                self._finish(other, error=error)
        except Exception as error:  # noqa: BLE001 - logged with its traceback: it concerns this task alone
            self._unexpected(watched, error)
        finally:
            watched.asking = False
            self._places.release_on_behalf_of(watched)

    async def _ask_once(self, watched: _Tracked) -> None:
        asked_at = anyio.current_time()
        try:
            task = await self._api.detail(watched.task_id, watched.token, tries=1)
        except errors.StopBatch:
            raise
        except errors.WanError as error:
            if isinstance(error, errors.NotFound) and not isinstance(error, errors.NoSuchAddress):
                self._denied(watched, error)
                return
            watched.failures += 1
            watched.failed = True
            self._faults += 1
            watched.denials.no_answer()
            asked = error.after_seconds if isinstance(error, errors.TryLater) else None
            in_a_row = min(watched.failures, self._faults + watched.failures // STRAYS)
            wait = self._backoff.delay(in_a_row, self._draw(), asked)
            if in_a_row >= OUTAGE_FAILURES:
                self._on_outage(error, wait)
            self._again(watched, wait)
        else:
            watched.failures, self._faults = 0, 0
            watched.denials.seen()
            self._seen(watched, task, asked_at)

    def _seen(self, watched: _Tracked, task: Task, asked_at: float) -> None:
        end = ending(task)
        if end is None:
            self._note_error_status(watched, task)
            watched.ran_at, watched.failed, watched.status = asked_at, False, task.status
            if watched.shown_over and asked_at > (watched.hinted_at or asked_at) + AHEAD_SECONDS:
                self._believe(told=False)
            watched.seen(task)
            now = anyio.current_time()
            at = self._next_poll(watched)
            if watched.hinted_at is not None:
                soon = max(HINTED_AGAIN_SECONDS, now - watched.hinted_at)
                at = min(at, now if watched.hinted_at > asked_at else now + soon)
            self._again(watched, at - now)
            watched.unexpected = 0
            return
        if end is Ending.SUCCEEDED and watched.ran_at is not None:
            self._learn(watched, watched.ran_at, asked_at)
        self._rely_on_socket(told=watched.hinted)
        if watched.shown_over:
            self._believe(told=True)
        elif watched.shown_at is not None:
            self._over_before.update(dict.fromkeys(watched.names, anyio.current_time()))
        self._finish(watched, task=task)

    def _learn(self, watched: _Tracked, ran_at: float, asked_at: float) -> None:
        """Notes how long the task took, unless its end was overlooked: it may have been over for long."""
        told = watched.hinted_at is not None and watched.hinted_at > ran_at
        if told and watched.shown_over and watched.shown_at is not None:
            ran_at = max(ran_at, watched.shown_at)
        overlooked = not told and (self._socket_healthy or watched.failed or watched.shown_at is not None)
        if not overlooked or len(self.durations) < FEW_DURATIONS:
            seen_at = min(asked_at, watched.hinted_at or asked_at) if told else asked_at
            self.durations.note(max(0.0, ran_at - watched.since), max(0.0, seen_at - watched.since))

    def _rely_on_socket(self, *, told: bool) -> None:
        """A socket that told of an end is relied upon; one that missed two in a row isn't, until it tells again."""
        if not self._connected:
            return
        on_trial = self._on_trial
        self._unhinted = 0 if told else self._unhinted + 1
        if self._unhinted in (0, MISSED_ENDS):
            self.socket_healthy = told
            if on_trial and not told:
                self._poll_all()

    def _note_error_status(self, watched: _Tracked, task: Task) -> None:
        now = anyio.current_time()
        if task.status != TASK_ERROR:
            watched.errored_since = None
        elif watched.errored_since is None:
            watched.errored_since = now
        elif now - watched.errored_since >= STUCK_SECONDS:
            self._doubt(watched, f"it has shown nothing but {TASK_ERROR} for an hour")

    def _denied(self, watched: _Tracked, error: errors.NotFound) -> None:
        seconds = watched.denials.denied(anyio.current_time())
        if seconds >= self._patience():
            said = f"the service does not know this task now ({error.message})"
            self._finish(watched, error=errors.Missing(said, kind="missing", task_id=watched.task_id))
            return
        if seconds >= DOUBTFUL_SECONDS:
            self._doubt(watched, f"the service has denied it for {seconds:.0f} s ({error.message})")
        self._again(watched, min(DENIED_AGAIN_CAP_SECONDS, 1.0 + seconds / 2))

    def _doubt(self, watched: _Tracked, reason: str) -> None:
        if not watched.is_doubtful:
            watched.is_doubtful = True
            watched.doubtful(reason)

    def _unexpected(self, watched: _Tracked, error: Exception) -> None:
        watched.unexpected += 1
        if watched.unexpected == 1:
            log.error("task %s could not be asked for, and is asked for again", watched.task_id, exc_info=error)
        if watched.unexpected >= UNEXPECTED_FAULTS:
            self._finish(watched, error=error)
        else:
            self._again(watched, self._backoff.delay(watched.unexpected, self._draw()))

    def _again(self, watched: _Tracked, seconds: float) -> None:
        if not watched.done.is_set():
            self._put(watched, anyio.current_time() + max(0.0, seconds))

    def _finish(self, watched: _Tracked, *, task: Task | None = None, error: Exception | None = None) -> None:
        if watched.done.is_set():
            return
        watched.task, watched.error = task, error
        self._heap.drop(watched)
        watched.done.set()
