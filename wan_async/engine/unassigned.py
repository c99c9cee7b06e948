"""Clips of quarantined Runs: tasks that may be a job's own are tracked, and what they made is put on disk.

Guarantees. The tasks are recorded in the commit that quarantines the attempt, so that every later start takes them up
again. Their clips go to `OUT/unassigned/task-ID.EXT` as a job's do: the bytes are durable before their hash is
committed, the hash before the file gets its name, the name and the sidecar before the row is `stored`. Nothing is
overwritten, no slot is held, no money is counted: the attempt's own reservation covers it.

What may happen: a task gets an owner at any time (an attempt adopts it, or the user assigns it). Then the attempt's
`Keeper` asks `find` for what is here already, which ends the work on it, and takes the file; `discard` removes the
rest once the clip is stored. A task that is denied, or not available now, is left for the next start. What is not known
here: whose clip it is.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.domain import money, naming
from wan_async.domain.attempt import Attempt, Clip, Unassigned
from wan_async.domain.model import Model
from wan_async.domain.task import Ending, Task, TaskId, TaskToken, ending
from wan_async.engine import matching, task_listing
from wan_async.engine.context import Context
from wan_async.filesystem import Files
from wan_async.filetypes import extension
from wan_async.journal.base import FOLDER
from wan_async.outputs import sidecar
from wan_async.outputs.local import hash_of
from wan_async.outputs.part_file import on_disk
from wan_async.outputs.transfer import Fetched

log = logging.getLogger(__name__)

UNASSIGNED_FOLDER = "unassigned"
DOWNLOADS = 2
"""How many of these clips are fetched at once: the jobs' own come first."""
FAULTS = 5
"""After this number of faults in a row without progress a clip is left for the next start."""
SILENCE_SECONDS = 600.0
"""At its end a run waits for these tasks, but not when nothing was heard of any of them for so long."""
SHOWN_LIMIT = 10_000
"""A longer value is no parameter for people, but an image."""


@dataclass(slots=True, eq=False)
class _Busy:
    row: Unassigned
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    done: anyio.Event = field(default_factory=anyio.Event)


