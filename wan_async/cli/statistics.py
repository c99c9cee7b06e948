"""The state of a run, computed from its events alone: counts, money, rates, the time to go.

Events are written after the journal, so what is shown is what the journal holds.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from wan_async.domain import events
from wan_async.domain.lifecycle import PROBLEMS, State

Stage = Literal[
    "waiting", "uploaded", "submitting", "queued", "running", "downloading", "retrying", "unknown", "done", "skipped"
]
"""What a job does in a run. `done` was stored by an earlier run; `skipped` is not part of this one."""
Shown = Stage | State
"""Where a job stands in a run: at a stage, or in the state in which the run has left it."""

UNFINISHED: tuple[Stage, ...] = (
    "waiting", "uploaded", "submitting", "queued", "running", "downloading", "retrying", "unknown",
)  # fmt: skip
IN_FLIGHT: tuple[Stage, ...] = ("submitting", "queued", "running", "downloading")
_BY_PROGRESS: tuple[Stage, ...] = ("retrying", "unknown", "submitting", "queued", "running", "downloading")
FINAL: tuple[Shown, ...] = (State.STORED, *PROBLEMS, "done", "skipped")

_RATE_SECONDS = 10
_LIMIT_SECONDS = 30.0
"""How long a limit counts as in force if its event doesn't say."""


@dataclass(frozen=True, slots=True)
class Active:
    """A job that has begun and not ended.

    Attributes:
        since: when its Run was sent, in unix seconds; None if that was in an earlier run.
        percent: progress of the render while it runs, of the file while it downloads.
        bytes: bytes of the file at the latest sample.
    """

    job: str
    state: Stage
    attempt: int
    since: float | None = None
    percent: float | None = None
    bytes: int | None = None


