"""Candidates of quarantined attempts, in whole runs: tracked, downloaded, and assigned by the user."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from harness import Mortal, World, make_sandbox, text_jobs, virtually, within
from journals import become, enroll, opened
from sample_events import finished, started
from sampling import sampled
from servers import events_of, in_process, sandbox_server, write_batch

from wan_async import errors
from wan_async.cli.display import plain
from wan_async.cli.main import main
from wan_async.domain import events
from wan_async.domain.attempt import Clip, Unassigned
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import Job
from wan_async.domain.remote_task import TaskDetail
from wan_async.engine import unassigned_clips
from wan_async.engine.assignment import assign
from wan_async.engine.run import Run
from wan_async.engine.unassigned_clips import _base
from wan_async.filesystem import Files
from wan_async.journal.reports import owned_tasks, report

FOLDER = "unassigned"


def lossy(folder: Path, lost: int = 1, **settings: Any) -> World:
    """A world whose service echoes nothing, and whose first `lost` answers to Run are lost."""
    world = World(folder, make_sandbox(echo="empty", **settings))
    world.sandbox.faults.next("drop_after", endpoint="Run", times=lost)
    return world


def rows(world: World) -> list[Unassigned]:
    seen = report(world.home)
    assert seen is not None
    return seen.unassigned


def files(world: World) -> dict[str, bytes]:
    folder = world.output / FOLDER
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.exists() else {}


def results(world: World) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (world.output / "results.jsonl").read_text().splitlines()]


def unowned(world: World) -> list[str]:
    owned = owned_tasks(world.home)
    assert owned is not None
    return sorted(set(world.sandbox.account.tasks) - owned.names, key=int)


def quarantined(world: World) -> list[str]:
    """The quarantined jobs: which answers are lost is random, since jobs are submitted concurrently."""
    seen = report(world.home)
    assert seen is not None
    return [result.job for result in seen.results if result.state == "quarantined"]


class Changed(Mortal):
    """A transport that changes the responses about tasks, and may delay downloads."""

    change: Callable[[dict[str, Any]], None] = staticmethod(lambda task: None)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if not request.url.path.endswith(("/Task/Detail", "/Task/List")):
            return response
        content = json.loads(await response.aread())
        for task in content.get("tasklist") or []:
            self.change(task)
        return httpx.Response(response.status_code, json=content)


def changing(world: World, change: Callable[[dict[str, Any]], None]) -> None:
    def wrap(inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        changed = Changed(inner, world)
        changed.change = change
        return changed

    world.wrap = wrap


@pytest.mark.virtual_time
async def test_the_clip_of_a_quarantined_attempt_is_downloaded_with_a_sidecar(tmp_path: Path) -> None:
    world = lossy(tmp_path)
    finished = await world.run(text_jobs(3), settle_seconds=5)
    assert (finished.exit_code, finished.unknown, finished.stored) == (5, 1, 2)
    (task,) = unowned(world)
    assert list(files(world)) == [f"task-{task}.json", f"task-{task}.mp4"]
    sidecar = json.loads(files(world)[f"task-{task}.json"])
    assert sidecar["task_id"] == task
    assert sidecar["sha256"] == sha256(files(world)[f"task-{task}.mp4"]).hexdigest()
    assert (sidecar["jobs"], sidecar["parameters"], sidecar["cost_usd"]) == (quarantined(world), {}, "0.05")
    assert sidecar["ended_at"] >= sidecar["created_at"] > 0
    assert "token" not in json.dumps(sidecar)
    assert (f"{finished.spent_usd:f}", f"{finished.reserved_usd:f}") == ("0.10", "0.05"), "counted once"
    (row,) = rows(world)
    assert (row.state, row.jobs, row.clips[0].file) == ("stored", quarantined(world), f"{FOLDER}/task-{task}.mp4")
    assert world.leftovers == []

    requests = dict(world.sandbox.requests)
    again = await world.run(text_jobs(3), settle_seconds=5)
    assert (again.exit_code, again.unknown) == (5, 1)
    assert world.sandbox.requests["cdn"] == requests["cdn"], "it is downloaded once"


@pytest.mark.virtual_time
async def test_several_candidates_are_recorded_for_several_jobs(tmp_path: Path) -> None:
    world = lossy(tmp_path, lost=3)
    finished = await world.run(text_jobs(4), settle_seconds=5)
    assert (finished.exit_code, finished.unknown, finished.stored) == (5, 3, 1)
    assert [row.task_id for row in rows(world)] == unowned(world)
    for row in rows(world):
        assert row.jobs == row.assignable == quarantined(world)
        assert row.state == "stored"
        assert json.loads(files(world)[f"task-{row.task_id}.json"])["jobs"] == row.jobs
    assert len(files(world)) == 6
    assert f"{finished.reserved_usd:f}" == "0.15"


@pytest.mark.virtual_time
async def test_a_job_that_is_quarantined_later_is_added_to_existing_sidecars(
    tmp_path: Path,
) -> None:
    world = lossy(tmp_path, task_seconds=(1.0, 1.0))
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 5
    world.sandbox.faults.next("drop_after", endpoint="Run")
    assert (await world.run(text_jobs(2), settle_seconds=5)).exit_code == 5
    first, second = rows(world)
    assert (first.jobs, second.jobs) == (["job-0", "job-1"], ["job-1"]), "the jobs for which it was recorded"
    assert json.loads(files(world)[f"task-{first.task_id}.json"])["jobs"] == first.jobs
    assert (await world.run(text_jobs(2), settle_seconds=5)).exit_code == 5
    for row in rows(world):
        assert row.jobs == ["job-0", "job-1"], "it was created at about the time of both"
        assert json.loads(files(world)[f"task-{row.task_id}.json"])["jobs"] == row.jobs


@pytest.mark.virtual_time
@pytest.mark.parametrize("seconds", sampled([number / 4 for number in range(8, 80, 6)], 3))
async def test_a_run_killed_at_any_time_downloads_each_clip_to_one_name(tmp_path: Path, seconds: float) -> None:
    world = lossy(tmp_path, lost=2, latency_seconds=0.25, task_seconds=(8.0, 12.0), clip_bytes=3_000_000)
    await world.run_until(seconds, text_jobs(3), settle_seconds=5)
    await world.run_until(3.0, text_jobs(3), settle_seconds=5)
    finished = await world.run(text_jobs(3), settle_seconds=5)
    assert (finished.exit_code, finished.unknown, finished.stored + finished.skipped) == (5, 2, 1)
    names = [f"task-{task}" for task in unowned(world)]
    assert len(names) == 2
    assert sorted(files(world)) == sorted(f"{name}.{kind}" for name in names for kind in ("json", "mp4"))
    assert world.tasks == 3
    assert world.leftovers == []


@pytest.mark.virtual_time
async def test_the_clip_of_a_task_that_is_adopted_later_is_not_downloaded_again(tmp_path: Path) -> None:
    world = lossy(tmp_path)
    assert (await world.run(text_jobs(2), settle_seconds=5)).exit_code == 5
    (task,) = unowned(world)
    (job,) = quarantined(world)
    content = files(world)[f"task-{task}.mp4"]
    fetched = world.sandbox.requests["cdn"]
    world.sandbox.settings.echo = "faithful"
    finished = await world.run(text_jobs(2), settle_seconds=5)
    assert (finished.exit_code, finished.stored) == (0, 1)
    assert (world.output / f"{job}.mp4").read_bytes() == content
    assert json.loads((world.output / f"{job}.json").read_text())["task_id"] == task
    assert world.sandbox.requests["cdn"] == fetched
    assert not (world.output / FOLDER).exists()
    assert rows(world) == []


@pytest.mark.virtual_time
@pytest.mark.parametrize("seconds", sampled([10.5, 11.0, 11.5, 12.0, 12.5, 13.0], 2))
async def test_a_task_that_is_adopted_while_it_is_tracked_or_downloaded_is_stored_by_its_owner(
    tmp_path: Path, seconds: float
) -> None:
    world = lossy(tmp_path, latency_seconds=0.25, task_seconds=(14.0, 14.0), clip_bytes=3_000_000)
    await world.run_until(seconds + 3, text_jobs(1), settle_seconds=5)
    assert [row.state in ("running", "ended") for row in rows(world)] == [True], "it was quarantined"
    world.sandbox.settings.echo = "faithful"
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)
    assert not (world.output / FOLDER).exists()
    assert world.leftovers == []
    assert rows(world) == []


@pytest.mark.virtual_time
async def test_a_download_is_cancelled_when_an_attempt_adopts_the_task(tmp_path: Path) -> None:
    """The attempt's own download must begin only after this one has ended."""

    world = lossy(tmp_path, task_seconds=(1.0, 1.0))
    world.sandbox.faults.next("cut_download", endpoint="cdn", times=3)
    pauses: list[float] = []
    started_download = anyio.Event()
    inner_of = world.wrap or (lambda inner: Mortal(inner, world))

    class Slow(Mortal):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if "/cdn/" in request.url.path and not pauses:
                pauses.append(anyio.current_time())
                started_download.set()
                await anyio.sleep(1000.0)
            return await super().handle_async_request(request)

    world.wrap = lambda inner: Slow(inner_of(inner), world)

    async def act(runner: Run) -> None:
        await started_download.wait()
        runner.leave()

    assert (await within(100, world.run(text_jobs(1), act, settle_seconds=5))).exit_code == 130
    pauses.clear()
    world.sandbox.settings.echo = "faithful"
    finished = await within(100, world.run(text_jobs(1), settle_seconds=5))
    assert (finished.exit_code, finished.stored, len(pauses)) == (0, 1, 1)
    assert not (world.output / FOLDER).exists()


