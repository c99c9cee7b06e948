"""The sandbox as a process: its start, its announcement on standard output, and its end."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from wan_async.sandbox.flags import add_arguments, settings_of

LOCK_TIMEOUT_SECONDS = 15.0
EXIT_UNUSABLE = 6


def serve(
    args: argparse.Namespace, announce: Callable[[dict[str, str | None]], None], *, with_stdin: bool = False
) -> int:
    """Serve until a signal, or until standard input ends.

    Args:
        args: what `flags.add_arguments` parsed.
        announce: called with URLs and credentials when the server accepts requests.
        with_stdin: end with standard input, that is, with the process that holds its other end.

    Returns:
        The exit code: 0, or 6 if the state folder or the port cannot be used.
    """
    import asyncio
    import sqlite3

    from wan_async.sandbox.server import listen
    from wan_async.sandbox.server import serve as serve_http
    from wan_async.sandbox.service import Sandbox

    settings = settings_of(args)
    stop = threading.Event()
    if with_stdin:
        threading.Thread(target=_wait_for_end, args=(stop,), daemon=True).start()
    with ExitStack() as stack:
        try:
            if settings.state is not None:
                settings.state.mkdir(parents=True, exist_ok=True)
                if not _lock(settings.state, stack):
                    return _fail(
                        f"another sandbox uses the state folder {settings.state}; stop it, or choose another --state"
                    )
            sandbox = Sandbox(settings)
        except (OSError, sqlite3.Error) as error:
            return _fail(f"the state folder {settings.state} cannot be used: {error}")
        stack.callback(sandbox.close)
        try:
            listening = stack.enter_context(listen(args.port))
        except OSError as error:
            return _fail(f"port {args.port} cannot be used: {error.strerror or error}")

        def ready(port: int) -> None:
            announce(
                {
                    "base_url": f"http://127.0.0.1:{port}/v1",
                    "socket_url": f"ws://127.0.0.1:{port}/v1",
                    "api_key": settings.api_key,
                    "api_secret": settings.api_secret,
                }
            )

        asyncio.run(serve_http(sandbox, listening, rendered=args.clips == "rendered", ready=ready, stop=stop))
    return 0


def _lock(folder: Path, stack: ExitStack) -> bool:
    """Lock a state folder until the stack is left; whether no other sandbox uses it."""
    import filelock

    try:
        stack.enter_context(filelock.FileLock(folder / "lock", timeout=LOCK_TIMEOUT_SECONDS, fallback_to_soft=False))
    except filelock.Timeout:
        return False
    return True


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return EXIT_UNUSABLE


def _wait_for_end(stop: threading.Event) -> None:
    try:
        while os.read(0, 4096):
            pass
    except OSError:  # standard input is closed
        pass
    stop.set()


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m wan_async.sandbox`: print one JSON line with URLs and credentials, and serve."""
    parser = argparse.ArgumentParser(prog="python -m wan_async.sandbox", description="A local Wiro on 127.0.0.1.")
    add_arguments(parser)
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when standard input ends")
    args = parser.parse_args(arguments)
    return serve(args, lambda address: print(json.dumps(address), flush=True), with_stdin=args.exit_with_stdin)
