"""Images on their way to the service: once per content, remembered for a day, renewed after a failed render."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import anyio
import httpx
import pytest
from harness import World, make_sandbox

from wan_async import errors
from wan_async.batch import images
from wan_async.domain import events
from wan_async.domain.attempt import Account
from wan_async.domain.job import Job
from wan_async.engine.environment import make_environment
from wan_async.engine.event_stream import EventStream
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.engine.uploads import Uploads
from wan_async.engine.work import Work

PNG = b"\x89PNG\r\n\x1a\n" + b"cat" * 50


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    return path


def jobs_with(image: Path, count: int = 3, first: int = 0) -> list[Job]:
    return [Job(id=f"{n}", image=image, prompt="it yawns", seed=n) for n in range(first, first + count)]


@pytest.mark.virtual_time
async def test_equal_files_are_uploaded_once_whatever_they_are_called(tmp_path: Path, cat: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(PNG)
    world = World(tmp_path, make_sandbox())
    await world.run([*jobs_with(cat), Job(id="copy", image=copy, prompt="it purrs")])
    assert world.sandbox.requests["File/Upload"] == 1
    (uploaded,) = world.events_of(events.Uploaded)
    assert uploaded.bytes == len(PNG)


@pytest.mark.virtual_time
async def test_an_upload_is_remembered_for_a_day(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(jobs_with(cat))
    await anyio.sleep(23 * 3600)
    await world.run(jobs_with(cat, 4))
    assert world.sandbox.requests["File/Upload"] == 1
    await anyio.sleep(2 * 3600)
    await world.run(jobs_with(cat, 5))
    assert world.sandbox.requests["File/Upload"] == 2


@pytest.mark.virtual_time
async def test_a_failed_render_has_its_image_sent_anew(tmp_path: Path, cat: Path) -> None:
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
async def test_an_upload_that_fails_for_a_while_is_tried_again_visibly(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("http_500", endpoint="File/Upload", times=12)
    finished = await world.run(jobs_with(cat))
    assert (finished.exit_code, finished.stored) == (0, 3)
    assert world.events_of(events.Retrying)


@pytest.mark.virtual_time
async def test_a_run_that_is_stopped_does_not_wait_for_an_upload_that_fails(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox(faults={"http_500@File/Upload": 1.0}))

    async def act(runner: Run) -> None:
        await anyio.sleep(60)
        runner.stop("Ctrl-C", 130)

    finished = await world.run(jobs_with(cat, 1), act)
    assert (finished.exit_code, finished.unfinished, world.tasks) == (130, 1, 0)
    assert finished.seconds < 120


class Fickle(httpx.AsyncBaseTransport):
    """A service that refuses the second upload, but not before two renders have failed."""

    def __init__(self, inner: httpx.AsyncBaseTransport, world: World) -> None:
        self.inner, self.world, self.uploads = inner, world, 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/File/Upload"):
            self.uploads += 1
            if self.uploads == 2:
                while len(self.world.events_of(events.Retrying)) < 2:  # noqa: ASYNC110 - virtual time costs nothing
                    await anyio.sleep(0.05)
                return httpx.Response(400, json={"result": False, "errors": [{"code": 1, "message": "no room"}]})
        return await self.inner.handle_async_request(request)


@pytest.mark.virtual_time
async def test_an_upload_that_fails_after_it_was_forgotten_concerns_nobody_else(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(2, 60)))
    world.wrap = lambda inner: Fickle(inner, world)
    world.sandbox.faults.next("failed_render", times=2)
    finished = await world.run(jobs_with(cat, 2), upload="file")
    assert (finished.exit_code, finished.failed, finished.stored, world.tasks) == (1, 1, 1, 3)
    (failed,) = world.events_of(events.Failed)
    assert "no room" in failed.message
    assert (await world.run(jobs_with(cat, 2))).exit_code == 0


async def some_uploads(world: World, count: int, use: Callable[[Uploads, list[Work]], Awaitable[None]]) -> None:
    """The uploads of a run that does nothing else, for so many jobs."""
    services, stream = world.services(), EventStream()
    async with services.open_journal(world.home, Account(world.origin, world.key), inline=True) as journal:
        environment = make_environment(journal, services, Options(), world.output, stream, "run")
        await use(Uploads(environment), [Work(f"{n}", None) for n in range(count)])


@pytest.mark.virtual_time
async def test_an_upload_that_is_broken_off_leaves_nobody_waiting_and_the_next_may_try(
    tmp_path: Path, cat: Path
) -> None:
    world = World(tmp_path, make_sandbox(latency_seconds=1.0))
    digest = sha256(PNG).hexdigest()

    async def use(uploads: Uploads, works: list[Work]) -> None:
        first = anyio.CancelScope()

        async def broken_off() -> None:
            with first:
                await uploads.url_of(works[0], cat, digest)

        async def waiting() -> None:
            with pytest.raises(errors.TryLater):
                await uploads.url_of(works[1], cat, digest)

        async with anyio.create_task_group() as group:
            group.start_soon(broken_off)
            await anyio.sleep(0.1)
            group.start_soon(waiting)
            await anyio.sleep(0.1)
            first.cancel()
        url = await uploads.url_of(works[2], cat, digest)
        assert url.startswith("https://")
        assert world.sandbox.requests["File/Upload"] == 1

    await some_uploads(world, 3, use)


@pytest.mark.virtual_time
@pytest.mark.parametrize("upload", ["file", "inline"])
async def test_an_image_that_goes_away_while_it_is_looked_at_fails_its_job_alone(
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
