"""The client for apps, against the sandbox in process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from harness import EPOCH, KEY, SECRET, Send, intercepting, make_sandbox, virtually
from pictures import png

from wan_async import (
    Ambiguous,
    Clip,
    InvalidBatch,
    Job,
    JobFailed,
    Missing,
    NotFound,
    Options,
    StopBatch,
    Unusable,
    WanClient,
    open_batch,
)
from wan_async.domain import events
from wan_async.domain.model import WAN
from wan_async.http.urls import is_private
from wan_async.sandbox import Sandbox, transport

PNG = png(b"cat" * 50)


def client_of(sandbox: Sandbox) -> WanClient:
    return WanClient(KEY, SECRET, transport=transport(sandbox))


def quick_sandbox(**settings: Any) -> Sandbox:
    return Sandbox(**{"task_seconds": (0.05, 0.1), **settings})


def test_generate_uploads_submits_waits_and_downloads(tmp_path: Path) -> None:
    async def test() -> Clip:
        (tmp_path / "cat.png").write_bytes(PNG)
        sandbox = make_sandbox()
        async with client_of(sandbox) as client:
            clip = await client.generate(Job(image=tmp_path / "cat.png", prompt="it yawns"), to=tmp_path / "cat.mp4")
        assert sandbox.requests["File/Upload"] == sandbox.requests["Run"] == 1
        assert sandbox.leaks == []
        return clip

    clip = virtually(test)
    assert clip.path == tmp_path / "cat.mp4"
    assert clip.path.stat().st_size == clip.bytes
    assert clip.cost_micros == 50_000
    assert clip.further == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.mp4", "cat.png"]


@pytest.mark.parametrize("fault", ["late_cdn", "late_outputs", "no_etag", "task_error"])
def test_late_outputs_are_waited_for(tmp_path: Path, fault: str) -> None:
    async def test() -> Clip:
        times = dict.fromkeys(("late_cdn_seconds", "late_outputs_seconds"), 20.0)
        async with client_of(make_sandbox(faults={fault: 1.0}, **times)) as client:
            return await client.generate(Job(prompt="rain"), to=tmp_path / "rain.mp4")

    assert virtually(test).path == tmp_path / "rain.mp4"


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", ["late_cdn", "late_outputs"])
async def test_outputs_that_never_arrive_raise_missing_with_the_task_id(tmp_path: Path, fault: str) -> None:
    times = dict.fromkeys(("late_cdn_seconds", "late_outputs_seconds"), 1000.0)
    async with client_of(make_sandbox(faults={fault: 1.0}, **times)) as client:
        with pytest.raises(Missing) as missing:
            await client.generate(Job(prompt="rain"), to=tmp_path / "rain.mp4")
        assert missing.value.task_id == "500001"
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_denial_while_waiting_for_outputs_is_retried(tmp_path: Path) -> None:
    class Denying(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner, self.ends = inner, 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await self.inner.handle_async_request(request)
            if not request.url.path.endswith("/Task/Detail"):
                return response
            content = json.loads(await response.aread())
            if content["tasklist"][0]["status"] == "task_postprocess_end":
                self.ends += 1
                if self.ends == 1:
                    content["tasklist"][0]["outputs"] = []
                if self.ends == 2:
                    content = {"result": False, "errors": [{"code": 1, "message": "There is no task yet."}]}
                if self.ends == 3:
                    return httpx.Response(503)
            return httpx.Response(200, json=content)

    async def test() -> Clip:
        async with WanClient(KEY, SECRET, transport=Denying(transport(make_sandbox()))) as client:
            return await client.generate(Job(prompt="rain"), to=tmp_path / "rain.mp4")

    assert virtually(test).path == tmp_path / "rain.mp4"


@pytest.mark.virtual_time
async def test_an_outage_while_waiting_for_outputs_is_no_denial(tmp_path: Path) -> None:
    sandbox = make_sandbox(faults={"late_outputs": 1.0}, late_outputs_seconds=20.0)
    async with client_of(sandbox) as client:
        task = await client.submit(Job(prompt="rain"))
        await client.wait_ended(task)
        sandbox.faults.next("http_500", "Task/Detail", times=12)
        clip = await client.wait(task, tmp_path / "rain.mp4")
    assert clip.path == tmp_path / "rain.mp4"


@pytest.mark.virtual_time
async def test_further_outputs_of_a_task_are_saved_beside_the_first(tmp_path: Path) -> None:
    async def double(request: httpx.Request, send: Send) -> httpx.Response:
        response = await send(request)
        if not request.url.path.endswith("/Task/Detail"):
            return response
        answer = json.loads(await response.aread())
        for task in answer["tasklist"]:
            task["outputs"] = task.get("outputs", []) * 2
        return httpx.Response(response.status_code, json=answer)

    carrier = intercepting(double)(transport(make_sandbox()))
    async with WanClient(KEY, SECRET, transport=carrier) as client:
        clip = await client.generate(Job(prompt="rain"), to=tmp_path / "rain.mp4")
    (further,) = clip.further
    assert further.read_bytes() == clip.path.read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted([clip.path, further])  # and no part file


@pytest.mark.virtual_time
async def test_where_uploads_are_refused_the_image_is_sent_inline_in_run(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)

    sandbox = make_sandbox(uploads="refuse")
    async with client_of(sandbox) as client:
        for name in "ab":
            await client.generate(Job(prompt=name, image=tmp_path / "cat.png"), to=tmp_path / f"{name}.mp4")
        refused = sandbox.requests["File/Upload"]
        await client.generate(Job(prompt="c", image=tmp_path / "cat.png"), to=tmp_path / "c.mp4")
        assert sandbox.requests["File/Upload"] == refused
    assert all("inputImage" in task.parameters for task in sandbox.account.tasks.values())


def test_a_path_without_a_suffix_gets_that_of_the_clip(tmp_path: Path) -> None:
    async def test() -> Clip:
        async with client_of(make_sandbox()) as client:
            return await client.generate(Job(prompt="rain"), to=tmp_path / "rain")

    assert virtually(test).path == tmp_path / "rain.mp4"


@pytest.mark.virtual_time
async def test_an_existing_file_is_never_overwritten_and_nothing_is_submitted(tmp_path: Path) -> None:
    (tmp_path / "rain.mp4").write_text("mine")
    sandbox = make_sandbox()
    async with client_of(sandbox) as client:
        with pytest.raises(FileExistsError, match="nothing was done"):
            await client.generate(Job(prompt="rain"), to=tmp_path / "rain.mp4")
    assert sandbox.requests["Run"] == 0


@pytest.mark.virtual_time
async def test_a_failed_render_is_an_error_that_names_the_task(tmp_path: Path) -> None:
    async with client_of(make_sandbox(faults={"failed_render": 1.0})) as client:
        with pytest.raises(JobFailed, match="the render failed") as caught:
            await client.generate(Job(prompt="rain"), to=tmp_path / "rain.mp4")
    assert caught.value.task_id
    assert caught.value.billed_micros == 0


@pytest.mark.virtual_time
async def test_an_interrupted_download_is_resumed(tmp_path: Path) -> None:
    sandbox = make_sandbox(clip_bytes=300_000)
    sandbox.faults.next("cut_download", times=3)
    async with client_of(sandbox) as client:
        clip = await client.generate(Job(prompt="rain"), to=tmp_path / "rain.mp4")
    assert clip.bytes == 300_000
    assert sandbox.requests["cdn"] == 4


@pytest.mark.virtual_time
async def test_a_download_that_never_succeeds_fails_and_leaves_no_part_file(tmp_path: Path) -> None:
    sandbox = make_sandbox(faults={"cut_download": 1.0})
    async with client_of(sandbox) as client:
        with pytest.raises(Exception, match="download"):
            await client.generate(Job(prompt="rain"), to=tmp_path / "rain.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.virtual_time
async def test_a_cancelled_download_leaves_no_part_file(tmp_path: Path) -> None:
    parts: list[Path] = []

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"the first bytes"
            parts.extend(tmp_path.iterdir())
            await anyio.sleep_forever()

    sandbox = make_sandbox()
    downloads = httpx.MockTransport(lambda request: httpx.Response(200, stream=Endless()))
    async with WanClient(KEY, SECRET, transport=transport(sandbox), download_transport=downloads) as client:
        with anyio.move_on_after(60):
            await client.generate(Job(prompt="rain"), to=tmp_path / "rain.mp4")
    assert [path.suffix for path in parts] == [".part"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.virtual_time
async def test_an_unanswered_run_is_ambiguous_and_never_repeated() -> None:
    sandbox = make_sandbox()
    sandbox.faults.next("drop_after", endpoint="Run")
    async with client_of(sandbox) as client:
        with pytest.raises(Ambiguous) as caught:
            await client.submit(Job(prompt="rain", seed=3))
    assert caught.value.parameters["prompt"] == "rain"
    assert caught.value.parameters["seed"] == "3"
    assert sandbox.requests["Run"] == len(sandbox.account.tasks) == 1


@pytest.mark.virtual_time
async def test_track_yields_progress_and_the_end() -> None:
    async with client_of(make_sandbox(task_seconds=(20, 20))) as client:
        task = await client.submit(Job(prompt="rain"))
        async with client.track(task) as stream:
            received = [event async for event in stream]
    assert isinstance(received[-1], events.Ended)
    assert received[-1].status == "task_postprocess_end"
    assert all(isinstance(event, events.Progress) for event in received[:-1])
    assert len(received) > 2


@pytest.mark.virtual_time
async def test_leaving_track_early_does_not_affect_the_task() -> None:
    async with client_of(make_sandbox()) as client:
        task = await client.submit(Job(prompt="rain"))
        async with client.track(task):
            pass
        end = await client.wait_ended(task)
    assert end.status == "task_postprocess_end"


@pytest.mark.virtual_time
async def test_track_and_wait_raise_for_a_task_that_no_longer_exists() -> None:
    sandbox = make_sandbox()
    async with client_of(sandbox) as client:
        task = await client.submit(Job(prompt="rain"))
        sandbox.account.tasks.clear()
        sandbox.account.by_token.clear()
        with pytest.raises(JobFailed, match="does not know this task"):
            async with client.track(task) as stream:
                assert [event async for event in stream] == []
        with pytest.raises(JobFailed, match="does not know this task"):
            await client.wait(task)


@pytest.mark.virtual_time
async def test_cancel_ends_a_queued_task_and_kills_a_running_one() -> None:
    sandbox = make_sandbox(task_seconds=(100, 100))
    async with client_of(sandbox) as client:
        queued = await client.submit(Job(prompt="a"))
        await client.tasks.cancel(queued)
        running = await client.submit(Job(prompt="b"))
        await anyio.sleep(50)
        await client.tasks.cancel(running)
        for task in (queued, running):
            assert (await client.wait_ended(task)).status == "task_cancel"
        with pytest.raises(NotFound):
            await client.tasks.cancel(running)
        with pytest.raises(NotFound):
            await client.tasks.kill(running)
    assert sandbox.requests["Task/Kill"] == 3
    assert sandbox.account.spent_micros == 0


@pytest.mark.virtual_time
async def test_a_task_known_only_by_its_token_can_be_cancelled() -> None:
    sandbox = make_sandbox(task_seconds=(100, 100))
    async with client_of(sandbox) as client:
        whole = await client.submit(Job(prompt="a"))
        token_only = type(whole)(None, whole.token, whole.submitted_at)
        await client.tasks.cancel(token_only)
        assert (await client.wait_ended(token_only)).status == "task_cancel"


@pytest.mark.virtual_time
async def test_upload_refuses_files_that_are_not_images(tmp_path: Path) -> None:
    (tmp_path / "cat.txt").write_text("no image")
    (tmp_path / "cat.png").write_bytes(PNG)
    async with client_of(make_sandbox()) as client:
        with pytest.raises(InvalidBatch):
            await client.upload(tmp_path / "cat.txt")
        with pytest.raises(InvalidBatch):
            await client.submit(Job(prompt="x", image=tmp_path / "nowhere.png"))
        assert (await client.upload(tmp_path / "cat.png")).startswith("https://")


@pytest.mark.virtual_time
async def test_an_invalid_job_is_refused_before_anything_is_sent() -> None:
    sandbox = make_sandbox()
    async with client_of(sandbox) as client:
        with pytest.raises(InvalidBatch, match="480P"):
            await client.submit(Job(prompt="x", resolution="490P"))  # type: ignore[arg-type] # mypy sees the mistake, too
    assert sum(sandbox.requests.values()) == 0


def test_a_client_without_a_key_raises_an_authentication_error() -> None:
    with pytest.raises(StopBatch, match="WIRO_API_KEY") as caught:
        WanClient()
    assert caught.value.authentication


def test_the_account_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIRO_API_KEY", "k")
    monkeypatch.setenv("WIRO_BASE_URL", "https://example.com/v1/")
    client = WanClient()
    assert client.session.dependencies.api.base_url == "https://example.com/v1"
    assert client.account.origin == "https://example.com:443"
    assert "k" not in repr(client.account).replace("Account", "").replace("key", "")


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("https://api.wiro.ai/v1", False),
        ("http://127.0.0.1:8000/v1", True),
        ("https://10.0.0.3/v1", True),
        ("https://8.8.8.8/v1", False),
    ],
)
def test_a_private_api_address_is_detected(url: str, private: bool) -> None:
    assert is_private(url) is private


async def _collect(sandbox: Sandbox, output: Path, jobs: list[Job]) -> list[events.Event]:
    async with client_of(sandbox) as client, open_batch(jobs, output=output, client=client) as stream:
        return [event async for event in stream]


@pytest.mark.anyio
async def test_open_batch_stores_every_clip(tmp_path: Path) -> None:
    received = await _collect(quick_sandbox(), tmp_path, [Job(id=f"{n}", prompt=f"p{n}") for n in range(3)])
    end = received[-1]
    assert isinstance(end, events.Finished)
    assert (end.exit_code, end.stored) == (0, 3)
    assert len(list(tmp_path.glob("*.mp4"))) == 3


@pytest.mark.anyio
async def test_open_batch_overwrites_no_file_of_a_user(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("mine")
    sandbox = quick_sandbox()
    with pytest.raises(InvalidBatch, match=r"results\.jsonl: exists and is not ours"):
        await _collect(sandbox, tmp_path, [Job(id="a", prompt="p")])
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


@pytest.mark.anyio
async def test_leaving_the_block_normally_waits_for_the_batch(tmp_path: Path) -> None:
    sandbox = quick_sandbox()
    async with client_of(sandbox) as client:
        async with open_batch([Job(id="a", prompt="p")], output=tmp_path, client=client):
            pass
    assert (tmp_path / "a.mp4").exists()


@pytest.mark.anyio
async def test_a_batch_left_by_an_exception_is_resumed_without_paying_again(tmp_path: Path) -> None:
    sandbox = quick_sandbox(task_seconds=(0.5, 0.5))
    async with client_of(sandbox) as client:
        with pytest.raises(KeyError, match="mine"):
            async with open_batch([Job(id="a", prompt="p")], output=tmp_path, client=client) as stream:
                async for event in stream:
                    if isinstance(event, events.Accepted):
                        raise KeyError("mine")
    received = await _collect(sandbox, tmp_path, [Job(id="a", prompt="p")])
    assert isinstance(received[-1], events.Finished)
    assert received[-1].exit_code == 0
    assert len(sandbox.account.tasks) == 1


@pytest.mark.asyncio
async def test_native_cancellation_leaves_a_batch_that_resumes_without_paying_again(tmp_path: Path) -> None:
    sandbox = quick_sandbox(task_seconds=(0.5, 0.5))
    seen = asyncio.Event()

    async def run() -> None:
        async with client_of(sandbox) as client:
            async with open_batch([Job(id="a", prompt="p")], output=tmp_path, client=client) as stream:
                async for event in stream:
                    if isinstance(event, events.Submitting):
                        seen.set()

    running = asyncio.create_task(run())
    await seen.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await _collect(sandbox, tmp_path, [Job(id="a", prompt="p")])
    assert len(sandbox.account.tasks) == 1
    assert (tmp_path / "a.mp4").exists()


@pytest.mark.anyio
async def test_a_fatal_error_is_raised_on_leaving_the_block(tmp_path: Path) -> None:
    sandbox = quick_sandbox()
    async with WanClient("wrong", SECRET, transport=transport(sandbox)) as client:
        with pytest.raises(StopBatch) as caught:
            async with open_batch([Job(id="a", prompt="p")], output=tmp_path, client=client) as stream:
                received = [event async for event in stream]
    assert caught.value.authentication
    assert isinstance(received[-1], events.Finished)
    assert received[-1].exit_code == 4


@pytest.mark.anyio
async def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    passed = 0.0
    sandbox = quick_sandbox(task_seconds=(600, 600), now=lambda: EPOCH + passed)
    async with client_of(sandbox) as client:
        async with open_batch([Job(id="a", prompt="p")], output=tmp_path, client=client) as stream:
            async for event in stream:
                if isinstance(event, events.Accepted):
                    with pytest.raises(Unusable, match="another process"):
                        async with open_batch([Job(id="b", prompt="q")], output=tmp_path, client=client):
                            pass
                    passed = 600.0
    assert (tmp_path / "a.mp4").exists()


@pytest.mark.anyio
async def test_an_invalid_batch_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    sandbox = quick_sandbox()
    async with client_of(sandbox) as client:
        with pytest.raises(InvalidBatch):
            async with open_batch([Job(prompt="")], output=tmp_path, client=client, options=Options(retries=0)):
                raise AssertionError("never entered")
    assert sum(sandbox.requests.values()) == 0


@pytest.mark.virtual_time
async def test_a_connect_error_of_a_custom_transport_is_ambiguous() -> None:
    async def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("the request may have been sent", request=request)

    async with WanClient(KEY, SECRET, transport=httpx.MockTransport(refuse)) as client:
        with pytest.raises(Ambiguous):
            await client.submit(Job(prompt="rain"))


def test_the_model_name_is_that_of_the_service() -> None:
    assert WAN.name == "Wan-AI/Wan2.2-TI2V-5B-Image-to-Video-Fast"
