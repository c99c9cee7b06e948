from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from wan_async.batch import format_yaml
from wan_async.batch.formats import SYNTAXES
from wan_async.batch.syntax import NESTING_LIMIT, Images, Kind, Path, Report, Row, Spot, Stop, Syntax
from wan_async.errors import InvalidBatch

KINDS: list[Kind] = ["yaml", "json", "jsonl", "csv"]


def opened(kind: Kind, text: str) -> tuple[Syntax, Report]:
    report = Report("b")
    return SYNTAXES[kind](text, report), report


def rows_of(kind: Kind, text: str) -> list[Row]:
    """The rows of a text without faults."""
    syntax, report = opened(kind, text)
    syntax.envelope()
    rows = [row for row in syntax.rows() if row is not None]
    report.check()
    return rows


def values(kind: Kind, text: str) -> list[Any]:
    return [row.values for row in rows_of(kind, text)]


def spot(kind: Kind, text: str, path: Path, number: int = 0) -> Spot:
    syntax, _ = opened(kind, text)
    row = [row for row in syntax.rows() if row is not None][number]
    return syntax.spot(row, path)


def problems(kind: Kind, text: str) -> list[str]:
    report = Report("b")
    try:
        syntax = SYNTAXES[kind](text, report)
        syntax.envelope()
        list(syntax.rows())
    except Stop:
        assert not report.is_empty, "it stopped and does not say why"
    if report.is_empty:
        return []
    with pytest.raises(InvalidBatch) as caught:
        report.check()
    return [str(problem) for problem in caught.value.problems]


@pytest.fixture(params=["in C", "in Python"])
def either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in Python":
        monkeypatch.delattr(yaml, "CSafeLoader")


def test_a_report_tells_all_problems_in_the_order_of_the_text() -> None:
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
    told = [str(problem) for problem in caught.value.problems]
    assert told == ["x.png: sooner", "b:1:10: between", "b:2:1: later", "b:2:1: later too"]


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
def test_lines_may_end_as_on_any_system(kind: Kind) -> None:
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
def test_lines_that_end_in_carriage_returns_alone_are_lines(kind: Kind) -> None:
    text = {"yaml": "- prompt: x\r- prompt: y", "csv": "prompt;id\rx, a;1\ry, b, c;2"}[kind]
    assert [row.spot for row in rows_of(kind, text)] == {"yaml": [(1, 3), (2, 3)], "csv": [(2, 1), (3, 1)]}[kind]
    assert values("csv", "prompt;id\rx, a, b;1") == [{"prompt": "x, a, b", "id": "1"}]


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


def test_only_a_document_with_something_around_its_jobs_has_an_envelope() -> None:
    for kind, text in (("yaml", " {output: o, jobs: []}"), ("json", '\n {"output": "o", "jobs": []}')):
        syntax, _ = opened(kind, text)  # type: ignore[arg-type] # both are kinds
        row = syntax.envelope()
        assert row is not None
        assert row.values == {"output": "o", "jobs": []}
        assert syntax.spot(row, ("output",)) == ((1, 11) if kind == "yaml" else (2, 13))
    for kind, text in (("yaml", "- a"), ("json", "[]"), ("jsonl", "{}"), ("csv", "prompt\nx")):
        assert opened(kind, text)[0].envelope() is None  # type: ignore[arg-type] # all are kinds


@pytest.mark.parametrize(
    "text",
    ["no", "Yes", "on", "off", "=", "2024-01-01", "1e3", ".inf", ".NaN", "0o17", "0x1f", "1_000", "042", "12:30:45",
     "16:9", "true", "y", "1.0", "+5", "0b1", "190:20:30", "!", "<"],
)  # fmt: skip
def test_yaml_scalars_stay_the_text_that_they_are(text: str) -> None:
    shown = f"'{text}'" if text == "!" else text
    assert values("yaml", f"- {{prompt: {shown}}}") == [{"prompt": text}]
    assert values("yaml", f"- prompt: {shown}\n  {shown}: x") == [{"prompt": text, text: "x"}]


@pytest.mark.parametrize("nothing", ["", "~", "null", "Null", "NULL"])
def test_nothing_is_nothing_only_where_it_is_not_quoted(nothing: str) -> None:
    assert values("yaml", f"- prompt: {nothing}") == [{"prompt": None}]
    assert values("yaml", f"- prompt: '{nothing}'\n- prompt: !!str {nothing}") == [{"prompt": nothing}] * 2


