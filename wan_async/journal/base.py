"""The journal's protocol: the durable record of attempts, and what a run has learned about the account.

A journal guarantees:

- A method that changes something returns once the change is durable, or raises; then nothing was changed.
- `wan_async.domain.lifecycle` decides which transitions of an attempt are possible; any other raises `Unusable`.
- An `Attempt` in memory follows its row: its attributes change after the commit, never before.
- At most one attempt of a content is unanswered (`lifecycle.UNANSWERED`), and a task has at most one attempt.
- Money is counted in the same commit as the attempt that it belongs to.

`tests/journal/test_conformance.py` holds the behaviour that every implementation must show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from wan_async.domain.attempt import Account, Attempt, Clip, Money, Unassigned
from wan_async.domain.batch import Enlisted
from wan_async.domain.lifecycle import State
from wan_async.domain.remote_task import TaskDetail

FOLDER = ".wan_async"
FILE = "journal.sqlite3"

STALE = "stale"
"""The fact that makes a journal `Metadata.stale`."""
PREPARES = "prepares"
"""The fact (`Metadata.remember`) that runs of this folder upload upright copies of images that need it."""


@dataclass(frozen=True, slots=True)
class DatabaseHome:
    """Where a journal in PostgreSQL is kept.

    Attributes:
        dsn: the database, as libpq names it (`postgresql://...`); it may hold a password.
        output: the output folder or store that the journal is of.
    """

    dsn: str = field(repr=False)
    output: str

    def __str__(self) -> str:
        return f"the journal of {self.output} in PostgreSQL"


Home = Path | DatabaseHome
"""Where a journal is kept: a folder that holds it and nothing else, or a database."""


class OverBudget(Exception):
    """The intent would have exceeded the budget; it was not written."""


class ContentLocked(Exception):
    """Another attempt of the same content is unanswered; the intent was not written, and Run must not be sent."""


class NoSlot(Exception):
    """Several workers share the account's limit, and no slot is free; the intent was not written."""


class NameTaken(Exception):
    """Another job of this folder owns the output name."""


class TaskTaken(Exception):
    """Another attempt of this journal owns the task's id or token; nothing was written."""


def folders_of(home: Path) -> list[Path]:
    """The folders that a journal's home consists of, from `FOLDER` on."""
    parts = [home, *home.parents]
    names = [folder.name for folder in parts]
    return parts[: names.index(FOLDER) + 1] if FOLDER in names else parts[:1]


