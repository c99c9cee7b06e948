"""Single calls with a journal: each is a batch of one, with a journal of its own that a later call goes on with."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.batch.plan import prepare
from wan_async.client.concurrency_limit import Slot
from wan_async.client.session import Call, Session
from wan_async.client.submitter import OnSubmitted, clip_name
from wan_async.domain import events, naming
from wan_async.domain.attempt import Account
from wan_async.domain.batch import Batch, PlannedJob, from_jobs
from wan_async.domain.job import AnyJob
from wan_async.domain.lifecycle import State
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.engine.run_events import EventStream
from wan_async.journal.reports import Result, report
from wan_async.outputs.disk_errors import on_disk
from wan_async.task_handles import Clip, Task
from wan_async.wiro.error_codes import CODE_AT_LIMIT


@dataclass(frozen=True, slots=True)
class Place:
    """Where the clip and the journal of a call are.

    Attributes:
        folder: of the clip.
        name: of the clip, without suffix.
        home: the folder of the journal.
    """

    folder: Path
    name: str
    home: Path

    def is_foreign(self) -> bool:
        """Whether a file has the clip's name although there is no journal. Blocking."""
        return not self.home.exists() and any(
            os.path.lexists(self.folder / each) for each in (self.name, f"{self.name}.mp4")
        )


class DurableCalls:
    """Generates clips with a journal.

    Args:
        session: the client's shared state.
        account: the account that pays.
        folder: where the journals are.
    """

    def __init__(self, session: Session, account: Account, folder: Path) -> None:
        self._session = session
        self._account = account
        self._folder = folder
        self._locks: dict[Path, anyio.Lock] = {}

    async def generate(
        self, job: AnyJob, to: str | os.PathLike[str] | None, call: Call, on_submitted: OnSubmitted | None
    ) -> Clip:
        """Generate a clip, or go on with what an earlier call with the same journal and job began.

        The job is known by its id; without one, by its target.
        """
        dependencies = self._session.dependencies
        wished = Path() if to is None else Path(to)
        folder, name = await on_disk(dependencies.offload, wished, _place, to, clip_name(from_jobs([job]).jobs[0].job))
        identity = f"id:{job.id}" if job.id else f"target:{folder.resolve() / name}"
        home = self._folder / f"{naming.safe_name(job.id or name)[:40]}-{sha256(identity.encode()).hexdigest()[:16]}"
        lock = self._locks.setdefault(home, anyio.Lock())
        try:
            async with lock:
                return await self._generate(job, Place(folder, name, home), call, on_submitted)
        finally:
            if not lock.locked():
                self._locks.pop(home, None)

    async def _generate(self, job: AnyJob, place: Place, call: Call, on_submitted: OnSubmitted | None) -> Clip:
        dependencies, folder, name, home = self._session.dependencies, place.folder, place.name, place.home
        if await dependencies.offload(place.is_foreign):
            raise FileExistsError(f"{folder / name} exists, and is not of an earlier call: nothing was done")
        batch = Batch([PlannedJob(0, job, name, name, "")], None, "generate")
        prepared = await dependencies.offload(prepare, batch, home)
        key = prepared.jobs[0].key
        stream = EventStream()
        run = Run(
            prepared,
            dependencies=dependencies,
            account=self._account,
            output=folder,
            home=home,
            options=Options(concurrency=1, retry_failed=True),
            stream=stream,
        )
        slot = await self._session.admission.take()
        try:
            finished, raised = await self._carry(run, stream, key, name, call, slot, on_submitted)
        finally:
            slot.release()
        self._session.check_open()
        if raised is not None:
            raise raised
        if run.error is not None:
            raise run.error
        known = await dependencies.offload(report, home)
        result = next(result for result in known.results if result.job == key) if known is not None else None
        if result is None or result.state != State.STORED or result.file is None:
            raise _error_of(result, finished)
        path = folder / result.file
        size = await dependencies.offload(lambda: path.stat().st_size)
        if result.task_id is not None:
            self._session.claim(Task(result.task_id))
        return Clip(path, size, result.sha256 or "", result.task_id, result.cost)

    async def _carry(
        self,
        run: Run,
        stream: EventStream,
        key: str,
        name: str,
        call: Call,
        slot: Slot,
        on_submitted: OnSubmitted | None,
    ) -> tuple[events.Finished, Exception | None]:
        raised: list[Exception] = []
        finished: list[events.Finished] = []

        async def read() -> None:
            async for event in stream:
                if isinstance(event, events.Finished):
                    finished.append(event)
                if isinstance(event, events.Limited) and event.code == CODE_AT_LIMIT:
                    slot.note_refusal()
                if isinstance(event, events.Accepted) and event.task_id:
                    slot.accepted()
                    call.task, call.submitted = Task(event.task_id, None, event.at, name, key), True
                    try:
                        called = on_submitted(call.task) if on_submitted is not None else None
                        if inspect.isawaitable(called):
                            await called
                    except Exception as error:  # noqa: BLE001 - raised to the caller, whose function it is
                        raised.append(error)
                        run.leave()

        self._session.runs.add(run)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(run.run)
                try:
                    await read()
                except anyio.get_cancelled_exc_class():
                    run.leave()
                    raise
        finally:
            self._session.runs.discard(run)
            run.ended.set()
        return finished[0], raised[0] if raised else None


def _place(to: str | os.PathLike[str] | None, name: str) -> tuple[Path, str]:
    """Folder and name of a clip. Blocking."""
    target = Path() if to is None else Path(to)
    if to is None or os.fspath(to).endswith(("/", os.sep)) or target.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return target, name
    if not target.parent.is_dir():
        raise errors.Unusable(f"{target.parent} is no folder: make it first, or end the target with / to have it made")
    return target.parent, target.name.removesuffix(target.suffix)


def _error_of(result: Result | None, finished: events.Finished) -> errors.WanError:
    state, reason = (result.state, result.error) if result is not None else ("unfinished", None)
    about = reason or f"the job is {state} (exit code {finished.exit_code})"
    task_id = result.task_id if result is not None else None
    if state in (State.UNKNOWN, State.QUARANTINED):
        return errors.Ambiguous(about)
    if state == State.MISSING:
        return errors.Missing(about, kind="missing", task_id=task_id)
    billed = (result.cost or 0) if result is not None else 0
    return errors.JobFailed(about, kind="render", billed_micros=billed, task_id=task_id)
