"""What an `enqueue` tells the workers in the journal: how jobs are run, and what is decided about some of them."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from wan_async.engine.options import Options

LASTING = ("concurrency", "max_concurrency", "budget_micros", "retries", "upload", "patience_seconds", "settle_seconds")
"""Options of a batch that its workers read in the journal."""
OF_ENQUEUE = ("retry_failed", "resubmit_unknown", "rerender", "give_up", "only")
"""Decisions of one `enqueue`, about the jobs that a worker takes from then on."""
_UNTIL = "newest_attempt"


@dataclass(frozen=True, slots=True)
class Decided:
    """What the latest `enqueue` says about the jobs that are taken now.

    Attributes:
        options: the options.
        until: the newest attempt that was there then: decisions that may pay again concern none after it.
    """

    options: Options
    until: int

    @classmethod
    def of(cls, told: str | None, options: Options) -> Decided:
        """Reads what `kept_options` wrote."""
        until: int = json.loads(told).get(_UNTIL, 0) if told else 0
        return cls(merged(options, told, (*LASTING, *OF_ENQUEUE)), until)


def merged(options: Options, told: str | None, names: Collection[str]) -> Options:
    """The worker's options with some of those of the batch."""
    given: dict[str, Any] = json.loads(told) if told else {}
    return replace(options, **{name: value for name, value in given.items() if name in names})


def kept_options(options: Options, newest_attempt: int, before: str | None = None) -> str:
    """What `enqueue` tells the workers of a batch.

    Args:
        options: the options.
        newest_attempt: the number of the journal's newest attempt: what is decided concerns none after it.
        before: what the workers were told before, if that stays where an option is the default.
    """
    told, defaults = json.loads(before) if before is not None else {}, Options()
    given = {name: getattr(options, name) for name in (*LASTING, *OF_ENQUEUE)}
    stays = [name for name in LASTING if given[name] == getattr(defaults, name) and name in told]
    return json.dumps(given | {name: told[name] for name in stays} | {_UNTIL: newest_attempt})
