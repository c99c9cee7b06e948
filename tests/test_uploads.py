"""Images on their way to the service: once per content, remembered for a day, renewed after a failed render."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from harness import World, make_sandbox, virtually

from wan_async import events
from wan_async.jobs import Job
from wan_async.runner import Runner

PNG = b"\x89PNG\r\n\x1a\n" + b"cat" * 50


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    return path


def jobs_with(image: Path, count: int = 3, first: int = 0) -> list[Job]:
    return [Job(id=f"{n}", image=image, prompt="it yawns", seed=n) for n in range(first, first + count)]


def test_equal_files_are_uploaded_once_whatever_they_are_called(tmp_path: Path, cat: Path) -> None:
    async def test() -> None:
        copy = tmp_path / "copy.png"
        copy.write_bytes(PNG)
        world = World(tmp_path, make_sandbox())
        await world.run([*jobs_with(cat), Job(id="copy", image=copy, prompt="it purrs")])
        assert world.sandbox.requests["File/Upload"] == 1
        (uploaded,) = world.told(events.Uploaded)
        assert uploaded.bytes == len(PNG)

    virtually(test)


def test_an_upload_is_remembered_for_a_day(tmp_path: Path, cat: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        await world.run(jobs_with(cat))
        await anyio.sleep(23 * 3600)
        await world.run(jobs_with(cat, 4))
        assert world.sandbox.requests["File/Upload"] == 1
        await anyio.sleep(2 * 3600)
        await world.run(jobs_with(cat, 5))
        assert world.sandbox.requests["File/Upload"] == 2

    virtually(test)


def test_a_failed_render_has_its_image_sent_anew(tmp_path: Path, cat: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        world.sandbox.faults.next("failed_render")
        finished = await world.run(jobs_with(cat, 1))
        assert (finished.exit_code, world.tasks) == (0, 2)
        assert world.sandbox.requests["File/Upload"] == 2

    virtually(test)


@pytest.mark.parametrize("upload", ["file", "inline"])
@pytest.mark.parametrize("change", ["changed", "gone", "empty"])
def test_an_image_that_changed_since_the_plan_fails_its_job_and_costs_nothing(
    tmp_path: Path, cat: Path, upload: str, change: str
) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())

        async def act(runner: Runner) -> None:
            if change == "gone":
                cat.unlink()
            else:
                cat.write_bytes(PNG + b"more" if change == "changed" else b"")

        finished = await world.run(jobs_with(cat, 2), act, upload=upload)
        assert (finished.exit_code, finished.failed, world.tasks) == (1, 2, 0)
        assert {failed.kind for failed in world.told(events.Failed)} == {"image"}
        cat.write_bytes(PNG)
        assert (await world.run(jobs_with(cat, 2), upload=upload)).exit_code == 0

    virtually(test)


def test_an_upload_that_fails_for_a_while_is_tried_again_visibly(tmp_path: Path, cat: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        world.sandbox.faults.next("http_500", endpoint="File/Upload", times=12)
        finished = await world.run(jobs_with(cat))
        assert (finished.exit_code, finished.stored) == (0, 3)
        assert world.told(events.Retrying)

    virtually(test)


def test_a_run_that_is_stopped_does_not_wait_for_an_upload_that_fails(tmp_path: Path, cat: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox(faults={"http_500@File/Upload": 1.0}))

        async def act(runner: Runner) -> None:
            await anyio.sleep(60)
            runner.stop("Ctrl-C", 130)

        finished = await world.run(jobs_with(cat, 1), act)
        assert (finished.exit_code, finished.unfinished, world.tasks) == (130, 1, 0)
        assert finished.seconds < 120

    virtually(test)