@pytest.mark.virtual_time
@pytest.mark.parametrize(("fault", "state"), [("failed_render", "failed"), (None, "cancelled")])
async def test_a_task_without_a_clip_is_recorded_with_its_reason(tmp_path: Path, fault: str | None, state: str) -> None:
    world = lossy(tmp_path, task_seconds=(30.0, 30.0))
    if fault is not None:
        world.sandbox.faults.next(fault, endpoint="Run")

    async def act(runner: Run) -> None:
        await anyio.sleep(12.0)
        if fault is None:
            world.sandbox.end(next(iter(world.sandbox.account.tasks.values())))

    finished = await within(300, world.run(text_jobs(1), act, settle_seconds=5))
    assert finished.exit_code == 5
    (row,) = rows(world)
    assert (row.state, files(world)) == (state, {})
    assert "the task ended as" in (row.reason or "")
    again = await within(300, world.run(text_jobs(1), settle_seconds=5))
    assert again.exit_code == 5


@pytest.mark.virtual_time
async def test_a_run_waits_for_an_active_candidate(tmp_path: Path) -> None:
    world = lossy(tmp_path, task_seconds=(1000.0, 1000.0))
    began = anyio.current_time()
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert finished.exit_code == 5
    assert anyio.current_time() - began > 1000
    assert [row.state for row in rows(world)] == ["stored"]


