"""A worker's events as plain lines: it knows the jobs that it has, not those of whole batches."""

from __future__ import annotations

from wan_async.cli.display import PlainLines
from wan_async.cli.display_text import sanitise, truncate, usd
from wan_async.domain import events


class WorkerLines(PlainLines):
    """Lines and summaries about a worker's own jobs; nothing while it has none."""

    def show(self, event: events.Event) -> None:
        """Write the event's line. What a run says of its whole batch is not counted: others take jobs of it, too."""
        if isinstance(event, events.Problem):  # in full: what to do is at its end
            self._say(event.at, f"{'problem':<11}  {sanitise(event.where)}  {sanitise(event.message)}")
        elif not isinstance(event, events.Started):
            super().show(event)
        elif not self._quiet:
            budget = "" if event.budget_usd is None else f" · budget {usd(event.budget_usd)}"
            self._say(event.at, f"{'started':<11}  jobs of {truncate(event.output)}{budget}")

    def tick(self, at: float) -> None:
        """Write a summary when one is due."""
        if self._statistics.active or self._stopping_at is not None:
            super().tick(at)
        else:
            self._summed_at = None
