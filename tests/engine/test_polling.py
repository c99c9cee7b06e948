from __future__ import annotations

import heapq
import math
import random
import statistics
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wan_async.engine.concurrency import FOREIGN_LIMIT_CAP_SECONDS, Window
from wan_async.engine.polling import POLL_CAP_SECONDS, SAFEGUARD_CAP_SECONDS, Durations, PollHeap, next_poll
from wan_async.http.rate_limit import TokenBucket
from wan_async.http.retry import RETRY_AFTER_CAP_SECONDS, Backoff

draws = st.floats(0.0, 1.0, exclude_max=True)


@given(st.integers(1, 10_000), draws)
def test_a_backoff_delay_is_between_half_and_all_of_its_step_and_capped(failures: int, draw: float) -> None:
    backoff = Backoff(first_seconds=0.5, cap_seconds=30.0)
    full = min(30.0, 0.5 * 2.0 ** min(failures - 1, 100))
    assert full / 2 <= backoff.delay(failures, draw) <= full


def test_a_backoff_doubles() -> None:
    backoff = Backoff(first_seconds=1.0, cap_seconds=30.0)
    assert [backoff.delay(failures, 0.0) for failures in range(1, 8)] == [0.5, 1, 2, 4, 8, 15, 15]


def test_jitter_spreads_retries_after_simultaneous_failures() -> None:
    rng, backoff = random.Random(1), Backoff(first_seconds=8.0)
    waits = [backoff.delay(1, rng.random()) for _ in range(100)]
    assert max(waits) - min(waits) > 3.5
    assert len(set(waits)) == 100


@given(st.integers(1, 50), draws, st.floats(0, 1e12))
def test_retry_after_is_respected_up_to_a_cap(failures: int, draw: float, requested: float) -> None:
    wait = Backoff().delay(failures, draw, requested)
    assert wait >= min(requested, RETRY_AFTER_CAP_SECONDS)
    assert wait <= max(Backoff().cap_seconds, RETRY_AFTER_CAP_SECONDS)
    assert wait >= Backoff().delay(failures, draw)


def test_a_bucket_delays_no_request_before_the_first_429() -> None:
    bucket = TokenBucket()
    assert [bucket.reserve(5.0) for _ in range(1000)] == [0.0] * 1000
    bucket.succeeded()
    assert bucket.rate == math.inf


def test_a_single_429_delays_its_own_request_only() -> None:
    bucket = TokenBucket()
    for number in range(20):
        bucket.reserve(10.0 + number / 10)
    assert bucket.limited(12.0, 7.0) == 7.0
    assert [bucket.reserve(12.0) for _ in range(6)] == [0.0] * 6
    assert bucket.rate == math.inf


def test_above_one_429_in_five_answers_all_requests_pause_and_the_rate_is_halved() -> None:
    bucket = TokenBucket()
    for number in range(20):
        bucket.reserve(10.0 + number / 10)
        bucket.succeeded()
    for _ in range(5):
        bucket.limited(12.0, 7.0)
    assert bucket.rate == math.inf  # five of 25 is not above one in five
    bucket.limited(12.0, 7.0)
    assert bucket.rate == pytest.approx(5.0)
    waits = [bucket.reserve(12.0) for _ in range(6)]
    assert waits == pytest.approx([7.2, 7.4, 7.6, 7.8, 8.0, 8.2])


def test_a_bucket_pauses_and_halves_its_rate_for_a_limit_that_another_process_met() -> None:
    bucket = TokenBucket()
    for number in range(20):
        bucket.reserve(10.0 + number / 10)
    bucket.slow_down(12.0, 7.0)
    bucket.slow_down(12.5, 7.0)  # the same burst, met by a third process
    assert bucket.rate == pytest.approx(5.0)
    assert bucket.not_before == 19.5
    assert [bucket.reserve(12.5) for _ in range(2)] == pytest.approx([7.0, 7.0])


