"""The test helpers: order of tasks, virtual time, hypothesis settings, samples of cases."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import bench_row
import hypothesis
import pytest
from harness import virtually
from order import draw_order
from sampling import sampled, sampled_product


def order() -> list[int]:
    """The order in which 20 tasks run that are ready at the same time."""
    ran: list[int] = []

    async def one(number: int) -> None:
        ran.append(number)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)

    virtually(main)
    return ran


def test_the_order_of_tasks_does_not_depend_on_earlier_tests(pytestconfig: pytest.Config) -> None:
    first, second = order(), order()
    draw_order(pytestconfig.getoption("trio_seed"))
    assert order() == first != second


def test_the_order_of_tasks_is_shuffled() -> None:
    first = order()
    assert first not in (sorted(first), sorted(first, reverse=True))


@pytest.mark.virtual_time
async def test_work_for_threads_runs_on_the_loop_in_virtual_time() -> None:
    with anyio.move_on_after(60) as scope:
        thread = await anyio.to_thread.run_sync(threading.current_thread)
        assert thread is threading.current_thread(), "virtual time would jump while a thread works"
    assert not scope.cancelled_caught


def test_no_thread_starts_in_virtual_time() -> None:
    async def main() -> None:
        threading.Thread(target=list).start()

    with pytest.raises(AssertionError, match="thread"):
        virtually(main)


def test_property_tests_do_not_depend_on_the_speed_of_the_machine() -> None:
    default = hypothesis.settings()
    assert default.deadline is None
    assert hypothesis.HealthCheck.too_slow in default.suppress_health_check


def test_the_last_of_sampled_cases_and_every_nth_before_it_stay_in_the_suite() -> None:
    cases = sampled(range(8), 3)
    assert [case.values for case in cases] == [(number,) for number in range(8)]
    assert [case.values[0] for case in cases if not case.marks] == [1, 4, 7]


def test_each_element_of_a_sampled_product_stays_in_the_suite() -> None:
    cases = sampled_product(2, "abc", [1, 2, 3])
    assert [case.values for case in cases if not case.marks] == [("a", 1), ("a", 3), ("b", 2), ("c", 1), ("c", 3)]
    assert len(cases) == 9
    with pytest.raises(ValueError, match="1 would be in no case"):
        sampled_product(2, "ab", [1, 2])


@pytest.mark.parametrize(
    ("target", "is_missed"),
    [
        ("", False), ("0", True), ("ours <= 35", True), ("ours <= 40", False), ("ours >= 41", True),
        ("ours >= 40", False), ("<= 2", False), ("<= 1.9", True), (">= 2", False), (">= 2.1", True),
    ],
)  # fmt: skip
def test_a_row_of_the_bench_tells_whether_it_misses_its_target(target: str, is_missed: bool) -> None:
    assert bench_row.row("work", "s", 40.0, "by hand", 20.0, target).misses is is_missed
