"""The test helpers: order of tasks, virtual time, hypothesis settings."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import hypothesis
import pytest
from harness import virtually
from order import draw_order


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
