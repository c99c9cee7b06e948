"""The account as a pure state machine: balance, concurrency limit, and the charges of its tasks.

A task is charged at the moment it succeeds: `Account.settle` applies all charges that are due, and must be called
before the balance is read. `now` (unix seconds) is an argument; amounts are integer micro-dollars (millionths of a
USD).
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Any

from wan_async.sandbox.tasks import Task

UNLIMITED_ABOVE_MICROS = 250_000_000
"""Balance above which the number of concurrent tasks is not limited."""
FIRST_ID = 500_001


@dataclass(slots=True)
class Account:
    """Balance, tasks, concurrency limit and charges.

    Attributes:
        balance_micros: balance at the last settlement.
        opened: creation time, to which `schedule` is relative.
        concurrency_limit: maximum of active tasks; None for the service's rule, a tenth of the balance in USD.
        schedule: (seconds after `opened`, limit) pairs that override it.
        minimum_micros: balance below which Runs are refused; None: the balance must cover all active tasks.
        spent_micros: sum of all charges.
        next_id: id of the next task; can be set back, see `restart_ids`.
        tasks: by key, the oldest first.
        by_token: keys by token.
        by_id: keys by id; of the newest task if several have the same id.
        settled: tasks charged or ended since the database was last written.
    """

    balance_micros: int
    opened: float
    seed: int = 0
    concurrency_limit: int | None = None
    schedule: list[tuple[float, int]] = field(default_factory=list)
    minimum_micros: int | None = None
    spent_micros: int = 0
    next_id: int = FIRST_ID
    tasks: dict[str, Task] = field(default_factory=dict)
    by_token: dict[str, str] = field(default_factory=dict)
    by_id: dict[str, str] = field(default_factory=dict)
    settled: list[Task] = field(default_factory=list)
    _active: list[tuple[float, str]] = field(default_factory=list)
    _late: list[tuple[float, str]] = field(default_factory=list)
    _held: set[str] = field(default_factory=set)
    _reserved: int = 0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(f"tasks-{self.seed}")  # noqa: S311 - seeded on purpose

    def settle(self, now: float) -> list[Task]:
        """Apply all charges due by now; return the tasks that have ended."""
        ended = []
        while self._late and self._late[0][0] <= now:
            task = self.tasks[heapq.heappop(self._late)[1]]
            task.charged = True
            self.settled.append(task)
            self._charge(task)
        while self._active and self._active[0][0] <= now:
            _, name = heapq.heappop(self._active)
            task = self.tasks[name]
            if task.held and task.cancelled is None:
                self._held.add(name)
                continue
            if not task.is_over(now):
                heapq.heappush(self._active, (task.end, name))
                continue
            if not task.billed:
                self._finish(task, now)
                ended.append(task)
        return ended

    def _finish(self, task: Task, now: float) -> None:
        task.billed = True
        self.settled.append(task)
        self._reserved -= task.price
        if task.succeeded(now):
            self._charge(task)

    def _charge(self, task: Task) -> None:
        self.balance_micros -= task.price
        self.spent_micros += task.price

    def limit(self, now: float) -> int | None:
        """Maximum number of active tasks; None for no limit."""
        passed = [limit for at, limit in self.schedule if now - self.opened >= at]
        if passed:
            return passed[-1]
        if self.concurrency_limit is not None:
            return self.concurrency_limit
        return None if self.balance_micros > UNLIMITED_ABOVE_MICROS else max(1, self.balance_micros // 10_000_000)

    def active(self, now: float) -> int:
        """Number of tasks that have not ended."""
        self.settle(now)
        return len(self._active) + len(self._held)

    def refusal(self, price: int, now: float) -> tuple[int, str] | None:
        """Error code and message if a task of this price cannot be created now, else None."""
        active, limit = self.active(now), self.limit(now)
        least = self._reserved + price if self.minimum_micros is None else self.minimum_micros
        if self.balance_micros < least:
            return 97, f"Insufficient balance. Your balance is ${self.balance_micros / 1e6:.2f}."
        if limit is not None and active >= limit:
            return 96, (
                "You have reached the concurrent task limit. With a balance of "
                f"${self.balance_micros / 1e6:.2f} you can run {limit} tasks at the same time."
            )
        return None

    def create(
        self, parameters: dict[str, str], image: str | None, price: int, seconds: float, now: float, **fields: Any
    ) -> Task:
        """Create a task.

        Args:
            parameters: the form fields of its Run.
            image: SHA-256 of its input image.
            price: micro-dollars charged if it succeeds.
            seconds: planned duration.
            now: unix seconds.
            fields: other fields of `Task`.
        """
        token = "".join(self._random.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=30))
        task = Task(str(self.next_id), token, parameters, image, now, seconds, price, **fields)
        while task.key in self.tasks:
            task.again += 1
        self.add(task)
        return task

    def add(self, task: Task) -> None:
        """Add a new task, or one loaded from the database."""
        self.tasks[task.key] = task
        self.by_token[task.token] = self.by_id[task.id] = task.key
        self.next_id = int(task.id) + 1
        if not task.billed:
            self._reserved += task.price
            heapq.heappush(self._active, (task.end, task.key))
        if task.charge_at is not None and not task.charged:
            heapq.heappush(self._late, (task.charge_at, task.key))

    def restore(self, balance_micros: int, spent_micros: int) -> None:
        """Set the balance and the sum of charges to those loaded from the database."""
        self.balance_micros, self.spent_micros = balance_micros, spent_micros

    def set_balance(self, balance_micros: int, now: float) -> None:
        """Change the balance after all charges that are due."""
        self.settle(now)
        self.balance_micros = balance_micros

    def set_limit(self, limit: int | None) -> None:
        """Change `concurrency_limit`."""
        self.concurrency_limit = limit

    def restart_ids(self, first: int) -> None:
        """Give the next task this id, even if an earlier task has the same."""
        self.next_id = first

    def take_settled(self) -> list[Task]:
        """Return the tasks charged or ended since the last call."""
        settled, self.settled = self.settled, []
        return settled

    def reseed(self) -> None:
        """Draw other tokens than the process that created the loaded tasks."""
        self._random.seed(f"tasks-{self.seed}-{len(self.tasks)}")

    def release(self, task: Task, now: float) -> None:
        """Let a held task end: its clip was delivered, or cannot be made."""
        task.held, task.ready = False, now
        if task.key in self._held:
            self._held.discard(task.key)
            heapq.heappush(self._active, (task.end, task.key))

    def cancel(self, task: Task, now: float, charge_at: float | None = None, *, kept: bool = False) -> None:
        """Cancel or kill a task.

        Args:
            task: an active task.
            now: unix seconds.
            charge_at: when it is charged all the same.
            kept: it keeps its exit code, outputs and cost.
        """
        task.cancelled, task.kept = now, kept
        self._held.discard(task.key)
        heapq.heappush(self._active, (now, task.key))
        self._active = [(at, key) for at, key in self._active if key != task.key or at == now]
        heapq.heapify(self._active)
        if charge_at is not None:
            task.charge_at = charge_at
            heapq.heappush(self._late, (charge_at, task.key))
        self.settle(now)

    def find(self, task_id: str, token: str) -> Task | None:
        """Find a task by its token, or else by its id."""
        return self.tasks.get(self.by_token.get(token) or self.by_id.get(task_id, ""))
