from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_events import (
    accepted,
    cancelled,
    downloading,
    ended,
    failed,
    finished,
    limited,
    missing,
    problem,
    quarantined,
    retrying,
    running,
    started,
    stopping,
    stored,
    submitting,
    unknown,
    uploaded,
)

from wan_async.cli import display_text, live_display
from wan_async.cli.display import json_lines, plain
from wan_async.cli.display_text import Whole, cells_of, folded, text_of
from wan_async.domain import events


class Screen(io.StringIO):
    """A terminal that records each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)

    def bare(self) -> str:
        return bare(self.getvalue())


class BrokenStream(io.StringIO):
    """A terminal on which every write fails."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.attempts = 0
        self.error = error or BrokenPipeError(32, "Broken pipe")

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.attempts += 1
        raise self.error


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def bare(text: str) -> str:
    """Without escape sequences and titles; those hold nothing but our own numbers and words."""
    text = re.sub(r"\x1b\]0;(?:\d+% [\d,/]+(?: · stopping)? · wan-async)?\x07", "", text)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def one_of_each(job: str = "a") -> list[events.Event]:
    return [
        started(budget_usd=Decimal(5), concurrency=8),
        uploaded(job), submitting(job), submitting("np", price=None), accepted(job), accepted("found", adopted=True),
        running(job, 40), retrying("b"), unknown("c"), quarantined("c"), missing("d"), cancelled("e"), failed("f"),
        limited(96, slots=8), limited(97), limited(429, after=9), limited(500), problem(), stopping(),
        ended(job), ended("np", cost=None), downloading(job, 500), stored(job), stored("np", cost=None),
        finished(exit_code=1, stored=2, failed=1, missing=1, cancelled=1, unknown=1, reserved_usd=Decimal("0.04")),
    ]  # fmt: skip


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    return monkeypatch


def played(stream: list[events.Event], **options: Any) -> Screen:
    screen, clock = Screen(), Clock()
    with live_display.terminal(screen, clock=clock, **options) as display:
        for event in stream:
            clock.now += 1
            display.show(event)
    return screen


def logged(stream: list[events.Event], **options: Any) -> list[str]:
    stdout = io.StringIO()
    with plain(stdout, **options) as display:
        for event in stream:
            display.show(event)
    return [line.split("  ", 1)[1] for line in stdout.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0, "0s"), (59.9, "59s"), (62, "1m 02s"), (3840, "1h 04m"), (86400 * 3 + 4 * 3600, "3d 04h")],
)
def test_a_duration_has_at_most_two_units(seconds: float, text: str) -> None:
    assert display_text.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "soon"), (41, "45s"), (62, "1m 10s"), (115, "2m"), (3810, "1h 04m"), (0, "soon")]
)
def test_a_remaining_time_is_rounded_up(seconds: float, text: str) -> None:
    assert display_text.about(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "$0.00"), ("0.35", "$0.35"), ("0.035", "$0.035"), ("0.0000042", "$0.000004"), ("1234.5", "$1,234.50")],
)
def test_amounts_have_the_decimal_places_that_a_clip_price_needs(amount: str, text: str) -> None:
    assert display_text.usd(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (999_999, "1.0 MB"), (5e15, "5000.0 TB")],
)
def test_sizes_are_decimal(count: float, text: str) -> None:
    assert display_text.size(count) == text


@given(st.text())
def test_displayed_text_contains_no_control_characters(text: str) -> None:
    shown = display_text.sanitise(text)
    assert shown.isprintable()
    assert len(shown) == len(text)


def test_control_characters_are_replaced() -> None:
    assert display_text.sanitise("a\x1b[2Jb\nc\u202ed\x9be\udcff\u00a0f") == "a�[2Jb�c�d�e� f"


def test_json_lines_are_the_events_one_object_a_line() -> None:
    stdout = io.StringIO()
    stream = one_of_each("北京\n\x1b")
    with json_lines(stdout) as display:
        for event in stream:
            display.show(event)
        display.tick(1)
    lines = stdout.getvalue().splitlines()
    assert [json.loads(line) for line in lines] == [events.as_dict(event) for event in stream]
    assert stdout.getvalue().isascii()
    assert not display.broken


