"""A run's events on a screen: a live block, plain lines, or JSON lines.

Three displays read one stream. `show` folds an event in O(1) and `tick` lets time pass while nothing happens: call it
about four times a second, with unix seconds. Neither waits, and neither raises when the reader is gone: a display whose
stream breaks goes silent (`broken`), and the run goes on without it.

What people see comes from `Tally`, which knows nothing but the events. Names, paths and messages come from files and
servers, so each passes `sanitise` on its way to a human, and none is ever read as markup.
"""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TextIO, cast

from wan_async import events
from wan_async.tally import IN_FLIGHT, Active, State, Tally

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_REFRESH_SECONDS = 0.125
_SUMMARY_SECONDS = 60.0
_MOST_ROWS = 8
_NARROW = 60
_WIDEST = 100  # a longer bar tells no more

_STYLES: dict[str, str] = {
    "running": "cyan", "downloading": "bright_blue", "stored": "green", "done": "green", "retrying": "yellow",
    "unknown": "yellow", "failed": "red", "missing": "red", "cancelled": "yellow", "quarantined": "yellow",
}  # fmt: skip
_LIMITS = {96: "account limit reached", 97: "balance too low", 429: "rate limit reached"}
_ASCII = str.maketrans({"✓": "+", "✗": "x", "━": "=", "─": "-", "…": "~", "→": ">", "·": "-", "\ufffd": "?"})

Line = list[tuple[str, str]]
"""Pieces of text, each with its style."""


def sanitise(text: str) -> str:
    """The text with whatever could steer a terminal (controls, escapes, bidi overrides, newlines) made visible."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else " " if unicodedata.category(char) == "Zs" else "\ufffd" for char in text
    )


def duration(seconds: float) -> str:
    """A length of time: `41s`, `1m 02s`, `1h 04m`, `3d 04h`."""
    whole = max(0, int(seconds))
    for unit, next_unit, size, next_size in (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // next_size:02}{next_unit}"
    return f"{whole}s"


def usd(amount: Decimal) -> str:
    """An amount in US dollars: cents, and more places below a dollar, where a clip's price lies: `$14.20`, `$0.035`."""
    whole, _, places = f"{amount:.{2 if amount >= 1 else 4 if amount >= Decimal('0.001') else 6}f}".partition(".")
    return f"${int(whole):,}.{places.rstrip('0').ljust(2, '0')}"


def size(count: float) -> str:
    """A number of bytes in decimal units: `512 B`, `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.95 or (unit == "B" and count < 1000):
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def about(seconds: float) -> str:
    """A time to go, no finer than it can be known: `soon`, `45s`, `3m 20s`, `1h 04m`."""
    if seconds < 5:
        return "soon"
    step = 5 if seconds < 60 else 10 if seconds < 600 else 60
    return duration(-(-seconds // step) * step).removesuffix(" 00s")


def _cells(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _fit(text: str, width: int) -> str:
    """Exactly `width` cells: padded, or cut in the middle, since the end of a name tells its siblings apart."""
    if _cells(text) > width:
        head, tail = text[: width // 2], text[len(text) - (width - 1) // 2 :]
        while _cells(head) + 1 + _cells(tail) > width:
            head, tail = (head[:-1], tail) if _cells(head) >= _cells(tail) else (head, tail[1:])
        text = f"{head}…{tail}"
    return text + " " * (width - _cells(text))


def _clip(text: str, most: int = 300) -> str:
    """A server's page of HTML is no message."""
    return sanitise(text if len(text) <= most else text[: most - 1] + "…")


class _Note(NamedTuple):
    level: Literal["problem", "end", "fact"]
    word: str
    subject: str
    detail: str


