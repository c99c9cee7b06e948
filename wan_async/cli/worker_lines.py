"""A worker's events as plain lines: it knows the jobs that it has, not those of whole batches."""

from __future__ import annotations

from wan_async.cli.display import PipeWriter, PlainLines
from wan_async.cli.display_text import sanitise, truncate, usd
from wan_async.cli.statistics import Retries
from wan_async.domain import events

_RETRIES = Retries(command="enqueue BATCH")


class WorkerLines(PlainLines):
    """Lines and summaries about a worker's own jobs; nothing while it has none.

    Args:
        pipe: where to write.
        name: tells its lines from those of other workers in the same terminal or log.
        quiet: only problems, and one line at the end.
        verbose: a line for every fact.
        summary_seconds: how often to write a summary.
    """

    def __init__(
        self, pipe: PipeWriter, *, name: str, quiet: bool, verbose: bool, summary_seconds: float = 60.0
    ) -> None:
        super().__init__(pipe, quiet=quiet, verbose=verbose, summary_seconds=summary_seconds, retries=_RETRIES)
        self._name = name

    def show(self, event: events.Event) -> None:
        """Write the event's line. What a run says of its whole batch is not counted: others take jobs of it, too."""
        if isinstance(event, events.Problem):  # in full: what to do is at its end
            self._say(event.at, f"{'problem':<11}  {sanitise(event.where)}  {sanitise(event.message)}")
        elif not isinstance(event, events.Started):
            super().show(event)
        elif not self._quiet:
            budget = "" if event.budget_usd is None else f" · budget {usd(event.budget_usd)}"
            self._say(event.at, f"{'started':<11}  jobs of {truncate(event.output)}{budget}")

    def _say(self, at: float, text: str) -> None:
        super()._say(at, f"{self._name}  {text}")

    def tick(self, at: float) -> None:
        """Write a summary when one is due."""
        if self._statistics.active or self._stopping_at is not None:
            super().tick(at)
        else:
            self._summed_at = None
