"""The sandbox in a process of its own, for `--sandbox`."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wan_async import errors
from wan_async.cli.settings import Access
from wan_async.journal.base import FOLDER

log = logging.getLogger(__name__)


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


@contextmanager
def own_sandbox(output: Path) -> Iterator[Access]:
    """A sandbox that keeps its account and tasks with this output folder's journal."""
    with sandbox(output / FOLDER / "sandbox") as there:
        yield Access(there.base_url, there.api_key, there.api_secret, "the sandbox", there.socket_url)