def test_a_key_is_text_even_where_it_looks_like_nothing() -> None:
    assert values("yaml", "- {~: x, null: y, '': z}") == [{"~": "x", "null": "y", "": "z"}]


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cc", "Cn", "Co"]), min_size=1))
@example("null")
@example("a: b # c")
@example("{caption")
@example("\u2028 x")
@example("&a *b !c |d >e %f @g `h")
def test_text_in_is_text_out(text: str) -> None:
    assert values("yaml", yaml.safe_dump([{"prompt": text}], allow_unicode=True)) == [{"prompt": text}]
    assert values("json", json.dumps([{"prompt": text}])) == [{"prompt": text}]
    assert values("jsonl", json.dumps({"prompt": text}, ensure_ascii=False)) == [{"prompt": text}]
    if text.strip():
        assert values("csv", 'prompt\n"' + text.replace('"', '""') + '"') == [{"prompt": text}]


@pytest.mark.usefixtures("either_parser")
def test_yaml_texts_over_several_lines_are_read_as_yaml_says() -> None:
    text = "- prompt: |\n    a\n    b\n- prompt: >-\n    a\n    b\n- prompt: a\n    b\n"
    text += "- prompt: 'it''s'\n- prompt: \"\\u00e9\\n\""
    assert [row["prompt"] for row in values("yaml", text)] == ["a\nb\n", "a b", "a b", "it's", "é\n"]


@pytest.mark.usefixtures("either_parser")
def test_yaml_anchors_aliases_and_merges_work_without_copies() -> None:
    text = """
- &base {prompt: x, seed: 1, tags: [a, b]}
- {<<: *base, seed: 2}
- <<: [{seed: 3}, *base]
- {prompt: *p}
""".replace("{prompt: x", "{prompt: &p x")
    rows = values("yaml", text)
    assert rows == [
        {"prompt": "x", "seed": "1", "tags": ["a", "b"]},
        {"prompt": "x", "seed": "2", "tags": ["a", "b"]},
        {"prompt": "x", "seed": "3", "tags": ["a", "b"]},
        {"prompt": "x"},
    ]
    assert rows[0]["tags"] is rows[1]["tags"] is rows[2]["tags"]
    assert values("yaml", "- {'<<': x, <: y}") == [{"<<": "x", "<": "y"}]


def test_the_latest_anchor_of_a_name_counts() -> None:
    assert values("yaml", "- &a {id: &b x}\n- &a {id: y}\n- *a\n- id: *b") == [{"id": name} for name in "xyyx"]


def test_an_alias_of_a_text_may_be_a_key() -> None:
    assert values("yaml", "- {&k id: *k }\n- {*k : b}\n- {&n ~: c}") == [{"id": "id"}, {"id": "b"}, {"~": "c"}]
    assert problems("yaml", "- &m {id: x}\n- {*m : b}") == ["b:2:4: a key must be text, not a mapping"]


