"""What becomes of a paid task when a call goes wrong: this client beside others, each against a local server.

Run by hand, in an environment with the clients to compare (what is not installed is left out):

    pip install -e . replicate fal-client runwayml openai google-genai together
    python tests/bench/compare_clients.py

The server speaks the minimum of each protocol: it creates a task for each paid POST, and tasks never end. All clients
have their default settings and are given one call that makes a video and waits for it; google-genai and together have
no such call, so a loop like that of their documentation waits. Whether the id of the task is available is found out by
looking for it in the error, its causes and arguments, and in the client.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import json
import os
import sys
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

TASK_ID = "4711471147114711"
SLOW_SECONDS = 5.0
"""How long the server takes to answer a paid POST where the call ends before the answer."""
CALL_SECONDS = 3.0
"""How long the call may take there."""
WAIT_SECONDS = 4.0
"""How long a call may take whose task was created at once."""
CLOSED_SECONDS = 20.0
"""How long a waiter of a closed client is watched."""


@dataclass
class Server:
    """Answers one client. `drop`: closes the connection after a paid POST; `slow`: delays its answer."""

    is_paid: Callable[[str], bool]
    answer: Callable[[str, str], object]
    mode: str = ""
    paid: int = 0
    keys: list[str | None] = field(default_factory=list)
    polls: int = 0
    port: int = 0
    created: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if ": " in line)
                await reader.readexactly(int(headers.get("content-length", 0)))
                if method == "POST" and self.is_paid(path):
                    self.paid += 1
                    self.keys.append(headers.get("idempotency-key"))
                    self.created.set()
                    if self.mode == "drop":
                        break
                    if self.mode == "slow":
                        await asyncio.sleep(SLOW_SECONDS)
                else:
                    self.polls += 1
                body = json.dumps(self.answer(method, path)).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%b" % (len(body), body)
                )
                await writer.drain()
        writer.close()


@dataclass
class Subject:
    """A client under comparison.

    Attributes:
        package: its name on PyPI.
        is_paid: whether a POST to this path creates a task.
        answer: what the server answers to a method and path, by the server's base URL.
        make: makes a client for a base URL.
        call: makes a video and waits for it; given a number of seconds, by the client's own means if it has any.
        close: closes the client; None if it can't be closed.
    """

    package: str
    is_paid: Callable[[str], bool]
    answer: Callable[[str, str, str], object]
    make: Callable[[str], Any]
    call: Callable[[Any, float | None], Awaitable[object]]
    close: Callable[[Any], Awaitable[object]] | None


def replicate() -> Subject:
    module = importlib.import_module("replicate")
    prediction: dict[str, object] = {
        "id": TASK_ID, "model": "a/b", "version": "1", "status": "starting", "input": {}, "created_at": "now",
        "urls": {}, "logs": "", "output": None, "error": None,
    }  # fmt: skip

    async def call(client: Any, seconds: float | None) -> object:
        return await asyncio.wait_for(client.async_run("a/b", {"prompt": "rain"}), seconds)

    return Subject(
        "replicate",
        lambda path: path.endswith("/predictions"),
        lambda method, path, url: prediction,
        lambda url: module.Client(api_token="key", base_url=url),
        call,
        None,
    )


def fal() -> Subject:
    module = importlib.import_module("fal_client")
    inner: Any = importlib.import_module("fal_client.client")

    def make(url: str) -> Any:
        inner.QUEUE_URL_FORMAT = url + "/"  # only the host can be set, the scheme is https
        return module.AsyncClient(key="key")

    def answer(method: str, path: str, url: str) -> object:
        urls = {name: f"{url}/requests/{TASK_ID}/{name}" for name in ("response_url", "status_url", "cancel_url")}
        return {"request_id": TASK_ID, "status": "IN_QUEUE", "queue_position": 1, **urls}

    async def call(client: Any, seconds: float | None) -> object:
        return await client.subscribe("a/b", {"prompt": "rain"}, client_timeout=seconds)

    return Subject("fal-client", lambda path: "/requests/" not in path, answer, make, call, None)


def runway() -> Subject:
    module = importlib.import_module("runwayml")

    async def call(client: Any, seconds: float | None) -> object:
        async with asyncio.timeout(seconds):
            task = await client.text_to_video.create(model="veo3.1", prompt_text="rain", ratio="1280:720")
        return await task.wait_for_task_output(timeout=seconds)

    return Subject(
        "runwayml",
        lambda path: path.endswith("/text_to_video"),
        lambda method, path, url: {"id": TASK_ID, "status": "PENDING", "createdAt": "2026-01-01T00:00:00Z"},
        lambda url: module.AsyncRunwayML(api_key="key", base_url=url),
        call,
        lambda client: client.close(),
    )


def openai() -> Subject:
    module = importlib.import_module("openai")
    video = {"id": TASK_ID, "object": "video", "created_at": 0, "model": "sora-2", "progress": 0, "seconds": "4",
             "size": "1280x720", "status": "queued"}  # fmt: skip

    async def call(client: Any, seconds: float | None) -> object:
        return await asyncio.wait_for(client.videos.create_and_poll(prompt="rain", model="sora-2"), seconds)

    return Subject(
        "openai",
        lambda path: path.endswith("/videos"),
        lambda method, path, url: video,
        lambda url: module.AsyncOpenAI(api_key="key", base_url=url),
        call,
        lambda client: client.close(),
    )


def genai() -> Subject:
    module = importlib.import_module("google.genai")

    async def loop(client: Any) -> None:
        source = module.types.GenerateVideosSource(prompt="rain")
        operation = await client.aio.models.generate_videos(model="veo-3", source=source)
        while not operation.done:
            await asyncio.sleep(1)
            operation = await client.aio.operations.get(operation)

    async def call(client: Any, seconds: float | None) -> object:
        await asyncio.wait_for(loop(client), seconds)
        return None

    name = f"projects/p/locations/l/publishers/google/models/veo-3/operations/{TASK_ID}"
    return Subject(
        "google-genai",
        lambda path: path.endswith(":predictLongRunning"),
        lambda method, path, url: {"name": name},
        # videos are not to be had with a key of the developer API
        lambda url: module.Client(enterprise=True, api_key="key", http_options=module.types.HttpOptions(base_url=url)),
        call,
        lambda client: client.aio.aclose(),
    )


def together() -> Subject:
    module = importlib.import_module("together")
    job = {"id": TASK_ID, "created_at": 0, "model": "m", "seconds": "5", "size": "1", "status": "in_progress"}

    async def loop(client: Any) -> None:
        video = await client.videos.create(model="m", prompt="rain")
        while video.status == "in_progress":
            await asyncio.sleep(1)
            video = await client.videos.retrieve(video.id)

    async def call(client: Any, seconds: float | None) -> object:
        await asyncio.wait_for(loop(client), seconds)
        return None

    return Subject(
        "together",
        lambda path: path.endswith("/videos"),
        lambda method, path, url: job,
        lambda url: module.AsyncTogether(api_key="key", base_url=url),
        call,
        lambda client: client.close(),
    )


def ours() -> Subject:
    from wan_async import Job, WanClient

    task = {"id": TASK_ID, "socketaccesstoken": "token", "status": "task_start", "parameters": {}, "outputs": []}

    def answer(method: str, path: str, url: str) -> object:
        if path.endswith("/Task/List"):
            return {"result": True, "errors": [], "tasklist": [], "total": 0}
        return {"result": True, "errors": [], "taskid": TASK_ID, "socketaccesstoken": "token", "tasklist": [task]}

    return Subject(
        "wan-async",
        lambda path: "/Run/" in path,
        answer,
        lambda url: WanClient("key", base_url=url),
        lambda client, seconds: client.generate(Job(prompt="rain"), timeout=seconds),
        lambda client: client.aclose(),
    )


def names_the_task(thing: object, depth: int = 4, seen: set[int] | None = None) -> bool:
    """Whether the task's id is in an object, its attributes, arguments or causes."""
    seen = set() if seen is None else seen
    if thing is None or depth < 0 or id(thing) in seen:
        return False
    seen.add(id(thing))
    if isinstance(thing, str | bytes):
        return TASK_ID in str(thing)
    if isinstance(thing, asyncio.Task | asyncio.AbstractEventLoop | Server) or type(thing).__name__ == "module":
        return False
    parts: list[object] = []
    if isinstance(thing, BaseException):
        parts += [str(thing), thing.__cause__, thing.__context__, *thing.args]
    if isinstance(thing, dict):
        parts += [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset):
        parts += list(thing)
    names = [*getattr(thing, "__dict__", {}), *getattr(type(thing), "__slots__", ())]
    for name in names:
        with suppress(Exception):  # of a foreign property
            parts.append(getattr(thing, name))
    return any(names_the_task(part, depth - 1, seen) for part in parts)


