"""Downloads the clips of ended tasks, publishes them in the store, and records them: `checked`, then `stored`.

Guarantees. File first, row second: the bytes are durable before their hash is committed, the hash before the file gets
its name, the name and the sidecar before `stored`. Nothing is ever overwritten: of two clips of a job the one that is
not at its present content gets a numbered name (`NAME.1.mp4`), else the earlier; a file that isn't ours keeps its name,
and the new clip gets the number.

A denied clip (the CDN does not know the file, or the task shows no output) is requested again with fresh URLs, until it
has been denied for the run's patience; then it is missing, until a later run finds it. Time in which no fresh URL could
be requested does not count. A job that waits for a retry does not occupy one of the parallel downloads.

The process may die at any instant. Each step starts from what the one before may have left: a part (resumed), a hash
and a part (published), a hash and a published file (taken as it is). Whether the pictures are any good is not checked.
"""

from __future__ import annotations

import logging
from functools import partial

import anyio

from wan_async import errors
from wan_async.domain import events, money, naming
from wan_async.domain.attempt import Attempt, Clip
from wan_async.domain.remote_task import (
    Ending,
    Output,
    TaskDetail,
    TaskId,
    TaskToken,
    ending,
    outputs_of,
    why_it_failed,
)
from wan_async.engine.active_job import Work
from wan_async.engine.environment import Environment
from wan_async.engine.unassigned_clips import UnassignedClips
from wan_async.filetypes import extension
from wan_async.http.retry import Denials
from wan_async.journal.base import TaskTaken
from wan_async.outputs import sidecar
from wan_async.outputs.base import NameExists, sidecar_name
from wan_async.outputs.resumable_download import Fetched

log: logging.Logger = logging.getLogger(__name__)

MAX_FAULTS = 20
"""After this number of faults in a row without a new byte, a download is left for the next run."""
MAX_FAULTS_STOPPING = 3
"""The same once the run submits no more."""
MAX_STORE_FAULTS = 5
"""After this number of temporary faults of the store, a clip is left for the next run."""
MAX_BAD_CONTENTS = 3
"""After this number of responses that are no clip, a download is left for the next run."""
_WHOLE_SECOND = 1.0
"""The service's times are cut to whole seconds."""