def test_what_a_merge_brings_is_found_where_it_was_written() -> None:
    text = "- &base {prompt: x, seed: 1}\n- {seed: 2, <<: *base}\n"
    assert spot("yaml", text, ("seed",), 1) == (2, 10)
    assert spot("yaml", text, ("prompt",), 1) == (1, 18)


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "b:1:1: there are no jobs in it"),
        ("# nothing\n", "b:1:1: there are no jobs in it"),
        ("x", 'b:1:1: a batch is a mapping or a list of jobs, not "x"'),
        ("\n  ~", "b:2:3: a batch is a mapping or a list of jobs, not nothing"),
        ("---\n", "b:2:1: a batch is a mapping or a list of jobs, not nothing"),
        ("- prompt: x\n---\n- prompt: y", "b:2:1: a second document begins here; a batch is one"),
        ("- prompt: x\n  prompt: y", 'b:2:3: "prompt" stands here twice'),
        ("- prompt: x\n  'prompt': y", 'b:2:3: "prompt" stands here twice'),
        ("- prompt: x\n  {a: b}: y", "b:2:3: a key must be text, not a mapping"),
        ("- ? [a]\n  : y", "b:1:5: a key must be text, not a list"),
        ("- prompt: !!binary x", 'b:1:11: tags such as "!!binary" have no meaning in a batch'),
        ("- !!python/tuple [a]", 'b:1:3: tags such as "!!python/tuple" have no meaning in a batch'),
        ("- !thing {prompt: x}", 'b:1:3: tags such as "!thing" have no meaning in a batch'),
        ("- prompt: *bold", "b:1:11: no &bold stands before *bold (a text that begins with * needs quotes)"),
        ("- &a [*a]", "b:1:7: no &a stands before *a (a text that begins with * needs quotes)"),
        ("- {prompt: x, <<: y}", 'b:1:15: << takes in a mapping or a list of them, not "y"'),
        ("- {prompt: x, <<: [y]}", 'b:1:15: << takes in a mapping or a list of them, not "y"'),
        ("[" * 21 + "]" * 21, "b:1:21: is nested too deep to be a batch"),
        ("{a: " * 21 + "}" * 21, "b:1:81: is nested too deep to be a batch"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_yaml_is_told_with_its_place(text: str, told: str) -> None:
    assert problems("yaml", text) == [told]


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- prompt: *bold* move", "b:1:16: not YAML: "),
        ("- prompt: {caption}, slow", "b:1:20: not YAML: "),
        ("- prompt: a: b", "b:1:12: not YAML: mapping values are not allowed"),
        ("- prompt: x\n\tseed: 1", "b:2:1: not YAML: "),
        ("- prompt: @home", "b:1:11: not YAML: "),
        ("- prompt: 50% off\n- %x", "b:2:3: not YAML: "),
        ('- "a', "b:1:5: not YAML: "),
        ("- [a", "b:1:5: not YAML: "),
        ("%YAML 3.0\n---\na", "b:1:1: not YAML: found incompatible YAML document"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_place_and_what_helps(text: str, told: str) -> None:
    (problem,) = problems("yaml", text)
    assert problem.startswith(told)
    assert problem.endswith("need quotes)")


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize("char", ["\x00", "\x07", "\x7f", "\x9f", "\ufffe", "\ud800"])
def test_a_character_that_yaml_forbids_is_told_with_its_place(char: str) -> None:
    assert problems("yaml", f"- prompt: x\n- a{char}b") == [f"b:2:4: not YAML: it holds the character {char!a}"]


@pytest.mark.usefixtures("either_parser")
def test_whatever_yaml_takes_for_the_end_of_a_line_places_are_those_of_an_editor() -> None:
    text = "- prompt: 'a\u2028b\x85c\u2029d'\n- 😀: !x y\n- é: 'a: b'"
    assert problems("yaml", text) == ['b:2:6: tags such as "!x" have no meaning in a batch']
    assert spot("yaml", "- prompt: 'a\u2028b'\n- 😀: x\n- é: 'a: b'", ("é",), 2) == (3, 6)


@pytest.mark.usefixtures("either_parser")
def test_a_billion_laughs_are_refused_at_once() -> None:
    lines = ["jobs: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"k{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 12)]
    tracemalloc.start()
    try:
        (problem,) = problems("yaml", "\n".join(lines))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert problem.endswith("aliases stand for more than 10,000,000 values")


def test_merges_count_as_what_they_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_yaml, "ALIAS_LIMIT", 15)
    base = "- &a {a: b, c: d}\n"
    assert problems("yaml", base + "- {<<: *a}\n" * 3) == []
    assert problems("yaml", base + "- {<<: *a}\n" * 4) == ["b:5:8: aliases stand for more than 15 values"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "b:1:1: not JSON: expecting value"),
        ("  \n ", "b:2:2: not JSON: expecting value"),
        ('{"jobs": [\n{"prompt" "x"}]}', "b:2:11: not JSON: expecting ':' delimiter"),
        ('[{"prompt": "a\tb"}]', "b:1:15: not JSON: invalid control character at"),
        ('[{"prompt": "x"', "b:1:16: not JSON: expecting ',' delimiter"),
        ("[] x", "b:1:4: not JSON: there is more after the end of the value"),
        ("[]\n[]", "b:2:1: not JSON: there is more after the end of the value"),
        ("5", "b:1:1: a batch is a mapping or a list of jobs, not 5"),
        ("null", "b:1:1: a batch is a mapping or a list of jobs, not nothing"),
        ("[" * 100_000, "b:1:1: is nested too deep to be a batch"),
        ("[" * 500 + '{"a": 1, "a": 2}' + "]" * 500, "b:1:21: is nested too deep to be a batch"),
        ("[" + "9" * 5000 + "]", "b:1:1: holds a number of thousands of digits"),
        ('[{"prompt": "x",\n "prompt": "y"}]', 'b:2:2: "prompt" stands here twice'),
        ('[{"a": 1, "\\u0061": 2}]', 'b:1:11: "a" stands here twice'),
        ('[{"prompt": "x", "matrix": {"seed": [1],"seed": [2]}}]', 'b:1:41: "seed" stands here twice'),
    ],
)
def test_what_is_wrong_with_json_is_told_with_its_place(text: str, told: str) -> None:
    assert problems("json", text) == [told]


