"""From an ended task to clips that survive a power cut: download, publish, sidecar, `stored`.

Guarantees. File first, row second: the bytes are durable before their hash is committed, the hash before the file gets
its name, the name and the sidecar before `stored`. Nothing is ever overwritten: a clip whose name a newer one takes is
given a numbered name first (`NAME.1.mp4`), and a stranger's file keeps the name, so that ours gets the number.

At any point the process may die; each step finds out what the one before it left: a part (resumed), a hash and a part
(published), a hash and a file (taken as it is). What is not known here: whether the pictures are any good.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from pathlib import Path

import anyio

from wan_async import errors, events, jobs, sidecar, wire
from wan_async.context import Context, Work
from wan_async.disk import Files
from wan_async.fetching import Fetched
from wan_async.journal import Attempt, Clip
from wan_async.media import extension
from wan_async.unassigned import UnassignedTasks

log = logging.getLogger(__name__)

FAULTS = 20
"""So many faults in a row that the server itself reports, and a download is left for the next start."""
BAD_CONTENTS = 3
"""So many times content that is no clip, likewise."""
FRESH_URLS = 4
"""So many URLs in a row that are no longer good, and the clip is lost."""


class Keeper:
    """Gets the clips of ended tasks.

    Args:
        context: the run.
        unassigned: what was fetched of a task before an attempt owned it.
    """

    def __init__(self, context: Context, unassigned: UnassignedTasks) -> None:
        self._context = context
        self._unassigned = unassigned
        self._places = anyio.CapacityLimiter(context.options.downloads)

    async def keep(self, work: Work, attempt: Attempt) -> None:
        """Every output of the attempt on disk, and the attempt `stored`.

        Raises:
            errors.Missing: the outputs can't be had any more.
            errors.JobFailed: not this time; the next start tries again.
            errors.Unusable: the disk.
        """
        context = self._context
        context.waiting_clips += 1
        try:
            async with self._places:
                found = await context.journal.clips(attempt) if work.resumed else []
                known = {clip.number: clip for clip in found}
                clips = [
                    await self._keep_output(work, attempt, number, known.get(number))
                    for number in range(len(attempt.outputs))
                ]
                await self._write_sidecar(attempt, clips)
                await context.journal.stored(attempt, context.clock())
                await self._unassigned.discard(attempt)
        finally:
            context.waiting_clips -= 1
            context.changed()
        first = clips[0]
        context.tell(
            events.Stored,
            work,
            file=first.file,
            bytes=first.bytes or 0,
            sha256=first.sha256 or "",
            cost_usd=None if attempt.cost is None else wire.usd(attempt.cost),
            seconds=round(max(0.0, context.clock() - attempt.intent_at), 3),
        )

    async def _keep_output(self, work: Work, attempt: Attempt, number: int, clip: Clip | None) -> Clip:
        context = self._context
        if clip is not None and clip.sha256 is not None and clip.file:
            target = context.output / clip.file
            if await context.offload(_hash_of, target) == clip.sha256:
                await context.offload(context.files.unlink, self._part(attempt, number))
                return clip
        if (found := await self._unassigned.find(attempt, number)) is not None:
            return await self._publish(work, attempt, number, *found)
        part = self._part(attempt, number)
        fetched = await self._fetch(work, attempt, number, part, clip.etag if clip is not None else None)
        if fetched.warning:
            log.warning("job %s: %s", attempt.job, fetched.warning)
        return await self._publish(work, attempt, number, part, fetched)

    def _part(self, attempt: Attempt, number: int) -> Path:
        return self._context.output / f"{_name(attempt, number)}.{attempt.id}.part"

    async def _fetch(self, work: Work, attempt: Attempt, number: int, part: Path, etag: str | None) -> Fetched:
        context = self._context
        faults = bad = stale = 0

        async def remember(new: str) -> None:
            nonlocal etag
            await context.journal.part(attempt, number, "", new)
            etag = new

        def progress(done: int, total: int | None) -> None:
            nonlocal faults
            faults = 0
            context.tell(events.Downloading, work, bytes=done, total=total)

        while True:
            if number >= len(attempt.outputs):  # fetching another one, fresh URLs were asked for, and came without it
                raise errors.Missing("its outputs are gone", kind="missing", task_id=attempt.task_id)
            content_type, size, url = attempt.outputs[number]
            try:
                return await context.downloader.fetch(
                    url,
                    part,
                    announced_bytes=size,
                    content_type=content_type,
                    etag=etag,
                    remember=remember,
                    progress=progress,
                )
            except errors.TryLater as error:
                faults += 1
                if faults > FAULTS and await self.renew(attempt):  # else the network is gone: it is waited for
                    raise errors.JobFailed(error.message, kind="download", task_id=attempt.task_id) from None
                await self._pause(work, error, faults)
            except errors.NotFound as error:
                stale += 1
                if stale >= FRESH_URLS:
                    said = f"its clip can't be had any more: {error.message}"
                    raise errors.Missing(said, kind="missing", task_id=attempt.task_id) from None
                await self._pause(work, error, stale)
                await self.renew(attempt)
            except errors.JobFailed as error:
                bad += 1
                if error.kind != "content" or bad >= BAD_CONTENTS:
                    raise
                await self._pause(work, error, bad)

    async def _pause(self, work: Work, error: errors.WanError, failures: int) -> None:
        context = self._context
        asked = error.after_seconds if isinstance(error, errors.TryLater) else None
        wait = context.backoff.delay(failures, context.draw(), asked)
        context.tell(events.Retrying, work, reason=f"download: {error.message}", after_seconds=round(wait, 3))
        await anyio.sleep(wait)

    async def renew(self, attempt: Attempt) -> bool:
        """Fresh URLs from Task/Detail, if it still knows the task; whether the API answered at all."""
        try:
            task = await self._context.api.detail(_id(attempt), _token(attempt))
        except errors.NotFound:
            return True  # the URLs that we have may still be good
        except errors.TryLater:
            return False
        if task.outputs:
            await self._context.journal.renewed(attempt, outputs_of(task))
        return True

    async def _publish(self, work: Work, attempt: Attempt, number: int, part: Path, fetched: Fetched) -> Clip:
        context = self._context
        base, suffix = _name(attempt, number), extension(fetched.content_type)
        file = base + suffix
        if work.resumed or number or jobs.folded(file) in context.existing:
            file = await self._free_name(attempt, base, suffix)
        while True:
            clip = Clip(number, file, fetched.etag or "", fetched.sha256, fetched.bytes, fetched.content_type)
            await context.journal.checked(attempt, clip)
            try:
                await context.downloader.publish(part, context.output / file, fetched.sha256)
            except errors.JobFailed:  # a stranger was faster
                file = await context.offload(_first_free, context.output, base, suffix)
            else:
                if work.job is None:  # an edited job's new clip may come next, and this is its earlier one
                    context.existing |= {jobs.folded(file)}
                return clip

    async def _free_name(self, attempt: Attempt, base: str, suffix: str) -> str:
        """A name that no file has: the base itself if that can be, else the first free number."""
        context = self._context
        wanted = base + suffix
        if not await context.offload(os.path.lexists, context.output / wanted):
            return wanted
        owner = await context.journal.file_known(wanted)
        if owner == attempt.id:  # published before a crash: its own content, or a leftover that publish will judge
            return wanted
        twin = await context.offload(_twin, context.output, base, suffix)
        if owner is None and twin is not None:
            await context.offload(context.files.unlink, context.output / wanted)  # moved before a crash, not yet gone
            return wanted
        free = await context.offload(_first_free, context.output, base, suffix)
        if owner is None or await context.journal.owner_of(jobs.folded(attempt.name)) != attempt.job:
            return free
        await self._move(wanted, twin or free, begun=twin is not None)
        return wanted

    async def _move(self, old: str, new: str, *, begun: bool) -> None:
        """An earlier clip gets a numbered name, and its sidecar with it. A crash between any two steps is made good."""
        context = self._context
        source, target = context.output / old, context.output / new
        before, after = source.with_suffix(".json"), target.with_suffix(".json")
        try:
            if not begun:
                await context.offload(_link, context.files, source, target)
            if await context.offload(before.exists):
                await context.offload(context.files.replace, before, after)
            await context.journal.renamed(old, new)
            await context.offload(context.files.unlink, source)
        except OSError as error:
            raise disk_error(error, source) from None

    async def _write_sidecar(self, attempt: Attempt, clips: list[Clip]) -> None:
        context = self._context
        first = clips[0]
        content = {
            "job": attempt.job,
            "file": first.file,
            "sha256": first.sha256,
            "bytes": first.bytes,
            "further_files": [clip.file for clip in clips[1:]],
            "model": wire.MODEL,
            "parameters": attempt.form,
            "image": attempt.image or None,
            "task_id": attempt.task_id,
            "attempt": attempt.number,
            "status": attempt.status,
            "cost_usd": None if attempt.cost is None else f"{wire.usd(attempt.cost):f}",
            "submitted_at": attempt.intent_at,
            "accepted_at": attempt.accepted_at,
            "ended_at": attempt.ended_at,
            "stored_at": context.clock(),
        }
        path = (context.output / first.file).with_suffix(".json")
        try:
            await context.offload(sidecar.write_json, path, content, context.files)
        except OSError as error:
            raise disk_error(error, path) from None


def outputs_of(task: wire.Task) -> list[tuple[str, int | None, str]]:
    """What an ended task offers: (content type, announced bytes, URL); an output without a URL is none."""
    return [(output.contenttype, output.size, output.url) for output in task.outputs if output.url]


def disk_error(error: OSError, path: Path) -> errors.Unusable:
    """The disk's refusal, as what to do about it."""
    again = "run the same command again: what was paid for is not lost"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.Unusable(f"the disk is full ({path.parent}): free some space and {again}")
    return errors.Unusable(f"{path} can't be written ({error.strerror or error}): mend that and {again}")


def _id(attempt: Attempt) -> wire.TaskId | None:
    return wire.TaskId(attempt.task_id) if attempt.task_id else None


def _token(attempt: Attempt) -> wire.TaskToken | None:
    return wire.TaskToken(attempt.token) if attempt.token else None


def _name(attempt: Attempt, number: int) -> str:
    return attempt.name if number == 0 else f"{attempt.name}-{number + 1}"


def _hash_of(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _numbered(base: str, suffix: str, number: int) -> str:
    return f"{base}.{number}{suffix}"


def _first_free(folder: Path, base: str, suffix: str) -> str:
    number = 1
    while os.path.lexists(folder / _numbered(base, suffix, number)):
        number += 1
    return _numbered(base, suffix, number)


def _twin(folder: Path, base: str, suffix: str) -> str | None:
    """The second, numbered name that the file has already, if it has one."""
    number, file = 1, folder / (base + suffix)
    while file.exists() and (folder / (other := _numbered(base, suffix, number))).exists():
        if file.samefile(folder / other):
            return other
        number += 1
    return None


def _link(files: Files, source: Path, target: Path) -> None:
    """A second name for a file; where there are no hard links, a new one."""
    try:
        files.link(source, target)
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise
        files.rename(source, target)
