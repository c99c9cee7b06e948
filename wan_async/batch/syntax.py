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

Kind = Literal["yaml", "json", "jsonl", "csv"]
Path = tuple[str | int, ...]
Spot = tuple[int, int]

NESTING_LIMIT = 20
"""How deep a document may nest before it is no batch (of JSON, the decoder's own limit counts, unless keys repeat)."""


class Stop(Exception):
    """Reading on makes no sense."""


class Report:
    """Collects problems, wherever they are met, and gives them back in the order of the text."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: list[tuple[Spot, Problem]] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing is wrong so far."""
        return not self._found

    def add(self, spot: Spot, message: str, where: str = "") -> None:
        """Something is wrong at `spot`."""
        self._found.append((spot, Problem(where or f"{self.source}:{spot[0]}:{spot[1]}", message)))

    def stop(self, spot: Spot, message: str) -> NoReturn:
        """Something is so wrong at `spot` that nothing after it can be read."""
        self.add(spot, message)
        raise Stop

    def check(self) -> None:
        """Raises InvalidBatch with every problem, in the order of the text, if there is any."""
        if self._found:
            raise InvalidBatch([problem for _, problem in sorted(self._found, key=lambda found: found[0])])


@dataclass(slots=True)
class Row:
    """Values, where they begin, and what their syntax needs to find the place of one of them."""

    values: Any
    spot: Spot
    token: Any = None
    where: str = ""


class Syntax(Protocol):
    """What each syntax can do."""

    def envelope(self) -> Row | None:
        """The document around the jobs, None for a mere list of them."""
        ...

    def rows(self) -> Iterable[Row | None]:
        """The jobs; None where one could not be read, and was reported."""
        ...

    def spot(self, row: Row, path: Path) -> Spot:
        """The place of a value, or of the nearest thing around it."""
        ...


def not_a_batch(value: object) -> str:
    """Why a document of another shape is no batch."""
    return f"a batch is a mapping or a list of jobs, not {shown(value)}"


class TextFormat:
    """A text, and the line and column of each offset into it."""

    def __init__(self, text: str, report: Report) -> None:
        self._text = text
        self._report = report

    @cached_property
    def _ends(self) -> list[int]:
        return [match.end() - 1 for match in re.finditer("\r\n?|\n", self._text)]

    def _spot(self, offset: int) -> Spot:
        line = bisect_left(self._ends, offset)
        return line + 1, offset - (self._ends[line - 1] if line else -1)


class Images:
    """A folder's images, by their paths, in place of a text: a row each, with the path as its `field`."""

    def __init__(self, images: list[str], field: str) -> None:
        self._images = images
        self._field = field

    def envelope(self) -> None:
        """The document around the jobs, None for a mere list of them."""
        return

    def rows(self) -> Iterator[Row]:
        """The jobs as they are written, None for one that can't be read."""
        for number, path in enumerate(self._images, 1):
            yield Row({self._field: path}, (number, 1), where=path)

    def spot(self, row: Row, path: Path) -> Spot:
        """Line and column of a value of the row."""
        return row.spot