def test_deep_json_is_fine_where_nothing_has_to_be_looked_for_in_it() -> None:
    assert problems("json", "[" * 500 + "]" * 500) == []
    deep = '{"a": ' * (NESTING_LIMIT - 1)
    assert problems("json", f'[{deep}{{"b": 1, "b": 2}}{"}" * (NESTING_LIMIT - 1)}]')[0].endswith(
        "nested too deep to be a batch"
    )
    deep = '{"a": ' * (NESTING_LIMIT - 2)
    assert problems("json", f'[{deep}{{"b": 1, "b": 2}}{"}" * (NESTING_LIMIT - 2)}]')[0].endswith("stands here twice")


def test_json_keeps_what_its_values_are() -> None:
    text = '[{"a": [1, 2.5, true, null, "\\u00e9\\ud83d\\ude00"], "b": {}}, 7, "x", []]'
    assert values("json", text) == [{"a": [1, 2.5, True, None, "é😀"], "b": {}}, 7, "x", []]


def test_of_equal_keys_the_last_one_counts_and_is_found() -> None:
    syntax, report = opened("json", '{"jobs": [1], "jobs": [{"a": 1, "a": 2}]}')
    (row,) = [row for row in syntax.rows() if row is not None]
    assert (row.values, syntax.spot(row, ("a",))) == ({"a": 2}, (1, 38))
    assert not report.is_empty


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
def test_the_place_of_a_value_is_its_own_or_that_of_the_nearest_thing_around_it(
    kind: Kind, path: Path, place: Spot
) -> None:
    assert spot(kind, PLACES, path) == place


def test_the_place_of_a_value_in_a_line_or_a_cell_is_its_own() -> None:
    lines = '\n{"id": "a"}\r\n  {"id": "b", "matrix": {"seed": [1, 2]}}\n'
    assert spot("jsonl", lines, (), 1) == (3, 3)
    assert spot("jsonl", lines, ("matrix", "seed", 1), 1) == (3, 38)
    cells = 'id,prompt,seed\n"a\nb",x,\n\nc, "d ""e""",7\n'
    assert spot("csv", cells, ("prompt",)) == (3, 4)
    assert spot("csv", cells, ("seed",)) == (2, 1)
    assert spot("csv", cells, ("seed",), 1) == (5, 14)
    assert spot("csv", cells, (), 1) == (5, 1)


def test_a_bad_json_line_hides_no_other() -> None:
    text = '{"id": 1}\n{"id": \n[\n{"id": 2} {}\n 5\n{"id": 1, "id": 2}\n{"a": {"b": 1, "b": 2}} x\n{"id": 3}'
    assert problems("jsonl", text) == [
        "b:2:8: not JSON: expecting value",
        "b:3:2: not JSON: expecting value",
        "b:4:11: not JSON: there is more after the end of the value",
        'b:6:11: "id" stands here twice',
        "b:7:25: not JSON: there is more after the end of the value",
    ]
    syntax, _ = opened("jsonl", text)
    assert [row and row.values for row in syntax.rows()] == [{"id": 1}, None, None, None, 5, {"id": 2}, None, {"id": 3}]


