from __future__ import annotations

import time
from decimal import Decimal

import pytest
from facts import (
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
from hypothesis import given, settings
from hypothesis import strategies as st

from wan_async.cli import statistics
from wan_async.cli.statistics import Statistics
from wan_async.domain import events


def tally_of(*stream: events.Event) -> Statistics:
    tally = Statistics()
    for event in stream:
        tally.fold(event)
    return tally


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


@settings(deadline=None)
@given(st.integers(0, 8), st.integers(0, 3), st.lists(any_event, max_size=60))
def test_for_any_events_each_job_is_in_one_state_and_no_number_is_negative(
    unfinished: int, done: int, stream: list[events.Event]
) -> None:
    tally = tally_of(started(jobs=unfinished + done + 1, done=done, unfinished=unfinished))
    for event in stream:
        before = tally.spent_usd
        tally.fold(event)
        assert all(count >= 0 for count in tally.counts.values())
        seen = len({event.job for event in stream if isinstance(event, events.JobEvent)})
        assert unfinished + done + 1 <= tally.jobs <= unfinished + done + 1 + seen
        assert sum(tally.counts[state] for state in statistics.UNFINISHED if state != "waiting") == len(tally.active)
        assert tally.spent_usd >= 0
        assert tally.reserved_usd >= 0
        assert tally.bytes_per_second(50) >= 0
        assert (tally.eta_seconds(50) or 0) >= 0
        projected = tally.projected_usd()
        assert projected is None or projected >= tally.spent_usd
        if isinstance(event, events.Progress | events.Downloading):
            assert tally.spent_usd == before


def test_a_job_passes_through_its_states() -> None:
    tally = tally_of(started(jobs=5, done=1, unfinished=3))
    assert (tally.counts["waiting"], tally.counts["done"], tally.counts["skipped"]) == (3, 1, 1)
    walk: list[tuple[events.Event, statistics.State]] = [
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
    for event, state in walk:
        tally.fold(event)
        assert tally.active["a"].state == state
        assert tally.counts[state] == 1
    tally.fold(stored("a"))
    assert tally.counts["stored"] == 1
    assert tally.over == 2
    assert tally.jobs == 5


def test_late_samples_do_not_move_a_job_back() -> None:
    tally = tally_of(started(), submitting("a"), submitting("a", attempt=2), running("a", 90, attempt=1))
    assert tally.active["a"].state == "submitting"
    for late in (running("b", 5), downloading("b", 5)):
        done = tally_of(started(), stored("b"), late, ended("b"))
        assert done.counts["stored"] == 1
        assert not done.active


def test_a_quarantined_attempt_keeps_its_reservation_and_may_be_recovered() -> None:
    tally = tally_of(started(jobs=1), submitting("a"), unknown("a"), quarantined("a"))
    assert tally.reserved_usd == Decimal("0.04")
    assert tally.projected_usd() == Decimal("0.04")
    assert tally.reasons == {"a": ("quarantined", "two tasks look alike")}
    tally.fold(accepted("a"))
    assert (tally.counts["quarantined"], tally.counts["queued"], tally.reasons) == (0, 1, {})


def test_a_cost_counts_once_when_the_attempt_ends() -> None:
    tally = tally_of(started(jobs=2), submitting("a"), ended("a"), ended("a"), stored("a"))
    assert tally.spent_usd == Decimal("0.04")
    tally = tally_of(started(jobs=2), ended("a", cost=None), stored("a", cost="0.05"), ended("a", cost=None))
    assert tally.spent_usd == Decimal("0.05")
    tally = tally_of(started(jobs=2), ended("a", cost=None), failed("a", billed="0.06"), failed("a", billed="0.06"))
    assert tally.spent_usd == Decimal("0.06")
    tally = tally_of(started(jobs=2), ended("a", attempt=1), ended("a", attempt=2))
    assert tally.spent_usd == Decimal("0.08")


def test_the_cost_of_an_earlier_run_does_not_count_as_spent() -> None:
    assert tally_of(started(), stored("a")).spent_usd == 0


def test_the_projection_is_spent_plus_the_average_cost_of_the_rest() -> None:
    assert tally_of(started(jobs=4)).projected_usd() is None
    assert tally_of(started(jobs=4), submitting("a")).projected_usd() == Decimal("0.16")
    tally = tally_of(started(jobs=4), ended("a", "0.03"), stored("a"), ended("b", "0.05"), ended("c", "0"), failed("c"))
    assert tally.projected_usd() == Decimal("0.12")
    tally.fold(stopping())
    assert tally.projected_usd() == Decimal("0.08")


def test_a_refused_run_releases_its_reservation_and_a_retried_poll_does_not() -> None:
    assert tally_of(started(), submitting("a"), retrying("a")).reserved_usd == 0
    assert tally_of(started(), submitting("a"), accepted("a"), retrying("a")).reserved_usd == Decimal("0.04")
    assert tally_of(started(), retrying("a")).reserved_usd == 0


def test_bytes_per_second_are_those_of_the_last_ten_seconds() -> None:
    tally = tally_of(started(), ended("a"), downloading("a", 1000, at=1), downloading("a", 51_000, at=2))
    tally.fold(downloading("a", 1000, at=3))  # began anew
    tally.fold(stored("a", at=3, size=51_000))
    tally.fold(downloading("b", 1, at=2))
    tally.fold(downloading("b", 1001, at=2, total=None))  # samples may come late
    assert tally.bytes_per_second(3.5) == pytest.approx(10_100)
    assert tally.bytes_per_second(30) == 0
    assert tally_of(started(), ended("a"), stored("a", at=3, size=70)).bytes_per_second(4) == pytest.approx(7)


def test_the_eta_divides_the_remaining_time_by_the_slots_in_use() -> None:
    tally = tally_of(started(jobs=12), *(submitting(job, at=0) for job in "abc"))
    assert tally.eta_seconds(60) is None
    tally.fold(stored("a", at=60))
    tally.fold(submitting("d", at=60))
    # d has 60 s left, b and c should be done; 8 wait: (60 + 8 * 60) / 3
    assert tally.eta_seconds(60) == pytest.approx(180)
    tally.fold(stopping())
    assert tally.eta_seconds(60) == pytest.approx(60)


def test_the_eta_counts_half_a_job_for_one_that_an_earlier_run_started() -> None:
    tally = tally_of(started(jobs=2), submitting("a"), stored("a", at=60), accepted("b", at=60, adopted=True))
    assert tally.eta_seconds(60) == pytest.approx(30)
    tally.fold(stored("b", at=70))
    assert tally.eta_seconds(70) is None


def test_limits_are_in_force_for_their_time_and_a_low_balance_until_a_task_is_accepted() -> None:
    tally = tally_of(started(), limited(429, at=0, after=5), limited(96, at=0), limited(97, at=0))
    assert [limit.code for limit in tally.limits(4)] == [96, 97, 429]
    assert [limit.code for limit in tally.limits(20)] == [96, 97]
    assert [limit.code for limit in tally.limits(1e9)] == [97]
    tally.fold(accepted("a", adopted=True))
    assert tally.limits(1e9)
    tally.fold(accepted("b"))
    assert not tally.limits(1e9)


def test_the_most_advanced_jobs_come_first_and_small_steps_do_not_reorder_them() -> None:
    tally = tally_of(started(), uploaded("u"), submitting("s"), accepted("q"), running("r", 52), running("p", 55))
    tally.fold(ended("d"))
    assert [job.job for job in tally.advanced(9)] == ["d", "r", "p", "q", "s"]
    assert [job.job for job in tally.advanced(2)] == ["d", "r"]


def test_unknown_events_change_nothing() -> None:
    tally = tally_of(started(jobs=2), submitting("a"))
    before = (dict(tally.counts), dict(tally.active), tally.reserved_usd)
    tally.fold(problem())
    tally.fold(events.Event(at=1, run="r"))
    tally.fold(events.JobEvent(at=1, run="r", job="a", attempt=1))
    assert (tally.counts, tally.active, tally.reserved_usd) == before


def test_the_start_the_stop_reason_and_the_end_of_a_run_are_recorded() -> None:
    tally = Statistics()
    assert (tally.started, tally.stopping, tally.finished, tally.jobs) == (None, None, None, 0)
    first, last = started(jobs=3), finished(stored=3)
    for event in (first, stopping(reason="enough"), last):
        tally.fold(event)
    assert (tally.started, tally.stopping, tally.finished) == (first, "enough", last)


def test_jobs_recovered_before_the_start_do_not_count_as_waiting() -> None:
    tally = tally_of(accepted("a", adopted=True), stored("b"), started(jobs=4, done=0, unfinished=3))
    assert (tally.counts["waiting"], tally.counts["queued"], tally.counts["stored"]) == (1, 1, 1)


def test_a_task_of_a_job_removed_from_the_batch_counts_as_an_extra_job() -> None:
    tally = tally_of(started(jobs=1, done=1), accepted("gone", adopted=True))
    assert (tally.jobs, tally.counts["done"], tally.counts["queued"]) == (2, 1, 1)
    tally.fold(stored("gone"))
    assert (tally.jobs, tally.over) == (2, 2)


@pytest.mark.parametrize(
    ("event", "state", "reason"),
    [
        (failed("a", "exit code 1"), "failed", "render: exit code 1"),
        (cancelled("a"), "cancelled", "from elsewhere"),
        (missing("a"), "missing", "no output"),
        (quarantined("a"), "quarantined", "two tasks look alike"),
    ],
)
def test_an_unsuccessful_end_has_a_reason_from_any_previous_state(
    event: events.JobEvent, state: statistics.State, reason: str
) -> None:
    for before in ([], [submitting("a")], [submitting("a"), accepted("a"), running("a", 5)]):
        tally = tally_of(started(jobs=1), *before, event)
        assert tally.reasons == {"a": (state, reason)}
        assert (tally.counts[state], tally.over, tally.jobs, tally.active) == (1, 1, 1, {})


def test_every_end_but_quarantine_releases_the_reservation() -> None:
    for event in (failed("a"), cancelled("a"), missing("a"), stored("a", cost=None)):
        assert tally_of(started(jobs=1), submitting("a"), event).reserved_usd == 0


def test_a_job_without_a_price_reserves_nothing_and_projects_nothing() -> None:
    tally = tally_of(started(jobs=2), submitting("a", price=None))
    assert tally.reserved_usd == 0
    assert tally.projected_usd() is None


def test_a_new_attempt_resets_the_progress() -> None:
    tally = tally_of(started(jobs=1), submitting("a"), running("a", 90), ended("a"), downloading("a", 500))
    tally.fold(retrying("a"))
    assert tally.active["a"].percent is None
    tally.fold(submitting("a", at=50, attempt=2))
    job = tally.active["a"]
    assert (job.state, job.attempt, job.since, job.percent, job.bytes) == ("submitting", 2, 50, None, None)
    tally.fold(retrying("a"))
    assert tally.active["a"].attempt == 2, "a late word of the first attempt does not make it the first again"


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
    percent: float | None, status: str, state: statistics.State, shown: float | None
) -> None:
    tally = tally_of(started(jobs=1), accepted("a"), running("a", 40), running("a", percent, status=status))
    assert (tally.active["a"].state, tally.active["a"].percent) == (state, shown)


@pytest.mark.parametrize(("got", "total", "shown"), [(500, 1000, 50.0), (5, None, None), (5, 0, None), (9, 3, 100.0)])
def test_a_download_sample_sets_the_bytes_and_the_percentage(got: int, total: int | None, shown: float | None) -> None:
    tally = tally_of(started(jobs=1), ended("a"), downloading("a", got, total))
    assert (tally.active["a"].bytes, tally.active["a"].percent) == (got, shown)


def test_a_render_sample_after_the_end_leaves_the_job_downloading() -> None:
    tally = tally_of(started(jobs=1), ended("a"), downloading("a", 500), running("a", 99), running("a", None))
    assert (tally.active["a"].state, tally.active["a"].percent) == ("downloading", 50.0)


def test_an_attempt_settled_after_its_clip_was_stored_stays_stored() -> None:
    tally = tally_of(started(jobs=1), submitting("a"), stored("a", cost=None), ended("a", "0.07"))
    assert (tally.counts["stored"], tally.spent_usd, tally.active) == (1, Decimal("0.07"), {})


def test_rates_keep_a_bounded_number_of_samples() -> None:
    tally = tally_of(started(jobs=1000))
    for second in range(1000):
        for event in (submitting(f"{second}", at=second), ended(f"{second}"), stored(f"{second}", at=second + 1)):
            tally.fold(event)
    assert tally.bytes_per_second(1000) == pytest.approx(1000)
    assert len(tally._received) <= 11
    assert len(tally._seconds) == 100


def test_a_clock_that_goes_back_makes_no_time_negative() -> None:
    tally = tally_of(started(jobs=2), submitting("a", at=100), stored("a", at=50), submitting("b", at=100))
    assert tally.eta_seconds(50) == pytest.approx(50)
    assert tally_of(started(jobs=1), ended("a"), stored("a", at=9, size=70)).bytes_per_second(3) == pytest.approx(7)


def test_the_later_of_two_limits_with_the_same_code_applies() -> None:
    tally = tally_of(started(), limited(96, at=0, after=50), limited(96, at=10, after=1, slots=3))
    assert [limit.concurrency for limit in tally.limits(10.5)] == [3]
    assert tally.limits(11) == []


def test_fifty_thousand_jobs_take_less_than_10_seconds_of_cpu() -> None:
    tally = tally_of(started(jobs=50_000))
    begin = time.process_time()
    for number in range(50_000):
        job = f"j{number}"
        for event in (submitting(job), stored(job)):
            tally.fold(event)
    assert tally.counts["stored"] == 50_000
    assert time.process_time() - begin < 10
