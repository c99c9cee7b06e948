"""One run of a batch: the journal is opened, the service greeted, the jobs carried, the results written.

Every unfinished attempt of the journal is taken up, whether or not the batch still names its job. `stop` submits no
more and sees the rest through; `leave` gives Runs in flight three seconds for their answers and leaves the rest where
the journal says it is. However it ends, `Finished` is the last event, and its exit code the first that applies.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import anyio

from wan_async import errors
from wan_async.batch.plan import Prepared
from wan_async.domain import events
from wan_async.domain.attempt import Account, Attempt, Clip, Money
from wan_async.domain.batch import Enlisted
from wan_async.domain.exit_codes import PRECEDENCE
from wan_async.domain.job import parameters_of, values_of
from wan_async.domain.money import usd
from wan_async.domain.task import Task, TaskId
from wan_async.engine import stale_journal
from wan_async.engine.context import Context, Services
from wan_async.engine.delivery import disk_error
from wan_async.engine.event_stream import EventStream
from wan_async.engine.options import Options
from wan_async.engine.worker import Scheduler
from wan_async.journal.base import FOLDER
from wan_async.journal.reports import Result, read_results, report
from wan_async.outputs import sidecar
from wan_async.wiro import messages, schemas

log = logging.getLogger(__name__)

FIRST_CONTACT_SECONDS = 60.0
"""How long connection errors are borne before the API has ever answered; afterwards they are waited out."""
LEFT = ("the run is left: what was submitted goes on remotely", 130)
CHECKED_AT_ONCE = 1000
"""So many stored attempts are compared with the disk at a time."""

T = TypeVar("T")


class Run:
    """Runs one batch once.

    Args:
        batch: the jobs.
        services: the clients, the clock and the disk.
        account: whose money it is.
        output: where the clips go.
        home: where the journal lies, by default in `output`.
        options: how to run it.
        stream: takes the events.

    Attributes:
        error: what broke the run, if anything did.
        unsaved: ids of tasks that were accepted and could not be written down.
    """

    def __init__(
        self,
        batch: Prepared,
        *,
        services: Services,
        account: Account,
        output: Path,
        home: Path | None = None,
        options: Options | None = None,
        stream: EventStream | None = None,
    ) -> None:
        self.error: errors.WanError | None = None
        self.unsaved: list[str] = []
        self._batch = {job.key: job for job in batch.jobs}
        self._hashed = batch.hashed
        self._services = services
        self._account = account
        self._output = output
        self._home = home or output / FOLDER
        self._options = options or Options()
        self._stream = stream or EventStream()
        self._run_id = f"{int(services.draw() * 2**48):012x}"
        self._scope = anyio.CancelScope()
        self._context: Context | None = None
        self._asked_to_stop: tuple[str, int] | None = None
        self._skipped = 0

    def stop(self, reason: str, exit_code: int) -> None:
        """Submit no more; see through what was submitted. May be called at any time, from the event loop's thread."""
        self._asked_to_stop = (reason, exit_code)
        if self._context is not None:
            self._context.stop(reason, exit_code)

    def leave(self) -> None:
        """Don't even see through what was submitted: it goes on remotely, and the journal knows it."""
        if self._context is None:
            self._asked_to_stop = self._asked_to_stop or LEFT
        else:
            if not self._context.stopping:
                self._context.stop(*LEFT)
            self._context.leave()
        self._scope.cancel()

    def hint(self, hint: messages.Hint) -> None:
        """Somebody says that something happened to a task. May be called at any time, as `stop`."""
        if self._context is not None:
            self._context.watch.hint(hint)

    async def run(self) -> events.Finished:
        """Runs the batch, and returns its `Finished`, which is also the last event. Cancellation acts as `leave`."""
        began = self._services.clock()
        finished: events.Finished | None = None
        codes: set[int] = set()
        try:
            async with self._services.open_journal(self._home, self._account, inline=self._services.inline) as journal:
                context = Context(journal, self._services, self._options, self._output, self._stream, self._run_id)
                self._context, self.unsaved, codes = context, context.unsaved, context.exit_codes
                heard, context.api.on_limited = context.api.on_limited, context.rate_limited
                if self._asked_to_stop is not None:
                    context.stop(*self._asked_to_stop)
                try:
                    await self._carry(context)
                except errors.WanError as error:
                    self._broken(error, codes)
                except anyio.get_cancelled_exc_class():
                    self.leave()
                    raise
                except Exception as error:  # noqa: BLE001 - logged there
                    self._broken(_unexpected(error), codes)
                finally:
                    context.api.on_limited = heard
                    with anyio.CancelScope(shield=True):
                        finished = await self._finish(context, began)
        except errors.WanError as error:
            self._broken(error, codes)
        except Exception as error:  # noqa: BLE001 - logged there
            self._broken(_unexpected(error), codes)
        finally:
            if finished is None:
                finished = self._what_is_known(began, codes)
            self._stream.put(finished)
            self._stream.close()
        return finished

    async def _carry(self, context: Context) -> None:
        """Carries what is to be carried."""
        options, model = self._options, context.api.model
        if any(job.planned.job.model is not model for job in self._batch.values()):
            raise errors.InvalidBatch([errors.Problem("", f"its jobs are not for {model.name}, which this API runs")])
        await context.journal.enroll(list(self._batch.values()), map(_spec, self._batch.values()))
        if self._hashed:
            await context.journal.hashed({path: (d.size, d.mtime_ns, d.sha256) for path, d in self._hashed.items()})
        await _check_stored(context)
        resumed = await context.journal.open_attempts()
        if not all(model.may_have_sent(attempt.form) for attempt in resumed):
            raise errors.Unusable(
                f"this folder's journal has unfinished attempts of another model than {model.name}: use another output "
                "folder (-o)"
            )
        late = await context.journal.to_recheck()
        todo = await context.journal.todo(retry_failed=options.retry_failed, rerender=options.rerender)
        wanted = [self._batch[key] for key in todo]
        chosen = [job for job in wanted if options.admits(job.planned.label)][: options.limit]
        if not any(options.admits(job.planned.label) for job in self._batch.values()):
            raise errors.InvalidBatch([errors.Problem("--only", f"no job is called {options.only!r}: see `plan`")])
        self._skipped = (await context.journal.counts())["stored"]
        context.emit(
            events.Started,
            output=str(context.output),
            jobs=len(self._batch),
            done=self._skipped,
            unfinished=len(chosen) + sum(attempt.job in self._batch for attempt in resumed),
            budget_usd=None if options.budget_micros is None else usd(options.budget_micros),
            concurrency=options.concurrency,
        )
        unassigned = await context.journal.unassigned()
        if chosen or resumed or late or any(row.pending or row.owner == "stored" for row in unassigned):
            with self._scope:
                newest = await self._greet(context, chosen)
                chosen, adopted = await stale_journal.check(
                    context, self._batch, wanted, chosen, resumed, newest, _list_page(context)
                )
                await Scheduler(context, self._batch).carry_all(chosen, [*resumed, *adopted], late)

    async def _greet(self, context: Context, chosen: Sequence[Enlisted]) -> list[Task]:
        """The first contact: do the credentials hold, which ids are there already, what does a task cost."""
        listed = await _first_answer(context, lambda: context.api.list_tasks(limit=20, tries=1))
        for task in listed.tasklist:
            context.note_id(task.id)
        if await context.journal.rotated(self._account):
            await _prove_key(context, self._account)
        await context.learn_echoes()
        await context.learn_prices()
        if (
            self._options.budget_micros is not None
            and chosen
            and context.price(parameters_of(chosen[0].planned.job, "")) is None
        ):
            problem = errors.Problem("--budget", "the service names no price for this model: no budget can be kept")
            raise errors.InvalidBatch([problem])
        return listed.tasklist

    def _broken(self, error: errors.WanError, codes: set[int]) -> None:
        self.error = self.error or error
        code = 6
        if isinstance(error, errors.StopBatch):
            code = 4 if error.authentication else 1
        elif isinstance(error, errors.InvalidBatch):
            code = 2
        now = self._services.clock()
        if isinstance(error, errors.InvalidBatch):
            for problem in error.problems:
                self._stream.put(events.Problem(at=now, run=self._run_id, where=problem.where, message=problem.message))
        if self._context is not None:
            self._context.stop(str(error), code)
        else:
            self._stream.put(events.Stopping(at=now, run=self._run_id, reason=str(error)))
        codes.add(code)

    def _what_is_known(self, began: float, codes: set[int]) -> events.Finished:
        """The end of a run that could not even be summed up: what can still be read of its journal."""
        counts, money = Counter[str](), Money(0, 0)
        if self._context is not None:
            with suppress(errors.WanError):
                known = report(self._home)
                if known is not None:
                    counts.update(result.state for result in known.results)
                    money = known.money
        clock, skipped = self._services.clock, min(self._skipped, counts["stored"])
        return _finished(self._run_id, clock, began, counts, Counter(), money, skipped, codes, self._options)

    async def _finish(self, context: Context, began: float) -> events.Finished:
        try:
            names = {key: job.planned.name for key, job in self._batch.items()}
            if self._home == self._output / FOLDER:  # a single clip's journal says nothing of the others beside it
                await write_results(context, self._home, names)
        except OSError as error:
            self._broken(disk_error(error, self._output / "results.jsonl"), context.exit_codes)
        counts, money = await context.journal.counts(), await context.journal.money()
        orphans: Counter[str] = Counter(
            attempt.state
            for attempt in await context.journal.open_attempts()
            if (job := self._batch.get(attempt.job)) is None or job.content != attempt.content
        )
        return _finished(
            self._run_id, context.clock, began, counts, orphans, money, self._skipped, context.exit_codes, self._options
        )