@pytest.mark.parametrize(("refuses", "least"), [("5 a second", 4.0), ("one in twenty", 15.0)])
def test_a_bucket_reaches_most_of_the_rate_that_the_service_accepts(refuses: str, least: float) -> None:
    """Twenty callers, each of which repeats its request a second after the answer."""
    bucket, rng = TokenBucket(), random.Random(1)
    tokens, filled, answered = 5.0, 0.0, 0
    due = [(number / 20, number) for number in range(20)]
    requested: dict[int, bool] = {}
    while (now := due[0][0]) < 100.0:
        _, caller = heapq.heappop(due)
        if not requested.pop(caller, False):
            wait = bucket.reserve(now)
            requested[caller] = True
            heapq.heappush(due, (now + wait + 0.05, caller))
            continue
        tokens, filled = min(5.0, tokens + 5.0 * (now - filled)), now
        refused = tokens < 1 if refuses == "5 a second" else rng.random() < 0.05
        if refused:
            heapq.heappush(due, (now + bucket.limited(now, 1.0), caller))
        else:
            tokens -= 1
            answered += 1
            bucket.succeeded()
            heapq.heappush(due, (now + 1.0, caller))
    assert answered / 100.0 > least


@pytest.mark.parametrize(("requested", "pause"), [(None, 1.0), (0.0, 0.0), (31_536_000.0, RETRY_AFTER_CAP_SECONDS)])
def test_a_pause_is_capped_and_has_a_default(requested: float | None, pause: float) -> None:
    bucket = TokenBucket()
    assert [bucket.limited(100.0, requested) for _ in range(4)] == [pause] * 4
    assert bucket.reserve(100.0) >= pause


def test_one_burst_of_429s_halves_the_rate_once() -> None:
    bucket = TokenBucket()
    for _ in range(10):
        bucket.reserve(1.0)
    for _ in range(3):
        bucket.limited(1.0, 0.0)
    bucket.limited(1.0, 2.0)
    once = bucket.rate
    assert once < math.inf
    for _ in range(9):
        bucket.limited(1.1, 2.0)
    assert bucket.rate == once
    bucket.limited(10.0, 2.0)
    assert bucket.rate < once


def test_successes_increase_the_rate_until_it_is_unlimited() -> None:
    bucket = TokenBucket()
    for _ in range(4):
        bucket.limited(0.0, 0.0)
    rates = []
    while bucket.rate < math.inf:
        bucket.succeeded()
        rates.append(bucket.rate)
    assert rates == sorted(rates)
    assert 300 < len(rates) < 1000
    assert bucket.reserve(100.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 2), st.sampled_from(["ask", "limited", "succeeded"])), max_size=80))
def test_a_bucket_never_exceeds_its_rate_plus_one_burst(steps: list[tuple[float, str]]) -> None:
    bucket, now, leaves = TokenBucket(), 0.0, list[float]()
    for _ in range(4):
        bucket.limited(0.0, 0.0)
    for seconds, what in steps:
        now += seconds
        if what == "limited":
            assert bucket.limited(now, 1.5) == 1.5
            assert bucket.reserve(now) >= bucket.not_before - now - 1e-9
        elif what == "succeeded":
            bucket.succeeded()
        else:
            wait = bucket.reserve(now)
            assert wait >= 0.0
            leaves.append(now + wait)
    rate = 0.5 + 0.1 * len(steps)
    for first in leaves:
        assert sum(first <= leave <= first + 1.0 for leave in leaves) <= 4 + rate + 2


@dataclass(frozen=True)
class Outcome:
    makespan: float
    refusals: int
    used: float
    peak: int