def test_a_bad_line_leaves_no_suspicion_on_the_next() -> None:
    (problem,) = problems("jsonl", '{"a": {"b": 1, "b": 2}, }\n' + "[" * 50 + "]" * 50)
    assert problem.startswith("b:1:")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_cells_are_separated_as_the_header_is(separator: str) -> None:
    text = 'id|prompt|seed\na|"x, y; z"|7\nb|it\'s "so"|\n||\nc|" | ""\n"|\n'.replace("|", separator)
    assert values("csv", text) == [
        {"id": "a", "prompt": "x, y; z", "seed": "7"},
        {"id": "b", "prompt": 'it\'s "so"'},
        {"id": "c", "prompt": f' {separator} "\n'},
    ]


def test_the_separator_is_looked_for_in_the_first_line_that_says_something() -> None:
    assert values("csv", "\n\r\nid;prompt\na;x, y, z\n") == [{"id": "a", "prompt": "x, y, z"}]
    assert values("csv", "prompt\nx; y; z") == [{"prompt": "x; y; z"}]
    assert values("csv", "\tid\nx\ta") == [{"id": "a"}]


def test_blanks_around_a_cell_go_and_those_in_quotes_stay() -> None:
    assert values("csv", 'id , prompt\n  a  ,  " x "  \n') == [{"id": "a", "prompt": " x "}]


def test_an_index_without_a_name_and_empty_cells_behind_the_last_name_are_left_out() -> None:
    assert values("csv", ",id,prompt,\n0,a,x,\n1,b,\n2,c,y\n,,,,,,\n") == [
        {"id": "a", "prompt": "x"},
        {"id": "b"},
        {"id": "c", "prompt": "y"},
    ]


def test_a_text_may_end_behind_a_separator() -> None:
    assert values("csv", "id,prompt\na,") == [{"id": "a"}]
    assert values("csv", "id,prompt\n,") == []


def test_the_wires_own_names_are_columns_too() -> None:
    assert values("csv", "inputImageUrl,prompt\na.png,x") == [{"inputImageUrl": "a.png", "prompt": "x"}]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('id,promt\na,x', 'b:1:4: unknown column "promt" (did you mean "prompt"?)'),
        ("id,matrix\na,x", "b:1:4: unknown column \"matrix\" (a matrix can't be written in CSV)"),
        ("id,prompt,id\na,x,b", 'b:1:11: the column "id" stands here twice'),
        ("id,prompt\na,x,y", "b:2:5: the header has 2 columns, this row 3 cells: quote texts that hold commas"),
        ("id,prompt\na,x,", "b:2:5: the header has 2 columns, this row 3 cells: quote texts that hold commas"),
        ("id,prompt\na", "b:2:1: the header has 2 columns, this row 1 cells: quote texts that hold commas"),
        ("prompt,,seed\na,b,1", "b:2:3: the header has 3 columns, this row 3 cells: quote texts that hold commas"),
        ('prompt\n"x', "b:2:1: a quoted cell has no end, or goes on behind its closing quote"),
        ('prompt\n"x" y', "b:2:1: a quoted cell has no end, or goes on behind its closing quote"),
        ('prompt\n "x', "b:2:1: a quoted cell has no end, or goes on behind its closing quote"),
        ('id,prompt\na, "b, c" d', "b:2:3: a quoted cell has no end, or goes on behind its closing quote"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_csv_is_told_with_its_place(text: str, told: str) -> None:
    assert problems("csv", text) == [told]


def test_a_line_with_too_many_cells_hides_no_other() -> None:
    syntax, report = opened("csv", "id\na\nb,c\nd")
    assert [row and row.values for row in syntax.rows()] == [{"id": "a"}, None, {"id": "d"}]
    assert not report.is_empty


def test_an_unclosed_quote_costs_no_more_than_a_look_at_the_text() -> None:
    assert len(problems("csv", 'prompt\n"' + '""' * 500_000)) == 1


def test_a_folders_images_are_rows_at_their_own_paths() -> None:
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
def test_whatever_the_text_it_is_read_or_refused_at_places_that_exist(text: str, kind: Kind, in_c: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not in_c:
            patch.delattr(yaml, "CSafeLoader")
        told = problems(kind, text)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for problem in told:
        _, line, column, _ = problem.split(":", 3)
        assert 1 <= int(line) <= len(lines)
        assert 1 <= int(column) <= len(lines[int(line) - 1]) + 2
