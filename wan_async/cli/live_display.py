"""The live block on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Self, TextIO, cast

from wan_async.cli.display import Display, HumanDisplay, PipeWriter, PlainLines
from wan_async.cli.display_text import (
    STYLES,
    Line,
    Note,
    Whole,
    cells_of,
    duration,
    eta_text,
    facts_of,
    fit_width,
    folded,
    notices_of,
    opening_line,
    paint,
    progress_bar,
    sanitise,
    summary_lines,
    truncate,
    wrapped,
)
from wan_async.cli.short_names import short_names
from wan_async.cli.statistics import Active, Retries
from wan_async.cli.time_estimate import Eta
from wan_async.domain import events

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_REFRESH_SECONDS = 0.125
_ETA_SECONDS = 1.0

_LEAST_ROWS = 8
"""The rows of active jobs, as far as there is room; in a tall terminal they take up to half of the height."""
_NARROW = 60
_COLUMN_CELLS = 98
"""With room for two columns of active jobs of this width there are two, and so on."""
_GAP_CELLS = 3
_ROW_CELLS = 40
"""What the row of a job takes beside its name, with a short bar."""
_KNOWN_NAMES = 5000
"""Names of larger batches are compared with those on the screen only."""


class LiveDisplay(HumanDisplay):
    """A block at the bottom of the terminal, with the log above.

    It is drawn at most eight times a second, at a few milliseconds each, whatever the batch's size. Log lines are
    written with the next drawing, so that a burst of 10,000 is one write. An unchanged block is not drawn again.
    """

    def __init__(
        self,
        console: Console,
        pipe: PipeWriter,
        *,
        verbose: bool,
        clock: Callable[[], float],
        groups: Mapping[str, str] | None = None,
        retries: Retries | None = None,
    ) -> None:
        from wan_async.cli.terminal_block import LinesAbove, TerminalBlock

        super().__init__(pipe, quiet=False, verbose=verbose, groups=groups, retries=retries)
        self._console = console
        self._clock = clock
        self._block = TerminalBlock(console)
        self._stderr = LinesAbove(self._log_text, sys.stderr) if sys.stderr and sys.stderr.isatty() else None
        self._names = [sanitise(name) for name in groups or ()] if len(groups or ()) <= _KNOWN_NAMES else []
        self._longest = max((cells_of(sanitise(name)) for name in groups or ()), default=0)
        self._short: dict[str, str] = {}
        self._short_width = 0
        self._most_active = 0
        self._drawn_at = float("-inf")
        self._at = 0.0
        self._eta: Eta | None = None
        self._eta_at = float("-inf")
        self._log: list[Line] = []
        self._widths: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._block.open()
        if self._stderr is not None:
            sys.stderr = cast("TextIO", self._stderr)
        return self

    def show(self, event: events.Event) -> None:
        """Take an event in; it is drawn when that is due."""
        self._statistics.fold(event)
        if isinstance(event, events.Started):
            self._log.append(opening_line(event))
        elif note := self._shown_note(event):
            self._log.append(self._line(note))
        elif isinstance(event, events.Finished):
            self._log += [[], *summary_lines(self._statistics, event)]
            self.close()
        self.tick(event.at)

    def tick(self, at: float) -> None:
        """Draw the block again when that is due."""
        self._at = max(self._at, at)
        now = self._clock()
        if self._block.is_open and not self.broken and now - self._drawn_at >= _REFRESH_SECONDS:
            self._drawn_at = now
            if now - self._eta_at >= _ETA_SECONDS:
                self._eta_at, self._eta = now, self._statistics.eta(self._at)
            self._draw()

    def _draw(self) -> None:
        width, height = self._console.size
        lines = self._lines(width - 1, height) if self._statistics.started else []
        self._block.draw(paint(lines), self._take_log(), self._title() if lines else "")

    def close(self) -> None:
        """Remove the block, and write the log lines that wait."""
        if self._stderr is not None:
            self._stderr.restore()
        self._block.close(self._take_log())
        self._pipe.flush()

    def _take_log(self) -> Text | None:
        """The log lines that wait, broken at blanks to fit the terminal; None if there are none."""
        lines = [part for line in self._log for part in folded(line, self._console.width)]
        self._log.clear()
        return paint(lines) if lines else None

    def _log_text(self, text: str) -> None:
        self._log.append([(text, "yellow")])

    def _line(self, note: Note) -> Line:
        good = note.level != "problem"
        style = STYLES.get(note.word, "" if good else "yellow")
        mark = {"stored": "✓", "failed": "✗", "missing": "✗"}.get(note.word, "·" if good else "!")
        if not note.detail:
            return [(f"{mark} ", style), (f"{note.word}: {truncate(note.subject)}", style)]
        if note.word == "stored":  # names last and whole: those of a batch are often long, and alike
            return [(f"{mark} ", style), (f"{note.detail}  ", "dim"), (Whole(sanitise(note.subject)), "")]
        name = sanitise(note.subject)
        return [(f"{mark} ", style), (f"{name}  ", ""), (f"{note.word}: ", style), (truncate(note.detail), "")]

    def _column(self, name: str, text: str, most: int) -> str:
        """Fit a text to its column, which grows to its widest text so far and doesn't shrink, so that nothing moves."""
        width = self._widths[name] = min(max(8, most), max(self._widths.get(name, 0), cells_of(text)))
        return fit_width(text, width)

    def _title(self) -> str:
        """The terminal's title: numbers only, nothing from a file or the service."""
        statistics = self._statistics
        total = statistics.jobs - statistics.counts["skipped"]
        parts = [f"{self._percent()}% {statistics.over:,}/{total:,}"]
        parts += ["stopping"] if statistics.stopping is not None else []
        return " · ".join([*parts, "wan-async"])

    def _percent(self) -> int:
        total = self._statistics.jobs - self._statistics.counts["skipped"]
        return 100 * self._statistics.over // total if total else 100

    def _lines(self, width: int, height: int) -> list[Line]:
        statistics, at = self._statistics, self._at
        states, rest = facts_of(statistics, at)
        lines = [[], self._overall(width), *self._flow(states, width), *self._flow(rest, width)]
        lines += [[(line, "yellow")] for notice in notices_of(statistics, at) for line in wrapped(notice, width)]
        active = len(statistics.active) - statistics.counts["uploaded"]
        self._most_active = max(self._most_active, active)  # the layout doesn't go back and forth
        room = max(0, min(max(_LEAST_ROWS, height // 2), height - len(lines) - 2))
        fitting = (width + _GAP_CELLS) // (_COLUMN_CELLS + _GAP_CELLS)
        columns = max(1, min(fitting, -(-self._most_active // max(1, room))))
        jobs = statistics.advanced(room * columns, at)
        lines += self._rows(jobs, room, columns, width)
        more = active - len(jobs)
        if more > 0:
            lines.append([(f"+{more:,} more", "dim")])
        return lines[: max(1, height - 1)]

    def _overall(self, width: int) -> Line:
        statistics = self._statistics
        total = statistics.jobs - statistics.counts["skipped"]
        parts = [f"  {statistics.over:,}/{total:,}", f"{self._percent()}%"]
        if statistics.started and width >= _NARROW:
            parts.append(f"time {duration(self._at - statistics.started.at)}")
        parts += [] if self._eta is None else [eta_text(self._eta)]
        text = self._column("overall", "  ".join(parts), width)
        part = statistics.over / total if total else 1.0
        return [*progress_bar(part, max(0, width - cells_of(text)), "green"), (text, "bold")]

    def _flow(self, facts: Iterable[tuple[str, str, str]], width: int) -> list[Line]:
        """Lay out facts (label, value, style) in lines, as many a line as fit."""
        lines: list[Line] = [[]]
        used = 0
        for label, value, style in facts:
            value = self._column(label, value, width)
            needed = len(label) + 1 + cells_of(value)
            if used and used + 3 + needed > width:
                lines.append([])
                used = 0
            lines[-1] += [("   " if used else "", ""), (f"{label} ", "dim"), (value, style)]
            used += needed + (3 if used else 0)
        return lines

    def _rows(self, jobs: Sequence[Active], room: int, columns: int, width: int) -> list[Line]:
        """The active jobs, in columns."""
        width = (width + _GAP_CELLS) // columns - _GAP_CELLS
        names = self._short_names([sanitise(job.job) for job in jobs], width)
        cells = [self._row(job, names[sanitise(job.job)], width) for job in jobs]
        lines: list[Line] = []
        for row in range(min(room, len(cells))):
            line = cells[row]
            for cell in cells[row + room :: room]:
                line = [*line, (" " * _GAP_CELLS, ""), *cell]
            lines.append(line)
        return lines

    def _short_names(self, shown: Sequence[str], width: int) -> Mapping[str, str]:
        """The names of the jobs that are shown, cut to their column."""
        self._longest = max(self._longest, *map(cells_of, shown), 0) if shown else self._longest
        width = min(max(14, width * 2 // 5, width - _ROW_CELLS), max(8, self._longest))
        if width != self._short_width or not self._short.keys() >= set(shown):
            self._short_width = width
            self._short = short_names(dict.fromkeys([*self._names, *shown]), width)
        return self._short

    def _row(self, job: Active, name: str, width: int) -> Line:
        share = "" if job.percent is None else f"{job.percent:.0f}%"
        age = "" if job.since is None else duration(self._at - job.since)
        is_slow = self._statistics.is_slow(job, self._at)
        style = "yellow" if is_slow else STYLES.get(job.state, "")
        line: Line = [(name, ""), (f"  {'slow' if is_slow else job.state:<11}", style)]
        room = width - cells_of(name) - 13 - 14
        if room >= 8:
            line += [(" ", ""), *progress_bar((job.percent or 0) / 100, room, style)]
        return [*line, (f" {share:>4}", ""), (f" {age:>7}", "dim")] if room >= 0 else [*line, (f" {share:>4}", "")]


def terminal(
    stream: TextIO,
    *,
    quiet: bool = False,
    verbose: bool = False,
    clock: Callable[[], float] = time.monotonic,
    groups: Mapping[str, str] | None = None,
    retries: Retries | None = None,
) -> Display:
    """A display for a terminal: a live block, with log lines above it.

    Plain lines instead if `quiet`, or if the terminal can't move its cursor (`TERM=dumb`).

    Args:
        stream: the terminal.
        quiet: only problems, and one line at the end.
        verbose: a log line for every fact.
        clock: seconds, for how often to draw; what is shown goes by the time of events and ticks.
        groups: which jobs cost and last alike, by name and in batch order.
        retries: how failed jobs are tried again.
    """
    from rich.console import Console

    pipe = PipeWriter(stream)
    console = Console(file=cast("TextIO", pipe), highlight=False)
    if quiet or not console.is_interactive:
        return PlainLines(pipe, quiet=quiet, verbose=verbose, groups=groups, retries=retries)
    return LiveDisplay(console, pipe, verbose=verbose, clock=clock, groups=groups, retries=retries)
