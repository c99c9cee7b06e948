from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jobs import job_of

from wan_async.batch import parser
from wan_async.batch.parser import from_images, parse
from wan_async.batch.schema import ENVELOPE, schema
from wan_async.batch.syntax import Kind
from wan_async.domain.batch import Batch
from wan_async.domain.job import Job
from wan_async.domain.model import WAN
from wan_async.errors import InvalidBatch


class FakeFolder:
    """An in-memory folder of images and their captions."""

    def __init__(self, images: Mapping[str, str | None]) -> None:
        self.images = images
        self.captions_read: list[str] = []
        self.checked: list[str] = []

    def in_another_case(self, pattern: str) -> str | None:
        return None

    def glob(self, pattern: str) -> list[str]:
        return [image for image in self.images if fnmatch.fnmatch(image, f"here/{pattern}")]

    def caption(self, image: str) -> str | None:
        self.captions_read.append(image)
        if image == "here/bad.png":
            raise ValueError("its caption is not UTF-8")
        return self.images.get(image)

    def no_caption(self, image: str) -> str:
        return f'"{image}" has no caption beside it'

    def notices(self) -> list[str]:
        return []

    def resolve(self, path: str) -> str:
        return f"here/{path}"

    def exists(self, path: str) -> bool:
        return path in self.images

    def fault(self, image: str) -> str | None:
        self.checked.append(image)
        return None if image in self.images else f'"{image}" doesn\'t exist'


FOLDER = FakeFolder({"here/a.png": "a cat", "here/b.png": None, "here/c[1].png": None, "here/bad.png": None})


def read(text: str | bytes, kind: Kind = "yaml", *, prompt: str | None = None, folder: FakeFolder = FOLDER) -> Batch:
    return parse(text, kind=kind, source="b", folder=folder, prompt=prompt)


def jobs(text: str | bytes, kind: Kind = "yaml", *, prompt: str | None = None) -> list[Job]:
    return [job_of(planned) for planned in read(text, kind, prompt=prompt).jobs]


def problems(text: str | bytes, kind: Kind = "yaml", *, prompt: str | None = None) -> list[str]:
    with pytest.raises(InvalidBatch) as caught:
        read(text, kind, prompt=prompt)
    return [str(problem) for problem in caught.value.problems]


ALL = {
    "id": "koala",
    "image": "a.png",
    "prompt": "x, y",
    "negative_prompt": "z",
    "resolution": "720P",
    "aspect_ratio": "16:9",
    "seed": "7",
    "callback_url": "http://me/",
}
EXPECTED = Job(
    id="koala",
    image="here/a.png",
    prompt="x, y",
    negative_prompt="z",
    resolution="720P",
    aspect_ratio="16:9",
    seed=7,
    callback_url="http://me/",
)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("yaml", yaml.safe_dump({"jobs": [ALL]})),
        ("yaml", yaml.safe_dump([ALL])),
        ("json", json.dumps({"jobs": [ALL]})),
        ("json", json.dumps([ALL], indent=1)),
        ("json", json.dumps([ALL | {"seed": 7}])),
        ("jsonl", json.dumps(ALL) + "\n\n"),
        ("csv", ",".join(ALL) + "\n" + ",".join(f'"{value}"' for value in ALL.values()) + "\r\n"),
        ("csv", ";".join(ALL) + "\n" + ";".join(ALL.values())),
        ("csv", "\t".join(ALL) + "\n" + "\t".join(ALL.values())),
    ],
)
def test_every_syntax_gives_the_same_job(kind: Kind, text: str) -> None:
    assert jobs(text, kind) == [EXPECTED]


@pytest.mark.parametrize("kind", ["yaml", "json", "jsonl"])
def test_the_field_names_of_the_api_are_accepted_too(kind: Kind) -> None:
    names = {name: alias for alias, name in WAN.aliases.items() if alias != "inputImageUrl"}
    pasted = {names.get(name, name): value for name, value in ALL.items()} | {"inputImageUrl": ""}
    text = json.dumps(pasted) if kind == "jsonl" else json.dumps([pasted])
    assert jobs(text, kind) == [EXPECTED]


