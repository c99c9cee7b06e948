"""The API over HTTP: the requests, which of them are retried, and what their callers get."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import respx
import trio
from anyio.abc import SocketAttribute, SocketStream
from harness import virtually
from pydantic import SecretStr
from sampling import sampled_product

from wan_async import errors
from wan_async.domain import prices
from wan_async.domain.job import Job, parameters_of
from wan_async.domain.remote_task import TaskId, TaskToken
from wan_async.http import retry
from wan_async.http.transport import StackTransport
from wan_async.wiro import answers, bodies
from wan_async.wiro import api as api_module
from wan_async.wiro.api import Api
from wan_async.wiro.bodies import InlineImage

pytestmark = pytest.mark.anyio

KEY, SECRET = "key-Nk3vQ8", "secret-Zt7bW2"
BASE = "http://127.0.0.1:9/v1"
NOW = 1734513807.25
NONCE = 1734513807250000
RUN = "/Run/Wan-AI/Wan2.2-TI2V-5B-Image-to-Video-Fast"
PARAMETERS = parameters_of(
    Job(prompt="rain", negative_prompt="blur", resolution="720P", aspect_ratio="16:9", seed=7), "https://a.b/c.png"
)
FORM = {
    "inputImageUrl": "https://a.b/c.png",
    "prompt": "rain",
    "negativePrompt": "blur",
    "resolution": "720P",
    "aspectRatio": "16:9",
    "seed": "7",
}
TASK, TOKEN = TaskId("2221"), TaskToken("eDcCm5yyUfIv")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 500

ACCEPTED = {"result": True, "errors": [], "taskid": "2221", "socketaccesstoken": TOKEN}
DETAIL = {"result": True, "errors": [], "tasklist": [{"id": "2221", "status": "task_start"}]}
UPLOADED = {"result": True, "list": [{"id": "1", "url": "https://cdn.wiro.ai/1.png"}]}

NOT_VALID = "Project authorization is not valid."

Script = httpx.Response | Exception | type[Exception]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Clock:
    """Replaces anyio's clock: a sleep returns at once, and is recorded."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        await anyio.lowlevel.checkpoint()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    class FakeAnyio:
        sleep = staticmethod(clock.sleep)
        current_time = staticmethod(lambda: clock.now)

    monkeypatch.setattr(api_module, "anyio", FakeAnyio)
    return clock


class Wiro(httpx.AsyncBaseTransport):
    """Answers by a script whose last answer is repeated, and records the requests."""

    def __init__(self, *script: Script) -> None:
        self.script = list(script) or [httpx.Response(200, json=ACCEPTED)]
        self.requests: list[httpx.Request] = []
        self.bodies: list[bytes] = []
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(await request.aread())
        self.requests.append(request)
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, httpx.Response):
            return answer
        raise answer

    async def aclose(self) -> None:
        self.closed = True


def answer(**fields: Any) -> httpx.Response:
    return httpx.Response(200, json=fields)


def refusal(code: int, message: str, status: int = 200, headers: dict[str, str] | None = None) -> httpx.Response:
    content = {"result": False, "errors": [{"code": code, "message": message}]}
    return httpx.Response(status, json=content, headers=headers)


def make(transport: httpx.AsyncBaseTransport | None = None, *, secret: str | None = SECRET, base: str = BASE) -> Api:
    hidden = None if secret is None else SecretStr(secret)
    return Api(SecretStr(KEY), hidden, base_url=base, transport=transport, clock=lambda: NOW, draw=lambda: 1.0)


def hmac_sha256(key: bytes, message: bytes) -> str:
    """HMAC as defined in RFC 2104, sharing no code with the code under test."""
    key = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).hexdigest()


def check_signed(request: httpx.Request) -> int:
    """Check the three headers of a signed request, and return its nonce."""
    nonce = request.headers["x-nonce"]
    assert request.headers["x-api-key"] == KEY
    assert request.headers["x-signature"] == hmac_sha256(KEY.encode(), (SECRET + nonce).encode())
    assert int(nonce) < 2**53
    return int(nonce)


def times_sent(error: errors.WanError) -> int:
    """How often a request without retries was sent: twice if the nonce may have caused the refusal."""
    return 2 if isinstance(error, errors.StopBatch) and error.nonce else 1


