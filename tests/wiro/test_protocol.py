"""Wiro's requests and answers: each expectation is from the service's documentation or the model's page."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wan_async import errors
from wan_async.domain import money
from wan_async.domain.job import Job, parameters_of
from wan_async.domain.model import WAN
from wan_async.domain.prices import Tool
from wan_async.domain.remote_task import Ending, Output, TaskDetail, TaskId, TaskToken, ending
from wan_async.http import retry, urls
from wan_async.wiro import answers, notification_messages, protocol, signing
from wan_async.wiro.answers import Accepted, Refused, Unclear, Unparsable
from wan_async.wiro.notification_messages import Hint
from wan_async.wiro.schemas import Answer

DATA = Path(__file__).parents[1] / "data"
TASK, TOKEN = TaskId("2221"), TaskToken("eDcCm5yyUfIvMFspTwww49OUfgXkQt")


def page(name: str) -> bytes:
    return (DATA / name).read_bytes()


def repaired(sample: bytes) -> bytes:
    """The page's sample with the missing escapes in its `categories` restored."""
    broken = b'"categories": "["tool","image-to-image","quick-showcase","compare-landscape"]"'
    assert broken in sample
    repaired_text = broken[:15] + broken[15:-1].replace(b'"', b'\\"').replace(b'\\"[', b'"[') + b'"'
    return sample.replace(broken, repaired_text)


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def refusal(code: object, message: str) -> bytes:
    return body(result=False, errors=[{"code": code, "message": message}])


# Signature and nonce


def test_the_signature_equals_the_test_vector() -> None:
    # printf %s secret4561734513807 | openssl dgst -sha256 -hmac key123
    expected = "59202d9abf3b8bc5e8c3d05153d1e38c183d397c6774e978d40da13586a42ab2"
    assert signing.signature("key123", "secret456", "1734513807") == expected
    assert signing.auth_headers("key123", "secret456", 1734513807) == {
        "x-api-key": "key123",
        "x-nonce": "1734513807",
        "x-signature": expected,
    }


def test_credentials_outside_ascii_can_be_signed() -> None:
    # printf %s 'gehëim1' | openssl dgst -sha256 -hmac schlüssel
    expected = "e19ab81e13d36d727e5fa6e851fae17b65f79af4c81fec6a84a800962ae04558"
    assert signing.signature("schlüssel", "gehëim", "1") == expected


def test_a_key_only_project_sends_only_its_key() -> None:
    assert signing.auth_headers("key123", None, 1734513807) == {"x-api-key": "key123"}


def test_nonces_are_unix_microseconds() -> None:
    assert signing.next_nonce(0, 1734513807.25) == 1734513807250000


def test_nonces_increase_when_the_clock_stops_or_goes_back() -> None:
    assert signing.next_nonce(1734513807250000, 1734513807.25) == 1734513807250001
    assert signing.next_nonce(1734513807250000, 1.0) == 1734513807250001


@given(st.lists(st.floats(0, 4_102_444_800), min_size=1, max_size=50))
def test_nonces_increase_strictly_and_stay_below_2_to_the_53(times: list[float]) -> None:
    nonces = [0]
    for now in times:
        nonces.append(signing.next_nonce(nonces[-1], now))
    assert all(later > sooner for sooner, later in pairwise(nonces))
    assert nonces[-1] < 2**53


@given(
    st.integers(1, 256).flatmap(lambda of: st.tuples(st.just(of), st.permutations(range(of)))),
    st.lists(st.tuples(st.booleans(), st.floats(0, 4_102_444_800)), min_size=1, max_size=50),
)
def test_processes_with_different_numbers_never_share_a_nonce(
    of_and_numbers: tuple[int, list[int]], requests: list[tuple[bool, float]]
) -> None:
    of, numbers = of_and_numbers
    taken: dict[int, list[int]] = {number: [0] for number in numbers[:2]}
    for is_first, now in requests:
        number = numbers[0] if is_first else numbers[:2][-1]
        last = taken[number][-1]
        nonce = signing.next_nonce(last, now, number, of)
        assert last < nonce < 2**53
        assert nonce % of == number
        assert nonce < max(last + 1, int(now * 1_000_000)) + of
        taken[number].append(nonce)
    every = [nonce for nonces in taken.values() for nonce in nonces[1:]]
    assert len(every) == len(set(every))


# Addresses


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "localhost.", "api.localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"]
)
def test_a_loopback_host_is_local(host: str) -> None:
    assert urls.is_local_host(host)


@pytest.mark.parametrize(
    "host",
    ["", "api.wiro.ai", "localhost.wiro.ai", "notlocalhost", "127.0.0.1.nip.io", "0.0.0.0", "10.0.0.1", "192.168.1.1",
     "::", "fe80::1", "127.1", "2130706433"],
)  # fmt: skip
def test_any_other_host_is_not_local(host: str) -> None:
    assert not urls.is_local_host(host)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://api.wiro.ai/v1", "https://api.wiro.ai/v1"),
        ("https://api.wiro.ai/v1/", "https://api.wiro.ai/v1"),
        ("https://api.wiro.ai//", "https://api.wiro.ai"),
        ("https://10.0.0.1:8443/v1", "https://10.0.0.1:8443/v1"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://[::1]:8000/v1/", "http://[::1]:8000/v1"),
        ("HTTPS://api.wiro.ai/v1", "HTTPS://api.wiro.ai/v1"),
    ],
)
def test_trailing_slashes_of_a_base_url_are_removed(url: str, kept: str) -> None:
    assert urls.check_url(url, "WIRO_BASE_URL") == kept


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is not a https:// URL"),
        ("api.wiro.ai/v1", "is not a https:// URL"),
        ("ftp://api.wiro.ai", "is not a https:// URL"),
        ("wss://api.wiro.ai", "is not a https:// URL"),
        ("https:///v1", "is not a https:// URL"),
        ("https://[::1", "is not a URL"),
        ("https://api.wiro.ai:99999", "is not a URL"),
        ("https://api.wiro.ai:port", "is not a URL"),
        ("https://me:you@api.wiro.ai", "no user, query or fragment"),
        ("https://me@api.wiro.ai", "no user, query or fragment"),
        ("https://@api.wiro.ai", "no user, query or fragment"),
        ("https://api.wiro.ai/v1?key=1", "no user, query or fragment"),
        ("https://api.wiro.ai/v1?", "no user, query or fragment"),
        ("https://api.wiro.ai/v1#top", "no user, query or fragment"),
        ("https://api.wiro.ai/v1#", "no user, query or fragment"),
        ("https://api.wiro.ai/v1\n", "is not a URL"),
        (" https://api.wiro.ai/v1", "is not a URL"),
        ("https://api wiro.ai/v1", "is not a URL"),
        ("https://api.wiro.ai\x00/v1", "is not a URL"),
        ("http://wiro.ai\\.localhost/v1", "is not a URL"),
        ("http://127.0.0.1\\@wiro.ai/v1", "is not a URL"),
        ("http://api.wiro.ai/v1", "in plain text"),
        ("http://10.0.0.1/v1", "in plain text"),
        ("http://127.0.0.1.wiro.ai/v1", "in plain text"),
    ],
)
def test_a_base_url_that_would_expose_the_key_is_refused(url: str, message: str) -> None:
    with pytest.raises(errors.InvalidBatch, match="WIRO_BASE_URL") as caught:
        urls.check_url(url, "WIRO_BASE_URL")
    assert message in caught.value.problems[0].message


