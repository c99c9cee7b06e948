"""Jobs of equal content: rendered and paid once, present under each name."""

from __future__ import annotations

import errno
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from harness import World, make_sandbox, text_jobs

from wan_async.domain import events
from wan_async.domain.job import Job
from wan_async.filesystem import Files

pytestmark = pytest.mark.virtual_time


def same(*ids: str, **fields: Any) -> list[Job]:
    return [Job(id=each, prompt="rain", **fields) for each in ids]


def states(world: World) -> dict[str, str]:
    lines = (world.output / "results.jsonl").read_text().splitlines()
    return {result["job"]: result["state"] for result in map(json.loads, lines)}


async def test_equal_jobs_are_paid_once_and_present_under_each_name(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    finished = await world.run([*same("a", "b", "c"), *text_jobs(2)])
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 5, 3)
    assert finished.run_usd == finished.spent_usd == Decimal("0.15")
    (started,) = world.events_of(events.Started)
    assert (started.jobs, started.to_do, started.duplicates, started.to_fetch) == (5, 3, 2, 0)
    assert started.estimate_usd == Decimal("0.15")
    clips = {path.name: path.read_bytes() for path in world.clips}
    assert clips["a.mp4"] == clips["b.mp4"] == clips["c.mp4"] != clips["job-0.mp4"]
    assert (world.output / "a.mp4").samefile(world.output / "b.mp4")
    assert {json.loads((world.output / f"{name}.json").read_text())["job"] for name in "abc"} == {"a", "b", "c"}
    assert Counter(type(event).__name__ for event in world.events)["Stored"] == 5
    again = await world.run([*same("a", "b", "c"), *text_jobs(2)])
    assert (again.exit_code, again.skipped, again.stored, float(again.run_usd), world.tasks) == (0, 5, 0, 0.0, 3)


async def test_a_duplicate_that_is_added_later_gets_the_clip_for_free(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(same("a"))
    finished = await world.run(same("a", "b"))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)
    assert states(world) == {"a": "stored", "b": "stored"}


