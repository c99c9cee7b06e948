"""Single calls with a journal: each is a batch of one, with a journal of its own that a later call goes on with."""

from __future__ import annotations

import inspect
import os
from hashlib import sha256
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.batch.plan import prepare
from wan_async.client.session import Call, Session
from wan_async.client.submitter import OnSubmitted, clip_name
from wan_async.domain import events, naming
from wan_async.domain.attempt import Account
from wan_async.domain.batch import Batch, PlannedJob, from_jobs
from wan_async.domain.job import AnyJob
from wan_async.domain.lifecycle import State
from wan_async.engine.event_stream import EventStream
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.handles import Clip, Task
from wan_async.journal.reports import Result, report


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

    async def generate(
        self, job: AnyJob, to: str | os.PathLike[str] | None, call: Call, on_submitted: OnSubmitted | None
    ) -> Clip:
        """Generate a clip, or go on with what an earlier call with the same journal and job began.

        The job is known by its id; without one, by its target.
        """
        services = self._session.services
        folder, name = _place(to, clip_name(from_jobs([job]).jobs[0].job))
        await services.offload(_make, folder)
        identity = f"id:{job.id}" if job.id else f"target:{folder.resolve() / name}"
        home = self._folder / f"{naming.safe_name(job.id or name)[:40]}-{sha256(identity.encode()).hexdigest()[:16]}"
        batch = Batch([PlannedJob(0, job, name, name, "")], None, "generate")
        prepared = await services.offload(prepare, batch, home)
        key = prepared.jobs[0].key
        stream = EventStream()
        run = Run(
            prepared,
            services=services,
            account=self._account,
            output=folder,
            home=home,
            options=Options(concurrency=1, retry_failed=True),
            stream=stream,
        )
        slot = await self._session.admission.take()
        try:
            finished, raised = await self._carry(run, stream, key, name, call, on_submitted)
        finally:
            slot.release()
        self._session.check_open()
        if raised is not None:
            raise raised
        if run.error is not None:
            raise run.error
        known = await services.offload(report, home)
        result = next(result for result in known.results if result.job == key) if known is not None else None
        if result is None or result.state != State.STORED or result.file is None:
            raise _error_of(result, finished)
        path = folder / result.file
        size = await services.offload(lambda: path.stat().st_size)
        return Clip(path, size, result.sha256 or "", result.task_id, result.cost)

    async def _carry(
        self, run: Run, stream: EventStream, key: str, name: str, call: Call, on_submitted: OnSubmitted | None
    ) -> tuple[events.Finished, Exception | None]:
        raised: list[Exception] = []
        finished: list[events.Finished] = []

        async def read() -> None:
            async for event in stream:
                if isinstance(event, events.Finished):
                    finished.append(event)
                if isinstance(event, events.Accepted) and event.task_id:
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
    """Folder and name of a clip."""
    target = Path() if to is None else Path(to)
    if to is None or os.fspath(to).endswith(("/", os.sep)) or target.is_dir():
        return target, name
    return target.parent, target.stem if target.suffix else target.name


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


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