def test_the_websocket_url_is_checked_in_the_same_way() -> None:
    schemes = ("wss", "ws")
    assert urls.check_url(protocol.SOCKET_URL, "WIRO_SOCKET_URL", schemes) == "wss://socket.wiro.ai/v1"
    assert urls.check_url("ws://127.0.0.1:1/v1", "WIRO_SOCKET_URL", schemes) == "ws://127.0.0.1:1/v1"
    for url in ("ws://socket.wiro.ai/v1", "https://socket.wiro.ai/v1"):
        with pytest.raises(errors.InvalidBatch, match="wss://"):
            urls.check_url(url, "WIRO_SOCKET_URL", schemes)


@given(st.text(max_size=40) | st.builds("http://{}/v1".format, st.text(max_size=20)))
def test_the_check_of_a_base_url_raises_no_other_exception(url: str) -> None:
    with contextlib.suppress(errors.InvalidBatch):
        assert urls.check_url(url, "WIRO_BASE_URL") == url.rstrip("/")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://api.wiro.ai/v1", "https://api.wiro.ai:443"),
        ("HTTPS://API.wiro.ai.:443/other", "https://api.wiro.ai:443"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://localhost", "http://localhost:80"),
        ("wss://socket.wiro.ai/v1", "wss://socket.wiro.ai:443"),
        ("ws://localhost", "ws://localhost:80"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert urls.origin(url) == origin


# Requests


PLAIN = parameters_of(Job(prompt="rain"), "")
FULL = parameters_of(
    Job(prompt="rain", negative_prompt="blur", resolution="720P", aspect_ratio="16:9", seed=7), "https://a.b/c.png"
)


def test_the_parameters_have_the_defaults_of_the_models_page() -> None:
    assert PLAIN == {
        "inputImageUrl": "",
        "prompt": "rain",
        "negativePrompt": "",
        "resolution": "480P",
        "aspectRatio": "Default",
        "seed": "42",
    }
    assert WAN.by_name["resolution"].choices == ("480P", "580P", "720P")
    assert WAN.by_name["aspect_ratio"].choices == ("Default", "16:9", "9:16", "1:1")


@pytest.mark.parametrize(
    ("request_", "path", "sent", "safe"),
    [
        (
            protocol.run_request(WAN, FULL),
            "/Run/Wan-AI/Wan2.2-TI2V-5B-Image-to-Video-Fast",
            {"inputImageUrl": "https://a.b/c.png", "prompt": "rain", "negativePrompt": "blur", "resolution": "720P",
             "aspectRatio": "16:9", "seed": "7"},
            False,
        ),
        (
            protocol.run_request(WAN, PLAIN, "https://me.example/hook/1"),
            "/Run/Wan-AI/Wan2.2-TI2V-5B-Image-to-Video-Fast",
            {"inputImageUrl": "", "prompt": "rain", "negativePrompt": "", "resolution": "480P",
             "aspectRatio": "Default", "seed": "42", "callbackUrl": "https://me.example/hook/1"},
            False,
        ),
        (protocol.detail_request(TASK, None), "/Task/Detail", {"taskid": "2221"}, True),
        (protocol.detail_request(None, TOKEN), "/Task/Detail", {"tasktoken": TOKEN}, True),
        (protocol.detail_request(TASK, TOKEN), "/Task/Detail", {"tasktoken": TOKEN}, True),
        (
            protocol.list_request(WAN),
            "/Task/List",
            {"type": "model", "sort": "id", "order": "DESC", "start": "0", "limit": "100",
             "modelName": "Wan-AI/Wan2.2-TI2V-5B-Image-to-Video-Fast"},
            True,
        ),
        (
            protocol.list_request(WAN, 40, 20),
            "/Task/List",
            {"type": "model", "sort": "id", "order": "DESC", "start": "40", "limit": "20",
             "modelName": "Wan-AI/Wan2.2-TI2V-5B-Image-to-Video-Fast"},
            True,
        ),
        (protocol.cancel_request(TASK), "/Task/Cancel", {"taskid": "2221"}, False),
        (protocol.kill_request(TASK, None), "/Task/Kill", {"taskid": "2221"}, False),
        (protocol.kill_request(None, TOKEN), "/Task/Kill", {"socketaccesstoken": TOKEN}, False),
        (protocol.delete_request(TOKEN), "/Task/InputOutputDelete", {"tasktoken": TOKEN}, True),
        (
            protocol.tool_request(WAN),
            "/Tool/Detail",
            {"slugowner": "Wan-AI", "slugproject": "Wan2.2-TI2V-5B-Image-to-Video-Fast"},
            True,
        ),
    ],
)  # fmt: skip
def test_a_request_has_the_path_and_body_that_the_service_expects(
    request_: protocol.Request, path: str, sent: dict[str, str], safe: bool
) -> None:
    assert (request_.path, dict(request_.body), request_.safe) == (path, sent, safe)
    assert all(isinstance(value, str) for value in request_.body.values())


def test_no_repr_shows_a_tasks_token() -> None:
    answer = answers.parse_answer(page("model_page_run.json"))
    detail = answers.parse_answer(page("model_page_detail.json"))
    judged = answers.judge_run(200, page("model_page_run.json"))
    hint = notification_messages.parse_message(body(type="task_start", id="1", tasktoken=TOKEN))
    for thing in (answer, detail, detail.tasklist[0], judged, hint, protocol.detail_request(None, TOKEN)):
        assert TOKEN not in repr(thing)


def test_a_subscription_names_the_task_by_its_token() -> None:
    assert json.loads(notification_messages.subscription(TOKEN)) == {"type": "task_info", "tasktoken": TOKEN}


# The samples of the model's page


def test_the_sample_answer_to_run_is_an_accepted_task() -> None:
    assert answers.judge_run(200, page("model_page_run.json")) == Accepted(TASK, TOKEN)


def test_the_sample_task_detail_is_a_finished_task() -> None:
    answer = answers.read_answer(200, page("model_page_detail.json"))
    (task,) = answer.tasklist
    assert (answer.result, answer.total, answer.errors) == (True, 1, [])
    assert (task.id, task.socketaccesstoken, task.status) == (TASK, TOKEN, "task_postprocess_end")
    assert task.uuid == "15bce51f-442f-4f44-a71d-13c6374a62bd"
    assert (task.parameters, task.pexit, task.totalcost, task.cps) == ({}, None, None, None)
    assert (task.createtime, task.starttime, task.endtime, task.elapsedseconds) == (
        1734513807.0, 1734513809.0, 1734513813.0, 6.0,
    )  # fmt: skip
    assert ending(task) is Ending.SUCCEEDED  # no pexit, but an output
    (output,) = task.outputs
    assert (output.id, output.name, output.contenttype, output.size) == (
        "6bc392c93856dfce3a7d1b4261e15af3", "0.png", "image/png", 202472,
    )  # fmt: skip
    assert output.url.startswith("https://cdn1.wiro.ai/6a6af820-")
    assert output.url.endswith("/0.png")
    kept = task.model_extra or {}
    assert (kept["postprocessendtime"], kept["canceltime"], kept["size"]) == ("1734513814", "0", "202472")
    assert (output.model_extra or {})["accesskey"] == "dFKlMApaSgMeHKsJyaDeKrefcHahUK"


@pytest.mark.parametrize("name", ["model_page_kill.txt", "model_page_cancel.txt"])
def test_a_sample_that_is_not_json_is_refused_as_unparsable(name: str) -> None:
    with pytest.raises(Unparsable, match="Invalid JSON"):
        answers.parse_answer(page(name))
    with pytest.raises(errors.TryLater, match="could not be read"):
        answers.read_answer(200, page(name))
    assert isinstance(answers.judge_run(200, page(name)), Unclear)


def test_raw_is_the_task_as_it_was_sent_and_hides_its_token() -> None:
    sent = {
        "id": 2221,
        "socketaccesstoken": TOKEN,
        "totalcost": "0.0035",
        "outputs": '[{"name": "0.mp4", "size": "1024"}]',
        "parameters": {"seed": "42", "tasktoken": str(TOKEN)},
        "novelty": [1, None, {"links": ["a", str(TOKEN)]}],
    }
    body = json.dumps({"result": True, "tasklist": ["odd", {"id": "1"}, sent]}).encode()
    first, task = answers.read_answer(200, body).tasklist
    assert first.raw == {"id": "1"}
    assert task.raw == sent
    assert TOKEN not in repr(task.raw)
    assert TOKEN not in repr(task.model_copy(update={"extra": 1}).raw)
    assert (task.totalcost, task.outputs[0].size) == (3500, 1024)
    assert TaskDetail.model_validate({"id": "1", "novelty": 2}).raw == {"id": "1", "novelty": 2}


@pytest.mark.parametrize(("name", "task_id"), [("model_page_kill.txt", "534574"), ("model_page_cancel.txt", "634574")])
def test_the_same_sample_repaired_is_a_cancelled_task_with_a_cost(name: str, task_id: str) -> None:
    (task,) = answers.read_answer(200, repaired(page(name))).tasklist
    assert (task.id, task.status, task.pexit) == (task_id, "task_cancel", "0")
    assert (task.cps, task.totalcost) == (585, 3510)
    assert ending(task) is Ending.CANCELLED
    assert str(task.parameters["inputImage"]).startswith("https://api.wiro.ai/v1/File/")
    assert len(task.outputs) == 1
    kept = task.model_extra or {}
    assert json.loads(kept["categories"]) == ["tool", "image-to-image", "quick-showcase", "compare-landscape"]
    assert kept["guestid"] is None


# Tolerance


def task_of(**fields: Any) -> TaskDetail:
    (task,) = answers.parse_answer(body(result=True, tasklist=[fields])).tasklist
    return task


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"id": 2221}, {"id": "2221"}),
        ({"id": 2221.0}, {"id": "2221"}),
        ({"pexit": "0"}, {"pexit": "0"}),
        ({"pexit": 0}, {"pexit": "0"}),
        ({"pexit": 137}, {"pexit": "137"}),
        ({"pexit": ""}, {"pexit": None}),
        ({"pexit": None}, {"pexit": None}),
        ({}, {"pexit": None, "outputs": [], "totalcost": None, "parameters": {}, "createtime": None}),
        ({"totalcost": "0.003510000000"}, {"totalcost": 3510}),
        ({"totalcost": 0.00351}, {"totalcost": 3510}),
        ({"totalcost": "0"}, {"totalcost": 0}),
        ({"totalcost": None}, {"totalcost": None}),
        ({"totalcost": "free"}, {"totalcost": None}),
        ({"totalcost": "1e99999999999"}, {"totalcost": None}),
        ({"totalcost": [1]}, {"totalcost": None}),
        ({"elapsedseconds": "6.0000"}, {"elapsedseconds": 6.0}),
        ({"elapsedseconds": 6}, {"elapsedseconds": 6.0}),
        ({"elapsedseconds": "NaN"}, {"elapsedseconds": None}),
        ({"createtime": "0"}, {"createtime": 0.0}),
        ({"createtime": "soon"}, {"createtime": None}),
        ({"createtime": True}, {"createtime": None}),
        ({"parameters": {"prompt": "rain"}}, {"parameters": {"prompt": "rain"}}),
        ({"parameters": '{"prompt": "rain"}'}, {"parameters": {"prompt": "rain"}}),
        ({"parameters": []}, {"parameters": {}}),
        ({"parameters": "none"}, {"parameters": {}}),
        ({"parameters": None}, {"parameters": {}}),
        ({"outputs": None}, {"outputs": []}),
        ({"outputs": ""}, {"outputs": []}),
        ({"outputs": "[]"}, {"outputs": []}),
        ({"outputs": [{"url": "u", "size": "5"}]}, {"outputs": [Output(url="u", size=5)]}),
        ({"outputs": '[{"url": "u", "size": 5}]'}, {"outputs": [Output(url="u", size=5)]}),
        ({"outputs": [None, {"url": "u", "size": -1}]}, {"outputs": [Output(url="u", size=None)]}),
        ({"status": None}, {"status": ""}),
        ({"debugerror": {"a": 1}}, {"debugerror": ""}),
        ({"debugoutput": None}, {"debugoutput": ""}),
    ],
)
def test_a_task_is_read_from_every_representation(written: dict[str, Any], read: dict[str, Any]) -> None:
    task = task_of(**written)
    assert {name: getattr(task, name) for name in read} == read


