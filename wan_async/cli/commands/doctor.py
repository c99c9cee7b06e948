"""`doctor`: check an installation and an account; with `--render` also the live service, for the price of a clip."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from wan_async import errors
from wan_async.cli import api_settings, local_sandbox
from wan_async.cli.api_settings import Access
from wan_async.cli.checks import account, conformance, installation, network
from wan_async.cli.checks.base import Finding, Report, Status, failed, in_time, skipped
from wan_async.cli.checks.socket_connection import check_socket
from wan_async.cli.display_text import paint, sanitise
from wan_async.cli.error_messages import of_this_command, print_json_line, say
from wan_async.domain.exit_codes import ExitCode
from wan_async.wiro import protocol

TOTAL_SECONDS = 8.5
"""After this time every check that is not done yet has failed; with the start of Python it is less than 10 s."""
DISK_SECONDS = 3.0
RENDER_FOLDER = Path("wan-async-doctor")
STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "red", Status.SKIPPED: "dim"}
WIDTHS = (7, 12)


@dataclass
class _Printer:
    """Prints findings as they arrive, and counts them."""

    as_json: bool
    common: dict[str, object] = field(default_factory=of_this_command)
    findings: list[Finding] = field(default_factory=list)

    def report(self, found: Finding) -> None:
        self.findings.append(found)
        if self.as_json:
            line = {"check": found.check, "status": found.status, "message": found.message, "advice": found.advice}
            print_json_line({"event": "check", **self.common, **line, **found.facts})
            sys.stdout.flush()
            return
        head = f"{found.status:<{WIDTHS[0]}}  "
        text = f"{found.check:<{WIDTHS[1]}}  {sanitise(found.message)}"
        _print(found.status, head, text)
        if found.advice:
            print(textwrap.indent(f"→ {sanitise(found.advice)}", " " * (sum(WIDTHS) + 4)), flush=True)

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.first_of(found.exit_code for found in self.findings if found.status == Status.FAILED)

    def summarise(self, exit_code: ExitCode) -> None:
        counts = Counter(found.status for found in self.findings)
        if self.as_json:
            numbers = {str(status): counts[status] for status in Status}
            print_json_line({"event": "doctor", **self.common, "exit_code": int(exit_code), **numbers})
            return
        names = {Status.FAILED: "failed", Status.WARNING: f"warning{'s' * (counts[Status.WARNING] != 1)}"}
        problems = [f"{counts[each]} {name}" for each, name in names.items() if counts[each]]
        said = "a run will work" if not counts[Status.FAILED] else "a run will not work until this is fixed"
        print(f"{', '.join(problems) or 'no problem found'}: {said}")


def _print(status: Status, head: str, text: str) -> None:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        print(head + text, flush=True)
        return
    from rich.console import Console

    Console(file=sys.stdout, highlight=False).print(paint([[(head, STYLES[status]), (text, "")]]), soft_wrap=True)


def doctor(args: argparse.Namespace) -> ExitCode:
    """Check this installation and the account; returns 0, 4 (authentication) or 6 (environment).

    Raises:
        errors.InvalidBatch: `--render` without `--yes` where nobody can be asked.
        errors.Unusable: the sandbox doesn't start.
    """
    if args.render and not args.yes and not _can_ask(args):
        problem = "costs the price of a clip, and nobody can be asked here: add --yes"
        raise errors.InvalidBatch([errors.Problem("--render", problem)])
    began = time.monotonic()
    printer = _Printer(args.json)
    folder = _render_folder(args)
    with _account(args, folder) as (access, base_url, faults):
        left = TOTAL_SECONDS - (time.monotonic() - began if not args.sandbox else 0.0)
        anyio.run(_check, args, folder, access, base_url, faults, printer.report, left)
        code = printer.exit_code
        if args.render and access is not None and code == ExitCode.SUCCESS:
            code = _render(args, folder, access, printer)
        elif args.render:
            printer.report(skipped("render", "nothing is rendered while a check fails"))
    printer.summarise(code)
    return code


def _can_ask(args: argparse.Namespace) -> bool:
    return not args.json and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def _render_folder(args: argparse.Namespace) -> Path:
    folder: Path = args.output or RENDER_FOLDER
    return folder.with_name(f"{folder.name}.sandbox") if args.sandbox and args.output is None else folder


@contextmanager
def _account(args: argparse.Namespace, folder: Path) -> Iterator[tuple[Access | None, str | None, list[Finding]]]:
    """The account, the API's URL, and what is wrong with the settings."""
    if not args.sandbox:
        try:
            found = api_settings.from_environment()
            base_url = found.base_url if found is not None else api_settings.base_url()
        except errors.InvalidBatch as error:
            problem = error.problems[0]
            yield None, None, [failed("settings", str(problem), f"correct {problem.where}")]
        except errors.Unusable as error:
            yield None, None, [failed("settings", str(error), "make the file readable, or remove it")]
        else:
            yield found, base_url, []
        return
    with (
        tempfile.TemporaryDirectory() as temporary,
        local_sandbox.own_sandbox(folder if args.render else Path(temporary)) as access,
    ):
        yield access, access.base_url, []