def test_a_stopped_run_waits_for_these_tasks_and_a_run_that_is_left_does_not(tmp_path: Path) -> None:
    async def test(left: bool) -> None:
        world = lossy(tmp_path / str(left), task_seconds=(100.0, 100.0))

        async def act(runner: Run) -> None:
            await anyio.sleep(15.0)
            runner.stop("enough", ExitCode.INTERRUPTED)
            if left:
                await anyio.sleep(1.0)
                runner.leave()

        began = anyio.current_time()
        assert (await world.run(text_jobs(1), act, settle_seconds=5)).exit_code == 130
        assert (anyio.current_time() - began < 20) == left
        assert [row.state for row in rows(world)] == ["running" if left else "stored"]
        await world.run(text_jobs(1), settle_seconds=5)
        assert [row.state for row in rows(world)] == ["stored"]

    for left in (True, False):
        virtually(partial(test, left))


@pytest.mark.virtual_time
async def test_a_task_that_is_denied_is_left_for_the_next_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = lossy(tmp_path, task_seconds=(100.0, 100.0))

    async def act(runner: Run) -> None:
        await anyio.sleep(15.0)
        world.sandbox.settings.visible_after_seconds = 1e6

    assert (await within(3000, world.run(text_jobs(1), act, settle_seconds=5))).exit_code == 5
    (row,) = rows(world)
    assert row.state == "running"
    assert row.reason
    assert "is left for the next run" in caplog.text
    world.sandbox.settings.visible_after_seconds = 0.0
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 5
    (row,) = rows(world)
    assert (row.state, row.reason) == ("stored", None)


@pytest.mark.virtual_time
@pytest.mark.parametrize("status", [404, 503, 418])
async def test_a_clip_that_is_not_available_is_left_for_the_next_run(tmp_path: Path, status: int) -> None:
    world = lossy(tmp_path, lost=2)
    refused: list[str] = []

    class Refusing(Mortal):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            first = min(world.sandbox.account.tasks, key=int, default="")
            if f"/cdn/{first}/" in request.url.path and refused is not None:
                refused.append(request.url.path)
                return httpx.Response(status)
            return await super().handle_async_request(request)

    world.wrap = lambda inner: Refusing(inner, world)
    finished = await within(3000, world.run(text_jobs(2), settle_seconds=5))
    assert (finished.exit_code, finished.unknown) == (5, 2)
    assert 1 <= len(refused) <= unassigned_clips.MAX_FAULTS
    first, second = rows(world)
    assert (first.state, second.state) == ("ended", "stored"), "the other task is not affected"
    world.wrap = None
    await world.run(text_jobs(2), settle_seconds=5)
    assert [row.state for row in rows(world)] == ["stored", "stored"]
    assert len(files(world)) == 4


@pytest.mark.virtual_time
async def test_a_task_that_shows_no_output_is_left_for_the_next_run(tmp_path: Path) -> None:
    world = lossy(tmp_path)
    changing(world, lambda task: task.update(outputs=None))
    assert (await within(3000, world.run(text_jobs(1), settle_seconds=5))).exit_code == 5
    (row,) = rows(world)
    assert (row.state, row.reason) == ("ended", "the task succeeded and offers no output")
    world.wrap = None
    await world.run(text_jobs(1), settle_seconds=5)
    assert [row.state for row in rows(world)] == ["stored"]


@pytest.mark.virtual_time
async def test_every_output_of_a_task_is_downloaded_and_assigned(tmp_path: Path) -> None:
    def twice(task: dict[str, Any]) -> None:
        task["outputs"] = task["outputs"] and task["outputs"] * 2

    world = lossy(tmp_path)
    changing(world, twice)
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 5
    (task,) = unowned(world)
    assert list(files(world)) == [f"task-{task}-2.mp4", f"task-{task}.json", f"task-{task}.mp4"]
    assert json.loads(files(world)[f"task-{task}.json"])["further_files"] == [f"task-{task}-2.mp4"]
    assert (await assign(world.output, task, "job-0", world.dependencies())).file == "job-0.mp4"
    assert {path.name for path in world.clips} == {"job-0.mp4", "job-0-2.mp4"}
    assert not (world.output / FOLDER).exists()


@pytest.mark.virtual_time
async def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    world = lossy(tmp_path, task_seconds=(30.0, 30.0))

    async def act(runner: Run) -> None:
        await anyio.sleep(15.0)
        (world.output / FOLDER).mkdir()
        (task,) = world.sandbox.account.tasks
        (world.output / FOLDER / f"task-{task}.mp4").write_text("the user's file")

    assert (await world.run(text_jobs(1), act, settle_seconds=5)).exit_code == 5
    (task,) = unowned(world)
    assert list(files(world)) == [f"task-{task}.1.json", f"task-{task}.1.mp4", f"task-{task}.mp4"]
    assert (await assign(world.output, task, "job-0", world.dependencies())).file == "job-0.mp4"
    assert files(world) == {f"task-{task}.mp4": b"the user's file"}


