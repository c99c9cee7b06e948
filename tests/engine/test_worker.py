"""A job's life and the admission to it: what a run does when the service, the disk or the money refuses."""

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
from harness import World, make_sandbox, now, text_jobs, virtually, within

from wan_async import errors
from wan_async.domain import events
from wan_async.domain.job import Job
from wan_async.engine import scheduler
from wan_async.engine.environment import Services
from wan_async.engine.run import Run
from wan_async.filesystem import Files
from wan_async.journal.sqlite import SqliteJournal

HOUR = 3600.0


class Twisted(httpx.AsyncBaseTransport):
    """A service whose answers are twisted on their way."""

    def __init__(
        self, inner: httpx.AsyncBaseTransport, twist: Callable[[str, dict[str, Any]], dict[str, Any] | None]
    ) -> None:
        self.inner, self.twist = inner, twist

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        if "/cdn/" in request.url.path:
            return response
        body = await response.aread()
        twisted = self.twist(request.url.path.removeprefix("/v1"), json.loads(body))
        return (
            httpx.Response(response.status_code, content=body)
            if twisted is None
            else httpx.Response(200, content=json.dumps(twisted))
        )


def twisted(world: World, twist: Callable[[str, dict[str, Any]], dict[str, Any] | None]) -> None:
    world.wrap = lambda inner: Twisted(inner, twist)


