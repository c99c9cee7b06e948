"""The start counter of a journal, kept in the database and in a file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from journals import become, opened

from wan_async.errors import Unusable
from wan_async.journal import start_counter
from wan_async.journal.base import FILE
from wan_async.journal.reports import doubt

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def warned(caplog: pytest.LogCaptureFixture) -> str:
    warnings = "\n".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    caplog.clear()
    return warnings


@pytest.mark.parametrize(
    ("journal", "written", "file", "expected"),
    [
        (0, 0, 0, None),  # a new folder, or a journal of the first version
        (3, 3, 3, None),
        (1, 0, 0, None),  # the process died before the file was written
        (4, 3, 3, None),
        (4, 3, 4, None),  # or before the database was updated
        (3, 3, 0, "is missing"),
        (4, 3, 0, "is missing"),
        (3, 3, None, "can't be read"),
        (3, 3, 5, "older than its folder"),
        (4, 3, 5, "older than its folder"),
        (0, 0, 5, "moved, deleted, or replaced by an older one"),
        (5, 5, 3, "copied here"),
        (5, 4, 3, "copied here"),
    ],
)
def test_different_counts_are_explained(journal: int, written: int, file: int | None, expected: str | None) -> None:
    found = start_counter.difference(journal, written, file)
    assert (found is None) == (expected is None)
    assert (expected or "") in (found or "")


@pytest.mark.parametrize("content", [b"", b"\n", b"x", b"-1", b"1 2", b"9" * 21, b"\xff", "²".encode()])
def test_an_invalid_count_is_ignored(tmp_path: Path, content: bytes) -> None:
    assert start_counter.read(tmp_path) == 0
    (tmp_path / start_counter.FILE).write_bytes(content)
    assert start_counter.read(tmp_path) is None
    start_counter.write(tmp_path, 12)
    assert start_counter.read(tmp_path) == 12
    assert [path.name for path in tmp_path.iterdir()] == [start_counter.FILE]


async def test_each_opening_is_counted_in_both_places(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        async with opened(tmp_path) as journal:
            assert (journal.starts, journal.stale) == (number, False)
            assert await journal.is_new() == (number == 0)
        assert start_counter.read(tmp_path) == number + 1
        assert doubt(tmp_path) is None
    assert warned(caplog) == ""


async def test_different_counts_are_logged_once_and_then_made_equal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path):
        pass
    for file, expected in ((9, "older than its folder"), (0, "is missing"), (1, "copied here")):
        (tmp_path / start_counter.FILE).unlink()
        if file:
            start_counter.write(tmp_path, file)
        assert expected in (doubt(tmp_path) or "")
        async with opened(tmp_path) as journal:
            assert journal.stale
        assert expected in warned(caplog)
        async with opened(tmp_path) as journal:
            assert journal.stale  # until lost attempts were looked for
            await journal.none_unowned()
            assert not journal.stale
        async with opened(tmp_path) as journal:
            assert not journal.stale
        assert warned(caplog) == ""


async def test_a_crash_between_the_two_updates_does_not_look_like_an_old_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(home: Path, count: int) -> None:
        raise OSError("the process dies")

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(start_counter, "write", refuse)
            with pytest.raises(Unusable):
                async with opened(tmp_path):
                    pytest.fail("it was opened")
        async with opened(tmp_path) as journal:
            assert not journal.stale
    assert warned(caplog) == ""


async def test_the_journal_stores_until_when_it_is_complete(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        assert await journal.complete_to() == 0
        await journal.begins_at(50)
        assert await journal.complete_to() == 50
        await become(journal, "a", "accepted", task="99")
        await become(journal, "b", "accepted", task="not a number")
        await become(journal, "c", "accepted", task="9" * 19)
        assert await journal.complete_to() == 99
        await journal.unowned_since(70)
        await become(journal, "d", "accepted", task="120")
        assert await journal.complete_to() == 70
        await journal.none_unowned()
        assert await journal.complete_to() == 120


async def test_the_count_is_not_written_through_a_link(tmp_path: Path) -> None:
    home, victim = tmp_path / "home", tmp_path / "victim"
    async with opened(home):
        pass
    for name in (start_counter.FILE, f"{start_counter.FILE}.tmp"):
        victim.write_text("mine")
        (home / name).unlink(missing_ok=True)
        (home / name).symlink_to(victim)
        with pytest.raises(Unusable, match=f"{name} is a symbolic link"):
            async with opened(home):
                pytest.fail("it was opened")
        assert victim.read_text() == "mine"
        (home / name).unlink()


async def test_an_invalid_count_in_the_database_is_damage(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        db.execute("DROP TRIGGER meta_changed")
        db.execute("UPDATE meta SET value = 'x' WHERE name = 'starts'")
    with pytest.raises(Unusable, match="is damaged"):
        async with opened(tmp_path):
            pytest.fail("it was opened")