async def _check(
    args: argparse.Namespace,
    folder: Path,
    access: Access | None,
    base_url: str | None,
    faults: list[Finding],
    report: Report,
    seconds: float,
) -> None:
    """All checks that are free, within `seconds`."""
    with anyio.move_on_after(seconds) as scope:
        for finding in installation.check_versions():
            report(finding)
        report(installation.check_descriptors())
        await _check_disk(args, folder, report)
        for finding in faults:
            report(finding)
        if base_url is None:
            return
        if not args.sandbox:
            report(installation.check_settings(os.environ, api_settings.read_env(Path())))
            report(installation.check_defaults())
        await _check_service(args, access, base_url, report)
    if scope.cancelled_caught:
        report(failed("time", f"the checks above took {TOTAL_SECONDS:.0f} s: the rest was left out",
                      "the network is very slow: fix what failed above, or try again later"))  # fmt: skip


async def _check_disk(args: argparse.Namespace, folder: Path, report: Report) -> None:
    is_output = args.output is not None or args.render
    where = folder if is_output else Path()
    try:
        report(await in_time(DISK_SECONDS, lambda: installation.check_disk(where, is_output=is_output)))
    except TimeoutError:
        said = f"{where} does not respond within {DISK_SECONDS:.0f} s"
        report(
            failed("output" if is_output else "disk", said, "is it on a network disk that is gone? Choose another -o")
        )


async def _check_service(args: argparse.Namespace, access: Access | None, base_url: str, report: Report) -> None:
    if not await network.check_way(base_url, report):
        if access is None:
            report(account.no_credentials())
        report(skipped("account", "not checked without a connection to the API"))
        return
    sockets: list[Finding] = []

    async def listen() -> None:
        url = access.socket_url if access is not None else protocol.SOCKET_URL
        sockets.append(await check_socket(url))

    async with anyio.create_task_group() as group:
        if access is not None:
            group.start_soon(listen)
        await account.check_account(access, base_url, report, upload=args.upload)
    for finding in sockets:
        report(finding)


def _render(args: argparse.Namespace, folder: Path, access: Access, printer: _Printer) -> ExitCode:
    """Ask, render one clip, and report where its recording is; returns the exit code of all."""
    prices = next((each.facts.get("prices") for each in printer.findings if each.check == "price"), None)
    price = conformance.price_of(prices)
    said = f"--render renders one clip at {conformance.RESOLUTION}, which costs {price}"
    if args.yes:
        say(said)
    else:
        try:
            answer = input(f"{said}. Render it? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            printer.report(skipped("render", "not rendered"))
            return printer.exit_code
    finding, code = conformance.render(access, folder)
    printer.report(finding)
    return code
