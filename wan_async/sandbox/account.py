"""Wiro's account and tasks, as a pure state machine: `now` is given, nothing is looked up.

A task's whole future is drawn when it is made, so that its status at any time is a look at a table. Money moves at the
moment a task succeeds; whoever asks for the balance settles what ended until then. Amounts are integer micro-dollars.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

STAGES = (
    "task_queue",
    "task_accept",
    "task_preprocess_start",
    "task_preprocess_end",
    "task_assign",
    "task_start",
    "task_output",
    "task_output_full",
    "task_end",
    "task_postprocess_start",
    "task_postprocess_end",
)
_SHARES = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.9, 0.93, 0.95, 1.0)
"""When each stage begins, as a share of the task's duration."""
RENDERING = STAGES.index("task_output_full")
FREE_ABOVE_MICROS = 250_000_000
"""Above this balance there is no limit of concurrent tasks."""
FIRST_ID = 500_001
PROJECT_ID = "699"
"""The number of the sandbox's own project."""


@dataclass(slots=True)
class Task:
    """One task. Times are unix seconds.

    Attributes:
        project: the key of the project it belongs to, if not the sandbox's own.
        project_id: the number of the project that it is billed to.
        again: how many earlier tasks have the same id.
        error_seconds: how long it shows `task_error` before it is queued again; `inf` for ever.
        outputs_after: for how many seconds after its end its outputs are not shown, nor its exit code if `pexit_lags`.
        files_after: for how many seconds after its end its files are not served.
        kept: it was killed, and shows an exit code, outputs and a cost all the same.
        charge_at: when it is charged although it was cancelled; `charged` once that was done.
    """

    id: str
    token: str
    parameters: dict[str, str]
    image: str | None
    created: float
    seconds: float
    price: int
    pexit: str = "0"
    cancelled: float | None = None
    held: bool = False
    ready: float | None = None
    billed: bool = False
    size: int = 0
    shown_size: int | None = None
    deleted: bool = False
    called_back: bool = False
    log: str = ""
    project: str = ""
    project_id: str = PROJECT_ID
    again: int = 0
    error_seconds: float = 0.0
    outputs_after: float = 0.0
    pexit_lags: bool = False
    files_after: float = 0.0
    kept: bool = False
    charge_at: float | None = None
    charged: bool = False

    @property
    def key(self) -> str:
        """What tells it from every other task: its id, and a number where ids began again."""
        return f"{self.id}-{self.again}" if self.again else self.id

    @property
    def queued(self) -> float:
        """When it is queued to be executed."""
        return self.created + self.error_seconds

    @property
    def end(self) -> float:
        """When it ends, unless it is held back by a clip that isn't there yet."""
        if self.cancelled is not None:
            return self.cancelled
        planned = self.queued + self.seconds
        return planned if self.ready is None else max(planned, self.ready)

    def stage(self, now: float) -> int:
        """The stage that it has reached; the one it had reached, if it was cancelled."""
        if self.cancelled is not None:
            now = min(now, self.cancelled)
        if self.cancelled is None and not self.held and now >= self.end:
            return len(STAGES) - 1
        if now < self.queued:
            return 0
        share = (now - self.queued) / self.seconds if self.seconds else 1.0
        share = min(share, _SHARES[RENDERING]) if self.held else share
        return max(place for place in range(len(STAGES) - 1) if _SHARES[place] <= share or place == 0)

    def status(self, now: float) -> str:
        """Its status, as Task/Detail has it."""
        if self.cancelled is not None and now >= self.cancelled:
            return "task_cancel"
        return "task_error" if self.is_in_error(now) else STAGES[self.stage(now)]

    def is_in_error(self, now: float) -> bool:
        """Whether it failed before its execution, and waits to be queued again."""
        return self.error_seconds > 0 and now < self.queued

    def is_over(self, now: float) -> bool:
        """Whether it has reached a terminal status."""
        return not (self.held and self.cancelled is None) and now >= self.end

    def succeeded(self, now: float) -> bool:
        """Whether it has ended well, and is billed."""
        return self.is_over(now) and (self.cancelled is None or self.kept) and self.pexit == "0"

    def cost(self, now: float) -> int:
        """What has been charged for it, in micro-dollars."""
        late = self.charge_at is not None and now >= self.charge_at
        return self.price if late or self.succeeded(now) else 0

    def begins(self, stage: int) -> float:
        """When a stage before the last begins."""
        return self.queued + self.seconds * _SHARES[stage]