def parts_of(request: httpx.Request, body: bytes) -> dict[str, Message[str, str]]:
    """The parts of a multipart body by name, parsed with the standard library's email parser."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + body)
    assert message.get_content_type() == "multipart/form-data"
    found: dict[str, Message[str, str]] = {}
    for part in message.get_payload():
        assert isinstance(part, Message)
        name = part.get_param("name", header="content-disposition")
        assert isinstance(name, str)
        assert name not in found
        found[name] = part
    return found


def content_of(part: Message[str, str]) -> bytes:
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    return data


# The request of each endpoint

CALLS: list[tuple[Callable[[Api], Awaitable[object]], dict[str, Any], str, dict[str, str]]] = [
    (lambda api: api.run(PARAMETERS), ACCEPTED, RUN, FORM),
    (
        lambda api: api.run(PARAMETERS, callback_url="https://me.example/h"),
        ACCEPTED,
        RUN,
        FORM | {"callbackUrl": "https://me.example/h"},
    ),
    (lambda api: api.detail(TASK), DETAIL, "/Task/Detail", {"taskid": "2221"}),
    (lambda api: api.detail(TASK, TOKEN), DETAIL, "/Task/Detail", {"tasktoken": TOKEN}),
    (
        lambda api: api.list_tasks(40, 20),
        {"result": True, "total": "0", "tasklist": None},
        "/Task/List",
        {"type": "model", "sort": "id", "order": "DESC", "start": "40", "limit": "20",
         "modelName": "Wan-AI/Wan2.2-TI2V-5B-Image-to-Video-Fast"},
    ),
    (lambda api: api.cancel(TASK), DETAIL, "/Task/Cancel", {"taskid": "2221"}),
    (lambda api: api.kill(TASK), DETAIL, "/Task/Kill", {"taskid": "2221"}),
    (lambda api: api.kill(None, TOKEN), DETAIL, "/Task/Kill", {"socketaccesstoken": TOKEN}),
    (lambda api: api.delete_files(TOKEN), {"result": True}, "/Task/InputOutputDelete", {"tasktoken": TOKEN}),
    (
        lambda api: api.tool(),
        {"result": True, "tool": [{"cps": "0.000585"}]},
        "/Tool/Detail",
        {"slugowner": "Wan-AI", "slugproject": "Wan2.2-TI2V-5B-Image-to-Video-Fast"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "answered", "path", "sent"), CALLS)
async def test_a_call_is_one_signed_post_of_json(
    call: Callable[[Api], Awaitable[object]], answered: dict[str, Any], path: str, sent: dict[str, str]
) -> None:
    wiro = Wiro(answer(**answered))
    api = make(wiro)
    await call(api)
    (request,) = wiro.requests
    assert (request.method, str(request.url)) == ("POST", BASE + path)
    assert json.loads(wiro.bodies[0]) == sent
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept"] == "application/json"
    assert request.headers["accept-encoding"] == "gzip"
    assert request.headers["user-agent"] == "wan-async"
    assert check_signed(request) >= NONCE
    assert "authorization" not in request.headers
    assert "cookie" not in request.headers
    assert api.requests == 1


@pytest.mark.parametrize(("call", "answered", "path", "sent"), CALLS)
async def test_requests_of_a_key_only_project_are_unsigned(
    call: Callable[[Api], Awaitable[object]], answered: dict[str, Any], path: str, sent: dict[str, str]
) -> None:
    wiro = Wiro(answer(**answered))
    await call(make(wiro, secret=None))
    assert wiro.requests[0].headers["x-api-key"] == KEY
    assert not {"x-nonce", "x-signature"} & set(wiro.requests[0].headers)


async def test_an_empty_secret_counts_as_none() -> None:
    wiro = Wiro()
    await make(wiro, secret="").run(PARAMETERS)
    assert "x-signature" not in wiro.requests[0].headers


async def test_an_inline_image_is_sent_as_a_part_with_an_empty_url() -> None:
    wiro = Wiro()
    parameters = parameters_of(Job(prompt="Ein Bär, zögernd"), "")
    image = InlineImage(PNG, "image/png")
    await make(wiro).run(parameters, callback_url="https://me.example/h", image=image)
    (request,), (body,) = wiro.requests, wiro.bodies
    check_signed(request)
    assert str(request.url) == BASE + RUN
    assert int(request.headers["content-length"]) == len(body)
    parts = parts_of(request, body)
    file = parts.pop("inputImage")
    assert (file.get_content_type(), file.get_filename(), content_of(file)) == ("image/png", "image.png", PNG)
    assert {name: content_of(part).decode() for name, part in parts.items()} == {
        **parameters,
        "callbackUrl": "https://me.example/h",
    }
    assert content_of(parts["inputImageUrl"]) == b""
    assert all(part.get_filename() is None for part in parts.values())


async def test_an_upload_sends_the_file_in_one_part(tmp_path: Path) -> None:
    path = tmp_path / 'naïve "name".png'
    path.write_bytes(PNG)
    wiro = Wiro(answer(**UPLOADED))
    url = await make(wiro).upload(path, content_type="image/png", sha256=hashlib.sha256(PNG).hexdigest())
    assert url == "https://cdn.wiro.ai/1.png"
    (request,), (body,) = wiro.requests, wiro.bodies
    check_signed(request)
    assert (request.method, str(request.url)) == ("POST", BASE + "/File/Upload")
    assert int(request.headers["content-length"]) == len(body)
    parts = parts_of(request, body)
    assert list(parts) == ["file"]
    file = parts["file"]
    assert (file.get_content_type(), file.get_filename(), content_of(file)) == ("image/png", "image.png", PNG)


async def test_an_image_in_memory_is_uploaded_with_its_length() -> None:
    wiro = Wiro(answer(**UPLOADED))
    image = InlineImage(PNG, "image/png")
    await make(wiro).upload(image, content_type="image/png", sha256=hashlib.sha256(PNG).hexdigest())
    (request,), (body,) = wiro.requests, wiro.bodies
    assert int(request.headers["content-length"]) == len(body)
    assert content_of(parts_of(request, body)["file"]) == PNG


# Return values


async def test_a_receipt_holds_the_task_and_the_raw_answer() -> None:
    receipt = await make(Wiro(answer(**ACCEPTED))).run(PARAMETERS)
    assert receipt.accepted == answers.Accepted(TASK, TOKEN)
    assert json.loads(receipt.answer) == ACCEPTED
    assert TOKEN not in repr(receipt)


async def test_the_calls_return_the_answers_of_the_service() -> None:
    assert (await make(Wiro(answer(**DETAIL))).detail(TASK)).status == "task_start"
    for call in ("cancel", "kill"):
        task = await getattr(make(Wiro(answer(**DETAIL))), call)(TASK)
        assert (task.id, task.status) == ("2221", "task_start")
        assert await getattr(make(Wiro(answer(result=True))), call)(TASK) is None
    listed = await make(Wiro(answer(result=True, total="1", tasklist=[{"id": "5"}]))).list_tasks()
    assert [task.id for task in listed.tasklist] == ["5"]
    tool = await make(Wiro(answer(result=True, tool=[{"cps": "0.000585"}]))).tool()
    assert tool.cps == 585
    assert await make(Wiro(answer(result=True, tool=[]))).tool() == prices.Tool()


@pytest.mark.parametrize("status", [200, 404])
async def test_an_account_without_tasks_has_an_empty_list(status: int) -> None:
    listed = await make(Wiro(refusal(1, "There is no task yet.", status))).list_tasks()
    assert listed.tasklist == []


@pytest.mark.parametrize(
    "script",
    [refusal(1, "tool-not-accessible"), httpx.Response(404, html="<h1>"), httpx.Response(404, json={"message": "?"})],
)
async def test_a_list_that_cannot_be_read_is_an_error_and_not_an_empty_list(script: httpx.Response) -> None:
    with pytest.raises((errors.NoSuchAddress, errors.TryLater)):
        await make(Wiro(script)).list_tasks()


async def test_an_answer_without_the_task_means_not_found() -> None:
    with pytest.raises(errors.NotFound, match=r"holds no task \[task 2221\]"):
        await make(Wiro(answer(result=True, tasklist=[]))).detail(TASK)


async def test_an_answer_about_another_task_is_rejected() -> None:
    with pytest.raises(errors.TryLater, match=r"task 7 \[task 2221\]"):
        await make(Wiro(answer(result=True, tasklist=[{"id": 7}]))).detail(TASK)


@pytest.mark.parametrize("call", ["detail", "cancel", "kill"])
@pytest.mark.parametrize("script", [refusal(1, "There is no task yet."), httpx.Response(502, html="")])
async def test_an_error_about_a_task_contains_its_id(call: str, script: httpx.Response) -> None:
    with pytest.raises(errors.WanError, match=r"\[task 2221\]") as caught:
        await getattr(make(Wiro(script)), call)(TASK)
    assert caught.value.task_id == TASK


@pytest.mark.parametrize("answered", [{"result": True}, {"result": True, "list": [{"id": "1"}]}])
async def test_an_upload_answered_without_a_url_fails_the_job(tmp_path: Path, answered: dict[str, Any]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    with pytest.raises(errors.JobFailed, match="no URL") as caught:
        await make(Wiro(answer(**answered))).upload(path, content_type="image/png")
    assert caught.value.kind == "upload"


# Retries

TRANSIENT: list[Script] = [
    httpx.Response(429),
    httpx.Response(408),
    httpx.Response(500, json={"result": True}),
    httpx.Response(502, html="<h1>Bad Gateway</h1>"),
    httpx.Response(200, html="<h1>Welcome</h1>"),
    httpx.Response(200, content=b'{"result": true, "tas'),
    refusal(0, "Database has gone away"),
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("silence"),
    httpx.ReadError("reset"),
    httpx.WriteError("broken pipe"),
    httpx.RemoteProtocolError("cut"),
    httpx.StreamClosed(),
    ConnectionResetError("reset by peer"),
]
PERSISTENT: list[tuple[httpx.Response, type[errors.WanError]]] = [
    (refusal(0, "Request parameter [taskid] required"), errors.JobFailed),
    (refusal(1, "tool-not-accessible"), errors.NoSuchAddress),
    (refusal(96, "limit"), errors.AtLimit),
    (refusal(97, "no money"), errors.OutOfFunds),
    (refusal(99, "expired"), errors.StopBatch),
    (refusal(0, "Project authorization is not founded.", 401), errors.StopBatch),
    (refusal(0, NOT_VALID, 401), errors.StopBatch),
]
REPEATABLE: dict[str, tuple[Callable[[Api], Awaitable[object]], dict[str, Any]]] = {
    "detail": (lambda api: api.detail(TASK), DETAIL),
    "list": (lambda api: api.list_tasks(), {"result": True, "tasklist": []}),
    "delete": (lambda api: api.delete_files(TOKEN), {"result": True}),
    "tool": (lambda api: api.tool(), {"result": True, "tool": [{}]}),
    "upload": (lambda api: api.upload(Path(__file__), content_type="image/png"), UPLOADED),
}
ONCE: dict[str, Callable[[Api], Awaitable[object]]] = {
    "run": lambda api: api.run(PARAMETERS),
    "inline run": lambda api: api.run(PARAMETERS, image=InlineImage(PNG, "image/png")),
    "cancel": lambda api: api.cancel(TASK),
    "kill": lambda api: api.kill(TASK),
    "single detail": lambda api: api.detail(TASK, tries=1),
    "single list": lambda api: api.list_tasks(tries=1),
}


@pytest.mark.parametrize(("name", "fault"), sampled_product(3, REPEATABLE, TRANSIENT), ids=repr)
async def test_a_transient_fault_is_retried_with_a_new_signature(name: str, fault: Script, clock: Clock) -> None:
    call, answered = REPEATABLE[name]
    wiro = Wiro(fault, fault, answer(**answered))
    await call(make(wiro))
    nonces = [check_signed(request) for request in wiro.requests]
    assert nonces == sorted(set(nonces))
    assert len({request.headers["x-signature"] for request in wiro.requests}) == 3
    if name != "upload":  # each multipart body has its own boundary
        assert len(set(wiro.bodies)) == 1
    assert [pause for pause in clock.sleeps if pause >= 0.5][:2]


@pytest.mark.parametrize("name", REPEATABLE)
async def test_a_persistent_fault_is_raised_after_five_tries(name: str, clock: Clock) -> None:
    wiro = Wiro(httpx.Response(503))
    with pytest.raises(errors.TryLater, match="503"):
        await REPEATABLE[name][0](make(wiro))
    assert len(wiro.requests) == 5
    assert clock.sleeps == [0.25, 0.5, 1.0, 2.0]


@pytest.mark.parametrize("name", REPEATABLE)
@pytest.mark.parametrize(("fault", "kind"), PERSISTENT)
async def test_a_refusal_is_not_retried(
    name: str, fault: httpx.Response, kind: type[errors.WanError], clock: Clock
) -> None:
    wiro = Wiro(fault)
    with pytest.raises(errors.WanError) as caught:
        await REPEATABLE[name][0](make(wiro))
    about_upload = name == "upload" and kind not in (errors.AtLimit, errors.OutOfFunds) and NOT_VALID not in fault.text
    assert type(caught.value) is (errors.UploadRefused if about_upload else kind)
    assert len(wiro.requests) == times_sent(caught.value)
    assert clock.sleeps == []


@pytest.mark.parametrize(
    ("name", "fault"), sampled_product(5, ONCE, [*TRANSIENT, *(fault for fault, _ in PERSISTENT)]), ids=repr
)
async def test_run_cancel_and_kill_are_sent_once(name: str, fault: Script, clock: Clock) -> None:
    wiro = Wiro(fault)
    with pytest.raises(errors.WanError) as caught:
        await ONCE[name](make(wiro))
    assert len(wiro.requests) == times_sent(caught.value)
    assert clock.sleeps == []


@pytest.mark.parametrize("name", [*REPEATABLE, *ONCE])
async def test_a_nonce_that_another_process_used_is_replaced(name: str, clock: Clock) -> None:
    """Seen in the kill matrix: two processes with one key sent a request in the same microsecond; one batch stopped."""
    used = refusal(0, NOT_VALID, 401)
    call, answered = REPEATABLE.get(name) or (ONCE[name], DETAIL if "detail" in name else ACCEPTED)
    wiro = Wiro(used, answer(**answered))
    await call(make(wiro))
    first, second = (check_signed(request) for request in wiro.requests)
    assert second > first
    assert clock.sleeps == []


@pytest.mark.parametrize("name", [*REPEATABLE, *ONCE])
async def test_a_key_without_a_secret_has_no_nonce_to_replace(name: str) -> None:
    wiro = Wiro(refusal(0, NOT_VALID, 401))
    with pytest.raises(errors.StopBatch):
        await (ONCE.get(name) or REPEATABLE[name][0])(make(wiro, secret=None))
    assert len(wiro.requests) == 1


async def test_retry_after_is_obeyed_up_to_a_cap(clock: Clock) -> None:
    date = "Wed, 18 Dec 2024 09:23:47 GMT"  # 19.75 s after NOW
    for value, pause in [("7", 7.0), (date, 19.75), ("31536000", 300.0), ("nan", 0.25), ("never", 0.25), ("-1", 0.25)]:
        clock.sleeps.clear()
        await make(Wiro(httpx.Response(503, headers={"retry-after": value}), answer(**DETAIL))).detail(TASK)
        assert clock.sleeps == [pause]


async def test_nonces_are_unique_across_concurrent_requests_and_clients() -> None:
    wiro = Wiro(answer(**DETAIL))
    async with anyio.create_task_group() as group:
        for api in (make(wiro), make(wiro)):
            for _ in range(50):
                group.start_soon(api.detail, TASK)
    assert len({check_signed(request) for request in wiro.requests}) == 100


# Failures during Run

NOT_SENT = [
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
]
MAYBE_SENT = [
    httpx.ReadError,
    httpx.ReadTimeout,
    httpx.WriteError,
    httpx.WriteTimeout,
    httpx.CloseError,
    httpx.LocalProtocolError,
    httpx.RemoteProtocolError,
    httpx.DecodingError,
    httpx.TooManyRedirects,
]
UNEXPECTED: list[Exception] = [
    httpx.StreamClosed(),
    httpx.InvalidURL("?"),
    OSError("reset"),
    TimeoutError(),
    RuntimeError("a bug"),
    ExceptionGroup("several", [ValueError("one")]),
]


def leaf_subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    below = [sub for sub in kind.__subclasses__() if sub.__module__.split(".")[0] == "httpx"]
    for sub in below:
        yield from leaf_subclasses(sub)
    if not below:
        yield kind


def test_every_request_error_of_httpx_is_classified() -> None:
    assert set(leaf_subclasses(httpx.RequestError)) == {*NOT_SENT, *MAYBE_SENT}
    assert set(api_module.NOT_SENT) == set(NOT_SENT)


@pytest.fixture
def patched() -> Iterator[respx.MockRouter]:
    with respx.mock(assert_all_called=False) as router:
        yield router


@pytest.mark.parametrize("transport", [StackTransport, httpx.AsyncHTTPTransport])
@pytest.mark.parametrize("fault", NOT_SENT)
async def test_a_run_that_was_not_sent_can_be_retried(
    transport: Callable[[], httpx.AsyncBaseTransport], fault: type[Exception], patched: respx.MockRouter
) -> None:
    route = patched.post(BASE + RUN).mock(side_effect=fault)
    async with make(transport()) as api:
        with pytest.raises(errors.TryLater, match="no connection to the API: ") as caught:
            await api.run(PARAMETERS)
        with pytest.raises(errors.TryLater, match="no connection to the API: ") as also:
            patched.post(BASE + "/Task/Detail").mock(side_effect=fault)
            await api.detail(TASK, tries=1)
    assert route.call_count == 1
    assert not caught.value.sent
    assert not also.value.sent


@pytest.mark.parametrize("transport", [StackTransport, httpx.AsyncHTTPTransport])
@pytest.mark.parametrize("fault", MAYBE_SENT)
async def test_a_run_that_may_have_been_sent_is_ambiguous(
    transport: Callable[[], httpx.AsyncBaseTransport], fault: type[Exception], patched: respx.MockRouter
) -> None:
    route = patched.post(BASE + RUN).mock(side_effect=fault)
    async with make(transport()) as api:
        with pytest.raises(errors.Ambiguous, match=fault.__name__) as caught:
            await api.run(PARAMETERS)
        with pytest.raises(errors.TryLater) as other:
            patched.post(BASE + "/Task/Detail").mock(side_effect=fault)
            await api.detail(TASK, tries=1)
    assert route.call_count == 1
    assert caught.value.parameters == FORM
    assert other.value.sent


class RetryingTransport(httpx.AsyncHTTPTransport):
    """A caller's transport that retries by itself, and raises the exception of the last try only."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with contextlib.suppress(httpx.ReadError):
            raise httpx.ReadError("the first try, which was sent")
        raise httpx.ConnectError("the second try")


