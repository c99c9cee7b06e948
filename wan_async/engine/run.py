"""One run of a batch: opens the journal, makes the first contact, schedules the jobs, writes the results.

Every unfinished attempt of the journal is taken up, whether or not the batch still names its job. `stop` submits no
more and sees the rest through; `leave` gives Runs in flight three seconds for their answers and abandons the rest to
the next run. However it ends, `Finished` is the last event, and its exit code the first that applies.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio

from wan_async import errors
from wan_async.batch.plan import INPUTS, Plan, Prepared, make_plan
from wan_async.domain import events
from wan_async.domain.attempt import Account, Money
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.lifecycle import State
from wan_async.domain.money import usd
from wan_async.domain.remote_task import TaskDetail
from wan_async.engine import run_summary, stale_journal
from wan_async.engine.account_check import first_answer, list_page, prove_key
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.environment import Environment, make_environment
from wan_async.engine.options import Options
from wan_async.engine.results_file import write_results
from wan_async.engine.run_events import EventStream
from wan_async.engine.scheduler import Scheduler
from wan_async.engine.take_names import give_plain_names
from wan_async.filesystem import Files, refuse_link
from wan_async.journal.base import STALE, Home, Journal
from wan_async.journal.journal_location import database_of, home_of, is_of_single_clip, local_home
from wan_async.journal.other_journals import owned_by_other_journals
from wan_async.journal.reports import report
from wan_async.output_locations import Location
from wan_async.outputs.base import Store
from wan_async.outputs.disk_errors import on_disk
from wan_async.wiro.notification_messages import Hint

log: logging.Logger = logging.getLogger(__name__)

UNSETTLED = (State.INTENT, State.UNKNOWN, State.ACCEPTED)
LEFT = ("the run is left: what was submitted goes on remotely", ExitCode.INTERRUPTED)

T = TypeVar("T")


class Run:
    """Runs one batch once.

    Args:
        batch: the jobs.
        dependencies: the clients, the clock and the disk.
        account: whose money it is.
        output: where the clips go.
        home: where the journal is kept; by default in `output`, or in the user's state folder if that is a URL.
        options: how to run it.
        stream: takes the events.

    Attributes:
        error: what broke the run, if anything did.
        ended: set when the run has ended.
    """

    def __init__(
        self,
        batch: Prepared,
        *,
        dependencies: Dependencies,
        account: Account,
        output: Location,
        home: Home | None = None,
        options: Options | None = None,
        stream: EventStream | None = None,
    ) -> None:
        self.error: errors.WanError | None = None
        self.ended: anyio.Event = anyio.Event()
        self._prepared = replace(batch, known=None)  # a snapshot of the whole journal
        self._batch = {job.key: job for job in batch.jobs}
        self._dependencies = dependencies
        self._account = account
        self._output = output
        self._home = home or home_of(output)
        self._inputs = local_home(self._home, output) / INPUTS
        self._options = options or Options()
        self._stream = stream or EventStream()
        self._run_id = f"{int(dependencies.draw() * 2**48):012x}"
        self._scope = anyio.CancelScope()
        self._environment: Environment | None = None
        self._scheduler: Scheduler | None = None
        self._asked_to_stop: tuple[str, ExitCode] | None = None
        self._codes: set[ExitCode] = set()
        self._skipped = 0
        self._settled_before = 0

    @property
    def unsaved(self) -> Sequence[str]:
        """Ids of tasks that were accepted and could not be committed."""
        return self._scheduler.unsaved if self._scheduler is not None else ()

    @property
    def why(self) -> str | None:
        """Why it was stopped; None if it was not."""
        return None if self._environment is None else self._environment.shutdown.reason

    @property
    def codes(self) -> set[ExitCode]:
        """The exit codes that it has earned so far."""
        return self._codes | (self._environment.shutdown.exit_codes if self._environment is not None else set())

    def stop(self, reason: str, exit_code: ExitCode) -> None:
        """Submit no more; see through what was submitted. May be called at any time, from the event loop's thread."""
        self._asked_to_stop = (reason, exit_code)
        if self._environment is not None:
            self._environment.shutdown.stop(reason, exit_code)

    def leave(self) -> None:
        """Don't even see through what was submitted: it goes on remotely, and the journal knows it."""
        if self._environment is None:
            self._asked_to_stop = self._asked_to_stop or LEFT
        else:
            if not self._environment.shutdown.stopping:
                self._environment.shutdown.stop(*LEFT)
            self._environment.in_flight.leave()
        self._scope.cancel()

    def hint(self, hint: Hint) -> None:
        """Something may have happened to a task. May be called at any time, as `stop`."""
        if self._environment is not None:
            self._environment.tracker.hint(hint)

    def make_environment(self, journal: Journal) -> Environment:
        """What everything in the run works with."""
        return make_environment(journal, self._dependencies, self._options, self._output, self._stream, self._run_id)

    async def run(self) -> events.Finished:
        """Runs the batch, and returns its `Finished`, which is also the last event. Cancellation acts as `leave`."""
        began = self._dependencies.clock()
        finished: events.Finished | None = None
        try:
            async with self._dependencies.open_journal(
                self._home, self._account, inline=self._dependencies.inline
            ) as journal:
                environment = self._environment = self.make_environment(journal)
                if self._asked_to_stop is not None:
                    environment.shutdown.stop(*self._asked_to_stop)
                try:
                    with environment.api.reporting_limits(partial(_report_limit, environment)):
                        await self.carry(environment)
                except anyio.get_cancelled_exc_class():
                    self.leave()
                    raise
                except Exception as error:  # noqa: BLE001 - reported there
                    self._broken(error)
                finally:
                    with anyio.CancelScope(shield=True):
                        finished = await self.finish(environment, began)
        except Exception as error:  # noqa: BLE001 - reported there
            self._broken(error)
        finally:
            if finished is None:
                finished = self._what_is_known(began)
            self._stream.put(finished)
            self._stream.close()
            self.ended.set()
        return finished

    async def carry(self, environment: Environment) -> None:
        """Everything between the opening of the journal and the results."""
        options, journal, model = self._options, environment.journal, environment.api.model
        if any(job.planned.job.model is not model for job in self._batch.values()):
            raise errors.InvalidBatch([errors.Problem("", f"its jobs are not for {model.name}, which this API runs")])
        await claim_store(environment.store, journal)
        self._settled_before = (await journal.money()).settled
        size_of = await environment.store.sizes()
        plan = await make_plan(journal, self._prepared, options, environment.output, size_of, environment.offload)
        if not all(model.may_have_sent(attempt.form) for attempt in plan.resumed):
            raise errors.Unusable(
                f"this folder's journal has unfinished attempts of another model than {model.name}: use another output "
                "folder (-o)"
            )
        for attempt in plan.gone:
            log.warning("the file of job %s is gone or cut: it is downloaded again", attempt.name)
        self._skipped = plan.done
        unassigned = await journal.unassigned()
        is_pending = any(row.pending or row.owner == "stored" for row in unassigned)
        await give_plain_names(environment, plan.numbered)
        if not (plan.chosen or plan.duplicates or plan.resumed or plan.late or is_pending):
            self._start(environment, plan, usd(0))
        else:
            with self._scope:
                inputs = self._prepared.inputs
                await on_disk(environment.offload, self._inputs, write_inputs, self._dependencies.files, inputs)
                newest = await self._greet(environment, plan)
                checked = await self._check_journal(environment, plan, newest)
                self._scheduler = Scheduler(environment, plan.jobs, checked.not_repeated, plan.duplicates)
                await self._scheduler.run(checked.chosen, [*plan.resumed, *checked.adopted], plan.late)

    async def _check_journal(
        self, environment: Environment, plan: Plan, newest: Sequence[TaskDetail]
    ) -> stale_journal.Checked:
        others = partial(owned_by_other_journals, self._home, self._output)
        return await stale_journal.check(environment, plan, newest, list_page(environment), others)

    def _start(self, environment: Environment, plan: Plan, estimate: Decimal | None) -> None:
        budget = self._options.budget_micros
        unsettled = [attempt for attempt in plan.resumed if attempt.state in UNSETTLED]
        environment.events.emit(
            events.Started,
            output=str(environment.output),
            jobs=len(plan.jobs),
            done=plan.done,
            to_fetch=sum(attempt.job in plan.jobs for attempt in plan.resumed),
            duplicates=sum(map(len, plan.duplicates.values())),
            to_do=len(plan.chosen),
            estimate_usd=estimate,
            budget_usd=None if budget is None else usd(budget),
            concurrency=self._options.concurrency,
            left_out=self._prepared.left_out_jobs,
            changed=len(plan.changed),
            groups=environment.prices.groups(plan.to_pay(self._options), unsettled),
        )

    async def _greet(self, environment: Environment, plan: Plan) -> list[TaskDetail]:
        """The first contact: do the credentials hold, which ids are there already, what does a task cost."""
        estimate: Decimal | None = None
        try:
            listed = await first_answer(environment, lambda: environment.api.list_tasks(limit=20, tries=1))
            for task in listed.tasklist:
                environment.account.note_id(task.id)
            if await environment.journal.rotated(self._account):
                await prove_key(environment, self._account)
            await environment.account.load()
            await environment.prices.learn()
            micros = plan.estimate(self._options, environment.prices.expected)
            estimate = None if micros is None else usd(micros)
        finally:
            self._start(environment, plan, estimate)
        if self._options.budget_micros is not None and plan.chosen and environment.prices.of(plan.chosen[0]) is None:
            problem = errors.Problem("--budget", "the service names no price for this model: no budget can be kept")
            raise errors.InvalidBatch([problem])
        return listed.tasklist

    def _broken(self, cause: Exception) -> None:
        error = cause if isinstance(cause, errors.WanError) else _unexpected(cause)
        self.error = self.error or error
        code = ExitCode.of_error(error, otherwise=ExitCode.ENVIRONMENT)
        now = self._dependencies.clock()
        if isinstance(error, errors.InvalidBatch):
            for problem in error.problems:
                self._stream.put(events.Problem(at=now, run=self._run_id, where=problem.where, message=problem.message))
        if self._environment is not None:
            self._environment.shutdown.stop(str(error), code)
        else:
            self._stream.put(events.Stopping(at=now, run=self._run_id, reason=str(error)))
        self._codes.add(code)

    def _what_is_known(self, began: float) -> events.Finished:
        """The end of a run that could not even be summed up: what can still be read of its journal."""
        counts, money = Counter[str](), Money(0, 0)
        if self._environment is not None:
            with suppress(errors.WanError):
                known = report(self._home)
                if known is not None:
                    counts.update(result.state for result in known.results)
                    money = known.money
        self._skipped = min(self._skipped, counts["stored"])
        return self._summary(began, counts, Counter(), money)

    def _summary(self, began: float, counts: Counter[str], orphans: Counter[str], money: Money) -> events.Finished:
        return run_summary.finished(
            self._run_id,
            self._dependencies.clock,
            began,
            counts,
            orphans,
            money,
            money.settled - self._settled_before,
            self._skipped,
            self.codes,
            self._environment.shutdown.choices if self._environment is not None else (),
            self._options,
        )

    async def finish(self, environment: Environment, began: float) -> events.Finished:
        """Writes `results.jsonl`, and sums the run up."""
        try:
            names = {key: job.planned.name for key, job in self._batch.items()}
            if not is_of_single_clip(self._home, self._output):  # which knows nothing of the others
                await write_results(environment, self._home, names)
        except errors.WanError as error:
            self._broken(error)
        counts, money = await environment.journal.counts(), await environment.journal.money()
        orphans: Counter[str] = Counter(
            attempt.state
            for attempt in await environment.journal.open_attempts()
            if (job := self._batch.get(attempt.job)) is None or job.content != attempt.content
        )
        return self._summary(began, counts, orphans, money)


