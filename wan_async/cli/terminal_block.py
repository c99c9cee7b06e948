"""A block of lines at the bottom of a terminal, with a log above, and the terminal's title."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping
from typing import TextIO

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from wan_async.cli.display_text import cells_of, sanitise

_SAVE_TITLE, _RESTORE_TITLE = "\x1b[22;0t", "\x1b[23;0t"
_TITLED = (  # the beginnings of TERM
    "xterm", "screen", "tmux", "rxvt", "alacritty", "foot", "kitty", "konsole", "vte", "gnome", "st-", "wezterm",
    "contour",
)  # fmt: skip


class TerminalBlock:
    """Lines that are drawn over themselves.

    A terminal that becomes narrower wraps the lines that are on it. The next drawing counts the rows that the block
    takes then, and removes all of them.

    Args:
        console: the terminal.
        environ: tells whether the terminal takes a title.
    """

    def __init__(self, console: Console, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._console = console
        self._has_title = environ.get("TERM", "").startswith(_TITLED) or "WT_SESSION" in environ
        self._drawn = Text()
        self._width = 0
        self._title = ""
        self.is_open: bool = False

    def open(self) -> None:
        """Hide the cursor, and save the title."""
        self.is_open = True
        self._console.show_cursor(False)
        if self._has_title:
            self._console.file.write(_SAVE_TITLE)

    def draw(self, block: Text, log: Text | None, title: str) -> None:
        """Draw the block with further log lines above, in a single write; nothing if nothing has changed.

        Args:
            block: the lines, each narrower than the terminal.
            log: lines that stay. The terminal wraps long ones, so that paths and commands can be copied whole.
            title: the terminal's title.
        """
        width = self._console.width
        if block == self._drawn and log is None and width == self._width and title == self._title:
            return
        with self._console:
            self._set_title(title)
            self._erase(width)
            if log is not None:
                self._console.print(log, soft_wrap=True)
            self._console.print(block, end="", no_wrap=True, overflow="crop", crop=True)
        self._drawn, self._width = block, width

    def close(self, log: Text | None) -> None:
        """Remove the block, write the last log lines, and restore cursor and title."""
        if self.is_open:
            self.is_open = False
            with self._console:
                self._erase(self._console.width)
                if self._title:
                    self._set_title("")
                if log is not None:
                    self._console.print(log, soft_wrap=True)
                self._console.show_cursor(True)
            self._drawn = Text()
            if self._has_title:
                self._console.file.write(_RESTORE_TITLE)
        elif log is not None:
            self._console.print(log, soft_wrap=True)

    def _set_title(self, title: str) -> None:
        if self._has_title and title != self._title:
            self._title = title
            self._console.control(Control.title(title))

    def _erase(self, width: int) -> None:
        if not self._drawn:
            return
        rows = sum(max(1, -(-cells_of(line) // max(1, width))) for line in self._drawn.plain.split("\n"))
        clear = (ControlType.ERASE_IN_LINE, 2)
        up = [(ControlType.CURSOR_UP, 1), clear] * (rows - 1)
        self._console.control(Control(ControlType.CARRIAGE_RETURN, clear, *up))


class LinesAbove(io.TextIOBase):
    """Stands for standard error while a block is shown: what is written appears above the block, line by line.

    Args:
        show: takes a line.
        stream: what it stands for.
    """

    def __init__(self, show: Callable[[str], None], stream: TextIO) -> None:
        super().__init__()
        self._show = show
        self._stream = stream
        self._rest = ""

    def write(self, text: str) -> int:
        """Show the lines that are complete."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._show(sanitise(line))
        return len(text)

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return True

    def restore(self) -> None:
        """Put the stream back; a line that isn't complete is shown, too."""
        if self._rest:
            self.write("\n")
        if sys.stderr is self:
            sys.stderr = self._stream
