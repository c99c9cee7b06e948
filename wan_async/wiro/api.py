"""The API over HTTP: a method per endpoint, and the only holder of the credentials.

Every request is signed afresh and sent once, through the transport itself: no cookies, no redirects, nothing that could
repeat a POST behind our back. What may be repeated is repeated here (`tries`); Run never is. The credentials go to the
API's own origin alone, and stand in no message, repr or log line.
"""

from __future__ import annotations

import functools
import io
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import anyio
import httpx
from pydantic import SecretStr

from wan_async import errors
from wan_async.domain import prices
from wan_async.domain.fields import find_number
from wan_async.domain.model import WAN, Model, Parameters
from wan_async.domain.money import micros
from wan_async.domain.remote_task import TaskDetail, TaskId, TaskToken
from wan_async.http import rate_limit, retry
from wan_async.http.deadline import while_running
from wan_async.http.descriptor_limit import connections
from wan_async.http.network_errors import explain
from wan_async.http.transport import StackTransport
from wan_async.wiro import answers, protocol, schemas, signing
from wan_async.wiro.bodies import HashingReader, InlineImage, UnusableAnswer, read_limited, unreadable_image
from wan_async.wiro.credentials import NONCES, checked_key, checked_secret, checked_url
from wan_async.wiro.send_hooks import HeldBack, hold_back

T = TypeVar("T")

log: logging.Logger = logging.getLogger(__name__)

HEADERS = {"accept": "application/json", "accept-encoding": "gzip", "user-agent": "wan-async"}

TIMEOUT = httpx.Timeout(60.0, connect=10.0, pool=60.0)
RUN_SECONDS, SLOWEST_BYTES_PER_SECOND = 60.0, 50_000
"""How long a Run may take from its connection to its answer, in seconds during which this process ran; longer if it
carries an image."""
UPLOAD_REFUSALS = 3
"""After the same words of the service so often in a row an upload is refused, and not interrupted."""

NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
"""What httpx raises only before a request has left. True of httpx's own transport and of ours on top of it."""


@dataclass(frozen=True, slots=True)
class RequestReport:
    """One request to the API, for metrics and tracing.

    Attributes:
        endpoint: its path below the base URL, such as `/Task/Detail`.
        task_id: the task that it was about, where it named one by its id.
        status: the HTTP status; None if no answer came.
        seconds: from sending to the last byte of the answer, or to the failure.
    """

    endpoint: str
    task_id: str | None
    status: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Receipt:
    """What Run answered: a task exists. `answer` is the raw body."""

    accepted: answers.Accepted
    answer: bytes = field(repr=False)


