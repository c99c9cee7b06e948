"""Whole batches in virtual time, with all faults, kills and restarts, compared with the sandbox's account."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from harness import World, make_sandbox, text_jobs

from wan_async.domain import events
from wan_async.sandbox.faults import TRANSIENT

FAULTS = [name for name in TRANSIENT if not name.startswith("socket_")]
SHORT = {"denied_seconds": 1.5, "task_error_seconds": 2.0}
"""Denials shorter than the settle time: else a task could be denied in both listings, and considered absent."""


def assert_account_matches(world: World, jobs: int, price_micros: int = 50_000) -> None:
    """Each job has one clip, and the account was charged once for each."""
    account = world.sandbox.account
    paid = [task for task in account.tasks.values() if task.succeeded(10e10)]
    assert len(world.clips) == jobs
    assert len(paid) == jobs, f"{len(paid)} tasks were paid for {jobs} jobs"
    assert account.spent_micros == jobs * price_micros
    assert world.leftovers == []
    assert world.sandbox.leaks == []


@pytest.mark.virtual_time
async def test_a_hundred_jobs_survive_every_fault_and_kills(tmp_path: Path) -> None:
    rng = random.Random(0)
    world = World(
        tmp_path,
        make_sandbox(faults=dict.fromkeys(FAULTS, 0.03), concurrency_limit=20, visible_after_seconds=1.0, **SHORT),
    )
    for _ in range(4):
        await world.run_until(rng.uniform(0.0, 15.0), text_jobs(100), settle_seconds=5.0, retries=10)
    finished = await world.run(text_jobs(100), settle_seconds=5.0, retries=10, retry_failed=True)
    assert finished.exit_code == 0, (finished, world.events_of(events.Stopping), world.events_of(events.Failed))
    assert_account_matches(world, 100)


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))])
async def test_kills_at_random_times_lose_no_clip_and_pay_nothing_twice(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    world = World(
        tmp_path,
        make_sandbox(
            seed=seed, faults=dict.fromkeys(FAULTS, 0.05), concurrency_limit=9, visible_after_seconds=1.0, **SHORT,
            list_page_cap=rng.choice([7, 20, 100]),
        ),
        seed=seed,
    )  # fmt: skip
    for _ in range(12):
        finished = await world.run_until(rng.uniform(0.0, 12.0), text_jobs(60), settle_seconds=4.0, retries=10)
    finished = await world.run(text_jobs(60), settle_seconds=4.0, retries=10, retry_failed=True)
    assert finished.exit_code == 0, (seed, finished, world.events_of(events.Stopping), world.events_of(events.Failed))
    assert_account_matches(world, 60)
    assert world.events_of(events.Quarantined) == []
