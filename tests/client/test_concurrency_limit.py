"""All calls of a client share one concurrency limit, in order of arrival."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from clients import Hooked, at_most, virtual_client, virtual_sandbox

from wan_async import Job, OutOfFunds, Task, TimedOut, TryLater, WanClient
from wan_async.sandbox import Sandbox, transport


async def generate_many(client: WanClient, count: int, folder: Path) -> list[Path]:
    paths: list[Path] = []

    async def one(number: int) -> None:
        clip = await client.generate(Job(prompt=f"scene {number}"), folder / f"{number}.mp4")
        paths.append(clip.path)

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(one, number)
    return paths


@pytest.mark.virtual_loops
@pytest.mark.parametrize(
    ("count", "faults"),
    [
        (30, {}),
        (20, {"http_429": 0.05}),
        (20, {"http_500@Task/Detail": 0.1, "http_429@Run": 0.3}),
        pytest.param(100, {}, marks=pytest.mark.slow),
    ],
)
async def test_many_calls_on_an_account_of_ten_all_finish_and_are_paid_once(
    count: int, faults: dict[str, float], tmp_path: Path
) -> None:
    sandbox = virtual_sandbox(concurrency_limit=10, faults=faults)
    async with virtual_client(sandbox) as client:
        with at_most(3600):
            paths = await generate_many(client, count, tmp_path)
        assert client.session.admission.window.active == 0
    assert len(set(paths)) == len(sandbox.account.tasks) == count
    assert sandbox.account.spent_micros == count * 50_000


@pytest.mark.virtual_loops
async def test_forty_calls_take_little_longer_than_the_account_needs(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(concurrency_limit=10, task_seconds=(10, 10))
    async with virtual_client(sandbox) as client:
        began = anyio.current_time()
        await generate_many(client, 40, tmp_path)
        seconds = anyio.current_time() - began
    assert seconds < 1.25 * 40
    assert sandbox.requests["Run"] < 150


@pytest.mark.virtual_loops
async def test_callers_that_only_submit_get_slots_when_their_tasks_end() -> None:
    sandbox = virtual_sandbox(concurrency_limit=3)
    tasks: list[Task] = []

    async with virtual_client(sandbox) as client:

        async def submit(number: int) -> None:
            tasks.append(await client.submit(Job(prompt=f"{number}")))

        with at_most(600):
            async with anyio.create_task_group() as group:
                for number in range(12):
                    group.start_soon(submit, number)
            for number in range(5):
                await client.submit(Job(prompt=f"one after the other {number}"))
    assert len(tasks) == 12


@pytest.mark.virtual_loops
async def test_slots_are_given_in_order_of_arrival_also_after_refusals() -> None:
    sandbox = virtual_sandbox(concurrency_limit=2, task_seconds=(5, 5))
    async with virtual_client(sandbox) as client:

        async def submit(number: int) -> None:
            await client.submit(Job(prompt=f"{number}"))

        with at_most(600):
            async with anyio.create_task_group() as group:
                for number in range(12):
                    group.start_soon(submit, number)
                    await anyio.sleep(0.001)
    order = [int(task.parameters["prompt"]) for task in sandbox.account.tasks.values()]
    assert order == sorted(order)


@pytest.mark.virtual_loops
async def test_the_slots_of_cancelled_callers_come_back(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(task_seconds=(5, 5))
    async with virtual_client(sandbox, max_concurrency=2) as client:
        for number in range(4):
            with anyio.move_on_after(1 + number):
                await client.generate(Job(prompt=f"cancelled {number}"), tmp_path)
        with at_most(60):
            assert len(await generate_many(client, 4, tmp_path)) == 4
        assert {task.id for task in client.unclaimed} < {task.id for task in sandbox.account.tasks.values()}


@pytest.mark.virtual_loops
async def test_a_task_that_is_tracked_to_its_end_frees_its_slot_before_its_block_is_left() -> None:
    async with virtual_client(virtual_sandbox(task_seconds=(2, 2)), max_concurrency=1) as client:
        task = await client.submit(Job(prompt="a"))
        with at_most(60):
            async with client.track(task) as events:
                await client.submit(Job(prompt="b"))
                assert [event async for event in events]


@pytest.mark.virtual_loops
async def test_another_programs_tasks_are_waited_out() -> None:
    sandbox = virtual_sandbox(concurrency_limit=2)
    sandbox.add_teammate_tasks(2, seconds=40)
    async with virtual_client(sandbox) as client:
        with at_most(300):
            await client.submit(Job(prompt="a"))
        assert anyio.current_time() > 30


@pytest.mark.virtual_loops
async def test_a_rate_limit_is_waited_for_and_never_paid_twice() -> None:
    sandbox = virtual_sandbox()
    sandbox.faults.next("http_429", "Run", times=4)
    async with virtual_client(sandbox) as client:
        await client.submit(Job(prompt="a"))
    assert len(sandbox.account.tasks) == 1
    assert sandbox.requests["Run"] == 5


@pytest.mark.virtual_loops
async def test_an_empty_wallet_is_an_error_at_once() -> None:
    async with virtual_client(virtual_sandbox(balance_usd=0.01)) as client:
        with pytest.raises(OutOfFunds):
            await client.submit(Job(prompt="a"))
        assert client.session.admission.window.active == 0


@pytest.mark.virtual_loops
async def test_a_call_that_waits_for_a_slot_can_time_out_without_a_task(tmp_path: Path) -> None:
    async with virtual_client(virtual_sandbox(task_seconds=(100, 100)), max_concurrency=1) as client:
        await client.submit(Job(prompt="a"))
        with pytest.raises(TimedOut) as caught:
            await client.generate(Job(prompt="b"), tmp_path, timeout=5)
        assert caught.value.task is None
        assert client.unclaimed == []
        assert list(tmp_path.iterdir()) == []


def test_the_limit_and_the_retries_are_checked() -> None:
    from wan_async import InvalidBatch

    for wrong in ({"max_concurrency": 0}, {"max_concurrency": -1}, {"retries": -1}, {"timeout": 0}, {"timeout": -1.0}):
        with pytest.raises(InvalidBatch):
            WanClient("key", "secret", **wrong)


async def storm(client: WanClient, sandbox: Sandbox, rounds: int) -> None:
    task = await client.submit(Job(prompt="long"))
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(client.wait_ended, task)
        for number in range(rounds):
            with anyio.move_on_after(0.3):
                if number % 3:
                    await client.wait_ended(task)
                else:
                    await client.tasks.get(task)
            await anyio.sleep(0.05)


@pytest.mark.virtual_loops
async def test_leaders_that_leave_again_and_again_cause_no_storm_of_requests() -> None:
    sandbox = virtual_sandbox(task_seconds=(60, 60))
    async with virtual_client(sandbox) as client:
        await storm(client, sandbox, 100)
    details = sandbox.requests["Task/Detail"]
    assert details < 1000, details


@pytest.mark.virtual_loops
async def test_others_wait_on_when_the_leader_raises_or_is_cancelled(tmp_path: Path) -> None:
    sandbox = virtual_sandbox(task_seconds=(20, 20))
    carrier = Hooked(transport(sandbox))
    ended: list[str] = []
    async with virtual_client(carrier) as client:

        async def wait() -> None:
            ended.append((await client.wait_ended(await client.submit(Job(prompt="x")))).status)

        def fail(task: Task) -> None:
            raise KeyError("mine")

        async def raise_within() -> None:
            with pytest.raises(KeyError):
                await client.submit(Job(prompt="y"), on_submitted=fail)

        async def be_cancelled() -> None:
            with anyio.move_on_after(3):
                await wait()

        with at_most(120):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    for each in (wait, raise_within, be_cancelled):
                        group.start_soon(each)
                        await anyio.sleep(0.5)
    assert ended == ["task_postprocess_end"] * 5
    assert len(client.unclaimed) == 5


@pytest.mark.virtual_loops
async def test_a_run_that_was_certainly_not_sent_is_repeated_as_often_as_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sandbox = virtual_sandbox()
    async with virtual_client(sandbox, retries=2) as client:
        api = client.session.dependencies.api
        real, calls = api.run, 0

        async def run(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            raise TryLater("no connection", sent=False)

        monkeypatch.setattr(api, "run", run)
        with pytest.raises(TryLater):
            await client.submit(Job(prompt="x"))
        assert calls == 3
        monkeypatch.setattr(api, "run", real)
        await client.submit(Job(prompt="x"))
