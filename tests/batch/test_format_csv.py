from __future__ import annotations

import pytest
from batch_texts import opened, problems, spot, values


def test_a_place_is_a_line_and_the_name_of_a_column() -> None:
    cells = 'id,prompt,seed\n"a\nb",x,\n\nc, "d ""e""",7\n'
    assert spot("csv", cells, ("prompt",)) == (2, "prompt")
    assert spot("csv", cells, ("seed",)) == (2, "")
    assert spot("csv", cells, ("seed",), 1) == (5, "seed")
    assert spot("csv", cells, (), 1) == (5, "")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_delimiter_of_the_header_is_that_of_all_rows(separator: str) -> None:
    text = 'id|prompt|seed\na|"x, y; z"|7\nb|it\'s "so"|\n||\nc|"a | ""\n\n"""|\n'.replace("|", separator)
    assert values("csv", text) == [
        {"id": "a", "prompt": "x, y; z", "seed": "7"},
        {"id": "b", "prompt": 'it\'s "so"'},
        {"id": "c", "prompt": f'a {separator} "\n\n"'},
    ]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("\n\r\nid;prompt\na;x, y, z\n", [{"id": "a", "prompt": "x, y, z"}]),
        ("prompt\nx; y; z", [{"prompt": "x; y; z"}]),
        ("\tid\nx\ta", [{"id": "a"}]),
        ('id , prompt\n  a  ,  " x "\n', [{"id": "a", "prompt": "x"}]),
        (",id,prompt,\n0,a,x,\n1,b,\n,,,,,,\n", [{"id": "a", "prompt": "x"}, {"id": "b"}]),
        ("id,prompt\na,", [{"id": "a"}]),
        ("id,prompt\n,", []),
        ("inputImageUrl,prompt\na.png,x", [{"inputImageUrl": "a.png", "prompt": "x"}]),
        ("prompt;id\rx, a, b;1", [{"prompt": "x, a, b", "id": "1"}]),
    ],
)  # fmt: skip
def test_blank_lines_spaces_and_empty_columns_are_tolerated(text: str, rows: list[dict[str, str]]) -> None:
    assert values("csv", text) == rows


@pytest.mark.parametrize(
    ("text", "place", "facts"),
    [
        ("id,promt\na,x", "b:1:promt", ['"promt"', '"prompt"']),
        ("id,matrix\na,x", "b:1:matrix", ["matrix can't be written in CSV"]),
        ("id,pr\x1bompt\na,x", "b:1:pr\\x1bompt", ['did you mean "prompt"?']),
        ("id,prompt,id\na,x,b", "b:1:id", ['two columns "id"']),
        ("id,prompt\na,x,y", "b:2", ["2 columns", "3 cells", "double quotes"]),
        ("id,prompt\na,x,", "b:2", ["2 columns", "3 cells", "double quotes"]),
        ("id,prompt\na", "b:2", ["2 columns", "1 cells", "double quotes"]),
        ("prompt,,seed\na,b,1", "b:2", ["doesn't name", "double quotes"]),
        ('prompt\n"x', "b:2", ["isn't closed"]),
        ('prompt\n\n"x\n\n', "b:3", ["isn't closed"]),
        ('prompt\n "x', "b:2", ["isn't closed"]),
        ('prompt\n"x" y', "b:2", ["follows a closing quotation mark"]),
        ('id,prompt\na, "b, c" d', "b:2", ["follows a closing quotation mark"]),
    ],
)
def test_csv_problems_are_reported_with_their_places(text: str, place: str, facts: list[str]) -> None:
    (problem,) = problems("csv", text)
    assert problem.startswith(f"{place}: ")
    assert all(fact in problem for fact in facts)


def test_a_row_with_too_many_cells_does_not_hide_other_rows() -> None:
    syntax, report = opened("csv", "id\na\nb,c\nd")
    assert [row and row.values for row in syntax.rows()] == [{"id": "a"}, None, {"id": "d"}]
    assert not report.is_empty


def test_an_unclosed_quote_in_a_large_text_is_one_problem() -> None:
    assert len(problems("csv", 'prompt\n"' + '""' * 500_000)) == 1
