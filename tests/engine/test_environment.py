"""The parts of a run's environment, with a fixed clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from harness import KEY, ORIGIN, SECRET, make_sandbox
from pydantic import SecretStr

from wan_async import errors
from wan_async.domain import events, prices
from wan_async.domain.attempt import Account, Attempt
from wan_async.domain.batch import enlist, from_jobs
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import Job, parameters_of
from wan_async.domain.model import WAN
from wan_async.domain.remote_task import TaskId, TaskToken
from wan_async.engine.active_job import Work
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.environment import Environment, make_environment
from wan_async.engine.matching import Contents
from wan_async.engine.options import Options
from wan_async.engine.reconciler import Reconciler
from wan_async.engine.run_events import EventStream
from wan_async.engine.runs_in_flight import LEAVE_SECONDS
from wan_async.engine.shutdown import SAME_FAILURES
from wan_async.engine.tracker import Tracker
from wan_async.journal.sqlite import SqliteJournal
from wan_async.outputs.downloader import Downloader
from wan_async.sandbox import Sandbox, transport
from wan_async.threads import inline
from wan_async.wiro.api import Api
from wan_async.wiro.notification_messages import Hint

pytestmark = pytest.mark.anyio

AT = 1_790_000_000.0
PLAIN = parameters_of(Job(prompt="rain"), "")
SEEN = Hint(task_id=TaskId("7"), token=TaskToken("t"), status="task_output", percent=40.0)


@dataclass
class Run:
    """A run's environment and its event stream."""

    environment: Environment
    stream: EventStream
    sandbox: Sandbox

    async def emitted(self) -> list[events.Event]:
        """Close the stream; return the events so far."""
        self.stream.close()
        return [event async for event in self.stream]


@asynccontextmanager
async def running(folder: Path, *, socket_url: str | None = None, **options: Any) -> AsyncIterator[Run]:
    stream, sandbox = EventStream(), make_sandbox(now=lambda: AT)
    api = Api(SecretStr(KEY), SecretStr(SECRET), transport=transport(sandbox), clock=lambda: AT, draw=lambda: 0.5)
    async with api, Downloader(transport=transport(sandbox), offload=inline) as downloader:
        dependencies = Dependencies(
            api, downloader, offload=inline, clock=lambda: AT, draw=lambda: 0.5, inline=True, socket_url=socket_url
        )
        async with dependencies.open_journal(folder / "home", Account(ORIGIN, KEY), inline=True) as journal:
            environment = make_environment(journal, dependencies, Options(**options), folder, stream, "r")
            yield Run(environment, stream, sandbox)


def attempt_of(job: str = "a", number: int = 1, **fields: Any) -> Attempt:
    return Attempt(job=job, number=number, content=f"content of {job}", form=PLAIN, image="", name=job, **fields)


