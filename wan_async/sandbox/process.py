"""The sandbox as a process: its flags, its one line of output, its end."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

LOCK_SECONDS = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a sandbox."""
    parser.add_argument("--port", type=int, default=0, metavar="N", help="where to listen on 127.0.0.1 (a free port)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="keep account, tasks and clips there")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything that is drawn by chance (0)")
    parser.add_argument("--balance", type=float, default=100.0, metavar="USD", help="what the account holds (100)")
    parser.add_argument("--price", type=float, metavar="USD", help="of every clip (0.05 at 480P, 0.08, 0.12 at 720P)")
    parser.add_argument("--limit", type=int, metavar="N", help="tasks at once (a tenth of the balance, as Wiro has it)")
    parser.add_argument(
        "--seconds", type=_span, default=(2.0, 6.0), metavar="MIN,MAX", help="how long tasks take (2,6)"
    )
    parser.add_argument(
        "--fault",
        action="append",
        type=_fault,
        default=[],
        metavar="NAME[@ENDPOINT]=P",
        help="inject a fault with a probability, e.g. drop_after@Run=0.05; may be repeated",
    )
    parser.add_argument(
        "--clips", choices=("rendered", "tiny"), default="rendered", help="real clips, or tiny ones that only look so"
    )
    parser.add_argument("--clip-bytes", type=int, default=0, metavar="N", help="pad clips to this length")
    parser.add_argument("--key-only", action="store_true", help="a project without signatures")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="before every answer")
    parser.add_argument(
        "--echo",
        choices=("faithful", "empty", "rewritten", "string"),
        default="faithful",
        help="how tasks show their parameters",
    )
    parser.add_argument("--list-page-cap", type=int, default=100, metavar="N", help="tasks a page at most (100)")
    parser.add_argument("--visible-after", type=float, default=0.0, metavar="SECONDS", help="how long new tasks hide")


def _span(text: str) -> tuple[float, float]:
    low, _, high = text.partition(",")
    try:
        span = float(low), float(high or low)
    except ValueError:
        span = (-1.0, -1.0)
    if not 0 <= span[0] <= span[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN,MAX in seconds")
    return span


def _fault(text: str) -> tuple[str, float]:
    from wan_async.sandbox.faults import check

    name, _, probability = text.partition("=")
    try:
        check(name)
        return name, float(probability)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def serve(
    args: argparse.Namespace, announce: Callable[[dict[str, str | None]], None], *, with_stdin: bool = False
) -> int:
    """Serves until a signal comes, or until standard input ends.

    Args:
        args: what `add_arguments` parsed.
        announce: told the addresses and credentials once it listens.
        with_stdin: end when standard input does, that is, with the process that holds its other end.

    Returns:
        The exit code.
    """
    import asyncio

    import filelock

    from wan_async.sandbox.server import serve as serve_http
    from wan_async.sandbox.service import Sandbox
    from wan_async.sandbox.settings import Settings

    stop = threading.Event()
    if with_stdin:
        threading.Thread(target=_wait_for_end, args=(stop,), daemon=True).start()
    with ExitStack() as stack:
        if args.state is not None:
            args.state.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(
                    filelock.FileLock(args.state / "lock", timeout=LOCK_SECONDS, fallback_to_soft=False)
                )
            except filelock.Timeout:
                print(f"another sandbox keeps its state in {args.state}", file=sys.stderr)
                return 6
        settings = Settings(
            seed=args.seed,
            api_secret=None if args.key_only else "sandbox-secret",
            balance_usd=args.balance,
            concurrency_limit=args.limit,
            task_seconds=args.seconds,
            visible_after_seconds=args.visible_after,
            echo=args.echo,
            faults=dict(args.fault),
            list_page_cap=args.list_page_cap,
            latency_seconds=args.latency,
            clip_bytes=args.clip_bytes,
            state=args.state,
        )
        if args.price is not None:
            settings.prices = dict.fromkeys(settings.prices, args.price)

        def ready(port: int) -> None:
            announce(
                {
                    "base_url": f"http://127.0.0.1:{port}/v1",
                    "socket_url": f"ws://127.0.0.1:{port}/v1",
                    "api_key": settings.api_key,
                    "api_secret": settings.api_secret,
                }
            )

        try:
            asyncio.run(
                serve_http(Sandbox(settings), port=args.port, rendered=args.clips == "rendered", ready=ready, stop=stop)
            )
        except OSError as error:
            print(f"port {args.port} can't be used: {error.strerror or error}", file=sys.stderr)
            return 6
    return 0


def _wait_for_end(stop: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    stop.set()


def main() -> int:
    """`python -m wan_async.sandbox`: prints one JSON line once it listens."""
    parser = argparse.ArgumentParser(prog="python -m wan_async.sandbox", description="A local Wiro on 127.0.0.1.")
    add_arguments(parser)
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when standard input ends")
    args = parser.parse_args()
    return serve(args, lambda told: print(json.dumps(told), flush=True), with_stdin=args.exit_with_stdin)
