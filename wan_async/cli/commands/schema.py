"""`schema`: print the batch file's JSON Schema."""

from __future__ import annotations

import argparse
import json

from wan_async.batch.schema import schema as batch_schema
from wan_async.domain.exit_codes import ExitCode


def schema(_: argparse.Namespace) -> ExitCode:
    """Print the JSON Schema of a batch file, for editors."""
    print(json.dumps(batch_schema(), indent=2))
    return ExitCode.SUCCESS
