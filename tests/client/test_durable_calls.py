"""Single calls with a journal: a repeated call goes on, and pays nothing again."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from clients import at_most, virtual_client, virtual_sandbox
from sampling import SLOW_STEPS
from steps import Steps, run_virtually

from wan_async import Ambiguous, Job, JobFailed, Missing, StopBatch, Task, TimedOut, Unusable, WanClient
from wan_async.sandbox import Sandbox

JOB = Job(id="cat", prompt="rain")


def durable(sandbox: Sandbox, folder: Path) -> WanClient:
    return virtual_client(sandbox, journal=folder / "journal")


@pytest.mark.virtual_loops
async def test_the_same_call_again_returns_the_same_clip_and_pays_nothing(tmp_path: Path) -> None:
    sandbox = virtual_sandbox()
    clips = []
    for _ in range(3):
        async with durable(sandbox, tmp_path) as client:
            clips.append(await client.generate(JOB, f"{tmp_path}/out/"))
            clips.append(await client.generate(JOB, f"{tmp_path}/out/"))
    assert len(set(clips)) == len(sandbox.account.tasks) == 1
    assert clips[0].path.exists()


@pytest.mark.virtual_loops
async def test_a_job_without_id_is_known_by_its_target(tmp_path: Path) -> None:
    sandbox = virtual_sandbox()
    job = Job(prompt="rain")
    async with durable(sandbox, tmp_path) as client:
        first = await client.generate(job, tmp_path / "a.mp4")
        assert await client.generate(job, tmp_path / "a.mp4") == first
        second = await client.generate(job, tmp_path / "b.mp4")
    assert (first.path.name, second.path.name) == ("a.mp4", "b.mp4")
    assert len(sandbox.account.tasks) == 2


@SLOW_STEPS
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_call_that_is_cancelled_at_any_step_and_repeated_pays_once(backend: str, tmp_path: Path, every: int) -> None:
    async def test(steps: Steps) -> None:
        step = 1
        while True:
            sandbox = virtual_sandbox(task_seconds=(2, 2))
            folder = tmp_path / f"{step}"
            with anyio.CancelScope() as scope:
                client = durable(sandbox, folder)
                steps.arm({step: scope.cancel})
                await client.generate(JOB, f"{folder}/out/")
            steps.disarm()
            was_reached = steps.count >= step
            if step // 2 % 2:
                await client.aclose()
                client = durable(sandbox, folder)
            with at_most(300):
                clip = await client.generate(JOB, f"{folder}/out/")
            assert clip.path.exists(), step
            assert len(sandbox.account.tasks) == 1, step
            assert {path.suffix for path in (folder / "out").iterdir()} <= {".mp4", ".json"}, step
            await client.aclose()
            if not was_reached:
                break
            step += every if step < 40 else 5 * every

    run_virtually(backend, test)


@pytest.mark.virtual_loops
async def test_equal_calls_at_the_same_time_pay_once(tmp_path: Path) -> None:
    sandbox = virtual_sandbox()
    clips = []
    async with durable(sandbox, tmp_path) as client:

        async def generate() -> None:
            clips.append(await client.generate(JOB, f"{tmp_path}/out/"))

        with at_most(300):
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(generate)
    assert len(sandbox.account.tasks) == len(set(clips)) == 1
    assert len(clips) == 4


@pytest.mark.virtual_loops
async def test_many_different_calls_with_a_journal_finish_on_a_small_account(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(concurrency_limit=10, task_seconds=(10, 10))
    async with durable(sandbox, tmp_path) as client:

        async def generate(number: int) -> None:
            await client.generate(Job(id=f"{number}", prompt="p"), f"{tmp_path}/out/")

        with at_most(600):
            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(generate, number)
    assert len(sandbox.account.tasks) == len(list((tmp_path / "out").glob("*.mp4"))) == 20


@pytest.mark.virtual_loops
async def test_a_lost_answer_is_reconciled_and_paid_once(tmp_path: Path) -> None:
    sandbox = virtual_sandbox()
    sandbox.faults.next("drop_after", "Run")
    async with durable(sandbox, tmp_path) as client:
        with at_most(600):
            clip = await client.generate(JOB, f"{tmp_path}/out/")
    assert clip.path.exists()
    assert len(sandbox.account.tasks) == 1


@pytest.mark.virtual_loops
async def test_what_can_not_be_reconciled_is_ambiguous(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(echo="empty")
    sandbox.faults.next("drop_after", "Run")
    async with durable(sandbox, tmp_path) as client:
        with at_most(600), pytest.raises(Ambiguous) as caught:
            await client.generate(JOB, f"{tmp_path}/out/")
        with pytest.raises(Ambiguous), at_most(600):
            await client.generate(JOB, f"{tmp_path}/out/")
        with pytest.raises(ValueError, match="again"):
            await client.find(caught.value)
    assert len(sandbox.account.tasks) == 1


@pytest.mark.virtual_loops
async def test_a_file_that_is_not_the_jobs_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    sandbox = virtual_sandbox()
    (tmp_path / "a.mp4").write_text("mine")
    async with durable(sandbox, tmp_path) as client:
        with pytest.raises(FileExistsError):
            await client.generate(Job(prompt="rain"), tmp_path / "a.mp4")
    assert sum(sandbox.requests.values()) == 0
    assert (tmp_path / "a.mp4").read_text() == "mine"


@pytest.mark.virtual_loops
async def test_a_folder_that_can_not_be_made_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    sandbox = virtual_sandbox()
    (tmp_path / "file").write_text("mine")
    async with durable(sandbox, tmp_path) as client:
        with pytest.raises(Unusable):
            await client.generate(JOB, f"{tmp_path}/file/out/")
        with pytest.raises(Unusable, match="is no folder: make it first, or end the target with /"):
            await client.generate(JOB, f"{tmp_path}/none/out.mp4")
    assert sum(sandbox.requests.values()) == 0


@pytest.mark.virtual_loops
async def test_refused_credentials_and_a_clip_that_is_gone_are_errors_of_the_call(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(late_cdn_seconds=10_000.0)
    async with virtual_client(sandbox, journal=tmp_path / "journal", secret="another") as client:
        with pytest.raises(StopBatch):
            await client.generate(JOB, f"{tmp_path}/out/")
    sandbox.faults.set_probabilities({"late_cdn": 1.0})
    async with durable(sandbox, tmp_path) as client:
        with pytest.raises(Missing) as caught:
            await client.generate(JOB, f"{tmp_path}/out/")
        assert caught.value.task_id == "500001"
        await anyio.sleep(10_000)
        assert (await client.generate(JOB, f"{tmp_path}/out/")).task_id == "500001"
    assert sandbox.requests["Run"] == 1


@pytest.mark.virtual_loops
async def test_a_timeout_and_a_failed_render_carry_the_task(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(task_seconds=(60, 60))
    async with durable(sandbox, tmp_path) as client:
        with pytest.raises(TimedOut) as caught:
            await client.generate(JOB, f"{tmp_path}/out/", timeout=20)
        assert caught.value.task is not None
        assert [task.id for task in client.unclaimed] == [caught.value.task.id]
        assert (await client.generate(JOB, f"{tmp_path}/out/")).task_id == caught.value.task.id
        assert client.unclaimed == []
    failing = virtual_sandbox(faults={"failed_render": 1.0})
    async with virtual_client(failing, journal=tmp_path / "second") as client:
        with pytest.raises(JobFailed) as failed:
            await client.generate(JOB, f"{tmp_path}/second/")
        assert failed.value.task is not None


class Mine(Exception):
    pass


@pytest.mark.virtual_loops
async def test_what_on_submitted_raises_is_raised_and_the_call_can_be_repeated(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(task_seconds=(20, 20))
    seen: list[Task] = []

    def fail(task: Task) -> None:
        seen.append(task)
        raise Mine

    async with durable(sandbox, tmp_path) as client:
        with pytest.raises(Mine):
            await client.generate(JOB, f"{tmp_path}/out/", on_submitted=fail)
        assert client.unclaimed == seen
        clip = await client.generate(JOB, f"{tmp_path}/out/")
    assert clip.task_id == seen[0].id
    assert len(sandbox.account.tasks) == 1