def _note(event: events.Event) -> _Note | None:
    """What there is to say about an event in one line; None for samples, the start and the end."""
    match event:
        case events.Stored():
            cost = "" if event.cost_usd is None else usd(event.cost_usd)
            columns = f"{size(event.bytes):>8}  {cost:>7}  {duration(event.seconds):>7}"
            return _Note("end", "stored", event.file, columns)
        case events.Failed():
            return _Note("problem", "failed", event.job, f"{event.kind}: {event.message}")
        case events.Cancelled() | events.Missing() | events.Quarantined():
            return _Note("problem", events.name_of(type(event)), event.job, event.reason)
        case events.Problem():
            return _Note("problem", "problem", event.where, event.message)
        case events.Stopping():
            return _Note("problem", "stopping", event.reason, "")
        case events.Limited():
            return _Note("problem" if event.code == 97 else "fact", "limited", _limit(event), "")
        case events.Uploaded():
            return _Note("fact", "uploaded", event.job, size(event.bytes))
        case events.Submitting():
            return _Note("fact", "submitting", event.job, "" if event.price_usd is None else usd(event.price_usd))
        case events.Accepted():
            return _Note("fact", "adopted" if event.adopted else "accepted", event.job, f"task {event.task_id}")
        case events.Ended():
            cost = "" if event.cost_usd is None else f"  {usd(event.cost_usd)}"
            return _Note("fact", "ended", event.job, f"{event.status}, exit {event.pexit}{cost}")
        case events.Retrying():
            return _Note("fact", "retrying", event.job, f"{event.reason} (in {duration(event.after_seconds)})")
        case events.Unknown():
            return _Note("fact", "unknown", event.job, event.reason)
    return None


def _limit(event: events.Limited) -> str:
    slots = f": {event.concurrency} at once" if event.concurrency is not None else ""
    return f"{_LIMITS.get(event.code, 'held back')} ({event.code}){slots}"


def _opening(event: events.Started) -> Line:
    parts = [f"{event.jobs:,} job{'s' * (event.jobs != 1)}", f"{event.unfinished:,} to do"]
    parts += [f"{event.done:,} done before"] if event.done else []
    parts += [f"budget {usd(event.budget_usd)}"] if event.budget_usd is not None else []
    return [(" · ".join(parts), "bold"), (f" → {_clip(event.output)}", "dim")]


def _closing(tally: Tally, end: events.Finished) -> list[Line]:
    """The summary of a run, from the journal's own counts; its first line stands alone."""
    style = "red" if end.failed + end.missing + end.unknown else "yellow" if end.exit_code else "green"
    counts = {"done before": end.skipped, "failed": end.failed, "cancelled": end.cancelled, "missing": end.missing}
    counts |= {"unknown": end.unknown, "left to do": end.unfinished}
    parts = [f"{end.stored:,} stored", *(f"{number:,} {name}" for name, number in counts.items() if number)]
    money = f"{usd(end.spent_usd)} spent" + (f" · {usd(end.reserved_usd)} reserved" if end.reserved_usd else "")
    mark = {"red": "✗ ", "yellow": "! ", "green": "✓ "}[style]
    lines = [[(mark, style), (" · ".join(parts), f"bold {style}"), (f" · {money} · {duration(end.seconds)}", "")]]
    grouped: dict[tuple[State, str], list[str]] = {}
    for job, why in tally.reasons.items():
        grouped.setdefault(why, []).append(job)
    ranked = sorted(grouped.items(), key=lambda item: -len(item[1]))
    for (state, reason), jobs in ranked[:5]:
        names = ", ".join(_clip(job, 40) for job in jobs[:3]) + (", …" if len(jobs) > 3 else "")
        lines.append([(f"  {len(jobs):,} {state}: ", _STYLES[state]), (_clip(reason, 200), "")])
        lines.append([(f"    {names}", "dim")])
    if others := ranked[5:]:
        rest = sum(len(jobs) for _, jobs in others)
        lines.append([(f"  and {rest:,} more, for other reasons ({len(others):,})", "dim")])
    if end.failed + end.cancelled:
        given_up = any(reason.startswith("given_up:") for _, reason in tally.reasons.values())
        lines.append([("  try failed ones again with ", "dim"), ("--retry-failed", "")])
        if given_up:
            lines.append([("  render anew what was given up, and pay again, with ", "dim"), ("--rerender", "")])
    if end.missing:
        lines.append(
            [
                ("  the next run asks for missing clips again; render them anew, and pay again, with ", "dim"),
                ("--rerender", ""),
            ]
        )
    if end.unknown and tally.started and (folder := Path(tally.started.output, "unassigned")).is_dir():
        lines.append([("  clips that may be of unknown Runs are in ", "dim"), (sanitise(str(folder)), "")])
        lines.append([("  status lists them, and says how to ", "dim"), ("assign", ""), (" one to its job", "dim")])
    if tally.started and end.stored + end.skipped:
        lines.append([("  clips in ", "dim"), (sanitise(tally.started.output), "")])
    if end.resume:
        lines.append([("  go on with ", "dim"), (sanitise(end.resume), "bold")])
    return lines


