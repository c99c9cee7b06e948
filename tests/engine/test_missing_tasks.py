"""Unavailable tasks and clips: awaited for the run's patience, then missing, and requested by every later run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from denials import HOUR, Deny, Denying, denied, no_task
from harness import Send, World, intercepting, make_sandbox, text_jobs, within

from wan_async import Job
from wan_async.domain import events
from wan_async.domain.exit_codes import ExitCode
from wan_async.engine.run import Run
from wan_async.engine.shutdown import STOPPING_PATIENCE_SECONDS


def cdn(status: int, until: float, *, first: bool = False) -> Deny:
    """Make the CDN answer with this status until a time, counted from the first request for a clip if `first`."""
    began: list[float] = []

    def deny(request: httpx.Request) -> httpx.Response | None:
        if "/cdn/" not in request.url.path:
            return None
        began.append(anyio.current_time())
        return httpx.Response(status) if anyio.current_time() < until + (began[0] if first else 0.0) else None

    return deny


def detail(answer: Callable[[], httpx.Response], since: float, until: float) -> Deny:
    """Make Task/Detail answer like this for a period."""

    def deny(request: httpx.Request) -> httpx.Response | None:
        over = request.url.path.endswith("/Task/Detail") and since <= anyio.current_time() < until
        return answer() if over else None

    return deny


@pytest.mark.virtual_time
@pytest.mark.parametrize("status", [403, 404, 410])
@pytest.mark.parametrize("seconds", [20.0, 400.0])
async def test_a_run_waits_for_a_clip_that_is_available_late(tmp_path: Path, status: int, seconds: float) -> None:
    world, _ = denied(tmp_path, cdn(status, seconds, first=True))
    finished = await within(HOUR, world.run(text_jobs(3)))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 3, 3)


@pytest.mark.virtual_time
async def test_a_short_outage_of_the_cdn_fails_no_job(tmp_path: Path) -> None:
    world, _ = denied(tmp_path, lambda request: cdn(403, 15.0)(request) if anyio.current_time() > 5 else None)
    finished = await within(HOUR, world.run(text_jobs(60)))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 60, 60)


@pytest.mark.virtual_time
async def test_a_denied_clip_becomes_missing_and_every_later_run_requests_it_before_it_submits(
    tmp_path: Path,
) -> None:
    world, requested = denied(tmp_path, cdn(404, 3 * HOUR))
    finished = await within(HOUR, world.run(text_jobs(1)))
    assert (finished.exit_code, finished.missing, world.tasks) == (1, 1, 1)
    assert finished.seconds >= 600
    assert finished.resume is None  # only the command line sets it
    for _ in range(2):
        requested.clear()
        finished = await within(HOUR, world.run(text_jobs(2), patience_seconds=30))
        assert (finished.missing, world.tasks) == (2, 2)
        runs = [number for number, path in enumerate(requested) if "/Run/" in path]
        assert all(requested.index("/v1/Task/Detail") < number for number in runs)
    await anyio.sleep(3 * HOUR)
    finished = await within(HOUR, world.run(text_jobs(2)))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)
    assert [clip.name for clip in world.clips] == ["job-0.mp4", "job-1.mp4"]
    assert not world.leftovers


@pytest.mark.virtual_time
async def test_a_run_does_not_wait_for_clips_that_were_missing_before(tmp_path: Path) -> None:
    world, _ = denied(tmp_path, cdn(404, 9 * HOUR))
    await within(HOUR, world.run(text_jobs(1)))
    finished = await within(60, world.run(text_jobs(1)))
    assert (finished.exit_code, finished.missing) == (1, 1)
    assert [event.task_id for event in world.events_of(events.Missing)] == ["500001"]


@pytest.mark.virtual_time
async def test_a_denial_does_not_count_while_no_fresh_url_is_available(tmp_path: Path) -> None:
    down = detail(lambda: httpx.Response(503), 8.0, 2000.0)
    no_clip = cdn(403, 2000.0)
    world, _ = denied(tmp_path, lambda request: no_clip(request) or down(request), task_seconds=(3, 3))
    finished = await within(HOUR, world.run(text_jobs(1)))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)
    assert finished.seconds > 1900


@pytest.mark.virtual_time
@pytest.mark.parametrize("words", [(1, "There is no task yet."), (0, "task-not-founded"), (0, "task-not-exist")])
async def test_a_temporarily_denied_task_is_polled_until_it_is_visible(tmp_path: Path, words: tuple[int, str]) -> None:
    answer = {"result": False, "errors": [{"code": words[0], "message": words[1]}]}
    world, _ = denied(tmp_path, detail(lambda: httpx.Response(200, json=answer), 0.0, 75.0))
    finished = await within(HOUR, world.run(text_jobs(2)))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)


@pytest.mark.virtual_time
async def test_a_denied_task_becomes_missing_and_is_tracked_by_the_next_run_that_finds_it(tmp_path: Path) -> None:
    world, _ = denied(tmp_path, detail(no_task, 0.0, 1000.0), task_seconds=(1200, 1200))
    finished = await within(HOUR, world.run(text_jobs(1)))
    assert (finished.exit_code, finished.missing) == (1, 1)
    assert f"{finished.reserved_usd:f}" == "0.05"
    await anyio.sleep(500)
    finished = await within(HOUR, world.run(text_jobs(1)))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)


@pytest.mark.virtual_time
async def test_a_task_that_is_denied_for_long_releases_its_slot(tmp_path: Path) -> None:
    def deny(request: httpx.Request) -> httpx.Response | None:
        first = next(iter(world.sandbox.account.tasks.values()), None)
        mine = first is not None and first.token.encode() in request.content
        return no_task() if request.url.path.endswith("/Task/Detail") and mine else None

    world, _ = denied(tmp_path, deny)
    finished = await within(HOUR, world.run(text_jobs(3), concurrency=1))
    assert (finished.stored, finished.missing, world.tasks) == (2, 1, 3)
    assert all(event.at < world.events_of(events.Missing)[0].at for event in world.events_of(events.Stored))


def changed(change: Callable[[dict[str, Any]], None], since: float = 0.0) -> Callable[[World], None]:
    """Apply a change to each task that Task/Detail returns."""

    @intercepting
    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        response = await send(request)
        if not request.url.path.endswith("/Task/Detail"):
            return response
        content = json.loads(await response.aread())
        for task in content.get("tasklist") or []:
            change(task)
        return httpx.Response(200, json=content)

    def put(world: World) -> None:
        world.wrap = handle

    return put


@pytest.mark.virtual_time
@pytest.mark.parametrize("pexit", ["0", "", None])
async def test_a_run_waits_for_outputs_and_exit_codes_that_lag_behind_the_status(
    tmp_path: Path, pexit: str | None
) -> None:
    def lag(task: dict[str, Any]) -> None:
        if task["status"] == "task_postprocess_end" and anyio.current_time() < 90:
            task["outputs"], task["pexit"] = [], pexit

    world = World(tmp_path, make_sandbox())
    changed(lag)(world)
    finished = await within(HOUR, world.run(text_jobs(2)))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)
    assert f"{finished.spent_usd:f}" == "0.10"


@pytest.mark.virtual_time
async def test_a_failure_whose_exit_code_is_reported_late_is_not_billed(tmp_path: Path) -> None:
    def lag(task: dict[str, Any]) -> None:
        if task["status"] == "task_postprocess_end" and anyio.current_time() < 90:
            task["pexit"] = task["totalcost"] = None

    world = World(tmp_path, make_sandbox(faults={"failed_render": 1.0}))
    changed(lag)(world)
    finished = await within(HOUR, world.run(text_jobs(1), retries=0))
    assert (finished.exit_code, finished.failed, f"{finished.spent_usd:f}") == (1, 1, "0.00")


@pytest.mark.virtual_time
async def test_rerender_renders_a_missing_job_again_and_the_old_clip_becomes_an_earlier_take(tmp_path: Path) -> None:
    gone = ["500001"]

    def deny(request: httpx.Request) -> httpx.Response | None:
        path = request.url.path
        return httpx.Response(404) if "/cdn/" in path and any(task in path for task in gone) else None

    world, _ = denied(tmp_path, deny)
    await within(HOUR, world.run(text_jobs(1), patience_seconds=5))
    finished = await within(HOUR, world.run(text_jobs(1), rerender=True))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)
    gone.clear()
    for _ in range(3):  # the later runs change nothing
        finished = await within(HOUR, world.run(text_jobs(1)))
        assert (finished.exit_code, world.tasks) == (0, 2)
        assert [clip.name for clip in world.clips] == ["job-0.1.mp4", "job-0.mp4"]
        assert json.loads((world.output / "job-0.1.json").read_text())["task_id"] == "500001"
        assert json.loads((world.output / "job-0.json").read_text())["task_id"] == "500002"


@pytest.mark.virtual_time
async def test_a_late_failure_of_an_old_task_is_not_retried_when_its_job_has_been_rendered_since(
    tmp_path: Path,
) -> None:
    hidden = True

    def deny(request: httpx.Request) -> httpx.Response | None:
        first = next(iter(world.sandbox.account.tasks.values()), None)
        mine = first is not None and first.token.encode() in request.content
        return no_task() if hidden and mine and request.url.path.endswith("/Task/Detail") else None

    world, _ = denied(tmp_path, deny)
    world.sandbox.faults.next("failed_render")
    await within(HOUR, world.run(text_jobs(1), patience_seconds=5))
    assert (await within(HOUR, world.run(text_jobs(1), rerender=True))).exit_code == 0
    assert world.tasks == 2
    hidden = False
    finished = await within(HOUR, world.run(text_jobs(1)))
    assert (finished.exit_code, world.tasks, len(world.clips)) == (0, 2, 1)


@pytest.mark.virtual_time
async def test_rerender_requests_the_old_task_once_more_before_it_submits(tmp_path: Path) -> None:
    world, _ = denied(tmp_path, detail(no_task, 0.0, 700.0))
    await within(HOUR, world.run(text_jobs(2)))
    await anyio.sleep(200)
    finished = await within(HOUR, world.run(text_jobs(2), rerender=True))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)


@pytest.mark.virtual_time
async def test_an_edited_job_is_rendered_in_the_run_that_finds_a_missing_clip_of_its_earlier_content(
    tmp_path: Path,
) -> None:
    world, _ = denied(tmp_path, cdn(404, HOUR))
    await within(HOUR, world.run([Job(id="a", prompt="rain")], patience_seconds=5))
    await anyio.sleep(HOUR)
    finished = await within(HOUR, world.run([Job(id="a", prompt="snow")]))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)
    sidecars = {name: json.loads((world.output / f"{name}.json").read_text()) for name in ("a", "a.1")}
    assert {name: each["parameters"]["prompt"] for name, each in sidecars.items()} == {"a": "snow", "a.1": "rain"}


@pytest.mark.virtual_time
async def test_give_up_requests_the_task_once_more_and_later_runs_never_again(tmp_path: Path) -> None:
    world, requested = denied(tmp_path, detail(no_task, 0.0, 900.0))
    await within(HOUR, world.run(text_jobs(2)))
    finished = await within(HOUR, world.run(text_jobs(2), give_up=True, only="job-1"))
    assert (finished.exit_code, finished.missing, finished.failed, world.tasks) == (1, 1, 1, 2)
    assert [event.kind for event in world.events_of(events.Failed)] == ["given_up"]
    await anyio.sleep(400)
    requested.clear()
    finished = await within(HOUR, world.run(text_jobs(2)))
    assert (finished.exit_code, finished.stored, finished.failed, world.tasks) == (1, 1, 1, 2)
    requested.clear()
    await within(HOUR, world.run(text_jobs(2)))
    assert not requested


@pytest.mark.virtual_time
async def test_give_up_stores_a_clip_that_is_available_again(tmp_path: Path) -> None:
    world, _ = denied(tmp_path, cdn(404, 700.0))
    await within(HOUR, world.run(text_jobs(1)))
    await anyio.sleep(100)
    finished = await within(HOUR, world.run(text_jobs(1), give_up=True))
    assert (finished.exit_code, finished.stored) == (0, 1)


@pytest.mark.virtual_time
@pytest.mark.parametrize("share", [2, 1])
async def test_denied_clips_throttle_submission_only_if_no_other_clip_arrives(tmp_path: Path, share: int) -> None:
    def deny(request: httpx.Request) -> httpx.Response | None:
        path = request.url.path
        refused = "/cdn/" in path and int(path.split("/")[2]) % share == 0 and anyio.current_time() < 300
        return httpx.Response(404) if refused else None

    world, _ = denied(tmp_path, deny, task_seconds=(1, 1))
    finished = await within(HOUR, world.run(text_jobs(30), concurrency=10, downloads=1))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 30, 30)
    submitted = [event.at for event in world.events_of(events.Submitting)]
    began = submitted[0]
    assert sum(at < began + 200 for at in submitted) == (30 if share == 2 else pytest.approx(12, abs=8))


@pytest.mark.virtual_time
async def test_after_a_stop_a_denied_clip_is_awaited_for_one_minute(tmp_path: Path) -> None:
    world, _ = denied(tmp_path, cdn(404, HOUR))

    async def act(runner: Run) -> None:
        await anyio.sleep(30)
        runner.stop("Ctrl-C", ExitCode.INTERRUPTED)

    finished = await within(30 + STOPPING_PATIENCE_SECONDS + 40, world.run(text_jobs(1), act))
    assert (finished.exit_code, finished.missing) == (130, 1)


@pytest.mark.virtual_time
async def test_task_error_is_polled_until_it_ends_and_the_job_is_never_resubmitted(tmp_path: Path) -> None:
    def show(task: dict[str, Any]) -> None:
        if anyio.current_time() < 200:
            task["status"], task["outputs"], task["pexit"] = "task_error", [], "1"

    world = World(tmp_path, make_sandbox())
    changed(show)(world)
    finished = await within(HOUR, world.run(text_jobs(6)))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 6, 6)
    assert f"{finished.spent_usd:f}" == "0.30"


def lagging(world: World, seconds: float, hidden: Callable[[], bool]) -> Deny:
    """Deny each clip for a time after its first request; Task/Detail denies all tasks while `hidden`."""
    first: dict[str, float] = {}

    def deny(request: httpx.Request) -> httpx.Response | None:
        path = request.url.path
        if "/cdn/" in path:
            began = first.setdefault(path.split("/")[2], anyio.current_time())
            return httpx.Response(404) if anyio.current_time() < began + seconds else None
        return no_task() if hidden() and path.endswith("/Task/Detail") else None

    world.wrap = lambda inner: Denying(inner, deny, [])
    return deny


@pytest.mark.virtual_time
@pytest.mark.parametrize("options", [{}, {"give_up": True}, {"rerender": True}], ids=str)
@pytest.mark.parametrize("fails", [False, True])
async def test_a_missing_task_that_is_found_running_or_failed_is_handled_like_a_new_one(
    tmp_path: Path, options: dict[str, Any], fails: bool
) -> None:
    hidden = True
    world = World(tmp_path, make_sandbox(task_seconds=(4, 4) if fails else (100, 100)))
    lagging(world, 20.0, lambda: hidden)
    if fails:
        world.sandbox.faults.next("failed_render")
    finished = await within(HOUR, world.run(text_jobs(1), patience_seconds=5))
    assert (finished.missing, world.tasks) == (1, 1)
    hidden = False
    finished = await within(HOUR, world.run(text_jobs(1), **options))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2 if fails else 1)


@pytest.mark.virtual_time
async def test_rerender_submits_nothing_while_task_detail_is_unavailable(
    tmp_path: Path,
) -> None:
    is_available = True

    def deny(request: httpx.Request) -> httpx.Response | None:
        if not request.url.path.endswith("/Task/Detail"):
            return None
        return no_task() if is_available else httpx.Response(503)

    world, _ = denied(tmp_path, deny)
    await within(HOUR, world.run(text_jobs(1), patience_seconds=5))
    is_available = False
    finished = await within(HOUR, world.run(text_jobs(1), rerender=True))
    assert (finished.exit_code, finished.missing, world.tasks) == (1, 1, 1)


@pytest.mark.virtual_time
async def test_a_denied_older_attempt_is_not_rerendered_while_the_latest_clip_is_available(tmp_path: Path) -> None:
    gone = ["/500001/", "/500002/"]

    def deny(request: httpx.Request) -> httpx.Response | None:
        path = request.url.path
        return httpx.Response(404) if "/cdn/" in path and any(task in path for task in gone) else None

    world, _ = denied(tmp_path, deny)
    await within(HOUR, world.run(text_jobs(1), patience_seconds=5))
    await within(HOUR, world.run(text_jobs(1), patience_seconds=5, rerender=True))
    assert world.tasks == 2
    gone.remove("/500002/")
    finished = await within(HOUR, world.run(text_jobs(1), rerender=True))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)


@pytest.mark.virtual_time
async def test_rerender_renders_each_missing_job_even_if_denials_arrive_at_different_times(tmp_path: Path) -> None:
    slow = False
    world = World(tmp_path, make_sandbox())

    @intercepting
    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        path = request.url.path
        if "/cdn/" in path and (not slow or "/500001/" in path or "/500002/" in path):
            return httpx.Response(404)
        second = list(world.sandbox.account.tasks.values())[1:2]
        if slow and path.endswith("/Task/Detail") and second[0].token.encode() in request.content:
            await anyio.sleep(20)
        return await send(request)

    world.wrap = handle
    await within(HOUR, world.run(text_jobs(2), patience_seconds=5))
    slow = True
    finished = await within(HOUR, world.run(text_jobs(2), rerender=True))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 4)


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["out of funds", "absent", "failed"])
async def test_a_clip_that_reappears_after_an_unsuccessful_rerender_is_stored_for_the_job(
    tmp_path: Path, how: str
) -> None:
    gone, refuse = True, False

    def deny(request: httpx.Request) -> httpx.Response | None:
        path = request.url.path
        if "/cdn/" in path and gone:
            return httpx.Response(404)
        if refuse and "/Run/" in path:
            if how == "absent":
                raise httpx.ReadError("cut", request=request)
            return httpx.Response(200, json={"result": False, "errors": [{"code": 97, "message": "balance"}]})
        return None

    world, _ = denied(tmp_path, deny)
    await within(HOUR, world.run(text_jobs(1), patience_seconds=5))
    refuse = how != "failed"
    if how == "failed":
        world.sandbox.faults.next("failed_render")

    async def act(runner: Run) -> None:
        await anyio.sleep(30)
        if how == "absent":
            runner.stop("Ctrl-C", ExitCode.INTERRUPTED)

    await within(HOUR, world.run(text_jobs(1), act, rerender=True, retries=0, settle_seconds=5))
    made, refuse = world.tasks, False
    assert (await within(HOUR, world.run(text_jobs(1), patience_seconds=5))).missing == 1
    gone = False
    for _ in range(2):
        finished = await within(HOUR, world.run(text_jobs(1)))
        assert (finished.exit_code, len(world.clips), world.tasks) == (0, 1, made)


@pytest.mark.virtual_time
@pytest.mark.parametrize("charged_at", [0.0, 20.0])
async def test_a_cancelled_task_that_was_charged_is_requested_until_it_lists_its_outputs(
    tmp_path: Path, charged_at: float
) -> None:
    def lag(task: dict[str, Any]) -> None:
        if task["status"] == "task_postprocess_end":
            task["status"] = "task_cancel"
            if anyio.current_time() < 100:
                task["outputs"] = []
            if anyio.current_time() < charged_at:
                task["totalcost"] = "0"

    world = World(tmp_path, make_sandbox())
    changed(lag)(world)
    assert (await within(HOUR, world.run(text_jobs(1)))).cancelled == 1
    await anyio.sleep(50)
    assert (await within(HOUR, world.run(text_jobs(1)))).cancelled == 1
    world.sandbox.faults.set_probabilities({"http_500@Task/Detail": 1.0})
    finished = await within(HOUR, world.run(text_jobs(1)))  # no answer is none: it is asked for again
    assert (finished.exit_code, finished.cancelled) == (1, 1)
    world.sandbox.faults.set_probabilities({})
    await anyio.sleep(500)
    finished = await within(HOUR, world.run(text_jobs(1), retry_failed=True))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)