def simulate(
    limit_at: Callable[[float], int],
    jobs: int,
    seed: int,
    *,
    shortest: float = 2.0,
    longest: float = 4.0,
    trip: float = 0.1,
    jitter: float = 0.05,
    maximum: int = 256,
    start: int = 8,
    foreign_at: Callable[[float], int] = lambda now: 0,
) -> Outcome:
    """Simulate a batch at an account whose limit changes, and check the invariants at every step.

    `used` is the share of the slots that the account offered while work was left.
    """
    rng, window = random.Random(seed), Window(start, maximum)
    agenda: list[tuple[float, int, str, int]] = []
    count = remote = refusals = done = peak = 0
    queue, last, used, offered = jobs, 0.0, 0.0, 0.0

    def later(seconds: float, what: str, epoch: int = 0) -> None:
        nonlocal count
        count += 1
        heapq.heappush(agenda, (last + seconds, count, what, epoch))

    def hop() -> float:
        return trip / 2 + rng.uniform(0, jitter)

    later(0.0, "tick")
    while done < jobs:
        assert agenda, "no own task runs and no wake-up is scheduled"
        now, _, what, epoch = heapq.heappop(agenda)
        if queue:
            free = max(0, limit_at(last) - foreign_at(last))
            used += min(remote, free) * (now - last)
            offered += free * (now - last)
        last = now
        match what:
            case "run" if remote + foreign_at(now) < limit_at(now):
                remote += 1
                later(rng.uniform(shortest, longest), "end")
                later(hop(), "accepted")
            case "run":
                later(hop(), "refused", epoch)
            case "accepted":
                window.accepted()
            case "refused":
                refusals += 1
                wait = window.refused(now, epoch)
                window.released(was_running=False)
                queue += 1
                assert wait is None or -1e-6 <= wait <= FOREIGN_LIMIT_CAP_SECONDS + 1e-6
                if wait is not None:
                    later(wait, "tick")
            case "end":
                remote -= 1
                later(trip / 2 + jitter + rng.uniform(0, jitter), "released")
            case "released":
                window.released(was_running=True)
                done += 1
        while queue and window.may_start(now):
            queue -= 1
            later(hop(), "run", window.start())
        peak = max(peak, window.active)
        assert 0 <= window.running <= window.active <= maximum
        assert 1 <= window.limit <= maximum
    assert (window.active, window.running) == (0, 0)
    return Outcome(last, refusals, used / offered if offered else 1.0, peak)


SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fixed_limit_is_fully_used_with_few_refusals(seed: int) -> None:
    outcome = simulate(lambda now: 20, 300, seed)
    assert outcome.refusals <= 0.1 * 300
    assert outcome.used >= 0.9


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("at", [6.0, 12.0, 18.0])
def test_a_limit_that_drops_from_40_to_10_costs_few_refusals(seed: int, at: float) -> None:
    outcome = simulate(lambda now: 40 if now < at else 10, 300, seed)
    assert outcome.refusals <= 0.3 * 300
    assert outcome.used >= 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_a_steadily_falling_limit_is_followed(seed: int) -> None:
    outcome = simulate(lambda now: max(5, 40 - int(now)), 300, seed)
    assert outcome.refusals <= 0.3 * 300
    assert outcome.used >= 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rising_limit_is_reached(seed: int) -> None:
    outcome = simulate(lambda now: 10 if now < 30 else 40, 900, seed)
    assert outcome.used >= 0.8
    assert 40 <= outcome.peak <= 60
    assert outcome.refusals <= 0.1 * 900


@pytest.mark.parametrize("seed", SEEDS)
def test_a_limit_of_one_task_costs_fewer_refusals_than_jobs(seed: int) -> None:
    assert simulate(lambda now: 1, 40, seed).refusals <= 0.65 * 40
    assert simulate(lambda now: 1, 40, seed).used >= 0.9


@pytest.mark.parametrize("maximum", [1, 3, 50])
def test_without_a_limit_concurrency_grows_to_the_maximum(maximum: int) -> None:
    outcome = simulate(lambda now: 10**6, 300, 1, maximum=maximum)
    assert outcome.peak == maximum
    assert outcome.refusals == 0


