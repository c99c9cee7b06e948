"""The page during a run: written when something changed, seldom enough, and never to the harm of the run."""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reviews import PICK, judge
from sample_events import started
from servers import in_process, sandbox_server, write_batch

from wan_async.batch.plan import prepare
from wan_async.batch.reader import read_batch
from wan_async.cli import gallery_in_object_store
from wan_async.cli.gallery_updates import (
    MANY_JOBS,
    PAUSE_SECONDS,
    STALE_SECONDS,
    GalleryUpdates,
    is_stale,
    pause_after,
)
from wan_async.domain import events
from wan_async.errors import Unusable
from wan_async.gallery import page
from wan_async.journal.base import FILE, FOLDER
from wan_async.output_locations import OutputUrl

SECONDS = 20
"""Longest wait for a thread."""


def stored(job: str = "cat") -> events.Stored:
    return events.Stored(
        at=1.0, run="r", job=job, attempt=1, file=f"{job}.mp4", bytes=1, sha256="5ha", cost_usd=None, seconds=1.0
    )


def sampled() -> events.Progress:
    return events.Progress(at=1.0, run="r", job="cat", attempt=1, percent=50, status="task_start")


def finished(run: str = "r") -> events.Finished:
    values: dict[str, Any] = dict.fromkeys(
        ["exit_code", "jobs", "stored", "skipped", "failed", "cancelled", "missing", "unknown", "unfinished"], 0
    )
    values |= dict.fromkeys(["run_usd", "spent_usd", "reserved_usd"], 0)
    return events.Finished(at=1.0, run=run, seconds=1.0, resume=None, **values)


