"""Keys, secrets, signatures and tokens stand in no traceback, repr or log, not even with local variables."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import httpx
import pytest
from clients import Hooked, quick_sandbox, virtual_client, virtual_sandbox

import wan_async
from wan_async import Ambiguous, Job, StopBatch, Task, WanClient, open_batch
from wan_async.sandbox import Sandbox, transport

KEY, SECRET = "the-key-of-this-test", "the-secret-of-this-test"
JOB = Job(prompt="rain")


def shown(error: BaseException) -> str:
    """All that a reporter of errors may show, but for the frames of the test and of its transport."""
    lines = []
    seen: list[traceback.TracebackException] = [traceback.TracebackException.from_exception(error, capture_locals=True)]
    while seen:
        each = seen.pop()
        lines += list(each.format_exception_only())
        lines += [
            f"{frame.name}: {frame.locals}"
            for frame in each.stack
            if "/tests/" not in frame.filename.replace("\\", "/")
        ]
        if each.__cause__ is not None:
            seen.append(each.__cause__)
        if each.__context__ is not None and not each.__suppress_context__:
            seen.append(each.__context__)
        seen += each.exceptions or []
    return "\n".join(lines)


class Recording(httpx.AsyncBaseTransport):
    """Keeps the signatures of requests."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.inner = Hooked(transport(sandbox))
        self.secrets: set[str] = {KEY, SECRET}
        self.sandbox = sandbox

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "x-signature" in request.headers:
            self.secrets.add(request.headers["x-signature"])
        return await self.inner.handle_async_request(request)

    def known(self) -> set[str]:
        """All secrets so far."""
        return self.secrets | set(self.sandbox.account.by_token)


Fail = Callable[[WanClient, Recording, Path], Awaitable[object]]


async def unreadable_answers(client: WanClient, carrier: Recording, folder: Path) -> object:
    task = await client.submit(JOB)
    carrier.sandbox.faults.next("cut_json", "Task/Detail", times=10)
    return await client.tasks.get(task)


async def cut_run(client: WanClient, carrier: Recording, folder: Path) -> object:
    carrier.sandbox.faults.next("cut_json", "Run")
    return await client.submit(JOB)


async def lost_run(client: WanClient, carrier: Recording, folder: Path) -> object:
    carrier.sandbox.faults.next("drop_after", "Run")
    return await client.generate(JOB, folder)


async def wrong_secret(client: WanClient, carrier: Recording, folder: Path) -> object:
    carrier.sandbox.change(api_secret="another")
    return await client.submit(JOB)


async def failed_render(client: WanClient, carrier: Recording, folder: Path) -> object:
    carrier.sandbox.faults.next("failed_render", "Run")
    return await client.generate(JOB, folder)


async def timed_out(client: WanClient, carrier: Recording, folder: Path) -> object:
    return await client.generate(JOB, folder, timeout=0.5)


async def odd_transport(client: WanClient, carrier: Recording, folder: Path) -> object:
    task = Task.loads((await client.submit(JOB)).dumps())

    def fail(request: httpx.Request) -> None:
        raise RuntimeError("odd")

    carrier.inner.before = fail
    return await client.wait(task, folder)


async def unknown_token(client: WanClient, carrier: Recording, folder: Path) -> object:
    carrier.secrets.add("the-token-of-this-test")
    return await client.wait(Task.loads(Task(None, "the-token-of-this-test").dumps()), folder)


async def while_tracking(client: WanClient, carrier: Recording, folder: Path) -> object:
    task = Task.loads((await client.submit(JOB)).dumps())
    async with client.track(task) as events:
        async for _ in events:
            raise KeyError("mine")
    return None


async def in_callback(client: WanClient, carrier: Recording, folder: Path) -> object:
    def fail(task: Task) -> None:
        raise KeyError("mine")

    return await client.generate(JOB, folder, on_submitted=fail)


async def closed(client: WanClient, carrier: Recording, folder: Path) -> object:
    task = Task.loads((await client.submit(JOB)).dumps())
    await client.aclose()
    return await client.wait(task)


async def kill_and_delete(client: WanClient, carrier: Recording, folder: Path) -> object:
    task = Task.loads((await client.submit(JOB)).dumps())
    carrier.sandbox.faults.next("http_500", "Task/Cancel")
    await client.tasks.cancel(task)
    return None


