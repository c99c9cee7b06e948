"""Takes of a job: the plain name belongs to the take of the present content."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from harness import World, make_sandbox

from wan_async.domain.job import Job
from wan_async.filesystem import Files

pytestmark = pytest.mark.virtual_time


def job(prompt: str) -> list[Job]:
    return [Job(id="a", prompt=prompt)]


async def test_if_an_edit_is_undone_the_earlier_take_gets_its_name_back(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(job("rain"))
    rain = (world.output / "a.mp4").read_bytes()
    await world.run(job("snow"))
    snow = (world.output / "a.mp4").read_bytes()
    assert (world.output / "a.1.mp4").read_bytes() == rain
    finished = await world.run(job("rain"))
    assert (finished.exit_code, finished.skipped, world.tasks) == (0, 1, 2)
    assert (world.output / "a.mp4").read_bytes() == rain
    assert (world.output / "a.2.mp4").read_bytes() == snow
    assert json.loads((world.output / "a.json").read_text())["parameters"]["prompt"] == "rain"
    assert json.loads((world.output / "a.2.json").read_text())["parameters"]["prompt"] == "snow"
    (result,) = map(json.loads, (world.output / "results.jsonl").read_text().splitlines())
    assert result["file"] == "a.mp4"
    await world.run(job("snow"))
    assert (world.output / "a.mp4").read_bytes() == snow
    assert world.tasks == 2
    assert len(world.clips) == 2


async def test_of_three_takes_the_present_one_has_the_plain_name(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    clips = {}
    for prompt in ("rain", "snow", "hail"):
        await world.run(job(prompt))
        clips[prompt] = (world.output / "a.mp4").read_bytes()
    for prompt in ("snow", "rain", "hail", "rain"):
        await world.run(job(prompt))
        assert (world.output / "a.mp4").read_bytes() == clips[prompt]
        assert sorted(path.read_bytes() for path in world.clips) == sorted(clips.values())
    assert world.tasks == 3


async def test_a_take_that_ends_after_its_edit_was_undone_gets_a_number(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(5.0, 5.0)))
    await world.run(job("rain"))
    rain = (world.output / "a.mp4").read_bytes()
    await world.run_until(2.0, job("snow"))
    finished = await world.run(job("rain"))
    assert (finished.exit_code, world.tasks) == (0, 2)
    assert (world.output / "a.mp4").read_bytes() == rain
    assert {path.name for path in world.clips} == {"a.mp4", "a.1.mp4"}
    for name, prompt in (("a", "rain"), ("a.1", "snow")):
        assert json.loads((world.output / f"{name}.json").read_text())["parameters"]["prompt"] == prompt


async def test_of_two_takes_in_flight_the_present_one_gets_the_plain_name_though_it_is_older_and_ends_later(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(60.0, 60.0)))
    await world.run_until(2.0, job("rain"))
    world.sandbox.settings.task_seconds = (5.0, 5.0)
    await world.run_until(2.0, job("snow"))
    finished = await world.run(job("rain"))
    assert (finished.exit_code, world.tasks) == (0, 2)
    for name, prompt in (("a", "rain"), ("a.1", "snow")):
        assert json.loads((world.output / f"{name}.json").read_text())["parameters"]["prompt"] == prompt
        assert (world.output / f"{name}.mp4").exists()


async def test_a_foreign_file_under_the_plain_name_is_left_alone(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(job("rain"))
    await world.run(job("snow"))
    (world.output / "a.mp4").unlink()
    (world.output / "a.mp4").write_text("mine")
    finished = await world.run(job("rain"))
    assert finished.exit_code == 0
    assert (world.output / "a.mp4").read_text() == "mine"
    assert (world.output / "a.1.mp4").exists()


async def test_a_take_that_cannot_be_renamed_now_keeps_its_name_until_the_next_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Lacking(Files):
        lacks = False

        def link(self, source: Path, target: Path) -> None:
            if self.lacks:
                raise OSError(errno.EMFILE, "Too many open files")
            super().link(source, target)

    world = World(tmp_path, make_sandbox(), files=Lacking())
    await world.run(job("rain"))
    rain = (world.output / "a.mp4").read_bytes()
    await world.run(job("snow"))
    for lacks in (True, False):
        Lacking.lacks = lacks
        finished = await world.run(job("rain"))
        assert (finished.exit_code, world.tasks) == (0, 2)
        assert ((world.output / "a.mp4").read_bytes() == rain) is not lacks
    assert "job a: its clip is still called a.1.mp4" in caplog.text


@pytest.mark.parametrize("steps", range(1, 8))
async def test_an_interrupted_exchange_is_completed_by_the_next_run(tmp_path: Path, steps: int) -> None:
    class Failing(Files):
        left = 10_000

        def _step(self) -> None:
            type(self).left -= 1
            if self.left < 0:
                raise OSError(5, "Input/output error")

        def link(self, source: Path, target: Path) -> None:
            self._step()
            super().link(source, target)

        def replace(self, source: Path, target: Path) -> None:
            self._step()
            super().replace(source, target)

        def unlink(self, path: Path) -> None:
            self._step()
            super().unlink(path)

    world = World(tmp_path, make_sandbox(), files=Failing())
    await world.run(job("rain"))
    rain = (world.output / "a.mp4").read_bytes()
    await world.run(job("snow"))
    snow = (world.output / "a.mp4").read_bytes()
    Failing.left = steps
    await world.run(job("rain"))
    Failing.left = 10_000
    finished = await world.run(job("rain"))
    assert (finished.exit_code, world.tasks) == (0, 2)
    assert (world.output / "a.mp4").read_bytes() == rain
    assert {path.read_bytes() for path in world.clips} == {rain, snow}  # a second name may be left
