"""The sandbox over HTTP: a real server in this process, and a client that shares nothing with wan_async's."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import av
import httpx
import pytest
from httpx_ws import AsyncWebSocketSession, WebSocketDisconnect, aconnect_ws
from sandbox_client import PNG, RUN, signed

from wan_async.sandbox import ClipOrder, Sandbox, server
from wan_async.sandbox.render_process import Renderer, _start_worker
from wan_async.sandbox.server import App, listen, serve
from wan_async.sandbox.tasks import STAGES

pytestmark = pytest.mark.asyncio


@dataclass
class Live:
    """A running server and its client."""

    sandbox: Sandbox
    port: int
    http: httpx.AsyncClient

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def post(self, endpoint: str, **content: Any) -> httpx.Response:
        return await self.http.post(f"{self.root}/v1/{endpoint}", headers=signed(), **content)

    async def call(self, endpoint: str, /, **fields: object) -> dict[str, Any]:
        answer = await self.post(endpoint, json=fields)
        assert answer.status_code == 200
        content: dict[str, Any] = answer.json()
        return content

    async def run(self, **fields: object) -> tuple[str, str]:
        answer = await self.call(RUN, **{"prompt": "a koala", **fields})
        assert answer["result"] is True, answer
        return answer["taskid"], answer["socketaccesstoken"]

    async def detail(self, task_id: str) -> dict[str, Any]:
        task: dict[str, Any] = (await self.call("Task/Detail", taskid=task_id))["tasklist"][0]
        return task

    async def clip_url(self, **fields: object) -> str:
        task_id, _ = await self.run(**fields)
        return str((await self.detail(task_id))["outputs"][0]["url"])

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[AsyncWebSocketSession]:
        session: AsyncWebSocketSession
        async with aconnect_ws(f"ws://127.0.0.1:{self.port}/v1", self.http) as session:
            assert json.loads(await session.receive_text()) == {"type": "connected", "version": "1.0"}
            yield session

    async def control(self, **wanted: object) -> httpx.Response:
        return await self.http.post(f"{self.root}/sandbox/control", json=wanted)


@asynccontextmanager
async def serving(*, rendered: bool = False, **settings: Any) -> AsyncIterator[Live]:
    """A server in this process; by default tasks take 0 s."""
    sandbox = Sandbox(**{"task_seconds": (0.0, 0.0), **settings})
    stop, port = threading.Event(), asyncio.get_running_loop().create_future()
    with listen(0) as listening:
        running = asyncio.create_task(serve(sandbox, listening, rendered=rendered, ready=port.set_result, stop=stop))
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=30) as http:
            try:
                yield Live(sandbox, await port, http)
            finally:
                stop.set()
                await running
                sandbox.close()


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Restore the signal handlers that the server replaces."""
    kept = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in kept.items():
        signal.signal(each, handler)


async def until(session: AsyncWebSocketSession, last: str, count: int = 1) -> list[dict[str, Any]]:
    """Receive messages until `count` of the type `last` have come."""
    messages: list[dict[str, Any]] = []
    while sum(each["type"] == last for each in messages) < count:
        messages.append(json.loads(await session.receive_text(timeout=100)))
    return messages


# HTTP


async def test_json_and_multipart_runs_create_tasks() -> None:
    async with serving() as live:
        task_id, token = await live.run(seed="7")
        assert (await live.detail(task_id))["parameters"]["seed"] == "7"
        by_form = await live.post(
            RUN, data={"prompt": "ein Bär", "inputImageUrl": ""}, files={"inputImage": ("a.png", PNG, "image/png")}
        )
        assert by_form.json()["result"] is True
        task = live.sandbox.account.tasks[by_form.json()["taskid"]]
        assert task.image == hashlib.sha256(PNG).hexdigest()
        assert task.parameters["prompt"] == "ein Bär"
        killed = await live.call("Task/Kill", socketaccesstoken=token)
        assert killed["errors"][0]["code"] == 1


async def test_an_upload_is_served_at_its_url() -> None:
    async with serving() as live:
        data = os.urandom(600_000)
        answer = (await live.post("File/Upload", files={"file": ("a.png", data, "image/png")})).json()
        url = answer["list"][0]["url"]
        assert url.startswith(live.root)
        got = await live.http.get(url)
        assert (got.content, got.headers["content-type"]) == (data, "image/png")


