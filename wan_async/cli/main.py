"""The entry point of the command line."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import TextIOWrapper

from wan_async.cli.arguments import make_parser
from wan_async.domain.exit_codes import ExitCode


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Run a command; returns its exit code.

    Args:
        argv: the arguments, by default those of the process.

    Raises:
        SystemExit: after `--help` and the like, and on wrong usage.
    """
    with ExitStack() as stack:
        for name, redirect in (("stdout", redirect_stdout), ("stderr", redirect_stderr)):
            if getattr(sys, name) is None:  # the parent process closed it; the run goes on without output
                from pathlib import Path  # rarely, and --help needs nothing else of it

                stack.enter_context(redirect(stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))))
        if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: no name may make a plan fail
        arguments = list(sys.argv[1:] if argv is None else argv)
        parser = make_parser(arguments[0] if arguments else None, arguments)
        args = parser.parse_args(arguments, argparse.Namespace(typed=arguments))
        if args.command is None:
            parser.print_help()
            return ExitCode.INVALID
        try:
            from wan_async.cli import dispatch
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
        return dispatch.dispatch(args)


def run_process() -> ExitCode:
    """Run the command line of this process; returns its exit code.

    What is imported stays until the end. A fifth of the CPU time of a command that is soon done would be spent on
    looking for garbage in it: during the imports, and at exit, when everything is freed by the process's end.
    """
    gc.disable()  # `dispatch` enables it again before the command runs
    atexit.register(gc.freeze)
    return main()
