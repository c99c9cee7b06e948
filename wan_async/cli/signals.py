"""A run under a display and the user's signals."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import anyio
import anyio.abc

from wan_async.cli.display import Display
from wan_async.domain import events
from wan_async.engine.event_stream import EventStream
from wan_async.engine.run import Run

log = logging.getLogger(__name__)

TERM_SECONDS = 6.0
"""What a run gets to finish after SIGTERM or SIGHUP, before it is left."""
TICK_SECONDS = 0.2


async def drive(
    runner: Run, stream: EventStream, display: Display, names: Mapping[str, str] | None = None
) -> events.Finished:
    """Runs to the end, shows every event, and obeys the signals.

    Args:
        runner: what runs.
        stream: its events.
        display: shows them.
        names: what to call jobs by, for people; by key.
    """
    finished: list[events.Finished] = []
    failed: list[bool] = []

    async def run() -> None:
        finished.append(await runner.run())

    def show(step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # what people see must not decide what becomes of the run
            if not failed:
                log.exception("the display met something unexpected")
            failed.append(True)

    async def tick() -> None:
        while True:
            await anyio.sleep(TICK_SECONDS)
            show(lambda: display.tick(time.time()))

    async with anyio.create_task_group() as group:
        group.start_soon(_obey, runner, display)
        group.start_soon(tick)
        group.start_soon(run)
        async for event in stream:
            if names is not None and isinstance(event, events.JobEvent):
                event = replace(event, job=names.get(event.job, event.job))
            show(partial(display.show, event))
        group.cancel_scope.cancel()
    return finished[0]


async def _obey(runner: Run, display: Display) -> None:
    wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    interrupts = 0
    try:
        with anyio.open_signal_receiver(*wanted) as received:
            async with anyio.create_task_group() as group:
                async for number in received:
                    if number != signal.SIGINT:
                        runner.stop(f"{signal.Signals(number).name}: nothing more is submitted", 128 + number)
                        group.start_soon(_leave_later, runner)
                        continue
                    interrupts += 1
                    if interrupts == 1:
                        runner.stop(
                            "Ctrl-C: nothing more is submitted; what runs is finished and downloaded (again to leave)",
                            130,
                        )
                    elif interrupts == 2:
                        runner.leave()
                    else:
                        display.__exit__(None, None, None)
                        os._exit(130)
    except NotImplementedError:  # Windows: there, Ctrl-C cancels the main task, which acts as the second one
        return


async def _leave_later(runner: Run) -> None:
    await anyio.sleep(TERM_SECONDS)
    runner.leave()