class Api:
    """Wiro's API for one project.

    Args:
        key: the API key.
        secret: the API secret; None for a project of the key-only kind.
        model: the model that is run, listed and priced.
        base_url: where the API lives. Plain http is refused unless the host is this machine.
        transport: sends the requests. Of one that was not tested here (see `NOT_SENT`) a `ConnectError` does not prove
            that a Run was not sent: such a Run counts as unanswered.
        timeout: seconds for connecting, reading, writing and waiting for a connection.
        clock: unix seconds, for nonces and dates.
        draw: numbers in [0, 1) for jitter.
        on_request: called after each request. What it raises is logged.

    Attributes:
        may_run: called in the moments when a Run leaves; whether it may. One that may not is certainly not sent.
        rate_limit: the pauses and the rate of all requests.

    Raises:
        errors.InvalidBatch: if the base URL won't do, or no header can carry the credentials.
    """

    def __init__(
        self,
        key: SecretStr,
        secret: SecretStr | None,
        *,
        model: Model = WAN,
        base_url: str = protocol.BASE_URL,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: httpx.Timeout | None = None,
        clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
        on_request: Callable[[RequestReport], None] | None = None,
    ) -> None:
        self.model = model
        self.base_url: str = checked_url(base_url)
        self._key, self._secret = checked_key(key), checked_secret(secret)
        self._transport = transport if transport is not None else StackTransport(max_connections=connections())
        # not their descendants: one that sends again by itself may end in a ConnectError after a Run that left
        self._trusted = type(self._transport) in (StackTransport, httpx.AsyncHTTPTransport)
        self._timeout = (timeout or TIMEOUT).as_dict()
        self._run_seconds = RUN_SECONDS if timeout is None or timeout.read is None else timeout.read
        self._url = functools.cache(lambda path: httpx.URL(self.base_url + path))  # a tenth of a request's cost
        self._clock, self._draw = clock, draw
        self.rate_limit: rate_limit.TokenBucket = rate_limit.TokenBucket()
        self._backoff = retry.Backoff(first_seconds=0.25)
        self._on_limited: Callable[[float], None] = lambda seconds: None
        self._on_request = on_request
        self._is_closed = False
        self.requests: int = 0
        self.may_run: Callable[[], bool] | None = None

    async def __aenter__(self) -> Self:
        return self

    @contextmanager
    def reporting_limits(self, report: Callable[[float], None]) -> Iterator[None]:
        """Within this block `report` is called with the seconds that each 429 asks to wait."""
        before, self._on_limited = self._on_limited, report
        try:
            yield
        finally:
            self._on_limited = before

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections, once."""
        if not self._is_closed:
            self._is_closed = True
            await self._transport.aclose()

    async def turn(self) -> None:
        """Waits until the project's rate limit lets another request leave. `run` expects it to be called before."""
        while (wait := self.rate_limit.reserve(anyio.current_time())) > 0:
            await anyio.sleep(wait)
            if anyio.current_time() > self.rate_limit.not_before - 0.001:  # else 429s came meanwhile: queue up anew
                return

    async def run(self, parameters: Parameters, *, callback_url: str = "", image: InlineImage | None = None) -> Receipt:
        """Sends Run, once. It costs money.

        Its answer is waited for in time during which this process ran: one that arrived while the process was
        suspended is read before any timeout counts.

        Raises:
            errors.TryLater, errors.AtLimit, errors.OutOfFunds, errors.StopBatch, errors.JobFailed: certainly no task
                came of it.
            errors.Ambiguous: a task may exist.
        """
        request = protocol.run_request(self.model, parameters, callback_url)
        if image is None:
            content: dict[str, Any] = {"json": dict(request.body)}
        else:
            name = f"image.{image.content_type.rpartition('/')[2]}"
            field = "" if self.model.image is None else self.model.image.file_field
            content = {"data": dict(request.body), "files": {field: (name, image.data, image.content_type)}}
        return await self._with_own_nonce(lambda: self._run(request.path, parameters, content))

    async def _run(self, path: str, parameters: Parameters, content: dict[str, Any]) -> Receipt:
        try:
            post = self._sign(path, timeout=self._timeout | {"read": None}, **content)
        except ValueError as error:
            raise errors.JobFailed(f"the parameters can't be sent ({_name(error)})") from None
        if self.may_run is not None:
            hold_back(post, self.may_run)
        seconds = self._run_seconds + int(post.headers.get("content-length", 0)) / SLOWEST_BYTES_PER_SECOND
        try:
            status, body, asked = await while_running(seconds, lambda: self._send(post))
        except NOT_SENT as error:
            if self._trusted:
                why, hopeless = explain(error)
                raise errors.TryLater(f"no connection to the API: {why}", sent=False, hopeless=hopeless) from None
            raise errors.Ambiguous(_name(error), parameters=parameters) from None
        except HeldBack:
            raise errors.TryLater("Run was held back: this process was suspended", sent=False) from None
        except TimeoutError:
            raise errors.Ambiguous(f"no answer in {seconds:.0f} s", parameters=parameters) from None
        except Exception as error:  # noqa: BLE001 - whatever breaks, also in a transport we do not know: it may have left
            log.debug("Run broke off: %s", _name(error))
            raise errors.Ambiguous(f"no answer to Run ({_name(error)})", parameters=parameters) from None
        match answers.judge_run(status, body, asked):
            case answers.Accepted() as accepted:
                self.rate_limit.succeeded()
                return Receipt(accepted, body)
            case answers.Refused(refusal):
                self._limit(refusal)
                raise refusal
            case answers.Unclear(reason, proofs):
                raise errors.Ambiguous(reason, parameters=parameters, proofs=proofs)

    async def detail(
        self, task_id: TaskId | None = None, token: TaskToken | None = None, *, tries: int = 5
    ) -> TaskDetail:
        """The task as it stands.

        Raises:
            errors.NotFound: the service knows none such; a fresh one may lag for a few seconds.
        """
        answer = await self._ask(protocol.detail_request(task_id, token), tries, task_id)
        if not answer.tasklist:
            raise errors.NotFound("the answer holds no task", task_id=task_id)
        task = answer.tasklist[0]
        if task_id and task.id and task.id != task_id:
            raise errors.TryLater(f"asked for task {task_id}, got task {task.id}", task_id=task_id)
        return task

    async def list_tasks(self, start: int = 0, limit: int = protocol.LIST_PAGE, *, tries: int = 5) -> schemas.Answer:
        """A page of the project's own tasks of our model, newest first. An account without tasks has an empty one."""
        try:
            return await self._ask(protocol.list_request(self.model, start, limit), tries)
        except errors.NoSuchAddress:
            raise
        except errors.NotFound:
            return schemas.Answer(result=True)

    async def cancel(self, task_id: TaskId) -> TaskDetail | None:
        """Cancels a queued task.

        Raises:
            errors.NotFound: it isn't queued (any more).
        """
        return _first(await self._ask(protocol.cancel_request(task_id), 1, task_id))

    async def kill(self, task_id: TaskId | None = None, token: TaskToken | None = None) -> TaskDetail | None:
        """Kills a running task."""
        return _first(await self._ask(protocol.kill_request(task_id, token), 1, task_id))

    async def delete_files(self, token: TaskToken) -> None:
        """Removes the input and output files of a finished task from the service; idempotent."""
        await self._ask(protocol.delete_request(token), 5)

    async def tool(self) -> prices.Tool:
        """How our model is priced."""
        answer = await self._ask(protocol.tool_request(self.model), 5)
        return answer.tool[0] if answer.tool else prices.Tool()

    async def balance(self) -> int | None:
        """The balance of the account's wallet in micro-dollars, None if the answer does not show it.

        Wallet/List is documented without its fields (WIRO_API 5): the first number called `balance` is taken.
        """
        answer = await self._ask(protocol.wallet_request(), 5)
        return micros(find_number(answer.model_dump(), "balance"))

    async def upload(
        self, source: Path | InlineImage, *, content_type: str, sha256: str | None = None, tries: int = 5
    ) -> str:
        """Uploads an image; returns the URL that serves as a job's image.

        Args:
            source: the image, at most 100 MB.
            content_type: what it is.
            sha256: what its bytes must hash to, if that is known.
            tries: how often, as it is free.

        Raises:
            errors.JobFailed: the file changed or can't be read.
            errors.UploadRefused: the service refuses it, and not for a passing reason (WIRO_API 5).
        """
        messages: list[str] = []
        path = source if isinstance(source, Path) else Path("image")

        async def send() -> schemas.Answer:
            with _opened(source) as file:
                reader = HashingReader(file, path)
                name = f"image.{content_type.rpartition('/')[2]}"
                answer = await exchange({"file": (name, reader, content_type)})
            if sha256 is not None and reader.sha256 != sha256:
                raise errors.JobFailed(f"{path} changed since the batch was planned: run it again", kind="image")
            return answer

        async def exchange(content: Mapping[str, Any]) -> schemas.Answer:
            try:
                return await self._exchange(protocol.UPLOAD_PATH, files=content)
            except errors.TryLater as error:
                messages.append(error.said)
                if not error.said or messages[-UPLOAD_REFUSALS:] != [error.said] * UPLOAD_REFUSALS:
                    raise
                raise errors.UploadRefused(error.said, kind="upload") from None
            except errors.JobFailed as error:
                if error.kind == "image":
                    raise
                raise errors.UploadRefused(error.message, kind="upload") from None
            except errors.StopBatch as error:  # the same credentials pass elsewhere
                if error.nonce:
                    raise
                raise errors.UploadRefused(error.message, kind="upload") from None

        answer = await self._repeat(send, tries)
        if not answer.files or not answer.files[0].url:
            raise errors.JobFailed("the service took the upload and named no URL for it", kind="upload")
        return answer.files[0].url

    async def _ask(self, request: protocol.Request, tries: int, task_id: TaskId | None = None) -> schemas.Answer:
        try:
            return await self._repeat(lambda: self._exchange(request.path, task_id, json=dict(request.body)), tries)
        except (errors.JobFailed, errors.TryLater) as error:
            error.task_id = task_id
            raise

    async def _repeat(self, send: Callable[[], Awaitable[schemas.Answer]], tries: int) -> schemas.Answer:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._with_own_nonce(send)
            except errors.TryLater as error:
                if attempt >= tries or error.hopeless:
                    raise
                log.debug("again: %s", error)
                await anyio.sleep(self._backoff.delay(attempt, self._draw(), error.after_seconds))

    async def _with_own_nonce(self, send: Callable[[], Awaitable[T]]) -> T:
        """Sends a second time, signed afresh, what may be refused for its nonce alone: nothing came of the first.

        Another process with this key may have taken the same microsecond. At 50 requests a second each, two
        processes come to that every few minutes.
        """
        try:
            return await send()
        except errors.StopBatch as error:
            if not error.nonce or self._secret is None:
                raise
            log.debug("once more, with another nonce: %s", error)
        return await send()

    async def _exchange(self, path: str, task_id: str | None = None, **content: Any) -> schemas.Answer:
        await self.turn()
        try:
            status, body, asked = await self._send(self._sign(path, **content), task_id)
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            if isinstance(error, NOT_SENT):
                why, hopeless = explain(error)
                said = f"no connection to the API: {why}"
                raise errors.TryLater(said, sent=not self._trusted, hopeless=hopeless) from None
            raise errors.TryLater(f"no answer from the API ({_name(error)})") from None
        try:
            answer = answers.read_answer(status, body, asked)
        except errors.WanError as error:
            self._limit(error)
            raise
        self.rate_limit.succeeded()
        return answer

    def _limit(self, error: errors.WanError) -> None:
        if isinstance(error, errors.TryLater) and error.status == 429:
            error.after_seconds = self.rate_limit.limited(anyio.current_time(), error.after_seconds)
            self._on_limited(error.after_seconds)

    def _sign(self, path: str, *, timeout: Mapping[str, float | None] | None = None, **content: Any) -> httpx.Request:
        """The request, signed: no local variable holds the credentials, which a traceback might show."""
        request = httpx.Request(
            "POST", self._url(path), headers=HEADERS, extensions={"timeout": timeout or self._timeout}, **content
        )
        request.headers.update(
            signing.auth_headers(
                self._key.get_secret_value(),
                None if self._secret is None else self._secret.get_secret_value(),
                NONCES.take(self._clock()),
            )
        )
        return request

    async def _send(self, request: httpx.Request, task_id: str | None = None) -> tuple[int, bytes, float | None]:
        self.requests += 1
        began, status = monotonic(), None
        try:
            response = await self._transport.handle_async_request(request)
            status = response.status_code
            try:
                body = await read_limited(response)
            finally:
                await response.aclose()
        finally:
            if self._on_request is not None:
                self._report(request, task_id, status, monotonic() - began)
        log.debug("%s: HTTP %d, %d bytes", request.url.path, response.status_code, len(body))
        return response.status_code, body, _retry_after(response.headers, self._clock())

    def _report(self, request: httpx.Request, task_id: str | None, status: int | None, seconds: float) -> None:
        assert self._on_request is not None
        endpoint = str(request.url).removeprefix(self.base_url)
        try:
            self._on_request(RequestReport(endpoint, task_id, status, seconds))
        except Exception:
            log.exception("on_request failed")


@contextmanager
def _opened(source: Path | InlineImage) -> Iterator[IO[bytes]]:
    """A local image, to be read."""
    if isinstance(source, InlineImage):
        yield io.BytesIO(source.data)
        return
    try:
        file = source.open("rb")
    except OSError as error:
        raise unreadable_image(source, error) from None
    with file:
        yield file


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    return retry.retry_after(headers.get("retry-after"), now)


def _first(answer: schemas.Answer) -> TaskDetail | None:
    return answer.tasklist[0] if answer.tasklist else None


def _name(error: Exception) -> str:
    """An exception by its type: its text may quote URLs or headers, unless it is our own."""
    return str(error) if isinstance(error, UnusableAnswer) else type(error).__name__
