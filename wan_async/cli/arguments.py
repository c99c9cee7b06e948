"""The arguments of all commands."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING, Any

from wan_async import __version__
from wan_async.domain.exit_codes import ExitCode

if TYPE_CHECKING:  # a tenth of the time that --help takes
    from decimal import Decimal
    from pathlib import Path

EPILOG = f"""\
environment: WIRO_API_KEY, WIRO_API_SECRET (absent for a key-only project), WIRO_BASE_URL, WIRO_SOCKET_URL; a .env file
in the working folder is read, the real environment wins.

{textwrap.fill(f"exit codes, the first that applies: {ExitCode.legend()}.", 120)}
"""


def _formatter(prog: str) -> argparse.HelpFormatter:
    from rich_argparse import RawDescriptionRichHelpFormatter

    return RawDescriptionRichHelpFormatter(prog)


def make_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        only: the first word of the command line. If it is a command, only that command's arguments are added, and
            none if it asks for help: importing what they need takes time. Else those of all commands are.
    """
    parser = argparse.ArgumentParser(
        prog="wan-async",
        description="Turns images and prompts into clips, many at once, on Wiro's Wan2.2-TI2V-5B-Image-to-Video-Fast. "
        "It never pays twice and never loses a clip that was paid for: run the same command again to resume.",
        epilog=EPILOG,
        formatter_class=_formatter,
        allow_abbrev=False,  # a flag that may pay twice must be typed in full
    )
    parser.add_argument("--version", action="version", version=f"wan-async {__version__}")
    parser.add_argument(
        "--print-completion",
        action=_Completion,
        choices=("bash", "zsh", "tcsh"),
        help="print a completion script for a shell, and exit",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", prog=parser.prog)
    for name, (help_text, description, add_arguments) in _COMMANDS.items():
        command = _command(commands, name, help_text, description)
        if only == name or only not in (*_COMMANDS, "-h", "--help"):
            add_arguments(command)
    return parser


class _Completion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: Any, **_: Any) -> None:
        import shtab

        print(shtab.complete(parser, shell=rest[1]))
        parser.exit(0)


def _command(commands: Any, name: str, help_text: str, description: str = "") -> argparse.ArgumentParser:
    first = help_text[0].upper() + help_text[1:] + "."
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_text,
        description=f"{first} {description}".strip(),
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    return made


def _add_run(run: argparse.ArgumentParser) -> None:
    _batch(run)
    _admission(run)
    choice = run.add_argument_group("which jobs")
    choice.add_argument("--limit", type=_count, metavar="N", help="only the first N unfinished jobs, in batch order")
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
        help="submit quarantined jobs again, at the risk of paying twice: whether their Run made a task is not known",
    )
    _unowned(choice)
    run.add_argument("--dry-run", action="store_true", help="the same as plan: show what would be done, spend nothing")
    _sandboxed(run)
    _output(run)


def _add_plan(plan: argparse.ArgumentParser) -> None:
    _batch(plan)
    plan.set_defaults(limit=None, only=None, retry_failed=False, rerender=False, give_up=False, resubmit_unknown=False)
    _sandboxed(plan)
    plan.add_argument("--json", action="store_true", help="one JSON object a line on stdout")


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


def _add_generate(generate: argparse.ArgumentParser) -> None:
    _parameters(generate)
    generate.add_argument(
        "-o", "--output", type=_path, metavar="FILE", help="the clip (default: named after the image)"
    )
    _admission(generate, many=False)
    generate.set_defaults(concurrency=1, max_concurrency=1, downloads=1, limit=None, only=None)
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
    _sandboxed(generate)
    _output(generate)


def _add_status(status: argparse.ArgumentParser) -> None:
    status.add_argument("folder", type=_any_path, metavar="OUT", help="the output folder of a run")
    status.add_argument("--json", action="store_true", help="one JSON object on stdout")


def _add_assign(assign: argparse.ArgumentParser) -> None:
    assign.add_argument("task", metavar="TASK", help="the task's id, as status lists it")
    assign.add_argument("job", metavar="JOB", help="the quarantined job: its key, its id, or its clip's name")
    assign.add_argument(
        "-o", "--output", type=_any_path, required=True, metavar="OUT", help="the output folder of the job's run"
    )


def _add_task(task: argparse.ArgumentParser) -> None:
    actions = task.add_subparsers(dest="task_command", metavar="ACTION", title="actions", required=True, prog=task.prog)
    listing = _command(actions, "list", "list the account's newest tasks of our model")
    listing.add_argument(
        "--orphans",
        type=_any_path,
        metavar="OUT",
        help="only tasks that no attempt of this output folder owns, as far back as its journal goes",
    )
    listing.add_argument("--limit", type=_count, metavar="N", help="look at the newest N (20; all with --orphans)")
    listing.add_argument("--json", action="store_true", help="one JSON object a line on stdout")
    show = _command(actions, "show", "show tasks as the service reports them")
    _command_tasks(show)
    show.add_argument("--json", action="store_true", help="one JSON object a line on stdout")
    _command_tasks(_command(actions, "cancel", "cancel tasks that are still queued"))
    _command_tasks(_command(actions, "kill", "kill running tasks"))
    download = _command(actions, "download", "download the outputs of ended tasks, as task-ID.mp4")
    _command_tasks(download)
    download.add_argument(
        "-o",
        "--output",
        type=_any_path,
        default=_any_path(""),
        metavar="DIR",
        help="the folder for them (default: here)",
    )


def _command_tasks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tasks", nargs="+", metavar="TASK", help="a task's id, or its token")