def test_unknown_fields_are_kept_at_every_level() -> None:
    answer = answers.parse_answer(
        body(result=True, novel=1, tasklist=[{"id": "1", "moon": "full", "outputs": [{"x": 2}]}])
    )
    assert (answer.model_extra or {})["novel"] == 1
    assert (answer.tasklist[0].model_extra or {})["moon"] == "full"
    assert (answer.tasklist[0].outputs[0].model_extra or {})["x"] == 2


@pytest.mark.parametrize("name", ["code", "message", "model_config", "__class__", "__dict__", "files", "model_extra"])
def test_an_unknown_field_never_replaces_a_known_one(name: str) -> None:
    answer = answers.parse_answer(body(**{"result": False, "errors": [{"code": 97, "message": "no"}], name: "x"}))
    assert (answer.code, answer.message, answer.files) == (97, "no", [])


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (True, True), (False, False), (None, None), (1, True), (0, False), ("true", True), ("false", False),
        ("1", True), ("0", False), ("ok", None), ("", None), (2, None), ({}, None), ([], None), (math.nan, None),
    ],
)  # fmt: skip
def test_a_result_that_is_not_a_boolean_is_unknown(written: object, read: bool | None) -> None:
    assert answers.parse_answer(body(result=written, taskid="5")).result is read
    assert answers.judge_run(200, body(result=written, taskid="5")) == Accepted(TaskId("5"), None)