@pytest.mark.virtual_time
async def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    world = lossy(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    world.output.mkdir()
    (world.output / FOLDER).symlink_to(tmp_path / "elsewhere")
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 5
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (row,) = rows(world)
    assert row.state == "ended"
    assert "link" in (row.reason or "")


@pytest.mark.virtual_time
async def test_a_full_disk_stops_the_run_and_the_next_run_continues(tmp_path: Path) -> None:
    class Full(Files):
        full = True

        def link(self, source: Path, target: Path) -> None:
            if self.full and target.parent.name == FOLDER:
                raise OSError(28, "No space left on device")
            super().link(source, target)

    world = lossy(tmp_path)
    world.files = disk = Full()
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 6
    disk.full = False
    fetched = world.sandbox.requests["cdn"]
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 5
    assert [row.state for row in rows(world)] == ["stored"]
    assert world.sandbox.requests["cdn"] == fetched, "the part was complete"
    assert len(files(world)) == 2


@pytest.mark.virtual_time
async def test_an_unexpected_error_is_logged_and_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("unexpected")

    world = lossy(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(unassigned_clips.UnassignedClips, "_fetch_all", broken)
        finished = await world.run(text_jobs(2), settle_seconds=5)
    assert (finished.exit_code, finished.stored) == (5, 1)
    assert "unexpected" in caplog.text
    await world.run(text_jobs(2), settle_seconds=5)
    assert [row.state for row in rows(world)] == ["stored"]


@pytest.mark.virtual_time
async def test_an_unavailable_service_does_not_prevent_the_end_of_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = lossy(tmp_path, task_seconds=(100.0, 100.0))

    async def act(runner: Run) -> None:
        await anyio.sleep(20.0)
        world.sandbox.faults.probabilities["http_500@Task/Detail"] = 1.0

    finished = await within(3000, world.run(text_jobs(1), act, settle_seconds=5))
    assert finished.exit_code == 5
    assert "left for the next run" in caplog.text


@pytest.mark.virtual_time
@pytest.mark.parametrize("denied", [False, True])
async def test_a_run_does_not_end_while_the_service_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: bool
) -> None:
    monkeypatch.setattr(unassigned_clips, "MAX_SILENCE_SECONDS", 3.0)

    world = lossy(tmp_path, task_seconds=(100.0, 100.0))

    async def act(runner: Run) -> None:
        await anyio.sleep(20.0)
        world.sandbox.settings.visible_after_seconds = 50.0 if denied else 0.0

    await world.run(text_jobs(1), act, settle_seconds=5)
    assert [row.state for row in rows(world)] == ["stored"]


@pytest.mark.virtual_time
async def test_refused_credentials_stop_the_run(tmp_path: Path) -> None:
    world = lossy(tmp_path, task_seconds=(100.0, 100.0))

    async def act(runner: Run) -> None:
        await anyio.sleep(20.0)
        world.sandbox.settings.api_key = "revoked"

    assert (await within(300, world.run(text_jobs(1), act, settle_seconds=5))).exit_code == 4
    assert [row.state for row in rows(world)] == ["running"]


@pytest.mark.virtual_time
async def test_a_later_run_records_only_tasks_created_at_about_the_time_of_the_attempt(tmp_path: Path) -> None:
    world, other = lossy(tmp_path / "a"), World(tmp_path / "b", make_sandbox())
    other.sandbox = world.sandbox
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 5
    first = [row.task_id for row in rows(world)]
    await anyio.sleep(500.0)
    await other.run([Job(prompt="soon after")])
    await world.run(text_jobs(1), settle_seconds=5)
    assert [row.task_id for row in rows(world)][:1] == first
    assert len(rows(world)) == 2
    await anyio.sleep(5000.0)
    await other.run([Job(prompt="long after")])
    await world.run(text_jobs(1), settle_seconds=5)
    assert len(rows(world)) == 2


@pytest.mark.virtual_time
async def test_a_clip_that_the_user_deleted_is_not_downloaded_again(tmp_path: Path) -> None:
    world = lossy(tmp_path)
    await world.run(text_jobs(1), settle_seconds=5)
    fetched = world.sandbox.requests["cdn"]
    for path in (world.output / FOLDER).iterdir():
        path.unlink()
    await world.run(text_jobs(1), settle_seconds=5)
    assert world.sandbox.requests["cdn"] == fetched
    (task,) = unowned(world)
    assert (await assign(world.output, task, "job-0", world.dependencies())).file is None
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, finished.stored) == (0, 1)
    assert not (world.output / FOLDER).exists()


@pytest.mark.virtual_time
async def test_the_socket_subscribes_to_these_tasks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Listener:
        def subscribe(self, token: str) -> None:
            calls.append(f"+{token}")

        def unsubscribe(self, token: str) -> None:
            calls.append(f"-{token}")

    world = lossy(tmp_path)

    async def act(runner: Run) -> None:
        await anyio.sleep(1.0)
        assert runner._environment is not None
        monkeypatch.setattr(runner._environment.hints, "_socket", Listener())

    await world.run(text_jobs(1), act, settle_seconds=5)
    (task,) = world.sandbox.account.tasks.values()
    assert calls == [f"+{task.token}", f"-{task.token}"]


def row_of(task_id: str) -> Unassigned:
    return Unassigned(
        task_id=task_id, token=None, state="running", task=TaskDetail(), seen_at=0.0, ended_at=None, clips=[],
        reason=None, owner=None, jobs=[], assignable=[],
    )  # fmt: skip


