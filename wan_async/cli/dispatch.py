"""Runs a command, and turns its errors into exit codes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from wan_async import errors
from wan_async.batch import schema
from wan_async.cli.commands.assign import assign
from wan_async.cli.commands.gallery import gallery
from wan_async.cli.commands.plan import plan
from wan_async.cli.commands.run import generate, run
from wan_async.cli.commands.sandbox import sandbox
from wan_async.cli.commands.status import status
from wan_async.cli.reporting import quiet_stdout, report_invalid, report_not_begun, say


def dispatch(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Runs the command that was parsed; returns its exit code. Every error of ours ends here, in words."""
    try:
        code = _dispatched(args, argv)
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
            return gallery(args)
        case "task":
            from wan_async.cli.commands import task

            return task.task(args)
        case "sandbox":
            return sandbox(args)
    print(json.dumps(schema.schema(), indent=2))
    return 0