def _facts(tally: Tally, at: float) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """What is going on, as (label, value, style): the jobs by state, and then money, speed and time."""
    shown: dict[str, int] = dict(tally.counts.items())
    shown["waiting"] += shown.pop("uploaded")
    shown["queued"] += shown.pop("submitting")
    shown["stored"] += shown.pop("done")
    always = ("waiting", "queued", "running", "downloading", "stored")
    states = [(name, f"{n:,}", _STYLES.get(name, "")) for name, n in shown.items() if n or name in always]
    projected, budget = tally.projected_usd(), tally.started and tally.started.budget_usd
    # Events tell what this run pays; in a folder with a past, "spent" would promise more.
    rest = [("spent now" if tally.counts["done"] else "spent", usd(tally.spent_usd), "")]
    rest += [("projected", usd(projected), "red" if budget and projected > budget else "")] if projected else []
    rest += [("budget", usd(budget), "")] if budget else []
    rest += [("receiving", f"{size(tally.bytes_per_second(at))}/s", "")]
    return states, rest


class Display(ABC):
    """What all displays do: `with display: ... display.show(event)`."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe

    @property
    def broken(self) -> bool:
        """Whether the reader is gone. The display has been silent since."""
        return self._pipe.broken

    @abstractmethod
    def show(self, event: events.Event) -> None:
        """Take an event in. Never waits for anything but the stream itself, never raises for it."""

    @abstractmethod
    def tick(self, at: float) -> None:
        """Let time pass, to `at` in unix seconds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.flush()


