from __future__ import annotations

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_events import (
    accepted,
    cancelled,
    downloading,
    ended,
    failed,
    finished,
    limited,
    missing,
    problem,
    quarantined,
    retrying,
    running,
    started,
    stopping,
    stored,
    submitting,
    unknown,
    uploaded,
)

from wan_async.cli import statistics
from wan_async.cli.statistics import Statistics
from wan_async.domain import events
from wan_async.domain.lifecycle import State


def statistics_of(*stream: events.Event) -> Statistics:
    stats = Statistics()
    for event in stream:
        stats.fold(event)
    return stats


jobs = st.sampled_from("abcde")
costs = st.sampled_from([None, "0", "0.04", "0.1"])
any_event: st.SearchStrategy[events.Event] = st.one_of(
    *(st.builds(make, jobs) for make in (uploaded, submitting, accepted, retrying, unknown, quarantined, missing)),
    st.builds(cancelled, jobs),
    st.builds(running, jobs, st.none() | st.floats(-5, 120), attempt=st.integers(0, 3)),
    st.builds(submitting, jobs, attempt=st.integers(1, 3), price=costs),
    st.builds(ended, jobs, costs, attempt=st.integers(1, 3)),
    st.builds(downloading, jobs, st.integers(0, 2000), st.none() | st.just(1000), st.floats(0, 50)),
    st.builds(stored, jobs, cost=costs),
    st.builds(failed, jobs, billed=costs),
    st.builds(limited, st.sampled_from([96, 97, 429])),
    st.builds(stopping),
)


@given(st.integers(0, 8), st.integers(0, 3), st.lists(any_event, max_size=60))
def test_for_any_events_each_job_is_in_one_state_and_no_number_is_negative(
    unfinished: int, done: int, stream: list[events.Event]
) -> None:
    stats = statistics_of(started(jobs=unfinished + done + 1, done=done, to_do=unfinished))
    for event in stream:
        before = stats.spent_usd
        stats.fold(event)
        assert all(count >= 0 for count in stats.counts.values())
        seen = len({event.job for event in stream if isinstance(event, events.JobEvent)})
        assert unfinished + done + 1 <= stats.jobs <= unfinished + done + 1 + seen
        assert sum(stats.counts[state] for state in statistics.UNFINISHED if state != "waiting") == len(stats.active)
        assert stats.spent_usd >= 0
        assert stats.reserved_usd >= 0
        assert stats.bytes_per_second(50) >= 0
        assert (eta := stats.eta(50)) is None or 0 <= eta.low <= eta.likely <= eta.high
        projected = stats.projected_usd()
        assert projected is None or projected >= stats.spent_usd
        if isinstance(event, events.Progress | events.Downloading):
            assert stats.spent_usd == before


def test_a_job_passes_through_its_states() -> None:
    stats = statistics_of(started(jobs=5, done=1, to_do=3))
    assert (stats.counts["waiting"], stats.counts["done"], stats.counts["skipped"]) == (3, 1, 1)
    steps: list[tuple[events.Event, statistics.Stage]] = [
        (uploaded("a"), "uploaded"),
        (submitting("a"), "submitting"),
        (unknown("a"), "unknown"),
        (accepted("a"), "queued"),
        (running("a", None, status="task_queue"), "queued"),
        (running("a", None, status="task_start"), "running"),
        (retrying("a"), "retrying"),
        (running("a", 130), "running"),
        (ended("a"), "downloading"),
        (running("a", 99), "downloading"),
        (downloading("a", 500), "downloading"),
        (uploaded("a"), "downloading"),
    ]
    for event, state in steps:
        stats.fold(event)
        assert stats.active["a"].state == state
        assert stats.counts[state] == 1
    stats.fold(stored("a"))
    assert stats.counts[State.STORED] == 1
    assert stats.over == 2
    assert stats.jobs == 5


def test_late_samples_do_not_move_a_job_back() -> None:
    stats = statistics_of(started(), submitting("a"), submitting("a", attempt=2), running("a", 90, attempt=1))
    assert stats.active["a"].state == "submitting"
    for late in (running("b", 5), downloading("b", 5)):
        done = statistics_of(started(), stored("b"), late, ended("b"))
        assert done.counts[State.STORED] == 1
        assert not done.active


def test_a_quarantined_attempt_keeps_its_reservation_and_may_be_recovered() -> None:
    stats = statistics_of(started(jobs=1), submitting("a"), unknown("a"), quarantined("a"))
    assert stats.reserved_usd == Decimal("0.04")
    assert stats.projected_usd() == Decimal("0.04")
    assert stats.reasons == {"a": ("quarantined", "two tasks look alike")}
    stats.fold(accepted("a"))
    assert (stats.counts[State.QUARANTINED], stats.counts["queued"], stats.reasons) == (0, 1, {})


