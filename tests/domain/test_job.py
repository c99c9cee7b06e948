from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from wan_async.domain import batch as batch_module
from wan_async.domain import naming
from wan_async.domain.batch import Batch, Namer, PlannedJob, enlist, from_jobs
from wan_async.domain.job import Job, content_hash
from wan_async.domain.naming import folded, safe_name, stem_of
from wan_async.domain.text import shown, suggestion
from wan_async.domain.validation import is_url
from wan_async.errors import InvalidBatch


def job(**fields: Any) -> Job:
    """A job as created by an untyped caller."""
    return Job(**({"prompt": "rain"} | fields))


def names(*batch: Job, name: str = "{id}") -> list[str]:
    return [planned.name for planned in from_jobs(batch, name).jobs]


def problems(*batch: Job, name: str = "{id}") -> list[str]:
    with pytest.raises(InvalidBatch) as caught:
        from_jobs(batch, name)
    return [str(problem) for problem in caught.value.problems]


def test_a_job_has_the_defaults_of_the_service_and_all_are_valid() -> None:
    made = Job(prompt="rain")
    assert (made.resolution, made.aspect_ratio, made.seed, made.negative_prompt) == ("480P", "Default", 42, "")
    assert made.image is None
    assert not made.image_is_url
    assert made.problems() == []


def test_a_path_becomes_text_and_no_path_none() -> None:
    assert job(image=Path("a") / "cat.png").image == str(Path("a") / "cat.png")
    assert job(image="").image is None


@pytest.mark.parametrize(
    ("seed", "read"), [(7, 7), ("042", 42), (" 7 ", 7), ("-1", -1), ("+5", 5), (2**64 - 1, 2**64 - 1)]
)
def test_a_seed_is_an_integer_or_the_text_of_one(seed: int | str, read: int) -> None:
    made = job(seed=seed)
    assert made.seed == read
    assert made.problems() == []


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (True, "true is not an integer"),
        (1.5, "1.5 is not an integer"),
        (2.0, "2.0 is not an integer (did you mean 2?)"),
        (None, "nothing is not an integer"),
        ([], "a list is not an integer"),
        ({}, "a mapping is not an integer"),
        ("x", '"x" is not an integer'),
        ("inf", '"inf" is not an integer'),
        ("٣", '"٣" is not an integer (did you mean 3?)'),
        ("1_000", '"1_000" is not an integer (did you mean 1000?)'),
        ("0o17", '"0o17" is not an integer (did you mean 15?)'),
        ("0x1F", '"0x1F" is not an integer (did you mean 31?)'),
        ("1e3", '"1e3" is not an integer (did you mean 1000?)'),
        (2**64, "is out of range: the smallest value is -18446744073709551615, the largest 18446744073709551615"),
        ("9" * 5000, "is out of range: it has too many digits"),
    ],
)
def test_an_invalid_seed_is_reported_with_a_correction(seed: object, expected: str) -> None:
    assert job(seed=seed).problems() == [("seed", expected)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": "  "}, ("prompt", "is missing")),
        ({"prompt": 5}, ("prompt", "must be text, not 5")),
        ({"prompt": "\ud800"}, ("prompt", r'holds half of a surrogate pair, which is no character: "\ud800"')),
        ({"resolution": "481P"}, ("resolution", '"481P" is not a resolution (did you mean "480P"?)')),
        ({"resolution": "4K"}, ("resolution", '"4K" is not a resolution (there are 480P, 580P, 720P)')),
        ({"aspect_ratio": "16;9"}, ("aspect_ratio", '"16;9" is not an aspect ratio (did you mean "16:9"?)')),
        ({"aspect_ratio": []}, ("aspect_ratio", "a list is not an aspect ratio (there are Default, 16:9, 9:16, 1:1)")),
        ({"id": " "}, ("id", '" " is empty')),
        ({"id": "a "}, ("id", '"a " begins or ends with a space')),
        ({"id": "a\u202eb"}, ("id", r'"a\u202eb" holds a character that can\'t be shown'.replace("\\'", "'"))),
        ({"id": "a" * 256}, ("id", "is longer than 255 characters")),
        ({"id": 7}, ("id", "must be text, not 7")),
        ({"image": 7}, ("image", "must be text, not 7")),
        ({"image": "a\0b"}, ("image", r'"a\x00b" is not a path')),
        ({"image": "file:///a.png"}, ("image", '"file:///a.png" is neither a path nor an http(s) URL')),
        ({"image": "data:image/png;base64,?"}, ("image", "is empty, or no data URI that can be decoded")),
        ({"image": b""}, ("image", "is empty, or no data URI that can be decoded")),
        ({"image": "http://x/a b"}, ("image", '"http://x/a b" is not a URL: it holds a space')),
        ({"callback_url": "You can provide"}, ("callback_url", '"You can provide" is not an http(s) URL')),
        ({"callback_url": 5}, ("callback_url", "must be text, not 5")),
    ],
)
def test_each_field_reports_its_problem(fields: dict[str, object], expected: tuple[str, str]) -> None:
    assert job(**fields).problems() == [expected]