@pytest.mark.parametrize("fault", [*NOT_SENT, *MAYBE_SENT])
async def test_with_an_untested_transport_every_failure_of_run_is_ambiguous(fault: type[Exception]) -> None:
    wiro = Wiro(fault("?"))
    with pytest.raises(errors.Ambiguous, match=fault.__name__) as caught:
        await make(wiro).run(PARAMETERS)
    assert caught.value.parameters == FORM
    with pytest.raises(errors.TryLater) as other:
        await make(wiro).detail(TASK, tries=1)
    assert other.value.sent


async def test_a_subclass_of_a_tested_transport_counts_as_untested() -> None:
    async with make(RetryingTransport()) as api:
        with pytest.raises(errors.Ambiguous, match="ConnectError"):
            await api.run(PARAMETERS)


@pytest.mark.parametrize("fault", UNEXPECTED, ids=repr)
async def test_any_other_exception_during_run_is_ambiguous(fault: Exception) -> None:
    with pytest.raises(errors.Ambiguous) as caught:
        await make(Wiro(fault)).run(PARAMETERS)
    assert caught.value.parameters == FORM


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (refusal(96, "limit"), errors.AtLimit),
        (refusal(97, "no money"), errors.OutOfFunds),
        (refusal(0, "Request parameter [prompt] required"), errors.JobFailed),
        (refusal(1, "tool-not-accessible"), errors.StopBatch),
        (refusal(0, "slow down", 429, {"retry-after": "9"}), errors.TryLater),
        (httpx.Response(429, headers={"retry-after": "9"}), errors.Ambiguous),
        (httpx.Response(403, html="<h1>Blocked</h1>"), errors.Ambiguous),
        (httpx.Response(307, headers={"location": "https://evil.example/"}), errors.Ambiguous),
        (refusal(0, "Database has gone away"), errors.Ambiguous),
        (httpx.Response(500, json={"result": False, "errors": [{"code": 97, "message": "no"}]}), errors.Ambiguous),
        (httpx.Response(200, html="<h1>Welcome</h1>"), errors.Ambiguous),
        (httpx.Response(200, json={"result": True}), errors.Ambiguous),
    ],
)
async def test_an_answer_to_run_raises_the_error_for_what_to_do(
    script: httpx.Response, kind: type[errors.WanError]
) -> None:
    with pytest.raises(errors.WanError) as caught:
        await make(Wiro(script)).run(PARAMETERS)
    assert type(caught.value) is kind
    if isinstance(caught.value, errors.Ambiguous):
        assert caught.value.parameters == FORM


