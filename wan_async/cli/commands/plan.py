"""`plan`: validate a batch, and show what a run would do and cost."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from wan_async import errors
from wan_async.batch.output_check import why_not_writable
from wan_async.cli.argument_types import is_database
from wan_async.cli.command_inputs import kept_in, prepared_batch, refuse_run_flags, say_service
from wan_async.cli.display_text import about, aligned, sanitise, truncate
from wan_async.cli.error_messages import of_this_command, print_json_line, say
from wan_async.cli.preview import Preview, counts_of, money_line, preview
from wan_async.cli.retry_advice import retry_advice
from wan_async.cli.run_options import run_options
from wan_async.domain import money
from wan_async.domain.batch import Enlisted
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.job import local_image_of, values_of
from wan_async.domain.lifecycle import PROBLEMS, State
from wan_async.engine.options import Options
from wan_async.journal.base import FILE, Home
from wan_async.journal.reports import doubt
from wan_async.output_locations import Location

SHOWN_JOBS = 20
SHOWN_NAMES = 5
PROMPT_LENGTH = 60
HINTS = {
    State.CANCELLED: "--retry-failed tries them again",
    State.MISSING: "the run asks for them again",
    State.GIVEN_UP: "--rerender renders them again",
    State.QUARANTINED: "--resubmit-unknown submits them again",
}


def plan(args: argparse.Namespace) -> ExitCode:
    """Show what `run` or `enqueue` with the same flags would do; spends nothing.

    Raises:
        errors.InvalidBatch: with every problem of the batch.
        errors.Unusable: the journal can't be read, or the run could not write its output.
    """
    if is_database(args.journal):
        refuse_run_flags(args)
    options = run_options(args)
    prepared, output, notices = prepared_batch(args, options)
    say_service(args)
    home = kept_in(args, output)
    if isinstance(output, Path) and isinstance(home, Path) and (reason := why_not_writable(output)) is not None:
        raise errors.Unusable(reason)
    warn_of_incomplete_journal(home)
    shown = preview(args, prepared, output, home, options, all_prices=True)
    if args.json:
        _print_json(shown, output, notices)
        return ExitCode.SUCCESS
    print(f"{_number(len(shown.jobs), 'job')} → {output}")
    actions = shown.actions()
    jobs = [job for job in shown.jobs if options.admits(job.planned.label)]
    rows = [
        (str(job.planned.index + 1), sanitise(job.planned.name), actions[job.key], *_facts(job))
        for job in jobs[:SHOWN_JOBS]
    ]
    for line in aligned([_header(jobs[0]), *rows] if rows else []):
        print(f"  {line}")
    if len(jobs) > SHOWN_JOBS:
        print(f"  ... and {len(jobs) - SHOWN_JOBS} more")
    if len(jobs) < len(shown.jobs):
        print(f"  {_number(len(shown.jobs) - len(jobs), 'job')} outside of --only")
    for line in summary_lines(shown):
        print(line)
    if Path(args.batch).is_dir() and not args.set:
        say(f"note: {_defaults_line(shown)}")
    return ExitCode.SUCCESS


def _defaults_line(shown: Preview) -> str:
    """Says how to set what a folder of images can't say."""
    model = shown.jobs[0].planned.job.model
    names = [*model.choices, *model.integers]
    values = ", ".join(f"{name} {model.by_name[name].default}" for name in names)
    return f"a folder has the defaults {values}; --set {names[0]}={model.by_name[names[0]].choices[-1]} changes one"


def warn_of_incomplete_journal(home: Home) -> None:
    """Write a warning if the journal in `home` may lack attempts that were paid for."""
    if isinstance(home, Path) and (reason := doubt(home)) is not None:
        say(f"the journal {home / FILE} may not know all that it paid for: {reason}")


def summary_lines(shown: Preview) -> Iterator[str]:
    """What a run would do, what takes how long, what was paid, and last the new money."""
    counts = counts_of(shown)
    words = {
        "render": "to render",
        "fetch": "to fetch (already paid)",
        "duplicate": "duplicates (free)",
        "not chosen": "for a later run",
    }
    order = ["done", "fetch", "duplicate", "render", "beyond the budget", "not chosen"]
    named = [*order, *sorted(counts.keys() - set(order))]
    yield ", ".join(f"{counts[name]} {words.get(name, name)}" for name in named if counts[name]) or "nothing to do"
    if shown.left_out:
        yield f"{_number(shown.left_out, 'job')} left out, since something is wrong there (--skip-bad)"
    if strays := sum(attempt.job not in shown.plan.jobs for attempt in shown.plan.resumed):
        yield f"{_number(strays, 'unfinished attempt')} of jobs that the batch no longer names: the run finishes them"
    for state in PROBLEMS:
        if counts[state] and state != State.FAILED:
            yield f"{counts[state]} {state}: {HINTS[state]}"
        elif counts[state]:
            yield from _retry_lines(shown, counts[state])
    if shown.plan.gone:
        yield gone_line(_names_of(shown, [attempt.job for attempt in shown.plan.gone]))
    if changed := [job.planned.name for job in shown.plan.changed]:
        yield f"changed since their last clip, which is kept beside the new one: {_names(changed)}"
    if shown.renamed:
        yield f"earlier takes that get their plain name back: {_names(_names_of(shown, shown.renamed))}"
    yield _time_line(shown)
    yield (
        f"already spent ${money.usd(shown.money.settled):f}, reserved ${money.usd(shown.money.reserved):f} "
        "(not in the new money)"
    )
    if shown.beyond_budget:
        yield _budget_line(shown)
    yield money_line(shown)


