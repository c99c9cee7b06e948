"""What every journal has in common: its folder, its refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

FOLDER = ".wan_async"
FILE = "journal.sqlite3"

ClosedState = Literal["failed", "cancelled", "missing", "given_up"]
"""The states in which an attempt has no clip."""


class OverBudget(Exception):
    """The intent would have broken the budget; it was not written."""


class NameTaken(Exception):
    """Another job of this folder owns the output name."""


def folders_of(home: Path) -> list[Path]:
    """The folders that a journal's home consists of, from `FOLDER` on."""
    parts = [home, *home.parents]
    names = [folder.name for folder in parts]
    return parts[: names.index(FOLDER) + 1] if FOLDER in names else parts[:1]
