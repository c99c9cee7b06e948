"""`sandbox`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping


def sandbox(args: argparse.Namespace) -> int:
    """`sandbox`: serves until Ctrl-C, and prints how to use it."""
    from wan_async.sandbox.process import serve

    def announce(told: Mapping[str, str | None]) -> None:
        names = {"WIRO_BASE_URL": "base_url", "WIRO_SOCKET_URL": "socket_url", "WIRO_API_KEY": "api_key"}
        print(f"# a local Wiro listens at {told['base_url']}; in another shell:\n")
        for name, key in {**names, "WIRO_API_SECRET": "api_secret"}.items():
            value = told[key]
            print(f"export {name}={shlex.quote(value)}" if value is not None else f"unset {name}")
        print("\n# Ctrl-C ends it", flush=True)

    return serve(args, announce)
