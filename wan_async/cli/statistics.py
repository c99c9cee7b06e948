"""The state of a run, computed from its events alone: counts, money, rates, the time to go.

Events are written after the journal, so what is shown is what the journal holds.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import islice
from statistics import median
from typing import Any, Literal

from wan_async.cli.spending import Spending
from wan_async.cli.time_estimate import SIMULATED_JOBS, Eta, Pace, Rendering, Rest
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
RENDERING: tuple[Stage, ...] = ("submitting", "queued", "running")
_BY_PROGRESS: tuple[Stage, ...] = ("retrying", "unknown", "submitting", "queued", "running", "downloading")
FINAL: tuple[Shown, ...] = (State.STORED, *PROBLEMS, "done", "skipped")

_RATE_SECONDS = 10
_SEARCHED_JOBS = 10 * SIMULATED_JOBS
"""The last ones to start are looked for among this number of jobs at the end of the batch."""
_PACE_SECONDS = 300.0
"""The rate of clips is that of the last seconds of this number."""
_LIMIT_SECONDS = 30.0
"""How long a limit counts as in force if its event doesn't say."""


def kind_of(group: str) -> str:
    """The first of the values that a group of jobs has in common, such as the resolution: renders last alike by it."""
    return group.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class Active:
    """A job that has begun and not ended.

    Attributes:
        since: when its Run was sent, in unix seconds; None if that was in an earlier run.
        ended: when its task ended, if this run has seen it.
        percent: progress of the render while it runs, of the file while it downloads.
        bytes: bytes of the file at the latest sample.
    """

    job: str
    state: Stage
    attempt: int
    since: float | None = None
    ended: float | None = None
    percent: float | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Retries:
    """How failed jobs are tried again.

    Attributes:
        images: the local images of the jobs that have one, by name.
        command: what takes the flags for it, if that is not the run's own command.
        remark: what else helps.
    """

    images: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    remark: str = ""


