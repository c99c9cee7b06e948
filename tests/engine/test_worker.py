"""Workers and the scheduler: odd answers, disk errors, limits, budgets, and attempts left by earlier runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from harness import Send, World, intercepting, make_sandbox, now, text_jobs, virtually, within
from pictures import png

from wan_async import errors
from wan_async.domain import events
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import Job
from wan_async.engine import matching, scheduler
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.run import Run
from wan_async.filesystem import Files
from wan_async.journal.sql_journal import SqlJournal
from wan_async.journal.sqlite import SqliteJournal

HOUR = 3600.0


class Changed(httpx.AsyncBaseTransport):
    """A transport that may replace the service's JSON answers."""

    def __init__(
        self, inner: httpx.AsyncBaseTransport, change: Callable[[str, dict[str, Any]], dict[str, Any] | None]
    ) -> None:
        self.inner, self.change = inner, change

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        if "/cdn/" in request.url.path:
            return response
        body = await response.aread()
        changed = self.change(request.url.path.removeprefix("/v1"), json.loads(body))
        return (
            httpx.Response(response.status_code, content=body)
            if changed is None
            else httpx.Response(200, content=json.dumps(changed))
        )


def change_answers(world: World, change: Callable[[str, dict[str, Any]], dict[str, Any] | None]) -> None:
    world.wrap = lambda inner: Changed(inner, change)


@pytest.mark.virtual_time
async def test_the_clip_of_a_task_known_by_its_token_only_is_stored(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        content.pop("taskid", None)
        return content if path.startswith("/Run") else None

    change_answers(world, change)
    finished = await world.run(text_jobs(2))
    assert (finished.exit_code, world.tasks) == (0, 2)
    assert [event.task_id for event in world.events_of(events.Accepted)] == [None, None]
    assert all(event.task_id for event in world.events_of(events.Ended))


@pytest.mark.virtual_time
async def test_the_clip_of_a_task_known_by_its_id_only_is_stored(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        content.pop("socketaccesstoken", None)
        if path.startswith("/Run") and "taskid" in content:
            content["taskid"] = int(content["taskid"])
            return content
        return None

    change_answers(world, change)
    assert (await world.run(text_jobs(2))).exit_code == 0


@pytest.mark.virtual_time
async def test_an_answer_with_the_task_of_another_attempt_leaves_the_attempt_unknown(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    first: list[dict[str, Any]] = []

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        if not path.startswith("/Run"):
            return None
        first.append(content)
        return first[0] if len(first) == 2 else None

    change_answers(world, change)
    finished = await world.run(text_jobs(2), settle_seconds=5, concurrency=1)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)
    assert len(world.events_of(events.Unknown)) == 1


@pytest.mark.virtual_time
async def test_a_job_renamed_while_its_task_is_active_is_paid_once(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run_until(1.0, [Job(id="cat", prompt="it yawns")])
    finished = await world.run([Job(id="tom", prompt="it yawns")])
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)


@pytest.mark.virtual_time
async def test_a_negative_cost_counts_as_zero(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        for task in content.get("tasklist", []):
            task["totalcost"] = "-5"
        return content if "tasklist" in content else None

    change_answers(world, change)
    assert (await world.run(text_jobs(1))).spent_usd == 0


@pytest.mark.virtual_time
async def test_the_clip_of_a_token_whose_task_shows_another_tasks_id_is_stored(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    ids: list[str] = []

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        if path.startswith("/Run"):
            ids.append(content["taskid"])
            if len(ids) == 2:
                del content["taskid"]
            return content
        for task in content.get("tasklist", []):
            task["id"] = ids[0] if ids else task["id"]
        return content if "tasklist" in content else None

    change_answers(world, change)
    finished = await world.run(text_jobs(2), concurrency=1)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)


@pytest.mark.virtual_time
async def test_a_run_waits_for_outputs_that_lag_behind_the_status(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    hidden = 3

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal hidden
        for task in content.get("tasklist", []):
            if task["outputs"] and hidden:
                hidden -= 1
                task["outputs"] = None
                return content
        return None

    change_answers(world, change)
    assert (await world.run(text_jobs(1))).exit_code == 0
    assert hidden == 0


@pytest.mark.virtual_time
async def test_a_paid_task_without_an_output_is_missing(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        for task in content.get("tasklist", []):
            task["outputs"] = []
        return content if "tasklist" in content else None

    change_answers(world, change)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.missing, world.tasks) == (1, 1, 1)
    assert f"{finished.spent_usd:f}" == "0.05"


@pytest.mark.virtual_time
async def test_a_cancelled_task_that_has_outputs_and_a_cost_is_settled_and_fetched(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        for task in content.get("tasklist", []):
            if task["status"] == "task_postprocess_end":
                task["status"] = "task_cancel"
        return content if "tasklist" in content else None

    change_answers(world, change)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.stored) == (0, 1)
    assert f"{finished.spent_usd:f}" == "0.05"


@pytest.mark.virtual_time
async def test_a_billed_failure_is_not_retried(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(faults={"failed_render": 1.0}))

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        for task in content.get("tasklist", []):
            if task["pexit"] == "1":
                task["totalcost"] = "0.030000000000"
        return content if "tasklist" in content else None

    change_answers(world, change)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.failed, world.tasks) == (1, 1, 1)
    (failed,) = world.events_of(events.Failed)
    assert f"{failed.billed_usd:f}" == "0.03"
    assert f"{finished.spent_usd:f}" == "0.03"


@pytest.mark.virtual_time
async def test_a_task_cancelled_by_another_program_is_run_again_only_with_retry_failed(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(20, 20)))

    async def act(runner: Run) -> None:
        await anyio.sleep(5)
        (task,) = world.sandbox.account.tasks.values()
        world.sandbox.end(task)

    finished = await world.run(text_jobs(1), act)
    assert (finished.exit_code, finished.cancelled, world.tasks) == (1, 1, 1)
    assert len(world.events_of(events.Cancelled)) == 1
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.cancelled, world.tasks) == (1, 1, 1)
    finished = await world.run(text_jobs(1), retry_failed=True)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)


