"""Journals of earlier versions: readable without migration, and migrated by the first run that opens them."""

from __future__ import annotations

import json
import logging
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from journals import ACCOUNT, FORM, OUTPUTS, attempt_at, become, enroll, job, opened, results_of, todo

from wan_async.cli import main
from wan_async.domain.attempt import Attempt, Money
from wan_async.errors import Unusable
from wan_async.journal import reports
from wan_async.journal.base import FILE, FOLDER, ContentLocked
from wan_async.journal.integrity import LAYOUT
from wan_async.journal.sqlite_connection import peek
from wan_async.journal.tables import COLUMNS, VERSION

pytestmark = pytest.mark.anyio

FIRST = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (
    key TEXT PRIMARY KEY, position INTEGER, content TEXT NOT NULL, name TEXT NOT NULL, spec TEXT NOT NULL,
    failure TEXT, sticky INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX jobs_position ON jobs (position) WHERE position IS NOT NULL;
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY, job TEXT NOT NULL, number INTEGER NOT NULL, content TEXT NOT NULL, state TEXT NOT NULL,
    form TEXT NOT NULL, image TEXT NOT NULL, name TEXT NOT NULL,
    reserved INTEGER NOT NULL DEFAULT 0, cost INTEGER, high_id INTEGER NOT NULL DEFAULT 0,
    intent_at REAL NOT NULL, closed_at REAL, accepted_at REAL, ended_at REAL, stored_at REAL,
    task_id TEXT UNIQUE, token TEXT UNIQUE, answer BLOB, adopted INTEGER NOT NULL DEFAULT 0,
    status TEXT, pexit TEXT, outputs TEXT, reason TEXT
);
CREATE INDEX attempts_job ON attempts (job, content);
CREATE INDEX attempts_content ON attempts (content);
CREATE INDEX attempts_open ON attempts (state) WHERE state IN ('intent', 'unknown', 'quarantined', 'accepted', 'ended');
CREATE TABLE clips (
    attempt INTEGER NOT NULL, number INTEGER NOT NULL, file TEXT NOT NULL, etag TEXT NOT NULL DEFAULT '',
    sha256 TEXT, bytes INTEGER, content_type TEXT, PRIMARY KEY (attempt, number)
) WITHOUT ROWID;
CREATE TABLE names (folded TEXT PRIMARY KEY, name TEXT NOT NULL, job TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE images (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE uploads (sha256 TEXT PRIMARY KEY, url TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE echoes (field TEXT PRIMARY KEY, faithful INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE money (id INTEGER PRIMARY KEY CHECK (id = 1), settled INTEGER NOT NULL, reserved INTEGER NOT NULL);
INSERT INTO money VALUES (1, 0, 0);
CREATE TRIGGER money_made AFTER INSERT ON attempts BEGIN
    UPDATE money SET settled = settled + coalesce(new.cost, 0), reserved = reserved + new.reserved;
END;
CREATE TRIGGER money_moved AFTER UPDATE OF cost, reserved ON attempts BEGIN
    UPDATE money SET settled = settled + coalesce(new.cost, 0) - coalesce(old.cost, 0),
                     reserved = reserved + new.reserved - old.reserved;
END;
"""
STATES = (
    "intent", "unknown", "absent", "quarantined", "rejected", "accepted", "ended", "stored", "failed", "cancelled",
    "lost", "abandoned",
)  # fmt: skip
NOW = {**{state: state for state in STATES}, "lost": "missing"}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of a journal of the first version, with an attempt in every state of that version."""
    home = tmp_path / "out" / FOLDER
    home.mkdir(parents=True)
    with closing(sqlite3.connect(home / FILE)) as db, db:
        db.executescript(f"PRAGMA journal_mode = WAL; {FIRST} PRAGMA user_version = 1;")
        rows = {"origin": ACCOUNT.origin, "salt": "00", "key": "k"}
        db.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
        db.execute("INSERT INTO uploads VALUES ('5ha', 'https://cdn/1', 5.5)")
        db.execute("INSERT INTO echoes VALUES ('prompt', 1)")
        db.execute("INSERT INTO images VALUES ('cat.png', 1, 2, '5ha')")
        for number, state in enumerate(STATES):
            spec = json.dumps({"prompt": state, "label": state})
            db.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, NULL, 0)", (state, number, f"c{number}", state, spec))
            db.execute("INSERT INTO names VALUES (?, ?, ?)", (state, state, state))
            reached = state in ("accepted", "ended", "stored", "failed", "cancelled", "lost")
            values: dict[str, Any] = {
                "id": number + 1, "job": state, "number": 1, "content": f"c{number}", "state": state,
                "form": json.dumps(FORM), "image": "", "name": state, "intent_at": 1000.5, "high_id": 7,
                "reserved": 60 if state in ("intent", "unknown", "quarantined", "accepted", "lost") else 0,
                "cost": 50 if state in ("ended", "stored", "failed") else None,
                "task_id": str(100 + number) if reached else None, "token": f"t{number}" if reached else None,
                "answer": b'{"raw": "\xff\x00"}' if reached else None,
                "outputs": json.dumps(OUTPUTS) if state in ("ended", "stored") else None,
            }  # fmt: skip
            db.execute(f"INSERT INTO attempts ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",
                       list(values.values()))  # fmt: skip
            if state == "stored":
                db.execute("INSERT INTO clips VALUES (?, 0, 'stored.mp4', '', '5ha', 4, 'video/mp4')", (number + 1,))
    return home


SHOWN = {**NOW, **dict.fromkeys(("absent", "rejected", "abandoned"), "planned")}


def test_it_is_readable_without_migration(
    home: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = (home / FILE).read_bytes()
    seen = reports.report(home)
    assert seen is not None
    assert {result.job: result.state for result in seen.results} == SHOWN
    assert seen.money == Money(150, 300)
    assert reports.owned_tasks(home) is not None
    assert reports.doubt(home) is None
    assert main.main(["status", str(home.parent)]) == 0
    assert "1  missing" in capsys.readouterr().out
    assert main.main(["gallery", str(home.parent)]) == 0
    assert '"lost"' in (home.parent / "gallery.html").read_text()
    assert (home / FILE).read_bytes() == before


async def test_the_first_run_migrates_it_to_the_newest_version(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(home) as journal:
        assert (journal.stale, await journal.is_new()) == (False, False)
        assert {result.job: result.state for result in results_of(journal)} == SHOWN
        assert await journal.money() == Money(150, 300)
        taken = {attempt.state for attempt in await journal.open_attempts()}
        assert taken == {"intent", "unknown", "quarantined", "accepted", "ended", "missing"}
        assert [attempt.job for attempt in await journal.to_recheck()] == ["cancelled"]
        assert await todo(journal) == ["absent", "rejected", "abandoned"]
        assert await journal.upload_of("5ha", 0.0) == "https://cdn/1"
        await enroll(journal, "new")
    with closing(peek(home / FILE, LAYOUT)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert db.execute("SELECT count(*), count(checksum) FROM attempts").fetchone() == (len(STATES), len(STATES))
        assert db.execute("SELECT count(*) FROM checksums").fetchone() == (len(COLUMNS),)
    async with opened(home):
        pass
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def make_second(home: Path) -> None:
    """Remove from a new journal what the second version lacked."""
    async with opened(home) as journal:
        for key in "ab":
            await become(journal, job(key, key), "unknown")
        await become(journal, job("c", "c"), "accepted")
    with closing(sqlite3.connect(home / FILE, isolation_level=None)) as db:
        db.execute("DROP INDEX attempts_unanswered")
        db.execute("PRAGMA user_version = 2")
        db.execute("PRAGMA application_id = 0")


async def test_the_second_version_gets_the_lock_on_unanswered_attempts(tmp_path: Path) -> None:
    await make_second(tmp_path)
    assert reports.report(tmp_path) is not None
    async with opened(tmp_path) as journal:
        assert [attempt.state for attempt in await journal.open_attempts()] == ["unknown", "unknown", "accepted"]
        with pytest.raises(ContentLocked):
            await journal.intent(attempt_at(job("d", "a"), number=0), cap=None)
        await become(journal, job("d", "c"), "unknown")
    with closing(sqlite3.connect(tmp_path / FILE)) as db, pytest.raises(sqlite3.IntegrityError):
        db.create_function("checksum_of", -1, zlib.crc32)
        db.execute("UPDATE attempts SET content = 'a' WHERE content = 'b'")


@pytest.mark.parametrize("version", [1, 2])
async def test_unanswered_attempts_of_one_content_all_stay_unanswered(home: Path, tmp_path: Path, version: int) -> None:
    twins = "UPDATE attempts SET content = 'same' WHERE state IN ('intent', 'unknown', 'quarantined')"
    if version == 2:
        home = tmp_path
        await make_second(home)
    with closing(sqlite3.connect(home / FILE, isolation_level=None)) as db:
        db.create_function("checksum_of", -1, zlib.crc32)
        db.execute(twins)
    count = 3 if version == 1 else 2
    same: list[Attempt] = []
    for _ in range(2):
        async with opened(home) as journal:
            attempts = await journal.open_attempts()
            same = [attempt for attempt in attempts if attempt.content == "same"]
            assert len(same) == count
            with pytest.raises(ContentLocked):
                await journal.intent(attempt_at(job("d", "same"), number=0), cap=None)
    async with opened(home) as journal:
        for number, attempt in enumerate(same):  # each is settled separately
            if attempt.state == "intent":
                await journal.unknown(attempt, "no answer", 5.0)
            await journal.accepted(attempt, f"{900 + number}", None, b"", 6.0, adopted=True)
        await become(journal, job("d", "same"), "unknown")
        with pytest.raises(ContentLocked):
            await journal.intent(attempt_at(job("e", "same"), number=0), cap=None)


async def test_a_migrated_journal_and_a_new_one_have_the_same_columns(home: Path, tmp_path: Path) -> None:
    for one in (home, tmp_path / "new"):
        async with opened(one):
            pass
        with closing(peek(one / FILE, LAYOUT)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            assert tables == {*COLUMNS, "money", "checksums"}
            for table, columns in COLUMNS.items():
                there = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
                assert [name for name in there if name != "checksum"] == columns.split(", ")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE attempts SET form = '{' WHERE id = 3",
        "UPDATE attempts SET form = '[]' WHERE id = 3",
        "UPDATE attempts SET outputs = '5' WHERE id = 8",
        "UPDATE attempts SET state = 'acceptef' WHERE id = 3",
        "UPDATE attempts SET state = CAST(x'61ff' AS TEXT) WHERE id = 3",
        "UPDATE attempts SET reason = CAST(x'ff' AS TEXT) WHERE id = 3",
        "UPDATE jobs SET name = CAST(x'ff' AS TEXT) WHERE key = 'stored'",
        "UPDATE jobs SET spec = 'x' WHERE key = 'stored'",
        "UPDATE money SET settled = 7",
        "DELETE FROM money",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = -1",
    ],
)
async def test_invalid_values_are_reported_as_damage(
    home: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(home / FILE)) as db, db:
        db.execute(damage)
    before = (home / FILE).read_bytes()
    with pytest.raises(Unusable, match=r"is damaged .*nothing was changed"):
        async with opened(home):
            pytest.fail("it was opened")
    with pytest.raises(Unusable, match="is damaged"):
        reports.report(home)
    for command in ("status", "gallery"):
        assert main.main([command, str(home.parent)]) == 6
    assert (home / FILE).read_bytes() == before
