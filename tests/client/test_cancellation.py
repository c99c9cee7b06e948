"""Cancellation at every step of a call: each task that exists is available to the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from clients import PNG, Hooked, leftovers, quick_sandbox, virtual_client, virtual_sandbox
from harness import KEY, SECRET
from sampling import SLOW_STEPS
from steps import Steps, run_virtually

from wan_async import Ambiguous, Clip, Job, Task, TimedOut, WanClient, WanError
from wan_async.sandbox import Sandbox, transport

MODES = ("native", "scope", "trio")
Outcome = tuple[object, BaseException | None]


async def cancelled_at(steps: Steps, step: int, mode: str, call: Callable[[], Awaitable[object]]) -> Outcome | None:
    """Make a call and cancel it at a step; None if it ended before that step."""
    outcome: list[Outcome] = []

    async def make() -> None:
        try:
            outcome.append((await call(), None))
        except BaseException as error:
            outcome.append((None, error))
            if not isinstance(error, Exception):
                raise
        finally:
            steps.disarm()

    if mode == "native":
        task = asyncio.ensure_future(make())
        steps.arm({step: task.cancel})
        with suppress(asyncio.CancelledError):
            await task
        host = asyncio.current_task()
        assert host is not None
        assert host.cancelling() == 0
    else:
        with anyio.CancelScope() as scope:
            steps.arm({step: scope.cancel})
            await make()
    steps.disarm()
    reached = steps.count >= step
    if not outcome:  # cancelled before it began
        return None, None
    return outcome[0] if reached else None


async def available(client: WanClient, outcome: Outcome) -> set[str]:
    """The ids of the tasks that the caller can get at."""
    result, error = outcome
    found: list[Task | Clip | None] = [*client.unclaimed]
    if isinstance(result, Task | Clip):
        found.append(result)
    if isinstance(error, WanError):
        found.append(error.task)
    unanswered = [*client.unanswered, *([error] if isinstance(error, Ambiguous) else [])]
    found += [await client.find(each) for each in unanswered]
    ids = {task.id if isinstance(task, Task) else task.task_id for task in found if task is not None}
    return {name for name in ids if name is not None}


async def check(client: WanClient, sandbox: Sandbox, outcome: Outcome, folder: Path, step: int) -> None:
    """The promises that hold wherever a call was cancelled."""
    existing = {task.id for task in sandbox.account.tasks.values()}
    assert existing <= await available(client, outcome), (step, outcome)
    assert sandbox.requests["Run"] <= 1, step
    assert leftovers(folder) == [], step
    for task in [*client.unclaimed, *([outcome[0]] if isinstance(outcome[0], Task) else [])]:
        await client.read(task)
    assert client.unclaimed == [], step
    assert client.session.admission.window.active == client.session.admission.window.running == 0, step


async def noted(
    result: list[object], make_call: Callable[[WanClient, Path], Awaitable[object]], client: WanClient, place: Path
) -> object:
    """Make a call, and keep its result also if that is cancelled with its caller."""
    result.append(await make_call(client, place))
    return result[0]


async def every_step(
    steps: Steps,
    mode: str,
    folder: Path,
    every: int,
    make_call: Callable[[WanClient, Path], Awaitable[object]],
    **settings: Any,
) -> int:
    """Cancel a call at its first step, the n-th after that, and so on until it ends first; returns that number."""
    for step in count(1, every):
        place = folder / f"{step}"
        place.mkdir()
        sandbox = virtual_sandbox(task_seconds=(2, 2), **settings)
        client = virtual_client(transport(sandbox))
        result: list[object] = []

        outcome = await cancelled_at(steps, step, mode, partial(noted, result, make_call, client, place))
        if outcome is None:
            assert result, "the call succeeds if it is not cancelled"
            return step
        await check(client, sandbox, outcome, place, step)
        await client.aclose()
    raise AssertionError


def backend(mode: str) -> str:
    return "trio" if mode == "trio" else "asyncio"


@SLOW_STEPS
@pytest.mark.parametrize("mode", MODES)
def test_a_submit_that_is_cancelled_at_any_step_leaves_its_task_available(
    mode: str, tmp_path: Path, every: int
) -> None:
    async def call(client: WanClient, folder: Path) -> object:
        return await client.submit(Job(prompt="rain"))

    async def test(steps: Steps) -> int:
        return await every_step(steps, mode, tmp_path, every, call)

    assert run_virtually(backend(mode), test) > 10


@SLOW_STEPS
@pytest.mark.parametrize("mode", MODES)
def test_a_generate_that_is_cancelled_at_any_step_leaves_its_task_available(
    mode: str, tmp_path: Path, every: int
) -> None:
    async def call(client: WanClient, folder: Path) -> object:
        return await client.generate(Job(prompt="rain", image=PNG), folder / "rain.mp4")

    async def test(steps: Steps) -> int:
        return await every_step(steps, mode, tmp_path, every, call)

    assert run_virtually(backend(mode), test) > 40


@SLOW_STEPS
@pytest.mark.parametrize("mode", MODES)
def test_a_submit_that_is_cancelled_while_run_answers_slowly_leaves_an_unanswered_run(
    mode: str, tmp_path: Path, every: int
) -> None:
    async def call(client: WanClient, folder: Path) -> object:
        return await client.submit(Job(prompt="rain"))

    async def test(steps: Steps) -> int:
        return await every_step(steps, mode, tmp_path, every, call, latency_seconds=8.0)

    assert run_virtually(backend(mode), test) > 10


async def generated(steps: Steps, outcome: list[object], client: WanClient, place: Path) -> None:
    """Generate a clip, and keep it; no step after that is cancelled."""
    try:
        outcome.append(await client.generate(Job(prompt="rain"), place / "a.mp4"))
    finally:
        steps.disarm()


@SLOW_STEPS
@pytest.mark.parametrize("mode", MODES)
def test_a_second_cancellation_right_after_the_first_loses_no_task_either(
    mode: str, tmp_path: Path, every: int
) -> None:
    async def test(steps: Steps) -> None:
        for step in range(1, 60, every):
            place = tmp_path / f"{step}"
            place.mkdir()
            sandbox = virtual_sandbox(task_seconds=(2, 2))
            client = virtual_client(transport(sandbox))
            outcome: list[object] = []

            make = partial(generated, steps, outcome, client, place)
            if mode == "native":
                task = asyncio.ensure_future(make())
                steps.arm({step: task.cancel, step + 1: task.cancel, step + 3: task.cancel})
                with suppress(asyncio.CancelledError):
                    await task
            else:
                with anyio.CancelScope() as outer, anyio.CancelScope() as inner:
                    steps.arm({step: inner.cancel, step + 1: outer.cancel})
                    await make()
            steps.disarm()
            result = outcome[0] if outcome else None
            await check(client, sandbox, (result, None), place, step)
            await client.aclose()

    run_virtually(backend(mode), test)


@SLOW_STEPS
@pytest.mark.parametrize("mode", MODES)
def test_a_call_that_is_refused_first_or_has_a_slow_callback_is_cancelled_without_loss(
    mode: str, tmp_path: Path, every: int
) -> None:
    async def callback(task: Task) -> None:
        await anyio.sleep(0.5)
        await anyio.sleep(0.5)

    async def call(client: WanClient, folder: Path) -> object:
        return await client.submit(Job(prompt="rain"), on_submitted=callback)

    async def test(steps: Steps) -> int:
        for step in count(1, every):
            sandbox = virtual_sandbox(task_seconds=(2, 2))
            sandbox.refuse_runs(96, "You have reached the concurrent task limit.", times=1)
            client = virtual_client(transport(sandbox))
            outcome = await cancelled_at(steps, step, mode, partial(call, client, tmp_path))
            if outcome is None:
                return step
            existing = {task.id for task in sandbox.account.tasks.values()}
            assert existing <= await available(client, outcome), step
            assert len(existing) <= 1, step
            await client.aclose()
        raise AssertionError

    assert run_virtually(backend(mode), test) > 10


@pytest.mark.asyncio
@pytest.mark.parametrize("seconds", [0.05, 0.15, 0.35, 0.55])
async def test_wait_for_around_generate_loses_no_task(seconds: float, tmp_path: Path) -> None:
    async def slow(request: httpx.Request) -> httpx.Response | None:
        await anyio.sleep(0.1)
        return None

    sandbox = quick_sandbox(task_seconds=(60, 60))
    async with WanClient(KEY, SECRET, transport=Hooked(transport(sandbox), slow)) as client:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.generate(Job(prompt="rain"), tmp_path), seconds)
        assert {task.id for task in client.unclaimed} == set(sandbox.account.by_id)
    assert leftovers(tmp_path) == []


@SLOW_STEPS
@pytest.mark.parametrize("on_timeout", ["keep", "cancel"])
@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_a_timeout_at_any_moment_leaves_no_task_behind_unknown(
    name: str, on_timeout: Any, tmp_path: Path, every: int
) -> None:
    async def test(steps: Steps) -> None:
        for moment in range(1, 40, every):
            place = tmp_path / f"{moment}"
            place.mkdir()
            sandbox = virtual_sandbox(task_seconds=(4, 4), latency_seconds=0.7)
            client = virtual_client(transport(sandbox))
            error: BaseException | None = None
            result: object = None
            try:
                job = Job(prompt="rain")
                result = await client.generate(job, place / "a.mp4", timeout=moment / 4, on_timeout=on_timeout)
            except (TimedOut, Ambiguous) as caught:
                error = caught
            existing = {task.id for task in sandbox.account.tasks.values()}
            assert existing <= await available(client, (result, error)), moment
            if on_timeout == "cancel" and error is not None:
                await anyio.sleep(20)
                assert sandbox.account.active(sandbox.settings.now()) == 0
            assert leftovers(place) == []
            await client.aclose()

    run_virtually(name, test)
