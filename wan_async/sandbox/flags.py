"""The command-line flags of a sandbox, derived from `Settings` and the table of faults."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wan_async.sandbox.faults import FAULTS, REFUSALS, check_fault

if TYPE_CHECKING:
    from wan_async.sandbox.settings import Settings


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port (0 to 65535)")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def _amount(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number from 0 on")
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
        check_fault(name)
        chance = float(probability)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    if not 0 <= chance <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a probability is between 0 and 1")
    return name, chance


@dataclass(frozen=True, slots=True)
class _Flag:
    """A flag that sets one field of `Settings`; its default and choices are those of the field.

    Attributes:
        shown_default: text for the default in the help; by default the value, and nothing if empty.
    """

    name: str
    field: str
    help: str
    parse: Callable[[str], object] = str
    metavar: str | None = None
    shown_default: str | None = None


_FLAGS = (
    _Flag("--state", "state", "folder that keeps account, tasks and clips", Path, "DIR", "in memory"),
    _Flag("--seed", "seed", "seed of all random draws", int, "N"),
    _Flag("--balance", "balance_usd", "initial balance", _amount, "USD"),
    _Flag(
        "--minimum", "minimum_usd", "balance below which Runs are refused", _amount, "USD", "price of all active tasks"
    ),
    _Flag(
        "--limit", "concurrency_limit", "maximum of active tasks", _count, "N", "a tenth of the balance, as Wiro has it"
    ),
    _Flag("--seconds", "task_seconds", "duration of tasks", _span, "MIN,MAX", "2,6"),
    _Flag("--clip-bytes", "clip_bytes", "pad clips to this length", _count, "N", ""),
    _Flag("--latency", "latency_seconds", "delay of every answer", _amount, "SECONDS"),
    _Flag("--echo", "echo", "how tasks show their parameters"),
    _Flag("--list-page-cap", "list_page_cap", "maximum of tasks in a page of Task/List", _count, "N"),
    _Flag("--visible-after", "visible_after_seconds", "delay until a new task is found", _amount, "SECONDS"),
    _Flag("--socket-format", "socket_format", "what identifies the task in WebSocket messages"),
    _Flag("--uploads", "uploads", "answer to uploads"),
    _Flag("--denial", "denial", "answer for a task that does not exist"),
    _Flag(
        "--refuse-runs",
        "refusal",
        f"refuse every Run; WHY is one of {', '.join(REFUSALS)}",
        metavar="WHY",
        shown_default="",
    ),
    _Flag("--teammates", "teammates", "tasks of other projects at the start", _count, "N"),
    _Flag("--first-task-id", "first_task_id", "id of the first task", _count, "N"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a sandbox."""
    from wan_async.sandbox.settings import Settings

    defaults = Settings()
    add = parser.add_argument
    add("--port", type=_port, default=0, metavar="N", help="port on 127.0.0.1 (a free port)")
    for flag in _FLAGS:
        _add(parser, flag, defaults)
    add("--price", type=_amount, metavar="USD", help="price of a clip (0.05 at 480P, 0.08 at 580P, 0.12 at 720P)")
    add(
        "--clips",
        choices=("rendered", "tiny"),
        default="rendered",
        help="real clips, or some bytes in MP4 boxes (rendered)",
    )
    add("--key-only", action="store_true", help="a project without signatures")
    add("--no-projectid", action="store_true", help="tasks do not show their project")
    add("--strict-nonce", action="store_true", help="refuse repeated nonces also if they are whole seconds")
    faults = parser.add_argument_group(
        "faults",
        "Injected faults. Each has its own probability, drawn from the seed and the number of starts with --state, at "
        "every endpoint that can meet it, or at ENDPOINT only (Run, Task/Detail, ...).",
    )
    faults.add_argument(
        "--fault",
        action=_Faults,
        type=_fault,
        default=[],
        metavar="NAME[@ENDPOINT]=P",
        help="meet a fault with probability P, e.g. drop-after@Run=0.05; may be repeated; NAME is one of",
    )
    for name, fault in FAULTS.items():
        if (field := fault.duration) is not None:
            what = f"duration or delay of {_dashed(name)}"
            _add(faults, _Flag(f"--{_dashed(field)}", field, what, _amount, "N"), defaults)


def _add(parser: argparse._ActionsContainer, flag: _Flag, defaults: Settings) -> None:
    from wan_async.sandbox.settings import CHOICES

    default = getattr(defaults, flag.field)
    shown = flag.shown_default
    if shown is None:
        shown = f"{default:g}" if isinstance(default, float) else str(default)
    options: dict[str, Any] = {"type": flag.parse, "default": default, "metavar": flag.metavar}
    if flag.field in CHOICES:
        options["choices"] = [each for each in CHOICES[flag.field] if each is not None]
    parser.add_argument(flag.name, dest=flag.field, help=f"{flag.help} ({shown})" if shown else flag.help, **options)


def settings_of(args: argparse.Namespace) -> Settings:
    """Build the `Settings` from what `add_arguments` parsed."""
    from wan_async.sandbox.settings import Settings

    given = {
        field.name: getattr(args, field.name) for field in dataclasses.fields(Settings) if hasattr(args, field.name)
    }
    given |= {"show_projectid": not args.no_projectid, "faults": dict(args.fault)}
    if args.key_only:
        given["api_secret"] = None
    if args.price is not None:
        given["prices"] = dict.fromkeys(Settings().prices, args.price)
    return Settings(**given)


class _Faults(argparse.Action):
    """Collects faults; the help lists them like subcommands."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, option: object = None) -> None:
        """Add a fault."""
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])

    def _get_subactions(self) -> list[argparse.Action]:
        names = ((_dashed(name), fault.effect) for name, fault in FAULTS.items())
        return [argparse.Action([], name, metavar=name, help=effect) for name, effect in names]
