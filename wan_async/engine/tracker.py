"""Which tasks have ended: notifications and the task list report ends, Task/Detail confirms them.

`wait_ended` registers a task and waits. Every waiting task has one planned poll of Task/Detail, and `serve` makes the
polls that are due. When a notification (socket, webhook) says that a task has ended, its poll is due now. Unless a
socket is relied upon, `serve` also reads the task list once there are enough tasks, a hundred tasks a request. Tasks
that the socket or the list covers are polled as a safeguard only. Whatever goes wrong with either costs latency: only
Task/Detail ends a wait.

- A socket is relied upon from the first end that it reports, the list from the beginning; either until it has missed
  two ends in a row, and again from the next end that it reports first.
- A task that the list does not show is polled as if there were no list.
- A task that is denied is polled until `patience` is exceeded, and is then missing. `task_error` is not an end. The
  waiter is told that its task is doubtful, so that it can lend the task's slot to another job.
- A report may arrive while its task is being polled, or before Task/Detail shows the end: the task is polled again at
  once, or soon and then at growing intervals.
- A waiter may be cancelled at any time, also while its task is being polled. The task is not polled again.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Protocol

import anyio

from wan_async import errors
from wan_async.domain.remote_task import Ending, TaskDetail, TaskId, TaskToken, ending
from wan_async.engine import polling
from wan_async.engine.options import PATIENCE_SECONDS
from wan_async.engine.waiting_task import WaitingTask
from wan_async.http import retry
from wan_async.wiro import protocol, schemas
from wan_async.wiro.notification_messages import Hint

log: logging.Logger = logging.getLogger(__name__)

DENIED_POLL_CAP_SECONDS = 15.0
UNEXPECTED_FAULTS = 20
"""Unexpected exceptions in a row about one task after which its waiter gets the last one."""
OUTAGE_FAILURES = 3
"""Polls in a row, both of one task and of all tasks, that must fail to be an outage."""
MISSES = 2
"""Ends in a row that a source may miss, and readings of the list in a row that may lack a task."""
MAX_REQUESTS = 64
UNPACED_TASKS, POLLS_PER_SECOND = 200, 100.0
"""Polls of more tasks than this, if nothing covers them, are planned at this rate."""
SAFEGUARDS_PER_SECOND = 20.0
"""Polls of tasks that the list covers are planned at this rate at most: a few show whether the list is right."""
LIST_FROM = 8
"""With fewer tasks reading the list would take more requests than polls."""
LIST_SECONDS, MIN_LIST_SECONDS, LIST_PAGE_SECONDS = 1.0, 0.1, 0.1
"""Readings of the list start this far apart at most, and at least, also for each page."""
LIST_TIMEOUT_SECONDS = 10.0
LIST_DEPTH = 4
"""The list is read to this many times the number of waiting tasks at most."""


class TaskApi(Protocol):
    """The endpoints that tracking needs."""

    def detail(
        self, task_id: TaskId | None = None, token: TaskToken | None = None, *, tries: int = 5
    ) -> Awaitable[TaskDetail]:
        """Task/Detail."""
        ...

    def list_tasks(
        self, start: int = 0, limit: int = protocol.LIST_PAGE, *, tries: int = 5
    ) -> Awaitable[schemas.Answer]:
        """Task/List, newest first."""
        ...


class Tracker:
    """Tracks any number of tasks.

    Args:
        api: asks Task/Detail and Task/List.
        draw: returns numbers in [0, 1) for jitter.
        on_outage: called with the error and the seconds until the next poll when several polls in a row failed.
        patience: returns for how many seconds the service must deny a task before it is missing.

    Attributes:
        durations: how long tasks take, as far as this tracker has seen.
    """

    def __init__(
        self,
        api: TaskApi,
        *,
        draw: Callable[[], float] = random.random,
        on_outage: Callable[[errors.WanError, float], None] = lambda error, seconds: None,
        patience: Callable[[], float] = lambda: PATIENCE_SECONDS,
    ) -> None:
        self._api = api
        self._draw = draw
        self._on_outage = on_outage
        self._patience = patience
        self.durations: polling.Durations = polling.Durations()
        self._waiting: dict[WaitingTask, None] = {}
        self._by_name: dict[str, list[WaitingTask]] = {}
        self._heap: polling.PollHeap[WaitingTask] = polling.PollHeap()
        self._wake, self._wake_list = anyio.Event(), anyio.Event()
        self._slots = anyio.CapacityLimiter(MAX_REQUESTS)
        self._backoff = retry.Backoff()
        self._failures = 0
        self._safeguard_at = 0.0
        self._connected = False
        self._missed_by_socket = MISSES
        self._missed_by_list = 0

    async def wait_ended(
        self,
        task_id: TaskId | None,
        token: TaskToken | None,
        *,
        since: float,
        seen: Callable[[TaskDetail], None] = lambda task: None,
        doubtful: Callable[[str], None] = lambda reason: None,
    ) -> TaskDetail:
        """Waits until Task/Detail shows a terminal status, and returns that answer; arguments as for `registered`.

        Raises:
            errors.Missing: the service has denied the task for as long as `patience` says.
            errors.StopBatch: the service refuses the credentials.
        """
        with self.registered(task_id, token, since=since, seen=seen, doubtful=doubtful) as waiting:
            await waiting.done.wait()
        return waiting.result()

    @contextmanager
    def registered(
        self,
        task_id: TaskId | None,
        token: TaskToken | None,
        *,
        since: float | None,
        seen: Callable[[TaskDetail], None] = lambda task: None,
        doubtful: Callable[[str], None] = lambda reason: None,
        patience_seconds: float | None = None,
    ) -> Iterator[WaitingTask]:
        """Tracks a task within this block. Its end is seen only while `serve` runs.

        Args:
            task_id: the task's id, if known.
            token: the task's token, if known.
            since: when its Run was answered, on `anyio.current_time`'s clock; None if that is not known.
            seen: called with each answer before the last one.
            doubtful: called at most once, with the reason, if the task is denied or shows only `task_error` for long.
            patience_seconds: for how long the service must deny it before it is missing, if not as for all tasks.
        """
        now = anyio.current_time()
        is_new = since is not None and now - since < polling.FIRST_POLL_SECONDS  # else it may have ended long ago
        waiting = WaitingTask(
            task_id,
            token,
            now if since is None else since,
            seen,
            doubtful,
            running_at=since if is_new else None,
            patience_seconds=patience_seconds,
        )
        self._waiting[waiting] = None
        for name in waiting.names:
            self._by_name.setdefault(name, []).append(waiting)
        if len(self._waiting) >= LIST_FROM:
            self._wake_list.set()
        if is_new:
            self._plan(waiting)
        else:
            self._poll_at(waiting, now)
        try:
            yield waiting
        finally:
            waiting.finish()
            self._heap.drop(waiting)
            del self._waiting[waiting]
            for name in waiting.names:
                self._by_name[name].remove(waiting)
                if not self._by_name[name]:
                    del self._by_name[name]

    def connected(self, connected: bool) -> None:
        """A socket was connected, or is gone."""
        was_used = self._uses_socket
        self._connected, self._missed_by_socket = connected, MISSES
        if was_used:
            self._lose_socket()

    def hint(self, hint: Hint) -> None:
        """Handles a notification about a task, by its id or token."""
        for waiting in self._named(hint.token, hint.task_id) if hint.over else ():
            waiting.notify_end(anyio.current_time())
            self._confirm(waiting)

    async def serve(self) -> None:
        """Polls until it is cancelled. Called again after that, it continues with the open waits."""
        for waiting in self._waiting:
            if waiting not in self._heap:
                self._poll_at(waiting, anyio.current_time())
        async with anyio.create_task_group() as group:
            group.start_soon(self._read_lists)
            while True:
                now, next_at = anyio.current_time(), self._heap.next_at()
                due = self._heap.pop_due(now)
                if due is None:
                    self._wake = anyio.Event()
                    with anyio.move_on_after((math.inf if next_at is None else next_at) - now):
                        await self._wake.wait()
                elif not due.must_poll and self._covers(due) and self._next_poll(due) > now:
                    self._plan(due)
                else:
                    due.begin_poll()
                    await self._slots.acquire_on_behalf_of(due)
                    group.start_soon(self._poll, due)

    def _named(self, *names: str | None) -> list[WaitingTask]:
        return next((self._by_name[name] for name in names if name and name in self._by_name), [])

    @property
    def _uses_socket(self) -> bool:
        return self._connected and self._missed_by_socket < MISSES

    def _covers(self, waiting: WaitingTask) -> bool:
        """Whether the socket or the list is expected to report this task's end."""
        return self._uses_socket or (waiting.listed and self._missed_by_list < MISSES)

    def _next_poll(self, waiting: WaitingTask, ahead: int | None = None) -> float:
        since = waiting.since
        if self._covers(waiting):
            return since + polling.next_poll(max(0.0, waiting.polled_at - since), self.durations, covered=True)
        age = max(0.0, anyio.current_time() - since)
        ahead = len(self._heap) if ahead is None else ahead
        return since + max(polling.next_poll(age, self.durations), age + (ahead - UNPACED_TASKS) / POLLS_PER_SECOND)

    def _plan(self, waiting: WaitingTask) -> None:
        """Plans the next poll; a task that is covered when it is due is polled later."""
        waiting.plan(must_poll=False)
        at = self._next_poll(waiting)
        if self._covers(waiting) and not self._uses_socket:
            now = anyio.current_time()
            last = now + len(self._heap) / SAFEGUARDS_PER_SECOND  # many tasks end before the poll that is planned here
            self._safeguard_at = min(max(now, self._safeguard_at + 1 / SAFEGUARDS_PER_SECOND), last)
            at = max(at, self._safeguard_at)
        self._heap.put(waiting, at)
        self._wake.set()

    def _poll_at(self, waiting: WaitingTask, at: float) -> None:
        """Plans a poll that is made in any case."""
        if not waiting.done.is_set():
            waiting.plan(must_poll=True)
            self._heap.put(waiting, at)
            self._wake.set()

    def _advance(self, tasks: Iterable[WaitingTask]) -> None:
        """Moves polls to where they are due now that the tasks are no longer covered, but never back."""
        for ahead, waiting in enumerate(tasks):
            if waiting in self._heap and not waiting.must_poll:
                self._heap.advance(waiting, self._next_poll(waiting, ahead))
        self._wake.set()

    def _lose_socket(self) -> None:
        self._advance(self._waiting)
        self._wake_list.set()

    def _confirm(self, waiting: WaitingTask) -> None:
        """An end was reported: polls the task now or, if it was polled just now, soon."""
        if not waiting.polling:
            self._poll_at(waiting, waiting.confirm_at(anyio.current_time()))

    async def _read_lists(self) -> None:
        failures = 0
        while True:
            if len(self._waiting) < LIST_FROM or self._uses_socket:
                self._uncover(self._waiting)
                self._wake_list = anyio.Event()
                await self._wake_list.wait()
                await anyio.sleep(LIST_SECONDS / 2)  # new tasks may not be listed at once
                continue
            began, pages, after_seconds = anyio.current_time(), 0, None
            try:
                pages = await self._read_list()
            except (errors.WanError, TimeoutError) as error:
                after_seconds = getattr(error, "after_seconds", None)
            except Exception:
                log.exception("the task list could not be read; tasks are polled")
            if pages:
                failures = 0
                await anyio.sleep_until(began + self._list_pause(pages))
            else:
                failures += 1
                self._uncover(self._waiting)
                await anyio.sleep(self._backoff.delay(failures, self._draw(), after_seconds))

    def _list_pause(self, pages: int) -> float:
        median = self.durations.quantile(0.5)
        pause = LIST_SECONDS if median is None else min(LIST_SECONDS, median / 30)
        return max(MIN_LIST_SECONDS, LIST_PAGE_SECONDS * pages, pause)

    async def _read_list(self) -> int:
        """Reads the list until it has shown all tasks that it usually shows.

        Returns:
            The number of pages; 0 if none of the tasks was shown.
        """
        absent = dict.fromkeys(self._waiting)
        sought = {waiting for waiting in absent if waiting.unlisted < MISSES}
        count, start, pages = len(absent), 0, 0
        limit = LIST_DEPTH * count + protocol.LIST_PAGE
        while not pages or (sought and start < limit):
            asked_at = anyio.current_time()
            with anyio.fail_after(LIST_TIMEOUT_SECONDS):
                page = (await self._api.list_tasks(start, tries=1)).tasklist
            if not page:
                break
            start, pages = start + len(page), pages + 1
            for task in page:
                for waiting in self._named(task.id, task.socketaccesstoken):
                    absent.pop(waiting, None)
                    sought.discard(waiting)
                    self._note_listed(waiting, task, asked_at)
        for waiting in absent:
            waiting.note_unlisted()
        self._uncover(absent)
        return pages if len(absent) < count else 0

    def _note_listed(self, waiting: WaitingTask, task: TaskDetail, asked_at: float) -> None:
        try:
            if waiting.note_listed(task, asked_at, anyio.current_time()):
                self._confirm(waiting)
        except Exception as error:  # noqa: BLE001 - logged with its traceback: it concerns this task alone
            self._unexpected(waiting, error)

    def _uncover(self, tasks: Iterable[WaitingTask]) -> None:
        """The list does not show these tasks, or is not read any more."""
        listed = [waiting for waiting in tasks if waiting.listed]
        for waiting in listed:
            waiting.uncover()
        self._advance(listed)

    async def _poll(self, waiting: WaitingTask) -> None:
        try:
            if not waiting.done.is_set():  # else its waiter left while the poll waited for a slot
                await self._poll_once(waiting)
        except errors.StopBatch as error:
            for other in [waiting, *self._waiting]:
                self._finish(other, error=copy(error))  # each caller completes its own
        except Exception as error:  # noqa: BLE001 - logged with its traceback: it concerns this task alone
            self._unexpected(waiting, error)
        finally:
            waiting.end_poll()
            self._slots.release_on_behalf_of(waiting)

    async def _poll_once(self, waiting: WaitingTask) -> None:
        waiting.send_poll(anyio.current_time())
        try:
            task = await self._api.detail(waiting.task_id, waiting.token, tries=1)
        except errors.StopBatch:
            raise
        except errors.WanError as error:
            if isinstance(error, errors.NotFound) and not isinstance(error, errors.NoSuchAddress):
                self._denied(waiting, error)
            else:
                self._failed(waiting, error)
            return
        self._failures = 0
        waiting.note_answer()
        if (end := ending(task)) is None:
            waiting.note_running(task)
            self._plan_next(waiting)
        else:
            if end is Ending.SUCCEEDED:
                self._learn(waiting)
            self._rate_sources(waiting)
            self._finish(waiting, task=task)

    def _plan_next(self, waiting: WaitingTask) -> None:
        if waiting.done.is_set():  # its waiter left
            return
        self._plan(waiting)
        if waiting.reported_at is not None:
            confirm_at = waiting.confirm_at(anyio.current_time())
            if confirm_at < self._next_poll(waiting):
                self._poll_at(waiting, confirm_at)

    def _learn(self, waiting: WaitingTask) -> None:
        """Notes how long the task took, unless its end may have been overlooked for long."""
        if (duration := waiting.duration(covered=self._covers(waiting))) is not None:
            at_least, at_most, is_doubtful = duration
            if not is_doubtful or len(self.durations) < polling.MIN_DURATIONS:
                self.durations.note(at_least, at_most)

    def _rate_sources(self, waiting: WaitingTask) -> None:
        """Notes which source has reported, or missed, the end that a poll shows."""
        was_used = self._uses_socket
        if self._connected:
            self._missed_by_socket = 0 if waiting.notified else self._missed_by_socket + 1
        if waiting.listed and waiting.reported_at is None:
            self._missed_by_list += 1
            if self._missed_by_list == MISSES:
                self._advance(self._waiting)
        elif waiting.reported_at is not None and not waiting.notified:
            self._missed_by_list = 0
        if was_used and not self._uses_socket:
            self._lose_socket()

    def _denied(self, waiting: WaitingTask, error: errors.NotFound) -> None:
        self._failures = 0
        now = anyio.current_time()
        seconds = waiting.note_denied(now, error.message)
        if seconds >= (self._patience() if waiting.patience_seconds is None else waiting.patience_seconds):
            said = f"the service does not know this task now ({error.message})"
            self._finish(waiting, error=errors.Missing(said, kind="missing", task_id=waiting.task_id))
            return
        self._poll_at(waiting, now + min(DENIED_POLL_CAP_SECONDS, 1.0 + seconds / 2))

    def _failed(self, waiting: WaitingTask, error: errors.WanError) -> None:
        waiting.note_failure()
        self._failures += 1
        asked = error.after_seconds if isinstance(error, errors.TryLater) else None
        # while other polls are answered, the pauses of one task grow more slowly
        in_a_row = min(waiting.failures, self._failures + waiting.failures // OUTAGE_FAILURES)
        wait = self._backoff.delay(in_a_row, self._draw(), asked)
        if min(waiting.failures, self._failures) >= OUTAGE_FAILURES:
            self._on_outage(error, wait)
        self._poll_at(waiting, anyio.current_time() + wait)

    def _unexpected(self, waiting: WaitingTask, error: Exception) -> None:
        waiting.note_unexpected()
        if waiting.unexpected == 1:
            log.error("task %s could not be polled, and is polled again", waiting.task_id, exc_info=error)
        if waiting.unexpected >= UNEXPECTED_FAULTS:
            self._finish(waiting, error=error)
        else:
            self._poll_at(waiting, anyio.current_time() + self._backoff.delay(waiting.unexpected, self._draw()))

    def _finish(self, waiting: WaitingTask, *, task: TaskDetail | None = None, error: Exception | None = None) -> None:
        if not waiting.done.is_set():
            self._heap.drop(waiting)
            waiting.finish(task=task, error=error)
