"""`Task/*`: shows, lists, cancels and kills tasks, and deletes their files."""

from __future__ import annotations

import re
from itertools import islice, takewhile
from typing import Any

from wan_async.sandbox.faults import DENIALS
from wan_async.sandbox.files import clip_name, upload_name
from wan_async.sandbox.http import Refusal
from wan_async.sandbox.model_description import MODEL
from wan_async.sandbox.state import Call, State
from wan_async.sandbox.tasks import Task
from wan_async.sandbox.views import task_view

MAX_PAGE = 100


class TaskEndpoints:
    """Answers the requests about existing tasks."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._denied_until: dict[str, float] = {}

    def detail(self, call: Call) -> dict[str, Any]:
        """Answer Task/Detail."""
        task, faults = self._find(call), self._state.faults
        denied = self._denied_now()
        if task.key not in denied and faults.meets("denied", "Task/Detail"):
            self._deny(task)
        if task.key in denied or faults.meets("vanish", "Task/Detail"):
            raise self._no_task(call.endpoint)
        self._state.record("Task/Detail", task)
        return {"total": "1", "tasklist": [self.view(task, call.base_url)]}

    def list(self, call: Call) -> dict[str, Any]:
        """Answer Task/List."""
        state, form, faults, now = self._state, call.form, self._state.faults, self._state.now()
        state.account.settle(now)
        start = _number(form, "start", 0)
        limit = min(_number(form, "limit", 20), state.settings.list_page_cap, MAX_PAGE)
        tasks = state.account.tasks
        if state.settings.projects:  # the usual account has a single project and needs no copy
            tasks = {key: task for key, task in tasks.items() if task.project == call.project}
        if denied := self._denied_now():
            tasks = {key: task for key, task in tasks.items() if key not in denied}
        newest = now - state.settings.visible_after_seconds
        hidden = sum(1 for _ in takewhile(lambda task: task.created > newest, reversed(tasks.values())))
        total = len(tasks) - hidden
        if form.get("modelName", MODEL) != MODEL or not total:
            raise self._no_task(call.endpoint)
        if form.get("order", "DESC").upper() == "ASC":
            page = [*islice(tasks.values(), start, min(total, start + limit))]
        else:
            page = [*islice(reversed(tasks.values()), hidden + start, hidden + start + limit)]
        if page and faults.meets("vanish", "Task/List"):
            page.pop(int(faults.draw() * len(page)))
        if page and faults.meets("denied", "Task/List"):
            self._deny(page.pop(int(faults.draw() * len(page))))
        return {"total": str(total), "tasklist": [self.view(task, call.base_url) for task in page]}

    def cancel(self, call: Call) -> dict[str, Any]:
        """Answer Task/Cancel."""
        task = self._find(call)
        if task.status(self._state.now()) != "task_queue":
            raise Refusal(1, "Task is not in a cancellable state.")
        return self._end(task, call.base_url, "Task/Cancel")

    def kill(self, call: Call) -> dict[str, Any]:
        """Answer Task/Kill."""
        task = self._find(call)
        if task.is_over(self._state.now()):
            raise Refusal(1, "Task is not in a killable state.")
        return self._end(task, call.base_url, "Task/Kill")

    def end(self, task: Task, base_url: str) -> dict[str, Any]:
        """Kill a task without a request.

        Raises:
            ValueError: it has ended.
        """
        self._state.account.settle(self._state.now())
        if task.is_over(self._state.now()):
            raise ValueError(f"task {task.id} has ended")
        return self._end(task, base_url, "Task/Kill")

    def delete(self, call: Call) -> dict[str, Any]:
        """Answer Task/InputOutputDelete."""
        task = self._find(call)
        if not task.is_over(self._state.now()):
            raise Refusal(1, "Task is not in a terminal state.")
        task.mark_deleted()
        self._state.save(task)
        for name in (clip_name(task.key), upload_name(task.token[:16])):
            self._state.files.delete(name)
        return {}

    def view(self, task: Task, base_url: str) -> dict[str, Any]:
        """A task as Task/Detail shows it."""
        settings = self._state.settings
        return task_view(task, settings.now(), base_url, settings.echo, with_project=settings.show_projectid)

    def _find(self, call: Call) -> Task:
        state, form, now = self._state, call.form, self._state.now()
        task = state.account.find(form.get("taskid", ""), form.get("tasktoken") or form.get("socketaccesstoken", ""))
        if task is None or task.project != call.project or now < task.created + state.settings.visible_after_seconds:
            raise self._no_task(call.endpoint)
        state.account.settle(now)
        return task

    def _end(self, task: Task, base_url: str, endpoint: str) -> dict[str, Any]:
        state, now = self._state, self._state.now()
        runs = task.size > 0 and not task.is_in_error(now)
        kept = runs and endpoint == "Task/Kill" and state.faults.meets("kept_outputs", endpoint)
        late = state.faults.meets("late_charge", endpoint) and not kept
        state.account.cancel(task, now, now + state.settings.late_charge_seconds if late else None, kept=kept)
        state.save(task)
        return {"tasklist": [self.view(task, base_url)]}

    def _no_task(self, endpoint: str) -> Refusal:
        """The answer for a task that does not exist, or must not be seen."""
        words = self._state.settings.denial
        if self._state.faults.meets("odd_denial", endpoint):
            words = "not-founded" if self._state.faults.draw() < 0.5 else "not-exist"
        return Refusal(*DENIALS[words])

    def _deny(self, task: Task) -> None:
        self._denied_until[task.key] = self._state.now() + self._state.settings.denied_seconds

    def _denied_now(self) -> dict[str, float]:
        """Keys of the tasks that meet the fault `denied` now; expired ones are removed."""
        if self._denied_until:
            now = self._state.now()
            for key in [key for key, until in self._denied_until.items() if now >= until]:
                del self._denied_until[key]
        return self._denied_until


def _number(form: dict[str, str], name: str, default: int) -> int:
    text = form.get(name, "")
    if not re.fullmatch(r"[0-9]{0,9}", text):
        raise Refusal(0, f"Request parameter [{name}] is not valid")
    return int(text) if text else default
