"""A process that forks for each connection to its socket: what it has imported, nobody imports again."""

from __future__ import annotations

import atexit
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp


def start_forking(script: str, env: Mapping[str, str]) -> str:
    """Start a script that calls `fork_for_each_connection`, and ends with this process.

    Args:
        script: gets the address as its argument.
        env: its environment variables.

    Returns:
        The address.
    """
    folder = Path(mkdtemp())
    address = folder / "socket"
    command = [sys.executable, script, str(address)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)

    def end() -> None:
        process.communicate(timeout=30)
        address.unlink()
        folder.rmdir()

    atexit.register(end)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return str(address)


def fork_for_each_connection(address: str, serve: Callable[[socket.socket], int]) -> None:
    """Serve each connection in a forked process, all at once, until standard input ends; wait for them.

    Prints `ready` when it listens.

    Args:
        address: the Unix socket to listen at.
        serve: serves a connection; returns the exit code.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
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
                        code = serve(connection)
                    finally:
                        sys.stderr.flush()
                        os._exit(code)
    with suppress(ChildProcessError):
        while True:
            os.wait()