@pytest.mark.parametrize(
    ("written", "code", "message"),
    [
        ([], None, ""),
        (None, None, ""),
        ([{"code": 97, "message": "no money"}], 97, "no money"),
        ([{"code": "97", "message": "no money"}], 97, "no money"),
        ([{"code": "97.0", "message": "no money"}], 97, "no money"),
        (["no money"], 0, "no money"),
        ("no money", 0, "no money"),
        ({"code": 97, "message": "no money"}, 97, "no money"),
        ('[{"code": 97, "message": "no money"}]', 97, "no money"),
        ([{"message": "no money"}], 0, "no money"),
        ([{"code": None, "message": None}], 0, ""),
        ([{"code": "E1", "message": "no money"}], 0, "no money"),
        ([{"code": math.nan, "message": "no money"}], 0, "no money"),
        ([{"code": 0, "message": "first"}, {"code": 96, "message": "second"}], 96, "first; second"),
        ([None, 5], 0, "5"),
        ([{"code": 1, "message": "x" * 600}], 1, "x" * 500),
    ],
)
def test_errors_are_read_from_every_representation(written: object, code: int, message: str) -> None:
    answer = answers.parse_answer(body(result=False, errors=written))
    assert (answer.code, answer.message) == (code, message)


def test_an_upload_and_a_list_are_read() -> None:
    answer = answers.read_answer(
        200, body(result=True, list=[{"id": 7, "name": "a.png", "contenttype": "image/png", "size": "12", "url": "u"}])
    )
    (file,) = answer.files
    assert (file.id, file.name, file.contenttype, file.size, file.url) == ("7", "a.png", "image/png", 12, "u")
    listed = answers.read_answer(200, body(result=True, total="2", tasklist=[{"id": "2"}, {"id": "1"}]))
    assert (listed.total, [task.id for task in listed.tasklist]) == (2, ["2", "1"])
    assert answers.read_answer(200, body(result=True, tasklist=None)).tasklist == []


@pytest.mark.parametrize(
    "junk",
    [b"", b"<html>502</html>", b"[]", b'"text"', b"null", b"7", b'{"result": true', b'{"result": true}}', b"\xff\xfe",
     b'{"a": "\\ud800"}}', b"[" * 100_000, b'{"a":' * 100_000, b'{"taskid": ' + b"9" * 5_000 + b"}"],
    ids=range(13),
)  # fmt: skip
def test_a_body_that_is_not_an_answer_is_unparsable(junk: bytes) -> None:
    with pytest.raises(Unparsable):
        answers.parse_answer(junk)


# Amounts


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("0.003510000000", 3510), (0.05, 50_000), ("0.05", 50_000), (" 1 ", 1_000_000), (3, 3_000_000), ("0", 0),
        ("-0.5", -500_000), ("1e-3", 1_000), ("0.0000005", 0), ("0.0000015", 2), (Decimal("2.5"), 2_500_000),
        (None, None), (True, None), (False, None), ("", None), ("free", None), ("NaN", None), ("sNaN", None),
        ("inf", None), (math.inf, None), (math.nan, None), ("1e9", None), ("999999999.999999", 999_999_999_999_999),
        ("1e99999999999", None), ("-1e99999999999", None), ("1e-99999999999", 0), ([], None),
        ({}, None), (b"1", None),
    ],
)  # fmt: skip
def test_an_amount_is_read_as_micro_dollars(amount: object, expected: int | None) -> None:
    assert money.micros(amount) == expected


def test_an_out_of_range_number_is_not_an_amount() -> None:
    assert money.micros(10**5000) is None


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.00"), (50_000, "0.05"), (3510, "0.00351"), (1, "0.000001"), (1_000_000, "1.00"), (1_200_000, "1.20"),
     (-3510, "-0.00351")],
)  # fmt: skip
def test_an_amount_is_shown_exactly_with_two_decimals_at_least(amount: int, text: str) -> None:
    assert str(money.usd(amount)) == text


@given(st.integers(-(10**15) + 1, 10**15 - 1))
def test_micro_dollars_are_unchanged_after_a_round_trip_through_dollars(amount: int) -> None:
    shown = money.usd(amount)
    assert money.micros(shown) == amount
    assert money.micros(f"{shown:f}") == amount
    assert money.micros(f"{shown:.12f}") == amount
    exponent = shown.as_tuple().exponent
    assert isinstance(exponent, int)
    assert -6 <= exponent <= -2


# How a task ended

OUTPUTS = [{"url": "https://cdn1.wiro.ai/0.mp4"}]
RUNNING = [
    "task_queue", "task_accept", "task_preprocess_start", "task_preprocess_end", "task_assign", "task_start",
    "task_output", "task_output_full", "task_end", "task_postprocess_start", "task_error",
    "task_error_full", "task_stream_ready",
    "task_stream_end", "task_cost", "task_dreams_of_sheep", "", "TASK_CANCEL",
]  # fmt: skip