async def doubtful(client: WanClient, carrier: Recording, folder: Path) -> object:
    carrier.sandbox.change(echo="empty")
    carrier.sandbox.faults.next("drop_after", "Run")
    try:
        await client.submit(JOB)
    except Ambiguous as error:
        return await client.find(error)
    return None


FAILURES: list[Fail] = [
    unreadable_answers,
    cut_run,
    lost_run,
    wrong_secret,
    failed_render,
    timed_out,
    odd_transport,
    unknown_token,
    while_tracking,
    in_callback,
    closed,
    kill_and_delete,
    doubtful,
]


@pytest.mark.virtual_loops
@pytest.mark.parametrize("fail", FAILURES)
async def test_no_traceback_with_local_variables_shows_a_secret(
    fail: Fail, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sandbox = virtual_sandbox(api_key=KEY, api_secret=SECRET)
    carrier = Recording(sandbox)
    client = virtual_client(carrier, key=KEY, secret=SECRET)
    try:
        await fail(client, carrier, tmp_path)
    except Exception as error:  # noqa: BLE001 - no kind of exception may show a secret
        text = shown(error)
    else:
        raise AssertionError("it fails")
    text += caplog.text
    found = {secret for secret in carrier.known() if secret in text}
    assert found == set(), [line for line in text.splitlines() if any(secret in line for secret in found)]
    await client.aclose()


@pytest.mark.parametrize("key", ["", "a\nb"])
def test_a_client_that_can_not_be_made_shows_no_secret(key: str) -> None:
    with pytest.raises(wan_async.WanError) as caught:
        WanClient(key, SECRET)
    assert SECRET not in shown(caught.value)
    with pytest.raises(wan_async.WanError) as caught:
        WanClient(KEY, SECRET, base_url="nonsense")
    assert {KEY, SECRET} & {text for text in (KEY, SECRET) if text in shown(caught.value)} == set()


def test_a_text_that_is_no_task_is_not_shown() -> None:
    text = '{"wan_async_task": 9, "id": "1", "token": "the-token"}'
    with pytest.raises(ValueError, match="task") as caught:
        Task.loads(text)
    assert "the-token" not in shown(caught.value)
    with pytest.raises(ValueError, match="task") as caught:
        Task.loads(text[:-1])
    assert "the-token" not in shown(caught.value)


@pytest.mark.anyio
async def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    sandbox = quick_sandbox(api_key=KEY, api_secret=SECRET)
    carrier = Recording(sandbox)
    seen: list[object] = []
    async with WanClient(KEY, SECRET, transport=carrier, on_request=seen.append) as client:
        task = await client.submit(JOB)
        detail = await client.wait_ended(task)
        async with client.track(task) as events:
            seen += [event async for event in events]
            seen.append(events)
        clip = await client.wait(task, tmp_path)
        async with open_batch([JOB], output=tmp_path / "out", client=client) as batch:
            seen += [event async for event in batch]
        seen += [task, detail, clip, batch, batch.result, client, client.account, client.session, client.tasks]
        seen += [client.unclaimed, client.session.dependencies, vars(client.session), vars(client)]
        seen += await client.tasks.list()
    text = "\n".join(map(repr, seen))
    assert {secret for secret in carrier.known() if secret in text} == set()


def test_the_secret_may_be_given_while_the_key_is_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIRO_API_KEY", KEY)
    monkeypatch.setenv("WIRO_API_SECRET", "another")
    sandbox = quick_sandbox(api_key=KEY, api_secret=SECRET)

    async def main() -> None:
        async with WanClient(api_secret=SECRET, transport=transport(sandbox), timeout=30) as client:
            await client.submit(JOB)
        async with WanClient(transport=transport(sandbox), timeout=30.5) as client:
            with pytest.raises(StopBatch):
                await client.submit(JOB)

    anyio.run(main)


def test_a_secret_of_the_environment_is_not_added_to_a_key_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIRO_API_SECRET", "another")
    sandbox = quick_sandbox(api_key=KEY, api_secret=None)

    async def main() -> None:
        async with WanClient(KEY, transport=transport(sandbox)) as client:
            await client.submit(JOB)

    anyio.run(main)
