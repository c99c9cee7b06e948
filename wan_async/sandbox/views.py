"""Representations of a task: in Task/Detail, and in WebSocket messages. Numbers are strings, as in the service."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from typing import Any

from wan_async.sandbox.tasks import STAGES, Task

LAST = len(STAGES) - 1
OUTPUT = STAGES.index("task_output")
STEPS = 10
OUT_OF_MEMORY = "CUDA error: out of memory"
"""Error output of a task that shows `task_error`."""


def task_view(task: Task, now: float, base_url: str, echo: str, *, with_project: bool = True) -> dict[str, Any]:
    """A task as Task/Detail shows it.

    Args:
        task: the task.
        now: unix seconds.
        base_url: scheme, host and port of the URLs in it.
        echo: how its parameters are shown, see `Settings`.
        with_project: show the id of the project that it is billed to.
    """
    over = task.is_over(now)
    lags = _lags(task, now)

    def at(stage: int) -> str:
        began = task.end if stage == LAST else task.begins(stage)
        return str(int(began)) if task.stage(now) >= stage else "0"

    seconds = max(0.0, min(now, task.end) - task.begins(5))
    outputs = outputs_of(task, now, base_url) or ([] if lags and task.pexit_lags else None)
    pexit = "" if lags and task.pexit_lags else task.pexit
    shown: dict[str, Any] = {
        "id": task.id,
        "uuid": _uuid(task),
        "name": "",
        "socketaccesstoken": task.token,
        "parameters": _echo(task, base_url, echo),
        "debugoutput": "",
        "debugerror": OUT_OF_MEMORY if task.status(now) == "task_error" else task.log if over else "",
        "starttime": at(5),
        "endtime": at(8),
        "elapsedseconds": f"{seconds:.4f}",
        "status": task.status(now),
        "cps": "0.000585000000",
        "totalcost": f"{task.cost(now) / 1e6:.12f}",
        "guestid": None,
        "createtime": str(int(task.created)),
        "canceltime": str(int(task.cancelled)) if task.cancelled is not None else "0",
        "assigntime": at(4),
        "accepttime": at(1),
        "preprocessstarttime": at(2),
        "preprocessendtime": at(3),
        "postprocessstarttime": at(9),
        "postprocessendtime": at(10),
        "pexit": pexit if over and (task.cancelled is None or task.kept) else None,
        "categories": '["image-to-video","quick-showcase"]',
        "outputs": outputs,
        "size": str(task.size if outputs else 0),
    }
    return shown | {"projectid": task.project_id} if with_project else shown


def _lags(task: Task, now: float) -> bool:
    """Whether it has succeeded but does not show its outputs yet."""
    return task.succeeded(now) and now < task.end + task.outputs_after


def outputs_of(task: Task, now: float, base_url: str) -> list[dict[str, Any]]:
    """The outputs of a task that succeeded, from when they are shown until they are deleted."""
    if not task.succeeded(now) or task.deleted or _lags(task, now):
        return []
    return [
        {
            "id": hashlib.sha256(task.id.encode()).hexdigest()[:32],
            "name": "0.mp4",
            "contenttype": "video/mp4",
            "parentid": hashlib.sha256(task.token.encode()).hexdigest()[:32],
            "uuid": _uuid(task),
            "size": str(task.size if task.shown_size is None else task.shown_size),
            "addedtime": str(int(task.end)),
            "modifiedtime": str(int(task.end)),
            "accesskey": task.token[:16][::-1],
            "ispublic": 0,
            "expiretime": None,
            "url": f"{base_url}/cdn/{task.key}/{int(now)}/0.mp4",
        }
    ]


def _uuid(task: Task) -> str:
    return str(uuid.UUID(hashlib.sha256(task.token.encode()).hexdigest()[-32:]))


def _echo(task: Task, base_url: str, echo: str) -> object:
    form = dict(task.parameters)
    if form.get("inputImage", "").startswith("/v1/File/"):
        form["inputImage"] = base_url + form["inputImage"]
    match echo:
        case "empty":
            return {}
        case "string":
            return json.dumps(form)
        case "rewritten" if task.image or task.parameters.get("inputImageUrl"):
            others = {name: value for name, value in form.items() if name != "inputImageUrl"}
            return others | {"inputImage": f"{base_url}/v1/File/{task.token[:16]}/inputImage-{task.id}.png"}
    return form


def socket_messages(task: Task, now: float, base_url: str, form: str = "id") -> list[dict[str, object]]:
    """All WebSocket messages of a task until now.

    Args:
        task: the task.
        now: unix seconds.
        base_url: scheme, host and port of the URLs in them.
        form: what identifies the task, see `Settings.socket_format`.
    """
    until = now if task.cancelled is None else min(now, task.cancelled)
    messages: list[dict[str, object]] = []

    def add(kind: str, content: object = None) -> None:
        messages.append(_message(task, kind, content, form))

    if task.error_seconds:
        add(STAGES[0])
        add("task_error", OUT_OF_MEMORY)
    if not task.is_in_error(until):
        _add_stages(task, now, until, add)
    if task.is_over(now):
        if task.cancelled is None and task.log:
            add("task_error", task.log)  # the service sends any error output under this name
        add(task.status(now), outputs_of(task, now, base_url) if task.cancelled is None else None)
    return messages


def _add_stages(task: Task, now: float, until: float, add: Callable[[str, object], None]) -> None:
    reached = task.stage(now)
    for stage in range(min(reached, LAST - 1) + 1):
        add(STAGES[stage], "Loading the model" if stage == OUTPUT else None)
        if stage == OUTPUT:
            span = task.begins(stage + 1) - task.begins(stage)
            part = 1.0 if reached > stage or span <= 0 else (until - task.begins(stage)) / span
            done = min(STEPS, int(STEPS * part))  # a held task stays in this stage for longer than planned
            for step in range(1, done + 1):
                add("task_output", _progress(step))


def next_message_at(task: Task, now: float) -> float | None:
    """When there may be more WebSocket messages of a task (unix seconds); None for never."""
    if task.is_over(now):
        return None
    if task.held and task.stage(now) > OUTPUT:
        return now + 0.25
    starts = [task.begins(stage) for stage in range(LAST)] + [task.end]
    return min([*(at for at in starts if at > now), now + 0.5])


def _message(task: Task, kind: str, content: object, form: str) -> dict[str, object]:
    message: dict[str, object] = {"type": kind, "message": content, "result": True}
    if form != "id":
        message["tasktoken"] = task.token
    if form != "token":
        last = kind == STAGES[LAST]
        message |= {
            "id": task.id,
            "success": task.pexit == "0" if last else None,
            "terminal": last,
            "exitCode": int(task.pexit) if last else None,
        }
    return message


def _progress(step: int) -> dict[str, str]:
    return {
        "type": "progressGenerate", "task": "Generate", "percentage": str(100 * step // STEPS),
        "stepCurrent": str(step), "stepTotal": str(STEPS), "speed": "1.25", "speedType": "it/s",
        "elapsedTime": "00:01", "remainingTime": "00:01",
    }  # fmt: skip