@pytest.mark.parametrize("status", RUNNING)
@pytest.mark.parametrize("pexit", ["0", "1", None])
def test_a_task_runs_until_a_terminal_status(status: str, pexit: str | None) -> None:
    task = task_of(status=status, pexit=pexit, outputs=OUTPUTS)
    assert task.status == status
    assert ending(task) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": "task_postprocess_end", "pexit": "0", "outputs": OUTPUTS}, Ending.SUCCEEDED),
        ({"status": "task_postprocess_end", "pexit": "0", "outputs": None}, Ending.SUCCEEDED),
        ({"status": "task_postprocess_end", "pexit": 0}, Ending.SUCCEEDED),
        ({"status": "task_postprocess_end", "pexit": 0.0}, Ending.SUCCEEDED),
        ({"status": "task_postprocess_end", "outputs": OUTPUTS}, Ending.SUCCEEDED),
        ({"status": "task_postprocess_end", "pexit": "", "outputs": OUTPUTS}, Ending.SUCCEEDED),
        ({"status": "task_postprocess_end", "pexit": None, "outputs": OUTPUTS}, Ending.SUCCEEDED),
        ({"status": "task_postprocess_end"}, Ending.UNDECIDED),
        ({"status": "task_postprocess_end", "pexit": "", "outputs": []}, Ending.UNDECIDED),
        ({"status": "task_postprocess_end", "pexit": "1", "outputs": OUTPUTS}, Ending.FAILED),
        ({"status": "task_postprocess_end", "pexit": 137}, Ending.FAILED),
        ({"status": "task_postprocess_end", "pexit": "-1"}, Ending.FAILED),
        ({"status": "task_cancel"}, Ending.CANCELLED),
        ({"status": "task_cancel", "pexit": "0", "outputs": OUTPUTS}, Ending.CANCELLED),
    ],
)
def test_a_terminal_status_determines_the_ending(fields: dict[str, Any], expected: Ending) -> None:
    assert ending(task_of(**fields)) is expected


# Answers to repeatable requests

AUTH_401 = "Project authorization is not founded."


@pytest.mark.parametrize(
    ("status", "answer", "kind", "message"),
    [
        (200, refusal(0, "Request parameter [prompt] required"), errors.JobFailed, "[prompt] required"),
        (200, refusal(0, "Request files [inputImage] required"), errors.JobFailed, "[inputImage] required"),
        (200, refusal(0, "Database has gone away"), errors.TryLater, "Database has gone away"),
        (200, body(result=False, errors=[]), errors.TryLater, "no reason given"),
        (200, body(result=False, errors=["Database has gone away"]), errors.TryLater, "Database"),
        (200, body(errors=[]), errors.TryLater, "no envelope"),
        (200, refusal(1, "There is no task yet."), errors.NotFound, "There is no task yet."),
        (200, refusal("1", "tool-not-accessible"), errors.NoSuchAddress, "tool-not-accessible"),
        (200, refusal(1, "Task is not in a cancellable state."), errors.NotFound, "cancellable"),
        (200, refusal(1, ""), errors.NotFound, "not found"),
        (200, refusal(96, "limit is 1 for a balance of 5"), errors.AtLimit, "limit is 1"),
        (200, refusal("96", ""), errors.AtLimit, "limit of concurrent tasks"),
        (200, refusal(97, "Insufficient balance"), errors.OutOfFunds, "Insufficient balance"),
        (200, refusal(97, ""), errors.OutOfFunds, "insufficient"),
        (200, refusal(98, "Please sign in"), errors.StopBatch, "Please sign in"),
        (200, refusal(99, "Bearer token expired"), errors.StopBatch, "expired"),
        (200, refusal(55, "Something new"), errors.JobFailed, "Something new"),
        (200, refusal(55, ""), errors.JobFailed, "55"),
        (401, refusal(0, AUTH_401), errors.StopBatch, AUTH_401),
        (401, body(result=False, errors=[AUTH_401]), errors.StopBatch, AUTH_401),
        (401, b"", errors.TryLater, "401"),
        (401, b"<html>", errors.TryLater, "401"),
        (401, refusal(0, "Project requires signature authentication."), errors.StopBatch, "can be switched"),
        (403, refusal(0, "Requested ip 1.2.3.4 is not allowed."), errors.StopBatch, "1.2.3.4"),
        (403, b"<!DOCTYPE html><title>Access\nDenied</title>", errors.TryLater, "403 with a web page (Access Denied)"),
        (404, b"<html>", errors.TryLater, "404"),
        (404, body(message="no Route matched"), errors.TryLater, "404"),
        (404, refusal(0, "Error parsing url."), errors.NoSuchAddress, "base URL"),
        (200, refusal(0, "task-not-founded"), errors.NotFound, "task-not-founded"),
        (200, refusal(0, "Task-not-exist."), errors.NotFound, "not-exist"),
        (200, refusal(0, "There is no task yet."), errors.NotFound, "no task yet"),
        (200, refusal(0, "Your account has been suspended. Ask us."), errors.StopBatch, "suspended"),
        (200, refusal(0, "Team spend limit has been reached"), errors.OutOfFunds, "spend limit"),
        (404, refusal(1, "There is no task yet."), errors.NotFound, "There is no task yet."),
        (404, refusal(0, ""), errors.NotFound, "not found"),
        (400, refusal(0, "bad"), errors.JobFailed, "bad"),
        (400, refusal(96, "limit"), errors.AtLimit, "limit"),
        (400, b"<html>", errors.TryLater, "400"),
        (413, b"<html>", errors.TryLater, "413"),
        (413, body(result=True), errors.JobFailed, "413"),
        (408, b"", errors.TryLater, "408"),
        (429, refusal(0, "slow down"), errors.TryLater, "rate limit"),
        (429, b"<html>", errors.TryLater, "rate limit"),
        (500, refusal(97, "no money"), errors.TryLater, "500"),
        (500, body(result=True), errors.TryLater, "500"),
        (502, b"<html>Bad Gateway</html>", errors.TryLater, "502"),
        (503, b"", errors.TryLater, "503"),
        (301, b"", errors.TryLater, "redirects"),
        (302, body(result=True), errors.TryLater, "redirects"),
        (200, b"<html>Welcome</html>", errors.TryLater, "a web page"),
        (200, b'{"result": true, "tas', errors.TryLater, "could not be read"),
        (204, b"", errors.TryLater, "an empty body"),
    ],
)
def test_a_failure_raises_the_error_for_what_to_do(
    status: int, answer: bytes, kind: type[errors.WanError], message: str
) -> None:
    with pytest.raises(errors.WanError) as caught:
        answers.read_answer(status, answer, 7.0)
    assert type(caught.value) is kind
    assert message in caught.value.message


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("answer", [refusal(0, AUTH_401)])
def test_refused_credentials_are_an_authentication_error(status: int, answer: bytes) -> None:
    with pytest.raises(errors.StopBatch) as caught:
        answers.read_answer(status, answer)
    assert caught.value.authentication


