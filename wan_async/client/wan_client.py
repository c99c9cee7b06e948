"""`WanClient`: the service for apps.

Importing it costs about as much as httpx: the first client loads the engine and the protocol.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import anyio
import httpx

from wan_async import errors
from wan_async.domain import money
from wan_async.engine.options import DEFAULT_CONCURRENCY_LIMIT
from wan_async.task_handles import Clip, Task

if TYPE_CHECKING:
    from pydantic import SecretStr

    from wan_async.client.clip_targets import Target
    from wan_async.client.durable_calls import DurableCalls
    from wan_async.client.progress import TaskEvents
    from wan_async.client.session import Call, Session
    from wan_async.client.submitter import Image, OnSubmitted
    from wan_async.client.task_calls import TaskCalls
    from wan_async.domain.attempt import Account
    from wan_async.domain.job import AnyJob
    from wan_async.domain.remote_task import TaskDetail
    from wan_async.engine.dependencies import Dependencies
    from wan_async.wiro.api import RequestReport
    from wan_async.wiro.notification_messages import Hint

CHUNK_BYTES = 1 << 20
CANCEL_SECONDS = 10.0
"""For how long a call whose time is up tries to cancel its task, where that was asked for."""

log: logging.Logger = logging.getLogger(__name__)


class WanClient:
    """A client of Wiro's Wan2.2-TI2V-5B-Image-to-Video-Fast, on asyncio (uvloop, too) and trio.

    It is usable at once, in any task of one event loop and by many tasks at the same time; close it by `aclose` or
    `async with` in any of them. It has no background task: whoever waits drives the tracking for all.

    Nothing is paid without a trace: from the moment Run may have left, each error carries its `task`, and a caller who
    was cancelled finds the task in `unclaimed` (or the unanswered Run in `unanswered`).

    What is not given is taken from the environment: `WIRO_API_KEY`, `WIRO_API_SECRET`, `WIRO_BASE_URL`,
    `WIRO_SOCKET_URL`.

    Args:
        api_key: the project's API key.
        api_secret: its secret; a project of the key-only kind has none. From the environment only if the key is, too.
        base_url: where the API lives.
        socket_url: where its WebSocket is. By default the service's own, if the API is the service's own and no
            `transport` is given; otherwise tasks are polled.
        transport: carries the requests to the API. It is closed with the client. `ConnectError` and `ConnectTimeout`
            prove that a Run was not sent only where they come from httpx's own transport or from the default one; of
            any other transport such a Run counts as unanswered.
        download_transport: carries the downloads, which have no credentials; by default `transport` if that is given.
        timeout: for each step of a request, in seconds.
        max_concurrency: the most tasks of this client that may be active at once. Below that, the account's own limit
            is found out.
        retries: how often a Run is sent again that certainly was not sent.
        journal: a folder for journals, which makes `generate` as durable as a batch: a call that is repeated after
            whatever ended the first one, the process included, goes on with its task instead of paying again. A job
            is known by its `id`, or else by its target. `submit` keeps no journal: there the caller keeps the task.
        on_request: called after each request to the API with its endpoint, task id, status and seconds, for metrics.
            What it raises is logged.

    Attributes:
        tasks: the remote tasks: list, get, cancel, kill, delete files.
        account: the account that pays.
        session: what the calls share; for `open_batch`.

    Raises:
        errors.StopBatch: there is no API key.
        errors.InvalidBatch: an argument won't do.

    Example:
        >>> from wan_async import Job, WanClient
        >>> async def main() -> None:
        ...     async with WanClient() as client:
        ...         clip = await client.generate(Job(image="cat.png", prompt="the cat yawns"), to="cat.mp4")
        ...         print(clip.path, clip.cost_micros)
    """

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        api_secret: str | SecretStr | None = None,
        *,
        base_url: str | None = None,
        socket_url: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        download_transport: httpx.AsyncBaseTransport | None = None,
        timeout: float | httpx.Timeout | None = None,
        max_concurrency: int = DEFAULT_CONCURRENCY_LIMIT,
        retries: int = 5,
        journal: str | os.PathLike[str] | None = None,
        on_request: Callable[[RequestReport], None] | None = None,
    ) -> None:
        from wan_async.client.connections import check_counts, connect, secret_of

        api_key, api_secret = secret_of(api_key), secret_of(api_secret)  # before anything can fail
        check_counts(max_concurrency=(max_concurrency, 1), retries=(retries, 0))
        dependencies, account = connect(
            api_key,
            api_secret,
            base_url=base_url,
            socket_url=socket_url,
            transport=transport,
            download_transport=download_transport,
            timeout=timeout,
            on_request=on_request,
        )
        self._begin(dependencies, account, max_concurrency, retries, journal)

    def _begin(
        self,
        dependencies: Dependencies,
        account: Account,
        max_concurrency: int,
        retries: int,
        journal: str | os.PathLike[str] | None,
    ) -> None:
        from wan_async.client.clip_targets import Targets
        from wan_async.client.clips import Clips
        from wan_async.client.session import Session
        from wan_async.client.submitter import Submitter
        from wan_async.client.task_calls import TaskCalls

        self._dependencies = dependencies
        self.account = account
        self.session: Session = Session(dependencies, max_concurrency)
        self._targets = Targets(dependencies)
        self._submitter = Submitter(self.session, retries)
        self._clips = Clips(self.session, self._targets)
        self._durable = None if journal is None else _durable_calls(self.session, account, Path(journal))
        self.tasks: TaskCalls = TaskCalls(self.session)

    @classmethod
    def of_dependencies(
        cls,
        dependencies: Dependencies,
        account: Account,
        *,
        max_concurrency: int = DEFAULT_CONCURRENCY_LIMIT,
        retries: int = 5,
        journal: str | os.PathLike[str] | None = None,
    ) -> Self:
        """A client with other connections, clock and disk: for tests, see `wan_async.testing`."""
        client = cls.__new__(cls)
        client._begin(dependencies, account, max_concurrency, retries, journal)
        return client

    @property
    def unclaimed(self) -> list[Task]:
        """Submitted tasks whose callers were cancelled, timed out or failed before they got them.

        A task leaves the list when its clip is fetched (`wait`, `read`, `stream`), or by `discard`.
        """
        return list(self.session.unclaimed)

    @property
    def unanswered(self) -> list[errors.Ambiguous]:
        """Runs without an answer whose callers were cancelled; see `find`. `discard` removes one."""
        return list(self.session.unanswered)

    def discard(self, left: Task | errors.Ambiguous) -> None:
        """Remove a task from `unclaimed`, or an error from `unanswered`: the app knows it now."""
        if isinstance(left, Task):
            self.session.claim(left)
        else:
            self.session.unanswered = [each for each in self.session.unanswered if each is not left]

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self.session.closed

    async def __aenter__(self) -> Self:
        self.session.check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client, from any task; closing again does nothing.

        Every call in progress raises `Closed` with its task. Runs in flight get three seconds for their answers.
        """
        await self.session.aclose()

    def hint(self, hint: Hint) -> None:
        """Something may have happened to a task: it is asked for now. See `callback_app`."""
        self.session.hint(hint)

    async def upload(self, image: str | os.PathLike[str]) -> str:
        """Upload a local image; returns the URL that serves as a job's `image`.

        Raises:
            errors.InvalidBatch: it is no image, or too large.
            errors.UploadRefused: the service takes no uploads from this project.
        """

        async def upload(call: Call) -> str:
            return await self._submitter.send_upload(await self._submitter.check_file(os.fspath(image)))

        return await self.session.call(upload)

    async def submit(self, job: AnyJob, *, on_submitted: OnSubmitted | None = None) -> Task:
        """Upload the job's image if it is a local one, send Run once, and return the task. It costs money.

        Waits for a slot while the account runs as many tasks as it allows (error 96), and while its rate is limited
        (429). If the caller is cancelled while Run is in flight, its answer is waited for, up to three seconds.

        Args:
            job: what to make.
            on_submitted: called (and awaited, if it returns an awaitable) with the task before anything else happens.

        Raises:
            errors.InvalidBatch: the job is invalid; nothing was sent.
            errors.Ambiguous: a task may exist, see `find`.
            errors.WanError: certainly no task exists; see the kind of error for what to do.
        """

        async def submit(call: Call) -> Task:
            return await self._submitter.submit(job, await self._submitter.check(job), call, on_submitted)

        return await self.session.call(submit)

    async def wait_ended(self, task: Task) -> TaskDetail:
        """Wait until a task has ended, and return what Task/Detail shows then. It downloads nothing.

        Args:
            task: which; from `submit`, from `Task.loads`, or made anew of an id or a token.

        Raises:
            errors.Missing: the service denies it; a later call may find it.
        """
        return await self.session.call(lambda call: self.session.wait_ended(task), task=task)

    async def wait(self, task: Task, to: str | os.PathLike[str] | None = None) -> Clip:
        """Wait until a task has ended, and download its clip. It costs nothing to do this more than once.

        Args:
            task: as for `wait_ended`.
            to: as for `generate`.

        Raises:
            FileExistsError: the target exists.
            errors.JobFailed: the render failed; the error says what was billed.
            errors.Missing: the task, or its clip, is not available now.
        """

        async def wait(call: Call) -> Clip:
            async with self._targets.reserve(to, task.name or f"task-{task.id or 'clip'}") as target:
                return await self._clips.save(task, await self.session.wait_ended(task), target)

        return await self.session.call(wait, task=task)

    async def read(self, task: Task) -> bytes:
        """Wait until a task has ended, and return its clip. Errors as for `wait`."""
        async with self._fetched(task) as path:
            return await self._dependencies.offload(path.read_bytes)

    @asynccontextmanager
    async def stream(self, task: Task, *, chunk_bytes: int = CHUNK_BYTES) -> AsyncIterator[AsyncIterator[bytes]]:
        """Wait until a task has ended, and stream its clip.

        The clip is downloaded to a temporary file and checked first, so that what is streamed is whole.

            async with client.stream(task) as chunks:
                async for chunk in chunks: ...

        Args:
            task: as for `wait_ended`.
            chunk_bytes: the size of the chunks.

        Raises:
            errors.WanError: as for `wait`.
        """
        from wan_async.client.clips import FileChunks

        async with self._fetched(task) as path:
            yield FileChunks(path, chunk_bytes, self._dependencies)

    @asynccontextmanager
    async def _fetched(self, task: Task) -> AsyncIterator[Path]:
        folder = tempfile.TemporaryDirectory(prefix="wan-async-", ignore_cleanup_errors=True)
        try:
            yield (await self.wait(task, os.path.join(folder.name, "clip.mp4"))).path  # noqa: PTH118 - a string
        finally:
            with anyio.CancelScope(shield=True):
                await self._dependencies.offload(folder.cleanup)

    @asynccontextmanager
    async def track(self, task: Task) -> AsyncIterator[TaskEvents]:
        """The progress of a task: `Progress` events as it changes, then `Ended`.

            async with client.track(task) as events:
                async for event in events: ...

        A percentage comes with the WebSocket only. Leaving the block early does not affect the task.

        Args:
            task: as for `wait_ended`.

        Raises:
            errors.Missing: while iterating: the service denies the task.
        """
        from wan_async.client.progress import TaskEvents  # it loads the events of batches

        self.session.check_open(task)
        stream = TaskEvents(self.session, task)
        with self.session.following(task, seen=stream.seen, heard=stream.heard) as waiting:
            stream.begin(waiting)
            yield stream

    async def generate(
        self,
        job: AnyJob,
        to: str | os.PathLike[str] | None = None,
        *,
        timeout: float | None = None,
        on_timeout: Literal["keep", "cancel"] = "keep",
        on_submitted: OnSubmitted | None = None,
    ) -> Clip:
        """Submit a job, wait for it, and download its clip.

        Args:
            job: what to make.
            to: the clip's path, which must not exist (without a suffix it gets the right one), or a folder. In a
                folder, by default the working folder, the clip is named by the job's id, or its image's stem, or a part
                of its content; if the name is taken, `NAME-2` and so on. It is reserved before anything is sent.
            timeout: how long the whole call may take, in seconds.
            on_timeout: what happens to the task then: it goes on, or is cancelled (or killed, if it runs).
            on_submitted: as for `submit`.

        Raises:
            FileExistsError: the target exists; nothing was submitted.
            errors.InvalidBatch: the job is invalid; nothing was submitted.
            errors.JobFailed: the render failed; the error says what was billed.
            errors.Missing: the clip is not available now: `wait` with the error's `task` later.
            errors.TimedOut: with its `task`, if there is one.
            errors.Ambiguous: as for `submit`.
        """
        from wan_async.client.submitter import clip_name

        async def generate(call: Call) -> Clip:
            if self._durable is not None:
                return await self._durable.generate(job, to, call, on_submitted)
            image = await self._submitter.check(job)
            async with self._targets.reserve(to, clip_name(job)) as target:
                return await self._generate(job, image, target, call, on_submitted)

        try:
            return await self.session.call(generate, timeout=timeout)
        except errors.TimedOut as error:
            if on_timeout == "cancel" and error.task is not None and await self._cancel(error.task):
                self.session.claim(error.task)
            raise

    async def _generate(
        self, job: AnyJob, image: Image | None, target: Target, call: Call, on_submitted: OnSubmitted | None
    ) -> Clip:
        task = await self._submitter.submit(job, image, call, on_submitted)
        try:
            return await self._clips.save(task, await self.session.wait_ended(task), target)
        except errors.Missing:
            raise
        except errors.JobFailed:
            if image is not None:
                self._submitter.forget(image)
            raise

    async def _cancel(self, task: Task) -> bool:
        with anyio.move_on_after(CANCEL_SECONDS):
            try:
                await self.tasks.cancel(task)
            except errors.WanError as error:
                log.warning("task %s could not be cancelled: %s", task.id, error.message)
            else:
                log.info("task %s: cancelled, since its call's time was up", task.id)
                return True
        return False

    async def find(self, unanswered: errors.Ambiguous, *, settle_seconds: float = 30.0) -> Task | None:
        """Look for the task of an unanswered Run, by the rules of a batch's reconciliation.

        Args:
            unanswered: the error of `submit` or `generate`, or one of `unanswered`.
            settle_seconds: how long the service may take to list a new task. Absence is proven after twice as long.

        Returns:
            The task; None if it is proven that there is none, so that the job can be submitted again.

        Raises:
            errors.Ambiguous: the service's answers do not show whether one of its tasks is this one.
            ValueError: the error is that of a call with a journal, which looks itself when it is made again.
        """
        from wan_async.client import unanswered_runs  # it loads the reconciliation of batches

        async def look(call: Call) -> Task | None:
            return await unanswered_runs.find(self.session, unanswered, settle_seconds)

        found = await self.session.call(look)
        self.discard(unanswered)
        return found

    async def estimate(self, job: AnyJob) -> Decimal | None:
        """What a job will cost, in USD, by the service's prices; None if they do not tell. It is free."""

        async def estimate(call: Call) -> Decimal | None:
            micros = await self._submitter.estimate(job)
            return None if micros is None else money.usd(micros)

        return await self.session.call(estimate)

    async def balance(self) -> Decimal | None:
        """The balance of the account's wallet, in USD; None if the service does not show it.

        Its answer is not documented (Wallet/List), so what is not understood is None.
        """

        async def balance(call: Call) -> Decimal | None:
            micros = await self._dependencies.api.balance()
            return None if micros is None else money.usd(micros)

        return await self.session.call(balance)


def _durable_calls(session: Session, account: Account, folder: Path) -> DurableCalls:
    from wan_async.client.durable_calls import DurableCalls  # it loads the engine of batches

    return DurableCalls(session, account, folder)