def test_a_cost_counts_once_when_the_attempt_ends() -> None:
    stats = statistics_of(started(jobs=2), submitting("a"), ended("a"), ended("a"), stored("a"))
    assert stats.spent_usd == Decimal("0.04")
    stats = statistics_of(started(jobs=2), ended("a", cost=None), stored("a", cost="0.05"), ended("a", cost=None))
    assert stats.spent_usd == Decimal("0.05")
    stats = statistics_of(
        started(jobs=2), ended("a", cost=None), failed("a", billed="0.06"), failed("a", billed="0.06")
    )
    assert stats.spent_usd == Decimal("0.06")
    stats = statistics_of(started(jobs=2), ended("a", attempt=1), ended("a", attempt=2))
    assert stats.spent_usd == Decimal("0.08")


def test_the_cost_of_an_earlier_run_does_not_count_as_spent() -> None:
    assert statistics_of(started(), stored("a")).spent_usd == 0


def test_a_refused_run_releases_its_reservation_and_a_retried_poll_does_not() -> None:
    assert statistics_of(started(), submitting("a"), retrying("a")).reserved_usd == 0
    assert statistics_of(started(), submitting("a"), accepted("a"), retrying("a")).reserved_usd == Decimal("0.04")
    assert statistics_of(started(), retrying("a")).reserved_usd == 0


def test_bytes_per_second_are_those_of_the_last_ten_seconds() -> None:
    stats = statistics_of(started(), ended("a"), downloading("a", 1000, at=1), downloading("a", 51_000, at=2))
    stats.fold(downloading("a", 1000, at=3))  # restarted
    stats.fold(stored("a", at=3, size=51_000))
    stats.fold(downloading("b", 1, at=2))
    stats.fold(downloading("b", 1001, at=2, total=None))  # samples may come late
    assert stats.bytes_per_second(3.5) == pytest.approx(10_100)
    assert stats.bytes_per_second(30) == 0
    assert statistics_of(started(), ended("a"), stored("a", at=3, size=70)).bytes_per_second(4) == pytest.approx(7)


def test_the_eta_divides_the_remaining_time_by_the_slots_in_use() -> None:
    stats = statistics_of(started(jobs=12), *(submitting(job, at=0) for job in "abc"))
    assert stats.eta(60) is None
    for job in "abc":
        stats.fold(ended(job, at=60))
        stats.fold(stored(job, at=60))
    for job in "def":
        stats.fold(submitting(job, at=60))
    eta = stats.eta(90)  # three have 30 s left, and six wait: two rounds of 60 s
    assert eta is not None
    assert eta.likely == pytest.approx(150, rel=0.15)
    stats.fold(stopping())
    assert (stopped := stats.eta(90)) is not None
    assert stopped.likely == pytest.approx(30, rel=0.3)


def test_a_task_of_an_earlier_run_has_any_part_of_its_time_left() -> None:
    stats = statistics_of(started(jobs=2), submitting("a"), stored("a", at=60), accepted("b", at=60, adopted=True))
    assert (eta := stats.eta(60)) is not None
    assert 0 <= eta.low < eta.likely < eta.high < 100
    stats.fold(stored("b", at=70))
    assert stats.eta(70) is None


def test_limits_are_in_force_for_their_time_and_a_low_balance_until_a_task_is_accepted() -> None:
    stats = statistics_of(started(), limited(429, at=0, after=5), limited(96, at=0), limited(97, at=0))
    assert [limit.code for limit in stats.limits(4)] == [96, 97, 429]
    assert [limit.code for limit in stats.limits(20)] == [96, 97]
    assert [limit.code for limit in stats.limits(1e9)] == [97]
    stats.fold(accepted("a", adopted=True))
    assert stats.limits(1e9)
    stats.fold(accepted("b"))
    assert not stats.limits(1e9)


def test_the_most_advanced_jobs_come_first_and_small_steps_do_not_reorder_them() -> None:
    stats = statistics_of(started(), uploaded("u"), submitting("s"), accepted("q"), running("r", 52), running("p", 55))
    stats.fold(ended("d"))
    assert [job.job for job in stats.advanced(9, 0)] == ["d", "r", "p", "q", "s"]
    assert [job.job for job in stats.advanced(2, 0)] == ["d", "r"]


