"""The clips of tasks: ordered when a task is created, rendered here or elsewhere, and stored."""

from __future__ import annotations

from collections.abc import Callable

from wan_async.sandbox.files import clip_name, pad_clip, placeholder_clip
from wan_async.sandbox.settings import ClipOrder
from wan_async.sandbox.state import State
from wan_async.sandbox.tasks import Task


class ClipOrders:
    """Renders clips at once, or hands the orders to a renderer that delivers them later."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._start: Callable[[ClipOrder], None] | None = None

    def use(self, start: Callable[[ClipOrder], None] | None) -> None:
        """Hand the orders of new tasks to `start`; None renders them at once."""
        self._start = start

    def begin(self, task: Task, order: ClipOrder) -> None:
        """Render a new task's clip, or hold the task until `deliver`."""
        if self._start is not None:
            task.hold()
            self._start(order)
            return
        render = self._state.settings.clip or placeholder_clip
        self.store(task, render(order))

    def order_of(self, task: Task) -> ClipOrder:
        """What a task's clip is rendered from, with the image that is stored."""
        form = task.parameters
        file = self._state.files.upload_at(form.get("inputImage") or form.get("inputImageUrl", ""))
        return order_for(task, None if file is None else file[1])

    def resume(self) -> None:
        """Order the clips that were being rendered when the previous process ended."""
        for task in list(self._state.account.tasks.values()):
            if task.held:
                order = self.order_of(task)
                if self._start is not None:
                    self._start(order)
                else:
                    self.deliver(task.key, placeholder_clip(order))

    def deliver(self, task_key: str, data: bytes | None) -> None:
        """Store a clip that was rendered elsewhere and release its task; None fails the task."""
        task = self._state.account.tasks[task_key]
        if data is None:
            task.fail("ValueError: the input image can't be read")
        else:
            self.store(task, data)
        self._state.account.release(task, self._state.now())
        self._state.save(task)

    def store(self, task: Task, data: bytes) -> None:
        """Store a task's clip, padded as the settings say."""
        data = pad_clip(data, self._state.settings.clip_bytes)
        faults = self._state.faults
        task.set_clip(len(data), len(data) + 1 + int(1000 * faults.draw()) if faults.meets("bad_size", "Run") else None)
        self._state.files.put(clip_name(task.key), ("video/mp4", data))


def order_for(task: Task, image: bytes | None) -> ClipOrder:
    """What a task's clip is rendered from."""
    form = task.parameters
    return ClipOrder(image, form["prompt"], form["resolution"], form["aspectRatio"], form["seed"], task.key)
