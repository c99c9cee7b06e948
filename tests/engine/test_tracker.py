"""The tracker finds ends of tasks by notifications and polls, and confirms them by Task/Detail."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import anyio
import pytest
from harness import virtually

from wan_async import errors
from wan_async.domain.remote_task import TaskDetail, TaskId, TaskToken
from wan_async.engine.options import PATIENCE_SECONDS
from wan_async.engine.tracker import LIST_FROM, MAX_REQUESTS, SAFEGUARDS_PER_SECOND, UNEXPECTED_FAULTS, Tracker
from wan_async.engine.waiting_task import CONFIRM_AGAIN_SECONDS, DOUBTFUL_SECONDS, STUCK_SECONDS
from wan_async.wiro import protocol, schemas
from wan_async.wiro.notification_messages import Hint

Answer = TaskDetail | Exception | None


def task(status: str = "task_start", task_id: str = "1", pexit: str | None = None) -> TaskDetail:
    return TaskDetail(id=task_id, status=status, pexit=pexit)


def done(task_id: str = "1") -> TaskDetail:
    return task("task_postprocess_end", task_id, "0")


class Service:
    """Answers Task/Detail and Task/List: a task is active until its entry in `ends`.

    Args:
        script: the answer to the n-th poll of a task, from 1; None where the task's end decides.
        trip: seconds that an answer takes.
    """

    def __init__(self, script: Callable[[str, int], Answer] = lambda name, number: None, trip: float = 0.0) -> None:
        self.ends: dict[str, float] = {}
        self.polls: list[tuple[float, str]] = []
        self.times: Counter[str] = Counter()
        self.peak = self.open = 0
        self.script = script
        self.trip = trip
        self.lists = 0
        self.listing: Callable[[], list[TaskDetail]] = list
        self.page_cap = protocol.LIST_PAGE

    async def detail(
        self, task_id: TaskId | None = None, token: TaskToken | None = None, *, tries: int = 5
    ) -> TaskDetail:
        assert tries == 1, "the tracker retries by itself"
        name = task_id or token or ""
        self.polls.append((anyio.current_time(), name))
        self.times[name] += 1
        number = self.times[name]
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            if self.trip:
                await anyio.sleep(self.trip)
            answer = self.script(name, number)
            if isinstance(answer, Exception):
                raise answer
            return answer or self.state(name)
        finally:
            self.open -= 1

    async def list_tasks(self, start: int = 0, limit: int = protocol.LIST_PAGE, *, tries: int = 5) -> schemas.Answer:
        self.lists += 1
        await anyio.sleep(self.trip)
        page = self.listing()[start : start + min(limit, self.page_cap)]
        return schemas.Answer.model_construct(tasklist=page)

    def state(self, name: str) -> TaskDetail:
        return done(name) if anyio.current_time() >= self.ends.get(name, 0.0) else task("task_start", name)

    def newest(self) -> list[TaskDetail]:
        return [self.state(name) for name in reversed(self.ends)]


@asynccontextmanager
async def tracking(
    service: Service,
    draw: float = 0.5,
    on_outage: Callable[[errors.WanError, float], None] = lambda error, seconds: None,
    patience: float = PATIENCE_SECONDS,
) -> AsyncIterator[Tracker]:
    tracker = Tracker(service, draw=lambda: draw, on_outage=on_outage, patience=lambda: patience)
    async with anyio.create_task_group() as group:
        group.start_soon(tracker.serve)
        yield tracker
        group.cancel_scope.cancel()


async def wait(tracker: Tracker, name: str = "1", seen: list[TaskDetail] | None = None) -> TaskDetail:
    notes = [] if seen is None else seen
    return await tracker.wait_ended(TaskId(name), None, since=anyio.current_time(), seen=notes.append)


async def wait_for_old(tracker: Tracker, name: str = "1") -> TaskDetail:
    """Wait for a task of an earlier process; its first poll is due at once."""
    return await tracker.wait_ended(TaskId(name), None, since=anyio.current_time() - 3600)


def end_of(task_id: str | None = None, token: str | None = None, *, over: bool = True) -> Hint:
    return Hint(
        TaskId(task_id) if task_id else None, TaskToken(token) if token else None, "task_postprocess_end", over=over
    )


async def rely_on_socket(tracker: Tracker, service: Service) -> None:
    """The socket has reported an end, and tasks take about 100 s: the next safeguard is due after 125 s."""
    tracker.durations.note(100.0, 100.0)
    tracker.connected(True)
    async with anyio.create_task_group() as group:
        group.start_soon(wait, tracker, "first")
        await anyio.sleep(0.1)
        tracker.hint(end_of("first"))
    service.polls.clear()


def durations_of(count: int, shortest: float = 20.0, longest: float = 40.0) -> dict[str, float]:
    """Durations of `count` tasks by name, in random order."""
    seconds = [shortest + (longest - shortest) * number / count for number in range(count)]
    random.Random(7).shuffle(seconds)
    return {str(number + 1000): each for number, each in enumerate(seconds)}


async def latencies(service: Service, ends: dict[str, float], *, connected: bool = False) -> list[float]:
    """Sorted latencies with which the ends of tasks are found that all begin now."""
    service.ends = {name: anyio.current_time() + seconds for name, seconds in ends.items()}
    late = list[float]()

    async def one(name: str) -> None:
        assert await wait(tracker, name) == done(name)
        late.append(anyio.current_time() - service.ends[name])

    async with tracking(service) as tracker, anyio.create_task_group() as group:
        tracker.connected(connected)
        for name in ends:
            group.start_soon(one, name)
    return sorted(late)


def median(values: list[float]) -> float:
    return values[len(values) // 2]


@pytest.mark.virtual_time
async def test_a_task_is_polled_until_it_has_ended() -> None:
    service, seen = Service(), list[TaskDetail]()
    service.ends["1"] = 5.0
    async with tracking(service) as tracker:
        assert await wait(tracker, seen=seen) == done()
    assert [answer.status for answer in seen] == ["task_start"] * (len(service.polls) - 1)
    assert [at for at, _ in service.polls] == [1, 2, 3, pytest.approx(4.05), pytest.approx(5.4675)]
    assert len(tracker.durations) == 1
    assert 4.05 <= (tracker.durations.quantile(0.5) or 0.0) <= 5.5


@pytest.mark.virtual_time
async def test_an_unknown_status_is_not_an_end() -> None:
    service = Service(lambda name, number: task("task_dreaming") if number < 4 else None)
    async with tracking(service) as tracker:
        assert await wait(tracker) == done()
    assert len(service.polls) == 4


@pytest.mark.virtual_time
@pytest.mark.parametrize(("status", "pexit"), [("task_postprocess_end", "1"), ("task_cancel", "0")])
async def test_every_terminal_status_ends_the_wait_but_only_success_adds_a_duration(status: str, pexit: str) -> None:
    async with tracking(Service(lambda name, number: task(status, pexit=pexit))) as tracker:
        assert (await wait(tracker)).status == status
    assert len(tracker.durations) == 0


@pytest.mark.virtual_time
async def test_a_task_that_is_not_visible_yet_is_polled_again() -> None:
    service = Service(lambda name, number: errors.NotFound("There is no task yet.") if number <= 3 else None)
    service.ends["1"] = 8.0
    async with tracking(service) as tracker:
        assert await wait(tracker) == done()
    assert [at for at, _ in service.polls[:4]] == [1, 2, 3.5, 5.75]


@pytest.mark.virtual_time
async def test_single_denials_do_not_make_a_task_missing() -> None:
    service = Service(lambda name, number: errors.NotFound("There is no task.") if number % 3 == 0 else None)
    service.ends["1"] = 10 * PATIENCE_SECONDS
    async with tracking(service) as tracker:
        assert await wait(tracker) == done()


@pytest.mark.virtual_time
@pytest.mark.parametrize("patience", [0.0, 20.0, PATIENCE_SECONDS])
async def test_a_task_that_is_denied_for_longer_than_the_patience_is_missing(patience: float) -> None:
    service = Service(lambda name, number: errors.NotFound("There is no task."))
    async with tracking(service, patience=patience) as tracker:
        with pytest.raises(errors.Missing, match=r"There is no task\.") as missing:
            await wait(tracker)
    assert missing.value.task_id == "1"
    assert patience <= service.polls[-1][0] - service.polls[0][0] <= patience + 15


def until(seconds: float, answer: Callable[[], Answer]) -> Callable[[str, int], Answer]:
    return lambda name, number: answer() if anyio.current_time() < seconds else None


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("script", "ends", "least"),
    [
        (until(300, lambda: errors.NotFound("no task")), 400.0, DOUBTFUL_SECONDS),
        (until(9000, lambda: task("task_error")), 9100.0, STUCK_SECONDS),
    ],
)
async def test_a_task_that_is_denied_or_in_task_error_for_long_is_doubtful_once_and_still_tracked(
    script: Callable[[str, int], Answer], ends: float, least: float
) -> None:
    doubts: list[float] = []
    service = Service(script)
    service.ends["1"] = ends
    async with tracking(service) as tracker:
        ended = await tracker.wait_ended(
            TaskId("1"),
            None,
            since=anyio.current_time(),
            doubtful=lambda reason: doubts.append(anyio.current_time()),
        )
    assert ended == done()
    assert len(doubts) == 1
    assert least <= doubts[0] <= least * 1.5


@pytest.mark.virtual_time
async def test_task_error_is_not_an_end() -> None:
    service, seen = (
        Service(lambda name, number: task("task_error") if number in (1, 3, 4) else None),
        list[TaskDetail](),
    )
    service.ends["1"] = 20.0
    async with tracking(service) as tracker:
        assert await wait(tracker, seen=seen) == done()
    assert [answer.status for answer in seen][:4] == ["task_error", "task_start", "task_error", "task_error"]


@pytest.mark.virtual_time
async def test_a_callback_that_raises_affects_its_own_task_alone() -> None:
    def fails(task: TaskDetail) -> None:
        raise ZeroDivisionError

    service = Service()
    service.ends |= {"good": 100.0, "bad": 100.0}
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        group.start_soon(wait, tracker, "good")
        assert await tracker.wait_ended(TaskId("bad"), None, since=anyio.current_time(), seen=fails) == done("bad")


@pytest.mark.virtual_time
async def test_time_without_answers_between_two_denials_does_not_count() -> None:
    def script(name: str, number: int) -> Answer:
        if number in (1, 20):
            return errors.NotFound("There is no task.")
        return errors.TryLater("no network") if number < 20 else None

    service = Service(script)
    async with tracking(service, patience=60.0) as tracker:
        assert await wait(tracker) == done()
    assert service.polls[19][0] > 120


@pytest.mark.virtual_time
async def test_an_unknown_endpoint_is_not_a_denial() -> None:
    gateway = errors.NoSuchAddress("the API knows no such address (404): is the base URL right?")
    service = Service(lambda name, number: gateway if anyio.current_time() < 10 * PATIENCE_SECONDS else None)
    async with tracking(service) as tracker:
        assert await wait(tracker) == done()


@pytest.mark.virtual_time
async def test_retry_after_is_respected() -> None:
    busy = errors.TryLater("429", after_seconds=40.0)
    service = Service(lambda name, number: busy if number == 1 else None)
    async with tracking(service) as tracker:
        await wait(tracker)
    assert [at for at, _ in service.polls] == [1, 41]


@pytest.mark.virtual_time
async def test_failed_polls_back_off_until_one_is_answered() -> None:
    fault = errors.TryLater("502")
    service = Service(lambda name, number: fault if number not in (5, 7) else task() if number == 5 else None)
    async with tracking(service, draw=0.999999) as tracker:
        await wait(tracker)
    at = [round(at, 2) for at, _ in service.polls]
    assert [later - sooner for sooner, later in pairwise(at[:5])] == pytest.approx([0.5, 1, 2, 4])
    assert at[6] - at[5] == pytest.approx(0.5)


@pytest.mark.virtual_time
@pytest.mark.parametrize("error", [errors.JobFailed("refused (400)"), errors.AtLimit("96"), errors.TryLater("?")])
async def test_other_errors_do_not_end_a_wait(error: errors.WanError) -> None:
    async with tracking(Service(lambda name, number: error if number < 30 else None)) as tracker:
        assert await wait(tracker) == done()


@pytest.mark.virtual_time
async def test_an_error_that_stops_the_batch_ends_all_waits() -> None:
    refused = errors.StopBatch("the API refuses the credentials", authentication=True)
    service, stopped = Service(lambda name, number: refused, trip=0.05), list[str]()

    async def waits(name: str) -> None:
        with pytest.raises(errors.StopBatch):
            await wait(tracker, name)
        stopped.append(name)

    async with tracking(service) as tracker, anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(waits, str(number))
    assert len(stopped) == 100
    assert len(service.polls) <= MAX_REQUESTS


@pytest.mark.virtual_time
async def test_a_task_without_an_id_is_tracked_by_its_token() -> None:
    service = Service()
    async with tracking(service) as tracker:
        ended = await tracker.wait_ended(None, TaskToken("secret"), since=anyio.current_time())
    assert ended.id == "secret"


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "hint",
    [
        end_of("2"),
        end_of(token="another"),
        end_of("1", over=False),
        Hint(None, None, "task_end", over=True),
    ],
)
async def test_a_notification_about_another_task_or_status_moves_no_poll(hint: Hint) -> None:
    service = Service()
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        group.start_soon(wait, tracker)
        await anyio.sleep(0.5)
        tracker.hint(hint)
    assert service.polls == [(1.0, "1")]


@pytest.mark.virtual_time
async def test_a_notification_right_after_a_poll_leads_to_another_soon() -> None:
    service = Service()
    service.ends["1"] = 1.1
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        group.start_soon(wait, tracker)
        await anyio.sleep(1.1)
        tracker.hint(end_of("1"))
    assert [at for at, _ in service.polls] == [1.0, 1.0 + CONFIRM_AGAIN_SECONDS]


@pytest.mark.virtual_time
async def test_a_task_of_an_earlier_process_is_polled_at_once_and_adds_no_duration_by_its_age() -> None:
    service = Service()
    async with tracking(service) as tracker:
        await tracker.wait_ended(TaskId("1"), None, since=anyio.current_time() - 3600)
        assert service.polls == [(0.0, "1")]
        assert len(tracker.durations) == 0
        service.ends["2"] = 10.0
        await tracker.wait_ended(TaskId("2"), None, since=anyio.current_time() - 3600)
    assert 3600 <= (tracker.durations.quantile(0.5) or 0.0) <= 3640, "it was seen running"


@pytest.mark.virtual_time
async def test_a_task_whose_waiter_is_cancelled_is_no_longer_polled() -> None:
    service = Service()
    service.ends["1"] = service.ends["2"] = 1e9
    async with tracking(service) as tracker:
        with anyio.move_on_after(2.5):
            await wait(tracker)
        polls = len(service.polls)
        tracker.hint(end_of("1"))
        await anyio.sleep(1000)
    assert len(service.polls) == polls == 2


@pytest.mark.virtual_time
async def test_a_task_whose_waiter_is_cancelled_during_a_poll_is_not_polled_again() -> None:
    service = Service(trip=2.0)
    service.ends["1"] = 1e9
    async with tracking(service) as tracker:
        with anyio.move_on_after(2.5):
            await wait(tracker)
        await anyio.sleep(1000)
    assert [at for at, _ in service.polls] == [1.0]


@pytest.mark.virtual_time
async def test_a_task_whose_waiter_is_cancelled_while_the_poll_waits_for_a_slot_is_not_polled() -> None:
    service = Service(trip=5.0)
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        for number in range(MAX_REQUESTS):
            group.start_soon(wait, tracker, str(number))
        await anyio.sleep(0.5)
        with anyio.move_on_after(1.5):
            await wait(tracker, "late")
    assert "late" not in service.times


@pytest.mark.virtual_time
async def test_two_waiters_for_one_task_both_get_its_answer() -> None:
    service, got = Service(), list[TaskDetail]()
    service.ends["1"] = 4.0

    async def waits() -> None:
        got.append(await wait(tracker))

    async with tracking(service) as tracker, anyio.create_task_group() as group:
        group.start_soon(waits)
        group.start_soon(waits)
    assert got == [done(), done()]


@pytest.mark.parametrize("how", ["wait_for", "cancel"])
def test_native_cancellation_leaves_nothing_behind(how: str) -> None:
    async def main() -> None:
        service = Service(lambda name, number: task() if name == "1" else None)
        async with tracking(service) as tracker:
            waiting = asyncio.ensure_future(wait(tracker))
            await anyio.wait_all_tasks_blocked()
            if how == "cancel":
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(waiting, 0)
            tracker.hint(end_of("1"))
            assert await wait_for_old(tracker, "2") == done("2")
        assert service.times == {"2": 1}

    asyncio.run(main())


@pytest.mark.anyio
async def test_serving_can_be_cancelled_during_a_poll() -> None:
    service = Service(trip=3600.0)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            async with tracking(service) as tracker:
                group.start_soon(wait_for_old, tracker)
                await anyio.wait_all_tasks_blocked()
                assert service.open == 1
            group.cancel_scope.cancel()
    assert service.open == 0


@pytest.mark.virtual_time
async def test_unexpected_exceptions_about_a_task_end_its_wait_alone_after_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Service(lambda name, number: ZeroDivisionError(name) if name == "bad" else None)
    service.ends["good"] = 500.0
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        group.start_soon(wait, tracker, "good")
        with pytest.raises(ZeroDivisionError):
            await wait(tracker, "bad")
    assert service.times["bad"] == UNEXPECTED_FAULTS
    assert len([record for record in caplog.records if record.exc_info]) == 1


@pytest.mark.virtual_time
async def test_a_poll_in_progress_still_ends_its_wait_when_another_stops_the_batch() -> None:
    class Slow(Service):
        async def detail(
            self, task_id: TaskId | None = None, token: TaskToken | None = None, *, tries: int = 5
        ) -> TaskDetail:
            if task_id == "2":
                await anyio.sleep(0.1)
                raise errors.StopBatch("401")
            return await super().detail(task_id, token, tries=tries)

    async def refused() -> None:
        with pytest.raises(errors.StopBatch):
            await wait_for_old(tracker, "2")

    async with tracking(Slow()) as tracker, anyio.create_task_group() as group:
        group.start_soon(refused)
        assert await wait_for_old(tracker, "1") == done("1")


@pytest.mark.virtual_time
async def test_an_outage_is_reported_and_a_single_fault_is_not() -> None:
    outages: list[float] = []
    is_out = False
    service = Service(
        lambda name, number: errors.TryLater("no answer") if is_out or (name, number) == ("3", 2) else None
    )
    service.ends = {"1": 20.0, "2": 20.0, "3": 20.0}
    async with tracking(service, on_outage=lambda error, seconds: outages.append(seconds)) as tracker:
        async with anyio.create_task_group() as group:
            for name in service.ends:
                group.start_soon(wait, tracker, name)
            await anyio.sleep(5)
            assert outages == []
            is_out = True
            await anyio.sleep(10)
            assert outages
            assert len(service.polls) < 40
            group.cancel_scope.cancel()


@pytest.mark.virtual_time
async def test_an_outage_of_polls_is_reported_while_the_list_is_answered() -> None:
    outages: list[float] = []
    service = Service(lambda name, number: errors.TryLater("no answer") if name == "1" else None)
    service.ends = {"1": 2.0} | {f"other-{number}": 1000.0 for number in range(LIST_FROM)}
    service.listing = service.newest
    async with tracking(service, on_outage=lambda error, seconds: outages.append(seconds)) as tracker:
        async with anyio.create_task_group() as group:
            for name in service.ends:
                group.start_soon(wait, tracker, name)
            await anyio.sleep(9)
            group.cancel_scope.cancel()
    assert service.lists >= 5
    assert outages


@pytest.mark.virtual_time
async def test_an_end_is_found_soon_after_stray_faults_while_other_tasks_are_answered() -> None:
    service = Service(lambda name, number: errors.TryLater("502") if (name == "1" and number <= 6) else None)
    service.ends = {"1": 2.0} | {f"other-{number}": 60.0 for number in range(LIST_FROM - 2)}
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        for name in service.ends:
            group.start_soon(wait, tracker, name)
        await anyio.sleep(1.5)
        tracker.hint(end_of("1"))
        await anyio.sleep(8)
        assert service.times["1"] == 7, "with pauses that double it would take 20 s"
        group.cancel_scope.cancel()


@pytest.mark.virtual_time
async def test_polls_of_the_only_failing_task_back_off() -> None:
    service = Service(lambda name, number: errors.TryLater("no answer") if name == "bad" else None)
    service.ends["good"] = 90.0
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        for name in ("bad", "good"):
            group.start_soon(wait, tracker, name)
        await anyio.sleep(60)
        group.cancel_scope.cancel()
    polls = [at for at, name in service.polls if name == "bad"]
    assert polls[1] - polls[0] <= 0.5
    assert polls[-1] - polls[-2] >= 5


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "hint", [end_of(task_id="1"), end_of(token="secret"), end_of("1", "secret"), end_of("other", "secret")]
)
async def test_a_notification_by_token_or_id_makes_the_poll_due_now(hint: Hint) -> None:
    service = Service()
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        await rely_on_socket(tracker, service)

        async def waits() -> None:
            await tracker.wait_ended(TaskId("1"), TaskToken("secret"), since=anyio.current_time())

        group.start_soon(waits)
        await anyio.sleep(12.0)
        tracker.hint(hint)
    assert [(round(at), name) for at, name in service.polls] == [(12, "1")]


@pytest.mark.virtual_time
async def test_notifications_during_a_poll_lead_to_one_more_poll_at_once() -> None:
    service = Service(lambda name, number: task() if number == 1 else None, trip=2.0)
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        group.start_soon(wait_for_old, tracker)
        for _ in range(5):
            await anyio.sleep(0.2)
            tracker.hint(end_of("1"))
    assert [at for at, _ in service.polls] == [0.0, 2.0]
    assert service.peak == 1


@pytest.mark.virtual_time
async def test_a_reported_end_that_is_not_confirmed_is_polled_soon_and_then_backs_off() -> None:
    service = Service()
    service.ends["1"] = 3600.0
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        await rely_on_socket(tracker, service)
        group.start_soon(wait, tracker)
        await anyio.sleep(10.0)
        tracker.hint(end_of("1"))
    first = [at - service.polls[0][0] for at, _ in service.polls[:4]]
    assert first == pytest.approx([0, CONFIRM_AGAIN_SECONDS, 2 * CONFIRM_AGAIN_SECONDS, 4 * CONFIRM_AGAIN_SECONDS])
    assert len(service.polls) <= 3600 / 30 + 12
    assert service.polls[-1][0] <= 3600 + 31


@pytest.mark.virtual_time
async def test_a_socket_is_relied_upon_from_its_first_report_until_it_disconnects() -> None:
    service = Service()
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        await rely_on_socket(tracker, service)
        service.ends["1"] = anyio.current_time() + 50.0
        group.start_soon(wait, tracker)
        await anyio.sleep(35.0)
        assert service.polls == []
        tracker.connected(False)
    assert 45 <= service.polls[0][0] <= 50.5
    assert service.polls[-1][0] < 66


@pytest.mark.virtual_time
async def test_a_socket_that_misses_two_ends_is_not_relied_upon_until_it_reports_one() -> None:
    service = Service(lambda name, number: task("task_postprocess_end", pexit="1"))  # adds no duration

    async def first_poll(*, reported: bool) -> float:
        """Seconds until the first poll of a task whose end the socket reports after half a second, or not at all."""
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            group.start_soon(wait, tracker)
            await anyio.sleep(0.5)
            if reported:
                tracker.hint(end_of("1"))
        return round(service.polls[-1][0] - began, 3)

    async with tracking(service) as tracker:
        tracker.connected(True)
        reports = [False, True, False, True, False, False, False, True, False]
        assert [await first_poll(reported=each) for each in reports] == [1, 0.5, 10, 0.5, 10, 10, 1, 0.5, 10]


@pytest.mark.virtual_time
@pytest.mark.parametrize("listed", [False, True])
async def test_a_silent_socket_costs_neither_latency_nor_polls(listed: bool) -> None:
    service = Service()
    service.listing = service.newest if listed else list
    without = await latencies(service, durations_of(50))
    polls = len(service.polls)
    service.polls.clear()
    assert median(await latencies(service, durations_of(50), connected=True)) <= median(without) + 0.1
    assert len(service.polls) <= 1.3 * polls


@pytest.mark.virtual_time
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("seconds", [0.3, 10.0])
async def test_a_flapping_socket_delays_no_poll(seconds: float, listed: bool) -> None:
    service = Service()
    service.listing = service.newest if listed else list
    service.ends, late = durations_of(30), list[float]()

    async def one(name: str) -> None:
        await wait(tracker, name)
        late.append(anyio.current_time() - service.ends[name])

    async def flap() -> None:
        while True:
            tracker.connected(True)
            tracker.hint(end_of("1000"))
            await anyio.sleep(seconds)
            tracker.connected(False)
            await anyio.sleep(seconds)

    async with tracking(service) as tracker, anyio.create_task_group() as flapping:
        flapping.start_soon(flap)
        async with anyio.create_task_group() as group:
            for name in service.ends:
                group.start_soon(one, name)
        flapping.cancel_scope.cancel()
    assert max(late) <= 16


@pytest.mark.virtual_time
async def test_no_more_polls_are_in_progress_than_there_are_slots() -> None:
    service = Service(trip=1.0)
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        for number in range(150):
            group.start_soon(wait_for_old, tracker, str(number))
    assert service.peak == MAX_REQUESTS
    assert max(at for at, _ in service.polls) <= 150 / MAX_REQUESTS + 1


@pytest.mark.virtual_time
async def test_four_hundred_polls_a_second_are_sent_when_they_are_due() -> None:
    rng, service, due = random.Random(1), Service(trip=0.05), dict[str, float]()

    async def waits(name: str, begins: float) -> None:
        await anyio.sleep(begins)
        due[name] = anyio.current_time()
        await wait_for_old(tracker, name)

    async with tracking(service) as tracker, anyio.create_task_group() as group:
        for number in range(400):
            group.start_soon(waits, str(number), rng.uniform(0, 1))
    late = sorted(at - due[name] for at, name in service.polls)
    assert len(late) == 400
    assert late[int(0.99 * len(late))] < 0.01


@pytest.mark.virtual_time
async def test_polls_of_many_unlisted_tasks_are_paced() -> None:
    service = Service()
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        for number in range(500):
            service.ends[str(number)] = 1000.0
            group.start_soon(wait, tracker, str(number))
        await anyio.sleep(5.0)
        group.cancel_scope.cancel()
    assert 500 <= len(service.polls) <= 1200, "unpaced they would be 2000"


@pytest.mark.virtual_time
async def test_the_ends_of_many_tasks_are_found_sooner_and_with_fewer_polls_by_the_list() -> None:
    polled, listed = Service(trip=0.05), Service(trip=0.05)
    listed.listing = listed.newest
    late, sooner = await latencies(polled, durations_of(50)), await latencies(listed, durations_of(50))
    assert median(sooner) <= 0.75 < median(late)
    assert len(listed.polls) + listed.lists <= len(polled.polls) / 2


@pytest.mark.virtual_time
@pytest.mark.parametrize("is_frozen", [False, True])
async def test_safeguard_polls_of_many_listed_tasks_are_few_and_still_find_out_that_the_list_is_wrong(
    is_frozen: bool,
) -> None:
    service, frozen = Service(trip=0.05), list[TaskDetail]()
    service.listing = lambda: tasks_of("is frozen", service, frozen) if is_frozen else service.newest()
    late = await latencies(service, durations_of(1000, 60.0, 80.0))
    if is_frozen:
        assert late[-1] <= 20
        assert median(late) <= 8
    else:
        assert late[-1] <= 2.5
        assert len(service.polls) <= 1000 + 80 * SAFEGUARDS_PER_SECOND, "without a rate they are 7,000"


@pytest.mark.virtual_time
async def test_a_few_tasks_are_polled_and_the_list_is_not_read_for_them_nor_beside_a_socket() -> None:
    service = Service()
    await latencies(service, durations_of(LIST_FROM - 1))
    assert service.lists == 0
    service.ends = durations_of(50, 1000.0, 2000.0)
    service.listing = service.newest
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        await rely_on_socket(tracker, service)
        for name in service.ends:
            group.start_soon(wait, tracker, name)
        await anyio.sleep(60)
        assert service.lists == 0
        tracker.connected(False)
        await anyio.sleep(3)
        assert service.lists > 0
        group.cancel_scope.cancel()


def tasks_of(how: str, service: Service, frozen: list[TaskDetail]) -> list[TaskDetail]:
    match how:
        case "fails":
            raise errors.TryLater("no answer")
        case "does not exist":
            raise errors.NoSuchAddress("Error parsing url.")
        case "raises":
            raise ZeroDivisionError
        case "is not sorted":
            return random.Random(anyio.current_time()).sample(service.newest(), len(service.ends))
        case "shows others":
            return [done(f"other-{number}") for number in range(1000)]
        case "shows half":
            return service.newest()[: len(service.ends) // 2]
        case "repeats a page":
            return service.newest()[:20] * 1000
        case "shows all as ended":
            return [done(name) for name in service.ends]
        case "is frozen":
            frozen[:] = frozen or service.newest()
            return frozen
    return []


@pytest.fixture(scope="module")
def polled() -> tuple[list[float], int]:
    """The latencies of 50 tasks without a task list, and how many polls they took."""
    service, late = Service(), list[float]()

    async def measure() -> None:
        late.extend(await latencies(service, durations_of(50)))

    virtually(measure)
    return late, len(service.polls)


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "how",
    [
        "fails", "does not exist", "raises", "is empty", "is not sorted", "shows others", "shows half",
        "repeats a page", "shows all as ended", "is frozen",
    ],
)  # fmt: skip
async def test_a_wrong_task_list_costs_bounded_latency_and_requests(how: str, polled: tuple[list[float], int]) -> None:
    without, polls = polled
    service, frozen = Service(), list[TaskDetail]()
    service.listing = lambda: tasks_of(how, service, frozen)
    late = await latencies(service, durations_of(50))
    assert late[-1] <= without[-1] + 10
    assert median(late) <= median(without) + 5
    assert len(service.polls) <= polls * 1.5
    assert service.lists <= 200


@pytest.mark.virtual_time
async def test_a_list_that_hangs_delays_no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()

    async def hang(start: int = 0, limit: int = 0, *, tries: int = 5) -> schemas.Answer:
        service.lists += 1
        await anyio.sleep(math.inf)
        raise AssertionError

    monkeypatch.setattr(service, "list_tasks", hang)
    assert (await latencies(service, durations_of(20)))[-1] <= 10
    assert 1 <= service.lists <= 5


@pytest.mark.virtual_time
async def test_short_pages_are_read_to_the_last_task_or_a_limit() -> None:
    service = Service()
    service.page_cap = 10
    others = [done(f"{number}") for number in range(900)]
    service.listing = lambda: [*service.newest(), *others]
    assert median(await latencies(service, durations_of(50))) <= 0.75
    service.lists = 0
    service.listing = lambda: others
    service.ends = durations_of(50, 1000.0, 2000.0)
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        for name in service.ends:
            group.start_soon(wait, tracker, name)
        await anyio.sleep(0.6)
        assert service.lists in (30, 60), "4 x 50 + 100 tasks, 10 a page"
        group.cancel_scope.cancel()


@pytest.mark.virtual_time
async def test_each_state_that_the_list_shows_is_reported_once() -> None:
    service = Service()
    service.ends = durations_of(20, 1000.0, 2000.0)
    seen = {name: list[TaskDetail]() for name in service.ends}

    def state(name: str) -> TaskDetail:
        return task("task_queue" if anyio.current_time() < 5 else "task_start", name)

    service.listing = lambda: [state(name) for name in service.ends]
    async with tracking(service) as tracker, anyio.create_task_group() as group:
        for name in service.ends:
            group.start_soon(wait, tracker, name, seen[name])
        await anyio.sleep(8)
        group.cancel_scope.cancel()
    assert service.polls == []
    assert {tuple(each.status for each in states) for states in seen.values()} == {("task_queue", "task_start")}


@pytest.mark.virtual_time
async def test_serving_again_after_it_was_cancelled_continues_with_the_open_waits() -> None:
    service, late = Service(trip=0.4), list[float]()
    service.listing, service.ends = service.newest, durations_of(50)

    async def one(name: str) -> None:
        await wait(tracker, name)
        late.append(anyio.current_time() - service.ends[name])

    tracker = Tracker(service, draw=lambda: 0.5)
    async with anyio.create_task_group() as group:
        for name in service.ends:
            group.start_soon(one, name)
        await anyio.sleep(0.1)
        with anyio.move_on_after(1.2):
            await tracker.serve()
        with anyio.move_on_after(60):
            await tracker.serve()
    assert max(late) <= 5