async def test_a_shared_file_that_is_gone_is_shared_again(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(same("a", "b"))
    (world.output / "b.mp4").unlink()
    finished = await world.run(same("a", "b"))
    assert (finished.exit_code, world.tasks, world.sandbox.requests["cdn"]) == (0, 1, 1)
    assert (world.output / "b.mp4").samefile(world.output / "a.mp4")


async def test_a_duplicate_whose_original_left_the_batch_is_shared_again(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(same("a", "b"))
    (world.output / "b.mp4").unlink()
    finished = await world.run(same("b"))
    assert (finished.exit_code, world.tasks) == (0, 1)
    assert (world.output / "b.mp4").exists()


async def test_render_duplicates_pays_for_each(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    finished = await world.run(same("a", "b"), render_duplicates=True)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)
    assert not (world.output / "a.mp4").samefile(world.output / "b.mp4")


async def test_if_the_render_fails_its_duplicates_fail_with_it(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(faults={"failed_render": 1.0}))
    finished = await world.run(same("a", "b"), retries=0)
    assert (finished.exit_code, finished.failed, world.tasks) == (1, 2, 1)
    world.sandbox.faults.set_probabilities({})
    finished = await world.run(same("a", "b"), retry_failed=True)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)


async def test_if_the_first_has_a_foreign_file_in_its_place_the_second_is_rendered(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.output.mkdir()
    (world.output / "a.mp4").write_text("mine")
    finished = await world.run(same("a", "b", "c"))
    assert (finished.exit_code, finished.failed, finished.stored, world.tasks) == (1, 1, 2, 1)
    assert (world.output / "a.mp4").read_text() == "mine"
    assert (world.output / "b.mp4").samefile(world.output / "c.mp4")
    (world.output / "x.mp4").write_text("mine")
    finished = await world.run([Job(id=each, prompt="snow") for each in "xy"])
    assert (finished.exit_code, finished.failed, finished.stored, world.tasks) == (1, 1, 1, 2)


async def test_a_foreign_file_in_the_place_of_a_duplicate_is_kept(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.output.mkdir()
    (world.output / "b.mp4").write_text("mine")
    finished = await world.run(same("a", "b"))
    assert (finished.exit_code, finished.failed, finished.stored, world.tasks) == (1, 1, 1, 1)
    assert (world.output / "b.mp4").read_text() == "mine"


async def test_a_duplicate_of_an_edited_job_keeps_the_earlier_take(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run([Job(id="a", prompt="rain"), Job(id="b", prompt="snow")])
    snow = (world.output / "b.mp4").read_bytes()
    finished = await world.run(same("a", "b"))
    assert (finished.exit_code, world.tasks) == (0, 2)
    assert (world.output / "b.mp4").samefile(world.output / "a.mp4")
    assert (world.output / "b.1.mp4").read_bytes() == snow


@pytest.mark.parametrize("seconds", [0.5, 3.0, 5.0])
async def test_a_killed_run_is_resumed_without_paying_twice(tmp_path: Path, seconds: float) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(4.0, 4.0)))
    await world.run_until(seconds, same("a", "b", "c"))
    finished = await world.run(same("a", "b", "c"))
    assert (finished.exit_code, world.tasks) == (0, 1)
    assert states(world) == dict.fromkeys("abc", "stored")


async def test_without_hard_links_the_clip_is_copied(tmp_path: Path) -> None:
    class NoLinks(Files):
        def link(self, source: Path, target: Path) -> None:
            raise PermissionError(1, "Operation not permitted")

    world = World(tmp_path, make_sandbox(), files=NoLinks())
    finished = await world.run(same("a", "b"))
    assert (finished.exit_code, world.tasks) == (0, 1)
    assert (world.output / "a.mp4").read_bytes() == (world.output / "b.mp4").read_bytes()
    assert not (world.output / "a.mp4").samefile(world.output / "b.mp4")
    assert world.leftovers == []


async def test_of_an_unanswered_run_nothing_is_shared_before_its_task_is_found(tmp_path: Path) -> None:
    sandbox = make_sandbox()
    sandbox.next("drop_after", "Run")
    world = World(tmp_path, sandbox)
    finished = await world.run(same("a", "b"))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 1)


async def test_a_lack_of_descriptors_lets_a_duplicate_wait_for_the_next_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Lacking(Files):
        lacks = True

        def link(self, source: Path, target: Path) -> None:
            if self.lacks and target.name == "b.mp4":
                raise OSError(errno.EMFILE, "Too many open files")
            super().link(source, target)

    world = World(tmp_path, make_sandbox(), files=Lacking())
    finished = await world.run(same("a", "b", "c"))
    assert (finished.exit_code, finished.stored, world.tasks) == (1, 2, 1)
    assert "job b gets its clip in the next run" in caplog.text
    Lacking.lacks = False
    finished = await world.run(same("a", "b", "c"))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)
    assert (world.output / "b.mp4").samefile(world.output / "a.mp4")


async def test_duplicates_of_a_quarantined_job_are_named_and_not_rendered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = make_sandbox(echo="empty")
    sandbox.next("drop_after", "Run")
    world = World(tmp_path, sandbox)
    finished = await world.run(same("a", "b", "c"))
    assert (finished.exit_code, finished.stored, world.tasks) == (5, 0, 1)
    assert "job b, c: the same clip was already submitted as a, which has none yet" in caplog.text


async def test_only_shares_with_admitted_jobs(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(same("a", "b", "c"), only="b")
    assert [path.name for path in world.clips] == ["b.mp4"]
    await world.run(same("a", "b", "c"), only="c")
    assert [path.name for path in world.clips] == ["b.mp4", "c.mp4"]
    assert world.tasks == 1
