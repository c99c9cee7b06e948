"""Reconciliation of unanswered Runs, in whole runs: adopted, resubmitted, or quarantined."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from harness import Mortal, Send, World, intercepting, make_sandbox, now, text_jobs
from pictures import png

from wan_async import errors
from wan_async.domain import events
from wan_async.domain.attempt import Attempt
from wan_async.domain.job import Job
from wan_async.engine import matching, reconciler
from wan_async.journal.sql_journal import SqlJournal


class HoldingLists(Mortal):
    """A transport that calls `hold` with the number of each Task/List before it is sent."""

    def __init__(self, inner: httpx.AsyncBaseTransport, world: World, hold: Callable[[int], Awaitable[None]]) -> None:
        super().__init__(inner, world)
        self.hold, self.count = hold, itertools.count()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/Task/List"):
            await self.hold(next(self.count))
        return await super().handle_async_request(request)


def hold_lists(world: World, hold: Callable[[int], Awaitable[None]]) -> None:
    """Use such a transport in the next runs."""
    world.wrap = lambda inner: HoldingLists(inner, world, hold)


PNG = png()


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", ["drop_after", "cut_json"])
async def test_a_task_whose_answer_was_lost_is_adopted(tmp_path: Path, fault: str) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next(fault, endpoint="Run")
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, world.tasks) == (0, 1)
    assert [event.adopted for event in world.events_of(events.Accepted)] == [True]
    assert len(world.events_of(events.Unknown)) == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", ["drop_before", "http_500"])
async def test_a_run_that_created_no_task_is_resubmitted_after_two_listings(tmp_path: Path, fault: str) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next(fault, endpoint="Run")
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, world.tasks) == (0, 1)
    sent = [event.at for event in world.events_of(events.Submitting)]
    assert len(sent) == 2
    assert sent[1] - sent[0] >= 10


@pytest.mark.virtual_time
async def test_a_task_that_is_listed_late_is_adopted_and_not_resubmitted(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(visible_after_seconds=4.0))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, world.tasks) == (0, 1)


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", ["drop_after", "drop_before"])
async def test_without_an_echo_an_unowned_task_leads_to_quarantine(tmp_path: Path, fault: str) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    world.sandbox.faults.next(fault, endpoint="Run")
    finished = await world.run(text_jobs(3), settle_seconds=5)
    if fault == "drop_before":  # every listed task has an owner, so absence is proven
        assert (finished.exit_code, world.tasks) == (0, 3)
        return
    assert (finished.exit_code, finished.unknown, finished.stored, world.tasks) == (5, 1, 2, 3)
    (quarantined,) = world.events_of(events.Quarantined)
    assert any(task.id in quarantined.reason for task in world.sandbox.account.tasks.values())
    assert f"{finished.reserved_usd:f}" == "0.05"

    again = await world.run(text_jobs(3), settle_seconds=5)
    assert (again.exit_code, again.unknown, world.tasks) == (5, 1, 3)

    forced = await world.run(text_jobs(3), settle_seconds=5, resubmit_unknown=True)
    assert (forced.exit_code, forced.stored, world.tasks) == (0, 1, 4)
    assert f"{forced.reserved_usd:f}" == "0.05"


@pytest.mark.virtual_time
async def test_a_quarantined_task_is_adopted_once_its_parameters_are_echoed(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    assert (await world.run(text_jobs(2), settle_seconds=5)).exit_code == 5
    world.sandbox.settings.echo = "faithful"
    finished = await world.run(text_jobs(2), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)


@pytest.mark.virtual_time
@pytest.mark.parametrize("echo", ["faithful", "rewritten", "string"])
@pytest.mark.parametrize("upload", ["file", "inline"])
async def test_jobs_with_images_and_unique_prompts_are_reconciled(tmp_path: Path, echo: str, upload: str) -> None:
    world = World(tmp_path, make_sandbox(echo=echo))
    batch = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        path.write_bytes(PNG + bytes([number]) * 50)
        batch.append(Job(id=f"{number}", image=path, prompt=f"scene {number}"))
    world.sandbox.faults.next("drop_after", endpoint="Run", times=2)
    world.sandbox.faults.next("drop_before", endpoint="Run", times=2)
    finished = await world.run(batch, settle_seconds=5, upload=upload)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 6, 6)
    for number in range(6):
        (task,) = [t for t in world.sandbox.account.tasks.values() if t.parameters["prompt"] == f"scene {number}"]
        assert (world.output / f"{number}.mp4").exists()
        assert task.succeeded(now())


@pytest.mark.virtual_time
async def test_inline_images_with_one_prompt_for_all_are_quarantined(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="rewritten"))
    batch = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        path.write_bytes(PNG + bytes([number]) * 50)
        batch.append(Job(id=f"{number}", image=path, prompt="it moves"))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    finished = await world.run(batch, settle_seconds=5, upload="inline")
    assert (finished.exit_code, finished.unknown, finished.stored, world.tasks) == (5, 1, 2, 3)


@pytest.mark.virtual_time
async def test_tasks_of_another_program_are_not_adopted(tmp_path: Path) -> None:
    sandbox = make_sandbox(concurrency_limit=50)
    ours, theirs = World(tmp_path / "a", sandbox), World(tmp_path / "b", sandbox)
    theirs.key = ours.key
    await theirs.run([Job(id=f"{n}", prompt=f"another scene {n}") for n in range(5)])
    sandbox.faults.next("drop_before", endpoint="Run")
    finished = await ours.run(text_jobs(5), settle_seconds=5)
    assert (finished.exit_code, finished.stored, ours.tasks) == (0, 5, 10)


@pytest.mark.virtual_time
async def test_an_ambiguous_case_waits_for_the_first_task_that_shows_which_fields_are_echoed(tmp_path: Path) -> None:
    sandbox = make_sandbox(concurrency_limit=50, task_seconds=(60.0, 90.0))
    ours, theirs = World(tmp_path / "a", sandbox), World(tmp_path / "b", sandbox)
    await theirs.run([Job(id=f"{n}", prompt=f"another scene {n}") for n in range(5)])
    sandbox.faults.next("drop_before", endpoint="Run")
    finished = await ours.run(text_jobs(5), settle_seconds=5)
    assert (finished.exit_code, finished.stored, ours.tasks) == (0, 5, 10)


@pytest.mark.virtual_time
async def test_an_ambiguous_case_also_waits_while_all_slots_of_the_account_are_taken(tmp_path: Path) -> None:
    sandbox = make_sandbox(concurrency_limit=2, task_seconds=(20.0, 20.0))
    ours, theirs = World(tmp_path / "a", sandbox), World(tmp_path / "b", sandbox)

    async with anyio.create_task_group() as group:
        group.start_soon(theirs.run, [Job(id=f"{n}", prompt=f"another scene {n}") for n in range(4)])
        await anyio.sleep(1.0)  # the other program has all of the account's slots by now
        sandbox.faults.next("drop_before", endpoint="Run")
        finished = await ours.run(text_jobs(3), settle_seconds=2)
    assert (finished.exit_code, finished.stored, ours.tasks) == (0, 3, 7)


@pytest.mark.virtual_time
async def test_equal_jobs_are_not_submitted_while_one_of_them_is_unanswered(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("drop_before", endpoint="Run")
    duplicates = [Job(id=f"duplicate-{n}", prompt="the same") for n in range(3)]
    finished = await world.run(duplicates, settle_seconds=5, render_duplicates=True)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 3, 3)
    sent = [event.at for event in world.events_of(events.Submitting)]
    assert sent[1] - sent[0] >= 10


@pytest.mark.virtual_time
async def test_the_duplicate_of_a_quarantined_job_is_not_submitted(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    duplicates = [Job(id=f"duplicate-{n}", prompt="the same") for n in range(2)]
    finished = await world.run(duplicates, settle_seconds=5, render_duplicates=True)
    assert (finished.exit_code, finished.unknown, finished.unfinished, world.tasks) == (5, 1, 1, 1)


@pytest.mark.virtual_time
async def test_a_run_whose_process_died_before_the_answer_is_reconciled(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(latency_seconds=2.0))
    await world.run_until(5.0, text_jobs(3), settle_seconds=5)  # Run is sent at 4 s and answered at 6 s
    tasks = world.tasks
    finished = await world.run(text_jobs(3), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 3, 3)
    assert tasks in (0, 3)


@pytest.mark.virtual_time
async def test_refused_credentials_stop_the_run_and_leave_the_attempt_unknown(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("drop_after", endpoint="Run")

    async def act(runner: object) -> None:
        await anyio.sleep(0.3)
        world.sandbox.settings.api_key = "revoked"

    finished = await world.run(text_jobs(1), act, settle_seconds=5)
    assert (finished.exit_code, finished.unknown) == (4, 1)
    world.sandbox.settings.api_key = world.key
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, world.tasks) == (0, 1)


@pytest.mark.virtual_time
@pytest.mark.parametrize("times", [7, 30])  # the first listing fails, or the later ones, too
async def test_a_failed_task_list_is_requested_again(tmp_path: Path, times: int) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("drop_after", endpoint="Run")

    async def act(runner: object) -> None:
        await anyio.sleep(0.1)
        world.sandbox.faults.next("http_500", endpoint="Task/List", times=times)

    finished = await world.run(text_jobs(1), act, settle_seconds=5)
    assert (finished.exit_code, world.tasks) == (0, 1)


@pytest.mark.virtual_time
async def test_an_unexpected_error_leaves_the_attempt_unknown_and_the_next_run_finds_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("unforeseen")

    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("drop_after", endpoint="Run")
    with monkeypatch.context() as patch:
        patch.setattr(matching, "judge", broken)
        patch.setattr(matching, "pages_for", broken)
        finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, finished.stored, finished.unknown, world.tasks) == (5, 0, 1, 1)
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)


@pytest.mark.virtual_time
async def test_a_certain_match_on_the_newest_page_is_adopted_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(list_page_cap=5))
    assert (await world.run(text_jobs(30))).exit_code == 0
    world.sandbox.faults.next("drop_after", endpoint="Run")
    listed = world.sandbox.requests["Task/List"]

    async def act(runner: object) -> None:
        await anyio.sleep(0.1)
        listed_before.append(world.sandbox.requests["Task/List"])

    listed_before: list[int] = []
    finished = await world.run(text_jobs(31), act)
    assert (finished.exit_code, world.tasks) == (0, 31)
    (unknown,), accepted = world.events_of(events.Unknown), world.events_of(events.Accepted)[-1]
    assert accepted.adopted
    assert accepted.at - unknown.at < 1
    assert listed_before[0] > listed, "a run lists the newest tasks first"
    assert world.sandbox.requests["Task/List"] == listed_before[0] + 1


@pytest.mark.virtual_time
async def test_an_adoption_does_not_wait_for_a_slow_run_whose_task_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, make_sandbox())
    assert (await world.run(text_jobs(1))).exit_code == 0  # shows which fields are echoed
    runs, dropped = itertools.count(), itertools.count()

    def meets(fault: str, endpoint: str) -> bool:
        if endpoint != "Run":
            return False
        if fault == "slow_answer":
            return next(runs) == 1
        return fault == "drop_after" and next(dropped) == 0

    monkeypatch.setattr(world.sandbox.faults, "meets", meets)
    assert (await world.run(text_jobs(3))).exit_code == 0
    (unknown,) = world.events_of(events.Unknown)
    accepted = {event.job: event for event in world.events_of(events.Accepted)}
    assert accepted[unknown.job].adopted
    assert accepted[unknown.job].at - unknown.at < 0.6
    (slow,) = {"job-1", "job-2"} - {unknown.job}
    assert accepted[slow].at - unknown.at > 0.9


@pytest.mark.virtual_time
async def test_without_an_echo_the_answer_of_a_slow_run_is_awaited_before_a_case_is_quarantined(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    world.sandbox.faults.next("drop_before", endpoint="Run")
    world.sandbox.faults.next("slow_answer", endpoint="Run")
    finished = await world.run(text_jobs(2), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)


@pytest.mark.virtual_time
async def test_a_task_that_another_unanswered_run_will_adopt_quarantines_no_job_whose_prompt_begins_alike(
    tmp_path: Path,
) -> None:
    """Regression: the echo of `... scene 1` may be a cut `... scene 12`, and was taken for the task of that job."""

    @intercepting
    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        if not request.url.path.startswith("/v1/Run") or b"scene" not in request.content:
            return await send(request)
        if b"scene 12" in request.content and not world.events_of(events.Unknown):
            raise httpx.ReadError("lost before it was sent", request=request)
        answer = await send(request)
        if b"scene 12" not in request.content:
            await anyio.sleep(9.7)
            raise httpx.ReadError("lost after the task was made", request=request)
        return answer

    world = World(tmp_path, make_sandbox(), wrap=handle)
    assert (await world.run([Job(id="first", prompt="shows which fields are echoed")])).exit_code == 0
    jobs = [Job(id=f"job-{number}", prompt=f"a film of a journey, scene {number}") for number in (12, 1)]
    finished = await world.run(jobs, settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 3)


@pytest.mark.virtual_time
async def test_a_slow_listing_delays_no_other_case(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    assert (await world.run(text_jobs(1))).exit_code == 0
    world.sandbox.faults.next("drop_before", endpoint="Run", times=2)

    async def act(runner: object) -> None:
        await anyio.sleep(4.9)
        world.sandbox.faults.next("slow_answer", endpoint="Task/List")

    finished = await world.run(text_jobs(3), act, settle_seconds=5, concurrency=1)
    assert (finished.exit_code, world.tasks) == (0, 3)
    first, second = world.events_of(events.Unknown)
    assert second.at - first.at < 1, "the slot is free after the first listing"
    (proven,) = [event.at for event in world.events_of(events.Retrying) if event.job == second.job]
    assert 10 <= proven - second.at < 10.5


@dataclass
class Accepts(World):
    """A world whose journal calls `hold` before it commits an adoption."""

    hold: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
    adopted: list[str | None] = field(default_factory=list)

    @asynccontextmanager
    async def _open_journal(self, *args: Any, **options: Any) -> AsyncIterator[SqlJournal]:
        async with super()._open_journal(*args, **options) as journal:
            accept = journal.accepted

            async def accepted(attempt: Attempt, task_id: str | None, *rest: Any, adopted: bool) -> None:
                if adopted:
                    self.adopted.append(task_id)
                    await self.hold()
                await accept(attempt, task_id, *rest, adopted=adopted)

            journal.accepted = accepted  # type: ignore[method-assign, assignment] # it waits in this journal alone
            yield journal


@pytest.mark.virtual_time
async def test_a_partial_and_a_complete_listing_at_once_adopt_the_task_once(tmp_path: Path) -> None:
    async def hold(number: int) -> None:
        await anyio.sleep(4.4 * (number == 1))  # the listing of 0.5 s is answered at 4.9, the complete one at 5

    world = Accepts(tmp_path, make_sandbox(), hold=lambda: anyio.sleep(1.0))  # a slow disk
    hold_lists(world, hold)
    world.sandbox.faults.next("drop_after", endpoint="Run")
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, world.tasks, len(world.adopted)) == (0, 1, 1)


@pytest.mark.virtual_time
@pytest.mark.parametrize("lag", [0.0, 4.5])  # found on the newest page, or by a complete listing
async def test_a_task_that_another_attempt_owns_first_is_not_adopted_and_the_search_goes_on(
    tmp_path: Path, lag: float
) -> None:
    """Another Run is answered with the task that is about to be adopted: the journal allows one owner."""
    conflicts = itertools.count()

    async def hold() -> None:
        if next(conflicts) < 2:  # with its token, then without
            raise sqlite3.IntegrityError

    world = Accepts(tmp_path, make_sandbox(visible_after_seconds=lag), hold=hold)
    world.sandbox.faults.next("drop_after", endpoint="Run")
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, world.tasks, len(world.adopted)) == (0, 1, 3)


@pytest.mark.virtual_time
async def test_an_adoption_that_cannot_be_committed_ends_the_run_and_is_repeated_by_the_next(tmp_path: Path) -> None:
    async def hold() -> None:
        raise errors.Unusable("the disk is full")

    world = Accepts(tmp_path, make_sandbox(), hold=hold)
    world.sandbox.faults.next("drop_after", endpoint="Run")
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (6, 0, 1)
    world.hold = anyio.lowlevel.checkpoint
    again = await world.run(text_jobs(1), settle_seconds=5)
    assert (again.exit_code, again.stored, world.tasks) == (0, 1, 1)


@pytest.mark.virtual_time
async def test_a_quarantined_attempt_stays_quarantined_when_its_task_is_no_longer_listed(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    assert (await world.run(text_jobs(2), settle_seconds=5)).exit_code == 5
    (first,) = world.events_of(events.Quarantined)
    owned = {event.task_id for event in world.events_of(events.Accepted)}
    (gone,) = world.sandbox.account.tasks.keys() - owned
    del world.sandbox.account.tasks[gone]
    again = await world.run(text_jobs(2), settle_seconds=5)
    assert (again.exit_code, again.unknown, world.tasks) == (5, 1, 1)
    assert world.events_of(events.Quarantined)[-1].reason == first.reason


@pytest.mark.virtual_time
async def test_no_task_is_adopted_from_a_page_that_does_not_reach_the_highest_known_id(tmp_path: Path) -> None:
    async def hold(number: int) -> None:
        await anyio.sleep(1.5 * (number == 1))

    sandbox = make_sandbox(list_page_cap=2, concurrency_limit=50, task_seconds=(60.0, 60.0))
    ours, theirs = World(tmp_path / "a", sandbox), World(tmp_path / "b", sandbox)
    hold_lists(ours, hold)
    sandbox.faults.next("drop_after", endpoint="Run")

    async def act(runner: object) -> None:
        await anyio.sleep(1.0)
        await theirs.run([Job(prompt="scene 0"), Job(prompt="another")], concurrency=2)

    finished = await ours.run(text_jobs(1), act, settle_seconds=5)
    assert finished.exit_code == 0
    first = min(sandbox.account.tasks, key=int)
    assert [event.task_id for event in ours.events_of(events.Ended)] == [first], "our own task"


@pytest.mark.virtual_time
async def test_a_hanging_first_listing_holds_the_slot_until_the_first_complete_listing_at_most(tmp_path: Path) -> None:
    async def hold(number: int) -> None:
        await anyio.sleep(300.0 * (number == 1))

    world = World(tmp_path, make_sandbox())
    hold_lists(world, hold)
    world.sandbox.faults.next("drop_before", endpoint="Run")
    finished = await world.run(text_jobs(2), settle_seconds=5, concurrency=1)
    assert (finished.exit_code, world.tasks) == (0, 2)
    first, second, _ = [event.at for event in world.events_of(events.Submitting)]
    assert second - first < 6


@pytest.mark.virtual_time
async def test_a_postponed_case_is_covered_by_the_next_listing_while_another_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, slow = 1400.0, itertools.count()

    async def hold(number: int) -> None:
        if anyio.current_time() >= begin + 16 and next(slow) == 0:
            await anyio.sleep(100.0)

    async def act(runner: object) -> None:
        await anyio.sleep_until(begin + 14.9)
        monkeypatch.setattr(reconciler, "MAX_PAGES", 1)  # the first listing is incomplete
        await anyio.sleep_until(begin + 15.1)
        monkeypatch.setattr(reconciler, "MAX_PAGES", 400)

    sandbox = make_sandbox(echo="empty", concurrency_limit=50)
    ours, theirs = World(tmp_path / "a", sandbox), World(tmp_path / "b", sandbox)
    sandbox.faults.next("drop_before", endpoint="Run")
    await ours.run_until(0.2, text_jobs(1))
    await theirs.run([Job(prompt="another")])  # may be that of job 0, and is too old for job 1
    await anyio.sleep_until(begin - 100)
    sandbox.faults.next("drop_before", endpoint="Run")
    await ours.run_until(0.2, text_jobs(2), only="job-1")
    await anyio.sleep_until(begin)
    hold_lists(ours, hold)
    finished = await ours.run(text_jobs(2), act, settle_seconds=15)
    assert (finished.exit_code, finished.unknown, finished.stored) == (5, 1, 1)
    (quarantined,) = ours.events_of(events.Quarantined)
    assert quarantined.at - ours.events[0].at < 31, "without it the case would be open until 116 s"


@pytest.mark.virtual_time
async def test_the_second_listing_begins_one_settle_time_after_the_first_has_ended(tmp_path: Path) -> None:
    async def hold(number: int) -> None:
        if 0 < anyio.current_time() < 25:
            await anyio.sleep_until(25)
            raise httpx.ReadTimeout("no answer")

    world = World(tmp_path, make_sandbox())
    hold_lists(world, hold)
    world.sandbox.faults.next("drop_after", endpoint="Run")

    async def act(runner: object) -> None:
        await anyio.sleep_until(20)
        world.sandbox.settings.visible_after_seconds = 60.0  # for a while the list is out of date
        await anyio.sleep_until(28)
        world.sandbox.settings.visible_after_seconds = 0.0

    finished = await world.run(text_jobs(1), act, settle_seconds=5)
    assert (finished.exit_code, world.tasks) == (0, 1)
