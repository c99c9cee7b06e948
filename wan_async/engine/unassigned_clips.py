"""Tasks that may be those of quarantined attempts: tracked until they end, and their clips downloaded.

Guarantees. The tasks are recorded in the commit that quarantines the attempt, so that every later run takes them up
again. Their clips go to `OUT/unassigned/task-ID.EXT` in the same order as a job's: the bytes are durable before their
hash is committed, the hash before the file gets its name, the name and the sidecar before the row is `stored`. Nothing
is overwritten, no slot is held, and no money is counted: the attempt's own reservation covers the task.

A task may get an owner at any time: an attempt adopts it, or the user assigns it. The attempt's `Delivery` then calls
`find`, which ends the work on the task here, and publishes the file that it returns; `discard` removes the rest once
the clip is stored. A task that is denied, or not available now, is left for the next run. Which job a clip belongs to
is not decided here.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from dataclasses import dataclass, field

import anyio

from wan_async import errors
from wan_async.domain import naming
from wan_async.domain.attempt import Attempt, Clip, Unassigned
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.lifecycle import State
from wan_async.domain.model import Model
from wan_async.domain.remote_task import Ending, TaskDetail, TaskId, TaskToken, ending, why_it_failed
from wan_async.engine import matching, task_listing
from wan_async.engine.environment import Environment
from wan_async.filetypes import extension
from wan_async.journal.journal_location import is_of_single_clip, local_home
from wan_async.outputs import sidecar
from wan_async.outputs.base import NameExists, sidecar_name
from wan_async.outputs.resumable_download import Fetched

log: logging.Logger = logging.getLogger(__name__)

UNASSIGNED_FOLDER = "unassigned"
PARALLEL_TASKS = 2
"""How many of these tasks are downloaded at once: few, because the jobs' own clips come first."""
MAX_FAULTS = 5
"""After this number of faults in a row without progress a clip is left for the next run."""
MAX_SILENCE_SECONDS = 600.0
"""At its end a run waits for these tasks; no longer than this without news of any of them and without an answer."""
LONGEST_SHOWN_VALUE = 10_000
"""A longer parameter is an image; it is left out of the sidecar."""


@dataclass(slots=True, eq=False)
class _Busy:
    row: Unassigned
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    done: anyio.Event = field(default_factory=anyio.Event)


