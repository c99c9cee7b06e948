"""What a worker prints: its own jobs, and nothing while it has none."""

from __future__ import annotations

import io
from decimal import Decimal

from sample_events import ended, finished, started, stored, submitting

from wan_async.cli.display import PipeWriter
from wan_async.cli.worker_lines import WorkerLines


def test_a_worker_sums_up_its_own_jobs_while_it_has_some() -> None:
    stdout = io.StringIO()
    display = WorkerLines(PipeWriter(stdout), name="worker 7", quiet=False, verbose=False, summary_seconds=60)
    with display:
        display.show(started(jobs=10, to_do=10, output="/out", budget_usd=Decimal("0.20")))
        for job in ("a", "b"):
            display.show(submitting(job, at=0))
        display.tick(61)
        for job in ("a", "b"):
            display.show(ended(job, "0.05", at=70))
            display.show(stored(job, at=70))
        for at in (140, 210, 280):  # the eight other jobs are other workers'
            display.tick(at)
        display.show(finished(at=300, stored=2, run_usd=Decimal("0.10"), spent_usd=Decimal("0.10")))
    lines = [line.split("  ", 2)[2] for line in stdout.getvalue().splitlines()]
    assert all(line.split("  ")[1] == "worker 7" for line in stdout.getvalue().splitlines())
    assert lines[0] == "started      jobs of /out · budget $0.20"
    (summary,) = [line for line in lines if line.startswith("summary")]
    assert "waiting 0, queued 2" in summary
    assert not any("clips in" in line or "others" in line for line in lines)


def test_a_quiet_worker_does_not_name_the_outputs_that_it_takes_up() -> None:
    stdout = io.StringIO()
    with WorkerLines(PipeWriter(stdout), name="worker 7", quiet=True, verbose=False) as display:
        display.show(started(output="/out"))
    assert stdout.getvalue() == ""
