"""Schemas of answers: the envelope, its errors, and uploaded files."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from wan_async.domain.fields import Count, MaybeText, Text, Truth, WireModel, parse_json_text, read_sequence, read_text
from wan_async.domain.prices import Tool
from wan_async.domain.remote_task import TaskList


class Fault(WireModel):
    """An entry of `errors`: older answers have plain strings there."""

    code: Count = None
    message: Text = ""


def _faults(value: object) -> object:
    value = parse_json_text(value)
    items = value if isinstance(value, list) else [] if value is None else [value]
    return [item if isinstance(item, dict) else {"code": 0, "message": read_text(item)} for item in items]


class UploadedFile(WireModel):
    """A file that File/Upload took; its `url` then serves as a job's image."""

    id: Text = ""
    name: Text = ""
    contenttype: Text = ""
    size: Count = None
    url: Text = ""


class Answer(WireModel):
    """Any answer of the API: the envelope, and whichever payload it has."""

    result: Truth = None
    errors: Annotated[list[Fault], BeforeValidator(_faults)] = Field(default_factory=list)
    taskid: MaybeText = None
    socketaccesstoken: MaybeText = Field(default=None, repr=False)
    total: Count = None
    tasklist: TaskList = Field(default_factory=list)
    files: Annotated[list[UploadedFile], BeforeValidator(read_sequence)] = Field(default_factory=list, alias="list")
    tool: Annotated[list[Tool], BeforeValidator(read_sequence)] = Field(default_factory=list)

    @property
    def code(self) -> int | None:
        """The decisive error code: the first that isn't 0, else the first, else None."""
        codes = [fault.code or 0 for fault in self.errors]
        return next((code for code in codes if code), codes[0] if codes else None)

    @property
    def has_envelope(self) -> bool:
        """Whether it has the service's envelope: JSON without `result` may come from a proxy."""
        return self.result is not None

    @property
    def message(self) -> str:
        """The service's messages, at most 500 characters."""
        return "; ".join(fault.message for fault in self.errors if fault.message)[:500]
