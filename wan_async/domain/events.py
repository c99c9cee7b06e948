"""Events of a run: what `--json` prints and `async for event in events` yields.

Facts (`Accepted`, `Ended`, `Stored`, `Failed`, ...) always arrive, in order. `Progress` and `Downloading` are samples:
a slow reader misses some of them, and never slows the run. Readers must ignore unknown events and fields.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The fields of every event.

    Attributes:
        at: time of the event, in unix seconds.
        run: the random id of its run.
    """

    at: float
    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent(Event):
    """An event about one job.

    Attributes:
        job: the job's key.
        attempt: the number of the attempt, from 1; 0 before the first.
    """

    job: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceGroup:
    """Jobs of a run that cost the same.

    Attributes:
        name: the values of the parameters that the price depends on, such as `720P`.
        to_do: how many of them this run submits.
        price_usd: the price of one; None if it is unknown.
        unsettled: attempts of earlier runs whose cost is not settled.
        unsettled_usd: what is reserved for all of those.
    """

    name: str
    to_do: int
    price_usd: Decimal | None
    unsettled: int
    unsettled_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The batch has been read, the journal opened, and the service asked for its prices.

    Attributes:
        jobs: the jobs of the batch: `done`, `to_fetch`, `duplicates`, `to_do`, and those that this run leaves out.
        done: how many have their clip.
        to_fetch: how many were submitted by an earlier run, and have no clip yet.
        duplicates: how many get the clip of another job with the same content.
        to_do: how many this run submits.
        estimate_usd: what it is expected to cost; None if a price is unknown.
        budget_usd: what the folder may cost over its lifetime, None without a limit.
        concurrency: how many tasks may be active at once; None finds out what the account allows.
        left_out: how many jobs of the batch something is wrong with, and are skipped because of that.
        changed: how many of `to_do` have a clip of an earlier prompt, image or setting; it is kept beside the new one.
        groups: what is to be paid for, by price.
    """

    output: str
    jobs: int
    done: int
    to_fetch: int
    duplicates: int
    to_do: int
    estimate_usd: Decimal | None
    budget_usd: Decimal | None
    concurrency: int | None
    left_out: int = 0
    changed: int = 0
    groups: tuple[PriceGroup, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded(JobEvent):
    """The job's image was uploaded; the service has it at `url`."""

    bytes: int
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitting(JobEvent):
    """The intent is durable, and Run is about to be sent. `price_usd` is the reserved price."""

    price_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(JobEvent):
    """The service made a task, or a task of an earlier Run was found (`adopted`)."""

    task_id: str | None
    adopted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(JobEvent):
    """A sample of a task's progress; `percent` is 0 to 100, None if the service reports none."""

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
    """A sample of a download; `total` is None if the size is not known."""

    bytes: int
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored(JobEvent):
    """The clip is complete and durable at `file` (relative to the output folder).

    `seconds` is the time since Run, without that between the task's end and the beginning of the download.
    """

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
    """Run was sent and not answered; its task is looked for in the service's task list.

    Attributes:
        decided_at: when it can be proven at the earliest that there is no task, in unix seconds.
    """

    task_id: str | None
    reason: str
    decided_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined(JobEvent):
    """Reconciliation can't tell whether the unanswered Run made a task; it counts as spent and is not repeated."""

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
    """The job failed and is not retried in this run. `billed_usd` is what the failed task cost."""

    kind: str
    message: str
    task_id: str | None
    billed_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited(Event):
    """The account's concurrency limit (96), its balance (97) or the rate limit (429) slows the run.

    Attributes:
        after_seconds: when the next Run is tried; with 96, None waits for a task of ours to end.
        concurrency: how many tasks may be active at once from now on.
        job: the job whose Run was refused with 96, and that waits again.
    """

    code: int
    after_seconds: float | None
    concurrency: int | None
    job: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(Event):
    """One problem of an invalid batch, or why a worker lets an output wait."""

    where: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping(Event):
    """The run submits no more, for this reason; tasks in flight are finished and downloaded."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The last event.

    Attributes:
        run_usd: what this run settled; `spent_usd` is the folder's lifetime, `reserved_usd` what is not settled yet.
        resume: the command that resumes the run, None if nothing is left to do.
        choices: flags of which that command needs one to end otherwise than this run; the user's decisions, since some
            may pay twice.
    """

    exit_code: int
    jobs: int
    stored: int
    skipped: int
    failed: int
    cancelled: int
    missing: int
    unknown: int
    unfinished: int
    run_usd: Decimal
    spent_usd: Decimal
    reserved_usd: Decimal
    seconds: float
    resume: str | None
    choices: tuple[str, ...] = ()


AnyEvent = (
    Started
    | Uploaded
    | Submitting
    | Accepted
    | Progress
    | Ended
    | Downloading
    | Stored
    | Retrying
    | Unknown
    | Quarantined
    | Missing
    | Cancelled
    | Failed
    | Limited
    | Problem
    | Stopping
    | Finished
)
"""Each kind of event, for `match`."""


def name_of(kind: type[Event]) -> str:
    """The event's name on a JSON line: the class's name in lower case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def as_dict(event: Event) -> dict[str, object]:
    """The object of a JSON line: `event`, `at`, `run`, then the event's fields. Amounts are decimal strings in USD."""
    return {"event": name_of(type(event)), **_plain(event)}


def _plain(content: Event | PriceGroup) -> dict[str, object]:
    return {field.name: _plain_value(getattr(content, field.name)) for field in fields(content)}


def _plain_value(value: object) -> object:
    match value:
        case Decimal():
            return f"{value:f}"
        case PriceGroup():
            return _plain(value)
        case tuple():
            return [_plain_value(each) for each in value]
    return value
