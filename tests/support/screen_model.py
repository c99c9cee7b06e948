"""A terminal as it looks: what it shows after what was written to it, also after its width has changed."""

from __future__ import annotations

import io
import re

from rich.cells import cell_len

_TOKEN = re.compile(r"\x1b\[(?P<args>[0-9;?]*)(?P<code>[A-Za-z])|\x1b\](?P<osc>[^\x07]*)\x07|(?P<char>.)", re.DOTALL)


class ScreenModel(io.StringIO):
    """A terminal of endless height, with rows of cells and a cursor. What it doesn't know is an error.

    Attributes:
        titles: the titles that were set, in their order, and "saved" and "restored".
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.titles: list[str] = []
        self._width = width
        self._rows: list[list[str]] = [[]]
        self._continues = [False]
        self._row, self._column = 0, 0

    @property
    def rows(self) -> list[str]:
        """The rows as they are shown."""
        return ["".join(row).rstrip() for row in self._rows]

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Take in what a program writes."""
        for token in _TOKEN.finditer(text):
            if token["osc"] is not None:
                assert token["osc"].startswith("0;")
                self.titles.append(token["osc"][2:])
            elif token["code"]:
                self._control(token["args"], token["code"])
            else:
                self._put(token["char"])
        return len(text)

    def resize(self, width: int) -> None:
        """Change the width. Lines that the terminal has wrapped are wrapped anew, and the cursor stays at its text."""
        lines: list[list[str]] = []
        at = (0, 0)
        for number, (row, continues) in enumerate(zip(self._rows, self._continues, strict=True)):
            if not continues:
                lines.append([])
            if number == self._row:
                at = (len(lines) - 1, len(lines[-1]) + self._column)
            lines[-1] += row
        self._width, self._rows, self._continues = width, [], []
        for number, line in enumerate(lines):
            if number == at[0]:
                last = max(0, len(line) - 1) // width
                self._row = len(self._rows) + min(at[1] // width, last)
                self._column = min(width, at[1] - width * min(at[1] // width, last))
            for begin in range(0, max(1, len(line)), width):
                self._rows.append(line[begin : begin + width])
                self._continues.append(begin > 0)

    def _control(self, args: str, code: str) -> None:
        match code, args:
            case ("m", _) | ("h" | "l", "?25"):
                pass
            case "t", "22;0":
                self.titles.append("saved")
            case "t", "23;0":
                self.titles.append("restored")
            case "K", "2":
                self._rows[self._row] = []
                if self._row + 1 < len(self._rows):
                    self._continues[self._row + 1] = False
            case "A", _:
                self._row = max(0, self._row - int(args))
            case _:
                raise AssertionError(f"the model knows no CSI {args}{code}")

    def _put(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._down(continues=False)
        else:
            cells = [char, ""][: cell_len(char)]
            if self._column + len(cells) > self._width:
                self._down(continues=True)
            row = self._rows[self._row]
            row += [" "] * (self._column - len(row))
            row[self._column : self._column + len(cells)] = cells
            self._column += len(cells)

    def _down(self, *, continues: bool) -> None:
        self._row, self._column = self._row + 1, 0
        if self._row == len(self._rows):
            self._rows.append([])
            self._continues.append(continues)
        else:
            self._continues[self._row] = continues
