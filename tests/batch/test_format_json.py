from __future__ import annotations

import pytest
from batch_texts import opened, problems, spot, values

from wan_async.batch.syntax import NESTING_LIMIT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "b:1:1: not JSON: expecting value"),
        ("  \n ", "b:2:2: not JSON: expecting value"),
        ('{"jobs": [\n{"prompt" "x"}]}', "b:2:11: not JSON: expecting ':' delimiter"),
        ('[{"prompt": "a\tb"}]', "b:1:15: not JSON: invalid control character at"),
        ('[{"prompt": "x"', "b:1:16: not JSON: expecting ',' delimiter"),
        ("[] x", "b:1:4: not JSON: more text follows the end of the value"),
        ("[]\n[]", "b:2:1: not JSON: more text follows the end of the value"),
        ("5", "b:1:1: a batch is a mapping or a list of jobs, not 5"),
        ("null", "b:1:1: a batch is a mapping or a list of jobs, not nothing"),
        ("[" * 100_000, "b:1:1: is nested too deeply for a batch"),
        ("[" * 500 + '{"a": 1, "a": 2}' + "]" * 500, "b:1:21: is nested too deeply for a batch"),
        ("[" + "9" * 5000 + "]", "b:1:1: holds a number of thousands of digits"),
        ('[{"prompt": "x",\n "prompt": "y"}]', 'b:2:2: "prompt" is given twice'),
        ('[{"a": 1, "\\u0061": 2}]', 'b:1:11: "a" is given twice'),
        ('[{"prompt": "x", "matrix": {"seed": [1],"seed": [2]}}]', 'b:1:41: "seed" is given twice'),
    ],
)
def test_json_problems_are_reported_with_their_places(text: str, message: str) -> None:
    assert problems("json", text) == [message]


def test_deep_json_is_accepted_unless_a_place_must_be_found_in_it() -> None:
    assert problems("json", "[" * 500 + "]" * 500) == []
    deep = '{"a": ' * (NESTING_LIMIT - 1)
    assert problems("json", f'[{deep}{{"b": 1, "b": 2}}{"}" * (NESTING_LIMIT - 1)}]')[0].endswith(
        "nested too deeply for a batch"
    )
    deep = '{"a": ' * (NESTING_LIMIT - 2)
    assert problems("json", f'[{deep}{{"b": 1, "b": 2}}{"}" * (NESTING_LIMIT - 2)}]')[0].endswith("is given twice")


def test_json_values_keep_their_types() -> None:
    text = '[{"a": [1, 2.5, true, null, "\\u00e9\\ud83d\\ude00"], "b": {}}, 7, "x", []]'
    assert values("json", text) == [{"a": [1, 2.5, True, None, "é😀"], "b": {}}, 7, "x", []]


def test_the_last_of_duplicate_keys_gives_the_value_and_the_place() -> None:
    syntax, report = opened("json", '{"jobs": [1], "jobs": [{"a": 1, "a": 2}]}')
    (row,) = [row for row in syntax.rows() if row is not None]
    assert (row.values, syntax.spot(row, ("a",))) == ({"a": 2}, (1, 38))
    assert not report.is_empty


def test_a_malformed_json_line_does_not_hide_other_lines() -> None:
    text = '{"id": 1}\n{"id": \n[\n{"id": 2} {}\n 5\n{"id": 1, "id": 2}\n{"a": {"b": 1, "b": 2}} x\n{"id": 3}'
    assert problems("jsonl", text) == [
        "b:2:8: not JSON: expecting value",
        "b:3:2: not JSON: expecting value",
        "b:4:11: not JSON: more text follows the end of the value",
        'b:6:11: "id" is given twice',
        "b:7:25: not JSON: more text follows the end of the value",
    ]
    syntax, _ = opened("jsonl", text)
    assert [row and row.values for row in syntax.rows()] == [{"id": 1}, None, None, None, 5, {"id": 2}, None, {"id": 3}]


def test_a_malformed_line_does_not_affect_the_next() -> None:
    (problem,) = problems("jsonl", '{"a": {"b": 1, "b": 2}, }\n' + "[" * 50 + "]" * 50)
    assert problem.startswith("b:1:")


def test_a_value_in_a_json_line_has_its_own_line_and_column() -> None:
    lines = '\n{"id": "a"}\r\n  {"id": "b", "matrix": {"seed": [1, 2]}}\n'
    assert spot("jsonl", lines, (), 1) == (3, 3)
    assert spot("jsonl", lines, ("matrix", "seed", 1), 1) == (3, 38)
