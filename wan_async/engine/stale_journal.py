"""Before a run with an existing journal spends: looks for tasks that the journal should know and does not.

A journal that was restored from a backup, lost the end of its write-ahead log, or was copied, would pay again for what
it has lost. So the account's newest tasks are listed, down to the highest id that the journal knows: below it, every
task has at least its intent there. Those that no attempt owns are compared with the jobs that are to be submitted
(`stale_journal_matching` decides). If one is equal, the run stops before it spends (exit code 5) and names both; what
was submitted before is still tracked and downloaded. `--adopt` makes such tasks attempts of their jobs,
`--ignore-unowned` submits anyway. Jobs whose open task may fail, and would be sent again then, are compared, too.

What could make a later run miss what this one saw, and the rule that prevents it:

1.  Whatever this run adopts or submits raises the highest known id above tasks that still have no owner. -> While any
    are left, the id from where they were looked for is kept (`unowned_since`), and a later run begins there; it is
    written before the first adoption.
2.  Jobs that `--only` or `--limit` leave out are not compared with anything this time. -> They are compared, too; what
    equals them stops nothing, but counts as left.
3.  The service shows nothing of its tasks (`parameters: {}`). -> Nothing can be compared; but where the journal is
    known to be stale, such a task stops the run. That it is stale is kept until nothing is left.
4.  The process dies while a task is adopted. -> The attempt and its task are written in one commit (`Journal.adopt`).

What remains: a journal that lost something without showing it, with a service that echoes nothing; and more tasks since
than are listed, which is said.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from wan_async.batch.plan import Plan
from wan_async.domain import events, naming
from wan_async.domain.attempt import Attempt, Clip
from wan_async.domain.batch import Enlisted
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import parameters_of
from wan_async.domain.lifecycle import IN_FLIGHT, UNANSWERED, State
from wan_async.domain.remote_task import TaskDetail
from wan_async.engine import matching, task_listing
from wan_async.engine.environment import Environment
from wan_async.engine.stale_journal_matching import Unowned, Wanted, shown_image, unowned
from wan_async.journal.base import NameTaken, TaskTaken
from wan_async.outputs.base import Store
from wan_async.wiro import schemas

log: logging.Logger = logging.getLogger(__name__)

MAX_PAGES = 20
"""No more pages of the task list than this are read."""
MAX_IDLE_PAGES = 3
"""After this number of pages in a row that show nothing new the list is read no further."""
NAMED = 10
"""No more tasks than this are named in a message."""

ListPage = Callable[[int], Awaitable[schemas.Answer]]


@dataclass(frozen=True, slots=True)
class Checked:
    """What may be submitted.

    Attributes:
        chosen: the jobs that may be submitted.
        adopted: the attempts whose tasks were adopted.
        not_repeated: jobs whose open task is tracked, and which are not submitted again should it fail: by key, the
            tasks that may be theirs.
    """

    chosen: list[Enlisted]
    adopted: list[Attempt] = field(default_factory=list)
    not_repeated: Mapping[str, list[str]] = field(default_factory=dict)


async def check(
    environment: Environment,
    plan: Plan,
    newest: Sequence[TaskDetail],
    list_page: ListPage,
    owned_elsewhere: Callable[[], Collection[str]],
) -> Checked:
    """Looks for tasks that should be in the journal; stops the run if there are any that it may not pay for again.

    Args:
        environment: the run.
        plan: what it does.
        newest: the account's newest tasks, as far as they were listed already.
        list_page: lists more, from a place in the list on.
        owned_elsewhere: gets the ids and tokens of tasks that are known to be others'. Blocking.

    Raises:
        errors.WanError: the service can't be asked, or the journal not be written.
    """
    journal, options = environment.journal, environment.options
    todo, chosen, resumed = plan.unfinished, plan.chosen, plan.resumed
    repeatable = _repeatable(environment, plan.jobs, resumed)
    if not chosen and not repeatable:
        if todo:
            await journal.unowned_since(await journal.complete_to())
        return Checked([])
    if await journal.is_new() and not journal.stale:
        await journal.begins_at(environment.account.high_id)
        return Checked(list(chosen))
    if options.ignore_unowned and not options.adopt:
        if len(todo) > len(chosen):  # what is left out was not looked at
            await journal.unowned_since(await journal.complete_to())
        else:
            await journal.none_unowned()
        return Checked(list(chosen))
    since = await journal.complete_to()
    tasks = await _without_owner(environment, since, newest, list_page)
    compare = partial(_compare, environment, [*todo, *repeatable], [*chosen, *repeatable], resumed)
    found = await compare(tasks)
    if found.any:
        others = await environment.offload(owned_elsewhere)
        found = await compare([task for task in tasks if (task.socketaccesstoken or task.id) not in others])
    if not (found.equal or found.ambiguous or found.surplus or (found.silent and journal.stale)):
        await journal.none_unowned()
        return Checked(list(chosen))
    await journal.unowned_since(since)
    decided = await _decide(environment, [*chosen, *repeatable], found, {job.key for job in repeatable})
    kept = {job.key for job in decided.chosen}
    return replace(decided, chosen=[job for job in chosen if job.key in kept])


def _repeatable(environment: Environment, batch: Mapping[str, Enlisted], resumed: Sequence[Attempt]) -> list[Enlisted]:
    """Jobs whose open task may turn out to have failed, or not to exist, and which would be sent again then."""
    found = {}
    for attempt in resumed:
        job = batch.get(attempt.job)
        same = job is not None and job.content == attempt.content and environment.options.admits(job.planned.label)
        if job is not None and same and attempt.state in (*IN_FLIGHT, State.UNKNOWN):
            found[job.key] = job
    return list(found.values())


async def _without_owner(
    environment: Environment, since: int, newest: Sequence[TaskDetail], list_page: ListPage
) -> list[TaskDetail]:
    pages = task_listing.Pages(floor_id=since, floor_time=math.inf)
    pages.add(newest)
    idle = 0
    for _ in range(MAX_PAGES):
        if pages.complete or idle >= MAX_IDLE_PAGES:
            break
        known = len(pages.tasks)
        pages.add((await list_page(pages.start)).tasklist)
        idle = 0 if len(pages.tasks) > known else idle + 1
    if not pages.complete:
        log.warning(
            "only the account's newest %d tasks were looked at for such as this journal does not know: the list could "
            "not be read down to task %d",
            len(pages.tasks),
            since,
        )
    owned, projects = task_listing.Owners(await environment.journal.owned()), await environment.journal.projects()
    return [
        task
        for task in pages.tasks.values()
        if task_listing.task_number(task.id) > since
        and not owned.owns(task)
        and not (projects and task.projectid and task.projectid not in projects)
    ]


async def _compare(
    environment: Environment,
    todo: Sequence[Enlisted],
    chosen: Sequence[Enlisted],
    resumed: Sequence[Attempt],
    tasks: Collection[TaskDetail],
) -> Unowned:
    journal, now = environment.journal, {job.key for job in chosen}
    known = await journal.candidates()
    unanswered = [
        matching.Unanswered(environment.api.model, a.id, a.form, a.image, a.high_id, a.intent_at, 0.0)
        for a in resumed
        if a.state in UNANSWERED
    ]
    return unowned(
        environment.api.model,
        [task for task in tasks if task.id not in known],
        [Wanted(job.key, parameters_of(job.planned.job, ""), job.image, chosen=job.key in now) for job in todo],
        unanswered,
        urls={f"sha256:{sha256}": url for sha256, url in (await journal.upload_urls()).items()},
        echoed=environment.account.echoed,
    )


async def _decide(
    environment: Environment,
    chosen: Sequence[Enlisted],
    found: Unowned,
    repeatable: Collection[str],
) -> Checked:
    """Adopts what may be, as far as that is asked for, and stops the run for the rest."""
    journal, options, adopted = environment.journal, environment.options, list[Attempt]()
    waiting = {job.key: job for job in chosen}
    now = frozenset(waiting)
    blocked: dict[str, list[str]] = {}
    not_repeated: dict[str, list[str]] = {}
    left = False
    for task, key in found.equal:
        if key not in now:
            left = True
        elif options.adopt and (attempt := await _adopt(environment, waiting[key], task)) is not None:
            adopted.append(attempt)
            del waiting[key]
        else:
            blocked.setdefault(key, []).append(_shown_id(task))
    for task, keys in found.ambiguous:
        left = left or not any(key in now for key in keys)
        for key in keys:
            if key in waiting:
                blocked.setdefault(key, []).append(_shown_id(task))
    for task, key in found.surplus:
        if key in blocked:
            blocked[key].append(_shown_id(task))
        else:
            log.warning("task %s equals job %s, too, and no attempt owns it", _shown_id(task), key)
    if options.ignore_unowned:
        blocked.clear()
    for key in repeatable:  # its own task is tracked; only if that fails would it be submitted again
        if key in blocked:
            left = True
            not_repeated[key] = blocked.pop(key)
    is_silent = bool(found.silent and journal.stale and waiting) and not options.ignore_unowned
    if blocked or is_silent:
        if options.adopt and not is_silent:
            environment.shutdown.add_code(ExitCode.UNRESOLVED, ["--ignore-unowned"])
            log.warning(
                "not submitted, since these tasks may be of several jobs, or could not be adopted: %s", _named(blocked)
            )
            waiting = {key: job for key, job in waiting.items() if key not in blocked}
        else:
            reason = _reason(found, blocked, adopt=options.adopt)
            choices = ["--ignore-unowned"] if is_silent and not blocked else ["--adopt", "--ignore-unowned"]
            environment.shutdown.stop(reason, ExitCode.UNRESOLVED, of_output=True, choices=choices)
    elif not left:
        await journal.none_unowned()
    return Checked(list(waiting.values()), adopted, not_repeated)


def _shown_id(task: TaskDetail) -> str:
    return task.id or "without an id"


def _named(blocked: Mapping[str, Sequence[str]]) -> str:
    named = [f"job {key} (task {', '.join(tasks[:3])})" for key, tasks in list(blocked.items())[:NAMED]]
    return ", ".join(named) + (f", and {len(blocked) - NAMED} more" if len(blocked) > NAMED else "")


def _reason(found: Unowned, blocked: Mapping[str, Sequence[str]], *, adopt: bool) -> str:
    anyway = "--ignore-unowned submits anyway, at the risk of paying twice"
    if blocked:
        return (
            f"the service has tasks that this journal does not know, and that equal jobs which were about to be "
            f"submitted: {_named(blocked)}. --adopt takes them over; {anyway}"
        )
    ids = ", ".join(task.id for task in found.silent[:NAMED])
    more = f" and {len(found.silent) - NAMED} more" if len(found.silent) > NAMED else ""
    hint = "what could be was adopted; " if adopt else ""
    return (
        f"this journal is not the latest of its folder, and the service has tasks that it does not know and shows "
        f"nothing of: they may be these jobs ({ids}{more}). {hint}See `task show`; {anyway}"
    )


async def _adopt(environment: Environment, job: Enlisted, task: TaskDetail) -> Attempt | None:
    """Makes the task the job's attempt; None if it can't be."""
    journal, name = environment.journal, job.planned.name
    if not task.id:
        return None
    try:
        await journal.claim(job.key, naming.folded(name), name)
    except NameTaken:
        return None
    parameters = parameters_of(job.planned.job, shown_image(environment.api.model, task))
    made_at = task.createtime or environment.clock()
    attempt = Attempt(
        job=job.key,
        content=job.content,
        form=parameters,
        image=job.image,
        name=name,
        reserved=environment.prices.price(parameters) or 0,
        high_id=min(environment.account.high_id, task_listing.task_number(task.id) - 1),
        intent_at=made_at,
    )
    adopt = partial(journal.adopt, attempt, task.id, answer=task.model_dump_json().encode(), at=made_at)
    try:
        await adopt(token=task.socketaccesstoken or None)
    except TaskTaken:  # another's token, on a list that hides them
        await adopt(token=None)
    clip = await _clip_in(environment.store, name, task.id)
    if clip is not None:
        await journal.checked(attempt, clip)
    environment.events.emit(events.Accepted, job=job.key, attempt=attempt.number, task_id=task.id, adopted=True)
    return attempt


async def _clip_in(store: Store, name: str, task_id: str) -> Clip | None:
    """The task's clip as its sidecar names it, if it is stored already; the hash is compared at delivery."""
    content = await store.read(f"{name}.json")
    try:
        sidecar = json.loads(content or b"")
        file, sha256, size = str(sidecar["file"]), str(sidecar["sha256"]), int(sidecar["bytes"])
        is_its_own = sidecar["task_id"] == task_id and Path(file).name == file
    except (ValueError, TypeError, KeyError):
        return None
    if not is_its_own or not await store.exists(file):
        return None
    return Clip(0, file, "", sha256, size, "video/mp4" if file.endswith(".mp4") else None)
