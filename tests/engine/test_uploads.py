"""Uploads of images: once per content, reused for a day, renewed after a failed render."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import anyio
import httpx
import pytest
from harness import World, make_sandbox
from pictures import png

from wan_async import errors
from wan_async.batch import images
from wan_async.domain import events
from wan_async.domain.attempt import Account
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import Job
from wan_async.engine.active_job import Work
from wan_async.engine.environment import make_environment
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.engine.run_events import EventStream
from wan_async.engine.uploads import Uploads

PNG = png(b"cat" * 50)


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    return path


def jobs_with(image: Path, count: int = 3, first: int = 0) -> list[Job]:
    return [Job(id=f"{n}", image=image, prompt="it yawns", seed=n) for n in range(first, first + count)]


@pytest.mark.virtual_time
async def test_equal_files_with_different_names_are_uploaded_once(tmp_path: Path, cat: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(PNG)
    world = World(tmp_path, make_sandbox())
    await world.run([*jobs_with(cat), Job(id="copy", image=copy, prompt="it purrs")])
    assert world.sandbox.requests["File/Upload"] == 1
    (uploaded,) = world.events_of(events.Uploaded)
    assert uploaded.bytes == len(PNG)


@pytest.mark.virtual_time
async def test_an_uploaded_url_is_reused_for_a_day(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(jobs_with(cat))
    await anyio.sleep(23 * 3600)
    await world.run(jobs_with(cat, 4))
    assert world.sandbox.requests["File/Upload"] == 1
    await anyio.sleep(2 * 3600)
    await world.run(jobs_with(cat, 5))
    assert world.sandbox.requests["File/Upload"] == 2


@pytest.mark.virtual_time
async def test_a_failed_render_uploads_its_image_again(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("failed_render")
    finished = await world.run(jobs_with(cat, 1))
    assert (finished.exit_code, world.tasks) == (0, 2)
    assert world.sandbox.requests["File/Upload"] == 2


@pytest.mark.virtual_time
@pytest.mark.parametrize("upload", ["file", "inline"])
@pytest.mark.parametrize("change", ["changed", "gone", "empty"])
async def test_an_image_that_changed_since_the_plan_fails_its_job_and_costs_nothing(
    tmp_path: Path, cat: Path, upload: str, change: str
) -> None:
    world = World(tmp_path, make_sandbox())

    async def act(runner: Run) -> None:
        if change == "gone":
            cat.unlink()
        else:
            cat.write_bytes(PNG + b"more" if change == "changed" else b"")

    finished = await world.run(jobs_with(cat, 2), act, upload=upload)
    assert (finished.exit_code, finished.failed, world.tasks) == (1, 2, 0)
    assert {failed.kind for failed in world.events_of(events.Failed)} == {"image"}
    cat.write_bytes(PNG)
    assert (await world.run(jobs_with(cat, 2), upload=upload)).exit_code == 0


@pytest.mark.virtual_time
async def test_a_failed_upload_is_retried_and_reported(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("http_500", endpoint="File/Upload", times=12)
    finished = await world.run(jobs_with(cat))
    assert (finished.exit_code, finished.stored) == (0, 3)
    assert world.events_of(events.Retrying)


@pytest.mark.virtual_time
async def test_a_stopped_run_does_not_wait_for_a_failing_upload(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox(faults={"http_500@File/Upload": 1.0}))

    async def act(runner: Run) -> None:
        await anyio.sleep(60)
        runner.stop("Ctrl-C", ExitCode.INTERRUPTED)

    finished = await world.run(jobs_with(cat, 1), act)
    assert (finished.exit_code, finished.unfinished, world.tasks) == (130, 1, 0)
    assert finished.seconds < 120


class RefusingSecondUpload(httpx.AsyncBaseTransport):
    """A transport that refuses the second upload once two renders have failed."""

    def __init__(self, inner: httpx.AsyncBaseTransport, world: World) -> None:
        self.inner, self.world, self.uploads = inner, world, 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/File/Upload"):
            self.uploads += 1
            if self.uploads == 2:
                while len(self.world.events_of(events.Retrying)) < 2:  # noqa: ASYNC110 - virtual time: no event tells of a retry
                    await anyio.sleep(0.05)
                return httpx.Response(
                    400, json={"result": False, "errors": [{"code": 1, "message": "file storage is full"}]}
                )
        return await self.inner.handle_async_request(request)


@pytest.mark.virtual_time
async def test_an_upload_that_fails_after_it_was_discarded_affects_no_other_job(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(2, 60)))
    world.wrap = lambda inner: RefusingSecondUpload(inner, world)
    world.sandbox.faults.next("failed_render", times=2)
    finished = await world.run(jobs_with(cat, 2), upload="file")
    assert (finished.exit_code, finished.failed, finished.stored, world.tasks) == (1, 1, 1, 3)
    (failed,) = world.events_of(events.Failed)
    assert "file storage is full" in failed.message
    assert (await world.run(jobs_with(cat, 2))).exit_code == 0


async def with_uploads(world: World, count: int, use: Callable[[Uploads, list[Work]], Awaitable[None]]) -> None:
    """Call `use` with the uploads of a run and the work of `count` jobs."""
    dependencies, stream = world.dependencies(), EventStream()
    async with dependencies.open_journal(world.home, Account(world.origin, world.key), inline=True) as journal:
        environment = make_environment(journal, dependencies, Options(), world.output, stream, "run")
        await use(Uploads(environment), [Work(f"{n}", None) for n in range(count)])


@pytest.mark.virtual_time
async def test_a_cancelled_upload_releases_its_waiters_and_can_be_retried(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox(latency_seconds=1.0))
    digest = sha256(PNG).hexdigest()

    async def use(uploads: Uploads, works: list[Work]) -> None:
        first = anyio.CancelScope()

        async def cancelled() -> None:
            with first:
                await uploads.url_of(works[0], cat, digest)

        async def waiting() -> None:
            with pytest.raises(errors.TryLater):
                await uploads.url_of(works[1], cat, digest)

        async with anyio.create_task_group() as group:
            group.start_soon(cancelled)
            await anyio.sleep(0.1)
            group.start_soon(waiting)
            await anyio.sleep(0.1)
            first.cancel()
        url = await uploads.url_of(works[2], cat, digest)
        assert url.startswith("https://")
        assert world.sandbox.requests["File/Upload"] == 1

    await with_uploads(world, 3, use)


@pytest.mark.virtual_time
@pytest.mark.parametrize("upload", ["file", "inline"])
async def test_an_image_that_is_deleted_during_its_check_fails_its_own_job_only(
    tmp_path: Path, cat: Path, upload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = images.check_image

    def look(path: str) -> str | None:
        problem = check(path)
        cat.unlink(missing_ok=True)
        return problem

    monkeypatch.setattr(images, "check_image", look)

    world = World(tmp_path, make_sandbox())
    finished = await world.run([*jobs_with(cat, 1), Job(id="rain", prompt="rain")], upload=upload)
    assert (finished.exit_code, finished.failed, finished.stored, world.tasks) == (1, 1, 1, 1)
    (failed,) = world.events_of(events.Failed)
    assert (failed.kind, failed.job) == ("image", "0")
    assert f"{cat} can't be read: No such file" in failed.message
