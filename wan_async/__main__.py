"""`python -m wan_async`."""

from wan_async.cli.main import run_process

raise SystemExit(run_process())
