"""Exit codes of the command line and of a run, in their order of precedence."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from itertools import groupby


class ExitCode(IntEnum):
    """How a command or a run ended. Members are in order of precedence: of several that apply, the first counts."""

    INVALID = 2
    AUTHENTICATION = 4
    INTERRUPTED = 130
    TERMINATED = 143
    HUNG_UP = 129
    FUNDS = 3
    ENVIRONMENT = 6
    UNRESOLVED = 5
    FAILURES = 1
    SUCCESS = 0

    @property
    def description(self) -> str:
        """What the code means, for `--help`."""
        return _DESCRIPTIONS[self]

    @classmethod
    def first_of(cls, codes: Iterable[int]) -> ExitCode:
        """The code that takes precedence among those that apply; `SUCCESS` if there is none."""
        found = set(codes)
        return next((code for code in cls if code in found), cls.SUCCESS)

    @classmethod
    def legend(cls) -> str:
        """All codes with their descriptions, in order: `2 usage or invalid batch (nothing spent), 4 ...`."""
        groups = groupby(cls, lambda code: code.description)
        return ", ".join(f"{'/'.join(str(int(code)) for code in codes)} {meaning}" for meaning, codes in groups)


_INTERRUPTED = "interrupted with work left"
_DESCRIPTIONS = {
    ExitCode.INVALID: "usage or invalid batch (nothing spent)",
    ExitCode.AUTHENTICATION: "authentication",
    ExitCode.INTERRUPTED: _INTERRUPTED,
    ExitCode.TERMINATED: _INTERRUPTED,
    ExitCode.HUNG_UP: _INTERRUPTED,
    ExitCode.FUNDS: "budget or balance",
    ExitCode.ENVIRONMENT: "environment (lock, other account, disk, journal, no network)",
    ExitCode.UNRESOLVED: "unknown, quarantined or unowned attempts left",
    ExitCode.FAILURES: "jobs failed, cancelled or missing",
    ExitCode.SUCCESS: "all stored",
}

PRECEDENCE = tuple(ExitCode)
"""The codes in order of precedence."""