class UnassignedTasks:
    """The tasks that may be quarantined attempts' own.

    Args:
        context: the run.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rows: dict[str, Unassigned] = {}
        self._taken: set[str] = set()
        self._busy: dict[str, _Busy] = {}
        self._fresh: list[_Busy] = []
        self._refreshing = anyio.Lock()
        self._wake = anyio.Event()
        self._heard = anyio.Event()
        self._places = anyio.CapacityLimiter(DOWNLOADS)

    async def load(self) -> None:
        """Takes up what earlier runs left, and removes what they stored elsewhere and could not remove any more."""
        await self._refresh()
        for row in list(self._rows.values()):
            if row.owner == "stored":
                await self._remove(row)

    async def quarantine(self, attempt: Attempt, reason: str, doubts: Collection[Task]) -> None:
        """Commits that nobody can tell what became of an attempt, and takes up the tasks that may be its own.

        An attempt that an earlier run quarantined has recorded what was there then: of the tasks that came since, only
        those made at about the time of its Run may be its own.
        """
        found = sorted((task for task in doubts if task.id), key=lambda task: task_listing.task_number(task.id))
        if attempt.state == "quarantined":
            since, until = attempt.intent_at - matching.WINDOW_SECONDS, attempt.intent_at + matching.WINDOW_SECONDS
            found = [task for task in found if task.createtime is None or since <= task.createtime <= until]
        await self._context.journal.quarantined(attempt, reason, found, self._context.clock())
        if found:
            await self._refresh()

    async def _refresh(self) -> None:
        async with self._refreshing:
            for row in await self._context.journal.unassigned():
                known = self._rows.setdefault(row.task_id, row)
                told, known.jobs, known.owner = known.jobs, row.jobs, row.owner
                if known.pending and known.task_id not in self._taken:
                    self._taken.add(known.task_id)
                    self._busy[known.task_id] = busy = _Busy(known)
                    self._fresh.append(busy)
                    self._wake.set()
                elif known.state == "stored" and known.owner is None and known.jobs != told:
                    await self._write_sidecar(known)

    async def serve(self) -> None:
        """Tracks and fetches what there is, until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                self._wake = anyio.Event()
                while self._fresh:
                    group.start_soon(self._carry, self._fresh.pop(0))
                await self._wake.wait()

    async def wait_done(self) -> None:
        """Waits for the tasks that still run and the clips that are still fetched."""
        if self._busy:
            log.info("%d tasks that may be of quarantined Runs are still tracked or fetched", len(self._busy))
        while self._busy:
            self._heard = anyio.Event()
            with anyio.move_on_after(SILENCE_SECONDS) as silence:
                await self._heard.wait()
            if silence.cancelled_caught and not await self._answers():
                log.warning("%d tasks that may be of quarantined Runs are left for the next run", len(self._busy))
                return

    async def _answers(self) -> bool:
        """Whether the service says anything of the first of these tasks."""
        for busy in list(self._busy.values())[:1]:
            try:
                await self._context.api.detail(*_names(busy.row), tries=1)
            except errors.NotFound:
                return True  # the tracker believes it in its own time
            except errors.WanError:
                return False
        return True

    async def _carry(self, busy: _Busy) -> None:
        context, row = self._context, busy.row
        try:
            with busy.scope:
                if row.state == "running":
                    await self._wait_ended(row)
                elif row.state == "ended":
                    await self._renew(row)  # its URLs are old
                if row.state == "ended":
                    async with self._places:
                        await self._fetch_all(row)
        except errors.StopBatch as error:
            context.stop(str(error), 4 if error.authentication else 1)
        except errors.Unusable as error:
            context.stop(str(error), 6)
        except errors.WanError as error:
            await self._leave(row, error.message)
        except Exception:  # it must not end the run, whatever it was: the next one tries again
            log.exception("task %s, which may be of a quarantined Run, is left for the next run", row.task_id)
        finally:
            del self._busy[row.task_id]
            busy.done.set()
            self._heard.set()

    async def _leave(self, row: Unassigned, reason: str) -> None:
        log.warning("task %s, which may be of a quarantined Run, is left for the next run: %s", row.task_id, reason)
        try:
            await self._context.journal.unassigned_changed(row, reason=reason)
        except errors.Unusable as error:
            self._context.stop(str(error), 6)

    async def _wait_ended(self, row: Unassigned) -> None:
        context, (task_id, token) = self._context, _names(row)
        if context.listener is not None and token is not None:
            context.listener.subscribe(token)
        try:
            task = await context.watch.wait_ended(
                task_id,
                token,
                since=anyio.current_time() - max(1.0, context.clock() - row.seen_at),
                seen=lambda task: self._heard.set(),
            )
        finally:
            if context.listener is not None and token is not None:
                context.listener.unsubscribe(token)
        end = ending(task)
        has_clip = any(output.url for output in task.outputs)
        billed = end is Ending.CANCELLED or bool(task.totalcost)
        paid = end is Ending.CANCELLED and bool(task.totalcost)  # its outputs may come late
        if end in (Ending.SUCCEEDED, Ending.UNDECIDED) or (has_clip and billed) or paid:
            state, reason = "ended", None
        else:
            state, reason = "cancelled" if end is Ending.CANCELLED else "failed", _why(task)
        await context.journal.unassigned_changed(row, state=state, task=task, ended_at=context.clock(), reason=reason)

    async def _renew(self, row: Unassigned) -> None:
        """Fresh URLs from Task/Detail, if it still knows the task."""
        context = self._context
        try:
            task = await context.api.detail(*_names(row))
        except (errors.NotFound, errors.TryLater):
            return  # the URLs that we have may still be good
        if any(output.url for output in task.outputs):
            await context.journal.unassigned_changed(row, task=task)

    async def _fetch_all(self, row: Unassigned) -> None:
        context = self._context
        await self._wait_outputs(row)
        await on_disk(context.offload, self._folder, _make_folder, self._folder)
        clips = [await self._keep(row, number) for number in range(len(row.outputs))]
        await self._write_sidecar(row)
        await context.journal.unassigned_changed(row, state="stored", reason=None)
        log.info("%s may be the clip of job %s", clips[0].file, " or ".join(row.jobs))

    async def _wait_outputs(self, row: Unassigned) -> None:
        """Outputs may lag behind the status for a moment."""
        for tries in range(1, FAULTS + 1):
            if row.outputs:
                return
            await anyio.sleep(self._context.backoff.delay(tries, self._context.draw()))
            await self._renew(row)
        if not row.outputs:
            raise errors.Missing("the task succeeded and offers no output", kind="missing", task_id=row.task_id)

    async def _keep(self, row: Unassigned, number: int) -> Clip:
        context, part = self._context, self._part(row, number)
        clip = _clip_of(row, number)
        path, fetched = await self._fetched(row, number) or (part, None)
        if clip is not None and path != part:
            await on_disk(context.offload, part, context.files.unlink, part)
            return clip
        if fetched is None:
            fetched = await self._fetch(row, number, part, clip.etag if clip is not None else None)
        base, suffix, copy = _name(row, number), extension(fetched.content_type), 0
        while True:
            file = f"{UNASSIGNED_FOLDER}/{base}{f'.{copy}' if copy else ''}{suffix}"
            kept = Clip(number, file, fetched.etag or "", fetched.sha256, fetched.bytes, fetched.content_type)
            await self._note_clip(row, kept)
            try:
                await context.downloader.publish(part, context.output / file, fetched.sha256)
            except errors.JobFailed:  # another file has that name
                if part.is_symlink():
                    raise
                copy += 1
            else:
                return kept

    async def _fetch(self, row: Unassigned, number: int, part: Path, etag: str | None) -> Fetched:
        context = self._context
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
            if number >= len(row.outputs):  # fresh URLs came without it
                raise errors.Missing("its outputs are gone", kind="missing", task_id=row.task_id)
            content_type, size, url = row.outputs[number]
            try:
                return await context.downloader.fetch(
                    url, part, announced_bytes=size, content_type=content_type, etag=etag, remember=remember,
                    progress=progress,
                )  # fmt: skip
            except (errors.TryLater, errors.JobFailed) as error:
                faults += 1
                passing = isinstance(error, errors.TryLater | errors.NotFound) or error.kind == "content"
                if faults >= FAULTS or not passing:
                    raise
                asked = error.after_seconds if isinstance(error, errors.TryLater) else None
                await anyio.sleep(context.backoff.delay(faults, context.draw(), asked))
                await self._renew(row)

    async def _note_clip(self, row: Unassigned, clip: Clip) -> None:
        clips = sorted([clip, *(other for other in row.clips if other.number != clip.number)], key=lambda c: c.number)
        await self._context.journal.unassigned_changed(row, clips=clips)

    async def _write_sidecar(self, row: Unassigned) -> None:
        context, task = self._context, row.task
        first, *further = row.clips
        content = {
            "task_id": row.task_id,
            "jobs": row.jobs,
            "file": Path(first.file).name,
            "sha256": first.sha256,
            "bytes": first.bytes,
            "further_files": [Path(clip.file).name for clip in further],
            "model": context.api.model.name,
            "parameters": shown_parameters(context.api.model, task),
            "status": task.status,
            "cost_usd": None if task.totalcost is None else f"{money.usd(task.totalcost):f}",
            "created_at": task.createtime,
            "seen_at": row.seen_at,
            "ended_at": row.ended_at,
        }
        path = (context.output / first.file).with_suffix(".json")
        await on_disk(context.offload, path, sidecar.write_json, path, content, context.files)

    async def find(self, attempt: Attempt, number: int) -> tuple[Path, Fetched] | None:
        """An output of a task that an attempt owns, if it was fetched when nobody owned it: its file, and what it is.

        Nothing here works on the task any more when this returns.
        """
        row = self._row_of(attempt)
        if row is None:
            return None
        await self._end_work(row)
        return await self._fetched(row, number)

    async def _fetched(self, row: Unassigned, number: int) -> tuple[Path, Fetched] | None:
        """An output whose hash was committed, under its name or still as a part."""
        clip = _clip_of(row, number)
        if clip is None or clip.sha256 is None:
            return None
        for path in (self._context.output / clip.file, self._part(row, number)):
            if not path.is_symlink() and await self._context.offload(hash_of, path) == clip.sha256:
                return path, Fetched(clip.bytes or 0, clip.sha256, clip.content_type or "", clip.etag or None)
        return None

    async def discard(self, attempt: Attempt) -> None:
        """The attempt that owns the task is stored: what else is left of it here goes."""
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
        context = self._context
        paths = [self._part(row, number) for number in range(max(len(row.outputs), len(row.clips), 1))]
        for clip in row.clips:
            path = context.output / clip.file
            if clip.file and await context.offload(hash_of, path) in (None, clip.sha256):  # else it is not ours
                paths += [path, path.with_suffix(".json"), path.with_suffix(".json.tmp")]
        await on_disk(context.offload, self._folder, _unlink_all, context.files, paths)
        await context.journal.unassigned_gone(row)
        del self._rows[row.task_id]

    @property
    def _folder(self) -> Path:
        return self._context.output / UNASSIGNED_FOLDER

    def _part(self, row: Unassigned, number: int) -> Path:
        """Where an output is fetched to. Single clips have journals of their own and share the folder, not the part."""
        home = self._context.journal.path.parent
        mark = "" if home == self._context.output / FOLDER else f".{_mark(home.name)}"
        return self._folder / f"{_name(row, number)}{mark}.part"


