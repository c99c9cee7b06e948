"""A sandbox with a state folder continues after its process was killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sandbox_client import BASE, PNG, RUN, Wiro

from wan_async.sandbox import ClipOrder
from wan_async.sandbox.files import placeholder_clip
from wan_async.sandbox.run_endpoint import TEAMMATE_PROJECT_ID
from wan_async.sandbox.tasks import Task

pytestmark = pytest.mark.asyncio
MakeWiro = Callable[..., Wiro]


@pytest.fixture
def wiro() -> Iterator[MakeWiro]:
    made: list[Wiro] = []

    def make(**settings: Any) -> Wiro:
        made.append(Wiro(**settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


async def test_a_restarted_sandbox_has_the_same_tasks_and_files(wiro: MakeWiro, tmp_path: Path) -> None:
    it = wiro(state=tmp_path / "state", clip_bytes=900)
    listed = await it.upload()
    done = await it.finished(inputImageUrl=listed["url"])
    clip = (await it.get(done["outputs"][0]["url"])).body
    running = await it.start(seed="9")
    it.restart()
    assert (await it.get(done["outputs"][0]["url"])).body == clip
    assert (await it.get(listed["url"])).body == PNG
    assert (await it.get(f"{BASE}/v1/File/unknown/input")).status == 404
    shown = await it.detail(running)
    assert shown["status"] == "task_queue"
    assert shown["parameters"]["seed"] == "9"
    fresh = await it.start(inputImageUrl=listed["url"])
    assert int(fresh) > int(running)
    assert it.sandbox.account.tasks[fresh].image == hashlib.sha256(PNG).hexdigest()
    assert [task["id"] for task in (await it.call("Task/List"))["tasklist"]] == [fresh, running, done["id"]]


async def test_an_interrupted_render_can_be_ordered_again(wiro: MakeWiro, tmp_path: Path) -> None:
    it = wiro(state=tmp_path)
    it.sandbox.render_with(lambda order: None)
    listed = await it.upload()
    task_id = await it.start(inputImageUrl=listed["url"], resolution="720P")
    it.restart()
    task: Task = it.sandbox.account.tasks[task_id]
    assert task.held
    order = it.sandbox.order_of(task)
    assert order == ClipOrder(PNG, "a koala", "720P", "Default", "42", task_id)
    it.sandbox.deliver_clip(task_id, placeholder_clip(order))
    it.time += 10
    assert (await it.detail(task_id))["outputs"]


async def test_a_restart_charges_nothing_twice(wiro: MakeWiro, tmp_path: Path) -> None:
    it = wiro(state=tmp_path)
    for _ in range(3):
        await it.start()
        it.time += 7
    for _ in range(2):
        it.restart()
        it.sandbox.account.settle(it.time)
        assert it.sandbox.account.spent_micros == 100_000
        assert it.sandbox.account.balance_micros == 99_900_000
    it.time += 10
    it.sandbox.account.settle(it.time)
    assert it.sandbox.account.spent_micros == 150_000


async def test_tokens_are_unique_across_restarts(wiro: MakeWiro, tmp_path: Path) -> None:
    it = wiro(state=tmp_path)
    first = await it.run()
    for _ in range(3):
        it.restart()
        assert (await it.run())["socketaccesstoken"] != first["socketaccesstoken"]
    assert len({task.token for task in it.sandbox.account.tasks.values()}) == 4
    shown = await it.call("Task/Detail", tasktoken=first["socketaccesstoken"])
    assert shown["tasklist"][0]["id"] == first["taskid"]


async def test_callbacks_and_inline_images_survive_a_restart(wiro: MakeWiro, tmp_path: Path) -> None:
    it = wiro(state=tmp_path)
    it.sandbox.render_with(lambda order: None)
    callback = "http://127.0.0.1:1/x"
    task_id = (await it.send_file(RUN, "inputImage", prompt="x", callbackUrl=callback))["taskid"]
    it.restart()
    assert it.sandbox.order_of(it.sandbox.account.tasks[task_id]).image == PNG
    assert (await it.get((await it.detail(task_id))["parameters"]["inputImage"])).body == PNG
    it.sandbox.deliver_clip(task_id, b"clip")
    it.time += 10
    ((_, shown),) = it.sandbox.callbacks_due()
    assert f'"url": "{BASE}/' in json.dumps(shown["outputs"])
    it.restart()
    assert it.sandbox.callbacks_due() == []


async def test_only_the_files_of_a_deleted_task_are_removed(wiro: MakeWiro, tmp_path: Path) -> None:
    for state in (None, tmp_path):
        it = wiro(state=state)
        tasks = [(await it.send_file(RUN, "inputImage", prompt="x"))["taskid"] for _ in range(2)]
        it.time += 10
        images = [(await it.detail(task_id))["parameters"]["inputImage"] for task_id in tasks]
        assert [(await it.get(url)).status for url in images] == [200, 200]
        await it.call("Task/InputOutputDelete", taskid=tasks[0])
        assert [(await it.get(url)).status for url in images] == [404, 200]
        kept = sorted(path.name for path in tmp_path.iterdir() if "sqlite3" not in path.name)
        assert len(kept) == (0 if state is None else 2)
        assert (await it.detail(tasks[1]))["outputs"]


async def test_a_clip_whose_file_was_removed_is_not_found(wiro: MakeWiro, tmp_path: Path) -> None:
    it = wiro(state=tmp_path)
    url = await it.clip_url()
    (file,) = tmp_path.glob("clip-*")
    file.unlink()
    assert (await it.get(url)).status == 404


async def test_a_restart_draws_other_faults_and_durations(wiro: MakeWiro, tmp_path: Path) -> None:
    it = wiro(state=tmp_path, task_seconds=(1.0, 9.0), faults={"http_500@Tool/Detail": 0.5}, balance_usd=1000.0)
    met, seconds = [], []
    for _ in range(3):
        met.append(tuple([(await it.ask("Tool/Detail", b"{}")).status for _ in range(32)]))
        seconds.append(it.sandbox.account.tasks[await it.start()].seconds)
        it.restart()
    assert len(set(met)) == len(set(seconds)) == 3


async def test_task_errors_continue_after_a_restart(wiro: MakeWiro, tmp_path: Path) -> None:
    it = wiro(state=tmp_path)
    for fault in ("task_error", "task_error_stuck"):
        it.sandbox.faults.next(fault)
        await it.start()
    it.restart()
    assert [task.status(it.time) for task in it.sandbox.account.tasks.values()] == ["task_error"] * 2
    it.time += 13
    kinds = [task.status(it.time) for task in it.sandbox.account.tasks.values()]
    assert kinds == ["task_postprocess_end", "task_error"]
    assert it.sandbox.account.active(it.time) == 1


async def test_teammates_are_created_only_at_the_first_start(wiro: MakeWiro, tmp_path: Path) -> None:
    it = wiro(teammates=2, state=tmp_path)
    it.restart()
    assert [task.project_id for task in it.sandbox.account.tasks.values()] == [TEAMMATE_PROJECT_ID] * 2


async def test_a_late_charge_is_applied_once_despite_restarts(wiro: MakeWiro, tmp_path: Path) -> None:
    it = wiro(state=tmp_path)
    it.sandbox.faults.next("late_charge")
    await it.call("Task/Kill", taskid=await it.start())
    for _ in range(3):
        it.restart()
        it.time += 30
        it.sandbox.account.settle(it.time)
        assert it.sandbox.account.spent_micros == 50_000
        it.sandbox.save()