async def test_an_answer_with_a_task_is_accepted_even_with_status_500() -> None:
    receipt = await make(Wiro(httpx.Response(500, json={"taskid": 2221}))).run(PARAMETERS)
    assert receipt.accepted == answers.Accepted(TASK, None)


async def test_parameters_that_cannot_be_encoded_fail_the_job_before_sending() -> None:
    wiro = Wiro()
    with pytest.raises(errors.JobFailed, match="can't be sent"):
        await make(wiro).run(parameters_of(Job(prompt="half a pair: \ud800"), ""))
    assert wiro.requests == []


@pytest.mark.parametrize(("name", "status"), sampled_product(3, [*REPEATABLE, *ONCE], [301, 302, 303, 307, 308]))
async def test_no_redirect_is_followed(name: str, status: int) -> None:
    wiro = Wiro(httpx.Response(status, headers={"location": "https://evil.example/"}), answer(**(ACCEPTED | DETAIL)))
    call = ONCE.get(name) or REPEATABLE[name][0]
    with contextlib.suppress(errors.WanError):  # a repeatable request is retried, and then answered
        await call(make(wiro))
    assert {request.url.host for request in wiro.requests} == {"127.0.0.1"}
    assert len(wiro.requests) == (1 if name in ONCE else 2)


# Answers that are too large


