"""What the client hands out: tasks and clips."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from wan_async import errors
from wan_async.domain.task import TaskId, TaskToken


@dataclass(frozen=True, slots=True)
class Task:
    """A task that the service accepted. One of an earlier process can be made anew of its id or token.

    Attributes:
        id: its number, None if the service named only a token.
        token: the secret by which it can be asked for; treat it like a password.
        since: when it was accepted, on `anyio.current_time`'s clock; by default long ago.
    """

    id: str | None = None
    token: str | None = field(default=None, repr=False)
    since: float = -math.inf

    def __post_init__(self) -> None:
        if not (self.id or self.token):
            raise errors.InvalidBatch([errors.Problem("", "a task is known by its id or its token: give one")])

    @property
    def names(self) -> tuple[TaskId | None, TaskToken | None]:
        """Its id and token, as the API takes them."""
        return TaskId(self.id) if self.id else None, TaskToken(self.token) if self.token else None


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip on disk.

    Attributes:
        path: where it is.
        bytes: its length.
        sha256: its hash, in hex.
        task_id: the task that made it.
        cost_micros: what it cost, in millionths of a US dollar; None if the service did not report it.
        further: paths of the task's further outputs, if it has any.
    """

    path: Path
    bytes: int
    sha256: str
    task_id: str | None
    cost_micros: int | None
    further: tuple[Path, ...] = ()
