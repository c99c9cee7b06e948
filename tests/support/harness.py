"""Runs whole batches against the sandbox in virtual time."""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple, Unpack
from unittest import mock

import anyio
import anyio.to_thread
import httpx
import trio
import trio.testing
from pydantic import SecretStr

from wan_async.batch.plan import Prepared, prepare
from wan_async.domain.attempt import Account
from wan_async.domain.batch import DEFAULT_NAME, from_jobs
from wan_async.domain.events import Event, Finished
from wan_async.domain.job import AnyJob, Job
from wan_async.domain.model import WAN, Model
from wan_async.engine.dependencies import Dependencies, open_journal
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.engine.run_events import EventStream
from wan_async.filesystem import Files
from wan_async.journal.base import FOLDER, DatabaseHome
from wan_async.journal.sql_interface import Database
from wan_async.journal.sql_journal import SqlJournal
from wan_async.outputs.downloader import Downloader
from wan_async.sandbox import Sandbox, transport
from wan_async.threads import inline
from wan_async.wiro.api import Api

KEY, SECRET = "sandbox-key", "sandbox-secret"
ORIGIN = "https://api.wiro.ai:443"
EPOCH = 1_790_000_000.0
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
E = TypeVar("E", bound=Event)
Send = Callable[[httpx.Request], Awaitable[httpx.Response]]
Handle = Callable[[httpx.Request, Send], Awaitable[httpx.Response]]


def now() -> float:
    """Unix seconds in virtual time."""
    return EPOCH + trio.current_time()


async def _at_once(func: Callable[[Unpack[Ts]], T], *args: *Ts, **options: object) -> T:
    return await inline(func, *args)


def virtually(test: Callable[[], Awaitable[T]]) -> T:
    """Run an async test in virtual time: when all tasks wait, the clock jumps to the next deadline.

    It would also jump while a thread works. So work for threads runs on the loop, and starting a thread is an error.
    """
    with no_threads():
        return trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


@contextmanager
def no_threads() -> Iterator[None]:
    """Within this block work for threads runs on the loop, and starting a thread is an error."""
    threads = AssertionError("a thread was started in virtual time, which would jump while it works")
    with mock.patch.object(anyio.to_thread, "run_sync", _at_once):
        with mock.patch.object(threading.Thread, "start", side_effect=threads):
            yield


def make_sandbox(**settings: Any) -> Sandbox:
    """A sandbox on the virtual clock, with placeholder clips."""
    return Sandbox(**{"now": now, "sleep": anyio.sleep, "balance_usd": 1_000.0, **settings})


