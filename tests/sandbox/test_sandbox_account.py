"""The sandbox's account: statuses over time, charges, and the concurrency limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wan_async.sandbox.account import Account
from wan_async.sandbox.tasks import STAGES, Task

USD = 1_000_000


def account(balance_usd: float = 1000.0, **fields: object) -> Account:
    return Account(round(balance_usd * USD), 0.0, **fields)  # type: ignore[arg-type]


def test_a_task_goes_through_its_stages_in_order_and_each_begins_at_its_stated_time() -> None:
    task = account().create({}, None, 1, 100.0, 50.0)
    seen = [task.stage(50.0 + tenth / 10) for tenth in range(1001)]
    assert seen == sorted(seen)
    assert set(seen) == set(range(len(STAGES)))
    for stage in range(1, len(STAGES) - 1):
        assert task.stage(task.begins(stage)) == stage
        assert task.stage(task.begins(stage) - 0.001) == stage - 1
    assert task.stage(0.0) == 0, "before its creation it is queued"


def test_a_held_task_does_not_end_before_it_is_released() -> None:
    it = account()
    task = it.create({}, None, USD, 10.0, 0.0)
    task.held = True
    assert task.status(1000.0) == "task_output_full"
    assert not task.is_over(1000.0)
    assert it.settle(1000.0) == []
    assert it.active(1000.0) == 1
    it.release(task, 1000.0)
    assert task.status(1000.0) == "task_postprocess_end"
    assert it.settle(1000.0) == [task]
    assert it.spent_micros == USD


def test_a_task_that_is_released_early_ends_as_planned() -> None:
    it = account()
    task = it.create({}, None, USD, 10.0, 0.0)
    task.held = True
    it.release(task, 2.0)
    assert task.status(9.9) != "task_postprocess_end"
    assert task.end == 10.0
    assert it.settle(10.0) == [task]


def test_a_task_released_after_its_planned_end_is_charged_once() -> None:
    it = account()
    task = it.create({}, None, USD, 10.0, 0.0)
    task.held = True
    it.release(task, 50.0)
    assert it.settle(40.0) == []
    assert it.settle(50.0) == [task]
    assert it.settle(60.0) == []
    assert (it.spent_micros, it.active(60.0)) == (USD, 0)


def test_tokens_and_ids_are_unique_across_restarts() -> None:
    first = account(seed=4)
    made = [first.create({}, None, 1, 1.0, 0.0) for _ in range(50)]
    second = account(seed=4)
    for task in made:
        second.add(task)
    second.reseed()
    made += [second.create({}, None, 1, 1.0, 0.0) for _ in range(50)]
    assert len({task.token for task in made}) == len({task.id for task in made}) == 100
    assert [int(task.id) for task in made] == list(range(500_001, 500_101))


def test_a_token_takes_precedence_over_an_id() -> None:
    it = account()
    one, two = (it.create({}, None, 1, 1.0, 0.0) for _ in range(2))
    assert it.find(one.id, "") is one
    assert it.find("", two.token) is two
    assert it.find(one.id, two.token) is two
    assert it.find(one.id, "unknown") is one
    assert it.find("", "unknown") is None


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_active_tasks_never_exceed_the_limit(limit: int) -> None:
    it = account(concurrency_limit=limit)
    made = 0
    while it.refusal(1, 0.0) is None:
        it.create({}, None, 1, 1.0, 0.0)
        made += 1
    assert made == limit
    refusal = it.refusal(1, 0.0)
    assert refusal is not None
    assert refusal[0] == 96
    assert f"{limit} tasks" in refusal[1]


steps = st.lists(
    st.tuples(st.sampled_from(["make", "held", "failing", "cancel", "release", "settle"]), st.integers(0, 30)),
    max_size=40,
)


@given(steps)
def test_charges_and_slots_are_consistent_after_any_operations(does: list[tuple[str, int]]) -> None:
    it, now, tasks = account(1.0), 0.0, list[Task]()
    for what, number in does:
        now += number / 3
        if what in ("make", "held", "failing") and it.refusal(USD // 20, now) is None:
            task = it.create({}, None, USD // 20, float(number), now)
            task.held = what == "held"
            task.pexit = "1" if what == "failing" else "0"
            tasks.append(task)
        elif what == "cancel" and tasks and not tasks[number % len(tasks)].is_over(now):
            it.cancel(tasks[number % len(tasks)], now)
        elif what == "release" and tasks and tasks[number % len(tasks)].held:
            it.release(tasks[number % len(tasks)], now)
        it.settle(now)
        ended_well = [task for task in tasks if task.succeeded(now)]
        assert it.spent_micros == len(ended_well) * USD // 20
        assert it.balance_micros == USD - it.spent_micros >= 0
        assert it.active(now) == sum(not task.is_over(now) for task in tasks)
        assert it._reserved == it.active(now) * USD // 20


@pytest.mark.parametrize(
    ("balance", "limit"),
    [(0.0, 1), (9.99, 1), (19.99, 1), (20.0, 2), (100.0, 10), (250.0, 25), (250.01, None)],
)
def test_the_limit_is_a_tenth_of_the_balance_up_to_250_usd(balance: float, limit: int | None) -> None:
    account = Account(round(balance * 1e6), 0.0)
    assert account.limit(0.0) == limit


def test_20000_tasks_are_charged_to_the_micro_dollar() -> None:
    account = Account(10**12, 0.0)
    for number in range(20_000):
        account.create({}, None, 50_001, 1.0 + number % 7, float(number))
    still = sum(number + 1 + number % 7 > 10_000 for number in range(20_000))
    assert account.active(10_000.0) == still
    account.settle(10e9)
    assert account.spent_micros == 20_000 * 50_001
    assert account.balance_micros == 10**12 - account.spent_micros
