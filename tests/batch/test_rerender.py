"""Batch files that render stored clips again: their jobs, ids, seeds and images."""

from __future__ import annotations

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from jobs import job_of
from pictures import png

from wan_async.batch import reader
from wan_async.batch.rerender import Changes, Rerender, batch_text, rerender
from wan_async.domain.job import Job, parameters_of
from wan_async.domain.model import WAN
from wan_async.errors import InvalidBatch
from wan_async.journal.stored_clips import StoredClip

PICTURE = png(b"cat")
SAME = Changes()
IDENTITY = f"sha256:{sha256(PICTURE).hexdigest()}"


def clip(label: str = "cat", *, image: str = "", image_files: tuple[str, ...] = (), **parameters: Any) -> StoredClip:
    form = parameters_of(Job(**({"prompt": "it yawns"} | parameters)), "")
    return StoredClip(f"sha of {label}", f"{label}.mp4", 1, f"{label}.mp4", label, label, form, image, image_files)


def made(clips: list[StoredClip], changes: Changes = SAME, known: list[StoredClip] | None = None) -> Rerender:
    return rerender([(each, "") for each in clips], known or clips, changes, WAN, Path("out"), {})


def read_back(clips: list[StoredClip], file: Path, changes: Changes = SAME, remark: str = "") -> list[Job]:
    """The jobs that a run of the written file would have."""
    entries = rerender([(each, remark) for each in clips], clips, changes, WAN, Path("out"), {}).entries
    file.write_text(batch_text(entries, WAN, file=file, output="outputs/final", head=["A head"]), encoding="utf-8")
    batch = reader.read_batch(file)
    assert batch.output == "outputs/final"
    return [job_of(planned) for planned in batch.jobs]


def test_a_job_has_the_parameters_that_were_sent(tmp_path: Path) -> None:
    sent: dict[str, Any] = {
        "prompt": 'it "yawns": {slowly}\n# \u2028 🐈',
        "negative_prompt": "rain, no: 'text'",
        "resolution": "580P",
        "aspect_ratio": "9:16",
        "seed": -(2**63),
    }
    (job,) = read_back([clip(**sent)], tmp_path / "final.yaml")
    assert job == Job(id="cat", **sent)


def test_the_changes_are_those_asked_for(tmp_path: Path) -> None:
    jobs = read_back([clip(seed=7), clip("dog", prompt="it runs")], tmp_path / "f.yaml", Changes("720P", (1, 2)))
    assert [(job.id, job.prompt, job.resolution, job.seed) for job in jobs] == [
        ("cat-seed1", "it yawns", "720P", 1),
        ("cat-seed2", "it yawns", "720P", 2),
        ("dog-seed1", "it runs", "720P", 1),
        ("dog-seed2", "it runs", "720P", 2),
    ]


@pytest.mark.parametrize(
    ("label", "changes", "ids"),
    [
        ("cat", Changes("720P"), ["cat"]),
        ("cat-480P", Changes("720P"), ["cat-720P"]),
        ("cat-7-480P-b", Changes("720P"), ["cat-7-720P-b"]),
        ("route-7", Changes(seeds=(8,)), ["route-7-seed8"]),
        ("cat-seed7", Changes(seeds=(8, 7)), ["cat-seed8", "cat-seed7"]),
        ("1480P", Changes("720P"), ["1480P"]),
    ],
)
def test_an_id_says_what_is_different(label: str, changes: Changes, ids: list[str]) -> None:
    assert [entry.id for entry in made([clip(label, seed=7)], changes).entries] == ids


def test_ids_are_distinct_where_case_does_not_count() -> None:
    clips = [clip("cat"), clip("cat", prompt="earlier"), clip("CAT", prompt="other"), clip("cat-2", prompt="named")]
    assert [entry.id for entry in made(clips).entries] == ["cat", "cat-2", "CAT-3", "cat-2-2"]


def test_an_id_that_no_batch_file_takes_is_replaced(tmp_path: Path) -> None:
    (job,) = read_back([clip(" cat\u202e/")], tmp_path / "final.yaml")
    assert job.id == "cat-"


def test_clips_that_would_be_rendered_alike_are_one_job() -> None:
    clips = [clip("cat-480P"), clip("cat-720P", resolution="720P"), clip("dog", seed=5)]
    first, second = made(clips, Changes("720P")).entries
    assert [each.file for each, _ in first.clips] == ["cat-480P.mp4", "cat-720P.mp4"]
    assert [each.file for each, _ in second.clips] == ["dog.mp4"]


def test_further_seeds_are_those_that_no_clip_of_the_shot_has() -> None:
    picked = clip("a", seed=5)
    known = [picked, clip("b", seed=6), clip("c", seed=8, resolution="720P"), clip("d", seed=7, prompt="another shot")]
    entries = made([picked], Changes(further=3), known).entries
    assert [entry.values["seed"] for entry in entries] == [7, 9, 10]


