"""Commands as they are typed into a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

ONE_TIME_FLAGS = ("--rerender", "--resubmit-unknown", "--ignore-unowned", "--give-up")
"""Flags that may pay again or end an attempt: each is a decision about one run, so the resume command omits them."""


def quoted(words: Sequence[str]) -> str:
    """The words quoted for this system's shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def program() -> list[str]:
    """This program as it was typed: `wan-async`, `.venv/bin/python -m wan_async`."""
    path = Path(sys.argv[0])
    if path.name not in ("__main__.py", "-c", "-m"):
        found = shutil.which(path.name)
        on_path = found is not None and path.exists() and Path(found).resolve() == path.resolve()
        return [path.name if on_path or os.sep not in sys.argv[0] else sys.argv[0]]
    own, given = sys.argv[1:], sys.orig_argv
    start = given[: len(given) - len(own)]
    is_ours = [*start, *own] == given and start[-2:-1] == ["-m"]
    return start if is_ours else ["python", "-m", "wan_async"]


def resume_command(
    argv: Sequence[str], *, budget: str | None = None, limit: int | None = None, without: Collection[str] = ()
) -> str:
    """The command that resumes a run: as it was typed, without `ONE_TIME_FLAGS` and `--pilot`.

    Args:
        argv: the arguments of this run, without the program's name.
        budget: takes the place of the value of `--budget`.
        limit: takes the place of the value of `--limit`.
        without: further flags to leave out, with their values.
    """
    words = list(argv)
    for flag in ("--pilot", *without):
        words = list(_without(words, flag))
    for flag, value in (("--budget", budget), ("--limit", limit)):
        if value is not None:
            words = [*_without(words, flag), flag, str(value)]
    return quoted([*program(), *(word for word in words if word not in ONE_TIME_FLAGS)])


def _without(words: Iterable[str], flag: str) -> Iterator[str]:
    """The words without a flag and its value."""
    is_value = False
    for word in words:
        if not is_value and word != flag and not word.startswith(f"{flag}="):
            yield word
        is_value = not is_value and word == flag
