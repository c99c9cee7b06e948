"""Keeps `OUT/gallery.html` up to date during a run, and writes it at the end of every run.

It listens to the run's events. A thread writes the page when something changed, at most every `PAUSE_SECONDS`, and so
seldom that it takes a twentieth of a core also where a page takes long to write. A page that can't be written is a
warning, never a fault of the run. A page that is not ours is left alone.

At the end of a run that changed nothing, a page of many jobs that is there stays as it is, unless something changed
since it was written: it takes 0.1 ms a job to write, time that a run with nothing to do would not take otherwise.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from wan_async import errors
from wan_async.batch import output_check
from wan_async.cli.retry_advice import has_odd_kind
from wan_async.cli.verdict_files import PATTERN, verdicts_for
from wan_async.domain import events
from wan_async.journal.base import FILE, FOLDER
from wan_async.journal.render_times import last_change
from wan_async.journal.stored_clips import stored_clips

PAUSE_SECONDS = 5.0
PAUSE_FACTOR = 20
"""How much longer the pause after a write is at least than the write took."""
MANY_JOBS = 20_000
HEAD_BYTES = 128 * 1024
"""What a page says about its run is in its first bytes, after the style."""
STALE_SECONDS = 60.0
"""Unfinished pages of processes that were killed are at least as old when they are removed."""
CHANGES = (
    events.Accepted,
    events.Ended,
    events.Stored,
    events.Unknown,
    events.Quarantined,
    events.Missing,
    events.Cancelled,
    events.Failed,
)

log: logging.Logger = logging.getLogger(__name__)

Write = Callable[[Path, bool], object]
"""Writes the page of a folder, given whether the run goes on."""
Pause = Callable[[float], bool]
"""Waits for some seconds, or less if the run ends; returns whether it has ended."""


def pause_after(seconds: float) -> float:
    """The seconds to wait after a write that took `seconds`."""
    return max(PAUSE_SECONDS, PAUSE_FACTOR * seconds)


class GalleryUpdates:
    """Writes the page of a run's output folder. Use it as a context manager around the run.

    Args:
        output: the output folder.
        same_batch: whether the batch is that of the last run.
        write: writes the page of a folder; by default the gallery's own function.
        pause: waits between two writes; by default for real.
    """

    def __init__(
        self, output: Path, write: Write | None = None, pause: Pause | None = None, *, same_batch: bool = True
    ) -> None:
        self._output = output
        self._same_batch = same_batch
        self._write: Write = write or _write_page
        self._is_over = threading.Event()
        self._pause = pause or self._is_over.wait
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None
        self._written: set[str] = set()
        self._jobs = 0
        self._has_changed = False
        self._said: str | None = None

    def __enter__(self) -> GalleryUpdates:
        _sweep(self._output, time.time())
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def observe(self, event: events.Event) -> events.Event:
        """Note that something changed; at a run's last event, write the page, which the summary names then."""
        if isinstance(event, events.Started):
            self._jobs, self._has_changed = event.jobs, False
        elif isinstance(event, CHANGES):
            self._has_changed = True
            self._changed.set()
            if self._thread is None:
                self._is_over.clear()
                self._thread = threading.Thread(target=self._work, name="gallery", daemon=True)
                self._thread.start()
        elif isinstance(event, events.Finished) and event.run not in self._written:
            self._written.add(event.run)
            self._stop()
            if self._has_changed or self._jobs < MANY_JOBS or not self._same_batch or is_stale(self._output):
                self._try_to_write(is_running=False)
        return event

    def _stop(self) -> None:
        self._is_over.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while True:
            self._changed.wait()
            if self._is_over.is_set():
                return
            self._changed.clear()
            began = time.monotonic()
            self._try_to_write(is_running=True)
            if self._pause(pause_after(time.monotonic() - began)):
                return

    def _try_to_write(self, *, is_running: bool) -> None:
        has_journal = (self._output / FOLDER / FILE).exists()  # a run may end before it has one
        try:
            if has_journal and output_check.is_our_gallery(self._output / output_check.GALLERY):
                self._write(self._output, is_running)
        except errors.WanError as error:
            self._warn(error.message)
        except Exception as error:
            log.debug("the gallery could not be written", exc_info=True)
            self._warn(f"{type(error).__name__}: {error}")

    def _warn(self, reason: str) -> None:
        if reason != self._said:
            log.warning("the gallery could not be written: %s", reason)
        self._said = reason


def is_stale(output: Path) -> bool:
    """Whether a page lacks something that a process which was killed, or another command, has changed."""
    page, has_journal = output / output_check.GALLERY, (output / FOLDER / FILE).exists()
    try:
        written_at = page.stat().st_mtime
        with page.open("rb") as file:
            was_running = b'"running":true' in file.read(HEAD_BYTES)
        verdicts = max((path.stat().st_mtime for path in output.glob(PATTERN)), default=0.0)
        changed_at = last_change(output / FOLDER) if has_journal else None
    except (OSError, errors.Unusable):
        return True  # what is wrong is said when it is written
    return was_running or written_at <= max(verdicts, changed_at or 0.0)


def _write_page(output: Path, is_running: bool) -> None:
    """Write the page with the verdicts that are in the folder."""
    from wan_async.gallery.page import write  # what it needs is loaded when the run goes on already

    verdicts = None
    if any(output.glob(PATTERN)):
        with suppress(errors.InvalidBatch):  # what is wrong with them is said by `gallery` and `pick`
            verdicts = verdicts_for(output, stored_clips(output), None)
    write(output, verdicts=verdicts, is_running=is_running, is_often_refused=has_odd_kind)


def _sweep(output: Path, now: float) -> None:
    """Removes what killed processes left of pages."""
    for path in output.glob(f"{output_check.GALLERY}.*{output_check.TEMPORARY}"):
        with suppress(OSError):
            if now - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