def test_json_lines_are_flushed_after_a_fact_and_on_a_tick() -> None:
    class Raw(io.RawIOBase):
        written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.written += bytes(data)
            return len(data)

    raw = Raw()
    display = json_lines(io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8"))
    display.show(running("a", 5))
    assert not raw.written
    display.show(accepted("a"))
    assert raw.written.count(b"\n") == 2
    display.show(running("a", 6))
    display.tick(1)
    assert raw.written.count(b"\n") == 3


def test_json_and_plain_output_do_not_import_rich() -> None:
    code = """if True:
        import io, sys
        from wan_async.cli import display
        display.json_lines(io.StringIO()), display.plain(io.StringIO())
        assert not any(name.split(".")[0] == "rich" for name in sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "EIO"), ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("make", [json_lines, plain, live_display.terminal])
def test_a_display_on_a_broken_stream_stops_writing_and_raises_nothing(
    make: Any, error: Exception, wide: pytest.MonkeyPatch
) -> None:
    broken = BrokenStream(error)
    with make(broken) as display:
        for event in one_of_each():
            display.show(event)
            display.tick(1e6)
    assert display.broken
    assert broken.attempts == 1


def test_a_stream_that_is_closed_beforehand_counts_as_broken(wide: pytest.MonkeyPatch) -> None:
    closed = Screen()
    closed.close()
    with live_display.terminal(closed) as display:
        display.show(started())
    assert display.broken


def test_a_stream_that_lacks_the_glyphs_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with plain(stream) as display:
        display.show(started())
        display.show(stored("a", file="北京.mp4"))
        display.show(finished(stored=1))
    text = raw.getvalue().decode("ascii")
    assert "> /out/clips" in text
    assert "??.mp4" in text
    assert "+ 1 stored" in text
    assert not display.broken


def test_plain_lines_report_the_start_each_end_and_the_summary() -> None:
    lines = logged(
        [
            started(jobs=1, budget_usd=Decimal(5)),
            submitting("a"),
            stored("a"),
            failed("b"),
            finished(stored=1, failed=1),
        ]
    )
    assert lines == [
        "started      1 job · 1 to do, cost unknown · budget $5.00 → /out/clips",
        "stored       a.mp4  1.0 kB    $0.04   1m 01s",
        "failed       b  render: exit code 1",
        "finished     ✗ 1 stored · 1 failed · $0.40 spent · 4m 12s",
        "  1 failed: render: exit code 1",
        "    b",
        "  try failed ones again with --retry-failed",
        "  clips in /out/clips",
    ]


def test_the_summary_names_retry_flags_and_the_clips_folder_only_where_they_apply() -> None:
    lines = logged([started(), finished(exit_code=1, stored=0, failed=0, cancelled=2, missing=1)])
    assert lines[1:] == [
        "finished     ✗ 0 stored · 2 cancelled · 1 missing · $0.40 spent · 4m 12s",
        "  try failed ones again with --retry-failed",
        "  the next run asks for missing clips again; render them again, and pay again, with --rerender",
    ]
    choices = ("--adopt", "--ignore-unowned")
    lines = logged([started(), finished(exit_code=5, unfinished=2, resume="run b", choices=choices)])
    assert [line.split()[0] for line in lines[-3:]] == ["--adopt", "--ignore-unowned", "resume"]
    assert "pays nothing" in lines[-3]
    assert "may pay twice" in lines[-2]
    lines = logged([started(), finished(exit_code=6, stored=0, unfinished=3)])
    assert lines[1:] == ["finished     ! 0 stored · 3 left to do · $0.40 spent · 4m 12s"]


def test_plain_lines_start_with_the_local_time_of_their_event() -> None:
    stdout = io.StringIO()
    plain(stdout).show(started(at=1_000_000))
    assert stdout.getvalue().startswith(time.strftime("%H:%M:%S  ", time.localtime(1_000_000)))


def test_quiet_output_is_the_problems_and_the_summary() -> None:
    stream = one_of_each()
    kinds = [line.split(" ")[0] for line in logged(stream, quiet=True)]
    assert kinds == [
        "quarantined", "missing", "cancelled", "failed", "limited", "problem", "stopping", "finished",
    ]  # fmt: skip
    assert not logged([started(), uploaded("a", 70), uploaded("b", 140)], quiet=True)


def test_verbose_output_has_a_line_for_every_fact() -> None:
    lines = logged(one_of_each(), verbose=True)
    kinds = {line.split(" ")[0] for line in lines[: len(lines) - 3]}
    assert kinds > {
        "uploaded", "submitting", "accepted", "adopted", "retrying", "unknown", "limited", "ended", "stored",
    }  # fmt: skip


def test_plain_output_has_a_progress_summary_every_minute() -> None:
    stdout = io.StringIO()
    display = plain(stdout)
    for event in (started(jobs=3, budget_usd=Decimal(5)), submitting("a"), ended("a", at=30), stored("a", at=30)):
        display.show(event)
    display.tick(59)
    assert "summary" not in stdout.getvalue()
    display.show(submitting("b", at=60))
    display.tick(119)
    assert stdout.getvalue().count("summary") == 1
    assert (
        "waiting 1, queued 1, running 0, downloading 0, stored 1, failed 0, spent $0.04, projected $0.12, "
        "budget $5.00, slots 1, receiving 0 B/s, clips/min 1.0, ETA 35s to 1m 30s" in stdout.getvalue()
    )
    display.tick(120)
    assert stdout.getvalue().count("summary") == 2
    display.show(finished(at=130))
    display.tick(500)
    assert stdout.getvalue().count("summary") == 2


def test_a_long_message_is_truncated() -> None:
    line = logged([failed("a", "x" * 100_000)])[0]
    assert len(line) < 400
    assert line.endswith("…")


def test_the_summary_groups_reasons_and_limits_its_length() -> None:
    many = [failed(f"j{i}", "exit code 1") for i in range(100)]
    others = [failed(f"k{i}", f"reason {i}") for i in range(50)]
    counts: dict[str, Any] = {
        "stored": 3,
        "failed": 150,
        "skipped": 2,
        "unfinished": 1,
        "resume": "python -m wan_async run b.yaml",
    }
    lines = logged([started(), *many, *others, finished(exit_code=1, **counts)])[-15:]
    assert lines == [
        "finished     ✗ 3 stored · 2 done before · 150 failed · 1 left to do · $0.40 spent · 4m 12s",
        "  100 failed: render: exit code 1",
        "    j0, j1, j2, …",
        "  1 failed: render: reason 0",
        "    k0",
        "  1 failed: render: reason 1",
        "    k1",
        "  1 failed: render: reason 2",
        "    k2",
        "  1 failed: render: reason 3",
        "    k3",
        "  and 46 more, for other reasons (46)",
        "  try failed ones again with --retry-failed",
        "  clips in /out/clips",
        "  resume with python -m wan_async run b.yaml",
    ]


def test_the_summary_of_a_run_that_never_started_is_one_line() -> None:
    assert logged([finished(exit_code=2)]) == ["finished     ! 0 stored · $0.40 spent · 4m 12s"]


def test_the_whole_reason_of_a_stop_is_on_screen_once(wide: pytest.MonkeyPatch) -> None:
    stop = stopping(at=81, reason="Ctrl-C: nothing more is submitted (again to leave)")
    shown = played([started(jobs=1), submitting("a"), running("a", 62, at=80), stop]).bare()
    assert "stopping, 1 still running: Ctrl-C" in shown
    assert "still running: Ctrl-C:" not in shown
    assert "Ctrl-C: nothing more is submitted (again to leave)" in shown


def test_the_live_block_shows_counts_costs_limits_and_active_jobs(wide: pytest.MonkeyPatch) -> None:
    stream = [
        started(jobs=4, done=1, budget_usd=Decimal(5)), submitting("a"), ended("a"), stored("a", at=60),
        submitting("koala", at=60), running("koala", 62, at=80), limited(96, at=80, after=60, slots=8), stopping(at=81),
    ]  # fmt: skip
    last = played(stream).bare()
    assert "━─" in last
    for piece in (
        "  2/4  50%  time 1m 2", "  ETA ", "waiting 1", "running 1", "stored 2", "spent now $0.04",
        "projected $0.08", "budget $5.00", "receiving ", "slots 1/8", "clips/min 0.8", "failed 0",
        "other programs use the account's limit (96): next try in 1m", "stopping, 1 still running: interrupted",
    ):  # fmt: skip
        assert piece in last
    assert re.search(r"koala +running +━+─+ +62% +20s", last)


def test_log_lines_are_printed_above_the_block_in_columns(wide: pytest.MonkeyPatch) -> None:
    text = played([started(), stored("a"), stored("longer-name"), failed("b"), *one_of_each()[1:]], verbose=True).bare()
    lines = [line for line in text.splitlines() if line.startswith(("✓ ", "✗ ", "! ", "· "))]
    assert "✓   1.0 kB    $0.04   1m 01s  a.mp4" in lines
    assert "✓   1.0 kB    $0.04   1m 01s  longer-name.mp4" in lines
    assert "✗ b  failed: render: exit code 1" in lines
    assert "! stopping: interrupted" in lines
    assert "· limited: rate limit reached (429): next request in 9s" in lines
    assert "· limited: held back (500)" in lines


def test_names_in_the_log_are_never_cut(wide: pytest.MonkeyPatch) -> None:
    text = played([started(), failed("n" * 120), stored("s" * 120)]).bare()
    assert "✗ " + "n" * 120 + "\n    failed: render: exit code 1" in text
    assert "s" * 120 + ".mp4" in text


def test_long_lines_are_broken_at_blanks_and_commands_stay_whole() -> None:
    line = [("· ", "dim"), ("clips are in the folder ", ""), (Whole("/a folder/with blanks"), "bold"), (" now", "dim")]
    for width in (20, 30, 60, 100):
        parts = [text_of(part) for part in folded(line, width)]
        assert all(cells_of(part) <= width for part in parts if "/a folder" not in part or width > 24)
        assert any("/a folder/with blanks" in part for part in parts)
        assert " ".join(part.strip() for part in parts).split() == text_of(line).split()
    assert folded(line, 100) == [line]


def test_a_run_that_is_left_says_what_becomes_of_its_tasks(wide: pytest.MonkeyPatch) -> None:
    end = finished(exit_code=130, stored=0, unfinished=2, resume="wan-async run b.yaml")
    text = played([started(), submitting("a"), running("a", 3), running("b", 4), end]).bare()
    assert "2 tasks go on at the service" in " ".join(text.split())
    assert "resume with wan-async run b.yaml" in " ".join(text.split())


def test_what_a_stopping_run_waits_for_is_never_cut(wide: pytest.MonkeyPatch) -> None:
    wide.setenv("COLUMNS", "60")
    reason = "Ctrl-C: nothing more is submitted; what runs is finished and downloaded (again to leave)"
    text = played([started(), running("a", 3), stopping(reason=reason)]).bare()
    assert reason in " ".join(text.split())
    assert "…" not in text


def test_at_the_end_the_summary_replaces_the_block(wide: pytest.MonkeyPatch) -> None:
    long = "python -m wan_async run " + "x" * 200
    screen = played([started(), submitting("a"), finished(exit_code=130, unfinished=10, resume=long)])
    last = screen.writes[-2]  # the very last one restores the title
    assert "! 0 stored · 10 left to do · $0.40 spent · 4m 12s" in bare(last)
    assert f"resume with {long}\n" in bare(last)
    assert "waiting" not in bare(last)
    assert "\x1b[?25h" in screen.getvalue()


def test_closing_before_the_end_restores_the_cursor_and_prints_pending_lines(wide: pytest.MonkeyPatch) -> None:
    screen = Screen()
    with live_display.terminal(screen, clock=Clock()) as display:
        display.show(started())
        display.show(problem())
        display.tick(5)
        assert "no such file" not in screen.getvalue()
    assert "batch.yaml:3:7" in screen.getvalue()
    assert "problem: no such file" in screen.bare()
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l")


def test_the_block_is_drawn_at_most_eight_times_a_second_and_only_if_it_changed(wide: pytest.MonkeyPatch) -> None:
    screen, clock = Screen(), Clock()
    with live_display.terminal(screen, clock=clock) as display:
        display.show(started(jobs=5000))
        before = len(screen.writes)
        for number in range(1000):
            clock.now = number / 1000
            display.show(stored(f"j{number}"))
        assert len(screen.writes) - before <= 8
        clock.now = 2
        display.tick(0)
        before = len(screen.writes)
        clock.now = 3
        display.tick(0)
        assert len(screen.writes) == before
        clock.now = 4
        display.tick(1)
        assert len(screen.writes) > before
    assert "j999.mp4" in screen.getvalue()


@pytest.mark.parametrize(("width", "height"), [(40, 24), (40, 8), (59, 12), (80, 24), (200, 50)])
def test_the_block_fits_the_terminal(width: int, height: int, wide: pytest.MonkeyPatch) -> None:
    wide.setenv("COLUMNS", str(width))
    wide.setenv("LINES", str(height))
    names = ["北京の朝" * 9, "a-very-long-name-of-a-job-480P-seed-42", "short", "日é́本"] + [f"j{i}" for i in range(60)]
    screen, clock = Screen(), Clock()
    with live_display.terminal(screen, clock=clock) as display:
        display.show(started(jobs=50_000, budget_usd=Decimal(5000)))
        for name in names:
            display.show(submitting(name))
            display.show(running(name, 33))
        display.show(running("adopted", 3))
        display.show(limited(96, slots=8))
        display.show(stopping())
        clock.now += 1
        display.tick(3)
        block = screen.bare().rsplit("\r", 1)[-1].splitlines()
        clock.now += 1
        display.show(stored("short", file="short-and-then-rather-long-after-all.mp4"))
    assert len(block) <= height
    assert all(display_text.cells_of(line) < width for line in block)
    assert any(re.search(r"\+[\d,]+ more", line) for line in block) == (height > 8)
    assert "1.0 kB" in screen.bare()


def test_displayed_text_is_never_interpreted_as_markup_or_escapes(wide: pytest.MonkeyPatch) -> None:
    evil = "\x1b]0;owned\x07[red]x[/red] :smile:\r\n\u202e\x9b2J"
    stream: list[events.Event] = [
        started(output=evil), submitting(evil), running(evil, 5), stopping(reason=evil), failed(evil, evil),
        events.Problem(at=0, run="r", where=evil, message=evil), stored("a", file=evil), missing(evil),
        finished(exit_code=1, failed=1, resume=evil),
    ]  # fmt: skip
    for options in ({}, {"verbose": True}, {"quiet": True}):
        for text in (played(stream, **options).getvalue(), "\n".join(logged(stream, **options))):
            assert "[red]x[/red] :smile:" in bare(text)
            assert not re.search(r"[\x07\x9b\u202e]|\x1b\]", bare(text))
            assert not any("owned" in line and line.strip().startswith("[") for line in bare(text).splitlines())


def test_without_colours_the_progress_bar_is_still_visible(wide: pytest.MonkeyPatch) -> None:
    wide.setenv("NO_COLOR", "1")
    text = played([started(jobs=2), stored("a"), submitting("b")]).getvalue()
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)
    assert "━─" in bare(text)


@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_plain_lines(name: str, wide: pytest.MonkeyPatch) -> None:
    wide.setenv("TERM", name)
    text = played([started(), submitting("a"), stored("a"), finished(stored=1)]).getvalue()
    assert "\x1b" not in text
    assert "stored       a.mp4" in text


def test_a_quiet_terminal_gets_no_block(wide: pytest.MonkeyPatch) -> None:
    text = played([started(), stored("a"), finished(stored=1)], quiet=True).getvalue()
    assert text.count("\n") == 1
    assert "\x1b" not in text


def test_an_empty_batch_is_shown_as_complete(wide: pytest.MonkeyPatch) -> None:
    assert "0/0  100%" in played([started(jobs=0)]).bare()


def test_warnings_appear_above_the_block_before_the_run_has_started(wide: pytest.MonkeyPatch) -> None:
    screen, clock = Screen(), Clock()
    wide.setattr(sys, "stderr", terminal := Screen())
    with live_display.terminal(screen, clock=clock) as display:
        print("warning: no connection: trying again\x1b[2J", file=sys.stderr)
        display.tick(1)
        assert "warning: no connection: trying again�[2J" in screen.bare()
        print("half a line", end="", file=sys.stderr)
    assert "half a line\n" in screen.bare()
    assert sys.stderr is terminal
    assert not terminal.getvalue()


def test_the_first_line_says_what_the_run_will_cost() -> None:
    def first(**fields: Any) -> str:
        return display_text.text_of(display_text.opening_line(started(**fields)))

    group = events.PriceGroup(name="480P", to_do=3, price_usd=Decimal("0.02"), unsettled=0, unsettled_usd=Decimal(0))
    assert first(jobs=3, estimate_usd=Decimal("0.06"), groups=(group,)) == "3 jobs · 3 to do, about $0.06 → /out/clips"
    assert "3 to do, about $0.06 · 2 of them changed" in first(
        jobs=3, estimate_usd=Decimal("0.06"), groups=(group,), changed=2
    )
    other = dataclasses.replace(group, name="720P", to_do=1, price_usd=Decimal("0.05"))
    assert first(
        jobs=9, to_do=4, estimate_usd=Decimal("0.11"), groups=(group, other), done=1, to_fetch=2, duplicates=1
    ) == (
        "9 jobs · 4 to do, about $0.11 (3 x 480P at $0.02, 1 x 720P at $0.05) · 2 submitted before, to fetch · "
        "1 duplicate of others · 1 done before · 1 not in this run → /out/clips"
    )
    assert (
        first(jobs=2, done=2, estimate_usd=Decimal(0)) == "2 jobs · nothing new to pay for · 2 done before → /out/clips"
    )


def test_a_run_that_did_nothing_has_spent_nothing() -> None:
    end = finished(skipped=3, run_usd=Decimal(0), spent_usd=Decimal("0.71"), seconds=1.0)
    assert logged([started(jobs=3, done=3), end])[1] == (
        "finished     ✓ 0 stored · 3 done before · nothing spent ($0.71 with earlier runs) · 1s"
    )


def test_the_summary_names_the_gallery_speed_and_the_cost_by_resolution(tmp_path: Path) -> None:
    (tmp_path / "gallery.html").touch()
    groups = {"a": "480P", "b": "720P", "c": "720P"}
    stdout = io.StringIO()
    with plain(stdout, groups=groups) as display:
        display.show(started(jobs=3, output=str(tmp_path)))
        for job, seconds, cost in (("a", 10, "0.02"), ("b", 40, "0.05"), ("c", 30, "0.05")):
            display.show(submitting(job, at=0, price=cost))
            display.show(ended(job, cost, at=seconds))
            display.show(stored(job, at=seconds))
        display.show(finished(at=40, stored=3, seconds=40.0))
    assert "4.5 clips a minute · median 30s · slowest 40s (b)" in stdout.getvalue()
    assert "480P: $0.02 for 1 · 720P: $0.10 for 2" in stdout.getvalue()
    assert f"look at them in {tmp_path / 'gallery.html'}" in stdout.getvalue()


def test_plain_lines_say_within_seconds_what_a_stopping_run_waits_for() -> None:
    stdout = io.StringIO()
    with plain(stdout) as display:
        for event in (started(jobs=9), submitting("a"), submitting("b"), unknown("u"), stopping(at=1)):
            display.show(event)
        assert "waiting" not in stdout.getvalue()
        display.tick(3)
        assert "waiting      for 2 tasks to end and be downloaded, 1 Run without an answer" in stdout.getvalue()
        display.tick(9)
        assert stdout.getvalue().count("waiting ") == 1
