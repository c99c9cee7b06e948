"""Sandboxes that start at once: a process that has imported them forks for each."""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

IMPORTED = (
    "wan_async.sandbox.server", "filelock", "uvicorn.lifespan.off", "uvicorn.protocols.websockets.wsproto_impl"
)  # fmt: skip
"""What a sandbox imports when it starts."""


@contextmanager
def forked_sandbox(arguments: Sequence[str], env: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Run `python -m wan_async.sandbox` in a fork of a process that has imported it; yield what it announces."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(_address(tuple(sorted(env.items()))))
        with connection.makefile("rw") as stream:
            stream.write(json.dumps(arguments) + "\n")
            stream.flush()
            try:
                yield json.loads(stream.readline())
            finally:
                connection.shutdown(socket.SHUT_WR)  # the end of its standard input
                stream.read()


@lru_cache
def _address(env: tuple[tuple[str, str], ...]) -> str:
    """Start the process that forks; return its address. It ends with this process."""
    folder = Path(mkdtemp())
    address = folder / "socket"
    process = subprocess.Popen(
        [sys.executable, __file__, str(address)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(env)
    )

    def end() -> None:
        process.communicate(timeout=30)
        address.unlink()
        folder.rmdir()

    atexit.register(end)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return str(address)


def _serve(connection: socket.socket) -> int:
    """Be a sandbox whose standard input and output are a connection, which sends its arguments first."""
    from wan_async.sandbox.process import main

    arguments = b""
    while not arguments.endswith(b"\n"):
        arguments += connection.recv(1)
    for stream in (sys.stdin, sys.stdout):
        os.dup2(connection.fileno(), stream.fileno())
    connection.close()
    code = main([*json.loads(arguments), "--exit-with-stdin"])
    sys.stdout.flush()
    return code


def _fork_for_each_connection(address: str) -> None:
    """Fork a sandbox for each connection to a socket, until standard input ends."""
    for module in IMPORTED:
        import_module(module)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        gc.freeze()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tests' Ctrl-C ends them, and they end this process
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    code = 99
                    try:
                        code = _serve(connection)
                    finally:
                        sys.stderr.flush()
                        os._exit(code)
    with suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    _fork_for_each_connection(sys.argv[1])
