"""Commands as they are typed into a shell."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ONE_TIME_FLAGS = ("--rerender", "--resubmit-unknown", "--ignore-unowned", "--give-up")
"""Flags that may pay again or end an attempt: each is a decision about one run, so the resume command omits them."""


def quoted(words: Sequence[str]) -> str:
    """The words quoted for this system's shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def resume_command(argv: Sequence[str]) -> str:
    """The command that resumes a run: as it was typed, without `ONE_TIME_FLAGS`.

    Args:
        argv: the arguments of this run, without the program's name.
    """
    name = Path(sys.argv[0]).name
    start = ["python", "-m", "wan_async"] if name in ("__main__.py", "-c", "-m") else [name]
    return quoted([*start, *(word for word in argv if word not in ONE_TIME_FLAGS)])
