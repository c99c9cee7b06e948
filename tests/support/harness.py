"""Whole batches against the sandbox, in virtual time: no test here waits for a real second."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple, Unpack
from unittest import mock

import anyio
import anyio.to_thread
import httpx
import trio
import trio.testing
from pydantic import SecretStr

from wan_async.batch.plan import prepare
from wan_async.domain.attempt import Account
from wan_async.domain.batch import DEFAULT_NAME, from_jobs
from wan_async.domain.events import Event, Finished
from wan_async.domain.job import AnyJob, Job
from wan_async.domain.model import WAN, Model
from wan_async.engine.context import Services
from wan_async.engine.event_stream import EventStream
from wan_async.engine.options import Options
from wan_async.engine.run import Run
from wan_async.filesystem import Files
from wan_async.journal.base import FOLDER
from wan_async.journal.sqlite import Journal
from wan_async.outputs.download import Downloader
from wan_async.sandbox import Sandbox, transport
from wan_async.threads import inline
from wan_async.wiro.api import Api

KEY, SECRET = "sandbox-key", "sandbox-secret"
ORIGIN = "https://api.wiro.ai:443"
EPOCH = 1_790_000_000.0
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
E = TypeVar("E", bound=Event)


def now() -> float:
    """Unix seconds in virtual time."""
    return EPOCH + trio.current_time()


async def _at_once(func: Callable[[Unpack[Ts]], T], *args: *Ts, **options: object) -> T:
    return await inline(func, *args)


def virtually(test: Callable[[], Awaitable[T]]) -> T:
    """Runs an async test in virtual time: whenever all wait, time jumps.

    It would jump while a thread works, too. So what is meant for one blocks the loop, and none is started.
    """
    threads = AssertionError("no thread is started in virtual time: it would jump while the thread works")
    with mock.patch.object(anyio.to_thread, "run_sync", _at_once):
        with mock.patch.object(threading.Thread, "start", side_effect=threads):
            return trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


def make_sandbox(**settings: Any) -> Sandbox:
    """A sandbox that lives in virtual time, with tiny clips; fast unless told otherwise."""
    return Sandbox(**{"now": now, "sleep": anyio.sleep, "balance_usd": 1_000.0, **settings})


@dataclass
class World:
    """A sandbox, an output folder, and what happened there."""

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

    @property
    def output(self) -> Path:
        """Where the clips go."""
        return self.folder / "out"

    def services(self) -> Services:
        """Clients of the sandbox in virtual time, on this disk."""
        draw = random.Random(self.seed).random
        wrap = self.wrap or (lambda wire: Mortal(wire, self))
        wire = wrap(transport(self.sandbox))
        api = Api(SecretStr(self.key), SecretStr(SECRET), model=self.model, transport=wire, clock=now, draw=draw)
        downloader = Downloader(transport=wrap(transport(self.sandbox)), offload=inline, files=self.files)
        return Services(api, downloader, self.files, inline, now, draw, inline=True, open_journal=self._open_journal)

    @asynccontextmanager
    async def _open_journal(self, *args: Any, **options: Any) -> AsyncIterator[Journal]:
        async with Journal.open(*args, **options) as journal:
            write = journal._write

            async def mortal(change: Callable[[sqlite3.Connection], T]) -> T:
                await self.die()
                result = await write(change)
                await self.die()
                return result

            journal._write = mortal  # this is how a dead process writes
            yield journal

    async def die(self) -> None:
        """A dead process goes no further."""
        if self.dead:
            await anyio.sleep_forever()

    async def run_until(self, seconds: float, batch: Iterable[AnyJob], **options: Any) -> Finished:
        """Runs a batch, and kills it after so many seconds: from then on nothing is sent, heard or committed."""

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
        batch: Iterable[AnyJob],
        act: Callable[[Run], Awaitable[None]] | None = None,
        *,
        name: str = DEFAULT_NAME,
        **options: Any,
    ) -> Finished:
        """Runs a batch to its end; `act` does something to the run meanwhile."""
        self.output.mkdir(parents=True, exist_ok=True)
        stream = EventStream()
        runner = Run(
            prepare(from_jobs(batch, name), self.home),
            services=self.services(),
            account=Account(self.origin, self.key),
            output=self.output,
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

    def told(self, kind: type[E]) -> list[E]:
        """The last run's events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def clips(self) -> list[Path]:
        """The clips on disk."""
        return sorted(self.output.glob("*.mp4"))

    @property
    def leftovers(self) -> list[Path]:
        """Files that a finished run leaves nobody."""
        return [path for path in self.output.iterdir() if path.suffix in (".part", ".tmp")]

    @property
    def tasks(self) -> int:
        """How many tasks the service ever made."""
        return len(self.sandbox.account.tasks)

    @property
    def home(self) -> Path:
        """Where the journal lies."""
        return self.output / FOLDER


async def _within(scope: anyio.CancelScope, act: Callable[[Run], Awaitable[None]], runner: Run) -> None:
    with scope:
        await act(runner)


class Mortal(httpx.AsyncBaseTransport):
    """A transport that dies with its process: before a request, or before its answer is heard."""

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
    """How a run ended, which must not take longer than this in virtual time."""
    with anyio.move_on_after(seconds):
        return await run
    raise AssertionError(f"the run still goes on after {seconds:.0f} s")


__all__ = ["KEY", "ORIGIN", "SECRET", "World", "make_sandbox", "now", "text_jobs", "virtually", "within"]
