"""What the sandbox's endpoints share: settings, account, faults, files, and the database that keeps them."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, replace
from typing import Unpack

from wan_async.sandbox.account import Account
from wan_async.sandbox.database import Database
from wan_async.sandbox.faults import Faults
from wan_async.sandbox.files import FileStore
from wan_async.sandbox.http import File
from wan_async.sandbox.settings import CHANGEABLE, Changes, Settings
from wan_async.sandbox.tasks import Task

LOG_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated and parsed API request.

    Attributes:
        endpoint: path below `/v1/`.
        project: API key of the project that sent it; empty for the sandbox's own.
        form: fields of the body.
        file: the file in the body.
        base_url: scheme, host and port that it was sent to.
    """

    endpoint: str
    project: str
    form: dict[str, str]
    file: File | None
    base_url: str


class State:
    """State of a sandbox.

    Attributes:
        settings: see `Settings`; some of them can be changed with `change`.
        database: where the state is kept; None for memory.
        faults: injected faults.
        random: generator of the tasks' durations, seeded.
        files: clips and uploads.
        account: balance and tasks.
        log: the latest requests: unix time, endpoint, task id.
    """

    def __init__(self, settings: Settings) -> None:
        settings.check()
        self.settings = settings
        self.database: Database | None = Database(settings.state) if settings.state is not None else None
        starts = self.database.earlier_starts if self.database is not None else 0
        self.is_first_start: bool = starts == 0
        self.faults: Faults = Faults(settings.faults, settings.seed, starts)
        self.random: random.Random = random.Random(f"service-{settings.seed}" + f"-{starts}" * (starts > 0))  # noqa: S311 - seeded on purpose
        self.files: FileStore = FileStore(self.database)
        self.account: Account = Account(
            round(settings.balance_usd * 1e6), settings.now(), settings.seed, settings.concurrency_limit,
            settings.limit_schedule, next_id=settings.first_task_id,
            minimum_micros=None if settings.minimum_usd is None else round(settings.minimum_usd * 1e6),
        )  # fmt: skip
        self.log: deque[tuple[float, str, str]] = deque(maxlen=LOG_ENTRIES)
        if self.database is not None:
            self.database.load(self.account)

    def now(self) -> float:
        """Unix seconds."""
        return self.settings.now()

    def save(self, *tasks: Task) -> None:
        """Store these tasks and the account in the database, if there is one."""
        if self.database is not None:
            self.database.save(self.account, *tasks)

    def record(self, endpoint: str, task: Task) -> None:
        """Append a request to the log."""
        self.log.append((self.now(), endpoint, task.id))

    def change(self, **values: Unpack[Changes]) -> None:
        """Change settings.

        Raises:
            ValueError: a setting is not in `CHANGEABLE`, or the value is not allowed.
        """
        if fixed := sorted(set(values) - set(CHANGEABLE)):
            raise ValueError(f"{', '.join(fixed)} cannot be changed; only {', '.join(CHANGEABLE)}")
        replace(self.settings, **values).check()
        for name, value in values.items():
            setattr(self.settings, name, value)

    def close(self) -> None:
        """Close the database."""
        if self.database is not None:
            self.database.close()