def test_unknown_events_change_nothing() -> None:
    stats = statistics_of(started(jobs=2), submitting("a"))
    before = (dict(stats.counts), dict(stats.active), stats.reserved_usd)
    stats.fold(problem())
    stats.fold(events.Event(at=1, run="r"))
    stats.fold(events.JobEvent(at=1, run="r", job="a", attempt=1))
    assert (stats.counts, stats.active, stats.reserved_usd) == before


def test_the_start_the_stop_reason_and_the_end_of_a_run_are_recorded() -> None:
    stats = Statistics()
    assert (stats.started, stats.stopping, stats.finished, stats.jobs) == (None, None, None, 0)
    first, last = started(jobs=3), finished(stored=3)
    for event in (first, stopping(reason="enough"), last):
        stats.fold(event)
    assert (stats.started, stats.stopping, stats.finished) == (first, "enough", last)


def test_jobs_recovered_before_the_start_do_not_count_as_waiting() -> None:
    stats = statistics_of(accepted("a", adopted=True), stored("b"), started(jobs=4, done=0, to_do=3))
    assert (stats.counts["waiting"], stats.counts["queued"], stats.counts[State.STORED]) == (1, 1, 1)


def test_a_task_of_a_job_removed_from_the_batch_counts_as_an_extra_job() -> None:
    stats = statistics_of(started(jobs=1, done=1), accepted("gone", adopted=True))
    assert (stats.jobs, stats.counts["done"], stats.counts["queued"]) == (2, 1, 1)
    stats.fold(stored("gone"))
    assert (stats.jobs, stats.over) == (2, 2)


@pytest.mark.parametrize(
    ("event", "state", "reason"),
    [
        (failed("a", "exit code 1"), State.FAILED, "render: exit code 1"),
        (cancelled("a"), State.CANCELLED, "from elsewhere"),
        (missing("a"), State.MISSING, "no output"),
        (quarantined("a"), State.QUARANTINED, "two tasks look alike"),
    ],
)
def test_an_unsuccessful_end_has_a_reason_from_any_previous_state(
    event: events.JobEvent, state: State, reason: str
) -> None:
    for before in ([], [submitting("a")], [submitting("a"), accepted("a"), running("a", 5)]):
        stats = statistics_of(started(jobs=1), *before, event)
        assert stats.reasons == {"a": (state, reason)}
        assert (stats.counts[state], stats.over, stats.jobs, stats.active) == (1, 1, 1, {})


def test_every_end_but_quarantine_releases_the_reservation() -> None:
    for event in (failed("a"), cancelled("a"), missing("a"), stored("a", cost=None)):
        assert statistics_of(started(jobs=1), submitting("a"), event).reserved_usd == 0


def test_a_job_without_a_price_reserves_nothing_and_projects_nothing() -> None:
    stats = statistics_of(started(jobs=2), submitting("a", price=None))
    assert stats.reserved_usd == 0
    assert stats.projected_usd() is None


def test_a_new_attempt_resets_the_progress() -> None:
    stats = statistics_of(started(jobs=1), submitting("a"), running("a", 90), ended("a"), downloading("a", 500))
    stats.fold(retrying("a"))
    assert stats.active["a"].percent is None
    stats.fold(submitting("a", at=50, attempt=2))
    job = stats.active["a"]
    assert (job.state, job.attempt, job.since, job.percent, job.bytes) == ("submitting", 2, 50, None, None)
    stats.fold(retrying("a"))
    assert stats.active["a"].attempt == 2, "a late event of the first attempt must not bring it back"


@pytest.mark.parametrize(
    ("percent", "status", "state", "shown"),
    [
        (None, "task_queue", "queued", None),
        (None, "task_accept", "queued", None),
        (0, "task_queue", "running", 0.0),
        (None, "task_preprocess_start", "running", 40),
        (-5, "task_output", "running", 0.0),
        (130, "task_output", "running", 100.0),
    ],
)
def test_a_progress_sample_sets_the_percentage_of_a_render(
    percent: float | None, status: str, state: statistics.Stage, shown: float | None
) -> None:
    stats = statistics_of(started(jobs=1), accepted("a"), running("a", 40), running("a", percent, status=status))
    assert (stats.active["a"].state, stats.active["a"].percent) == (state, shown)


@pytest.mark.parametrize(("got", "total", "shown"), [(500, 1000, 50.0), (5, None, None), (5, 0, None), (9, 3, 100.0)])
def test_a_download_sample_sets_the_bytes_and_the_percentage(got: int, total: int | None, shown: float | None) -> None:
    stats = statistics_of(started(jobs=1), ended("a"), downloading("a", got, total))
    assert (stats.active["a"].bytes, stats.active["a"].percent) == (got, shown)


