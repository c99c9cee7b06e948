"""What each command does: reads the batch, makes the clients, runs, and says how it ended."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import anyio

from wan_async import access, batchfile, descriptors, errors, events, files, jobs, progress, reconcile, targets, wire
from wan_async.access import Access
from wan_async.carry import parameters_of
from wan_async.client import is_private
from wan_async.context import Options, Services
from wan_async.download import Downloader
from wan_async.driver import drive, logging_to
from wan_async.jobs import Batch, Enlisted, Job, PlannedJob
from wan_async.journal import FILE, FOLDER, Account, Unassigned
from wan_async.runner import Prepared, Runner, prepare
from wan_async.snapshot import Snapshot, doubt, homes_of, snapshot, todo
from wan_async.stream import Stream

SHOWN_PROBLEMS = 50
SHOWN_JOBS = 20
SHOWN_CANDIDATES = 5
DONE = ("stored",)
FINAL = ("stored", "failed", "cancelled", "missing", "given_up")


def dispatch(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Runs the command that was parsed; returns its exit code. Every error of ours ends here, in words."""
    try:
        code = _dispatched(args, argv)
        sys.stdout.flush()
    except errors.InvalidBatch as error:
        return _invalid(error, as_json=getattr(args, "json", False))
    except errors.WanError as error:
        return _not_begun(error, args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _quiet_stdout()
        return 0
    except OSError:
        try:
            print(flush=True)
        except OSError as error:  # so it was a print that failed
            _quiet_stdout()
            _say(f"error: the output can't be written: {error.strerror or error}")
            return 6
        raise
    return code


def _dispatched(args: argparse.Namespace, argv: Sequence[str]) -> int:
    match args.command:
        case "run" if not args.dry_run:
            return run(args, argv)
        case "run" | "plan":
            return plan(args)
        case "generate":
            return generate(args, argv)
        case "status":
            return status(args)
        case "assign":
            return assign(args)
        case "gallery":
            return make_gallery(args)
        case "task":
            from wan_async import tasks

            return tasks.dispatch(args)
        case "sandbox":
            return serve_sandbox(args)
    print(json.dumps(batchfile.schema(), indent=2))
    return 0


def _code(error: errors.WanError) -> int:
    if isinstance(error, errors.StopBatch):
        return 4 if error.authentication else 1
    return 6 if isinstance(error, errors.Unusable | errors.TryLater | errors.NoSuchAddress) else 1


def _invalid(error: errors.InvalidBatch, *, as_json: bool) -> int:
    for problem in error.problems[:SHOWN_PROBLEMS]:
        _say(progress.sanitise(str(problem)))
    if len(error.problems) > SHOWN_PROBLEMS:
        _say(f"... and {len(error.problems) - SHOWN_PROBLEMS} more problems")
    _say("nothing was spent")
    if as_json:
        run_id, at = os.urandom(6).hex(), time.time()
        with progress.json_lines(sys.stdout) as display:
            for problem in error.problems:
                display.show(events.Problem(at=at, run=run_id, where=problem.where, message=problem.message))
            display.show(_nothing_done(run_id, at, 2))
    return 2


def _nothing_done(run_id: str, at: float, exit_code: int) -> events.Finished:
    return events.Finished(
        at=at, run=run_id, exit_code=exit_code, jobs=0, stored=0, skipped=0, failed=0, cancelled=0, missing=0,
        unknown=0, unfinished=0, spent_usd=wire.usd(0), reserved_usd=wire.usd(0), seconds=0.0, resume=None,
    )  # fmt: skip


def _not_begun(error: errors.WanError, args: argparse.Namespace) -> int:
    """A command could not begin its work: says so, to machines, too, if they read a run's lines."""
    code = _code(error)
    _say(f"error: {error}")
    if getattr(args, "json", False) and args.command in ("run", "generate") and not getattr(args, "dry_run", False):
        run_id, at = os.urandom(6).hex(), time.time()
        with progress.json_lines(sys.stdout) as display:
            display.show(events.Stopping(at=at, run=run_id, reason=str(error)))
            display.show(_nothing_done(run_id, at, code))
    return code


def _say(text: str) -> None:
    if sys.stderr is None:  # print would write to stdout
        return
    try:
        print(text, file=sys.stderr)
    except (OSError, ValueError):
        return  # nobody is there to read it


def _quiet_stdout() -> None:
    """Python flushes stdout once more at its end; a pipe that is gone would make that an error."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


@contextmanager
def _access(args: argparse.Namespace, output: Path, *, optional: bool = False) -> Iterator[Access | None]:
    if args.sandbox:
        with access.own_sandbox(output) as there:
            yield there
    else:
        yield access.from_environment() if optional else access.required()


def _read(args: argparse.Namespace) -> tuple[Batch, Path]:
    source = "-" if args.batch == "-" else Path(args.batch)
    if not args.batch:  # `Path("")` would be the working folder
        raise errors.InvalidBatch([errors.Problem("BATCH", "is empty: name a file or a folder")])
    batch = files.read_batch(
        source,  # type: ignore[arg-type] # "-" or a path
        prompt=args.prompt,
        recursive=args.recursive,
        stdin=sys.stdin.buffer,
    )
    output = files.output_folder(source, batch, args.output)  # type: ignore[arg-type] # likewise
    if args.sandbox and args.output is None:
        output = output.with_name(f"{output.name}.sandbox")
    output = Path(os.path.normpath(output))
    if problem := targets.folder_problem(output):
        raise errors.InvalidBatch([errors.Problem("-o" if args.output else batch.source, problem)])
    return batch, output


def _prepared(args: argparse.Namespace) -> tuple[Prepared, Path, tuple[str, ...]]:
    """The batch with its images read, its output folder, and what its author should know.

    Raises:
        errors.InvalidBatch: with all that is wrong with any of these.
    """
    batch, output = _read(args)
    source = Path(args.batch)
    problems = targets.target_problems(batch.jobs, output, None if args.batch == "-" or source.is_dir() else source)
    try:
        prepared = prepare(batch, output / FOLDER)
    except errors.InvalidBatch as error:
        raise errors.InvalidBatch([*error.problems, *problems]) from None
    if problems:
        raise errors.InvalidBatch(problems)
    for notice in batch.notices:
        _say(progress.sanitise(f"note: {notice}"))
    return prepared, output, batch.notices


def run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """`run`: renders a batch."""
    if args.rerender and args.give_up:
        problem = "renders missing clips anew, and --give-up ends them: choose one"
        raise errors.InvalidBatch([errors.Problem("--rerender", problem)])
    batch, output, _ = _prepared(args)
    return _carry(args, argv, batch, output, output / FOLDER)


def generate(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """`generate`: a batch of one, with a journal of its own."""
    job = Job(
        prompt=args.prompt,
        image=args.image,
        negative_prompt=args.negative_prompt,
        resolution=args.resolution,
        aspect_ratio=args.aspect_ratio,
        seed=args.seed,
    )
    planned = jobs.from_jobs([job]).jobs[0]
    wanted: Path = args.output or Path(planned.name)
    folder, name = wanted.parent, jobs.safe_name(wanted.stem if wanted.suffix == ".mp4" else wanted.name)
    if args.sandbox and args.output is None:
        folder /= "outputs.sandbox"
    args.concurrency, args.max_concurrency, args.downloads = 1, 1, 1
    args.limit = args.only = None
    home = folder / FOLDER / "generate" / name
    batch = Batch([PlannedJob(0, planned.job, name, name, "")], None, "generate")
    return _carry(args, argv, prepare(batch, home), folder, home)


def _options(args: argparse.Namespace, argv: Sequence[str]) -> Options:
    budget = None if args.budget is None else wire.micros(args.budget)
    return Options(
        concurrency=args.concurrency,
        max_concurrency=args.max_concurrency,
        downloads=descriptors.downloads(args.downloads),
        upload=args.upload,
        track=args.track,
        retries=args.retries,
        budget_micros=budget,
        limit=args.limit,
        only=args.only,
        retry_failed=args.retry_failed,
        rerender=args.rerender,
        give_up=args.give_up,
        patience_seconds=args.patience,
        resubmit_unknown=args.resubmit_unknown,
        adopt=args.adopt,
        ignore_unowned=args.ignore_unowned,
        settle_seconds=args.settle,
        resume=_command_line(argv),
    )


ONCE = ("--rerender", "--resubmit-unknown", "--ignore-unowned", "--give-up")
"""What was asked for once, and may pay again or end something: it is no part of going on."""


def _command_line(argv: Sequence[str]) -> str:
    """The command that goes on from here: as it was typed, but for what was asked for once."""
    name = Path(sys.argv[0]).name
    start = ["python", "-m", "wan_async"] if name in ("__main__.py", "-c", "-m") else [name]
    return _typed([*start, *(word for word in argv if word not in ONCE)])


def _typed(words: Sequence[str]) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _carry(args: argparse.Namespace, argv: Sequence[str], batch: Prepared, output: Path, home: Path) -> int:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.Unusable(f"{output} can't be made: {error.strerror or error}") from None
    descriptors.raise_limit()
    with ExitStack() as stack:
        stack.enter_context(logging_to(args.verbose, args.log_file))
        service = stack.enter_context(_access(args, output))
        assert service is not None
        display = stack.enter_context(_display(args))
        finished, runner = anyio.run(_drive, args, argv, batch, output, home, service, display)
        if display.broken:
            _quiet_stdout()
    if runner.unsaved:
        _say(f"these tasks were paid for and could not be written down: {', '.join(runner.unsaved)}")
    if args.json and runner.error is not None:
        _say(f"error: {progress.sanitise(str(runner.error))}")
    return finished.exit_code


async def _drive(
    args: argparse.Namespace,
    argv: Sequence[str],
    batch: Prepared,
    output: Path,
    home: Path,
    service: Access,
    display: progress.Display,
) -> tuple[events.Finished, Runner]:
    api, stream = service.api(), Stream()
    async with (
        api,
        Downloader(allow_private=is_private(api.base_url), base_url=api.base_url) as downloader,
    ):
        runner = Runner(
            batch,
            services=Services(api, downloader, socket_url=service.socket_url),
            account=Account(service.origin, service.key),
            output=output,
            home=home,
            options=_options(args, argv),
            stream=stream,
        )
        names = None if args.json else {job.key: job.planned.label for job in batch.jobs}
        return await drive(runner, stream, display, names), runner


def _display(args: argparse.Namespace) -> progress.Display:
    if args.json:
        return progress.json_lines(sys.stdout)
    if sys.stdout.isatty():
        return progress.terminal(sys.stdout, quiet=args.quiet, verbose=args.verbose > 0)
    return progress.plain(sys.stdout, quiet=args.quiet, verbose=args.verbose > 0)


def plan(args: argparse.Namespace) -> int:
    """`plan`: what a run would do."""
    prepared, output, notices = _prepared(args)
    _say_doubt(output / FOLDER)
    enlisted, states = prepared.jobs, _states(prepared)
    wanted = _todo(args, prepared, output / FOLDER, states)
    price = _prices(args, output, enlisted)
    costs = [price.get(_kind(job)) for job in wanted]
    known_costs = [cost for cost in costs if cost is not None]
    total = sum(known_costs) if len(known_costs) == len(costs) else None
    estimate = None if total is None else f"{wire.usd(total):f}"
    if args.json:
        summary = {"todo": len(wanted), "output": str(output), "estimate_usd": estimate, "warnings": notices}
        _plan_lines(enlisted, states, price, summary)
        return 0
    counts = Counter(states.values())
    print(f"{len(enlisted)} job{'s' * (len(enlisted) != 1)} → {output}")
    rows = [
        (str(job.planned.index + 1), progress.sanitise(job.planned.name), states[job.key], *_facts(job))
        for job in enlisted[:SHOWN_JOBS]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)] if rows else []
    for row in rows:
        print("  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))
    if len(enlisted) > SHOWN_JOBS:
        print(f"  ... and {len(enlisted) - SHOWN_JOBS} more")
    print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    print(f"estimated cost of the {len(wanted)} to do: " + ("unknown" if estimate is None else f"${estimate}"))
    return 0


def _say_doubt(home: Path) -> None:
    if (said := doubt(home)) is not None:
        _say(f"the journal {home / FILE} may not know all that it paid for: {said}")


def _todo(args: argparse.Namespace, prepared: Prepared, home: Path, states: Mapping[str, str]) -> list[Enlisted]:
    """The jobs that a run with these flags would submit or see through."""
    anew = todo(home, retry_failed=args.retry_failed, rerender=args.rerender)
    going_on = {"intent", "unknown", "accepted", "ended", *(["quarantined"] if args.resubmit_unknown else [])}
    options = Options(only=args.only)
    fresh = [job for job in prepared.jobs if states[job.key] == "planned" or job.key in anew]
    fresh = [job for job in fresh if options.admits(job.planned.label)][: args.limit]
    return fresh + [job for job in prepared.jobs if states[job.key] in going_on]


def _facts(job: Enlisted) -> tuple[str, str, str, str]:
    wanted = job.planned.job
    prompt = progress.sanitise(wanted.prompt)
    return wanted.resolution, wanted.aspect_ratio, str(wanted.seed), prompt if len(prompt) <= 60 else prompt[:59] + "…"


def _states(prepared: Prepared) -> dict[str, str]:
    """How each job stands: one whose content changed since is yet to be done."""
    enlisted, known = prepared.jobs, prepared.known
    if known is None:
        return {job.key: "planned" for job in enlisted}
    stand = {result.job: result.state for result in known.results}
    return {
        job.key: stand.get(job.key, "planned") if known.contents.get(job.key) == job.content else "planned"
        for job in enlisted
    }


def _kind(job: Enlisted) -> tuple[str, str, bool]:
    """What prices may depend on."""
    return job.planned.job.resolution, job.planned.job.aspect_ratio, job.planned.job.image is None


def _prices(
    args: argparse.Namespace, output: Path, enlisted: Sequence[Enlisted]
) -> Mapping[tuple[str, str, bool], int | None]:
    """The service's own estimate for each kind of job; nothing without credentials or network."""
    if args.sandbox and not output.exists():
        return {}

    async def ask(service: Access) -> wire.Tool:
        async with service.api() as api:
            return await api.tool()

    with _access(args, output, optional=True) as service:
        if service is None:
            return {}
        try:
            tool = anyio.run(ask, service)
        except (errors.TryLater, errors.NotFound) as error:
            _say(f"the price is unknown: {error}")
            return {}
    examples = {_kind(job): job for job in enlisted}
    return {kind: tool.estimate(parameters_of(job.planned.job, "")) for kind, job in examples.items()}


def _plan_lines(
    enlisted: Sequence[Enlisted],
    states: Mapping[str, str],
    price: Mapping[tuple[str, str, bool], int | None],
    summary: Mapping[str, object],
) -> None:
    run_id, at = os.urandom(6).hex(), time.time()
    for job in enlisted:
        wanted, cost = job.planned.job, price.get(_kind(job))
        line = {
            "event": "job",
            "at": at,
            "run": run_id,
            "job": job.key,
            "name": job.planned.name,
            "state": states[job.key],
            "image": wanted.image,
            "prompt": wanted.prompt,
            "negative_prompt": wanted.negative_prompt,
            "resolution": wanted.resolution,
            "aspect_ratio": wanted.aspect_ratio,
            "seed": wanted.seed,
            "price_usd": None if cost is None else f"{wire.usd(cost):f}",
        }
        _line(sys.stdout, line)
    done = sum(state in DONE for state in states.values())
    _line(sys.stdout, {"event": "plan", "at": at, "run": run_id, "jobs": len(enlisted), "done": done, **summary})


def make_gallery(args: argparse.Namespace) -> int:
    """`gallery`: one HTML page of all clips."""
    from wan_async import gallery

    page = args.folder / gallery.NAME
    if not targets.is_our_gallery(page):
        raise errors.InvalidBatch([errors.Problem(str(page), "exists and is not ours: move it")])
    print(gallery.write(args.folder))
    return 0


def serve_sandbox(args: argparse.Namespace) -> int:
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


def _line(stream: TextIO, content: Mapping[str, object]) -> None:
    stream.write(json.dumps(content) + "\n")


def status(args: argparse.Namespace) -> int:
    """`status`: what a journal holds."""
    homes = homes_of(args.folder)
    found = [seen for home in homes if (seen := snapshot(home)) is not None]
    for home in homes:
        _say_doubt(home)
    if not found:
        raise errors.Unusable(f"there is no journal in {args.folder}: is it the output folder of a run?")
    results = [result for seen in found for result in seen.results]
    counts = Counter(result.state for result in results)
    settled = sum(seen.money.settled for seen in found)
    reserved = sum(seen.money.reserved for seen in found)
    strays = sum(seen.strays for seen in found)
    unfinished = sum(count for state, count in counts.items() if state not in FINAL)
    failures = [
        (result, seen.names[result.job])
        for seen in found
        for result in seen.results
        if result.state in ("failed", "cancelled", "missing", "given_up", "quarantined")
    ]
    unassigned = _unassigned_in(found)
    names = {key: name for seen in found for key, name in seen.names.items()}
    if args.json:
        _line(
            sys.stdout,
            {
                "event": "status",
                "at": time.time(),
                "run": os.urandom(6).hex(),
                "output": str(args.folder),
                "jobs": len(results),
                "states": dict(counts),
                "unfinished": unfinished + strays,
                "spent_usd": f"{wire.usd(settled):f}",
                "reserved_usd": f"{wire.usd(reserved):f}",
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
            },
        )
        return 0
    print(f"{args.folder}: {len(results)} job{'s' * (len(results) != 1)}")
    for state, count in counts.most_common():
        print(f"  {count:>7}  {state}")
    if strays:
        print(f"  {strays:>7}  unfinished attempts of jobs that the batch no longer names")
    print(f"spent ${wire.usd(settled):f}, reserved ${wire.usd(reserved):f}, unfinished {unfinished + strays}")
    for result, name in failures[:SHOWN_PROBLEMS]:
        task = f" (task {result.task_id})" if result.task_id else ""
        print(f"  {result.state}: {progress.sanitise(name)}{task}: {progress.sanitise(result.error or 'no reason')}")
    if len(failures) > SHOWN_PROBLEMS:
        print(f"  ... and {len(failures) - SHOWN_PROBLEMS} more; results.jsonl has all")
    for row in unassigned[:SHOWN_PROBLEMS]:
        _show_unassigned(args.folder, row, names)
    if len(unassigned) > SHOWN_PROBLEMS:
        print(f"  ... and {len(unassigned) - SHOWN_PROBLEMS} more unassigned tasks; --json has all")
    return 0


def _unassigned_in(found: Sequence[Snapshot]) -> list[Unassigned]:
    """Unassigned tasks by id. Single clips have journals of their own, and may have candidates alike."""
    owned = {result.task_id for seen in found for result in seen.results}
    rows: dict[str, Unassigned] = {}
    for row in (row for seen in found for row in seen.unassigned if row.shown and row.task_id not in owned):
        same = rows.setdefault(row.task_id, row)
        if same is not row:
            same.jobs, same.assignable = same.jobs + row.jobs, same.assignable + row.assignable
    return list(rows.values())


def _show_unassigned(output: Path, row: Unassigned, names: Mapping[str, str]) -> None:
    """A task that may be a job's own, and the commands that make it so."""
    cost, prompt = _cost_of(row), reconcile.shown(row.task, "prompt")
    what = _file_of(row) or " ".join([row.state, *([f"({progress.sanitise(row.reason)})"] if row.reason else [])])
    facts = [what, *([f"${cost}"] if cost is not None else []), *([progress.sanitise(prompt)[:60]] if prompt else [])]
    print(f"  unassigned: task {progress.sanitise(row.task_id)}: {', '.join(facts)}")
    for job in row.assignable[:SHOWN_CANDIDATES]:
        name = names.get(job, job)
        typed = _typed(["wan-async", "assign", row.task_id, name, "-o", str(output)])
        print(f"    if it is the clip of {progress.sanitise(name)}: {progress.sanitise(typed)}")
    if len(row.assignable) > SHOWN_CANDIDATES:
        print(f"    ... or of {len(row.assignable) - SHOWN_CANDIDATES} more jobs")


def _file_of(row: Unassigned) -> str | None:
    return row.clips[0].file if row.state == "stored" else None


def _cost_of(row: Unassigned) -> str | None:
    return None if row.task.totalcost is None else f"{wire.usd(row.task.totalcost):f}"


def assign(args: argparse.Namespace) -> int:
    """`assign`: makes an unassigned clip the clip of a quarantined job."""
    from wan_async import assign as room

    assigned = anyio.run(room.assign, args.output, args.task, args.job)
    task, job = progress.sanitise(args.task), progress.sanitise(args.job)
    if assigned.file is not None:
        print(f"task {task} is the clip of job {job}: {args.output / assigned.file}")
    else:
        print(f"task {task} is the task of job {job}: the next run goes on with it")
    return 0
