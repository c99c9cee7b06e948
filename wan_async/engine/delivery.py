"""From an ended task to clips that survive a power cut: download, publish, sidecar, `stored`.

Guarantees. File first, row second: the bytes are durable before their hash is committed, the hash before the file gets
its name, the name and the sidecar before `stored`. Nothing is ever overwritten: a clip whose name a newer one takes is
given a numbered name first (`NAME.1.mp4`), and a file that isn't ours keeps the name, so that ours gets the number.

A clip that is denied (the CDN knows no such file, the task shows no output) is asked for again with fresh URLs, for as
long as the run's patience lasts; then it is missing, until a later run finds it. Where no fresh URL can be had, that is
no evidence. What only waits holds no place among the downloads.

At any point the process may die; each step finds out what the one before it left: a part (resumed), a hash and a part
(published), a hash and a file (taken as it is). What is not known here: whether the pictures are any good.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from functools import partial
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.domain import events, money, naming
from wan_async.domain.attempt import Attempt, Clip
from wan_async.domain.task import Ending, Output, Task, TaskId, TaskToken, ending
from wan_async.engine.context import Context, Work
from wan_async.engine.unassigned import UnassignedTasks
from wan_async.filesystem import IsALink, is_transient
from wan_async.filetypes import extension
from wan_async.http.retry import Denials
from wan_async.outputs import sidecar
from wan_async.outputs.local import find_hard_link, first_free_name, hash_of, link_or_copy
from wan_async.outputs.transfer import Fetched

log = logging.getLogger(__name__)

FAULTS, STOPPING_FAULTS = 20, 3
"""After this number of faults without a byte beyond the furthest so far a download is left for the next start; the
second applies once the run submits no more."""
PUBLISH_TRIES = 5
BAD_CONTENTS = 3
"""Likewise after this number of answers that are no clip."""


class Delivery:
    """Gets the clips of ended tasks.

    Args:
        context: the run.
        unassigned: what was fetched of a task before an attempt owned it.
    """

    def __init__(self, context: Context, unassigned: UnassignedTasks) -> None:
        self._context = context
        self._unassigned = unassigned
        self._places = anyio.CapacityLimiter(context.options.downloads)
        self._waiting: set[int] = set()
        self._denied: set[int] = set()

    async def keep(self, work: Work, attempt: Attempt) -> None:
        """Every output of the attempt on disk, and the attempt `stored`.

        Raises:
            errors.Missing: an output is not available now.
            errors.JobFailed: not this time; the next start tries again.
            errors.Unusable: the disk.
        """
        context = self._context
        self._waiting.add(attempt.id)
        self._count_waiting()
        try:
            found = await context.journal.clips(attempt) if work.resumed else []
            known = {clip.number: clip for clip in found}
            clips: list[Clip] = []
            shown = len(attempt.outputs)
            while len(clips) < (shown := max(shown, len(attempt.outputs))):  # more may be shown meanwhile
                clips.append(await self._keep_output(work, attempt, len(clips), known.get(len(clips))))
            await self._write_sidecar(attempt, clips)
            await context.journal.stored(attempt, context.clock())
            self._waiting -= self._denied  # clips do arrive: those that are denied are no reason to hold Runs back
        finally:
            self._waiting.discard(attempt.id)
            self._denied.discard(attempt.id)
            self._count_waiting()
        first = clips[0]
        context.tell(
            events.Stored,
            work,
            file=first.file,
            bytes=first.bytes or 0,
            sha256=first.sha256 or "",
            cost_usd=None if attempt.cost is None else money.usd(attempt.cost),
            seconds=round(max(0.0, context.clock() - attempt.intent_at), 3),
        )
        await self._unassigned.discard(attempt)

    def _count_waiting(self) -> None:
        self._context.waiting_clips = len(self._waiting)
        self._context.changed()

    async def _keep_output(self, work: Work, attempt: Attempt, number: int, clip: Clip | None) -> Clip:
        context = self._context
        if clip is not None and clip.sha256 is not None and clip.file:
            target = context.output / clip.file
            if await context.offload(hash_of, target) == clip.sha256:
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
        faults = stale = bad = furthest = 0
        denials = Denials()

        async def remember(new: str) -> None:
            nonlocal etag
            await context.journal.part(attempt, number, "", new)
            etag = new

        def progress(done: int, total: int | None) -> None:
            nonlocal faults, furthest
            if done > furthest:
                faults, furthest = 0, done
            context.tell(events.Downloading, work, bytes=done, total=total)

        while True:
            try:
                if number >= len(attempt.outputs):
                    raise errors.NotFound("the task does not show this output now")
                content_type, size, url = attempt.outputs[number]
                async with self._places:
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
                most = STOPPING_FAULTS if context.stopping else FAULTS
                if faults >= most and await self.renew(attempt):  # else the network is gone: it is waited for
                    said = f"{error.message}; {faults} tries brought no new byte"
                    raise errors.JobFailed(said, kind="download", task_id=attempt.task_id) from None
                await self._pause(work, error, faults)
            except errors.NotFound as error:
                stale += 1
                if await self._still_denied(work, attempt, denials):
                    said = f"its clip is not available now: {error.message}"
                    raise errors.Missing(said, kind="missing", task_id=attempt.task_id) from None
                self._denied.add(attempt.id)
                await self._pause(work, error, stale)
            except errors.JobFailed as error:
                bad += 1
                if error.kind != "content" or bad >= BAD_CONTENTS:
                    raise
                await self._pause(work, error, bad)

    async def _still_denied(self, work: Work, attempt: Attempt, denials: Denials) -> bool:
        """Something of an ended task was denied: asks for fresh facts. Whether it has been denied for long enough."""
        if not await self.renew(attempt):
            denials.no_answer()
            return False
        seconds = denials.denied(anyio.current_time())
        return seconds >= (0.0 if work.was_missing else self._context.patience())

    async def wait_outputs(self, work: Work, attempt: Attempt) -> None:
        """Waits until a task that did not fail shows outputs: they may lag behind its status, as `pexit` may.

        Raises:
            errors.Missing: it has shown none for as long as the run is patient.
        """
        denials, tries = Denials(), 0
        while not attempt.outputs and end_of(attempt) in (Ending.SUCCEEDED, Ending.UNDECIDED):
            if await self._still_denied(work, attempt, denials) and not attempt.outputs:
                raise errors.Missing("the task has ended and shows no output", kind="missing", task_id=attempt.task_id)
            if attempt.outputs:
                return
            tries += 1
            await anyio.sleep(self._context.backoff.delay(tries, self._context.draw()))

    async def _pause(self, work: Work, error: errors.WanError, failures: int) -> None:
        context = self._context
        asked = error.after_seconds if isinstance(error, errors.TryLater) else None
        wait = context.backoff.delay(failures, context.draw(), asked)
        context.tell(events.Retrying, work, reason=f"download: {error.message}", after_seconds=round(wait, 3))
        await anyio.sleep(wait)

    async def renew(self, attempt: Attempt) -> bool:
        """Fresh facts and URLs of an ended task from Task/Detail, if it knows the task; whether it answered at all."""
        try:
            task = await self._context.api.detail(task_id_of(attempt), token_of(attempt))
        except errors.NoSuchAddress:
            return False
        except errors.NotFound:
            return True  # the URLs that we have may still be good
        except (errors.TryLater, errors.JobFailed):
            return False
        if ending(task) is not None:
            await note_end(self._context, attempt, task)
        return True

    async def _publish(self, work: Work, attempt: Attempt, number: int, part: Path, fetched: Fetched) -> Clip:
        context = self._context
        base, suffix = _name(attempt, number), extension(fetched.content_type)
        file = base + suffix
        if work.resumed or number or naming.folded(file) in context.existing:
            file = await self._free_name(attempt, base, suffix)
        tries = 0
        while True:
            clip = Clip(number, file, fetched.etag or "", fetched.sha256, fetched.bytes, fetched.content_type)
            await context.journal.checked(attempt, clip)
            try:
                await context.downloader.publish(part, context.output / file, fetched.sha256)
            except errors.TryLater as error:
                tries += 1
                if tries >= PUBLISH_TRIES:
                    raise
                await self._pause(work, error, tries)
            except errors.JobFailed:  # another file got the name in the meantime
                if await context.offload(os.path.islink, part):
                    raise
                file = await context.offload(first_free_name, context.output, base, suffix)
            else:
                if work.job is None:  # an edited job's new clip may come next, and this is its earlier one
                    context.existing |= {naming.folded(file)}
                return clip

    async def _free_name(self, attempt: Attempt, base: str, suffix: str) -> str:
        """A name that no file has: the base itself if that can be, else the first free number."""
        context = self._context
        wanted = base + suffix
        if not await context.offload(os.path.lexists, context.output / wanted):
            return wanted
        owner = await context.journal.file_known(wanted)
        if owner is not None and owner > attempt.id:
            return await context.offload(first_free_name, context.output, base, suffix)  # a later take has the name
        if owner == attempt.id:  # published before a crash: its own content, or a leftover that publish will judge
            return wanted
        twin = await context.offload(find_hard_link, context.output, base, suffix)
        if owner is None and twin is not None:
            await context.offload(context.files.unlink, context.output / wanted)  # moved before a crash, not yet gone
            return wanted
        free = await context.offload(first_free_name, context.output, base, suffix)
        if owner is None or await context.journal.owner_of(naming.folded(attempt.name)) != attempt.job:
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
                await context.offload(link_or_copy, context.files, source, target)
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
            "model": context.api.model.name,
            "parameters": attempt.form,
            "image": attempt.image or None,
            "task_id": attempt.task_id,
            "attempt": attempt.number,
            "status": attempt.status,
            "cost_usd": None if attempt.cost is None else f"{money.usd(attempt.cost):f}",
            "submitted_at": attempt.intent_at,
            "accepted_at": attempt.accepted_at,
            "ended_at": attempt.ended_at,
            "stored_at": context.clock(),
        }
        path = (context.output / first.file).with_suffix(".json")
        for tries in range(1, PUBLISH_TRIES + 1):
            try:
                await context.offload(sidecar.write_json, path, content, context.files)
            except IsALink as error:
                raise errors.JobFailed(str(error), kind="target", task_id=attempt.task_id) from None
            except OSError as error:
                if not is_transient(error) or tries == PUBLISH_TRIES:
                    raise disk_error(error, path) from None
                await anyio.sleep(context.backoff.delay(tries, context.draw()))
            else:
                return


def outputs_of(task: Task) -> list[tuple[str, int | None, str]]:
    """What an ended task offers: (content type, announced bytes, URL); an output without a URL is none."""
    return [(output.contenttype, output.size, output.url) for output in task.outputs if output.url]


def disk_error(error: OSError, path: Path) -> errors.Unusable:
    """The disk's refusal, as what to do about it."""
    again = "run the same command again: what was paid for is not lost"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.Unusable(f"the disk is full ({path.parent}): free some space and {again}")
    return errors.Unusable(f"{path} can't be written ({error.strerror or error}): mend that and {again}")