@pytest.mark.parametrize("code", [98, 99])
def test_a_missing_sign_in_is_an_authentication_error(code: int) -> None:
    with pytest.raises(errors.StopBatch) as caught:
        answers.read_answer(200, refusal(code, "no"))
    assert caught.value.authentication


def test_a_redirect_can_be_retried() -> None:
    with pytest.raises(errors.TryLater, match="redirects"):
        answers.read_answer(307, b"")


@pytest.mark.parametrize("status", [429, 408, 500, 503])
def test_the_error_contains_retry_after_and_status(status: int) -> None:
    with pytest.raises(errors.TryLater) as caught:
        answers.read_answer(status, b"", 7.0)
    assert (caught.value.after_seconds, caught.value.status, caught.value.sent) == (7.0, status, True)


@pytest.mark.parametrize(
    "answer",
    [
        body(result=True),
        body(result="true", errors=[]),
        body(result=True, errors=[{"code": 0, "message": "a remark"}]),
        body(tasklist=[{"id": "1"}]),
    ],
)
def test_an_answer_without_a_failure_is_returned(answer: bytes) -> None:
    assert isinstance(answers.read_answer(200, answer), Answer)


# Answers to Run


@pytest.mark.parametrize("status", [200, 201, 302, 400, 401, 429, 500, 502])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"result": True, "errors": [], "taskid": "2221", "socketaccesstoken": "tok"}, ("2221", "tok")),
        ({"result": True, "taskid": 2221, "socketaccesstoken": "tok"}, ("2221", "tok")),
        ({"result": True, "taskid": 2221.0}, ("2221", None)),
        ({"result": True, "taskid": "2221"}, ("2221", None)),
        ({"result": True, "socketaccesstoken": "tok"}, (None, "tok")),
        ({"result": True, "taskid": None, "socketaccesstoken": "tok"}, (None, "tok")),
        ({"result": True, "taskid": "0", "socketaccesstoken": "tok"}, (None, "tok")),
        ({"result": False, "errors": [{"code": 97, "message": "no"}], "taskid": "2221"}, ("2221", None)),
        ({"taskid": "2221"}, ("2221", None)),
    ],
)
def test_an_answer_to_run_with_a_task_is_accepted_regardless_of_its_other_fields(
    status: int, answer: dict[str, Any], expected: tuple[str | None, str | None]
) -> None:
    judged = answers.judge_run(status, json.dumps(answer).encode())
    assert isinstance(judged, Accepted)
    assert (judged.task_id, judged.token) == expected


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (400, refusal(0, "Database has gone away"), errors.JobFailed),
        (400, refusal(96, "limit"), errors.AtLimit),
        (400, body(result=True), errors.JobFailed),
        (401, refusal(0, AUTH_401), errors.StopBatch),
        (403, refusal(0, "Requested ip 1.2.3.4 is not allowed."), errors.StopBatch),
        (404, refusal(1, "tool-not-accessible"), errors.StopBatch),
        (429, refusal(0, "slow down"), errors.TryLater),
        (413, refusal(0, "too large"), errors.JobFailed),
        (404, refusal(0, "Error parsing url."), errors.StopBatch),
        *[
            (200, refusal(0, text), kind)
            for text, kind in [
                ("Your account has been suspended. Please contact support.", errors.StopBatch),
                ("your account has been SUSPENDED", errors.StopBatch),
                ("You don't have any permission for this action.", errors.StopBatch),
                ("You don\u2019t have any permission for this action", errors.StopBatch),
                ("This model is not available for your team", errors.StopBatch),
                ("This model is not allowed in your team. Ask its owner.", errors.StopBatch),
                ("Team spend limit has been reached", errors.OutOfFunds),
                ("Your personal spend limit in this team has been reached.", errors.OutOfFunds),
                ("Please sign in to run this model.", errors.StopBatch),
                ("Request parameters are invalid.", errors.JobFailed),
            ]
        ],
        (200, refusal(98, "Sign in to run this model"), errors.StopBatch),
        (200, refusal(1, "slug-owner-project-not-exist"), errors.StopBatch),
        (200, refusal(1, "tool-not-accessible"), errors.StopBatch),
        (200, refusal(96, "limit"), errors.AtLimit),
        (200, refusal("96", "limit"), errors.AtLimit),
        (200, refusal(97, "no money"), errors.OutOfFunds),
        (200, refusal(98, "sign in"), errors.StopBatch),
        (200, refusal(99, "token"), errors.StopBatch),
        (200, refusal(55, "Something new"), errors.JobFailed),
        (200, refusal(0, "Request parameter [prompt] required"), errors.JobFailed),
        (200, refusal(0, "Request files [inputImage] required"), errors.JobFailed),
        (200, body(result=False, errors=["Request parameter [prompt] required"]), errors.JobFailed),
        (200, body(result="false", errors=[{"code": 97, "message": "no money"}]), errors.OutOfFunds),
        (200, body(result=False, errors=[{"code": 97}], taskid=None, socketaccesstoken=""), errors.OutOfFunds),
        (200, body(result=False, errors=[{"code": 97}], taskid=False), errors.OutOfFunds),
        (200, body(result=False, errors=[{"code": 97}], taskid="0"), errors.OutOfFunds),
        (200, body(result=False, errors=[{"code": 96}], taskid=0, socketaccesstoken=""), errors.AtLimit),
    ],
)
def test_a_definite_refusal_of_run_means_that_no_task_exists(
    status: int, answer: bytes, kind: type[errors.WanError]
) -> None:
    judged = answers.judge_run(status, answer, 7.0)
    assert isinstance(judged, Refused)
    assert type(judged.error) is kind


