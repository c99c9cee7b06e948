"""Which clips a review chose, and which of them are in the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from wan_async.gallery.picks import Chosen, chosen
from wan_async.gallery.verdicts import Decision, Verdict, Verdicts
from wan_async.journal.stored_clips import StoredClip


def clip(name: str, sha256: str = "", size: int = 4) -> StoredClip:
    return StoredClip(sha256 or f"sha of {name}", f"{name}.mp4", size, f"{name}.mp4", name, name, {}, "", ())


def verdict(decision: Decision | None = "pick", stars: int | None = None, file: str = "") -> Verdict:
    return Verdict(decision, stars, "", file, 1.0)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(b"clip")
    return tmp_path


def files(found: Chosen) -> list[str]:
    return [one.clip.file for one in found.picks]


def test_picked_clips_are_in_the_order_of_the_batch(output: Path) -> None:
    verdicts = Verdicts(clips={"sha of c": verdict(), "sha of b": verdict("reject"), "sha of a": verdict()})
    found = chosen(output, map(clip, "abc"), verdicts)
    assert (files(found), found.gone) == (["a.mp4", "c.mp4"], [])


@pytest.mark.parametrize(("stars", "wanted"), [(1, ["a.mp4", "c.mp4"]), (3, ["a.mp4", "c.mp4"]), (4, ["a.mp4"])])
def test_with_stars_picking_does_not_matter_and_rejected_ones_are_left_out(
    output: Path, stars: int, wanted: list[str]
) -> None:
    verdicts = Verdicts(
        clips={"sha of a": verdict(None, 5), "sha of b": verdict("reject", 5), "sha of c": verdict("pick", 3)}
    )
    assert files(chosen(output, map(clip, "abc"), verdicts, stars)) == wanted


def test_picks_that_are_not_there_are_named_as_far_as_they_are_known(output: Path) -> None:
    (output / "b.mp4").unlink()
    (output / "c.mp4").write_bytes(b"cut")
    picked = {f"sha of {name}": verdict() for name in "bc"}
    picked |= {"sha of x": verdict(file="x.mp4"), "sha of y": verdict()}
    found = chosen(output, map(clip, "abc"), Verdicts(clips=picked))
    assert found.picks == []
    assert [(one.file, one.name) for one in found.gone] == [
        ("b.mp4", "b.mp4"),
        ("c.mp4", "c.mp4"),
        ("", "x.mp4"),
        ("", "the clip with sha256 sha of y"),
    ]


@pytest.mark.parametrize(("judged", "wanted"), [("b.mp4", "b.mp4"), ("elsewhere.mp4", "a.mp4"), ("c.mp4", "c.mp4")])
def test_a_clip_that_several_jobs_share_is_one(output: Path, judged: str, wanted: str) -> None:
    same = [clip(name, "same") for name in "abc"]
    assert files(chosen(output, same, Verdicts(clips={"same": verdict(file=judged)}))) == [wanted]


def test_a_shared_clip_whose_first_file_is_gone_is_there_under_its_other_name(output: Path) -> None:
    (output / "a.mp4").unlink()
    found = chosen(output, [clip("a", "same"), clip("b", "same")], Verdicts(clips={"same": verdict(file="a.mp4")}))
    assert (files(found), found.gone) == (["b.mp4"], [])