def test_the_envelope_gives_output_name_and_defaults() -> None:
    batch = read(
        f"""
        output: ../out
        name: "{{index:03}} {{id}}"
        model: {WAN.name}
        defaults: {{resolution: 720P, negativePrompt: dark, seed: ~}}
        jobs:
          - prompt: rain
            negative_prompt: ""
          - {{prompt: sun, resolution: 480P, id: b}}
        """
    )
    assert batch.output == "../out"
    assert [one.name for one in batch.jobs][1] == "002 b"
    assert [(job_of(one).resolution, job_of(one).negative_prompt) for one in batch.jobs] == [
        ("720P", ""),
        ("480P", "dark"),
    ]
    assert [one.where for one in batch.jobs] == ["b:7:13", "b:9:13"]
    assert [one.index for one in batch.jobs] == [0, 1]


def test_every_syntax_gives_the_place_of_each_job() -> None:
    assert [one.where for one in read('[{"prompt":"x"},\n  {"prompt":"y"}]', "json").jobs] == ["b:1:2", "b:2:3"]
    assert [one.where for one in read(' {"prompt":"x"}\n\n{"prompt":"y"}', "jsonl").jobs] == ["b:1:2", "b:3:1"]
    assert [one.where for one in read('prompt\n"x\ny"\n\n z', "csv").jobs] == ["b:2", "b:5"]


def test_yaml_scalars_are_parsed_by_the_type_of_their_field() -> None:
    made = jobs("- {prompt: x, seed: 042, aspect_ratio: 16:9}\n- {prompt: y, aspect_ratio: 1:1, seed: +5}")
    assert [(one.seed, one.aspect_ratio) for one in made] == [(42, "16:9"), (5, "1:1")]


@pytest.mark.parametrize("nothing", ["", "~", "null", "NULL"])
def test_a_yaml_null_counts_as_omitted(nothing: str) -> None:
    assert jobs(f"- prompt: x\n  seed: {nothing}\n  image: {nothing}\n  matrix: {nothing}") == [Job(prompt="x")]
    assert jobs('- prompt: "null"') == [Job(prompt="null")]


def test_a_problem_in_a_merged_value_is_reported_where_it_was_written() -> None:
    assert problems("- &b {prompt: x, seed: z}\n- {<<: *b, id: c}")[1] == 'b:1:24: jobs[1].seed: "z" is not an integer'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "b:1:1: there are no jobs in it"),
        ("jobs: []", "b:1:1: there are no jobs in it"),
        ("output: x", "b:1:1: there are no jobs in it"),
        ("jobs: {a: 1}", "b:1:7: jobs: must be a list of jobs, not a mapping"),
        (
            "- prompt: {caption}",
            'b:1:11: jobs[0].prompt: must be text, not a mapping (in YAML, braces need quotes: "{caption}")',
        ),
    ],
)
def test_problems_of_a_yaml_batch_are_reported_with_their_places(text: str, message: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"jobs": 5}', "b:1:10: jobs: must be a list of jobs, not 5"),
        ('[{"prompt": "\\ud800"}]', "b:1:13: jobs[0].prompt: holds half of a surrogate pair"),
        ('[{"prompt": "x", "seed": 42.0}]', "b:1:26: jobs[0].seed: 42.0 is not an integer (did you mean 42?)"),
        ('[{"prompt": "x", "seed": NaN}]', "b:1:26: jobs[0].seed: nan is not an integer"),
        ('[{"prompt": true}]', "b:1:13: jobs[0].prompt: must be text, not true"),
        ("[7]", "b:1:2: jobs[0]: must be a mapping of fields such as prompt and image, not 7"),
    ],
)
def test_problems_of_a_json_batch_are_reported_with_their_places(text: str, message: str) -> None:
    (problem,) = problems(text, "json")
    assert problem.startswith(message)


