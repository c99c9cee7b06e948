"""`find`: what became of a Run without an answer."""

from __future__ import annotations

import anyio
import httpx
import pytest
from clients import PNG, Hooked, at_most, virtual_client, virtual_sandbox
from sampling import SLOW_STEPS

from wan_async import Ambiguous, Job, WanClient
from wan_async.sandbox import Sandbox, transport

JOB = Job(prompt="rain", seed=3)


async def unanswered(client: WanClient, sandbox: Sandbox, fault: str, job: Job = JOB) -> Ambiguous:
    sandbox.faults.next(fault, "Run")
    with pytest.raises(Ambiguous) as caught:
        await client.submit(job)
    return caught.value


@pytest.mark.virtual_loops
@pytest.mark.parametrize(
    "job", [JOB, Job(prompt="rain", image=PNG), Job(prompt="x", image="https://example.com/a.png")]
)
async def test_the_task_of_a_lost_answer_is_found_and_only_once(job: Job) -> None:
    sandbox = virtual_sandbox()
    async with virtual_client(sandbox) as client:
        error = await unanswered(client, sandbox, "drop_after", job)
        sandbox.faults.next("http_500", "Task/List", times=9)
        with at_most(300):
            task = await client.find(error)
            assert task is not None
            assert task.id == "500001"
            assert await client.find(error) == task
        assert (await client.wait_ended(task)).id == "500001"
        assert len(await client.read(task)) > 100
    assert sandbox.requests["Run"] == 1


@pytest.mark.virtual_loops
async def test_absence_is_proven_and_the_job_can_be_submitted_again() -> None:
    sandbox = virtual_sandbox()
    async with virtual_client(sandbox) as client:
        error = await unanswered(client, sandbox, "drop_before")
        began = anyio.current_time()
        assert await client.find(error, settle_seconds=10) is None
        assert 20 <= anyio.current_time() - began < 60
        await client.submit(JOB)
    assert len(sandbox.account.tasks) == 1


@pytest.mark.virtual_loops
async def test_what_the_service_does_not_show_is_doubtful() -> None:
    sandbox = virtual_sandbox(echo="empty")
    async with virtual_client(sandbox) as client:
        error = await unanswered(client, sandbox, "drop_after")
        with pytest.raises(Ambiguous, match="500001"):
            await client.find(error)


@pytest.mark.virtual_loops
@pytest.mark.parametrize("seconds", [61, 700])
async def test_an_older_equal_task_of_the_account_is_never_adopted(seconds: float) -> None:
    sandbox = virtual_sandbox()
    async with virtual_client(sandbox) as other, virtual_client(sandbox) as client:
        await client.submit(Job(prompt="another"))
        await other.submit(JOB)
        await anyio.sleep(seconds)
        error = await unanswered(client, sandbox, "drop_before")
        if seconds > 600:
            assert await client.find(error) is None
        else:  # it may be out of order
            with pytest.raises(Ambiguous, match="500002"):
                await client.find(error)


@pytest.mark.virtual_loops
async def test_without_a_task_list_before_the_run_an_equal_task_is_doubtful() -> None:
    sandbox = virtual_sandbox()

    async def fail(request: httpx.Request) -> httpx.Response:
        return httpx.Response(502, text="<html>")

    carrier = Hooked(transport(sandbox), lambda request: fail(request) if request.url.path.endswith("List") else None)
    async with virtual_client(sandbox) as other, virtual_client(carrier) as client:
        await other.submit(JOB)
        error = await unanswered(client, sandbox, "drop_before")
        assert error.high_id is None
        carrier.before = lambda request: None
        with pytest.raises(Ambiguous, match="500001"):
            await client.find(error)


@pytest.mark.virtual_loops
async def test_of_two_equal_runs_without_answers_each_gets_its_own_task() -> None:
    sandbox = virtual_sandbox()
    async with virtual_client(sandbox) as client:
        first = await unanswered(client, sandbox, "drop_after")
        second = await unanswered(client, sandbox, "drop_after")
        found = []

        async def find(error: Ambiguous) -> None:
            found.append(await client.find(error))

        async with anyio.create_task_group() as group:
            for error in (first, second, first):
                group.start_soon(find, error)
    assert {task.id for task in found if task} == {"500001", "500002"}
    assert len(found) == 3


@pytest.mark.virtual_loops
async def test_of_two_equal_runs_one_of_which_made_no_task_one_is_absent() -> None:
    sandbox = virtual_sandbox()
    async with virtual_client(sandbox) as client:
        made = await unanswered(client, sandbox, "drop_after")
        lost = await unanswered(client, sandbox, "drop_before")
        found = [await client.find(error) for error in (lost, made)]
    assert [task.id if task else None for task in found] == ["500001", None]


@pytest.mark.virtual_loops
async def test_the_task_of_an_equal_run_in_flight_is_not_adopted() -> None:
    sandbox = virtual_sandbox(task_seconds=(300, 300))
    inner = transport(sandbox)
    delayed = 0

    class SlowAnswer(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal delayed
            response = await inner.handle_async_request(request)
            if "/Run/" in request.url.path:
                delayed += 1
                await anyio.sleep(20)
            return response

    ids = []
    async with virtual_client(SlowAnswer()) as client:
        error = await unanswered(client, sandbox, "drop_before")

        async def submit() -> None:
            ids.append((await client.submit(JOB)).id)

        async with anyio.create_task_group() as group:
            group.start_soon(submit)
            await anyio.sleep(2)
            assert await client.find(error, settle_seconds=5) is None
    assert delayed == 1
    assert ids == ["500001"]


@SLOW_STEPS
@pytest.mark.virtual_loops
async def test_a_search_that_is_cancelled_at_any_time_can_be_made_again(every: int) -> None:
    for moment in range(0, 60, every):
        sandbox = virtual_sandbox(visible_after_seconds=2.0)
        async with virtual_client(sandbox) as client:
            error = await unanswered(client, sandbox, "drop_after")
            with anyio.move_on_after(moment / 20):
                await client.find(error)
            found = await client.find(error)
            assert found is not None
            assert found.id == "500001"


@pytest.mark.virtual_loops
async def test_an_unanswered_run_of_a_cancelled_call_is_listed_until_it_is_found_or_discarded() -> None:
    sandbox = virtual_sandbox(latency_seconds=9.0)
    async with virtual_client(sandbox) as client:
        for seconds in (12, 5):  # the first reads the task list, too
            with anyio.move_on_after(seconds):
                await client.submit(JOB)
        first, second = client.unanswered
        assert await client.find(first) is None  # its connection was closed before it was processed
        assert client.unanswered == [second]
        client.discard(second)
        assert client.unanswered == []


@pytest.mark.virtual_loops
async def test_a_task_list_that_never_answers_holds_back_no_run_for_long() -> None:
    async def hang(request: httpx.Request) -> httpx.Response | None:
        await anyio.sleep(600)
        return None

    sandbox = virtual_sandbox()
    carrier = Hooked(transport(sandbox), lambda request: hang(request) if request.url.path.endswith("List") else None)
    async with virtual_client(carrier) as client:
        with at_most(30):
            for _ in range(3):
                await client.submit(JOB)
    assert len(sandbox.account.tasks) == 3