class Delivery:
    """Downloads and stores the clips of ended tasks.

    Args:
        environment: the run.
        unassigned: the tasks whose clips were downloaded before an attempt owned them.
    """

    def __init__(self, environment: Environment, unassigned: UnassignedClips) -> None:
        self._environment = environment
        self._unassigned = unassigned
        self._parallel = anyio.CapacityLimiter(environment.options.downloads)
        self._waiting: set[int] = set()
        self._denied: set[int] = set()

    async def keep(self, work: Work, attempt: Attempt) -> None:
        """Puts every output of the attempt in the store, and commits that it is `stored`.

        Raises:
            errors.Missing: an output is not available now.
            errors.JobFailed: an output can't be stored now; the next run tries again.
            errors.TryLater: likewise, because of too many open files or threads.
            errors.Unusable: the store refuses.
        """
        environment = self._environment
        self._waiting.add(attempt.id)
        begins = environment.clock()
        idle_seconds = max(0.0, begins - (attempt.ended_at or begins))  # a task may end long before a run asks for it
        try:
            found = await environment.journal.clips(attempt) if work.resumed else []
            known = {clip.number: clip for clip in found}
            clips: list[Clip] = []
            shown = len(attempt.outputs)
            while len(clips) < (shown := max(shown, len(attempt.outputs))):  # the task may show more in the meantime
                clips.append(await self._keep_output(work, attempt, len(clips), known.get(len(clips))))
            await self._write_sidecar(work, attempt, clips)
            await environment.journal.stored(attempt, environment.clock())
            self._waiting -= self._denied  # clips arrive again: denied ones are no reason to submit less
        finally:
            self._waiting.discard(attempt.id)
            self._denied.discard(attempt.id)
            environment.wake.set()
        first = clips[0]
        environment.events.tell(
            events.Stored,
            work,
            file=first.file,
            bytes=first.bytes or 0,
            sha256=first.sha256 or "",
            cost_usd=None if attempt.cost is None else money.usd(attempt.cost),
            seconds=round(max(0.0, environment.clock() - attempt.intent_at - idle_seconds), 3),
        )
        await self._unassigned.discard(attempt)

    @property
    def waiting(self) -> int:
        """How many ended tasks wait for their clips, or are downloading them."""
        return len(self._waiting)

    async def _keep_output(self, work: Work, attempt: Attempt, number: int, clip: Clip | None) -> Clip:
        store, part = self._environment.store, _part(attempt, number)
        if clip is not None and clip.sha256 and clip.file and await store.sha256(clip.file) == clip.sha256:
            await store.remove(part)
            return clip
        if (found := await self._unassigned.find(attempt, number)) is not None:
            return await self._publish(work, attempt, number, *found)
        if clip is not None and clip.sha256 and await store.sha256(part) == clip.sha256:  # only to be published
            complete = Fetched(clip.bytes or 0, clip.sha256, clip.content_type or "", clip.etag or None)
            return await self._publish(work, attempt, number, part, complete)
        fetched = await self._fetch(work, attempt, number, part, clip.etag if clip is not None else None)
        if fetched.warning:
            log.warning("job %s: %s", attempt.job, fetched.warning)
        return await self._publish(work, attempt, number, part, fetched)

    async def _fetch(self, work: Work, attempt: Attempt, number: int, part: str, etag: str | None) -> Fetched:
        environment = self._environment
        faults = stale = bad = furthest = 0
        reachable = was_reachable = False
        denials = Denials()

        async def remember(new: str) -> None:
            nonlocal etag
            await environment.journal.part(attempt, number, "", new)
            etag = new

        def progress(done: int, total: int | None) -> None:
            nonlocal faults, furthest
            if done > furthest:
                faults, furthest = 0, done
            environment.events.tell(events.Downloading, work, bytes=done, total=total)

        while True:
            try:
                if number >= len(attempt.outputs):
                    raise errors.NotFound("the task does not show this output now")
                content_type, size, url = attempt.outputs[number]
                async with self._parallel:
                    return await environment.downloader.fetch(
                        url,
                        environment.store.part_path(part),
                        announced_bytes=size,
                        content_type=content_type,
                        etag=etag,
                        remember=remember,
                        progress=progress,
                    )
            except errors.TryLater as error:
                faults += 1
                limit = MAX_FAULTS_STOPPING if environment.shutdown.stopping else MAX_FAULTS
                if faults >= limit - 1:  # while the network is down, wait until it is back, and try once more then
                    was_reachable, reachable = reachable, await self.renew(attempt)
                if faults >= limit and was_reachable and reachable:
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
                if error.kind != "content" or bad >= MAX_BAD_CONTENTS:
                    raise
                await self._pause(work, error, bad)

    async def _still_denied(self, work: Work, attempt: Attempt, denials: Denials) -> bool:
        """Requests the facts of an ended task again after a denial; whether it was denied for the whole patience."""
        if not await self.renew(attempt):
            denials.no_answer()
            return False
        seconds = denials.denied(anyio.current_time())
        return seconds >= (0.0 if work.was_missing else self._environment.shutdown.patience())

    async def wait_outputs(self, work: Work, attempt: Attempt) -> None:
        """Waits until a task that did not fail shows outputs: they may appear later than its status, as may `pexit`.

        Raises:
            errors.Missing: it has shown none for the whole patience of the run.
        """
        denials, tries = Denials(), 0
        while not attempt.outputs and end_of(attempt) in (Ending.SUCCEEDED, Ending.UNDECIDED):
            if await self._still_denied(work, attempt, denials) and not attempt.outputs:
                raise errors.Missing("the task has ended and shows no output", kind="missing", task_id=attempt.task_id)
            if attempt.outputs:
                return
            tries += 1
            await anyio.sleep(self._environment.delay(tries))

    async def _pause(self, work: Work, error: errors.WanError, failures: int) -> None:
        environment = self._environment
        wait = environment.delay(failures, error)
        environment.events.tell(
            events.Retrying, work, reason=f"download: {error.message}", after_seconds=round(wait, 3)
        )
        await anyio.sleep(wait)

    async def renew(self, attempt: Attempt) -> bool:
        """Requests the facts and URLs of an ended task from Task/Detail; whether the service answered at all."""
        try:
            task = await self._environment.api.detail(task_id_of(attempt), token_of(attempt))
        except errors.NoSuchAddress:
            return False
        except errors.NotFound:
            return True  # the known URLs may still be valid
        except (errors.TryLater, errors.JobFailed):
            return False
        if ending(task) is not None:
            await note_end(self._environment, attempt, task)
        return True

    async def _publish(self, work: Work, attempt: Attempt, number: int, source: str, fetched: Fetched) -> Clip:
        environment = self._environment
        wanted = _base(attempt, number) + extension(fetched.content_type)
        file = wanted
        if work.resumed or number or wanted in environment.taken:
            file = await self.free_name(attempt, wanted)
        tries = 0
        while True:
            clip = Clip(number, file, fetched.etag or "", fetched.sha256, fetched.bytes, fetched.content_type)
            await environment.journal.checked(attempt, clip)
            try:
                await environment.store.publish(source, file, fetched.sha256)
            except NameExists:  # another file got the name in the meantime
                file = await environment.store.free_name(wanted)
            except errors.TryLater as error:
                tries += 1
                if tries >= MAX_STORE_FAULTS:
                    raise
                await self._pause(work, error, tries)
            else:
                if work.job is None:  # the edited job's new clip may come next, and this is its earlier one
                    environment.taken.add(file)
                return clip

    async def free_name(self, attempt: Attempt, wanted: str, *, is_recorded: bool = True) -> str:
        """A name that no file has: the wanted one if possible, else the first free number.

        A clip of the same job that has the wanted name gets a number itself, unless it is at the job's present content
        and this one is not, or both are alike in that and this one is the earlier.

        Args:
            attempt: whose clip it is.
            wanted: the name, with its suffix.
            is_recorded: whether the journal has the attempt; one that it gets later is at its job's present content.
        """
        journal, store = self._environment.journal, self._environment.store
        if not await store.exists(wanted):
            return wanted
        owner = await journal.file_known(wanted)
        if owner is not None and owner != attempt.id and is_recorded:
            outranks = await journal.present_take(owner, attempt.id) == owner
            if outranks:
                return await store.free_name(wanted)
        if owner == attempt.id:  # published before a crash, or another file that `publish` will refuse to overwrite
            return wanted
        copy = await store.find_copy(wanted)
        if owner is not None and copy is not None and await journal.file_known(copy) is not None:
            copy = None  # another take, whose bytes are the same
        if owner is None and copy is not None:
            await store.remove(wanted)  # numbered and recorded before a crash
            return wanted
        free = await store.free_name(wanted)
        if owner is None or await journal.owner_of(naming.folded(attempt.name)) != attempt.job:
            return free
        new = copy or free
        await store.copy(wanted, new)
        await journal.renamed(wanted, new)
        await store.remove(wanted)
        return wanted

    async def _write_sidecar(self, work: Work, attempt: Attempt, clips: list[Clip]) -> None:
        environment, tries = self._environment, 0
        image = None
        if work.job is not None and work.job.content == attempt.content:  # else the batch was edited since
            image = environment.images.of_job(work.job.planned.job)
        made = sidecar.of_attempt(environment.api.model, attempt, clips, image, environment.clock())
        text = sidecar.json_text(made)
        while True:
            try:
                await environment.store.replace(sidecar_name(clips[0].file), text)
            except errors.TryLater:
                tries += 1
                if tries >= MAX_STORE_FAULTS:
                    raise
                await anyio.sleep(environment.delay(tries))
            else:
                return


