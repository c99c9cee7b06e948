"""What the client hands out: tasks and clips. Imports nothing of the package, so that errors can carry a task."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Task:
    """A submitted task: all that is needed to find it again, in another process, on another day.

    Attributes:
        id: its number at the service; None if the service named only a token.
        token: the secret that grants access to it; treat it like a password. None if only the id is known.
        submitted_at: when its Run was answered, in unix seconds; None if that is not known.
        name: a name for its clip, without a suffix; empty if there is none.
        job: the key under which a client with a journal keeps its job; empty without one.

    Raises:
        ValueError: neither an id nor a token is given.

    Example:
        >>> text = Task("2221", "eDcC").dumps()
        >>> Task.loads(text).id
        '2221'
    """

    id: str | None = None
    token: str | None = field(default=None, repr=False)
    submitted_at: float | None = None
    name: str = ""
    job: str = ""

    def __post_init__(self) -> None:
        if not (self.id or self.token):
            raise ValueError("a task is known by its id or its token: give one")

    def dumps(self) -> str:
        """The task as JSON text, for a database column or a message. It contains the token: keep it secret."""
        values = {
            "id": self.id,
            "token": self.token,
            "submitted_at": self.submitted_at,
            "name": self.name,
            "job": self.job,
        }
        given = {name: value for name, value in values.items() if value not in (None, "")}
        return json.dumps({"wan_async_task": _FORMAT} | given)

    @classmethod
    def loads(cls, text: str | bytes) -> Task:
        """Read a task from the text that `dumps` wrote.

        Raises:
            ValueError: the text is no such task, or was written by a newer version.
        """
        values = _parsed(text)
        del text  # a traceback with local variables would show the token
        if values is None:
            raise ValueError("this text is not a task that Task.dumps wrote")
        return cls(**values)


def _parsed(text: str | bytes) -> dict[str, Any] | None:
    """The fields of a task; None if the text is none."""
    try:
        values = json.loads(text)
    except ValueError:
        return None
    if not isinstance(values, dict) or values.pop("wan_async_task", None) != _FORMAT:
        return None
    numbers = {name: value for name, value in values.items() if name == "submitted_at"}
    texts = {name: value for name, value in values.items() if name in ("id", "token", "name", "job")}
    is_right = (
        all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers.values())
        and all(isinstance(value, str) for value in texts.values())
        and bool(texts.get("id") or texts.get("token"))
    )
    return {**numbers, **texts} if is_right else None


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip on disk.

    Attributes:
        path: where it is.
        bytes: its length.
        sha256: its hash, in hex.
        task_id: the task that made it.
        cost_micros: what the task cost, in millionths of a US dollar; None if the service did not report it.
        further: paths of the task's further outputs, if it has any.
    """

    path: Path
    bytes: int
    sha256: str
    task_id: str | None
    cost_micros: int | None
    further: tuple[Path, ...] = ()