class UnassignedClips:
    """The tasks that may be those of quarantined attempts.

    Args:
        environment: the run.
        leads: whether it tracks them. Of several workers that have a journal open one does, until it is gone.
    """

    def __init__(self, environment: Environment, *, leads: bool = True) -> None:
        self._environment = environment
        self._leads = leads
        self._rows: dict[str, Unassigned] = {}
        self._taken: set[str] = set()
        self._busy: dict[str, _Busy] = {}
        self._fresh: list[_Busy] = []
        self._refreshing = anyio.Lock()
        self._wake = anyio.Event()
        self._heard = anyio.Event()
        self._parallel = anyio.CapacityLimiter(PARALLEL_TASKS)

    async def load(self) -> None:
        """Takes up the tasks of earlier runs and other workers, and removes files that a stored job does not need."""
        self._leads = True
        await self._refresh()
        for row in list(self._rows.values()):
            if row.owner == "stored":
                await self._end_work(row)
                await self._remove(row)

    async def quarantine(self, attempt: Attempt, reason: str, doubts: Collection[TaskDetail]) -> None:
        """Commits that an attempt's outcome can't be determined, and takes up the tasks that may be its own.

        Args:
            attempt: the attempt.
            reason: why it is quarantined.
            doubts: the candidates. If an earlier run quarantined the attempt, and recorded the candidates of that time,
                only tasks that were made within `matching.WINDOW_SECONDS` of its Run are recorded.
        """
        found = sorted((task for task in doubts if task.id), key=lambda task: task_listing.task_number(task.id))
        if attempt.state == State.QUARANTINED:
            since, until = attempt.intent_at - matching.WINDOW_SECONDS, attempt.intent_at + matching.WINDOW_SECONDS
            found = [task for task in found if task.createtime is None or since <= task.createtime <= until]
        await self._environment.journal.quarantined(attempt, reason, found, self._environment.clock())
        if found and self._leads:
            await self._refresh()

    async def _refresh(self) -> None:
        async with self._refreshing:
            for row in await self._environment.journal.unassigned():
                known = self._rows.setdefault(row.task_id, row)
                jobs_before, known.jobs, known.owner = known.jobs, row.jobs, row.owner
                if known.pending and known.task_id not in self._taken:
                    self._taken.add(known.task_id)
                    self._busy[known.task_id] = busy = _Busy(known)
                    self._fresh.append(busy)
                    self._wake.set()
                elif known.state == "stored" and known.owner is None and known.jobs != jobs_before:
                    await self._write_sidecar(known)

    async def serve(self) -> None:
        """Tracks the tasks and downloads their clips, until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                self._wake = anyio.Event()
                while self._fresh:
                    group.start_soon(self._process, self._fresh.pop(0))
                await self._wake.wait()

    async def wait_done(self) -> None:
        """Waits until no task runs and no clip is being downloaded any more."""
        if self._busy:
            log.info("%d tasks that may be those of quarantined jobs are still tracked or downloaded", len(self._busy))
        while self._busy:
            self._heard = anyio.Event()
            with anyio.move_on_after(MAX_SILENCE_SECONDS) as silence:
                await self._heard.wait()
            if silence.cancelled_caught and not await self._answers():
                log.warning("%d tasks that may be those of quarantined jobs are left for the next run", len(self._busy))
                return

    async def _answers(self) -> bool:
        """Whether the service answers a request about the first of these tasks."""
        for busy in list(self._busy.values())[:1]:
            try:
                await self._environment.api.detail(*_id_and_token(busy.row), tries=1)
            except errors.NotFound:
                return True  # the tracker decides when to believe it
            except errors.WanError:
                return False
        return True

    async def _process(self, busy: _Busy) -> None:
        environment, row = self._environment, busy.row
        try:
            with busy.scope:
                if row.state == "running":
                    await self._wait_ended(row)
                elif row.state == "ended":
                    await self._renew(row)  # its URLs may have expired
                if row.state == "ended":
                    async with self._parallel:
                        await self._fetch_all(row)
        except (errors.StopBatch, errors.Unusable) as error:
            environment.shutdown.stop(str(error), ExitCode.of_error(error))
        except errors.WanError as error:
            await self._leave(row, error.message)
        except Exception:  # it must not end the run: the next run tries again
            log.exception("task %s, which may be a quarantined job's, is left for the next run", row.task_id)
        finally:
            del self._busy[row.task_id]
            busy.done.set()
            self._heard.set()

    async def _leave(self, row: Unassigned, reason: str) -> None:
        log.warning("task %s, which may be a quarantined job's, is left for the next run: %s", row.task_id, reason)
        try:
            await self._environment.journal.unassigned_changed(row, reason=reason)
        except errors.Unusable as error:
            self._environment.shutdown.stop(str(error), ExitCode.ENVIRONMENT)

    async def _wait_ended(self, row: Unassigned) -> None:
        environment, (task_id, token) = self._environment, _id_and_token(row)
        with environment.hints.subscribed(token):
            task = await environment.tracker.wait_ended(
                task_id,
                token,
                since=anyio.current_time() - max(1.0, environment.clock() - row.seen_at),
                seen=lambda task: self._heard.set(),
            )
        end = ending(task)
        has_clip = any(output.url for output in task.outputs)
        billed = end is Ending.CANCELLED or bool(task.totalcost)
        paid = end is Ending.CANCELLED and bool(task.totalcost)  # its outputs may appear later
        if end in (Ending.SUCCEEDED, Ending.UNDECIDED) or (has_clip and billed) or paid:
            state, reason = "ended", None
        else:
            state = "cancelled" if end is Ending.CANCELLED else "failed"
            reason = why_it_failed(task, f"the task ended as {task.status}")
        await environment.journal.unassigned_changed(
            row, state=state, task=task, ended_at=environment.clock(), reason=reason
        )

    async def _renew(self, row: Unassigned) -> None:
        """Requests the URLs again from Task/Detail, if it still knows the task."""
        environment = self._environment
        try:
            task = await environment.api.detail(*_id_and_token(row))
        except (errors.NotFound, errors.TryLater):
            return  # the known URLs may still be valid
        if any(output.url for output in task.outputs):
            await environment.journal.unassigned_changed(row, task=task)

    async def _fetch_all(self, row: Unassigned) -> None:
        environment = self._environment
        await self._wait_outputs(row)
        await environment.store.make_folder(UNASSIGNED_FOLDER)
        clips = [await self._keep(row, number) for number in range(len(row.outputs))]
        await self._write_sidecar(row)
        await environment.journal.unassigned_changed(row, state="stored", reason=None)
        log.info("%s may be the clip of job %s", clips[0].file, " or ".join(row.jobs))

    async def _wait_outputs(self, row: Unassigned) -> None:
        """Waits a moment for outputs: they may appear later than the status."""
        for tries in range(1, MAX_FAULTS + 1):
            if row.outputs:
                return
            await anyio.sleep(self._environment.delay(tries))
            await self._renew(row)
        if not row.outputs:
            raise errors.Missing("the task succeeded and offers no output", kind="missing", task_id=row.task_id)

    async def _keep(self, row: Unassigned, number: int) -> Clip:
        store, part = self._environment.store, self._part(row, number)
        clip = _clip_of(row, number)
        file, fetched = await self._fetched(row, number) or (part, None)
        if clip is not None and file != part:
            await store.remove(part)
            return clip
        if fetched is None:
            fetched = await self._fetch(row, number, part, clip.etag if clip is not None else None)
        file = wanted = f"{UNASSIGNED_FOLDER}/{_base(row, number)}{extension(fetched.content_type)}"
        while True:
            kept = Clip(number, file, fetched.etag or "", fetched.sha256, fetched.bytes, fetched.content_type)
            await self._note_clip(row, kept)
            try:
                await store.publish(part, file, fetched.sha256)
            except NameExists:
                file = await store.free_name(wanted)
            else:
                return kept

    async def _fetch(self, row: Unassigned, number: int, part: str, etag: str | None) -> Fetched:
        environment = self._environment
        faults = furthest = 0

        async def remember(new: str) -> None:
            nonlocal etag
            await self._note_clip(row, Clip(number, "", new, None, None, None))
            etag = new

        def progress(done: int, total: int | None) -> None:
            nonlocal faults, furthest
            self._heard.set()
            if done > furthest:
                furthest, faults = done, 0

        while True:
            if number >= len(row.outputs):  # the renewed facts don't show it
                raise errors.Missing("its outputs are gone", kind="missing", task_id=row.task_id)
            content_type, size, url = row.outputs[number]
            try:
                return await environment.downloader.fetch(
                    url, environment.store.part_path(part), announced_bytes=size, content_type=content_type, etag=etag,
                    remember=remember, progress=progress,
                )  # fmt: skip
            except (errors.TryLater, errors.JobFailed) as error:
                faults += 1
                passing = isinstance(error, errors.TryLater | errors.NotFound) or error.kind == "content"
                if faults >= MAX_FAULTS or not passing:
                    raise
                await anyio.sleep(environment.delay(faults, error))
                await self._renew(row)

    async def _note_clip(self, row: Unassigned, clip: Clip) -> None:
        clips = sorted([clip, *(other for other in row.clips if other.number != clip.number)], key=lambda c: c.number)
        await self._environment.journal.unassigned_changed(row, clips=clips)

    async def _write_sidecar(self, row: Unassigned) -> None:
        model = self._environment.api.model
        content = sidecar.of_unassigned(model, row, shown_parameters(model, row.task))
        await self._environment.store.replace(sidecar_name(row.clips[0].file), sidecar.json_text(content))

    async def find(self, attempt: Attempt, number: int) -> tuple[str, Fetched] | None:
        """Finds an output that was downloaded before the attempt owned the task.

        Nothing here works on the task any more when this returns.

        Returns:
            The name of the stored file or of its part, and its facts; None if it was not downloaded.
        """
        row = self._row_of(attempt)
        if row is None:
            return None
        await self._end_work(row)
        return await self._fetched(row, number)

    async def _fetched(self, row: Unassigned, number: int) -> tuple[str, Fetched] | None:
        """An output whose hash was committed: its name, or that of its part, and its facts."""
        clip = _clip_of(row, number)
        if clip is None or clip.sha256 is None:
            return None
        for name in (clip.file, self._part(row, number)):
            if await self._environment.store.sha256(name, follow_links=False) == clip.sha256:
                return name, Fetched(clip.bytes or 0, clip.sha256, clip.content_type or "", clip.etag or None)
        return None

    async def discard(self, attempt: Attempt) -> None:
        """Removes what is left of a task here, once the attempt that owns it is stored."""
        row = self._row_of(attempt)
        if row is not None:
            await self._end_work(row)
            await self._remove(row)

    def _row_of(self, attempt: Attempt) -> Unassigned | None:
        if not self._rows:
            return None
        if (row := self._rows.get(attempt.task_id or "")) is not None:
            return row
        token = attempt.token
        return next((row for row in self._rows.values() if token and row.token == token), None)

    async def _end_work(self, row: Unassigned) -> None:
        busy = self._busy.get(row.task_id)
        if busy is not None:
            busy.scope.cancel()
            await busy.done.wait()

    async def _remove(self, row: Unassigned) -> None:
        store = self._environment.store
        names = [self._part(row, number) for number in range(max(len(row.outputs), len(row.clips), 1))]
        for clip in row.clips:
            if clip.file and await store.sha256(clip.file) in (None, clip.sha256):  # else the file is not ours
                names += [clip.file, sidecar_name(clip.file)]
        await store.remove(*names)
        await self._environment.journal.unassigned_gone(row)
        del self._rows[row.task_id]

    def _part(self, row: Unassigned, number: int) -> str:
        """The name of an output's part. Journals of single clips share the folder, but not the part."""
        home = self._environment.journal.home
        is_single = is_of_single_clip(home, self._environment.output)
        mark = f".{_mark(local_home(home, self._environment.output).name)}" if is_single else ""
        return f"{UNASSIGNED_FOLDER}/{_base(row, number)}{mark}.part"


def shown_parameters(model: Model, task: TaskDetail) -> dict[str, str]:
    """The parameters that the service echoes of a task, without images."""
    names = (*model.text_fields, *model.image_fields)
    found = {name: matching.shown(task, name) for name in names if name in task.parameters}
    return {name: value for name, value in found.items() if len(value) <= LONGEST_SHOWN_VALUE}


def _id_and_token(row: Unassigned) -> tuple[TaskId, TaskToken | None]:
    return TaskId(row.task_id), TaskToken(row.token) if row.token else None


def _base(row: Unassigned, number: int) -> str:
    """A file's name without its extension: unique for each task, also on a file system that ignores case."""
    task_id = row.task_id
    plain = task_id.isascii() and task_id.isdecimal() and len(task_id) <= 40
    name = f"task-{task_id}" if plain else f"{naming.safe_name(f'task-{task_id}')}-{_mark(task_id)}"
    return name if number == 0 else f"{name}-{number + 1}"


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _clip_of(row: Unassigned, number: int) -> Clip | None:
    return next((clip for clip in row.clips if clip.number == number), None)
