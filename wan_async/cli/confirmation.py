"""The question before a run spends money."""

from __future__ import annotations

import argparse

from wan_async.batch.plan import Prepared
from wan_async.cli.error_messages import say
from wan_async.cli.preview import Preview, is_terminal, money_line, preview
from wan_async.domain import money
from wan_async.engine.options import Options
from wan_async.journal.base import Home
from wan_async.output_locations import Location


def may_ask(args: argparse.Namespace) -> bool:
    """Whether there is someone to ask."""
    return is_terminal() and not args.json and not args.yes


def confirmed(args: argparse.Namespace, batch: Prepared, output: Location, home: Home, options: Options) -> bool:
    """Whether the run may spend what it is about to spend: asks if that is much, or unknown.

    It does not ask with `--yes` or `--sandbox`, without a terminal, if there is nothing to pay for, up to
    `--confirm-above`, or if everything fits into `--budget`.
    """
    if args.sandbox or not may_ask(args):
        return True
    shown = preview(args, batch, output, home, options, all_prices=False)
    return not is_much(shown, money.micros(args.confirm_above) or 0) or ask(shown, "go on?")


def is_much(shown: Preview, limit_micros: int) -> bool:
    """Whether to ask before this is spent."""
    if not shown.to_pay:
        return False
    if shown.estimate is None:
        return True
    is_within_budget = shown.options.budget_micros is not None and not shown.beyond_budget
    return not is_within_budget and shown.estimate > limit_micros


def ask(shown: Preview, question: str) -> bool:
    """Show the new money, and ask; only `y` and `yes` are a yes."""
    spent = f"${money.usd(shown.money.settled + shown.money.reserved):f} spent or reserved before"
    say(f"{money_line(shown)}; {spent}")
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        answer = ""
    return answer.strip().lower() in ("y", "yes")
