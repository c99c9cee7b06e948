from __future__ import annotations

import json

import pytest
import yaml
from batch_texts import KINDS, opened, problems, rows_of, spot, values
from hypothesis import example, given
from hypothesis import strategies as st

from wan_async.batch.syntax import Images, Kind, Path, Report, Spot, Stop, Syntax
from wan_async.errors import InvalidBatch


def test_a_report_gives_all_problems_in_the_order_of_the_text() -> None:
    report = Report("b")
    assert report.is_empty
    report.check()
    report.add((2, 1), "later")
    report.add((1, 9), "sooner", where="x.png")
    report.add((2, 1), "later too")
    with pytest.raises(Stop):
        report.stop((1, 10), "between")
    assert not report.is_empty
    with pytest.raises(InvalidBatch) as caught:
        report.check()
    messages = [str(problem) for problem in caught.value.problems]
    assert messages == ["x.png: sooner", "b:1:10: between", "b:2:1: later", "b:2:1: later too"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("yaml", "- prompt: x\n  seed: '7'\n- prompt: y"),
        ("yaml", "jobs:\n- {prompt: x, seed: '7'}\n- prompt: y\n"),
        ("json", '[{"prompt": "x", "seed": "7"}, {"prompt": "y"}]'),
        ("json", '{"output": "o", "jobs": [{"prompt": "x", "seed": "7"}, {"prompt": "y"}]}'),
        ("jsonl", '{"prompt": "x", "seed": "7"}\n{"prompt": "y"}'),
        ("csv", "prompt,seed\nx,7\ny,\n"),
    ],
)
def test_every_syntax_yields_the_same_rows(kind: Kind, text: str) -> None:
    assert values(kind, text) == [{"prompt": "x", "seed": "7"}, {"prompt": "y"}]


@pytest.mark.parametrize("kind", KINDS)
def test_line_ends_of_any_system_are_accepted(kind: Kind) -> None:
    text = {
        "yaml": "- prompt: x\n- prompt: y\n",
        "json": '[{"prompt": "x"},\n{"prompt": "y"}]\n',
        "jsonl": '{"prompt": "x"}\n\n{"prompt": "y"}\n',
        "csv": "prompt\nx\n\ny\n",
    }[kind]
    unix, windows = rows_of(kind, text), rows_of(kind, text.replace("\n", "\r\n"))
    assert [(row.values, row.spot) for row in unix] == [(row.values, row.spot) for row in windows]
    assert [row.values for row in unix] == [{"prompt": "x"}, {"prompt": "y"}]


@pytest.mark.parametrize("kind", ["yaml", "csv"])
def test_a_lone_carriage_return_ends_a_line(kind: Kind) -> None:
    text = {"yaml": "- prompt: x\r- prompt: y", "csv": "prompt;id\rx, a;1\ry, b, c;2"}[kind]
    assert [row.spot for row in rows_of(kind, text)] == {"yaml": [(1, 3), (2, 3)], "csv": [(2, ""), (3, "")]}[kind]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("yaml", "jobs: []"),
        ("yaml", "output: x"),
        ("yaml", "jobs: {a: b}"),
        ("yaml", "[]"),
        ("json", '{"jobs": []}'),
        ("json", '{"output": "x"}'),
        ("json", '{"jobs": {"a": 1}}'),
        ("json", "[]"),
        ("jsonl", ""),
        ("jsonl", " \n\t\r\n"),
        ("csv", ""),
        ("csv", "prompt"),
        ("csv", "\n\n"),
    ],
)
def test_a_text_without_jobs_has_no_rows(kind: Kind, text: str) -> None:
    assert rows_of(kind, text) == []


def test_only_a_yaml_or_json_mapping_has_an_envelope() -> None:
    mappings: list[tuple[Kind, str]] = [
        ("yaml", " {output: o, jobs: []}"),
        ("json", '\n {"output": "o", "jobs": []}'),
    ]
    for kind, text in mappings:
        syntax, _ = opened(kind, text)
        row = syntax.envelope()
        assert row is not None
        assert row.values == {"output": "o", "jobs": []}
        assert syntax.spot(row, ("output",)) == ((1, 11) if kind == "yaml" else (2, 13))
    lists: list[tuple[Kind, str]] = [("yaml", "- a"), ("json", "[]"), ("jsonl", "{}"), ("csv", "prompt\nx")]
    for kind, text in lists:
        assert opened(kind, text)[0].envelope() is None


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cc", "Cn", "Co"]), min_size=1))
@example("null")
@example("a: b # c")
@example("{caption")
@example("\u2028 x")
@example("&a *b !c |d >e %f @g `h")
def test_any_text_survives_a_round_trip(text: str) -> None:
    assert values("yaml", yaml.safe_dump([{"prompt": text}], allow_unicode=True)) == [{"prompt": text}]
    assert values("json", json.dumps([{"prompt": text}])) == [{"prompt": text}]
    assert values("jsonl", json.dumps({"prompt": text}, ensure_ascii=False)) == [{"prompt": text}]
    if text.strip():
        assert values("csv", 'prompt\n"' + text.replace('"', '""') + '"') == [{"prompt": text.strip()}]


PLACES = '[ {"id": "é😀",\n  "matrix" : {"seed": [1,\n 22 , [3]], "x": {}} } ]'


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((), (1, 3)),
        (("id",), (1, 10)),
        (("matrix",), (2, 14)),
        (("matrix", "seed"), (2, 23)),
        (("matrix", "seed", 0), (2, 24)),
        (("matrix", "seed", 1), (3, 2)),
        (("matrix", "seed", 2, 0), (3, 8)),
        (("matrix", "x"), (3, 18)),
        (("nonesuch",), (1, 3)),
        (("nonesuch", "id"), (1, 3)),
        (("id", 0), (1, 10)),
        (("id", "id"), (1, 10)),
        (("matrix", "seed", 9), (2, 23)),
        (("matrix", "seed", "x"), (2, 23)),
        (("matrix", 0), (2, 14)),
        (("matrix", "x", "y"), (3, 18)),
    ],
)
@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_the_place_of_a_value_falls_back_to_the_nearest_enclosing_value(kind: Kind, path: Path, place: Spot) -> None:
    assert spot(kind, PLACES, path) == place


def test_images_of_a_folder_are_rows_with_their_paths_as_places() -> None:
    images: Syntax = Images(["x/a.png", "x/b.png"], "image")
    assert images.envelope() is None
    rows = [row for row in images.rows() if row is not None]
    assert [(row.values, row.spot, row.where) for row in rows] == [
        ({"image": "x/a.png"}, (1, 1), "x/a.png"),
        ({"image": "x/b.png"}, (2, 1), "x/b.png"),
    ]
    assert images.spot(rows[1], ("image",)) == (2, 1)


@given(
    st.text(alphabet="abc:-[]{}\",\n \t\r&*!|>#x1'\\/;\u2028\x85é😀\x00\ud800<~", max_size=40),
    st.sampled_from(KINDS),
    st.booleans(),
)
@example("- a\u2028\x85b: !x\n", "yaml", True)
def test_any_text_is_read_or_refused_at_existing_places(text: str, kind: Kind, c_loader: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not c_loader:
            patch.delattr(yaml, "CSafeLoader")
        found = problems(kind, text)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for problem in found:
        place = problem.split(": ", 1)[0].split(":")
        assert 1 <= int(place[1]) <= len(lines)
        if kind != "csv":
            assert 1 <= int(place[2]) <= len(lines[int(place[1]) - 1]) + 2
