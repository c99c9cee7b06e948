"""The service for apps: `await client.generate(...)`, and `open_batch` for everything that `run` does.

A `WanClient` keeps no journal: an unanswered Run raises `Ambiguous` with the parameters that were sent, and is never
repeated. Where a task must survive a crash use `open_batch`, which has a journal.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import anyio.to_thread
import httpx
from pydantic import SecretStr

from wan_async import errors, filetypes
from wan_async.batch import images
from wan_async.domain import events, money, naming
from wan_async.domain.attempt import Account
from wan_async.domain.batch import from_jobs
from wan_async.domain.job import Job, image_of, job_stem, parameters_of
from wan_async.domain.task import Ending, TaskId, TaskToken, ending, outputs_of
from wan_async.domain.task import Task as RemoteTask
from wan_async.domain.validation import fault_of_path
from wan_async.engine.event_stream import EventStream
from wan_async.engine.tracker import Tracker
from wan_async.engine.uploads import read_image
from wan_async.filetypes import extension
from wan_async.handles import Clip, Task
from wan_async.http import retry, urls
from wan_async.http.urls import is_private
from wan_async.outputs.download import Fetched
from wan_async.outputs.downloader import Downloader
from wan_async.outputs.local import LocalStore
from wan_async.wiro import messages, protocol
from wan_async.wiro.api import Api

DOWNLOAD_TRIES = 8
PATIENCE_SECONDS = 60.0
"""For how long a single call asks for what the service denies; then it raises `Missing`."""
MAX_AGE_SECONDS = 3600.0

log = logging.getLogger(__name__)


class WanClient:
    """A client of Wiro's Wan2.2-TI2V-5B-Image-to-Video-Fast, for asyncio and trio; use it as `async with`.

    What is not given is taken from the environment: `WIRO_API_KEY`, `WIRO_API_SECRET`, `WIRO_BASE_URL`.

    Args:
        api_key: the project's API key.
        api_secret: its secret; a project of the key-only kind has none.
        base_url: where the API lives.
        transport: carries the requests to the API.
        download_transport: carries the downloads, which have no credentials; by default `transport` if that is given.
        timeout: for each step of a request, in seconds.

    Raises:
        errors.StopBatch: there is no API key.
        errors.InvalidBatch: the base URL won't do.
    """

    def __init__(
        self,
        api_key: str | None = None,
        api_secret: str | None = None,
        *,
        base_url: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        download_transport: httpx.AsyncBaseTransport | None = None,
        timeout: httpx.Timeout | None = None,
    ) -> None:
        if api_key is None:
            api_key, api_secret = os.environ.get("WIRO_API_KEY"), os.environ.get("WIRO_API_SECRET")
        if not api_key:
            raise errors.StopBatch("there is no API key: set WIRO_API_KEY, or pass api_key", authentication=True)
        base_url = base_url or os.environ.get("WIRO_BASE_URL") or protocol.BASE_URL
        self.api = Api(
            SecretStr(api_key),
            SecretStr(api_secret) if api_secret else None,
            base_url=base_url,
            transport=transport,
            timeout=timeout,
        )
        self.account = Account(urls.origin(self.api.base_url), api_key)
        self.downloader = Downloader(
            transport=download_transport or transport,
            allow_private=is_private(self.api.base_url),
            base_url=self.api.base_url,
        )
        self._watch = Tracker(self.api, patience=lambda: PATIENCE_SECONDS)
        self._takes_uploads = True
        self._hear: list[Callable[[messages.Hint], None]] = [self._watch.hint]
        self._group: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._watch.serve)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._group is not None
        group, self._group = self._group, None
        group.cancel_scope.cancel()
        try:
            await group.__aexit__(None, None, None)
        finally:
            with anyio.CancelScope(shield=True):
                await self.downloader.aclose()
                await self.api.aclose()

    def hint(self, hint: messages.Hint) -> None:
        """Something may have happened to a task: it is asked for now. See `callback_app`."""
        for hear in self._hear:
            hear(hint)

    @contextmanager
    def hearing(self, hear: Callable[[messages.Hint], None]) -> Iterator[None]:
        """Hints go to `hear`, too."""
        self._hear.append(hear)
        try:
            yield
        finally:
            self._hear.remove(hear)

    async def upload(self, image: str | os.PathLike[str]) -> str:
        """Uploads a local image; returns the URL that serves as a job's `image`.

        Raises:
            errors.InvalidBatch: it is no image, or too large.
        """
        path = Path(image)
        digest = await self._digest(str(path))
        content_type = await anyio.to_thread.run_sync(filetypes.image_type_of, path)
        return await self.api.upload(path, content_type=content_type, sha256=digest)

    async def submit(self, job: Job) -> Task:
        """Uploads the job's image if it is a local one, sends Run once, and returns the task. It costs money.

        Raises:
            errors.Ambiguous: a task may exist; its `parameters` are what to look for in Task/List.
            errors.WanError: certainly no task exists; see the kind of error for what to do.
        """
        from_jobs([job])  # raises if it is invalid
        url, inline, image = "", None, image_of(job)
        if image is not None:
            url = image if job.image_is_url else await self._upload_if_taken(image)
            if not url:
                inline = await anyio.to_thread.run_sync(read_image, Path(image))
        await self.api.turn()
        receipt = await self.api.run(parameters_of(job, url), callback_url=job.callback_url, image=inline)
        return Task(receipt.accepted.task_id, receipt.accepted.token, anyio.current_time())

    async def _upload_if_taken(self, image: str) -> str:
        """The URL of a local image; nothing where the service takes no uploads, so that it travels inside Run."""
        if self._takes_uploads:
            try:
                return await self.upload(image)
            except errors.UploadRefused as error:
                self._takes_uploads = False
                log.warning("the service takes no uploads (%s): images are sent inside Run from now on", error.message)
        return ""

    async def wait(self, task: Task, seen: Callable[[RemoteTask], None] = lambda state: None) -> RemoteTask:
        """Waits until the task has ended, however it did; returns it as Task/Detail shows it.

        Args:
            task: what `submit` returned.
            seen: called with each state before the last.

        Raises:
            errors.Missing: the service has denied the task for a minute. It may be there again later.
        """
        assert self._group is not None, "use the client as `async with WanClient() as client:`"
        return await self._watch.wait_ended(
            *task.names, since=max(task.since, anyio.current_time() - MAX_AGE_SECONDS), seen=seen
        )

    @asynccontextmanager
    async def track(self, task: Task) -> AsyncIterator[EventStream]:
        """Follows a task: `async with client.track(task) as events: async for event in events: ...`.

        The events are `Progress` samples, then one `Ended`. Leaving early stops following, not the task.
        """
        assert self._group is not None, "use the client as `async with WanClient() as client:`"
        stream, scope = EventStream(), anyio.CancelScope()
        failures: list[errors.WanError] = []
        about: dict[str, Any] = {"run": "", "job": task.id or "", "attempt": 1}

        def seen(state: RemoteTask) -> None:
            stream.put(events.Progress(at=time.time(), **about, percent=None, status=state.status))

        async def follow() -> None:
            with scope:
                try:
                    end = await self.wait(task, seen)
                except errors.WanError as error:
                    failures.append(error)
                else:
                    stream.put(
                        events.Ended(
                            at=time.time(),
                            **about,
                            task_id=end.id or task.id,
                            status=end.status,
                            pexit=end.pexit,
                            cost_usd=None if end.totalcost is None else money.usd(end.totalcost),
                        )
                    )
            stream.close()

        self._group.start_soon(follow)
        try:
            yield stream
        finally:
            scope.cancel()
        if failures:
            raise failures[0]

    async def generate(self, job: Job, to: str | os.PathLike[str] | None = None) -> Clip:
        """Submits a job, waits for it, and downloads its clip.

        Args:
            job: what to make.
            to: the clip's path; without a suffix it gets the right one. By default the job's id, or its image's stem,
                in the working folder. An existing file is never overwritten.

        Raises:
            errors.JobFailed: the render failed, or its clip can't be had; the error names the task and what was billed.
            errors.Ambiguous: see `submit`.
            FileExistsError: the target exists; nothing was submitted.
        """
        from_jobs([job])  # raises if it is invalid
        target = Path(to) if to is not None else Path(naming.safe_name(job.id or job_stem(job) or "clip"))
        _free(target)
        return await self._keep(await self.wait(await self.submit(job)), target)

    async def download(self, task: Task, to: str | os.PathLike[str] | None = None) -> Clip:
        """Downloads what an ended task made.

        Args:
            task: which; it costs nothing to do this more than once.
            to: as in `generate`; by default the task's id in the working folder.

        Raises:
            errors.TryLater: it still runs.
            errors.NotFound: there is no such task.
            errors.JobFailed: the render failed, or its clip can't be had.
            FileExistsError: the target exists.
        """
        end = await self.api.detail(*task.names)
        if ending(end) is None:
            raise errors.TryLater(f"it still runs ({end.status})", task_id=end.id)
        return await self._keep(end, _free(Path(to) if to is not None else Path(naming.safe_name(f"task-{end.id}"))))

    async def _with_outputs(self, end: RemoteTask) -> RemoteTask:
        """The ended task once it shows outputs, for which it is asked for a while: they may lag behind its status."""
        backoff, denials = retry.Backoff(), retry.Denials()
        failures = 0
        while not outputs_of(end) and ending(end) in (Ending.SUCCEEDED, Ending.UNDECIDED):
            if denials.denied(anyio.current_time()) >= PATIENCE_SECONDS:
                raise errors.Missing("the task has ended and shows no output", kind="missing", task_id=end.id)
            failures += 1
            await anyio.sleep(backoff.delay(failures, random.random()))  # noqa: S311 - jitter, no secret
            end = await self._asked_again(end, denials)
        return end

    async def _asked_again(self, end: RemoteTask, denials: retry.Denials) -> RemoteTask:
        """The task as Task/Detail shows it now; as before, if it can't be asked or denies the task."""
        try:
            return await self.api.detail(*_names(end))
        except errors.NotFound:
            return end
        except errors.TryLater:
            denials.no_answer()
            return end

    async def _keep(self, end: RemoteTask, target: Path) -> Clip:
        end = await self._with_outputs(end)
        outputs = outputs_of(end)
        if not outputs or not (ending(end) in (Ending.SUCCEEDED, Ending.CANCELLED) or end.totalcost):
            said = f"the task ended as {end.status} (pexit {end.pexit}), outputs: {len(outputs)}"
            said = f"{said}. {end.debugerror[-300:]}".removesuffix(". ")
            raise errors.JobFailed(said, kind="render", billed_micros=end.totalcost or 0, task_id=end.id)
        paths, facts = [], []
        for number in range(len(outputs)):
            base = target if number == 0 else target.with_name(f"{target.stem}-{number + 1}")
            path, fetched = await self._fetch(end, number, base)
            paths.append(path)
            facts.append(fetched)
        return Clip(paths[0], facts[0].bytes, facts[0].sha256, end.id or None, end.totalcost, tuple(paths[1:]))

    async def _fetch(self, end: RemoteTask, number: int, target: Path) -> tuple[Path, Fetched]:
        content_type, size, url = outputs_of(end)[number]
        part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
        backoff = retry.Backoff()

        async def remember(etag: str) -> None:
            kept.append(etag)

        kept: list[str | None] = [None]
        failures, stale, denials = 0, 0, retry.Denials()
        try:
            while True:
                try:
                    fetched = await self.downloader.fetch(
                        url,
                        part,
                        announced_bytes=size,
                        content_type=content_type,
                        etag=kept[-1],
                        remember=remember,
                        progress=lambda done, total: None,
                    )
                except errors.TryLater as error:
                    failures += 1
                    if failures == DOWNLOAD_TRIES:
                        raise
                    draw = random.random()  # noqa: S311 - jitter, no secret
                    await anyio.sleep(backoff.delay(failures, draw, error.after_seconds))
                except errors.NotFound as error:  # the file may lag behind the output
                    if denials.denied(anyio.current_time()) >= PATIENCE_SECONDS:
                        said = f"its clip is not available now: {error.message}"
                        raise errors.Missing(said, kind="missing", task_id=end.id) from None
                    stale += 1
                    await anyio.sleep(backoff.delay(stale, random.random()))  # noqa: S311 - jitter, no secret
                    fresh = outputs_of(await self._asked_again(end, denials))
                    content_type, size, url = fresh[number] if number < len(fresh) else (content_type, size, url)
                else:
                    path = target if target.suffix else target.with_suffix(extension(fetched.content_type))
                    await LocalStore(path.parent).publish(part.name, path.name, fetched.sha256)
                    return path, fetched
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: part.unlink(missing_ok=True))

    async def cancel(self, task: Task) -> None:
        """Ends a task: cancelled if it is still queued, killed if it runs.

        Raises:
            errors.NotFound: there is no such task, or it has ended.
        """
        task_id = task.names[0] or TaskId((await self.api.detail(*task.names)).id)
        try:
            await self.api.cancel(task_id)
        except errors.NotFound:
            await self.kill(task)

    async def kill(self, task: Task) -> None:
        """Ends a running task.

        Raises:
            errors.NotFound: there is no such task, or it has ended.
        """
        await self.api.kill(*task.names)

    async def _digest(self, image: str) -> str:
        digested = await anyio.to_thread.run_sync(images.digests, [image], {})
        if fault := fault_of_path(image) or digested.faults.get(image):
            raise errors.InvalidBatch([errors.Problem("", fault)])
        return digested.found[image].sha256


def _names(end: RemoteTask) -> tuple[TaskId | None, TaskToken | None]:
    return TaskId(end.id) if end.id else None, TaskToken(end.socketaccesstoken) or None


def _free(target: Path) -> Path:
    for path in (target, target.with_suffix(".mp4")):
        if path.exists():
            raise FileExistsError(f"{path} exists: nothing was done")
    return target