def test_no_task_id_escapes_the_folder_or_collides_with_another() -> None:
    ids = [
        "1",
        "2",
        "1-2",
        "../../etc/passwd",
        "a/b",
        "a-b",
        "A-B",
        "a\\b",
        "\u0661",
        "x" * 500,
        "x" * 501,
        "con",
        "1.mp4",
    ]
    names = {_base(row_of(task_id), 0).casefold() for task_id in ids}
    assert len(names) == len(ids)
    for name in names:
        assert name.startswith("task-")
        assert not set("/\\") & set(name)
        assert len(name.encode()) < 150
    assert _base(row_of("1"), 1) == "task-1-2" not in names


@pytest.mark.virtual_time
async def test_assigning_settles_the_attempt_and_stores_the_clip(tmp_path: Path) -> None:
    world = lossy(tmp_path, lost=2)
    await world.run(text_jobs(3), settle_seconds=5)
    first, second = unowned(world)
    content, requests = files(world)[f"task-{second}.mp4"], dict(world.sandbox.requests)
    job, other = quarantined(world)
    done = await assign(world.output, second, job, world.dependencies())
    assert (done.job, done.file) == (job, f"{job}.mp4")
    assert dict(world.sandbox.requests) == requests, "no request is sent"
    assert (world.output / f"{job}.mp4").read_bytes() == content
    assert json.loads((world.output / f"{job}.json").read_text())["task_id"] == second
    assert list(files(world)) == [f"task-{first}.json", f"task-{first}.mp4"]
    assert [(row.task_id, row.jobs) for row in rows(world)] == [(first, [other])]
    (result,) = [result for result in results(world) if result["job"] == job]
    assert (result["state"], result["file"], result["task_id"], result["cost_usd"]) == (
        "stored", f"{job}.mp4", second, "0.05",
    )  # fmt: skip
    assert result["sha256"] == sha256(content).hexdigest()
    seen = report(world.home)
    assert seen is not None
    assert (seen.money.settled, seen.money.reserved) == (100_000, 50_000)

    assert (await assign(world.output, first, other, world.dependencies())).file == f"{other}.mp4"
    assert (await assign(world.output, first, other, world.dependencies())).file == f"{other}.mp4", (
        "assigning again changes nothing"
    )
    assert not (world.output / FOLDER).exists()
    finished = await world.run(text_jobs(3), settle_seconds=5)
    assert (finished.exit_code, finished.skipped, world.tasks) == (0, 3, 3)
    assert (f"{finished.spent_usd:f}", f"{finished.reserved_usd:f}") == ("0.15", "0.00")


@pytest.mark.virtual_time
@pytest.mark.parametrize("quarantined", [True, False])
async def test_an_active_task_can_be_assigned_and_is_downloaded_by_the_next_run(
    tmp_path: Path, quarantined: bool
) -> None:
    world = lossy(tmp_path, task_seconds=(40.0, 40.0))
    await world.run_until(20.0, text_jobs(1), settle_seconds=5)
    (row,) = rows(world)
    assert row.state == "running"
    assert (await assign(world.output, row.task_id, "job-0", world.dependencies())).file is None
    assert results(world)[0]["state"] == "accepted"
    seen = report(world.home)
    assert seen is not None
    assert (seen.money.settled, seen.money.reserved) == (0, 50_000)
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)
    assert f"{finished.reserved_usd:f}" == "0.00"
    assert rows(world) == []
    assert not (world.output / FOLDER).exists()


@pytest.mark.virtual_time
async def test_assigning_a_failed_task_lets_its_job_be_retried(tmp_path: Path) -> None:
    world = lossy(tmp_path)
    world.sandbox.faults.next("failed_render", endpoint="Run")
    await world.run(text_jobs(1), settle_seconds=5)
    (row,) = rows(world)
    assert (await assign(world.output, row.task_id, "job-0", world.dependencies())).file is None
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2), "it was not billed, and is retried"


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("task", "job", "where", "message"),
    [
        ("99999", "{lost}", "TASK", "there are {first}, {second}"),
        ("{owned}", "{lost}", "TASK", "task {owned} is the task of job {done} already"),
        ("{first}", "job-9", "JOB", "no job is called 'job-9'"),
        ("{first}", "{done}", "JOB", "job {done} has no quarantined attempt"),
    ],
)
async def test_assigning_a_wrong_task_or_job_is_refused_and_changes_nothing(
    tmp_path: Path, task: str, job: str, where: str, message: str
) -> None:
    world = lossy(tmp_path, lost=2)
    await world.run(text_jobs(3), settle_seconds=5)
    first, second = unowned(world)
    (owned,) = set(world.sandbox.account.tasks) - {first, second}
    lost = quarantined(world)
    (done,) = {"job-0", "job-1", "job-2"} - set(lost)
    names = {"first": first, "second": second, "owned": owned, "lost": lost[0], "done": done}
    before = report(world.home)
    with pytest.raises(errors.InvalidBatch) as caught:
        await assign(world.output, task.format(**names), job.format(**names), world.dependencies())
    (problem,) = caught.value.problems
    assert problem.where == where
    assert message.format(**names) in problem.message
    assert report(world.home) == before