@pytest.mark.virtual_time
async def test_a_deleted_task_is_reported_as_missing_with_its_id(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(20, 20)))

    async def act(runner: Run) -> None:
        await anyio.sleep(5)
        world.sandbox.account.tasks.clear()
        world.sandbox.account.by_token.clear()

    finished = await world.run(text_jobs(1), act)
    assert (finished.exit_code, finished.missing) == (1, 1)
    (missing,) = world.events_of(events.Missing)
    assert missing.task_id
    assert "does not know this task now" in missing.reason


@pytest.mark.virtual_time
@pytest.mark.parametrize("limit", [1, 3])
async def test_a_run_waits_while_another_program_uses_all_slots_of_the_account(tmp_path: Path, limit: int) -> None:
    world = World(tmp_path, make_sandbox(concurrency_limit=limit, task_seconds=(2, 2)))
    account = world.sandbox.account
    for number in range(limit):
        account.create({"prompt": f"another program's {number}"}, None, 0, 120.0, now())
    finished = await world.run(text_jobs(2))
    assert (finished.exit_code, finished.stored) == (0, 2)
    waits = [event.after_seconds for event in world.events_of(events.Limited)]
    assert waits[0] == 5
    assert max(wait for wait in waits if wait is not None) <= 60
    assert len(waits) < 12


@pytest.mark.virtual_time
async def test_a_rate_limit_fails_no_job(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("http_429", times=15)
    finished = await world.run(text_jobs(10))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 10, 10)


class FailingJournal:
    """Opens journals in which the first calls of one method raise `Unusable`."""

    def __init__(self, method: str, times: float) -> None:
        self.method, self.times = method, times

    @asynccontextmanager
    async def open(self, *args: Any, **options: Any) -> AsyncIterator[SqlJournal]:
        async with SqliteJournal.open(*args, **options) as journal:
            method = getattr(journal, self.method)

            async def refuse(*args: Any, **options: Any) -> None:
                if self.times > 0:
                    self.times -= 1
                    raise errors.Unusable("the disk is full: free some space and run the same command again")
                await method(*args, **options)

            setattr(journal, self.method, refuse)
            yield journal


def fail_commits(world: World, method: str, times: float = float("inf")) -> None:
    make = world.dependencies

    def dependencies() -> Dependencies:
        return replace(make(), open_journal=FailingJournal(method, times).open)

    world.dependencies = dependencies  # type: ignore[method-assign] # this world alone gets others


@pytest.mark.virtual_time
@pytest.mark.parametrize("method", ["intent", "ended", "checked", "stored"])
async def test_a_failed_commit_stops_the_run_and_loses_no_clip(tmp_path: Path, method: str) -> None:
    world = World(tmp_path, make_sandbox())
    fail_commits(world, method)
    finished = await world.run(text_jobs(3), concurrency=1)
    assert finished.exit_code == 6
    assert world.tasks <= 2  # the slot is released once its task has ended
    del world.dependencies
    finished = await world.run(text_jobs(3), settle_seconds=5)
    assert (finished.exit_code, len(world.clips), world.tasks) == (0, 3, 3)


