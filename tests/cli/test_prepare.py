"""`--prepare` and `--skip-bad` end to end: what is uploaded, what is paid, what is said."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import pytest
from pictures import jpeg, png
from PIL import Image
from servers import Server, events_of, in_process, sandbox_server

from wan_async.batch import image_conversion
from wan_async.journal.base import PREPARES
from wan_async.journal.sqlite import SqliteJournal


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sandbox_server() as running:
        yield running


def turned_photo(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    made = Image.new("RGB", (320, 200), (200, 30, 30))
    made.save(path, exif=exif)


def test_a_prepared_batch_is_paid_once_even_if_its_copies_are_gone(server: Server, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    turned_photo(photos / "a.jpg")
    (photos / "b.png").write_bytes(png())
    before = server.paid
    arguments = ("run", photos, "-p", "x", "-o", out, "--prepare", "--json")
    first = in_process(*arguments, env=server.env)
    assert (first.returncode, server.paid - before) == (0, 2), first.stderr
    (copy,) = (out / ".wan_async" / "inputs").iterdir()
    assert copy.name == f"{hashlib.sha256((photos / 'a.jpg').read_bytes()).hexdigest()}-upright.jpg"
    with Image.open(copy) as picture:
        assert picture.size == (200, 320)
    uploaded = [event["bytes"] for event in events_of(first.stdout) if event["event"] == "uploaded"]
    assert sorted(uploaded) == sorted([copy.stat().st_size, (photos / "b.png").stat().st_size])
    again = in_process(*arguments, env=server.env)
    shutil.rmtree(copy.parent)
    third = in_process(*arguments, env=server.env)
    assert (again.returncode, third.returncode, server.paid - before) == (0, 0, 2)


def test_a_folder_remembers_that_its_images_were_prepared(server: Server, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    turned_photo(photos / "a.jpg")
    arguments = ("run", photos, "-p", "x", "-o", out, "--json")
    before = server.paid
    assert in_process(*arguments, "--prepare", env=server.env).returncode == 0
    shutil.rmtree(out / ".wan_async" / "inputs")
    without = in_process(*arguments, env=server.env)
    assert (without.returncode, server.paid - before) == (0, 1), without.stderr
    assert "as in the last run of this folder (--no-prepare" in without.stderr
    original = in_process("plan", *arguments[1:], "--no-prepare", env=server.env)
    assert [event["state"] for event in events_of(original.stdout) if event["event"] == "job"] == ["planned"]
    assert '"image":"a.jpg"' in (out / "gallery.html").read_text(), "the page calls the copy as its original"
    assert in_process(*arguments, "--no-prepare", env=server.env).returncode == 0
    assert in_process(*arguments, env=server.env).returncode == 0
    assert server.paid - before == 2


def test_a_prepared_folder_whose_journal_is_older_than_the_note_of_it_is_not_paid_again(
    server: Server, tmp_path: Path
) -> None:
    out, batch, before = tmp_path / "out", tmp_path / "b.jsonl", server.paid
    turned_photo(tmp_path / "a.jpg")
    batch.write_text('{"id": "a", "image": "a.jpg", "prompt": "x"}\n')
    assert in_process("run", batch, "-o", out, "--prepare", env=server.env).returncode == 0

    async def forget() -> None:
        async with SqliteJournal.open(out / ".wan_async", None, inline=True) as journal:
            assert await journal.remembers(PREPARES)
            await journal.remember(PREPARES, holds=False)

    anyio.run(forget)
    with batch.open("a") as file:
        file.write('{"id": "b", "image": "a.jpg", "prompt": "y"}\n')
    done = in_process("run", batch, "-o", out, env=server.env)
    assert (done.returncode, server.paid - before) == (0, 2)
    assert "as in the last run of this folder (--no-prepare" in done.stderr
    assert in_process("run", batch, "-o", out, "--no-prepare", env=server.env).returncode == 0
    assert in_process("run", batch, "-o", out, env=server.env).returncode == 0
    assert server.paid - before == 4, "the copies were forgotten by --no-prepare"


def test_again_keeps_the_folder_prepared_and_its_take_is_known_to_the_batch(server: Server, tmp_path: Path) -> None:
    out, batch = tmp_path / "out", tmp_path / "b.jsonl"
    turned_photo(tmp_path / "a.jpg")
    batch.write_text('{"id": "a", "image": "a.jpg", "prompt": "x", "seed": 1}\n')
    arguments, before = ("run", batch, "-o", out), server.paid
    assert in_process(*arguments, "--prepare", env=server.env).returncode == 0
    take = in_process("again", "a", "--seed", "2", "-o", out, env=server.env)
    assert (take.returncode, server.paid - before) == (0, 2), take.stderr
    assert in_process(*arguments, env=server.env).returncode == 0
    assert server.paid - before == 2, "the folder has forgotten that its images are prepared"
    with batch.open("a") as file:
        file.write('{"id": "b", "image": "a.jpg", "prompt": "x", "seed": 2}\n')
    assert in_process(*arguments, env=server.env).returncode == 0
    assert server.paid - before == 2, "the take is the clip of a job with its seed"


def test_bad_jobs_are_left_out_and_do_not_change_the_exit_code(server: Server, tmp_path: Path) -> None:
    batch = tmp_path / "b.jsonl"
    batch.write_text(
        '{"id": "a", "prompt": "x"}\n{"id": "b", "prompt": "y", "seed": "q"}\n'
        '{"id": "c", "prompt": "z", "image": "nope.png"}\n'
    )
    before = server.paid
    refused = in_process("run", batch, env=server.env)
    assert (refused.returncode, refused.stderr.splitlines()[-2:]) == (
        2,
        ["--skip-bad renders the other job", "nothing was spent"],
    )
    done = in_process("run", batch, "--skip-bad", "--json", env=server.env)
    started, finished = events_of(done.stdout)[0], events_of(done.stdout)[-1]
    assert (done.returncode, server.paid - before) == (0, 1)
    assert (started["jobs"], started["left_out"], finished["jobs"]) == (1, 2, 1)
    assert "b.jsonl:2:36: jobs[1].seed" in done.stderr
    assert "b.jsonl:3:37: jobs[2].image" in done.stderr
    batch.write_text(batch.read_text().replace('"q"', "3"))
    assert "--skip-bad renders the other 2 jobs\n" in in_process("plan", batch, env=server.env).stderr
    later = in_process("run", batch, "--skip-bad", "--json", env=server.env)
    assert (later.returncode, server.paid - before) == (0, 2)
    assert events_of(later.stdout)[0]["left_out"] == 1
    assert "--skip-bad leaves out 1 job; correct it and run again" in later.stderr


def test_a_refused_batch_has_the_notes_on_its_other_images_and_no_hint_that_would_not_help(
    server: Server, tmp_path: Path
) -> None:
    turned_photo(tmp_path / "a.jpg")
    batch = tmp_path / "b.jsonl"
    batch.write_text('{"id": "a", "prompt": "x", "image": "a.jpg"}\n{"id": "c", "prompt": "z", "image": "nope.png"}\n')
    shown = in_process("plan", batch, env=server.env).stderr
    assert "EXIF" in shown
    assert "--skip-bad renders the other job\n" in shown
    output = tmp_path / "outputs" / "b"
    output.mkdir(parents=True)
    (output / "a.mp4").write_bytes(b"mine")
    assert "--skip-bad" not in in_process("plan", batch, env=server.env).stderr


def test_generate_says_what_is_unusual_about_its_image_and_prepares_it(server: Server, tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    turned_photo(photo)
    plain = in_process("generate", "-p", "x", "-i", photo, "-o", tmp_path / "plain.mp4", env=server.env)
    assert plain.returncode == 0, plain.stderr
    assert "note: 1 image is turned by EXIF alone" in plain.stderr
    upright = in_process("generate", "-p", "x", "-i", photo, "-o", tmp_path / "up.mp4", "--prepare", env=server.env)
    assert "note: 1 image is uploaded as an upright, converted copy" in upright.stderr
    (copy,) = (tmp_path / ".wan_async" / "generate" / "up" / "inputs").iterdir()
    with Image.open(copy) as picture:
        assert picture.size == (200, 320)


def first_report(arguments: Sequence[str | Path], command: str) -> list[tuple[str, str]]:
    """The places of the problems that a command reports before it stops, and what each is about."""
    done = in_process(command, *arguments, "--prepare")
    assert done.returncode == 2, done.stdout
    subjects = ("resolution", "can't be decoded", "doesn't exist", "exists and is not ours", "no job is called")
    lines = [line for line in done.stderr.splitlines() if any(subject in line for subject in subjects)]
    return [
        (line.removeprefix("error: ").partition(": ")[0], next(each for each in subjects if each in line))
        for line in lines
    ]


@pytest.mark.parametrize("command", ["plan", "run"])
def test_the_first_report_has_the_faults_of_text_images_copies_and_the_output_folder(
    tmp_path: Path, command: str
) -> None:
    out, batch = tmp_path / "out", tmp_path / "b.csv"
    out.mkdir()
    for name in ("sound.mp4", "wrong.mp4", "photo.mp4", "results.jsonl"):
        (out / name).write_text("not ours")
    for name in ("broken.jpg", "photo.jpg"):
        (tmp_path / name).write_bytes(jpeg(orientation=6))
    batch.write_text(
        "id,image,prompt,resolution\nsound,broken.jpg,x,480P\nwrong,,x,8K\ngone,gone.jpg,x,480P\n,photo.jpg,x,9K\n"
    )
    assert first_report([batch, "-o", out], command) == [
        (f"{batch}:2:image", "can't be decoded"),
        (f"{batch}:3:resolution", "resolution"),
        (f"{batch}:4:image", "doesn't exist"),
        (f"{batch}:5:resolution", "resolution"),
        (f"{batch}:5:image", "can't be decoded"),
        (str(out / "results.jsonl"), "exists and is not ours"),
        (f"{batch}:2", "exists and is not ours"),
        (f"{batch}:3", "exists and is not ours"),
        (f"{batch}:5", "exists and is not ours"),
    ]


def test_without_a_sound_output_or_name_nothing_is_said_about_files_in_the_way(tmp_path: Path) -> None:
    batch = tmp_path / "b.yaml"
    (tmp_path / "outputs" / "b").mkdir(parents=True)
    (tmp_path / "outputs" / "b" / "a.mp4").write_text("not ours")
    (tmp_path / "p.jpg").write_bytes(jpeg(orientation=6))
    text = "jobs: [{id: a, prompt: x, image: p.jpg, resolution: 8K}]\n"
    batch.write_text(f"ouput: elsewhere\n{text}")
    assert [what for _, what in first_report([batch], "plan")] == ["can't be decoded", "resolution"]
    batch.write_text(text)
    assert [what for _, what in first_report([batch], "plan")][-1] == "exists and is not ours"


def test_only_is_refused_along_with_the_faults_of_images(tmp_path: Path) -> None:
    batch = tmp_path / "b.jsonl"
    batch.write_text('{"id": "a", "image": "gone.jpg", "prompt": "x"}\n')
    assert [what for _, what in first_report([batch, "--only", "b"], "plan")] == ["doesn't exist", "no job is called"]


def test_a_photo_that_was_copied_before_is_not_decoded_for_a_refusal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = tmp_path / "b.jsonl"
    turned_photo(tmp_path / "a.jpg")
    batch.write_text('{"id": "a", "image": "a.jpg", "prompt": "x"}\n')
    assert in_process("run", batch, "--prepare", env=server.env).returncode == 0
    with batch.open("a") as file:
        file.write('{"id": "b", "prompt": "x", "resolution": "8K"}\n')
    monkeypatch.setattr(image_conversion, "converted", lambda *_: pytest.fail("decoded again"))
    assert first_report([batch], "plan") == [(f"{batch}:2:42", "resolution")]


def test_a_refusal_reports_a_journal_that_cannot_be_read_as_well(tmp_path: Path) -> None:
    batch, out = tmp_path / "b.jsonl", tmp_path / "out"
    batch.write_text('{"id": "b", "prompt": "x", "resolution": "8K"}\n')
    (out / ".wan_async").mkdir(parents=True)
    (out / ".wan_async" / "journal.sqlite3").write_text("no database" * 100)
    done = in_process("plan", batch, "-o", out)
    assert done.returncode == 2
    assert f"{batch}:1" in done.stderr
    assert "journal.sqlite3" in done.stderr


def test_where_an_image_may_be_why_a_render_failed_the_advice_is_prepare(server: Server, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "deep.png").write_bytes(png(bits=16))
    turned_photo(photos / "turned.jpg")
    batch = ("photos", "-p", "x", "-o", "out")
    server.control(faults={"failed_render": 1})
    failed = in_process("run", *batch, "--only", "deep", "--retries", "0", env=server.env, cwd=tmp_path)
    server.control(faults={})
    plan = in_process("plan", *batch, env=server.env, cwd=tmp_path)
    status = in_process("status", "out", cwd=tmp_path)
    for done in (failed, plan, status):
        lines = done.stdout.splitlines()
        at = next(number for number, line in enumerate(lines) if "--retry-failed" in line)
        assert "--retry-failed --prepare" in lines[at]
        assert "deep.png" in lines[at + 1]
        assert "1 other image," in lines[at + 2]  # that one would be paid for again
    retried = in_process("run", *batch, "--retry-failed", "--prepare", env=server.env, cwd=tmp_path)
    assert (retried.returncode, "--retry-failed" in retried.stdout) == (0, False)


def test_the_advice_after_another_failure_is_not_prepare(server: Server, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    turned_photo(photos / "turned.jpg")
    server.control(faults={"failed_render": 1})
    failed = in_process("run", photos, "-p", "x", "-o", tmp_path / "out", "--retries", "0", env=server.env)
    server.control(faults={})
    (line,) = [line for line in failed.stdout.splitlines() if "--retry-failed" in line]
    assert line.endswith("try failed ones again with --retry-failed")
    assert in_process("status", tmp_path / "out").stdout.splitlines()[-1].endswith("--retry-failed")


def test_a_further_take_has_the_copy_that_its_job_had_and_no_other_image(server: Server, tmp_path: Path) -> None:
    photos, before = tmp_path / "photos", server.paid
    photos.mkdir()
    turned_photo(photos / "a.jpg")
    for out, flag, opposite in (("copies", "--prepare", "--no-prepare"), ("originals", "--no-prepare", "--prepare")):
        in_process("run", "photos", "-p", "x", "-o", out, flag, env=server.env, cwd=tmp_path)
        refused = in_process("again", "a", "-o", out, opposite, env=server.env, cwd=tmp_path)
        assert (refused.returncode, f"`run BATCH {opposite} --only a`" in refused.stderr) == (2, True)
        assert in_process("again", "a", "-o", out, env=server.env, cwd=tmp_path).returncode == 0
        assert in_process("again", "a", "-o", out, flag, env=server.env, cwd=tmp_path).returncode == 0
        for seed in (43, 44):
            sidecar = json.loads((tmp_path / out / f"a-seed{seed}.json").read_text())
            assert sidecar["image_file"].endswith("-upright.jpg" if out == "copies" else "photos/a.jpg")
    assert server.paid - before == 6
