"""`status`: show what an output folder's journal holds."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import anyio

from wan_async import errors
from wan_async.batch.plan import SizeOf
from wan_async.cli import remote_output
from wan_async.cli.argument_types import is_database
from wan_async.cli.command_inputs import kept_in
from wan_async.cli.commands.plan import gone_line, warn_of_incomplete_journal
from wan_async.cli.display_text import sanitise
from wan_async.cli.error_messages import SHOWN_PROBLEMS, of_this_command, print_json_line, say
from wan_async.cli.resume_command import program, quoted
from wan_async.cli.retry_advice import retry_advice
from wan_async.cli.run_arguments import LEASE_SECONDS
from wan_async.domain import money
from wan_async.domain.attempt import Unassigned
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.lifecycle import PROBLEMS, UNCLEAR, UNFINISHED, State
from wan_async.domain.model import WAN
from wan_async.engine import matching
from wan_async.journal.base import DatabaseHome, Home
from wan_async.journal.enrolled_jobs import enrolled_jobs
from wan_async.journal.image_paths import image_path
from wan_async.journal.journal_location import homes_of, name_of_output, public_address
from wan_async.journal.reports import Report, read_all, report, stored_files
from wan_async.output_locations import Location, location_of

if TYPE_CHECKING:
    from wan_async.cluster.worker_records import Parked

SHOWN_CANDIDATES = 5


def status(args: argparse.Namespace) -> ExitCode:
    """Show jobs by state, clips that are gone, earlier takes, money, failures and unassigned tasks.

    Raises:
        errors.Unusable: there is no journal, or it can't be read.
    """
    if is_database(args.journal):
        return _of_workers(args)
    if args.folder is None:
        raise errors.InvalidBatch([errors.Problem("OUT", "is missing: name the output of a run, or --journal URL")])
    kept_in(args, args.folder)
    for home in homes_of(args.folder, args.journal):
        warn_of_incomplete_journal(home)
    return _show(args, args.folder, [home for home, _ in read_all(args.folder, report, args.journal)])


def _of_workers(args: argparse.Namespace) -> ExitCode:
    """Shows the outputs whose journals are in a database."""
    from wan_async.journal.postgres_reading import outputs_in, workers_alive  # its driver is in an extra

    wanted = None if args.folder is None else name_of_output(args.folder)
    outputs = [output for output in outputs_in(args.journal) if wanted in (None, output)]
    if not outputs:
        raise errors.Unusable(f"there is no journal of {args.folder} in this database")
    alive = workers_alive(args.journal, LEASE_SECONDS)
    for output in outputs:
        home = DatabaseHome(args.journal, output)
        known = report(home)
        budget, parked = (None, None) if known is None else _limits_of(known)
        reason = None if parked is None else parked.reason
        _show(args, location_of(output), [home], {"workers": alive, "budget_usd": budget, "waiting_for": reason})
        if not args.json and (facts := [*([f"budget ${budget}"] if budget else []), *([reason] if reason else [])]):
            print(sanitise("; ".join(facts)))
        if not args.json and parked is not None and parked.exit_code is ExitCode.UNRESOLVED:
            command = quoted([*program(), "worker", "--once", "--journal", public_address(args.journal)])
            print(f"go on with `{sanitise(command)}` and the flag that fits")
    if not args.json:
        print(f"workers: {alive or 'none'} alive")
    return ExitCode.SUCCESS


def _limits_of(known: Report) -> tuple[str | None, Parked | None]:
    """What an output may cost in USD, and why its workers submit nothing more; None: no limit, and they do."""
    from wan_async.cluster.worker_records import OPTIONS, budget_in, parked_in

    budget, parked = budget_in(known.of_workers.get(OPTIONS)), parked_in(known)
    return None if budget is None else f"{money.usd(budget):f}", parked


def _show(
    args: argparse.Namespace, output: Location, homes: Sequence[Home], of_workers: Mapping[str, object] | None = None
) -> ExitCode:
    """Shows the journals of an output; with `--json` also these facts about its workers."""
    found = [seen for home in homes if (seen := report(home)) is not None]
    results = [result for seen in found for result in seen.results]
    settled = sum(seen.money.settled for seen in found)
    reserved = sum(seen.money.reserved for seen in found)
    strays = sum(seen.strays for seen in found)
    failures = [
        (result, seen.names[result.job]) for seen in found for result in seen.results if result.state in PROBLEMS
    ]
    unassigned = _unassigned_in(found)
    names = {key: name for seen in found for key, name in seen.names.items()}
    clips = [clip for home in homes for clip in stored_files(home) or ()]
    further = len({clip.job for clip in clips if clip.is_further})
    counts = Counter(result.state for result in results) + Counter({State.STORED: further})
    jobs = len(results) + further
    unfinished = sum(counts[state] for state in (*UNFINISHED, *UNCLEAR))
    earlier = sum(not (clip.is_current or clip.is_further) and clip.number == 0 for clip in clips)
    size_of = _sizes(output, homes[0]) or {clip.file: clip.bytes for clip in clips}.get
    gone = list(dict.fromkeys(clip.job for clip in clips if clip.is_current and size_of(clip.file) != clip.bytes))
    if args.json:
        print_json_line(
            {
                "event": "status",
                **of_this_command(),
                "output": str(output),
                "jobs": jobs,
                "states": dict(counts),
                "unfinished": unfinished + strays,
                "gone": gone,
                "earlier_takes": earlier,
                "spent_usd": f"{money.usd(settled):f}",
                "reserved_usd": f"{money.usd(reserved):f}",
                "failures": [
                    {"job": r.job, "name": name, "state": r.state, "task_id": r.task_id, "error": r.error}
                    for r, name in failures
                ],
                "unassigned": [
                    {
                        "task_id": row.task_id,
                        "state": row.state,
                        "file": _file_of(row),
                        "cost_usd": _cost_of(row),
                        "jobs": row.jobs,
                    }
                    for row in unassigned
                ],
                **(of_workers or {}),
            },
        )
        return ExitCode.SUCCESS
    print(f"{output}: {jobs} job{'s' * (jobs != 1)}")
    for state, count in counts.most_common():
        print(f"  {count:>7}  {state}")
    if strays:
        print(f"  {strays:>7}  unfinished attempts of jobs that the batch no longer names")
    if earlier:
        print(f"  {earlier:>7}  earlier take{'s' * (earlier != 1)}, kept beside the present one{'s' * (earlier != 1)}")
    if gone:
        print(gone_line([names.get(key, key) for key in gone]))
    print(f"spent ${money.usd(settled):f}, reserved ${money.usd(reserved):f}, unfinished {unfinished + strays}")
    for result, name in failures[:SHOWN_PROBLEMS]:
        task = f" (task {result.task_id})" if result.task_id else ""
        why = sanitise(result.error or "no reason")
        print(f"  {result.state}: {sanitise(name)}{task}: {why}")
    if len(failures) > SHOWN_PROBLEMS:
        print(f"  ... and {len(failures) - SHOWN_PROBLEMS} more; results.jsonl has all")
    if failed := {result.job for result, _ in failures if result.state in (State.FAILED, State.CANCELLED)}:
        _show_retry_advice(output, homes, failed)
    for row in unassigned[:SHOWN_PROBLEMS]:
        _show_unassigned(args, output, row, names)
    if len(unassigned) > SHOWN_PROBLEMS:
        print(f"  ... and {len(unassigned) - SHOWN_PROBLEMS} more unassigned tasks; --json has all")
    return ExitCode.SUCCESS


def _show_retry_advice(output: Location, homes: Sequence[Home], failed: Collection[str]) -> None:
    """Print how to try failed and cancelled jobs again."""
    enrolled = [job for home in homes for job in enrolled_jobs(home) if job.position is not None]
    images = {job.key: image_path(output, job.spec["image_file"]) for job in enrolled if "image_file" in job.spec}
    advice = retry_advice([images[key] for key in failed if key in images], images.values())
    print(f"  try failed ones again with {advice.flags}")
    for remark in advice.remarks:
        print(f"    {sanitise(remark)}")


def _sizes(output: Location, home: Home) -> SizeOf | None:
    """The sizes of the clips; None if their store can't be asked now, which is said."""
    try:
        return anyio.run(remote_output.sizes, output, home)
    except errors.WanError as error:
        say(f"note: which clips are gone is not known: {sanitise(str(error))}")
        return None


