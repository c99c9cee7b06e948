"""A run from its start to its exit code, in virtual time."""

from __future__ import annotations

import errno
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import httpx
import pytest
from harness import Send, World, intercepting, make_sandbox, text_jobs
from pictures import png

from wan_async.batch import images as images_module
from wan_async.batch.image_inspection import Facts
from wan_async.batch.images import Digest
from wan_async.batch.plan import prepare
from wan_async.domain import events
from wan_async.domain.attempt import Account
from wan_async.domain.batch import from_jobs
from wan_async.domain.events import Finished
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import Job
from wan_async.domain.remote_task import TaskId, TaskToken
from wan_async.engine.account_check import FIRST_CONTACT_SECONDS
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.engine.run_events import EventStream
from wan_async.errors import InvalidBatch
from wan_async.filesystem import Files
from wan_async.journal.sqlite import SqliteJournal
from wan_async.wiro.notification_messages import Hint


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in ("cat", "dog")]
    for path in paths:
        path.write_bytes(png(path.stem.encode() * 50))
    return paths


@pytest.mark.virtual_time
async def test_a_batch_produces_clips_and_sidecars(tmp_path: Path, images: list[Path]) -> None:
    world = World(tmp_path, make_sandbox())
    batch = [*text_jobs(3), *(Job(id=path.stem, prompt="it yawns", image=path, seed=7) for path in images)]
    finished = await world.run(batch)
    assert finished.exit_code == 0
    assert (finished.jobs, finished.stored, finished.skipped, finished.unfinished) == (5, 5, 0, 0)
    assert len(world.clips) == world.tasks == 5
    assert world.leftovers == []
    sidecar = json.loads((world.output / "cat.json").read_text())
    assert sidecar["parameters"]["prompt"] == "it yawns"
    assert sidecar["parameters"]["seed"] == "7"
    assert (world.output / sidecar["image_file"]).samefile(images[0])
    assert json.loads((world.output / "job-0.json").read_text())["image_file"] is None
    assert sidecar["cost_usd"] == "0.05"
    assert f"{finished.spent_usd:f}" == "0.25"
    lines = [json.loads(line) for line in (world.output / "results.jsonl").read_text().splitlines()]
    assert [line["job"] for line in lines] == ["job-0", "job-1", "job-2", "cat", "dog"]
    assert [line["name"] for line in lines] == ["job-0", "job-1", "job-2", "cat", "dog"]
    assert {line["state"] for line in lines} == {"stored"}
    assert all((world.output / line["file"]).exists() for line in lines)