@pytest.mark.virtual_time
async def test_the_commit_of_an_answer_is_retried_until_it_succeeds(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    fail_commits(world, "accepted", times=5)
    finished = await world.run(text_jobs(3), concurrency=1)
    assert (finished.exit_code, finished.stored, world.tasks) == (6, 1, 1)
    del world.dependencies
    assert (await world.run(text_jobs(3))).exit_code == 0
    assert world.tasks == 3


@pytest.mark.virtual_time
async def test_an_answer_that_cannot_be_committed_is_retried_for_a_while_and_its_task_reported(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    fail_commits(world, "accepted")
    runners: list[Run] = []

    async def act(runner: Run) -> None:
        runners.append(runner)

    finished = await within(60, world.run(text_jobs(5), act, concurrency=2))
    assert (finished.exit_code, finished.stored) == (6, 0)
    assert sorted(runners[0].unsaved) == sorted(world.sandbox.account.tasks)
    del world.dependencies
    finished = await within(HOUR, world.run(text_jobs(5), settle_seconds=5))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 5, 5)


@pytest.mark.virtual_time
async def test_an_answer_not_committed_when_the_run_is_left_is_reported_and_its_task_adopted_later(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, make_sandbox())
    fail_commits(world, "accepted")
    runners: list[Run] = []

    async def act(runner: Run) -> None:
        runners.append(runner)
        await anyio.sleep(10)
        runner.leave()

    finished = await world.run(text_jobs(2), act, concurrency=1)
    assert (finished.exit_code, finished.stored, world.tasks) == (6, 0, 1)
    assert runners[0].unsaved == list(world.sandbox.account.tasks)
    del world.dependencies
    finished = await world.run(text_jobs(2), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)


@pytest.mark.virtual_time
async def test_attempts_of_jobs_that_the_batch_no_longer_names_are_drained(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run_until(1.0, text_jobs(2))
    assert world.tasks == 2
    finished = await world.run([Job(id="other", prompt="another scene")])
    assert (finished.exit_code, finished.jobs, world.tasks) == (0, 1, 3)
    assert {clip.stem for clip in world.clips} == {"job-0", "job-1", "other"}


@pytest.mark.virtual_time
async def test_a_rotated_key_is_accepted_and_the_key_of_another_account_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(text_jobs(1))
    world.sandbox.settings.api_key = world.key = "rotated"
    assert (await world.run(text_jobs(2))).exit_code == 0
    other = World(tmp_path, make_sandbox(api_key="another-key"), key="another-key")
    finished = await other.run(text_jobs(3))
    assert (finished.exit_code, other.tasks) == (6, 0)
    (stopping,) = other.events_of(events.Stopping)
    assert "another account" in stopping.reason


@pytest.mark.virtual_time
async def test_a_job_whose_output_name_is_taken_fails_before_it_is_submitted(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run([Job(id="cat", prompt="it yawns")])
    # a file of the user has the name of the second job's sidecar
    (world.output / "dog.json").write_text("mine")
    finished = await world.run([Job(id="cat", prompt="it yawns"), Job(id="dog", prompt="it barks")])
    assert (finished.exit_code, finished.failed, world.tasks) == (1, 1, 1)


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", ["drop_after", "drop_before"])
async def test_an_unanswered_run_is_adopted_or_proven_absent_before_it_is_resubmitted(
    tmp_path: Path, fault: str
) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next(fault, endpoint="Run")
    finished = await world.run(text_jobs(2), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)
    assert len(world.events_of(events.Unknown)) == 1
    assert any(event.adopted for event in world.events_of(events.Accepted)) == (fault == "drop_after")
    assert len(world.events_of(events.Retrying)) == (fault == "drop_before")


@pytest.mark.virtual_time
async def test_an_ambiguous_attempt_is_quarantined_and_its_duplicates_wait_for_resubmit_unknown(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    duplicates = [Job(id=name, prompt="one scene") for name in ("a", "b")]
    finished = await world.run(duplicates, settle_seconds=5, render_duplicates=True)
    assert (finished.exit_code, finished.unknown, finished.unfinished, world.tasks) == (5, 1, 1, 1)
    assert len(world.events_of(events.Quarantined)) == 1
    again = await world.run(duplicates, settle_seconds=5, render_duplicates=True)
    assert (again.exit_code, again.unknown, world.tasks) == (5, 1, 1)
    assert world.events_of(events.Unknown) == []
    finished = await world.run(duplicates, settle_seconds=5, render_duplicates=True, resubmit_unknown=True)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 3)
    assert "at the risk of paying twice" in world.events_of(events.Retrying)[0].reason


@pytest.mark.virtual_time
async def test_an_absent_attempt_of_a_removed_job_is_not_resubmitted(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("drop_before", endpoint="Run")
    await world.run_until(1.0, text_jobs(1), settle_seconds=5)
    finished = await world.run([Job(id="other", prompt="another scene")], settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)
    assert {clip.stem for clip in world.clips} == {"other"}


@pytest.mark.virtual_time
@pytest.mark.parametrize("die_after", [0.05, 0.5])
async def test_an_intent_of_a_killed_process_becomes_unknown_and_its_task_is_adopted(
    tmp_path: Path, die_after: float
) -> None:
    world = World(tmp_path, make_sandbox(latency_seconds=0.1))
    await world.run_until(0.35 + die_after, text_jobs(1), track="poll")
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)


@pytest.mark.virtual_time
async def test_a_run_that_times_out_is_reconciled(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.wrap = lambda inner: unanswered(inner)
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)
    (unknown,) = world.events_of(events.Unknown)
    assert unknown.reason == "no answer in 60 s"


@intercepting
async def unanswered(request: httpx.Request, send: Send) -> httpx.Response:
    """A transport on which Run creates its task and is never answered."""
    response = await send(request)
    if "/Run/" in request.url.path:
        await anyio.sleep_forever()
    return response


class Unconnected(httpx.AsyncBaseTransport):
    """A transport on which the first `times` Runs fail to connect."""

    def __init__(self, inner: httpx.AsyncBaseTransport, times: int) -> None:
        self.inner, self.times = inner, times

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "/Run/" in request.url.path and self.times:
            self.times -= 1
            raise httpx.ConnectError("no network", request=request)
        return await self.inner.handle_async_request(request)


@pytest.mark.virtual_time
async def test_connection_errors_delay_submission_and_leave_nothing_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, make_sandbox(), wrap=lambda inner: Unconnected(inner, 6))
    make = world.dependencies

    def dependencies() -> Dependencies:
        made = make()
        made.api._trusted = True  # as for httpx's own transport
        return made

    monkeypatch.setattr(world, "dependencies", dependencies)
    finished = await world.run(text_jobs(3), concurrency=1)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 3, 3)
    assert world.events_of(events.Unknown) == []
    waits = [event.after_seconds for event in world.events_of(events.Retrying)]
    assert len(waits) == 6
    assert finished.seconds > sum(waits)


@pytest.mark.virtual_time
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_used_up_budget_stops_the_run_once_no_active_task_can_release_money(
    tmp_path: Path, concurrency: int
) -> None:
    world = World(tmp_path, make_sandbox())
    finished = await world.run(text_jobs(5), budget_micros=110_000, concurrency=concurrency)
    assert (finished.exit_code, finished.stored, world.tasks) == (3, 2, 2)
    (stopping,) = world.events_of(events.Stopping)
    assert stopping.reason == "the budget does not allow another task"


@pytest.mark.virtual_time
async def test_a_used_up_balance_stops_the_run_and_active_tasks_are_drained(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(balance_usd=0.11, concurrency_limit=50))
    finished = await world.run(text_jobs(5))
    assert (finished.exit_code, finished.stored, world.tasks) == (3, 2, 2)
    (limited,) = world.events_of(events.Limited)[:1]
    assert (limited.code, limited.after_seconds) == (97, None)
    (stopping,) = world.events_of(events.Stopping)
    assert "the balance is used up" in stopping.reason


@pytest.mark.virtual_time
async def test_five_identical_refusals_in_a_row_stop_the_batch(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    errors = [{"code": 0, "message": "Request parameter [seed] is odd"}]
    change_answers(world, lambda path, _: {"result": False, "errors": errors} if path.startswith("/Run") else None)
    finished = await world.run(text_jobs(9), concurrency=1)
    assert (finished.exit_code, finished.failed, finished.unfinished) == (1, 5, 4)
    assert "5 jobs in a row" in world.events_of(events.Stopping)[0].reason


@pytest.mark.virtual_time
async def test_an_inaccessible_model_stops_the_batch_after_one_run(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        denied = {"result": False, "errors": [{"code": 1, "message": "tool-not-accessible"}]}
        return denied if path.startswith("/Run") else None

    change_answers(world, change)
    finished = await world.run(text_jobs(5), concurrency=1)
    assert (finished.exit_code, finished.stored) == (1, 0)
    assert world.sandbox.requests["Run"] == 1
    assert "tool-not-accessible" in world.events_of(events.Stopping)[0].reason


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(png(b"cat" * 50))
    return path


@pytest.mark.virtual_time
@pytest.mark.parametrize("upload", ["file", "inline"])
async def test_images_are_sent_in_the_requested_way(tmp_path: Path, cat: Path, upload: str) -> None:
    world = World(tmp_path, make_sandbox())
    batch = [Job(id="file", prompt="it yawns", image=cat), Job(id="url", prompt="x", image="https://example.com/a")]
    finished = await world.run(batch, upload=upload)
    assert (finished.exit_code, finished.stored) == (0, 2)
    of_file, of_url = sorted(world.sandbox.account.tasks.values(), key=lambda task: task.parameters["prompt"])
    assert of_file.image == sha256(cat.read_bytes()).hexdigest()
    assert of_url.parameters["inputImageUrl"] == "https://example.com/a"
    assert world.sandbox.requests["File/Upload"] == (upload == "file")


@pytest.mark.virtual_time
async def test_an_image_that_changes_after_the_plan_fails_its_own_job_only(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox())

    async def act(runner: Run) -> None:
        cat.write_bytes(cat.read_bytes() + b"!")

    batch = [Job(id="cat", prompt="it yawns", image=cat), *text_jobs(1)]
    finished = await world.run(batch, act, upload="inline")
    assert (finished.exit_code, finished.failed, finished.stored, world.tasks) == (1, 1, 1, 1)


@pytest.mark.virtual_time
async def test_the_retry_of_a_failed_render_uploads_its_image_again(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("failed_render")
    world.sandbox.faults.next("http_500", endpoint="File/Upload", times=6)
    finished = await world.run([Job(id="cat", prompt="it yawns", image=cat)])
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)
    assert len(world.events_of(events.Uploaded)) == 2
    assert any("500" in event.reason for event in world.events_of(events.Retrying))


@pytest.mark.virtual_time
async def test_a_stopped_run_waits_for_no_retry(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox(faults={"http_500@File/Upload": 1.0, "failed_render": 1.0}))

    async def act(runner: Run) -> None:
        await anyio.sleep(30)
        runner.stop("Ctrl-C", ExitCode.INTERRUPTED)

    batch = [Job(id="cat", prompt="it yawns", image=cat), Job(id="rain", prompt="rain")]
    finished = await world.run(batch, act, retries=1000)
    assert (finished.exit_code, finished.stored, finished.unfinished + finished.failed) == (130, 0, 2)
    assert finished.seconds < 60


@pytest.mark.virtual_time
async def test_names_stay_with_the_jobs_that_have_clips_and_a_new_job_gets_a_free_one(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(text_jobs(2), name="{index}")
    finished = await world.run([Job(id="new", prompt="new"), *text_jobs(2)], name="{index}")
    assert (finished.exit_code, finished.stored, finished.skipped, world.tasks) == (0, 1, 2, 3)
    assert [(event.job, event.file) for event in world.events_of(events.Stored)][-1] == ("new", "3.mp4")


@pytest.mark.virtual_time
async def test_a_rate_limit_at_run_delays_the_job_and_leaves_nothing_unknown(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("http_429", endpoint="Run", times=5)
    finished = await world.run(text_jobs(3))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 3, 3)
    assert any(event.code == 429 for event in world.events_of(events.Limited))
    assert len(world.events_of(events.Retrying)) == 5
    assert world.events_of(events.Unknown) == []


@pytest.mark.virtual_time
@pytest.mark.parametrize(("method", "fault"), [("unknown", "drop_after"), ("rejected", "http_429")])
async def test_an_outcome_of_a_run_that_cannot_be_committed_is_reconciled_by_the_next_run(
    tmp_path: Path, method: str, fault: str
) -> None:
    world = World(tmp_path, make_sandbox())
    fail_commits(world, method)
    world.sandbox.faults.next(fault, endpoint="Run")
    finished = await world.run(text_jobs(2), concurrency=1)
    assert (finished.exit_code, finished.unfinished) == (6, 2)
    assert "run the same command again" in world.events_of(events.Stopping)[0].reason
    del world.dependencies
    finished = await world.run(text_jobs(2), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)


@pytest.mark.virtual_time
async def test_a_denied_clip_is_missing_and_downloaded_by_the_next_run(
    tmp_path: Path,
) -> None:
    @intercepting
    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        if "/cdn/" in request.url.path:
            return httpx.Response(404)
        return await send(request)

    world = World(tmp_path, make_sandbox(), wrap=handle)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.missing, world.tasks) == (1, 1, 1)
    assert "not available now" in world.events_of(events.Missing)[0].reason
    world.wrap = None
    assert (await world.run(text_jobs(1))).exit_code == 0
    assert world.tasks == 1


@pytest.mark.virtual_time
async def test_a_part_that_is_deleted_before_it_is_published_is_downloaded_by_the_next_run(tmp_path: Path) -> None:
    class DeletingPart(Files):
        def link(self, source: Path, target: Path) -> None:
            source.unlink()
            super().link(source, target)

    world = World(tmp_path, make_sandbox(), files=DeletingPart())
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.unfinished, world.tasks) == (1, 1, 1)
    world.files = Files()
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)


@pytest.mark.virtual_time
async def test_a_clip_that_cannot_be_downloaded_is_reported_as_billed_and_left_for_the_next_run(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(clip=lambda order: b"<html>"))
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.unfinished, world.tasks) == (1, 1, 1)
    (failed,) = world.events_of(events.Failed)
    assert failed.message.endswith("; the next run tries again")
    assert f"{failed.billed_usd:f}" == "0.05"


