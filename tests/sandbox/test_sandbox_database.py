"""The sandbox's database: tasks, balance, nonces and files."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from wan_async.sandbox.account import Account
from wan_async.sandbox.auth import Authenticator
from wan_async.sandbox.database import Database
from wan_async.sandbox.files import FileStore
from wan_async.sandbox.settings import Settings


def test_every_field_of_a_task_is_restored(tmp_path: Path) -> None:
    account = Account(10**6, 0.0)
    task = account.create({"prompt": "ein Bär", "seed": "7"}, "abc", 5, 2.5, 3.0, project="another-project")
    task.pexit, task.cancelled, task.ready, task.log, task.error_seconds = "1", 4.5, 4.25, "it broke", math.inf
    task.outputs_after, task.pexit_lags, task.files_after, task.charge_at = 1.5, True, 2.5, 9.5
    task.project_id, task.again, task.kept = "800", 2, True
    task.size, task.shown_size, task.deleted, task.called_back, task.held = 7, 8, True, True, True
    with closing(Database(tmp_path)) as database:
        database.save(account, task)
    again = Account(0, 0.0)
    with closing(Database(tmp_path)) as database:
        database.load(again)
    assert list(again.tasks.values()) == [task]
    assert again.balance_micros == 10**6


def test_a_file_that_is_no_database_is_not_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[sqlite3.Connection] = []

    def connect(path: Path, **options: Any) -> sqlite3.Connection:
        opened.append(sqlite3.Connection(path, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", connect)
    (tmp_path / "sandbox.sqlite3").write_bytes(b"this is no database, " * 100)
    with pytest.raises(sqlite3.DatabaseError):
        Database(tmp_path)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


def test_settled_tasks_are_stored_together_with_the_balance(tmp_path: Path) -> None:
    account = Account(10**6, 0.0)
    first = account.create({}, None, 100, 1.0, 0.0)
    with closing(Database(tmp_path)) as database:
        database.save(account, first)
        second = account.create({}, None, 100, 1.0, 0.0)
        account.settle(1.0)
        database.save(account, second)
    again = Account(0, 0.0)
    with closing(Database(tmp_path)) as database:
        database.load(again)
    assert [task.billed for task in again.tasks.values()] == [True, True]
    again.settle(10.0)
    assert (again.balance_micros, again.spent_micros) == (10**6 - 200, 200)


def test_an_empty_folder_leaves_the_account_unchanged(tmp_path: Path) -> None:
    account = Account(77, 0.0)
    with closing(Database(tmp_path / "deep" / "er")) as database:
        database.load(account)
        assert database.earlier_starts == 0
    assert (account.balance_micros, account.tasks) == (77, {})


def test_the_number_of_earlier_starts_is_counted(tmp_path: Path) -> None:
    starts = []
    for _ in range(3):
        with closing(Database(tmp_path)) as database:
            starts.append(database.earlier_starts)
    assert starts == [0, 1, 2]


def test_a_folder_of_an_earlier_version_can_be_loaded(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "sandbox.sqlite3", isolation_level=None)) as old:
        old.execute("CREATE TABLE tasks (id INTEGER PRIMARY KEY, content TEXT NOT NULL)")
        content = (
            '{"id": "500001", "token": "t", "parameters": {}, "image": null, "created": 1.0, "seconds": 1.0,'
            ' "price": 5, "ends": "task_error"}'
        )
        old.execute("INSERT INTO tasks VALUES (500001, ?)", (content,))
    account = Account(77, 0.0)
    with closing(Database(tmp_path)) as database:
        database.load(account)
    assert account.tasks["500001"].project == ""


def test_only_the_latest_nonces_are_stored_in_their_order(tmp_path: Path) -> None:
    with closing(Database(tmp_path)) as database:
        for number in range(10):
            database.put_nonce(str(number), 4)
        assert database.nonces(100) == ["6", "7", "8", "9"]
    with closing(Database(tmp_path)) as database:
        assert database.nonces(2) == ["8", "9"]
        assert list(Authenticator(Settings(), database)._nonces) == ["6", "7", "8", "9"]


def test_files_are_stored_with_their_type_and_can_be_deleted(tmp_path: Path) -> None:
    data = b"\n\0several\nlines\n"
    with closing(Database(tmp_path)) as database:
        database.put_file("clip-1", "video/mp4", b"old")
        database.put_file("clip-1", "video/mp4", data)
        assert database.get_file("clip-1") == ("video/mp4", data)
        assert database.get_file("clip-2") is None
        for _ in range(2):
            database.delete_file("clip-1")
        assert database.get_file("clip-1") is None
    assert [path.name for path in tmp_path.iterdir() if "sqlite3" not in path.name] == []


def test_files_behave_the_same_in_memory_and_in_a_folder(tmp_path: Path) -> None:
    with closing(Database(tmp_path)) as database:
        for files in (FileStore(None), FileStore(database)):
            files.put("a", ("image/png", b"x"))
            assert files.get("a") == ("image/png", b"x")
            files.delete("a")
            files.delete("a")
            assert files.get("a") is None