@dataclass
class World:
    """A sandbox, an output folder, and the events of the last run. The journal may be in a database."""

    folder: Path
    sandbox: Sandbox
    seed: int = 0
    key: str = KEY
    origin: str = ORIGIN
    files: Files = field(default_factory=Files)
    wrap: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport] | None = None
    events: list[Event] = field(default_factory=list)
    dead: bool = False
    model: Model = WAN
    database: DatabaseHome | None = None

    @property
    def output(self) -> Path:
        """The output folder."""
        return self.folder / "out"

    def dependencies(self) -> Dependencies:
        """Clients of a run, connected to the sandbox in virtual time."""
        draw = random.Random(self.seed).random
        wrap = self.wrap or (lambda inner: Mortal(inner, self))
        connection = wrap(transport(self.sandbox))
        api = Api(SecretStr(self.key), SecretStr(SECRET), model=self.model, transport=connection, clock=now, draw=draw)
        downloader = Downloader(transport=wrap(transport(self.sandbox)), offload=inline, files=self.files)
        return Dependencies(
            api, downloader, self.files, inline, now, draw, inline=True, open_journal=self._open_journal
        )

    @asynccontextmanager
    async def _open_journal(self, *args: Any, **options: Any) -> AsyncIterator[SqlJournal]:
        async with open_journal(*args, **options) as journal:
            assert isinstance(journal, SqlJournal)
            write = journal._write

            async def mortal(change: Callable[[Database], T]) -> T:
                await self.die()
                result = await write(change)
                await self.die()
                return result

            journal._write = mortal  # a killed process commits nothing
            yield journal

    async def die(self) -> None:
        """Block forever once the process is killed."""
        if self.dead:
            await anyio.sleep_forever()

    async def run_until(self, seconds: float, batch: Iterable[AnyJob] | Prepared, **options: Any) -> Finished:
        """Run a batch and simulate a kill after some seconds: nothing is sent, received or committed afterwards."""

        async def kill(runner: Run) -> None:
            await anyio.sleep(seconds)
            self.dead = True
            runner.leave()

        try:
            return await self.run(batch, kill, **options)
        finally:
            self.dead = False

    async def run(
        self,
        batch: Iterable[AnyJob] | Prepared,
        act: Callable[[Run], Awaitable[None]] | None = None,
        *,
        name: str = DEFAULT_NAME,
        **options: Any,
    ) -> Finished:
        """Run a batch to its end; `act` runs concurrently and gets the `Run`."""
        self.output.mkdir(parents=True, exist_ok=True)
        stream = EventStream()
        if not isinstance(batch, Prepared):
            batch = prepare(from_jobs(batch, name), self.home, database=self.database)
        runner = Run(
            batch,
            dependencies=self.dependencies(),
            account=Account(self.origin, self.key),
            output=self.output,
            home=self.database,
            options=Options(**options),
            stream=stream,
        )
        self.events = []

        async def read() -> None:
            async for event in stream:
                self.events.append(event)

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            acting = anyio.CancelScope()
            if act is not None:
                group.start_soon(_within, acting, act, runner)
            finished = await runner.run()
            acting.cancel()
            return finished
        raise AssertionError("the group is left only after the run")

    def events_of(self, kind: type[E]) -> list[E]:
        """Events of this kind of the last run."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def clips(self) -> list[Path]:
        """The clips on disk."""
        return sorted(self.output.glob("*.mp4"))

    @property
    def leftovers(self) -> list[Path]:
        """Temporary and part files, which a finished run must not leave behind."""
        return [path for path in self.output.iterdir() if path.suffix in (".part", ".tmp")]

    @property
    def tasks(self) -> int:
        """Number of tasks in the sandbox."""
        return len(self.sandbox.account.tasks)

    @property
    def home(self) -> Path:
        """Folder of the journal."""
        return self.output / FOLDER


async def _within(scope: anyio.CancelScope, act: Callable[[Run], Awaitable[None]], runner: Run) -> None:
    with scope:
        await act(runner)


class Mortal(httpx.AsyncBaseTransport):
    """A transport that blocks forever once the process is killed, before the request or before its answer."""

    def __init__(self, inner: httpx.AsyncBaseTransport, world: World) -> None:
        self.inner, self.world = inner, world

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self.world.die()
        response = await self.inner.handle_async_request(request)
        await self.world.die()
        return response


def text_jobs(count: int, **fields: Any) -> list[Job]:
    """Jobs without images."""
    return [Job(id=f"job-{number}", prompt=f"scene {number}", **fields) for number in range(count)]


async def within(seconds: float, run: Awaitable[Finished]) -> Finished:
    """Await a run that must end within `seconds` of virtual time."""
    with anyio.move_on_after(seconds):
        return await run
    raise AssertionError(f"the run has not ended after {seconds:.0f} s")


__all__ = ["KEY", "ORIGIN", "SECRET", "World", "make_sandbox", "no_threads", "now", "text_jobs", "virtually", "within"]


class Intercepted(httpx.AsyncBaseTransport):
    """A transport whose requests are handled by a function."""

    def __init__(self, handle: Handle, inner: httpx.AsyncBaseTransport) -> None:
        self._handle, self._inner = handle, inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._handle(request, self._inner.handle_async_request)


def intercepting(handle: Handle) -> Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport]:
    """Make `World.wrap` of a function that gets each request, and what sends it on."""
    return partial(Intercepted, handle)