class Chunks(httpx.AsyncByteStream):
    """A body in pieces, which counts how many were read."""

    def __init__(self, chunks: Iterable[bytes], fault: Exception | None = None) -> None:
        self.chunks = chunks
        self.fault = fault
        self.taken = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            self.taken += 1
            yield chunk
        if self.fault is not None:
            raise self.fault

    async def aclose(self) -> None:
        self.closed = True


def streamed(chunks: Iterable[bytes], encoding: str = "") -> httpx.Response:
    return httpx.Response(200, headers={"content-encoding": encoding} if encoding else {}, stream=Chunks(chunks))


async def test_a_run_whose_answer_is_cut_off_is_ambiguous() -> None:
    half = Chunks([b'{"result": true, "taskid": "22'], httpx.ReadError("cut"))
    with pytest.raises(errors.Ambiguous, match="ReadError"):
        await make(Wiro(httpx.Response(200, stream=half))).run(PARAMETERS)
    assert half.closed


def padded(length: int) -> bytes:
    head, tail = b'{"result": true, "tasklist": [{"id": "2221"}], "x": "', b'"}'
    return head + b"x" * (length - len(head) - len(tail)) + tail


async def test_an_answer_of_the_maximum_size_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "ANSWER_LIMIT_BYTES", 1000)
    for data in (padded(1000), gzip.compress(padded(1000))):
        encoding = "gzip" if data[:1] == b"\x1f" else "identity"
        whole = httpx.Response(200, headers={"content-encoding": encoding}, content=data)
        assert (await make(Wiro(whole)).detail(TASK)).id == TASK
        chunks = [data[at : at + 7] for at in range(0, len(data), 7)]
        assert (await make(Wiro(streamed(chunks, encoding))).detail(TASK)).id == TASK


