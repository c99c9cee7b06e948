"""What a check found, and blocking calls with a time limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar, TypeVarTuple, Unpack

import anyio

from wan_async.domain.exit_codes import ExitCode
from wan_async.threads import soon

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        check: what was checked, in one word.
        status: how it ended. With a warning a run works, but less well; with a failure it doesn't.
        message: what was found. It holds no secret.
        advice: what to do, empty if nothing is to be done.
        exit_code: of the command, if the check failed.
        facts: what was measured, for programs.
    """

    check: str
    status: Status
    message: str
    advice: str = ""
    exit_code: ExitCode = ExitCode.ENVIRONMENT
    facts: dict[str, object] = field(default_factory=dict)


Report = Callable[[Finding], None]
"""Takes a finding as soon as it is known."""


def ok(check: str, message: str, **facts: object) -> Finding:
    """A finding that is as it should be."""
    return Finding(check, Status.OK, message, facts=facts)


def warning(check: str, message: str, advice: str, **facts: object) -> Finding:
    """A finding with which a run works, but less well."""
    return Finding(check, Status.WARNING, message, advice, facts=facts)


def failed(
    check: str, message: str, advice: str, exit_code: ExitCode = ExitCode.ENVIRONMENT, **facts: object
) -> Finding:
    """A finding with which no run works."""
    return Finding(check, Status.FAILED, message, advice, exit_code, facts)


def skipped(check: str, message: str) -> Finding:
    """A check that was left out, and why."""
    return Finding(check, Status.SKIPPED, message)


async def in_time(seconds: float, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
    """Run a blocking call in a thread that is abandoned when its time is up.

    A lookup of a name, or a disk of the network, may block for minutes; such a thread doesn't delay the process's end.

    Raises:
        TimeoutError: its time is up.
    """
    ended, results, raised, call = anyio.Event(), list[T](), list[Exception](), soon()

    def work() -> None:
        try:
            results.append(func(*args))
        except Exception as error:  # noqa: BLE001 - raised below
            raised.append(error)
        with suppress(RuntimeError):  # the event loop is closed: nobody waits
            call(ended.set)

    threading.Thread(target=work, daemon=True).start()
    with anyio.fail_after(seconds):
        await ended.wait()
    if raised:
        raise raised[0]
    return results[0]