class Metadata(Protocol):
    """What a journal remembers about its account, the service and the images.

    Attributes:
        stale: whether the journal may be older than its folder, and the tasks that it may lack were not looked for
            since; `none_unowned` clears it.
    """

    stale: bool

    async def rotated(self, account: Account) -> bool:
        """Whether the journal has attempts, and the last API key that was accepted is not the account's."""

    async def accept_key(self, account: Account, at: float) -> None:
        """Records the account's key as one of the same account. Its project may be another.

        Args:
            account: the account whose key was proven.
            at: unix seconds.
        """

    async def key_since(self) -> float:
        """Unix seconds since when this key is used: earlier attempts may be of another project. 0 if always."""

    async def projects(self) -> set[str]:
        """Ids of the projects that this key's own tasks belonged to."""

    async def project_seen(self, project: str) -> None:
        """Records the project of an own task."""

    async def upload_of(self, sha256: str, since: float) -> str | None:
        """The URL of an image that was uploaded after `since` (unix seconds); None if there is none."""

    async def upload_urls(self) -> dict[str, str]:
        """The URL of every uploaded image, by its sha256."""

    async def uploaded(self, sha256: str, url: str, at: float) -> None:
        """Records the URL of an image that was uploaded at `at` (unix seconds)."""

    async def forget_upload(self, sha256: str) -> None:
        """Makes the next run upload the image again."""

    async def hashed(self, images: Mapping[str, tuple[int, int, str]]) -> None:
        """Records hashes of images, by path: (size in bytes, mtime in nanoseconds, sha256)."""

    async def echoes(self) -> dict[str, bool]:
        """Fields that the service was seen to echo, and whether it always did so verbatim."""

    async def echoed(self, seen: Mapping[str, bool]) -> None:
        """Records how fields of an own task were echoed; one that came back changed is never trusted again."""

    async def remembers(self, name: str) -> bool:
        """Whether `remember` was last called to record this fact, and not to drop it."""

    async def remember(self, name: str, *, holds: bool = True) -> None:
        """Records a fact about the account or the folder for later runs; one that no longer holds is dropped."""

    async def identity(self) -> str:
        """A random name of this journal, the same at every call; an object store remembers whose its clips are."""

    async def is_new(self) -> bool:
        """Whether no run opened the journal before, so that it can't have lost anything."""

    async def complete_to(self) -> int:
        """The task id up to which the journal knows every task that a run of its folder created.

        Ids sort, and an intent is written before its Run is sent: of a task with a lower id than the highest known one
        the journal has at least the intent, even if its later changes were lost.
        """

    async def begins_at(self, task_id: int) -> None:
        """Records, for a new journal, that no task up to this id belongs to it."""

    async def unowned_since(self, task_id: int) -> None:
        """Records that tasks above this id may belong to it without an attempt: later runs look for them, too."""

    async def none_unowned(self) -> None:
        """Records that no task that belongs to it lacks its attempt, as far as can be told."""