@pytest.mark.virtual_time
async def test_a_finished_batch_that_is_run_again_sends_no_request(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(text_jobs(3))
    before = sum(world.sandbox.requests.values())
    finished = await world.run(text_jobs(3))
    assert finished.exit_code == 0
    assert (finished.stored, finished.skipped) == (0, 3)
    assert sum(world.sandbox.requests.values()) == before


@pytest.mark.virtual_time
async def test_an_image_is_uploaded_once_for_all_its_jobs(tmp_path: Path, images: list[Path]) -> None:
    world = World(tmp_path, make_sandbox())
    finished = await world.run([Job(id=f"{seed}", prompt="it yawns", image=images[0], seed=seed) for seed in range(5)])
    assert finished.exit_code == 0
    assert world.sandbox.requests["File/Upload"] == 1
    assert len(world.events_of(events.Uploaded)) == 1


@pytest.mark.virtual_time
async def test_inline_images_are_sent_with_run_and_not_uploaded(tmp_path: Path, images: list[Path]) -> None:
    world = World(tmp_path, make_sandbox())
    finished = await world.run(
        [Job(id=path.stem, prompt=f"the {path.stem} yawns", image=path) for path in images], upload="inline"
    )
    assert finished.exit_code == 0
    assert world.sandbox.requests["File/Upload"] == 0
    assert len(world.clips) == 2


@pytest.mark.virtual_time
async def test_the_events_of_a_job_come_in_order(tmp_path: Path, images: list[Path]) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run([Job(id="cat", prompt="it yawns", image=images[0])])
    names = [events.name_of(type(event)) for event in world.events]
    facts = [name for name in names if name not in ("progress", "downloading")]
    assert facts == ["started", "uploaded", "submitting", "accepted", "ended", "stored", "finished"]
    assert len({event.run for event in world.events}) == 1
    assert [event.at for event in world.events] == sorted(event.at for event in world.events)


@pytest.mark.virtual_time
async def test_changed_content_of_a_key_is_rendered_and_the_old_clip_is_kept(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run([Job(id="cat", prompt="it yawns")])
    old = (world.output / "cat.mp4").read_bytes()
    finished = await world.run([Job(id="cat", prompt="it purrs")])
    assert finished.exit_code == 0
    assert (world.output / "cat.1.mp4").read_bytes() == old
    assert (world.output / "cat.mp4").read_bytes() != old
    assert json.loads((world.output / "cat.json").read_text())["parameters"]["prompt"] == "it purrs"
    assert json.loads((world.output / "cat.1.json").read_text())["parameters"]["prompt"] == "it yawns"
    assert world.tasks == 2


@pytest.mark.virtual_time
async def test_a_renamed_job_takes_over_its_clip(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run([Job(id="cat", prompt="it yawns")])
    finished = await world.run([Job(id="tom", prompt="it yawns")])
    assert (finished.exit_code, finished.skipped) == (0, 1)
    assert world.tasks == 1


@pytest.mark.virtual_time
async def test_a_deleted_clip_is_downloaded_again_and_not_rendered_again(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(text_jobs(2))
    (world.output / "job-1.mp4").unlink()
    finished = await world.run(text_jobs(2))
    assert finished.exit_code == 0
    assert len(world.clips) == world.tasks == 2


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("faults", "details"),
    [
        ({}, 2.5),
        pytest.param(
            {"vanish": 0.2, "http_500@Task/List": 0.2, "cut_json@Task/List": 0.1}, 4.0, marks=pytest.mark.slow
        ),
    ],
)
async def test_without_a_socket_many_tasks_are_tracked_by_the_task_list(
    tmp_path: Path, faults: dict[str, float], details: float
) -> None:
    world = World(tmp_path, make_sandbox(faults=faults, task_seconds=(20.0, 40.0)))
    finished = await world.run(text_jobs(90), track="poll", concurrency=30)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 90, 90)
    assert world.sandbox.requests["Task/Detail"] <= 90 * details  # at most 2.3 and 3.4 in 32 orders of the tasks
    assert world.sandbox.requests["Task/List"] <= 90 * 2


@pytest.mark.virtual_time
async def test_limit_and_only_select_jobs(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    finished = await world.run(text_jobs(5), limit=2)
    assert (finished.exit_code, finished.stored, finished.unfinished) == (0, 2, 3)
    assert (await world.run(text_jobs(5), only="job-5")).exit_code == 2
    assert "no job is called" in world.events_of(events.Problem)[0].message
    finished = await world.run(text_jobs(5), only="job-4")
    assert (finished.stored, finished.skipped, finished.unfinished) == (1, 2, 2)
    assert {clip.stem for clip in world.clips} == {"job-0", "job-1", "job-4"}


@pytest.mark.virtual_time
async def test_a_failed_render_is_retried_and_then_reported(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(faults={"failed_render": 1.0}))
    finished = await world.run(text_jobs(1), retries=2)
    assert finished.exit_code == 1
    assert world.tasks == 3
    (failed,) = world.events_of(events.Failed)
    assert failed.kind == "render"
    assert finished.spent_usd == 0
    again = await world.run(text_jobs(1), retries=2)
    assert (again.exit_code, world.tasks) == (1, 3)
    world.sandbox.faults.probabilities.clear()
    last = await world.run(text_jobs(1), retry_failed=True)
    assert (last.exit_code, world.tasks) == (0, 4)


@pytest.mark.virtual_time
async def test_a_failed_render_whose_retry_succeeds_is_no_failure(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("failed_render")
    world.sandbox.faults.next("task_error")
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)


@pytest.mark.virtual_time
async def test_refused_credentials_end_the_batch_after_one_request(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(), key="another-key")
    finished = await world.run(text_jobs(20))
    assert finished.exit_code == 4
    assert sum(world.sandbox.requests.values()) == 1
    assert world.tasks == 0
    assert len(world.events_of(events.Stopping)) == 1


@pytest.mark.virtual_time
async def test_an_empty_balance_stops_the_batch_and_active_tasks_are_drained(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        make_sandbox(balance_usd=0.16, concurrency_limit=50),
    )
    finished = await world.run(text_jobs(10))
    assert finished.exit_code == 3
    assert (finished.stored, finished.unfinished, world.tasks) == (3, 7, 3)
    assert any(limit.code == 97 for limit in world.events_of(events.Limited))


@pytest.mark.virtual_time
@pytest.mark.parametrize("concurrency", [1, 4, None])
async def test_a_budget_is_kept_with_any_concurrency_and_across_restarts(
    tmp_path: Path, concurrency: int | None
) -> None:
    world = World(tmp_path, make_sandbox())
    finished = await world.run(text_jobs(10), budget_micros=170_000, concurrency=concurrency)
    assert finished.exit_code == 3
    assert (finished.stored, world.tasks) == (3, 3)
    finished = await world.run(text_jobs(10), budget_micros=270_000, concurrency=concurrency)
    assert (finished.exit_code, finished.stored, world.tasks) == (3, 2, 5)
    assert f"{finished.spent_usd:f}" == "0.25"


@pytest.mark.virtual_time
async def test_a_budget_needs_a_price(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(pricing="none"))
    finished = await world.run(text_jobs(1), budget_micros=1_000_000)
    assert finished.exit_code == 2
    assert world.tasks == 0
    (problem,) = world.events_of(events.Problem)
    assert problem.where == "--budget"


@pytest.mark.virtual_time
async def test_reaching_the_accounts_limit_is_no_failure(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(concurrency_limit=3))
    finished = await world.run(text_jobs(20))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 20, 20)
    assert any(limit.code == 96 for limit in world.events_of(events.Limited))
    assert world.events_of(events.Failed) == []


@pytest.mark.virtual_time
async def test_a_stopped_run_drains_its_active_tasks(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    async def act(runner: Run) -> None:
        await anyio.sleep(0.5)
        runner.stop("Ctrl-C", ExitCode.INTERRUPTED)

    finished = await world.run(text_jobs(20), act, concurrency=4, resume="again")
    assert finished.exit_code == 130
    assert (finished.stored, world.tasks, len(world.clips)) == (4, 4, 4)
    assert finished.resume == "again"


@pytest.mark.virtual_time
async def test_leaving_a_run_loses_no_paid_clip(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    async def act(runner: Run) -> None:
        await anyio.sleep(0.5)
        runner.stop("Ctrl-C", ExitCode.INTERRUPTED)
        runner.leave()

    finished = await world.run(text_jobs(6), act)
    assert (finished.exit_code, finished.stored, world.tasks) == (130, 0, 6)
    finished = await world.run(text_jobs(6))
    assert (finished.exit_code, finished.stored, world.tasks, len(world.clips)) == (0, 6, 6, 6)


@pytest.mark.virtual_time
async def test_a_run_without_network_ends_after_a_minute_with_the_reason(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(faults={"drop_before": 1.0}))
    finished = await world.run(text_jobs(1))
    assert finished.exit_code == 6
    (stopping,) = world.events_of(events.Stopping)
    assert "can't be reached" in stopping.reason


@pytest.mark.virtual_time
async def test_a_first_answer_that_does_not_come_is_waited_for_visibly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[bool] = []

    @intercepting
    async def silent(request: httpx.Request, send: Send) -> httpx.Response:
        if "Task/List" in request.url.path and not seen:
            await anyio.sleep(2)
            seen.append("waiting for an answer" in caplog.text)
            await anyio.sleep(1)
            seen.append("waiting for an answer" in caplog.text)
        return await send(request)

    world = World(tmp_path, make_sandbox(), wrap=silent)
    finished = await world.run(text_jobs(1))
    assert finished.exit_code == 0
    assert seen == [False, True]


@pytest.mark.virtual_time
async def test_the_start_says_what_is_to_be_paid_by_price(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    jobs = [Job(id=f"{number}", prompt=f"p {number}", resolution="720P" if number else "480P") for number in range(3)]
    finished = await world.run(jobs)
    (begin,) = world.events_of(events.Started)
    assert [(group.name, group.to_do, group.unsettled) for group in begin.groups] == [("480P", 1, 0), ("720P", 2, 0)]
    assert finished.run_usd == sum(group.to_do * (group.price_usd or 0) for group in begin.groups)


@pytest.mark.virtual_time
async def test_the_start_says_what_earlier_runs_have_not_settled(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    async def act(runner: Run) -> None:
        await anyio.sleep(1)
        runner.stop("Ctrl-C", ExitCode.INTERRUPTED)
        runner.leave()

    await world.run(text_jobs(3), act)
    finished = await world.run(text_jobs(3))
    begin = world.events_of(events.Started)[-1]
    assert [(group.to_do, group.unsettled) for group in begin.groups] == [(0, 3)]
    assert finished.run_usd == begin.groups[0].unsettled_usd > 0


@pytest.mark.virtual_time
async def test_five_identical_refusals_in_a_row_stop_the_batch(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(), wrap=refusing)
    finished = await world.run(text_jobs(30), concurrency=1)
    assert finished.exit_code == 1
    assert finished.failed == 5
    assert world.tasks == 0
    (stopping,) = world.events_of(events.Stopping)
    assert "Request parameter [seed] is odd" in stopping.reason


@intercepting
async def refusing(request: httpx.Request, send: Send) -> httpx.Response:
    """A transport that refuses every Run."""
    if "/Run/" in request.url.path:
        errors = [{"code": 0, "message": "Request parameter [seed] is odd"}]
        return httpx.Response(200, json={"result": False, "errors": errors})
    return await send(request)


@pytest.mark.virtual_time
async def test_an_unchanged_image_is_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "cat.png"
    image.write_bytes(png(b"cat" * 50))
    read: list[str] = []
    hashing = images_module.inspected

    def inspected(path: str) -> tuple[Digest, Facts | None]:
        read.append(path)
        return hashing(path)

    monkeypatch.setattr(images_module, "inspected", inspected)

    world = World(tmp_path, make_sandbox())
    for number in range(2):
        finished = await world.run([Job(id=f"{number}", image=image, prompt=f"scene {number}")])
        assert (finished.exit_code, finished.stored) == (0, 1)
    assert read == [str(image)]
    image.write_bytes(image.read_bytes() + b"!")
    await world.run([Job(id="2", image=image, prompt="scene")])
    assert read == [str(image)] * 2


@pytest.mark.virtual_time
async def test_a_run_that_is_stopped_before_it_starts_submits_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    runner, finished = await run_unobserved(
        world, text_jobs(2), lambda runner: runner.stop("Ctrl-C", ExitCode.INTERRUPTED)
    )
    assert (finished.exit_code, finished.unfinished, world.tasks, runner.error) == (130, 2, 0, None)
    assert (await world.run(text_jobs(2))).exit_code == 0


@pytest.mark.virtual_time
async def test_a_run_that_is_left_before_it_starts_submits_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def leave(runner: Run) -> None:
        runner.hint(Hint(TaskId("1"), None, "task_end"))
        runner.leave()

    _, finished = await run_unobserved(world, text_jobs(2), leave)
    assert (finished.exit_code, finished.unfinished, world.tasks) == (130, 2, 0)


async def run_unobserved(world: World, batch: list[Job], before: Callable[[Run], None]) -> tuple[Run, Finished]:
    """Run a batch without a reader of its events; `before` is called with the run before it starts."""
    world.output.mkdir(exist_ok=True)
    runner = Run(
        prepare(from_jobs(batch), world.home),
        dependencies=world.dependencies(),
        account=Account(world.origin, world.key),
        output=world.output,
    )
    before(runner)
    return runner, await runner.run()


@pytest.mark.virtual_time
async def test_a_cancelled_run_emits_its_finished_event(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    stream = EventStream()
    world.output.mkdir()
    runner = Run(
        prepare(from_jobs(text_jobs(3)), world.home),
        dependencies=world.dependencies(),
        account=Account(world.origin, world.key),
        output=world.output,
        options=Options(resume="again"),
        stream=stream,
    )
    with anyio.move_on_after(0.5) as scope:
        await runner.run()
    assert scope.cancelled_caught
    emitted = [event async for event in stream]
    assert isinstance(emitted[-1], Finished)
    assert (emitted[-1].exit_code, emitted[-1].stored, emitted[-1].unfinished, world.tasks) == (130, 0, 3, 3)
    assert emitted[-1].resume == "again"
    finished = await world.run(text_jobs(3))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 3, 3)


@pytest.mark.virtual_time
async def test_a_hint_makes_the_poll_of_its_task_due_soon(tmp_path: Path) -> None:
    async def seconds(folder: Path, act: Callable[[World, Run], Awaitable[None]]) -> float:
        folder.mkdir()
        world = World(folder, make_sandbox(task_seconds=(100, 100)))
        finished = await world.run(text_jobs(1), lambda runner: act(world, runner))
        assert (finished.exit_code, world.tasks) == (0, 1)
        return finished.seconds

    async def hint(world: World, runner: Run) -> None:
        await anyio.sleep(100.5)
        (task,) = world.sandbox.account.tasks.values()
        runner.hint(Hint(None, TaskToken(task.token), "task_postprocess_end", over=True))

    async def silent(world: World, runner: Run) -> None:
        pass

    assert await seconds(tmp_path / "hinted", hint) <= 102 < await seconds(tmp_path / "unhinted", silent)


@pytest.mark.virtual_time
async def test_a_journal_in_use_is_reported_and_no_request_is_sent(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.output.mkdir()
    async with SqliteJournal.open(world.home, Account(world.origin, world.key), inline=True):
        finished = await world.run(text_jobs(2))
    assert (finished.exit_code, world.tasks, sum(world.sandbox.requests.values())) == (7, 0, 0)
    assert [type(event) for event in world.events] == [events.Stopping, Finished]


@pytest.mark.virtual_time
async def test_a_results_file_that_cannot_be_written_is_reported_and_no_clip_is_lost(tmp_path: Path) -> None:
    class Full(Files):
        def replace(self, source: Path, target: Path) -> None:
            if target.name == "results.jsonl":
                raise OSError(errno.ENOSPC, "No space left on device")
            super().replace(source, target)

    world = World(tmp_path, make_sandbox(), files=Full())
    finished = await world.run(text_jobs(2))
    assert (finished.exit_code, finished.stored, len(world.clips)) == (6, 2, 2)
    (stopping,) = world.events_of(events.Stopping)
    assert "the disk is full" in stopping.reason


@pytest.mark.virtual_time
@pytest.mark.parametrize("status", [301, 404])
async def test_a_wrong_base_url_ends_the_run_with_a_hint(tmp_path: Path, status: int) -> None:
    class WrongServer(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(status, html="<h1>Not Here</h1>")

    world = World(tmp_path, make_sandbox(), wrap=lambda inner: WrongServer())
    finished = await world.run(text_jobs(2))
    assert (finished.exit_code, finished.unfinished) == (6, 2)
    assert finished.seconds <= 60
    (stopping,) = world.events_of(events.Stopping)
    assert "is the base URL right?" in stopping.reason


@pytest.mark.virtual_time
async def test_a_rate_limit_at_the_first_contact_is_waited_out(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("http_429", endpoint="Task/List", times=40)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.stored) == (0, 1)
    assert finished.seconds > FIRST_CONTACT_SECONDS


@pytest.mark.virtual_time
async def test_a_new_key_is_accepted_only_if_it_can_read_a_task_of_the_journal(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(text_jobs(2))
    newest = list(world.sandbox.account.tasks)[-1]
    del world.sandbox.account.tasks[newest]
    world.sandbox.settings.api_key = world.key = "rotated"
    finished = await world.run(text_jobs(3))
    assert (finished.exit_code, finished.stored) == (0, 1)
    other = World(tmp_path, make_sandbox(api_key="another-key"), key="another-key")
    finished = await other.run(text_jobs(4))
    assert (finished.exit_code, other.tasks) == (6, 0)
    (stopping,) = other.events_of(events.Stopping)
    assert "another account" in stopping.reason
    assert "-o" in stopping.reason


def test_a_missing_image_is_a_problem_before_the_journal_is_created(tmp_path: Path, images: list[Path]) -> None:
    images[0].unlink()
    with pytest.raises(InvalidBatch) as caught:
        prepare(from_jobs([Job(prompt="a", image=path) for path in images]), tmp_path / "home")
    (problem,) = caught.value.problems
    assert "cat.png" in str(problem)
    assert not (tmp_path / "home").exists()
