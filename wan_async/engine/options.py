"""How a batch is run."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Literal

from wan_async.engine.tracker import PATIENCE_SECONDS


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
        only: only jobs whose id matches this pattern, case-sensitively.
        retry_failed: take up jobs again that failed for good or were cancelled.
        rerender: render jobs again whose clip is missing.
        give_up: give up clips that are missing and denied once more.
        patience_seconds: for how long a task or a clip that is denied is asked for before it is left as missing.
        resubmit_unknown: send quarantined jobs again, at the risk of paying twice.
        adopt: take tasks that the journal does not know, and that equal jobs, over as attempts of these jobs.
        ignore_unowned: submit jobs though there are such tasks, at the risk of paying twice.
        settle_seconds: how long the service may take to list a task.
        resume: the command that goes on from here, for people.
    """

    concurrency: int | None = None
    max_concurrency: int = 256
    downloads: int = 8
    upload: Literal["auto", "file", "inline"] = "auto"
    track: Literal["auto", "socket", "poll"] = "auto"
    retries: int = 2
    budget_micros: int | None = None
    limit: int | None = None
    only: str | None = None
    retry_failed: bool = False
    rerender: bool = False
    give_up: bool = False
    patience_seconds: float = PATIENCE_SECONDS
    resubmit_unknown: bool = False
    adopt: bool = False
    ignore_unowned: bool = False
    settle_seconds: float = 30.0
    resume: str | None = None

    def admits(self, label: str) -> bool:
        """Whether a job of this name may be paid for, by `only`."""
        return self.only is None or fnmatch.fnmatchcase(label, self.only)
