"""One run under a display and the user's signals; the sandbox's process beside it.

The first Ctrl-C submits no more and sees the rest through; the second leaves (Runs in flight get three seconds, the
journal knows the rest); the third ends the process where it stands. SIGTERM and SIGHUP are the first, with a deadline.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from wan_async import errors, events
from wan_async.progress import Display, sanitise
from wan_async.runner import Runner
from wan_async.stream import Stream

log = logging.getLogger(__name__)

TERM_SECONDS = 6.0
"""What a run gets to finish after SIGTERM or SIGHUP, before it is left."""
TICK_SECONDS = 0.2


async def drive(
    runner: Runner, stream: Stream, display: Display, names: Mapping[str, str] | None = None
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


async def _obey(runner: Runner, display: Display) -> None:
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


async def _leave_later(runner: Runner) -> None:
    await anyio.sleep(TERM_SECONDS)
    runner.leave()


class LogHandler(logging.Handler):
    """Log lines for people, on whatever stderr is at the moment (the display may have taken it over).

    A traceback is shown only from the level INFO on: whoever asked for more than warnings wants to see it.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line; a stderr that is closed, or that there never was, loses it."""
        lines = [f"{record.levelname.lower()}: {sanitise(record.getMessage())}"]
        if record.exc_info and self.level <= logging.INFO:
            lines += _traceback(record.exc_info)
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write("".join(f"{line}\n" for line in lines))


def _traceback(exc_info: Any) -> list[str]:
    text = logging.Formatter().formatException(exc_info)
    return [sanitise(line) for line in text.splitlines()]


class _Lines(logging.Formatter):
    """Lines of the log file: a message is one line, a traceback several; none steers a terminal that shows it."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name is logging's
        return "\n".join(_traceback(ei))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        return sanitise(super().formatMessage(record))


@contextmanager
def logging_to(verbosity: int, log_file: Path | None) -> Iterator[None]:
    """The package's own log, on stderr and in a file. Other packages' logs may quote headers, so they stay out.

    Raises:
        errors.InvalidBatch: the file can't be written.
    """
    logger = logging.getLogger("wan_async")
    people = LogHandler([logging.WARNING, logging.INFO, logging.DEBUG][min(verbosity, 2)])
    handlers: list[logging.Handler] = [people]
    if log_file is not None:
        try:
            file = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            problem = errors.Problem("--log-file", f"{log_file} can't be written: {error.strerror or error}")
            raise errors.InvalidBatch([problem]) from None
        file.setFormatter(_Lines("%(asctime)s %(levelname)s %(name)s %(message)s"))
        handlers.append(file)
    for handler in handlers:
        logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG if log_file is not None else people.level)
    try:
        yield
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


@dataclass(frozen=True, slots=True)
class SandboxAddress:
    """How to reach a sandbox."""

    base_url: str
    socket_url: str
    api_key: str
    api_secret: str | None


@contextmanager
def sandbox(state: Path, popen: Callable[..., subprocess.Popen[str]] = subprocess.Popen) -> Iterator[SandboxAddress]:
    """A sandbox in a process and session of its own, so that Ctrl-C is ours alone; it ends with this block or with us.

    Args:
        state: where it keeps its account and tasks.
        popen: makes the process.

    Raises:
        errors.Unusable: it doesn't start.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        log = (state / "log").open("w", encoding="utf-8")
    except OSError as error:
        raise errors.Unusable(f"{state} can't be written: {error.strerror or error}") from None
    command = [sys.executable, "-m", "wan_async.sandbox", "--port", "0", "--state", str(state), "--exit-with-stdin"]
    with log:
        try:
            process = popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        except OSError as error:
            raise errors.Unusable(f"the sandbox did not start: {error.strerror or error}") from None
    with process:
        try:
            assert process.stdout is not None
            try:
                told = json.loads(process.stdout.readline())
                address = SandboxAddress(told["base_url"], told["socket_url"], told["api_key"], told.get("api_secret"))
            except (ValueError, KeyError, TypeError):
                said = (state / "log").read_text(encoding="utf-8", errors="replace").strip()
                if "No module named" in said:
                    said += " (its extras are missing: pip install 'wan-async[sandbox]')"
                said = said[-600:] or "it ended without a word"
                raise errors.Unusable(f"the sandbox did not start: {said}") from None
            yield address
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