class Statistics:
    """The state of a run, computed from its events.

    Each job is in exactly one state; `counts` over all states add up to `jobs`. Samples that come late never move a job
    back. A task whose job is no longer in the batch counts as one more job.

    Args:
        groups: what the jobs of the batch cost and last alike, such as their resolution: by name, in batch order.
        retries: how failed jobs are tried again.

    Attributes:
        retries: the same.
    """

    def __init__(self, groups: Mapping[str, str] | None = None, retries: Retries | None = None) -> None:
        self.retries: Retries = retries or Retries()
        self.counts: dict[Shown, int] = dict.fromkeys((*UNFINISHED, *FINAL), 0)
        self.active: dict[str, Active] = {}
        self.reasons: dict[str, tuple[State, str]] = {}
        self.started: events.Started | None = None
        self.finished: events.Finished | None = None
        self.stopping: str | None = None
        self.undecided_until: dict[str, float | None] = {}
        self.spending: Spending = Spending(groups or {})
        self.slowest: tuple[float, str] | None = None
        self._groups = dict(groups or {})
        self._limits: dict[int, tuple[float, events.Limited]] = {}
        self._slots: int | None = None
        self._final: dict[str, State] = {}
        self._pace = Pace()
        self._seconds: list[float] = []
        self._stored_at: deque[float] = deque(maxlen=1000)
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
    def spent_usd(self) -> Decimal:
        """What this run has paid."""
        return self.spending.settled_usd

    @property
    def reserved_usd(self) -> Decimal:
        """The reserved prices of active, unknown and quarantined attempts."""
        return self.spending.reserved_usd

    def projected_usd(self) -> Decimal | None:
        """The run's expected total; None while a price is unknown."""
        return self.spending.projected_usd(stopping=self.stopping is not None)

    @property
    def slots(self) -> tuple[int, int | None]:
        """How many tasks are active, and how many may be; None if the account's limit is not known yet."""
        used = sum(self.counts[state] for state in RENDERING)
        return used, None if self._slots is None else max(used, self._slots)

    @property
    def median_seconds(self) -> float | None:
        """The median time from Run to disk of the clips of this run."""
        return median(self._seconds) if self._seconds else None

    def clips_per_minute(self, at: float) -> float | None:
        """The rate at which clips arrived in the last minutes; None before the first."""
        if self.started is None or not self._stored_at:
            return None
        count = sum(at - each < _PACE_SECONDS for each in self._stored_at)
        oldest = self._stored_at[0] if len(self._stored_at) == self._stored_at.maxlen else self.started.at
        return 60 * count / max(1.0, min(_PACE_SECONDS, at - oldest))

    def is_slow(self, job: Active, at: float) -> bool:
        """Whether a task takes far longer than others of its group."""
        if job.since is None or at - job.since <= self._pace.slow_after or job.state not in RENDERING:
            return False
        return self._pace.is_slow(self._group(job), at - job.since)

    def bytes_per_second(self, at: float) -> float:
        """The rate of all downloads together, over the last ten seconds."""
        return sum(count for second, count in self._received if at - second < _RATE_SECONDS) / _RATE_SECONDS

    def eta(self, at: float) -> Eta | None:
        """When the last clip will be on disk, estimated from this run's renders; None while that can't be known."""
        renders, downloads = [], []
        for job in self.active.values():
            if job.state in RENDERING:
                age = None if job.since is None else max(0.0, at - job.since)
                renders.append(Rendering(self._group(job), age, job.percent))
            elif job.state == "downloading":
                downloads.append(None if job.ended is None else max(0.0, at - job.ended))
        left = Counter() if self.stopping else self._waiting()
        waiting = self._last_to_start(left)
        slots = max(1, len(renders), self._slots or 0)
        prices = {kind_of(name): price for name, price in self.spending.prices().items()}
        undecided = max((until - at for until in self.undecided_until.values() if until is not None), default=0.0)
        return self._pace.eta(Rest(renders, downloads, waiting, left, slots, prices, max(0.0, undecided)))

    def _waiting(self) -> Counter[str]:
        """The jobs that wait for a slot, by group."""
        left: Counter[str] = Counter()
        for name, count in self.spending.left().items():
            left[kind_of(name)] += count
        idle = [job for job in self.active.values() if job.state in ("retrying", "unknown")]
        left.update(self._group(job) for job in idle)
        # what became of a job may not be known by group: then the numbers of states count
        total = sum(self.counts[state] for state in ("waiting", "uploaded", "retrying", "unknown"))
        for group in list(left):
            left[group] = min(left[group], total)
            total -= left[group]
        return +left

    def _last_to_start(self, left: Counter[str]) -> list[str]:
        """Take the last jobs to start out of `left`, in their order; jobs start in the batch's order."""
        found: list[str] = []
        for name in islice(reversed(self._groups), _SEARCHED_JOBS):
            group = kind_of(self._groups[name])
            if len(found) >= SIMULATED_JOBS or not left:
                break
            if name not in self._final and name not in self.active and left[group] > 0:
                left[group] -= 1
                found.append(group)
        for group in list(left):
            room = max(0, min(left[group], SIMULATED_JOBS - len(found)))
            found += [group] * room
            left[group] -= room
        for group in [group for group, count in left.items() if count <= 0]:
            del left[group]
        return found[::-1]

    def _group(self, job: Active) -> str:
        return kind_of(self.spending.group_of(job.job))

    def limits(self, at: float) -> list[events.Limited]:
        """The limits in force at `at`, by code."""
        return [event for _, (until, event) in sorted(self._limits.items()) if at < until]

    def advanced(self, most: int, at: float) -> list[Active]:
        """The `most` most advanced jobs, slow ones first. Percentages count in tens, so that jobs rarely move."""
        seen = (job for job in self.active.values() if job.state != "uploaded")
        return heapq.nlargest(
            most,
            seen,
            key=lambda job: (self.is_slow(job, at), _BY_PROGRESS.index(job.state), (job.percent or 0) // 10),
        )

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
                self._slots = event.concurrency
                self.spending.begin(event)
            case events.Finished():
                self.finished = event
            case events.Stopping():
                self.stopping = event.reason
            case events.Limited():
                lasts = float("inf") if event.code == 97 else event.after_seconds or _LIMIT_SECONDS
                self._limits[event.code] = (event.at + lasts, event)
                if event.code == 96:
                    self._slots = event.concurrency
                    if event.job is not None and event.job in self.active:
                        self.spending.refuse(event.job)
                        self._set(event.job, "uploaded")
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
                self.spending.submit(event)
                self._move(event, "submitting", since=event.at, ended=None, percent=None, bytes=None)
            case events.Accepted():
                if event.adopted:
                    self.spending.adopt(event.job)
                else:
                    self._limits.pop(97, None)
                self._move(event, "queued")
            case events.Ended():
                self._end_task(event)
            case events.Retrying():
                # Polls and downloads are tried again, too; a Run that was refused or proven absent costs nothing.
                job = self.active.get(event.job)
                if job is None or job.state in ("submitting", "unknown") or job.ended is not None:
                    self.spending.refuse(event.job)
                self._move(event, "retrying", percent=None)
            case events.Unknown():
                self._move(event, "unknown")
                self.undecided_until[event.job] = event.decided_at
            case events.Stored():
                self._store(event)
            case events.Failed():
                self.spending.fill_in(event.job, event.attempt, event.billed_usd)
                self.spending.leave(event.job, unsubmitted=event.attempt == 0)
                self._end(event, State.FAILED, f"{event.kind}: {event.message}")
            case events.Cancelled() | events.Missing() | events.Quarantined():
                state = State(events.name_of(type(event)))
                if state is not State.QUARANTINED:
                    self.spending.leave(event.job)
                self._end(event, state, event.reason)

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
        self.undecided_until.pop(event.job, None)
        job = self.active.get(event.job)
        if job is None:
            self._leave(event.job)
            job = Active(event.job, state, event.attempt)
        else:
            self.counts[job.state] -= 1
        attempt = max(job.attempt, event.attempt)
        self.active[event.job] = replace(job, state=state, attempt=attempt, **changes)
        self.counts[state] += 1

    def _set(self, job: str, state: Stage) -> None:
        before = self.active[job]
        self.counts[before.state] -= 1
        self.counts[state] += 1
        self.active[job] = replace(before, state=state)

    def _leave(self, job: str) -> None:
        """Take a job that is not active out of the counts."""
        self.reasons.pop(job, None)
        before: Shown = self._final.pop(job, "waiting")
        if self.counts[before]:  # else it is no longer in the batch, and `Started` did not count it
            self.counts[before] -= 1

    def _end(self, event: events.JobEvent, state: State, reason: str | None = None) -> None:
        self.undecided_until.pop(event.job, None)
        job = self.active.pop(event.job, None)
        if job is None:
            self._leave(event.job)
        else:
            self.counts[job.state] -= 1
        self._final[event.job] = state
        self.counts[state] += 1
        if reason is not None:
            self.reasons[event.job] = (state, reason)

    def _end_task(self, event: events.Ended) -> None:
        known = self.active.get(event.job)
        if known and known.since is not None and event.pexit == "0":
            self._pace.rendered(self._group(known), event.at - known.since)
        self.spending.settle(event.job, event.attempt, event.cost_usd)
        if event.job not in self._final:
            self._move(event, "downloading", percent=None, ended=event.at)

    def _store(self, event: events.Stored) -> None:
        self.spending.fill_in(event.job, event.attempt, event.cost_usd)
        self.spending.leave(event.job)
        job = self.active.get(event.job)
        if job and job.since is not None:
            seconds = max(0.0, event.at - job.since)
            self._seconds.append(seconds)
            self.slowest = max(self.slowest or (0.0, ""), (seconds, event.file.rpartition(".")[0]))
            if job.ended is not None:
                self._pace.downloaded(event.at - job.ended)
            else:
                self._pace.rendered(self._group(job), seconds)
        if job:
            self._stored_at.append(event.at)
        if job and (job.bytes is not None or self.spending.is_settled(event.job, event.attempt)):
            self._receive(event.at, event.bytes - (job.bytes or 0))
        self._end(event, State.STORED)

    def _receive(self, at: float, count: int) -> None:
        if count > 0:  # a download that starts over has fewer bytes than before
            second = int(at)
            if self._received and self._received[-1][0] >= second:
                second, before = self._received.pop()
                count += before
            self._received.append((second, count))
