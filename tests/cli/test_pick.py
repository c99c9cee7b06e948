"""`pick`: lists of picked clips, copies, and batch files for another render."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from gallery_pages import Take, database, record_batches
from harness import World, make_sandbox, virtually
from pictures import png
from PIL import Image
from reviews import PICK, REJECT, judge
from servers import events_of, in_process, sandbox_server, write_batch

from wan_async import errors
from wan_async.cli.commands import pick
from wan_async.domain.image_bytes import ImageBytes
from wan_async.domain.job import Job
from wan_async.gallery import verdicts
from wan_async.journal.base import FILE, FOLDER
from wan_async.journal.stored_clips import stored_clips

JOBS = [Job(id="cat", prompt="it yawns"), Job(id="dog", prompt="it runs", seed=7), Job(id="rain", prompt="rain")]


def rendered(folder: Path, *batches: list[Job]) -> World:
    """A folder with the clips of batches that were run one after the other."""

    async def run() -> World:
        world = World(folder, make_sandbox())
        for jobs in batches:
            await world.run(jobs)
        return world

    return virtually(run)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return rendered(tmp_path, JOBS)


def test_the_picked_clips_are_listed_a_path_a_line(world: World, tmp_path: Path) -> None:
    file = judge(world.output, tmp_path / "v.json", rain=PICK, cat=PICK | {"stars": 4}, dog=REJECT)
    done = in_process("pick", world.output, "--verdicts", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(world.output / "cat.mp4"), str(world.output / "rain.mp4")]
    done = in_process("pick", world.output, "--verdicts", file, "--stars", "4")
    assert done.stdout.splitlines() == [str(world.output / "cat.mp4")]


def test_flags_of_the_batch_file_need_one(world: World, tmp_path: Path) -> None:
    file = judge(world.output, tmp_path / "v.json", cat=PICK)
    for flags in (["--resolution", "720P"], ["--seeds", "2"], ["--seed", "1"]):
        done = in_process("pick", world.output, "--verdicts", file, *flags)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"{flags[0]}: is for the batch file that -o writes")


def test_with_json_each_pick_is_a_line_and_the_last_one_has_the_rest(world: World, tmp_path: Path) -> None:
    file = judge(world.output, tmp_path / "v.json", cat=PICK | {"stars": 4, "note": "the tail"}, fox=PICK)
    done = in_process("pick", world.output, "--verdicts", file, "--copy", tmp_path / "best", "--json")
    assert done.returncode == 1
    pick, last = events_of(done.stdout)
    assert [pick[name] for name in ("event", "job", "id", "file")] == ["pick", "cat", "cat", "cat.mp4"]
    assert [pick[name] for name in ("verdict", "stars", "note")] == ["pick", 4, "the tail"]
    assert [last["event"], last["picks"], last["copies"]] == ["picks", 1, [str(tmp_path / "best" / "cat.mp4")]]
    assert [left["file"] for left in last["left_out"]] == ["fox.mp4"]


def test_of_several_files_the_newest_verdict_counts(world: World, tmp_path: Path) -> None:
    old = judge(world.output, tmp_path / "old.json", cat=PICK, dog=PICK)
    new = judge(world.output, tmp_path / "new.json", dog=REJECT | {"at": 1_800_000_000})
    for files in ([old, new], [new, old]):
        done = in_process("pick", world.output, "--verdicts", *files)
        assert done.stdout.splitlines() == [str(world.output / "cat.mp4")]


def test_verdicts_in_the_output_folder_are_found(world: World) -> None:
    done = in_process("pick", world.output)
    assert done.returncode == 2
    assert "gallery" in done.stderr
    judge(world.output, world.output / "verdicts-out (1).json", cat=PICK)
    done = in_process("pick", world.output)
    assert (done.returncode, done.stdout.splitlines()) == (0, [str(world.output / "cat.mp4")])


def test_the_sidecar_of_a_job_called_verdicts_is_not_taken_for_verdicts(tmp_path: Path) -> None:
    world = rendered(tmp_path, [Job(id="verdicts", prompt="a court")])
    assert in_process("pick", world.output).returncode == 2
    judge(world.output, world.output / "verdicts-1.json", verdicts=PICK)
    assert in_process("pick", world.output).returncode == 0


def test_what_is_wrong_with_every_verdicts_file_is_said(world: World, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("{}")
    done = in_process("pick", world.output, "--verdicts", tmp_path / "a.json", tmp_path / "b.json", "--json")
    assert done.returncode == 2
    wheres = [event["where"] for event in events_of(done.stdout) if event["event"] == "problem"]
    assert [where.partition(":")[0] for where in wheres] == [str(tmp_path / "a.json"), str(tmp_path / "b.json")]


def test_nothing_picked_is_a_problem(world: World, tmp_path: Path) -> None:
    file = judge(world.output, tmp_path / "v.json", cat=REJECT)
    for flags in ([], ["--stars", "1"], ["-o", str(tmp_path / "final.yaml")]):
        assert in_process("pick", world.output, "--verdicts", file, *flags).returncode == 2
    assert not (tmp_path / "final.yaml").exists()


def test_a_folder_without_a_journal_is_refused(tmp_path: Path) -> None:
    done = in_process("pick", tmp_path)
    assert done.returncode == 6
    assert "journal" in done.stderr


def test_clips_that_are_gone_are_named_and_the_others_are_taken(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = judge(world.output, tmp_path / "v.json", cat=PICK, dog=PICK, fox=PICK)
    (world.output / "dog.mp4").unlink()
    done = in_process("pick", world.output, "--verdicts", file, "-o", tmp_path / "final.yaml")
    assert done.returncode == 1
    assert "dog.mp4" in done.stderr
    assert "fox.mp4" in done.stderr
    assert ids(tmp_path / "final.yaml") == {"cat"}
    monkeypatch.setattr(pick, "SHOWN_PROBLEMS", 1)
    done = in_process("pick", world.output, "--verdicts", file, "--copy", tmp_path / "best")
    assert done.returncode == 1
    assert "... and 1 more; --json has all" in done.stderr


def test_a_place_that_cannot_be_written_is_an_error_with_its_name(world: World, tmp_path: Path) -> None:
    file = judge(world.output, tmp_path / "v.json", cat=PICK)
    (world.output / "cat.json").write_text("no sidecar any more")
    (tmp_path / "file").write_text("in the way")
    for flag, place in (("--copy", tmp_path / "file" / "best"), ("-o", tmp_path / "file" / "final.yaml")):
        done = in_process("pick", world.output, "--verdicts", file, flag, place)
        assert (done.returncode, done.stdout) == (6, "")
        assert done.stderr.startswith(f"error: {place} can't be ")
    done = in_process("pick", world.output, "--verdicts", file, "-o", tmp_path / "final.yaml")
    assert (done.returncode, ids(tmp_path / "final.yaml")) == (0, {"cat"})


def test_a_verdicts_file_that_cannot_be_read_is_an_error(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    file = judge(world.output, tmp_path / "v.json", cat=PICK)
    with monkeypatch.context() as patch, pytest.raises(errors.Unusable, match="Permission denied"):
        patch.setattr(Path, "open", refuse)
        verdicts.read(file)


def test_copies_have_sidecars_that_are_right_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(png(b"cat"))
    world = rendered(tmp_path, [Job(id="cat", prompt="it yawns", image=str(tmp_path / "cat.png"))])
    file = judge(world.output, tmp_path / "v.json", cat=PICK)
    best = tmp_path / "deep" / "best"
    for state in ("", "there already"):
        done = in_process("pick", world.output, "--verdicts", file, "--copy", best)
        assert (done.returncode, done.stdout) == (0, f"{best / 'cat.mp4'}\n")
        assert state in done.stderr
    assert {path.name for path in best.iterdir()} == {"cat.mp4", "cat.json"}
    original, sidecar = (json.loads((folder / "cat.json").read_text()) for folder in (world.output, best))
    assert (best / sidecar["image_file"]).samefile(tmp_path / "cat.png")
    assert sidecar | {"image_file": original["image_file"]} == original


def test_a_clip_that_was_changed_by_hand_is_not_copied(world: World, tmp_path: Path) -> None:
    file = judge(world.output, tmp_path / "v.json", cat=PICK, dog=PICK)
    content = (world.output / "dog.mp4").read_bytes()
    (world.output / "dog.mp4").write_bytes(content[:-1] + b"\0" if content[-1] else content[:-1] + b"\1")
    done = in_process("pick", world.output, "--verdicts", file, "--copy", tmp_path / "best")
    assert done.returncode == 1
    assert "dog.mp4" in done.stderr
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"cat.mp4", "cat.json"}


def test_the_output_folder_is_no_place_for_copies(world: World, tmp_path: Path) -> None:
    file = judge(world.output, tmp_path / "v.json", cat=PICK)
    assert in_process("pick", world.output, "--verdicts", file, "--copy", world.output).returncode == 2


def test_a_second_output_gets_a_sidecar_of_its_own(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    contents = {"cat.mp4": b"one", "cat-2.mp4": b"two"}
    for name, content in contents.items():
        (output / name).write_bytes(content)
    (output / "cat.json").write_text(json.dumps({"job": "cat", "sha256": "5ha", "further_files": ["cat-2.mp4"]}))
    record_batches(output, [Take("cat", files=tuple((name, "video/mp4") for name in contents))])
    with closing(database(output)) as db, db:
        rows = [(sha256(content).hexdigest(), len(content), name) for name, content in contents.items()]
        db.executemany("UPDATE clips SET sha256 = ?, bytes = ? WHERE file = ?", rows)
    file = judge(output, tmp_path / "v.json", **{"cat-2": PICK})
    done = in_process("pick", output, "--verdicts", file, "--copy", tmp_path / "best")
    assert done.returncode == 0, done.stderr
    sidecar = json.loads((tmp_path / "best" / "cat-2.json").read_text())
    assert (sidecar["job"], sidecar["file"], sidecar["further_files"]) == ("cat", "cat-2.mp4", [])
    assert sidecar["sha256"] == sha256(b"two").hexdigest()


def test_an_existing_batch_file_is_not_overwritten(world: World, tmp_path: Path) -> None:
    file = judge(world.output, tmp_path / "v.json", cat=PICK)
    (tmp_path / "final.yaml").write_text("mine")
    done = in_process("pick", world.output, "--verdicts", file, "-o", tmp_path / "final.yaml")
    assert done.returncode == 2
    assert (tmp_path / "final.yaml").read_text() == "mine"


def test_the_finals_go_to_a_folder_of_their_own(tmp_path: Path) -> None:
    world = rendered(tmp_path / "outputs", JOBS)  # to outputs/out
    file = judge(world.output, tmp_path / "v.json", cat=PICK)
    assert in_process("pick", world.output, "--verdicts", file, "-o", tmp_path / "out.yaml").returncode == 0
    (line,) = [line for line in (tmp_path / "out.yaml").read_text().splitlines() if line.startswith("output:")]
    assert '"outputs/out-again"' in line


def test_clips_that_would_only_be_paid_again_are_counted(world: World, tmp_path: Path) -> None:
    file = judge(world.output, tmp_path / "v.json", cat=PICK, dog=PICK)
    done = in_process("pick", world.output, "--verdicts", file, "-o", tmp_path / "a.yaml")
    assert "2 jobs ask for clips that are here already" in done.stderr
    done = in_process("pick", world.output, "--verdicts", file, "-o", tmp_path / "b.yaml", "--seed", "7")
    assert "1 job asks for a clip that is here already" in done.stderr
    done = in_process("pick", world.output, "--verdicts", file, "-o", tmp_path / "c.yaml", "--seeds", "2")
    assert "here already" not in done.stderr
    assert ids(tmp_path / "c.yaml") == {"cat-seed43", "cat-seed44", "dog-seed8", "dog-seed9"}


def test_an_earlier_take_is_rendered_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(png(b"cat"))
    world = rendered(
        tmp_path,
        [Job(id="cat", prompt="it yawns", image=str(tmp_path / "cat.png"))],
        [Job(id="cat", prompt="it sleeps")],
    )
    file = judge(world.output, tmp_path / "v.json", **{"cat": PICK, "cat.1": PICK})
    done = in_process("pick", world.output, "--verdicts", file, "-o", tmp_path / "final.yaml", "--resolution", "720P")
    assert done.returncode == 0, done.stderr
    jobs = planned(tmp_path / "final.yaml")
    assert {(job["name"], job["prompt"], bool(job["image"])) for job in jobs} == {
        ("cat", "it sleeps", False),
        ("cat-2", "it yawns", True),
    }


def test_images_from_memory_and_upright_copies_are_those_of_the_journals_folder(tmp_path: Path) -> None:
    world = rendered(tmp_path, [Job(id="cat", prompt="it yawns", image=ImageBytes(png(b"memory")))])
    file = judge(world.output, tmp_path / "v.json", cat=PICK)
    done = in_process("pick", world.output, "--verdicts", file, "-o", tmp_path / "final.yaml", "--resolution", "720P")
    assert done.returncode == 0, done.stderr
    assert FOLDER in done.stderr
    (job,) = planned(tmp_path / "final.yaml")
    assert Path(job["image"]).resolve().parent == (world.home / "inputs").resolve()


def test_the_clips_of_a_damaged_row_are_an_error_with_its_name(world: World, tmp_path: Path) -> None:
    with closing(sqlite3.connect(world.home / FILE)) as db, db:
        for (trigger,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute("UPDATE attempts SET form = 'x' WHERE job = 'cat'")
    done = in_process("pick", world.output, "--verdicts", judge(world.output, tmp_path / "v.json", dog=PICK))
    assert done.returncode == 6
    assert "damaged" in done.stderr


def test_the_picks_of_a_sweep_are_rendered_again_from_any_folder(tmp_path: Path) -> None:
    """From a batch with local, remote and no images to finals that are exactly the picks."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project / "images", elsewhere):
        folder.mkdir(parents=True)
    (project / "images" / "cat.png").write_bytes(png(b"cat"))
    (project / "turned.jpg").write_bytes(turned_picture())
    jobs: list[dict[str, Any]] = [
        {"id": "cat", "image": "images/cat.png", "prompt": "it yawns", "matrix": {"seed": [1, 2, 3, 4]}},
        {"id": "sky", "image": "https://example.com/sky.png", "prompt": "clouds"},
        {"id": "rain", "prompt": "rain", "negative_prompt": "snow", "aspect_ratio": "9:16"},
        {"id": "turned", "image": "turned.jpg", "prompt": "a room"},
    ]
    batch = write_batch(project, jobs)
    with sandbox_server() as server:
        done = in_process("run", batch.name, "-o", "clips", "--prepare", env=server.env, cwd=project)
        assert done.returncode == 0, done.stderr
        verdicts = {"cat-2": PICK, "cat-4": PICK, "cat-1": REJECT, "sky": PICK, "rain": PICK, "turned": PICK}
        file = judge(project / "clips", project / "v.json", **verdicts)
        picked = ["pick", "../project/clips", "--verdicts", str(file), "-o", "final.yaml", "--resolution", "720P"]
        done = in_process(*picked, cwd=elsewhere)
        assert done.returncode == 0, done.stderr
        done = in_process("plan", "final.yaml", "--json", env=server.env, cwd=elsewhere)
        assert done.returncode == 0, done.stderr
        done = in_process("run", elsewhere / "final.yaml", env=server.env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert server.paid == 7 + 5
    first = {clip.label: clip for clip in stored_clips(project / "clips")}
    finals = {clip.label: clip for clip in stored_clips(elsewhere / "outputs" / "final")}
    assert finals.keys() == {"cat-2", "cat-4", "sky", "rain", "turned"}
    for name, final in finals.items():
        ours = {field: value for field, value in final.form.items() if field != "inputImageUrl"}
        wanted = {field: value for field, value in first[name].form.items() if field != "inputImageUrl"}
        assert ours == wanted | {"resolution": "720P"}
        assert final.image == first[name].image


def ids(file: Path) -> set[str]:
    return {job["name"] for job in planned(file)}


def planned(file: Path) -> list[dict[str, Any]]:
    done = in_process("plan", file, "--json")
    assert done.returncode == 0, done.stderr
    return [event for event in events_of(done.stdout) if event["event"] == "job"]


def turned_picture() -> bytes:
    """A JPEG that only EXIF turns, which Pillow can decode."""
    buffer = io.BytesIO()
    picture = Image.new("RGB", (64, 48), (200, 120, 40))
    kept = picture.getexif()
    kept[0x0112] = 6
    picture.save(buffer, "JPEG", exif=kept)
    return buffer.getvalue()