class _Pipe:
    """A text stream that may break: from then on it swallows everything. It writes what its encoding lacks as ASCII."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.broken = False

    def isatty(self) -> bool:
        return not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            text = text.translate(_ASCII).encode(self.encoding, "replace").decode(self.encoding)
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        if not self.broken:
            try:
                action()
            except (OSError, ValueError):  # ValueError: the stream was closed
                self.broken = True


class _JsonLines(Display):
    def show(self, event: events.Event) -> None:
        self._pipe.write(json.dumps(events.as_dict(event)) + "\n")
        if not isinstance(event, events.Progress | events.Downloading):
            self._pipe.flush()

    def tick(self, at: float) -> None:
        self._pipe.flush()


class _Human(Display):
    """What plain lines and the live block share: which events are worth a line."""

    def __init__(self, pipe: _Pipe, *, quiet: bool, verbose: bool) -> None:
        super().__init__(pipe)
        self._tally = Tally()
        self._levels = {"problem"} if quiet else {"problem", "end", "fact"} if verbose else {"problem", "end"}

    def _worth(self, event: events.Event) -> _Note | None:
        note = _note(event)
        return note if note and note.level in self._levels else None


class _Plain(_Human):
    def __init__(self, pipe: _Pipe, *, quiet: bool, verbose: bool) -> None:
        super().__init__(pipe, quiet=quiet, verbose=verbose)
        self._quiet = quiet
        self._summed_at: float | None = None

    def show(self, event: events.Event) -> None:
        self._tally.fold(event)
        if note := self._worth(event):
            parts = [f"{note.word:<11}", _clip(note.subject), _clip(note.detail).strip()]
            self._say(event.at, "  ".join(part for part in parts if part))
        elif isinstance(event, events.Started) and not self._quiet:
            self._say(event.at, f"{'started':<11}  {_text(_opening(event))}")
        elif isinstance(event, events.Finished):
            lines = _closing(self._tally, event)
            for line in lines[:1] if self._quiet else lines:
                self._say(event.at, f"{'finished':<11}  {_text(line)}" if line is lines[0] else _text(line))
            return
        self.tick(event.at)

    def tick(self, at: float) -> None:
        if self._summed_at is None:
            self._summed_at = at
        elif at >= self._summed_at + _SUMMARY_SECONDS and not self._tally.finished:
            self._summed_at = at
            if not self._quiet:
                states, rest = _facts(self._tally, at)
                eta = self._tally.eta_seconds(at)
                parts = [f"{label} {value}" for label, value, _ in states + rest]
                self._say(at, f"{'summary':<11}  {', '.join(parts + ([] if eta is None else [f'ETA {about(eta)}']))}")

    def _say(self, at: float, text: str) -> None:
        self._pipe.write(f"{time.strftime('%H:%M:%S', time.localtime(at))}  {text.rstrip()}\n")
        self._pipe.flush()


def _text(line: Line) -> str:
    return "".join(text for text, _ in line)


class _Live(_Human):
    """A block at the bottom of the terminal, with the log above.

    Drawing costs about a millisecond, whatever the batch's size, and happens at most eight times a second: log lines
    wait for it too, so that a burst of 10,000 is one write. A block that hasn't changed is not drawn again.
    """

    def __init__(self, console: Console, pipe: _Pipe, *, verbose: bool, clock: Callable[[], float]) -> None:
        from rich.live import Live

        super().__init__(pipe, quiet=False, verbose=verbose)
        self._console = console
        self._clock = clock
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            vertical_overflow="crop",
            redirect_stdout=False,  # it may lead elsewhere
            redirect_stderr=sys.stderr.isatty(),  # a stray warning must not tear the block
        )
        self._drawn: Text | None = None
        self._drawn_at = float("-inf")
        self._at = 0.0
        self._log: list[Line] = []
        self._widths: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def show(self, event: events.Event) -> None:
        self._tally.fold(event)
        if isinstance(event, events.Started):
            self._log.append(_opening(event))
        elif note := self._worth(event):
            self._log.append(self._line(note))
        elif isinstance(event, events.Finished):
            self._log += [[], *_closing(self._tally, event)]
            self._close()
        self.tick(event.at)

    def tick(self, at: float) -> None:
        self._at = max(self._at, at)
        now = self._clock()
        if (
            self._tally.started
            and self._live.is_started
            and not self.broken
            and now - self._drawn_at >= _REFRESH_SECONDS
        ):
            self._drawn_at = now
            self._draw()

    def _draw(self) -> None:
        width, height = self._console.size
        block = _paint(self._block(min(width - 1, _WIDEST), height))
        if block != self._drawn or self._log:
            self._drawn = block
            with self._console:  # one write, whatever it holds
                self._live.update(block)
                self._flush_log()
                self._live.refresh()

    def _flush_log(self) -> None:
        if self._log:
            # Lines are left whole for the terminal to wrap: paths and commands get copied.
            self._console.print(_paint(self._log), soft_wrap=True)
            self._log.clear()

    def _close(self) -> None:
        self._live.stop()  # takes the block away
        self._flush_log()
        self._pipe.flush()

    def _line(self, note: _Note) -> Line:
        good = note.level != "problem"
        style = _STYLES.get(note.word, "" if good else "yellow")
        mark = {"stored": "✓", "failed": "✗", "missing": "✗"}.get(note.word, "·" if good else "!")
        if not note.detail:
            return [(f"{mark} ", style), (f"{note.word}: {_clip(note.subject)}", style)]
        subject = sanitise(note.subject)
        name = self._name(subject, self._console.width - 1)
        if note.word != "stored":
            name = max(name, subject, key=_cells)  # who has to look into it needs the whole name
            return [(f"{mark} ", style), (f"{name}  ", ""), (f"{note.word}: ", style), (_clip(note.detail), "")]
        if self._console.width < _NARROW:
            return [
                (f"{mark} ", style),
                (_fit(subject, self._console.width - 12), ""),
                (note.detail[:8], "dim"),
            ]
        return [(f"{mark} ", style), (f"{name}  ", ""), (note.detail, "dim")]

    def _column(self, name: str, text: str, most: int) -> str:
        """Columns grow to what they have held, and don't shrink again: what moves is read badly."""
        width = self._widths[name] = min(max(8, most), max(self._widths.get(name, 0), _cells(text)))
        return _fit(text, width)

    def _name(self, text: str, width: int) -> str:
        return self._column("name", text, max(14, min(36, width * 2 // 5)))

    def _block(self, width: int, height: int) -> list[Line]:
        tally, at = self._tally, self._at
        states, rest = _facts(tally, at)
        if tally.started:
            rest.append(("time", duration(at - tally.started.at), ""))
        lines = [[], self._overall(width), *self._flow(states, width), *self._flow(rest, width)]
        lines += [[(_fit(_limit(limit), width), "yellow")] for limit in tally.limits(at)]
        if tally.stopping is not None:
            still = sum(tally.counts[state] for state in IN_FLIGHT)
            lines.append([(_fit(f"stopping: {sanitise(tally.stopping)}; {still:,} still running", width), "yellow")])
        room = max(0, min(_MOST_ROWS, height - len(lines) - 2))
        rows = tally.advanced(room)
        lines += [self._row(job, width) for job in rows]
        more = sum(job.state != "uploaded" for job in tally.active.values()) - len(rows)
        if more > 0:
            lines.append([(f"+{more:,} more", "dim")])
        return lines[: max(1, height - 1)]

    def _overall(self, width: int) -> Line:
        tally = self._tally
        total = tally.jobs - tally.counts["skipped"]
        part = tally.over / total if total else 1.0
        eta = tally.eta_seconds(self._at)
        text = f"  {tally.over:,}/{total:,}  {int(100 * part)}%" + ("" if eta is None else f"  ETA {about(eta)}")
        text = self._column("overall", text, width)
        return [*_bar(part, max(0, width - _cells(text)), "green"), (text, "bold")]

    def _flow(self, facts: Iterable[tuple[str, str, str]], width: int) -> list[Line]:
        """As many facts a line as fit."""
        lines: list[Line] = [[]]
        used = 0
        for label, value, style in facts:
            value = self._column(label, value, width)
            needed = len(label) + 1 + _cells(value)
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
        style = _STYLES.get(job.state, "")
        line: Line = [(name, ""), (f"  {job.state:<11}", style)]
        room = width - _cells(name) - 13 - 14
        if room >= 8:
            line += [(" ", ""), *_bar((job.percent or 0) / 100, room, style)]
        return [*line, (f" {share:>4}", ""), (f" {age:>7}", "dim")] if room >= 0 else [*line, (f" {share:>4}", "")]


def _bar(part: float, width: int, style: str) -> Line:
    # Two glyphs, so that it can be read without colours too.
    filled = int(part * width)
    return [("━" * filled, style), ("─" * (width - filled), "dim")]


def _paint(lines: Iterable[Line]) -> Text:
    from rich.text import Text

    return Text("\n", no_wrap=True, overflow="crop").join(Text.assemble(*line) for line in lines)


def json_lines(stream: TextIO) -> Display:
    """A display for machines: each event as one JSON object a line, in ASCII, flushed as soon as it is a fact."""
    return _JsonLines(_Pipe(stream))


def plain(stream: TextIO, *, quiet: bool = False, verbose: bool = False) -> Display:
    """A display for logs: a line per finished job and a summary each minute.

    Args:
        stream: where to write.
        quiet: only problems, and one line at the end.
        verbose: a line for every fact.
    """
    return _Plain(_Pipe(stream), quiet=quiet, verbose=verbose)


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

    pipe = _Pipe(stream)
    console = Console(file=cast("TextIO", pipe), highlight=False)
    if quiet or not console.is_interactive:
        return _Plain(pipe, quiet=quiet, verbose=verbose)
    return _Live(console, pipe, verbose=verbose, clock=clock)