@dataclass(slots=True)
class Account:
    """Balance, tasks, and the rules between them.

    Attributes:
        balance_micros: as of the last settlement; `settle` first.
        concurrency_limit: tasks at once; None for Wiro's own rule, a tenth of the balance in USD.
        minimum_micros: below this balance no task is made; None where the balance must pay for all active ones.
        schedule: limits from so many seconds after `opened` on.
        next_id: of the next task; set back, ids begin again.
        tasks: by their keys, the oldest first.
        by_token: keys by token.
        by_id: keys by id, of the newest task where several have one.
        settled: tasks whose end was reckoned with and that no store has written since.
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
        """Bills what has ended by now; returns those tasks."""
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
        """Tasks at once; None for no limit."""
        passed = [limit for at, limit in self.schedule if now - self.opened >= at]
        if passed:
            return passed[-1]
        if self.concurrency_limit is not None:
            return self.concurrency_limit
        return None if self.balance_micros > FREE_ABOVE_MICROS else max(1, self.balance_micros // 10_000_000)

    def active(self, now: float) -> int:
        """How many tasks have not ended."""
        self.settle(now)
        return len(self._active) + len(self._held)

    def refusal(self, price: int, now: float) -> tuple[int, str] | None:
        """Why no task can be made now: error code and message."""
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

    def make(
        self,
        parameters: dict[str, str],
        image: str | None,
        price: int,
        seconds: float,
        now: float,
        project: str = "",
        project_id: str = PROJECT_ID,
    ) -> Task:
        """A new task."""
        number = str(self.next_id)
        token = "".join(self._random.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=30))
        task = Task(number, token, parameters, image, now, seconds, price, project=project, project_id=project_id)
        while task.key in self.tasks:
            task.again += 1
        self.add(task)
        return task

    def add(self, task: Task) -> None:
        """A task that was made before, perhaps by an earlier process."""
        self.tasks[task.key] = task
        self.by_token[task.token] = self.by_id[task.id] = task.key
        self.next_id = int(task.id) + 1
        if not task.billed:
            self._reserved += task.price
            heapq.heappush(self._active, (task.end, task.key))
        if task.charge_at is not None and not task.charged:
            heapq.heappush(self._late, (task.charge_at, task.key))

    def resume(self) -> None:
        """After tasks of an earlier process were added: draws no token a second time."""
        self._random.seed(f"tasks-{self.seed}-{len(self.tasks)}")

    def release(self, task: Task, now: float) -> None:
        """Its clip is there (or never will be): it may end from now on."""
        task.held, task.ready = False, now
        if task.key in self._held:
            self._held.discard(task.key)
            heapq.heappush(self._active, (task.end, task.key))

    def cancel(self, task: Task, now: float, charge_at: float | None = None) -> None:
        """It is cancelled or killed, and perhaps charged later."""
        task.cancelled = now
        self._held.discard(task.key)
        heapq.heappush(self._active, (now, task.key))
        self._active = [(at, key) for at, key in self._active if key != task.key or at == now]
        heapq.heapify(self._active)
        if charge_at is not None:
            task.charge_at = charge_at
            heapq.heappush(self._late, (charge_at, task.key))
        self.settle(now)

    def find(self, task_id: str, token: str) -> Task | None:
        """A task by its token or its id."""
        return self.tasks.get(self.by_token.get(token) or self.by_id.get(task_id, ""))