@pytest.mark.virtual_time
async def test_a_task_known_by_its_token_alone_is_carried_to_its_clip(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        content.pop("taskid", None)
        return content if path.startswith("/Run") else None

    twisted(world, twist)
    finished = await world.run(text_jobs(2))
    assert (finished.exit_code, world.tasks) == (0, 2)
    assert [event.task_id for event in world.events_of(events.Accepted)] == [None, None]
    assert all(event.task_id for event in world.events_of(events.Ended))


@pytest.mark.virtual_time
async def test_a_task_known_by_its_id_alone_is_carried_to_its_clip(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        content.pop("socketaccesstoken", None)
        if path.startswith("/Run") and "taskid" in content:
            content["taskid"] = int(content["taskid"])
            return content
        return None

    twisted(world, twist)
    assert (await world.run(text_jobs(2))).exit_code == 0


@pytest.mark.virtual_time
async def test_an_answer_that_names_another_attempts_task_is_not_believed(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    first: list[dict[str, Any]] = []

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        if not path.startswith("/Run"):
            return None
        first.append(content)
        return first[0] if len(first) == 2 else None

    twisted(world, twist)
    finished = await world.run(text_jobs(2), settle_seconds=5, concurrency=1)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)
    assert len(world.events_of(events.Unknown)) == 1


@pytest.mark.virtual_time
async def test_a_job_that_is_renamed_while_its_task_runs_is_not_paid_for_twice(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run_until(1.0, [Job(id="cat", prompt="it yawns")])
    finished = await world.run([Job(id="tom", prompt="it yawns")])
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)


@pytest.mark.virtual_time
async def test_a_cost_below_nothing_gives_no_money_back(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        for task in content.get("tasklist", []):
            task["totalcost"] = "-5"
        return content if "tasklist" in content else None

    twisted(world, twist)
    assert (await world.run(text_jobs(1))).spent_usd == 0


@pytest.mark.virtual_time
async def test_a_token_whose_task_is_called_by_anothers_id_is_carried_all_the_same(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    ids: list[str] = []

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        if path.startswith("/Run"):
            ids.append(content["taskid"])
            if len(ids) == 2:
                del content["taskid"]
            return content
        for task in content.get("tasklist", []):
            task["id"] = ids[0] if ids else task["id"]
        return content if "tasklist" in content else None

    twisted(world, twist)
    finished = await world.run(text_jobs(2), concurrency=1)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)


@pytest.mark.virtual_time
async def test_outputs_that_lag_behind_their_status_are_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    hidden = 3

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal hidden
        for task in content.get("tasklist", []):
            if task["outputs"] and hidden:
                hidden -= 1
                task["outputs"] = None
                return content
        return None

    twisted(world, twist)
    assert (await world.run(text_jobs(1))).exit_code == 0
    assert hidden == 0


@pytest.mark.virtual_time
async def test_a_paid_task_without_any_output_is_missing_and_said_so(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        for task in content.get("tasklist", []):
            task["outputs"] = []
        return content if "tasklist" in content else None

    twisted(world, twist)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.missing, world.tasks) == (1, 1, 1)
    assert f"{finished.spent_usd:f}" == "0.05"


@pytest.mark.virtual_time
async def test_a_cancelled_task_that_has_outputs_and_a_cost_is_settled_and_fetched(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        for task in content.get("tasklist", []):
            if task["status"] == "task_postprocess_end":
                task["status"] = "task_cancel"
        return content if "tasklist" in content else None

    twisted(world, twist)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.stored) == (0, 1)
    assert f"{finished.spent_usd:f}" == "0.05"


@pytest.mark.virtual_time
async def test_a_failure_that_was_billed_is_not_tried_again(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(faults={"failed_render": 1.0}))

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        for task in content.get("tasklist", []):
            if task["pexit"] == "1":
                task["totalcost"] = "0.030000000000"
        return content if "tasklist" in content else None

    twisted(world, twist)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.failed, world.tasks) == (1, 1, 1)
    (failed,) = world.events_of(events.Failed)
    assert f"{failed.billed_usd:f}" == "0.03"
    assert f"{finished.spent_usd:f}" == "0.03"


@pytest.mark.virtual_time
async def test_a_task_that_is_cancelled_from_elsewhere_is_run_again_only_when_asked(tmp_path: Path) -> None:
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
async def test_a_task_that_vanishes_for_good_is_missing_with_its_id(tmp_path: Path) -> None:
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
async def test_another_program_that_holds_the_limit_is_waited_for(tmp_path: Path, limit: int) -> None:
    world = World(tmp_path, make_sandbox(concurrency_limit=limit, task_seconds=(2, 2)))
    account = world.sandbox.account
    for number in range(limit):
        account.create({"prompt": f"another's {number}"}, None, 0, 120.0, now())
    finished = await world.run(text_jobs(2))
    assert (finished.exit_code, finished.stored) == (0, 2)
    waits = [event.after_seconds for event in world.events_of(events.Limited)]
    assert waits[0] == 5
    assert max(wait for wait in waits if wait is not None) <= 60
    assert len(waits) < 12


@pytest.mark.virtual_time
async def test_a_rate_limit_slows_everything_and_fails_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("http_429", times=15)
    finished = await world.run(text_jobs(10))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 10, 10)


class Frail:
    """Opens journals whose disk refuses some rows for a while."""

    def __init__(self, method: str, times: float) -> None:
        self.method, self.times = method, times

    @asynccontextmanager
    async def open(self, *args: Any, **options: Any) -> AsyncIterator[SqliteJournal]:
        async with SqliteJournal.open(*args, **options) as journal:
            right = getattr(journal, self.method)

            async def refuse(*args: Any, **options: Any) -> None:
                if self.times > 0:
                    self.times -= 1
                    raise errors.Unusable("the disk is full: free some space and run the same command again")
                await right(*args, **options)

            setattr(journal, self.method, refuse)
            yield journal


def frail(world: World, method: str, times: float = float("inf")) -> None:
    make = world.services

    def services() -> Services:
        return replace(make(), open_journal=Frail(method, times).open)

    world.services = services  # type: ignore[method-assign] # this world's disk is another


@pytest.mark.virtual_time
@pytest.mark.parametrize("method", ["intent", "ended", "checked", "stored"])
async def test_a_disk_that_refuses_a_row_stops_the_run_and_nothing_is_lost(tmp_path: Path, method: str) -> None:
    world = World(tmp_path, make_sandbox())
    frail(world, method)
    finished = await world.run(text_jobs(3), concurrency=1)
    assert finished.exit_code == 6
    assert world.tasks <= 2  # a slot is free once its task has ended
    del world.services
    finished = await world.run(text_jobs(3), settle_seconds=5)
    assert (finished.exit_code, len(world.clips), world.tasks) == (0, 3, 3)


@pytest.mark.virtual_time
async def test_an_answer_that_the_disk_refuses_is_kept_until_it_takes_it(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    frail(world, "accepted", times=5)
    finished = await world.run(text_jobs(3), concurrency=1)
    assert (finished.exit_code, finished.stored, world.tasks) == (6, 1, 1)
    del world.services
    assert (await world.run(text_jobs(3))).exit_code == 0
    assert world.tasks == 3


@pytest.mark.virtual_time
async def test_a_disk_that_never_takes_an_answer_is_waited_for_a_while_and_the_task_is_named(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    frail(world, "accepted")
    runners: list[Run] = []

    async def act(runner: Run) -> None:
        runners.append(runner)

    finished = await within(60, world.run(text_jobs(5), act, concurrency=2))
    assert (finished.exit_code, finished.stored) == (6, 0)
    assert sorted(runners[0].unsaved) == sorted(world.sandbox.account.tasks)
    del world.services
    finished = await within(HOUR, world.run(text_jobs(5), settle_seconds=5))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 5, 5)


@pytest.mark.virtual_time
async def test_an_answer_that_the_disk_never_takes_is_named_at_the_exit_and_found_again(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    frail(world, "accepted")
    runners: list[Run] = []

    async def act(runner: Run) -> None:
        runners.append(runner)
        await anyio.sleep(10)
        runner.leave()

    finished = await world.run(text_jobs(2), act, concurrency=1)
    assert (finished.exit_code, finished.stored, world.tasks) == (6, 0, 1)
    assert runners[0].unsaved == list(world.sandbox.account.tasks)
    del world.services
    finished = await world.run(text_jobs(2), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)


@pytest.mark.virtual_time
async def test_attempts_of_jobs_that_the_batch_no_longer_names_are_drained_all_the_same(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run_until(1.0, text_jobs(2))
    assert world.tasks == 2
    finished = await world.run([Job(id="other", prompt="another scene")])
    assert (finished.exit_code, finished.jobs, world.tasks) == (0, 1, 3)
    assert {clip.stem for clip in world.clips} == {"job-0", "job-1", "other"}


@pytest.mark.virtual_time
async def test_a_rotated_key_of_the_same_account_is_accepted_and_another_accounts_is_not(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(text_jobs(1))
    world.sandbox.settings.api_key = world.key = "rotated"
    assert (await world.run(text_jobs(2))).exit_code == 0
    other = World(tmp_path, make_sandbox(api_key="somebody"), key="somebody")
    finished = await other.run(text_jobs(3))
    assert (finished.exit_code, other.tasks) == (6, 0)
    (stopping,) = other.events_of(events.Stopping)
    assert "another account" in stopping.reason


@pytest.mark.virtual_time
async def test_a_name_that_another_job_of_the_batch_owns_fails_before_it_costs_anything(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run([Job(id="cat", prompt="it yawns")])
    # the first batch's job took the name `cat`; this batch names it again, and another that wants its file
    (world.output / "dog.json").write_text("mine")
    finished = await world.run([Job(id="cat", prompt="it yawns"), Job(id="dog", prompt="it barks")])
    assert (finished.exit_code, finished.failed, world.tasks) == (1, 1, 1)


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", ["drop_after", "drop_before"])
async def test_a_run_without_an_answer_is_found_or_proven_absent_before_it_is_sent_again(
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
async def test_what_nobody_can_tell_is_kept_apart_with_its_twins_until_it_is_asked_to_be_sent(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    twins = [Job(id=name, prompt="one scene") for name in ("a", "b")]
    finished = await world.run(twins, settle_seconds=5)
    assert (finished.exit_code, finished.unknown, finished.unfinished, world.tasks) == (5, 1, 1, 1)
    assert len(world.events_of(events.Quarantined)) == 1
    again = await world.run(twins, settle_seconds=5)
    assert (again.exit_code, again.unknown, world.tasks) == (5, 1, 1)
    assert world.events_of(events.Unknown) == []
    finished = await world.run(twins, settle_seconds=5, resubmit_unknown=True)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 3)
    assert "at the risk of paying twice" in world.events_of(events.Retrying)[0].reason


@pytest.mark.virtual_time
async def test_an_attempt_that_is_proven_absent_after_its_job_is_gone_is_not_sent_again(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("drop_before", endpoint="Run")
    await world.run_until(1.0, text_jobs(1), settle_seconds=5)
    finished = await world.run([Job(id="other", prompt="another scene")], settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)
    assert {clip.stem for clip in world.clips} == {"other"}


@pytest.mark.virtual_time
@pytest.mark.parametrize("die_after", [0.05, 0.5])
async def test_an_intent_whose_process_died_is_unknown_and_its_task_is_adopted(
    tmp_path: Path, die_after: float
) -> None:
    world = World(tmp_path, make_sandbox(latency_seconds=0.1))
    await world.run_until(0.35 + die_after, text_jobs(1), track="poll")
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)


@pytest.mark.virtual_time
async def test_a_run_that_never_answers_is_given_up_and_found(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.wrap = lambda inner: Silent(inner)
    finished = await world.run(text_jobs(1), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)
    (unknown,) = world.events_of(events.Unknown)
    assert unknown.reason == "no answer in 60 s"


class Silent(httpx.AsyncBaseTransport):
    """A service that does what Run asks for, and never says so."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        if "/Run/" in request.url.path:
            await anyio.sleep_forever()
        return response


class Unplugged(httpx.AsyncBaseTransport):
    """A service that can't be connected to while Run is to be sent, for so many times."""

    def __init__(self, inner: httpx.AsyncBaseTransport, times: int) -> None:
        self.inner, self.times = inner, times

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "/Run/" in request.url.path and self.times:
            self.times -= 1
            raise httpx.ConnectError("no network", request=request)
        return await self.inner.handle_async_request(request)


@pytest.mark.virtual_time
async def test_a_network_that_is_gone_holds_admission_and_nothing_is_in_doubt(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(), wrap=lambda inner: Unplugged(inner, 6))
    make = world.services

    def services() -> Services:
        made = make()
        made.api._trusted = True  # as httpx's own transport would be
        return made

    world.services = services  # type: ignore[method-assign] # this world's network is another
    finished = await world.run(text_jobs(3), concurrency=1)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 3, 3)
    assert world.events_of(events.Unknown) == []
    waits = [event.after_seconds for event in world.events_of(events.Retrying)]
    assert len(waits) == 6
    assert finished.seconds > sum(waits)


@pytest.mark.virtual_time
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_budget_that_is_used_up_stops_once_nothing_runs_that_may_turn_out_cheaper(
    tmp_path: Path, concurrency: int
) -> None:
    world = World(tmp_path, make_sandbox())
    finished = await world.run(text_jobs(5), budget_micros=110_000, concurrency=concurrency)
    assert (finished.exit_code, finished.stored, world.tasks) == (3, 2, 2)
    (stopping,) = world.events_of(events.Stopping)
    assert stopping.reason == "the budget does not allow another task"


@pytest.mark.virtual_time
async def test_a_balance_that_is_used_up_stops_and_finishes_what_runs(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(balance_usd=0.11, concurrency_limit=50))
    finished = await world.run(text_jobs(5))
    assert (finished.exit_code, finished.stored, world.tasks) == (3, 2, 2)
    (limited,) = world.events_of(events.Limited)[:1]
    assert (limited.code, limited.after_seconds) == (97, None)
    (stopping,) = world.events_of(events.Stopping)
    assert "the balance is used up" in stopping.reason


@pytest.mark.virtual_time
async def test_five_jobs_in_a_row_that_are_refused_alike_stop_the_batch(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    errors = [{"code": 0, "message": "Request parameter [seed] is odd"}]
    twisted(world, lambda path, _: {"result": False, "errors": errors} if path.startswith("/Run") else None)
    finished = await world.run(text_jobs(9), concurrency=1)
    assert (finished.exit_code, finished.failed, finished.unfinished) == (1, 5, 4)
    assert "5 jobs in a row" in world.events_of(events.Stopping)[0].reason


@pytest.mark.virtual_time
async def test_a_model_that_is_not_accessible_stops_the_batch_after_one_run(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        denied = {"result": False, "errors": [{"code": 1, "message": "tool-not-accessible"}]}
        return denied if path.startswith("/Run") else None

    twisted(world, twist)
    finished = await world.run(text_jobs(5), concurrency=1)
    assert (finished.exit_code, finished.stored) == (1, 0)
    assert world.sandbox.requests["Run"] == 1
    assert "tool-not-accessible" in world.events_of(events.Stopping)[0].reason


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"cat" * 50)
    return path


@pytest.mark.virtual_time
@pytest.mark.parametrize("upload", ["file", "inline"])
async def test_images_are_sent_whichever_way_was_asked_for(tmp_path: Path, cat: Path, upload: str) -> None:
    world = World(tmp_path, make_sandbox())
    batch = [Job(id="file", prompt="it yawns", image=cat), Job(id="url", prompt="x", image="https://example.com/a")]
    finished = await world.run(batch, upload=upload)
    assert (finished.exit_code, finished.stored) == (0, 2)
    of_file, of_url = sorted(world.sandbox.account.tasks.values(), key=lambda task: task.parameters["prompt"])
    assert of_file.image == sha256(cat.read_bytes()).hexdigest()
    assert of_url.parameters["inputImageUrl"] == "https://example.com/a"
    assert world.sandbox.requests["File/Upload"] == (upload == "file")


@pytest.mark.virtual_time
async def test_an_image_that_changes_between_the_plan_and_run_fails_its_job_alone(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox())

    async def act(runner: Run) -> None:
        cat.write_bytes(cat.read_bytes() + b"!")

    batch = [Job(id="cat", prompt="it yawns", image=cat), *text_jobs(1)]
    finished = await world.run(batch, act, upload="inline")
    assert (finished.exit_code, finished.failed, finished.stored, world.tasks) == (1, 1, 1, 1)


@pytest.mark.virtual_time
async def test_a_failed_render_has_its_image_sent_anew_before_it_is_tried_again(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("failed_render")
    world.sandbox.faults.next("http_500", endpoint="File/Upload", times=6)
    finished = await world.run([Job(id="cat", prompt="it yawns", image=cat)])
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)
    assert len(world.events_of(events.Uploaded)) == 2
    assert any("500" in event.reason for event in world.events_of(events.Retrying))


@pytest.mark.virtual_time
async def test_a_run_that_is_stopped_waits_for_no_retry(tmp_path: Path, cat: Path) -> None:
    world = World(tmp_path, make_sandbox(faults={"http_500@File/Upload": 1.0, "failed_render": 1.0}))

    async def act(runner: Run) -> None:
        await anyio.sleep(30)
        runner.stop("Ctrl-C", 130)

    batch = [Job(id="cat", prompt="it yawns", image=cat), Job(id="rain", prompt="rain")]
    finished = await world.run(batch, act, retries=1000)
    assert (finished.exit_code, finished.stored, finished.unfinished + finished.failed) == (130, 0, 2)
    assert finished.seconds < 60


@pytest.mark.virtual_time
async def test_a_name_that_another_job_of_the_batch_had_first_stays_its_own(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(text_jobs(2), name="{index}")
    finished = await world.run([Job(id="new", prompt="new"), *text_jobs(2)], name="{index}")
    assert (finished.exit_code, finished.failed, finished.skipped, world.tasks) == (1, 1, 2, 2)
    (failed,) = world.events_of(events.Failed)
    assert (failed.job, failed.kind) == ("new", "target")
    assert (failed.kind, "another job" in failed.message) == ("target", True)


@pytest.mark.virtual_time
async def test_a_rate_limit_at_run_puts_off_that_job_and_doubts_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("http_429", endpoint="Run", times=5)
    finished = await world.run(text_jobs(3))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 3, 3)
    assert any(event.code == 429 for event in world.events_of(events.Limited))
    assert len(world.events_of(events.Retrying)) == 5
    assert world.events_of(events.Unknown) == []


@pytest.mark.virtual_time
@pytest.mark.parametrize(("method", "fault"), [("unknown", "drop_after"), ("rejected", "http_429")])
async def test_a_disk_that_refuses_what_became_of_a_run_stops_and_the_next_start_finds_out(
    tmp_path: Path, method: str, fault: str
) -> None:
    world = World(tmp_path, make_sandbox())
    frail(world, method)
    world.sandbox.faults.next(fault, endpoint="Run")
    finished = await world.run(text_jobs(2), concurrency=1)
    assert (finished.exit_code, finished.unfinished) == (6, 2)
    assert "run the same command again" in world.events_of(events.Stopping)[0].reason
    del world.services
    finished = await world.run(text_jobs(2), settle_seconds=5)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)


@pytest.mark.virtual_time
async def test_a_clip_that_the_cdn_denies_is_missing_and_the_next_run_finds_it_without_paying_again(
    tmp_path: Path,
) -> None:
    class Empty(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner = inner

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if "/cdn/" in request.url.path:
                return httpx.Response(404)
            return await self.inner.handle_async_request(request)

    world = World(tmp_path, make_sandbox(), wrap=Empty)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.missing, world.tasks) == (1, 1, 1)
    assert "not available now" in world.events_of(events.Missing)[0].reason
    world.wrap = None
    assert (await world.run(text_jobs(1))).exit_code == 0
    assert world.tasks == 1


@pytest.mark.virtual_time
async def test_a_part_that_goes_away_before_it_has_its_name_is_left_for_the_next_run(tmp_path: Path) -> None:
    class Thief(Files):
        def link(self, source: Path, target: Path) -> None:
            source.unlink()
            super().link(source, target)

    world = World(tmp_path, make_sandbox(), files=Thief())
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.unfinished, world.tasks) == (1, 1, 1)
    world.files = Files()
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)


@pytest.mark.virtual_time
async def test_a_clip_that_can_not_be_fetched_stays_owed_and_the_next_run_fetches_it(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(clip=lambda order: b"<html>"))
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, finished.unfinished, world.tasks) == (1, 1, 1)
    (failed,) = world.events_of(events.Failed)
    assert failed.message.endswith("; the next run tries again")
    assert f"{failed.billed_usd:f}" == "0.05"


# What an earlier run left, where the batch or the wish is another one now


@pytest.mark.virtual_time
async def test_an_edited_job_whose_old_run_made_nothing_is_paid_for_once(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    world.sandbox.faults.next("drop_before", endpoint="Run")
    await world.run_until(0.2, [Job(id="cat", prompt="it yawns")], settle_seconds=5)
    assert world.tasks == 0
    finished = await within(HOUR, world.run([Job(id="cat", prompt="it purrs")], settle_seconds=5))
    assert (finished.exit_code, world.tasks) == (0, 1)


@pytest.mark.virtual_time
async def test_an_edited_job_whose_old_render_fails_is_paid_for_once(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(5.0, 5.0)))
    world.sandbox.faults.next("failed_render")
    await world.run_until(2.0, [Job(id="cat", prompt="it yawns")])
    finished = await within(HOUR, world.run([Job(id="cat", prompt="it purrs")]))
    purrs = [t for t in world.sandbox.account.tasks.values() if t.parameters["prompt"] == "it purrs"]
    assert (finished.exit_code, len(purrs), f"{finished.spent_usd:f}") == (0, 1, "0.05")


@pytest.mark.virtual_time
async def test_an_edited_job_takes_its_name_from_its_old_clip_that_ends_first(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(5.0, 5.0)))
    await world.run_until(2.0, [Job(id="cat", prompt="it yawns")])
    finished = await within(HOUR, world.run([Job(id="cat", prompt="it purrs")]))
    assert (finished.exit_code, world.tasks) == (0, 2)
    for name, prompt in (("cat", "it purrs"), ("cat.1", "it yawns")):
        told = json.loads((world.output / f"{name}.json").read_text())
        assert (told["parameters"]["prompt"], (world.output / f"{name}.mp4").exists()) == (prompt, True)


@pytest.mark.virtual_time
async def test_a_stop_while_resubmitting_gives_up_no_quarantined_attempt(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 5
    world.sandbox.settings.latency_seconds = 2.0

    async def stop(runner: Run) -> None:
        await anyio.sleep(0.5)
        runner.stop("Ctrl-C", 130)

    stopped = await world.run(text_jobs(1), stop, settle_seconds=5, resubmit_unknown=True)
    assert (world.tasks, stopped.exit_code) == (1, 130)
    again = await world.run(text_jobs(1), settle_seconds=5)
    assert (again.exit_code, world.tasks) == (5, 1)


@pytest.mark.virtual_time
async def test_resubmitting_concerns_only_the_jobs_that_are_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 5
    finished = await world.run(text_jobs(2), settle_seconds=5, resubmit_unknown=True, only="job-1")
    assert (finished.exit_code, world.tasks) == (5, 2)


@pytest.mark.virtual_time
async def test_a_twin_of_an_unknown_attempt_waits_though_another_twin_is_resumed(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty", task_seconds=(60.0, 60.0)))
    twins = [Job(id=f"twin-{n}", prompt="the same") for n in range(3)]
    await world.run_until(2.0, twins[:1], settle_seconds=5)
    world.sandbox.faults.next("drop_after", endpoint="Run")
    await world.run_until(2.0, twins[:2], settle_seconds=5)
    assert world.tasks == 2
    finished = await within(HOUR, world.run(twins, settle_seconds=5))
    assert (finished.unknown, finished.unfinished, world.tasks) == (1, 1, 2)


@pytest.mark.virtual_time
async def test_leaving_a_task_whose_job_is_named_no_more_is_no_success(tmp_path: Path) -> None:
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
async def test_a_doubt_about_a_job_that_is_named_no_more_is_no_success(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(echo="empty"))
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 0
    world.sandbox.faults.next("drop_after", endpoint="Run")
    assert (await world.run(text_jobs(2), settle_seconds=5)).exit_code == 5
    assert (await world.run(text_jobs(1), settle_seconds=5)).exit_code == 5


# Odd answers at odd places end in a clear exit code, and soon


@pytest.mark.virtual_time
@pytest.mark.parametrize(("code", "exit_code"), [(96, 0), (97, 3), (99, 0)])
async def test_an_upload_that_meets_what_is_said_of_accounts_is_waited_for_or_ends_the_run(
    tmp_path: Path, code: int, exit_code: int
) -> None:
    world = World(tmp_path, make_sandbox())
    path = tmp_path / "cat.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"cat" * 50)
    refused = 0

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal refused
        if path != "/File/Upload" or (code == 96 and refused >= 3):
            return None
        refused += 1
        return {"result": False, "errors": [{"code": code, "message": "no"}]}

    twisted(world, twist)
    finished = await within(HOUR, world.run([Job(id="cat", prompt="x", image=path)]))
    assert finished.exit_code == exit_code


@dataclass
class Tampered(World):
    """A world whose journal is tampered with as it is opened."""

    tamper: Callable[[SqliteJournal], None] = lambda journal: None

    @asynccontextmanager
    async def _open_journal(self, *args: Any, **options: Any) -> AsyncIterator[SqliteJournal]:
        async with super()._open_journal(*args, **options) as journal:
            self.tamper(journal)
            yield journal


@pytest.mark.virtual_time
@pytest.mark.parametrize("method", ["owned", "contents"])
async def test_a_journal_that_can_not_be_read_ends_the_inquiry_and_the_run(tmp_path: Path, method: str) -> None:
    async def broken() -> None:
        raise errors.Unusable("disk I/O error")

    world = Tampered(tmp_path, make_sandbox(), tamper=lambda journal: setattr(journal, method, broken))
    world.sandbox.faults.next("drop_after", endpoint="Run")
    finished = await within(HOUR, world.run(text_jobs(1), settle_seconds=5))
    assert finished.exit_code == 6


@pytest.mark.virtual_time
async def test_one_task_for_two_runs_and_a_disk_that_refuses_the_first_answer(tmp_path: Path) -> None:
    count = itertools.count()
    first: list[dict[str, Any]] = []

    def tamper(journal: SqliteJournal) -> None:
        accept = journal.accepted

        async def accepted(*args: Any, **more: Any) -> None:
            if next(count) == 0:
                raise errors.Unusable("the disk is full")
            await accept(*args, **more)

        setattr(journal, "accepted", accepted)  # noqa: B010 - a method is replaced

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        if not path.startswith("/Run"):
            return None
        first.append(content)
        return first[0]

    world = Tampered(tmp_path, make_sandbox(), tamper=tamper)
    twisted(world, twist)
    finished = await within(HOUR, world.run(text_jobs(2), settle_seconds=5))
    assert finished.exit_code == 6


@pytest.mark.virtual_time
async def test_a_list_that_is_refused_for_good_leaves_the_doubt(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(list_page_cap=20))
    assert (await world.run(text_jobs(30), settle_seconds=5)).exit_code == 0
    asked = 0

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal asked
        asked += path == "/Task/List"
        refused = path == "/Task/List" and asked > 1
        return {"result": False, "errors": [{"code": 7, "message": "no list"}]} if refused else None

    twisted(world, twist)
    world.sandbox.faults.next("drop_before", endpoint="Run")
    finished = await within(HOUR, world.run(text_jobs(31), settle_seconds=5))
    assert (finished.exit_code, finished.unknown) == (5, 1)


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["empty", "the same page"])
async def test_a_list_that_shows_nothing_more_is_not_hammered(tmp_path: Path, how: str) -> None:
    world = World(tmp_path, make_sandbox(list_page_cap=20))
    assert (await world.run(text_jobs(30), settle_seconds=5)).exit_code == 0
    pages: list[dict[str, Any]] = []

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        if path != "/Task/List":
            return None
        pages.append(content)
        return content | {"total": "0", "tasklist": []} if how == "empty" and len(pages) > 1 else pages[0]

    twisted(world, twist)
    world.sandbox.faults.next("drop_before", endpoint="Run")
    finished = await within(HOUR, world.run(text_jobs(31), settle_seconds=5))
    assert finished.exit_code == 5
    assert len(pages) < 5 * 700, "five pages a second, for ten minutes"


@pytest.mark.virtual_time
async def test_tokens_that_a_list_hides_keep_no_inquiry_going(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        if path != "/Task/List":
            return None
        for task in content.get("tasklist") or []:
            task["socketaccesstoken"] = "hidden"
        return content

    twisted(world, twist)
    world.sandbox.faults.next("drop_after", endpoint="Run", times=2)
    await within(HOUR, world.run(text_jobs(2), settle_seconds=5))
    assert world.tasks == 2


@pytest.mark.virtual_time
@pytest.mark.parametrize("days", [1, 365])
async def test_tasks_of_long_ago_leave_no_new_one_unasked(tmp_path: Path, days: int) -> None:
    class Jumped(World):
        offset = 0.0

        def services(self) -> Services:
            return replace(super().services(), clock=lambda: now() + self.offset)

    world = Jumped(tmp_path, make_sandbox(task_seconds=(20.0, 30.0)))
    await world.run_until(5.0, text_jobs(5), concurrency=5)
    world.offset = days * 86400.0
    finished = await within(HOUR, world.run(text_jobs(8), concurrency=5))
    assert (finished.exit_code, world.tasks) == (0, 8)


@pytest.mark.virtual_time
@pytest.mark.parametrize("where", ["/Task/Detail", "/Task/List"])
async def test_half_an_emoji_in_an_answer_keeps_nobody_waiting(tmp_path: Path, where: str) -> None:
    world = World(tmp_path, make_sandbox())

    def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        if path == where:
            for task in content.get("tasklist") or []:
                task["debugoutput"] = "a koala \ud83d"
        return None if path != where else content

    twisted(world, twist)
    world.sandbox.faults.next("drop_after", endpoint="Run")
    finished = await within(HOUR, world.run(text_jobs(2), settle_seconds=5))
    assert (finished.exit_code, world.tasks) == (0, 2)


@pytest.mark.virtual_time
async def test_outputs_that_become_fewer_while_the_first_is_fetched_end_as_missing(tmp_path: Path) -> None:
    gone = False

    class Fewer(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner = inner

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal gone
            if request.url.path.endswith("/stale.mp4"):
                gone = True
                return httpx.Response(404)
            response = await self.inner.handle_async_request(request)
            if not request.url.path.endswith("/Task/Detail") or gone:
                return response
            content = json.loads(await response.aread())
            for task in content["tasklist"]:
                for output in (task["outputs"] or [])[:1]:
                    task["outputs"].insert(0, output | {"url": "https://cdn.example.com/stale.mp4"})
            return httpx.Response(200, json=content)

    world = World(tmp_path, make_sandbox())
    world.wrap = Fewer
    finished = await within(HOUR, world.run(text_jobs(1)))
    assert (finished.exit_code, finished.missing, world.tasks) == (1, 1, 1)


def test_no_more_runs_are_under_way_than_there_are_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner = inner

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if "/Run/" not in request.url.path:
                return await self.inner.handle_async_request(request)
            under_way.append(len(under_way) + 1)
            most.append(len(under_way))
            try:
                await anyio.sleep(0.5)
                return await self.inner.handle_async_request(request)
            finally:
                under_way.pop()

    under_way: list[int] = []
    most: list[int] = []
    monkeypatch.setattr(scheduler, "connections", lambda: 3)

    async def test() -> None:
        world = World(tmp_path, make_sandbox(concurrency_limit=50, task_seconds=(60.0, 60.0)), wrap=Slow)
        finished = await world.run(text_jobs(10), concurrency=10)
        assert (finished.exit_code, finished.stored) == (0, 10)
        assert finished.seconds < 100, "all ran at once"

    virtually(test)
    assert max(most) == 3