def test_an_id_from_a_database_may_be_a_number() -> None:
    assert jobs('[{"prompt": "x", "id": 7}]', "json")[0].id == "7"


def test_an_unreadable_line_counts_in_the_numbering_of_jobs() -> None:
    assert problems('{"prompt": "x"}\n[\n{"prompt": "z", "seed": "q"}', "jsonl") == [
        "b:2:2: not JSON: expecting value",
        'b:3:25: jobs[2].seed: "q" is not an integer',
    ]


def test_problems_of_a_csv_batch_are_reported_with_their_places() -> None:
    text = 'id, promt,seed,matrix,seed,prompt\na,,x,,,y\n,,,,,,\nb,,,,,y,z\n" c",,,,,"a ""b"""\nd,,1'
    found = [problem.split(": ", 1) for problem in problems(text, "csv")]
    assert [place for place, _ in found] == ["b:1:promt", "b:1:matrix", "b:1:seed", "b:2:seed", "b:4", "b:6"]
    assert found[3][1] == 'jobs[0].seed: "x" is not an integer'
    assert problems("", "csv") == ["b:1:1: there are no jobs in it"]
    assert jobs('prompt,seed\nx,\n"y",7', "csv") == [Job(prompt="x"), Job(prompt="y", seed=7)]
    assert jobs("prompt,\nx,\n\n", "csv") == [Job(prompt="x")]


def test_all_problems_are_reported_in_the_order_of_the_text() -> None:
    text = """\
outptu: x
name: "{ids}"
model: Wan
prompt: x
defaults: {id: x, resolution: 481P, speed: 1, aspect_ratio: ~}
jobs:
  - {prompt: x, seed: 1_000, Prompt: y}
  - prompt: x
    aspectRatio: 16;9
    aspect_ratio: "1:1"
  - seed
  - prompt: x
    image: z/*.png
    matrix: {seed: [1, q, 01], resolution: [], prompt: [y], id: [a], image: [a.png, "", "q*"], aspect_ratio: 1:1}
  - prompt: x
    matrix: 5
"""
    assert problems(text) == [
        'b:1:1: outptu: unknown key (did you mean "output"?)',
        'b:2:7: name: "{ids}" is not a field of a name (did you mean "id"?)',
        f'b:3:8: model: "Wan" is not a model that this program supports; write {WAN.name}',
        "b:4:1: prompt: unknown key (fields of a job belong in the list `jobs`)",
        "b:5:12: defaults.id: is not allowed here",
        'b:5:31: defaults.resolution: "481P" is not a resolution (did you mean "480P"?)',
        'b:5:37: defaults.speed: unknown field (did you mean "seed"?)',
        'b:7:23: jobs[0].seed: "1_000" is not an integer (did you mean 1000?)',
        'b:7:30: jobs[0].Prompt: is given already, as "prompt"',
        'b:9:18: jobs[1].aspectRatio: "16;9" is not an aspect ratio (did you mean "16:9"?)',
        'b:10:5: jobs[1].aspect_ratio: is given already, as "aspectRatio"',
        'b:11:5: jobs[2]: must be a mapping of fields such as prompt and image, not "seed"',
        'b:13:12: jobs[3].image: "z/*.png" matches no image',
        'b:14:24: jobs[3].matrix.seed[1]: "q" is not an integer',
        "b:14:27: jobs[3].matrix.seed[2]: 1 is given twice",
        "b:14:44: jobs[3].matrix.resolution: must be a list of values, not an empty one",
        "b:14:56: jobs[3].matrix.prompt: is given outside of the matrix as well",
        "b:14:61: jobs[3].matrix.id: is not allowed here",
        "b:14:77: jobs[3].matrix.image: is given outside of the matrix as well",
        'b:14:110: jobs[3].matrix.aspect_ratio: must be a list of values, not "1:1"',
        'b:16:13: jobs[4].matrix: must be a mapping of fields to lists of values, not "5"',
    ]


