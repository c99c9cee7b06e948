"""Sandboxes that start at once: a process that has imported them forks for each."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from forking import fork_for_each_connection, start_forking

IMPORTED = (
    "wan_async.sandbox.server", "filelock", "uvicorn.lifespan.off", "uvicorn.protocols.websockets.wsproto_impl"
)  # fmt: skip
"""What a sandbox imports when it starts."""


@contextmanager
def forked_sandbox(arguments: Sequence[str], env: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Run `python -m wan_async.sandbox` in a fork of a process that has imported it; yield what it announces."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(_address())
        with connection.makefile("rw") as stream:
            stream.write(json.dumps({"arguments": [*arguments], "env": env}) + "\n")
            stream.flush()
            try:
                yield json.loads(stream.readline())
            finally:
                connection.shutdown(socket.SHUT_WR)  # the end of its standard input
                stream.read()


@cache
def _address() -> str:
    """The address of the process that forks; started once."""
    untraced = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return start_forking(__file__, untraced)


def _serve(connection: socket.socket) -> int:
    """Be a sandbox whose standard input and output are a connection, which sends what it is to be first."""
    from wan_async.sandbox.process import main

    line = b""
    while not line.endswith(b"\n"):
        line += connection.recv(4096)
    request = json.loads(line)
    os.environ.clear()
    os.environ.update(request["env"])
    for stream in (sys.stdin, sys.stdout):
        os.dup2(connection.fileno(), stream.fileno())
    connection.close()
    code = main([*request["arguments"], "--exit-with-stdin"])
    sys.stdout.flush()
    return code


def main() -> None:
    """Fork a sandbox for each connection."""
    for module in IMPORTED:
        import_module(module)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tests' Ctrl-C ends them, and they end this process
    fork_for_each_connection(sys.argv[1], _serve)


if __name__ == "__main__":
    main()
