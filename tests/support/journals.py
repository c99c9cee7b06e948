"""Journals with attempts in a given state."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from wan_async.domain.attempt import Account, Attempt, Clip
from wan_async.domain.batch import Enlisted, PlannedJob
from wan_async.domain.job import Job
from wan_async.domain.lifecycle import State
from wan_async.journal.base import DatabaseHome, Home, Journal
from wan_async.journal.postgres import PostgresJournal
from wan_async.journal.read_only import reading
from wan_async.journal.render_times import PastRender, renders_in
from wan_async.journal.reports import Result, read_results
from wan_async.journal.sqlite import SqliteJournal

KEY = "s3cret-api-key"
ACCOUNT = Account("https://api.example", KEY)
ELSEWHERE = Account("http://127.0.0.1:8000", "other-key")
FORM = {
    "inputImageUrl": "https://cdn.example/cat.png",
    "prompt": "the cat yawns",
    "negativePrompt": "",
    "resolution": "480P",
    "aspectRatio": "Default",
    "seed": "42",
}
OUTPUTS: list[tuple[str, int | None, str]] = [("video/mp4", 123, "https://cdn.example/1"), ("", None, "https://x/2")]


def opened(
    home: Path, *, account: Account = ACCOUNT, inline: bool = True
) -> AbstractAsyncContextManager[SqliteJournal]:
    return SqliteJournal.open(home, account, inline=inline)


def opened_in(
    dsn: str, home: Path, *, account: Account = ACCOUNT, inline: bool = True
) -> AbstractAsyncContextManager[PostgresJournal]:
    """The same in PostgreSQL, where the folder is only a name."""
    return PostgresJournal.open(DatabaseHome(dsn, str(home)), account, inline=inline)


def job(key: str, content: str = "", index: int = 0) -> Enlisted:
    planned = PlannedJob(index, Job(prompt=content or key), key, key, "")
    return Enlisted(planned, key, content or f"content of {key}", "")


async def enroll(journal: Journal, *pairs: tuple[str, str] | str) -> list[Enlisted]:
    """Enroll jobs given by key, or by key and content."""
    named = [(pair, "") if isinstance(pair, str) else pair for pair in pairs]
    jobs = [job(key, content, index) for index, (key, content) in enumerate(named)]
    await journal.enroll(jobs, (json.dumps({"prompt": one.key}) for one in jobs))
    return jobs


def attempt_at(one: Enlisted | str, *, reserved: int = 0, number: int = 1, **form: str) -> Attempt:
    one = job(one) if isinstance(one, str) else one
    return Attempt(
        job=one.key,
        number=number,
        content=one.content,
        form=FORM | form,
        image=one.image,
        name=one.planned.name,
        reserved=reserved,
        high_id=7,
        intent_at=1000.0,
    )


async def become(
    journal: Journal,
    one: Enlisted | str,
    state: str,
    *,
    task: str | None = None,
    cost: int = 50,
    reserved: int = 60,
) -> Attempt:
    """Create an attempt and bring it to a state by the fewest transitions."""
    attempt = attempt_at(one, reserved=reserved)
    await journal.intent(attempt, cap=None)
    if state in ("unknown", "absent", "quarantined", "abandoned"):
        await journal.unknown(attempt, "no answer", 1001.0)
    if state in ("quarantined", "abandoned"):
        await journal.quarantined(attempt, "who knows")
    if state == "abandoned":
        await journal.abandoned(attempt)
    if state == "absent":
        await journal.absent(attempt)
    if state == "rejected":
        await journal.rejected(attempt, "no")
    if state in ("accepted", "ended", "stored", "failed", "cancelled", "missing", "given_up"):
        task = task or f"{100 + attempt.id}"
        await journal.accepted(attempt, task, f"token-{task}", b'{"raw": true}', 1002.0, adopted=False)
    if state in ("ended", "stored", "failed", "cancelled", "missing", "given_up"):
        await end(journal, attempt, cost=cost)
    if state == "stored":
        await journal.checked(attempt, Clip(0, f"{attempt.name}-{attempt.id}.mp4", "", "5ha", 123, "video/mp4"))
        await journal.stored(attempt, 1004.0)
    if state in ("failed", "cancelled", "missing"):
        await journal.closed(attempt, State(state), "because")
    if state == "given_up":
        await journal.closed(attempt, State.MISSING, "because")
        await journal.closed(attempt, State.GIVEN_UP, "because")
    assert attempt.state == state
    return attempt


async def end(journal: Journal, attempt: Attempt, *, cost: int = 50, task_id: str | None = None) -> None:
    await journal.ended(
        attempt,
        task_id=task_id or attempt.task_id,
        status="task_postprocess_end",
        pexit="0",
        cost=cost,
        outputs=OUTPUTS,
        reason=None,
        at=1003.0,
    )


def results_of(journal: Journal) -> list[Result]:
    return list(read_results(journal.home))


async def result_of(journal: Journal, key: str) -> Result:
    (found,) = [result for result in results_of(journal) if result.job == key]
    return found


async def todo(journal: Journal, *, retry_failed: bool = False, rerender: bool = False) -> list[str]:
    return await journal.todo(retry_failed=retry_failed, rerender=rerender)


def past_renders(home: Home) -> list[PastRender]:
    """The latest tasks that succeeded, by a closed journal."""
    with reading(home, verify=False) as db:
        return [] if db is None else renders_in(db)
