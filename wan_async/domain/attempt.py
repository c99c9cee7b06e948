"""Records of the journal: attempts, clips, unassigned tasks, amounts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wan_async.domain.lifecycle import State
from wan_async.domain.task import Task


@dataclass(frozen=True, slots=True)
class Account:
    """The account that a journal belongs to: the API's origin and the API key, of which only a keyed hash is stored."""

    origin: str
    key: str = field(repr=False)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt at a job, as its row stands. Amounts are micro-dollars, times unix seconds.

    Attributes:
        form: all parameters exactly as they are sent, by their names on the wire.
        image: the image's identity in the content: `sha256:...`, `url:...`, or empty.
        high_id: the highest task id known when the intent was committed.
        closed_at: when the connection of an unanswered Run was closed.
        outputs: the outputs of the ended task: (content type, announced size, URL).
        recheck: whether a cancelled task is requested once more, since its charge may appear late.
    """

    id: int = 0
    job: str
    number: int = 0
    content: str
    state: State = "rejected"
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
    """A task that may be a quarantined attempt's, as its row stands.

    Attributes:
        state: `running` until it is known to have ended, `ended` until its outputs are on disk.
        task: what the service said of it last.
        seen_at: when it was recorded, in unix seconds; `ended_at`: when its end was seen.
        clips: its files, as far as they are known, by number.
        reason: why it has no file, or none yet.
        owner: the state of the attempt that owns it by now, None if none does.
        jobs: keys of the jobs that it may belong to.
        assignable: those of them whose attempt is still quarantined.
    """

    task_id: str
    token: str | None = field(repr=False)
    state: Literal["running", "ended", "stored", "failed", "cancelled"]
    task: Task
    seen_at: float
    ended_at: float | None
    clips: list[Clip]
    reason: str | None
    owner: str | None
    jobs: list[str]
    assignable: list[str]

    @property
    def outputs(self) -> list[tuple[str, int | None, str]]:
        """What the task offers: (content type, announced bytes, URL)."""
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
    """Micro-dollars that the journal's attempts have cost, and those reserved for attempts that aren't settled."""

    settled: int
    reserved: int
