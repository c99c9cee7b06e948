"""Names and keys of jobs stay the same whatever is added to their batch."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import World, make_sandbox
from pictures import png

from wan_async.batch.plan import Prepared, prepare
from wan_async.batch.reader import read_batch
from wan_async.domain.job import Job
from wan_async.journal.reports import report

pytestmark = pytest.mark.virtual_time

INDEXED = "{index:03}"


def rain(*prompts: str) -> list[Job]:
    return [Job(prompt=prompt) for prompt in prompts]


def shown_names(world: World) -> list[str]:
    """The names of the jobs in batch order, as `status` and the gallery have them."""
    known = report(world.home)
    assert known is not None
    return [known.names[result.job] for result in known.results]


def stems(world: World) -> list[str]:
    return [clip.stem for clip in world.clips]


async def test_a_new_job_at_the_front_does_not_shift_the_names_of_the_others(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(rain("a", "b"), name=INDEXED)
    before = {clip.name: clip.read_bytes() for clip in world.clips}
    finished = await world.run(rain("new", "a", "b", "last"), name=INDEXED)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 4)
    assert stems(world) == ["001", "002", "003", "004"]
    assert {name: (world.output / name).read_bytes() for name in before} == before
    assert shown_names(world) == ["003", "001", "002", "004"]
    finished = await world.run(rain("b", "newest", "last", "new"), name=INDEXED)
    assert (finished.exit_code, world.tasks) == (0, 5)
    assert shown_names(world)[2:] == ["004", "003"]


async def test_names_that_were_claimed_and_not_used_are_given_anew(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run_until(1.0, rain("a", "b", "c"), name=INDEXED, concurrency=1)
    finished = await world.run(rain("new", "a", "b", "c"), name=INDEXED)
    assert (finished.exit_code, world.tasks) == (0, 4)
    assert stems(world) == ["001", "002", "003", "004"]


async def test_a_job_that_was_edited_does_not_take_the_name_of_another(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run([Job(id="x", prompt="a"), Job(id="y", prompt="b")], name=INDEXED)
    edited = [Job(id="new", prompt="c"), Job(id="x", prompt="changed"), Job(id="y", prompt="b")]
    finished = await world.run(edited, name=INDEXED)
    assert (finished.exit_code, world.tasks) == (0, 4)
    assert shown_names(world)[2] == "002"
    assert len(set(shown_names(world))) == 3


async def test_a_renamed_job_keeps_the_name_of_the_clip_that_it_takes_over(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run([Job(id="cat", prompt="a")])
    finished = await world.run([Job(id="cat", prompt="other"), Job(id="kitty", prompt="a")])
    assert (finished.exit_code, world.tasks) == (0, 2)
    await world.run([Job(id="tiger", prompt="a")])
    assert world.tasks == 2


def files(world: World) -> dict[str, bytes]:
    return {clip.name: clip.read_bytes() for clip in world.clips}


async def test_a_name_that_another_job_has_already_is_numbered(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run([Job(id="x", prompt="a")], name="cat")
    await world.run([Job(id="x", prompt="a"), Job(id="cat", prompt="b"), Job(id="cat-2", prompt="c")], name="{id}")
    assert (stems(world), world.tasks) == (["cat-2-2", "cat-2", "cat"], 3)


async def test_jobs_whose_clips_were_made_under_one_name_do_not_take_it_from_each_other_in_every_run(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, make_sandbox())
    first, second = Job(id="x", prompt="a"), Job(id="y", prompt="b")
    for job in (first, second):  # each has the first name of its batch
        await world.run([job], name=INDEXED)
    before = files(world)
    for jobs in ([first, second], [first, second], [second, first], [second, first]):
        finished = await world.run(jobs, name=INDEXED)
        assert (finished.exit_code, world.tasks) == (0, 2)
        assert files(world) == before, "the job that had the name last keeps it"
        assert sorted(shown_names(world)) == ["001", "002"]


def photos(world: World, *names: str) -> Prepared:
    folder = world.folder / "photos"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name in names:
        (folder / name).write_bytes(png())
    return prepare(read_batch(folder, prompt="x"), world.home)


async def test_equal_images_keep_their_keys_whichever_sorts_first(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(photos(world, "b.png"))
    assert (await world.run(photos(world, "a.png", "b.png"))).exit_code == 0
    assert (stems(world), shown_names(world)) == (["a", "b"], ["a", "b"])
    assert (await world.run(photos(world, "b.png"))).exit_code == 0
    assert shown_names(world) == ["b"]
    assert (await world.run(photos(world, "a.png", "b.png", "c.png"))).exit_code == 0
    assert (stems(world), world.tasks) == (["a", "b", "c"], 1)
    assert shown_names(world) == ["a", "b", "c"]
