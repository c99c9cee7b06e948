"""Admission: jobs of equal content, and runs that are stopped."""

from __future__ import annotations

from pathlib import Path

import anyio
import httpx
import pytest
from denials import HOUR, denied
from harness import World, make_sandbox, within

from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import Job
from wan_async.engine.concurrency import Window
from wan_async.engine.leases import Slots, Wake
from wan_async.engine.run import Run

EQUAL = [Job(id="a", prompt="rain"), Job(id="b", prompt="rain")]
"""Two jobs of one content: the second waits until the first has its answer."""


def refused(status: int, code: int) -> httpx.Response:
    return httpx.Response(status, json={"result": False, "errors": [{"code": code, "message": "no"}]})


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("status", "code", "options", "exit_code"),
    [(200, 97, {}, 3), (401, 401, {}, 4), (200, 0, {"budget_micros": 1}, 3)],
    ids=["no funds", "credentials", "budget"],
)
async def test_a_run_that_is_stopped_while_a_job_waits_for_its_content_ends(
    tmp_path: Path, status: int, code: int, options: dict[str, int], exit_code: int
) -> None:
    def deny(request: httpx.Request) -> httpx.Response | None:
        return refused(status, code) if "/Run/" in request.url.path else None

    world, _ = denied(tmp_path, deny)
    finished = await within(HOUR, world.run(EQUAL, render_duplicates=True, budget_micros=options.get("budget_micros")))
    assert (finished.exit_code, world.tasks) == (exit_code, 0)
    assert finished == world.events[-1]


@pytest.mark.virtual_time
@pytest.mark.parametrize(("fault", "stored"), [("drop_before", 0), ("drop_after", 1)])
async def test_a_run_that_is_interrupted_while_a_run_of_equal_content_is_unanswered_ends(
    tmp_path: Path, fault: str, stored: int
) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next(fault, endpoint="Run")

    async def interrupt(run: Run) -> None:
        await anyio.sleep(0.3)
        run.stop("interrupted", ExitCode.INTERRUPTED)

    finished = await within(HOUR, world.run(EQUAL, interrupt, render_duplicates=True, settle_seconds=5))
    assert (finished.exit_code, finished.stored, world.tasks) == (130, stored, stored)
    again = await within(HOUR, world.run(EQUAL, render_duplicates=True, settle_seconds=5))
    assert (again.exit_code, world.tasks) == (0, 2)
    assert len(world.clips) == 2


def test_a_content_stays_locked_until_each_lease_on_it_is_unlocked() -> None:
    slots = Slots(Window(4, 4), Wake())
    first, second = slots.lease("content"), slots.lease("content")
    first.unlock()
    first.unlock()
    assert slots.is_locked("content")
    second.unlock()
    assert not slots.is_locked("content")
