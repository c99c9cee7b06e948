"""Uploads of images: once per distinct content, ahead of the slot that will use it.

An image is known by its hash. Its URL is remembered in the journal for a day, and forgotten after a failed render,
since a broken upload would fail the next one, too. Jobs that share an image share its upload. Where the service refuses
uploads (WIRO_API 5: it does so for some keys), images travel inside Run from then on, in later runs too.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from wan_async import errors, filetypes
from wan_async.batch import images
from wan_async.domain import events
from wan_async.engine.active_job import Work
from wan_async.wiro.bodies import InlineImage

if TYPE_CHECKING:
    from wan_async.engine.environment import Environment

log: logging.Logger = logging.getLogger(__name__)

REMEMBERED_SECONDS = 24 * 3600.0
"""How long the URL of an uploaded image is used."""
AT_ONCE = 8
REFUSED = "uploads_refused"
"""What the journal remembers it by."""


@dataclass(slots=True, eq=False)
class _Upload:
    done: anyio.Event = field(default_factory=anyio.Event)
    url: str | None = None
    error: errors.WanError | None = None


class Uploads:
    """The images of one run."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._running: dict[str, _Upload] = {}
        self._inline = environment.options.upload == "inline"
        self._places = anyio.CapacityLimiter(AT_ONCE)

    async def recall(self) -> None:
        """Takes up what an earlier run learned."""
        if self._environment.options.upload == "auto":
            self._inline = await self._environment.journal.remembers(REFUSED)

    async def url_of(self, work: Work, path: Path, digest: str) -> str:
        """The URL of a local image, uploaded if need be; nothing if the image is to travel inside Run.

        Raises:
            errors.JobFailed: the file vanished, changed, or is refused.
            errors.TryLater, errors.StopBatch: as `Api.upload`.
        """
        if self._inline:
            return ""
        try:
            return await self._shared(work, path, digest)
        except errors.UploadRefused as error:
            if self._environment.options.upload != "auto":
                said = f"the service refuses the upload: {error.message}; --upload auto sends images inside Run instead"
                raise errors.JobFailed(said, kind="upload") from None
            if not self._inline:
                self._inline = True
                log.warning("the service takes no uploads (%s): images are sent inside Run from now on", error.message)
                await self._environment.journal.remember(REFUSED)
            return ""

    async def _shared(self, work: Work, path: Path, digest: str) -> str:
        upload = self._running.get(digest)
        if upload is None:
            upload = self._running[digest] = _Upload()
            try:
                upload.url = await self._upload(work, path, digest)
            except errors.WanError as error:
                upload.error = error
            except BaseException:
                upload.error = errors.TryLater("the upload was cancelled")
                raise
            finally:
                if upload.url is None and self._running.get(digest) is upload:  # else it was forgotten meanwhile
                    del self._running[digest]  # the next job may try again
                upload.done.set()
        else:
            await upload.done.wait()
        if upload.error is not None:
            raise upload.error
        assert upload.url is not None
        return upload.url

    async def _upload(self, work: Work, path: Path, digest: str) -> str:
        environment = self._environment
        known = await environment.journal.upload_of(digest, environment.clock() - REMEMBERED_SECONDS)
        if known is not None:
            return known
        async with self._places:
            size, content_type = await environment.offload(_look, path)
            url = await environment.api.upload(path, content_type=content_type, sha256=digest)
        await environment.journal.uploaded(digest, url, environment.clock())
        environment.events.tell(events.Uploaded, work, bytes=size, url=url)
        return url

    async def forget(self, digest: str) -> None:
        """The next job with this image uploads it anew."""
        self._running.pop(digest, None)
        await self._environment.journal.forget_upload(digest)

    async def read(self, path: Path, digest: str) -> InlineImage:
        """The image itself, to be sent along with Run.

        Raises:
            errors.JobFailed: the file vanished or changed since the batch was planned.
        """
        image = await self._environment.offload(read_image, path)
        if sha256(image.data).hexdigest() != digest:
            raise errors.JobFailed(f"{path} changed since the batch was planned: run it again", kind="image")
        return image


def _look(path: Path) -> tuple[int, str]:
    problem = images.check_image(str(path))
    if problem is not None:
        raise errors.JobFailed(f"{path}: {problem}", kind="image")
    try:
        with path.open("rb") as file:
            return path.stat().st_size, filetypes.sniff_image(file.read(64)) or "application/octet-stream"
    except OSError as error:
        raise errors.JobFailed(f"{path} can't be read: {error.strerror or error}", kind="image") from None


def read_image(path: Path) -> InlineImage:
    """An image, to be sent along with Run. It blocks.

    Raises:
        errors.JobFailed: it can't be read, or is no image.
    """
    _, content_type = _look(path)
    try:
        return InlineImage(path.read_bytes(), content_type)
    except OSError as error:
        raise errors.JobFailed(f"{path} can't be read: {error.strerror or error}", kind="image") from None
