# pyright: strict
"""A program that uses the whole public surface, for type checkers: mypy --strict with the tests, and `nox -s pyright`.

It is not run. Each expression whose type matters is compared with that type, so that none is `Any` or unknown.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Literal, assert_never, assert_type

import httpx
from pydantic import SecretStr

import wan_async
from wan_async import (
    Ambiguous,
    AtLimit,
    BatchFailed,
    BatchResult,
    BatchRun,
    Clip,
    Closed,
    ImageBytes,
    InvalidBatch,
    Job,
    JobFailed,
    JobResult,
    Missing,
    NotFound,
    Options,
    OutOfFunds,
    RequestReport,
    StopBatch,
    Task,
    TaskDetail,
    TaskEvents,
    TimedOut,
    TryLater,
    Unusable,
    WanClient,
    WanError,
    callback_app,
    events,
    generate_sync,
    open_batch,
)
from wan_async.sandbox import ClipOrder, Sandbox, Settings, transport
from wan_async.testing import make_client as make_test_client
from wan_async.testing import make_sandbox, tiny_mp4


def jobs() -> list[Job]:
    job = Job(
        prompt="rain",
        image="cat.png",
        negative_prompt="snow",
        resolution="720P",
        aspect_ratio="16:9",
        seed="42",
        id="rain",
        callback_url="https://hooks.example",
    )
    assert_type(job.prompt, str)
    assert_type(job.image, str | ImageBytes | None)
    assert_type(job.negative_prompt, str)
    assert_type(job.resolution, Literal["480P", "580P", "720P"])
    assert_type(job.aspect_ratio, Literal["Default", "16:9", "9:16", "1:1"])
    assert_type(job.seed, int)
    assert_type(job.id, str | None)
    assert_type(job.callback_url, str)
    assert_type(job.image_is_url, bool)
    assert_type(job.problems(), list[tuple[str, str]])
    assert_type(job.model.name, str)
    held = ImageBytes(b"...")
    assert_type(held.data, bytes)
    assert_type(held.sha256, str)
    return [job, *(Job(image=image) for image in (Path("cat.png"), b"", bytearray(), memoryview(b""), BytesIO(), held))]


def handles(task: Task, clip: Clip) -> None:
    assert_type(Task("2221", "token", 0.0, "name", "job"), Task)
    assert_type(Task(id="2221", token=None, submitted_at=None, name="", job=""), Task)
    assert_type(task.id, str | None)
    assert_type(task.token, str | None)
    assert_type(task.submitted_at, float | None)
    assert_type(task.name, str)
    assert_type(task.job, str)
    assert_type(task.dumps(), str)
    assert_type(Task.loads(b"{}"), Task)
    assert_type(clip.path, Path)
    assert_type(clip.bytes, int)
    assert_type(clip.sha256, str)
    assert_type(clip.task_id, str | None)
    assert_type(clip.cost_micros, int | None)
    assert_type(clip.further, tuple[Path, ...])


def detail_of(detail: TaskDetail) -> None:
    assert_type(detail.id, str)
    assert_type(detail.uuid, str)
    assert_type(detail.socketaccesstoken, str)
    assert_type(detail.parameters, dict[str, object])
    assert_type(detail.status, str)
    assert_type(detail.pexit, str | None)
    assert_type(detail.debugoutput, str)
    assert_type(detail.debugerror, str)
    assert_type(detail.createtime, float | None)
    assert_type(detail.starttime, float | None)
    assert_type(detail.endtime, float | None)
    assert_type(detail.elapsedseconds, float | None)
    assert_type(detail.cps, int | None)
    assert_type(detail.totalcost, int | None)
    assert_type(detail.projectid, str | None)
    assert_type(detail.raw, dict[str, object])
    for output in detail.outputs:
        assert_type(output.id, str)
        assert_type(output.name, str)
        assert_type(output.contenttype, str)
        assert_type(output.size, int | None)
        assert_type(output.url, str)


def measure(report: RequestReport) -> None:
    assert_type(report.endpoint, str)
    assert_type(report.task_id, str | None)
    assert_type(report.status, int | None)
    assert_type(report.seconds, float)


async def store(task: Task) -> None:
    assert_type(task, Task)


def note(task: Task) -> None:
    assert_type(task, Task)


def make_client() -> WanClient:
    assert_type(WanClient(), WanClient)
    assert_type(WanClient(SecretStr("key"), SecretStr("secret")), WanClient)
    return WanClient(
        "key",
        "secret",
        base_url="https://api.wiro.ai/v1",
        socket_url="wss://socket.wiro.ai/v1",
        transport=httpx.AsyncHTTPTransport(),
        download_transport=httpx.AsyncHTTPTransport(),
        timeout=httpx.Timeout(30.0),
        max_concurrency=10,
        retries=3,
        journal=Path("journals"),
        on_request=measure,
    )


async def single_calls(client: WanClient, job: Job, target: os.PathLike[str]) -> None:
    async with client as entered:
        assert_type(entered, WanClient)
    assert_type(await client.generate(job), Clip)
    clip = await client.generate(job, to=target, timeout=600, on_timeout="cancel", on_submitted=store)
    assert_type(clip, Clip)
    task = await client.submit(job, on_submitted=note)
    assert_type(task, Task)
    assert_type(await client.submit(job, on_submitted=lambda submitted: None), Task)
    assert_type(await client.wait_ended(task), TaskDetail)
    assert_type(await client.wait(task), Clip)
    assert_type(await client.wait(task, to="clips/"), Clip)
    assert_type(await client.read(task), bytes)
    async with client.stream(task, chunk_bytes=65536) as chunks:
        assert_type(chunks, AsyncIterator[bytes])
        async for chunk in chunks:
            assert_type(chunk, bytes)
    async with client.track(task) as progress:
        assert_type(progress, TaskEvents)
        async for event in progress:
            match event:
                case events.Progress(percent=percent, status=status):
                    assert_type(percent, float | None)
                    assert_type(status, str)
                case events.Ended(cost_usd=cost):
                    assert_type(cost, Decimal | None)
                case _:
                    assert_never(event)
    assert_type(await client.upload(target), str)
    assert_type(await client.estimate(job), Decimal | None)
    assert_type(await client.balance(), Decimal | None)
    assert_type(client.unclaimed, list[Task])
    assert_type(client.unanswered, list[Ambiguous])
    for lost in client.unanswered:
        assert_type(await client.find(lost, settle_seconds=30), Task | None)
        client.discard(lost)
    client.discard(task)
    assert_type(client.closed, bool)
    assert_type(client.account.origin, str)
    assert_type(await client.aclose(), None)


async def remote_tasks(client: WanClient, task: Task) -> None:
    assert_type(await client.tasks.list(), list[TaskDetail])
    assert_type(await client.tasks.list(20, start=40), list[TaskDetail])
    assert_type(await client.tasks.get(task), TaskDetail)
    assert_type(await client.tasks.get("2221"), TaskDetail)
    assert_type(await client.tasks.cancel(task), None)
    assert_type(await client.tasks.kill(task), None)
    assert_type(await client.tasks.delete_files(task), None)


def options() -> Options:
    made = Options(
        concurrency=10,
        max_concurrency=100,
        downloads=8,
        upload="auto",
        track="poll",
        retries=2,
        budget_micros=5_000_000,
        limit=100,
        only="rain*",
        retry_failed=True,
        rerender=True,
        give_up=True,
        patience_seconds=60,
        resubmit_unknown=True,
        render_duplicates=True,
        pilot=3,
        adopt=True,
        ignore_unowned=True,
        settle_seconds=30,
        resume="again",
    )
    assert_type(made.concurrency, int | None)
    assert_type(made.upload, Literal["auto", "file", "inline"])
    assert_type(made.track, Literal["auto", "socket", "poll"])
    assert_type(made.admits("rain"), bool)
    return made


async def batch(client: WanClient, made: Iterable[Job]) -> None:
    async with open_batch(made, output="clips", client=client, options=options()) as run:
        assert_type(run, BatchRun)
        async for event in run:
            assert_type(event, events.AnyEvent)
            show(event)
            job = run.job_of(event)
            if isinstance(job, Job):
                assert_type(job.prompt, str)
        for key, given in run.jobs.items():
            assert_type(key, str)
            assert_type(given.id, str | None)
    result = run.result
    assert_type(result, BatchResult)
    assert_type(result.finished, events.Finished)
    assert_type(result.jobs, tuple[JobResult, ...])
    for some in (result.stored, result.failed, result.cancelled, result.missing, result.unknown, result.unfinished):
        assert_type(some, list[JobResult])
        for each in some:
            assert_type(each.job.callback_url, str)
            assert_type(each.key, str)
            assert_type(each.state, str)
            assert_type(each.file, Path | None)
            assert_type(each.task_id, str | None)
            assert_type(each.cost_micros, int | None)
            assert_type(each.error, str | None)
    assert_type(result.raise_for_failures(), None)


def show(event: events.AnyEvent) -> str:
    assert_type(event.at, float)
    assert_type(event.run, str)
    assert_type(events.as_dict(event), dict[str, object])
    if isinstance(event, events.JobEvent):
        assert_type(event.job, str)
        assert_type(event.attempt, int)
    match event:
        case events.Started():
            assert_type(event.groups, tuple[events.PriceGroup, ...])
            return (
                f"{event.output}: {event.to_do} of {event.jobs}, {event.done}, {event.budget_usd}, {event.estimate_usd}"
            )
        case events.Uploaded(url=url):
            return url
        case events.Submitting():
            assert_type(event.price_usd, Decimal | None)
            return event.job
        case events.Accepted():
            assert_type(event.adopted, bool)
            return event.task_id or ""
        case events.Progress():
            return event.status
        case events.Ended():
            return event.pexit or event.status
        case events.Downloading():
            assert_type(event.total, int | None)
            return str(event.bytes)
        case events.Stored():
            assert_type(event.seconds, float)
            return event.file + event.sha256
        case events.Retrying():
            assert_type(event.after_seconds, float)
            return event.reason
        case events.Unknown() | events.Quarantined() | events.Missing() | events.Cancelled():
            assert_type(event.task_id, str | None)
            return event.reason
        case events.Failed():
            assert_type(event.billed_usd, Decimal | None)
            return event.kind + event.message
        case events.Limited():
            assert_type(event.concurrency, int | None)
            return str(event.code)
        case events.Problem():
            return event.where + event.message
        case events.Stopping():
            return event.reason
        case events.Finished():
            assert_type(event.spent_usd, Decimal)
            assert_type(event.exit_code, int)
            return event.resume or ""
        case _:
            assert_never(event)


def explain(error: WanError) -> str:
    assert_type(error.message, str)
    assert_type(error.job, str | None)
    assert_type(error.task_id, str | None)
    assert_type(error.task, Task | None)
    match error:
        case NotFound() | Missing():
            return error.kind
        case JobFailed():
            assert_type(error.billed_micros, int)
            return error.kind
        case TryLater():
            assert_type(error.after_seconds, float | None)
            assert_type(error.status, int | None)
            assert_type(error.sent, bool)
            assert_type(error.hopeless, bool)
            return error.said
        case StopBatch():
            assert_type(error.authentication, bool)
            assert_type(error.nonce, bool)
        case Ambiguous():
            assert_type(error.parameters, dict[str, str])
            assert_type(error.sent_at, float | None)
            assert_type(error.high_id, int | None)
            assert_type(error.proofs, int)
            return error.image
        case InvalidBatch():
            for problem in error.problems:
                assert_type(problem.where, str)
                assert_type(problem.message, str)
        case AtLimit() | OutOfFunds() | Closed() | TimedOut() | BatchFailed() | Unusable():
            pass
        case _:
            pass
    return str(error)


Scope = MutableMapping[str, object]
Receive = Callable[[], Awaitable[MutableMapping[str, object]]]
Send = Callable[[MutableMapping[str, object]], Awaitable[None]]


def webhook(client: WanClient) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    app = callback_app(client, secret="0123456789abcdef")
    assert_type(app.path, str)
    assert_type(app.url("https://hooks.example"), str)
    return app


def script() -> None:
    assert_type(generate_sync(Job(prompt="rain"), to="rain.mp4", timeout=60, client=make_client), Clip)


def render(order: ClipOrder) -> bytes:
    assert_type(order.image, bytes | None)
    assert_type((order.prompt, order.resolution, order.aspect_ratio), tuple[str, str, str])
    assert_type((order.seed, order.task_id), tuple[str, str])
    return b""


async def local_wiro() -> None:
    local = transport(balance_usd=5, task_seconds=(0.1, 0.2), faults={"drop_after@Run": 0.05}, clip=render)
    sandbox = local.sandbox
    assert_type(sandbox, Sandbox)
    assert_type(transport(Sandbox(Settings(seed=1), uploads="refuse")).sandbox, Sandbox)
    assert_type(sandbox.settings, Settings)
    assert_type(sandbox.settings.projects, dict[str, str | None])
    assert_type(sandbox.account.balance_micros, int)
    assert_type(sandbox.requests["Run"], int)
    assert_type(sandbox.leaks, list[str])
    sandbox.next("drop_after", "Run", times=2)
    sandbox.faults.next("drop_after", "Run", times=2)
    sandbox.faults.set_probabilities({"http_500": 0.1})
    sandbox.change(uploads="refuse", refusal=None)
    sandbox.refuse_runs(96, "limit", times=1)
    sandbox.restart_ids(1)
    for at, endpoint, task_id in sandbox.log:
        assert_type((at, endpoint, task_id), tuple[float, str, str])
    for task in sandbox.add_teammate_tasks(2, {"prompt": "theirs"}, project_id="p", seconds=1.0):
        assert_type(task.id, str)
        assert_type(sandbox.view(task, "http://127.0.0.1"), dict[str, object])
        sandbox.end(task)
    for url, content in sandbox.callbacks_due():
        assert_type(url, str)
        assert_type(content, dict[str, object])
    response = await local.handle_async_request(httpx.Request("GET", "https://api.wiro.ai/v1"))
    assert_type(response, httpx.Response)
    sandbox.save()
    sandbox.close()


async def test_of_an_app() -> None:
    sandbox = make_sandbox(balance_usd=5, task_seconds=(1, 2))
    assert_type(sandbox, Sandbox)
    assert_type(make_test_client(sandbox), WanClient)
    assert_type(tiny_mp4("rain"), bytes)


class App:
    """Holds a client for its lifetime, as an app does."""

    def __init__(self) -> None:
        self.client = wan_async.WanClient("key", transport=wan_async.sandbox.transport())
        self.seen: Sequence[wan_async.events.AnyEvent] = ()
        self.labels: Mapping[str, wan_async.Job] = {}

    async def __aenter__(self) -> App:
        await self.client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.__aexit__(kind, error, trace)


assert_type(wan_async.__version__, str)
