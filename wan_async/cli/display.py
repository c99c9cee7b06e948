"""A run's events as JSON lines or as plain lines."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TextIO

from wan_async.cli.display_text import (
    Note,
    eta_text,
    facts_of,
    note_of,
    notices_of,
    opening_line,
    summary_lines,
    text_of,
    truncate,
)
from wan_async.cli.statistics import IN_FLIGHT, Retries, Statistics
from wan_async.domain import events

ASCII_ONLY = str.maketrans({"✓": "+", "✗": "x", "━": "=", "─": "-", "…": "~", "→": ">", "·": "-", "\ufffd": "?"})
_STOPPING_SECONDS = 2.0
"""A run that stops says after so long what it still waits for."""


class Display(ABC):
    """Shows a run's events: `with display: ... display.show(event)`."""

    def __init__(self, pipe: PipeWriter) -> None:
        self._pipe = pipe

    @property
    def broken(self) -> bool:
        """Whether writing has failed; the display has written nothing since."""
        return self._pipe.broken

    @abstractmethod
    def show(self, event: events.Event) -> None:
        """Take an event in. It waits for nothing but the stream, and a stream that fails is no exception."""

    @abstractmethod
    def tick(self, at: float) -> None:
        """Update what depends on time alone; `at` is now, in unix seconds."""

    def close(self) -> None:
        """Write out what is buffered, and restore the terminal."""
        self._pipe.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PipeWriter:
    """A text stream that drops all output once writing has failed; what its encoding lacks is written as ASCII."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._broken = False
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    @property
    def broken(self) -> bool:
        """Whether writing has failed."""
        return self._broken

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        """The file descriptor of the stream."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write text; characters that the encoding lacks are replaced."""
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            text = text.translate(ASCII_ONLY).encode(self.encoding, "replace").decode(self.encoding)
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write out what is buffered."""
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        if not self._broken:
            try:
                action()
            except (OSError, ValueError):  # ValueError: the stream was closed
                self._broken = True


class _JsonLines(Display):
    def show(self, event: events.Event) -> None:
        self._pipe.write(json.dumps(events.as_dict(event)) + "\n")
        if not isinstance(event, events.Progress | events.Downloading):
            self._pipe.flush()

    def tick(self, at: float) -> None:
        self._pipe.flush()


class HumanDisplay(Display):
    """What plain lines and the live block share: statistics, and which events get a line."""

    def __init__(
        self,
        pipe: PipeWriter,
        *,
        quiet: bool,
        verbose: bool,
        groups: Mapping[str, str] | None = None,
        retries: Retries | None = None,
    ) -> None:
        super().__init__(pipe)
        self._statistics = Statistics(groups, retries)
        self._levels = {"problem"} if quiet else {"problem", "end", "fact"} if verbose else {"problem", "end"}

    def _shown_note(self, event: events.Event) -> Note | None:
        note = note_of(event)
        return note if note and note.level in self._levels else None


class PlainLines(HumanDisplay):
    """A line for each event of the chosen level, and a summary each minute."""

    def __init__(
        self,
        pipe: PipeWriter,
        *,
        quiet: bool,
        verbose: bool,
        summary_seconds: float = 60.0,
        groups: Mapping[str, str] | None = None,
        retries: Retries | None = None,
    ) -> None:
        super().__init__(pipe, quiet=quiet, verbose=verbose, groups=groups, retries=retries)
        self._quiet = quiet
        self._summary_seconds = summary_seconds
        self._summed_at: float | None = None
        self._stopping_at: float | None = None

    def show(self, event: events.Event) -> None:
        """Write the event's line."""
        self._statistics.fold(event)
        if note := self._shown_note(event):
            parts = [f"{note.word:<11}", truncate(note.subject), truncate(note.detail).strip()]
            self._say(event.at, "  ".join(part for part in parts if part))
        elif isinstance(event, events.Started) and not self._quiet:
            self._say(event.at, f"{'started':<11}  {text_of(opening_line(event))}")
        elif isinstance(event, events.Finished):
            self._stopping_at = None
            lines = summary_lines(self._statistics, event)
            for line in lines[:1] if self._quiet else lines:
                self._say(event.at, f"{'finished':<11}  {text_of(line)}" if line is lines[0] else text_of(line))
            return
        if isinstance(event, events.Stopping):
            self._stopping_at = event.at
        self.tick(event.at)

    def tick(self, at: float) -> None:
        """Write a summary when one is due, and what a run that stops still waits for."""
        if self._summed_at is None:
            self._summed_at = at
        if self._stopping_at is not None and at >= self._stopping_at + _STOPPING_SECONDS:
            self._stopping_at = None
            self._say_what_is_left(at)
        elif at >= self._summed_at + self._summary_seconds and not self._statistics.finished:
            self._summed_at = at
            if not self._quiet:
                states, rest = facts_of(self._statistics, at)
                parts = [f"{label} {value}" for label, value, _ in states + rest]
                parts += [eta_text(eta)] if (eta := self._statistics.eta(at)) is not None else []
                self._say(at, f"{'summary':<11}  {', '.join(parts)}")
                for notice in notices_of(self._statistics, at):
                    self._say(at, f"{'':<11}  {notice}")

    def _say_what_is_left(self, at: float) -> None:
        tasks = sum(self._statistics.counts[state] for state in IN_FLIGHT)
        unknown = self._statistics.counts["unknown"]
        parts = [f"{tasks:,} task{'s' * (tasks != 1)} to end and be downloaded"] if tasks else []
        parts += [f"{unknown:,} Run{'s' * (unknown != 1)} without an answer to be looked up"] if unknown else []
        parts += [eta_text(eta)] if (eta := self._statistics.eta(at)) is not None else []
        if parts:
            self._say(at, f"{'waiting':<11}  for {', '.join(parts)}")

    def _say(self, at: float, text: str) -> None:
        self._pipe.write(f"{time.strftime('%H:%M:%S', time.localtime(at))}  {text.rstrip()}\n")
        self._pipe.flush()


def json_lines(stream: TextIO) -> Display:
    """A display for programs: each event as one JSON object a line, in ASCII. Facts are flushed, samples buffered."""
    return _JsonLines(PipeWriter(stream))


def plain(
    stream: TextIO,
    *,
    quiet: bool = False,
    verbose: bool = False,
    summary_seconds: float = 60.0,
    groups: Mapping[str, str] | None = None,
    retries: Retries | None = None,
) -> Display:
    """A display for logs: a line per finished job and a summary each minute.

    Args:
        stream: where to write.
        quiet: only problems, and one line at the end.
        verbose: a line for every fact.
        summary_seconds: how often to write a summary.
        groups: which jobs cost and last alike, by name and in batch order.
        retries: how failed jobs are tried again.
    """
    pipe, every = PipeWriter(stream), summary_seconds
    return PlainLines(pipe, quiet=quiet, verbose=verbose, summary_seconds=every, groups=groups, retries=retries)
