from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wan_async.domain import events
from wan_async.engine.run_events import EventStream

pytestmark = pytest.mark.anyio


def progress(job: str, percent: float) -> events.Progress:
    return events.Progress(at=0.0, run="r", job=job, attempt=1, percent=percent, status="task_output")


def downloading(job: str, received: int) -> events.Downloading:
    return events.Downloading(at=0.0, run="r", job=job, attempt=1, bytes=received, total=None)


def accepted(job: str, task_id: str = "1") -> events.Accepted:
    return events.Accepted(at=0.0, run="r", job=job, attempt=1, task_id=task_id, adopted=False)


def stopping(reason: str) -> events.Stopping:
    return events.Stopping(at=0.0, run="r", reason=reason)


async def rest(stream: EventStream) -> list[events.AnyEvent]:
    stream.close()
    with anyio.fail_after(5):
        return [event async for event in stream]


async def test_a_slow_reader_gets_every_fact_in_order() -> None:
    stream = EventStream()
    facts = [accepted(str(number), str(number)) for number in range(2000)]
    for fact in facts:
        stream.put(fact)
    assert await rest(stream) == facts


async def test_only_the_latest_value_of_a_level_is_kept() -> None:
    stream = EventStream()
    for percent in range(100):
        stream.put(progress("a", percent))
        stream.put(progress("b", percent / 2))
        stream.put(downloading("a", percent * 1000))
    assert await rest(stream) == [progress("a", 99), progress("b", 49.5), downloading("a", 99_000)]


async def test_facts_come_before_levels() -> None:
    stream = EventStream()
    stream.put(progress("a", 10))
    stream.put(accepted("b"))
    stream.put(stopping("enough"))
    assert await rest(stream) == [accepted("b"), stopping("enough"), progress("a", 10)]


async def test_a_fact_discards_the_pending_levels_of_its_job() -> None:
    stream = EventStream()
    stream.put(progress("a", 10))
    stream.put(downloading("a", 10))
    stream.put(progress("b", 20))
    stream.put(accepted("a"))
    assert await rest(stream) == [accepted("a"), progress("b", 20)]


async def test_a_waiting_reader_is_woken_by_each_event_and_by_the_end() -> None:
    stream, seen = EventStream(), list[events.AnyEvent]()

    async def read() -> None:
        async for event in stream:
            seen.append(event)
        seen.append(stopping("read to the end"))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            assert seen == []
            for event in (accepted("a"), progress("a", 1), progress("a", 2)):
                stream.put(event)
                await anyio.wait_all_tasks_blocked()
            assert seen == [accepted("a"), progress("a", 1), progress("a", 2)]
            stream.close()
    assert seen[-1] == stopping("read to the end")


async def test_events_put_before_the_end_are_still_read() -> None:
    stream = EventStream()
    stream.put(accepted("a"))
    stream.close()
    assert [event async for event in stream] == [accepted("a")]
    assert [event async for event in stream] == []


async def test_events_are_discarded_after_the_reader_has_left() -> None:
    stream = EventStream()
    stream.put(accepted("a"))
    stream.put(progress("a", 1))
    stream.leave()
    for number in range(100):
        stream.put(accepted(str(number)))
        stream.put(progress(str(number), 1))
    assert await rest(stream) == []


async def test_a_cancelled_read_loses_no_event() -> None:
    stream = EventStream()
    with anyio.move_on_after(0):
        await anext(stream)
    stream.put(accepted("a"))
    assert await anext(stream) == accepted("a")


@given(
    st.lists(
        st.one_of(
            st.builds(progress, st.sampled_from("abc"), st.floats(0, 100)),
            st.builds(downloading, st.sampled_from("abc"), st.integers(0, 1000)),
            st.builds(accepted, st.sampled_from("abc"), st.integers(0, 9).map(str)),
            st.builds(stopping, st.sampled_from("xy")),
            st.none(),
        ),
        max_size=60,
    )
)
def test_any_interleaving_of_reads_and_writes_loses_no_fact(steps: list[events.AnyEvent | None]) -> None:
    async def main() -> None:
        stream, written, read = EventStream(), list[events.AnyEvent](), list[events.AnyEvent]()
        latest: dict[tuple[type[events.AnyEvent], str], events.AnyEvent] = {}
        for event in [*steps, stopping("end")]:
            if event is not None:
                stream.put(event)
                written.append(event)
            if isinstance(event, events.Progress | events.Downloading):
                latest[type(event), event.job] = event
            got = None
            if event is None:
                with anyio.move_on_after(0):
                    got = await anext(stream)
            if got is not None:
                read.append(got)
            if isinstance(got, events.Progress | events.Downloading):
                assert got is latest[type(got), got.job], "a level is the latest"
        read += await rest(stream)

        def facts(of: list[events.AnyEvent]) -> list[events.AnyEvent]:
            return [event for event in of if not isinstance(event, events.Progress | events.Downloading)]

        assert facts(read) == facts(written)
        assert len({id(event) for event in read}) == len(read)

    anyio.run(main)
