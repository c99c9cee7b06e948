"""Run a command, and turn its errors into messages and exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from wan_async import errors
from wan_async.cli.reporting import quiet_stdout, report_invalid, report_not_begun, say
from wan_async.domain.exit_codes import ExitCode


def dispatch(args: argparse.Namespace, argv: Sequence[str]) -> ExitCode:
    """Run the command that was parsed; returns its exit code.

    Args:
        args: the parsed arguments.
        argv: the same as typed, for the resume command.
    """
    try:
        code = _run_command(args, argv)
        sys.stdout.flush()
    except errors.InvalidBatch as error:
        return report_invalid(error, as_json=getattr(args, "json", False))
    except errors.WanError as error:
        return report_not_begun(error, args)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        quiet_stdout()
        return ExitCode.SUCCESS
    except OSError:
        try:
            print(flush=True)
        except OSError as error:  # so it was a print that failed
            quiet_stdout()
            say(f"error: the output can't be written: {error.strerror or error}")
            return ExitCode.ENVIRONMENT
        raise
    return code


def _run_command(args: argparse.Namespace, argv: Sequence[str]) -> ExitCode:
    """Import the command's module alone, and run it."""
    match args.command:
        case "run" if not args.dry_run:
            from wan_async.cli.commands import run

            return run.run(args, argv)
        case "run" | "plan":
            from wan_async.cli.commands import plan

            return plan.plan(args)
        case "generate":
            from wan_async.cli.commands import generate

            return generate.generate(args, argv)
        case "status":
            from wan_async.cli.commands import status

            return status.status(args)
        case "assign":
            from wan_async.cli.commands import assign

            return assign.assign(args)
        case "gallery":
            from wan_async.cli.commands import gallery

            return gallery.gallery(args)
        case "task":
            from wan_async.cli.commands import task

            return task.task(args)
        case "sandbox":
            from wan_async.cli.commands import sandbox

            return sandbox.sandbox(args)
    from wan_async.cli.commands import schema

    return schema.schema()
