"""Tests as users of the plugin write them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import anyio
import pytest

from wan_async import Ambiguous, Job, JobFailed, Missing, WanClient, open_batch, testing
from wan_async.sandbox import Sandbox
from wan_async.testing import make_client, make_sandbox, tiny_mp4

pytestmark = pytest.mark.anyio


async def test_a_clip_is_generated_in_virtual_time(wan_client: WanClient, wan_sandbox: Sandbox, tmp_path: Path) -> None:
    began, virtual = time.monotonic(), anyio.current_time()
    clip = await wan_client.generate(Job(prompt="rain"), to=tmp_path / "rain.mp4")
    assert clip.path.read_bytes().startswith(tiny_mp4())
    assert wan_sandbox.account.spent_micros == clip.cost_micros == 50_000
    assert anyio.current_time() - virtual > 2.0
    assert time.monotonic() - began < 2.0


def test_the_package_has_what_it_names_and_nothing_else() -> None:
    assert all(getattr(testing, name) is not None for name in testing.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'make_clip'"):
        _ = testing.make_clip


async def test_an_hour_of_rendering_takes_no_time(tmp_path: Path) -> None:
    from wan_async.testing.virtual_clock import VirtualClock

    clock, began = VirtualClock(), time.monotonic()
    client = make_client(make_sandbox(task_seconds=(3600.0, 3600.0)), clock)
    clip = await client.generate(Job(prompt="rain"), to=tmp_path / "rain.mp4")
    clock.stop()
    assert clip.bytes == clip.path.stat().st_size
    assert time.monotonic() - began < 60.0


async def test_a_lost_answer_is_found_after_all(wan_client: WanClient, wan_sandbox: Sandbox) -> None:
    wan_sandbox.next("drop_after", "Run")
    with pytest.raises(Ambiguous) as caught:
        await wan_client.submit(Job(prompt="rain"))
    task = await wan_client.find(caught.value)
    assert task is not None
    assert await wan_client.read(task) == tiny_mp4(repr(("rain", "42", task.id)))
    assert len(wan_sandbox.account.tasks) == 1


async def test_a_run_that_was_not_processed_is_proven_absent(wan_client: WanClient, wan_sandbox: Sandbox) -> None:
    wan_sandbox.next("http_500", "Run")
    with pytest.raises(Ambiguous) as caught:
        await wan_client.submit(Job(prompt="rain"))
    assert await wan_client.find(caught.value) is None


@pytest.mark.parametrize("fault", ["http_429", "late_cdn", "late_outputs", "task_error", "cut_download", "no_etag"])
async def test_passing_faults_are_waited_out(
    wan_client: WanClient, wan_sandbox: Sandbox, tmp_path: Path, fault: str
) -> None:
    wan_sandbox.next(fault)
    await wan_client.generate(Job(prompt="rain"), to=tmp_path / "rain.mp4")
    assert len(wan_sandbox.account.tasks) == 1


async def test_a_failed_render_names_its_task(wan_client: WanClient, wan_sandbox: Sandbox, tmp_path: Path) -> None:
    wan_sandbox.next("failed_render")
    with pytest.raises(JobFailed) as caught:
        await wan_client.generate(Job(prompt="rain"), to=tmp_path / "rain.mp4")
    assert caught.value.task is not None
    assert not isinstance(caught.value, Missing)
    assert list(tmp_path.iterdir()) == []


async def test_a_batch_runs_in_virtual_time(wan_client: WanClient, wan_sandbox: Sandbox, tmp_path: Path) -> None:
    jobs = [Job(id=f"{number}", prompt=f"scene {number}") for number in range(5)]
    async with open_batch(jobs, output=tmp_path / "out", client=wan_client) as batch:
        named = {batch.job_of(event) for event in [event async for event in batch]}
    assert named >= set(jobs)
    batch.result.raise_for_failures()
    assert [result.job for result in batch.result.stored] == jobs
    assert len(wan_sandbox.account.tasks) == 5


async def test_prices_and_balance_are_free_to_ask(wan_client: WanClient) -> None:
    assert await wan_client.estimate(Job(prompt="rain", resolution="720P")) == Decimal("0.12")
    assert await wan_client.balance() == Decimal(1000)


@pytest.mark.parametrize("count", [20])
async def test_many_calls_share_the_accounts_limit(tmp_path: Path, count: int) -> None:
    from wan_async.testing.virtual_clock import VirtualClock

    sandbox, clock = make_sandbox(concurrency_limit=10), VirtualClock()
    client = make_client(sandbox, clock)
    async with client, anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(client.generate, Job(prompt=f"scene {number}"), f"{tmp_path}/")
    clock.stop()
    assert len(list(tmp_path.glob("*.mp4"))) == len(sandbox.account.tasks) == count


def test_a_users_test_needs_nothing_but_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import anyio, pytest\n"
        "from wan_async import Job\n\n"
        "@pytest.fixture(params=['asyncio', 'trio'])\n"
        "def anyio_backend(request):\n    return request.param\n\n"
        "@pytest.mark.anyio\n"
        "async def test_mine(wan_client):\n"
        "    began = anyio.current_time()\n"
        "    assert await wan_client.read(await wan_client.submit(Job(prompt='rain')))\n"
        "    assert anyio.current_time() - began > 2.0\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    done = subprocess.run(
        [*command, "--rootdir", tmp_path, tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, "2 passed" in done.stdout) == (0, True), done.stdout
