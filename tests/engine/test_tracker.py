from __future__ import annotations

import asyncio
import functools
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import anyio
import pytest
from anyio.abc import TaskStatus
from harness import virtually
from order import draw_order

from wan_async import errors
from wan_async.domain.task import Task, TaskId, TaskToken
from wan_async.engine.tracker import (
    DOUBTFUL_SECONDS,
    HINTED_AGAIN_SECONDS,
    LISTED_POLL_SECONDS,
    MAX_PROBES,
    MAX_REQUESTS,
    PATIENCE_SECONDS,
    STUCK_SECONDS,
    UNEXPECTED_FAULTS,
    Tracker,
)
from wan_async.wiro import messages, protocol, schemas

Answer = Task | Exception | None


@functools.cache
def task(status: str = "task_start", task_id: str = "1", pexit: str | None = None) -> Task:
    return Task(id=task_id, status=status, pexit=pexit)


def done(task_id: str = "1") -> Task:
    return task("task_postprocess_end", task_id, "0")


class Service:
    """Answers Task/Detail: a task runs until its end comes; `script` may say something else first.

    Args:
        script: what the n-th question about a task is answered with, from 1; None where the task itself decides.
        trip: how long an answer takes, in seconds.
    """

    def __init__(self, script: Callable[[str, int], Answer] = lambda name, number: None, trip: float = 0.0) -> None:
        self.ends: dict[str, float] = {}
        self.asked: list[tuple[float, str]] = []
        self.times: Counter[str] = Counter()
        self.peak = self.open = 0
        self.script = script
        self.trip = trip
        self.listed: list[float] = []
        self.listing: Callable[[], list[Task]] = list
        self.page_cap = protocol.LIST_PAGE
        self.page_trip = 0.0

    async def detail(self, task_id: TaskId | None = None, token: TaskToken | None = None, *, tries: int = 5) -> Task:
        assert tries == 1, "the watch has a patience of its own"
        name = task_id or token or ""
        self.asked.append((anyio.current_time(), name))
        self.times[name] += 1
        number = self.times[name]
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            if self.trip:
                await anyio.sleep(self.trip)
            said = self.script(name, number)
            if isinstance(said, Exception):
                raise said
            if said is not None:
                return said
            return done(name) if anyio.current_time() >= self.ends.get(name, 0.0) else task("task_start", name)
        finally:
            self.open -= 1

    async def list_tasks(self, start: int = 0, limit: int = protocol.LIST_PAGE, *, tries: int = 5) -> schemas.Answer:
        self.listed.append(anyio.current_time())
        await anyio.sleep(self.page_trip)
        shown = self.listing()
        return schemas.Answer.model_construct(tasklist=shown[start : start + min(limit, self.page_cap)])

    def newest(self) -> list[Task]:
        """Every task as it is, the newest first: what an honest list shows."""
        now = anyio.current_time()
        return [done(name) if now >= at else task("task_start", name) for name, at in reversed(self.ends.items())]


@asynccontextmanager
async def watching(service: Service, draw: float = 0.5) -> AsyncIterator[Tracker]:
    watch = Tracker(service, draw=lambda: draw)
    async with anyio.create_task_group() as group:
        group.start_soon(watch.serve)
        yield watch
        group.cancel_scope.cancel()


async def wait(watch: Tracker, name: str = "1", seen: list[Task] | None = None) -> Task:
    notes = [] if seen is None else seen
    return await watch.wait_ended(TaskId(name), None, since=anyio.current_time(), seen=notes.append)


async def wait_long_begun(watch: Tracker, name: str = "1") -> Task:
    """Its first poll is due at once."""
    return await watch.wait_ended(TaskId(name), None, since=anyio.current_time() - 3600)


def rely_on_socket(watch: Tracker) -> None:
    """The socket is trusted, and tasks take 100 s: the next safeguard is due after 126 s."""
    watch.durations.note(100.0, 100.0)
    watch.connected(True)
    watch.socket_healthy = True


def over(task_id: str | None = None, token: str | None = None, *, is_over: bool = True) -> messages.Hint:
    return messages.Hint(
        TaskId(task_id) if task_id else None,
        TaskToken(token) if token else None,
        "task_postprocess_end",
        over=is_over,
    )


@pytest.mark.virtual_time
async def test_a_task_is_asked_until_it_has_ended() -> None:
    service, seen = Service(), list[Task]()
    service.ends["1"] = 5.0
    async with watching(service) as watch:
        assert await wait(watch, seen=seen) == done()
    assert [answer.status for answer in seen] == ["task_start"] * (len(service.asked) - 1)
    assert [at for at, _ in service.asked] == [1, 2, 3, pytest.approx(4.05), pytest.approx(5.4675)]
    assert len(watch.durations) == 1
    assert 4.05 <= (watch.durations.quantile(0.5) or 0.0) <= 5.5


@pytest.mark.virtual_time
async def test_an_unknown_status_is_no_end() -> None:
    service = Service(lambda name, number: task("task_dreaming") if number < 4 else None)
    async with watching(service) as watch:
        assert await wait(watch) == done()
    assert len(service.asked) == 4