def end_of(attempt: Attempt) -> Ending | None:
    """How the attempt's task ended, according to its row."""
    outputs = [Output()] * len(attempt.outputs)
    return ending(TaskDetail(status=attempt.status or "", pexit=attempt.pexit, outputs=outputs))


async def note_end(environment: Environment, attempt: Attempt, task: TaskDetail) -> None:
    """Commits the facts and the cost of an ended task. Facts that it showed before and hides now are kept."""
    end = ending(task)
    unbilled = end in (Ending.FAILED, Ending.CANCELLED)
    assumed = 0 if unbilled else attempt.reserved if attempt.cost is None else attempt.cost
    reason = None
    if end is Ending.CANCELLED:
        reason = "the task was cancelled or killed"
    elif end is Ending.FAILED:
        reason = why_it_failed(task, "the render failed")
    ended = partial(
        environment.journal.ended,
        attempt,
        status=task.status,
        pexit=attempt.pexit if task.pexit is None else task.pexit,
        cost=assumed if task.totalcost is None else max(0, task.totalcost),
        outputs=outputs_of(task) or attempt.outputs,
        reason=reason,
        at=attempt.ended_at or _end_time(attempt, task, environment.clock()),
    )
    try:
        await ended(task_id=attempt.task_id or task.id or None)
    except TaskTaken:  # only its token is known, and the service shows another task's id for it
        await ended(task_id=None)
    environment.prices.settled(attempt)


def _end_time(attempt: Attempt, task: TaskDetail, now: float) -> float:
    """When the task ended, by the local clock: by the service's own times if it is seen only much later."""
    if not (attempt.accepted_at and not attempt.adopted and task.createtime and task.endtime):
        return now
    seconds = task.endtime - task.createtime
    return min(now, attempt.accepted_at + seconds + _WHOLE_SECOND) if seconds > 0 else now


def task_id_of(attempt: Attempt) -> TaskId | None:
    """The id of the attempt's task, if it is known."""
    return TaskId(attempt.task_id) if attempt.task_id else None


def token_of(attempt: Attempt) -> TaskToken | None:
    """The token of the attempt's task, if it is known."""
    return TaskToken(attempt.token) if attempt.token else None


def _base(attempt: Attempt, number: int) -> str:
    """The name of an output without its extension."""
    return attempt.name if number == 0 else f"{attempt.name}-{number + 1}"


def _part(attempt: Attempt, number: int) -> str:
    return f"{_base(attempt, number)}.{attempt.id}.part"
