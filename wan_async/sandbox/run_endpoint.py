"""`Run`: creates tasks, or refuses to."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from wan_async.sandbox.clip_orders import ClipOrders, order_for
from wan_async.sandbox.faults import REFUSALS
from wan_async.sandbox.files import placeholder_clip, upload_name
from wan_async.sandbox.http import Refusal
from wan_async.sandbox.model_description import DEFAULTS, MODEL, check_parameters
from wan_async.sandbox.state import Call, State
from wan_async.sandbox.task_prices import price_micros
from wan_async.sandbox.tasks import PROJECT_ID, Task

TEAMMATE_PROJECT_ID = "800"


@dataclass(slots=True)
class _ForcedRefusal:
    code: int
    message: str
    remaining: int | None


class RunEndpoint:
    """Creates the tasks of Runs and of teammates."""

    def __init__(self, state: State, clip_orders: ClipOrders) -> None:
        self._state = state
        self._clip_orders = clip_orders
        self._refusal: _ForcedRefusal | None = None

    def run(self, call: Call) -> dict[str, Any]:
        """Answer `Run/{owner}/{model}`."""
        if call.endpoint != f"Run/{MODEL}":
            raise Refusal(1, "tool-not-accessible")
        self._check_forced_refusal()
        state = self._state
        project_id = call.form.pop("projectid", "") or self._project_id(call.project)
        form = DEFAULTS | {name: value for name, value in call.form.items() if value != DEFAULTS.get(name)}
        check_parameters(form)
        now, (shortest, longest) = state.now(), state.settings.task_seconds
        seconds = shortest + (longest - shortest) * state.random.random()
        price = price_micros(state.settings, form["resolution"], seconds)
        if (refusal := state.account.refusal(price, now)) is not None:
            raise Refusal(*refusal)
        image = self._image(call, form)
        digest = None if image is None else hashlib.sha256(image).hexdigest()
        task = state.account.create(
            form, digest, price, seconds, now, project=call.project, project_id=project_id, **self._draw_faults()
        )
        if call.file is not None:
            task.set_image_url(f"/v1/File/{task.token[:16]}/inputImage-{task.id}.png")
            state.files.put(upload_name(task.token[:16]), call.file)
        if state.faults.meets("failed_render", "Run"):
            task.fail("RuntimeError: the render failed")
        else:
            self._clip_orders.begin(task, order_for(task, image))
        state.save(task)
        state.record("Run", task)
        return {"taskid": task.id, "socketaccesstoken": task.token}

    def refuse(self, code: int, message: str, times: int | None = None) -> None:
        """Refuse the next `times` Runs; None refuses all, 0 ends it."""
        self._refusal = None if times == 0 else _ForcedRefusal(int(code), str(message), times)

    def add_teammate_tasks(
        self, count: int, parameters: dict[str, str] | None, project_id: str, seconds: float | None
    ) -> list[Task]:
        """See `Sandbox.add_teammate_tasks`."""
        state = self._state
        form = DEFAULTS | {"prompt": "a clip of a teammate"} | (parameters or {})
        seconds = state.settings.task_seconds[1] if seconds is None else seconds
        price = price_micros(state.settings, form["resolution"], seconds)
        tasks = []
        for _ in range(count):
            task = state.account.create(dict(form), None, price, seconds, state.now(), project_id=project_id)
            self._clip_orders.store(task, placeholder_clip(order_for(task, None)))
            tasks.append(task)
        state.save(*tasks)
        return tasks

    def _check_forced_refusal(self) -> None:
        if self._state.settings.refusal is not None:
            raise Refusal(*REFUSALS[self._state.settings.refusal])
        if (refusal := self._refusal) is None:
            return
        if refusal.remaining is not None:
            refusal.remaining -= 1
            if refusal.remaining <= 0:
                self._refusal = None
        raise Refusal(refusal.code, refusal.message)

    def _project_id(self, key: str) -> str:
        return str(700 + list(self._state.settings.projects).index(key)) if key else PROJECT_ID

    def _image(self, call: Call, form: dict[str, str]) -> bytes | None:
        file = call.file or self._state.files.upload_at(form["inputImageUrl"])
        return None if file is None else file[1]

    def _draw_faults(self) -> dict[str, Any]:
        """Draw the faults that a new task will meet; the fields of `Task` that describe them."""
        faults, settings, fields = self._state.faults, self._state.settings, dict[str, Any]()
        if faults.meets("task_error", "Run"):
            fields["error_seconds"] = settings.task_error_seconds
        if faults.meets("task_error_stuck", "Run"):
            fields["error_seconds"] = math.inf
        if faults.meets("late_outputs", "Run"):
            fields |= {"outputs_after": settings.late_outputs_seconds, "pexit_lags": faults.draw() < 0.5}
        if faults.meets("late_cdn", "Run"):
            fields["files_after"] = settings.late_cdn_seconds
        return fields
