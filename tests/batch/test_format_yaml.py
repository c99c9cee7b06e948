from __future__ import annotations

import tracemalloc

import pytest
import yaml
from batch_texts import problems, spot, values

from wan_async.batch import format_yaml


@pytest.fixture(params=["in C", "in Python"])
def either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in Python":
        monkeypatch.delattr(yaml, "CSafeLoader")


@pytest.mark.parametrize(
    "text",
    ["no", "Yes", "on", "off", "=", "2024-01-01", "1e3", ".inf", ".NaN", "0o17", "0x1f", "1_000", "042", "12:30:45",
     "16:9", "true", "y", "1.0", "+5", "0b1", "190:20:30", "!", "<"],
)  # fmt: skip
def test_yaml_scalars_are_kept_as_text(text: str) -> None:
    shown = f"'{text}'" if text == "!" else text
    assert values("yaml", f"- {{prompt: {shown}}}") == [{"prompt": text}]
    assert values("yaml", f"- prompt: {shown}\n  {shown}: x") == [{"prompt": text, text: "x"}]


@pytest.mark.parametrize("nothing", ["", "~", "null", "Null", "NULL"])
def test_null_is_null_only_if_unquoted(nothing: str) -> None:
    assert values("yaml", f"- prompt: {nothing}") == [{"prompt": None}]
    assert values("yaml", f"- prompt: '{nothing}'\n- prompt: !!str {nothing}") == [{"prompt": nothing}] * 2


def test_a_key_is_text_even_if_it_looks_like_null() -> None:
    assert values("yaml", "- {~: x, null: y, '': z}") == [{"~": "x", "null": "y", "": "z"}]


@pytest.mark.usefixtures("either_parser")
def test_multi_line_texts_follow_the_rules_of_yaml() -> None:
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


def test_an_alias_of_a_text_may_be_a_key() -> None:
    assert values("yaml", "- {&k id: *k }\n- {*k : b}\n- {&n ~: c}") == [{"id": "id"}, {"id": "b"}, {"~": "c"}]
    assert problems("yaml", "- &m {id: x}\n- {*m : b}") == ["b:1:3: a key must be text, not a mapping"]


