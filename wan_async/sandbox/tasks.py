"""A simulated task: its stages, status and cost at any time.

Durations and faults are fixed when the task is created; `now` (unix seconds) is an argument of every method.
"""

from __future__ import annotations

from dataclasses import dataclass

STAGES = (
    "task_queue",
    "task_accept",
    "task_preprocess_start",
    "task_preprocess_end",
    "task_assign",
    "task_start",
    "task_output",
    "task_output_full",
    "task_end",
    "task_postprocess_start",
    "task_postprocess_end",
)
_SHARES = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.9, 0.93, 0.95, 1.0)
"""Start of each stage as a fraction of the task's duration."""
RENDERING = STAGES.index("task_output_full")
PROJECT_ID = "699"
"""Id of the sandbox's own project."""


@dataclass(slots=True)
class Task:
    """A task. Times are unix seconds, durations are seconds, prices are micro-dollars.

    The field names are also the keys under which the database stores a task.

    Attributes:
        parameters: the form fields of its Run, with the defaults of those that were not given.
        image: SHA-256 of its input image.
        seconds: planned duration from its queueing to its end.
        pexit: exit code of the render, `0` for success.
        cancelled: when it was cancelled or killed.
        held: its clip is being rendered elsewhere; it does not end before `Account.release`.
        ready: when its clip was delivered.
        billed: its end was accounted for.
        size: bytes of its clip.
        shown_size: size announced by the API instead of `size`.
        deleted: its inputs and outputs were deleted.
        called_back: its end was posted to its callback URL.
        log: error output of the render.
        project: API key of the project that created it; empty for the sandbox's own.
        project_id: id of the project that it is billed to.
        again: number of earlier tasks with the same id.
        error_seconds: how long it shows `task_error` before it is queued again; `inf` for ever.
        outputs_after: delay from its end to its outputs (and its exit code, if `pexit_lags`).
        files_after: delay from its end until the CDN serves its files.
        kept: it was killed, but shows an exit code, outputs and a cost.
        charge_at: when it is charged although it was cancelled; `charged` afterwards.
    """

    id: str
    token: str
    parameters: dict[str, str]
    image: str | None
    created: float
    seconds: float
    price: int
    pexit: str = "0"
    cancelled: float | None = None
    held: bool = False
    ready: float | None = None
    billed: bool = False
    size: int = 0
    shown_size: int | None = None
    deleted: bool = False
    called_back: bool = False
    log: str = ""
    project: str = ""
    project_id: str = PROJECT_ID
    again: int = 0
    error_seconds: float = 0.0
    outputs_after: float = 0.0
    pexit_lags: bool = False
    files_after: float = 0.0
    kept: bool = False
    charge_at: float | None = None
    charged: bool = False

    @property
    def key(self) -> str:
        """Unique key: its id, with a suffix if ids were restarted."""
        return f"{self.id}-{self.again}" if self.again else self.id

    @property
    def queued(self) -> float:
        """When it is queued for execution."""
        return self.created + self.error_seconds

    @property
    def end(self) -> float:
        """When it ends, unless it waits for its clip."""
        if self.cancelled is not None:
            return self.cancelled
        planned = self.queued + self.seconds
        return planned if self.ready is None else max(planned, self.ready)

    def stage(self, now: float) -> int:
        """Index of the stage that it has reached; for a cancelled task, of the last stage before."""
        if self.cancelled is not None:
            now = min(now, self.cancelled)
        if self.cancelled is None and not self.held and now >= self.end:
            return len(STAGES) - 1
        if now < self.queued:
            return 0
        share = (now - self.queued) / self.seconds if self.seconds else 1.0
        share = min(share, _SHARES[RENDERING]) if self.held else share
        return max(place for place in range(len(STAGES) - 1) if _SHARES[place] <= share or place == 0)

    def status(self, now: float) -> str:
        """Status as Task/Detail shows it."""
        if self.cancelled is not None and now >= self.cancelled:
            return "task_cancel"
        return "task_error" if self.is_in_error(now) else STAGES[self.stage(now)]

    def is_in_error(self, now: float) -> bool:
        """Whether it shows `task_error` and waits to be queued again."""
        return self.error_seconds > 0 and now < self.queued

    def is_over(self, now: float) -> bool:
        """Whether it has reached a terminal status."""
        return not (self.held and self.cancelled is None) and now >= self.end

    def succeeded(self, now: float) -> bool:
        """Whether it has succeeded and is charged."""
        return self.is_over(now) and (self.cancelled is None or self.kept) and self.pexit == "0"

    def cost(self, now: float) -> int:
        """Amount charged for it so far, in micro-dollars."""
        late = self.charge_at is not None and now >= self.charge_at
        return self.price if late or self.succeeded(now) else 0

    def begins(self, stage: int) -> float:
        """Start of a stage (not the last) in unix seconds."""
        return self.queued + self.seconds * _SHARES[stage]

    def hold(self) -> None:
        """Keep it from ending until its clip is delivered, see `Account.release`."""
        self.held = True

    def fail(self, log: str) -> None:
        """Let it end with exit code 1 and this error output."""
        self.pexit, self.log = "1", log

    def set_clip(self, size: int, shown_size: int | None) -> None:
        """Record the size of its clip in bytes, and the size to announce if that is another."""
        self.size = size
        self.shown_size = self.shown_size if shown_size is None else shown_size

    def set_image_url(self, path: str) -> None:
        """Record where the image that was sent with its Run is served."""
        self.parameters = self.parameters | {"inputImage": path}

    def mark_deleted(self) -> None:
        """Record that its inputs and outputs were deleted."""
        self.deleted = True

    def mark_called_back(self) -> None:
        """Record that its end was posted to its callback URL."""
        self.called_back = True