async def test_unknown_paths_are_404_and_missing_credentials_401() -> None:
    async with serving() as live:
        for path, kind in (
            ("/", "application/json"), ("/v1/Task/Nothing", "application/json"),
            ("/v1/File/x/y", "text/html"), ("/cdn/1/2/0.mp4", "text/html"),
        ):  # fmt: skip
            got = await live.http.get(live.root + path)
            assert (got.status_code, got.headers["content-type"]) == (404, kind)
        refused = await live.http.post(f"{live.root}/v1/Task/List", json={})
        assert (refused.status_code, refused.json()["result"]) == (401, False)


async def test_the_cdn_serves_whole_files_ranges_and_heads() -> None:
    async with serving(clip_bytes=700_000) as live:
        url = await live.clip_url()
        whole, head = await live.http.get(url), await live.http.head(url)
        assert (whole.status_code, len(whole.content), head.content) == (200, 700_000, b"")
        assert (head.headers["content-length"], head.headers["etag"]) == ("700000", whole.headers["etag"])
        for range_header, status, content in (
            ("bytes=699990-", 206, whole.content[-10:]), ("bytes=5-9", 206, whole.content[5:10]),
            ("bytes=700000-", 416, b""), ("bytes=9-5", 200, whole.content),
        ):  # fmt: skip
            got = await live.http.get(url, headers={"range": range_header, "if-range": whole.headers["etag"]})
            assert (got.status_code, got.content) == (status, content)
        assert (await live.http.post(url)).status_code == 404


async def test_concurrent_requests_get_their_own_answers() -> None:
    async with serving(balance_usd=1000.0) as live:
        made = await asyncio.gather(*(live.run(seed=str(number)) for number in range(30)))
        shown = await asyncio.gather(*(live.detail(task_id) for task_id, _ in made))
        assert [task["parameters"]["seed"] for task in shown] == [str(number) for number in range(30)]
        assert len({token for _, token in made}) == 30


