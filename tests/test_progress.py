from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wan_async import events, progress
from wan_async import tally as tally_room
from wan_async.tally import Tally

OUT = "/out/clips"


class Screen(io.StringIO):
    """A terminal that remembers what was written, write by write."""

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


class Gone(io.StringIO):
    """A stream whose reader left."""

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
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def started(at: float = 0, jobs: int = 10, done: int = 0, unfinished: int | None = None, **more: Any) -> events.Started:
    fields: dict[str, Any] = {"output": OUT, "budget_usd": None, "concurrency": None} | more
    left = jobs - done if unfinished is None else unfinished
    return events.Started(at=at, run="r", jobs=jobs, done=done, unfinished=left, **fields)


def submitting(job: str, at: float = 0, attempt: int = 1, price: str | None = "0.04") -> events.Submitting:
    usd = None if price is None else Decimal(price)
    return events.Submitting(at=at, run="r", job=job, attempt=attempt, price_usd=usd)


def uploaded(job: str, at: float = 0) -> events.Uploaded:
    return events.Uploaded(at=at, run="r", job=job, attempt=0, bytes=2_000_000, url="https://x/y")


def accepted(job: str, at: float = 0, adopted: bool = False) -> events.Accepted:
    return events.Accepted(at=at, run="r", job=job, attempt=1, task_id="77", adopted=adopted)


def running(
    job: str, percent: float | None, at: float = 0, status: str = "task_output", attempt: int = 1
) -> events.Progress:
    return events.Progress(at=at, run="r", job=job, attempt=attempt, percent=percent, status=status)


def ended(job: str, cost: str | None = "0.04", at: float = 0, attempt: int = 1) -> events.Ended:
    usd = None if cost is None else Decimal(cost)
    return events.Ended(
        at=at, run="r", job=job, attempt=attempt, task_id="77", status="task_postprocess_end", pexit="0", cost_usd=usd
    )


def downloading(job: str, got: int, total: int | None = 1000, at: float = 0, attempt: int = 1) -> events.Downloading:
    return events.Downloading(at=at, run="r", job=job, attempt=attempt, bytes=got, total=total)


def stored(
    job: str, at: float = 0, cost: str | None = "0.04", size: int = 1000, file: str | None = None
) -> events.Stored:
    usd = None if cost is None else Decimal(cost)
    name = file or f"{job}.mp4"
    return events.Stored(
        at=at, run="r", job=job, attempt=1, file=name, bytes=size, sha256="00", cost_usd=usd, seconds=61
    )


def failed(job: str, message: str = "exit code 1", at: float = 0, billed: str | None = None) -> events.Failed:
    usd = None if billed is None else Decimal(billed)
    return events.Failed(
        at=at, run="r", job=job, attempt=1, kind="render", message=message, task_id="77", billed_usd=usd
    )


def retrying(job: str, at: float = 0) -> events.Retrying:
    return events.Retrying(at=at, run="r", job=job, attempt=1, reason="busy", after_seconds=5)


def unknown(job: str, at: float = 0) -> events.Unknown:
    return events.Unknown(at=at, run="r", job=job, attempt=1, task_id=None, reason="the connection closed")


def quarantined(job: str, at: float = 0) -> events.Quarantined:
    return events.Quarantined(at=at, run="r", job=job, attempt=1, task_id=None, reason="two tasks look alike")


def lost(job: str, at: float = 0) -> events.Lost:
    return events.Lost(at=at, run="r", job=job, attempt=1, task_id="77", reason="no output")


def cancelled(job: str, at: float = 0) -> events.Cancelled:
    return events.Cancelled(at=at, run="r", job=job, attempt=1, task_id="77", reason="from elsewhere")


def limited(code: int, at: float = 0, after: float | None = None, slots: int | None = None) -> events.Limited:
    return events.Limited(at=at, run="r", code=code, after_seconds=after, concurrency=slots)


