"""Events of a run: what `--json` prints and `async for event in events` yields.

Facts (`Accepted`, `Ended`, `Stored`, `Failed`, ...) are always delivered, in order. Levels (`Progress`, `Downloading`)
are sampled: a slow reader misses some of them and never slows the run. Readers must ignore unknown events and fields.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The base of all events.

    Attributes:
        at: unix seconds.
        run: a random id of the run.
    """

    at: float
    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent(Event):
    """An event about one job.

    Attributes:
        job: the job's key.
        attempt: the number of the attempt at the job, from 1; 0 before the first.
    """

    job: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The batch is read and the journal is open; `unfinished` of `jobs` are to be done."""

    output: str
    jobs: int
    done: int
    unfinished: int
    budget_usd: Decimal | None
    concurrency: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded(JobEvent):
    """The job's image was uploaded; `url` is its address at the service."""

    bytes: int
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitting(JobEvent):
    """The intent is durable and Run is about to be sent. `price_usd` is the reserved amount."""

    price_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(JobEvent):
    """The service made a task, or the task of an unanswered Run was found (`adopted`)."""

    task_id: str | None
    adopted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(JobEvent):
    """A sample of a task's progress; `percent` is 0 to 100, None if the service gives none."""

    percent: float | None
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(JobEvent):
    """The task reached a terminal status; its cost is settled."""

    task_id: str | None
    status: str
    pexit: str | None
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloading(JobEvent):
    """A sample of a download; `total` is None if no size was announced."""

    bytes: int
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored(JobEvent):
    """The clip is complete and durable at `file` (relative to the output folder). `seconds` is from Run to disk."""

    file: str
    bytes: int
    sha256: str
    cost_usd: Decimal | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying(JobEvent):
    """A step failed and is retried after `after_seconds`."""

    reason: str
    after_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(JobEvent):
    """Run was sent and not answered; reconciliation finds out whether a task exists."""

    task_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined(JobEvent):
    """Whether the unanswered Run made a task can't be determined; it counts as spent and is not repeated."""

    task_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing(JobEvent):
    """The task or its clip is not available now; the next run requests it again before it submits anything."""

    task_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(JobEvent):
    """The task was cancelled or killed, by this program or another."""

    task_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(JobEvent):
    """The job failed permanently in this run. `billed_usd` is what was billed nevertheless."""

    kind: str
    message: str
    task_id: str | None
    billed_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited(Event):
    """The account's concurrency limit (96), its balance (97) or its rate limit (429) was reached."""

    code: int
    after_seconds: float | None
    concurrency: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(Event):
    """A problem of an invalid batch, and where it is."""

    where: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping(Event):
    """No more jobs are submitted, for this reason; running tasks are tracked and downloaded."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The last event of every run. `resume` is the command that continues it, None if nothing is left to do."""

    exit_code: int
    jobs: int
    stored: int
    skipped: int
    failed: int
    cancelled: int
    missing: int
    unknown: int
    unfinished: int
    spent_usd: Decimal
    reserved_usd: Decimal
    seconds: float
    resume: str | None


def name_of(kind: type[Event]) -> str:
    """The event's name on a JSON line: the class's name in lower case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def as_dict(event: Event) -> dict[str, object]:
    """The object of a JSON line: `event`, `at`, `run`, then the event's fields. Amounts are decimal strings in USD."""
    line: dict[str, object] = {"event": name_of(type(event))}
    for field in fields(event):
        value = getattr(event, field.name)
        line[field.name] = f"{value:f}" if isinstance(value, Decimal) else value
    return line
