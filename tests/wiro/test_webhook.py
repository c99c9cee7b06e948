"""The app for Wiro's callbacks: it turns valid ones into hints, and refuses all else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from servers import sandbox_server

from wan_async import Job, WanClient, callback_app, open_batch
from wan_async.errors import InvalidBatch
from wan_async.wiro.notification_messages import Hint
from wan_async.wiro.webhook import BODY_LIMIT_BYTES, CallbackApp

pytestmark = pytest.mark.anyio
SECRET = "an-unguessable-path"
TASK = {"id": "534574", "socketaccesstoken": "eDcC", "status": "task_postprocess_end", "pexit": "0"}


class HintReceiver:
    """Collects hints."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []

    def hint(self, hint: Hint) -> None:
        self.hints.append(hint)


async def post(app: CallbackApp, path: str, content: bytes, method: str = "POST", root_path: str = "") -> int:
    """Send a request whose body comes in two pieces; return the status of the response."""
    half = len(content) // 2
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": content[:half], "more_body": True},
        {"type": "http.request", "body": content[half:]},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "path": path, "method": method, "root_path": root_path}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return int(sent[0]["status"])


@pytest.mark.parametrize("body", [TASK, {"result": True, "tasklist": [TASK]}], ids=["task", "tasklist"])
async def test_a_finished_task_is_a_hint(body: dict[str, Any]) -> None:
    receiver = HintReceiver()
    app = callback_app(receiver, secret=SECRET)
    assert await post(app, app.path, json.dumps(body).encode()) == 204
    (hint,) = receiver.hints
    assert (hint.task_id, hint.token, hint.status, hint.over) == ("534574", "eDcC", "task_postprocess_end", True)


async def test_a_task_with_an_id_alone_is_a_hint() -> None:
    receiver = HintReceiver()
    app = callback_app(receiver, secret=SECRET)
    assert await post(app, app.path, b'{"id": 7}') == 204
    assert [(hint.task_id, hint.token) for hint in receiver.hints] == [("7", None)]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"tasklist": []}', b"[" * 100_000, b"\xff"])
async def test_a_body_without_a_task_is_refused(body: bytes) -> None:
    receiver = HintReceiver()
    app = callback_app(receiver, secret=SECRET)
    assert await post(app, app.path, body) == 400
    assert receiver.hints == []


async def test_other_paths_methods_and_too_large_bodies_are_refused() -> None:
    receiver = HintReceiver()
    app = callback_app(receiver, secret=SECRET)
    body = json.dumps(TASK).encode()
    for path in ("/", "/wiro/", "/wiro/another-unguessable-path", f"{app.path}/", app.path.upper()):
        assert await post(app, path, body) == 404
    assert await post(app, app.path, body, method="PUT") == 405
    assert await post(app, app.path, body + b" " * BODY_LIMIT_BYTES) == 413
    assert receiver.hints == []


async def test_it_can_be_mounted_below_another_path() -> None:
    receiver = HintReceiver()
    app = callback_app(receiver, secret=SECRET)
    assert await post(app, f"/hooks{app.path}", json.dumps(TASK).encode(), root_path="/hooks") == 204
    assert len(receiver.hints) == 1


@pytest.mark.parametrize("last", [{"type": "http.disconnect"}, {"type": "http.request", "body": "text"}])
async def test_an_incomplete_request_is_ignored(last: dict[str, Any]) -> None:
    receiver = HintReceiver()
    app = callback_app(receiver, secret=SECRET)
    messages = [{"type": "http.request", "body": b'{"id": "1"}', "more_body": True}, last]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "path": app.path, "method": "POST"}, receive, send)
    assert sent[0]["status"] == 413
    assert receiver.hints == []


async def test_a_server_can_run_it_alone_and_websockets_are_closed() -> None:
    app = callback_app(HintReceiver(), secret=SECRET)
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    await app({"type": "websocket", "path": app.path}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]


def test_the_path_is_unguessable_and_its_url_checked() -> None:
    first, second = callback_app(HintReceiver()), callback_app(HintReceiver())
    assert first.path != second.path
    assert len(first.path) > 30
    assert first.url("https://hooks.example/x/") == f"https://hooks.example/x{first.path}"
    with pytest.raises(InvalidBatch, match="callback"):
        first.url("hooks.example")
    for secret in ("short", "with a space in its middle", "with/a/slash/in/its/middle", "ümläute-sind-keine-pfade"):
        with pytest.raises(InvalidBatch, match="secret"):
            callback_app(HintReceiver(), secret=secret)


@asynccontextmanager
async def served(app: CallbackApp) -> AsyncIterator[str]:
    """Serve the app on a loopback port, and yield its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve)
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await anyio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True


class Recorder:
    """Notes the hints on their way to a client."""

    def __init__(self, client: WanClient, hints: list[Hint]) -> None:
        self.client, self.hints = client, hints

    def hint(self, hint: Hint) -> None:
        self.hints.append(hint)
        self.client.hint(hint)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # uvicorn needs it
async def test_a_callback_reaches_the_client_and_its_run(tmp_path: Path) -> None:
    hints: list[Hint] = []
    with sandbox_server() as server:
        info = server.info
        async with WanClient(info["api_key"], info["api_secret"], base_url=info["base_url"]) as client:
            app = callback_app(Recorder(client, hints))
            async with served(app) as address:
                job = Job(id="alone", prompt="rain", callback_url=app.url(address))
                task = await client.submit(job)
                assert (await client.wait_ended(task)).status == "task_postprocess_end"
                async with open_batch([job], output=tmp_path / "out", client=client) as events:
                    names = [type(event).__name__ async for event in events]
        assert "Stored" in names
    assert {hint.task_id for hint in hints} >= {task.id}
    assert all(hint.over for hint in hints)
