"""Copies of clips in another folder: nothing is overwritten, and nothing is named before it is durable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path

import anyio
import pytest
from cdn import Order

from wan_async import errors
from wan_async.filesystem import Files
from wan_async.outputs.copies import Copied, Copies

CLIP = b"the clip" * 1000
SHA256 = sha256(CLIP).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "cat.mp4"
    path.parent.mkdir()
    path.write_bytes(CLIP)
    (tmp_path / "best").mkdir()
    return path


def described(name: str) -> Iterator[str]:
    yield json.dumps({"file": name, "sha256": SHA256})


def copy(source: Path, files: Files | None = None, digest: str = SHA256, *, bare: bool = False) -> Copied:
    copies = Copies(source.parent.parent / "best", files)
    return anyio.run(partial(copies.copy, source, digest, None if bare else described))


def names(source: Path) -> set[str]:
    return {path.name for path in (source.parent.parent / "best").iterdir()}


def test_a_clip_is_copied_with_its_sidecar(source: Path) -> None:
    assert copy(source) == Copied("cat.mp4", is_new=True)
    assert names(source) == {"cat.mp4", "cat.json"}
    best = source.parent.parent / "best"
    assert (best / "cat.mp4").read_bytes() == CLIP
    assert (best / "cat.mp4").stat().st_nlink == 1, "no link, so that a change of one does not change the other"
    assert json.loads((best / "cat.json").read_text())["file"] == "cat.mp4"
    assert source.exists()


def test_without_a_sidecar_only_the_clip_is_copied(source: Path) -> None:
    copy(source, bare=True)
    assert names(source) == {"cat.mp4"}


def test_an_equal_copy_that_is_there_stays_as_it_is(source: Path) -> None:
    copy(source)
    (source.parent.parent / "best" / "cat.json").write_text(json.dumps({"sha256": SHA256, "mine": True}))
    assert copy(source) == Copied("cat.mp4", is_new=False)
    assert names(source) == {"cat.mp4", "cat.json"}
    assert json.loads((source.parent.parent / "best" / "cat.json").read_text())["mine"]


def test_a_sidecar_that_is_lacking_is_added(source: Path) -> None:
    copy(source, bare=True)
    assert copy(source) == Copied("cat.mp4", is_new=False)
    assert names(source) == {"cat.mp4", "cat.json"}


@pytest.mark.parametrize("taken", ["cat.mp4", "cat.json"])
def test_another_file_of_that_name_is_not_overwritten(source: Path, taken: str) -> None:
    path = source.parent.parent / "best" / taken
    path.write_bytes(b"[]")
    assert copy(source) == Copied("cat.1.mp4", is_new=True)
    assert path.read_bytes() == b"[]"
    assert names(source) == {taken, "cat.1.mp4", "cat.1.json"}
    assert json.loads((path.with_name("cat.1.json")).read_text())["file"] == "cat.1.mp4"
    assert copy(source) == Copied("cat.1.mp4", is_new=False), "the numbered copy is found again"


def test_a_link_in_the_folder_is_neither_followed_nor_replaced(source: Path) -> None:
    link = source.parent.parent / "best" / "cat.mp4"
    link.symlink_to(source)
    assert copy(source).name == "cat.1.mp4"
    assert link.is_symlink()


def test_a_clip_that_has_changed_is_not_copied(source: Path) -> None:
    with pytest.raises(errors.JobFailed, match="has changed"):
        copy(source, digest="0" * 64)
    assert names(source) == set()


def test_a_file_of_that_name_that_appears_meanwhile_is_not_overwritten(source: Path) -> None:
    class Racing(Files):
        def link(self, source: Path, target: Path) -> None:
            if target.name == "cat.mp4":
                target.write_bytes(b"other")
            super().link(source, target)

    assert copy(source, Racing()) == Copied("cat.1.mp4", is_new=True)
    assert names(source) == {"cat.mp4", "cat.1.mp4", "cat.1.json"}


def test_the_content_is_durable_before_the_name_and_the_clip_before_its_sidecar(source: Path) -> None:
    order = Order()
    copy(source, order)
    wanted = ["fsync", "link", "fsync folder"]
    steps = [step for step in order.log if step in wanted]
    assert steps == wanted * 2


def test_what_the_disk_refuses_leaves_nothing_behind(source: Path) -> None:
    class Full(Files):
        def fsync(self, file: object) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(errors.Unusable, match="disk is full"):
        copy(source, Full())
    assert names(source) == set()
