from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import httpx
import pytest
from second_model import POSTER, PosterJob

import wan_async
from wan_async.domain.job import Job, content_hash, parameters_of
from wan_async.domain.model import CALLBACK_FIELD, WAN, Model, Parameter
from wan_async.wiro.protocol import run_request

ROOT = Path(wan_async.__file__).parent
DIGEST = "sha256:" + "0f" * 32
TEXT = Parameter(wire="text", name="text", kind="text", required=True)

BEFORE: list[tuple[dict[str, Any], str, str, str, str]] = [
    (
        {"prompt": "rain"},
        "",
        "",
        "4927c8d8c60e3149504b69aad290c79ccad0d729be849bb307255b377bddda57",
        '{"inputImageUrl":"","prompt":"rain","negativePrompt":"","resolution":"480P","aspectRatio":"Default","seed":"42"}',
    ),
    (
        {
            "prompt": "Ein Bär, zögernd\nauf dem Eis", "negative_prompt": "blur, 1:a", "resolution": "720P",
            "aspect_ratio": "16:9", "seed": 7, "id": "bear", "callback_url": "https://me.example/hook",
        },
        "https://cdn.example/a.png",
        DIGEST,
        "a86daafd13d5c05cc121ed7d7ef480ba231b9ac8ec745d237b73b9bb63316706",
        '{"inputImageUrl":"https://cdn.example/a.png","prompt":"Ein Bär, zögernd\\nauf dem Eis","negativePrompt":"blur, 1:a","resolution":"720P","aspectRatio":"16:9","seed":"7","callbackUrl":"https://me.example/hook"}',
    ),
    (
        {"prompt": "猫 & 🐈", "image": "https://x.example/cat.png", "seed": 1 - 2**64, "aspect_ratio": "9:16"},
        "https://x.example/cat.png",
        "url:https://x.example/cat.png",
        "9fa6dac8af186118eadb2336657987d9704dc37387c6763ccf240e2dbab073d7",
        (
            '{"inputImageUrl":"https://x.example/cat.png","prompt":"猫 & 🐈","negativePrompt":"","resolution":"480P",'
            '"aspectRatio":"9:16","seed":"-18446744073709551615"}'
        ),
    ),
    (
        {"prompt": "7:rain", "negative_prompt": "0:", "resolution": "580P", "aspect_ratio": "1:1", "seed": "042"},
        "",
        "",
        "3826e7079bf71d4bce36d13d02c714a24c4ff792dc5b99294c3eb6597d2b2335",
        '{"inputImageUrl":"","prompt":"7:rain","negativePrompt":"0:","resolution":"580P","aspectRatio":"1:1","seed":"42"}',
    ),
]  # fmt: skip
"""A job's fields, its image's URL and identity; its content hash and the body of its Run, as journals and the service
know them from the version before models were described by tables."""


@pytest.mark.parametrize(("given", "url", "image", "content", "body"), BEFORE)
def test_content_hashes_and_request_bodies_stay_as_they_are(
    given: dict[str, Any], url: str, image: str, content: str, body: str
) -> None:
    job = Job(**given)
    assert job.problems() == []
    assert content_hash(job, image) == content
    request = run_request(WAN, parameters_of(job, url), job.callback_url)
    assert httpx.Request("POST", "https://a/", json=dict(request.body)).read().decode() == body


def test_a_job_has_the_parameters_and_defaults_of_its_model() -> None:
    assert {field.name for field in fields(Job)} == {*WAN.by_name, "id", "callback_url"}
    defaults = {name: each.default for name, each in signature(Job).parameters.items()}
    assert defaults == {name: each.default for name, each in WAN.by_name.items()} | {"id": None, "callback_url": ""}


def test_no_other_module_contains_the_services_name_of_a_parameter() -> None:
    names = {
        name for each in WAN.parameters for name in (each.wire, each.file_field) if name and name not in WAN.by_name
    }
    assert names == {"inputImageUrl", "inputImage", "negativePrompt", "aspectRatio"}
    pattern = re.compile("|".join(sorted(names | {CALLBACK_FIELD}, key=len, reverse=True)))
    found = {
        str(path.relative_to(ROOT)): sorted(set(pattern.findall(path.read_text(encoding="utf-8"))))
        for path in ROOT.rglob("*")
        if path.suffix in (".py", ".js", ".html") and path.relative_to(ROOT).parts[0] != "sandbox"
    }
    del found["domain/model.py"]
    # the webhook's docstring explains the service's field to users; it is no parameter
    assert {path: seen for path, seen in found.items() if seen} == {"wiro/webhook.py": [CALLBACK_FIELD]}


def test_no_other_module_lists_choices_or_parameters_of_the_model() -> None:
    pattern = re.compile(r"[\"'](?:negative_prompt|aspect_ratio|resolution|480P|580P|720P|16:9|9:16)[\"']")
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] != "sandbox" and pattern.search(path.read_text(encoding="utf-8"))
    }
    # `Job` repeats the defaults for type checkers; the gallery's page shows these parameters by name
    assert {path for path in found if not path.startswith("gallery/")} == {"domain/model.py", "domain/job.py"}


def test_a_parameter_that_does_not_affect_the_clip_is_not_part_of_the_content() -> None:
    steps = replace(POSTER.by_name["steps"], in_content=False)
    other = Model(owner="Acme", project="Poster", parameters=(TEXT, steps))

    class Queued(PosterJob):
        __slots__ = ()
        model = other

    assert content_hash(Queued(text="x", steps=1), "") == content_hash(Queued(text="x", steps=2), "")
    assert content_hash(PosterJob(text="x", steps=1), "") != content_hash(PosterJob(text="x", steps=2), "")
    assert other.content_fields == ("text",)
    assert parameters_of(Queued(text="x", steps=2), "") == {"text": "x", "stepCount": "2"}


@pytest.mark.parametrize(
    ("parameters", "fact"),
    [
        ((), "required text"),
        ((replace(TEXT, required=False),), "required text"),
        ((TEXT, TEXT), "used twice"),
        ((TEXT, replace(TEXT, wire="other")), "used twice"),
        ((TEXT, replace(TEXT, wire=CALLBACK_FIELD, name="hook")), "reserved"),
        ((TEXT, replace(TEXT, wire="id", name="id")), "reserved"),
        ((TEXT, Parameter(wire="a", name="a", kind="image"), Parameter(wire="b", name="b", kind="image")), "one image"),
        ((TEXT, Parameter(wire="a", name="a", kind="choice", choices=("x",))), "default"),
        ((TEXT, Parameter(wire="a", name="a", kind="choice", choices=("x",), default="y")), "default"),
        ((TEXT, Parameter(wire="a", name="a", kind="choice", choices=("x\ny",), default="x\ny")), "one line"),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(parameters: tuple[Parameter, ...], fact: str) -> None:
    with pytest.raises(ValueError, match=fact):
        Model(owner="Acme", project="Poster", parameters=parameters)


def test_all_parameters_are_written_as_text_and_json() -> None:
    job = PosterJob(text="x", steps="07")
    assert parameters_of(job, "") == {"text": "x", "posterStyle": "flat", "stepCount": "7", "pictureUrl": ""}
    json.dumps(parameters_of(job, ""))
