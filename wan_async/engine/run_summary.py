"""The end of a run: its counts, its money, its exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from wan_async.domain import events
from wan_async.domain.attempt import Money
from wan_async.domain.exit_codes import INTERRUPTIONS, ExitCode
from wan_async.domain.lifecycle import IN_FLIGHT, PROBLEMS, UNCLEAR, State
from wan_async.domain.money import usd
from wan_async.engine.options import Options


def finished(
    run_id: str,
    clock: Callable[[], float],
    began: float,
    counts: Counter[str],
    orphans: Counter[str],
    money: Money,
    run_micros: int,
    skipped: int,
    codes: Collection[ExitCode],
    choices: Collection[str],
    options: Options,
) -> events.Finished:
    """The last event of a run.

    Args:
        run_id: names the run.
        clock: unix seconds.
        began: when it began.
        counts: jobs of the batch by the state of their attempt.
        orphans: open attempts whose job the batch no longer names, or names with another content, by state.
        money: settled and reserved, over the folder's lifetime.
        run_micros: what this run settled, in micro-dollars.
        skipped: how many jobs were stored before it began.
        codes: the exit codes that apply.
        choices: flags between which the user has to choose; `--resubmit-unknown` is added for quarantined jobs.
        options: how it was run.
    """
    unknown = sum(counts[state] for state in UNCLEAR)
    cancelled, missing = counts[State.CANCELLED], counts[State.MISSING]
    failed = sum(counts[state] for state in PROBLEMS if state not in UNCLEAR) - cancelled - missing
    unfinished = counts.total() - counts[State.STORED] - unknown - cancelled - missing - failed
    left = unfinished + unknown + missing + orphans.total()
    applying = {code for code in codes if code not in INTERRUPTIONS or left or not counts}
    applying |= {ExitCode.UNRESOLVED} if unknown or any(orphans[state] for state in UNCLEAR) else set()
    applying |= {ExitCode.FAILURES} if failed or cancelled or missing or orphans[State.MISSING] else set()
    in_flight = any(counts[state] or orphans[state] for state in IN_FLIGHT)
    applying |= {ExitCode.FAILURES} if in_flight and not applying else set()
    flags = {*choices, *(["--resubmit-unknown"] if counts[State.QUARANTINED] else [])}
    now = clock()
    return events.Finished(
        at=now,
        run=run_id,
        exit_code=int(ExitCode.first_of(applying)),
        jobs=counts.total(),
        stored=counts[State.STORED] - skipped,
        skipped=skipped,
        failed=failed,
        cancelled=cancelled,
        missing=missing,
        unknown=unknown,
        unfinished=unfinished,
        run_usd=usd(run_micros),
        spent_usd=usd(money.settled),
        reserved_usd=usd(money.reserved),
        seconds=round(max(0.0, now - began), 3),
        resume=options.resume if left else None,
        choices=tuple(sorted(flags)) if left else (),
    )
