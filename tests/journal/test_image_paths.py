"""Paths of images as they are recorded, and found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from wan_async.domain.job import Job
from wan_async.journal.image_paths import ImagePaths, image_path
from wan_async.output_locations import OutputUrl


@pytest.mark.parametrize(
    ("image", "recorded"),
    [
        ("images/cat.png", "../../images/cat.png"),
        ("./images/../cat.png", "../../cat.png"),
        ("cat.png", "../../cat.png"),
        ("outputs/clips/.wan_async/inputs/5ha.png", ".wan_async/inputs/5ha.png"),
        ("outputs/clips/cat.png", "cat.png"),
        ("images/100%, or a #hash.png", "../../images/100%, or a #hash.png"),
    ],
)
def test_an_image_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str, recorded: str
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = ImagePaths(Path("outputs/clips"))
    assert paths.of_job(Job(image=image)) == recorded
    assert paths.of_job(Job(image=str(tmp_path / image))) == recorded
    monkeypatch.chdir("/")
    assert Path(image_path(tmp_path / "outputs/clips", recorded)) == (tmp_path / image).resolve()


def test_from_an_object_store_a_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = OutputUrl("s3://bucket/clips")
    recorded = ImagePaths(output).of_job(Job(image="images/cat.png"))
    assert recorded == (tmp_path / "images" / "cat.png").as_posix()
    assert image_path(output, recorded) == recorded


def test_a_sidecar_in_an_object_store_does_not_tell_where_local_files_are(tmp_path: Path) -> None:
    job = Job(image=str(tmp_path / "cat.png"))
    assert ImagePaths(OutputUrl("s3://bucket/clips"), public=True).of_job(job) == "cat.png"
    assert ImagePaths(tmp_path / "clips", public=True).of_job(job) == "../cat.png"


def test_images_of_the_web_and_jobs_without_an_image_have_no_path(tmp_path: Path) -> None:
    paths = ImagePaths(tmp_path)
    assert paths.of_job(Job(image="https://example.com/cat.png")) is None
    assert paths.of_job(Job(prompt="rain")) is None


def test_an_image_on_another_drive_has_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_path(path: str, start: str) -> str:
        raise ValueError(f"path is on mount {path}, start on mount {start}")  # as on Windows

    monkeypatch.setattr("os.path.relpath", no_path)
    image = tmp_path / "cat.png"
    recorded = ImagePaths(tmp_path / "clips").of_job(Job(image=str(image)))
    assert recorded == image.as_posix()
    assert Path(image_path(tmp_path / "clips", recorded)) == image
