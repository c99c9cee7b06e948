"""The exception tree, named by what the caller must do.

    WanError
    ├── JobFailed      this job alone can't be done; the others go on
    │   ├── NotFound   the service knows no such task (a fresh one may lag for a few seconds)
    │   │   └── NoSuchAddress   nor such an endpoint or model: no evidence about tasks
    │   ├── UploadRefused   the service takes no uploads: send the image inside Run
    │   └── Missing    its task or its clip is not available now: a later run asks again
    ├── TryLater       nothing came of it: wait `after_seconds`, then ask again
    ├── AtLimit        error 96: wait for a running task to end, then ask again
    ├── OutOfFunds     error 97: submit no more, let what runs finish
    ├── StopBatch      every job would fail the same way (credentials, model not accessible)
    ├── Ambiguous      Run was sent and not answered: a task may exist, never repeat it blindly
    ├── Closed         the client was closed while the call waited; its task, if it has one, goes on
    ├── TimedOut       the call's time is up; its task, if it has one, goes on unless it was to be cancelled
    ├── BatchFailed    jobs of a batch have no clip: see its result
    ├── InvalidBatch   the batch, a flag or a setting is wrong: nothing was spent
    └── Unusable       the environment is (other account, disk, journal, network): fix it and run again
        ├── Locked     another process works on the folder: wait for it
        └── LeaseLost  another process has taken over what this one worked on: stop, nothing was changed

Whatever a foreign library raises is translated into one of these once, at the edge of the module that meets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wan_async.task_handles import Task


class WanError(Exception):
    """The root of every error that this package raises on purpose.

    Attributes:
        job: the key of the job it is about, if it is about one.
        task_id: the remote task it is about, if there is one.
        task: that task as `WanClient` takes it, where a call of the client raised the error after Run.
    """

    def __init__(self, message: str, *, job: str | None = None, task_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.job = job
        self.task_id = task_id
        self.task: Task | None = None

    def __str__(self) -> str:
        about = [f"job {self.job}"] if self.job else []
        about += [f"task {self.task_id}"] if self.task_id else []
        return f"{self.message} [{', '.join(about)}]" if about else self.message


class JobFailed(WanError):
    """This job can't be done; its neighbours are not concerned.

    Attributes:
        kind: a short, stable word for machines (`refused`, `render`, `image`, `download`, ...).
        billed_micros: what it cost nevertheless, in millionths of a US dollar.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "refused",
        billed_micros: int = 0,
        job: str | None = None,
        task_id: str | None = None,
    ) -> None:
        super().__init__(message, job=job, task_id=task_id)
        self.kind = kind
        self.billed_micros = billed_micros


class NotFound(JobFailed):
    """The service knows no such task. Right after Run this may be a lag of a few seconds (WIRO_API 7)."""


class NoSuchAddress(NotFound):
    """The service knows no such endpoint or model: no evidence about tasks."""


class UploadRefused(JobFailed):
    """The service refuses the upload itself, not for a passing reason: the image can travel inside Run."""


class Missing(JobFailed):
    """The task, or its output, is not available now. It may have been paid for: every later run asks for it again."""


class TryLater(WanError):
    """Nothing came of the request; it may be repeated after a while.

    Attributes:
        after_seconds: how long the service asked to wait, or None if it named no time.
        status: the HTTP status that said so, or None if no answer came at all.
        said: the service's own words, where it answered with its envelope and named no reason that is known.
        sent: False only where it is certain that the request never left this machine.
        hopeless: True where only a change of configuration can help (certificate, proxy).
    """

    def __init__(
        self,
        message: str,
        *,
        after_seconds: float | None = None,
        status: int | None = None,
        said: str = "",
        sent: bool = True,
        hopeless: bool = False,
        job: str | None = None,
        task_id: str | None = None,
    ) -> None:
        super().__init__(message, job=job, task_id=task_id)
        self.after_seconds = after_seconds
        self.status = status
        self.said = said
        self.sent = sent
        self.hopeless = hopeless


class AtLimit(WanError):
    """Error 96: the account runs as many tasks as its balance allows. Not a failure."""


class OutOfFunds(WanError):
    """Error 97: the balance can't pay for another task."""


class StopBatch(WanError):
    """Every job of the batch would fail the same way.

    Attributes:
        authentication: whether the credentials are the reason (exit code 4).
        nonce: whether another process with this key may just have used the same nonce.
    """

    def __init__(self, message: str, *, authentication: bool = False, nonce: bool = False) -> None:
        super().__init__(message)
        self.authentication = authentication
        self.nonce = nonce


class Ambiguous(WanError):
    """A Run left this machine and no usable answer came back: a task may exist, and may be billed.

    Attributes:
        parameters: what was sent, to look for in Task/List before anything is sent again; see `WanClient.find`.
        image: the identity of the image that was sent along, `sha256:...`; empty if there was none.
        sent_at: when Run was sent, in unix seconds; None if that is not known.
        high_id: the highest task id that was known then; None if the task list could not be read.
        proofs: after how many proven absences in a row, each after this same answer, it is a refusal.
    """

    def __init__(
        self, message: str, *, parameters: dict[str, str] | None = None, proofs: int = 20, job: str | None = None
    ) -> None:
        super().__init__(message, job=job)
        self.parameters: dict[str, str] = parameters or {}
        self.image = ""
        self.sent_at: float | None = None
        self.high_id: int | None = None
        self.proofs = proofs


class Closed(WanError):
    """The client was closed. `task` is what the call had submitted or waited for; it goes on remotely."""


class TimedOut(WanError, TimeoutError):
    """The time that the call was given is up. Without a `task`, certainly none was submitted."""


class BatchFailed(WanError):
    """Jobs of a batch have no clip."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a batch.

    Attributes:
        where: `file:line:column`, or what there is of it.
        message: what is wrong and what would be right.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class InvalidBatch(WanError):
    """The batch can't be run as it is; nothing was spent.

    Attributes:
        problems: all of them, in the order of the file.
        hint: what helps against all of them, in words; may be empty.
    """

    def __init__(self, problems: Sequence[Problem], hint: str = "") -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.hint: str = hint


class Unusable(WanError):
    """The surroundings don't allow a run: a lock, another account, the disk, the journal, no network."""


class Locked(Unusable):
    """Another process works on the folder."""


class LeaseLost(Unusable):
    """Another process has taken over what this one worked on; nothing was changed, and nothing may be submitted."""
