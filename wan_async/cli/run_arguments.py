"""The arguments of `run`, `plan`, `generate` and `watch`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from wan_async.cli.argument_types import (
    any_path,
    concurrency,
    count,
    database,
    integer,
    journal_place,
    lease,
    location,
    seconds,
    setting,
    text,
    usd,
    whole,
)

LEASE_SECONDS = 45.0
NOT_FOR_WORKERS = ("pilot", "sandbox", "on_done", "on_end")
"""Flags of `run` that are refused where workers render the batch, by the names of their values."""
OF_WORKER = ("adopt", "ignore_unowned")
"""Those that `worker` has in its place."""
OF_EACH_WORKER = ("downloads", "track")
"""Those that each worker has for itself; a settings file may have them, for `run`."""


def add_run(run: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    add_plan(run)
    _lease(run)
    _dry_run(run)


def add_enqueue(enqueue: argparse.ArgumentParser) -> None:
    """Add the arguments of `enqueue`."""
    _batch(enqueue, journal=_database)
    _lease(enqueue)
    _admission(enqueue)
    _choice(enqueue)
    _asking(enqueue)
    enqueue.set_defaults(sandbox=False)
    _dry_run(enqueue)
    enqueue.add_argument("--json", action="store_true", help="one JSON object on stdout, messages on stderr")
    for action in enqueue._actions:
        if action.dest in NOT_FOR_WORKERS:
            action.help = "refused: not for batches that workers render"
        elif action.dest in (*OF_WORKER, *OF_EACH_WORKER):
            action.help = "refused: a flag of worker"


def add_worker(worker: argparse.ArgumentParser) -> None:
    """Add the arguments of `worker`."""
    _database(worker)
    _lease(worker)
    worker.add_argument("--once", action="store_true", help="end when nothing is left to do, for cron")
    worker.add_argument(
        "--drain",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="after SIGTERM, how long to see through what runs before it is left to other workers (30)",
    )
    _admission(worker)
    worker.set_defaults(
        limit=None, only=None, pilot=None, retry_failed=False, rerender=False, give_up=False, resubmit_unknown=False,
        render_duplicates=False, sandbox=False,
    )  # fmt: skip
    _unowned(worker)
    _output(worker)


def _dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="the same as plan: show what would be done, spend nothing"
    )


def _database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--journal",
        type=database,
        required=True,
        metavar="URL",
        help="the PostgreSQL of the journal and the queue: postgresql://USER@HOST/DATABASE",
    )


def _lease(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lease",
        type=lease,
        default=LEASE_SECONDS,
        metavar="SECONDS",
        help="how long a worker that is not heard of keeps its jobs; the same for all workers (45)",
    )


def add_plan(plan: argparse.ArgumentParser) -> None:
    """Add the arguments of `plan`, which are those of `run`."""
    _batch(plan)
    _admission(plan)
    _choice(plan)
    _asking(plan)
    _around(plan)
    _sandboxed(plan)
    _output(plan)


def add_again(again: argparse.ArgumentParser) -> None:
    """Add the arguments of `again`."""
    again.add_argument("jobs", nargs="+", metavar="JOB", help="a job: its key, its id, or its clip's name")
    again.add_argument(
        "-o",
        "--output",
        type=location,
        required=True,
        metavar="OUT",
        help="the output of the job's run: its folder, or its URL",
    )
    add_journal(again)
    again.add_argument(
        "--seed", type=integer, metavar="N", help="the seed (default: the next that no take of the job has)"
    )
    again.add_argument(
        "--prepare",
        action=argparse.BooleanOptionalAction,
        help="only as the last run of the output had it, which is the default: a further take has the job's own image. "
        "`run BATCH --prepare --only JOB` renders a job from a converted copy",
    )
    _admission(again)
    again.set_defaults(
        limit=None, only=None, pilot=None, retry_failed=False, rerender=False, give_up=False, resubmit_unknown=False,
        render_duplicates=False, lease=LEASE_SECONDS,
    )  # fmt: skip
    _unowned(again)
    _asking(again)
    _around(again)
    _sandboxed(again)
    _output(again)


def add_journal(parser: argparse.ArgumentParser) -> None:
    """Add `--journal`, for commands on an output that may be in an object store."""
    parser.add_argument(
        "--journal",
        type=journal_place,
        metavar="PATH|URL",
        help="the folder of the journal if the clips are in an object store (default: a folder for each URL in the "
        "user's state folder); postgresql://...: the database of the journals that workers share",
    )


def _choice(run: argparse.ArgumentParser) -> None:
    choice = run.add_argument_group("which jobs")
    choice.add_argument(
        "--limit", type=whole, metavar="N", help="submit only the first N unfinished jobs, in batch order (0: none)"
    )
    choice.add_argument(
        "--pilot",
        type=count,
        metavar="N",
        help="first only N of them, drawn evenly over the batch; then a terminal is asked whether to go on",
    )
    choice.add_argument("--only", metavar="GLOB", help="only jobs whose id matches, case-sensitively")
    choice.add_argument("--retry-failed", action="store_true", help="try failed and cancelled jobs again")
    choice.add_argument(
        "--rerender",
        action="store_true",
        help="render jobs whose clip is missing again, and pay again",
    )
    choice.add_argument(
        "--give-up",
        action="store_true",
        help="ask for missing clips once more; those still missing then count as failed",
    )
    choice.add_argument(
        "--resubmit-unknown",
        action="store_true",
        help="submit quarantined jobs again, each once, at the risk of paying twice: whether their Run made a task is "
        "not known",
    )
    choice.add_argument(
        "--render-duplicates",
        action="store_true",
        help="render each of several jobs with equal content, and pay for each, instead of sharing one clip",
    )
    _unowned(choice)


def _asking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-y", "--yes", action="store_true", help="spend without asking; only a terminal is ever asked")
    parser.add_argument(
        "--confirm-above",
        type=usd,
        default="10",
        metavar="USD",
        help="ask if the new money exceeds this, or is unknown; not with a --budget that it is within (10)",
    )


def _around(parser: argparse.ArgumentParser) -> None:
    """What happens around the run: waiting for its folder, hooks."""
    group = parser.add_argument_group("around the run")
    group.add_argument("--wait", action="store_true", help="if another run holds the folder, wait until it ends")
    group.add_argument(
        "--on-done",
        metavar="CMD",
        help="run a shell command for each stored clip, with WAN_FILE, WAN_JOB, WAN_TASK_ID, WAN_COST_USD, ... in "
        "its environment; it neither delays nor fails the run",
    )
    group.add_argument(
        "--on-end",
        metavar="CMD",
        help="run a shell command after the run, with WAN_EXIT_CODE, WAN_STORED, WAN_FAILED, ... in its environment",
    )


def _parameters(parser: argparse.ArgumentParser) -> None:
    """A flag for each parameter of the model."""
    from wan_async.domain.model import WAN  # here, since --help needs none of it

    short = {WAN.prompt.name: ["-p"], WAN.image_name: ["-i"]}
    for name, parameter in WAN.by_name.items():
        about = parameter.about[:1].lower() + parameter.about[1:]
        metavar = {"text": "TEXT", "integer": "N", "image": "IMAGE", "choice": "|".join(parameter.choices)}
        if parameter.kind == "image":
            about += ": a file, or an http(s) URL"
        elif parameter.default not in ("", None):
            about += f" (default: {parameter.default})"
        parser.add_argument(
            *short.get(name, []),
            f"--{name.replace('_', '-')}",
            required=parameter.required,
            default=parameter.default,
            metavar=metavar[parameter.kind],
            help=about.replace("%", "%%"),
        )


def add_generate(generate: argparse.ArgumentParser) -> None:
    """Add the arguments of `generate`."""
    _parameters(generate)
    _preparing(generate)
    generate.add_argument(
        "-o",
        "--output",
        type=text,
        metavar="FILE",
        help="the clip, or a folder for it if it ends in / or exists (default: named after the image)",
    )
    _admission(generate, many=False)
    generate.set_defaults(
        concurrency=1, max_concurrency=1, downloads=1, limit=None, only=None, pilot=None, render_duplicates=False
    )
    generate.add_argument("--retry-failed", action="store_true", help="try again if it failed or was cancelled")
    generate.add_argument(
        "--rerender", action="store_true", help="render it again, and pay again, if its clip is missing"
    )
    generate.add_argument(
        "--give-up",
        action="store_true",
        help="ask for a missing clip once more; if it is still missing it counts as failed",
    )
    generate.add_argument(
        "--resubmit-unknown",
        action="store_true",
        help="submit it again if it is quarantined, at the risk of paying twice",
    )
    _unowned(generate)
    _asking(generate)
    _around(generate)
    _sandboxed(generate)
    _output(generate)


def add_watch(watch: argparse.ArgumentParser) -> None:
    """Add the arguments of `watch`."""
    watch.add_argument("folder", metavar="FOLDER", help="the folder that images are dropped into")
    watch.add_argument(
        "-o",
        "--output",
        type=location,
        metavar="DIR",
        help="the folder of the clips, which can't be in an object store (default: FOLDER.clips beside it)",
    )
    watch.add_argument(
        "-p", "--prompt", metavar="TEXT", help="the prompt of images without a caption; {caption} stands for its text"
    )
    _setting(watch)
    watch.add_argument(
        "--skip-bad", action="store_true", help="watch always does so: an image that can't be rendered is left out"
    )
    watch.add_argument("--recursive", action="store_true", help="include subfolders")
    _preparing(watch)
    watch.add_argument(
        "--stable",
        type=seconds,
        default=2.0,
        metavar="SECONDS",
        help="take a file once it has not changed for so long (2)",
    )
    watch.add_argument("-y", "--yes", action="store_true", help="render without --budget, whatever it costs")
    _admission(watch)
    watch.set_defaults(
        limit=None, only=None, pilot=None, retry_failed=False, rerender=False, give_up=False, resubmit_unknown=False,
        render_duplicates=False, dry_run=False, confirm_above="10",
    )  # fmt: skip
    _around(watch)
    _unowned(watch)
    _sandboxed(watch)
    _output(watch)


def _batch(
    parser: argparse.ArgumentParser, *, journal: Callable[[argparse.ArgumentParser], None] | None = None
) -> None:
    parser.add_argument(
        "batch", metavar="BATCH", help="a batch file, a folder of images, or - for a batch file on stdin"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=location,
        metavar="DIR",
        help="the folder of the clips, or an object store: s3://BUCKET/FOLDER, gs://..., az://... (default: the "
        "batch's own output; else outputs/NAME beside a file NAME.yaml, or X.clips beside a folder X; with --sandbox a "
        "folder of its own beside that, OUT.sandbox)",
    )
    (journal or add_journal)(parser)
    parser.add_argument(
        "-p", "--prompt", metavar="TEXT", help="the prompt of jobs without one; {caption} stands for a sidecar's text"
    )
    _setting(parser)
    parser.add_argument("--recursive", action="store_true", help="if BATCH is a folder, include its subfolders")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out jobs that are invalid, and go on with the rest"
    )
    _preparing(parser)


def _setting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        type=setting,
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of all jobs that don't give it themselves, such as resolution=720P, seed=7, "
        "aspect_ratio=9:16 or negative_prompt=TEXT; can be repeated",
    )


def _preparing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prepare",
        action=argparse.BooleanOptionalAction,
        help="upload upright copies of images that EXIF turns, and RGB copies of HEIC, TIFF, CMYK and 16 bits "
        "(default: as the last run of the folder)",
    )


def _admission(parser: argparse.ArgumentParser, *, many: bool = True) -> None:
    group = parser.add_argument_group("execution")
    if many:
        group.add_argument(
            "-c", "--concurrency", type=concurrency, metavar="N|auto", help="active tasks at once (default: auto)"
        )
        group.add_argument(
            "--max-concurrency", type=count, default=256, metavar="N", help="the most that auto may try (256)"
        )
        group.add_argument("--downloads", type=count, default=8, metavar="N", help="downloads at once (8)")
    group.add_argument(
        "--upload",
        choices=("auto", "file", "inline"),
        default="auto",
        help="upload each distinct image once (file), send it along with every Run (inline), or upload until the "
        "service refuses that (auto, the default)",
    )
    group.add_argument(
        "--track",
        choices=("auto", "socket", "poll"),
        default="auto",
        help="how to notice that a task has ended: socket, poll, or the socket while there is one (auto, the default)",
    )
    group.add_argument(
        "--retries", type=whole, default=2, metavar="N", help="retries of a failed render that was not billed (2)"
    )
    group.add_argument(
        "--budget", type=usd, metavar="USD", help="the most that the output folder may cost, over all its runs"
    )
    group.add_argument(
        "--patience",
        type=seconds,
        default=600.0,
        metavar="SECONDS",
        help="how long to ask for a task or clip that the service denies before it is left to the next run (600)",
    )
    group.add_argument(
        "--settle",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long the service may take to list a new task; an unanswered Run is repeated after twice this (30)",
    )


def _unowned(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--adopt",
        action="store_true",
        help="take over tasks that a restored or copied journal doesn't have, if they equal jobs of this batch",
    )
    parser.add_argument(
        "--ignore-unowned",
        action="store_true",
        help="submit although the service has such tasks, at the risk of paying twice",
    )


def _sandboxed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sandbox",
        action="store_true",
        help="use a local sandbox instead of Wiro: no account, no cost; unless -o is given its clips go to OUT.sandbox",
    )


def _output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON object a line on stdout, messages on stderr")
    group.add_argument(
        "--summary-every",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="how often to write a summary where there is no terminal (60)",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="only problems and the summary")
    group.add_argument("-v", "--verbose", action="count", default=0, help="every step (-vv: every request)")
    group.add_argument("--log-file", type=any_path, metavar="FILE", help="write a full log to this file")