def test_a_rate_limited_run_has_the_time_to_wait() -> None:
    judged = answers.judge_run(429, refusal(0, "slow down"), 7.0)
    assert isinstance(judged, Refused)
    assert isinstance(judged.error, errors.TryLater)
    assert judged.error.after_seconds == 7.0


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, b""),
        (200, b"<html>Welcome</html>"),
        (200, b'{"result": true, "errors": [], "taskid": "2221", "socketacc'),
        (200, b'{"result": false, "errors": [{"code": 97, "mess'),
        (200, body(result=True)),
        (200, body(result=True, taskid="")),
        (200, body(result=True, taskid=True)),
        (200, body(result=True, taskid=math.nan)),
        (200, body(result=True, taskid=[], socketaccesstoken={})),
        (200, body(result=True, errors=[{"code": 97, "message": "no money"}])),
        (200, body(result=False)),
        (200, body(result=False, errors=[])),
        (200, body(errors=[{"code": 97, "message": "no money"}])),
        (200, refusal(0, "Database has gone away")),
        (200, refusal(0, "The Request parameter store is down")),
        (200, refusal(None, "")),
        (200, body(result=False, errors=["Database has gone away"])),
        (201, refusal(97, "no money")),
        (204, b""),
        (402, b"<html>"),
        (405, b"<html>"),
        (408, b""),
        (408, refusal(0, "Request parameter [prompt] required")),
        (409, refusal(1, "conflict")),
        (500, b"<html>"),
        (500, refusal(97, "no money")),
        (500, refusal(0, "Request parameter [prompt] required")),
        (502, b"<html>Bad Gateway</html>"),
        (503, refusal(96, "limit")),
        (504, b""),
    ],
)
def test_any_other_answer_to_run_is_unclear(status: int, answer: bytes) -> None:
    judged = answers.judge_run(status, answer)
    assert isinstance(judged, Unclear)
    assert f"HTTP {status}" in judged.reason


@pytest.mark.parametrize(
    ("status", "answer", "proofs"),
    [
        (200, refusal(0, "Something is wrong with your plan"), 2),
        *[(status, b"<html><title>Blocked</title>", 5) for status in (301, 307, 400, 401, 403, 404, 413, 429)],
        *[(status, body(message="no Route matched"), 5) for status in (302, 401, 403, 404)],
        (403, b"", 5),
        (200, refusal(0, ""), 20),
        (200, b"<html>", 20),
        (408, b"", 20),
        (502, b"<html>", 20),
        (500, refusal(0, "Request parameter [prompt] required"), 20),
    ],
)
def test_the_proofs_of_absence_required_depend_on_the_answer(status: int, answer: bytes, proofs: int) -> None:
    judged = answers.judge_run(status, answer)
    assert isinstance(judged, Unclear)
    assert judged.proofs == proofs


# Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("", None), (" ", None), ("soon", None), ("nan", None), ("inf", None), ("-inf", None),
        ("0", 0.0), ("7", 7.0), (" 7 ", 7.0), ("1.5", 1.5), ("-5", 0.0), ("31536000", 31_536_000.0), ("1e400", None),
        ("Wed, 18 Dec 2024 09:23:37 GMT", 10.0), ("Wed, 18 Dec 2024 10:23:37 +0100", 10.0),
        ("Wed, 18 Dec 2024 09:23:37 -0000", 10.0), ("Wed, 18 Dec 2024 09:23:17 GMT", 0.0),
        ("Thu, 18 Dec 2025 09:23:27 GMT", 31_536_000.0), ("Wed, 18 Dec 2024 99:99:99 GMT", None), ("2024-12-18", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None), ("Mon, 01 Jan 99999 00:00:00 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_read_as_seconds_from_now(value: str | None, seconds: float | None) -> None:
    assert retry.retry_after(value, 1734513807.0) == seconds


@given(
    st.text(max_size=60) | st.from_regex(r"(Mon, )?\d+ (Jan|Feb) \d+( \d+:\d+(:\d+)?)?( [+-]\d+| GMT)?", fullmatch=True)
)
def test_any_text_in_retry_after_is_handled(value: str) -> None:
    seconds = retry.retry_after(value, 1734513807.0)
    assert seconds is None or 0 <= seconds < 1e18


# Prices


def tool_of(prices: object, **fields: Any) -> Tool:
    (tool,) = answers.read_answer(200, body(result=True, tool=[{"dynamicprice": prices, **fields}])).tool
    return tool


def entry(price: object, method: str, **inputs: object) -> dict[str, object]:
    return {"inputs": inputs, "price": price, "priceMethod": method}


@pytest.mark.parametrize(
    ("prices", "seconds", "expected"),
    [
        ([entry("0.05", "cpr")], None, 50_000),
        ([entry(0.05, "cpo")], None, 50_000),
        ([entry("0.001", "cps")], 6.0, 6_000),
        ([entry("0.000001", "cps")], 1.5, 2),  # rounded up, since it is reserved in a budget
        ([entry("0.001", "cps")], None, 777),
        ([entry(None, "cps")], 6.0, 777),
        ([entry("0.01", "cp-outputVideoLength")], 6.0, 777),
        ([entry("0.01", "cp-moonPhase")], None, None),
        ([entry("0.01", "cpr") | {"priceExtra": "0.5"}], None, None),
        ([entry("0.05", "cpr", resolution="480P"), entry("0.10", "cpr", resolution="720P")], None, 50_000),
        ([entry("0.05", "cpr"), entry("0.03", "cpr", resolution="480P")], None, 50_000),
        ([entry("0.03", "cpr"), entry("0.05", "cpr", resolution="480P", seed=42)], None, 50_000),
        ([entry("0.05", "cpr", resolution="720P")], None, 777),
        ([entry("0.05", "cpr", moon="full")], None, 777),
        ([entry(None, "cpr")], None, None),
        ([entry("0.05", "cpr"), entry("?", "cpr")], None, None),
        ([{"inputs": None, "price": "0.05", "priceMethod": "cpr"}], None, 50_000),
        ([{"inputs": '{"resolution": "480P"}', "price": "0.05", "priceMethod": "cpr"}], None, 50_000),
        ([], None, 777),
        ([], 6.0, 3510),
        (None, 6.0, 3510),
        ("", 6.0, 3510),
        ("not json", None, 777),
    ],
)
@pytest.mark.parametrize("write", [lambda prices: prices, json.dumps], ids=["as it is", "as text"])
def test_the_estimate_is_the_expected_cost_of_one_task(
    prices: object, seconds: float | None, expected: int | None, write: Callable[[object], object]
) -> None:
    tool = tool_of(write(prices), cps="0.000585", approximatelycost="0.000777")
    assert tool.estimate(PLAIN, seconds) == expected


def test_without_a_matching_price_there_is_no_estimate() -> None:
    assert Tool().estimate(PLAIN, 6.0) is None
    assert tool_of([entry("0.05", "cpr", resolution="720P")]).estimate(PLAIN) is None
    assert tool_of([entry("0.01", "cp-outputVideoLength")]).estimate(PLAIN) is None


# WebSocket messages


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ({"type": "task_queue", "id": "534574", "tasktoken": "tok", "message": None, "result": True},
         Hint(TaskId("534574"), TaskToken("tok"), "task_queue")),
        ({"type": "task_start", "id": 534574}, Hint(TaskId("534574"), None, "task_start")),
        ({"type": "task_start", "tasktoken": "tok"}, Hint(None, TaskToken("tok"), "task_start")),
        ({"type": "task_output", "tasktoken": "tok", "message": "Loading weights"},
         Hint(None, TaskToken("tok"), "task_output")),
        ({"type": "task_output", "tasktoken": "tok", "message": {
            "type": "progressGenerate", "task": "Generate", "percentage": "42.5", "stepCurrent": "17",
            "stepTotal": "40", "speed": "1.2", "speedType": "it/s", "elapsedTime": "14", "remainingTime": "19"}},
         Hint(None, TaskToken("tok"), "task_output", 42.5)),
        ({"type": "task_output", "tasktoken": "tok", "message": '{"percentage": "6"}'},
         Hint(None, TaskToken("tok"), "task_output", 6.0)),
        ({"type": "task_output", "tasktoken": "tok", "message": {"percentage": 250}},
         Hint(None, TaskToken("tok"), "task_output", 100.0)),
        ({"type": "task_output", "tasktoken": "tok", "message": {"percentage": "-3"}},
         Hint(None, TaskToken("tok"), "task_output", 0.0)),
        ({"type": "task_output", "tasktoken": "tok", "message": {"percentage": "NaN"}},
         Hint(None, TaskToken("tok"), "task_output")),
        ({"type": "task_postprocess_end", "tasktoken": "tok", "message": [{"url": "u"}]},
         Hint(None, TaskToken("tok"), "task_postprocess_end", None, over=True)),
        ({"type": "task_cancel", "tasktoken": "tok"}, Hint(None, TaskToken("tok"), "task_cancel", None, over=True)),
        ({"type": "task_error", "tasktoken": "tok", "message": "Warning: slow"},
         Hint(None, TaskToken("tok"), "task_error")),
        ({"type": "task_error_full", "tasktoken": "tok"}, Hint(None, TaskToken("tok"), "task_error_full")),
        ({"type": "task_end", "tasktoken": "tok"}, Hint(None, TaskToken("tok"), "task_end")),
        ({"type": "task_novel", "tasktoken": "tok", "moon": 1}, Hint(None, TaskToken("tok"), "task_novel")),
        ({"tasktoken": "tok"}, Hint(None, TaskToken("tok"), "")),
    ],
)  # fmt: skip
def test_a_message_about_a_task_is_a_hint(message: dict[str, Any], hint: Hint) -> None:
    assert notification_messages.parse_message(json.dumps(message)) == hint
    assert notification_messages.parse_message(json.dumps(message).encode()) == hint


