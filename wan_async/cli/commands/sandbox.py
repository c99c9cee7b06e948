"""`sandbox`: run a local Wiro."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping

from wan_async.domain.exit_codes import ExitCode


def sandbox(args: argparse.Namespace) -> ExitCode:
    """Serve until Ctrl-C, and print the environment variables that select this server."""
    from wan_async.sandbox.process import serve

    def announce(address: Mapping[str, str | None]) -> None:
        names = {"WIRO_BASE_URL": "base_url", "WIRO_SOCKET_URL": "socket_url", "WIRO_API_KEY": "api_key"}
        print(f"# a local Wiro listens at {address['base_url']}; in another shell:\n")
        for name, key in {**names, "WIRO_API_SECRET": "api_secret"}.items():
            value = address[key]
            print(f"export {name}={shlex.quote(value)}" if value is not None else f"unset {name}")
        print("\n# Ctrl-C ends it", flush=True)

    return ExitCode(serve(args, announce))