@pytest.mark.virtual_time
@pytest.mark.parametrize(("status", "pexit"), [("task_postprocess_end", "1"), ("task_cancel", "0")])
async def test_whatever_is_terminal_ends_the_wait_but_only_success_teaches(status: str, pexit: str) -> None:
    async with watching(Service(lambda name, number: task(status, pexit=pexit))) as watch:
        assert (await wait(watch)).status == status
    assert len(watch.durations) == 0


@pytest.mark.virtual_time
async def test_a_task_that_is_not_there_yet_is_asked_again() -> None:
    service = Service(lambda name, number: errors.NotFound("There is no task yet.") if number <= 3 else None)
    service.ends["1"] = 8.0
    async with watching(service) as watch:
        assert await wait(watch) == done()
    assert [at for at, _ in service.asked[:4]] == [1, 2, 3.5, 5.75]


@pytest.mark.virtual_time
async def test_a_task_that_vanishes_from_one_answer_is_not_lost() -> None:
    service = Service(lambda name, number: errors.NotFound("There is no task.") if number % 3 == 0 else None)
    service.ends["1"] = 10 * PATIENCE_SECONDS
    async with watching(service) as watch:
        assert await wait(watch) == done()


@pytest.mark.virtual_time
@pytest.mark.parametrize("patience", [0.0, 20.0, PATIENCE_SECONDS])
async def test_a_task_that_is_denied_for_longer_than_the_patience_is_missing(patience: float) -> None:
    service = Service(lambda name, number: errors.NotFound("There is no task."))
    async with watching(service) as watch:
        watch._patience = lambda: patience
        with pytest.raises(errors.Missing, match=r"There is no task\.") as missing:
            await wait(watch)
    assert missing.value.task_id == "1"
    assert patience <= service.asked[-1][0] - service.asked[0][0] <= patience + 15


def until(seconds: float, said: Callable[[], Answer]) -> Callable[[str, int], Answer]:
    return lambda name, number: said() if anyio.current_time() < seconds else None


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("script", "ends", "least"),
    [
        (until(300, lambda: errors.NotFound("no task")), 400.0, DOUBTFUL_SECONDS),
        (until(9000, lambda: task("task_error")), 9100.0, STUCK_SECONDS),
    ],
)
async def test_a_task_that_is_denied_or_in_task_error_for_long_is_doubtful_once_and_goes_on_being_tracked(
    script: Callable[[str, int], Answer], ends: float, least: float
) -> None:
    told: list[float] = []
    service = Service(script)
    service.ends["1"] = ends
    async with watching(service) as watch:
        ended = await watch.wait_ended(
            TaskId("1"),
            None,
            since=anyio.current_time(),
            doubtful=lambda reason: told.append(anyio.current_time()),
        )
    assert ended == done()
    assert len(told) == 1
    assert least <= told[0] <= least * 1.5


@pytest.mark.virtual_time
async def test_task_error_is_no_end_however_often_it_is_seen() -> None:
    service, seen = (
        Service(lambda name, number: task("task_error") if number in (1, 3, 4) else None),
        list[Task](),
    )
    service.ends["1"] = 20.0
    async with watching(service) as watch:
        assert await wait(watch, seen=seen) == done()
    assert [answer.status for answer in seen][:4] == ["task_error", "task_start", "task_error", "task_error"]