async def test_an_incomplete_request_creates_no_task() -> None:
    async with serving() as live:
        _, writer = await asyncio.open_connection("127.0.0.1", live.port)
        head = "".join(f"{name}: {value}\r\n" for name, value in signed().items())
        writer.write(
            f"POST /v1/{RUN} HTTP/1.1\r\nhost: x\r\n{head}content-length: 500\r\n\r\n".encode() + b'{"prompt": "x"}'
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await live.detail((await live.run())[0])
        assert len(live.sandbox.account.tasks) == 1


# Faults


@pytest.mark.parametrize(("fault", "tasks"), [("drop_before", 0), ("drop_after", 1)])
async def test_a_connection_is_dropped_before_or_after_the_task_is_created(fault: str, tasks: int) -> None:
    async with serving() as live:
        live.sandbox.faults.next(fault, "Run")
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await live.run()
        assert len(live.sandbox.account.tasks) == tasks
        await live.run()


async def test_a_truncated_answer_is_invalid_json() -> None:
    async with serving() as live:
        live.sandbox.faults.next("cut_json")
        answer = await live.post("Task/List", json={})
        assert answer.status_code == 200
        with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
            answer.json()


async def test_an_interrupted_download_can_be_resumed() -> None:
    async with serving(clip_bytes=3_000_000, seed=3) as live:
        url = await live.clip_url()
        live.sandbox.faults.next("cut_download")
        got = bytearray()
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await take(live.http, url, got)
        assert len(got) < 3_000_000
        rest = await live.http.get(url, headers={"range": f"bytes={len(got)}-"})
        assert (
            hashlib.sha256(bytes(got) + rest.content).digest()
            == hashlib.sha256((await live.http.get(url)).content).digest()
        )


async def take(http: httpx.AsyncClient, url: str, into: bytearray) -> None:
    async with http.stream("GET", url) as response:
        async for chunk in response.aiter_bytes():
            into += chunk


async def test_a_slow_answer_does_not_delay_others() -> None:
    held, go_on = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        assert 1 <= seconds <= 3
        held.set()
        await go_on.wait()

    async with serving(sleep=sleep) as live:
        live.sandbox.faults.next("slow_answer", "Task/List")
        slow = asyncio.create_task(live.call("Task/List"))
        await held.wait()
        await live.run()
        assert not slow.done()
        go_on.set()
        assert (await slow)["total"] == "1"


# The WebSocket


async def test_one_socket_serves_many_subscriptions() -> None:
    async with (
        serving(task_seconds=(0.1, 0.4), balance_usd=1000.0, socket_format="id") as live,
        live.socket() as session,
    ):
        made = dict([await live.run() for _ in range(12)])
        for token in made.values():
            await session.send_text(json.dumps({"type": "task_info", "tasktoken": token}))
        messages = await until(session, "task_postprocess_end", 12)
        for task_id, token in made.items():
            of_it = [each for each in messages if each["id"] == task_id]
            assert {each["result"] for each in of_it} == {True}
            assert token not in json.dumps(of_it)
            assert list(dict.fromkeys(each["type"] for each in of_it)) == list(STAGES)
            steps = [each["message"] for each in of_it if isinstance(each["message"], dict)]
            assert [step["percentage"] for step in steps] == [str(10 * step) for step in range(1, 11)]
            assert all(isinstance(value, str) for step in steps for value in step.values())
            (output,) = of_it[-1]["message"]
            assert (await live.http.get(output["url"])).status_code == 200


async def test_a_late_subscription_gets_all_messages_and_a_second_one_none() -> None:
    async with serving() as live, live.socket() as session:
        task_id, token = await live.run()
        _, other = await live.run()
        for each in (token, token, other):
            await session.send_text(json.dumps({"type": "task_info", "tasktoken": each}))
        messages = await until(session, "task_postprocess_end", 2)
        assert len(messages) == 2 * len([each for each in messages if each["id"] == task_id])


async def test_malformed_and_unknown_messages_are_ignored() -> None:
    messages: list[bytes | str] = [
        b"\x00\xff", "", "not JSON", "[]", '"task_info"', "7", "null", "[" * 100_000, '{"type": "task_info"}',
        '{"type": "task_info", "tasktoken": 7}', '{"type": "task_info", "tasktoken": "unknown"}',
        '{"type": "other", "tasktoken": "x"}',
    ]  # fmt: skip
    async with serving() as live, live.socket() as session:
        for message in messages:
            _, token = await live.run()
            await (session.send_bytes(message) if isinstance(message, bytes) else session.send_text(message))
            await session.send_text(json.dumps({"type": "task_info", "tasktoken": token}))
            assert await until(session, "task_postprocess_end"), message


async def test_messages_of_failed_and_cancelled_tasks() -> None:
    async with serving() as live, live.socket() as session:
        live.sandbox.faults.next("failed_render")
        _, failed = await live.run()
        await session.send_text(json.dumps({"type": "task_info", "tasktoken": failed}))
        messages = await until(session, "task_postprocess_end")
        assert [(each["type"], each["message"]) for each in messages[-2:]] == [
            ("task_error", "RuntimeError: the render failed"),
            ("task_postprocess_end", []),
        ]
        live.sandbox.settings.task_seconds = (1000.0, 1000.0)
        task_id, token = await live.run()
        await session.send_text(json.dumps({"type": "task_info", "tasktoken": token}))
        await until(session, "task_queue")
        await live.call("Task/Cancel", taskid=task_id)
        (last,) = await until(session, "task_cancel")
        assert last["message"] is None


async def test_a_socket_can_be_closed_or_mute() -> None:
    async with serving() as live:
        _, token = await live.run()
        subscribe = json.dumps({"type": "task_info", "tasktoken": token})
        live.sandbox.faults.next("socket_drop")
        async with live.socket() as session:
            await session.send_text(subscribe)
            with pytest.raises(WebSocketDisconnect) as dropped:
                await until(session, "nothing")
            assert dropped.value.code == 1011
        live.sandbox.faults.next("socket_mute")
        async with live.socket() as session:
            await session.send_text(subscribe)
            await session.send_text("{}")
            other, token = await live.run()
            await session.send_text(json.dumps({"type": "task_info", "tasktoken": token}))
            messages = await until(session, "task_postprocess_end")
            assert {each["id"] for each in messages} == {other}


async def test_closed_sockets_leave_no_task_behind() -> None:
    async with serving(task_seconds=(1000.0, 1000.0)) as live:
        _, token = await live.run()
        for _ in range(5):
            async with live.socket() as session:
                await session.send_text(json.dumps({"type": "task_info", "tasktoken": token}))
                await until(session, "task_queue")
        await live.call("Task/List")
        names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
        assert sum("push" in name for name in names) <= 1


# Callbacks


@dataclass
class Receiver:
    """A server that receives callbacks."""

    received: asyncio.Queue[tuple[str, dict[str, Any]]] = field(default_factory=asyncio.Queue)
    port: int = 0

    async def receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1]) for line in head.lower().split("\r\n") if line.startswith("content-length")
        )
        body = json.loads(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await self.received.put((head.split()[1], body))


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    there = Receiver()
    async with await asyncio.start_server(there.receive, "127.0.0.1", 0) as listening:
        there.port = listening.sockets[0].getsockname()[1]
        yield there


async def test_a_finished_task_is_posted_to_its_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CALLBACK_INTERVAL_SECONDS", 0.01)
    async with receiver() as there, serving() as live:
        task_id, _ = await live.run(callbackUrl=f"http://127.0.0.1:{there.port}/secret/path")
        path, posted = await asyncio.wait_for(there.received.get(), 20)
        assert path == "/secret/path"
        assert (posted["id"], posted["status"]) == (task_id, "task_postprocess_end")
        assert set(posted) == set(await live.detail(task_id))
        assert (await live.http.get(posted["outputs"][0]["url"])).status_code == 200


async def test_invalid_foreign_and_hanging_callback_urls_do_not_delay_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "CALLBACK_INTERVAL_SECONDS", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        async with receiver() as there, serving(balance_usd=1000.0) as live:
            for url in ("http://[::1", "http://127.0.0.1:99999/", "nonsense", "https://example.com/x", hanging,
                        "ftp://127.0.0.1/x", "http://127.0.0.1:1/", "http://\x00/"):  # fmt: skip
                await live.run(callbackUrl=url)
            task_id, _ = await live.run(callbackUrl=f"http://localhost:{there.port}/")
            _, posted = await asyncio.wait_for(there.received.get(), 20)
            assert posted["id"] == task_id


# Control routes


async def test_the_report_shows_the_account() -> None:
    async with serving() as live:
        task_id, _ = await live.run(prompt="a report")
        report = (await live.http.get(f"{live.root}/sandbox/account")).json()
        assert (report["balance_usd"], report["spent_usd"], report["leaks"]) == (99.95, 0.05, [])
        assert report["requests"] == {"Run": 1}
        (task,) = report["tasks"]
        assert (task["id"], task["succeeded"], task["cost_usd"]) == (task_id, True, 0.05)
        assert task["parameters"]["prompt"] == "a report"


async def test_the_account_and_its_faults_can_be_changed() -> None:
    async with serving(task_seconds=(1000.0, 1000.0)) as live:
        task_id, _ = await live.run()
        changed = await live.control(concurrency_limit=1, balance_usd=7.5, cancel=task_id)
        assert changed.json()["balance_usd"] == 7.5
        assert changed.json()["tasks"][0]["status"] == "task_cancel"
        await live.run()
        assert (await live.call(RUN, prompt="x"))["errors"][0]["code"] == 96
        assert (await live.control(faults={"http_500@Task/List": 1.0})).status_code == 200
        assert (await live.post("Task/List", json={})).status_code == 500
        await live.control(faults={}, fault_next={"name": "http_429", "endpoint": "Task/List"})
        limited = await live.post("Task/List", json={})
        assert (limited.status_code, limited.headers["retry-after"]) == (429, "1")
        assert (await live.post("Task/List", json={})).status_code == 200


async def test_an_invalid_change_is_refused_with_the_reason() -> None:
    bodies = [
        b"{", b"[]", b'{"cancel": "77"}', b'{"faults": {"explode": 1}}', b'{"fault_next": {}}', b'{"balance_usd": "x"}',
        b'{"fault_next": {"name": "explode"}}', b'{"settings": {"now": 7}}', b'{"settings": {"uploads": "no"}}',
        b'{"settings": {"uploads": []}}', b'{"refuse_runs": {"code": 0}}', b'{"teammates": {"count": "x"}}',
        b'{"teammates": {"parameters": {"resolution": []}}}', b'{"next_task_id": "x"}',
    ]  # fmt: skip
    async with serving() as live:
        for body in bodies:
            answer = await live.http.post(f"{live.root}/sandbox/control", content=body)
            assert answer.status_code == 400, body
            assert answer.json()["error"]
        assert (await live.post("Task/List", json={})).status_code == 200


async def test_settings_refusals_teammates_and_ids_can_be_changed() -> None:
    async with serving(task_seconds=(1000.0, 1000.0)) as live:
        await live.control(
            settings={"uploads": "refuse", "denial": "not-exist"},
            refuse_runs={"code": 0, "message": "Team spend limit has been reached", "times": 1},
            teammates={"count": 2, "parameters": {"prompt": "theirs"}, "project_id": "801"},
            next_task_id=2221,
        )
        upload = await live.post("File/Upload", files={"file": ("a.png", PNG, "image/png")})
        assert upload.json()["errors"] == [{"code": 0, "message": "invalid-parameters"}]
        refused = await live.call(RUN, prompt="x")
        assert refused["errors"] == [{"code": 0, "message": "Team spend limit has been reached"}]
        assert (await live.run())[0] == "2221"
        assert (await live.call("Task/Detail", taskid="7"))["errors"] == [{"code": 0, "message": "task-not-exist"}]
        report = (await live.http.get(f"{live.root}/sandbox/account")).json()
        assert [task["projectid"] for task in report["tasks"]] == ["801", "801", "699"]


async def test_only_requests_of_the_same_origin_may_change_the_sandbox() -> None:
    cases = [
        ("127.0.0.1:{port}", None, 200),
        ("localhost:{port}", "http://localhost:{port}", 200),
        ("LOCALHOST:{port}", "http://localhost:{port}", 200),
        ("[::1]:{port}", "http://[::1]:{port}", 200),
        ("attacker.example:{port}", None, 403),
        ("127.0.0.1.attacker.example:{port}", None, 403),
        ("127.0.0.1", None, 403),
        ("127.0.0.1:1", None, 403),
        ("127.0.0.1:{port}", "http://attacker.example", 403),
        ("127.0.0.1:{port}", "http://127.0.0.1:1", 403),
        ("127.0.0.1:{port}", "https://127.0.0.1:{port}", 403),
        ("127.0.0.1:{port}", "null", 403),
        ("127.0.0.1:{port}", "", 403),
    ]
    async with serving() as live:
        account, control = live.sandbox.account, f"{live.root}/sandbox/control"
        for host, origin, status in cases:
            headers = {"host": host.format(port=live.port)}
            headers |= {} if origin is None else {"origin": origin.format(port=live.port)}
            account.set_balance(100_000_000, 0.0)
            for method in ("POST", "PUT"):
                answer = await live.http.request(method, control, content=b'{"balance_usd": 1}', headers=headers)
                assert answer.status_code == status, (host, origin)
            assert account.balance_micros == (1_000_000 if status == 200 else 100_000_000), (host, origin)
            shown = await live.http.get(f"{live.root}/sandbox/account", headers=headers)
            assert shown.status_code == 200, "reading needs no permission"


# Clips


def open_clip(data: bytes) -> tuple[str, int, int]:
    with av.open(io.BytesIO(data), "r") as container:
        codec = container.streams.video[0].codec_context
        return codec.name, codec.width, codec.height


async def test_clips_are_rendered_in_another_process_and_an_unreadable_image_fails_its_task() -> None:
    async with serving(rendered=True) as live, live.socket() as session:
        good, token = await live.run(aspectRatio="1:1")
        broken = (await live.post(RUN, data={"prompt": "x"}, files={"inputImage": ("a.png", PNG, "image/png")})).json()
        for each in (token, broken["socketaccesstoken"]):
            await session.send_text(json.dumps({"type": "task_info", "tasktoken": each}))
        await until(session, "task_postprocess_end", 2)
        (output,) = (await live.detail(good))["outputs"]
        clip = (await live.http.get(output["url"])).content
        assert open_clip(clip) == ("h264", 480, 480)
        assert len(clip) == int(output["size"])
        failed = await live.detail(broken["taskid"])
        assert (failed["pexit"], failed["outputs"], float(failed["totalcost"])) == ("1", None, 0)
        assert "can't be read" in failed["debugerror"]


async def test_a_killed_renderer_fails_its_task_and_the_next_one_is_rendered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sandbox = Sandbox(task_seconds=(0.0, 0.0), api_secret=None)
    delivered: asyncio.Queue[str] = asyncio.Queue()
    deliver = sandbox.deliver_clip

    def note(task_key: str, data: bytes | None) -> None:
        deliver(task_key, data)
        delivered.put_nowait(task_key)

    monkeypatch.setattr(sandbox, "deliver_clip", note)
    renderer = Renderer(sandbox, asyncio.get_running_loop())
    create = sandbox.account.create
    parameters = {"prompt": "x", "resolution": "480P", "aspectRatio": "1:1", "seed": "1"}
    try:
        tasks = []
        for number in range(2):
            task = create(parameters, None, 1, 0.0, 0.0)
            task.held = True
            tasks.append(task)
            renderer.start(ClipOrder(None, "x", "480P", "1:1", "1", task.id))
            if number == 0:
                for pid in list(renderer._pool._processes):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.wait_for(delivered.get(), 100)
        assert [task.pexit for task in tasks] == ["1", "0"]
        assert tasks[1].size > 1000
    finally:
        renderer.close()


async def test_a_clip_delivered_after_the_end_is_ignored() -> None:
    loop = asyncio.new_event_loop()
    sandbox = Sandbox()
    renderer = Renderer(sandbox, loop)
    loop.close()
    future: Future[bytes] = Future()
    future.set_result(b"late")
    renderer._schedule("1", future)
    future = Future()
    future.cancel()
    renderer._deliver("1", future)
    renderer.close()


async def test_the_renderer_has_low_priority_and_ends_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, parent_is_gone, did = threading.Event(), threading.Event(), list[object]()

    class Parent:
        def join(self) -> None:
            parent_is_gone.wait()

    def leave(code: int) -> None:
        did.append(("exit", code))
        ended.set()

    monkeypatch.setattr(multiprocessing, "parent_process", Parent)
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(os, "nice", did.append, raising=False)
    _start_worker()
    parent_is_gone.set()
    assert ended.wait(20)  # nothing may fail before: the thread would find the real `os._exit` and end pytest's worker
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert did == [10, ("exit", 0)]


async def test_interrupted_renders_are_resumed_at_the_start() -> None:
    for elsewhere in (False, True):
        sandbox = Sandbox(api_secret=None)
        task = sandbox.account.create(
            {"prompt": "x", "resolution": "480P", "aspectRatio": "1:1", "seed": "1"}, None, 1, 0.0, 0.0
        )
        done = sandbox.account.create({}, None, 1, 0.0, 0.0)
        task.held = True
        ordered: list[ClipOrder] = []
        sandbox.render_with(ordered.append if elsewhere else None)
        sandbox.resume_rendering()
        assert [order.task_id for order in ordered] == [task.id] * elsewhere
        assert (task.held, task.size > 0) == (elsewhere, not elsewhere)
        assert not done.held


async def test_two_servers_cannot_share_a_port() -> None:
    with listen(0) as first, pytest.raises(OSError, match=r"in use"):
        listen(first.getsockname()[1])


async def test_a_signal_ends_the_server() -> None:
    port = asyncio.get_running_loop().create_future()
    with listen(0) as listening:
        running = asyncio.create_task(
            serve(Sandbox(), listening, rendered=False, ready=port.set_result, stop=threading.Event())
        )
        await port
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(running, 20)


async def test_faults_of_unknown_connections_send_nothing_or_a_part() -> None:
    sandbox = Sandbox(api_secret=None, task_seconds=(0.0, 0.0))
    app = App(sandbox)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"prompt": "x"}'}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": f"/v1/{RUN}", "query_string": b"", "client": ("nowhere", 1),
        "headers": [(b"x-api-key", b"sandbox-key")],
    }  # fmt: skip
    sandbox.faults.next("drop_after")
    await app(scope, receive, send)
    assert sent == []
    (task,) = sandbox.account.tasks.values()
    sandbox.faults.next("cut_download")
    shown = json.loads(json.dumps(sandbox.view(task, "http://x")))
    url = httpx.URL(shown["outputs"][0]["url"])
    await app({**scope, "method": "GET", "path": url.path}, receive, send)
    assert sent[-1]["more_body"] is True