@pytest.mark.parametrize("image", ["C:\\cats\\cat.png", "a:b.png", "http", "cats/cat é.png", "https://x/a.png"])
def test_paths_and_urls_are_valid_images(image: str) -> None:
    assert job(image=image, callback_url="https://me/hook", id="é").problems() == []


def test_urls_and_paths_are_distinguished() -> None:
    assert is_url("HTTPS://x/a.png")
    assert job(image="http://x/a.png").image_is_url
    assert not is_url("http.png")
    assert not is_url("images/http://x")


def test_the_content_covers_only_what_affects_the_clip() -> None:
    content = content_hash(job(), "")
    assert len(content) == 64
    assert content == content_hash(job(id="a", callback_url="http://x/"), "")
    assert content == content_hash(job(seed="042"), "")
    others: list[dict[str, Any]] = [
        {"prompt": "rain."},
        {"negative_prompt": "x"},
        {"resolution": "720P"},
        {"aspect_ratio": "1:1"},
        {"seed": 43},
    ]
    hashes = {content_hash(job(**other), "") for other in others} | {content, content_hash(job(), "url:http://x/")}
    assert len(hashes) == len(others) + 2


@given(st.tuples(st.text(), st.text(), st.text()), st.tuples(st.text(), st.text(), st.text()))
@example(("a", "b", ""), ("ab", "", ""))
@example(("1:a", "", "x"), ("", "1:a", "x"))
def test_the_content_hash_keeps_adjacent_texts_apart(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    def hashed(texts: tuple[str, str, str]) -> str:
        prompt, negative, image = (text.encode(errors="ignore").decode() for text in texts)
        return content_hash(Job(prompt=prompt, negative_prompt=negative), image)

    assert (hashed(one) == hashed(other)) == (one == other)


def planned(index: int, of: Job, where: str = "") -> PlannedJob:
    return PlannedJob(index, of, f"name-{index}", of.id or "", where)


def keys(*of: Job) -> list[str]:
    batch = Batch([planned(index, one) for index, one in enumerate(of)], None, "")
    return [enlisted.key for enlisted in enlist(batch, {})]


def test_a_key_is_the_id_or_the_first_digits_of_the_content_hash() -> None:
    assert keys(job(id="cat"), job()) == ["cat", content_hash(job(), "")[:16]]


def test_exact_duplicates_are_numbered_and_never_get_an_id_in_use() -> None:
    key = content_hash(job(), "")[:16]
    assert keys(job(), job(), job(), job(id=f"{key}-2")) == [key, f"{key}-3", f"{key}-4", f"{key}-2"]
    assert keys(job(), job(id=key, prompt="sun")) == [f"{key}-2", key]
    assert keys(job(id="a"), job(id="a"), job(id="a-2"), job(id="a")) == ["a", "a-3", "a-2", "a-4"]


def test_an_image_is_identified_by_its_hash_or_its_url() -> None:
    batch = Batch([planned(0, job(image="cat.png")), planned(1, job(image="http://x/a"))], None, "")
    assert [one.image for one in enlist(batch, {"cat.png": "beef"})] == ["sha256:beef", "url:http://x/a"]
    assert enlist(batch, {"cat.png": "beef"})[0].content == content_hash(job(), "sha256:beef")


def test_one_id_for_two_contents_and_unread_images_are_problems() -> None:
    batch = Batch(
        [
            planned(0, job(id="a"), "b.yaml:1:3"),
            planned(1, job(id="a", prompt="sun"), "b.yaml:2:3"),
            planned(2, job(image="cat.png"), "b.yaml:3:3"),
        ],
        None,
        "b.yaml",
    )
    with pytest.raises(InvalidBatch) as caught:
        enlist(batch, {})
    assert [str(problem) for problem in caught.value.problems] == [
        'b.yaml:2:3: jobs[1].id: "a" is the id of another job as well, at b.yaml:1:3',
        'b.yaml:3:3: jobs[2].image: "cat.png" was not read',
    ]
    with pytest.raises(InvalidBatch, match=r"jobs\[0\]"):
        keys(job(id="a"), job(id="a", prompt="sun"))


def test_names_are_derived_from_the_id_the_image_or_the_content() -> None:
    text = content_hash(job(), "")[:8]
    batch = [job(id="a/b"), job(image="x/cat.png"), job(image="http://x/y/dog%20one.jpg?size=2"), job()]
    assert names(*batch) == ["a-b", "cat", "dog one", f"text-{text}"]
    assert [one.label for one in from_jobs(batch).jobs] == ["a/b", "cat", "dog one", f"text-{text}"]


def test_a_template_is_filled_with_the_jobs_fields() -> None:
    template = "{index:03}-{index} {stem} {seed} {resolution} {aspect_ratio} {id} {"
    assert names(job(image="cat.png", aspect_ratio="16:9"), name=template) == ["001-1 cat 42 480P 16-9 cat {"]
    assert names(job(id="a"), name="{stem}") == ["text"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{ids}", 'name: "{ids}" is not a field of a name (did you mean "id"?)'),
        ("{}", 'name: "{}" is not a field of a name (there are id, stem, index, seed, resolution, aspect_ratio)'),
        ("{index:4}", 'name: "{index:4}": only {index:0N} takes a width'),
        ("{seed:04}", 'name: "{seed:04}": only {index:0N} takes a width'),
        (" ", "name: is empty"),
    ],
)
def test_an_invalid_template_is_a_problem(template: str, expected: str) -> None:
    assert problems(job(), name=template) == [expected]


