"""What workers have done of an output's jobs, for whoever waits for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio
import anyio.to_thread

from wan_async.cluster.job_queue import JobQueue
from wan_async.cluster.worker_records import Parked, parked_in
from wan_async.domain.attempt import Money
from wan_async.journal.base import DatabaseHome
from wan_async.journal.reports import report

POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How an output stands.

    Attributes:
        states: how many jobs of the batch are in each state.
        money: what is settled and reserved.
        waiting: jobs in the queue that no worker has.
        working: jobs that a worker has.
        workers: how many workers are alive.
        parked: why the workers submit nothing more for it; None if they do.
    """

    states: Counter[str]
    money: Money
    waiting: int
    working: int
    workers: int
    parked: Parked | None = None

    @property
    def is_over(self) -> bool:
        """Whether the workers have nothing left to do for it, or nothing that they can do."""
        return not self.working and (not self.waiting or self.parked is not None)


async def standings(queue: JobQueue, home: DatabaseHome, lease_seconds: float) -> AsyncIterator[Standing]:
    """Yields how an output stands, again and again, until nothing is left to do.

    Raises:
        errors.Unusable: the journal can't be read.
    """
    while True:
        waiting, working = await queue.patiently(lambda: queue.counts(home.output))
        workers = await queue.patiently(lambda: queue.workers(lease_seconds))
        known = await anyio.to_thread.run_sync(report, home)
        states = Counter(result.state for result in known.results) if known is not None else Counter[str]()
        money, parked = (Money(0, 0), None) if known is None else (known.money, parked_in(known))
        standing = Standing(states, money, waiting, working, workers, parked)
        yield standing
        if standing.is_over:
            return
        await anyio.sleep(max(POLL_SECONDS, states.total() / 20_000))