def test_the_values_of_the_envelope_are_checked() -> None:
    text = "output: 7\nname: {id}\nmodel: ' '\ndefaults: x\njobs:\n- prompt: x"
    assert problems(text) == [
        'b:2:7: name: must be text, not a mapping (in YAML, braces need quotes: "{id}")',
        "b:3:8: model: is empty",
        'b:4:11: defaults: must be a mapping of fields, not "x"',
    ]
    assert problems('{"output": 7, "jobs": [{"prompt": "x"}]}', "json") == ["b:1:12: output: must be text, not 7"]


def test_a_glob_makes_a_job_per_file() -> None:
    batch = read(
        "- image: '[ab].png'\n  prompt: x\n- {image: 'c[1].png', prompt: x}\n"
        "- {image: 'http://x/*?a', prompt: x, id: z}"
    )
    assert [job_of(one).image for one in batch.jobs] == ["here/a.png", "here/b.png", "here/c[1].png", "http://x/*?a"]
    assert [one.name for one in batch.jobs] == ["a", "b", "c[1]", "z"]
    assert problems("- {image: 'z*', prompt: x}") == ['b:1:11: jobs[0].image: "z*" matches no image']


def test_a_matrix_makes_every_combination_in_the_order_written() -> None:
    batch = read("- {image: a.png, prompt: x, matrix: {seed: [01, 2], resolution: [480P, 720P]}}")
    assert [one.name for one in batch.jobs] == ["a-1-480P", "a-1-720P", "a-2-480P", "a-2-720P"]
    assert all(one.job.id is None for one in batch.jobs)
    batch = read("- {prompt: x, matrix: {image: ['b.png', 'a*'], aspectRatio: [16:9, 1:1]}}")
    assert [one.name for one in batch.jobs] == ["b-16-9", "b-1-1", "a-16-9", "a-1-1"]
    assert problems("- {prompt: x, matrix: {image: ['q*', '']}}") == [
        'b:1:32: jobs[0].matrix.image[0]: "q*" matches no image',
        "b:1:38: jobs[0].matrix.image[1]: is empty",
    ]


def test_an_id_is_the_prefix_of_the_ids_from_a_glob_or_matrix() -> None:
    batch = read(
        "- {id: k, image: '[ab].png', prompt: x, matrix: {seed: [1, 2]}}\n- {id: t, prompt: x, matrix: {seed: [3]}}"
    )
    assert [one.job.id for one in batch.jobs] == ["k-a-1", "k-a-2", "k-b-1", "k-b-2", "t-3"]
    assert [one.name for one in batch.jobs] == [one.job.id for one in batch.jobs]
    found = problems(f"- {{id: {'k' * 250}, matrix: {{prompt: [abcdef]}}}}")
    assert found == ["b:1:8: jobs[0].id: is longer than 255 characters"]


def test_ids_that_collide_are_reported_with_both_places() -> None:
    assert problems("- {prompt: x, id: Cat}\n- {prompt: x, id: cat}") == [
        'b:2:19: jobs[1].id: its clip would be called "cat", as that of b:1:3; give one of them another id'
    ]


def test_names_that_collide_for_another_reason_than_ids_are_reported_with_a_way_out() -> None:
    (found,) = problems("name: '{stem}'\njobs:\n- {prompt: x, image: a.png}\n- {prompt: y, image: a.png}")
    assert found.startswith('b:4:3: jobs[1]: its clip would be called "a", as that of b:3:3; write {id} or {index}')


SAME_PHOTO: dict[Kind, str] = {
    "yaml": "- {prompt: x, image: a.png}\n- {prompt: y, image: a.png}\n- {prompt: x, image: a.png}",
    "jsonl": "".join(f'{{"prompt": "{prompt}", "image": "a.png"}}\n' for prompt in "xyx"),
    "csv": "prompt,image\nx,a.png\ny,a.png\nx,a.png\n",
}


