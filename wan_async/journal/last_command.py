"""How the last `run` of an output folder was called: a file beside the journal, for those who print its command.

A copy of what was typed, not of the journal: without the file, or with one that can't be read, nothing is known.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "command.json"
LARGEST_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class LastCommand:
    """A `run`. Its paths are as they were typed, from the folder in which that was.

    Attributes:
        batch: the batch file or folder.
        output: the output folder.
        sandbox: whether it was a trial.
        flags: the other flags that the run of this batch needs each time, with their values.
    """

    batch: str
    output: str
    sandbox: bool
    flags: tuple[str, ...] = ()


def keep(home: Path, command: LastCommand) -> None:
    """Replaces the file of the journal in `home`.

    Raises:
        OSError: it can't be written.
    """
    part = home / f"{FILE}.tmp"
    part.unlink(missing_ok=True)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123 - a Path can't open a descriptor
        json.dump(asdict(command), file)
    part.replace(home / FILE)


def last_command(home: Path) -> LastCommand | None:
    """The command of the last run of the journal in `home`; None if it isn't known."""
    try:
        with (home / FILE).open("rb") as file:
            said = json.loads(file.read(LARGEST_BYTES + 1))
        command = LastCommand(said["batch"], said["output"], said["sandbox"] is True, tuple(said["flags"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_text = all(isinstance(word, str) for word in (command.batch, command.output, *command.flags))
    return command if is_text else None
