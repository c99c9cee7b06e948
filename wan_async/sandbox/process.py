"""The sandbox as a process: its flags, its one line of output, its end."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from wan_async.sandbox.faults import DENIALS, NAMES, REFUSALS, check

if TYPE_CHECKING:
    from wan_async.sandbox.settings import Settings

LOCK_SECONDS = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a sandbox."""
    add = parser.add_argument
    add("--port", type=_port, default=0, metavar="N", help="where to listen on 127.0.0.1 (a free port)")
    add("--state", type=Path, metavar="DIR", help="keep account, tasks and clips there")
    add("--seed", type=int, default=0, metavar="N", help="of everything that is drawn by chance (0)")
    add("--balance", type=_amount, default=100.0, metavar="USD", help="what the account holds (100)")
    add("--price", type=_amount, metavar="USD", help="of every clip (0.05 at 480P, 0.08, 0.12 at 720P)")
    add("--minimum", type=_amount, metavar="USD", help="the balance that a Run needs (what active tasks will cost)")
    add("--limit", type=_count, metavar="N", help="tasks at once (a tenth of the balance, as Wiro has it)")
    add("--seconds", type=_span, default=(2.0, 6.0), metavar="MIN,MAX", help="how long tasks take (2,6)")
    add("--clips", choices=("rendered", "tiny"), default="rendered", help="real clips, or tiny ones that only look so")
    add("--clip-bytes", type=_count, default=0, metavar="N", help="pad clips to this length")
    add("--key-only", action="store_true", help="a project without signatures")
    add("--latency", type=_amount, default=0.0, metavar="SECONDS", help="before every answer")
    add(
        "--echo",
        choices=("faithful", "empty", "rewritten", "string"),
        default="faithful",
        help="how tasks show their parameters",
    )
    add("--list-page-cap", type=_count, default=100, metavar="N", help="tasks a page at most (100)")
    add("--visible-after", type=_amount, default=0.0, metavar="SECONDS", help="how long new tasks hide")
    _add_words(parser)
    add("--teammates", type=_count, default=0, metavar="N", help="tasks of other projects at the start")
    add("--first-task-id", type=_count, default=500_001, metavar="N", help="of the first task (500001)")
    add("--strict-nonce", action="store_true", help="refuse nonces in whole seconds that were used before, too")
    faults = parser.add_argument_group(
        "faults",
        "What goes wrong, each by its own chance, drawn from the seed and the number of starts of --state: at every "
        "endpoint that can meet it, or at ENDPOINT alone (Run, Task/Detail, ...).",
    )
    faults.add_argument(
        "--fault",
        action=_Faults,
        type=_fault,
        default=[],
        metavar="NAME[@ENDPOINT]=P",
        help="meet a fault with probability P, e.g. drop-after@Run=0.05; may be repeated; NAME is one of",
    )

    for name, (default, text) in _DURATIONS.items():
        faults.add_argument(
            f"--{name.replace('_', '-')}", type=_amount, default=default, metavar="N", help=f"{text} ({default:g})"
        )


_DURATIONS = {
    "task_error_seconds": (3.0, "how long task-error lasts"),
    "late_charge_seconds": (30.0, "how late late-charge is"),
    "late_outputs_seconds": (3.0, "how late late-outputs are"),
    "late_cdn_seconds": (3.0, "how late late-cdn is"),
    "denied_seconds": (3.0, "how long denied lasts"),
}


def _add_words(parser: argparse.ArgumentParser) -> None:
    """The flags that say how the service puts things."""
    add = parser.add_argument
    add(
        "--socket-format",
        choices=("id", "token", "both"),
        default="id",
        help="how the socket's messages name their task (both)",
    )
    add("--no-projectid", action="store_true", help="tasks don't name their project")
    add("--uploads", choices=("accept", "refuse"), default="accept", help="what becomes of uploads (accept)")
    add("--denial", choices=tuple(DENIALS), default="no-task", help="the words for a task that is not there (no-task)")
    add("--refuse-runs", choices=tuple(REFUSALS), metavar="WHY", help=f"refuse every Run: {', '.join(REFUSALS)}")


class _Faults(argparse.Action):
    """Collects faults, and has the help list them as it lists subcommands."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, option: object = None) -> None:
        """One more fault."""
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])

    def _get_subactions(self) -> list[argparse.Action]:
        words = ((name.replace("_", "-"), kind.does) for name, kind in NAMES.items())
        return [argparse.Action([], name, metavar=name, help=does) for name, does in words]


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError(f"{text} is no port")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than nothing")
    return number


def _amount(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return number


def _span(text: str) -> tuple[float, float]:
    low, _, high = text.partition(",")
    try:
        span = float(low), float(high or low)
    except ValueError:
        span = (-1.0, -1.0)
    if not 0 <= span[0] <= span[1] < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN,MAX in seconds")
    return span


def _fault(text: str) -> tuple[str, float]:
    given, _, probability = text.partition("=")
    fault, at, endpoint = given.partition("@")
    name = fault.replace("-", "_") + at + endpoint
    try:
        check(name)
        chance = float(probability)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    if not 0 <= chance <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a probability is between 0 and 1")
    return name, chance


def settings_of(args: argparse.Namespace) -> Settings:
    """What `add_arguments` parsed, as the sandbox takes it."""
    from wan_async.sandbox.settings import Settings

    settings = Settings(
        seed=args.seed,
        api_secret=None if args.key_only else "sandbox-secret",
        balance_usd=args.balance,
        concurrency_limit=args.limit,
        minimum_usd=args.minimum,
        task_seconds=args.seconds,
        visible_after_seconds=args.visible_after,
        echo=args.echo,
        show_projectid=not args.no_projectid,
        socket_format=args.socket_format,
        uploads=args.uploads,
        denial=args.denial,
        refusal=args.refuse_runs,
        strict_nonce=args.strict_nonce,
        first_task_id=args.first_task_id,
        teammates=args.teammates,
        **{name: getattr(args, name) for name in _DURATIONS},
        faults=dict(args.fault),
        list_page_cap=args.list_page_cap,
        latency_seconds=args.latency,
        clip_bytes=args.clip_bytes,
        state=args.state,
    )
    if args.price is not None:
        settings.prices = dict.fromkeys(settings.prices, args.price)
    return settings


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
    import sqlite3

    import filelock

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
                lock = filelock.FileLock(settings.state / "lock", timeout=LOCK_SECONDS, fallback_to_soft=False)
                stack.enter_context(lock)
            sandbox = Sandbox(settings)
        except filelock.Timeout:
            return _refuse(f"another sandbox keeps its state in {settings.state}")
        except (OSError, sqlite3.Error) as error:
            return _refuse(f"the state in {settings.state} can't be used: {error}")
        stack.callback(sandbox.close)
        try:
            listening = stack.enter_context(listen(args.port))
        except OSError as error:
            return _refuse(f"port {args.port} can't be used: {error.strerror or error}")

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


def _refuse(why: str) -> int:
    print(why, file=sys.stderr)
    return 6


def _wait_for_end(stop: threading.Event) -> None:
    try:
        while os.read(0, 4096):
            pass
    except OSError:  # it was never there
        pass
    stop.set()


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m wan_async.sandbox`: prints one JSON line once it listens."""
    parser = argparse.ArgumentParser(prog="python -m wan_async.sandbox", description="A local Wiro on 127.0.0.1.")
    add_arguments(parser)
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when standard input ends")
    args = parser.parse_args(arguments)
    return serve(args, lambda told: print(json.dumps(told), flush=True), with_stdin=args.exit_with_stdin)
