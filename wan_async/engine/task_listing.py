"""Pages of the task list, put together; who owns a listed task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from wan_async.domain.task import Task


@dataclass(slots=True)
class Pages:
    """Puts a listing together from pages, and knows whether it is complete.

    Attributes:
        tasks: what was listed so far, by key; also before the listing started anew.
        start: what to ask for next.
        complete: whether every task of the window is in it.
        restarts: how often it started anew.
    """

    floor_id: int
    floor_time: float
    tasks: dict[str, Task] = field(default_factory=dict)
    start: int = 0
    complete: bool = False
    restarts: int = 0
    _listed: set[str] = field(default_factory=set)
    _oldest: str = ""
    _at_end: bool = False

    def add(self, page: Sequence[Task]) -> None:
        """The page that was asked for at `start`."""
        keys = [key_of(task) for task in page]
        if not page and self.start == 0:
            self.complete = self.floor_id == 0
        elif not page and self._at_end:
            self.complete = True
        elif self.start and self._listed.isdisjoint(keys):
            self._restart()  # the list moved by more than a page in between: there may be a gap
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

    def _is_below(self, page: Sequence[Task]) -> bool:
        """Whether the page ends below the window, and what follows must, too."""
        return reaches(page, self.floor_id) and (page[-1].createtime or 0.0) < self.floor_time


def reaches(page: Sequence[Task], high_id: int) -> bool:
    """Whether the newest page shows every task with a higher id."""
    numbers = [task_number(task.id) for task in page]
    return bool(numbers) and numbers[-1] <= high_id and numbers == sorted(numbers, reverse=True)


def key_of(task: Task) -> str:
    """What a listed task is known by: ids may begin again, and with them come other tokens."""
    return f"{task.id or task.uuid} {task.socketaccesstoken}".strip()


class Owners:
    """The tasks that attempts of a journal own.

    Args:
        tasks: id and token of each, as far as they are known.
    """

    def __init__(self, tasks: Iterable[tuple[str | None, str | None]] = ()) -> None:
        self._token_of: dict[str, str | None] = {}
        self._tokens: set[str] = set()
        for task_id, token in tasks:
            self.add(task_id, token)

    def add(self, task_id: str | None, token: str | None) -> None:
        """An attempt owns this task."""
        if task_id:
            self._token_of[task_id] = token
        elif token:  # of a task with an id the list may show a mask that all tasks share
            self._tokens.add(token)

    def owns(self, task: Task) -> bool:
        """Whether an attempt owns a listed task.

        The same id with another token is another task, whose id was given out again; not if the list masks tokens.
        """
        seen = task.socketaccesstoken
        if seen in self._tokens:
            return True
        if not self.has_id(task):
            return False
        token = self._token_of[task.id]
        return not (token and seen != token and len(seen) == len(token) and "*" not in seen)

    def has_id(self, task: Task) -> bool:
        """Whether an attempt owns a task with the same id: the journal adopts no second one under it."""
        return bool(task.id) and task.id in self._token_of


NO_NUMBER = 1 << 62
"""Stands for an id that is no number."""


def task_number(task_id: str) -> int:
    """A task id as the number it sorts by; one that isn't a number sorts last, so that it is never overlooked."""
    return int(task_id) if task_id.isascii() and task_id.isdigit() and len(task_id) <= 18 else NO_NUMBER
