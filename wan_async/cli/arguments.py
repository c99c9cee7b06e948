"""The arguments of all commands."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from wan_async import __version__
from wan_async.cli.argument_types import any_location, any_path, count, integer, location, path
from wan_async.cli.run_arguments import (
    add_again,
    add_enqueue,
    add_generate,
    add_journal,
    add_plan,
    add_run,
    add_watch,
    add_worker,
)
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.text import nearest

EPILOG = f"""\
environment: WIRO_API_KEY, WIRO_API_SECRET (absent for a key-only project), WIRO_BASE_URL, WIRO_SOCKET_URL; a .env file
in the working folder is read, the real environment wins.

exit codes, the first that applies: {ExitCode.legend()}.
"""


_INVALID_CHOICE = re.compile(r"invalid choice: '([^']*)'")


def _formatter(prog: str) -> argparse.HelpFormatter:
    from rich_argparse import RawDescriptionRichHelpFormatter

    return RawDescriptionRichHelpFormatter(prog)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors suggest what a misspelled flag or command was meant to be.

    Its help fills the terminal's width, paragraph by paragraph.

    Attributes:
        typed: the whole command line.
    """

    typed: Sequence[str] = ()

    def format_help(self) -> str:
        """The help, for the terminal as wide as it is now."""
        kept = self.description, self.epilog
        width = max(20, shutil.get_terminal_size().columns - 2)  # what argparse leaves free
        self.description, self.epilog = (
            text and "\n\n".join(textwrap.fill(part, width) for part in text.split("\n\n")) for text in kept
        )
        try:
            return super().format_help()
        finally:
            self.description, self.epilog = kept

    def error(self, message: str) -> NoReturn:
        """Print the message, but not all flags, which hide it, and exit; with `--json` as events, too."""
        if message.startswith("unrecognized arguments") and (inner := self._typed_command()):
            inner.typed = self.typed
            inner.error(message)
        words = [word.partition("=")[0] for word in self.typed if word.startswith("--") and " " not in word]
        flags = _flags_of(self, self.typed)
        hints = [hint for word in words if word not in flags and len(word) > 2 and (hint := nearest(word, flags))]
        if wrong := _INVALID_CHOICE.search(message):
            choices = {*commands_of(self), *(str(one) for action in self._actions for one in action.choices or ())}
            hints = [hint] if (hint := nearest(wrong[1], choices)) else hints
        if "--set" in flags:
            named = [name for word in words if word not in flags and (name := _parameter(word, is_near=not hints))]
            hints = [f"--set {name}=VALUE" for name in named[:1]] or hints
        message += f" (did you mean {', '.join(hints)}?)" if hints else ""
        if "--json" in self.typed:
            from wan_async.cli.error_messages import report_usage

            report_usage(message)
        self.exit(ExitCode.INVALID, f"`{self.prog} --help` shows the usage\n{self.prog}: error: {message}\n")

    def _typed_command(self) -> _Parser | None:
        """The parser of the command that was typed; None if this is it."""
        commands = commands_of(self)
        found = next((commands[word] for word in self.typed[:2] if word in commands), None)
        return found if isinstance(found, _Parser) else None


def _flags_of(parser: argparse.ArgumentParser, typed: Sequence[str]) -> set[str]:
    """The flags of a parser, and of those of its commands that were typed."""
    chosen = [inner for name, inner in commands_of(parser).items() if name in typed[:2]]
    return set(parser._option_string_actions).union(*(_flags_of(inner, typed) for inner in chosen))


def _parameter(flag: str, *, is_near: bool) -> str | None:
    """The parameter of the model by which a flag is called, as those of `generate` are; or nearly so."""
    from wan_async.domain.model import WAN

    name = flag[2:].replace("-", "_")
    return name if name in WAN.by_name else nearest(name, WAN.by_name) if is_near else None