@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.floats(0.5, 30), st.integers(1, 60)), min_size=1, max_size=6),
    st.integers(1, 60),
    st.floats(0.0, 2.0),
    st.integers(0, 70),
)
def test_a_batch_ends_within_its_bounds_at_any_limit(
    seed: int, limits: list[tuple[float, int]], maximum: int, jitter: float, foreign: int
) -> None:
    def limit_at(now: float) -> int:
        for seconds, limit in limits:
            now -= seconds
            if now < 0:
                return limit
        return limits[-1][1]

    simulate(limit_at, 60, seed, maximum=maximum, jitter=jitter, foreign_at=lambda now: foreign if now < 200 else 0)


def test_a_refusal_that_overtakes_other_answers_counts_their_runs_as_active() -> None:
    window = Window(8, 256)
    epochs = [window.start() for _ in range(8)]
    assert window.refused(0.0, epochs[7]) == 5.0
    window.released(was_running=False)
    for _ in range(5):
        window.accepted()
    assert window.limit == 5
    assert not window.may_start(0.1)
    window.released(was_running=True)
    window.active -= 2  # two more ended without a task
    assert window.may_start(0.1)


def test_with_no_own_task_running_probes_back_off_from_5_to_60_seconds() -> None:
    window, now, waits = Window(8, 256), 0.0, list[float]()
    for _ in range(7):
        assert window.may_start(now)
        wait = window.refused(now, window.start())
        window.released(was_running=False)
        assert wait is not None
        assert not window.may_start(now + wait - 0.01)
        now += wait
        waits.append(wait)
    assert waits == [5, 10, 20, 40, 60, 60, 60]
    window.start()
    window.accepted()
    assert window.refused(now, window.start()) is None
    window.released(was_running=False)
    window.released(was_running=True)
    assert window.refused(now, window.start()) == 5.0, "an accepted Run resets the backoff"


def test_refusals_of_one_burst_count_once() -> None:
    window = Window(8, 256)
    epochs = [window.start() for _ in range(8)]
    waits = []
    for epoch in epochs:
        waits.append(window.refused(1.0, epoch))
        window.released(was_running=False)
    assert waits == [5.0] * 8
    assert window.may_start(6.0)


def test_consecutive_refusals_wait_for_twice_as_many_completions_each() -> None:
    window = Window(40, 256)
    for _ in range(40):
        window.start()
        window.accepted()
    window.limit = 41
    holds = []
    for _ in range(4):
        window.refused(0.0, window.start())
        window.released(was_running=False)
        hold = 0
        while not window.may_start(0.0):
            window.released(was_running=True)
            hold += 1
        holds.append(hold)
    assert holds == [1, 2, 4, 8]


def test_resumed_tasks_count_even_above_the_limit() -> None:
    window = Window(2, 2)
    for _ in range(3):
        window.readopt()
    assert (window.active, window.running) == (3, 3)
    assert not window.may_start(0.0)
    window.released(was_running=True)
    window.released(was_running=True)
    assert window.may_start(0.0)


@dataclass(frozen=True)
class Polled:
    latency: float
    p90: float
    polls: float