def test_a_render_sample_after_the_end_leaves_the_job_downloading() -> None:
    stats = statistics_of(started(jobs=1), ended("a"), downloading("a", 500), running("a", 99), running("a", None))
    assert (stats.active["a"].state, stats.active["a"].percent) == ("downloading", 50.0)


def test_an_attempt_settled_after_its_clip_was_stored_stays_stored() -> None:
    stats = statistics_of(started(jobs=1), submitting("a"), stored("a", cost=None), ended("a", "0.07"))
    assert (stats.counts[State.STORED], stats.spent_usd, stats.active) == (1, Decimal("0.07"), {})


def test_rates_keep_a_bounded_number_of_samples() -> None:
    stats = statistics_of(started(jobs=1000))
    for second in range(1000):
        for event in (submitting(f"{second}", at=second), ended(f"{second}"), stored(f"{second}", at=second + 1)):
            stats.fold(event)
    assert stats.bytes_per_second(1000) == pytest.approx(1000)
    assert len(stats._received) <= 11


def test_a_clock_that_goes_back_makes_no_time_negative() -> None:
    stats = statistics_of(started(jobs=2), submitting("a", at=100), stored("a", at=50), submitting("b", at=100))
    assert stats.eta(50) is not None
    assert statistics_of(started(jobs=1), ended("a"), stored("a", at=9, size=70)).bytes_per_second(3) == pytest.approx(
        7
    )


def test_the_later_of_two_limits_with_the_same_code_applies() -> None:
    stats = statistics_of(started(), limited(96, at=0, after=50), limited(96, at=10, after=1, slots=3))
    assert [limit.concurrency for limit in stats.limits(10.5)] == [3]
    assert stats.limits(11) == []


def test_twenty_thousand_jobs_take_less_than_4_seconds_of_cpu() -> None:
    stats = statistics_of(started(jobs=20_000))
    begin = time.process_time()
    for number in range(20_000):
        job = f"j{number}"
        for event in (submitting(job), stored(job)):
            stats.fold(event)
    assert stats.counts[State.STORED] == 20_000
    assert time.process_time() - begin < 4


def test_a_run_that_was_refused_with_96_waits_again() -> None:
    stats = statistics_of(started(jobs=2), uploaded("a"), submitting("a"), limited(96, slots=3, job="a"))
    assert (stats.counts["uploaded"], stats.counts["submitting"]) == (1, 0)
    assert stats.slots == (0, 3)
    stats.fold(submitting("a"))
    assert stats.slots == (1, 3)


def test_slots_are_those_that_the_account_or_the_user_allows() -> None:
    assert statistics_of(started(), submitting("a"), running("b", 5)).slots == (2, None)
    assert statistics_of(started(concurrency=8), submitting("a")).slots == (1, 8)
    assert statistics_of(started(concurrency=1), submitting("a"), submitting("b")).slots == (2, 2)


def test_a_task_that_takes_three_times_as_long_as_the_others_is_slow() -> None:
    stats = statistics_of(started(), *(submitting(job, at=0) for job in "abcd"))
    for job in "abc":
        stats.fold(ended(job, at=20))
    assert not stats.is_slow(stats.active["d"], 60)
    assert stats.is_slow(stats.active["d"], 61)
    assert stats.advanced(1, 61)[0].job == "d"
    assert not stats.is_slow(stats.active["a"], 61), "its task has ended"


def test_clips_per_minute_are_those_of_the_last_five_minutes() -> None:
    stats = statistics_of(started())
    assert stats.clips_per_minute(60) is None
    for number in range(6):
        stats.fold(submitting(f"{number}", at=0))
        stats.fold(stored(f"{number}", at=30))
    assert stats.clips_per_minute(60) == pytest.approx(6)
    assert stats.clips_per_minute(120) == pytest.approx(3)
    assert stats.clips_per_minute(400) == 0


def test_median_and_slowest_clip_are_known() -> None:
    stats = statistics_of(started())
    assert (stats.median_seconds, stats.slowest) == (None, None)
    for job, seconds in (("a", 10), ("b", 50), ("c", 20)):
        stats.fold(submitting(job, at=0))
        stats.fold(stored(job, at=seconds))
    assert (stats.median_seconds, stats.slowest) == (20, (50, "b"))


def test_an_unknown_run_is_decided_at_a_time() -> None:
    stats = statistics_of(started(), submitting("a"), unknown("a", decided_at=70))
    assert stats.undecided_until == {"a": 70}
    stats.fold(accepted("a", adopted=True))
    assert stats.undecided_until == {}
