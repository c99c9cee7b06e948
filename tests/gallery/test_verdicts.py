"""Verdicts files: what is read, what is refused with which place, and how several are merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wan_async.errors import InvalidBatch, Unusable
from wan_async.gallery import verdicts
from wan_async.gallery.verdicts import Verdict, Verdicts, merge, parse, read

A, B = "a" * 64, "b" * 64
ABSENT = object()


def content(**clip: object) -> dict[str, Any]:
    described = {"verdict": "pick", "stars": 4, "note": "the tail!", "file": "cat.mp4", "at": 1764099990.5} | clip
    clips = {A: {name: value for name, value in described.items() if value is not ABSENT}}
    return {"verdicts": 1, "folder": "clips", "exported_at": 1764100000, "clips": clips}


def of(given: object) -> Verdicts:
    return parse(json.dumps(given).encode(), "v.json")


def problems(given: object) -> dict[str, str]:
    with pytest.raises(InvalidBatch) as caught:
        of(given)
    return {problem.where: problem.message for problem in caught.value.problems}


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.json"
    path.write_text(json.dumps(content()))
    found = read(path)
    assert found == Verdicts("clips", 1764100000, {A: Verdict("pick", 4, "the tail!", "cat.mp4", 1764099990.5)})
    assert found.to_json() == content()


def test_a_byte_order_mark_and_digits_in_capitals_are_read() -> None:
    text = json.dumps(content()).replace(A, A.upper())
    assert list(parse(b"\xef\xbb\xbf" + text.encode(), "v.json").clips) == [A]


def test_unknown_fields_are_ignored() -> None:
    assert of(content(tags=["cat"]) | {"reviewer": {"name": "ada"}}) == of(content())


@pytest.mark.parametrize("absent", [ABSENT, None])
def test_what_is_absent_is_none(absent: object) -> None:
    found = of(content(verdict=absent, stars=absent, note=absent, file=absent))
    assert found.clips[A] == Verdict(None, None, "", "", 1764099990.5)
    assert found.to_json()["clips"] == {A: {"at": 1764099990.5}}


def test_no_stars_are_none() -> None:
    assert of(content(stars=0)).clips[A].stars is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("verdict", "maybe"),
        ("verdict", ["pick"]),
        ("stars", 6),
        ("stars", -1),
        ("stars", True),
        ("stars", 2.5),
        ("note", 3),
        ("file", {}),
        ("at", ABSENT),
        ("at", True),
        ("at", -1),
        ("at", float("nan")),
        ("at", float("inf")),
        ("at", "now"),
    ],
)
def test_a_wrong_value_is_refused_at_its_place(field: str, value: object) -> None:
    assert list(problems(content(**{field: value}))) == [f"v.json: clips.{A}.{field}"]


def test_every_problem_is_reported() -> None:
    given = content(stars=7, verdict="yes") | {"folder": 1, "exported_at": None}
    given["clips"] |= {"short": {"at": 1}, B: []}
    assert list(problems(given)) == [
        f"v.json: clips.{A}.verdict",
        f"v.json: clips.{A}.stars",
        'v.json: clips."short"',
        f"v.json: clips.{B}",
        "v.json: folder",
        "v.json: exported_at",
    ]


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ([], "v.json"),
        ({"jobs": []}, "v.json"),
        (content() | {"verdicts": "1"}, "v.json: verdicts"),
        (content() | {"verdicts": True}, "v.json: verdicts"),
        (content() | {"verdicts": None}, "v.json: verdicts"),
        (content() | {"clips": []}, "v.json: clips"),
        (content() | {"clips": None}, "v.json: clips"),
    ],
)
def test_another_kind_of_file_is_refused(given: object, place: str) -> None:
    assert list(problems(given)) == [place]


def test_a_newer_version_says_to_update() -> None:
    assert "update" in problems(content() | {"verdicts": 2})["v.json: verdicts"]


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b'{"verdicts": 1,\n  oops}', "v.json:2:3"),
        (b"", "v.json:1:1"),
        (b'{"verdicts": "\xff"}', "v.json"),
        (b"[" * 100_000, "v.json"),
        (b'{"verdicts": ' + b"1" * 5000 + b"}", "v.json"),
    ],
    ids=["text", "empty", "not UTF-8", "nested", "a long number"],
)
def test_what_is_not_json_is_refused_at_its_line(data: bytes, place: str) -> None:
    with pytest.raises(InvalidBatch) as caught:
        parse(data, "v.json")
    assert [problem.where for problem in caught.value.problems] == [place]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidBatch, match=r"none\.json: there is no such file"):
        read(tmp_path / "none.json")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises((InvalidBatch, Unusable), match=tmp_path.name):  # Windows has another error for it
        read(tmp_path)


def test_a_file_of_any_size_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "verdicts.json"
    path.write_text(json.dumps(content()))
    monkeypatch.setattr(verdicts, "SIZE_LIMIT", path.stat().st_size)
    assert read(path).clips
    monkeypatch.setattr(verdicts, "SIZE_LIMIT", path.stat().st_size - 1)
    with pytest.raises(InvalidBatch, match="more than"):
        read(path)


def test_of_several_verdicts_about_a_clip_the_newest_counts() -> None:
    old, new = Verdict("pick", 5, "", "a.mp4", 1.0), Verdict("reject", None, "", "a.mp4", 2.0)
    other = Verdict(None, 3, "", "b.mp4", 0.5)
    first, second = Verdicts("one", 10.0, {A: new}), Verdicts("two", 20.0, {A: old, B: other})
    assert merge([first, second]) == Verdicts("two", 20.0, {A: new, B: other})
    assert merge([second, first]).clips == {A: new, B: other}


def test_of_equally_old_verdicts_the_last_counts() -> None:
    one, two = Verdict("pick", None, "", "", 1.0), Verdict("reject", None, "", "", 1.0)
    assert merge([Verdicts(clips={A: one}), Verdicts(clips={A: two})]).clips == {A: two}


def test_a_verdict_that_was_taken_back_wins_over_an_older_one() -> None:
    taken_back = Verdict(None, None, "", "a.mp4", 2.0)
    merged = merge([Verdicts(clips={A: taken_back}), Verdicts(clips={A: Verdict("pick", 5, "", "a.mp4", 1.0)})])
    assert merged.clips[A] == taken_back


def test_nothing_merged_is_empty() -> None:
    assert merge([]) == Verdicts()