@pytest.mark.parametrize("kind", SAME_PHOTO)
def test_rows_for_one_photo_are_named_apart_in_every_format(kind: Kind) -> None:
    first, second, third = read(SAME_PHOTO[kind], kind).jobs
    assert first.name == "a"
    assert second.name.startswith("a-")
    assert third.name.startswith("a-")
    assert len({first.name, second.name, third.name}) == 3
    assert problems("- {prompt: x, image: a.png}\n- {prompt: y, image: a.png}\n- {prompt: z, id: a}") == [
        'b:3:19: jobs[2].id: its clip would be called "a", as that of b:1:3; give one of them another id'
    ]


def test_equal_texts_without_an_id_are_numbered() -> None:
    batch = read("- prompt: x\n" * 3)
    name = batch.jobs[0].name
    assert [one.name for one in batch.jobs] == [name, f"{name}-2", f"{name}-3"]


def test_captions_are_used_as_prompts_and_inside_prompts() -> None:
    text = "- image: a.png\n- {image: a.png, prompt: 'slow, {caption} {x}', id: b}"
    assert [job.prompt for job in jobs(text)] == ["a cat", "slow, a cat {x}"]
    assert [job.prompt for job in jobs("- image: a.png\n- image: b.png", prompt="pan")] == ["a cat", "pan"]
    assert [job.prompt for job in jobs("- image: a.png\n- prompt: own", prompt="see {caption}")] == ["see a cat", "own"]


def test_a_missing_caption_is_a_problem() -> None:
    found = problems(
        "- image: b.png\n- {image: b.png, prompt: '{caption}'}\n- prompt: '{caption}'\n"
        "- {image: http://x/y, prompt: '{caption}'}\n- image: bad.png\n- seed: 1\n- {image: http://x/z, prompt: '  '}"
    )
    assert found == [
        'b:1:3: jobs[0].prompt: is missing, and "here/b.png" has no caption beside it (--prompt gives one)',
        'b:2:26: jobs[1].prompt: there is no {caption}: "here/b.png" has no caption beside it (its .txt gives one)',
        "b:3:11: jobs[2].prompt: there is no {caption}: the job has no image",
        "b:4:31: jobs[3].prompt: there is no {caption}: the image is a URL",
        "b:5:10: jobs[4].image: its caption is not UTF-8",
        "b:6:3: jobs[5].prompt: is missing",
        "b:7:31: jobs[6].prompt: is missing",
    ]


def test_a_caption_is_read_once_for_all_jobs_that_use_it() -> None:
    folder = FakeFolder({"here/a.png": "cat"})
    assert len(read("- {image: a.png, matrix: {seed: [1, 2, 3]}}", folder=folder).jobs) == 3
    assert folder.captions_read == ["here/a.png"]


def test_images_of_a_folder_are_jobs_with_captions_as_prompts() -> None:
    batch = from_images(["here/a.png", "here/b.png"], source="here", folder=FOLDER, prompt="pan")
    assert [(one.name, job_of(one).prompt, one.where) for one in batch.jobs] == [
        ("a", "a cat", "here/a.png"),
        ("b", "pan", "here/b.png"),
    ]
    with pytest.raises(InvalidBatch) as caught:
        from_images(["here/a.png", "here/b.png", "here/c[1].png"], source="here", folder=FOLDER, prompt="{caption}")
    assert [str(problem) for problem in caught.value.problems] == [
        'here/b.png: prompt: there is no {caption}: "here/b.png" has no caption beside it (its .txt gives one)',
        'here/c[1].png: prompt: there is no {caption}: "here/c[1].png" has no caption beside it (its .txt gives one)',
    ]
    with pytest.raises(InvalidBatch, match=r"as that of x/a-png\.gif; rename one of them"):
        from_images(["x/a-png.gif", "x/a.png", "x/a.jpg"], source="x", folder=FOLDER, prompt="x")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_batch_files_may_have_any_unicode_encoding(encoding: str) -> None:
    assert jobs("- prompt: é猫😀".encode(encoding))[0].prompt == "é猫😀"


