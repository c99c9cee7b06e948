"""Messages of the WebSocket and of the webhook."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError

from wan_async.domain.fields import MaybeText, Text, WireModel, parse_json_text, read_number
from wan_async.domain.task import Task, TaskId, TaskToken
from wan_async.wiro.schemas import Answer


def subscription(token: TaskToken) -> str:
    """The socket message that subscribes to one task; a connection takes many of them."""
    return json.dumps({"type": "task_info", "tasktoken": token})


@dataclass(frozen=True, slots=True)
class Hint:
    """Something the socket or the webhook said about a task: a reason to ask Task/Detail, never the truth.

    Attributes:
        percent: 0 to 100 where the message carries progress.
        over: whether it says that the task has ended.
    """

    task_id: TaskId | None
    token: TaskToken | None = field(repr=False)
    status: str
    percent: float | None = None
    over: bool = False


class _Message(WireModel):
    type: Text = ""
    id: MaybeText = None
    tasktoken: MaybeText = None
    message: Annotated[Any, BeforeValidator(parse_json_text)] = None


def parse_message(text: str | bytes) -> Hint | None:
    """A message of the socket; None for a greeting, another task's business, or what can't be read.

    The newest messages name the task by `id` alone, older ones carry its token as well (WIRO_API 6).
    """
    try:
        message = _Message.model_validate_json(text)
    except ValidationError:
        return None
    if not message.tasktoken and not message.id:
        return None
    progress = message.message if isinstance(message.message, dict) else {}
    percent = read_number(progress.get("percentage"))
    return Hint(
        TaskId(message.id) if message.id else None,
        TaskToken(message.tasktoken) if message.tasktoken else None,
        message.type,
        None if percent is None else min(100.0, max(0.0, percent)),
        message.type in ("task_postprocess_end", "task_cancel"),
    )


def parse_callback(body: bytes) -> list[Hint]:
    """What a webhook's body says: that these tasks are over. Nothing if it can't be read or names no task.

    Wiro POSTs the task there, shaped like Task/Detail (its API documentation).
    """
    try:
        tasks = Answer.model_validate_json(body).tasklist or [Task.model_validate_json(body)]
    except ValidationError:
        return []
    return [
        Hint(TaskId(task.id) if task.id else None, TaskToken(task.socketaccesstoken) or None, task.status, over=True)
        for task in tasks
        if task.id or task.socketaccesstoken
    ]