def bomb(layers: int) -> bytes:
    data = b"\0" * 2**22
    for _ in range(layers):
        data = gzip.compress(data)
    return data


@pytest.mark.parametrize(
    ("make_answer", "message"),
    [
        (lambda: streamed([b"x" * 2**16] * 17), "more than 1048576 bytes"),
        (lambda: streamed([bomb(1)], "gzip"), "more than 1048576 bytes"),
        (lambda: streamed([bomb(1)], "X-GZip"), "more than 1048576 bytes"),
        (lambda: streamed([bomb(2)], "gzip, gzip"), "packed as 'gzip, gzip'"),
        (lambda: streamed([b"?"], "br"), "packed as 'br'"),
        (lambda: streamed([b"no gzip"], "gzip"), "broken"),
    ],
    ids=["plain", "bomb", "bomb by another name", "bomb in a bomb", "not requested", "broken"],
)
async def test_an_answer_that_is_too_large_or_undecodable_is_a_clear_error(
    make_answer: Callable[[], httpx.Response], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "ANSWER_LIMIT_BYTES", 2**20)
    with pytest.raises(errors.TryLater, match=message):
        await make(Wiro(make_answer())).detail(TASK, tries=1)
    with pytest.raises(errors.Ambiguous, match=message):
        await make(Wiro(make_answer())).run(PARAMETERS)