def stopping(at: float = 0, reason: str = "interrupted") -> events.Stopping:
    return events.Stopping(at=at, run="r", reason=reason)


def problem(at: float = 0) -> events.Problem:
    return events.Problem(at=at, run="r", where="batch.yaml:3:7", message="no such file")


def finished(at: float = 0, exit_code: int = 0, **counts: Any) -> events.Finished:
    names = ("stored", "skipped", "failed", "cancelled", "lost", "unknown", "unfinished")
    fields: dict[str, Any] = dict.fromkeys(names, 0)
    fields |= {"jobs": 10, "spent_usd": Decimal("0.40"), "reserved_usd": Decimal(0), "seconds": 252.0, "resume": None}
    return events.Finished(at=at, run="r", exit_code=exit_code, **fields | counts)


def one_of_each(job: str = "a") -> list[events.Event]:
    return [
        started(budget_usd=Decimal(5), concurrency=8),
        uploaded(job), submitting(job), submitting("np", price=None), accepted(job), accepted("found", adopted=True),
        running(job, 40), retrying("b"), unknown("c"), quarantined("c"), lost("d"), cancelled("e"), failed("f"),
        limited(96, slots=8), limited(97), limited(429, after=9), limited(500), problem(), stopping(),
        ended(job), ended("np", cost=None), downloading(job, 500), stored(job), stored("np", cost=None),
        finished(exit_code=1, stored=2, failed=1, lost=1, cancelled=1, unknown=1, reserved_usd=Decimal("0.04")),
    ]  # fmt: skip


def tally_of(*stream: events.Event) -> Tally:
    tally = Tally()
    for event in stream:
        tally.fold(event)
    return tally


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
    with progress.terminal(screen, clock=clock, **options) as display:
        for event in stream:
            clock.now += 1
            display.show(event)
    return screen


def logged(stream: list[events.Event], **options: Any) -> list[str]:
    stdout = io.StringIO()
    with progress.plain(stdout, **options) as display:
        for event in stream:
            display.show(event)
    return [line.split("  ", 1)[1] for line in stdout.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0, "0s"), (59.9, "59s"), (62, "1m 02s"), (3840, "1h 04m"), (86400 * 3 + 4 * 3600, "3d 04h")],
)
def test_a_length_of_time_has_at_most_two_units(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "soon"), (41, "45s"), (62, "1m 10s"), (115, "2m"), (3810, "1h 04m"), (0, "soon")]
)
def test_a_time_to_go_is_rounded_up_to_what_can_be_known(seconds: float, text: str) -> None:
    assert progress.about(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "$0.00"), ("0.35", "$0.35"), ("0.035", "$0.035"), ("0.0000042", "$0.000004"), ("1234.5", "$1,234.50")],
)
def test_amounts_show_the_places_that_a_clips_price_needs(amount: str, text: str) -> None:
    assert progress.usd(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (999_999, "1.0 MB"), (5e15, "5000.0 TB")],
)
def test_sizes_are_decimal(count: float, text: str) -> None:
    assert progress.size(count) == text


@given(st.text())
def test_what_is_shown_never_steers_a_terminal(text: str) -> None:
    shown = progress.sanitise(text)
    assert shown.isprintable()
    assert len(shown) == len(text)


def test_control_characters_become_visible() -> None:
    assert progress.sanitise("a\x1b[2Jb\nc\u202ed\x9be\udcff\u00a0f") == "a�[2Jb�c�d�e� f"


jobs = st.sampled_from("abcde")
costs = st.sampled_from([None, "0", "0.04", "0.1"])
any_event: st.SearchStrategy[events.Event] = st.one_of(
    *(st.builds(make, jobs) for make in (uploaded, submitting, accepted, retrying, unknown, quarantined, lost)),
    st.builds(cancelled, jobs),
    st.builds(running, jobs, st.none() | st.floats(-5, 120), attempt=st.integers(0, 3)),
    st.builds(submitting, jobs, attempt=st.integers(1, 3), price=costs),
    st.builds(ended, jobs, costs, attempt=st.integers(1, 3)),
    st.builds(downloading, jobs, st.integers(0, 2000), st.none() | st.just(1000), st.floats(0, 50)),
    st.builds(stored, jobs, cost=costs),
    st.builds(failed, jobs, billed=costs),
    st.builds(limited, st.sampled_from([96, 97, 429])),
    st.builds(stopping),
)


