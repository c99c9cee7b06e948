"""Virtual time is the same whatever runs beside it."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import hypothesis
import pytest
from harness import virtually
from order import draw_order


def order() -> list[int]:
    """The order in which twenty tasks run that are ready at once."""
    ran: list[int] = []

    async def one(number: int) -> None:
        ran.append(number)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)

    virtually(main)
    return ran


def test_the_order_of_tasks_is_the_same_alone_and_after_other_tests(pytestconfig: pytest.Config) -> None:
    first, second = order(), order()
    draw_order(pytestconfig.getoption("trio_seed"))
    assert order() == first != second


def test_the_order_of_tasks_is_shuffled_and_not_only_reversed() -> None:
    first = order()
    assert first not in (sorted(first), sorted(first, reverse=True))


@pytest.mark.virtual_time
async def test_no_virtual_time_passes_while_a_thread_would_work() -> None:
    with anyio.move_on_after(60) as scope:
        thread = await anyio.to_thread.run_sync(threading.current_thread)
        assert thread is threading.current_thread(), "in a thread time would jump while it works"
    assert not scope.cancelled_caught


def test_no_thread_starts_in_virtual_time() -> None:
    async def main() -> None:
        threading.Thread(target=list).start()

    with pytest.raises(AssertionError, match="thread"):
        virtually(main)


def test_no_property_test_depends_on_how_fast_the_machine_is() -> None:
    default = hypothesis.settings()
    assert default.deadline is None
    assert hypothesis.HealthCheck.too_slow in default.suppress_health_check
