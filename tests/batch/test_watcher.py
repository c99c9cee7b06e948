"""A watched folder: which files are complete, and that each content is rendered once."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from harness import World, make_sandbox
from pictures import png
from sampling import sampled

from wan_async.batch.plan import Prepared
from wan_async.batch.watcher import Look, WatchedFolder, read_ready
from wan_async.domain.job import image_of
from wan_async.errors import InvalidBatch

PNG = png()
STABLE_SECONDS = 2.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


def watched(folder: Path, *, recursive: bool = False) -> WatchedFolder:
    return WatchedFolder(folder, recursive=recursive, stable_seconds=STABLE_SECONDS)


def names(look: Look) -> list[str]:
    return sorted(Path(path).name for path in look.images)


def test_a_file_is_complete_once_it_has_not_changed_for_a_while(folder: Path) -> None:
    watch = watched(folder)
    image = folder / "cat.png"
    for second in range(5):  # copied slowly
        with image.open("ab") as file:
            file.write(PNG[second * 40 : (second + 1) * 40])
        look = watch.look(second)
        assert (names(look), look.incomplete) == ([], 1)
    assert names(watch.look(5.9)) == []
    assert names(watch.look(6.0)) == ["cat.png"]
    image.write_bytes(png(b"another content"))
    assert names(watch.look(7.0)) == []
    assert names(watch.look(9.0)) == ["cat.png"]


def test_a_file_that_keeps_its_size_and_time_but_not_its_inode_has_changed(folder: Path) -> None:
    watch = watched(folder)
    image, other = folder / "cat.png", folder / "other.part"
    image.write_bytes(png(b"a"))
    watch.look(0)
    before = watch.look(2)
    other.write_bytes(png(b"b"))
    os.utime(other, ns=(image.stat().st_atime_ns, image.stat().st_mtime_ns))
    other.replace(image)
    assert names(watch.look(3)) == []
    assert watch.look(5).versions != before.versions


def test_a_file_that_is_renamed_into_the_folder_is_taken(folder: Path, tmp_path: Path) -> None:
    watch = watched(folder)
    assert watch.look(0).incomplete == 0
    (tmp_path / "cat.png").write_bytes(PNG)
    (tmp_path / "cat.png").rename(folder / "cat.png")
    watch.look(1)
    assert names(watch.look(3)) == ["cat.png"]


def test_an_empty_file_is_never_complete(folder: Path) -> None:
    watch = watched(folder)
    (folder / "cat.png").touch()
    for second in range(0, 100, 10):
        assert names(watch.look(second)) == []


def test_a_file_that_is_removed_and_comes_back_has_to_be_stable_again(folder: Path) -> None:
    watch = watched(folder)
    image = folder / "cat.png"
    image.write_bytes(PNG)
    watch.look(0)
    assert names(watch.look(2)) == ["cat.png"]
    image.unlink()
    assert watch.look(3) == Look({}, {}, 0)
    image.write_bytes(PNG)
    assert names(watch.look(4)) == []
    assert names(watch.look(6)) == ["cat.png"]


@pytest.mark.parametrize("caption", ["cat.txt", "cat.png.txt", "cat.caption", "CAT.TXT", "metadata.jsonl"])
def test_an_image_waits_for_its_captions_and_others_do_not(folder: Path, caption: str) -> None:
    watch = watched(folder)
    for name in ("cat.png", "dog.png"):
        (folder / name).write_bytes(PNG)
    watch.look(0)
    (folder / caption).write_text("it ya")
    ready = names(watch.look(2))
    assert ready == ([] if caption == "metadata.jsonl" else ["dog.png"])
    look = watch.look(4)
    assert names(look) == ["cat.png", "dog.png"]
    assert [Path(path).name for path in look.captions] == [caption]


def test_subfolders_are_included_where_that_is_asked_for(folder: Path) -> None:
    (folder / "day").mkdir()
    (folder / "day" / "cat.png").write_bytes(PNG)
    for recursive, found in ((False, []), (True, ["cat.png"])):
        watch = watched(folder, recursive=recursive)
        watch.look(0)
        assert names(watch.look(2)) == found


def test_a_folder_that_is_gone_is_an_error(folder: Path) -> None:
    folder.rmdir()
    with pytest.raises(OSError, match="No such file"):
        watched(folder).look(0)


def test_what_vanishes_during_a_look_is_not_part_of_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "cat.png").write_bytes(PNG)
    (folder / "dog.png").write_bytes(PNG)
    listed = os.listdir

    def remove(path: str) -> list[str]:
        shutil.rmtree(folder / "sub", ignore_errors=True)
        return listed(path)

    watch = WatchedFolder(folder, recursive=True, stable_seconds=0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", remove)
        assert names(watch.look(0)) == ["dog.png"]
    assert names(watch.look(1)) == ["dog.png"]


def complete(folder: Path) -> Look:
    watch = WatchedFolder(folder, recursive=False, stable_seconds=0)
    return watch.look(0)


def test_what_is_wrong_with_an_image_holds_that_one_back(folder: Path, tmp_path: Path) -> None:
    (folder / "good.png").write_bytes(png(b"good"))
    (folder / "good.txt").write_text("it moves")
    (folder / "no-image.png").write_bytes(b"text")
    (folder / "no-image.txt").write_text("it moves")
    (folder / "no-caption.png").write_bytes(PNG)
    ready = read_ready(complete(folder), folder, tmp_path / "out", None)
    assert [Path(path).name for path in ready.images] == ["good.png"]
    assert ready.batch is not None
    assert [job.planned.label for job in ready.batch.jobs] == ["good"]
    assert {Path(path).name for path in ready.held} == {"no-image.png", "no-caption.png"}


def test_a_job_has_the_name_of_its_file_as_its_id_unless_that_is_none(folder: Path, tmp_path: Path) -> None:
    for name in ("cat.png", " .png"):
        (folder / name).write_bytes(png(name.encode()))
    ready = read_ready(complete(folder), folder, tmp_path / "out", "it moves")
    assert ready.batch is not None
    assert {job.planned.job.id for job in ready.batch.jobs} == {"cat", None}


def test_a_clip_of_the_user_holds_its_image_back(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "cat.mp4").write_bytes(b"mine")
    for name in ("cat.png", "dog.png"):
        (folder / name).write_bytes(png(name.encode()))
    ready = read_ready(complete(folder), folder, output, "it moves")
    assert [Path(path).name for path in ready.images] == ["dog.png"]


def test_a_problem_of_all_images_is_an_error(folder: Path, tmp_path: Path) -> None:
    (folder / "cat.png").write_bytes(PNG)
    (folder / "metadata.jsonl").write_text("{")
    with pytest.raises(InvalidBatch, match=r"metadata\.jsonl"):
        read_ready(complete(folder), folder, tmp_path / "out", None)


def test_a_file_that_vanished_after_the_look_is_held_back(folder: Path, tmp_path: Path) -> None:
    for name in ("cat.png", "dog.png"):
        (folder / name).write_bytes(png(name.encode()))
    look = complete(folder)
    (folder / "cat.png").unlink()
    ready = read_ready(look, folder, tmp_path / "out", "it moves")
    assert [Path(path).name for path in ready.images] == ["dog.png"]
    ready = read_ready(Look({str(folder / "cat.png"): (1, 1, 1)}, {}, 0), folder, tmp_path / "out", "it moves")
    assert (ready.batch, list(ready.held)) == (None, [str(folder / "cat.png")])


def ready_batch(watch: WatchedFolder, folder: Path, world: World) -> Prepared | None:
    look = watch.look(trio.current_time())
    return read_ready(look, folder, world.output, "it moves").batch


def contents(prepared: Prepared) -> set[str]:
    return {job.content for job in prepared.jobs}


@pytest.mark.virtual_time
@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
async def test_many_files_at_once_are_rendered_once_also_across_a_restart(
    folder: Path, tmp_path: Path, count: int
) -> None:
    for number in range(count):  # every twentieth content occurs twice
        (folder / f"image-{number}.png").write_bytes(png(str(number - number % 10 % 2 * (number % 20 == 1)).encode()))
    distinct = len({path.read_bytes() for path in folder.iterdir()})
    assert distinct == count * 0.95
    world = World(tmp_path, make_sandbox(concurrency_limit=300))
    for _ in range(2):
        watch = watched(folder)
        watch.look(trio.current_time())
        await trio.sleep(STABLE_SECONDS)
        prepared = ready_batch(watch, folder, world)
        assert prepared is not None
        assert (await world.run(prepared)).exit_code == 0
        assert world.tasks == distinct
        assert len(world.clips) == count


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", sampled(range(4), 4))
async def test_files_that_come_change_and_go_while_runs_are_on_are_rendered_once(
    folder: Path, tmp_path: Path, seed: int
) -> None:
    """Files appear, are copied slowly, renamed in, replaced, removed; the process is killed and started again."""
    chance = random.Random(seed)
    world = World(tmp_path, make_sandbox(concurrency_limit=20), seed=seed)
    changes = change_files(folder, tmp_path, chance)
    asked: set[str] = set()
    watch = watched(folder)

    async def meddle(_: object) -> None:
        for _ in range(5):
            await trio.sleep(chance.random())
            chance.choice(changes)()

    for _ in range(12):
        for _ in range(3):
            chance.choice(changes)()
            watch.look(trio.current_time())
            await trio.sleep(1)
        if chance.random() < 0.2:
            watch = watched(folder)
        prepared = ready_batch(watch, folder, world)
        if prepared is not None:
            asked |= contents(prepared)
            if chance.random() < 0.2:
                await world.run_until(chance.random() * 6, prepared)
            else:
                await world.run(prepared, meddle)
    await trio.sleep(STABLE_SECONDS)
    watch.look(trio.current_time())
    await trio.sleep(STABLE_SECONDS)
    prepared = ready_batch(watch, folder, world)
    assert prepared is not None
    asked |= contents(prepared)
    finished = await world.run(prepared)
    assert finished.exit_code == 0
    sent = [task.parameters["inputImageUrl"] for task in world.sandbox.account.tasks.values()]
    images = [world.sandbox._state.files.upload_at(url) for url in sent]
    assert len({image[1] for image in images if image is not None}) == len(images) <= len(asked)
    whole = {Path(str(image_of(job.planned.job))).read_bytes() for job in prepared.jobs}
    assert whole <= {image[1] for image in images if image is not None}


def change_files(folder: Path, outside: Path, chance: random.Random) -> list[Callable[[], None]]:
    numbers = iter(range(10**6))

    def images() -> list[Path]:
        return sorted(folder.glob("*.png"))

    def appear() -> None:
        (folder / f"image-{next(numbers)}.png").write_bytes(png(os.urandom(20)))

    def grow() -> None:
        path = folder / "slow.png"
        whole = png(b"slow")
        size = path.stat().st_size if path.exists() else 0
        with path.open("ab") as file:
            file.write(whole[size : size + len(whole) // 3])

    def rename_in() -> None:
        (outside / "tmp").write_bytes(png(os.urandom(20)))
        (outside / "tmp").rename(folder / f"image-{next(numbers)}.png")

    def replace() -> None:
        (outside / "tmp").write_bytes(png(os.urandom(20)))
        (outside / "tmp").replace(folder / "the-same-name.png")

    def copy() -> None:
        if found := images():
            (folder / f"copy-{next(numbers)}.png").write_bytes(chance.choice(found).read_bytes())

    def remove() -> None:
        if found := images():
            chance.choice(found).unlink()

    return [appear, grow, rename_in, replace, copy, remove]
