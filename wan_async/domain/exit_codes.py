"""Exit codes of the command line and of a run, in their order of precedence."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from itertools import groupby
from typing import Self


class ExitCode(IntEnum):
    """How a command or a run ended. Members are in order of precedence: of several that apply, the first is returned.

    Attributes:
        description: what the code means, for `--help`.
    """

    description: str

    INVALID = 2, "usage or invalid batch (nothing spent)"
    AUTHENTICATION = 4, "authentication"
    INTERRUPTED = 130, "interrupted with work left"
    TERMINATED = 143, "interrupted with work left"
    HUNG_UP = 129, "interrupted with work left"
    FUNDS = 3, "budget or balance"
    ENVIRONMENT = 6, "environment (lock, other account, disk, journal, no network)"
    UNRESOLVED = 5, "unknown, quarantined or unowned attempts left"
    FAILURES = 1, "jobs failed, cancelled or missing"
    SUCCESS = 0, "all stored"

    def __new__(cls, code: int, description: str) -> Self:
        member = int.__new__(cls, code)
        member._value_ = code
        member.description = description
        return member

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


PRECEDENCE = tuple(ExitCode)
"""The codes in order of precedence."""