def test_what_nobody_expected_is_the_trouble_of_one_task(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        service = Service(lambda name, number: ZeroDivisionError(name) if name == "bad" else None)
        service.ends["good"] = 500.0
        async with watching(service) as watch, anyio.create_task_group() as group:
            group.start_soon(wait, watch, "good")
            with pytest.raises(ZeroDivisionError):
                await wait(watch, "bad")
        assert service.times["bad"] == UNEXPECTED_FAULTS

    virtually(main)
    assert len([record for record in caplog.records if record.exc_info]) == 1


@pytest.mark.virtual_time
async def test_whoever_looks_at_an_answer_may_fail_and_harms_its_own_task_alone() -> None:
    def fails(task: Task) -> None:
        raise ZeroDivisionError

    service = Service()
    service.ends |= {"good": 100.0, "bad": 100.0}
    async with watching(service) as watch, anyio.create_task_group() as group:
        group.start_soon(wait, watch, "good")
        assert await watch.wait_ended(TaskId("bad"), None, since=anyio.current_time(), seen=fails) == done("bad")


@pytest.mark.virtual_time
async def test_two_denials_with_an_outage_between_them_prove_nothing() -> None:
    def script(name: str, number: int) -> Answer:
        if number in (1, 20):
            return errors.NotFound("There is no task.")
        return errors.TryLater("no network") if number < 20 else None

    service = Service(script)
    async with watching(service) as watch:
        watch._patience = lambda: 60.0
        assert await wait(watch) == done()
    assert service.asked[19][0] > 120


@pytest.mark.virtual_time
async def test_an_address_that_is_not_there_says_nothing_about_the_task() -> None:
    gateway = errors.NoSuchAddress("the API knows no such address (404): is the base URL right?")
    service = Service(lambda name, number: gateway if anyio.current_time() < 10 * PATIENCE_SECONDS else None)
    async with watching(service) as watch:
        assert await wait(watch) == done()


@pytest.mark.virtual_time
async def test_what_the_service_asks_to_wait_is_waited() -> None:
    busy = errors.TryLater("429", after_seconds=40.0)
    service = Service(lambda name, number: busy if number == 1 else None)
    async with watching(service) as watch:
        await wait(watch)
    assert [at for at, _ in service.asked] == [1, 41]


@pytest.mark.virtual_time
async def test_faults_back_off_and_one_answer_ends_the_row() -> None:
    fault = errors.TryLater("502")
    service = Service(lambda name, number: fault if number not in (5, 7) else task() if number == 5 else None)
    async with watching(service, draw=0.999999) as watch:
        await wait(watch)
    at = [round(at, 2) for at, _ in service.asked]
    assert [later - sooner for sooner, later in pairwise(at[:5])] == pytest.approx([0.5, 1, 2, 4])
    assert at[6] - at[5] == pytest.approx(0.5)


@pytest.mark.virtual_time
@pytest.mark.parametrize("error", [errors.JobFailed("refused (400)"), errors.AtLimit("96"), errors.TryLater("?")])
async def test_no_other_refusal_ends_a_wait(error: errors.WanError) -> None:
    async with watching(Service(lambda name, number: error if number < 30 else None)) as watch:
        assert await wait(watch) == done()


@pytest.mark.virtual_time
async def test_what_stops_the_batch_reaches_all_waiters_after_one_request() -> None:
    refused = errors.StopBatch("the API refuses the credentials", authentication=True)
    service, stopped = Service(lambda name, number: refused, trip=0.05), list[str]()

    async def waits(name: str) -> None:
        with pytest.raises(errors.StopBatch):
            await wait(watch, name)
        stopped.append(name)

    async with watching(service) as watch, anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(waits, str(number))
    assert len(stopped) == 100
    assert len(service.asked) <= MAX_REQUESTS


def test_a_task_that_ended_is_not_undone_by_what_stops_the_others() -> None:
    async def main() -> None:
        both = anyio.Event()

        class Together(Service):
            async def detail(
                self, task_id: TaskId | None = None, token: TaskToken | None = None, *, tries: int = 5
            ) -> Task:
                await both.wait()
                return await super().detail(task_id, token, tries=tries)

        service = Together(lambda name, number: errors.StopBatch("401") if name == "2" else None)
        async with watching(service) as watch:
            first = asyncio.ensure_future(wait_long_begun(watch, "1"))
            second = asyncio.ensure_future(wait_long_begun(watch, "2"))
            await anyio.wait_all_tasks_blocked()
            both.set()
            with pytest.raises(errors.StopBatch):
                await second
            assert await first == done("1")

    asyncio.run(main())


@pytest.mark.parametrize(
    "hint", [over(task_id="1"), over(token="secret"), over("1", "secret"), over("other", "secret")]
)
def test_a_hint_by_token_or_id_moves_the_poll_to_now(hint: messages.Hint) -> None:
    async def main() -> None:
        service = Service()
        async with watching(service) as watch, anyio.create_task_group() as group:
            rely_on_socket(watch)
            group.start_soon(waits, watch)
            await anyio.sleep(12.0)
            watch.hint(hint)
        assert service.asked == [(12.0, "1")]

    async def waits(watch: Tracker) -> None:
        token = TaskToken("secret")
        await watch.wait_ended(TaskId("1"), token, since=anyio.current_time())

    virtually(main)


@pytest.mark.virtual_time
async def test_a_task_that_is_known_by_its_token_alone_is_watched() -> None:
    service = Service()
    async with watching(service) as watch:
        ended = await watch.wait_ended(None, TaskToken("secret"), since=anyio.current_time())
    assert ended.id == "secret"


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "hint",
    [over("2"), over(token="another"), over("1", is_over=False), messages.Hint(None, None, "task_end", over=True)],
)
async def test_a_hint_about_another_task_or_no_end_moves_nothing(hint: messages.Hint) -> None:
    service = Service()
    async with watching(service) as watch, anyio.create_task_group() as group:
        group.start_soon(wait, watch)
        await anyio.sleep(0.5)
        watch.hint(hint)
    assert service.asked == [(1.0, "1")]


@pytest.mark.virtual_time
async def test_hints_while_the_task_is_being_asked_lead_to_one_more_question_at_once() -> None:
    service = Service(lambda name, number: task() if number == 1 else None, trip=2.0)
    async with watching(service) as watch, anyio.create_task_group() as group:
        rely_on_socket(watch)
        group.start_soon(wait, watch)
        await anyio.sleep(0.5)
        watch.hint(over("1"))
        for _ in range(5):
            await anyio.sleep(0.2)
            watch.hint(over("1"))
    assert [at for at, _ in service.asked] == [0.5, 2.5]
    assert service.peak == 1


@pytest.mark.virtual_time
async def test_after_a_hint_a_task_that_is_not_over_yet_is_asked_again_soon_and_ever_more_rarely() -> None:
    service = Service()
    service.ends["1"] = 10.3
    async with watching(service) as watch, anyio.create_task_group() as group:
        rely_on_socket(watch)
        group.start_soon(wait, watch)
        await anyio.sleep(10.0)
        watch.hint(over("1"))
    assert [at for at, _ in service.asked] == [10, 10 + HINTED_AGAIN_SECONDS, 10.5]


