"""Shell commands of the user that a run starts: for each stored clip, and at its end.

A hook never fails the run, nor delays it: commands run in threads of their own, a few at once, and what fails is
logged. After the run, those that still run get `DRAIN_SECONDS`, then they are killed.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from wan_async.cli.display_text import truncate
from wan_async.domain import events
from wan_async.output_locations import Location
from wan_async.outputs.base import sidecar_name

AT_ONCE = 4
DRAIN_SECONDS = 60.0
"""How long commands may go on after the run."""

log: logging.Logger = logging.getLogger(__name__)


class Hooks:
    """The hooks of a run.

    Args:
        on_done: the command for each stored clip; None for none.
        on_end: the command after the run.
        output: the output folder, or the URL in its place.
        names: the names of jobs for people, by key.
    """

    def __init__(self, on_done: str | None, on_end: str | None, output: Location, names: Mapping[str, str]) -> None:
        self._on_done = on_done
        self._on_end = on_end
        self._output = output.absolute() if isinstance(output, Path) else output
        self._task_ids: dict[str, str] = {}
        self._names = names
        self._waiting: queue.SimpleQueue[events.Stored | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running: set[subprocess.Popen[str]] = set()
        self._is_over = False

    def observe(self, event: events.Event) -> None:
        """Start the command of a stored clip."""
        if isinstance(event, events.Accepted | events.Ended) and event.task_id:
            self._task_ids[event.job] = event.task_id
        if self._on_done is None or not isinstance(event, events.Stored):
            return
        self._waiting.put(event)
        if len(self._threads) < AT_ONCE:
            thread = threading.Thread(target=self._work, args=(self._on_done,), name="on-done", daemon=True)
            self._threads.append(thread)
            thread.start()

    def finish(self, last: events.Finished) -> None:
        """Wait for the commands that run, and run the one for the end."""
        deadline = time.monotonic() + DRAIN_SECONDS
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._is_over = True
        for process in list(self._running):
            log.warning("--on-done still runs after %.0f s, and is killed", DRAIN_SECONDS)
            _kill(process)
        if self._on_end is not None:
            facts = {f"WAN_{name.upper()}": value for name, value in events.as_dict(last).items()}
            self._run("--on-end", self._on_end, facts)

    def _work(self, command: str) -> None:
        while not self._is_over and (event := self._waiting.get()) is not None:
            try:
                self._run("--on-done", command, self._facts_of(event))
            except Exception:
                log.exception("--on-done could not be run for %s", event.job)

    def _facts_of(self, event: events.Stored) -> dict[str, object]:
        facts = {f"WAN_{name.upper()}": value for name, value in events.as_dict(event).items()}
        sidecar = self._output / sidecar_name(event.file)
        facts["WAN_TASK_ID"] = self._task_ids.get(event.job)
        if isinstance(sidecar, Path):
            with suppress(OSError, ValueError, AttributeError):
                facts["WAN_TASK_ID"] = json.loads(sidecar.read_text(encoding="utf-8")).get("task_id")
        name = self._names.get(event.job, event.job)
        return facts | {"WAN_FILE": self._output / event.file, "WAN_SIDECAR": sidecar, "WAN_NAME": name}

    def _run(self, flag: str, command: str, facts: Mapping[str, object]) -> None:
        """Runs a command to its end; what it writes goes to the log."""
        values = {name: "" if value is None else str(value) for name, value in facts.items()}
        environment = {**os.environ, "WAN_OUTPUT": str(self._output), **values}
        try:
            process = subprocess.Popen(  # noqa: S602 - the user's own command line
                command, shell=True, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            log.warning("%s can't be run: %s", flag, error)
            return
        self._running.add(process)
        try:
            said, _ = process.communicate(timeout=DRAIN_SECONDS if self._is_over else None)
        except subprocess.TimeoutExpired:
            _kill(process)
            said, _ = process.communicate()
            log.warning("%s still ran after %.0f s, and was killed", flag, DRAIN_SECONDS)
            return
        finally:
            self._running.discard(process)
        last = truncate(said.strip().rpartition("\n")[2])
        if process.returncode:
            log.warning("%s failed with exit code %d: %s", flag, process.returncode, last or "it wrote nothing")
        elif last:
            log.info("%s: %s", flag, last)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kills a command with its children, where the system has process groups."""
    with suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