def end_of(attempt: Attempt) -> Ending | None:
    """How the attempt's task ended, by what its row says."""
    outputs = [Output()] * len(attempt.outputs)
    return ending(Task(status=attempt.status or "", pexit=attempt.pexit, outputs=outputs))


async def note_end(context: Context, attempt: Attempt, task: Task) -> None:
    """Step 5: commits what an ended task says and costs. Facts that it showed before and hides now stay."""
    end = ending(task)
    unbilled = end in (Ending.FAILED, Ending.CANCELLED)
    assumed = 0 if unbilled else attempt.reserved if attempt.cost is None else attempt.cost
    ended = partial(
        context.journal.ended,
        attempt,
        status=task.status,
        pexit=attempt.pexit if task.pexit is None else task.pexit,
        cost=assumed if task.totalcost is None else max(0, task.totalcost),
        outputs=outputs_of(task) or attempt.outputs,
        reason=None if not unbilled else _why(task),
        at=attempt.ended_at or context.clock(),
    )
    try:
        await ended(task_id=attempt.task_id or task.id or None)
    except sqlite3.IntegrityError:  # known by its token alone, and the service calls it by another task's id
        await ended(task_id=None)
    context.settled(attempt)


def _why(task: Task) -> str:
    """What the service says about a failure: the end of its error output, else of its log."""
    if ending(task) is Ending.CANCELLED:
        return "the task was cancelled or killed"
    said = " ".join((task.debugerror or task.debugoutput).split())[-300:]
    exit_code = f" with exit code {task.pexit}" if task.pexit not in (None, "0") else ""
    return f"the render failed{exit_code}{': ' + said if said else ''}"


def task_id_of(attempt: Attempt) -> TaskId | None:
    """What the attempt's task is called, as far as that is known."""
    return TaskId(attempt.task_id) if attempt.task_id else None


def token_of(attempt: Attempt) -> TaskToken | None:
    """The token of the attempt's task, if it is known."""
    return TaskToken(attempt.token) if attempt.token else None


def _name(attempt: Attempt, number: int) -> str:
    return attempt.name if number == 0 else f"{attempt.name}-{number + 1}"