@pytest.mark.virtual_time
async def test_a_socket_that_lies_costs_a_few_polls_and_nothing_else() -> None:
    service = Service()
    service.ends["1"] = 3600.0
    async with watching(service) as watch, anyio.create_task_group() as group:
        rely_on_socket(watch)
        group.start_soon(wait, watch)
        await anyio.sleep(1.0)
        watch.hint(over("1"))
    assert len(service.asked) <= 3600 / 30 + 12
    assert service.asked[-1][0] <= 3600 + 31


@pytest.mark.virtual_time
async def test_while_the_socket_is_healthy_polls_are_rare_and_without_it_as_before() -> None:
    service = Service()
    service.ends["1"] = 50.0
    async with watching(service) as watch, anyio.create_task_group() as group:
        rely_on_socket(watch)
        group.start_soon(wait, watch)
        await anyio.sleep(35.0)
        assert service.asked == []
        watch.connected(False)
    assert 45 <= service.asked[0][0] <= 50
    assert service.asked[-1][0] < 66


@pytest.mark.virtual_time
async def test_a_socket_is_relied_upon_from_the_first_end_that_it_tells_of_until_it_misses_two() -> None:
    service = Service(lambda name, number: task("task_postprocess_end", pexit="1"))  # which teaches no duration
    async with watching(service) as watch:

        async def ends(*, told: bool) -> bool:
            async with anyio.create_task_group() as group:
                group.start_soon(wait, watch)
                await anyio.sleep(0.5)
                if told:
                    watch.hint(over("1"))
            return watch.socket_healthy

        assert not await ends(told=True), "no socket is there: somebody else told"
        watch.connected(True)
        healthy = [await ends(told=told) for told in (False, True, False, True, False, False, False, True)]
        assert healthy == [False, True, True, True, True, False, False, True]
        watch.connected(False)
        assert not watch.socket_healthy
        watch.connected(True)
        assert not watch.socket_healthy


def test_a_safeguard_waits_as_long_as_it_would_if_it_were_planned_now() -> None:
    service = Service()

    async def main() -> None:
        async with watching(service) as watch, anyio.create_task_group() as group:
            watch.durations.note(1.0, 1.0)
            watch.connected(True)
            watch.socket_healthy = True
            service.ends = {"slow": 6.0, "missed": 3.0}
            group.start_soon(wait, watch, "slow")  # a safeguard at 0.5 + 1.25 * 1.0
            group.start_soon(wait, watch, "missed")
            await anyio.sleep(1.0)
            watch.durations.note(6.0, 6.0)
            await anyio.sleep(5.1)
            assert service.asked == []
            watch.hint(over("slow"))

    virtually(main)
    (told_at, told), (guarded_at, guarded) = service.asked
    assert (told, guarded) == ("slow", "missed")
    assert told_at == pytest.approx(6.1)
    assert 0.5 + 1.25 * 6.0 <= guarded_at <= 0.5 + 1.25 * 6.2


@pytest.mark.virtual_time
async def test_a_socket_on_trial_spares_all_but_one_task_in_eight_their_polls() -> None:
    service = Service()
    service.ends = {str(number): 6.0 for number in range(16)}

    async with watching(service) as watch, anyio.create_task_group() as group:
        watch.connected(True)
        for number in range(16):
            group.start_soon(wait, watch, str(number))
        await anyio.sleep(5.9)
        probes = set(service.times)
        assert len(probes) == 2
        await anyio.sleep(0.1)
        for number in range(16):
            watch.hint(over(str(number)))
    assert [count for name, count in service.times.items() if name not in probes] == [1] * 14


@pytest.mark.virtual_time
async def test_in_a_crowd_a_few_are_asked_while_the_socket_is_on_trial_and_others_when_those_have_ended() -> None:
    service = Service()
    service.ends = {str(number): 6.0 for number in range(1000)}

    async with watching(service) as watch, anyio.create_task_group() as group:
        watch.connected(True)
        for number in range(1000):
            group.start_soon(wait, watch, str(number))
        await anyio.sleep(5.9)
        assert len(service.times) == MAX_PROBES
        await anyio.sleep(0.1)
        for number in range(1000):
            watch.hint(over(str(number)))
        await anyio.sleep(5)
        watch.connected(False)
        watch.connected(True)
        service.times.clear()
        service.ends["later"] = 1000.0
        group.start_soon(wait, watch, "later")
        await anyio.sleep(6)
        assert set(service.times) == {"later"}
        watch.hint(over("later"))
        group.cancel_scope.cancel()


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["mute", "gone"])
async def test_a_socket_that_fails_its_trial_leaves_all_to_be_polled(how: str) -> None:
    service = Service()
    service.ends = {str(number): 2.0 for number in range(16)}
    seen: list[float] = []

    async def waited(watch: Tracker, name: str) -> None:
        await wait(watch, name)
        seen.append(anyio.current_time())

    async with watching(service) as watch, anyio.create_task_group() as group:
        watch.connected(True)
        for number in range(16):
            group.start_soon(waited, watch, str(number))
        if how == "gone":
            await anyio.sleep(1.5)
            watch.connected(False)
    assert max(seen) <= 2.0 + 3.0


@pytest.mark.virtual_time
async def test_a_hint_right_after_an_answer_waits_a_moment() -> None:
    service = Service()
    service.ends["1"] = 1.1
    async with watching(service) as watch, anyio.create_task_group() as group:
        group.start_soon(wait, watch)
        await anyio.sleep(1.1)
        watch.hint(over("1"))
    assert [at for at, _ in service.asked] == [1.0, 1.0 + HINTED_AGAIN_SECONDS]