async def claim_store(store: Store, journal: Journal) -> None:
    """Makes the store the journal's; one that another journal wrote to makes it stale.

    Raises:
        errors.WanError: the store can't be used.
    """
    database = database_of(journal.home)
    if await store.claim(journal.identity, make=False, database=database):  # else a kill afterwards would hide that
        await journal.remember(STALE)
    await store.claim(journal.identity, make=True, database=database)
    journal.stale = journal.stale or await journal.remembers(STALE)


def write_inputs(files: Files, inputs: Mapping[Path, bytes]) -> None:
    """Writes images that jobs held in memory to files, named by their content. Blocking.

    Another process may write the same ones.
    """
    for path, data in inputs.items():
        if not path.exists():
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            path.parent.mkdir(parents=True, exist_ok=True)
            for each in (path.parent, path, temporary):
                refuse_link(each)
            files.unlink(temporary)
            with files.open(temporary) as file:
                files.write(file, data)
                files.fsync(file)
            files.replace(temporary, path)


def _report_limit(environment: Environment, after_seconds: float) -> None:
    limit = environment.slots.window.limit
    environment.events.emit(events.Limited, code=429, after_seconds=after_seconds, concurrency=limit)


def _unexpected(error: Exception) -> errors.Unusable:
    """The message for an unexpected exception; its traceback goes to the log."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]
    log.error("the run met an unexpected %s", type(cause).__name__, exc_info=error)
    return errors.Unusable(
        f"the run ended by an unexpected {type(cause).__name__} ({cause}): run the same command again, what was paid "
        "for is not lost; -v or --log-file shows the traceback"
    )
