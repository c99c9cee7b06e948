"""A remote task, as the service describes it."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, NewType

from pydantic import BeforeValidator, Field, ValidatorFunctionWrapHandler, WrapValidator

from wan_async.domain.fields import Count, MaybeText, Micros, Number, Text, WireModel, read_mapping, read_sequence


def why_it_failed(task: TaskDetail, what: str) -> str:
    """`what` with the exit code, and the end of the task's error output, else of its log."""
    said = " ".join((task.debugerror or task.debugoutput).split())[-300:]
    exit_code = f" with exit code {task.pexit}" if task.pexit not in (None, "0") else ""
    return f"{what}{exit_code}{': ' + said if said else ''}"


def outputs_of(task: TaskDetail) -> list[tuple[str, int | None, str]]:
    """The outputs of an ended task that have a URL: (content type, announced bytes, URL)."""
    return [(output.contenttype, output.size, output.url) for output in task.outputs if output.url]


TaskId = NewType("TaskId", str)


class TaskToken(str):
    """The secret that grants access to a task. Its repr hides it, so that tracebacks with local variables do, too."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "TaskToken('***')"


class Output(WireModel):
    """An output file of a task.

    Attributes:
        name: the server's name for it; never used as a path.
        size: the announced length in bytes, None if none was announced.
    """

    id: Text = ""
    name: Text = ""
    contenttype: Text = ""
    size: Count = None
    url: Text = ""


class TaskDetail(WireModel):
    """A remote task as Task/Detail, List, Cancel and Kill show it. Times are unix seconds, 0 or None = not yet.

    Attributes:
        id: the task's number, as text.
        socketaccesstoken: the token that grants access to the task; a secret.
        parameters: the request's parameters as the service echoes them; may be empty or rewritten.
        pexit: the exit code of the process, None if absent.
        totalcost: what it cost, in micro-dollars.
        projectid: the project that it is billed to, None if it isn't shown.
    """

    __slots__ = ("_sent",)

    id: Text = ""
    uuid: Text = ""
    socketaccesstoken: Text = Field(default="", repr=False)
    parameters: Annotated[dict[str, object], BeforeValidator(read_mapping)] = Field(default_factory=dict)
    status: Text = ""
    pexit: MaybeText = None
    debugoutput: Text = ""
    debugerror: Text = ""
    createtime: Number = None
    starttime: Number = None
    endtime: Number = None
    elapsedseconds: Number = None
    cps: Micros = None
    totalcost: Micros = None
    projectid: MaybeText = None
    outputs: Annotated[list[Output], BeforeValidator(read_sequence)] = Field(default_factory=list)

    @property
    def raw(self) -> dict[str, object]:
        """The task as the service sent it, before its values were read; fields that are not known here included.

        It contains the token, which its repr hides.
        """
        sent: dict[str, object] | None = getattr(self, "_sent", None)
        shown = self.model_dump(exclude_unset=True) if sent is None else sent
        return {name: _hide(value, self.socketaccesstoken) for name, value in shown.items()}


def _hide(value: object, token: str) -> object:
    """A copy of a JSON value in which the repr of the token hides it."""
    match value:
        case str():
            return TaskToken(value) if token and value == token else value
        case dict():
            return {name: _hide(each, token) for name, each in value.items()}
        case list():
            return [_hide(each, token) for each in value]
    return value


def _keep_sent(value: object, validate: ValidatorFunctionWrapHandler) -> list[TaskDetail]:
    """Read the tasks of an answer; each keeps the object that it was read from, which costs no second parsing."""
    sent = read_sequence(value)
    tasks: list[TaskDetail] = validate(sent)
    for task, each in zip(tasks, sent, strict=True):
        object.__setattr__(task, "_sent", each)
    return tasks


TaskList = Annotated[list[TaskDetail], WrapValidator(_keep_sent)]
"""The tasks of an answer, as a field."""


class Ending(Enum):
    """How a task ended according to Task/Detail. `UNDECIDED`: it ended, but shows neither exit code nor outputs yet."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNDECIDED = "undecided"


TASK_ERROR = "task_error"
"""A failure before execution that awaits recovery or a requeue. It is not terminal (WIRO_API 4)."""


def ending(task: TaskDetail) -> Ending | None:
    """How the task ended; None while it runs. Unknown statuses count as running.

    `task_end` is not terminal: outputs exist only at `task_postprocess_end`. Nor is `task_error` (WIRO_API 4).
    """
    match task.status:
        case "task_postprocess_end":
            if task.pexit is None:  # exit code and outputs may lag behind the status
                return Ending.SUCCEEDED if task.outputs else Ending.UNDECIDED
            return Ending.SUCCEEDED if task.pexit == "0" else Ending.FAILED
        case "task_cancel":
            return Ending.CANCELLED
    return None