def test_a_merged_value_has_the_place_where_it_was_written() -> None:
    text = "- &base {prompt: x, seed: 1}\n- {seed: 2, <<: *base}\n"
    assert spot("yaml", text, ("seed",), 1) == (2, 10)
    assert spot("yaml", text, ("prompt",), 1) == (1, 18)


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "b:1:1: there are no jobs in it"),
        ("# nothing\n", "b:1:1: there are no jobs in it"),
        ("x", 'b:1:1: a batch is a mapping or a list of jobs, not "x"'),
        ("\n  ~", "b:2:3: a batch is a mapping or a list of jobs, not nothing"),
        ("---\n", "b:2:1: a batch is a mapping or a list of jobs, not nothing"),
        ("- prompt: x\n---\n- prompt: y", "b:2:1: a second document begins here; a batch is one document"),
        ("- prompt: x\n  prompt: y", 'b:2:3: "prompt" is given twice'),
        ("- prompt: x\n  'prompt': y", 'b:2:3: "prompt" is given twice'),
        ("- prompt: x\n  {a: b}: y", "b:2:3: a key must be text, not a mapping"),
        ("- ? [a]\n  : y", "b:1:5: a key must be text, not a list"),
        ("- prompt: !!binary x", 'b:1:11: tags such as "!!binary" have no meaning in a batch'),
        ("- !!python/tuple [a]", 'b:1:3: tags such as "!!python/tuple" have no meaning in a batch'),
        ("- !thing {prompt: x}", 'b:1:3: tags such as "!thing" have no meaning in a batch'),
        ("- prompt: *bold", "b:1:11: no &bold is defined before *bold (a text that begins with * needs quotes)"),
        ("- &a [*a]", "b:1:3: is nested too deeply for a batch"),
        ("- &a x\n- &a y", "b:2:3: this anchor's name is used already; give it another one"),
        ("- {prompt: x, <<: y}", 'b:1:15: << takes in a mapping or a list of them, not "y"'),
        ("- {prompt: x, <<: [y]}", 'b:1:15: << takes in a mapping or a list of them, not "y"'),
        ("[" * 21 + "]" * 21, "b:1:21: is nested too deeply for a batch"),
        ("{a: " * 21 + "}" * 21, "b:1:81: is nested too deeply for a batch"),
    ],
)  # fmt: skip
def test_yaml_problems_are_reported_with_their_places(text: str, message: str) -> None:
    assert problems("yaml", text) == [message]


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- prompt: *bold* move", "b:1:16: not YAML: "),
        ("- prompt: {caption}, slow", "b:1:20: not YAML: "),
        ("- prompt: a: b", "b:1:12: not YAML: mapping values are not allowed"),
        ("- prompt: @home", "b:1:11: not YAML: "),
        ("- prompt: 50% off\n- %x", "b:2:3: not YAML: "),
        ('- "a', "b:1:5: not YAML: "),
        ("- [a", "b:1:5: not YAML: "),
        ("%YAML 3.0\n---\na", "b:1:1: not YAML: found incompatible YAML document"),
    ],
)
def test_yaml_syntax_errors_are_reported_with_their_places_and_a_hint(text: str, message: str) -> None:
    (problem,) = problems("yaml", text)
    assert problem.startswith(message)
    assert problem.endswith("need quotes)")


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    ("text", "place", "advice"),
    [
        ("- prompt: x\n\tseed: 1", "b:2:1", "indent with spaces"),
        ("\t- prompt: x", "b:1:1", "indent with spaces"),
        ('- image: "C:\\Users\\a.png"', "b:1:1", "use single quotes, or /"),
        ('- image: "C:\\data\\a.png"', "b:1:1", "use single quotes, or /"),
    ],
)
def test_a_tab_or_a_backslash_is_reported_with_a_correction(text: str, place: str, advice: str) -> None:
    (problem,) = problems("yaml", text)
    assert problem.startswith(place)
    assert advice in problem


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize("text", ["[" * 2000, "- " * 2000, "{a: " * 2000, "? " * 2000])
def test_extreme_nesting_is_refused(text: str) -> None:
    (problem,) = problems("yaml", text)
    assert "nested too deeply" in problem


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize("char", ["\x00", "\x07", "\x7f", "\x9f", "\ufffe", "\ud800"])
def test_a_character_that_yaml_forbids_is_reported_with_its_place(char: str) -> None:
    assert problems("yaml", f"- prompt: x\n- a{char}b") == [f"b:2:4: not YAML: it holds the character {char!a}"]


@pytest.mark.usefixtures("either_parser")
def test_places_count_the_line_breaks_of_an_editor_not_those_of_yaml() -> None:
    text = "- prompt: 'a\u2028b\x85c\u2029d'\n- 😀: !x y\n- é: 'a: b'"
    assert problems("yaml", text) == ['b:2:6: tags such as "!x" have no meaning in a batch']
    assert spot("yaml", "- prompt: 'a\u2028b'\n- 😀: x\n- é: 'a: b'", ("é",), 2) == (3, 6)


@pytest.mark.usefixtures("either_parser")
def test_a_billion_laughs_attack_is_refused_without_expansion() -> None:
    lines = ["jobs: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"k{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 12)]
    tracemalloc.start()
    try:
        (problem,) = problems("yaml", "\n".join(lines))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert problem.endswith("aliases stand for more than 10,000,000 values")


def test_merges_count_by_the_values_that_they_insert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_yaml, "ALIAS_LIMIT", 15)
    base = "- &a {a: b, c: d}\n"
    assert problems("yaml", base + "- {<<: *a}\n" * 3) == []
    assert problems("yaml", base + "- {<<: *a}\n" * 4) == ["b:1:3: aliases stand for more than 15 values"]