def _add_sandbox(sandbox: argparse.ArgumentParser) -> None:
    from wan_async.sandbox.flags import add_arguments

    add_arguments(sandbox)


def _add_gallery(gallery: argparse.ArgumentParser) -> None:
    gallery.add_argument("folder", type=_any_path, metavar="OUT", help="the output folder of a run")


def _add_init(init: argparse.ArgumentParser) -> None:
    init.add_argument(
        "folder",
        type=_path,
        nargs="?",
        default=_any_path("."),
        metavar="FOLDER",
        help="the folder of images (default: here)",
    )
    init.add_argument(
        "-o", "--output", type=_path, metavar="FILE", help="the batch file (default: FOLDER.yaml beside it)"
    )
    init.add_argument("--recursive", action="store_true", help="include its subfolders")


def _add_nothing(_: argparse.ArgumentParser) -> None:
    pass


def _batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "batch", metavar="BATCH", help="a batch file, a folder of images, or - for a batch file on stdin"
    )
    parser.add_argument(
        "-o", "--output", type=_path, metavar="DIR", help="the folder of the clips (default: the batch's output)"
    )
    parser.add_argument(
        "-p", "--prompt", metavar="TEXT", help="the prompt of jobs without one; {caption} stands for a sidecar's text"
    )
    parser.add_argument("--recursive", action="store_true", help="if BATCH is a folder, include its subfolders")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out jobs that are invalid, and go on with the rest"
    )
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="upload upright copies of images that EXIF turns, and RGB copies of HEIC, TIFF, CMYK and 16 bits",
    )


def _admission(parser: argparse.ArgumentParser, *, many: bool = True) -> None:
    group = parser.add_argument_group("execution")
    if many:
        group.add_argument(
            "-c", "--concurrency", type=_concurrency, metavar="N|auto", help="active tasks at once (default: auto)"
        )
        group.add_argument(
            "--max-concurrency", type=_count, default=256, metavar="N", help="the most that auto may try (256)"
        )
        group.add_argument("--downloads", type=_count, default=8, metavar="N", help="downloads at once (8)")
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
        "--retries", type=_whole, default=2, metavar="N", help="retries of a failed render that was not billed (2)"
    )
    group.add_argument(
        "--budget", type=_usd, metavar="USD", help="the most that the output folder may cost, over all its runs"
    )
    group.add_argument(
        "--patience",
        type=_seconds,
        default=600.0,
        metavar="SECONDS",
        help="how long to ask for a task or clip that the service denies before it is left to the next run (600)",
    )
    group.add_argument(
        "--settle",
        type=_seconds,
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
    group.add_argument("-q", "--quiet", action="store_true", help="only problems and the summary")
    group.add_argument("-v", "--verbose", action="count", default=0, help="every step (-vv: every request)")
    group.add_argument("--log-file", type=_any_path, metavar="FILE", help="write a full log to this file")


def _number(text: str, kind: type[int] | type[float], least: float, what: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = kind(least - 1)
    if not least <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def _any_path(text: str) -> Path:
    from pathlib import Path

    return Path(text)


def _path(text: str) -> Path:
    if not text:  # such as an unset shell variable; as a path it would mean the working folder
        raise argparse.ArgumentTypeError("the path is empty")
    return _any_path(text)


def _count(text: str) -> Any:
    return _number(text, int, 1, "a whole number from 1 on")


def _whole(text: str) -> Any:
    return _number(text, int, 0, "a whole number from 0 on")


def _seconds(text: str) -> Any:
    return _number(text, float, 0, "a number of seconds")


def _concurrency(text: str) -> int | None:
    return None if text == "auto" else _number(text, int, 1, 'a whole number from 1 on, or "auto"')


def _usd(text: str) -> Decimal:
    from decimal import Decimal, InvalidOperation

    try:
        value = Decimal(text.removeprefix("$"))
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value < 0 or value.adjusted() >= 9:  # the limit of `money.micros`
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount in USD")
    return value


_COMMANDS = {
    "run": (
        "render a batch; again = resume",
        (
            "A batch is a YAML, JSON, JSONL, CSV or TSV file, a folder of images, or - for such a file on standard "
            "input. Clips that are done are not rendered again; clips that were paid for and are not on disk are "
            "fetched first."
        ),
        _add_run,
    ),
    "plan": (
        "validate a batch and show what it would do and cost; spend nothing",
        "The cost is computed from the service's price list; it is unknown without credentials.",
        _add_plan,
    ),
    "init": (
        "write a commented batch file for a folder of images",
        "Prompts come from captions where there are any. No file is overwritten.",
        _add_init,
    ),
    "generate": (
        "render one clip",
        "Like a batch of one job: again = resume. Several can run at once in a folder.",
        _add_generate,
    ),
    "status": ("show what an output folder's journal holds", "It can be used during a run.", _add_status),
    "assign": (
        "make an unassigned clip the clip of a quarantined job",
        (
            "A job is quarantined if its Run was not answered and the service's task list does not show which task "
            "is its own; the clips in question are in OUT/unassigned. Nothing is asked of the service."
        ),
        _add_assign,
    ),
    "task": ("list, show, cancel, kill or download remote tasks", "", _add_task),
    "gallery": ("make one HTML page of an output folder's clips: OUT/gallery.html", "", _add_gallery),
    "sandbox": (
        "run a local Wiro that answers the same protocol with real MP4s, and print the exports to use it",
        "It costs nothing and never reaches the network. --state keeps its account and tasks.",
        _add_sandbox,
    ),
    "schema": ("print the batch file's JSON Schema, for editors", "", _add_nothing),
}
