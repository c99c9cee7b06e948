"""Run a command, and turn its errors into messages and exit codes."""

from __future__ import annotations

import argparse
import gc
import sys
from importlib import import_module

from wan_async import errors
from wan_async.cli import settings_files
from wan_async.cli.error_messages import quiet_stdout, report_invalid, report_not_begun, say
from wan_async.domain.exit_codes import ExitCode


def dispatch(args: argparse.Namespace) -> ExitCode:
    """Run the command that was parsed, the function of that name in the module of that name; returns its exit code."""
    name = "plan" if args.command in ("run", "enqueue") and args.dry_run else args.command
    try:
        if args.command in settings_files.COMMANDS:
            args = settings_files.with_defaults(args)
        module = import_module(f"wan_async.cli.commands.{name}")  # alone: what the others need takes time to load
        if not gc.isenabled():  # see `main.run_process`
            gc.freeze()
            gc.enable()
        code: ExitCode = getattr(module, name)(args)
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