def test_all_problems_of_a_list_of_jobs_are_reported_at_once() -> None:
    expected = problems(
        job(id="Cat"), job(seed=1.5, resolution="481P"), job(id="cat"), job(id="cat\u0301"), job(id="ca\u0301t")
    )
    assert expected == [
        'jobs[1].resolution: "481P" is not a resolution (did you mean "480P"?)',
        "jobs[1].seed: 1.5 is not an integer",
        'jobs[2]: its clip would be called "cat", as that of jobs[0]; give one of them another id',
    ]


def test_names_collide_regardless_of_case_and_normal_form() -> None:
    assert len(problems(job(id="É"), job(id="e\u0301"))) == 1
    assert len(problems(job(id="Straße"), job(id="STRASSE"))) == 1
    assert len(problems(job(), job())) == 1


def test_text_jobs_that_collide_by_chance_get_more_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    # Among 100,000 text jobs, two share 8 hex digits more often than not.
    def crowded(of: Job, image: str) -> str:
        return "0" * 8 + hashlib.sha256(of.prompt.encode()).hexdigest()[:56]

    monkeypatch.setattr(batch_module, "content_hash", crowded)
    longer = crowded(job(prompt="sun"), "")[:16]
    assert names(job(), job(prompt="sun")) == ["text-00000000", f"text-{longer}"]
    assert len(problems(job(), job())) == 1
    assert names(job(id="text-00000000"), job(prompt="sun")) == ["text-00000000", f"text-{longer}"]


def test_a_clips_name_is_never_that_of_a_file_of_the_run() -> None:
    assert safe_name(".wan_async") == "wan_async"
    # `results.jsonl` and `gallery.html` differ from any clip by their extension.
    assert safe_name("results") == "results"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cat-1-480P", "cat-1-480P"),
        ("../../etc/passwd", "-..-etc-passwd".lstrip("-.")),
        ("-rf", "rf"),
        ("..", "clip-5ec1f7e7"),
        ("CON", "CON_"),
        ("con.tar", "con_.tar"),
        ("Nul .x", "Nul_.x"),
        ("COM¹", "COM¹_"),
        ("console", "console"),
        ('a<b>c:d|e?f*g"h', "a-b-c-d-e-f-g-h"),
        ("cat. .", "cat"),
        ("a\nb\tc", "a b c"),
        ("e\u0301", "é"),
        ("a\u202e\u200b\x07b", "ab"),
        ("ünïcødé 猫", "ünïcødé 猫"),
    ],
)
def test_a_name_is_safe_everywhere(text: str, name: str) -> None:
    assert safe_name(text) == name


@given(st.text(max_size=400) | st.text(alphabet="con. -/\\\u0301\u202eaé猫", max_size=80))
@example("com\u00b9.x")
@example("con " + "a" * 200)
@example("a" * 110 + ". . .")
@example("<\u0338")
def test_any_text_gives_a_valid_name_inside_the_folder(text: str) -> None:
    name = safe_name(text)
    assert 1 <= len(name.encode()) <= naming.NAME_LIMIT_BYTES
    assert not set(name) & set('<>:"/\\|?*')
    assert name[0] not in " .-"
    assert name[-1] not in " ."
    assert all(unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Cn"} for char in name)
    assert name.partition(".")[0].rstrip().upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "COM¹", "LPT9"}
    assert name == unicodedata.normalize("NFC", name)
    assert safe_name(name) == name


@given(st.text(min_size=130, max_size=200), st.text(min_size=130, max_size=200))
def test_long_names_stay_distinct_and_stable(one: str, other: str) -> None:
    assume(one != other)
    base = "x" * 130
    assert safe_name(base + one) != safe_name(base + other)
    assert safe_name(base + one) == safe_name(base + one)


@given(st.lists(st.text(min_size=1, max_size=8), max_size=6))
def test_a_batch_either_has_unique_names_or_is_refused(ids: list[str]) -> None:
    namer = Namer()
    for one in ids:
        namer.plan(Job(prompt="x", id=one), "")
    taken = [folded(one.name) for one in namer.planned]
    assert len(taken) == len(set(taken))


def test_messages_show_values_on_one_short_line() -> None:
    assert shown("a\nb") == r'"a\nb"'
    assert shown("x" * 100) == f'"{"x" * 57}..."'
    assert shown(False) == "false"
    assert suggestion("Promt", ["prompt", "image"]) == ' (did you mean "prompt"?)'


def test_the_stem_of_a_path_is_found_on_every_system() -> None:
    assert [stem_of(image) for image in ("a/b.c.png", "C:\\x\\cat.png", "http://x/", ".png", "cat")] == [
        "b.c",
        "cat",
        "image",
        ".png",
        "cat",
    ]
