"""The remaining time, in simulated runs whose end is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from simulated_run import simulated_run

from wan_async.cli.display_text import eta_text
from wan_async.cli.pace import SIMULATED_JOBS, Eta, Pace, Rendering, Rest
from wan_async.cli.statistics import Statistics

ORDERS: dict[str, Callable[[int], list[str]]] = {
    "alternating": lambda count: [["480P", "720P"][number % 2] for number in range(count)],
    "short first": lambda count: ["480P"] * (count // 2) + ["720P"] * (count - count // 2),
    "long first": lambda count: ["720P"] * (count // 2) + ["480P"] * (count - count // 2),
    "random": lambda count: random.Random(1).choices(["480P", "480P", "720P"], k=count),
    "a few long ones last": lambda count: ["480P"] * (count - 3) + ["720P"] * 3,
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("jobs", "slots"), [(12, 4), (30, 8), (300, 8), (1000, 50), (3000, 300)])
@pytest.mark.parametrize("percentages", [True, False])
def test_from_a_quarter_of_the_run_on_the_eta_is_within_25_percent(
    order: str, jobs: int, slots: int, percentages: bool
) -> None:
    names = {f"j{number}": group for number, group in enumerate(ORDERS[order](jobs))}
    stream = simulated_run(names, slots=slots, seed=3, percentages=percentages)
    end = stream[-1].at
    stats = Statistics(names)
    moments = [end * (0.25 + 0.75 * step / 60) for step in range(60)]
    wrong, ranges, outside, unknown = [], 0, [], 0
    for event in stream:
        while moments and event.at > moments[0]:
            at = moments.pop(0)
            left, eta = end - at, stats.eta(at)
            if eta is None:
                unknown += 1
            elif not eta.is_known:
                ranges += 1
                if not 0.75 * eta.low <= left <= 1.25 * eta.high:
                    outside.append((at, left, eta))
            elif abs(eta.likely - left) > max(0.25 * left, 2.5):
                wrong.append((at, left, eta))
        stats.fold(event)
    assert len(wrong) <= 3, wrong
    assert len(outside) <= 2, outside
    if order in ("alternating", "random") and jobs >= 300:  # nothing new is to come: one number says it
        assert ranges <= 6
        assert unknown == 0


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
    assert eta.low == pytest.approx(110)
    assert eta.high == pytest.approx(410)


def test_downloads_alone_are_waited_for() -> None:
    pace = Pace()
    assert pace.eta(Rest([], [1.0], [], {}, 1, {})) is None
    pace.downloaded(30.0)
    eta = pace.eta(Rest([], [10.0], [], {}, 1, {}))
    assert eta == Eta(20.0, 20.0, 20.0)


def test_unanswered_runs_are_waited_for_until_they_are_decided() -> None:
    pace = Pace()
    for _ in range(20):
        pace.rendered("", 10.0)
    eta = pace.eta(Rest([Rendering("", 9.0, None)], [], [], {}, 8, {}, undecided=60.0))
    assert eta is not None
    assert 30 <= eta.low < eta.high == pytest.approx(60)


def test_a_large_rest_is_not_simulated_job_by_job() -> None:
    pace = Pace()
    for _ in range(20):
        pace.rendered("", 10.0)
    eta = pace.eta(Rest([Rendering("", 0.0, None)] * 10, [], [""] * SIMULATED_JOBS, {"": 1_000_000}, 10, {}))
    assert eta is not None
    assert eta.likely == pytest.approx((1_000_000 + SIMULATED_JOBS + 10) * 10 / 10, rel=0.01)


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
