"""Submission of single jobs: checks, the image, a slot, and one Run that no cancellation separates from its answer."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.batch import images
from wan_async.client.concurrency_limit import Slot
from wan_async.client.session import Call, Session
from wan_async.domain import naming
from wan_async.domain.batch import from_jobs
from wan_async.domain.job import AnyJob, content_hash, image_bytes_of, image_of, job_stem, parameters_of
from wan_async.domain.model import Parameters
from wan_async.domain.validation import fault_of_path
from wan_async.engine.uploads import REMEMBERED_SECONDS
from wan_async.filetypes import image_type_of
from wan_async.http.retry import Backoff
from wan_async.task_handles import Task
from wan_async.wiro.bodies import InlineImage, unreadable_image

OnSubmitted = Callable[[Task], Awaitable[None] | None]
"""Called with a task as soon as its Run is answered."""

LISTED_SECONDS = 60.0
"""Before a Run the newest tasks are listed, unless that was done within this time."""
LIST_TRIES, LIST_TIMEOUT_SECONDS = 3, 15.0
"""How often, and for how long, that is tried: it must not hold back Runs for long."""

log: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Image:
    """A job's local image.

    Attributes:
        digest: its sha256, in hex.
        source: where it is, or its bytes.
    """

    digest: str
    source: Path | InlineImage


@dataclass(frozen=True, slots=True)
class _Order:
    job: AnyJob
    form: Parameters
    image: str
    inline: InlineImage | None
    call: Call
    on_submitted: OnSubmitted | None


@dataclass(frozen=True, slots=True)
class _Raised:
    """What the caller's `on_submitted` raised, of whatever type: the Run itself was answered."""

    error: Exception