def _unexpected(error: Exception) -> errors.Unusable:
    """What nobody expected, for people; its traceback goes to the log."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]
    log.error("the run met an unexpected %s", type(cause).__name__, exc_info=error)
    return errors.Unusable(
        f"the run ended by an unexpected {type(cause).__name__} ({cause}): run the same command again, what was paid "
        "for is not lost; -v or --log-file shows the traceback"
    )


async def write_results(context: Context, home: Path, names: Mapping[str, str]) -> None:
    """`results.jsonl`: how each job of the batch stands, in batch order.

    Raises:
        OSError: the disk.
    """
    lines = (_line(result, names.get(result.job)) for result in read_results(home))
    await context.offload(sidecar.write_lines, context.output / "results.jsonl", lines, context.files)


def _line(result: Result, name: str | None) -> dict[str, object]:
    return {
        "job": result.job,
        "name": name,
        "state": result.state,
        "file": result.file if result.state == "stored" else None,
        "task_id": result.task_id,
        "cost_usd": None if result.cost is None else f"{usd(result.cost):f}",
        "sha256": result.sha256 if result.state == "stored" else None,
        "error": result.error,
    }


UNFINISHED = ("planned", "intent", "accepted", "ended")


def _finished(
    run_id: str,
    clock: Callable[[], float],
    began: float,
    counts: Counter[str],
    orphans: Counter[str],
    money: Money,
    skipped: int,
    codes: set[int],
    options: Options,
) -> events.Finished:
    unfinished = sum(counts[state] for state in UNFINISHED)
    unknown = counts["unknown"] + counts["quarantined"]
    failed = counts["failed"] + counts["given_up"]
    cancelled, missing = counts["cancelled"], counts["missing"]
    left = unfinished + unknown + missing + orphans.total()
    codes = {code for code in codes if code < 128 or left or not counts}
    codes |= {5} if unknown or orphans["unknown"] or orphans["quarantined"] else set()
    codes |= {1} if failed or cancelled or missing or orphans["missing"] else set()
    begun = (counts + orphans)["intent"] + (counts + orphans)["accepted"] + (counts + orphans)["ended"]
    codes |= {1} if begun and not codes else set()
    now = clock()
    return events.Finished(
        at=now,
        run=run_id,
        exit_code=next((code for code in PRECEDENCE if code in codes), 0),
        jobs=counts.total(),
        stored=counts["stored"] - skipped,
        skipped=skipped,
        failed=failed,
        cancelled=cancelled,
        missing=missing,
        unknown=unknown,
        unfinished=unfinished,
        spent_usd=usd(money.settled),
        reserved_usd=usd(money.reserved),
        seconds=round(max(0.0, now - began), 3),
        resume=options.resume if left else None,
    )


async def _check_stored(context: Context) -> None:
    """A stored clip whose file is gone is owed again."""

    def gone(stored: Sequence[tuple[Attempt, Sequence[Clip]]]) -> list[Attempt]:
        return [
            attempt
            for attempt, clips in stored
            if not all(_size(context.output / clip.file) == clip.bytes for clip in clips)
        ]

    after = 0
    while stored := await context.journal.stored_attempts(after, CHECKED_AT_ONCE):
        after = stored[-1][0].id
        for attempt in await context.offload(gone, stored):
            log.warning("the file of job %s is gone or cut: it is downloaded again", attempt.job)
            await context.journal.reopened(attempt)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _spec(job: Enlisted) -> str:
    """What people may want to know of a job, for `status` and the gallery."""
    return json.dumps({**values_of(job.planned.job), "label": job.planned.label})


async def _first_answer(context: Context, ask: Callable[[], Awaitable[T]]) -> T:
    give_up = anyio.current_time() + FIRST_CONTACT_SECONDS
    failures = 0
    while True:
        try:
            return await ask()
        except errors.TryLater as error:
            if error.hopeless:
                raise errors.Unusable(f"{error.message} ({context.api.base_url})") from None
            failures += 1
            wait = context.backoff.delay(failures, context.draw(), error.after_seconds)
            if error.status == 429:  # that is an answer, too
                give_up = anyio.current_time() + wait + FIRST_CONTACT_SECONDS
            if anyio.current_time() + wait > give_up:
                raise errors.Unusable(
                    f"the API at {context.api.base_url} can't be reached ({error.message}): check the network and "
                    "run the same command again"
                ) from None
            log.warning("%s: trying again in %.0f s", error.message, wait)
            if not await context.pause(wait):
                raise errors.Unusable(f"the API was not reached before the run was stopped ({error.message})") from None
        except (errors.NotFound, errors.StopBatch) as error:
            if isinstance(error, errors.StopBatch) and error.authentication:
                raise
            raise errors.Unusable(f"{error.message} ({context.api.base_url})") from None


def _list_page(context: Context) -> Callable[[int], Awaitable[schemas.Answer]]:
    """Lists tasks from a place on, as patiently as at the first contact."""
    return lambda start: _first_answer(context, lambda: context.api.list_tasks(start, tries=1))


async def _prove_key(context: Context, account: Account) -> None:
    """Another key than before at the same origin is fine if it may see a task of this journal."""
    for task_id in await context.journal.latest_tasks():
        try:
            await context.api.detail(TaskId(task_id))
        except errors.NotFound:
            continue
        await context.journal.accept_key(account, context.clock())
        return
    raise errors.Unusable(
        f"this folder's journal belongs to another account at {account.origin}: use that account's key, or another "
        "output folder (-o)"
    )