class Journal(Metadata, Protocol):
    """The durable record of attempts.

    Attributes:
        home: where it is kept.
    """

    home: Home

    async def money(self) -> Money:
        """Settled and reserved amounts over the journal's lifetime."""

    async def enroll(self, jobs: Sequence[Enlisted], specs: Iterable[str]) -> None:
        """Records the batch as it is now. Jobs that it no longer names keep their attempts.

        A new key whose content has a recoverable attempt under a key that the batch no longer names takes that over.

        Args:
            jobs: all of them, in batch order.
            specs: a JSON text a job: what `status` and the gallery show of it.
        """

    async def todo(self, *, retry_failed: bool, rerender: bool) -> list[str]:
        """Keys of the batch's jobs that have no recoverable attempt and are to be submitted, in batch order.

        Args:
            retry_failed: also those that failed for good, were billed for a failure, or were cancelled.
            rerender: also those whose paid clip is missing, or was given up.
        """

    async def counts(self) -> Counter[str]:
        """The number of the batch's jobs in each state."""

    async def job_failed(self, job: str, kind: str, message: str, *, sticky: bool) -> None:
        """Records the failure of a job; a sticky one is not retried unless asked."""

    async def jobs_called(self, name: str) -> list[str]:
        """Keys of jobs by their key, else by their label, else by their output name, whether or not in the batch."""

    async def claim(self, job: str, folded: str, name: str) -> None:
        """Makes the job the owner of an output name. One that the batch no longer names loses it.

        Args:
            job: the job's key.
            folded: the name after NFC and casefold.
            name: the name.

        Raises:
            NameTaken: another job of the batch owns it.
        """

    async def owner_of(self, folded: str) -> str | None:
        """The key of the job that owns an output name; None if none does."""

    async def open_attempts(self) -> list[Attempt]:
        """Every open attempt, oldest first, whether or not the batch names its job."""

    async def unanswered(self) -> list[Attempt]:
        """Attempts whose Run has no answer yet and whose outcome is still to be determined, oldest first."""

    async def to_recheck(self) -> list[Attempt]:
        """Cancelled attempts whose charge or outputs may still appear, oldest first."""

    async def stored_attempts(self, after: int = 0, limit: int = -1) -> list[tuple[Attempt, list[Clip]]]:
        """The stored clips of the batch's jobs, by attempt id.

        Args:
            after: only attempts with a higher id.
            limit: the most attempts that are returned; all by default.
        """

    async def holders(self) -> dict[str, str]:
        """For each content with a stored or other recoverable attempt, the job that has it: a stored one first."""

    async def jobs_with_clips(self) -> set[str]:
        """The keys of the jobs that have a stored attempt, whatever its content."""

    async def stored_at(self, job: str, content: str) -> tuple[Attempt, list[Clip]] | None:
        """The latest stored attempt of a job at a content, with its clips."""

    async def share(self, attempt: Attempt, clips: Sequence[Clip], at: float) -> None:
        """Records that a job has the clip of another job of the same content: an attempt, stored at once, free.

        Args:
            attempt: a new attempt, without task and cost.
            clips: its files.
            at: unix seconds.
        """

    async def unshared(self, attempt: Attempt) -> None:
        """Forgets an attempt that `share` recorded: its file is gone, and can be shared again."""

    async def has_another(self, attempt: Attempt, *, or_missing: bool) -> bool:
        """Whether another attempt at the same job and content is recoverable, so that none is to be made.

        Args:
            attempt: the attempt that is not asked about.
            or_missing: whether one that is missing counts.
        """

    async def contents(self) -> list[tuple[dict[str, str], str]]:
        """Parameters and image of every content that was ever sent."""

    async def dearest(self, fields: Sequence[str]) -> dict[tuple[str, ...], int]:
        """The highest cost of a task, in micro-dollars, by the values that `fields` of its form have."""

    async def latest_tasks(self) -> list[str]:
        """Ids of a few tasks, newest first."""

    async def owned(self) -> list[tuple[str | None, str | None]]:
        """Id and token of every task that an attempt owns, as far as they are known."""

    async def token_of(self, task_id: str) -> str | None:
        """The token of the attempt that owns a task id; None if none does, or none is known."""

    async def intent(self, attempt: Attempt, *, cap: int | None) -> None:
        """Records the intent to pay, before Run is sent. A new attempt gets its id and number.

        Args:
            attempt: a new attempt, or one that was rejected and is submitted again in its own row.
            cap: the budget in micro-dollars; None for none.

        Raises:
            OverBudget: settled, reserved and this one together exceed the cap.
            ContentLocked: another attempt of its content is unanswered.
            NoSlot: the account's limit, which several workers share, allows no further task now.
            Unusable: the row could not be made durable, or its state does not allow it: Run must not be sent.
        """

    async def adopt(self, attempt: Attempt, task_id: str, token: str | None, answer: bytes, at: float) -> None:
        """Records a task that exists already as a new attempt, `accepted` at once: no Run is sent for it.

        Args:
            attempt: a new attempt.
            task_id: the task's id.
            token: its token, if known.
            answer: what the service said of it.
            at: unix seconds.

        Raises:
            TaskTaken: another attempt owns the id or the token.
            Unusable: the row could not be made durable.
        """

    async def accepted(
        self, attempt: Attempt, task_id: str | None, token: str | None, answer: bytes, at: float, *, adopted: bool
    ) -> None:
        """Records Run's raw answer, before anything else looks at it.

        Args:
            attempt: the attempt.
            task_id: the task's id, if known.
            token: its token, if known.
            answer: the answer's body.
            at: unix seconds.
            adopted: whether the task was found afterwards, and not named by Run's own answer.

        Raises:
            TaskTaken: another attempt owns the id or the token.
            Unusable: the row could not be made durable.
        """

    async def rejected(self, attempt: Attempt, reason: str, *, at_limit: bool = False) -> None:
        """Records that the service refused Run: no task exists, and the reservation is released.

        Args:
            attempt: the attempt.
            reason: why.
            at_limit: whether the account's limit was the reason, which a journal of several workers tells all of them.
        """

    async def unknown(self, attempt: Attempt, reason: str, at: float) -> None:
        """Records that Run was sent and got no answer; its connection was closed at `at` (unix seconds)."""

    async def absent(self, attempt: Attempt) -> None:
        """Records that the unanswered Run provably created no task; the reservation is released."""

    async def quarantined(
        self, attempt: Attempt, reason: str, candidates: Sequence[TaskDetail] = (), at: float = 0.0
    ) -> None:
        """Records that whether the unanswered Run created a task can't be determined: it counts as spent.

        Args:
            attempt: the attempt.
            reason: why it can't be determined.
            candidates: tasks with an id that may be its own; recorded in the same commit (see `unassigned_clips`).
            at: unix seconds.
        """

    async def abandoned(self, attempt: Attempt) -> None:
        """Records that the user has the job submitted again; this attempt still counts as spent."""

    async def found(self, attempt: Attempt) -> None:
        """Records that the task of a missing attempt is available again, and runs."""

    async def ended(
        self,
        attempt: Attempt,
        *,
        task_id: str | None,
        status: str,
        pexit: str | None,
        cost: int,
        outputs: Sequence[tuple[str, int | None, str]],
        reason: str | None,
        at: float,
    ) -> None:
        """Records the end of the task and settles its cost.

        Args:
            attempt: the attempt.
            task_id: the task's id.
            status: its status.
            pexit: its exit code.
            cost: micro-dollars.
            outputs: (content type, announced bytes, URL) each.
            reason: why it failed, if it did.
            at: unix seconds.

        Raises:
            TaskTaken: another attempt owns the id.
        """

    async def closed(self, attempt: Attempt, state: State, reason: str) -> None:
        """Records that the attempt has no clip.

        Its cost stays settled; that of a missing one stays reserved until it is known. A cancelled one is to be
        rechecked, since its charge or its outputs may appear late (WIRO_API 4).
        """

    async def rechecked(self, attempt: Attempt, cost: int, *, again: bool) -> None:
        """Records the cost (micro-dollars) of a cancelled task, and whether the next run asks for it again."""

    async def reopened(self, attempt: Attempt) -> None:
        """Records that a file of a stored attempt is gone: it is to be downloaded again."""

    async def stored(self, attempt: Attempt, at: float) -> None:
        """Records that every file of the attempt, and its sidecar, are durable under their names."""

    async def clips(self, attempt: Attempt) -> list[Clip]:
        """The attempt's files, as far as they are known."""

    async def part(self, attempt: Attempt, number: int, file: str, etag: str) -> None:
        """Records the start of a download, and the strong ETag with which its part may be resumed."""

    async def checked(self, attempt: Attempt, clip: Clip) -> None:
        """Records the hash of a part that is complete, valid and durable, before it is published."""

    async def renamed(self, old: str, new: str) -> None:
        """Records the new name of an earlier attempt's file."""

    async def file_known(self, file: str) -> int | None:
        """The id of the attempt whose file it is; None if there is none."""

    async def present_take(self, one: int, other: int) -> int:
        """Which of two attempts has more right to the plain name: at the present content of its job, else the later."""

    async def hash_of(self, file: str) -> str | None:
        """The SHA-256 of a file that an attempt has, in hex; None if none has it, or its bytes are not known."""

    async def unassigned(self) -> list[Unassigned]:
        """Tasks that may be those of quarantined attempts, oldest first; also those that an attempt owns by now."""

    async def unassigned_changed(self, row: Unassigned, **columns: Any) -> None:
        """Records new facts of an unassigned task: its `state`, `task`, `ended_at`, `clips` or `reason`."""

    async def unassigned_gone(self, row: Unassigned) -> None:
        """Drops an unassigned task whose owner has stored its clip."""

    async def candidates(self) -> set[str]:
        """Ids of tasks that may be those of quarantined attempts."""

    async def assignable(self, job: str, task_id: str) -> Attempt | None:
        """The attempt at a job that a task may be assigned to, or was: the latest that it is a candidate of."""
