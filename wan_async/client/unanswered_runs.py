"""What became of an unanswered Run of a single call: the rules of the batch's reconciliation, without a journal."""

from __future__ import annotations

import anyio

from wan_async import errors
from wan_async.client.session import Session
from wan_async.engine import matching
from wan_async.engine.reconciler import FIRST_GLANCE_SECONDS, MAX_IDLE_PAGES, MAX_PAGES
from wan_async.engine.task_listing import Owners, Pages
from wan_async.http.retry import Backoff
from wan_async.task_handles import Task


async def find(session: Session, unanswered: errors.Ambiguous, settle_seconds: float) -> Task | None:
    """Look for the task of an unanswered Run; see `WanClient.find`."""
    if unanswered.task is not None:
        return unanswered.task
    if not unanswered.parameters:
        raise ValueError("the error does not say what was sent; of a call with a journal, make that call again")
    dependencies = session.dependencies
    clock, model = dependencies.clock, dependencies.api.model
    sent_at = clock() if unanswered.sent_at is None else unanswered.sent_at
    case = matching.Unanswered(
        model=model,
        attempt=0,
        form=unanswered.parameters,
        image=unanswered.image,
        high_id=unanswered.high_id or 0,
        intent_at=sent_at,
        closed_at=anyio.current_time() - max(0.0, clock() - sent_at),
    )
    failures, backoff = 0, Backoff()
    while True:
        began = anyio.current_time()
        try:
            pages = await _list(session, case)
            # an equal Run in flight may have made a task that is listed: its answer says so
            await session.runs_answered()
            failures = 0
        except errors.TryLater as error:
            failures += 1
            await anyio.sleep(backoff.delay(failures, dependencies.draw(), error.after_seconds))
            continue
        if unanswered.task is not None:  # another call has found it, or one that was cancelled
            return unanswered.task
        contents = matching.Contents(model)
        contents.add(unanswered.parameters, unanswered.image)
        for form, image in session.sent.items():
            contents.add(dict(form), image)
        verdict = matching.judge(
            case,
            [task for task in pages.tasks.values() if unanswered.high_id or matching.in_window(case, task)],
            complete=pages.complete,
            now=began,
            settle=settle_seconds,
            owned=Owners(session.owned),
            echoed=[name for name, verbatim in session.echoes.items() if verbatim],
            contents=contents,
            ended=anyio.current_time(),
        )
        match verdict:
            case matching.Adopt(found) if unanswered.high_id is None:
                raise _doubt(unanswered, f"task {found.id} is equal and may be older: no list was read before the Run")
            case matching.Adopt(found):
                unanswered.task = task = Task(found.id, found.socketaccesstoken or None, found.createtime or sent_at)
                session.own(task)
                return task
            case matching.Absent():
                return None
            case matching.Quarantine(reason):
                raise _doubt(unanswered, reason)
            case matching.Wait(at):
                soon = began + FIRST_GLANCE_SECONDS + (began - case.closed_at)  # it is mostly listed at once
                await anyio.sleep_until(min(at, soon))


def _doubt(unanswered: errors.Ambiguous, reason: str) -> errors.Ambiguous:
    doubt = errors.Ambiguous(reason, parameters=unanswered.parameters)
    doubt.image, doubt.sent_at, doubt.high_id = unanswered.image, unanswered.sent_at, unanswered.high_id
    return doubt


async def _list(session: Session, case: matching.Unanswered) -> Pages:
    pages, idle = matching.pages_for([case]), 0
    for _ in range(MAX_PAGES):
        known = len(pages.tasks)
        pages.add((await session.dependencies.api.list_tasks(pages.start)).tasklist)
        idle = 0 if len(pages.tasks) > known else idle + 1
        if pages.complete or idle >= MAX_IDLE_PAGES:
            break
    return pages