@settings(deadline=None)
@given(st.integers(0, 8), st.integers(0, 3), st.lists(any_event, max_size=60))
def test_whatever_happens_each_job_is_in_one_state_and_no_number_is_negative(
    unfinished: int, done: int, stream: list[events.Event]
) -> None:
    tally = tally_of(started(jobs=unfinished + done + 1, done=done, unfinished=unfinished))
    for event in stream:
        before = tally.spent_usd
        tally.fold(event)
        assert all(count >= 0 for count in tally.counts.values())
        seen = len({event.job for event in stream if isinstance(event, events.JobEvent)})
        assert unfinished + done + 1 <= tally.jobs <= unfinished + done + 1 + seen
        assert sum(tally.counts[state] for state in tally_room.UNFINISHED if state != "waiting") == len(tally.active)
        assert tally.spent_usd >= 0
        assert tally.reserved_usd >= 0
        assert tally.bytes_per_second(50) >= 0
        assert (tally.eta_seconds(50) or 0) >= 0
        projected = tally.projected_usd()
        assert projected is None or projected >= tally.spent_usd
        if isinstance(event, events.Progress | events.Downloading):
            assert tally.spent_usd == before


def test_a_job_walks_through_its_states() -> None:
    tally = tally_of(started(jobs=5, done=1, unfinished=3))
    assert (tally.counts["waiting"], tally.counts["done"], tally.counts["skipped"]) == (3, 1, 1)
    walk: list[tuple[events.Event, tally_room.State]] = [
        (uploaded("a"), "uploaded"),
        (submitting("a"), "submitting"),
        (unknown("a"), "unknown"),
        (accepted("a"), "queued"),
        (running("a", None, status="task_queue"), "queued"),
        (running("a", None, status="task_start"), "running"),
        (retrying("a"), "retrying"),
        (running("a", 130), "running"),
        (ended("a"), "downloading"),
        (running("a", 99), "downloading"),
        (downloading("a", 500), "downloading"),
        (uploaded("a"), "downloading"),
    ]
    for event, state in walk:
        tally.fold(event)
        assert tally.active["a"].state == state
        assert tally.counts[state] == 1
    tally.fold(stored("a"))
    assert tally.counts["stored"] == 1
    assert tally.over == 2
    assert tally.jobs == 5


def test_samples_that_come_late_move_nothing_back() -> None:
    tally = tally_of(started(), submitting("a"), submitting("a", attempt=2), running("a", 90, attempt=1))
    assert tally.active["a"].state == "submitting"
    for late in (running("b", 5), downloading("b", 5)):
        done = tally_of(started(), stored("b"), late, ended("b"))
        assert done.counts["stored"] == 1
        assert not done.active


def test_a_quarantined_attempt_keeps_its_reservation_and_may_be_found_again() -> None:
    tally = tally_of(started(jobs=1), submitting("a"), unknown("a"), quarantined("a"))
    assert tally.reserved_usd == Decimal("0.04")
    assert tally.projected_usd() == Decimal("0.04")
    assert tally.reasons == {"a": ("quarantined", "two tasks look alike")}
    tally.fold(accepted("a"))
    assert (tally.counts["quarantined"], tally.counts["queued"], tally.reasons) == (0, 1, {})