@pytest.mark.parametrize(
    "message",
    ['{"type":"connected","version":"1.0"}', '{"type":"task_info","id":"","tasktoken":null}', "", "hello", "[]", "null",
     "7", "\ud800", '{"type":"task_end","id":"1"', b"\x00\x01\x02", b"\xff\xfb\x90\x64", b"", "[" * 100_000,
     '{"id": ' + "9" * 5_000 + "}"],
    ids=range(14),
)  # fmt: skip
def test_a_greeting_or_an_invalid_message_is_no_hint(message: str | bytes) -> None:
    assert notification_messages.parse_message(message) is None


# Arbitrary input raises documented errors only

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None, True, False, 0, -1, 96, 97, 2**53, 10**400, 10**4000, 1e308, -0.0, math.nan, math.inf, -math.inf, "", "0",
        "97", "NaN", "-inf", "1e99999999999", "-1e-99999999999", "sNaN", "[" * 5000, '{"a":' * 5000, "9" * 5000,
        "\ud800",
        '"\\ud800"', "\x00", "task_postprocess_end", "task_cancel", "task_error", "cps", "cpr", "null", "[null]", "{}",
        "Request parameter", [], {}, [[]], [None], [{}],
    ]
)  # fmt: skip
KEYS = st.sampled_from(
    ["result", "errors", "code", "message", "taskid", "socketaccesstoken", "tasklist", "total", "list", "tool", "id",
     "outputs", "parameters", "status", "pexit", "totalcost", "cps", "size", "url", "dynamicprice", "inputs", "price",
     "priceMethod", "approximatelycost", "type", "tasktoken", "percentage", "resolution", "seed", "createtime",
     "\ud800"]
)  # fmt: skip
VALUES = st.recursive(
    ODD | st.text(max_size=5) | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5) | inner.map(json.dumps),
    max_leaves=12,
)
BODIES = (
    st.binary(max_size=60)
    | st.dictionaries(KEYS, VALUES, max_size=6).map(lambda fields: json.dumps(fields).encode())
    | st.builds(
        lambda fields, cut: json.dumps(fields).encode()[:cut],
        st.dictionaries(KEYS, VALUES, max_size=4),
        st.integers(0, 99),
    )
)
STATUSES = st.sampled_from([200, 204, 302, 400, 401, 403, 404, 408, 413, 429, 500, 502]) | st.integers(100, 599)


@given(STATUSES, BODIES)
@example(200, b'{"tasklist":[{"totalcost":"1e99999999999"}]}')
@example(200, b'{"tool":[{"dynamicprice":[{"inputs":{"seed":' + b"9" * 4300 + b'},"price":"1e999999999999"}]}]}')
@example(200, b'{"x":' + b"[" * 199 + b"]" * 199 + b"}")
def test_any_body_raises_documented_errors_only(status: int, data: bytes) -> None:
    with contextlib.suppress(Unparsable):
        answer = answers.parse_answer(data)
        for task in answer.tasklist:
            assert ending(task) is None or isinstance(ending(task), Ending)
        for tool in answer.tool:
            for seconds in (None, 6.5):
                estimate = tool.estimate(PLAIN, seconds)
                assert estimate is None or isinstance(estimate, int)
        assert repr(answer)
        answer.model_dump_json()
    judged = answers.judge_run(status, data, 1.0)
    assert isinstance(judged, Accepted | Refused | Unclear)
    if isinstance(judged, Refused):
        assert status in answers.DEFINITE_REFUSALS or status // 100 == 3 or status == 200
    with contextlib.suppress(errors.WanError):
        assert isinstance(answers.read_answer(status, data, 1.0), Answer)
        assert status < 300


@given(BODIES | BODIES.map(lambda data: data.decode(errors="replace")) | st.text(st.characters(), max_size=40))
def test_any_frame_can_be_parsed(frame: str | bytes) -> None:
    hint = notification_messages.parse_message(frame)
    assert hint is None or hint.task_id or hint.token
    assert hint is None or hint.percent is None or 0 <= hint.percent <= 100
