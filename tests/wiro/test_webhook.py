"""Wiro's webhook: hints for whoever waits, and nothing for anybody else."""

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
from wan_async.wiro.messages import Hint
from wan_async.wiro.webhook import BODY_LIMIT_BYTES, CallbackApp

pytestmark = pytest.mark.anyio
SECRET = "an-unguessable-path"
TASK = {"id": "534574", "socketaccesstoken": "eDcC", "status": "task_postprocess_end", "pexit": "0"}


class Ear:
    """Takes hints."""

    def __init__(self) -> None:
        self.heard: list[Hint] = []

    def hint(self, hint: Hint) -> None:
        self.heard.append(hint)


async def post(app: CallbackApp, path: str, content: bytes, method: str = "POST", root_path: str = "") -> int:
    """The status of the app's answer; the body comes in two pieces."""
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
    ear = Ear()
    app = callback_app(ear, secret=SECRET)
    assert await post(app, app.path, json.dumps(body).encode()) == 204
    (hint,) = ear.heard
    assert (hint.task_id, hint.token, hint.status, hint.over) == ("534574", "eDcC", "task_postprocess_end", True)


async def test_a_task_known_by_its_number_alone_is_a_hint() -> None:
    ear = Ear()
    app = callback_app(ear, secret=SECRET)
    assert await post(app, app.path, b'{"id": 7}') == 204
    assert [(hint.task_id, hint.token) for hint in ear.heard] == [("7", None)]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"tasklist": []}', b"[" * 100_000, b"\xff"])
async def test_what_names_no_task_is_refused(body: bytes) -> None:
    ear = Ear()
    app = callback_app(ear, secret=SECRET)
    assert await post(app, app.path, body) == 400
    assert ear.heard == []


async def test_nothing_else_is_answered() -> None:
    ear = Ear()
    app = callback_app(ear, secret=SECRET)
    body = json.dumps(TASK).encode()
    for path in ("/", "/wiro/", "/wiro/another-unguessable-path", f"{app.path}/", app.path.upper()):
        assert await post(app, path, body) == 404
    assert await post(app, app.path, body, method="PUT") == 405
    assert await post(app, app.path, body + b" " * BODY_LIMIT_BYTES) == 413
    assert ear.heard == []


async def test_it_can_be_mounted_below_another_path() -> None:
    ear = Ear()
    app = callback_app(ear, secret=SECRET)
    assert await post(app, f"/hooks{app.path}", json.dumps(TASK).encode(), root_path="/hooks") == 204
    assert len(ear.heard) == 1


async def test_half_a_request_is_none() -> None:
    ear = Ear()
    app = callback_app(ear, secret=SECRET)
    messages = [{"type": "http.request", "body": b'{"id": "1"}', "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "path": app.path, "method": "POST"}, receive, send)
    assert sent[0]["status"] == 413
    assert ear.heard == []


async def test_a_server_may_run_it_by_itself_and_websockets_are_turned_away() -> None:
    app = callback_app(Ear(), secret=SECRET)
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
    first, second = callback_app(Ear()), callback_app(Ear())
    assert first.path != second.path
    assert len(first.path) > 30
    assert first.url("https://hooks.example/x/") == f"https://hooks.example/x{first.path}"
    with pytest.raises(InvalidBatch, match="callback"):
        first.url("hooks.example")
    for secret in ("short", "with a space in its middle", "with/a/slash/in/its/middle", "ümläute-sind-keine-pfade"):
        with pytest.raises(InvalidBatch, match="secret"):
            callback_app(Ear(), secret=secret)


@asynccontextmanager
async def served(app: CallbackApp) -> AsyncIterator[str]:
    """The app at an address of this machine."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve)
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await anyio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # uvicorn's
async def test_the_service_calls_back_and_whoever_waits_hears_of_it(tmp_path: Path) -> None:
    heard: list[Hint] = []
    with sandbox_server() as server:
        info = server.info
        async with WanClient(info["api_key"], info["api_secret"], base_url=info["base_url"]) as client:
            app = callback_app(client)
            with client.hearing(heard.append):
                async with served(app) as address:
                    job = Job(id="alone", prompt="rain", callback_url=app.url(address))
                    task = await client.submit(job)
                    assert (await client.wait(task)).status == "task_postprocess_end"
                    async with open_batch([job], output=tmp_path / "out", client=client) as events:
                        names = [type(event).__name__ async for event in events]
        assert "Stored" in names
    assert {hint.task_id for hint in heard} >= {task.id}
    assert all(hint.over for hint in heard)