class Pages:
    """Counts the pages that are written, and lets a test decide when a pause is over."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.written: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.pauses: queue.SimpleQueue[float] = queue.SimpleQueue()
        self.go_on: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.error: Exception | None = None
        (output / FOLDER).mkdir(parents=True)
        (output / FOLDER / FILE).touch()

    def keeper(self) -> GalleryUpdates:
        return GalleryUpdates(self.output, self.write, self.pause)

    def write(self, output: Path, is_running: bool) -> None:
        self.written.put("running" if is_running else "ended")
        if self.error is not None:
            raise self.error

    def pause(self, seconds: float) -> bool:
        self.pauses.put(seconds)
        return self.go_on.get(timeout=SECONDS)

    def next_write(self) -> str:
        return self.written.get(timeout=SECONDS)


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    return Pages(tmp_path / "out")


def test_what_changes_during_a_pause_is_one_page_after_it(pages: Pages) -> None:
    with pages.keeper() as keeper:
        keeper.observe(stored("a"))
        assert pages.next_write() == "running"
        assert pages.pauses.get(timeout=SECONDS) >= PAUSE_SECONDS
        for job in "bcd":
            keeper.observe(stored(job))
        assert pages.written.empty()
        pages.go_on.put(False)
        pages.next_write()
        pages.pauses.get(timeout=SECONDS)
        pages.go_on.put(True)
    assert pages.written.empty()


def test_samples_are_no_reason_to_write(pages: Pages) -> None:
    with pages.keeper() as keeper:
        for _ in range(100):
            keeper.observe(sampled())
    assert pages.written.empty()


def test_at_the_end_of_each_run_the_page_is_there_when_the_last_event_is_shown(pages: Pages) -> None:
    with pages.keeper() as keeper:
        for run in ("pilot", "rest"):
            keeper.observe(finished(run))
            assert pages.written.get_nowait() == "ended"
            keeper.observe(finished(run))  # it is shown twice: to the display, and to who started the run
            assert pages.written.empty()


def test_after_a_pilot_the_page_is_kept_up_to_date_again(pages: Pages) -> None:
    pages.go_on.put(True)
    with pages.keeper() as keeper:
        keeper.observe(stored("a"))
        pages.next_write()
        pages.pauses.get(timeout=SECONDS)
        keeper.observe(finished("pilot"))
        pages.next_write()
        keeper.observe(stored("b"))
        pages.next_write()
        pages.pauses.get(timeout=SECONDS)
        pages.go_on.put(True)


def test_a_large_page_is_not_written_anew_if_nothing_changed(pages: Pages) -> None:
    page_of_ours = pages.output / page.NAME
    with pages.keeper() as keeper:
        for run, jobs, has_page, is_written in [
            ("a", MANY_JOBS, False, True),
            ("b", MANY_JOBS, True, False),
            ("c", MANY_JOBS - 1, True, True),
        ]:
            page_of_ours.unlink(missing_ok=True)
            if has_page:
                page_of_ours.write_text('<meta name="generator" content="wan_async">')
            keeper.observe(started(jobs=jobs, done=jobs))
            keeper.observe(finished(run))
            assert pages.written.empty() is not is_written
            if is_written:
                pages.next_write()


def test_a_large_page_is_written_anew_for_another_batch(pages: Pages) -> None:
    (pages.output / page.NAME).write_text('<meta name="generator" content="wan_async">')
    with GalleryUpdates(pages.output, pages.write, pages.pause, same_batch=False) as keeper:
        keeper.observe(started(jobs=MANY_JOBS, done=MANY_JOBS))
        keeper.observe(finished())
    assert pages.next_write() == "ended"


def test_a_page_is_stale_if_a_killed_run_a_command_or_a_review_came_after_it(tmp_path: Path) -> None:
    output, written = tmp_path / "out", tmp_path / "out" / page.NAME
    batch = write_batch(tmp_path, [{"id": "cat", "prompt": "it yawns"}])
    with sandbox_server() as server:
        assert in_process("run", batch, "-o", output, env=server.env).returncode == 0
    assert not is_stale(output)
    made = written.stat().st_mtime
    verdicts = output / "verdicts.json"
    verdicts.write_text("{}")
    assert is_stale(output)
    verdicts.unlink()
    os.utime(written, (made - 60, made - 60))
    assert is_stale(output), "its journal has changed since"
    page.write(output, is_running=True)
    assert is_stale(output), "it would reload itself for ever"
    written.unlink()
    assert is_stale(output)


def test_a_batch_is_that_of_the_last_run_unless_a_job_a_content_or_the_order_differs(tmp_path: Path) -> None:
    jobs, out = [{"id": "cat", "prompt": "it yawns"}, {"id": "dog", "prompt": "it runs"}], tmp_path / "out"
    batch = write_batch(tmp_path, jobs)

    def is_enrolled() -> bool:
        return prepare(read_batch(batch), out / FOLDER).is_enrolled

    assert not is_enrolled()
    with sandbox_server() as server:
        assert in_process("run", batch, "-o", out, env=server.env).returncode == 0
    assert is_enrolled()
    for others in (jobs[:1], jobs[::-1], [jobs[0] | {"prompt": "it sleeps"}, jobs[1]]):
        write_batch(tmp_path, others)
        assert not is_enrolled()


@pytest.mark.parametrize("took", [0.0, 0.1, 1.0, 30.0])
def test_pages_take_a_twentieth_of_the_time_at_most(took: float) -> None:
    assert pause_after(took) >= max(PAUSE_SECONDS, 20 * took)


@pytest.mark.parametrize("error", [Unusable("the disk is full"), RuntimeError("a bug"), OSError("gone")])
def test_a_page_that_can_not_be_written_is_said_once(
    pages: Pages, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    pages.error = error
    with pages.keeper() as keeper, caplog.at_level(logging.WARNING):
        for run in "abc":
            keeper.observe(finished(run))
    assert len(caplog.records) == 1
    assert str(error) in caplog.text


@pytest.mark.parametrize(
    "spoil", [lambda out: (out / "gallery.html").write_text("mine"), lambda out: (out / FOLDER / FILE).unlink()]
)
def test_another_page_and_a_folder_without_a_journal_are_left_alone(
    pages: Pages, spoil: Callable[[Path], object]
) -> None:
    spoil(pages.output)
    with pages.keeper() as keeper:
        keeper.observe(finished())
    assert pages.written.empty()


def test_what_killed_processes_left_is_removed(pages: Pages) -> None:
    old, new, other = (pages.output / f"gallery.html.{name}" for name in ("0a1b.tmp", "2c3d.tmp", "txt"))
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (path.stat().st_mtime - 2 * STALE_SECONDS,) * 2)
    with pages.keeper():
        assert {path.name for path in pages.output.glob("gallery*")} == {new.name, other.name}


def test_a_run_leaves_a_page_and_names_it(tmp_path: Path) -> None:
    batch = write_batch(tmp_path, [{"id": "cat", "prompt": "it yawns"}, {"id": "dog", "prompt": "it runs"}])
    written = tmp_path / "out" / page.NAME
    with sandbox_server() as server:
        done = in_process("run", batch, "-o", tmp_path / "out", env=server.env)
        assert done.returncode == 0, done.stderr
        assert f"look at them in {written}" in done.stdout
        assert "cat.mp4" in written.read_text()
        written.unlink()
        judge(tmp_path / "out", tmp_path / "out" / "verdicts-out.json", cat=PICK | {"note": "the tail"})
        (tmp_path / "out" / "verdicts-damaged.json").write_text("{")
        done = in_process("run", batch, "-o", tmp_path / "out", env=server.env)
        assert (done.returncode, "the tail" in written.read_text()) == (0, False), "what is wrong is said by `gallery`"
        (tmp_path / "out" / "verdicts-damaged.json").unlink()
        written.unlink()
        done = in_process("run", batch, "-o", tmp_path / "out", env=server.env)
        assert "the tail" in written.read_text()
        assert "cat.mp4" in written.read_text(), "also if nothing was left to do"
        done = in_process("generate", "-p", "rain", "-o", tmp_path / "single" / "rain.mp4", env=server.env)
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "single" / page.NAME).exists(), "a single clip's folder may be anyone's"


@pytest.mark.parametrize(
    ("code", "stored", "is_put"), [(0, 1, True), (3, 1, True), (0, 0, False), (6, 1, False), (130, 1, False)]
)
def test_the_page_of_a_store_is_put_at_the_end_of_a_run_that_has_clips_and_reached_it(
    code: int, stored: int, is_put: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gallery_in_object_store, "put_page", lambda output, *_: f"{output}/gallery.html")
    end = replace(finished(), exit_code=code, stored=stored)
    gallery_in_object_store.put_at_end(OutputUrl("s3://bucket/clips"), Path("home"), end, quiet=False)
    assert ("look at them in s3://bucket/clips/gallery.html\n" in capsys.readouterr().out) is is_put


def test_a_page_that_a_store_refuses_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> str:
        raise Unusable("no such bucket")

    monkeypatch.setattr(gallery_in_object_store, "put_page", refuse)
    gallery_in_object_store.put_at_end(
        OutputUrl("s3://bucket/clips"), Path("home"), replace(finished(), stored=1), quiet=False
    )
    assert "no such bucket" in caplog.text
    assert capsys.readouterr().out == ""
