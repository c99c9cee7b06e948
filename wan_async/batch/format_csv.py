"""Batches in CSV and TSV."""

from __future__ import annotations

import re
from collections.abc import Iterator

from wan_async.batch.syntax import Path, Report, Row, Spot, TextFormat
from wan_async.domain.model import WAN, Model
from wan_async.domain.text import shown, suggestion


class Csv(TextFormat):
    """CSV: a field a column, the first row names them. Commas, semicolons and tabs are told apart by that row."""

    def __init__(self, text: str, report: Report, model: Model = WAN) -> None:
        super().__init__(text, report)
        self._fields, self._aliases = model.checks, model.aliases
        header = re.split("[\r\n]", text.lstrip(" \r\n"), maxsplit=1)[0]
        separator = max(",;\t", key=header.count)
        self._cell = re.compile(
            rf'[ ]*+(?:"((?:[^"]|"")*+)"[ ]*|(?!")([^{separator}\r\n]*))(?:({separator})|\r?\n|\r|\Z)'
        )

    def envelope(self) -> None:
        """The document around the jobs, None for a mere list of them."""
        return

    def rows(self) -> Iterator[Row | None]:
        """The jobs as they are written, None for one that can't be read."""
        lines = self._lines()
        columns: list[str | None] = []
        names: list[str] = []
        for name, at in next(lines, []):
            known = self._aliases.get(name, name) in self._fields
            if not known and name:
                hint = " (a matrix can't be written in CSV)" if name == "matrix" else suggestion(name, self._fields)
                self._report.add(self._spot(at), f"unknown column {shown(name)}{hint}")
            elif name in columns:
                self._report.add(self._spot(at), f"the column {shown(name)} stands here twice")
            columns.append(name if known else None)
            names.append(name)
        least = max((number for number, name in enumerate(names, 1) if name), default=0)
        # The first column may be the index that a table program writes; behind the last name, a row may end.
        unnamed = [number for number, name in enumerate(names) if number and not name]
        for cells in lines:
            lost = next((at for text, at in (cells[n] for n in unnamed if n < len(cells)) if text), None)
            if lost is not None or not least <= len(cells) <= len(names):
                at = cells[min(len(cells), len(names) + 1) - 1][1] if lost is None else lost
                misfit = f"the header has {len(names)} columns, this row {len(cells)} cells"
                self._report.add(self._spot(at), f"{misfit}: quote texts that hold commas")
                yield None
                continue
            given = {name: cell for name, cell in zip(columns, cells, strict=False) if name and cell[0]}
            values = {name: text for name, (text, _) in given.items()}
            yield Row(values, self._spot(cells[0][1]), {name: at for name, (_, at) in given.items()})

    def spot(self, row: Row, path: Path) -> Spot:
        """Line and column of a value of the row."""
        return self._spot(row.token[path[0]]) if path and path[0] in row.token else row.spot

    def _lines(self) -> Iterator[list[tuple[str, int]]]:
        """The cells of each line that isn't blank, each with its place."""
        at = 0
        cells: list[tuple[str, int]] = []
        while at < len(self._text):
            match = self._cell.match(self._text, at)
            if match is None:
                spot = self._spot(at)
                self._report.stop(spot, "a quoted cell has no end, or goes on behind its closing quote")
            quoted = match[1]
            cells.append((match[2].strip() if quoted is None else quoted.replace('""', '"'), at))
            at = match.end()
            if match[3] is None:
                if any(text for text, _ in cells):
                    yield cells
                cells = []
        if any(text for text, _ in cells):
            yield [*cells, ("", at)]  # the text ends behind a separator
