"""How a batch is run."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from wan_async import errors

DEFAULT_CONCURRENCY_LIMIT = 256
PATIENCE_SECONDS = 600.0
"""For how long the service must deny a task before it is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run a batch.

    Attributes:
        concurrency: how many tasks may be active at once; None finds out what the account allows.
        max_concurrency: never more than this many.
        downloads: how many clips are fetched at once.
        upload: `file` uploads each distinct image once; `inline` sends it along with every Run; `auto` uploads, and
            sends images inline from when the service refuses an upload.
        track: `auto` listens to the socket and polls where there is none, `socket` never gives up on it, `poll` does
            without it.
        retries: how often a render that failed without being billed is tried again.
        budget_micros: what the folder may cost over its lifetime, in micro-dollars.
        limit: submit only this number of unfinished jobs, the first in batch order.
        pilot: submit only this number of them, drawn evenly over the batch.
        only: only jobs whose id matches this pattern, case-sensitively.
        labels: only jobs with one of these ids.
        retry_failed: take up jobs again that failed for good or were cancelled.
        rerender: render jobs again whose clip is missing.
        give_up: give up clips that are missing and denied once more.
        patience_seconds: for how long a task or a clip that is denied is asked for before it is left as missing.
        resubmit_unknown: send quarantined jobs again, at the risk of paying twice.
        render_duplicates: render each of several jobs with equal content, and pay for each.
        adopt: take tasks that the journal does not know, and that equal jobs, over as attempts of these jobs.
        ignore_unowned: submit jobs though there are such tasks, at the risk of paying twice.
        settle_seconds: how long the service may take to list a task.
        takeover_seconds: how long a Run that another process was about to send may still take to leave.
        resume: the command that goes on from here, for people.

    Raises:
        errors.InvalidBatch: a value is not allowed; with all such problems.
    """

    concurrency: int | None = None
    max_concurrency: int = DEFAULT_CONCURRENCY_LIMIT
    downloads: int = 8
    upload: Literal["auto", "file", "inline"] = "auto"
    track: Literal["auto", "socket", "poll"] = "auto"
    retries: int = 2
    budget_micros: int | None = None
    limit: int | None = None
    pilot: int | None = None
    only: str | None = None
    labels: frozenset[str] | None = None
    retry_failed: bool = False
    rerender: bool = False
    give_up: bool = False
    patience_seconds: float = PATIENCE_SECONDS
    resubmit_unknown: bool = False
    render_duplicates: bool = False
    adopt: bool = False
    ignore_unowned: bool = False
    settle_seconds: float = 30.0
    takeover_seconds: float = 0.0
    resume: str | None = None

    def __post_init__(self) -> None:
        problems = [
            errors.Problem("", f"{name}: {getattr(self, name)!r} is not {wanted}")
            for name, (wanted, is_right) in _CHECKS.items()
            if not is_right(getattr(self, name))
        ]
        if problems:
            raise errors.InvalidBatch(problems)

    def admits(self, label: str) -> bool:
        """Whether a job of this name may be paid for, by `only` and `labels`."""
        if self.labels is not None and label not in self.labels:
            return False
        return self.only is None or fnmatch.fnmatchcase(label, self.only)


def _is_count(least: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _or_none(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


def _one_of(*choices: str) -> tuple[str, Callable[[object], bool]]:
    return f"one of {', '.join(choices)}", lambda value: value in choices


_CHECKS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "concurrency": ("a whole number of at least 1, or None", _or_none(_is_count(1))),
    "max_concurrency": ("a whole number of at least 1", _is_count(1)),
    "downloads": ("a whole number of at least 1", _is_count(1)),
    "upload": _one_of("auto", "file", "inline"),
    "track": _one_of("auto", "socket", "poll"),
    "retries": ("a whole number of at least 0", _is_count(0)),
    "budget_micros": ("a whole number of micro-dollars, or None", _or_none(_is_count(0))),
    "limit": ("a whole number of at least 0, or None", _or_none(_is_count(0))),
    "pilot": ("a whole number of at least 1, or None", _or_none(_is_count(1))),
    "patience_seconds": ("a number of seconds of at least 0", _is_seconds),
    "settle_seconds": ("a number of seconds of at least 0", _is_seconds),
    "takeover_seconds": ("a number of seconds of at least 0", _is_seconds),
}
