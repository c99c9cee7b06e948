"""`gallery`: the page, the browser, the zip, and verdicts that it starts from."""

from __future__ import annotations

import webbrowser
import zipfile
from pathlib import Path

import pytest
from harness import World, make_sandbox, text_jobs, virtually
from reviews import PICK, judge
from servers import in_process


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


def test_clips_that_the_zip_lacks_are_named(output: Path, tmp_path: Path) -> None:
    (output / "job-1.mp4").unlink()
    done = in_process("gallery", output, "--portable", tmp_path / "review.zip")
    assert done.returncode == 1
    assert "job-1.mp4" in done.stderr
