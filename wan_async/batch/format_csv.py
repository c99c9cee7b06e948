"""Batches in CSV and TSV. A place in them is a line and the name of a column, as a spreadsheet shows it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from wan_async.batch.field_names import FieldNames
from wan_async.batch.syntax import Path, Report, Row, Spot, Syntax
from wan_async.domain.model import WAN, Model
from wan_async.domain.text import shown, suggestion

_SEPARATORS = ",;\t"
_DECLARATION = re.compile(r'"?sep=(.)"?[ \t]*(?:\r\n?|\n|\Z)', re.IGNORECASE)


class NotCsv(ValueError):
    """The text is not CSV.

    Attributes:
        line: the line on which the row at fault begins, from 1.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_rows(text: str, separator: str = "") -> Iterator[tuple[int, list[str]]]:
    """The rows of a table that have any text.

    Args:
        text: the table; a first line `sep=;`, as spreadsheets write it, names the separator.
        separator: by default whichever of comma, semicolon and tab the first row has most of.

    Yields:
        The line on which a row begins, and its cells, without the blanks around them.

    Raises:
        NotCsv: a quoted cell isn't closed, or goes on after its closing quote; or a separator is named that is none.
    """
    skipped = 0
    if declared := _DECLARATION.match(text):
        text, separator, skipped = text[declared.end() :], declared[1], 1
        if separator.isalnum() or separator in '"\r ':
            raise NotCsv(1, f"sep= names {shown(separator)}, which can't separate cells")
    if not separator:
        header = re.split("[\r\n]", text.lstrip(" \r\n"), maxsplit=1)[0]
        separator = max(_SEPARATORS, key=header.count)
    line = 1 + skipped
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
        for cells in reader:
            texts = [cell.strip() for cell in cells]
            if any(texts):
                yield line, texts
            line = reader.line_num + 1 + skipped
    except csv.Error as error:
        message = f"a quoted cell isn't closed (or a cell holds more than {csv.field_size_limit():,} characters)"
        if "expected after" in str(error):
            message = 'something follows a closing quotation mark; within quotes, write "" for a quotation mark'
        raise NotCsv(line, message) from None


class Csv(Syntax):
    """CSV: a field a column; the first row names them.

    Args:
        text: the table.
        report: takes its problems.
        model: whose fields the columns hold.
        separator: what separates the cells; by default what the first row has most of.
    """

    def __init__(self, text: str, report: Report, model: Model = WAN, separator: str = "") -> None:
        self._text = text
        self._report = report
        self._separator = separator
        self._fields, self._names = model.checks, FieldNames(model)

    def envelope(self) -> None:
        return

    def rows(self) -> Iterator[Row | None]:
        rows = read_rows(self._text, self._separator)
        try:
            line, names = next(rows, (1, []))
            columns = self._columns(line, names)
            # Cells after the last named column may be left out; the first column may be a row number without a name.
            least = max((number for number, name in enumerate(names, 1) if name), default=0)
            for line, cells in rows:
                fault = None
                if not least <= len(cells) <= len(names):
                    fault = f"the header has {len(names)} columns, this row has {len(cells)} cells"
                elif any(cell for cell, name in list(zip(cells, names, strict=False))[1:] if not name):
                    fault = "this row has a text in a column that the header doesn't name"
                if fault:
                    message = f"{fault}: put texts that hold commas in double quotes"
                    self._report.add((line, ""), message, of_row=True)
                    yield None
                else:
                    cells_of = zip(columns, cells, strict=False)
                    yield Row({name: cell for name, cell in cells_of if name and cell}, (line, ""))
        except NotCsv as error:
            self._report.stop((error.line, ""), str(error))

    def spot(self, row: Row, path: Path) -> Spot:
        return (row.spot[0], str(path[0])) if path and path[0] in row.values else row.spot

    def key_spot(self, row: Row, path: Path) -> Spot:
        return self.spot(row, path)

    def _columns(self, line: int, names: list[str]) -> list[str | None]:
        """The fields that the columns hold, None where a column holds none."""
        fields = [name if self._names.name_of(name) in self._fields else None for name in names]
        given = {known for name in fields if name and (known := self._names.name_of(name))}
        ignored = []
        for number, name in enumerate(names):
            place = line, shown(name)[1:-1]
            if name in names[:number] and name:
                self._report.add(place, f"there are two columns {shown(name)}")
            elif fields[number] or not name:
                continue
            elif name == "matrix":
                self._report.add(place, 'unknown column "matrix" (a matrix can\'t be written in CSV)')
            elif near := self._names.near(name, given):
                self._report.add(place, f'unknown column {shown(name)} (did you mean "{near}"?)')
            elif not given:  # probably there is no header
                self._report.add(place, f"unknown column {shown(name)}{suggestion(name, self._fields)}")
            else:
                ignored.append(shown(name))
        if ignored:
            what = "column is no field" if len(ignored) == 1 else "columns are no fields"
            self._report.note(
                f"{self._report.source}: {len(ignored)} {what} of a job, and ignored: {', '.join(ignored)}"
            )
        return fields
