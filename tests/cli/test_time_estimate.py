"""The remaining time, in simulated runs whose end is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import product

import pytest
from sampling import sampled
from simulated_run import simulated_run

from wan_async.cli.display_text import eta_text
from wan_async.cli.statistics import Statistics
from wan_async.cli.time_estimate import SIMULATED_JOBS, Eta, Pace, Rendering, Rest

ORDERS: dict[str, Callable[[int], list[str]]] = {
    "alternating": lambda count: [["480P", "720P"][number % 2] for number in range(count)],
    "short first": lambda count: ["480P"] * (count // 2) + ["720P"] * (count - count // 2),
    "long first": lambda count: ["720P"] * (count // 2) + ["480P"] * (count - count // 2),
    "random": lambda count: random.Random(1).choices(["480P", "480P", "720P"], k=count),
    "a few long ones last": lambda count: ["480P"] * (count - 3) + ["720P"] * 3,
}
MOMENTS = 40


@pytest.mark.parametrize(("jobs", "slots"), sampled([(1000, 50), (12, 4), (300, 8), (30, 8)], 2))
def test_from_a_quarter_of_the_run_on_the_end_is_in_the_range_and_a_number_is_within_25_percent(
    jobs: int, slots: int
) -> None:
    """Of all moments in which something is shown, the end is in the range in 99 of 100.

    Where one number is shown, it is within 25 percent, or 2.5 s, of the truth: always.
    """
    known, ranges, outside, wrong = 0, 0, [], []
    for order, percentages, seed in product(ORDERS, (True, False), (3, 4) if jobs < 300 else (3,)):
        for left, eta in shown_etas(order, jobs, slots, percentages=percentages, seed=seed):
            known += eta.is_known
            ranges += not eta.is_known
            if not eta.low <= left <= eta.high:
                outside.append((order, seed, left, eta))
            if eta.is_known and abs(eta.likely - left) > max(0.25 * left, 2.5):
                wrong.append((order, seed, left, eta))
    assert wrong == []
    assert len(outside) <= 0.01 * (known + ranges), outside
    assert known + ranges >= 350


@pytest.mark.parametrize(
    ("order", "jobs", "slots"),
    sampled([("random", 3000, 300), ("alternating", 3000, 300), ("random", 300, 8), ("alternating", 300, 8)], 4),
)
def test_where_nothing_new_is_to_come_one_number_says_it(order: str, jobs: int, slots: int) -> None:
    etas = list(shown_etas(order, jobs, slots, percentages=True, seed=3))
    assert len(etas) == MOMENTS
    assert sum(eta.is_known for _, eta in etas) >= 0.6 * MOMENTS


def shown_etas(order: str, jobs: int, slots: int, *, percentages: bool, seed: int) -> Iterator[tuple[float, Eta]]:
    """The time that is left and what is shown, at moments from a quarter of a run on."""
    names = {f"j{number}": group for number, group in enumerate(ORDERS[order](jobs))}
    stream = simulated_run(names, slots=slots, seed=seed, percentages=percentages)
    end, stats = stream[-1].at, Statistics(names)
    moments = [end * (0.25 + 0.75 * step / MOMENTS) for step in range(MOMENTS)]
    for event in stream:
        while moments and event.at > moments[0]:
            at = moments.pop(0)
            if (eta := stats.eta(at)) is not None:
                yield end - at, eta
        stats.fold(event)


def test_nothing_is_promised_while_nothing_is_known() -> None:
    rendering = Rendering("720P", 5.0, None)
    assert Pace().eta(Rest([rendering], [], [], {}, 1, {})) is None
    assert Pace().eta(Rest([], [], [], {}, 1, {})) is None


def test_percentages_tell_before_the_first_render_has_ended() -> None:
    eta = Pace().eta(Rest([Rendering("720P", 20.0, 50.0)], [], [], {}, 1, {}))
    assert eta is not None
    assert eta.low < 20 < eta.high


def test_a_group_that_has_not_ended_yet_makes_a_range() -> None:
    pace = Pace()
    for _ in range(20):
        pace.rendered("480P", 10.0)
    eta = pace.eta(Rest([Rendering("480P", 0.0, None)], [], ["720P"] * 10, {}, 1, {"480P": 1.0, "720P": 2.0}))
    assert eta is not None
    assert not eta.is_known
    assert eta.low < 110 < 410 < eta.high


def test_downloads_alone_are_waited_for() -> None:
    pace = Pace()
    assert pace.eta(Rest([], [1.0], [], {}, 1, {})) is None
    pace.downloaded(30.0)
    eta = pace.eta(Rest([], [10.0], [], {}, 1, {}))
    assert eta is not None
    assert eta.likely == 20.0
    assert eta.is_known


def test_unanswered_runs_are_waited_for_until_they_are_decided() -> None:
    pace = Pace()
    for _ in range(20):
        pace.rendered("", 10.0)
    eta = pace.eta(Rest([Rendering("", 9.0, None)], [], [], {}, 8, {}, undecided=60.0))
    assert eta is not None
    assert eta.low < 30 < 60 <= eta.high


def test_a_large_rest_is_not_simulated_job_by_job() -> None:
    pace = Pace()
    for _ in range(20):
        pace.rendered("", 10.0)
    eta = pace.eta(Rest([Rendering("", 0.0, None)] * 10, [], [""] * SIMULATED_JOBS, {"": 1_000_000}, 10, {}))
    assert eta is not None
    assert eta.likely == pytest.approx((1_000_000 + SIMULATED_JOBS + 10) * 10 / 10, rel=0.01)


def test_of_many_slots_a_part_is_played_through_which_takes_as_long() -> None:
    pace = Pace()
    for _ in range(20):
        pace.rendered("480P", 10.0)
    renders = [Rendering("480P", 0.0, None)] * 400
    eta = pace.eta(Rest(renders, [0.0] * 400, ["480P"] * 1600, {"480P": 2000.0}, 400, {}))
    assert eta is not None
    assert eta.likely == pytest.approx((400 + 1600 + 2000) / 400 * 10.0, rel=0.1)


def test_a_group_whose_price_lies_between_those_of_others_may_take_less_or_more_time_than_these() -> None:
    pace, prices = Pace(), {"480P": 1.0, "580P": 2.0, "720P": 3.0}
    for _ in range(20):
        pace.rendered("480P", 10.0)
        pace.rendered("720P", 10.0)
    renders = [Rendering("480P", 9.0, None), Rendering("720P", 9.0, None)]
    eta = pace.eta(Rest(renders, [], ["580P"] * 10, {}, 1, prices))
    assert eta is not None
    assert eta.low < 50 < 200 < eta.high


@pytest.mark.parametrize(
    ("eta", "text"),
    [
        (Eta(100.0, 110.0, 120.0), "ETA 1m 50s"),
        (Eta(40.0, 80.0, 120.0), "ETA 40s to 2m"),
        (Eta(1.0, 5.0, 20.0), "ETA up to 20s"),
        (Eta(1.0, 2.0, 3.0), "ETA soon"),
    ],
)
def test_what_is_not_known_is_shown_as_a_range(eta: Eta, text: str) -> None:
    assert eta_text(eta) == text