def test_a_cost_counts_once_when_the_attempt_ends() -> None:
    tally = tally_of(started(jobs=2), submitting("a"), ended("a"), ended("a"), stored("a"))
    assert tally.spent_usd == Decimal("0.04")
    tally = tally_of(started(jobs=2), ended("a", cost=None), stored("a", cost="0.05"), ended("a", cost=None))
    assert tally.spent_usd == Decimal("0.05")
    tally = tally_of(started(jobs=2), ended("a", cost=None), failed("a", billed="0.06"), failed("a", billed="0.06"))
    assert tally.spent_usd == Decimal("0.06")
    tally = tally_of(started(jobs=2), ended("a", attempt=1), ended("a", attempt=2))
    assert tally.spent_usd == Decimal("0.08")


def test_a_clip_that_an_earlier_run_paid_for_is_not_paid_again() -> None:
    assert tally_of(started(), stored("a")).spent_usd == 0


def test_the_projection_is_spent_plus_the_average_cost_of_the_rest() -> None:
    assert tally_of(started(jobs=4)).projected_usd() is None
    assert tally_of(started(jobs=4), submitting("a")).projected_usd() == Decimal("0.16")
    tally = tally_of(started(jobs=4), ended("a", "0.03"), stored("a"), ended("b", "0.05"), ended("c", "0"), failed("c"))
    assert tally.projected_usd() == Decimal("0.12")
    tally.fold(stopping())
    assert tally.projected_usd() == Decimal("0.08")


def test_a_refused_run_releases_its_reservation_and_a_retried_poll_does_not() -> None:
    assert tally_of(started(), submitting("a"), retrying("a")).reserved_usd == 0
    assert tally_of(started(), submitting("a"), accepted("a"), retrying("a")).reserved_usd == Decimal("0.04")
    assert tally_of(started(), retrying("a")).reserved_usd == 0


def test_bytes_per_second_are_those_of_the_last_ten_seconds() -> None:
    tally = tally_of(started(), ended("a"), downloading("a", 1000, at=1), downloading("a", 51_000, at=2))
    tally.fold(downloading("a", 1000, at=3))  # began anew
    tally.fold(stored("a", at=3, size=51_000))
    tally.fold(downloading("b", 1, at=2))
    tally.fold(downloading("b", 1001, at=2, total=None))  # samples may come late
    assert tally.bytes_per_second(3.5) == pytest.approx(10_100)
    assert tally.bytes_per_second(30) == 0
    assert tally_of(started(), ended("a"), stored("a", at=3, size=70)).bytes_per_second(4) == pytest.approx(7)


def test_the_eta_shares_what_is_left_between_the_slots_in_use() -> None:
    tally = tally_of(started(jobs=12), *(submitting(job, at=0) for job in "abc"))
    assert tally.eta_seconds(60) is None
    tally.fold(stored("a", at=60))
    tally.fold(submitting("d", at=60))
    # d has 60 s left, b and c should be done; 8 wait: (60 + 8 * 60) / 3
    assert tally.eta_seconds(60) == pytest.approx(180)
    tally.fold(stopping())
    assert tally.eta_seconds(60) == pytest.approx(60)


def test_the_eta_takes_half_a_job_for_one_that_an_earlier_run_began() -> None:
    tally = tally_of(started(jobs=2), submitting("a"), stored("a", at=60), accepted("b", at=60, adopted=True))
    assert tally.eta_seconds(60) == pytest.approx(30)
    tally.fold(stored("b", at=70))
    assert tally.eta_seconds(70) is None


def test_limits_are_in_force_for_their_time_and_a_low_balance_until_a_task_is_accepted() -> None:
    tally = tally_of(started(), limited(429, at=0, after=5), limited(96, at=0), limited(97, at=0))
    assert [limit.code for limit in tally.limits(4)] == [96, 97, 429]
    assert [limit.code for limit in tally.limits(20)] == [96, 97]
    assert [limit.code for limit in tally.limits(1e9)] == [97]
    tally.fold(accepted("a", adopted=True))
    assert tally.limits(1e9)
    tally.fold(accepted("b"))
    assert not tally.limits(1e9)