async def test_an_endless_answer_is_abandoned_and_closed() -> None:
    endless = Chunks(itertools.repeat(b"x" * 2**20))
    with pytest.raises(errors.TryLater, match="more than"):
        await make(Wiro(httpx.Response(200, stream=endless))).detail(TASK, tries=1)
    assert endless.taken == 17
    assert endless.closed


# The rate limit


async def test_repeated_429s_are_reported_and_pause_the_next_requests(clock: Clock) -> None:
    limited = [refusal(0, "slow down", 429, {"retry-after": "20"}) for _ in range(4)]
    api = make(Wiro(*limited, answer(**DETAIL)))
    pauses: list[float] = []
    api._on_limited = pauses.append
    for _ in limited:  # enough of them in a row to count as a rate limit
        with pytest.raises(errors.TryLater) as caught:
            await api.run(PARAMETERS)
        assert caught.value.after_seconds == 20.0
    assert pauses == [20.0] * 4
    await api.turn()
    assert clock.now >= 120.0


async def test_a_long_pause_is_capped(clock: Clock) -> None:
    api = make(Wiro(httpx.Response(429, headers={"retry-after": "31536000"}), answer(**DETAIL)))
    pauses: list[float] = []
    api._on_limited = pauses.append
    await api.detail(TASK)
    assert pauses == [retry.RETRY_AFTER_CAP_SECONDS]
    assert 400.0 <= clock.now < 420.0


async def test_a_503_pauses_no_other_requests(clock: Clock) -> None:
    api = make(Wiro(httpx.Response(503, headers={"retry-after": "20"})))
    with pytest.raises(errors.TryLater):
        await api.detail(TASK, tries=1)
    await api.turn()
    assert clock.sleeps == []


