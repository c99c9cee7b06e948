"""What a journal holds for its workers, and of them, beside the jobs: options, and why nothing is submitted."""

from __future__ import annotations

import json
from dataclasses import dataclass

from wan_async.domain.exit_codes import ExitCode
from wan_async.journal.reports import Report

OPTIONS, PARKED = "cluster_options", "cluster_parked"


@dataclass(frozen=True, slots=True)
class Parked:
    """Why the workers submit nothing more for an output, until it is enqueued again or its state changes.

    Attributes:
        reason: in words.
        exit_code: of a run that ends for that reason.
    """

    reason: str
    exit_code: ExitCode

    def dumps(self) -> str:
        """As a text for the journal."""
        return json.dumps({"reason": self.reason, "exit_code": int(self.exit_code)})


def budget_in(options: str | None) -> int | None:
    """What an output may cost over its lifetime by the options kept for it, in micro-dollars; None without a limit."""
    found: int | None = json.loads(options or "{}").get("budget_micros")
    return found


def parked_in(known: Report) -> Parked | None:
    """Why the workers submit nothing more for the output; None if they do."""
    text = known.of_workers.get(PARKED)
    if not text:
        return None
    found = json.loads(text)
    return Parked(found["reason"], ExitCode(found["exit_code"]))