@pytest.mark.virtual_time
async def test_a_socket_that_breaks_while_a_task_is_asked_leaves_that_question_alone() -> None:
    service = Service(trip=20.0)
    async with watching(service) as watch, anyio.create_task_group() as group:
        rely_on_socket(watch)
        group.start_soon(wait, watch)
        await anyio.sleep(0.5)
        watch.hint(over("1"))
        await anyio.sleep(1.0)
        watch.connected(False)
    assert len(service.asked) == 1


@pytest.mark.virtual_time
async def test_a_task_of_an_earlier_process_is_asked_at_once_and_teaches_nothing_by_its_age() -> None:
    service = Service()
    async with watching(service) as watch:
        await watch.wait_ended(TaskId("1"), None, since=anyio.current_time() - 3600)
        assert service.asked == [(0.0, "1")]
        assert len(watch.durations) == 0
        service.ends["2"] = 10.0
        await watch.wait_ended(TaskId("2"), None, since=anyio.current_time() - 3600)
    assert 3600 <= (watch.durations.quantile(0.5) or 0.0) <= 3640, "it was seen running"


@pytest.mark.virtual_time
async def test_a_waiter_that_leaves_is_not_asked_for_any_more() -> None:
    service = Service()
    service.ends["1"] = service.ends["2"] = 1e9
    async with watching(service) as watch:
        with anyio.move_on_after(2.5):
            await wait(watch)
        asked = len(service.asked)
        watch.hint(over("1"))
        await anyio.sleep(1000)
    assert len(service.asked) == asked == 2


@pytest.mark.virtual_time
async def test_a_waiter_that_leaves_while_it_is_asked_for_is_not_asked_for_again() -> None:
    service = Service(trip=2.0)
    service.ends["1"] = 1e9
    async with watching(service) as watch:
        with anyio.move_on_after(2.5):
            await wait(watch)
        await anyio.sleep(1000)
    assert [at for at, _ in service.asked] == [1.0]


@pytest.mark.virtual_time
async def test_a_waiter_that_leaves_while_its_question_waits_for_a_place_is_not_asked_for() -> None:
    service = Service(trip=5.0)
    async with watching(service) as watch, anyio.create_task_group() as group:
        for number in range(MAX_REQUESTS):
            group.start_soon(wait, watch, str(number))
        await anyio.sleep(0.5)
        with anyio.move_on_after(1.5):
            await wait(watch, "late")
    assert "late" not in service.times


@pytest.mark.virtual_time
async def test_of_two_waiters_for_one_task_each_gets_its_answer() -> None:
    service, got = Service(), list[Task]()
    service.ends["1"] = 4.0

    async def waits() -> None:
        got.append(await wait(watch))

    async with watching(service) as watch, anyio.create_task_group() as group:
        group.start_soon(waits)
        group.start_soon(waits)
    assert got == [done(), done()]


@pytest.mark.virtual_time
async def test_places_grow_only_as_far_as_they_are_needed() -> None:
    async def peak(tasks: int, trip: float) -> int:
        service = Service(trip=trip)
        async with watching(service) as watch, anyio.create_task_group() as group:
            for number in range(tasks):
                service.ends[str(number)] = 60.0
                group.start_soon(wait, watch, str(number))
                await anyio.sleep(0.1)
        return service.peak

    assert await peak(15, 0.05) <= 4
    assert 4 < await peak(50, 1.0) <= 40
    service = Service(trip=1.0)
    async with watching(service) as watch, anyio.create_task_group() as group:
        for number in range(500):
            group.start_soon(wait, watch, str(number))
    assert service.peak == MAX_REQUESTS


def lateness(tasks: int, within_seconds: float) -> list[float]:
    """How late the first polls come of so many tasks, with answers that take 50 ms; sorted."""

    async def main() -> list[float]:
        rng, service, due = random.Random(1), Service(trip=0.05), dict[str, float]()

        async def waits(name: str, begins: float) -> None:
            await anyio.sleep(begins)
            due[name] = anyio.current_time()
            await wait_long_begun(watch, name)

        async with watching(service) as watch, anyio.create_task_group() as group:
            for number in range(tasks):
                group.start_soon(waits, str(number), rng.uniform(0, within_seconds))
        assert len(service.asked) == tasks
        return sorted(at - due[name] for at, name in service.asked)

    return virtually(main)


def test_two_thousand_tasks_at_once_are_asked_on_time() -> None:
    late = lateness(2000, within_seconds=5.0)
    assert late[0] > -1e-6
    assert late[int(0.99 * len(late))] < 0.01
    assert late[-1] < 0.2


def test_two_thousand_polls_due_at_one_instant_go_out_as_fast_as_answers_come() -> None:
    late = lateness(2000, within_seconds=0.0)
    assert late[0] > -1e-6
    assert late[-1] < 1.1 * 2000 / MAX_REQUESTS * 0.05 + 0.2


