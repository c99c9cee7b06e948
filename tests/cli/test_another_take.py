"""`again`: further takes of jobs, with another seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from harness import World, make_sandbox
from pictures import png

from wan_async.cli.another_take import Takes, further_takes
from wan_async.domain import events
from wan_async.domain.attempt import Account
from wan_async.domain.events import Finished
from wan_async.domain.job import Job
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.errors import InvalidBatch
from wan_async.journal.enrolled_jobs import enrolled_jobs
from wan_async.journal.reports import gallery_report, stored_files

pytestmark = pytest.mark.virtual_time

JOBS = [Job(id="cat", prompt="it yawns"), Job(prompt="rain"), Job(id="dog", prompt="it runs", seed=7)]


async def again(
    world: World, names: Sequence[str], seed: int | None = None, kill_after: float | None = None
) -> tuple[Takes, Finished]:
    takes = further_takes(world.home, world.output, names, seed)
    run = Run(
        takes.prepared,
        dependencies=world.dependencies(),
        account=Account(world.origin, world.key),
        output=world.output,
        options=Options(labels=takes.labels),
    )
    if kill_after is None:
        return takes, await run.run()
    finished: list[Finished] = []

    async def carry() -> None:
        finished.append(await run.run())

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(carry)
            await anyio.sleep(kill_after)
            world.dead = True
            run.leave()
    finally:
        world.dead = False
    return takes, finished[0]


def names_of(world: World) -> set[str]:
    return {clip.stem for clip in world.clips}


async def test_a_further_take_stands_beside_the_others_and_costs_one_clip(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(JOBS)
    before = names_of(world)
    takes, finished = await again(world, ["cat"])
    assert takes.labels == {"cat-seed43"}
    assert names_of(world) == before | {"cat-seed43"}
    assert (finished.exit_code, world.tasks) == (0, 4)
    takes, _ = await again(world, ["cat", "dog"])
    assert takes.labels == {"cat-seed44", "dog-seed8"}
    assert world.tasks == 6
    await world.run(JOBS)
    assert world.tasks == 6, "the next run of the batch finds everything"
    assert names_of(world) == before | {"cat-seed43", "cat-seed44", "dog-seed8"}
    assert len([job for job in enrolled_jobs(world.home) if job.position is not None]) == 3


async def test_the_batch_stays_enrolled_as_it_was(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(JOBS, limit=1)
    before = [job for job in enrolled_jobs(world.home) if job.position is not None]
    await again(world, ["cat"])
    after = [job for job in enrolled_jobs(world.home) if job.position is not None]
    assert after[:3] == before
    assert world.tasks == 2, "nothing else of the batch is submitted"


@pytest.mark.parametrize("kill_after", [0.05, 1.0, 3.0, 20.0])
async def test_an_interrupted_command_goes_on_with_the_same_seed(tmp_path: Path, kill_after: float) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(JOBS)
    await again(world, ["cat", "dog"], kill_after=kill_after)
    first_names = names_of(world)
    takes, finished = await again(world, ["cat", "dog"])
    if kill_after < 20:
        assert takes.labels <= {"cat-seed43", "dog-seed8"}
        assert takes.resumed
        assert world.tasks == 5
        assert {"cat-seed43", "dog-seed8"} <= names_of(world)
    else:
        assert takes.labels == {"cat-seed44", "dog-seed9"}
    assert finished.exit_code == 0
    assert first_names <= names_of(world)


async def test_an_interrupted_take_is_finished_by_the_next_run_of_the_batch(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(JOBS)
    await again(world, ["cat"], kill_after=1.0)
    assert "cat-seed43" not in names_of(world)
    await world.run(JOBS)
    assert "cat-seed43" in names_of(world)
    assert world.tasks == 4


async def test_a_given_seed_is_rendered_once(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(JOBS)
    for _ in range(2):
        takes, _ = await again(world, ["cat"], 5)
        assert takes.labels == {"cat-seed5"}
    assert world.tasks == 4
    with pytest.raises(InvalidBatch, match="42"):
        further_takes(world.home, world.output, ["cat"], 42)


async def test_a_take_that_another_job_has_is_its_clip_under_a_name_of_its_own(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    jobs = [Job(id="cat", prompt="it yawns", seed=42), Job(id="cat2", prompt="it yawns", seed=43)]
    await world.run(jobs)
    for _ in range(2):
        takes, finished = await again(world, ["cat"], 43)
        assert (finished.exit_code, sorted(takes.labels)) == (0, ["cat-seed43"])
        assert (names_of(world), world.tasks) == ({"cat", "cat2", "cat-seed43"}, 2)
        assert (await world.run(jobs)).exit_code == 0


async def test_jobs_are_found_by_key_id_and_name_and_a_misspelled_one_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(JOBS)
    rain = next(job for job in enrolled_jobs(world.home) if job.spec["prompt"] == "rain")
    assert rain.key != rain.label
    for name in (rain.key, rain.label, rain.name):
        assert further_takes(world.home, world.output, [name], 5).labels == {f"{rain.label}-seed5"}
    with pytest.raises(InvalidBatch, match="did you mean"):
        further_takes(world.home, world.output, ["catt"], None)


async def test_jobs_that_begin_as_an_unknown_one_are_suggested(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run([Job(id=name, prompt=name) for name in ("IMG_0005-2", "IMG_0002-1", "IMG_0002-2")])
    with pytest.raises(InvalidBatch, match=r'\(did you mean "IMG_0002-1", "IMG_0002-2"\?\)'):
        further_takes(world.home, world.output, ["IMG_0002"], None)
    for file in ("IMG_0002-1.mp4", "photos/IMG_0002-1.JPG"):
        with pytest.raises(InvalidBatch, match=r'\(did you mean "IMG_0002-1"\?\)'):
            further_takes(world.home, world.output, [file], None)


async def test_a_key_and_a_name_that_are_taken_get_a_number(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run([*JOBS, Job(id="cat-seed43", prompt="something else")])
    takes, _ = await again(world, ["cat"], 43)
    assert takes.labels == {"cat-seed43-2"}
    assert {"cat-seed43", "cat-seed43-2"} <= names_of(world)


async def test_the_image_of_a_job_is_used_again_and_a_lost_one_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    image = tmp_path / "cat.png"
    image.write_bytes(png(b"cat"))
    jobs = [Job(id="cat", image=str(image), prompt="it yawns"), Job(id="dog", prompt="it runs")]
    await world.run(jobs)
    await again(world, ["cat"])
    assert world.tasks == 3
    image.unlink()
    await again(world, ["dog"])
    with pytest.raises(InvalidBatch, match=r"cat\.png"):
        further_takes(world.home, world.output, ["cat"], None)


async def test_an_image_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, make_sandbox())
    (tmp_path / "cat.png").write_bytes(png(b"cat"))
    (tmp_path / "elsewhere").mkdir()
    jobs = [Job(id="cat", image="cat.png", prompt="it yawns"), Job(id="dog", image="cat.png", prompt="it runs")]
    monkeypatch.chdir(tmp_path)
    await world.run(jobs, limit=1)
    monkeypatch.chdir(tmp_path / "elsewhere")
    takes, finished = await again(world, ["cat"])
    assert takes.labels == {"cat-seed43"}
    assert finished.exit_code == 0
    takes, _ = await again(world, ["cat"])
    assert takes.labels == {"cat-seed44"}, "the takes are known as such, whatever their images' paths are relative to"
    monkeypatch.chdir(tmp_path)
    await world.run(jobs)
    assert world.tasks == 4, "the other jobs are enrolled as they were"


async def test_a_further_take_stays_a_stored_clip_after_the_next_run_of_the_batch(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(JOBS)
    await again(world, ["cat"])
    edited = [Job(id="cat", prompt="it yawns"), Job(prompt="rain"), Job(id="dog", prompt="it barks", seed=7)]
    await again(world, ["dog"])
    await world.run(edited)
    (started,) = world.events_of(events.Started)
    assert (started.to_do, started.changed) == (1, 1)
    kinds = {clip.file: (clip.is_current, clip.is_further) for clip in stored_files(world.home)}
    assert kinds["cat-seed43.mp4"] == (False, True)
    assert kinds["dog-seed8.mp4"] == (False, False), "the job has another prompt now"
    with gallery_report(world.home) as seen:
        assert seen is not None
        shown = {(item.name, item.state) for item in seen.items}
        counted = seen.states
    assert {("cat-seed43", "stored"), ("dog-seed8", "earlier"), ("dog", "stored")} <= shown
    assert counted == {"stored": 4, "earlier": 2}