def test_invalid_utf_8_is_reported_with_its_place() -> None:
    assert problems(b"- prompt: x\n- prompt: \xc3\xa9\xff") == [
        "b:2:12: this is not UTF-8 (byte 0xff); save the file as UTF-8"
    ]
    assert jobs("\ufeff- prompt: x") == [Job(prompt="x")]


def test_the_size_of_a_batch_file_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "BATCH_LIMIT_BYTES", 3 << 20)
    assert problems(b"#" * ((3 << 20) + 1)) == ["b:1:1: the batch is larger than 3 MiB; split it"]


def test_a_matrix_bomb_is_refused_before_it_expands() -> None:
    thousand = list(range(1000))
    bomb = {"matrix": {"seed": thousand, "prompt": [str(n) for n in thousand], "negative_prompt": ["a", "b"]}}
    (problem,) = problems(json.dumps([{"prompt": "x"}, bomb]), "json")
    assert problem == (
        "b:1:19: jobs[1]: with the 2,000,000 jobs that it makes there are more than 1,000,000; split the batch"
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["*", "{caption}", "1:1"]),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*WAN.checks, *WAN.aliases, "matrix"]), inner)
        ),
        max_leaves=12,
    ),
    st.sampled_from(["yaml", "json", "jsonl", "csv"]),
)
def test_a_batch_of_any_values_is_read_or_refused_at_existing_places(value: Any, kind: Kind) -> None:
    text = json.dumps(value if kind == "jsonl" else {"jobs": [value, value], "defaults": value}, indent=None)
    check_places(text, kind)
    if kind == "yaml":
        check_places(yaml.safe_dump([value], allow_unicode=True), kind)


@given(
    st.text(alphabet="abc:-[]{}\",\n \t&*!|>#x1'\\/;", max_size=40), st.sampled_from(["yaml", "json", "jsonl", "csv"])
)
def test_any_text_is_read_or_refused_at_existing_places(text: str, kind: Kind) -> None:
    check_places(text, kind)


def check_places(text: str, kind: Kind) -> None:
    try:
        read(text, kind)
    except InvalidBatch as error:
        lines = [*text.split("\n"), ""]
        for problem in error.problems:
            source, line, *column = problem.where.split(":", 2)
            assert source == "b"
            assert 1 <= int(line) <= len(lines)
            if kind != "csv":
                assert 1 <= int(column[0]) <= len(lines[int(line) - 1]) + 1


def properties(of: Mapping[str, Any]) -> set[str]:
    return set(of["properties"])


def test_the_schema_has_the_fields_of_the_parser() -> None:
    document = schema()
    job = document["$defs"]["job"]
    assert properties(document) == set(ENVELOPE)
    assert properties(job) == {*WAN.checks, *WAN.aliases, "matrix"}
    assert properties(document["properties"]["defaults"]) == properties(job) - {"id", "matrix"}
    assert properties(job["properties"]["matrix"]) == properties(job) - {"id", "matrix"}
    for name, default in (("resolution", "480P"), ("aspect_ratio", "Default"), ("seed", 42), ("negative_prompt", "")):
        assert job["properties"][name]["default"] == default == getattr(Job(), name)
    assert all("description" in field for field in job["properties"].values())
    json.dumps(document)


ACCEPTED: list[Any] = [
    [{"prompt": "x"}],
    {"jobs": [{"prompt": "x", "seed": "042"}], "output": None, "model": WAN.name, "defaults": {"resolution": "720P"}},
    {"jobs": [{"image": "a.png", "id": 7, "matrix": {"seed": [1, 2], "aspectRatio": ["16:9"]}}], "name": "{id}"},
]
REFUSED: list[Any] = [
    5,
    [],
    {"jobs": []},
    {"output": "x"},
    {"jobs": [{"prompt": "x", "seed": 1.5}]},
    {"jobs": [{"prompt": "x", "seed": "1_0"}]},
    {"jobs": [{"prompt": "x", "resolution": "481P"}]},
    {"jobs": [{"prompt": 5}]},
    {"jobs": [{"prompt": "x", "speed": 5}]},
    {"jobs": [{"prompt": "x"}], "defaults": {"id": "x"}},
    {"jobs": [{"prompt": "x"}], "outputs": "x"},
    {"jobs": [{"prompt": "x"}], "model": "Wan"},
    {"jobs": [{"prompt": "x", "matrix": {"seed": []}}]},
    {"jobs": [{"prompt": "x", "matrix": {"seed": 1}}]},
]