@pytest.mark.parametrize(("tasks", "most"), [(100, 5000), (2000, 16_000)])
def test_a_crowd_of_tasks_shares_a_hundred_polls_a_second(tasks: int, most: int) -> None:
    rng, service = random.Random(1), Service(trip=0.05)
    service.ends = {str(number): rng.uniform(60.0, 120.0) for number in range(tasks)}

    async def main() -> None:
        async with watching(service) as watch, anyio.create_task_group() as group:
            for number in range(tasks):
                group.start_soon(wait, watch, str(number))

    virtually(main)
    assert tasks < len(service.asked) <= most


@pytest.mark.anyio
async def test_leaving_while_asked_is_safe_on_both_backends() -> None:
    asked, release = anyio.Event(), anyio.Event()

    class Slow(Service):
        async def detail(
            self, task_id: TaskId | None = None, token: TaskToken | None = None, *, tries: int = 5
        ) -> Task:
            asked.set()
            await release.wait()
            return await super().detail(task_id, token, tries=tries)

    service = Slow(lambda name, number: task())
    with anyio.fail_after(5):
        async with watching(service) as watch:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(wait_long_begun, watch)
                    await asked.wait()
                    scope.cancel()
            release.set()
            await anyio.wait_all_tasks_blocked()
            watch.hint(over("1"))
            await anyio.wait_all_tasks_blocked()
    assert service.times["1"] == 1


@pytest.mark.parametrize("how", ["wait_for", "cancel"])
def test_native_cancellation_leaves_nothing_behind(how: str) -> None:
    async def main() -> None:
        service = Service(lambda name, number: task() if name == "1" else None)
        async with watching(service) as watch:
            waiting = asyncio.ensure_future(wait(watch))
            await anyio.wait_all_tasks_blocked()
            if how == "cancel":
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(waiting, 0)
            watch.hint(over("1"))
            assert await wait_long_begun(watch, "2") == done("2")
        assert service.times == {"2": 1}

    asyncio.run(main())


@pytest.mark.anyio
async def test_serving_may_be_cancelled_while_it_asks() -> None:
    service = Service(trip=3600.0)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            async with watching(service) as watch:
                group.start_soon(wait_long_begun, watch)
                await anyio.wait_all_tasks_blocked()
                assert service.open == 1
            group.cancel_scope.cancel()
    assert service.open == 0


@pytest.mark.virtual_time
async def test_an_outage_is_told_and_a_stray_fault_is_not() -> None:
    told: list[str] = []
    stray = {"1": 0, "2": 0, "3": 2}

    service = Service(lambda name, number: errors.TryLater("no answer") if out or number <= stray[name] else None)
    service.ends = dict.fromkeys(stray, 20.0)
    out = False
    async with watching(service) as watch, anyio.create_task_group() as group:
        watch._on_outage = lambda error, seconds: told.append(f"{error.message} {seconds:.1f}")
        for name in stray:
            group.start_soon(wait, watch, name)
        await anyio.sleep(5)
        assert told == []
        out = True
        await anyio.sleep(10)
        assert len(told) >= 3
        assert len(service.asked) < 40
        group.cancel_scope.cancel()


@pytest.mark.virtual_time
async def test_while_others_are_answered_a_task_that_meets_faults_is_asked_again_soon_and_ever_more_rarely() -> None:
    service = Service(lambda name, number: errors.TryLater("no answer") if name == "bad" else None)
    service.ends = {f"{number}": 90.0 for number in range(20)}
    async with watching(service) as watch, anyio.create_task_group() as group:
        for name in ("bad", *service.ends):
            group.start_soon(wait, watch, name)
        await anyio.sleep(60)
        group.cancel_scope.cancel()
    asked = [at for at, name in service.asked if name == "bad"]
    pauses = [later - sooner for sooner, later in pairwise(asked)]
    assert all(pause <= 1 for pause in pauses[:3])
    assert pauses[-1] >= 5
    assert len(asked) < 40


@pytest.mark.virtual_time
async def test_a_socket_that_comes_and_goes_does_not_put_off_what_is_due() -> None:
    service = Service()
    service.ends["1"] = 5.0
    async with watching(service) as watch, anyio.create_task_group() as group:
        watch.durations.note(2.0, 2.0)
        group.start_soon(wait, watch)
        while anyio.current_time() < 60:
            watch.connected(True)
            watch.socket_healthy = True
            await anyio.sleep(0.3)
            watch.connected(False)
            await anyio.sleep(0.3)
    assert service.asked[-1][0] < 10


def crowd(count: int, shortest: float = 20.0, longest: float = 40.0) -> dict[str, float]:
    """How long each of so many tasks takes, by name: spread evenly, in no order."""
    ends = [shortest + (longest - shortest) * number / count for number in range(count)]
    random.Random(7).shuffle(ends)
    return {str(number + 1000): end for number, end in enumerate(ends)}


async def found_late(service: Service, ends: dict[str, float]) -> list[float]:
    """How late each end is found, sorted, of tasks that all begin now and take so many seconds."""
    service.ends = {name: anyio.current_time() + seconds for name, seconds in ends.items()}
    late = list[float]()

    async def one(name: str, *, task_status: TaskStatus[None]) -> None:
        task_status.started()  # they begin to wait one after the other: which ones are probes makes a difference
        assert await wait(watch, name) == done(name)
        late.append(anyio.current_time() - service.ends[name])

    async with watching(service) as watch, anyio.create_task_group() as group:
        for name in ends:
            await group.start(one, name)
    return sorted(late)


