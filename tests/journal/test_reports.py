"""Read-only reports of a journal."""

from __future__ import annotations

import math
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from journals import become, enroll, job, opened, results_of

from wan_async.domain.attempt import Money
from wan_async.errors import Unusable
from wan_async.journal import read_only
from wan_async.journal.base import FILE
from wan_async.journal.queries import CLOCK_SECONDS
from wan_async.journal.reports import Owned, owned_tasks, read_results, report
from wan_async.journal.sqlite_connection import Layout

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("inline", [False, True])
async def test_a_report_needs_no_lock_and_works_during_writes(tmp_path: Path, inline: bool) -> None:
    assert report(tmp_path) is None
    async with opened(tmp_path, inline=inline) as journal:
        a, b, *_ = await enroll(journal, "a", "b", "c")
        await become(journal, a, "stored")
        await become(journal, b, "accepted")
        await become(journal, job("stray"), "unknown")
        await become(journal, job("b", "older"), "stored")
        seen = report(tmp_path)
        assert seen is not None
        assert seen.results == results_of(journal)
        assert [one.state for one in seen.results] == ["stored", "accepted", "planned"]
        assert seen.money == await journal.money() == Money(100, 120)
        assert seen.contents == {key: f"content of {key}" for key in "abc"}
        assert seen.strays == 1
        assert seen.images == {}


async def test_a_report_is_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as journal:
        await enroll(journal, "a")

        class Slow(sqlite3.Connection):
            """A connection between whose queries the run continues."""

            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
                cursor = super().execute(sql, *args)
                with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as db:
                    db.create_function("checksum_of", -1, zlib.crc32)
                    db.execute("UPDATE money SET settled = settled + 1")
                    db.execute("INSERT INTO images VALUES (hex(randomblob(9)), 1, 1, '')")
                return cursor

        def slow(path: Path, layout: Layout, *, verify: bool) -> sqlite3.Connection:
            return sqlite3.connect(path, isolation_level=None, factory=Slow)

        monkeypatch.setattr(read_only, "peek", slow)
        seen = report(tmp_path)
        assert seen is not None
        assert seen.money.settled == len(seen.images)


async def test_a_journal_whose_creation_was_not_finished_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.touch()
    assert report(tmp_path) is None
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
    assert report(tmp_path) is None
    async with opened(tmp_path):
        pass
    assert report(tmp_path) is not None


def test_a_file_that_is_not_a_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(Unusable, match="is damaged"):
        report(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(Unusable, match="there is no journal"):
        report(tmp_path)


async def test_owned_tasks_are_those_of_all_attempts(tmp_path: Path) -> None:
    assert owned_tasks(tmp_path) is None
    async with opened(tmp_path) as journal:
        assert owned_tasks(tmp_path) == Owned(set(), math.inf)
        await become(journal, "a", "stored")
        await become(journal, "b", "unknown")
        await become(journal, "c", "failed", task="900")
        assert owned_tasks(tmp_path) == Owned({"101", "token-101", "900", "token-900"}, 1000.0 - CLOCK_SECONDS)


def test_results_without_a_journal_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="there is no journal"):
        list(read_results(tmp_path))
