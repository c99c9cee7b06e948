from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from wan_async.errors import Unusable
from wan_async.journal import sqlite_connection
from wan_async.journal.group_commit import MOST_CHANGES
from wan_async.journal.sqlite_connection import Connection, Layout, open_connection, peek, translated

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


SCHEMA = "CREATE TABLE rows (n INTEGER PRIMARY KEY, text BLOB);"
asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / ".home" / "rows.sqlite3"


def accept(db: sqlite3.Connection) -> None:
    """A check that accepts any database."""


def opened(
    path: Path,
    *,
    inline: bool = False,
    version: int = 1,
    check: Callable[[sqlite3.Connection], None] = accept,
) -> AbstractAsyncContextManager[Connection]:
    return open_connection(path, layout=Layout(version, SCHEMA), check=check, inline=inline)


def put(n: int, text: bytes = b"") -> Callable[[sqlite3.Connection], int]:
    def change(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO rows VALUES (?, ?)", (n, text))
        return n

    return change


def rows(path: Path) -> list[int]:
    """The rows as another process reads them."""
    with closing(sqlite3.connect(path)) as db:
        return [n for (n,) in db.execute("SELECT n FROM rows ORDER BY n")]


def image(path: Path, folder: Path) -> Path:
    """A copy of the files as a power cut would leave them now."""
    folder.mkdir()
    for name in (path.name, f"{path.name}-wal"):
        if (path.parent / name).exists():
            shutil.copy(path.parent / name, folder / name)
    return folder / path.name


def contents(path: Path) -> dict[str, bytes]:
    """The bytes of the database's files, without a `-shm` or an empty log, which any reader may create."""
    found = [file for file in path.parent.glob(f"{path.name}*") if not file.name.endswith("-shm")]
    return {file.name: file.read_bytes() for file in found if file == path or file.stat().st_size}


@asynccontextmanager
async def busy(conn: Connection) -> AsyncIterator[None]:
    """Keep the writer busy while the block runs, so that all writes in it share the next commit."""
    started, go_on = threading.Event(), threading.Event()

    def change(db: sqlite3.Connection) -> None:
        started.set()
        assert go_on.wait(10)

    async with anyio.create_task_group() as group:
        group.start_soon(conn.write, change)
        await anyio.to_thread.run_sync(started.wait, 10)
        try:
            yield
        finally:
            go_on.set()


async def statements_of(conn: Connection) -> list[str]:
    """A list to which every later statement is appended."""
    statements: list[str] = []
    await conn.write(lambda db: db.set_trace_callback(statements.append))
    statements.clear()
    return statements


class Writers:
    """Writes that wait at the same time, and the value or error of each."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.values: dict[int, int] = {}
        self.errors: dict[int, Exception] = {}

    async def write(self, n: int, change: Callable[[sqlite3.Connection], int]) -> None:
        try:
            self.values[n] = await self.conn.write(change)
        except Exception as error:  # noqa: BLE001 - the test checks it
            self.errors[n] = error

    async def write_together(self, changes: dict[int, Callable[[sqlite3.Connection], int]]) -> None:
        async with anyio.create_task_group() as group, busy(self.conn):
            for n, change in changes.items():
                group.start_soon(self.write, n, change)
                await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize("inline", [False, True])
async def test_a_write_that_has_returned_survives_a_power_cut(path: Path, tmp_path: Path, inline: bool) -> None:
    async with opened(path, inline=inline) as conn:
        assert conn.path == path
        for n in range(3):
            assert await conn.write(put(n)) == n
            assert rows(image(path, tmp_path / f"cut-{n}")) == list(range(n + 1))
        assert await conn.read("SELECT count(*), ? FROM rows", "x") == [(3, "x")]


async def test_a_commit_is_synchronous(path: Path) -> None:
    async with opened(path) as conn:
        assert await conn.read("PRAGMA journal_mode") == [("wal",)]
        assert await conn.read("PRAGMA synchronous") == [(2,)]


async def test_waiting_writes_share_one_commit(path: Path) -> None:
    async with opened(path) as conn:
        writers, statements = Writers(conn), await statements_of(conn)
        await writers.write_together({n: put(n) for n in range(MOST_CHANGES)})
        assert writers.values == {n: n for n in range(MOST_CHANGES)}
        assert statements.count("COMMIT") == 2  # the one in progress, and that of the others
    assert rows(path) == list(range(MOST_CHANGES))


async def test_writes_are_executed_in_order(path: Path) -> None:
    order: list[int] = []

    def note(n: int) -> Callable[[sqlite3.Connection], int]:
        def change(db: sqlite3.Connection) -> int:
            order.append(n)
            return n

        return change

    async with opened(path) as conn:
        await Writers(conn).write_together({n: note(n) for n in range(20)})
    assert order == list(range(20))


class Refused(Exception):
    pass


def half_then(error: type[Exception]) -> Callable[[sqlite3.Connection], int]:
    def change(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO rows VALUES (1000, 'half')")
        raise error

    return change


def collide(db: sqlite3.Connection) -> int:
    db.execute("INSERT INTO rows VALUES (2000, 'half')")
    db.execute("INSERT INTO rows VALUES (2000, 'twice')")
    return 0


@pytest.mark.parametrize("inline", [False, True])
async def test_a_failed_write_affects_no_other(path: Path, inline: bool) -> None:
    async with opened(path, inline=inline) as conn:
        await conn.write(put(1))
        for bad, error in (
            (half_then(Refused), Refused),
            (half_then(ValueError), ValueError),
            (half_then(KeyError), KeyError),
            (collide, sqlite3.IntegrityError),
        ):
            with pytest.raises(error):
                await conn.write(bad)
        await conn.write(put(2))
    assert rows(path) == [1, 2]


async def test_other_writes_of_the_same_commit_succeed_when_one_fails(path: Path) -> None:
    async with opened(path) as conn:
        writers, statements = Writers(conn), await statements_of(conn)
        await writers.write_together({1: put(1), 2: half_then(Refused), 3: put(3), 4: collide, 5: put(5)})
        assert writers.values == {1: 1, 3: 3, 5: 5}
        assert {n: type(error) for n, error in writers.errors.items()} == {2: Refused, 4: sqlite3.IntegrityError}
        assert statements.count("COMMIT") == 2
    assert rows(path) == [1, 3, 5]


async def test_a_full_disk_fails_only_the_writes_that_do_not_fit(path: Path) -> None:
    def limit(pages: int) -> Callable[[sqlite3.Connection], None]:
        def change(db: sqlite3.Connection) -> None:
            db.execute(f"PRAGMA max_page_count = {pages}")

        return change

    async with opened(path) as conn:
        await conn.write(limit(10))
        writers = Writers(conn)
        big = bytes(200_000)
        await writers.write_together({1: put(1), 2: put(2, big), 3: put(3), 4: collide, 5: put(5, big), 6: put(6)})
        assert writers.values == {1: 1, 3: 3, 6: 6}
        assert isinstance(writers.errors[4], sqlite3.IntegrityError)
        for n in (2, 5):
            error = writers.errors[n]
            assert isinstance(error, Unusable)
            assert "the disk is full" in error.message
            assert "run the same command again" in error.message
        assert rows(path) == [1, 3, 6]
        await conn.write(limit(1000))
        assert await conn.write(put(2, big)) == 2
    assert rows(path) == [1, 2, 3, 6]


class FailingConnection(sqlite3.Connection):
    """A database whose next statements of chosen kinds fail."""

    failing: list[str]

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if self.failing and sql.startswith(self.failing[0]):
            self.failing.pop(0)
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *arguments)


@contextmanager
def failing_database(path: Path, *failing: str) -> Iterator[FailingConnection]:
    path.parent.mkdir(parents=True)
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=FailingConnection)
    db.failing = []
    with closing(db):
        db.executescript(SCHEMA)
        db.failing = list(failing)
        yield db


@pytest.mark.parametrize("statement", ["BEGIN", "SAVEPOINT", "RELEASE", "COMMIT"])
async def test_a_failed_group_commit_is_retried_write_by_write(path: Path, statement: str) -> None:
    with failing_database(path) as db:
        conn = Connection(path, db, inline=False)
        writers, tries = Writers(conn), iter([[statement]])

        def break_down_once(_: sqlite3.Connection) -> int:
            db.failing = next(tries, [])
            return 0

        await writers.write_together({0: break_down_once} | {n: put(n) for n in range(1, 6)})
        await writers.write(6, put(6))
        await conn.close()
        assert not db.failing
        assert writers.values == {n: n for n in range(7)}
        assert rows(path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("inline", [False, True])
async def test_a_commit_that_fails_again_raises_in_the_caller(path: Path, inline: bool) -> None:
    with failing_database(path, "COMMIT", "COMMIT") as db:
        conn = Connection(path, db, inline=inline)
        with pytest.raises(Unusable, match="disk I/O error") as caught:
            await conn.write(put(1))
        assert str(path) in caught.value.message
        assert rows(path) == []
        assert await conn.write(put(1)) == 1
        await conn.close()
        assert rows(path) == [1]


async def test_a_commit_that_fails_once_writes_no_row_twice(path: Path) -> None:
    with failing_database(path, "COMMIT") as db:
        conn = Connection(path, db, inline=True)
        assert await conn.write(put(1)) == 1
        assert rows(path) == [1]
        await conn.close()


async def test_an_error_of_the_first_try_is_discarded_when_the_retry_succeeds(path: Path) -> None:
    tries: list[int] = []

    def fail_once(db: sqlite3.Connection) -> int:
        tries.append(1)
        if len(tries) == 1:
            raise Refused
        return 7

    with failing_database(path) as db:
        conn = Connection(path, db, inline=False)
        writers = Writers(conn)

        def fail(db: sqlite3.Connection) -> int:
            raise sqlite3.OperationalError("disk I/O error")

        await writers.write_together({1: fail_once, 2: fail, 3: put(3)})
        await conn.close()
        assert writers.values == {1: 7, 3: 3}
        assert isinstance(writers.errors[2], Unusable)


async def test_the_writer_continues_after_any_exception_of_a_change(path: Path) -> None:
    async with opened(path) as conn:
        for n, error in enumerate((RecursionError, MemoryError, StopIteration, AssertionError, UnicodeError)):
            with pytest.raises((error, RuntimeError)):
                await conn.write(half_then(error))
            assert await conn.write(put(n)) == n
    assert rows(path) == [0, 1, 2, 3, 4]


async def test_a_caller_cancelled_during_a_write_still_gets_its_result(path: Path) -> None:
    returned: list[int] = []

    async with opened(path) as conn, anyio.create_task_group() as group:
        scope = anyio.CancelScope()

        async def caller() -> None:
            with scope:
                returned.append(await conn.write(put(1)))
                await anyio.sleep_forever()

        async with busy(conn):
            group.start_soon(caller)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert not returned
    assert returned == [1]
    assert scope.cancelled_caught
    assert rows(path) == [1]


async def test_a_write_in_a_cancelled_scope_is_executed_and_returns(path: Path) -> None:
    returned = 0
    async with opened(path, inline=True) as conn:
        with anyio.CancelScope() as scope:
            scope.cancel()
            returned = await conn.write(put(1))
            await anyio.sleep_forever()
    assert returned == 1
    assert rows(path) == [1]


@asyncio_only
async def test_a_write_is_executed_although_asyncio_cancelled_its_caller(path: Path, anyio_backend: str) -> None:
    async with opened(path) as conn:
        async with busy(conn):
            task = asyncio.create_task(conn.write(put(1)))
            timed = asyncio.create_task(asyncio.wait_for(conn.write(put(2)), 0))
            await anyio.wait_all_tasks_blocked()
            task.cancel()
            await asyncio.wait([task, timed])
            assert task.cancelled()
            assert isinstance(timed.exception(), TimeoutError)
        assert await conn.write(put(3)) == 3
    assert rows(path) in ([1, 3], [1, 2, 3])  # wait_for may time out before the write begins


async def test_closing_commits_the_waiting_writes(path: Path) -> None:
    async with opened(path) as conn, anyio.create_task_group() as group, busy(conn):
        for n in range(10):
            group.start_soon(conn.write, put(n))
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert rows(path) == list(range(10))
    assert not (path.parent / f"{path.name}-wal").exists()


@asyncio_only
async def test_closing_completes_despite_native_cancellations(path: Path, anyio_backend: str) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(db: sqlite3.Connection) -> None:
        started.set()
        assert go_on.wait(10)

    async def use() -> None:  # pending at the end: a slow write, one queued behind it, and the close behind both
        async with opened(path) as conn:
            writing: list[asyncio.Task[object]] = [asyncio.create_task(conn.write(slow))]
            await anyio.to_thread.run_sync(started.wait, 10)
            writing.append(asyncio.create_task(conn.write(put(1))))
            await anyio.wait_all_tasks_blocked()
            for task in writing:
                task.cancel()
            leaving.set()

    leaving = anyio.Event()
    task = asyncio.create_task(use())
    await leaving.wait()
    for _ in range(3):
        await anyio.wait_all_tasks_blocked()
        task.cancel()
    await anyio.wait_all_tasks_blocked()
    assert not task.done()
    with pytest.raises(Unusable, match="another process"):
        async with opened(path):
            pass
    go_on.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert rows(path) == [1]
    async with opened(path) as conn:
        assert await conn.write(put(2)) == 2


async def test_closing_completes_in_a_cancelled_scope(path: Path) -> None:
    with anyio.CancelScope() as scope:
        async with opened(path) as conn:
            await conn.write(put(1))
            scope.cancel()
            await anyio.sleep_forever()
    async with opened(path) as conn:
        assert await conn.read("SELECT n FROM rows") == [(1,)]


@pytest.mark.parametrize("inline", [False, True])
async def test_a_write_after_the_close_is_refused_at_once(path: Path, inline: bool) -> None:
    async with opened(path, inline=inline) as conn:
        pass
    with anyio.fail_after(5):
        with pytest.raises(Unusable, match="closed"):
            await conn.write(put(1))
        await conn.close()
    assert rows(path) == []


def test_queued_writes_are_executed_even_if_the_loop_ends_first(path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(db: sqlite3.Connection) -> None:
        started.set()
        assert go_on.wait(10)

    async def leave_at_once(db: sqlite3.Connection) -> Connection:
        conn = Connection(path, db, inline=False)
        tasks = [asyncio.create_task(conn.write(change)) for change in (slow, put(1))]
        await anyio.to_thread.run_sync(started.wait, 10)
        assert not any(task.done() for task in tasks)
        return conn

    with failing_database(path) as db:
        conn = asyncio.run(leave_at_once(db))  # which cancels the remaining tasks, as Ctrl-C does
        go_on.set()
        asyncio.run(conn.close())
        assert rows(path) == [1]


HOLD = """
import sys
from pathlib import Path
import anyio
from wan_async.journal.sqlite_connection import Layout, open_connection

async def main():
    async with open_connection(
        Path(sys.argv[1]), layout=Layout(1, sys.argv[2]), check=lambda db: None, inline=False
    ) as conn:
        for n in range(int(sys.argv[3])):
            await conn.write(lambda db: db.execute("INSERT INTO rows VALUES (?, NULL)", (n,)).rowcount)
            print(n, flush=True)
        print("holding", flush=True)
        sys.stdin.read()

anyio.run(main)
"""


@contextmanager
def another_process(path: Path, rows: int = 0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path), SCHEMA, str(rows)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return (line.rstrip("\n") for line in process.stdout)


@asyncio_only
async def test_a_second_process_is_refused_until_the_first_is_killed(path: Path, anyio_backend: str) -> None:
    with another_process(path) as process:
        assert next(lines_of(process)) == "holding"
        with pytest.raises(Unusable) as caught:
            async with opened(path):
                pytest.fail("it was opened twice")
        assert f"another process (process {process.pid}) is working on {path.parent.parent}" in caught.value.message
        assert "wait for it (--wait), or choose another -o" in caught.value.message
        for left in (b"\xff\xfe\0", b"1\n2\x1b[31m", b""):
            (path.parent / "holder").write_bytes(left)
            with pytest.raises(Unusable, match="another process is working"):
                async with opened(path):
                    pytest.fail("it was opened twice")
        process.send_signal(signal.SIGKILL)
        process.wait()
        async with opened(path) as conn:
            assert await conn.write(put(1)) == 1
            assert (path.parent / "holder").read_text() == f"{os.getpid()}\n"


@asyncio_only
async def test_writes_that_a_killed_process_reported_are_durable(path: Path, anyio_backend: str) -> None:
    with another_process(path, 100_000) as process:
        lines = lines_of(process)
        reported = [next(lines) for _ in range(20)]
        process.kill()
        reported += list(lines)
        process.wait()
    async with opened(path) as conn:
        found = [n for (n,) in await conn.read("SELECT n FROM rows ORDER BY n")]
    assert len(found) in (len(reported), len(reported) + 1)  # the last may have been written but not reported
    assert found[: len(reported)] == [int(line) for line in reported]


async def test_it_cannot_be_opened_twice_in_one_process(path: Path) -> None:
    async with opened(path):
        with pytest.raises(Unusable, match=rf"another process \(process {os.getpid()}\)"):
            async with opened(path):
                pytest.fail("it was opened twice")
        (path.parent / "holder").unlink()
        with pytest.raises(Unusable, match="another process is working"):
            async with opened(path):
                pytest.fail("it was opened twice")
    async with opened(path):
        pass


@pytest.mark.parametrize("left", [b"999999\n", b"\xff\xfe", b""])
async def test_a_stale_holder_file_is_ignored(path: Path, left: bytes) -> None:
    path.parent.mkdir(parents=True)
    (path.parent / "lock").touch()
    (path.parent / "holder").write_bytes(left)
    async with opened(path):
        assert (path.parent / "holder").read_text() == f"{os.getpid()}\n"


async def test_a_folder_that_cannot_be_locked_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    import fcntl

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(Unusable, match="can't be locked: Function not implemented"):
        async with opened(path):
            pytest.fail("it was not locked")
    assert not path.exists()


async def test_the_lock_is_released_if_the_holder_file_cannot_be_written(path: Path) -> None:
    (path.parent / "holder").mkdir(parents=True)
    with pytest.raises(Unusable, match="holder can't be used: Is a directory"):
        async with opened(path):
            pytest.fail("it was opened")
    (path.parent / "holder").rmdir()
    async with opened(path):
        pass


async def test_an_error_in_the_block_is_raised_and_the_lock_released(path: Path) -> None:
    async def use() -> None:
        async with opened(path) as conn:
            await conn.write(put(1))
            raise Refused

    with pytest.raises(Refused):
        await use()
    async with opened(path) as conn:
        assert await conn.read("SELECT n FROM rows") == [(1,)]


async def test_a_failing_check_refuses_the_database_and_releases_the_lock(path: Path) -> None:
    def refuse(db: sqlite3.Connection) -> None:
        raise Unusable("not yours")

    def break_down(db: sqlite3.Connection) -> None:
        db.execute("SELECT x FROM nowhere")

    with pytest.raises(Unusable, match="not yours"):
        async with opened(path, check=refuse):
            pytest.fail("it was opened")
    with pytest.raises(Unusable, match="no such table"):
        async with opened(path, check=break_down):
            pytest.fail("it was opened")
    async with opened(path):
        pass


async def filled(path: Path) -> None:
    """Create a database of many pages."""
    async with opened(path) as conn:
        for n in range(10):
            await conn.write(put(n, bytes(10_000)))


async def crashed(path: Path, tmp_path: Path) -> Path:
    """Create a database of many pages whose newer half is only in the write-ahead log."""
    await filled(path)
    async with opened(path) as conn:
        for n in range(10, 20):
            await conn.write(put(n, bytes(10_000)))
        there = image(path, tmp_path / "crashed")
    assert (there.parent / f"{there.name}-wal").stat().st_size > 10_000
    return there


def garble(path: Path) -> None:
    path.write_bytes(b"This is not a database. " * 500)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def keep_header(path: Path) -> None:
    os.truncate(path, 100)


def overwrite_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4 * 4096)
        file.write(b"\xff" * 4096)


@pytest.mark.parametrize("damage", [garble, halve, keep_header, overwrite_page])
async def test_a_damaged_file_is_reported_and_not_modified(path: Path, damage: Callable[[Path], None]) -> None:
    await filled(path)
    damage(path)
    before = contents(path)
    for _ in range(2):
        with pytest.raises(Unusable) as caught:
            async with opened(path):
                pytest.fail("it was opened")
        assert f"the journal {path} is damaged" in caught.value.message
        assert "Restore it from a backup" in caught.value.message
        assert contents(path) == before


@pytest.mark.parametrize("damage", [garble, keep_header, overwrite_page])
async def test_a_damaged_file_keeps_its_write_ahead_log(
    path: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    there = await crashed(path, tmp_path)
    damage(there)
    before = contents(there)
    with pytest.raises(Unusable, match="is damaged"):
        async with opened(there):
            pytest.fail("it was opened")
    assert contents(there) == before


@pytest.mark.parametrize("gone", [True, False])
async def test_a_write_ahead_log_without_its_database_is_kept(path: Path, tmp_path: Path, gone: bool) -> None:
    there = await crashed(path, tmp_path)
    if gone:
        there.unlink()
    else:
        os.truncate(there, 0)
    before = contents(there)
    with pytest.raises(Unusable, match="is damaged"):
        async with opened(there):
            pytest.fail("it was opened")
    assert contents(there) == before


async def test_a_database_of_a_newer_version_is_refused_and_not_modified(path: Path, tmp_path: Path) -> None:
    there = await crashed(path, tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 2")
    async with opened(path, version=2) as conn:
        await conn.write(put(100))
        newer = image(path, tmp_path / "newer")
    for one in (path, newer):
        before = contents(one)
        with pytest.raises(Unusable, match=r"written by a newer version of wan_async: upgrade to use it"):
            async with opened(one):
                pytest.fail("it was opened")
        assert contents(one) == before
    async with opened(there) as conn:
        assert await conn.read("SELECT count(*) FROM rows") == [(20,)]


async def test_a_database_whose_creation_crashed_is_created_again(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()
    async with opened(path) as conn:
        await conn.write(put(1))
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size
    async with opened(path) as conn:
        await conn.write(put(2))
    assert rows(path) == [2]


async def test_a_failing_schema_is_rolled_back(path: Path) -> None:
    with pytest.raises(Unusable, match="syntax error"):
        async with open_connection(
            path, layout=Layout(1, "CREATE TABLE a (x); CREATE nonsense;"), check=accept, inline=True
        ):
            pytest.fail("it was opened")
    async with opened(path) as conn:
        assert await conn.read("SELECT name FROM sqlite_master") == [("rows",)]


async def test_a_folder_at_its_path_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(Unusable, match="can't be used: Is a directory"):
        async with opened(path):
            pytest.fail("it was opened")
    assert path.is_dir()


async def test_a_file_at_the_path_of_its_folder_is_refused(path: Path) -> None:
    path.parent.parent.mkdir(parents=True)
    path.parent.write_text("mine")
    with pytest.raises(Unusable, match="can't be used: File exists"):
        async with opened(path):
            pytest.fail("it was opened")
    assert path.parent.read_text() == "mine"


async def test_a_read_only_disk_is_reported_as_such(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(path)
    before = contents(path)
    real = os.open

    def refuse(file: Any, flags: int, *args: Any, **more: Any) -> int:
        if file == path and flags & os.O_RDWR:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(file, flags, *args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(Unusable, match="can't be used: Read-only file system"):
            async with opened(path):
                pytest.fail("it was opened")
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def read_only(database: object, **more: Any) -> sqlite3.Connection:
        return connect(f"{path.as_uri()}?mode=ro", **{**more, "uri": True})

    def write(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO rows VALUES (1000, NULL)")

    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", read_only)
        with pytest.raises(Unusable, match=r"its disk or folder is read-only for you \(attempt to write a readonly"):
            async with opened(path, check=write):
                pytest.fail("it was opened")
    assert contents(path)[path.name] == before[path.name]


async def test_its_files_are_readable_by_their_owner_only(path: Path) -> None:
    mask = os.umask(0)
    try:
        async with opened(path) as conn:
            await conn.write(put(1))
            modes = {
                file.name.removeprefix(path.name): file.stat().st_mode & 0o777
                for file in path.parent.glob(f"{path.name}*")
            }
    finally:
        os.umask(mask)
    assert modes == {"": 0o600, "-wal": 0o600, "-shm": 0o600}


async def test_a_reader_needs_no_lock_and_sees_the_last_commit(path: Path) -> None:
    async with opened(path) as conn:
        for n in range(3):
            await conn.write(put(n))
            with closing(peek(path, Layout(1, SCHEMA))) as db:
                assert db.execute("SELECT max(n) FROM rows").fetchall() == [(n,)]
                with pytest.raises(sqlite3.OperationalError, match="readonly"):
                    db.execute("DELETE FROM rows")
        async with busy(conn):
            with closing(peek(path, Layout(1, SCHEMA))) as db:
                assert db.execute("SELECT count(*) FROM rows").fetchall() == [(3,)]


async def test_a_reader_does_not_block_the_writer(path: Path) -> None:
    async with opened(path) as conn:
        await conn.write(put(1))
        with closing(peek(path, Layout(1, SCHEMA))) as db:
            db.execute("BEGIN")
            assert db.execute("SELECT count(*) FROM rows").fetchone() == (1,)
            await conn.write(put(2))
            assert db.execute("SELECT count(*) FROM rows").fetchone() == (1,)
    assert rows(path) == [1, 2]


async def test_a_path_with_special_characters_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=rw#100% ü" / "x"
    async with opened(path) as conn:
        await conn.write(put(1))
    with closing(peek(path, Layout(1, SCHEMA))) as db:
        assert db.execute("SELECT n FROM rows").fetchall() == [(1,)]


async def test_an_unchanged_file_is_checked_for_damage_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = []
    layout = Layout(1, SCHEMA, verify=lambda db, version: checks.append(version))

    def check() -> int:
        checks.clear()
        peek(path, layout).close()
        return len(checks)

    async with opened(path) as conn:
        await conn.write(put(1))
    assert [check(), check()] == [1, 1]  # so new that a change might not alter its timestamp
    monkeypatch.setattr(sqlite_connection, "TIMESTAMP_NS", 0)
    assert [check(), check(), check()] == [1, 0, 0]
    checks.clear()
    async with open_connection(path, layout=layout, check=accept, inline=True) as conn:
        assert checks == []
        await conn.write(put(2))
    assert [check(), check()] == [1, 0]
    data = path.read_bytes()
    path.write_bytes(data)
    assert [check(), check()] == [1, 0]
    path.with_name("copy").write_bytes(data)
    path.with_name("copy").replace(path)
    assert [check(), check()] == [1, 0]


class Watched(sqlite3.Connection):
    """Counts the open connections."""

    open_count = 0

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        Watched.open_count += 1

    def close(self) -> None:
        Watched.open_count -= 1
        super().close()


async def test_no_database_stays_open_after_an_error(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unusable, match="there is no journal at"):
        peek(path, Layout(1, SCHEMA))
    await filled(path)
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, **more, factory=Watched))
    Watched.open_count = 0
    with pytest.raises(Unusable, match="newer version"):
        peek(path, Layout(0, SCHEMA))
    with pytest.raises(Unusable, match="newer version"):
        async with opened(path, version=0):
            pytest.fail("it was opened")
    garble(path)
    with pytest.raises(Unusable, match="is damaged"):
        peek(path, Layout(1, SCHEMA))
    with pytest.raises(Unusable, match="is damaged"):
        async with opened(path):
            pytest.fail("it was opened")
    async with opened(tmp_path / "other"):
        assert Watched.open_count == 1
    assert Watched.open_count == 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (sqlite3.OperationalError("database or disk is full"), "free some space and run the same command again"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "is read-only for you"),
        (sqlite3.OperationalError("unable to open database file"), "is read-only for you"),
        (sqlite3.DatabaseError("database disk image is malformed"), "is damaged"),
        (sqlite3.DatabaseError("file is not a database"), "is damaged"),
        (sqlite3.OperationalError("database is locked"), "can't be used: database is locked"),
        (OSError(errno.EIO, "Input/output error"), "can't be used: Input/output error"),
        (OSError("odd"), "can't be used: odd"),
    ],
)
def test_the_message_of_an_error_has_the_remedy(error: Exception, message: str) -> None:
    with pytest.raises(Unusable) as caught, translated(Path("x/journal")):
        raise error
    assert message in caught.value.message
    assert "x/journal" in caught.value.message


def test_an_integrity_error_is_not_translated() -> None:
    with pytest.raises(sqlite3.IntegrityError), translated(Path("x")):
        raise sqlite3.IntegrityError
