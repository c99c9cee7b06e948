"""A process that forks for each connection to its socket: what it has imported, nobody imports again."""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Callable
from contextlib import suppress


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