async def test_an_event_has_the_time_and_the_run(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.environment.events.emit(events.Limited, code=96, after_seconds=None, concurrency=3)
        assert await run.emitted() == [events.Limited(at=AT, run="r", code=96, after_seconds=None, concurrency=3)]


async def test_an_event_about_a_job_has_its_key_and_the_number_of_its_attempt(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        for work in (Work("a", None), Work("a", None, attempt_of(number=4))):
            run.environment.events.tell(events.Retrying, work, reason="busy", after_seconds=1.0)
        assert await run.emitted() == [
            events.Retrying(at=AT, run="r", job="a", attempt=number, reason="busy", after_seconds=1.0)
            for number in (0, 4)
        ]


def test_the_content_of_work_is_that_of_its_job_else_of_its_attempt_else_empty() -> None:
    assert Work("a", None).content == ""
    assert Work("a", None, attempt_of()).content == "content of a"
    (job,) = enlist(from_jobs([Job(prompt="rain")]), {})
    assert Work("a", job, attempt_of()).content == job.content != "content of a"


async def test_only_the_first_reason_to_stop_is_reported_and_every_exit_code_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        assert not run.environment.shutdown.stopping
        run.environment.shutdown.stop("Ctrl-C", ExitCode.INTERRUPTED)
        run.environment.shutdown.stop("the budget is used up", ExitCode.FUNDS)
        run.environment.shutdown.stop("Ctrl-C again", ExitCode.INTERRUPTED)
        assert run.environment.shutdown.stopping
        assert (run.environment.shutdown.reason, run.environment.shutdown.exit_codes) == ("Ctrl-C", {130, 3})
        assert await run.emitted() == [events.Stopping(at=AT, run="r", reason="Ctrl-C")]


async def test_a_stop_wakes_all_waits_and_pauses(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        results: list[bool] = []

        async def pause() -> None:
            results.append(await run.environment.shutdown.pause(3600))

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(pause)
                group.start_soon(run.environment.wake.wait)
                await anyio.wait_all_tasks_blocked()
                run.environment.shutdown.stop("Ctrl-C", ExitCode.INTERRUPTED)
        assert results == [False]
        assert not await run.environment.shutdown.pause(3600), "a pause after the stop returns at once"


async def test_an_uninterrupted_pause_returns_true(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        assert await run.environment.shutdown.pause(0)


@pytest.mark.virtual_time
async def test_a_pause_and_a_wait_last_as_long_as_requested(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        began = anyio.current_time()
        assert await run.environment.shutdown.pause(90)
        assert anyio.current_time() - began == pytest.approx(90)
        await run.environment.wake.wait(10)
        assert anyio.current_time() - began == pytest.approx(100)


async def test_a_wake_up_before_the_wait_is_not_lost_and_ends_one_wait(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.environment.wake.set()
        with anyio.fail_after(5):
            await run.environment.wake.wait()
        with anyio.move_on_after(0) as scope:
            await run.environment.wake.wait()
        assert scope.cancelled_caught


async def test_a_released_slot_wakes_the_waiters(tmp_path: Path) -> None:
    async with running(tmp_path, concurrency=1) as run:
        run.environment.slots.window.start()
        assert not run.environment.slots.window.may_start(AT)
        run.environment.slots.released(was_running=False)
        assert (run.environment.slots.window.may_start(AT), run.environment.slots.releases) == (True, 1)
        with anyio.fail_after(5):
            await run.environment.wake.wait()


@pytest.mark.parametrize(
    ("options", "first", "most"), [({}, 8, 256), ({"max_concurrency": 4}, 4, 4), ({"concurrency": 50}, 50, 50)]
)
async def test_the_options_set_the_initial_and_maximal_concurrency(
    tmp_path: Path, options: dict[str, Any], first: int, most: int
) -> None:
    async with running(tmp_path, **options) as run:
        assert (run.environment.slots.window.limit, run.environment.slots.window.maximum) == (first, most)


async def test_a_protected_call_returns_its_result(tmp_path: Path) -> None:
    async def send() -> str:
        await anyio.lowlevel.checkpoint()
        return "an answer"

    async with running(tmp_path) as run:
        assert await run.environment.in_flight.protect(send) == "an answer"


class ProtectedCall:
    """A call to protect: sets `begun`, waits for `answered`, then commits."""

    def __init__(self) -> None:
        self.begun, self.answered = anyio.Event(), anyio.Event()
        self.committed = False

    async def __call__(self) -> str:
        self.begun.set()
        await self.answered.wait()
        await anyio.lowlevel.checkpoint()
        self.committed = True
        return "an answer"


async def test_a_cancelled_scope_does_not_interrupt_a_protected_call(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        call, scope = ProtectedCall(), anyio.CancelScope()
        outcome: list[str | None] = []

        async def protected() -> None:
            with scope:
                outcome.append(await run.environment.in_flight.protect(call))
                await anyio.sleep_forever()

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(protected)
                await call.begun.wait()
                scope.cancel()
                await anyio.wait_all_tasks_blocked()
                assert not call.committed
                call.answered.set()
        assert call.committed
        assert scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancellation_does_not_interrupt_a_protected_call(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        call = ProtectedCall()
        task = asyncio.create_task(run.environment.in_flight.protect(call))
        await call.begun.wait()
        for _ in range(3):
            task.cancel()
            await anyio.wait_all_tasks_blocked()
        assert not call.committed
        assert not task.done()
        call.answered.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert call.committed


@pytest.mark.virtual_time
async def test_leaving_sets_a_deadline_for_current_and_later_protected_calls(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        ends: list[float] = []

        async def send() -> None:
            await run.environment.in_flight.protect(anyio.sleep_forever)
            ends.append(anyio.current_time() - began)

        async with anyio.create_task_group() as group:
            began = anyio.current_time()
            group.start_soon(send)
            await anyio.sleep(500)
            group.start_soon(send)
            await anyio.sleep(0.5)
            run.environment.in_flight.leave()
            group.start_soon(send)
        assert ends == pytest.approx([500.5 + LEAVE_SECONDS] * 3)
        assert run.environment.in_flight._sending == {}


async def test_leaving_with_nothing_in_flight_does_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.environment.in_flight.leave()
        await run.environment.in_flight.wait()
        assert await run.emitted() == []


async def test_waiting_for_runs_in_flight_does_not_include_later_ones(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        first, later, waited = ProtectedCall(), ProtectedCall(), anyio.Event()

        async def wait() -> None:
            await run.environment.in_flight.wait()
            waited.set()

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(run.environment.in_flight.protect, first)
                await first.begun.wait()
                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(run.environment.in_flight.protect, later)
                await later.begun.wait()
                assert not waited.is_set()
                first.answered.set()
                await waited.wait()
                assert not later.committed
                later.answered.set()


async def test_a_protected_call_that_raises_is_no_longer_in_flight(tmp_path: Path) -> None:
    async def fails() -> None:
        raise errors.Unusable("the disk is gone")

    async with running(tmp_path) as run:
        with pytest.raises(BaseExceptionGroup) as caught:
            await run.environment.in_flight.protect(fails)
        assert caught.group_contains(errors.Unusable, match="the disk is gone")
        with anyio.fail_after(5):
            await run.environment.in_flight.wait()


@pytest.mark.parametrize(
    ("ids", "high"), [((), 0), (("7", "12", "9"), 12), (("abc", "", "٣", "9" * 30), 0), (("5", "x6"), 5)]
)
async def test_the_highest_id_is_the_highest_number_and_ignores_other_ids(
    tmp_path: Path, ids: tuple[str, ...], high: int
) -> None:
    async with running(tmp_path) as run:
        for task_id in ids:
            run.environment.account.note_id(task_id)
        assert run.environment.account.high_id == high


async def test_there_is_no_price_before_an_estimate_or_a_settled_task(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        assert run.environment.prices.price(PLAIN) is None


async def test_the_reserved_price_is_the_estimate_or_the_dearest_equal_task_so_far(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        prices = run.environment.prices
        prices.settled(attempt_of(cost=60_000))
        assert prices.price(PLAIN) == 60_000, "without an estimate it is the dearest so far"
        await prices.learn()
        assert prices.price(PLAIN) == 50_000, "the journal has no such task"
        for cost, expected in ((None, 50_000), (0, 50_000), (40_000, 50_000), (70_000, 70_000), (65_000, 70_000)):
            prices.settled(attempt_of(cost=cost))
            assert prices.price(PLAIN) == expected
        other = parameters_of(Job(prompt="rain", resolution="720P"), "")
        assert prices.price(other) != 70_000


async def test_a_settled_cost_wakes_the_waiters(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.environment.prices.settled(attempt_of(cost=None))
        with anyio.fail_after(5):
            await run.environment.wake.wait()


async def test_an_unavailable_model_stops_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tool() -> prices.Tool:
        raise errors.NotFound("no such model")

    async with running(tmp_path) as run:
        monkeypatch.setattr(run.environment.api, "tool", tool)
        with pytest.raises(errors.StopBatch, match="the model is not available: no such model") as caught:
            await run.environment.prices.learn()
        assert not caught.value.authentication


async def test_a_field_that_was_echoed_changed_once_is_never_compared_again(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        account = run.environment.account
        assert account.echoed == []
        await account.note_echoes({"prompt": True, "seed": True, "resolution": False})
        assert sorted(account.echoed) == ["prompt", "seed"]
        await account.note_echoes({"seed": False, "resolution": True})
        assert account.echoed == ["prompt"]
        await account.note_echoes({"seed": True, "prompt": True})
        assert account.echoed == ["prompt"]
        assert await run.environment.journal.echoes() == {"prompt": True, "seed": False, "resolution": False}
    async with running(tmp_path) as run:
        assert run.environment.account.echoed == []
        await run.environment.account.load()
        assert run.environment.account.echoed == ["prompt"]


async def test_echoes_can_be_learned_while_jobs_are_active_or_queued_and_none_was_seen(tmp_path: Path) -> None:
    async def no_contents() -> Contents:
        return Contents(WAN)

    async with running(tmp_path) as run:
        reconciler, slots = Reconciler(run.environment, no_contents), run.environment.slots
        assert not reconciler._may_learn_echoes()
        slots.set_queued(1)
        assert reconciler._may_learn_echoes()
        slots.set_queued(0)
        slots.window.start()
        slots.window.accepted()
        assert reconciler._may_learn_echoes()
        await run.environment.account.note_echoes({})
        assert not reconciler._may_learn_echoes()


async def test_only_changes_of_the_echo_are_written_to_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, bool]] = []

    async def echoed(journal: SqliteJournal, seen: dict[str, bool]) -> None:
        written.append(seen)

    monkeypatch.setattr(SqliteJournal, "echoed", echoed)
    async with running(tmp_path) as run:
        for seen in ({}, {"prompt": True}, {"prompt": True}, {"prompt": False}, {"prompt": False}, {"prompt": True}):
            await run.environment.account.note_echoes(seen)
    assert written == [{"prompt": True}, {"prompt": False}]


@pytest.mark.parametrize(
    ("socket_url", "track"), [(None, "auto"), (None, "socket"), ("wss://socket.example/v1", "poll")]
)
async def test_without_a_socket_nothing_is_subscribed(tmp_path: Path, socket_url: str | None, track: str) -> None:
    async with running(tmp_path, socket_url=socket_url, track=track) as run:
        notifications = run.environment.hints
        assert notifications._socket is None
        with notifications.following(Work("a", None), "7", "t"):
            pass
        await notifications.serve()
        assert await run.emitted() == []


@pytest.mark.parametrize("track", ["auto", "socket"])
async def test_notifications_of_a_followed_task_become_events(tmp_path: Path, track: str) -> None:
    async with running(tmp_path, socket_url="wss://socket.example/v1", track=track) as run:
        notifications, work = run.environment.hints, Work("a", None, attempt_of())
        socket = notifications._socket
        assert socket is not None
        assert socket._patient == (track == "socket")
        with pytest.raises(RuntimeError, match="over"):
            with notifications.following(work, "1", "t"):
                assert socket._tokens == {"t"}
                notifications.hint(Hint(None, TaskToken("another"), "task_output", 99.0))
                notifications.hint(Hint(TaskId("7"), None, "task_output", 98.0))
                notifications.hint(Hint(TaskId("1"), None, "task_output", 41.0))
                notifications.hint(Hint(TaskId("1"), None, "task_output", 42.0))  # too soon after the previous one
                raise RuntimeError("over")
        assert socket._tokens == set()
        notifications.hint(Hint(None, TaskToken("t"), "task_end", 100.0))
        assert await run.emitted() == [
            events.Progress(at=AT, run="r", job="a", attempt=1, percent=41.0, status="task_output")
        ]


async def test_a_task_without_a_token_is_not_subscribed(tmp_path: Path) -> None:
    async with running(tmp_path, socket_url="wss://socket.example/v1") as run:
        notifications = run.environment.hints
        assert notifications._socket is not None
        with notifications.following(Work("a", None), "1", None):
            assert notifications._socket._tokens == set()


async def test_the_tracker_gets_every_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[Hint] = []
    monkeypatch.setattr(Tracker, "hint", lambda tracker, hint: received.append(hint))
    async with running(tmp_path, socket_url="wss://socket.example/v1") as run:
        run.environment.hints.hint(SEEN)
        assert received == [SEEN]


async def test_a_lease_releases_its_slot_and_its_lock_once(tmp_path: Path) -> None:
    async with running(tmp_path, concurrency=2) as run:
        slots = run.environment.slots
        lease = slots.lease("content")
        assert (slots.window.active, slots.sending, slots.is_locked("content")) == (1, 1, True)
        for _ in range(2):
            lease.sent()
            lease.accepted()
            lease.unlock()
            lease.release()
        assert (slots.window.active, slots.window.running, slots.sending, slots.releases) == (0, 0, 0, 1)
        assert not slots.is_locked("content")
        lease.take(running=True)  # its task was found later
        lease.take(running=True)
        assert (slots.window.active, slots.window.running) == (1, 1)


async def test_several_identical_failures_in_a_row_stop_the_run(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        shutdown = run.environment.shutdown
        for message in ("a", "a", "a", "a", "b", "a", "a", "a", "a"):
            shutdown.failed(message)
        shutdown.succeeded()
        for _ in range(SAME_FAILURES - 1):
            shutdown.failed("a")
        assert not shutdown.stopping
        shutdown.failed("a")
        assert (shutdown.stopping, shutdown.exit_codes) == (True, {1})


def test_the_default_options_pay_nothing_twice() -> None:
    options = Options()
    assert (options.retry_failed, options.rerender, options.resubmit_unknown) == (False, False, False)
    assert (options.retries, options.settle_seconds, options.budget_micros) == (2, 30.0, None)
