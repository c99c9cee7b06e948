"""The clips of ended tasks, for single calls: waits until the outputs are there, downloads them, and checks them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.client.clip_targets import Target, Targets
from wan_async.client.session import PATIENCE_SECONDS, Session, names_of
from wan_async.domain.remote_task import Ending, TaskDetail, ending, outputs_of
from wan_async.engine.dependencies import Dependencies
from wan_async.http import retry
from wan_async.outputs.resumable_download import Fetched
from wan_async.task_handles import Clip, Task

DOWNLOAD_TRIES = 20
"""Tries in a row without a new byte after which a call gives up; it can be made again."""

log: logging.Logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Progress:
    bytes: int = 0

    def note(self, done: int, total: int | None) -> None:
        self.bytes = max(self.bytes, done)


class Clips:
    """Fetches the clips of a client's calls.

    Args:
        session: the client's shared state.
        targets: reserves and gives names.
    """

    def __init__(self, session: Session, targets: Targets) -> None:
        self._session = session
        self._dependencies = session.dependencies
        self._targets = targets
        self._backoff = retry.Backoff()

    async def save(self, task: Task, end: TaskDetail, target: Target) -> Clip:
        """Download the outputs of an ended task to a reserved name.

        Raises:
            errors.JobFailed: the render failed.
            errors.Missing: its outputs are not available now.
            errors.TryLater: the download fails for a passing reason.
        """
        end = await self._with_outputs(task, end)
        paths, facts = [], []
        for number in range(1, len(outputs_of(end)) + 1):
            part = target.part if number == 1 else target.part.with_suffix(f".{number}.part")
            try:
                fetched = await self.fetch(task, end, number, part)
                paths.append(await self._targets.publish(target, part, number, fetched.content_type, fetched.sha256))
            finally:
                if number > 1:
                    with anyio.CancelScope(shield=True):
                        await self._dependencies.offload(_remove, part)
            facts.append(fetched)
        self._session.claim(task)
        log.info("task %s: saved as %s", end.id, paths[0])
        return Clip(paths[0], facts[0].bytes, facts[0].sha256, end.id or task.id, end.totalcost, tuple(paths[1:]))

    async def _with_outputs(self, task: Task, end: TaskDetail) -> TaskDetail:
        """The ended task once it shows outputs, which may lag behind its status."""
        denials, failures = retry.Denials(), 0
        while not outputs_of(end) and ending(end) in (Ending.SUCCEEDED, Ending.UNDECIDED):
            if denials.denied(anyio.current_time()) >= PATIENCE_SECONDS:
                raise errors.Missing("the task has ended and shows no output now", kind="missing", task_id=end.id)
            failures += 1
            await self._pause(failures)
            end = await self._ask_again(task, end, denials)
        if not outputs_of(end) or not (ending(end) in (Ending.SUCCEEDED, Ending.CANCELLED) or end.totalcost):
            said = f"the task ended as {end.status} (pexit {end.pexit}), outputs: {len(outputs_of(end))}"
            said = f"{said}. {end.debugerror[-300:]}".removesuffix(". ")
            raise errors.JobFailed(said, kind="render", billed_micros=end.totalcost or 0, task_id=end.id)
        return end

    async def _ask_again(self, task: Task, end: TaskDetail, denials: retry.Denials) -> TaskDetail:
        """The task as Task/Detail shows it now; as before, if it can't be asked or denies the task."""
        try:
            return await self._dependencies.api.detail(*names_of(task))
        except errors.NotFound:
            return end
        except errors.TryLater:
            denials.no_answer()
            return end

    async def _pause(self, failures: int, asked_seconds: float | None = None) -> None:
        await anyio.sleep(self._backoff.delay(failures, self._dependencies.draw(), asked_seconds))

    async def fetch(self, task: Task, end: TaskDetail, number: int, part: Path) -> Fetched:
        """Download one output to a part file; see `save`."""
        etag: str | None = None
        progress, denials = _Progress(), retry.Denials()
        failures = stale = furthest = 0

        async def remember(strong: str) -> None:
            nonlocal etag
            etag = strong

        while True:
            content_type, size, url = outputs_of(end)[number - 1]
            try:
                return await self._dependencies.downloader.fetch(
                    url,
                    part,
                    announced_bytes=size,
                    content_type=content_type,
                    etag=etag,
                    remember=remember,
                    progress=progress.note,
                )
            except errors.TryLater as error:
                failures = 1 if progress.bytes > furthest else failures + 1
                furthest = progress.bytes
                if failures >= DOWNLOAD_TRIES:
                    raise
                await self._pause(failures, error.after_seconds)
            except errors.NotFound as error:  # the URL has expired, or the file lags behind the output
                if denials.denied(anyio.current_time()) >= PATIENCE_SECONDS:
                    said = f"its clip is not available now: {error.message}"
                    raise errors.Missing(said, kind="missing", task_id=end.id) from None
                stale += 1
                await self._pause(stale)
                again = await self._ask_again(task, end, denials)
                end = again if len(outputs_of(again)) >= number else end


class FileChunks:
    """The chunks of a file, read off the event loop.

    Args:
        path: the file.
        chunk_bytes: the size of each chunk but the last.
        dependencies: where blocking calls run.
    """

    def __init__(self, path: Path, chunk_bytes: int, dependencies: Dependencies) -> None:
        self._path = path
        self._chunk_bytes = chunk_bytes
        self._dependencies = dependencies
        self._offset = 0

    def __aiter__(self) -> FileChunks:
        return self

    async def __anext__(self) -> bytes:
        """The next chunk."""
        chunk = await self._dependencies.offload(self._read, self._offset)
        if not chunk:
            raise StopAsyncIteration
        self._offset += len(chunk)
        return chunk

    def _read(self, offset: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(self._chunk_bytes)


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