def _unassigned_in(found: Sequence[Report]) -> list[Unassigned]:
    """The unassigned tasks of all journals, once each: those of single clips may have candidates in common."""
    owned = {result.task_id for seen in found for result in seen.results}
    rows: dict[str, Unassigned] = {}
    for row in (row for seen in found for row in seen.unassigned if row.shown and row.task_id not in owned):
        same = rows.setdefault(row.task_id, row)
        if same is not row:
            same.jobs, same.assignable = same.jobs + row.jobs, same.assignable + row.assignable
    return list(rows.values())


def _show_unassigned(args: argparse.Namespace, output: Location, row: Unassigned, names: Mapping[str, str]) -> None:
    """Print a task that may belong to a quarantined job, and the commands that assign it."""
    cost, prompt = _cost_of(row), matching.shown(row.task, WAN.prompt.wire)
    what = _file_of(row) or " ".join([row.state, *([f"({sanitise(row.reason)})"] if row.reason else [])])
    facts = [
        what,
        *([f"${cost}"] if cost is not None else []),
        *([sanitise(prompt)[:60]] if prompt else []),
    ]
    print(f"  unassigned: task {sanitise(row.task_id)}: {', '.join(facts)}")
    place = public_address(args.journal) if is_database(args.journal) else str(args.journal)
    journal = [] if args.journal is None else ["--journal", place]
    for job in row.assignable[:SHOWN_CANDIDATES]:
        name = names.get(job, job)
        typed = quoted(["wan-async", "assign", row.task_id, name, "-o", str(output), *journal])
        print(f"    if it is the clip of {sanitise(name)}: {sanitise(typed)}")
    if len(row.assignable) > SHOWN_CANDIDATES:
        print(f"    ... or of {len(row.assignable) - SHOWN_CANDIDATES} more jobs")


def _file_of(row: Unassigned) -> str | None:
    return row.clips[0].file if row.state == "stored" else None


def _cost_of(row: Unassigned) -> str | None:
    return None if row.task.totalcost is None else f"{money.usd(row.task.totalcost):f}"
