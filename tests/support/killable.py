"""Runs batches in processes that kill themselves at a chosen step, for the kill matrix.

A step is a call to a transport, the file layer or the journal, which are wrapped before they become `Dependencies`.
Each case is a JSON line that is read from a connection; it runs in a forked process, and its result is the answer.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, cast

import anyio
import anyio._backends._asyncio  # these three are loaded before the fork, and else by each process again
import httpcore  # noqa: F401
import httpx
import wsproto  # noqa: F401
from forking import fork_for_each_connection
from pydantic import SecretStr

from wan_async import Job
from wan_async.batch.plan import Prepared, prepare
from wan_async.domain import batch
from wan_async.domain.attempt import Account
from wan_async.engine.dependencies import Dependencies
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.filesystem import Files
from wan_async.http.transport import StackTransport
from wan_async.journal.base import FOLDER
from wan_async.journal.sqlite import SqliteJournal
from wan_async.outputs.downloader import Downloader
from wan_async.wiro.api import Api

WRITES = (
    "enroll", "claim", "intent", "accepted", "rejected", "unknown", "absent", "quarantined", "ended",
    "closed", "reopened", "job_failed", "part", "checked", "renamed", "stored", "uploaded", "forget_upload", "hashed",
    "echoed",
)  # fmt: skip


class Points:
    """Counts the steps of a run by name, and kills the process at the chosen one."""

    def __init__(self, kill: str | None, occurrence: int) -> None:
        self.seen: Counter[str] = Counter()
        self._kill, self._occurrence = kill, occurrence

    def reach(self, name: str) -> None:
        """Count a step; kill the process if it is the chosen one."""
        self.seen[name] += 1
        if name == self._kill and self.seen[name] == self._occurrence:
            os.kill(os.getpid(), signal.SIGKILL)


class PointedTransport(httpx.AsyncBaseTransport):
    """A transport with a step before each request and one after its answer."""

    def __init__(self, points: Points) -> None:
        self._points, self._inner = points, StackTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        name = "clip" if "/cdn/" in path else "Run" if "/Run/" in path else path.removeprefix("/v1/")
        self._points.reach(f"{name}: before")
        response = await self._inner.handle_async_request(request)
        self._points.reach(f"{name}: after")
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class PointedFiles(Files):
    """A file layer with a step before and one after each call that changes files."""

    def __init__(self, points: Points) -> None:
        self._points = points
        self._opened: dict[int, str] = {}

    @contextmanager
    def _around(self, name: str, what: str) -> Iterator[None]:
        self._points.reach(f"{name} {what}: before")
        yield
        self._points.reach(f"{name} {what}: after")

    def open(self, path: Path) -> FileIO:
        file = super().open(path)
        self._opened[id(file)] = _kind(path)
        return file

    def write(self, file: FileIO, data: bytes) -> None:
        with self._around("write", self._opened[id(file)]):
            super().write(file, data)

    def fsync(self, file: FileIO) -> None:
        with self._around("fsync", self._opened[id(file)]):
            super().fsync(file)

    def link(self, source: Path, target: Path) -> None:
        with self._around("link", _kind(target)):
            super().link(source, target)

    def replace(self, source: Path, target: Path) -> None:
        with self._around("replace", _kind(target)):
            super().replace(source, target)

    def unlink(self, path: Path) -> None:
        with self._around("unlink", _kind(path)):
            super().unlink(path)

    def fsync_folder(self, folder: Path) -> None:
        with self._around("fsync", "folder"):
            super().fsync_folder(folder)


def _kind(path: Path) -> str:
    return "".join(path.suffixes[-2:] if path.suffix == ".tmp" else [path.suffix])


class PointedJournal:
    """A journal with a step before and one after each write."""

    def __init__(self, journal: SqliteJournal, points: Points) -> None:
        self._journal, self._points = journal, points

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._journal, name)
        if name not in WRITES:
            return method

        async def pointed(*args: Any, **options: Any) -> Any:
            self._points.reach(f"{name}: before")
            result = await method(*args, **options)
            self._points.reach(f"{name}: after")
            return result

        return pointed


def batch_of(case: dict[str, Any]) -> Prepared:
    """The jobs of a case: one for each prompt, all with the same image."""
    planned = batch.from_jobs(
        [Job(id=f"job-{number}", prompt=prompt, image=case["image"]) for number, prompt in enumerate(case["prompts"])]
    )
    return prepare(planned, Path(case["output"]) / FOLDER)


async def run(case: dict[str, Any], points: Points) -> int:
    """Run a case to its end and return the exit code, unless the process is killed."""

    @asynccontextmanager
    async def open_journal(*args: Any, **options: Any) -> AsyncIterator[SqliteJournal]:
        async with SqliteJournal.open(*args, **options) as journal:
            yield cast(SqliteJournal, PointedJournal(journal, points))

    output = Path(case["output"])
    disk = PointedFiles(points)
    key, secret = SecretStr(case["key"]), SecretStr(case["secret"])
    api = Api(key, secret, base_url=case["base_url"], transport=PointedTransport(points))
    downloader = Downloader(transport=PointedTransport(points), allow_private=True, files=disk)
    async with api, downloader:
        runner = Run(
            batch_of(case),
            dependencies=Dependencies(api, downloader, disk, open_journal=open_journal, socket_url=case["socket_url"]),
            account=Account("the sandbox", case["key"]),
            output=output,
            options=Options(
                concurrency=1, upload=case["upload"], track=case["track"], settle_seconds=case["settle_seconds"]
            ),
        )
        finished = await runner.run()
        if runner.error is not None:
            print(runner.error, file=sys.stderr)
        return finished.exit_code


def answer(case: dict[str, Any]) -> dict[str, Any]:
    """Run a case in a forked process; return its exit code (negative: the signal) and the occurrences of each step."""
    points = Points(case["kill"], case["occurrence"])
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = anyio.run(run, case, points)
            os.write(writer, json.dumps(points.seen).encode())
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        seen = pipe.read()
    _, status = os.waitpid(child, 0)
    return {"code": os.waitstatus_to_exitcode(status), "points": json.loads(seen or "{}")}


def answer_one(connection: socket.socket) -> int:
    """Answer the case that a connection sends."""
    with connection.makefile("rw") as stream:
        json.dump(answer(json.loads(stream.readline())), stream)
    return 0


if __name__ == "__main__":
    fork_for_each_connection(sys.argv[1], answer_one)
