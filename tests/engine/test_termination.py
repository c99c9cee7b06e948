"""Every run ends, soon after a stop, with a true exit code, even if something is slow, unavailable or broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from denials import HOUR, denied, no_task
from harness import Send, World, intercepting, make_sandbox, text_jobs, virtually, within
from pictures import png

from wan_async.domain import events
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import Job
from wan_async.engine.polling import PollHeap
from wan_async.engine.run import Run
from wan_async.engine.tracker import Tracker
from wan_async.engine.unassigned_clips import UnassignedClips
from wan_async.journal.sqlite import SqliteJournal


def limited(after: str) -> httpx.Response:
    content = {"result": False, "errors": [{"code": 0, "message": "Too many requests"}]}
    return httpx.Response(429, headers={"retry-after": after}, json=content)


async def stop(runner: Run, after: float) -> None:
    await anyio.sleep(after)
    runner.stop("Ctrl-C", ExitCode.INTERRUPTED)


@pytest.mark.virtual_time
@pytest.mark.parametrize(("endpoint", "after"), [("/Task/List", 5.0), ("/Run/", 310.0), ("/File/Upload", 310.0)])
async def test_a_stop_does_not_wait_for_a_rate_limit(tmp_path: Path, endpoint: str, after: float) -> None:
    (tmp_path / "cat.png").write_bytes(png(bytes(50)))
    world, _ = denied(tmp_path, lambda request: limited("300") if endpoint in request.url.path else None)
    image = tmp_path / "cat.png" if endpoint == "/File/Upload" else None
    batch = [Job(id=f"{n}", prompt=f"{n}", image=image) for n in range(30)]
    finished = await within(after + 30, world.run(batch, lambda runner: stop(runner, after)))
    assert (finished.exit_code, finished.unfinished) == (130, 30)


@pytest.mark.virtual_time
async def test_a_stop_does_not_wait_for_requests_of_many_missing_tasks(tmp_path: Path) -> None:
    down = False

    @intercepting
    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        if not down and "/cdn/" in request.url.path:
            return httpx.Response(404)
        if down and request.url.path.endswith("/Task/Detail"):
            await anyio.sleep(60)
            raise httpx.ReadTimeout("slow", request=request)
        return await send(request)

    world = World(tmp_path, make_sandbox(), wrap=handle)
    await within(HOUR, world.run(text_jobs(60), patience_seconds=5, concurrency=30))
    down = True
    finished = await within(300, world.run(text_jobs(61), lambda runner: stop(runner, 5)))
    assert (finished.exit_code, finished.missing, finished.unfinished) == (130, 60, 1)


def test_an_unavailable_task_list_holds_no_slot_is_logged_and_hardly_delays_a_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        down = False

        def deny(request: httpx.Request) -> httpx.Response | None:
            return httpx.Response(503) if down and request.url.path.endswith("/Task/List") else None

        world, _ = denied(tmp_path, deny)
        world.sandbox.faults.next("drop_after", "Run")

        async def act(runner: Run) -> None:
            nonlocal down
            await anyio.sleep(0.2)
            down = True
            await anyio.sleep(HOUR)
            assert len(world.events_of(events.Stored)) == 2
            runner.stop("Ctrl-C", ExitCode.INTERRUPTED)

        finished = await within(HOUR + 300, world.run(text_jobs(3), act, concurrency=1))
        assert (finished.exit_code, finished.stored, finished.unknown) == (130, 2, 1)
        down = False
        assert (await within(HOUR, world.run(text_jobs(3)))).exit_code == 0
        assert world.tasks == 3

    virtually(test)
    assert any("503" in record.message for record in caplog.records)


@pytest.mark.virtual_time
async def test_a_proxy_that_answers_every_run_with_an_error_page_ends_the_run(tmp_path: Path) -> None:
    page = httpx.Response(502, text="<html><title>Bad gateway</title>")
    world, requested = denied(tmp_path, lambda request: page if "/Run/" in request.url.path else None)
    finished = await within(2 * HOUR, world.run(text_jobs(3), settle_seconds=5))
    assert finished.exit_code == 1
    assert sum("/Run/" in path for path in requested) <= 3 * 21
    assert "502" in world.events_of(events.Stopping)[0].reason


@pytest.mark.virtual_time
async def test_an_inline_image_extends_the_timeout_of_run(tmp_path: Path) -> None:
    @intercepting
    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        if "/Run/" in request.url.path:
            await anyio.sleep(80)
        return await send(request)

    (tmp_path / "0.png").write_bytes(png(bytes(5_000_000)))
    world = World(tmp_path, make_sandbox(), wrap=handle)
    job = Job(id="a", prompt="x", image=tmp_path / "0.png")
    finished = await within(HOUR, world.run([job], upload="inline"))
    assert (finished.exit_code, world.tasks) == (0, 1)


@pytest.mark.virtual_time
async def test_a_clip_that_appears_at_the_end_of_a_run_is_stored(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(20, 20)))

    @intercepting
    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        first = next(iter(world.sandbox.account.tasks.values()), None)
        mine = first is not None and (first.token.encode() in request.content or f"/{first.id}/" in request.url.path)
        if "/cdn/" in request.url.path and mine:
            await anyio.sleep(300)
        response = await send(request)
        if not (request.url.path.endswith("/Task/Detail") and mine):
            return response
        content = json.loads(await response.aread())
        task = content["tasklist"][0]
        if task["status"] == "task_postprocess_end":
            task["status"] = "task_cancel"
            if anyio.current_time() < 30:
                task.update(outputs=[], totalcost="0")
        return httpx.Response(200, json=content)

    world.wrap = handle
    finished = await within(HOUR, world.run(text_jobs(5), concurrency=1))
    assert (finished.exit_code, finished.stored, finished.unfinished) == (0, 5, 0)


@pytest.mark.parametrize("name", ["pop_due", "_denied", "_plan_next"])
def test_an_exception_in_the_tracker_loses_no_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    owner: type = PollHeap if name == "pop_due" else Tracker
    inner, met = getattr(owner, name), list[int]()

    def broken(self: Any, *args: Any) -> Any:
        result = inner(self, *args) if name == "pop_due" else None
        if result is not None or name != "pop_due":
            met.append(1)
            if len(met) == (5 if name == "pop_due" else 1):
                raise ZeroDivisionError
        return inner(self, *args) if name != "pop_due" else result

    monkeypatch.setattr(owner, name, broken)

    async def test() -> None:
        @intercepting
        async def handle(request: httpx.Request, send: Send) -> httpx.Response:
            if request.url.path.endswith("/Task/Detail"):
                await anyio.sleep(0.5)
                if name == "_denied" and anyio.current_time() < 100:
                    return no_task()
            return await send(request)

        world = World(tmp_path, make_sandbox(), wrap=handle)
        finished = await within(HOUR, world.run(text_jobs(10)))
        assert (finished.exit_code, finished.stored, world.tasks) == (0, 10, 10)

    virtually(test)
    assert met


def test_rare_exceptions_in_the_tracker_over_hours_end_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, broke_at = Tracker._covers, [0.0]

    def broken(self: Tracker, waiting: Any) -> bool:
        if anyio.current_time() - broke_at[-1] > 100:
            broke_at.append(anyio.current_time())
            raise ZeroDivisionError
        return inner(self, waiting)

    monkeypatch.setattr(Tracker, "_covers", broken)

    async def test() -> None:
        world = World(tmp_path, make_sandbox(task_seconds=(50, 50)))
        assert (await within(3 * HOUR, world.run(text_jobs(50), concurrency=1))).exit_code == 0

    virtually(test)
    assert len(broke_at) > 20


@pytest.mark.virtual_time
async def test_an_exception_while_a_failure_is_committed_affects_no_other_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[int] = []
    inner = SqliteJournal.job_failed

    async def broken(self: SqliteJournal, *args: Any, **options: Any) -> None:
        met.append(1)
        if len(met) <= 2:
            raise MemoryError
        await inner(self, *args, **options)

    monkeypatch.setattr(SqliteJournal, "job_failed", broken)

    def deny(request: httpx.Request) -> httpx.Response | None:
        content = {"result": False, "errors": [{"code": 0, "message": "Request parameter [prompt] required"}]}
        mine = "/Run/" in request.url.path and b"scene 3" in request.content
        return httpx.Response(200, json=content) if mine else None

    world, _ = denied(tmp_path, deny)
    finished = await within(HOUR, world.run(text_jobs(10)))
    assert (finished.exit_code, finished.stored) == (1, 9)


@pytest.mark.virtual_time
async def test_an_exception_after_a_clip_is_stored_fails_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, met = UnassignedClips.discard, list[int]()

    async def broken(self: UnassignedClips, attempt: Any) -> None:
        met.append(1)
        if len(met) == 1:
            raise ZeroDivisionError
        await inner(self, attempt)

    monkeypatch.setattr(UnassignedClips, "discard", broken)

    world = World(tmp_path, make_sandbox())
    finished = await within(HOUR, world.run(text_jobs(2)))
    assert (finished.stored, finished.failed, world.events_of(events.Failed)) == (2, 0, [])


@pytest.mark.virtual_time
async def test_a_failed_render_of_its_former_content_does_not_fail_an_edited_job(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("failed_render")
    await world.run_until(1.5, [Job(id="a", prompt="first")])
    batch = [Job(id="a", prompt="second"), Job(id="b", prompt="b")]
    await within(HOUR, world.run(batch, only="b", retries=0))
    assert (await within(HOUR, world.run(batch))).exit_code == 0
