"""Parses a batch text in one of its formats, for tests of rows, places and problems."""

from __future__ import annotations

from typing import Any

import pytest

from wan_async.batch.formats import SYNTAXES
from wan_async.batch.syntax import Kind, Path, Report, Row, Spot, Stop, Syntax
from wan_async.errors import InvalidBatch

KINDS: list[Kind] = ["yaml", "json", "jsonl", "csv"]


def opened(kind: Kind, text: str) -> tuple[Syntax, Report]:
    report = Report("b")
    return SYNTAXES[kind](text, report), report


def rows_of(kind: Kind, text: str) -> list[Row]:
    """The rows of a valid text."""
    syntax, report = opened(kind, text)
    syntax.envelope()
    rows = [row for row in syntax.rows() if row is not None]
    report.check()
    return rows


def values(kind: Kind, text: str) -> list[Any]:
    return [row.values for row in rows_of(kind, text)]


def spot(kind: Kind, text: str, path: Path, number: int = 0) -> Spot:
    syntax, _ = opened(kind, text)
    row = [row for row in syntax.rows() if row is not None][number]
    return syntax.spot(row, path)


def problems(kind: Kind, text: str) -> list[str]:
    report = Report("b")
    try:
        syntax = SYNTAXES[kind](text, report)
        syntax.envelope()
        list(syntax.rows())
    except Stop:
        assert not report.is_empty, "it stopped without a problem"
    if report.is_empty:
        return []
    with pytest.raises(InvalidBatch) as caught:
        report.check()
    return [str(problem) for problem in caught.value.problems]