def test_further_seeds_begin_again_after_the_highest() -> None:
    limits = WAN.by_name["seed"].limits
    assert limits is not None
    entries = made([clip(seed=limits[1])], Changes(further=1)).entries
    assert [entry.values["seed"] for entry in entries] == [limits[0]]


def test_further_seeds_of_a_clip_without_one_begin_after_the_default() -> None:
    odd = replace(clip(), form={name: value for name, value in clip(seed=7).form.items() if name != "seed"})
    assert [entry.values["seed"] for entry in made([odd], Changes(further=2)).entries] == [43, 44]


def test_an_image_is_relative_to_the_batch_file(tmp_path: Path) -> None:
    image = tmp_path / "images" / "cat.png"
    image.parent.mkdir()
    image.write_bytes(PICTURE)
    (tmp_path / "batches").mkdir()
    (job,) = read_back([clip(image=IDENTITY, image_files=(str(image),))], tmp_path / "batches" / "final.yaml")
    assert '\n    image: "../images/cat.png"\n' in (tmp_path / "batches" / "final.yaml").read_text()
    assert Path(str(job.image)).samefile(image)


@pytest.mark.parametrize(
    "name", ["a[1].png", "~cat.png", "~", "x*y?.png", "{seed}.png", "#.png", "'\".png", "é 🐈.png"]
)
@pytest.mark.skipif(os.name == "nt", reason="such names can't exist there")
def test_an_image_of_any_name_is_found(tmp_path: Path, name: str) -> None:
    image = tmp_path / name
    image.write_bytes(PICTURE)
    (job,) = read_back([clip(image=IDENTITY, image_files=(str(image),))], tmp_path / "final.yaml")
    assert Path(str(job.image)).samefile(image)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_from_a_folder_that_is_a_link_the_image_is_found(tmp_path: Path) -> None:
    image = tmp_path / "cat.png"
    image.write_bytes(PICTURE)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    for _ in range(2):
        (job,) = read_back([clip(image=IDENTITY, image_files=(str(image),))], tmp_path / "link" / "final.yaml")
        assert Path(str(job.image)).samefile(image)
        (tmp_path / "deep" / "cat.png").write_bytes(b"another, which ../cat.png is there")


def test_an_image_of_the_web_stays_one(tmp_path: Path) -> None:
    (job,) = read_back([clip(image="url:https://example.com/a.png?x=1&y=2")], tmp_path / "final.yaml")
    assert job.image == "https://example.com/a.png?x=1&y=2"


def test_of_several_places_that_with_the_same_bytes_is_taken(tmp_path: Path) -> None:
    changed, gone, right = tmp_path / "cat.png", tmp_path / "gone.png", tmp_path / "copy.png"
    changed.write_bytes(png(b"another"))
    right.write_bytes(PICTURE)
    places = (str(gone), str(changed), str(right))
    (entry,) = made([clip(image=IDENTITY, image_files=places)]).entries
    assert entry.image == str(right)


def test_a_place_that_only_the_sidecar_knows_is_looked_at(tmp_path: Path) -> None:
    image = tmp_path / "cat.png"
    image.write_bytes(PICTURE)
    lost = clip(image=IDENTITY)
    (entry,) = rerender([(lost, "")], [lost], Changes(), WAN, Path("out"), {"cat.mp4": str(image)}).entries
    assert entry.image == str(image)


@pytest.mark.parametrize(
    ("content", "places", "reason"),
    [(None, 1, "not at"), (png(b"another"), 1, "has changed"), (b"", 1, "not at"), (None, 0, "does not say")],
)
def test_a_clip_whose_image_is_not_the_same_any_more_is_left_out(
    tmp_path: Path, content: bytes | None, places: int, reason: str
) -> None:
    image = tmp_path / "cat.png"
    if content is not None:
        image.write_bytes(content)
    found = made([clip(image=IDENTITY, image_files=(str(image),) * places), clip("dog")])
    assert [entry.id for entry in found.entries] == ["dog"]
    (problem,) = found.problems
    assert problem.where == "cat.mp4"
    assert reason in problem.message


@pytest.mark.parametrize("prompt", ["{seed} cats", "a {Caption}", "${id}", "#N/A"])
def test_a_text_that_a_batch_file_would_change_or_refuse_is_left_out(prompt: str) -> None:
    sent = replace(clip(), form={**clip().form, "prompt": prompt})
    found = made([sent, clip("dog")])
    assert [entry.id for entry in found.entries] == ["dog"]
    assert [problem.where for problem in found.problems] == ["cat.mp4"]


def test_what_was_sent_and_is_no_valid_job_is_refused_before_it_is_written(tmp_path: Path) -> None:
    odd = replace(clip(), form={**clip().form, "resolution": "1080P"})
    with pytest.raises(InvalidBatch, match="resolution"):
        batch_text(made([odd]).entries, WAN, file=tmp_path / "final.yaml", output="x", head=[])


def test_remarks_can_not_end_their_comment(tmp_path: Path) -> None:
    hostile = "!\n  - id: owned\r\u0085\u2028# {}: &a *b"
    assert len(read_back([clip()], tmp_path / "final.yaml", remark=hostile)) == 1
