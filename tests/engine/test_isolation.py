"""Unexpected exceptions: only their own job is affected, and the last event matches the journal."""

from __future__ import annotations

import errno
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from harness import World, make_sandbox, text_jobs, virtually, within
from pictures import png

from wan_async.domain.job import Job
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.reconciler import Reconciler
from wan_async.engine.tracker import Tracker
from wan_async.journal.sql_journal import SqlJournal
from wan_async.outputs.local import LocalStore

HOUR = 3600.0
ERRORS: list[Callable[[], Exception]] = [
    ZeroDivisionError,
    lambda: UnicodeError("label empty or too long"),
    lambda: OSError(errno.EMFILE, "Too many open files"),
    lambda: RuntimeError("can't start new thread"),
    lambda: ExceptionGroup("several", [ValueError("x"), KeyError("y")]),
    lambda: UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"),
    lambda: MemoryError("not this time"),
    lambda: RecursionError("too deep"),
]
API = ("run", "detail", "list_tasks", "upload", "turn")
DOWNLOADER = ("fetch",)
STORE = ("publish", "replace")
JOURNAL = (
    "claim", "intent", "accepted", "ended", "part", "checked", "stored", "clips", "upload_of", "uploaded", "echoed",
    "project_seen",
)  # fmt: skip


@dataclass
class Breaking(World):
    """A world in which the first calls of one method raise.

    Attributes:
        where: the object, see `CASES`.
        name: the method.
        left: number of calls that still raise.
        met: number of calls that raised.
    """

    where: str = ""
    name: str = ""
    error: Callable[[], Exception] = ZeroDivisionError
    left: int = 1
    met: int = field(default=0)

    def dependencies(self) -> Dependencies:
        made = super().dependencies()
        target = {"api": made.api, "downloader": made.downloader}.get(self.where)
        if target is not None:
            self.break_at(target)
        return made

    @asynccontextmanager
    async def _open_journal(self, *args: Any, **options: Any) -> AsyncIterator[SqlJournal]:
        async with super()._open_journal(*args, **options) as journal:
            if self.where == "journal":
                self.break_at(journal)
            yield journal

    def break_at(self, target: object) -> None:
        inner = getattr(target, self.name)

        async def broken(*args: Any, **options: Any) -> Any:
            if self.left:
                self.left -= 1
                self.met += 1
                raise self.error()
            result = inner(*args, **options)
            return await result if inspect.isawaitable(result) else result

        setattr(target, self.name, broken)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Job]:
    """Four jobs with an image each."""
    made = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        path.write_bytes(png(bytes([number]) * 50))
        made.append(Job(id=f"job-{number}", prompt=f"scene {number}", image=path))
    return made


CASES = [
    pytest.param(
        where,
        name,
        ERRORS[number % len(ERRORS)],
        times,
        id=f"{where}.{name}-{times}",
        marks=pytest.mark.slow if number % 2 == (times == 1) else (),
    )
    for where, names in (("api", API), ("downloader", DOWNLOADER), ("store", STORE), ("journal", JOURNAL))
    for number, name in enumerate(names)
    for times in (1, 3)
]


@pytest.mark.virtual_time
@pytest.mark.parametrize(("where", "name", "error", "times"), CASES)
async def test_an_unexpected_exception_affects_its_own_job_only(
    tmp_path: Path,
    pictures: list[Job],
    where: str,
    name: str,
    error: Callable[[], Exception],
    times: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Breaking(tmp_path, make_sandbox(), where=where, name=name, error=error, left=0)
    if where == "store":
        monkeypatch.setattr(LocalStore, name, getattr(LocalStore, name))  # restored after the test
        world.break_at(LocalStore)
    if name == "clips":  # called only for attempts of an earlier run
        await world.run_until(5.5, pictures)
    world.left = times
    finished = await within(HOUR, world.run(pictures, settle_seconds=5))
    assert world.met, "it was never called"
    assert finished == world.events[-1]
    stored = finished.stored + finished.skipped
    assert stored == len(world.clips) - (world.met if name in ("stored", "replace") else 0)
    if (where, name) in (("api", "list_tasks"), ("api", "turn")):  # the first contact fails
        assert finished.exit_code == 6
    else:
        assert stored >= len(pictures) - times
        assert finished.exit_code in ((0,) if stored == len(pictures) else (1, 5))
    world.left = 0
    finished = await within(HOUR, world.run(pictures, settle_seconds=5))
    assert (finished.exit_code, len(world.clips), world.tasks) == (0, 4, 4)
    assert world.leftovers == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Tracker, "_next_poll"),
        (Tracker, "_read_list"),
        (Reconciler, "_judge"),
        (Reconciler, "_glance"),
        (Reconciler, "_look_for"),
    ],
)
def test_a_background_service_is_restarted_after_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: type, name: str
) -> None:
    inner, met = getattr(kind, name), list[int]()

    def broken(self: Any, *args: Any, **options: Any) -> Any:
        met.append(1)
        if 1 <= len(met) <= 4:
            raise ZeroDivisionError
        return inner(self, *args, **options)

    monkeypatch.setattr(kind, name, broken)

    async def test() -> None:
        faults = {"drop_after@Run": 0.3, "drop_before@Run": 0.2, "http_500@Task/Detail": 0.5}
        world = World(tmp_path, make_sandbox(faults=faults))
        await within(HOUR, world.run(text_jobs(20), settle_seconds=5))
        world.sandbox.faults.probabilities.clear()
        finished = await within(HOUR, world.run(text_jobs(20), settle_seconds=5))
        assert (finished.exit_code, len(world.clips)) == (0, 20)

    with caplog.at_level(logging.ERROR):
        virtually(test)
    assert len(met) > 1


def test_a_run_that_fails_unexpectedly_reports_what_the_journal_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        await world.run(text_jobs(3))

        def broken(*args: object, **options: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("wan_async.engine.run.Scheduler", broken)
        finished = await world.run(text_jobs(4))
        assert (finished.exit_code, finished.jobs, finished.skipped) == (6, 4, 3)
        assert f"{finished.spent_usd:f}" == "0.15"
        monkeypatch.setattr("wan_async.engine.results_file.read_results", broken)
        finished = await world.run(text_jobs(4))
        assert (finished.exit_code, finished.jobs, finished.skipped) == (6, 4, 3)
        assert f"{finished.spent_usd:f}" == "0.15"

    virtually(test)
    assert any(record.exc_info for record in caplog.records)
