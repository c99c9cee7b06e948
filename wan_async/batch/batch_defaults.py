"""What a batch says about all of its jobs: its output, its names, its model and its defaults."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from wan_async.batch.field_names import FieldNames, braces_hint
from wan_async.batch.output_path import fault_of_output
from wan_async.batch.prompts import Prompts
from wan_async.batch.row_problems import RowProblems
from wan_async.batch.schema import ENVELOPE
from wan_async.batch.syntax import Path, Report
from wan_async.domain.batch import Namer
from wan_async.domain.model import Model
from wan_async.domain.text import shown, suggestion
from wan_async.domain.validation import fault_of_text

SET = "--set"
Defaults = Collection[tuple[str, str]]
"""Names and values of parameters, from the command line."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class BatchDefaults:
    """Interprets what is around the jobs.

    Args:
        model: the jobs' model.
        names: the names of fields.
        prompts: checks the texts among the defaults.

    Attributes:
        namer: names the clips.
        output: the output folder as written; None if there is none.
        defaults: what jobs get that don't give it.
        given: those among them that the command line gives, and that no job was seen to need yet.
        is_sound: whether it was read, and nothing but its defaults is wrong with it: else it isn't known where the
            clips go and what they are called.
    """

    def __init__(self, model: Model, names: FieldNames, prompts: Prompts) -> None:
        self._model, self._names, self._prompts = model, names, prompts
        self.namer: Namer = Namer(model=model)
        self.output: str | None = None
        self.defaults: dict[str, Any] = {}
        self.given: dict[str, str] = {}
        self.is_sound: bool = False

    def read_given(self, defaults: Defaults, report: Report) -> None:
        """Takes defaults from the command line."""
        taken = [name for name in self._names.shared if name in self._model.by_name]
        taken = [name for name in taken if name not in self._names.optional_texts]
        for key, value in defaults:
            name = self._names.name_of(key)
            if name not in taken:
                report.add((1, 1), f"unknown parameter {shown(key)}{suggestion(key, taken)}", SET)
            elif fault := self._prompts.fault_of(name, value):
                report.add((1, 1), f"{name}: {fault}", SET)
            else:
                self.defaults[name] = self.given[name] = value

    def note_needed(self, own: Collection[str]) -> None:
        """Notes that there is a job which gives these fields itself, and needs the defaults of the others."""
        self.given = {name: value for name, value in self.given.items() if name in own}

    def notices(self) -> list[str]:
        """What the command line gives in vain, once all jobs were noted."""
        return [
            f"{SET} {name}={value} changes nothing: each job gives its own {name}" for name, value in self.given.items()
        ]

    def read(self, values: dict[Any, Any], problems: RowProblems) -> None:
        """Takes what the document says."""
        for key in values:
            if key not in ENVELOPE:
                is_field = self._names.name_of(key) is not None
                hint = " (fields of a job belong in the list `jobs`)" if is_field else suggestion(key, ENVELOPE)
                problems.add_key((key,), f"unknown key{hint}")
        for key in ("output", "name", "model"):
            value = values.get(key)
            if value is None:
                continue
            if fault := fault_of_text(value) or (None if value.strip() else "is empty"):
                problems.add((key,), fault + braces_hint(value))
            elif key == "output" and _CONTROL.search(value):
                problems.add((key,), f"{shown(value)} is not a path")
            elif key == "output" and (fault := fault_of_output(value)):
                problems.add((key,), fault)
            elif key == "output":
                self.output = value
            elif key == "model" and value != self._model.name:
                message = f"{shown(value)} is not a model that this program supports; write {self._model.name}"
                problems.add((key,), message)
            elif key == "name":
                try:
                    self.namer = Namer(value, self._model)
                except ValueError as error:
                    problems.add((key,), str(error))
        self.is_sound = problems.is_sound
        self._read_defaults(values.get("defaults"), problems)
        if "jobs" in values and not isinstance(values["jobs"], list):
            problems.add(("jobs",), f"must be a list of jobs, not {shown(values['jobs'])}")

    def _read_defaults(self, defaults: object, problems: RowProblems) -> None:
        if not isinstance(defaults, dict):
            if defaults is not None:
                problems.add(("defaults",), f"must be a mapping of fields, not {shown(defaults)}")
            return

        def wrong(path: Path, message: str) -> None:
            problems.add(("defaults", *path), message)

        def wrong_key(path: Path, message: str) -> None:
            problems.add_key(("defaults", *path), message)

        given, spelled = self._names.canonical(defaults, self._names.shared, wrong_key)
        for name, value in given.items():
            if fault := self._prompts.fault_of(name, value):
                wrong((spelled[name],), fault + braces_hint(value))
            else:
                self.defaults = {name: value, **self.defaults}
