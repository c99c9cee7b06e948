"""The text of sidecars and of `results.jsonl`."""

from __future__ import annotations

import json

import pytest

from wan_async.outputs.base import numbered, sidecar_name
from wan_async.outputs.sidecar import json_lines, json_text


def test_it_is_readable_text_with_any_content() -> None:
    content = {"prompt": 'Überwältigend "schön" \u2028 🐈', "cost_usd": None, "odd": "half \ud800 of a pair"}
    text = "".join(json_text(content))
    assert "Überwältigend" in text
    assert text.startswith("{\n  ")
    assert text.endswith("}\n")
    assert json.loads(text) == content


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_each_row_is_one_line(count: int) -> None:
    rows = [{"job": f"j{number}", "error": "two\nlines"} for number in range(count)]
    lines = "".join(json_lines(rows)).split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == rows


def test_content_that_is_not_json_is_refused() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        json_text({"a": b"bytes"})


@pytest.mark.parametrize(
    ("name", "third", "sidecar"),
    [
        ("cat.mp4", "cat.3.mp4", "cat.json"),
        ("v1.2.mp4", "v1.2.3.mp4", "v1.2.json"),
        ("unassigned/task-7.mp4", "unassigned/task-7.3.mp4", "unassigned/task-7.json"),
    ],
)
def test_names_are_derived_from_that_of_the_clip(name: str, third: str, sidecar: str) -> None:
    assert (numbered(name, 3), sidecar_name(name)) == (third, sidecar)
