from __future__ import annotations

from decimal import Decimal

import pytest
from sample_events import (
    accepted,
    ended,
    failed,
    limited,
    quarantined,
    retrying,
    started,
    stopping,
    stored,
    submitting,
    unknown,
)
from simulated_run import PRICES, simulated_run

from wan_async.cli.statistics import Statistics
from wan_async.domain import events
from wan_async.domain.events import PriceGroup


def group(name: str, to_do: int, price: str | None, unsettled: int = 0, unsettled_usd: str = "0") -> PriceGroup:
    usd = None if price is None else Decimal(price)
    return PriceGroup(name=name, to_do=to_do, price_usd=usd, unsettled=unsettled, unsettled_usd=Decimal(unsettled_usd))


def projected(*stream: events.Event) -> Decimal | None:
    stats = Statistics()
    for event in stream:
        stats.fold(event)
    return stats.projected_usd()


MIXED = (group("480P", 2, "0.02"), group("720P", 2, "0.05"))


@pytest.mark.parametrize("known", [True, False], ids=["groups known", "groups guessed by price"])
@pytest.mark.parametrize("order", ["mixed", "cheap first", "dear first"])
def test_with_fixed_prices_the_projection_is_the_true_cost_at_every_event(order: str, known: bool) -> None:
    names = {f"{number}": "720P" if number % 3 == 0 else "480P" for number in range(60)}
    if order != "mixed":
        names = dict(sorted(names.items(), key=lambda item: item[1], reverse=order == "dear first"))
    stats = Statistics(names if known else None)
    cost = sum(Decimal(PRICES[each]) for each in names.values())
    for event in simulated_run(names, slots=8):
        stats.fold(event)
        assert stats.projected_usd() == cost
    assert stats.spent_usd == cost
    assert stats.spending.by_group() == {"480P": (40, Decimal("0.80")), "720P": (20, Decimal("0.70"))}


def test_the_projection_is_known_before_anything_is_submitted() -> None:
    assert projected(started(jobs=4, groups=MIXED)) == Decimal("0.14")


def test_without_a_price_nothing_is_projected_until_something_has_cost_something() -> None:
    begin = started(jobs=4, groups=(group("480P", 4, None),))
    assert projected(begin) is None
    assert projected(begin, submitting("a", price=None)) is None
    assert projected(begin, submitting("a", price=None), ended("a", "0.03")) == Decimal("0.12")
    assert projected(started(jobs=4)) is None
    assert projected(started(jobs=4), submitting("a")) == Decimal("0.16")


def test_tasks_of_earlier_runs_are_counted_until_they_are_settled() -> None:
    begin = started(jobs=3, to_do=1, to_fetch=2, groups=(group("480P", 1, "0.02", 2, "0.08"),))
    assert projected(begin) == Decimal("0.10")
    assert projected(begin, ended("old", "0.04")) == Decimal("0.10")
    assert projected(begin, ended("old", "0.04"), stored("old"), ended("old2", "0.04")) == Decimal("0.10")
    # one that had ended before costs nothing more
    assert projected(begin, stored("fetched")) == Decimal("0.10")


@pytest.mark.parametrize(
    "detour",
    [
        [retrying("a")],
        [limited(96, job="a")],
        [unknown("a"), retrying("a")],
        [unknown("a"), accepted("a", adopted=True)],
        [accepted("a"), retrying("a")],
        [accepted("a"), ended("a", "0"), retrying("a")],
        [accepted("a"), ended("a", "0"), retrying("a"), submitting("a", attempt=2, price="0.02")],
    ],
)
def test_a_job_that_is_tried_again_still_costs_its_price_once(detour: list[events.Event]) -> None:
    assert projected(started(jobs=4, groups=MIXED), submitting("a", price="0.02"), *detour) == Decimal("0.14")


def test_a_job_that_failed_costs_only_what_was_billed() -> None:
    begin = [started(jobs=4, groups=MIXED), submitting("a", price="0.02")]
    assert projected(*begin, ended("a", "0"), failed("a")) == Decimal("0.12")
    assert projected(*begin, ended("a", "0.01"), failed("a", billed="0.01")) == Decimal("0.13")


def test_a_quarantined_run_counts_as_spent() -> None:
    begin = [started(jobs=4, groups=MIXED), submitting("a", price="0.02")]
    assert projected(*begin, unknown("a"), quarantined("a")) == Decimal("0.14")


def test_a_run_that_stops_pays_only_for_what_was_submitted() -> None:
    stream = [started(jobs=4, groups=MIXED), submitting("a", price="0.02"), submitting("b", price="0.05")]
    assert projected(*stream, ended("a", "0.02"), stopping()) == Decimal("0.07")


def test_a_task_that_is_taken_over_is_one_job_less_to_submit() -> None:
    assert projected(started(jobs=4, groups=MIXED), accepted("a", adopted=True)) == Decimal("0.14")
