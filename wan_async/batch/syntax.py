"""What the formats of a batch have in common: rows of plain values, and the place of each value."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NoReturn, Protocol

from wan_async.domain.text import shown
from wan_async.errors import InvalidBatch, Problem

Kind = Literal["yaml", "json", "jsonl", "csv", "tsv"]
Path = tuple[str | int, ...]
Spot = tuple[int, int | str]
"""A line, from 1, and the column: a character's, from 1, or in a table its name, or "" for a whole row."""

NESTING_LIMIT = 20
"""Levels of a document at most (of JSON, the decoder's own limit counts, unless a key is repeated)."""
TOO_DEEP = "is nested too deeply for a batch"


class Stop(Exception):
    """The rest of the text can't be read."""


class Report:
    """Collects problems, and returns them in the order of the text.

    Attributes:
        source: the name of what is read.
        notices: what its author should know, though nothing is wrong.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: list[tuple[Spot, Problem]] = []
        self._concerns_all = False
        self.notices: list[str] = []

    @property
    def is_empty(self) -> bool:
        """Whether no problem was added."""
        return not self._found

    @property
    def concerns_all(self) -> bool:
        """Whether a problem concerns more than a job: without it the rest would mean something else, or nothing."""
        return self._concerns_all

    def where(self, spot: Spot) -> str:
        """A place as messages show it: `file:line:column`, or `file:line` for a whole row of a table."""
        line, column = spot
        return f"{self.source}:{line}:{column}" if column else f"{self.source}:{line}"

    def add(self, spot: Spot, message: str, where: str = "", *, of_row: bool = False) -> None:
        """Adds a problem.

        Args:
            spot: its place.
            message: what is wrong.
            where: the place in other words.
            of_row: whether it concerns the job at that place alone.
        """
        self._found.append((spot, Problem(where or self.where(spot), message)))
        self._concerns_all = self._concerns_all or not of_row

    def note(self, notice: str) -> None:
        """Adds a notice for the author of the text."""
        self.notices.append(notice)

    def stop(self, spot: Spot, message: str, *, of_row: bool = False) -> NoReturn:
        """Adds a problem after which the rest of the text, or of the row, can't be read.

        Raises:
            Stop: always.
        """
        self.add(spot, message, of_row=of_row)
        raise Stop

    def problems(self) -> list[Problem]:
        """All problems, in the order of the text."""
        return [problem for _, problem in sorted(self._found, key=_in_order)]

    def check(self) -> None:
        """Raises InvalidBatch with all problems, in the order of the text, if there are any."""
        if self._found:
            raise InvalidBatch(self.problems())


def _in_order(found: tuple[Spot, Problem]) -> tuple[int, int]:
    line, column = found[0]
    return line, column if isinstance(column, int) else 0  # the problems of a row come in the order of its columns


@dataclass(slots=True)
class Row:
    """The values of a job, their place, and what their format needs to find the place of one of them."""

    values: Any
    spot: Spot
    token: Any = None
    where: str = ""


class Syntax(Protocol):
    """A text in one of the formats."""

    def envelope(self) -> Row | None:
        """The document around the jobs, None for a mere list of them."""
        ...

    def rows(self) -> Iterable[Row | None]:
        """The jobs; None for one that could not be read and was reported."""
        ...

    def spot(self, row: Row, path: Path) -> Spot:
        """The place of a value, or of the nearest value around it."""
        ...

    def key_spot(self, row: Row, path: Path) -> Spot:
        """The place of the key of a value, or of the nearest value around it."""
        ...


def not_a_batch(value: object) -> str:
    """Says that a document is neither a mapping nor a list."""
    return f"a batch is a mapping or a list of jobs, not {shown(value)}"


class TextFormat(Syntax):
    """A text, with the line and column of each offset."""

    def __init__(self, text: str, report: Report) -> None:
        self._text = text
        self._report = report

    @cached_property
    def _ends(self) -> list[int]:
        return [match.end() - 1 for match in re.finditer("\r\n?|\n", self._text)]

    def _spot(self, offset: int) -> Spot:
        line = bisect_left(self._ends, offset)
        return line + 1, offset - (self._ends[line - 1] if line else -1)


class Images(Syntax):
    """A folder's images as rows, in place of a text: the path of each is the value of `field`."""

    def __init__(self, images: list[str], field: str) -> None:
        self._images = images
        self._field = field

    def envelope(self) -> None:
        return

    def rows(self) -> Iterator[Row]:
        for number, path in enumerate(self._images, 1):
            yield Row({self._field: path}, (number, 1), where=path)

    def spot(self, row: Row, path: Path) -> Spot:
        return row.spot

    def key_spot(self, row: Row, path: Path) -> Spot:
        return row.spot
