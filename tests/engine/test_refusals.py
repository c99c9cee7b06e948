"""Refusals, unexpected responses, late charges and restarted ids of the service, in whole runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trio.testing
from harness import KEY, SECRET, Send, World, intercepting, make_sandbox, text_jobs, virtually, within
from pictures import png
from sampling import sampled_product

from wan_async.domain import events
from wan_async.domain.job import Job
from wan_async.engine.run import Run
from wan_async.http.deadline import while_running
from wan_async.sandbox.faults import REFUSALS
from wan_async.wiro import signing

HOUR = 3600.0


@pytest.fixture
def pictures(tmp_path: Path) -> list[Job]:
    """Six jobs with an image each."""
    made = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        path.write_bytes(png(bytes([number]) * 50))
        made.append(Job(id=f"job-{number}", prompt=f"scene {number}", image=path))
    return made


# Uploads


def test_after_uploads_are_refused_images_are_sent_inline(
    tmp_path: Path, pictures: list[Job], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox(uploads="refuse"))
        finished = await within(HOUR, world.run(pictures[:3]))
        assert (finished.exit_code, finished.stored, world.tasks) == (0, 3, 3)
        uploads = world.sandbox.requests["File/Upload"]
        assert 0 < uploads <= 3 * 3
        finished = await within(HOUR, world.run(pictures))
        assert (finished.exit_code, finished.stored, world.tasks) == (0, 3, 6)
        assert world.sandbox.requests["File/Upload"] == uploads
        finished = await within(
            HOUR, world.run([*pictures, Job(id="x", prompt="x", image=pictures[0].image)], upload="file")
        )
        assert finished.failed == 1

    with caplog.at_level(logging.WARNING):
        virtually(test)
    assert len([record for record in caplog.records if "takes no uploads" in record.message]) == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "fault", ["drop_before", "drop_after", "http_500", "html_502", "cut_json", "http_429", "html_403"]
)
async def test_interrupted_uploads_are_retried(tmp_path: Path, pictures: list[Job], fault: str) -> None:
    world = World(tmp_path, make_sandbox(faults={f"{fault}@File/Upload": 0.6}))
    finished = await within(HOUR, world.run(pictures))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 6, 6)
    assert not any("inputImage" in task.parameters for task in world.sandbox.account.tasks.values())


# Runs


@pytest.mark.virtual_time
@pytest.mark.parametrize("name", [name for name in REFUSALS if name not in ("parameter", "parameters", "files")])
async def test_a_refusal_that_concerns_all_jobs_stops_the_batch_and_quotes_the_service(
    tmp_path: Path, name: str
) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.refuse_runs(*REFUSALS[name])
    finished = await within(30, world.run(text_jobs(30)))
    assert finished.exit_code == {"team-limit": 3, "personal-limit": 3, "sign-in": 4}.get(name, 1)
    assert world.sandbox.requests["Run"] <= 8
    (stopping,) = world.events_of(events.Stopping)
    assert REFUSALS[name][1].rstrip(".") in stopping.reason
    assert (finished.failed, finished.unknown, finished.unfinished) == (0, 0, 30)


@pytest.mark.virtual_time
@pytest.mark.parametrize("name", ["parameter", "parameters", "files"])
async def test_a_refusal_that_concerns_one_job_fails_that_job_only(tmp_path: Path, name: str) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.refuse_runs(*REFUSALS[name], times=1)
    finished = await within(HOUR, world.run(text_jobs(5)))
    assert (finished.exit_code, finished.failed, finished.stored, world.tasks) == (1, 1, 4, 4)


@pytest.mark.virtual_time
async def test_an_unlisted_refusal_after_which_no_task_is_ever_found_stops_the_batch_with_its_text(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.refuse_runs(0, "Your plan has no videos")
    finished = await within(HOUR, world.run(text_jobs(6), settle_seconds=5))
    assert finished.exit_code == 1
    assert "Your plan has no videos" in world.events_of(events.Stopping)[0].reason
    assert world.sandbox.requests["Run"] <= 16


@pytest.mark.virtual_time
async def test_a_single_unlisted_refusal_stops_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.refuse_runs(0, "Something went wrong", times=1)
    finished = await within(HOUR, world.run(text_jobs(20), settle_seconds=5))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 20, 20)


class Firewall(httpx.AsyncBaseTransport):
    """A transport that answers some requests with an HTML page."""

    def __init__(self, inner: httpx.AsyncBaseTransport, blocks: Callable[[httpx.Request], bool], status: int) -> None:
        self.inner, self.blocks, self.status = inner, blocks, status

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.blocks(request):
            return httpx.Response(self.status, html="<html><title>Access Denied</title></html>")
        return await self.inner.handle_async_request(request)


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("endpoint", "status"),
    sampled_product(3, ["/Run/", "/Task/Detail", "/Task/List", "/Tool/Detail"], [302, 400, 401, 403, 404, 413, 429]),
)
async def test_a_response_without_the_services_envelope_stops_and_fails_nothing(
    tmp_path: Path, endpoint: str, status: int
) -> None:
    blocked: list[str] = []

    def blocks(request: httpx.Request) -> bool:
        if endpoint in request.url.path:
            blocked.append(endpoint)
        return endpoint in request.url.path and len(blocked) in (1, 3)

    world = World(tmp_path, make_sandbox())
    world.wrap = lambda inner: Firewall(inner, blocks, status)
    finished = await within(HOUR, world.run(text_jobs(6), settle_seconds=5, track="poll"))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 6, 6)


@pytest.mark.virtual_time
async def test_a_run_ends_and_quotes_the_page_if_a_firewall_answers_every_request(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.wrap = lambda inner: Firewall(inner, lambda request: True, 403)
    finished = await within(100, world.run(text_jobs(3)))
    assert finished.exit_code == 6
    assert "Access Denied" in world.events_of(events.Stopping)[0].reason
    world.wrap = lambda inner: Firewall(inner, lambda request: "/Run/" in request.url.path, 403)
    finished = await within(HOUR, world.run(text_jobs(9), settle_seconds=5))
    assert (finished.exit_code, world.tasks) == (1, 0)
    assert "Access Denied" in world.events_of(events.Stopping)[0].reason


# A team's list


@pytest.mark.virtual_time
async def test_a_teammates_equal_task_is_neither_adopted_nor_a_candidate(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(text_jobs(1), settle_seconds=5)

    async def act(runner: Run) -> None:
        await anyio.sleep(1)
        form = next(iter(world.sandbox.account.tasks.values())).parameters | {"prompt": "scene 1"}
        world.sandbox.add_teammate_tasks(1, form)

    world.sandbox.faults.next("drop_before", endpoint="Run")
    finished = await within(HOUR, world.run(text_jobs(2), act, settle_seconds=5))
    assert (finished.exit_code, finished.stored, finished.unknown) == (0, 1, 0)
    mine = [task for task in world.sandbox.account.tasks.values() if task.parameters["prompt"] == "scene 1"]
    assert len(mine) == 2, "the teammate's, and ours"


@pytest.mark.virtual_time
@pytest.mark.parametrize("rotated", [True, False])
async def test_an_unanswered_run_of_a_rotated_key_is_not_taken_for_a_teammates(tmp_path: Path, rotated: bool) -> None:
    world, old = World(tmp_path, make_sandbox(echo="empty")), set[str]()

    @intercepting
    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        """Two keys of one account, whose tasks show two projects."""
        if nonce := request.headers.get("x-nonce"):
            request.headers["x-api-key"] = KEY
            request.headers["x-signature"] = signing.signature(KEY, SECRET, nonce)
        response = await send(request)
        if "/Task/" not in request.url.path:
            return response
        content = json.loads(await response.aread())
        for task in content.get("tasklist") or []:
            task["projectid"] = "A" if task["id"] in old or not rotated else "B"
        return httpx.Response(response.status_code, json=content)

    async def leave(runner: Run) -> None:
        await anyio.sleep(8)
        runner.leave()

    world.wrap = handle
    world.sandbox.faults.next("drop_after", "Run")
    await within(HOUR, world.run(text_jobs(2), leave))
    old.update(task.id for task in world.sandbox.account.tasks.values())
    if rotated:
        world.key = "second"
    finished = await within(HOUR, world.run(text_jobs(3)))
    assert (finished.exit_code, world.tasks) == (5, 3)


# Late charges


def killing(world: World, after: float = 4.0) -> Callable[[Run], Any]:
    async def act(runner: Run) -> None:
        await anyio.sleep(after)
        for task in list(world.sandbox.account.tasks.values()):
            world.sandbox.end(task)

    return act


@pytest.mark.virtual_time
@pytest.mark.parametrize("seconds", [30.0, 90.0])
async def test_a_killed_task_that_is_charged_later_is_settled(tmp_path: Path, seconds: float) -> None:
    world = World(
        tmp_path,
        make_sandbox(faults={"late_charge": 1.0}, late_charge_seconds=seconds, task_seconds=(20, 20)),
    )
    finished = await within(HOUR, world.run(text_jobs(1), killing(world)))
    assert (finished.exit_code, finished.cancelled, str(finished.spent_usd)) == (1, 1, "0.00")
    await anyio.sleep(seconds)
    finished = await within(HOUR, world.run(text_jobs(1)))
    charged = world.sandbox.account.spent_micros
    assert charged > 0
    assert int(finished.spent_usd * 1_000_000) == charged


@pytest.mark.virtual_time
async def test_a_long_run_requests_a_cancelled_task_again_after_a_minute(tmp_path: Path) -> None:
    world = World(
        tmp_path, make_sandbox(faults={"late_charge": 1.0}, late_charge_seconds=30.0, task_seconds=(200, 200))
    )

    async def act(runner: Run) -> None:
        await anyio.sleep(4)
        world.sandbox.end(next(iter(world.sandbox.account.tasks.values())))

    finished = await within(HOUR, world.run(text_jobs(3), act))
    assert (finished.cancelled, finished.stored) == (1, 2)
    assert int(finished.spent_usd * 1_000_000) == world.sandbox.account.spent_micros


# Restarted ids


@pytest.mark.virtual_time
async def test_tasks_with_restarted_ids_are_identified_by_their_tokens(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await within(HOUR, world.run(text_jobs(3)))
    world.sandbox.restart_ids(500_001)
    finished = await within(HOUR, world.run(text_jobs(6)))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 3, 6)
    assert finished.unknown == 0


@pytest.mark.virtual_time
async def test_a_lost_answer_whose_task_has_the_id_of_an_older_attempt_is_not_resubmitted(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await within(HOUR, world.run(text_jobs(3)))
    world.sandbox.restart_ids(500_001)
    world.sandbox.faults.next("drop_after", endpoint="Run")
    finished = await within(HOUR, world.run(text_jobs(6)))
    assert (finished.exit_code, finished.stored, finished.unknown, world.tasks) == (5, 2, 1, 6)


# A suspended process


@pytest.mark.parametrize("answered", [True, False])
def test_an_answer_that_arrived_while_the_process_was_suspended_is_read_before_the_timeout(answered: bool) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def test() -> None:
        arrived = anyio.Event()

        async def send() -> str:
            await arrived.wait()
            await anyio.lowlevel.checkpoint()
            return "answer"

        async def suspend() -> None:
            await anyio.sleep(2.5)
            clock.jump(3600)
            if answered:
                arrived.set()

        async with anyio.create_task_group() as group:
            group.start_soon(suspend)
            if answered:
                assert await while_running(60.0, send) == "answer"
            else:
                began = anyio.current_time()
                with pytest.raises(TimeoutError):
                    await while_running(60.0, send)
                assert 3600 + 50 <= anyio.current_time() - began <= 3600 + 61

    trio.run(test, clock=clock)


async def _fails() -> None:
    raise ZeroDivisionError


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_while_running_raises_the_exception_of_its_function_unchanged(anyio_backend: str) -> None:
    with pytest.raises(ZeroDivisionError):
        await while_running(60.0, _fails)
