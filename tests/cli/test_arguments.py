"""The command line: arguments, usage errors, help, and the modules that it imports."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from servers import command_line, in_process

import wan_async
import wan_async.cli
from wan_async.cli import arguments
from wan_async.cli import dispatch as dispatch_module
from wan_async.cli.arguments import make_parser
from wan_async.cli.main import main
from wan_async.domain import money
from wan_async.domain.exit_codes import ExitCode

HEAVY = {
    "httpx", "wsproto", "pydantic", "sqlite3", "yaml", "anyio", "asyncio", "filelock", "starlette", "av", "rich.live",
}  # fmt: skip


def parsers(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A parser and all its commands, each with its full name."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, inner in action.choices.items():
                yield from parsers(inner, f"{name} {command}".strip())


PARSERS = dict(parsers(make_parser()))
COMMANDS = [name for name in PARSERS if name]


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")


def exit_code(*argv: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    return caught.value.code


def parsed(*argv: str) -> argparse.Namespace:
    return make_parser().parse_args(argv)


def test_the_commands_are_the_documented_ones() -> None:
    assert {name.split()[0] for name in COMMANDS} == {
        "run", "plan", "again", "init", "watch", "doctor", "generate", "status", "assign", "task", "gallery", "pick",
        "enqueue", "worker", "sandbox", "schema",
    }  # fmt: skip


@pytest.mark.parametrize("name", list(PARSERS))
def test_help_lists_every_option_and_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*name.split(), "--help") == 0
    out = capsys.readouterr().out
    text = " ".join(out.split())
    assert name == "" or f"wan-async {name}" in text
    assert PARSERS[name].description
    for action in PARSERS[name]._actions:
        assert action.help or isinstance(action, argparse._SubParsersAction), f"{name}: {action.dest} has no help"
        assert action.help != argparse.SUPPRESS
        for option in action.option_strings:
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), f"{name}: {option}"
        if action.help and not isinstance(action, argparse._SubParsersAction):
            assert " ".join(action.help.split()) in text, f"{name}: {action.dest}"
        if isinstance(action, argparse._SubParsersAction):
            for pseudo in action._choices_actions:
                assert pseudo.help
                assert " ".join(pseudo.help.split()) in text, f"{name}: {pseudo.dest}"


@pytest.mark.parametrize("columns", ["20", "40", "300", "nonsense"])
def test_help_fits_any_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert exit_code("run", "--help") == 0
    text = capsys.readouterr().out
    assert "--resubmit-unknown" in text
    if columns == "40":
        assert all(len(line) <= 40 for line in text.splitlines() if not line.startswith(" "))


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (("plna", "x"), "plan"),
        (("rnu", "x"), "run"),
        (("staus", "x"), "status"),
        (("task", "lsit"), "list"),
        (("run", "x", "--track", "sokcet"), "socket"),
    ],
)
def test_a_misspelled_command_or_choice_gets_a_suggestion(
    argv: tuple[str, ...], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*argv) == 2
    assert f"(did you mean {hint}?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "program", "hint"),
    [
        (("run", "x", "--seeed", "1"), "wan-async run", "--set seed=VALUE"),
        (("plan", "x", "--aspect-ration", "1:1"), "wan-async plan", "--set aspect_ratio=VALUE"),
        (("run", "x", "--budgt", "1"), "wan-async run", "--budget"),
        (("task", "list", "--jsn"), "wan-async task list", "--json"),
    ],
)
def test_a_misspelled_flag_is_refused_in_two_lines_with_a_hint_and_the_command_for_help(
    argv: tuple[str, ...], program: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*argv) == 2
    first, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"{program}: error: ")
    assert last.endswith(f"(did you mean {hint}?)")
    assert f"{program} --help" in first


def test_help_lists_the_environment_variables_and_the_exit_codes() -> None:
    text = " ".join(make_parser().format_help().split())
    for name in ("WIRO_API_KEY", "WIRO_API_SECRET", "WIRO_BASE_URL", "WIRO_SOCKET_URL"):
        assert name in text
    assert ExitCode.legend() in text
    for code in ExitCode:
        assert re.search(rf"\b{int(code)}\b[\d/]* {re.escape(code.description)}", text)


def test_help_in_a_process_imports_no_heavy_module() -> None:
    measured = modules_of(import_times("-c", ""))  # coverage measurement is loaded in every process
    for name in ("", "run", "sandbox"):
        done = import_times("-m", "wan_async", *name.split(), "--help")
        assert done.stdout.startswith("Usage: wan-async")
        assert "argparse" in modules_of(done)
        assert (modules_of(done) - measured) & HEAVY == set(), name


def import_times(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def modules_of(done: subprocess.CompletedProcess[str]) -> set[str]:
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_no_command_prints_the_help_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out == make_parser().format_help()


def test_arguments_default_to_those_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["wan-async", "schema"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("{")


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"wan-async {wan_async.__version__}\n"


@pytest.mark.parametrize(("argv", "code"), [(["--version"], 0), (["run"], 2)])
def test_the_package_runs_as_a_module(argv: list[str], code: int) -> None:
    assert command_line(*argv).returncode == code


def test_the_exit_code_of_a_process_is_what_the_command_returns() -> None:
    assert command_line("schema").returncode == 0
    done = command_line("run", "x.yaml", "--limit", "-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith("argument --limit: '-1' is not a whole number from 0 on")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_completion_script_names_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--print-completion", shell) == 0
    script = capsys.readouterr().out
    for expected in ("wan-async", "gallery", "sandbox", "--print-completion"):
        assert expected in script
    if shell != "tcsh":  # there, shtab completes no options of commands
        assert "--resubmit-unknown" in script
    if found := shutil.which(shell):
        subprocess.run([found, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nonesuch"], "argument COMMAND: invalid choice: 'nonesuch'"),
        (["run"], "the following arguments are required: BATCH"),
        (["plan"], "the following arguments are required: BATCH"),
        (["gallery"], "the following arguments are required: OUT"),
        (["generate"], "the following arguments are required: -p/--prompt"),
        (["run", "x", "--nonesuch"], "unrecognized arguments: --nonesuch"),
        (["run", "x", "y"], "unrecognized arguments: y"),
        (["run", "x", "--limit"], "argument --limit: expected one argument"),
        (["run", "x", "--upload", "ftp"], "argument --upload: invalid choice: 'ftp'"),
        (["run", "x", "--track", "pigeon"], "argument --track: invalid choice: 'pigeon'"),
        (["--print-completion", "fish"], "argument --print-completion: invalid choice: 'fish'"),
        (["task"], "the following arguments are required"),
    ],
)  # fmt: skip
def test_a_usage_error_is_one_line_that_names_the_argument(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*argv) == 2
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert captured.out == ""


def test_status_needs_an_output_or_a_journal(tmp_path: Path) -> None:
    done = in_process("status", cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "OUT: is missing: name the output of a run, or --journal URL",
    )


COUNT = "is not a whole number from 1 on"
WHOLE = "is not a whole number from 0 on"
NUMBERS: list[tuple[str, str, Sequence[str]]] = [
    ("-c/--concurrency", f'{COUNT}, or "auto"', ("0", "-1", "1.5", "Auto", "nan", "inf", "", "9" * 5000)),
    ("--max-concurrency", COUNT, ("0", "-1", "1e3", "nan", "inf", "x")),
    ("--downloads", COUNT, ("0", "-1", "nan")),
    ("--limit", WHOLE, ("-1", "all", "1.0")),
    ("--retries", WHOLE, ("-1", "nan", "1.5", "inf")),
    ("--settle", "is not a number of seconds", ("-1", "-0.5", "nan", "inf", "-inf", "soon", "1e999")),
    (
        "--budget",
        "is not an amount in USD",
        ("-1", "nan", "sNaN", "inf", "-inf", "$", "5 USD", "", "$$5", "-0.01", "1e30", "1e999999999", "$-1"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "reason", "text"), [(flag, reason, text) for flag, reason, texts in NUMBERS for text in texts]
)
def test_an_invalid_number_is_refused_in_one_line_that_names_its_flag(
    flag: str, reason: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("run", "x.yaml", f"{flag.rpartition('/')[2]}={text}") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"wan-async run: error: argument {flag}: {text!r} {reason}"


def test_every_accepted_budget_can_be_converted_to_micros() -> None:
    for text in ("0", "0.000001", "999999999.99", "$5"):
        assert money.micros(parsed("run", "x.yaml", "--budget", text).budget) is not None


@pytest.mark.parametrize(
    ("flag", "text"),
    [("--seconds", "3,1"), ("--seconds", "soon"), ("--fault", "nonesuch=1"), ("--fault", "drop_after@Run=x")],
)
def test_invalid_sandbox_options_are_refused(flag: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("sandbox", flag, text) == 2
    assert f"argument {flag}: {text!r}" in capsys.readouterr().err.splitlines()[-1]


def test_numbers_are_parsed_to_their_types() -> None:
    args = parsed(
        "run", "x.yaml", "-c", "7", "--max-concurrency=9", "--downloads", "1", "--limit", "3", "--retries", "0",
        "--settle", "0.5", "--budget", "$12.50",
    )  # fmt: skip
    assert (args.concurrency, args.max_concurrency, args.downloads, args.limit) == (7, 9, 1, 3)
    assert (args.retries, args.settle, args.budget) == (0, 0.5, Decimal("12.50"))
    assert parsed("run", "x", "-c", "auto").concurrency is None
    assert parsed("run", "x", "--budget", "0").budget == 0
    assert parsed("run", "x", "--settle", "0").settle == 0


def test_omitted_options_have_the_documented_defaults() -> None:
    args = parsed("run", "x.yaml")
    assert (args.concurrency, args.max_concurrency, args.downloads) == (None, 256, 8)
    assert (args.upload, args.track, args.retries, args.budget, args.settle) == ("auto", "auto", 2, None, 30.0)
    assert (args.limit, args.only, args.retry_failed, args.rerender, args.resubmit_unknown) == (
        None, None, False, False, False
    )  # fmt: skip
    assert (args.dry_run, args.sandbox, args.json, args.quiet, args.verbose, args.log_file) == (
        False, False, False, False, 0, None
    )  # fmt: skip
    one = parsed("generate", "-p", "x")
    assert (one.resolution, one.aspect_ratio, one.seed, one.negative_prompt) == ("480P", "Default", 42, "")
    assert (one.image, one.output) == (None, None)


def test_paths_and_texts_are_not_changed() -> None:
    args = parsed("run", "-", "-o", "~/clips [x]", "-p", "{caption} --not-a-flag", "--log-file", "l", "-vv", "-q")
    assert (args.batch, args.output, args.prompt) == ("-", Path("~/clips [x]"), "{caption} --not-a-flag")
    assert (args.log_file, args.verbose, args.quiet) == (Path("l"), 2, True)
    assert parsed("generate", "--prompt=-x-").prompt == "-x-"


@pytest.mark.parametrize("name", ["run", "plan", "again", "generate", "status"])
def test_the_flag_for_machine_readable_output_is_json_in_every_command(name: str) -> None:
    (option,) = [action for action in PARSERS[name]._actions if action.dest == "json"]
    assert option.option_strings == ["--json"]


def test_dispatch_gets_the_parsed_arguments_and_the_original_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, list[str]]] = []

    def dispatch(args: argparse.Namespace) -> int:
        seen.append((args.command, args.typed))
        return 17

    monkeypatch.setattr(dispatch_module, "dispatch", dispatch)
    assert main(["run", "x.yaml", "--limit", "2"]) == 17
    assert seen == [("run", ["run", "x.yaml", "--limit", "2"])]


def test_help_contains_no_markup() -> None:
    for name, parser in PARSERS.items():
        text = parser.format_help()
        assert "\x1b" not in text
        assert not re.search(r"\[/?(argparse|bold|dim|red|italic)", text), name
    assert "NAME[@ENDPOINT]=P" in PARSERS["sandbox"].format_help()
    assert " ".join(arguments.EPILOG.split()) in " ".join(make_parser().format_help().split())


@pytest.mark.parametrize("short", ["--resub", "--retry-f", "--sand"])
def test_abbreviated_flags_are_refused(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(["run", "batch.yaml", short])
    assert ended.value.code == 2
    assert short in capsys.readouterr().err


def test_ctrl_c_during_imports_exits_with_130_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting:
        @staticmethod
        def find_spec(name: str, *rest: object) -> None:
            if name == "wan_async.cli.dispatch":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "wan_async.cli.dispatch", raising=False)
    monkeypatch.delattr(wan_async.cli, "dispatch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting, *sys.meta_path])
    assert main(["schema"]) == 130