# Attempts of an earlier run, after the batch or the options have changed


@pytest.mark.virtual_time
async def test_an_edited_job_whose_old_run_created_no_task_is_paid_once(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("drop_before", endpoint="Run")
    await world.run_until(0.2, [Job(id="cat", prompt="it yawns")], settle_seconds=5)
    assert world.tasks == 0
    finished = await within(HOUR, world.run([Job(id="cat", prompt="it purrs")], settle_seconds=5))
    assert (finished.exit_code, world.tasks) == (0, 1)


@pytest.mark.virtual_time
async def test_an_edited_job_whose_old_render_fails_is_paid_once(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(5.0, 5.0)))
    world.sandbox.faults.next("failed_render")
    await world.run_until(2.0, [Job(id="cat", prompt="it yawns")])
    finished = await within(HOUR, world.run([Job(id="cat", prompt="it purrs")]))
    purrs = [t for t in world.sandbox.account.tasks.values() if t.parameters["prompt"] == "it purrs"]
    assert (finished.exit_code, len(purrs), f"{finished.spent_usd:f}") == (0, 1, "0.05")


@pytest.mark.virtual_time
async def test_the_clip_of_an_edited_job_gets_the_plain_name_if_the_old_one_ends_first(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(5.0, 5.0)))
    await world.run_until(2.0, [Job(id="cat", prompt="it yawns")])
    finished = await within(HOUR, world.run([Job(id="cat", prompt="it purrs")]))
    assert (finished.exit_code, world.tasks) == (0, 2)
    for name, prompt in (("cat", "it purrs"), ("cat.1", "it yawns")):
        sidecar = json.loads((world.output / f"{name}.json").read_text())
        assert (sidecar["parameters"]["prompt"], (world.output / f"{name}.mp4").exists()) == (prompt, True)


