"""Short constructors of a run's events."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from wan_async.domain import events

OUT = "/out/clips"


def started(at: float = 0, jobs: int = 10, done: int = 0, to_do: int | None = None, **more: Any) -> events.Started:
    fields: dict[str, Any] = {"output": OUT, "budget_usd": None, "concurrency": None, "estimate_usd": None} | more
    fields = {"to_fetch": 0, "duplicates": 0} | fields
    left = jobs - done if to_do is None else to_do
    return events.Started(at=at, run="r", jobs=jobs, done=done, to_do=left, **fields)


def submitting(job: str, at: float = 0, attempt: int = 1, price: str | None = "0.04") -> events.Submitting:
    usd = None if price is None else Decimal(price)
    return events.Submitting(at=at, run="r", job=job, attempt=attempt, price_usd=usd)


def uploaded(job: str, at: float = 0) -> events.Uploaded:
    return events.Uploaded(at=at, run="r", job=job, attempt=0, bytes=2_000_000, url="https://x/y")


def accepted(job: str, at: float = 0, adopted: bool = False) -> events.Accepted:
    return events.Accepted(at=at, run="r", job=job, attempt=1, task_id="77", adopted=adopted)


def running(
    job: str, percent: float | None, at: float = 0, status: str = "task_output", attempt: int = 1
) -> events.Progress:
    return events.Progress(at=at, run="r", job=job, attempt=attempt, percent=percent, status=status)


def ended(job: str, cost: str | None = "0.04", at: float = 0, attempt: int = 1) -> events.Ended:
    usd = None if cost is None else Decimal(cost)
    return events.Ended(
        at=at, run="r", job=job, attempt=attempt, task_id="77", status="task_postprocess_end", pexit="0", cost_usd=usd
    )


def downloading(job: str, got: int, total: int | None = 1000, at: float = 0, attempt: int = 1) -> events.Downloading:
    return events.Downloading(at=at, run="r", job=job, attempt=attempt, bytes=got, total=total)


def stored(
    job: str, at: float = 0, cost: str | None = "0.04", size: int = 1000, file: str | None = None
) -> events.Stored:
    usd = None if cost is None else Decimal(cost)
    name = file or f"{job}.mp4"
    return events.Stored(
        at=at, run="r", job=job, attempt=1, file=name, bytes=size, sha256="00", cost_usd=usd, seconds=61
    )


def failed(job: str, message: str = "exit code 1", at: float = 0, billed: str | None = None) -> events.Failed:
    usd = None if billed is None else Decimal(billed)
    return events.Failed(
        at=at, run="r", job=job, attempt=1, kind="render", message=message, task_id="77", billed_usd=usd
    )


def retrying(job: str, at: float = 0) -> events.Retrying:
    return events.Retrying(at=at, run="r", job=job, attempt=1, reason="busy", after_seconds=5)


def unknown(job: str, at: float = 0, decided_at: float | None = None) -> events.Unknown:
    reason = "the connection closed"
    return events.Unknown(at=at, run="r", job=job, attempt=1, task_id=None, reason=reason, decided_at=decided_at)


def quarantined(job: str, at: float = 0) -> events.Quarantined:
    return events.Quarantined(at=at, run="r", job=job, attempt=1, task_id=None, reason="two tasks look alike")


def missing(job: str, at: float = 0) -> events.Missing:
    return events.Missing(at=at, run="r", job=job, attempt=1, task_id="77", reason="no output")


def cancelled(job: str, at: float = 0) -> events.Cancelled:
    return events.Cancelled(at=at, run="r", job=job, attempt=1, task_id="77", reason="from elsewhere")


def limited(
    code: int, at: float = 0, after: float | None = None, slots: int | None = None, job: str | None = None
) -> events.Limited:
    return events.Limited(at=at, run="r", code=code, after_seconds=after, concurrency=slots, job=job)


def stopping(at: float = 0, reason: str = "interrupted") -> events.Stopping:
    return events.Stopping(at=at, run="r", reason=reason)


def problem(at: float = 0) -> events.Problem:
    return events.Problem(at=at, run="r", where="batch.yaml:3:7", message="no such file")


def finished(at: float = 0, exit_code: int = 0, **counts: Any) -> events.Finished:
    names = ("stored", "skipped", "failed", "cancelled", "missing", "unknown", "unfinished")
    fields: dict[str, Any] = dict.fromkeys(names, 0)
    fields |= {
        "jobs": 10,
        "run_usd": Decimal("0.40"),
        "spent_usd": Decimal("0.40"),
        "reserved_usd": Decimal(0),
        "seconds": 252.0,
        "resume": None,
    }
    return events.Finished(at=at, run="r", exit_code=exit_code, **fields | counts)