class Submitter:
    """Submits the jobs of a client's calls.

    Args:
        session: the client's shared state.
        retries: how often a Run is sent again that certainly was not sent.
    """

    def __init__(self, session: Session, retries: int) -> None:
        self._session = session
        self._dependencies = session.dependencies
        self._retries = retries
        self._backoff = Backoff()
        self._urls: dict[str, tuple[str, float]] = {}
        self._locks: dict[str, anyio.Lock] = {}
        self._takes_uploads = True
        self._listing = anyio.Lock()
        self._listed_at = -math.inf

    async def check(self, job: AnyJob) -> Image | None:
        """Check a job before anything is sent; returns its local image, if it has one.

        Raises:
            errors.InvalidBatch: the job, or its image, is invalid.
        """
        from_jobs([job])
        held = image_bytes_of(job)
        if held is not None:
            if fault := images.fault_of_bytes(held.data):
                raise _invalid(f"image: {fault}")
            return Image(held.sha256, InlineImage(held.data, f"image/{images.image_suffix(held.data)}"))
        path = image_of(job)
        if path is None or job.image_is_url:
            return None
        return await self.check_file(path)

    async def estimate(self, job: AnyJob) -> int | None:
        """What a job will cost, in micro-dollars, by the service's prices; None if they do not tell.

        Raises:
            errors.InvalidBatch: the job won't do.
        """
        await self.check(job)
        return (await self._dependencies.api.tool()).estimate(parameters_of(job, ""))

    async def check_file(self, path: str) -> Image:
        """Check an image file, and hash it.

        Raises:
            errors.InvalidBatch: it can't be sent.
        """
        digested = await self._dependencies.offload(images.digests, [path], {})
        if fault := fault_of_path(path) or digested.faults.get(path):
            raise _invalid(fault)
        return Image(digested.found[path].sha256, Path(path))

    async def upload(self, image: Image) -> str:
        """The URL of an image, uploaded once a day; empty if the service takes no uploads.

        Raises:
            errors.JobFailed: the file changed, or is refused.
            errors.TryLater: the upload failed for a passing reason.
        """
        lock = self._locks.setdefault(image.digest, anyio.Lock())
        try:
            async with lock:
                url, at = self._urls.get(image.digest, ("", 0.0))
                if url and self._dependencies.clock() - at < REMEMBERED_SECONDS:
                    return url
                if not self._takes_uploads:
                    return ""
                url = await self.send_upload(image)
                self._urls[image.digest] = url, self._dependencies.clock()
                return url
        except errors.UploadRefused as error:
            log.info("the service takes no uploads (%s): images are sent inside Run from now on", error.message)
            self._takes_uploads = False
            return ""
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._locks.pop(image.digest, None)

    async def send_upload(self, image: Image) -> str:
        """Upload an image whatever was uploaded before; see `Api.upload`."""
        if isinstance(image.source, InlineImage):
            return await self._dependencies.api.upload(image.source, content_type=image.source.content_type)
        content_type = await self._dependencies.offload(image_type_of, image.source)
        return await self._dependencies.api.upload(image.source, content_type=content_type, sha256=image.digest)

    def forget(self, image: Image) -> None:
        """A render failed: the image is uploaded anew for the next job, in case the upload was broken."""
        self._urls.pop(image.digest, None)

    async def submit(
        self, job: AnyJob, image: Image | None, call: Call, on_submitted: OnSubmitted | None = None
    ) -> Task:
        """Submit a job that was checked; see `WanClient.submit`."""
        url, inline = image_of(job) or "", None
        identity = f"url:{url}" if url else ""
        if image is not None:
            identity = f"sha256:{image.digest}"
            url = await self.upload(image)
            inline = None if url else await self._read(image)
        order = _Order(job, parameters_of(job, url), identity, inline, call, on_submitted)
        failures, ticket = 0, self._session.admission.ticket()
        while True:
            slot = await self._session.admission.take(ticket)
            try:
                await self._learn_ids()
                await self._dependencies.api.turn()
                self._session.check_open()
                call.answered = anyio.Event()
                outcome = await self._session.in_flight.protect(partial(self._run, order, slot), order.form)
            finally:
                if call.answered is not None:
                    call.answered.set()
                if not call.submitted:
                    slot.release()
            match outcome:
                case Task():
                    return outcome
                case _Raised(error):
                    raise error
                case None:  # its time was up after the call was cancelled, or the client closed
                    raise call.unanswered or errors.Closed("the client is closed")
                case errors.AtLimit():
                    log.info("the account runs as many tasks as it allows (error 96): waiting for one to end")
                case errors.TryLater() if outcome.sent or (failures < self._retries and not outcome.hopeless):
                    failures += not outcome.sent
                    wait = self._backoff.delay(max(1, failures), self._dependencies.draw(), outcome.after_seconds)
                    log.info("Run was not taken (%s): again in %.1f s", outcome.message, wait)
                    await anyio.sleep(wait)
                case _:
                    raise outcome

    async def _learn_ids(self) -> None:
        """Look which tasks exist before a Run, so that an equal older one is never taken for that of this Run."""
        async with self._listing:
            if anyio.current_time() - self._listed_at < LISTED_SECONDS:
                return
            try:
                with anyio.move_on_after(LIST_TIMEOUT_SECONDS):
                    listed = await self._dependencies.api.list_tasks(limit=20, tries=LIST_TRIES)
                    self._session.note_listing(listed.tasklist)
            except (errors.TryLater, errors.JobFailed) as error:
                log.info("the task list could not be read (%s)", error.message)
            self._listed_at = anyio.current_time()

    async def _read(self, image: Image) -> InlineImage:
        if isinstance(image.source, InlineImage):
            return image.source
        read = await self._dependencies.offload(_read, image.source)
        if sha256(read.data).hexdigest() != image.digest:
            raise errors.JobFailed(f"{image.source} changed while it was submitted", kind="image")
        return read

    async def _run(self, order: _Order, slot: Slot) -> Task | errors.WanError | _Raised:
        """Send Run once. Errors are returned: nothing may be raised into the group that protects this."""
        assert order.call.answered is not None
        try:
            sent = await self._send(order, slot)
        finally:
            order.call.answered.set()
        if isinstance(sent, Task) and order.on_submitted is not None:
            try:
                called = order.on_submitted(sent)
                if inspect.isawaitable(called):
                    await called
            except Exception as error:  # noqa: BLE001 - raised to the caller, whose function it is
                return _Raised(error)
        return sent

    async def _send(self, order: _Order, slot: Slot) -> Task | errors.WanError:
        session, call, clock = self._session, order.call, self._dependencies.clock
        if session.closed:  # since the call got its turn
            return errors.Closed("the client is closed")
        log.info("submitting %s", clip_name(order.job))
        session.note_sent(order.form, order.image)
        call.unanswered = lost = errors.Ambiguous("the call ended before its Run was answered", parameters=order.form)
        lost.image, lost.sent_at, lost.high_id = order.image, clock(), session.high_id
        try:
            receipt = await self._dependencies.api.run(
                order.form, callback_url=order.job.callback_url, image=order.inline
            )
        except errors.Ambiguous as error:
            error.image, error.sent_at, error.high_id = lost.image, lost.sent_at, lost.high_id
            call.unanswered = error
            return error
        except errors.WanError as error:
            call.unanswered = None
            if isinstance(error, errors.AtLimit):
                slot.refused()
            return error
        task = Task(receipt.accepted.task_id, receipt.accepted.token, clock(), clip_name(order.job))
        session.started(call, task, slot, order.form)
        return task


def clip_name(job: AnyJob) -> str:
    """The name of a job's clip where its caller gives none: its id, its image's stem, or a part of its content."""
    return naming.safe_name(job.id or job_stem(job) or f"text-{content_hash(job, '')[:8]}")


def _read(path: Path) -> InlineImage:
    try:
        return InlineImage(path.read_bytes(), image_type_of(path))
    except OSError as error:
        raise unreadable_image(path, error) from None


def _invalid(fault: str) -> errors.InvalidBatch:
    return errors.InvalidBatch([errors.Problem("", fault)])
