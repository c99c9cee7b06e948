"""What a worker itself has done, in its last event."""

from __future__ import annotations

from decimal import Decimal

from sample_events import cancelled, ended, failed, quarantined, stored

from wan_async.cluster.worker_statistics import WorkerStatistics
from wan_async.domain import events
from wan_async.domain.exit_codes import ExitCode


def test_a_worker_counts_its_jobs_of_all_outputs_and_what_it_paid_once() -> None:
    total = WorkerStatistics()
    one: list[events.Event] = [ended("1", "0.05"), stored("1", cost="0.05"), ended("1", "0.05")]
    for output in ("/a", "/b"):  # a job of each has the same key
        for event in one:
            total.fold(output, event)
    total.fold("/b", stored("fetched", cost="0.05"))  # another worker has settled it
    others: list[events.Event] = [failed("2"), cancelled("3"), quarantined("4"), failed("5"), stored("5", cost=None)]
    for event in others:
        total.fold("/b", event)
    end = total.finished(100.0, 60.0, ExitCode.FUNDS)
    assert (end.jobs, end.stored, end.failed, end.cancelled, end.unknown) == (7, 4, 1, 1, 1)
    assert (end.run_usd, end.spent_usd, end.exit_code) == (Decimal("0.10"), Decimal("0.10"), ExitCode.FUNDS)
