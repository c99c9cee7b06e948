"""The API over HTTP: a method per endpoint, and the only holder of the credentials.

Every request is signed afresh and sent once, through the transport itself: no cookies, no redirects, nothing that could
repeat a POST behind our back. What may be repeated is repeated here (`tries`); Run never is. The credentials go to the
API's own origin alone, and stand in no message, repr or log line.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import anyio
import httpx
from pydantic import SecretStr

from wan_async import errors, pacing, wire
from wan_async.transport import StackTransport

log = logging.getLogger(__name__)

USER_AGENT = "wan-async"
ANSWER_LIMIT_BYTES = 16 * 1024 * 1024
"""No answer of the API may be longer, decoded."""

TIMEOUT = httpx.Timeout(60.0, connect=10.0, pool=60.0)

NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
"""What httpx raises only before a request has left. True of httpx's own transport and of ours on top of it."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What Run answered: a task exists. `answer` is the raw body."""

    accepted: wire.Accepted
    answer: bytes


@dataclass(frozen=True, slots=True)
class InlineImage:
    """An image that travels in Run itself: its bytes, already compared with their hash."""

    data: bytes
    content_type: str


class Api:
    """Wiro's API for one project.

    Args:
        key: the API key.
        secret: the API secret; None for a project of the key-only kind.
        base_url: where the API lives. Plain http is refused unless the host is this machine.
        transport: carries the requests. One that wasn't tested here (see `NOT_SENT`) is not believed when it says that
            a Run did not leave: such a Run counts as unanswered.
        timeout: seconds for connecting, reading, writing and waiting for a connection.
        clock: unix seconds, for nonces and dates.
        draw: numbers in [0, 1) for jitter.

    Raises:
        errors.InvalidBatch: if the base URL won't do.
    """

    def __init__(
        self,
        key: SecretStr,
        secret: SecretStr | None,
        *,
        base_url: str = wire.BASE_URL,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: httpx.Timeout | None = None,
        clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.base_url = wire.check_url(base_url, "WIRO_BASE_URL")
        self._key, self._secret = key, secret
        self._transport = transport if transport is not None else StackTransport()
        self._trusted = isinstance(self._transport, StackTransport | httpx.AsyncHTTPTransport)
        self._timeout = (timeout or TIMEOUT).as_dict()
        self._clock, self._draw = clock, draw
        self._bucket = pacing.TokenBucket()
        self._backoff = pacing.Backoff()
        self.on_limited: Callable[[float], None] = lambda seconds: None
        self.requests = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._transport.aclose()

    async def turn(self) -> None:
        """Waits until the project's rate limit lets another request leave. `run` expects it to be called before."""
        wait = self._bucket.reserve(anyio.current_time())
        if wait > 0:
            await anyio.sleep(wait)

    async def run(
        self, parameters: wire.Parameters, *, callback_url: str = "", image: InlineImage | None = None
    ) -> Receipt:
        """Sends Run, once. It costs money.

        Raises:
            errors.TryLater, errors.AtLimit, errors.OutOfFunds, errors.StopBatch, errors.JobFailed: certainly no task
                came of it.
            errors.Ambiguous: a task may exist.
        """
        request = wire.run_request(parameters, callback_url)
        if image is None:
            content: dict[str, Any] = {"json": dict(request.body)}
        else:
            name = f"image.{image.content_type.rpartition('/')[2]}"
            content = {"data": dict(request.body), "files": {"inputImage": (name, image.data, image.content_type)}}
        try:
            status, body, asked = await self._send(request.path, **content)
        except NOT_SENT as error:
            if self._trusted:
                raise errors.TryLater(f"no connection to the API ({_name(error)})", sent=False) from None
            raise errors.Ambiguous(_name(error), parameters=parameters.form()) from None
        except Exception as error:  # noqa: BLE001 - whatever breaks, also in a transport we do not know: it may have left
            log.debug("Run broke off: %s", _name(error))
            raise errors.Ambiguous(f"no answer to Run ({_name(error)})", parameters=parameters.form()) from None
        match wire.judge_run(status, body, asked):
            case wire.Accepted() as accepted:
                self._bucket.succeeded()
                return Receipt(accepted, body)
            case wire.Refused(refusal):
                self._limit(refusal)
                raise refusal
            case wire.Unclear(reason):
                raise errors.Ambiguous(reason, parameters=parameters.form())

    async def detail(
        self, task_id: wire.TaskId | None = None, token: wire.TaskToken | None = None, *, tries: int = 5
    ) -> wire.Task:
        """The task as it stands.

        Raises:
            errors.NotFound: the service knows none such; a fresh one may lag for a few seconds.
        """
        answer = await self._ask(wire.detail_request(task_id, token), tries)
        if not answer.tasklist:
            raise errors.NotFound("the answer holds no task", task_id=task_id)
        task = answer.tasklist[0]
        if task_id and task.id and task.id != task_id:
            raise errors.TryLater(f"asked for task {task_id}, told of task {task.id}", task_id=task_id)
        return task

    async def list_tasks(self, start: int = 0, limit: int = wire.LIST_PAGE, *, tries: int = 5) -> wire.Answer:
        """A page of the project's own tasks of our model, newest first. An account without tasks has an empty one."""
        try:
            return await self._ask(wire.list_request(start, limit), tries)
        except errors.NotFound as error:
            if "base URL" in error.message:
                raise
            return wire.Answer(result=True)

    async def cancel(self, task_id: wire.TaskId) -> wire.Task | None:
        """Cancels a queued task.

        Raises:
            errors.NotFound: it isn't queued (any more).
        """
        return _first(await self._ask(wire.cancel_request(task_id), 1))

    async def kill(self, task_id: wire.TaskId | None = None, token: wire.TaskToken | None = None) -> wire.Task | None:
        """Kills a running task."""
        return _first(await self._ask(wire.kill_request(task_id, token), 1))

    async def delete_files(self, token: wire.TaskToken) -> None:
        """Removes the input and output files of a finished task from the service; idempotent."""
        await self._ask(wire.delete_request(token), 5)

    async def tool(self) -> wire.Tool:
        """How our model is priced."""
        answer = await self._ask(wire.tool_request(), 5)
        return answer.tool[0] if answer.tool else wire.Tool()

    async def upload(self, path: Path, *, content_type: str, sha256: str | None = None, tries: int = 5) -> str:
        """Uploads an image; returns the URL that serves as `inputImageUrl`.

        Args:
            path: the image, at most 100 MB.
            content_type: what it is.
            sha256: what its bytes must hash to, if that is known.
            tries: how often, as it is free.

        Raises:
            errors.JobFailed: the file changed or can't be read, or the service refuses it.
        """

        async def send() -> wire.Answer:
            try:
                with path.open("rb") as file:
                    reader = _HashingReader(file)
                    name = f"image.{content_type.rpartition('/')[2]}"
                    answer = await self._exchange(wire.UPLOAD_PATH, files={"file": (name, reader, content_type)})
            except OSError as error:
                raise errors.JobFailed(f"{path} can't be read: {error.strerror or error}", kind="image") from None
            if sha256 is not None and reader.sha256.hexdigest() != sha256:
                raise errors.JobFailed(f"{path} changed since the batch was planned: run it again", kind="image")
            return answer

        answer = await self._repeat(send, tries)
        if not answer.files or not answer.files[0].url:
            raise errors.JobFailed("the service took the upload and named no URL for it", kind="upload")
        return answer.files[0].url

    async def _ask(self, request: wire.Request, tries: int) -> wire.Answer:
        return await self._repeat(lambda: self._exchange(request.path, json=dict(request.body)), tries)

    async def _repeat(self, send: Callable[[], Any], tries: int) -> wire.Answer:
        for attempt in range(1, tries + 1):
            try:
                answer: wire.Answer = await send()
            except errors.TryLater as error:
                if attempt == tries:
                    raise
                log.debug("again: %s", error)
                await anyio.sleep(self._backoff.delay(attempt, self._draw(), error.after_seconds))
            else:
                return answer
        raise AssertionError("tries is at least 1")

    async def _exchange(self, path: str, **content: Any) -> wire.Answer:
        await self.turn()
        try:
            status, body, asked = await self._send(path, **content)
        except httpx.HTTPError as error:
            sent = not (self._trusted and isinstance(error, NOT_SENT))
            raise errors.TryLater(f"no answer from the API ({_name(error)})", sent=sent) from None
        try:
            answer = wire.read_answer(status, body, asked)
        except errors.WanError as error:
            self._limit(error)
            raise
        self._bucket.succeeded()
        return answer

    def _limit(self, error: errors.WanError) -> None:
        if isinstance(error, errors.TryLater) and error.status == 429:
            self.on_limited(self._bucket.limited(anyio.current_time(), error.after_seconds))

    async def _send(self, path: str, **content: Any) -> tuple[int, bytes, float | None]:
        secret = self._secret.get_secret_value() if self._secret is not None else None
        headers = {
            "accept": "application/json",
            "accept-encoding": "gzip",
            "user-agent": USER_AGENT,
            **wire.auth_headers(self._key.get_secret_value(), secret, _nonces.take(self._clock())),
        }
        request = httpx.Request(
            "POST", self.base_url + path, headers=headers, extensions={"timeout": self._timeout}, **content
        )
        self.requests += 1
        response = await self._transport.handle_async_request(request)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > ANSWER_LIMIT_BYTES:
                    raise httpx.DecodingError(f"an answer of more than {ANSWER_LIMIT_BYTES} bytes")
        finally:
            await response.aclose()
        log.debug("%s: HTTP %d, %d bytes", path, response.status_code, len(body))
        return response.status_code, bytes(body), _retry_after(response.headers, self._clock())


class _Nonces:
    """No two requests of a process share a nonce, whichever client or thread they come from."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def take(self, now: float) -> int:
        with self._lock:
            self._last = wire.next_nonce(self._last, now)
            return self._last


_nonces = _Nonces()


class _HashingReader:
    """Hashes what is read from a file, so that what was sent is known, not believed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data

    def seek(self, offset: int) -> int:
        self.sha256 = hashlib.sha256()
        return self._file.seek(offset)

    def fileno(self) -> int:
        return self._file.fileno()


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    return wire.retry_after(headers.get("retry-after"), now)


def _first(answer: wire.Answer) -> wire.Task | None:
    return answer.tasklist[0] if answer.tasklist else None


def _name(error: Exception) -> str:
    """An exception by its type: its text may quote URLs or headers."""
    return type(error).__name__