def raises(error: Exception) -> Callable[[], list[Task]]:
    def listing() -> list[Task]:
        raise error

    return listing


def at(late: list[float], fraction: float) -> float:
    """How late at most so large a part of the ends was found."""
    return late[min(len(late) - 1, int(fraction * len(late)))]


@pytest.mark.virtual_time
async def test_a_crowd_is_looked_through_in_pages_instead_of_being_polled() -> None:
    polled = Service()
    await found_late(polled, crowd(50))
    service = Service()
    service.listing = service.newest
    late = await found_late(service, crowd(50))
    assert at(late, 0.5) <= 1.0
    assert late[-1] <= 8, "the last eight are polled as ever"
    assert len(service.asked) <= len(polled.asked) / 3
    assert len([times for times in service.times.values() if times <= 2]) >= 50 - 7, "the probes are polled"
    assert len(service.listed) <= 70


@pytest.mark.virtual_time
async def test_a_huge_crowd_is_found_sooner_and_for_fewer_requests_than_by_polls() -> None:
    polled, service = Service(), Service()
    polled_late = await found_late(polled, crowd(2000, 60.0, 120.0))
    service.listing = service.newest
    late = await found_late(service, crowd(2000, 60.0, 120.0))
    assert at(late, 0.9) <= 5 < at(polled_late, 0.9)
    assert len(service.asked) + len(service.listed) < len(polled.asked) / 3


@pytest.mark.virtual_time
async def test_a_stream_of_tasks_costs_a_third_of_the_requests_and_an_endless_one_among_them_no_more() -> None:
    async def run(endless: int) -> tuple[list[float], int, int]:
        service, late = Service(), list[float]()
        service.listing = service.newest
        draw = random.Random(3)

        async def one(name: str) -> None:
            await wait(watch, name)
            late.append(anyio.current_time() - service.ends[name])

        async with watching(service) as watch, anyio.create_task_group() as group:
            for number in range(1000, 1900):
                seconds = math.inf if number < 1000 + endless else draw.uniform(20.0, 30.0)
                service.ends[str(number)] = anyio.current_time() + seconds
                group.start_soon(one, str(number))
                await anyio.sleep(1.0)
            group.cancel_scope.cancel()
        return sorted(late[300:]), len(service.asked), len(service.listed)

    late, details, lists = await run(0)
    assert at(late, 0.9) <= 2
    assert details <= 900 * 2
    assert lists <= 900
    late, details, lists = await run(1)
    assert at(late, 0.9) <= 2
    assert details <= 900 * 2
    assert lists <= 900 * 1.5


@pytest.mark.virtual_time
async def test_a_few_tasks_are_not_listed_and_neither_is_a_crowd_that_a_socket_tells_of() -> None:
    service = Service()
    service.listing = service.newest
    await found_late(service, crowd(15))
    assert service.listed == []
    service.ends = crowd(50)
    async with watching(service) as watch, anyio.create_task_group() as group:
        rely_on_socket(watch)
        for name in service.ends:
            group.start_soon(wait, watch, name)
        await anyio.sleep(60)
        assert service.listed == []
        watch.connected(False)
        await anyio.sleep(3)
        assert service.listed, "without the socket, the list is next"
        group.cancel_scope.cancel()


@pytest.mark.virtual_time
@pytest.mark.parametrize(("begin", "seconds"), [(0.0, (20.0, 40.0)), (22.0, (20.0, 40.0)), (70.0, (60.0, 120.0))])
@pytest.mark.parametrize("how", ["fails", "hangs", "is empty", "freezes", "calls all over", "repeats a page", "lags"])
async def test_whatever_the_list_does_costs_some_latency_and_no_flood(
    how: str, begin: float, seconds: tuple[float, float]
) -> None:
    ends = crowd(50, *seconds)
    polled = Service()
    plain = await found_late(polled, ends)
    service, frozen, started = Service(), list[Task](), anyio.current_time()

    def listing() -> list[Task]:
        if anyio.current_time() < started + begin:
            frozen[:] = service.newest()
            return frozen
        match how:
            case "fails":
                raise errors.TryLater("no answer")
            case "hangs":
                service.page_trip = math.inf
            case "freezes":
                return frozen or [task("task_start", name) for name in service.ends]
            case "calls all over":
                return [done(name) for name in service.ends]
            case "repeats a page":
                return service.newest()[:20] * 1000
            case "lags":
                return frozen
        return []

    async def lag() -> None:
        while True:
            now = service.newest()
            await anyio.sleep(3)
            frozen[:] = now

    service.listing = listing
    async with anyio.create_task_group() as group:
        if how == "lags":
            group.start_soon(lag)
        late = await found_late(service, ends)
        group.cancel_scope.cancel()
    assert late[-1] <= (LISTED_POLL_SECONDS if how == "freezes" else plain[-1] + 10)
    assert at(late, 0.5) <= plain[25] + (14 if how == "freezes" else 7)
    assert len(service.asked) <= len(polled.asked) * 2
    assert len(service.listed) <= 2 * (seconds[1] + late[-1])