@pytest.mark.virtual_time
async def test_a_stop_while_resubmitting_abandons_no_quarantined_attempt(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 5
    world.sandbox.settings.latency_seconds = 2.0

    async def stop(runner: Run) -> None:
        await anyio.sleep(0.5)
        runner.stop("Ctrl-C", ExitCode.INTERRUPTED)

    stopped = await world.run(text_jobs(1), stop, settle_seconds=5, resubmit_unknown=True)
    assert (world.tasks, stopped.exit_code) == (1, 130)
    again = await world.run(text_jobs(1), settle_seconds=5)
    assert (again.exit_code, world.tasks) == (5, 1)


@pytest.mark.virtual_time
async def test_resubmit_unknown_submits_each_job_once(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    for count in (1, 2, 3):
        world.sandbox.faults.next("drop_after", endpoint="Run")
        world.sandbox.faults.next("drop_after", endpoint="Run")
        finished = await world.run(text_jobs(1), settle_seconds=5, resubmit_unknown=True)
        assert (finished.exit_code, finished.unknown, world.tasks) == (5, 1, count)


@pytest.mark.virtual_time
async def test_resubmit_unknown_concerns_only_the_selected_jobs(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 5
    finished = await world.run(text_jobs(2), settle_seconds=5, resubmit_unknown=True, only="job-1")
    assert (finished.exit_code, world.tasks) == (5, 2)


@pytest.mark.virtual_time
async def test_a_duplicate_of_an_unknown_attempt_waits_while_another_duplicate_is_resumed(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty", task_seconds=(60.0, 60.0)))
    duplicates = [Job(id=f"duplicate-{n}", prompt="the same") for n in range(3)]
    await world.run_until(2.0, duplicates[:1], settle_seconds=5, render_duplicates=True)
    world.sandbox.faults.next("drop_after", endpoint="Run")
    await world.run_until(2.0, duplicates[:2], settle_seconds=5, render_duplicates=True)
    assert world.tasks == 2
    finished = await within(HOUR, world.run(duplicates, settle_seconds=5, render_duplicates=True))
    assert (finished.unknown, finished.unfinished, world.tasks) == (1, 1, 2)


@pytest.mark.virtual_time
async def test_the_exit_code_counts_active_tasks_of_jobs_that_the_batch_no_longer_names(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(2.0, 2.0)))
    assert (await world.run(text_jobs(1))).exit_code == 0
    world.sandbox.settings.task_seconds = (600.0, 600.0)
    await world.run_until(5.0, text_jobs(2))

    async def leave(runner: Run) -> None:
        await anyio.sleep(1.0)
        runner.leave()

    finished = await world.run(text_jobs(1), leave)
    assert (finished.exit_code, len(world.clips), world.tasks) == (130, 1, 2)


@pytest.mark.virtual_time
async def test_the_exit_code_counts_quarantined_attempts_of_jobs_that_the_batch_no_longer_names(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 0
    world.sandbox.faults.next("drop_after", endpoint="Run")
    assert (await world.run(text_jobs(2), settle_seconds=5)).exit_code == 5
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 5


# Unexpected answers and errors: the run ends soon, with a clear exit code


@pytest.mark.virtual_time
@pytest.mark.parametrize(("code", "exit_code"), [(96, 0), (97, 3), (99, 0)])
async def test_an_upload_refused_with_an_account_error_is_retried_or_ends_the_run(
    tmp_path: Path, code: int, exit_code: int
) -> None:
    world = World(tmp_path, make_sandbox())
    path = tmp_path / "cat.png"
    path.write_bytes(png(b"cat" * 50))
    refused = 0

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal refused
        if path != "/File/Upload" or (code == 96 and refused >= 3):
            return None
        refused += 1
        return {"result": False, "errors": [{"code": code, "message": "no"}]}

    change_answers(world, change)
    finished = await within(HOUR, world.run([Job(id="cat", prompt="x", image=path)]))
    assert finished.exit_code == exit_code


@dataclass
class ChangedJournal(World):
    """A world that calls `change` with each journal that it opens."""

    change: Callable[[SqlJournal], None] = lambda journal: None

    @asynccontextmanager
    async def _open_journal(self, *args: Any, **options: Any) -> AsyncIterator[SqlJournal]:
        async with super()._open_journal(*args, **options) as journal:
            self.change(journal)
            yield journal


@pytest.mark.virtual_time
@pytest.mark.parametrize("method", ["owned", "contents"])
async def test_a_journal_that_cannot_be_read_ends_reconciliation_and_the_run(tmp_path: Path, method: str) -> None:
    async def broken() -> None:
        raise errors.Unusable("disk I/O error")

    world = ChangedJournal(tmp_path, make_sandbox(), change=lambda journal: setattr(journal, method, broken))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    finished = await within(HOUR, world.run(text_jobs(1), settle_seconds=5))
    assert finished.exit_code == 6


@pytest.mark.virtual_time
async def test_one_task_id_for_two_runs_and_a_failed_commit_of_the_first_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = itertools.count()
    first: list[dict[str, Any]] = []

    def replace_accepted(journal: SqlJournal) -> None:
        accept = journal.accepted

        async def accepted(*args: Any, **more: Any) -> None:
            if next(count) == 0:
                raise errors.Unusable("the disk is full")
            await accept(*args, **more)

        monkeypatch.setattr(journal, "accepted", accepted)

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        if not path.startswith("/Run"):
            return None
        first.append(content)
        return first[0]

    world = ChangedJournal(tmp_path, make_sandbox(), change=replace_accepted)
    change_answers(world, change)
    finished = await within(HOUR, world.run(text_jobs(2), settle_seconds=5))
    assert finished.exit_code == 6


@pytest.mark.virtual_time
async def test_a_permanently_refused_task_list_leaves_the_attempt_unknown(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(list_page_cap=20))
    assert (await world.run(text_jobs(30), settle_seconds=5)).exit_code == 0
    requests = 0

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal requests
        requests += path == "/Task/List"
        refused = path == "/Task/List" and requests > 1
        return {"result": False, "errors": [{"code": 7, "message": "no list"}]} if refused else None

    change_answers(world, change)
    world.sandbox.faults.next("drop_before", endpoint="Run")
    finished = await within(HOUR, world.run(text_jobs(31), settle_seconds=5))
    assert (finished.exit_code, finished.unknown) == (5, 1)


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["empty", "the same page"])
async def test_a_task_list_without_new_pages_is_requested_at_a_limited_rate(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "INCOMPLETE_SECONDS", 20.0)
    world = World(tmp_path, make_sandbox(list_page_cap=20))
    assert (await world.run(text_jobs(30), settle_seconds=5)).exit_code == 0
    pages: list[dict[str, Any]] = []

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        if path != "/Task/List":
            return None
        pages.append(content)
        return content | {"total": "0", "tasklist": []} if how == "empty" and len(pages) > 1 else pages[0]

    change_answers(world, change)
    world.sandbox.faults.next("drop_before", endpoint="Run")
    finished = await within(HOUR, world.run(text_jobs(31), settle_seconds=5))
    assert finished.exit_code == 5
    assert len(pages) < 5 * 30, "fewer than five pages a second for 20 seconds"


@pytest.mark.virtual_time
async def test_reconciliation_ends_if_the_task_list_hides_tokens(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        if path != "/Task/List":
            return None
        for task in content.get("tasklist") or []:
            task["socketaccesstoken"] = "hidden"
        return content

    change_answers(world, change)
    world.sandbox.faults.next("drop_after", endpoint="Run", times=2)
    await within(HOUR, world.run(text_jobs(2), settle_seconds=5))
    assert world.tasks == 2


@pytest.mark.virtual_time
@pytest.mark.parametrize("days", [1, 365])
async def test_old_tasks_do_not_delay_polls_of_new_ones(tmp_path: Path, days: int) -> None:
    class Jumped(World):
        offset = 0.0

        def dependencies(self) -> Dependencies:
            return replace(super().dependencies(), clock=lambda: now() + self.offset)

    world = Jumped(tmp_path, make_sandbox(task_seconds=(20.0, 30.0)))
    await world.run_until(5.0, text_jobs(5), concurrency=5)
    world.offset = days * 86400.0
    finished = await within(HOUR, world.run(text_jobs(8), concurrency=5))
    assert (finished.exit_code, world.tasks) == (0, 8)


@pytest.mark.virtual_time
@pytest.mark.parametrize("where", ["/Task/Detail", "/Task/List"])
async def test_an_unpaired_surrogate_in_an_answer_delays_no_job(tmp_path: Path, where: str) -> None:
    world = World(tmp_path, make_sandbox())

    def change(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        if path == where:
            for task in content.get("tasklist") or []:
                task["debugoutput"] = "a koala \ud83d"
        return None if path != where else content

    change_answers(world, change)
    world.sandbox.faults.next("drop_after", endpoint="Run")
    finished = await within(HOUR, world.run(text_jobs(2), settle_seconds=5))
    assert (finished.exit_code, world.tasks) == (0, 2)


@pytest.mark.virtual_time
async def test_a_clip_is_missing_when_an_output_disappears_during_its_download(tmp_path: Path) -> None:
    gone = False

    @intercepting
    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        nonlocal gone
        if request.url.path.endswith("/stale.mp4"):
            gone = True
            return httpx.Response(404)
        response = await send(request)
        if not request.url.path.endswith("/Task/Detail") or gone:
            return response
        content = json.loads(await response.aread())
        for task in content["tasklist"]:
            for output in (task["outputs"] or [])[:1]:
                task["outputs"].insert(0, output | {"url": "https://cdn.example.com/stale.mp4"})
        return httpx.Response(200, json=content)

    world = World(tmp_path, make_sandbox())
    world.wrap = handle
    finished = await within(HOUR, world.run(text_jobs(1)))
    assert (finished.exit_code, finished.missing, world.tasks) == (1, 1, 1)


def test_no_more_runs_are_in_flight_than_there_are_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @intercepting
    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        if "/Run/" not in request.url.path:
            return await send(request)
        in_flight.append(len(in_flight) + 1)
        peaks.append(len(in_flight))
        try:
            await anyio.sleep(0.5)
            return await send(request)
        finally:
            in_flight.pop()

    in_flight: list[int] = []
    peaks: list[int] = []
    monkeypatch.setattr(scheduler, "connections", lambda: 3)

    async def test() -> None:
        world = World(tmp_path, make_sandbox(concurrency_limit=50, task_seconds=(60.0, 60.0)), wrap=handle)
        finished = await world.run(text_jobs(10), concurrency=10)
        assert (finished.exit_code, finished.stored) == (0, 10)
        assert finished.seconds < 100, "their tasks were active at the same time"

    virtually(test)
    assert max(peaks) == 3
