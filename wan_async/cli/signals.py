"""Run under a display, and obey signals: stop, leave, exit."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol

import anyio
import anyio.abc

from wan_async.cli.display import Display
from wan_async.cli.logs import log_fact
from wan_async.domain import events
from wan_async.domain.exit_codes import ExitCode
from wan_async.engine.run_events import EventStream

log: logging.Logger = logging.getLogger(__name__)

TERM_SECONDS = 6.0
"""The time between SIGTERM or SIGHUP and leaving the run, in which it may finish."""
TICK_SECONDS = 0.2
LATE_SECONDS = 0.05


class Runner(Protocol):
    """A run, or a worker."""

    def stop(self, reason: str, exit_code: ExitCode) -> None:
        """Submit no more."""

    def leave(self) -> None:
        """Don't see through what was submitted."""

    async def run(self) -> events.Finished:
        """Runs to the end; returns the last event."""
        ...


async def drive(
    runner: Runner,
    stream: EventStream,
    display: Display,
    names: Mapping[str, str] | None = None,
    observe: Callable[[events.Event], events.Event] = lambda event: event,
    on_signal: Callable[[], None] | None = None,
    term_seconds: float = TERM_SECONDS,
) -> events.Finished:
    """Run to the end, show every event, and obey signals.

    The first Ctrl-C stops submitting, the second leaves the run, the third exits at once. SIGTERM and SIGHUP stop it,
    and leave it after `term_seconds`.

    Args:
        runner: the run.
        stream: its events.
        display: shows them.
        names: the names of jobs for people, by key; by default jobs are shown by key.
        observe: gets each event first; what it returns is shown.
        on_signal: called at each signal, also at one that comes in the moment when the run has ended.
        term_seconds: the time between SIGTERM or SIGHUP and leaving the run.

    Returns:
        The run's last event.
    """
    finished: list[events.Finished] = []
    failed = False

    async def run() -> None:
        finished.append(await runner.run())

    def show(step: Callable[[], None]) -> None:
        nonlocal failed
        try:
            step()
        except Exception:  # a fault of the display must not end the run
            if not failed:
                log.exception("the display failed; the run goes on")
            failed = True

    async def tick() -> None:
        while True:
            await anyio.sleep(TICK_SECONDS)
            show(lambda: display.tick(time.time()))

    async with anyio.create_task_group() as group:
        group.start_soon(_obey, runner, display, on_signal, term_seconds)
        group.start_soon(tick)
        group.start_soon(run)
        async for each in stream:
            event = observe(each)
            log_fact(event)
            show(partial(display.show, event if names is None else _with_name(event, names)))
        group.cancel_scope.cancel()
    last = observe(finished[0])
    assert isinstance(last, events.Finished)
    return last


def _with_name(event: events.Event, names: Mapping[str, str]) -> events.Event:
    if isinstance(event, events.JobEvent | events.Limited) and event.job is not None:
        return replace(event, job=names.get(event.job, event.job))
    return event


async def _obey(runner: Runner, display: Display, on_signal: Callable[[], None] | None, term_seconds: float) -> None:
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    interrupts = 0
    try:
        with anyio.open_signal_receiver(*numbers) as received:
            async with _also_late(received, on_signal), anyio.create_task_group() as group:
                async for number in received:
                    if on_signal is not None:
                        on_signal()
                    if number != signal.SIGINT:
                        code = ExitCode.TERMINATED if number == signal.SIGTERM else ExitCode.HUNG_UP
                        runner.stop(f"{signal.Signals(number).name}: nothing more is submitted", code)
                        group.start_soon(_leave_later, runner, term_seconds)
                        continue
                    interrupts += 1
                    if interrupts == 1:
                        runner.stop(
                            "Ctrl-C: nothing more is submitted; what runs is finished and downloaded (again to leave)",
                            ExitCode.INTERRUPTED,
                        )
                    elif interrupts == 2:
                        runner.leave()
                    else:
                        display.close()
                        os._exit(ExitCode.INTERRUPTED)
    except NotImplementedError:  # Windows: there, Ctrl-C cancels the main task, which leaves the run
        return


@asynccontextmanager
async def _also_late(
    received: AsyncIterator[signal.Signals], on_signal: Callable[[], None] | None
) -> AsyncIterator[None]:
    """Report signals also for a moment after this block: the event loop would drop one that comes while it is left."""
    try:
        yield
    finally:
        if on_signal is not None:
            with anyio.move_on_after(LATE_SECONDS, shield=True):
                async for _ in received:
                    on_signal()


async def _leave_later(runner: Runner, seconds: float) -> None:
    await anyio.sleep(seconds)
    runner.leave()