class Statistics:
    """The state of a run, computed from its events.

    Each job is in exactly one state; `counts` over all states add up to `jobs`. Samples that come late never move a job
    back. A task whose job is no longer in the batch counts as one more job.

    Money: an attempt is settled by its `Ended`, once; the cost in `Stored` or `billed_usd` in `Failed` fills in only
    where `Ended` had none, so a clip that an earlier run paid for and this one only downloads adds nothing.
    """

    def __init__(self) -> None:
        self.counts: dict[Shown, int] = dict.fromkeys((*UNFINISHED, *FINAL), 0)
        self.active: dict[str, Active] = {}
        self.reasons: dict[str, tuple[State, str]] = {}
        self.started: events.Started | None = None
        self.finished: events.Finished | None = None
        self.stopping: str | None = None
        self.spent_usd: Decimal = Decimal(0)
        self._limits: dict[int, tuple[float, events.Limited]] = {}
        self._final: dict[str, State] = {}
        self._settled: dict[tuple[str, int], Decimal | None] = {}
        self._reserved: dict[str, Decimal] = {}
        self._price: Decimal | None = None
        self._paid = 0
        self._seconds: deque[float] = deque(maxlen=100)
        self._received: deque[tuple[int, int]] = deque(maxlen=_RATE_SECONDS + 1)

    @property
    def jobs(self) -> int:
        """The number of jobs."""
        return sum(self.counts.values())

    @property
    def over(self) -> int:
        """The number of jobs that have ended, in this run or before."""
        return sum(self.counts[state] for state in FINAL if state != "skipped")

    @property
    def reserved_usd(self) -> Decimal:
        """The reserved prices of active, unknown and quarantined attempts."""
        return sum(self._reserved.values(), Decimal(0))

    def projected_usd(self) -> Decimal | None:
        """The run's expected total: spent, plus quarantined, plus the average cost of each attempt to come.

        Returns:
            None while no cost is known. Until one is settled the latest reserved price is used.
        """
        average = self.spent_usd / self._paid if self._paid else self._price
        if average is None:
            return None
        idle = ("waiting", "uploaded", "downloading") if self.stopping else ("downloading",)
        unpaid = sum(self.counts[state] for state in UNFINISHED if state not in idle)
        held = [usd for job, usd in self._reserved.items() if self._final.get(job) is State.QUARANTINED]
        return sum(held, self.spent_usd) + average * unpaid

    def bytes_per_second(self, at: float) -> float:
        """The rate of all downloads together, over the last ten seconds."""
        return sum(count for second, count in self._received if at - second < _RATE_SECONDS) / _RATE_SECONDS

    def eta_seconds(self, at: float) -> float | None:
        """Seconds until the last job ends, estimated from this run's completions.

        Each job is expected to take the mean time from Run to disk of the last 100 clips. What active jobs have left of
        it, and all of it for each waiting one, is divided by the number of slots in use; it is at least what the
        longest active job has left.

        Returns:
            None until a clip is stored, and while nothing is in flight.
        """
        in_flight = [job for job in self.active.values() if job.state in IN_FLIGHT]
        if not self._seconds or not in_flight:
            return None
        mean = sum(self._seconds) / len(self._seconds)
        left = [mean / 2 if job.since is None else max(0.0, mean - (at - job.since)) for job in in_flight]
        idle = ("waiting", "uploaded") if self.stopping else ()
        waiting = sum(self.counts[state] for state in UNFINISHED if state not in (*IN_FLIGHT, *idle))
        return max(max(left), (sum(left) + mean * waiting) / len(in_flight))

    def limits(self, at: float) -> list[events.Limited]:
        """The limits in force at `at`, by code."""
        return [event for _, (until, event) in sorted(self._limits.items()) if at < until]

    def advanced(self, most: int) -> list[Active]:
        """The `most` most advanced jobs. Percentages count in tens, so that jobs rarely change places."""
        seen = (job for job in self.active.values() if job.state != "uploaded")
        return heapq.nlargest(most, seen, key=lambda job: (_BY_PROGRESS.index(job.state), (job.percent or 0) // 10))

    def fold(self, event: events.Event) -> None:
        """Take one event in."""
        match event:
            case events.Started():
                self.started = event
                begun = len(self.active) + len(self._final)
                self.counts["done"] = max(0, event.done)
                taken_up = event.to_do + event.to_fetch + event.duplicates
                self.counts["waiting"] = max(0, taken_up - begun)
                self.counts["skipped"] = max(0, event.jobs - event.done - taken_up)
            case events.Finished():
                self.finished = event
            case events.Stopping():
                self.stopping = event.reason
            case events.Limited():
                lasts = float("inf") if event.code == 97 else event.after_seconds or _LIMIT_SECONDS
                self._limits[event.code] = (event.at + lasts, event)
            case events.JobEvent():
                self._fold_job(event)

    def _fold_job(self, event: events.JobEvent) -> None:
        match event:
            case events.Progress() | events.Downloading():
                self._fold_sample(event)
            case events.Uploaded():
                if event.job not in self.active and event.job not in self._final:
                    self._move(event, "uploaded")
            case events.Submitting():
                self._move(event, "submitting", since=event.at, percent=None, bytes=None)
                if event.price_usd is not None:
                    self._price = self._reserved[event.job] = event.price_usd
            case events.Accepted():
                self._move(event, "queued")
                if not event.adopted:
                    self._limits.pop(97, None)
            case events.Ended():
                self._settle(event, event.cost_usd)
                if event.job not in self._final:
                    self._move(event, "downloading", percent=None)
            case events.Retrying():
                # A refused Run, or one proven absent, costs nothing; retried polls and downloads keep their price.
                if event.job not in self.active or self.active[event.job].state in ("submitting", "unknown"):
                    self._reserved.pop(event.job, None)
                self._move(event, "retrying", percent=None)
            case events.Unknown():
                self._move(event, "unknown")
            case events.Stored():
                self._store(event)
            case events.Failed():
                self._fill_in(event, event.billed_usd)
                self._end(event, State.FAILED, f"{event.kind}: {event.message}")
            case events.Cancelled() | events.Missing() | events.Quarantined():
                self._end(event, State(events.name_of(type(event))), event.reason)

    def _fold_sample(self, event: events.Progress | events.Downloading) -> None:
        known = self.active.get(event.job)
        if event.job in self._final or (known and event.attempt < known.attempt):
            return
        if isinstance(event, events.Downloading):
            if known and known.bytes is not None:
                self._receive(event.at, event.bytes - known.bytes)
            percent = min(100.0, 100 * event.bytes / event.total) if event.total else None
            self._move(event, "downloading", bytes=event.bytes, percent=percent)
        elif not known or known.state != "downloading":
            idle = event.percent is None and any(word in event.status for word in ("queue", "accept"))
            percent = None if event.percent is None else min(100.0, max(0.0, event.percent))
            # later stages report no percentage: the last one stays
            changes = {"percent": percent} if event.percent is not None or idle else {}
            self._move(event, "queued" if idle else "running", **changes)

    def _move(self, event: events.JobEvent, state: Stage, **changes: Any) -> None:
        """Count the event's job as active in `state`, with `changes` to its other attributes."""
        job = self.active.get(event.job)
        if job is None:
            self._leave(event.job)
            job = Active(event.job, state, event.attempt)
        else:
            self.counts[job.state] -= 1
        attempt = max(job.attempt, event.attempt)
        self.active[event.job] = replace(job, state=state, attempt=attempt, **changes)
        self.counts[state] += 1

    def _leave(self, job: str) -> None:
        """Take a job that is not active out of the counts."""
        self.reasons.pop(job, None)
        before: Shown = self._final.pop(job, "waiting")
        if self.counts[before]:  # else it is no longer in the batch, and `Started` did not count it
            self.counts[before] -= 1

    def _end(self, event: events.JobEvent, state: State, reason: str | None = None) -> None:
        job = self.active.pop(event.job, None)
        if job is None:
            self._leave(event.job)
        else:
            self.counts[job.state] -= 1
        self._final[event.job] = state
        self.counts[state] += 1
        if reason is not None:
            self.reasons[event.job] = (state, reason)
        if state is not State.QUARANTINED:
            self._reserved.pop(event.job, None)

    def _store(self, event: events.Stored) -> None:
        self._fill_in(event, event.cost_usd)
        job = self.active.get(event.job)
        if job and job.since is not None:
            self._seconds.append(max(0.0, event.at - job.since))
        if job and (job.bytes is not None or (event.job, event.attempt) in self._settled):
            self._receive(event.at, event.bytes - (job.bytes or 0))
        self._end(event, State.STORED)

    def _settle(self, event: events.JobEvent, cost: Decimal | None) -> None:
        before = self._settled.get((event.job, event.attempt))
        cost = before if cost is None else cost
        self._settled[event.job, event.attempt] = cost
        self.spent_usd += (cost or 0) - (before or 0)
        self._paid += bool(cost) - bool(before)
        self._reserved.pop(event.job, None)

    def _fill_in(self, event: events.JobEvent, cost: Decimal | None) -> None:
        if cost and self._settled.get((event.job, event.attempt), cost) is None:
            self._settle(event, cost)

    def _receive(self, at: float, count: int) -> None:
        if count > 0:  # a download that starts over has fewer bytes than before
            second = int(at)
            if self._received and self._received[-1][0] >= second:
                second, before = self._received.pop()
                count += before
            self._received.append((second, count))
