"""Messages of the WebSocket and the webhook. No I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError

from wan_async.domain.fields import MaybeText, Text, WireModel, parse_json_text, read_number
from wan_async.domain.remote_task import TaskDetail, TaskId, TaskToken
from wan_async.wiro.schemas import Answer


def subscription(token: TaskToken) -> str:
    """The message that subscribes to a task; one connection takes many subscriptions."""
    return json.dumps({"type": "task_info", "tasktoken": token})


@dataclass(frozen=True, slots=True)
class Hint:
    """A notification about a task by the socket or the webhook: a reason to ask Task/Detail, whose answer decides.

    Attributes:
        percent: progress from 0 to 100, None if the message has none.
        over: whether the message says that the task has ended.
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
    """Parse a message of the socket; None for a greeting, a message that names no task, or one that can't be parsed.

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
    """Parse the body of a webhook request: the tasks that have ended, none if it can't be parsed.

    Wiro POSTs the task in the shape of Task/Detail (its API documentation).
    """
    try:
        tasks = Answer.model_validate_json(body).tasklist or [TaskDetail.model_validate_json(body)]
    except ValidationError:
        return []
    return [
        Hint(TaskId(task.id) if task.id else None, TaskToken(task.socketaccesstoken) or None, task.status, over=True)
        for task in tasks
        if task.id or task.socketaccesstoken
    ]