@pytest.mark.virtual_time
async def test_assigning_in_a_folder_without_journal_or_unassigned_tasks_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    with pytest.raises(errors.Unusable, match="there is no journal"):
        await assign(world.output, "1", "job-0", world.dependencies())
    await world.run(text_jobs(1))
    with pytest.raises(errors.InvalidBatch, match="there are none"):
        await assign(world.output, "1", "job-0", world.dependencies())


@pytest.mark.virtual_time
async def test_an_assigned_clip_gets_the_plain_name_and_the_earlier_one_a_number(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    await world.run([Job(id="cat", prompt="before")])
    old = (world.output / "cat.mp4").read_bytes()
    world.sandbox.faults.next("drop_after", endpoint="Run")
    await world.run([Job(id="cat", prompt="after")], settle_seconds=5)
    task = unowned(world)[-1]
    (world.output / "cat.1.mp4").write_text("the user's file")
    assert (await assign(world.output, task, "cat", world.dependencies())).file == "cat.mp4"
    assert (world.output / "cat.2.mp4").read_bytes() == old
    assert (world.output / "cat.1.mp4").read_text() == "the user's file"
    assert (await world.run([Job(id="cat", prompt="after")])).exit_code == 0


@pytest.mark.virtual_time
async def test_assigning_overwrites_no_file_and_the_clip_gets_a_number(tmp_path: Path) -> None:
    world = lossy(tmp_path)
    await world.run(text_jobs(1), settle_seconds=5)
    (task,) = unowned(world)
    (world.output / "job-0.mp4").write_text("the user's file")
    assert (await assign(world.output, task, "job-0", world.dependencies())).file == "job-0.1.mp4"
    assert (world.output / "job-0.mp4").read_text() == "the user's file"


class Killed(BaseException):
    """The simulated death of the process."""


class Steps(Files):
    """Raises `Killed` at the step with this number: file operations, and the journal's commits."""

    def __init__(self, at: int) -> None:
        self.left = at

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def link(self, source: Path, target: Path) -> None:
        self.step()
        super().link(source, target)

    def replace(self, source: Path, target: Path) -> None:
        self.step()
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        self.step()
        super().unlink(path)

    def fsync_folder(self, folder: Path) -> None:
        self.step()
        super().fsync_folder(folder)


class Dying(World):
    """A world in which the journal's commits count as steps, too."""

    async def die(self) -> None:
        if isinstance(self.files, Steps):
            self.files.step()
        await super().die()


class StepsInFolder(Steps):
    """Counts only the file operations in the folder of the unassigned clips."""

    def link(self, source: Path, target: Path) -> None:
        self.die_in(target.parent)
        Files.link(self, source, target)

    def replace(self, source: Path, target: Path) -> None:
        self.die_in(target.parent)
        Files.replace(self, source, target)

    def unlink(self, path: Path) -> None:
        self.die_in(path.parent)
        Files.unlink(self, path)

    def fsync_folder(self, folder: Path) -> None:
        self.die_in(folder)
        Files.fsync_folder(self, folder)

    def die_in(self, folder: Path) -> None:
        if folder.name == FOLDER:
            self.step()


@pytest.mark.virtual_time
@pytest.mark.parametrize("step", range(6))
async def test_a_download_killed_between_two_steps_is_completed_by_the_next_run(tmp_path: Path, step: int) -> None:
    world = lossy(tmp_path)
    world.files = StepsInFolder(step)
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - `group_contains` below says which
        await world.run(text_jobs(1), settle_seconds=5)
    assert caught.group_contains(Killed)
    assert [row.state for row in rows(world)] == ["ended"]
    fetched, world.files = world.sandbox.requests["cdn"], Files()
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 5
    (task,) = unowned(world)
    assert list(files(world)) == [f"task-{task}.json", f"task-{task}.mp4"]
    assert [row.state for row in rows(world)] == ["stored"]
    assert world.sandbox.requests["cdn"] == fetched, "the part was complete"


STEPS = 23


@pytest.mark.virtual_time
@pytest.mark.parametrize("step", sampled(range(STEPS + 1), 3))
async def test_a_killed_assignment_is_completed_by_the_same_command_or_the_next_run(tmp_path: Path, step: int) -> None:
    world = Dying(tmp_path / "run", make_sandbox(echo="empty"))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    await world.run(text_jobs(1), settle_seconds=5)
    (task,) = unowned(world)
    content, fetched = files(world)[f"task-{task}.mp4"], world.sandbox.requests["cdn"]
    world.files = Steps(step)
    try:
        await assign(world.output, task, "job-0", world.dependencies())
    except Killed:
        assert step < STEPS
    else:
        assert step == STEPS, "STEPS is the number of steps"
    world.files = Files()
    other = World(tmp_path / "assign", world.sandbox)
    shutil.copytree(world.folder, other.folder)
    assert (await assign(other.output, task, "job-0", other.dependencies())).file == "job-0.mp4"
    for each in (other, world):
        if quarantined(each):  # it died before the first commit
            continue
        finished = await each.run(text_jobs(1), settle_seconds=5)
        assert (finished.exit_code, each.tasks) == (0, 1)
        assert (each.output / "job-0.mp4").read_bytes() == content
        assert json.loads((each.output / "job-0.json").read_text())["task_id"] == task
        assert {path.name for path in each.output.iterdir()} == {
            ".wan_async", "job-0.mp4", "job-0.json", "results.jsonl",
        }  # fmt: skip
        assert results(each)[0]["state"] == "stored"
        assert f"{finished.reserved_usd:f}" == "0.00"
        assert rows(each) == []
    assert world.sandbox.requests["cdn"] == fetched, "it is not downloaded again"


@pytest.mark.virtual_time
async def test_a_job_that_was_submitted_again_keeps_its_unassigned_clips(tmp_path: Path) -> None:
    world = lossy(tmp_path)
    await world.run(text_jobs(1), settle_seconds=5)
    finished = await world.run(text_jobs(1), settle_seconds=5, resubmit_unknown=True)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)
    (row,) = rows(world)
    assert (row.state, row.jobs, row.assignable) == ("stored", ["job-0"], [])
    with pytest.raises(errors.InvalidBatch, match="no quarantined attempt"):
        await assign(world.output, row.task_id, "job-0", world.dependencies())