def _retry_lines(shown: Preview, count: int) -> Iterator[str]:
    """What helps the jobs that failed."""
    images = {job.key: image for job in shown.jobs if (image := local_image_of(job.planned.job)) is not None}
    failed = [image for key, image in images.items() if shown.states[key] == State.FAILED]
    advice = retry_advice(failed, images.values())
    yield f"{count} {State.FAILED}: {advice.flags} tries them again"
    yield from (f"  {remark}" for remark in advice.remarks)


def _names_of(shown: Preview, keys: Sequence[str]) -> list[str]:
    """The names of these jobs; the keys of those that the batch does not name."""
    return [shown.plan.jobs[key].planned.name if key in shown.plan.jobs else key for key in keys]


def gone_line(names: Sequence[str]) -> str:
    """Says which clips are not in the folder any more."""
    what = "1 clip is" if len(names) == 1 else f"{len(names)} clips are"
    return f"{what} gone from the folder; the next run fetches them again for free: {_names(names)}"


def _budget_line(shown: Preview) -> str:
    assert shown.options.budget_micros is not None
    budget = f"${money.usd(shown.options.budget_micros):f}"
    needed = shown.estimate_without_budget
    if needed is None:
        return f"the budget of {budget} can't be kept without a known price: the run is refused"
    total = shown.money.settled + shown.money.reserved + needed
    return f"the budget of {budget} is not enough for everything: that takes ${money.usd(total):f} over all runs"


def _time_line(shown: Preview) -> str:
    is_auto = shown.options.concurrency is None
    at_once = f"{shown.at_once} at once" + (" (auto: more if the account allows it)" if is_auto else "")
    if (seconds := shown.seconds) is None:
        return f"time: unknown, since this folder has no past renders; {at_once}"
    if not seconds:
        return "time: nothing to wait for but downloads"
    expected = "less than 5s" if seconds < 5 else f"about {about(seconds)}"
    return f"time: {expected} with {at_once}, by {_number(len(shown.renders), 'past render')}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _names(keys: Sequence[str]) -> str:
    return ", ".join(truncate(key, 40) for key in keys[:SHOWN_NAMES]) + (", ..." if len(keys) > SHOWN_NAMES else "")


def _header(job: Enlisted) -> tuple[str, ...]:
    """The heads of the columns; see `_facts`."""
    model = job.planned.job.model
    names = [model.by_name[name].label or name.replace("_", " ") for name in (*model.choices, *model.integers)]
    return ("#", "clip", "action", *names, model.prompt.label or model.prompt.name)


def _facts(job: Enlisted) -> list[str]:
    """The cells of a row that describe the job: its choices, its integers and the start of its prompt."""
    model, values = job.planned.job.model, values_of(job.planned.job)
    prompt = truncate(values[model.prompt.name], PROMPT_LENGTH)
    return [*(str(values[name]) for name in (*model.choices, *model.integers)), prompt]


def _amount(micros: int | None) -> str | None:
    return None if micros is None else f"{money.usd(micros):f}"


def _print_json(shown: Preview, output: Location, notices: Sequence[str]) -> None:
    common, actions = of_this_command(), shown.actions()
    holders = {job.key: key for key, jobs in shown.plan.duplicates.items() for job in jobs}
    for job in shown.jobs:
        line = {
            "event": "job",
            **common,
            "job": job.key,
            "name": job.planned.name,
            "state": shown.states[job.key],
            "action": actions[job.key].replace(" ", "_"),
            "same_as": holders.get(job.key),
            **values_of(job.planned.job),
            "price_usd": _amount(shown.quotes.expected.get(job.key)),
        }
        print_json_line(line)
    print_json_line({"event": "plan", **common, **_summary(shown), "output": str(output), "warnings": notices})


def _summary(shown: Preview) -> dict[str, object]:
    options: Options = shown.options
    seconds = shown.seconds
    return {
        "jobs": len(shown.jobs),
        "done": sum(state == State.STORED for state in shown.states.values()),
        "to_fetch": len(shown.to_fetch),
        "duplicates": sum(map(len, shown.plan.duplicates.values())),
        "to_do": len(shown.to_pay),
        "todo": len([*shown.to_pay, *shown.plan.to_finish()]),
        "not_chosen": len(shown.not_chosen),
        "left_out": shown.left_out,
        "beyond_budget": len(shown.beyond_budget),
        "gone": [attempt.job for attempt in shown.plan.gone],
        "changed": [job.key for job in shown.plan.changed],
        "renamed": list(shown.renamed),
        "estimate_usd": _amount(shown.estimate),
        "estimate_unknown": shown.why_unknown,
        "estimate_without_budget_usd": _amount(shown.estimate_without_budget),
        "by_kind": [{"kind": size, "jobs": jobs, "usd": _amount(total)} for size, jobs, total in shown.by_kind()],
        "spent_usd": _amount(shown.money.settled),
        "reserved_usd": _amount(shown.money.reserved),
        "budget_usd": _amount(options.budget_micros),
        "concurrency": shown.at_once,
        "seconds": None if seconds is None else round(seconds, 1),
    }