def test_the_most_advanced_jobs_come_first_and_small_steps_swap_nobody() -> None:
    tally = tally_of(started(), uploaded("u"), submitting("s"), accepted("q"), running("r", 52), running("p", 55))
    tally.fold(ended("d"))
    assert [job.job for job in tally.advanced(9)] == ["d", "r", "p", "q", "s"]
    assert [job.job for job in tally.advanced(2)] == ["d", "r"]


def test_json_lines_are_the_events_one_object_a_line() -> None:
    stdout = io.StringIO()
    stream = one_of_each("北京\n\x1b")
    with progress.json_lines(stdout) as display:
        for event in stream:
            display.show(event)
        display.tick(1)
    lines = stdout.getvalue().splitlines()
    assert [json.loads(line) for line in lines] == [events.as_dict(event) for event in stream]
    assert stdout.getvalue().isascii()
    assert not display.broken


def test_json_lines_are_flushed_as_soon_as_they_are_facts() -> None:
    class Raw(io.RawIOBase):
        written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.written += bytes(data)
            return len(data)

    raw = Raw()
    display = progress.json_lines(io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8"))
    display.show(running("a", 5))
    assert not raw.written
    display.show(accepted("a"))
    assert raw.written.count(b"\n") == 2
    display.show(running("a", 6))
    display.tick(1)
    assert raw.written.count(b"\n") == 3


def test_json_and_plain_lines_do_without_rich() -> None:
    code = """if True:
        import io, sys
        from wan_async import progress
        progress.json_lines(io.StringIO()), progress.plain(io.StringIO())
        assert not any(name.split(".")[0] == "rich" for name in sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "EIO"), ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("make", [progress.json_lines, progress.plain, progress.terminal])
def test_a_display_whose_reader_left_goes_silent_and_raises_nothing(
    make: Any, error: Exception, wide: pytest.MonkeyPatch
) -> None:
    gone = Gone(error)
    with make(gone) as display:
        for event in one_of_each():
            display.show(event)
            display.tick(1e6)
    assert display.broken
    assert gone.attempts == 1


def test_a_stream_closed_beforehand_is_a_broken_one(wide: pytest.MonkeyPatch) -> None:
    closed = Screen()
    closed.close()
    with progress.terminal(closed) as display:
        display.show(started())
    assert display.broken


def test_a_stream_that_lacks_the_glyphs_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with progress.plain(stream) as display:
        display.show(started())
        display.show(stored("a", file="北京.mp4"))
        display.show(finished(stored=1))
    text = raw.getvalue().decode("ascii")
    assert "> /out/clips" in text
    assert "??.mp4" in text
    assert "+ 1 stored" in text
    assert not display.broken


def test_plain_lines_tell_the_start_each_end_and_the_summary() -> None:
    lines = logged(
        [started(jobs=1, budget_usd=Decimal(5)), submitting("a"), stored("a"), failed("b"), finished(stored=1)]
    )
    assert lines == [
        "started      1 job · 1 to do · budget $5.00 → /out/clips",
        "stored       a.mp4  1.0 kB    $0.04   1m 01s",
        "failed       b  render: exit code 1",
        "finished     ✓ 1 stored · $0.40 spent · 4m 12s",
        "  1 failed: render: exit code 1",
        "    b",
        "  clips in /out/clips",
    ]


def test_plain_lines_carry_the_time_of_day_of_their_event() -> None:
    stdout = io.StringIO()
    progress.plain(stdout).show(started(at=1_000_000))
    assert stdout.getvalue().startswith(time.strftime("%H:%M:%S  ", time.localtime(1_000_000)))


def test_quiet_lines_are_problems_and_the_last_one() -> None:
    stream = one_of_each()
    words = [line.split(" ")[0] for line in logged(stream, quiet=True)]
    assert words == [
        "quarantined", "lost", "cancelled", "failed", "limited", "problem", "stopping", "finished",
    ]  # fmt: skip
    assert not logged([started(), uploaded("a", 70), uploaded("b", 140)], quiet=True)


def test_verbose_lines_tell_every_fact() -> None:
    lines = logged(one_of_each(), verbose=True)
    words = {line.split(" ")[0] for line in lines[: len(lines) - 3]}
    assert words > {
        "uploaded", "submitting", "accepted", "adopted", "retrying", "unknown", "limited", "ended", "stored",
    }  # fmt: skip


def test_plain_lines_sum_up_each_minute_that_has_passed() -> None:
    stdout = io.StringIO()
    display = progress.plain(stdout)
    for event in (started(jobs=3, budget_usd=Decimal(5)), submitting("a"), ended("a", at=30), stored("a", at=30)):
        display.show(event)
    display.tick(59)
    assert "summary" not in stdout.getvalue()
    display.show(submitting("b", at=60))
    display.tick(119)
    assert stdout.getvalue().count("summary") == 1
    assert (
        "waiting 1, queued 1, running 0, downloading 0, stored 1, spent $0.04, projected $0.12, budget $5.00, "
        "receiving 0 B/s, ETA 1m" in stdout.getvalue()
    )
    display.tick(120)
    assert stdout.getvalue().count("summary") == 2
    display.show(finished(at=130))
    display.tick(500)
    assert stdout.getvalue().count("summary") == 2


def test_a_page_of_html_is_not_a_message() -> None:
    line = logged([failed("a", "x" * 100_000)])[0]
    assert len(line) < 400
    assert line.endswith("…")


def test_the_summary_groups_reasons_and_fits_a_screen() -> None:
    many = [failed(f"j{i}", "exit code 1") for i in range(100)]
    others = [failed(f"k{i}", f"reason {i}") for i in range(50)]
    counts: dict[str, Any] = {
        "stored": 3,
        "failed": 150,
        "skipped": 2,
        "unfinished": 1,
        "resume": "python -m wan_async run b.yaml",
    }
    lines = logged([started(), *many, *others, finished(exit_code=1, **counts)])[-14:]
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
        "  clips in /out/clips",
        "  go on with python -m wan_async run b.yaml",
    ]


def test_the_summary_of_a_run_that_never_started_stands_alone() -> None:
    assert logged([finished(exit_code=2)]) == ["finished     ! 0 stored · $0.40 spent · 4m 12s"]


def test_the_block_shows_the_run_at_a_glance(wide: pytest.MonkeyPatch) -> None:
    stream = [
        started(jobs=4, done=1, budget_usd=Decimal(5)), submitting("a"), ended("a"), stored("a", at=60),
        submitting("koala", at=60), running("koala", 62, at=80), limited(96, at=80, after=60, slots=8), stopping(at=81),
    ]  # fmt: skip
    last = played(stream).bare()
    assert "━─" in last
    for piece in (
        "  2/4  50%  ETA 40s", "waiting 1", "running 1", "stored 2", "spent now $0.04", "projected $0.08",
        "budget $5.00", "receiving ", "time 1m 20s", "account limit reached (96): 8 at once",
        "stopping: interrupted; 1 still running",
    ):  # fmt: skip
        assert piece in last
    assert re.search(r"koala +running +━+─+ +62% +20s", last)


def test_log_lines_stand_above_the_block_in_columns(wide: pytest.MonkeyPatch) -> None:
    text = played([started(), stored("a"), stored("longer-name"), failed("b"), *one_of_each()[1:]], verbose=True).bare()
    lines = [line for line in text.splitlines() if line.startswith(("✓ ", "✗ ", "! ", "· "))]
    assert "✓ a.mp4    1.0 kB    $0.04   1m 01s" in lines
    assert "✓ longer-name.mp4    1.0 kB    $0.04   1m 01s" in lines
    assert "✗ b                failed: render: exit code 1" in lines
    assert "! stopping: interrupted" in lines
    assert "· limited: rate limit reached (429)" in lines
    assert "· limited: held back (500)" in lines


def test_names_of_what_went_wrong_are_never_cut(wide: pytest.MonkeyPatch) -> None:
    text = played([started(), failed("n" * 120), stored("s" * 120)]).bare()
    assert "✗ " + "n" * 120 + "  failed: render: exit code 1" in text
    assert "✓ " + "s" * 18 + "…" in text


def test_the_end_takes_the_block_away_and_leaves_the_summary(wide: pytest.MonkeyPatch) -> None:
    long = "python -m wan_async run " + "x" * 200
    screen = played([started(), submitting("a"), finished(exit_code=130, unfinished=10, resume=long)])
    last = screen.writes[-1]
    assert "! 0 stored · 10 left to do · $0.40 spent · 4m 12s" in bare(last)
    assert f"go on with {long}\n" in bare(last)
    assert "waiting" not in bare(last)
    assert "\x1b[?25h" in screen.getvalue()


def test_leaving_without_an_end_restores_the_cursor_and_loses_no_line(wide: pytest.MonkeyPatch) -> None:
    screen = Screen()
    with progress.terminal(screen, clock=Clock()) as display:
        display.show(problem())
        display.tick(5)
        assert "no such file" not in screen.getvalue()
    assert "batch.yaml:3:7" in screen.getvalue()
    assert "problem: no such file" in screen.bare()
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l")


def test_it_draws_at_most_eight_times_a_second_and_only_what_changed(wide: pytest.MonkeyPatch) -> None:
    screen, clock = Screen(), Clock()
    with progress.terminal(screen, clock=clock) as display:
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
def test_the_block_fits_its_terminal(width: int, height: int, wide: pytest.MonkeyPatch) -> None:
    wide.setenv("COLUMNS", str(width))
    wide.setenv("LINES", str(height))
    names = ["北京の朝" * 9, "a-very-long-name-of-a-job-480P-seed-42", "short", "日é́本"] + [f"j{i}" for i in range(30)]
    screen, clock = Screen(), Clock()
    with progress.terminal(screen, clock=clock) as display:
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
    assert all(progress._cells(line) < width for line in block)
    assert any(re.search(r"\+[\d,]+ more", line) for line in block) == (height > 8)
    assert "1.0 kB" in screen.bare()


def test_nothing_shown_is_markup_or_an_escape(wide: pytest.MonkeyPatch) -> None:
    evil = "\x1b]0;owned\x07[red]x[/red] :smile:\r\n\u202e\x9b2J"
    stream: list[events.Event] = [
        started(output=evil), submitting(evil), running(evil, 5), stopping(reason=evil), failed(evil, evil),
        events.Problem(at=0, run="r", where=evil, message=evil), stored("a", file=evil), lost(evil),
        finished(exit_code=1, failed=1, resume=evil),
    ]  # fmt: skip
    for options in ({}, {"verbose": True}, {"quiet": True}):
        for text in (played(stream, **options).getvalue(), "\n".join(logged(stream, **options))):
            assert "[red]x[/red] :smile:" in bare(text)
            assert not re.search(r"[\x07\x9b\u202e]|\x1b\]", text)
            assert not any("owned" in line and line.strip().startswith("[") for line in bare(text).splitlines())


def test_without_colours_the_bar_still_shows(wide: pytest.MonkeyPatch) -> None:
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


def test_a_batch_that_is_done_needs_no_division(wide: pytest.MonkeyPatch) -> None:
    assert "0/0  100%" in played([started(jobs=0)]).bare()


def test_fifty_thousand_jobs_cost_next_to_nothing(wide: pytest.MonkeyPatch) -> None:
    tally = tally_of(started(jobs=50_000))
    begin = time.process_time()
    for number in range(50_000):
        job = f"j{number}"
        for event in (submitting(job), stored(job)):
            tally.fold(event)
    assert tally.counts["stored"] == 50_000
    assert time.process_time() - begin < 10