@pytest.mark.virtual_time
async def test_the_clip_of_an_abandoned_attempt_is_downloaded_by_a_run_with_nothing_else_to_do(
    tmp_path: Path,
) -> None:
    world = lossy(tmp_path, task_seconds=(60.0, 60.0))
    await world.run_until(20.0, text_jobs(1), settle_seconds=5)

    async def act(runner: Run) -> None:
        await anyio.sleep(30.0)
        assert world.events_of(events.Stored)
        runner.leave()

    world.sandbox.settings.task_seconds = (1.0, 1.0)
    await world.run(text_jobs(1), act, settle_seconds=5, resubmit_unknown=True)
    assert [row.state for row in rows(world)] == ["running"]
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, finished.skipped) == (0, 1)
    assert [row.state for row in rows(world)] == ["stored"]


@pytest.mark.virtual_time
async def test_leftovers_of_a_stored_clip_are_removed_by_the_next_run(tmp_path: Path) -> None:
    class Stuck(Files):
        stuck = True

        def unlink(self, path: Path) -> None:
            if self.stuck and path.parent.name == FOLDER and path.suffix == ".json":
                raise OSError(5, "Input/output error")
            super().unlink(path)

    world = lossy(tmp_path)
    await world.run(text_jobs(1), settle_seconds=5)
    (task,) = unowned(world)
    world.files = disk = Stuck()
    with pytest.raises(errors.Unusable):
        await assign(world.output, task, "job-0", world.dependencies())
    assert list(files(world)) == [f"task-{task}.json"]
    disk.stuck = False
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 0
    assert not (world.output / FOLDER).exists()
    assert rows(world) == []


@pytest.mark.virtual_time
async def test_a_job_can_be_given_by_its_output_name(tmp_path: Path) -> None:
    world = lossy(tmp_path, lost=2)
    batch = [Job(prompt="first scene"), Job(prompt="second scene")]
    await world.run(batch, settle_seconds=5)
    first, second = unowned(world)
    seen = report(world.home)
    assert seen is not None
    (key, name), (_, other) = seen.names.items()
    assert key != name
    assert (await assign(world.output, first, name, world.dependencies())).job == key
    assert (await assign(world.output, second, other, world.dependencies())).file == f"{other}.mp4"


def assigning(status: str) -> list[str]:
    """The arguments of the last `assign` command that `status` shows."""
    return shlex.split(re.findall(r"(wan-async assign .*)", status)[-1])[1:]


def test_the_commands_shown_by_status_resolve_a_quarantined_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = write_batch(tmp_path, [{"id": f"scene-{number}", "prompt": f"scene {number}"} for number in range(2)])
    output = tmp_path / "the clips"
    flags: list[str | Path] = ["run", batch, "-o", output, "--settle", "0.2"]

    def status(*more: str) -> str:
        assert main(["status", str(output), *more]) == 0
        return capsys.readouterr().out

    with sandbox_server("--echo", "empty", "--fault", "drop-after@Run=1", "--seconds", "0.05,0.1") as server:
        run = in_process(*flags, env=server.env)
        assert run.returncode == 5, run.stderr
        assert f"clips that may be of unknown Runs are in {output / FOLDER}" in run.stdout
        assert "assign" in run.stdout
        requests = server.report()["requests"]

        shown = status()
        assert shown.count("unassigned: task ") == 2
        assert shown.count("if it is the clip of ") == 4
        with monkeypatch.context() as patch:
            for name in ("SHOWN_PROBLEMS", "SHOWN_CANDIDATES"):
                patch.setattr(f"wan_async.cli.commands.status.{name}", 1)
            few = status()
        assert few.count("if it is the clip of ") == 1
        assert "... or of 1 more jobs" in few
        assert "... and 1 more unassigned tasks; --json has all" in few
        (line,) = events_of(status("--json"))
        first, second = line["unassigned"]
        assert first == {
            "task_id": first["task_id"], "state": "stored", "file": f"{FOLDER}/task-{first['task_id']}.mp4",
            "cost_usd": "0.05", "jobs": ["scene-0", "scene-1"],
        }  # fmt: skip
        assert main(["assign", first["task_id"], "scene-7", "-o", str(output)]) == 2
        assert "JOB: no job is called 'scene-7'" in capsys.readouterr().err

        arguments = assigning(shown)
        assert arguments == ["assign", second["task_id"], "scene-1", "-o", str(output)]
        assigned = in_process(*arguments)  # without credentials
        assert assigned.returncode == 0, assigned.stderr
        assert assigned.stdout == f"task {second['task_id']} is the clip of job scene-1: {output / 'scene-1.mp4'}\n"
        again = status()
        assert again.count("if it is the clip of scene-0") == again.count("if it is the clip of ") == 1
        assert main(assigning(again)) == 0
        assert "unassigned" not in status()
        assert server.report()["requests"] == requests

        done = in_process(*flags, env=server.env)
        assert done.returncode == 0, done.stderr
        assert {path.name for path in output.iterdir()} == {
            ".wan_async", "scene-0.mp4", "scene-0.json", "scene-1.mp4", "scene-1.json", "results.jsonl", "gallery.html",
        }  # fmt: skip
        assert server.paid == 2


