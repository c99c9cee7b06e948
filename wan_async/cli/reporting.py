"""How a command says that it failed."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from wan_async import errors
from wan_async.cli import display_text
from wan_async.cli.display import json_lines
from wan_async.domain import events, money

SHOWN_PROBLEMS = 50


def _code(error: errors.WanError) -> int:
    if isinstance(error, errors.StopBatch):
        return 4 if error.authentication else 1
    return 6 if isinstance(error, errors.Unusable | errors.TryLater | errors.NoSuchAddress) else 1


def report_invalid(error: errors.InvalidBatch, *, as_json: bool) -> int:
    """Says every problem of an invalid batch; its exit code."""
    for problem in error.problems[:SHOWN_PROBLEMS]:
        say(display_text.sanitise(str(problem)))
    if len(error.problems) > SHOWN_PROBLEMS:
        say(f"... and {len(error.problems) - SHOWN_PROBLEMS} more problems")
    say("nothing was spent")
    if as_json:
        run_id, at = os.urandom(6).hex(), time.time()
        with json_lines(sys.stdout) as display:
            for problem in error.problems:
                display.show(events.Problem(at=at, run=run_id, where=problem.where, message=problem.message))
            display.show(_nothing_done(run_id, at, 2))
    return 2


def _nothing_done(run_id: str, at: float, exit_code: int) -> events.Finished:
    return events.Finished(
        at=at, run=run_id, exit_code=exit_code, jobs=0, stored=0, skipped=0, failed=0, cancelled=0, missing=0,
        unknown=0, unfinished=0, spent_usd=money.usd(0), reserved_usd=money.usd(0), seconds=0.0, resume=None,
    )  # fmt: skip


def report_not_begun(error: errors.WanError, args: argparse.Namespace) -> int:
    """A command could not begin its work: says so, to machines, too, if they read a run's lines."""
    code = _code(error)
    say(f"error: {error}")
    if getattr(args, "json", False) and args.command in ("run", "generate") and not getattr(args, "dry_run", False):
        run_id, at = os.urandom(6).hex(), time.time()
        with json_lines(sys.stdout) as display:
            display.show(events.Stopping(at=at, run=run_id, reason=str(error)))
            display.show(_nothing_done(run_id, at, code))
    return code


def say(text: str) -> None:
    """Writes a line to standard error, if anybody reads it."""
    if sys.stderr is None:  # print would write to stdout
        return
    try:
        print(text, file=sys.stderr)
    except (OSError, ValueError):
        return  # nobody is there to read it


def quiet_stdout() -> None:
    """Python flushes stdout once more at its end; a pipe that is gone would make that an error."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def print_json_line(stream: TextIO, content: Mapping[str, object]) -> None:
    """Writes an object as one line."""
    stream.write(json.dumps(content) + "\n")
