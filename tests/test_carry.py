"""A job's life and the admission to it: what a run does when the service, the disk or the money refuses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from harness import World, make_sandbox, now, text_jobs, virtually

from wan_async import errors, events
from wan_async.context import Services
from wan_async.jobs import Job
from wan_async.journal import Journal
from wan_async.runner import Runner


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
            httpx.Response(response.status_code, content=body) if twisted is None else httpx.Response(200, json=twisted)
        )


def twisted(world: World, twist: Callable[[str, dict[str, Any]], dict[str, Any] | None]) -> None:
    world.wrap = lambda inner: Twisted(inner, twist)


def test_a_task_known_by_its_token_alone_is_carried_to_its_clip(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())

        def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
            content.pop("taskid", None)
            return content if path.startswith("/Run") else None

        twisted(world, twist)
        finished = await world.run(text_jobs(2))
        assert (finished.exit_code, world.tasks) == (0, 2)
        assert [event.task_id for event in world.told(events.Accepted)] == [None, None]
        assert all(event.task_id for event in world.told(events.Ended))

    virtually(test)


def test_a_task_known_by_its_id_alone_is_carried_to_its_clip(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())

        def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
            content.pop("socketaccesstoken", None)
            if path.startswith("/Run") and "taskid" in content:
                content["taskid"] = int(content["taskid"])
                return content
            return None

        twisted(world, twist)
        assert (await world.run(text_jobs(2))).exit_code == 0

    virtually(test)


def test_an_answer_that_names_another_attempts_task_is_not_believed(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        first: list[dict[str, Any]] = []

        def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
            if not path.startswith("/Run"):
                return None
            first.append(content)
            return first[0] if len(first) == 2 else None

        twisted(world, twist)
        finished = await world.run(text_jobs(2), settle_seconds=5)
        assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)
        assert len(world.told(events.Unknown)) == 1

    virtually(test)


def test_a_job_that_is_renamed_while_its_task_runs_is_not_paid_for_twice(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        await world.run_until(1.0, [Job(id="cat", prompt="it yawns")])
        finished = await world.run([Job(id="tom", prompt="it yawns")])
        assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 1)

    virtually(test)


def test_a_cost_below_nothing_gives_no_money_back(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())

        def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
            for task in content.get("tasklist", []):
                task["totalcost"] = "-5"
            return content if "tasklist" in content else None

        twisted(world, twist)
        assert (await world.run(text_jobs(1))).spent_usd == 0

    virtually(test)


def test_a_token_whose_task_is_called_by_anothers_id_is_carried_all_the_same(tmp_path: Path) -> None:
    async def test() -> None:
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

    virtually(test)


def test_outputs_that_lag_behind_their_status_are_waited_for(tmp_path: Path) -> None:
    async def test() -> None:
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

    virtually(test)


def test_a_paid_task_without_any_output_is_lost_and_said_so(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())

        def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
            for task in content.get("tasklist", []):
                task["outputs"] = []
            return content if "tasklist" in content else None

        twisted(world, twist)
        finished = await world.run(text_jobs(1))
        assert (finished.exit_code, finished.lost, world.tasks) == (1, 1, 1)
        assert f"{finished.spent_usd:f}" == "0.05"

    virtually(test)


def test_a_cancelled_task_that_has_outputs_and_a_cost_is_settled_and_fetched(tmp_path: Path) -> None:
    async def test() -> None:
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

    virtually(test)


def test_a_failure_that_was_billed_is_not_tried_again(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox(faults={"failed_render": 1.0}))

        def twist(path: str, content: dict[str, Any]) -> dict[str, Any] | None:
            for task in content.get("tasklist", []):
                if task["pexit"] == "1":
                    task["totalcost"] = "0.030000000000"
            return content if "tasklist" in content else None

        twisted(world, twist)
        finished = await world.run(text_jobs(1))
        assert (finished.exit_code, finished.failed, world.tasks) == (1, 1, 1)
        (failed,) = world.told(events.Failed)
        assert f"{failed.billed_usd:f}" == "0.03"
        assert f"{finished.spent_usd:f}" == "0.03"

    virtually(test)


def test_a_task_that_is_cancelled_from_elsewhere_is_run_again_only_when_asked(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox(task_seconds=(20, 20)))

        async def act(runner: Runner) -> None:
            await anyio.sleep(5)
            (task,) = world.sandbox.account.tasks.values()
            world.sandbox.end(task)

        finished = await world.run(text_jobs(1), act)
        assert (finished.exit_code, finished.cancelled, world.tasks) == (1, 1, 1)
        assert len(world.told(events.Cancelled)) == 1
        finished = await world.run(text_jobs(1))
        assert (finished.exit_code, finished.cancelled, world.tasks) == (1, 1, 1)
        finished = await world.run(text_jobs(1), retry_failed=True)
        assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)

    virtually(test)


def test_a_task_that_vanishes_for_good_is_lost_with_its_id(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox(task_seconds=(20, 20)))

        async def act(runner: Runner) -> None:
            await anyio.sleep(5)
            world.sandbox.account.tasks.clear()
            world.sandbox.account.by_token.clear()

        finished = await world.run(text_jobs(1), act)
        assert (finished.exit_code, finished.lost) == (1, 1)
        (lost,) = world.told(events.Lost)
        assert lost.task_id
        assert "does not know this task" in lost.reason

    virtually(test)


@pytest.mark.parametrize("limit", [1, 3])
def test_another_program_that_holds_the_limit_is_waited_for(tmp_path: Path, limit: int) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox(concurrency_limit=limit, task_seconds=(2, 2)))
        account = world.sandbox.account
        for number in range(limit):
            account.make({"prompt": f"another's {number}"}, None, 0, 120.0, now())
        finished = await world.run(text_jobs(2))
        assert (finished.exit_code, finished.stored) == (0, 2)
        waits = [event.after_seconds for event in world.told(events.Limited)]
        assert waits[0] == 5
        assert max(wait for wait in waits if wait is not None) <= 60
        assert len(waits) < 12

    virtually(test)


def test_a_rate_limit_slows_everything_and_fails_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        world.sandbox.faults.next("http_429", times=15)
        finished = await world.run(text_jobs(10))
        assert (finished.exit_code, finished.stored, world.tasks) == (0, 10, 10)

    virtually(test)


class Frail:
    """Opens journals whose disk refuses some rows for a while."""

    def __init__(self, method: str, times: float) -> None:
        self.method, self.times = method, times

    @asynccontextmanager
    async def open(self, *args: Any, **options: Any) -> AsyncIterator[Journal]:
        async with Journal.open(*args, **options) as journal:
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
        made = make()
        made.open_journal = Frail(method, times).open
        return made

    world.services = services  # type: ignore[method-assign] # this world's disk is another


@pytest.mark.parametrize("method", ["intent", "ended", "checked", "stored"])
def test_a_disk_that_refuses_a_row_stops_the_run_and_nothing_is_lost(tmp_path: Path, method: str) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        frail(world, method)
        finished = await world.run(text_jobs(3), concurrency=1)
        assert finished.exit_code == 6
        assert world.tasks <= 2  # a slot is free once its task has ended
        del world.services
        finished = await world.run(text_jobs(3), settle_seconds=5)
        assert (finished.exit_code, len(world.clips), world.tasks) == (0, 3, 3)

    virtually(test)


def test_an_answer_that_the_disk_refuses_is_kept_until_it_takes_it(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        frail(world, "accepted", times=5)
        finished = await world.run(text_jobs(3), concurrency=1)
        assert (finished.exit_code, finished.stored, world.tasks) == (6, 1, 1)
        del world.services
        assert (await world.run(text_jobs(3))).exit_code == 0
        assert world.tasks == 3

    virtually(test)


def test_an_answer_that_the_disk_never_takes_is_named_at_the_exit_and_found_again(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        frail(world, "accepted")
        runners: list[Runner] = []

        async def act(runner: Runner) -> None:
            runners.append(runner)
            await anyio.sleep(10)
            runner.leave()

        finished = await world.run(text_jobs(2), act, concurrency=1)
        assert (finished.exit_code, finished.stored, world.tasks) == (6, 0, 1)
        assert runners[0].unsaved == list(world.sandbox.account.tasks)
        del world.services
        finished = await world.run(text_jobs(2), settle_seconds=5)
        assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)

    virtually(test)


def test_attempts_of_jobs_that_the_batch_no_longer_names_are_drained_all_the_same(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        await world.run_until(1.0, text_jobs(2))
        assert world.tasks == 2
        finished = await world.run([Job(id="other", prompt="another scene")])
        assert (finished.exit_code, finished.jobs, world.tasks) == (0, 1, 3)
        assert {clip.stem for clip in world.clips} == {"job-0", "job-1", "other"}

    virtually(test)


def test_a_rotated_key_of_the_same_account_is_accepted_and_another_accounts_is_not(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        await world.run(text_jobs(1))
        world.sandbox.settings.api_key = world.key = "rotated"
        assert (await world.run(text_jobs(2))).exit_code == 0
        other = World(tmp_path, make_sandbox(api_key="somebody"), key="somebody")
        finished = await other.run(text_jobs(3))
        assert (finished.exit_code, other.tasks) == (6, 0)
        (stopping,) = other.told(events.Stopping)
        assert "another account" in stopping.reason

    virtually(test)


def test_a_name_that_another_job_of_the_batch_owns_fails_before_it_costs_anything(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        await world.run([Job(id="cat", prompt="it yawns")])
        # the first batch's job took the name `cat`; this batch names it again, and another that wants its file
        (world.output / "dog.json").write_text("mine")
        finished = await world.run([Job(id="cat", prompt="it yawns"), Job(id="dog", prompt="it barks")])
        assert (finished.exit_code, finished.failed, world.tasks) == (1, 1, 1)

    virtually(test)
