"""Listings: pages of the task list joined to one; the owners of listed tasks. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from wan_async.domain.remote_task import TaskDetail, TaskToken


@dataclass(slots=True)
class Pages:
    """Joins pages to one listing and determines whether it is complete.

    Args:
        floor_id: the highest task id known before; the listing must reach it.
        floor_time: the creation time, in unix seconds, below which it must reach.

    Attributes:
        tasks: the tasks listed so far, by key, including those listed before a restart.
        start: the offset of the page to request next.
        complete: whether the listing has every task of the window.
        restarts: how often it restarted because pages didn't overlap.
    """

    floor_id: int
    floor_time: float
    tasks: dict[str, TaskDetail] = field(default_factory=dict)
    start: int = 0
    complete: bool = False
    restarts: int = 0
    _listed: set[str] = field(default_factory=set)
    _oldest: str = ""
    _at_end: bool = False

    def add(self, page: Sequence[TaskDetail]) -> None:
        """Add the page that was requested at `start`."""
        keys = [key_of(task) for task in page]
        if not page and self.start == 0:
            self.complete = self.floor_id == 0
        elif not page and self._at_end:
            self.complete = True
        elif self.start and self._listed.isdisjoint(keys):
            self._restart()  # the list shifted by more than a page: tasks may be missing in between
        elif self._listed.issuperset(keys):
            self._at_end = keys == [self._oldest]
            self.start += max(1, len(page) - 1)
        else:
            self._listed.update(keys)
            self._oldest, self._at_end = keys[-1], False
            self.complete = self._is_below(page)
            self.start += len(page) - 1
        self.tasks.update(zip(keys, page, strict=True))

    def _restart(self) -> None:
        self._listed.clear()
        self._at_end = False
        self.start = 0
        self.restarts += 1

    def _is_below(self, page: Sequence[TaskDetail]) -> bool:
        """Whether the page ends below the window and is in order, so that all that follows is below it, too."""
        return reaches(page, self.floor_id) and (page[-1].createtime or 0.0) < self.floor_time


def reaches(page: Sequence[TaskDetail], high_id: int) -> bool:
    """Whether the newest page has every task with a higher id than `high_id`."""
    numbers = [task_number(task.id) for task in page]
    return bool(numbers) and numbers[-1] <= high_id and numbers == sorted(numbers, reverse=True)


def key_of(task: TaskDetail) -> str:
    """The key of a listed task: its id with its token, since ids may restart. Its repr hides it, as that of a token."""
    return TaskToken(f"{task.id or task.uuid} {task.socketaccesstoken}".strip())


class Owners:
    """The tasks that attempts of a journal own.

    Args:
        tasks: id and token of each; None where unknown.
    """

    def __init__(self, tasks: Iterable[tuple[str | None, str | None]] = ()) -> None:
        self._token_of: dict[str, str | None] = {}
        self._tokens: set[str] = set()
        for task_id, token in tasks:
            self.add(task_id, token)

    def add(self, task_id: str | None, token: str | None) -> None:
        """Record that an attempt owns a task."""
        if task_id:
            self._token_of[task_id] = token
        elif token:  # only without an id: the list may show the same masked token for all tasks
            self._tokens.add(token)

    def owns(self, task: TaskDetail) -> bool:
        """Whether an attempt owns a listed task.

        The same id with another token is another task (the service's ids restarted), unless the list masks tokens.
        """
        seen = task.socketaccesstoken
        if seen in self._tokens:
            return True
        if not self.has_id(task):
            return False
        token = self._token_of[task.id]
        return not (token and seen != token and len(seen) == len(token) and "*" not in seen)

    def has_id(self, task: TaskDetail) -> bool:
        """Whether an attempt owns a task with the same id; the journal can't adopt a second one with it."""
        return bool(task.id) and task.id in self._token_of


NO_NUMBER = 1 << 62
"""The number of an id that isn't numeric."""


def task_number(task_id: str) -> int:
    """A task id as a number to sort by; one that isn't numeric sorts last, and so is a candidate of every attempt."""
    return int(task_id) if task_id.isascii() and task_id.isdigit() and len(task_id) <= 18 else NO_NUMBER
