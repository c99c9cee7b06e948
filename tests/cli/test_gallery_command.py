"""`gallery`: the page, the browser, the zip, and verdicts that it starts from."""

from __future__ import annotations

import webbrowser
import zipfile
from pathlib import Path

import pytest
from gallery_pages import Page
from harness import World, make_sandbox, text_jobs, virtually
from pictures import png
from reviews import PICK, judge
from servers import in_process, quick_own_sandbox

from wan_async.cli import local_sandbox
from wan_async.cli.commands import gallery
from wan_async.journal.last_command import FILE, LastCommand, keep, last_command


@pytest.fixture
def output(tmp_path: Path) -> Path:
    async def run() -> World:
        world = World(tmp_path, make_sandbox())
        await world.run(text_jobs(2))
        return world

    return virtually(run).output


def test_verdicts_are_those_given_or_those_of_the_folder(output: Path, tmp_path: Path) -> None:
    page = output / "gallery.html"
    assert in_process("gallery", output).returncode == 0
    assert "the tail" not in page.read_text("utf-8")
    judge(output, output / "verdicts-out.json", **{"job-0": PICK | {"note": "the tail"}})
    assert in_process("gallery", output).returncode == 0
    assert "the tail" in page.read_text("utf-8")
    given = judge(output, tmp_path / "given.json", **{"job-1": PICK | {"note": "an ear"}})
    other = judge(output, tmp_path / "other.json", **{"job-0": PICK | {"note": "a paw"}})
    assert in_process("gallery", output, "--verdicts", given, "--verdicts", other).returncode == 0
    text = page.read_text("utf-8")
    assert [note in text for note in ("the tail", "an ear", "a paw")] == [False, True, True]


def test_the_page_has_the_command_of_the_run_that_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(png())
    monkeypatch.setattr(local_sandbox, "sandbox", quick_own_sandbox)
    flags = ["--prompt=-slow", "--set", "seed=7"]
    typed = ("run", "photos", *flags, "--limit", "0", "--sandbox", "--on-end", "true secret")
    assert in_process(*typed, cwd=tmp_path).returncode == 0
    page = tmp_path / "photos.clips.sandbox" / "gallery.html"
    command = {"batch": "photos", "out": "photos.clips.sandbox", "sandbox": True, "flags": flags}
    assert Page(page.read_text("utf-8")).facts["command"] == command
    assert "secret" not in page.read_text("utf-8")
    page.unlink()
    assert in_process("gallery", page.parent, cwd=tmp_path.parent).returncode == 0
    assert Page(page.read_text("utf-8")).facts["command"] == command  # whatever folder it is written from
    words = ("run", "photos", "-o", "photos.clips.sandbox", "--sandbox", *flags)
    assert in_process(*words, cwd=tmp_path).returncode == 0
    assert in_process("gallery", page.parent, "--portable", tmp_path / "a.zip").returncode == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:  # is for others
        (name,) = [name for name in packed.namelist() if name.endswith(".html")]
        assert Page(packed.read(name).decode()).facts["command"]["batch"] is None


def test_a_kept_command_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert last_command(tmp_path) is None
    kept = LastCommand("b.yaml", "out", True, ("--prompt", "ein Bär"))
    keep(tmp_path, kept)
    assert last_command(tmp_path) == kept
    for text in ("", "[]", '{"batch": 1, "sandbox": true, "flags": []}', '{"batch": "b", "sandbox": true, "flags": 3}'):
        (tmp_path / FILE).write_text(text.replace("{", '{"output": "out", '))
        assert last_command(tmp_path) is None


def test_what_holds_no_verdicts_is_refused_before_the_page_is_written(output: Path, tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text("[]")
    done = in_process("gallery", output, "--verdicts", tmp_path / "v.json")
    assert done.returncode == 2
    assert "v.json" in done.stderr
    assert not (output / "gallery.html").exists()


@pytest.mark.parametrize("can_open", [True, False])
def test_the_page_is_opened_and_its_path_said_anyhow(
    output: Path, monkeypatch: pytest.MonkeyPatch, can_open: bool
) -> None:
    opened: list[str] = []

    def browse(url: str) -> bool:
        opened.append(url)
        return can_open

    monkeypatch.setattr(webbrowser, "open", browse)
    done = in_process("gallery", output, "--open")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [str(output / "gallery.html")]
    assert opened == [(output / "gallery.html").as_uri()]
    assert ("no browser" in done.stderr) is not can_open


def test_a_zip_is_written_beside_the_page_and_its_content_said(output: Path, tmp_path: Path) -> None:
    done = in_process("gallery", output, "--portable", tmp_path / "new" / "review.zip")
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        [str(output / "gallery.html"), str(tmp_path / "new" / "review.zip")],
    )
    assert "2 clips" in done.stderr
    with zipfile.ZipFile(tmp_path / "new" / "review.zip") as archive:
        assert set(archive.namelist()) == {"out/gallery.html", "out/job-0.mp4", "out/job-1.mp4"}


def test_clips_that_the_zip_lacks_are_named(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (output / "job-1.mp4").unlink()
    done = in_process("gallery", output, "--portable", tmp_path / "review.zip")
    assert done.returncode == 1
    assert "job-1.mp4" in done.stderr
    monkeypatch.setattr(gallery, "SHOWN_PROBLEMS", 0)
    done = in_process("gallery", output, "--portable", tmp_path / "review.zip")
    assert (done.returncode, "... and 1 more" in done.stderr) == (1, True)


def test_a_page_in_an_object_store_is_not_opened_or_packed(tmp_path: Path) -> None:
    for flag, *value in (("--open",), ("--portable", str(tmp_path / "x.zip"))):
        done = in_process("gallery", f"file://{tmp_path}/store", flag, *value, cwd=tmp_path)
        assert done.returncode == 2
        assert f"{flag}: is for a local folder, not for an object store" in done.stderr
