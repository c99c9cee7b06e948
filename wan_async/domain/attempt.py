"""Records of the journal: accounts, attempts, clips, unassigned tasks, money."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wan_async.domain.lifecycle import State
from wan_async.domain.remote_task import TaskDetail


@dataclass(frozen=True, slots=True)
class Account:
    """The account that a journal belongs to: the API's origin, and a key of which only a keyed hash is stored."""

    origin: str
    key: str = field(repr=False)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One paid attempt at a job: a row of the journal. Amounts are micro-dollars, times unix seconds.

    Attributes:
        form: the parameters exactly as they are sent.
        image: the image's identity in the content: `sha256:...`, `url:...`, or empty.
        high_id: the highest task id that was known when the intent was written.
        closed_at: when the connection of an unanswered Run was certainly closed.
        outputs: the outputs of the ended task, as (content type, announced size, URL).
        recheck: whether a cancelled task is to be asked for again, since its charge may appear late.
    """

    id: int = 0
    job: str
    number: int = 0
    content: str
    state: State = State.REJECTED
    form: dict[str, str]
    image: str
    name: str
    reserved: int = 0
    cost: int | None = None
    high_id: int = 0
    intent_at: float = 0.0
    closed_at: float | None = None
    accepted_at: float | None = None
    ended_at: float | None = None
    task_id: str | None = None
    token: str | None = field(default=None, repr=False)
    adopted: bool = False
    status: str | None = None
    pexit: str | None = None
    outputs: list[tuple[str, int | None, str]] = field(default_factory=list, repr=False)
    reason: str | None = None
    recheck: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether it has no task: its clip is that of another job with the same content."""
        return self.state is State.STORED and not (self.task_id or self.token)


@dataclass(frozen=True, slots=True)
class Clip:
    """A file of an attempt: `file` is relative to the output folder; `sha256` is set once the bytes are durable."""

    number: int
    file: str
    etag: str
    sha256: str | None
    bytes: int | None
    content_type: str | None


@dataclass(slots=True, kw_only=True)
class Unassigned:
    """A task that may be that of a quarantined attempt: a row of the journal.

    Attributes:
        state: `running` until it is known to have ended, `ended` until its outputs are on disk.
        task: the service's latest description of it.
        seen_at: when it was recorded, in unix seconds; `ended_at`: when its end was seen.
        clips: its known files, by number.
        reason: why it has no file, or none yet.
        owner: the state of the attempt that owns it by now, None if none does.
        jobs: keys of the jobs that it may belong to.
        assignable: those of them whose attempt is still quarantined.
    """

    task_id: str
    token: str | None = field(repr=False)
    state: Literal["running", "ended", "stored", "failed", "cancelled"]
    task: TaskDetail
    seen_at: float
    ended_at: float | None
    clips: list[Clip]
    reason: str | None
    owner: str | None
    jobs: list[str]
    assignable: list[str]

    @property
    def outputs(self) -> list[tuple[str, int | None, str]]:
        """The task's outputs: (content type, announced bytes, URL)."""
        return [(output.contenttype, output.size, output.url) for output in self.task.outputs if output.url]

    @property
    def pending(self) -> bool:
        """Whether it is to be tracked or fetched."""
        return self.state in ("running", "ended") and self.owner is None and bool(self.jobs)

    @property
    def shown(self) -> bool:
        """Whether it is shown to people: no attempt owns it, and it may be a job's or is on disk."""
        return self.owner is None and (bool(self.jobs) or self.state == "stored")


@dataclass(frozen=True, slots=True)
class Money:
    """What the journal's attempts cost, and what is reserved for those that are not settled; micro-dollars."""

    settled: int
    reserved: int