def poll(duration: Callable[[random.Random], float], *, at_once: int, seed: int, tasks: int = 300) -> Polled:
    """Simulate tasks without notifications; measure those after the first 20."""
    rng, known = random.Random(seed), Durations()
    agenda: list[tuple[float, int, float, float, float, int]] = []
    latencies, polls, count = list[float](), list[int](), 0

    def begin(now: float) -> None:
        nonlocal count
        if count < tasks:
            count += 1
            heapq.heappush(agenda, (now + next_poll(0.0, known), count, now, duration(rng), 0.0, 1))

    for _ in range(at_once):
        begin(0.0)
    while agenda:
        now, number, since, seconds, ran_at, polled = heapq.heappop(agenda)
        age = now - since
        if age >= seconds:
            known.note(ran_at, age)
            latencies.append(age - seconds)
            polls.append(polled)
            begin(now + 0.05)
        else:
            at = since + next_poll(age + 0.05, known)
            assert at > now
            heapq.heappush(agenda, (at, number, since, seconds, age, polled + 1))
    seen = sorted(latencies[20:])
    return Polled(statistics.median(seen), seen[int(0.9 * len(seen))], statistics.mean(polls[20:]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("at_once", [1, 8, 50])
def test_the_end_of_a_task_of_2_to_4_seconds_is_seen_within_300_ms_at_4_polls_a_task(seed: int, at_once: int) -> None:
    seen = poll(lambda rng: rng.uniform(2, 4), at_once=at_once, seed=seed)
    assert seen.latency <= 0.3
    assert seen.p90 <= 0.6
    assert seen.polls <= 4


@pytest.mark.parametrize(
    ("duration", "latency", "polls"),
    [
        (lambda rng: rng.uniform(50, 70), 2.5, 5.0),
        (lambda rng: rng.choice([5, 50]) * rng.uniform(0.95, 1.05), 3.0, 6.0),
        (lambda rng: 30.0, 0.8, 4.0),
        (lambda rng: 3.0, 0.2, 4.0),
        (lambda rng: 5 + rng.expovariate(1 / 20), 5.0, 7.5),
    ],
    ids=["60 s +- 10", "5 or 50 s", "30 s", "3 s", "a long tail"],
)
@pytest.mark.parametrize("at_once", [1, 50])
def test_other_durations_are_learned(
    duration: Callable[[random.Random], float], latency: float, polls: float, at_once: int
) -> None:
    for seed in range(3):
        seen = poll(duration, at_once=at_once, seed=seed)
        assert seen.latency <= latency
        assert seen.polls <= polls


def test_without_known_durations_the_intervals_grow_to_the_cap() -> None:
    age, ages = 0.0, list[float]()
    for _ in range(20):
        age = next_poll(age, Durations())
        ages.append(age)
    steps = [later - sooner for sooner, later in zip([0.0, *ages], ages, strict=False)]
    assert steps[0] == 1.0
    assert steps == sorted(steps)
    assert steps[-1] == POLL_CAP_SECONDS


def test_with_a_healthy_socket_polls_begin_after_the_longest_known_duration() -> None:
    known = Durations()
    assert next_poll(0.0, known, covered=True) == 10.0
    assert next_poll(3.0, known, covered=True) == 10.0
    assert next_poll(11.0, known, covered=True) == pytest.approx(11.0 + 11.0 * 0.35)
    assert next_poll(1000.0, known, covered=True) == 1000.0 + SAFEGUARD_CAP_SECONDS
    known.note(100.0, 100.0)
    assert next_poll(3.0, known, covered=True) == pytest.approx(125.5)
    assert next_poll(126.0, known, covered=True) == pytest.approx(156.0)
    for _ in range(15):
        known.note(80.0, 80.0)
    assert next_poll(3.0, known, covered=True) == pytest.approx(105.5)


def test_no_poll_is_due_before_the_shortest_known_duration() -> None:
    known = Durations()
    for _ in range(50):
        known.note(59.0, 61.0)
    assert next_poll(0.0, known) > 59.0


def test_beyond_the_longest_known_duration_the_intervals_grow_again() -> None:
    known = Durations()
    for number in range(50):
        known.note(2.0, 2.0 + number / 100)
    assert next_poll(3.0, known) - 3.0 < 1.0
    assert next_poll(10_000.0, known) == 10_000.0 + POLL_CAP_SECONDS


@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)).map(sorted), max_size=30),
    st.floats(0, 1e6),
    st.booleans(),
)
def test_the_next_poll_is_at_least_100_ms_ahead(spans: list[list[float]], age: float, healthy: bool) -> None:
    known = Durations()
    for at_least, at_most in spans:
        known.note(at_least, at_most)
    assert next_poll(age, known, covered=healthy) >= age + 0.0999


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)).map(sorted), min_size=1, max_size=600))
def test_quantiles_are_within_the_spans_of_the_newest_256_durations(spans: list[list[float]]) -> None:
    known = Durations()
    for at_least, at_most in spans:
        known.note(at_least, at_most)
    assert len(known) == min(256, len(spans))
    low, high = known.quantile(0.0), known.quantile(1.0)
    assert low is not None
    assert high is not None
    assert low <= (known.quantile(0.5) or 0.0) <= high
    newest = spans[-256:]
    assert low >= min(at_least if at_least > 0 else 0.7 * at_most for at_least, at_most in newest) - 1e-6
    assert high <= max(at_most for _, at_most in newest) + 1e-6
    assert len(known.beyond(-1.0)) == len(known)
    assert known.beyond(high) == []


