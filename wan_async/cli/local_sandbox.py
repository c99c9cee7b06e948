"""A sandbox server in a child process, for `--sandbox`."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wan_async import errors
from wan_async.cli.api_settings import Access
from wan_async.cli.error_messages import say
from wan_async.journal.base import FOLDER
from wan_async.journal.ownership import SANDBOX

SILENT_SECONDS = 2.5
"""A sandbox that takes longer to start is waited for visibly."""


@dataclass(frozen=True, slots=True)
class SandboxAddress:
    """The URLs and credentials of a sandbox."""

    base_url: str
    socket_url: str
    api_key: str
    api_secret: str | None


@contextmanager
def sandbox(state: Path, popen: Callable[..., subprocess.Popen[str]] = subprocess.Popen) -> Iterator[SandboxAddress]:
    """A sandbox in a child process; it ends with this block or with this process.

    It has a session of its own, so that Ctrl-C in the terminal doesn't reach it.

    Args:
        state: the folder of its account and tasks.
        popen: starts the process.

    Raises:
        errors.Unusable: its folder can't be written, or it doesn't start.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        log = (state / "log").open("w", encoding="utf-8")
    except OSError as error:
        raise errors.Unusable(f"{state} can't be written: {error.strerror or error}") from None
    busy = f"waiting until another process has ended that uses the sandbox in {state}"
    waits_for = busy if _is_used(state) else "waiting for the sandbox to start"
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
                with _said_if_slow(waits_for):
                    line = json.loads(process.stdout.readline())
                address = SandboxAddress(line["base_url"], line["socket_url"], line["api_key"], line.get("api_secret"))
            except (ValueError, KeyError, TypeError):
                output = (state / "log").read_text(encoding="utf-8", errors="replace").strip()
                if "No module named" in output:
                    output += " (its extras are missing: pip install 'wan-async[sandbox]')"
                reason = output[-600:] or "it ended without a message"
                raise errors.Unusable(f"the sandbox did not start: {reason}") from None
            yield address
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _is_used(state: Path) -> bool:
    """Whether another sandbox holds the lock of the state folder now."""
    import filelock

    try:
        with filelock.FileLock(state / "lock", timeout=0, fallback_to_soft=False):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # the sandbox will say why
        return False


@contextmanager
def _said_if_slow(text: str) -> Iterator[None]:
    """Writes a line to standard error if the block takes longer than `SILENT_SECONDS`."""
    timer = threading.Timer(SILENT_SECONDS, say, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def without_a_process() -> Access:
    """Access to a sandbox in this process: what needs no task, such as the prices, is answered as by `own_sandbox`."""
    from wan_async.sandbox import transport

    here = transport()
    known = here.sandbox.settings
    return Access("http://127.0.0.1/v1", known.api_key, known.api_secret, SANDBOX, None, here)


def state_in(output: Path) -> Path:
    """Where the sandbox of an output folder keeps its account and tasks."""
    return output / FOLDER / "sandbox"


@contextmanager
def own_sandbox(output: Path) -> Iterator[Access]:
    """Access to a sandbox that keeps its account and tasks beside this output folder's journal."""
    with sandbox(state_in(output)) as address:
        yield Access(address.base_url, address.api_key, address.api_secret, SANDBOX, address.socket_url)
