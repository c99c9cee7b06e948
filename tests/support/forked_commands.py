"""Commands that start at once: a process that has imported the command line forks for each.

Such a process is killed, suspended and waited for as any other. What ends a fresh Python, such as the last write to a
closed pipe, needs `servers.start`.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from forking import fork_for_each_connection, start_forking

IMPORTED = (
    "wan_async.cli.dispatch", "wan_async.cli.commands.run", "wan_async.cli.commands.watch",
    "wan_async.cli.commands.worker", "anyio._backends._asyncio", "httpcore", "wsproto", "filelock", "yaml",
    "psycopg", "psycopg_pool", "procrastinate",
)  # fmt: skip
"""What runs and workers import."""


class ForkedCommand:
    """`python -m wan_async ...` with the methods of `subprocess.Popen` that tests use.

    Args:
        words: the arguments.
        env: all environment variables.
        cwd: the working folder.
        log: where standard output and standard error go; None: they can be read from the process.
    """

    def __init__(self, words: Sequence[str], env: Mapping[str, str], cwd: Path | None, log: IO[str] | None) -> None:
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        if log is None:
            reading, writing = os.pipe()
            reading_errors, writing_errors = os.pipe()
            self.stdout, self.stderr = os.fdopen(reading), os.fdopen(reading_errors)
        else:
            writing, writing_errors = os.dup(log.fileno()), os.dup(log.fileno())
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_address())
        request = json.dumps({"words": [*words], "env": {**env}, "cwd": str(cwd or Path.cwd())}).encode()
        socket.send_fds(self._connection, [len(request).to_bytes(4, "big")], [writing, writing_errors])
        self._connection.sendall(request)
        for descriptor in (writing, writing_errors):
            os.close(descriptor)
        self._answers = self._connection.makefile("rb")
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None if it runs."""
        if self.returncode is None:
            self._connection.setblocking(False)
            try:
                self._connection.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return None
            finally:
                self._connection.setblocking(True)
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit code.

        Raises:
            TimeoutError: it still runs after this number of seconds.
        """
        if self.returncode is None:
            self._connection.settimeout(timeout)
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        """Read what is left of both outputs, and wait; it is killed after this number of seconds."""
        assert self.stdout is not None
        assert self.stderr is not None
        if self.stdout.closed:
            return "", ""
        last = threading.Timer(timeout, self.kill)
        last.start()
        with self.stdout, self.stderr, ThreadPoolExecutor(1) as pool:
            errors = pool.submit(self.stderr.read)
            output = self.stdout.read()
            error = errors.result()
        self.wait()
        last.cancel()
        return output, error

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, if it runs."""
        self.send_signal(signal.SIGKILL)


@cache
def _address() -> str:
    """The address of the process that forks; started once."""
    return start_forking(__file__, dict(os.environ))


def _serve(connection: socket.socket) -> int:
    """Run the command that a connection asks for in a process; answer with its number, and its exit code in the end."""
    header, descriptors, _, _ = socket.recv_fds(connection, 4, 2)
    with connection, connection.makefile("rwb") as stream:
        request = json.loads(stream.read(int.from_bytes(header, "big")))
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = _run(request, descriptors)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        for descriptor in descriptors:
            os.close(descriptor)
        stream.write(f"{child}\n".encode())
        stream.flush()
        _, status = os.waitpid(child, 0)
        stream.write(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    return 0


def _run(request: dict[str, Any], descriptors: Sequence[int]) -> int:
    from wan_async.cli.main import run_process

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for target, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, target)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.closerange(3, 64)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    words: list[str] = request["words"]
    sys.argv = ["__main__.py", *words]
    sys.orig_argv = [sys.executable, "-m", "wan_async", *words]
    sys.stdout = os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1)
    try:
        return run_process()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1


def main() -> None:
    """Fork a command for each connection."""
    for module in IMPORTED:
        import_module(module)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tests' Ctrl-C ends them, and they end this process
    fork_for_each_connection(sys.argv[1], _serve)


if __name__ == "__main__":
    main()