def test_there_is_no_quantile_without_durations() -> None:
    assert Durations().quantile(0.5) is None


def test_the_heap_pops_the_most_overdue_first_and_ties_in_order() -> None:
    heap: PollHeap[str] = PollHeap()
    for key, at in [("late", 3.0), ("b", 1.0), ("a", 1.0), ("future", 9.0)]:
        heap.put(key, at)
    assert [heap.pop_due(5.0) for _ in range(4)] == ["b", "a", "late", None]
    assert len(heap) == 1
    assert heap.next_at() == 9.0


def test_a_dropped_or_popped_key_is_not_kept_until_it_would_have_been_due() -> None:
    class Key:
        pass

    heap: PollHeap[Key] = PollHeap()
    dropped, popped, moved = Key(), Key(), Key()
    heap.put(dropped, 100.0)
    heap.put(popped, 50.0)
    heap.put(popped, 1.0)
    heap.put(moved, 100.0)
    heap.advance(moved, 2.0)
    heap.drop(dropped)
    assert heap.pop_due(1.0) is popped
    assert heap.pop_due(2.0) is moved
    ended = [weakref.ref(key) for key in (dropped, popped, moved)]
    del dropped, popped, moved
    assert [each() for each in ended] == [None] * 3


def test_a_moved_entry_is_popped_once_and_a_dropped_one_never() -> None:
    heap: PollHeap[str] = PollHeap()
    heap.put("a", 5.0)
    heap.put("a", 1.0)
    heap.put("a", 5.0)
    heap.put("b", 2.0)
    heap.drop("b")
    heap.drop("absent")
    assert heap.pop_due(4.0) is None
    assert heap.pop_due(5.0) == "a"
    assert heap.pop_due(5.0) is None
    assert heap.next_at() is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "drop", "pop"]), st.sampled_from("abcde"), st.integers(0, 6).map(float)
        ),
        max_size=120,
    )
)
def test_the_heap_behaves_like_a_dict_of_times(steps: list[tuple[str, str, float]]) -> None:
    heap: PollHeap[str] = PollHeap()
    model: dict[str, float] = {}
    for what, key, at in steps:
        if what == "put":
            heap.put(key, at)
            model[key] = at
        elif what == "drop":
            heap.drop(key)
            model.pop(key, None)
        else:
            popped = heap.pop_due(at)
            earliest = min(model.values(), default=math.inf)
            if popped is None:
                assert earliest > at
            else:
                assert model.pop(popped) == earliest <= at
        assert len(heap) == len(model)
        assert heap.next_at() == min(model.values(), default=None)


def test_advance_never_delays_an_entry() -> None:
    heap: PollHeap[str] = PollHeap()
    heap.advance("a", 5.0)
    heap.advance("a", 7.0)
    assert heap.next_at() == 5.0
    heap.advance("a", 3.0)
    assert (heap.next_at(), len(heap)) == (3.0, 1)
    assert heap.pop_due(3.0) == "a"
    assert heap.next_at() is None


def test_a_task_polled_at_its_safeguard_is_not_polled_again_at_the_same_time() -> None:
    since = 8.08
    age = (since + 10.0) - since
    assert age < 10.0, "because of floating-point rounding"
    assert since + next_poll(age, Durations(), covered=True) > since + 10.0 + 1.0