def shown_parameters(model: Model, task: Task) -> dict[str, str]:
    """What the service echoes of a task's parameters, for people."""
    names = (*model.text_fields, *model.image_fields)
    found = {name: matching.shown(task, name) for name in names if name in task.parameters}
    return {name: value for name, value in found.items() if len(value) <= SHOWN_LIMIT}


def _names(row: Unassigned) -> tuple[TaskId, TaskToken | None]:
    return TaskId(row.task_id), TaskToken(row.token) if row.token else None


def _why(task: Task) -> str:
    said = " ".join((task.debugerror or task.debugoutput).split())[-300:]
    code = f" with exit code {task.pexit}" if task.pexit not in (None, "0") else ""
    return f"the task ended as {task.status}{code}{': ' + said if said else ''}"


def _name(row: Unassigned, number: int) -> str:
    """A file's name without its extension. No two tasks have the same one, on no file system."""
    task_id = row.task_id
    plain = task_id.isascii() and task_id.isdecimal() and len(task_id) <= 40
    name = f"task-{task_id}" if plain else f"{naming.safe_name(f'task-{task_id}')}-{_mark(task_id)}"
    return name if number == 0 else f"{name}-{number + 1}"


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _clip_of(row: Unassigned, number: int) -> Clip | None:
    return next((clip for clip in row.clips if clip.number == number), None)


def _make_folder(folder: Path) -> None:
    if folder.is_symlink():
        raise errors.JobFailed(f"{folder} is a link, which is not followed: move it away", kind="target")
    folder.mkdir(exist_ok=True)


def _unlink_all(files: Files, paths: list[Path]) -> None:
    for path in paths:
        files.unlink(path)
    with suppress(OSError):  # other clips are in the folder, or it is not there
        paths[0].parent.rmdir()