def test_quarantined_single_clips_can_be_assigned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with sandbox_server("--echo", "empty", "--fault", "drop-after@Run=1", "--seconds", "0.05,0.1") as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        for name in ("cat", "dog"):
            assert main(["generate", "-p", f"a {name}", "-o", str(tmp_path / f"{name}.mp4"), "--settle", "0.2"]) == 5
        first, second = (task["id"] for task in server.report()["tasks"])
    assert len(list((tmp_path / FOLDER).glob("*.mp4"))) == 2
    assert main(["assign", second, "dog", "-o", str(tmp_path)]) == 0
    assert (tmp_path / "dog.mp4").is_file()
    capsys.readouterr()
    assert main(["assign", second, "cat", "-o", str(tmp_path)]) == 2
    assert f"TASK: task {second} is the task of job dog already" in capsys.readouterr().err
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert [row["task_id"] for row in events_of(capsys.readouterr().out)[0]["unassigned"]] == [first]
    assert main(["assign", first, "cat", "-o", str(tmp_path)]) == 0
    assert (tmp_path / "cat.mp4").is_file()


@pytest.mark.parametrize("there", [True, False])
def test_the_summary_of_a_run_names_the_folder_if_it_exists(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / FOLDER).mkdir()
    screen = io.StringIO()
    with plain(screen) as display:
        display.show(started(jobs=1, output=str(tmp_path)))
        display.show(finished(exit_code=5, jobs=1, unknown=1))
    assert (str(tmp_path / FOLDER) in screen.getvalue()) == there


def test_serializing_a_task_keeps_its_amounts() -> None:
    task = TaskDetail(totalcost="0.003510000000", cps=0.05)
    assert (task.totalcost, task.cps) == (3510, 50_000)
    assert TaskDetail.model_validate_json(task.model_dump_json()) == task
    assert TaskDetail.model_validate_json(TaskDetail().model_dump_json()) == TaskDetail()


@pytest.mark.anyio
async def test_candidates_are_recorded_in_the_commit_that_quarantines_the_attempt(tmp_path: Path) -> None:
    tasks = [TaskDetail(id="7", socketaccesstoken="t7"), TaskDetail(id="8")]
    async with opened(tmp_path) as journal:
        await enroll(journal, "a", "b")
        attempt, other = await become(journal, "a", "unknown"), await become(journal, "b", "stored")
        with pytest.raises(errors.Unusable, match="can't become quarantined"):
            await journal.quarantined(other, "why", tasks, 5.0)
        assert await journal.unassigned() == []
        await journal.quarantined(attempt, "why", tasks, 5.0)
        await journal.quarantined(attempt, "why", tasks[:1], 6.0)
        found = await journal.unassigned()
        assert [(row.task_id, row.token, row.seen_at, row.jobs, row.pending) for row in found] == [
            ("7", "t7", 5.0, ["a"], True), ("8", None, 5.0, ["a"], True),
        ]  # fmt: skip
        await journal.unassigned_changed(found[0], state="stored", clips=[Clip(0, "x", "", "5ha", 1, "video/mp4")])
        assert (await journal.unassigned())[0] == found[0]
        await journal.accepted(attempt, "8", None, b"", 7.0, adopted=True)
        assert [(row.owner, row.jobs, row.shown) for row in await journal.unassigned()] == [
            (None, [], True), ("accepted", [], False),
        ]  # fmt: skip


@pytest.mark.virtual_time
async def test_assigning_a_clip_that_became_a_link_does_not_hang(tmp_path: Path) -> None:
    world = lossy(tmp_path)
    await world.run(text_jobs(2), settle_seconds=5)
    (task,), (job,) = unowned(world), quarantined(world)
    clip = world.output / "unassigned" / f"task-{task}.mp4"
    clip.rename(tmp_path / "elsewhere.mp4")
    clip.symlink_to(tmp_path / "elsewhere.mp4")
    with anyio.move_on_after(3600.0) as scope:
        await assign(world.output, task, job, world.dependencies())
    assert not scope.cancelled_caught
    assert (await world.run(text_jobs(2), settle_seconds=5)).exit_code == 0
    assert (tmp_path / "elsewhere.mp4").is_file()


@pytest.mark.virtual_time
async def test_a_candidate_that_was_cancelled_and_charged_is_polled_until_it_shows_its_clip(tmp_path: Path) -> None:
    world = lossy(tmp_path)

    def lag(task: dict[str, Any]) -> None:
        if task["id"] == "500001" and task["status"] == "task_postprocess_end":
            task["status"] = "task_cancel"
            if anyio.current_time() < 300:
                task["outputs"] = []

    changing(world, lag)
    await world.run(text_jobs(2), settle_seconds=5)
    await anyio.sleep(600)
    await world.run(text_jobs(2), settle_seconds=5)
    assert [row.state for row in rows(world)] == ["stored"]
