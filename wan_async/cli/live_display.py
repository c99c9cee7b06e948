"""The live block on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Self, TextIO, cast

from wan_async.cli.display import Display, HumanDisplay, PipeWriter, PlainLines
from wan_async.cli.display_text import (
    STYLES,
    Line,
    Note,
    about,
    cells_of,
    duration,
    facts_of,
    fit_width,
    limit_text,
    opening_line,
    paint,
    progress_bar,
    sanitise,
    summary_lines,
    truncate,
)
from wan_async.cli.statistics import IN_FLIGHT, Active
from wan_async.domain import events

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_REFRESH_SECONDS = 0.125

_MOST_ROWS = 8
_NARROW = 60
_WIDEST = 100


class LiveDisplay(HumanDisplay):
    """A block at the bottom of the terminal, with the log above.

    It is drawn at most eight times a second, at about a millisecond each, whatever the batch's size. Log lines are
    written with the next drawing, so that a burst of 10,000 is one write. An unchanged block is not drawn again.
    """

    def __init__(self, console: Console, pipe: PipeWriter, *, verbose: bool, clock: Callable[[], float]) -> None:
        from rich.live import Live

        super().__init__(pipe, quiet=False, verbose=verbose)
        self._console = console
        self._clock = clock
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            vertical_overflow="crop",
            redirect_stdout=False,  # the display's stream need not be stdout
            redirect_stderr=sys.stderr.isatty(),  # a warning on stderr would break the block
        )
        self._drawn: Text | None = None
        self._drawn_at = float("-inf")
        self._at = 0.0
        self._log: list[Line] = []
        self._widths: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._live.start()
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
        if (
            self._statistics.started
            and self._live.is_started
            and not self.broken
            and now - self._drawn_at >= _REFRESH_SECONDS
        ):
            self._drawn_at = now
            self._draw()

    def _draw(self) -> None:
        width, height = self._console.size
        block = paint(self._block(min(width - 1, _WIDEST), height))
        if block != self._drawn or self._log:
            self._drawn = block
            with self._console:  # a single write
                self._live.update(block)
                self._flush_log()
                self._live.refresh()

    def _flush_log(self) -> None:
        if self._log:
            # The terminal wraps long lines, so that paths and commands can be copied whole.
            self._console.print(paint(self._log), soft_wrap=True)
            self._log.clear()

    def close(self) -> None:
        """Remove the block, and write the log lines that wait."""
        self._live.stop()
        self._flush_log()
        self._pipe.flush()

    def _line(self, note: Note) -> Line:
        good = note.level != "problem"
        style = STYLES.get(note.word, "" if good else "yellow")
        mark = {"stored": "✓", "failed": "✗", "missing": "✗"}.get(note.word, "·" if good else "!")
        if not note.detail:
            return [(f"{mark} ", style), (f"{note.word}: {truncate(note.subject)}", style)]
        subject = sanitise(note.subject)
        name = self._name(subject, self._console.width - 1)
        if note.word != "stored":
            name = max(name, subject, key=cells_of)  # a problem is shown with the whole name
            return [(f"{mark} ", style), (f"{name}  ", ""), (f"{note.word}: ", style), (truncate(note.detail), "")]
        if self._console.width < _NARROW:
            return [
                (f"{mark} ", style),
                (fit_width(subject, self._console.width - 12), ""),
                (note.detail[:8], "dim"),
            ]
        return [(f"{mark} ", style), (f"{name}  ", ""), (note.detail, "dim")]

    def _column(self, name: str, text: str, most: int) -> str:
        """Fit a text to its column, which grows to its widest text so far and doesn't shrink, so that nothing moves."""
        width = self._widths[name] = min(max(8, most), max(self._widths.get(name, 0), cells_of(text)))
        return fit_width(text, width)

    def _name(self, text: str, width: int) -> str:
        return self._column("name", text, max(14, min(36, width * 2 // 5)))

    def _block(self, width: int, height: int) -> list[Line]:
        statistics, at = self._statistics, self._at
        states, rest = facts_of(statistics, at)
        if statistics.started:
            rest.append(("time", duration(at - statistics.started.at), ""))
        lines = [[], self._overall(width), *self._flow(states, width), *self._flow(rest, width)]
        lines += [[(fit_width(limit_text(limit), width), "yellow")] for limit in statistics.limits(at)]
        if statistics.stopping is not None:
            still = sum(statistics.counts[state] for state in IN_FLIGHT)
            lines.append(
                [(fit_width(f"stopping: {sanitise(statistics.stopping)}; {still:,} still running", width), "yellow")]
            )
        room = max(0, min(_MOST_ROWS, height - len(lines) - 2))
        rows = statistics.advanced(room)
        lines += [self._row(job, width) for job in rows]
        more = sum(job.state != "uploaded" for job in statistics.active.values()) - len(rows)
        if more > 0:
            lines.append([(f"+{more:,} more", "dim")])
        return lines[: max(1, height - 1)]

    def _overall(self, width: int) -> Line:
        statistics = self._statistics
        total = statistics.jobs - statistics.counts["skipped"]
        part = statistics.over / total if total else 1.0
        eta = statistics.eta_seconds(self._at)
        text = f"  {statistics.over:,}/{total:,}  {int(100 * part)}%" + ("" if eta is None else f"  ETA {about(eta)}")
        text = self._column("overall", text, width)
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

    def _row(self, job: Active, width: int) -> Line:
        name = self._name(sanitise(job.job), width)
        share = "" if job.percent is None else f"{job.percent:.0f}%"
        age = "" if job.since is None else duration(self._at - job.since)
        style = STYLES.get(job.state, "")
        line: Line = [(name, ""), (f"  {job.state:<11}", style)]
        room = width - cells_of(name) - 13 - 14
        if room >= 8:
            line += [(" ", ""), *progress_bar((job.percent or 0) / 100, room, style)]
        return [*line, (f" {share:>4}", ""), (f" {age:>7}", "dim")] if room >= 0 else [*line, (f" {share:>4}", "")]


def terminal(
    stream: TextIO, *, quiet: bool = False, verbose: bool = False, clock: Callable[[], float] = time.monotonic
) -> Display:
    """A display for a terminal: a live block, with log lines above it.

    Plain lines instead if `quiet`, or if the terminal can't move its cursor (`TERM=dumb`).

    Args:
        stream: the terminal.
        quiet: only problems, and one line at the end.
        verbose: a log line for every fact.
        clock: seconds, for how often to draw; what is shown goes by the time of events and ticks.
    """
    from rich.console import Console

    pipe = PipeWriter(stream)
    console = Console(file=cast("TextIO", pipe), highlight=False)
    if quiet or not console.is_interactive:
        return PlainLines(pipe, quiet=quiet, verbose=verbose)
    return LiveDisplay(console, pipe, verbose=verbose, clock=clock)
