"""The events of a run: their JSON lines are exactly those of the contract."""

from __future__ import annotations

import dataclasses
import inspect
import json
from decimal import Decimal
from typing import Any

import pytest

from wan_async.domain import events

PROMISED: dict[str, str] = {
    "started": "output jobs done to_fetch duplicates to_do estimate_usd budget_usd concurrency left_out changed groups",
    "uploaded": "job attempt bytes url",
    "submitting": "job attempt price_usd",
    "accepted": "job attempt task_id adopted",
    "progress": "job attempt percent status",
    "ended": "job attempt task_id status pexit cost_usd",
    "downloading": "job attempt bytes total",
    "stored": "job attempt file bytes sha256 cost_usd seconds",
    "retrying": "job attempt reason after_seconds",
    "unknown": "job attempt task_id reason decided_at",
    "quarantined": "job attempt task_id reason",
    "missing": "job attempt task_id reason",
    "cancelled": "job attempt task_id reason",
    "failed": "job attempt kind message task_id billed_usd",
    "limited": "code after_seconds concurrency job",
    "problem": "where message",
    "stopping": "reason",
    "finished": (
        "exit_code jobs stored skipped failed cancelled missing unknown unfinished run_usd spent_usd reserved_usd "
        "seconds resume choices"
    ),
}
"""Event -> its fields besides `event`, `at` and `run`, in order."""

KINDS = {
    events.name_of(kind): kind
    for kind in vars(events).values()
    if inspect.isclass(kind) and issubclass(kind, events.Event) and kind not in (events.Event, events.JobEvent)
}


def test_there_is_exactly_one_event_for_each_documented_name() -> None:
    assert set(KINDS) == set(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_a_line_has_exactly_the_documented_fields(name: str) -> None:
    kind = KINDS[name]
    fields = [field.name for field in dataclasses.fields(kind)]
    values: dict[str, Any] = dict.fromkeys(fields)
    line = events.as_dict(kind(**values))
    assert list(line) == ["event", "at", "run", *PROMISED[name].split()]
    assert line["event"] == name
    assert issubclass(kind, events.JobEvent) == ("attempt" in line)


def test_an_event_is_immutable() -> None:
    event = events.Stopping(at=1.5, run="r", reason="the disk is full")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.reason = "no reason"  # type: ignore[misc] # the test is that it is refused


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Decimal("0.05"), "0.05"),
        (Decimal("0.00351"), "0.00351"),
        (Decimal("0E-2"), "0.00"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-6"), "0.000001"),
        (None, None),
    ],
)
def test_an_amount_is_a_plain_decimal_string(amount: Decimal | None, text: str | None) -> None:
    event = events.Submitting(at=1.0, run="r", job="koala", attempt=1, price_usd=amount)
    assert events.as_dict(event)["price_usd"] == text


def test_a_line_is_json() -> None:
    event = events.Finished(
        at=1734513814.25, run="5f0c", exit_code=3, jobs=5, stored=2, skipped=1, failed=1, cancelled=0, missing=0,
        unknown=0, unfinished=1, run_usd=Decimal("0.05"), spent_usd=Decimal("0.10"),
        reserved_usd=Decimal("0.00"), seconds=7.5, resume="wan-async run x",
        choices=("--adopt",),
    )  # fmt: skip
    assert json.loads(json.dumps(events.as_dict(event))) == {
        "event": "finished", "at": 1734513814.25, "run": "5f0c", "exit_code": 3, "jobs": 5, "stored": 2, "skipped": 1,
        "failed": 1, "cancelled": 0, "missing": 0, "unknown": 0, "unfinished": 1, "run_usd": "0.05",
        "spent_usd": "0.10", "reserved_usd": "0.00", "seconds": 7.5, "resume": "wan-async run x",
        "choices": ["--adopt"],
    }  # fmt: skip


def test_a_name_of_two_words_is_joined_by_an_underscore() -> None:
    assert events.name_of(events.JobEvent) == "job_event"