def test_repeated_429s_pause_all_requests_including_those_already_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "anyio", anyio)  # virtual time instead of the fixture's clock
    arrivals: list[float] = []
    began: list[float] = []

    class Limited(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            now = trio.current_time()
            arrivals.append(now - began[0])
            if len(arrivals) <= 4:
                return httpx.Response(429, headers={"retry-after": "10"})
            if len(arrivals) == 6:
                return httpx.Response(429, headers={"retry-after": "100"})
            return answer(**DETAIL)

    async def main() -> None:
        began.append(trio.current_time())
        api = make(Limited())
        for _ in range(4):  # enough of them in a row to count as a rate limit
            with contextlib.suppress(errors.TryLater):
                await api.detail(TASK, tries=1)
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(api.detail, TASK)

    virtually(main)
    assert len(arrivals) == 17
    second = arrivals[5]
    assert arrivals[4] >= 10.0
    assert [at for at in arrivals if second < at < second + 99.99] == []
    afterwards = [at for at in arrivals if at > second]
    assert len(set(afterwards)) > len(afterwards) // 2, "they are not all sent at once"


# Uploads


async def test_a_file_that_changed_since_it_was_hashed_fails_its_job(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    wiro = Wiro(answer(**UPLOADED))
    with pytest.raises(errors.JobFailed, match="changed since") as caught:
        await make(wiro).upload(path, content_type="image/png", sha256=hashlib.sha256(PNG + b"!").hexdigest())
    assert caught.value.kind == "image"
    assert len(wiro.requests) == 1


async def test_the_hash_is_that_of_the_bytes_sent_last(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"half")
    seen: list[bytes] = []

    class Slow(Wiro):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await super().handle_async_request(request)
            seen.append(content_of(parts_of(request, self.bodies[-1])["file"]))
            path.write_bytes(PNG)  # the file changes while it is sent
            return response

    wiro = Slow(httpx.Response(503), answer(**UPLOADED))
    await make(wiro).upload(path, content_type="image/png", sha256=hashlib.sha256(PNG).hexdigest())
    assert seen == [b"half", PNG]


async def test_a_file_without_a_known_hash_is_sent_unchecked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    wiro = Wiro(answer(**UPLOADED))
    assert await make(wiro).upload(path, content_type="image/png")
    assert content_of(parts_of(wiro.requests[0], wiro.bodies[0])["file"]) == b""


@pytest.mark.parametrize("make_path", [lambda folder: folder / "none.png", lambda folder: folder])
async def test_a_file_that_cannot_be_read_fails_its_job(tmp_path: Path, make_path: Callable[[Path], Path]) -> None:
    wiro = Wiro(answer(**UPLOADED))
    with pytest.raises(errors.JobFailed, match="can't be read") as caught:
        await make(wiro).upload(make_path(tmp_path), content_type="image/png")
    assert caught.value.kind == "image"
    assert wiro.requests == []


async def test_a_read_error_during_an_upload_fails_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)

    class UnreadableFile:
        def read(self, size: int) -> bytes:
            raise OSError(5, "Input/output error")

        def seek(self, offset: int, whence: int = 0) -> int:
            return offset

        def fileno(self) -> int:
            raise OSError(9, "Bad file descriptor")

        def __enter__(self) -> UnreadableFile:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(Path, "open", lambda self, mode: UnreadableFile())
    with pytest.raises(errors.JobFailed, match=r"a\.png can't be read: Input/output error"):
        await make(Wiro(answer(**UPLOADED))).upload(path, content_type="image/png")


async def test_a_connection_error_during_an_upload_can_be_retried(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    with pytest.raises(errors.TryLater, match="ConnectionResetError"):
        await make(Wiro(ConnectionResetError("reset by peer"))).upload(path, content_type="image/png", tries=1)


# Credentials


@pytest.mark.parametrize(
    "url", ["http://api.wiro.ai/v1", "https://me:you@api.wiro.ai", "ftp://api.wiro.ai", "", "https://☃/v1"]
)
def test_a_base_url_that_would_expose_the_key_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidBatch, match="WIRO_BASE_URL"):
        make(Wiro(), base=url)


@pytest.mark.parametrize(
    ("key", "secret", "named"),
    [
        ("", SECRET, "WIRO_API_KEY"),
        ("key-Nk3vQ8\n", SECRET, "WIRO_API_KEY"),
        (" key-Nk3vQ8", SECRET, "WIRO_API_KEY"),
        ("key-Nk3vQ8\r\nx-evil: 1", SECRET, "WIRO_API_KEY"),
        ("clé-Nk3vQ8", SECRET, "WIRO_API_KEY"),
        (KEY, "secret-Zt7bW2\n", "WIRO_API_SECRET"),
        (KEY, "secret-Zt7bW2\udcff", "WIRO_API_SECRET"),
    ],
)
def test_credentials_that_are_invalid_in_a_header_are_refused_without_being_shown(
    key: str, secret: str, named: str
) -> None:
    with pytest.raises(errors.InvalidBatch, match=named) as caught:
        Api(SecretStr(key), SecretStr(secret), base_url=BASE, transport=Wiro())
    assert not contains_credentials("".join(traceback.format_exception(caught.value)))


def contains_credentials(text: str) -> bool:
    return "Nk3vQ8" in text or "Zt7bW2" in text


def shown_by(error: BaseException) -> str:
    """All that a traceback can show, including the local variables of every frame."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [f"{frame.name}: {frame.locals}" for frame in shown.stack if frame.filename == api_module.__file__]
    assert frames
    return "\n".join([str(error), repr(error), *traceback.format_exception(error), *frames])


def test_no_repr_shows_the_credentials() -> None:
    api = make(Wiro())
    assert not contains_credentials(repr(api) + str(api) + repr(vars(api)))


@pytest.mark.parametrize(
    "script",
    [
        httpx.LocalProtocolError(f"Illegal header value b'{KEY}'"),
        httpx.ConnectError(f"x-api-key: {KEY}"),
        ConnectionResetError(f"{SECRET}"),
        httpx.Response(401),
        httpx.Response(200, html="<h1>"),
        httpx.Response(302, headers={"location": f"https://evil.example/?{KEY}"}),
        refusal(0, "Database has gone away"),
        refusal(97, "no money"),
    ],
)
@pytest.mark.parametrize("name", ["run", "detail", "upload"])
async def test_no_error_and_no_log_line_shows_the_credentials(
    name: str, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    call = ONCE.get(name) or REPEATABLE[name][0]
    with pytest.raises(errors.WanError) as caught:
        await call(make(Wiro(script)))
    assert not contains_credentials(shown_by(caught.value))
    assert not contains_credentials(caplog.text)


@pytest.mark.parametrize("call", [lambda api: api.run(PARAMETERS), lambda api: api.detail(TASK)])
async def test_the_traceback_of_a_cancelled_request_does_not_show_the_credentials(
    call: Callable[[Api], Awaitable[object]],
) -> None:
    class Cancelled(BaseException):
        pass

    class CancelledTransport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise Cancelled

    with pytest.raises(Cancelled) as caught:
        await call(make(CancelledTransport()))
    assert not contains_credentials(shown_by(caught.value))


async def test_over_a_real_connection_only_the_request_contains_the_credentials(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    heads: list[bytes] = []

    async def serve(stream: SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive()
            heads.append(data)
            payload = json.dumps(DETAIL).encode()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload)
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        port = listener.extra(SocketAttribute.local_port)
        async with make(base=f"http://127.0.0.1:{port}/v1") as api:
            with anyio.fail_after(10):
                task = await api.detail(TASK)
        group.cancel_scope.cancel()
    assert task.id == TASK
    (head,) = heads
    assert head.startswith(b"POST /v1/Task/Detail HTTP/1.1\r\n")
    assert KEY.encode() in head
    assert SECRET.encode() not in head
    assert "HTTP 200" in caplog.text
    assert not contains_credentials(caplog.text)


async def test_leaving_the_context_closes_the_connections() -> None:
    wiro = Wiro()
    async with make(wiro):
        assert not wiro.closed
    assert wiro.closed


async def test_the_timeouts_reach_the_transport() -> None:
    wiro = Wiro()
    await make(wiro).run(PARAMETERS)
    assert wiro.requests[0].extensions["timeout"] == {"connect": 10.0, "read": None, "write": 60.0, "pool": 60.0}
    api = Api(SecretStr(KEY), None, base_url=BASE, transport=wiro, timeout=httpx.Timeout(3.0))
    await api.tool()
    assert wiro.requests[1].extensions["timeout"] == {"connect": 3.0, "read": 3.0, "write": 3.0, "pool": 3.0}
