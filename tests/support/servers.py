"""The sandbox and the command line as separate processes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from forked_commands import ForkedCommand
from sandboxes import forked_sandbox

from wan_async.cli.local_sandbox import SandboxAddress
from wan_async.cli.main import main

Command = subprocess.Popen[str] | ForkedCommand
"""A running command."""


@dataclass
class Server:
    """A running sandbox process.

    Attributes:
        info: what it printed when it was ready: URLs and credentials.
    """

    info: dict[str, Any]

    @property
    def env(self) -> dict[str, str]:
        """Environment variables with which the command line uses it."""
        info = self.info
        env = {
            "WIRO_BASE_URL": info["base_url"], "WIRO_SOCKET_URL": info["socket_url"], "WIRO_API_KEY": info["api_key"]
        }  # fmt: skip
        return env | ({"WIRO_API_SECRET": info["api_secret"]} if info["api_secret"] else {})

    @property
    def root(self) -> str:
        """URL of its control routes."""
        return str(self.info["base_url"]).removesuffix("/v1")

    def report(self) -> dict[str, Any]:
        """Fetch the report of its account."""
        content: dict[str, Any] = self._request("GET", "account").json()
        return content

    def control(self, **wanted: Any) -> None:
        """Change its settings, see `sandbox.control`."""
        self._request("POST", "control", json=wanted)

    def _request(self, method: str, name: str, **content: Any) -> httpx.Response:
        with httpx.Client(trust_env=False, verify=False) as client:  # loading the certificates takes 25 ms
            return client.request(method, f"{self.root}/sandbox/{name}", **content).raise_for_status()

    @property
    def paid(self) -> int:
        """Number of tasks that were charged."""
        return sum(task["succeeded"] for task in self.report()["tasks"])


@contextmanager
def sandbox_server(*flags: str) -> Iterator[Server]:
    """Start a sandbox, by default with placeholder clips and short tasks."""
    arguments = ["--clips", "tiny", "--seconds", "0.2,0.4", *flags]
    running = forked_sandbox if sys.platform == "linux" else _sandbox_process
    with running(arguments, untraced(_environment())) as info:
        yield Server(info)


@contextmanager
def _sandbox_process(arguments: Sequence[str], env: dict[str, str]) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "wan_async.sandbox", *arguments, "--exit-with-stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(20)


@contextmanager
def quick_own_sandbox(state: Path) -> Iterator[SandboxAddress]:
    """What stands in for `local_sandbox.sandbox` where real clips and durations are not the point."""
    with sandbox_server("--state", str(state.absolute())) as server:  # the process that is forked has another folder
        yield SandboxAddress(**server.info)


def untraced(env: dict[str, str]) -> dict[str, str]:
    """The environment without coverage's variables: measuring would double the time and add no line."""
    return {name: value for name, value in env.items() if not name.startswith("COVERAGE_")}


def _environment(env: dict[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WIRO_")}
    return kept | {"COLUMNS": "100", "NO_COLOR": "1"} | (env or {})


def command_line(
    *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `python -m wan_async ...` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "wan_async", *map(str, arguments)],
        env=_environment(env), cwd=cwd, input=stdin, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def start(
    *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None, log: IO[str] | None = None
) -> subprocess.Popen[str]:
    """Start `python -m wan_async ...`. Its output can be read from the process, or goes to `log`."""
    return subprocess.Popen(
        [sys.executable, "-m", "wan_async", *map(str, arguments)],
        env=_environment(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=log or subprocess.PIPE,
        stderr=subprocess.STDOUT if log else subprocess.PIPE, text=True,
    )  # fmt: skip


def start_forked(
    *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None, log: IO[str] | None = None
) -> Command:
    """Like `start`, but on Linux in a fork of a process that has imported the command line."""
    if sys.platform != "linux":
        return start(*arguments, env=env, cwd=cwd, log=log)
    return ForkedCommand([*map(str, arguments)], _environment(env), cwd, log)


def events_of(output: str) -> list[dict[str, Any]]:
    """Parse the JSON lines of a run."""
    return [json.loads(line) for line in output.splitlines()]


def write_batch(folder: Path, jobs: Sequence[dict[str, Any]]) -> Path:
    """Write a batch file."""
    path = folder / "batch.json"
    path.write_text(json.dumps(list(jobs)))
    return path


def in_process(
    *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command like `command_line`, but in this process, which saves the start of Python."""
    out, err = io.StringIO(), io.StringIO()
    words = [str(argument) for argument in arguments]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name in ("WIRO_API_KEY", "WIRO_API_SECRET", "WIRO_BASE_URL", "WIRO_SOCKET_URL"):
            patch.delenv(name, raising=False)
        for name, value in ({"COLUMNS": "100", "NO_COLOR": "1"} | (env or {})).items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        patch.setattr("sys.argv", ["__main__.py", *words])
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        try:
            code: int = main(words)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
