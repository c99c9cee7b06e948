"""Messages of a command that failed, and other output that is not a run's display."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from wan_async import errors
from wan_async.cli.display import json_lines
from wan_async.cli.display_text import folded, sanitise, text_of
from wan_async.domain import events, money
from wan_async.domain.exit_codes import ExitCode

SHOWN_PROBLEMS = 50


def report_invalid(error: errors.InvalidBatch, *, as_json: bool) -> ExitCode:
    """Write every problem of an invalid batch; returns the exit code.

    Args:
        error: the problems.
        as_json: write them as events on stdout, too.
    """
    for problem in error.problems[:SHOWN_PROBLEMS]:
        say(sanitise(str(problem)))
    if len(error.problems) > SHOWN_PROBLEMS:
        say(f"... and {len(error.problems) - SHOWN_PROBLEMS} more problems")
    if error.hint:
        say(error.hint)
    say("nothing was spent")
    if as_json:
        problems = [partial(events.Problem, where=each.where, message=each.message) for each in error.problems]
        _show_nothing_done(problems, ExitCode.INVALID)
    return ExitCode.INVALID


def report_usage(message: str) -> None:
    """Write the events of a command line that is wrong."""
    _show_nothing_done([partial(events.Problem, where="", message=message)], ExitCode.INVALID)


def _show_nothing_done(reasons: Iterable[Callable[..., events.Event]], exit_code: ExitCode) -> None:
    """Write the events of a run that did not begin: why, and `finished`."""
    finished = partial(
        events.Finished, exit_code=int(exit_code), jobs=0, stored=0, skipped=0, failed=0, cancelled=0, missing=0,
        unknown=0, unfinished=0, run_usd=money.usd(0), spent_usd=money.usd(0), reserved_usd=money.usd(0), seconds=0.0,
        resume=None,
    )  # fmt: skip
    run = of_this_command()
    with json_lines(sys.stdout) as display:
        for reason in reasons:
            display.show(reason(**run))
        display.show(finished(**run))


def report_not_begun(error: errors.WanError, args: argparse.Namespace) -> ExitCode:
    """Write why a command could not begin; with `--json` a run's events end with `finished` all the same."""
    code = ExitCode.of_error(error)
    say(f"error: {error}")
    if (
        getattr(args, "json", False)
        and args.command in ("run", "generate", "again")
        and not getattr(args, "dry_run", False)
    ):
        _show_nothing_done([partial(events.Stopping, reason=str(error))], code)
    return code


def say(text: str) -> None:
    """Write a line to standard error; a stderr that is closed is ignored."""
    if sys.stderr is None:  # print would write to stdout
        return
    try:
        print(text, file=sys.stderr)
    except (OSError, ValueError):
        return


def say_notices(notices: Iterable[str]) -> None:
    """Write what the user should know, though nothing is wrong, to standard error."""
    is_open = sys.stderr is not None and not sys.stderr.closed
    width = shutil.get_terminal_size().columns if is_open and sys.stderr.isatty() else sys.maxsize
    for notice in notices:
        for line in folded([(sanitise(f"note: {notice}"), "")], width):
            say(text_of(line).rstrip())


def quiet_stdout() -> None:
    """Redirect stdout to the null device: Python flushes it at exit, which would fail on a broken pipe."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def of_this_command() -> dict[str, Any]:
    """What all JSON lines of a command have in common: the time, and an id in place of a run's."""
    return {"at": time.time(), "run": os.urandom(6).hex()}


def print_json_line(content: Mapping[str, object]) -> None:
    """Write an object as one line of JSON."""
    print(json.dumps(content))
