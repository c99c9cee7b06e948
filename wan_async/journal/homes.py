"""Where the journals of an output are: in its folder, or for an object store in the user's state folder."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from wan_async.journal.base import FOLDER, Home
from wan_async.locations import Location

SINGLE = "generate"
"""The folder of the journals of single clips, in the folder of the run's."""
_READABLE_LENGTH = 60


def home_of(output: Location, journal: Path | None = None) -> Path:
    """The folder of the journal of an output's runs.

    Args:
        output: the output.
        journal: the folder, if it was named.
    """
    if journal is not None:
        return journal
    if isinstance(output, Path):
        return output / FOLDER
    from platformdirs import user_state_path  # outputs in folders do without it

    readable = re.sub(r"[^A-Za-z0-9._]+", "-", output.text)[:_READABLE_LENGTH].strip("-.")
    mark = hashlib.sha256(output.text.encode()).hexdigest()[:8]
    return user_state_path("wan-async", appauthor=False) / "outputs" / f"{readable}-{mark}"


def homes_of(output: Location, journal: Path | None = None) -> list[Path]:
    """The homes of the journals of an output: a run's, then those of `generate`, by the clips' names."""
    home = home_of(output, journal)
    return [home, *sorted((home / SINGLE).glob("*"))] if isinstance(output, Path) else [home]


def local_home(home: Home, output: Location) -> Path:
    """The folder for what belongs to a journal and stays on this machine: its own, if it has one."""
    return home if isinstance(home, Path) else home_of(output)


def is_of_single_clip(home: Home, output: Location) -> bool:
    """Whether the journal in `home` is of a single clip, and others of the same output have journals of their own."""
    return isinstance(home, Path) and isinstance(output, Path) and home != output / FOLDER


def name_of_output(output: Location) -> str:
    """What a journal in a database calls its output: the same for every process that has it at the same place."""
    return str(output.resolve()) if isinstance(output, Path) else output.text
