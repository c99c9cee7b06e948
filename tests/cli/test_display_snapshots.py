"""What people see, as approved texts in `tests/data/display/`: `APPROVE=1 pytest tests/cli/test_display_snapshots.py`
writes them anew."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path

import pytest
from sample_events import failed, finished, limited, stopping, stored, unknown
from screen_model import ScreenModel
from simulated_run import simulated_run

from wan_async.cli import display_text, live_display
from wan_async.cli.display import plain
from wan_async.domain import events

DATA = Path(__file__).parents[1] / "data" / "display"
START = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM", "WT_SESSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TZ", "UTC")
    return monkeypatch


def names_of(jobs: int) -> dict[str, str]:
    groups = [("480P", "720P")[number % 2] for number in range(jobs)]
    return {
        f"holiday-2026-beach-sunset-over-the-harbour-{number // 2:04}-wide-angle-{group}-final": group
        for number, group in enumerate(groups)
    }


@lru_cache
def whole_run(jobs: int) -> list[events.Event]:
    return simulated_run(names_of(jobs), slots=min(8, jobs), percentages=True)


def events_until(part: float, jobs: int) -> Iterator[events.Event]:
    """A part of a run; the clips of the last seconds only, so that the block is seen and not the log."""
    stream = whole_run(jobs)
    last = stream[-1].at * part
    yield from (event for event in stream if event.at <= last)


def shown(jobs: int, width: int, terminal: pytest.MonkeyPatch, *, ended: bool = False) -> list[str]:
    terminal.setenv("COLUMNS", str(width))
    screen, clock = ScreenModel(width), Clock()
    with live_display.terminal(screen, clock=clock, groups=names_of(jobs)) as display:
        for event in events_until(1.0 if ended else 0.4, jobs):
            display.show(event)
        clock.now += 10
        display.tick(event.at)
        if ended:
            display.show(finished(at=event.at, stored=jobs, seconds=event.at))
        rows = screen.rows
    return rows[max(number for number, row in enumerate(rows) if not row and number < len(rows) - 1) :]


def approve(name: str, lines: list[str]) -> None:
    path = DATA / f"{name}.txt"
    text = "\n".join(lines).strip("\n") + "\n"
    if os.environ.get("APPROVE"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("jobs", "width"),
    [
        *product((3, 30), (40, 80, 120, 200)),
        (3000, 40),
        (3000, 120),
        pytest.param(3000, 80, marks=pytest.mark.slow),
        pytest.param(3000, 200, marks=pytest.mark.slow),
    ],
)
def test_the_block_of_a_run(jobs: int, width: int, terminal: pytest.MonkeyPatch) -> None:
    rows = shown(jobs, width, terminal)
    assert all(display_text.cells_of(row) < width for row in rows)
    approve(f"block-{jobs}-jobs-{width}-columns", rows)


@pytest.mark.parametrize("width", [40, 100])
def test_the_end_of_a_run(width: int, terminal: pytest.MonkeyPatch) -> None:
    approve(f"end-{width}-columns", shown(30, width, terminal, ended=True))


@pytest.mark.parametrize("jobs", [3, 3000])
def test_plain_lines_of_a_run(jobs: int) -> None:
    stdout = io.StringIO()
    with plain(stdout, groups=names_of(jobs)) as display:
        for event in events_until(0.5 if jobs == 3 else 0.01, jobs):
            display.show(event)
        display.show(unknown(next(iter(names_of(jobs))), at=event.at, decided_at=event.at + 100))
        display.show(failed("other", at=event.at))
        display.tick(event.at + 61)
        display.show(stopping(at=event.at + 62))
        display.tick(event.at + 65)
        display.show(finished(at=event.at + 70, stored=1, failed=1, exit_code=130))
    approve(f"plain-{jobs}-jobs", [line.split("  ", 1)[1] for line in stdout.getvalue().splitlines()])


def test_troubles_in_the_block(terminal: pytest.MonkeyPatch) -> None:
    terminal.setenv("COLUMNS", "100")
    screen, clock = ScreenModel(100), Clock()
    with live_display.terminal(screen, clock=clock, groups=names_of(30)) as display:
        for event in events_until(0.4, 30):
            display.show(event)
        at = event.at + 400  # the jobs that run are slow by then
        for event in (
            limited(96, at=at), limited(429, at=at, after=9), unknown("u", at=at, decided_at=at + 58), stopping(at=at),
        ):  # fmt: skip
            display.show(event)
        clock.now += 10
        display.tick(at)
        rows = screen.rows
    approve("troubles", rows[max(number for number, row in enumerate(rows) if not row) :])


@pytest.mark.parametrize("variable", ["NO_COLOR", "TERM"])
def test_without_colours_or_a_cursor_the_same_is_readable(variable: str, terminal: pytest.MonkeyPatch) -> None:
    terminal.setenv("COLUMNS", "80")
    terminal.setenv(variable, "1" if variable == "NO_COLOR" else "dumb")
    screen = io.StringIO()
    terminal.setattr(screen, "isatty", lambda: True)
    clock = Clock()
    with live_display.terminal(screen, clock=clock, groups=names_of(3)) as display:
        for event in events_until(1.0, 3):
            clock.now += 1
            display.show(event)
        display.show(finished(at=event.at, stored=3, seconds=event.at))
    text = screen.getvalue()
    assert "3 stored" in text
    if variable == "TERM":
        assert text.isprintable() or not any(char < " " and char != "\n" for char in text)
    else:
        assert "\x1b[3" not in text
        assert "━" in text


def test_a_terminal_that_became_narrower_shows_no_broken_lines(terminal: pytest.MonkeyPatch) -> None:
    terminal.setenv("COLUMNS", "120")
    screen, clock = ScreenModel(120), Clock()
    with live_display.terminal(screen, clock=clock, groups=names_of(30)) as display:
        for event in events_until(0.4, 30):
            display.show(event)
        for width in (60, 44, 100, 41):
            clock.now += 1
            display.tick(event.at)
            screen.resize(width)
            display._console.width = width  # type: ignore[attr-defined] # as the terminal would tell
            clock.now += 1
            display.tick(event.at)
            assert sum(row.startswith("waiting ") for row in screen.rows) == 1
            assert sum("spent $" in row for row in screen.rows) == 1
            assert len([row for row in screen.rows if "running" in row and "slow" not in row]) <= 10
        clock.now += 1
        display.show(stored("last", at=event.at))
        display.show(finished(at=event.at, stored=30))
        assert not any("waiting " in row for row in screen.rows)


@pytest.mark.parametrize(("term", "titled"), [("xterm-256color", True), ("tmux-256color", True), ("linux", False)])
def test_the_title_shows_the_progress_and_is_restored(term: str, titled: bool, terminal: pytest.MonkeyPatch) -> None:
    terminal.setenv("COLUMNS", "80")
    terminal.setenv("TERM", term)
    screen, clock = ScreenModel(80), Clock()
    with live_display.terminal(screen, clock=clock, groups=names_of(3)) as display:
        for event in events_until(1.0, 3):
            clock.now += 1
            display.show(event)
    if titled:
        assert screen.titles[0] == "saved"
        assert "33% 1/3 · wan-async" in screen.titles
        assert screen.titles[-2:] == ["", "restored"]
    else:
        assert not screen.titles
