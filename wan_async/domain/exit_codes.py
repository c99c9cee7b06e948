"""Exit codes of the command line and of a run, in their order of precedence."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from itertools import groupby

from wan_async import errors


class ExitCode(IntEnum):
    """How a command or a run ended. Members are in order of precedence: of several that apply, the first counts."""

    INVALID = 2
    AUTHENTICATION = 4
    INTERRUPTED = 130
    TERMINATED = 143
    HUNG_UP = 129
    FUNDS = 3
    LOCKED = 7
    ENVIRONMENT = 6
    UNRESOLVED = 5
    FAILURES = 1
    SUCCESS = 0

    @property
    def description(self) -> str:
        """What the code means, for `--help`."""
        return _DESCRIPTIONS[self]

    @classmethod
    def first_of(cls, codes: Iterable[ExitCode]) -> ExitCode:
        """The code that takes precedence among those that apply; `SUCCESS` if there is none."""
        found = set(codes)
        return next((code for code in cls if code in found), cls.SUCCESS)

    @classmethod
    def of_error(cls, error: errors.WanError, otherwise: ExitCode | None = None) -> ExitCode:
        """The code of a command or a run that this error ended.

        Args:
            error: what ended it.
            otherwise: the code where the error's kind decides none; by default `FAILURES`.
        """
        match error:
            case errors.InvalidBatch():
                return cls.INVALID
            case errors.StopBatch():
                return cls.AUTHENTICATION if error.authentication else cls.FAILURES
            case errors.Locked():
                return cls.LOCKED
            case errors.Unusable() | errors.TryLater() | errors.NoSuchAddress():
                return cls.ENVIRONMENT
        return cls.FAILURES if otherwise is None else otherwise

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
    ExitCode.LOCKED: "another run holds the folder",
    ExitCode.ENVIRONMENT: "environment (other account, disk, journal, no network)",
    ExitCode.UNRESOLVED: "unknown, quarantined or unowned attempts left",
    ExitCode.FAILURES: "jobs failed, cancelled or missing",
    ExitCode.SUCCESS: "all stored",
}

INTERRUPTIONS = frozenset({ExitCode.INTERRUPTED, ExitCode.TERMINATED, ExitCode.HUNG_UP})
"""The codes of a run that a signal ended early."""