def commands_of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The parsers of a parser's commands by name."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def make_parser(only: str | None = None, typed: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        only: the first word of the command line. If it is a command, only that command's arguments are added, and
            none if it asks for help: importing what they need takes time. Else those of all commands are.
        typed: the whole command line, for messages.
    """
    parser = _Parser(
        prog="wan-async",
        description="Turns images and prompts into clips, many at once, on Wiro's Wan2.2-TI2V-5B-Image-to-Video-Fast. "
        "It never pays twice and never loses a clip that was paid for: run the same command again to resume.",
        epilog=EPILOG,
        formatter_class=_formatter,
        allow_abbrev=False,  # a flag that may pay twice must be typed in full
    )
    parser.typed = typed
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
        command.typed = typed
        if only == name or only not in (*_COMMANDS, "-h", "--help"):
            add_arguments(command)
    return parser


class _Completion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: Any, **_: Any) -> None:
        import shtab

        print(shtab.complete(parser, shell=rest[1]))
        parser.exit(0)


def _command(commands: Any, name: str, help_text: str, description: str = "") -> _Parser:
    first = help_text[0].upper() + help_text[1:] + "."
    made: _Parser = commands.add_parser(
        name,
        help=help_text,
        description=f"{first} {description}".strip(),
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    return made


def _add_status(status: argparse.ArgumentParser) -> None:
    status.add_argument(
        "folder", type=any_location, nargs="?", metavar="OUT", help="the output folder of a run, or its URL"
    )
    add_journal(status)
    status.add_argument("--json", action="store_true", help="one JSON object on stdout")


def _add_assign(assign: argparse.ArgumentParser) -> None:
    assign.add_argument("task", metavar="TASK", help="the task's id, as status lists it")
    assign.add_argument("job", metavar="JOB", help="the quarantined job: its key, its id, or its clip's name")
    assign.add_argument(
        "-o",
        "--output",
        type=any_location,
        required=True,
        metavar="OUT",
        help="the output of the job's run: its folder, or its URL",
    )
    add_journal(assign)


def _add_task(task: argparse.ArgumentParser) -> None:
    actions = task.add_subparsers(dest="task_command", metavar="ACTION", title="actions", required=True, prog=task.prog)
    listing = _command(actions, "list", "list the account's newest tasks of our model")
    listing.add_argument(
        "--orphans",
        type=location,
        nargs="?",
        const=True,
        metavar="OUT",
        help="only tasks that no attempt of this output, or of the folders beside it, owns, as far back as its journal "
        "goes; with --journal postgresql://...: that no attempt of any output of the account in this database owns, "
        "as far back as that of OUT goes, or without OUT all of them",
    )
    add_journal(listing)
    listing.add_argument("--limit", type=count, metavar="N", help="look at the newest N (20; all with --orphans)")
    _of_a_sandbox(listing)
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
        type=any_path,
        default=any_path(""),
        metavar="DIR",
        help="the folder for them (default: here)",
    )


def _command_tasks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tasks", nargs="+", metavar="TASK", help="a task's id, or its token")
    _of_a_sandbox(parser)


def _of_a_sandbox(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sandbox",
        type=any_path,
        metavar="OUT",
        help="the tasks of the local sandbox that runs with --sandbox have kept in this output folder (OUT.sandbox)",
    )


def _add_sandbox(sandbox: argparse.ArgumentParser) -> None:
    from wan_async.sandbox.flags import add_arguments

    add_arguments(sandbox)


def _add_doctor(doctor: argparse.ArgumentParser) -> None:
    doctor.add_argument(
        "-o", "--output", type=path, metavar="DIR", help="also check this output folder; with --render, the clip's"
    )
    doctor.add_argument("--upload", action="store_true", help="also upload a tiny image, which is free")
    doctor.add_argument(
        "--render",
        action="store_true",
        help="also render one clip, and write a recording without secrets of all requests; it costs the price of a "
        "clip, which is said first",
    )
    doctor.add_argument("-y", "--yes", action="store_true", help="don't ask before --render")
    doctor.add_argument("--sandbox", action="store_true", help="check a local sandbox instead of Wiro")
    doctor.add_argument("--json", action="store_true", help="one JSON object a line on stdout")


def _add_gallery(gallery: argparse.ArgumentParser) -> None:
    gallery.add_argument("folder", type=any_location, metavar="OUT", help="the output folder of a run, or its URL")
    add_journal(gallery)
    _verdicts(gallery, "verdicts of an earlier review, which the page starts from (default: OUT/verdicts*.json)")
    gallery.add_argument("--open", action="store_true", help="open the page in the browser")
    gallery.add_argument(
        "--portable",
        type=path,
        metavar="FILE.zip",
        help="also write a zip of the page with its clips and source images, without the journal, to hand on",
    )


def _add_pick(pick: argparse.ArgumentParser) -> None:
    from wan_async.domain.model import RESOLUTION, WAN  # here, since the help of other commands needs none of it

    pick.add_argument("folder", type=any_path, metavar="OUT", help="the output folder of a run")
    add_journal(pick)
    _verdicts(pick, "the verdicts that the review page exported (default: OUT/verdicts*.json)")
    pick.add_argument(
        "--stars",
        type=count,
        choices=range(1, 6),
        metavar="N",
        help="the clips with at least N stars that are not rejected, instead of the picked ones",
    )
    pick.add_argument(
        "--copy",
        type=path,
        metavar="DIR",
        help="copy the clips and their sidecars into a folder; nothing there is overwritten",
    )
    again = pick.add_argument_group("a batch that renders them again")
    again.add_argument("-o", "--output", type=path, metavar="FILE", help="write it to this file, such as final.yaml")
    choices = WAN.by_name[RESOLUTION].choices
    again.add_argument("--resolution", choices=choices, metavar="|".join(choices), help="for all of them")
    seeds = again.add_mutually_exclusive_group()
    seeds.add_argument(
        "--seed", type=integer, nargs="+", action="extend", metavar="N", help="with these seeds instead of their own"
    )
    seeds.add_argument(
        "--seeds", type=count, metavar="K", help="with K further seeds each, that no take of the same shot has"
    )
    pick.add_argument("--json", action="store_true", help="one JSON object a line on stdout")


def _verdicts(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument(
        "--verdicts",
        type=path,
        nargs="+",
        action="extend",
        metavar="FILE",
        help=f"{about}; of several about a clip the newest counts",
    )


def _add_init(init: argparse.ArgumentParser) -> None:
    init.add_argument(
        "folder",
        type=path,
        nargs="?",
        default=any_path("."),
        metavar="FOLDER",
        help="the folder of images (default: here)",
    )
    init.add_argument(
        "-o", "--output", type=path, metavar="FILE", help="the batch file (default: FOLDER.yaml beside it)"
    )
    init.add_argument("--recursive", action="store_true", help="include its subfolders")


def _add_nothing(_: argparse.ArgumentParser) -> None:
    pass


_COMMANDS = {
    "run": (
        "render a batch; again = resume",
        (
            "A batch is a YAML, JSON, JSONL, CSV or TSV file, a folder of images, or - for such a file on standard "
            "input. Clips that are done are not rendered again; clips that were paid for and are not on disk are "
            "fetched first."
        ),
        add_run,
    ),
    "plan": (
        "validate a batch and show what it would do and cost; spend nothing",
        "The cost is computed from the service's price list; it is unknown without credentials.",
        add_plan,
    ),
    "init": (
        "write a commented batch file for a folder of images",
        "Prompts come from captions where there are any. No file is overwritten.",
        _add_init,
    ),
    "again": (
        "render jobs again with another seed, keeping the earlier takes",
        (
            "The take becomes a clip of its own beside the others, called NAME-seedN. If an earlier command was "
            "interrupted, the takes that it began come first. With --journal postgresql://... they are put into the "
            "queue of the workers."
        ),
        add_again,
    ),
    "generate": (
        "render one clip",
        (
            "Like a batch of one job. It is known by its target (-o): the same job with the same target resumes, and "
            "is paid once; another job with that target is rendered, and the earlier clip kept under a number; the "
            "same job with another target is paid for again. Several can run at once in a folder, which must be local."
        ),
        add_generate,
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
    "watch": (
        "render what is dropped into a folder, until stopped",
        (
            "A file is taken once it has stopped to change; each image with its prompt is rendered once, also across "
            "restarts. Put captions there before their images, or give --prompt."
        ),
        add_watch,
    ),
    "enqueue": (
        "put a batch into the queue of workers; again = what is not done",
        (
            "Journal and queue are in a PostgreSQL, the input images beside the clips. Workers render the jobs; "
            "`run --journal URL` enqueues and waits for them."
        ),
        add_enqueue,
    ),
    "worker": (
        "render the jobs of a queue, on any number of machines",
        (
            "SIGTERM and Ctrl-C take no more jobs and see through what runs; other workers take up the rest. A worker "
            "that dies is noticed, and its jobs are taken up by what the journal says: nothing is paid twice."
        ),
        add_worker,
    ),
    "doctor": (
        "check this installation and the account; spends nothing",
        (
            "Each check prints what was found and what to do, in 10 s at most. Exit codes: 0 a run will work, 4 the "
            "credentials are refused, 6 anything else is in the way."
        ),
        _add_doctor,
    ),
    "task": ("list, show, cancel, kill or download remote tasks", "", _add_task),
    "gallery": (
        "make the review page of an output folder's clips: OUT/gallery.html",
        (
            "A run keeps the page up to date by itself. It is one file that needs only a browser. With the URL of an "
            "object store the page is put there, beside the clips."
        ),
        _add_gallery,
    ),
    "pick": (
        "list the clips that a review chose, copy them, or write a batch file that renders them again",
        (
            "The review page (gallery) exports what was decided about clips as a verdicts file. Without --copy and -o "
            "the picked clips are listed, a path a line."
        ),
        _add_pick,
    ),
    "sandbox": (
        "run a local Wiro that answers the same protocol with real MP4s, and print the exports to use it",
        "It costs nothing and never reaches the network. --state keeps its account and tasks.",
        _add_sandbox,
    ),
    "schema": ("print the batch file's JSON Schema, for editors", "", _add_nothing),
}