@pytest.mark.parametrize("document", ACCEPTED)
def test_the_schema_accepts_what_the_parser_reads(document: Any) -> None:
    assert jobs(json.dumps(document), "json")
    assert fits(document, schema())


@pytest.mark.parametrize("document", REFUSED)
def test_the_schema_refuses_what_the_parser_refuses(document: Any) -> None:
    assert problems(json.dumps(document), "json")
    assert not fits(document, schema())


def fits(value: Any, rule: Mapping[str, Any]) -> bool:
    """Validate with the keywords of JSON Schema that our schema uses; any other keyword fails the test."""
    import re

    annotations = {"description", "default", "$schema", "title", "$defs"}
    known = {"type", "enum", "pattern", "properties", "additionalProperties", "required", "items", "minItems", "$ref"}
    assert set(rule) <= annotations | known
    if "$ref" in rule:
        return fits(value, schema()["$defs"]["job"])
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int, "null": type(None)}
    named = rule.get("type", list(kinds))
    if not isinstance(value, tuple(kinds[name] for name in ([named] if isinstance(named, str) else named))):
        return "type" not in rule and value in rule["enum"]
    if "enum" in rule and value not in rule["enum"]:
        return False
    if isinstance(value, str) and "pattern" in rule:
        return re.search(rule["pattern"], value) is not None
    if isinstance(value, dict) and "properties" in rule:
        known_keys = rule["properties"]
        return set(rule.get("required", ())) <= set(value) <= set(known_keys) and all(
            fits(one, known_keys[key]) for key, one in value.items()
        )
    if isinstance(value, list) and "items" in rule:
        return len(value) >= rule.get("minItems", 0) and all(fits(one, rule["items"]) for one in value)
    return True


def test_missing_images_are_reported_together_with_other_problems() -> None:
    text = """\
defaults: {prompt: p}
jobs:
  - {image: gone.png, id: a}
  - {resolution: 999P, inputImage: lost.png}
  - {image: "*.png", id: a}
  - {image: b.png, id: a}
  - {matrix: {image: [b.png, far.png]}, id: m}
  - {image: "http://x/y.png", id: u}
"""
    assert problems(text) == [
        """b:3:13: jobs[0].image: "here/gone.png" doesn't exist""",
        """b:4:18: jobs[1].resolution: "999P" is not a resolution (there are 480P, 580P, 720P)""",
        """b:4:36: jobs[1].inputImage: "here/lost.png" doesn't exist""",
        'b:6:24: jobs[3].id: its clip would be called "a", as that of b:3:5; give one of them another id',
        """b:7:22: jobs[4].matrix.image: "here/far.png" doesn't exist""",
    ]


def test_the_parser_does_not_check_the_images_of_a_valid_batch() -> None:
    folder = FakeFolder({})
    assert len(read("[{image: gone.png, prompt: p}]", folder=folder).jobs) == 1
    assert folder.checked == []


def test_missing_captions_and_missing_images_of_a_folder_are_reported_together() -> None:
    with pytest.raises(InvalidBatch) as caught:
        from_images(["here/b.png", "here/x.png"], source="here", folder=FOLDER)
    assert [str(problem) for problem in caught.value.problems] == [
        'here/b.png: prompt: is missing, and "here/b.png" has no caption beside it (--prompt gives one)',
        'here/x.png: image: "here/x.png" doesn\'t exist',
        'here/x.png: prompt: is missing, and "here/x.png" has no caption beside it (--prompt gives one)',
    ]
