"""Frozen facts of a run: what `--json` prints and `async for event in events` yields.

Facts (`Accepted`, `Ended`, `Stored`, `Failed`, ...) always arrive, in order. Levels (`Progress`, `Downloading`) are
samples: a slow reader misses some of them and slows nothing. Readers ignore events and fields that they don't know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event says.

    Attributes:
        at: when, in unix seconds.
        run: a random id of the run it belongs to.
    """

    at: float
    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent(Event):
    """An event about one job.

    Attributes:
        job: the job's key.
        attempt: which attempt at the job, from 1; 0 before the first.
    """

    job: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The batch is read, the journal open: `unfinished` of `jobs` are left to do."""

    output: str
    jobs: int
    done: int
    unfinished: int
    budget_usd: Decimal | None
    concurrency: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded(JobEvent):
    """The job's image lies with the service under `url`."""

    bytes: int
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitting(JobEvent):
    """The intent to pay is durable; Run is about to be sent. `price_usd` is what was reserved."""

    price_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(JobEvent):
    """The service made a task, or one of an earlier Run was found again (`adopted`)."""

    task_id: str | None
    adopted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(JobEvent):
    """A sample of a task's progress; `percent` is 0 to 100, None where the service gives none."""

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
    """A sample of a download; `total` is None where nobody announced a size."""

    bytes: int
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored(JobEvent):
    """The clip is whole and durable at `file` (relative to the output folder). `seconds` is from Run to disk."""

    file: str
    bytes: int
    sha256: str
    cost_usd: Decimal | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying(JobEvent):
    """Something failed that may be tried again, and will be after `after_seconds`."""

    reason: str
    after_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(JobEvent):
    """Run was sent and not answered: whether a task exists is being found out."""

    task_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined(JobEvent):
    """It can't be found out whether the unanswered Run made a task; it counts as spent and is not repeated."""

    task_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing(JobEvent):
    """The task or its clip is not available now; the next run asks for it again before it submits anything."""

    task_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(JobEvent):
    """The task was cancelled or killed, here or from elsewhere."""

    task_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(JobEvent):
    """The job failed for good in this run. `billed_usd` is what it cost all the same."""

    kind: str
    message: str
    task_id: str | None
    billed_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited(Event):
    """The account (96), its balance (97) or its rate limit (429) holds the run back."""

    code: int
    after_seconds: float | None
    concurrency: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(Event):
    """The batch is invalid here."""

    where: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping(Event):
    """No more is submitted, for this reason; what runs is finished and downloaded."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """Always last. `resume` is the command that goes on from here, None if nothing is left to do."""

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
    """The event's name on a JSON line: its class's, in lower case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def as_dict(event: Event) -> dict[str, object]:
    """One JSON line's object: `event`, `at`, `run`, then the event's own fields. Amounts are decimal strings in USD."""
    line: dict[str, object] = {"event": name_of(type(event))}
    for field in fields(event):
        value = getattr(event, field.name)
        line[field.name] = f"{value:f}" if isinstance(value, Decimal) else value
    return line