async def ended(work: Awaitable[object]) -> BaseException | None:
    try:
        await work
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - what it is, is the result
        return error
    return None


def found(client: object, error: BaseException | None) -> str:
    if names_the_task(error):
        request = getattr(error, "request", None)
        in_url = TASK_ID not in str(error) and request is not None and TASK_ID in str(request.url)
        return "yes, in the URL of the error's request" if in_url else "yes, in the error"
    unclaimed = getattr(client, "unclaimed", None)
    return "yes, in the client" if names_the_task(unclaimed if unclaimed is not None else client) else "no"


async def scenario(subject: Subject, mode: str, act: Callable[[Server, Any], Awaitable[str]]) -> str:
    server = Server(subject.is_paid, lambda method, path: subject.answer(method, path, url), mode)
    listening = await asyncio.start_server(server.handle, "127.0.0.1")
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    client = subject.make(url)
    try:
        return await act(server, client)
    finally:
        listening.close()
        if subject.close is not None:
            with suppress(Exception):  # closed by the scenario
                await subject.close(client)


async def compare(subject: Subject) -> dict[str, str]:
    """Runs every scenario with one client."""

    async def lost(server: Server, client: Any) -> str:
        error = await ended(subject.call(client, None))
        same = len(server.keys) > 1 and len(set(server.keys)) == 1 and server.keys[0] is not None
        return f"{server.paid}, {type(error).__name__}" + (", one idempotency key" if same else "")

    async def timed_out(server: Server, client: Any) -> str:
        seconds = CALL_SECONDS if server.mode == "slow" else WAIT_SECONDS
        error = await ended(subject.call(client, seconds))
        return f"{found(client, error)} ({type(error).__name__}, {server.paid} paid)"

    async def cancelled(server: Server, client: Any) -> str:
        calling = asyncio.ensure_future(subject.call(client, None))
        await server.created.wait()
        await asyncio.sleep(CALL_SECONDS)
        calling.cancel()
        error = await ended(calling)
        return f"{found(client, error)} ({type(error).__name__}, {server.paid} paid)"

    async def closed(server: Server, client: Any) -> str:
        if subject.close is None:
            return "it cannot be closed"
        calling = asyncio.ensure_future(subject.call(client, None))
        await server.created.wait()
        await asyncio.sleep(CALL_SECONDS)
        await subject.close(client)
        polls = server.polls
        done, _ = await asyncio.wait([calling], timeout=CLOSED_SECONDS)
        if not done:
            calling.cancel()
            await ended(calling)
            return f"still waiting after {CLOSED_SECONDS:g} s, {server.polls - polls} polls"
        error = calling.exception()
        return f"{type(error).__name__} (the task: {found(None, error)})"

    scenarios = (
        ("answer lost: paid POSTs", "drop", lost),
        ("id after a timeout of the POST", "slow", timed_out),
        ("id after a timeout while waiting", "", timed_out),
        ("id after a cancelled POST", "slow", cancelled),
        ("id after a cancelled wait", "", cancelled),
        ("closing with a waiter", "", closed),
    )
    results = {}
    for name, mode, act in scenarios:
        results[name] = await scenario(subject, mode, act)
        print(f"{subject.package}: {name}: {results[name]}", file=sys.stderr)
    return results


async def main() -> None:
    """Compares all clients that are installed, and prints a table."""
    subjects: list[Subject] = []
    for make in (ours, replicate, fal, runway, openai, genai, together):
        try:
            subjects.append(make())
        except ImportError as error:
            print(f"left out: {make.__name__} ({error})", file=sys.stderr)
    results = await asyncio.gather(*(compare(subject) for subject in subjects))
    columns = list(results[0])
    print("| client | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for subject, result in zip(subjects, results, strict=True):
        name = f"{subject.package} {importlib.metadata.version(subject.package)}"
        print("| " + " | ".join([name, *result.values()]) + " |")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        os.environ.pop(proxy, None)
    asyncio.run(main())