@pytest.mark.virtual_time
@pytest.mark.parametrize("healthy", [False, True])
@pytest.mark.parametrize(("on", "off"), [(0.05, 0.4), (1.0, 1.0), (10.0, 10.0)])
async def test_a_socket_that_comes_and_goes_puts_nothing_off_while_the_list_is_looked_through(
    on: float, off: float, healthy: bool
) -> None:
    service = Service()
    service.listing = service.newest
    service.ends, late = crowd(300), list[float]()

    async def one(name: str) -> None:
        await wait(watch, name)
        late.append(anyio.current_time() - service.ends[name])

    async def flap() -> None:
        while True:
            watch.connected(True)
            watch.socket_healthy = healthy
            await anyio.sleep(on)
            watch.connected(False)
            await anyio.sleep(off)

    async with watching(service) as watch, anyio.create_task_group() as group:
        group.start_soon(flap)
        async with anyio.create_task_group() as waiting:
            for name in service.ends:
                waiting.start_soon(one, name)
            await anyio.sleep(30)
            assert len(watch._heap._heap) <= 300 * 20, "what is put off is not kept twice"
        group.cancel_scope.cancel()
    assert max(late) <= 15


@pytest.mark.virtual_time
async def test_two_waiters_for_each_task_of_a_crowd_hear_soon() -> None:
    service = Service()
    service.listing = service.newest
    service.ends, late = crowd(20), list[float]()

    async def one(name: str) -> None:
        await wait(watch, name)
        late.append(anyio.current_time() - service.ends[name])

    async with watching(service) as watch, anyio.create_task_group() as group:
        for name in 2 * list(service.ends):
            group.start_soon(one, name)
    assert max(late) <= 10


@pytest.mark.virtual_time
async def test_serving_again_after_a_look_was_cancelled_looks_again() -> None:
    service, late = Service(), list[float]()
    service.listing, service.page_trip, service.ends = service.newest, 0.4, crowd(50)

    async def one(name: str) -> None:
        await wait(watch, name)
        late.append(anyio.current_time() - service.ends[name])

    watch = Tracker(service, draw=lambda: 0.5)
    async with anyio.create_task_group() as group:
        for name in service.ends:
            group.start_soon(one, name)
        await anyio.sleep(0.1)
        with anyio.move_on_after(0.2):
            await watch.serve()
        assert len(service.listed) == 1
        with anyio.move_on_after(60):
            await watch.serve()
    assert len(service.listed) > 20
    assert max(late) <= 10


@pytest.mark.virtual_time
async def test_a_task_in_doubt_is_asked_again_though_the_list_shows_it_running() -> None:
    service = Service(lambda name, number: errors.NotFound("no task") if (name, number) == ("bad", 1) else None)
    service.ends = crowd(30) | {"bad": 0.0}
    service.listing = lambda: [task("task_start", name) for name in service.ends]
    async with watching(service) as watch, anyio.create_task_group() as group:
        for name in crowd(30):
            group.start_soon(wait, watch, name)
        await anyio.sleep(3)
        with anyio.fail_after(1.5):
            assert await wait_long_begun(watch, "bad") == done("bad")
        group.cancel_scope.cancel()


@pytest.mark.virtual_time
async def test_short_pages_are_walked_to_the_last_task_and_no_further_than_there_may_be_some() -> None:
    service = Service()
    service.page_cap = 10
    others = [done(f"{n}") for n in range(10_000)]
    service.listing = lambda: [*service.newest(), *others[:900]]
    late = await found_late(service, crowd(50))
    assert at(late, 0.5) <= 1
    assert len(service.listed) <= 60 * 6
    service.listed.clear()
    service.listing = lambda: others
    service.ends = crowd(50, 1000.0, 2000.0)
    async with watching(service) as watch, anyio.create_task_group() as group:
        for name in service.ends:
            group.start_soon(wait, watch, name)
        await anyio.sleep(0.2)
        assert len(service.listed) == 30, "no task of ours is there"
        group.cancel_scope.cancel()


@pytest.mark.parametrize("order", range(10))
def test_states_come_from_the_list_each_once(order: int) -> None:
    async def main() -> None:
        def state(name: str) -> Task:
            return task("task_queue" if anyio.current_time() < 5 else "task_start", name)

        service = Service(lambda name, number: state(name))
        service.ends = crowd(20)
        seen = {name: list[Task]() for name in service.ends}
        service.listing = lambda: [state(each) for each in service.ends]
        async with watching(service) as watch, anyio.create_task_group() as group:
            for name in service.ends:
                group.start_soon(wait, watch, name, seen[name])
            await anyio.sleep(8)
            group.cancel_scope.cancel()
        listed = [name for name in service.ends if name not in service.times]
        assert len(listed) == 20 - 3, "the probes are polled: each eighth to wait, whichever that is"
        for name in listed:
            assert [state.status for state in seen[name]] == ["task_queue", "task_start"]

    draw_order(order)
    virtually(main)


@pytest.mark.virtual_time
async def test_nothing_is_kept_of_tasks_that_a_socket_told_of() -> None:
    service = Service()
    async with watching(service) as watch, anyio.create_task_group() as group:
        watch.connected(True)
        watch.socket_healthy = True
        for number in range(200):
            service.ends[str(number)] = anyio.current_time() + 20
            group.start_soon(wait, watch, str(number))
            watch.hint(over(str(number - 20)))
            await anyio.sleep(1.01)
        assert len(service.asked) >= 180
        assert watch._over_before == {}
        assert len(watch._heap._heap) <= 50
        group.cancel_scope.cancel()
