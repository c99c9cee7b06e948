"""Workers that are killed, suspended, or lose the database, while requests fail: nothing is paid twice or lost."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import postgres_server
import psycopg
import pytest
from crews import crew
from servers import in_process, sandbox_server

from wan_async.domain.exit_codes import ExitCode
from wan_async.journal.base import DatabaseHome
from wan_async.journal.reports import report
from wan_async.sandbox.faults import TRANSIENT


def flags(limit: int) -> list[str]:
    faults = [word for name in TRANSIENT for word in ("--fault", f"{name}=0.02")]
    return [
        "--seconds", "0.3,1.5", "--limit", str(limit), "--balance", "100000", "--visible-after", "0.3",
        "--denied-seconds", "0.5", *faults,
    ]  # fmt: skip


def scenes(count: int) -> list[dict[str, object]]:
    return [{"id": f"j{number}", "prompt": f"scene {number}"} for number in range(count)]


def wait_until(is_true: Callable[[], bool], seconds: float = 60.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def test_workers_that_are_killed_at_random_instants_pay_once_and_lose_nothing(tmp_path: Path, dsn: str) -> None:
    draw = random.Random(7)
    count, kills = 50, 3
    with sandbox_server(*flags(20)) as server, crew(dsn, server, tmp_path, 2) as workers:
        done = workers.enqueue(scenes(count))
        assert done.returncode == 0, done.stderr
        instants = sorted(draw.sample(range(5, 45), kills))

        def maybe_kill() -> None:
            """Kill a worker at each of these numbers of tasks made, after a moment."""
            if workers.kills < kills and len(server.report()["tasks"]) >= instants[workers.kills]:
                time.sleep(draw.uniform(0.0, 0.5))
                workers.kill(draw)

        assert workers.wait_all_stored(240, maybe_kill), workers.said()
        assert workers.kills == kills
        assert workers.wrong(count) == []


def test_a_worker_that_is_suspended_beyond_its_lease_pays_nothing_and_begins_anew(tmp_path: Path, dsn: str) -> None:
    count = 12
    with (
        sandbox_server("--seconds", "0.5,1", "--limit", "10", "--latency", "0.2") as server,
        crew(dsn, server, tmp_path, 1) as workers,
    ):
        assert workers.enqueue(scenes(count)).returncode == 0
        wait_until(lambda: len(server.report()["tasks"]) >= 5)
        (sleeper,) = workers.workers
        sleeper.send_signal(signal.SIGSTOP)
        workers.add()
        assert workers.wait_all_stored(120), workers.said()
        wait_until(lambda: "of workers that are gone are taken up again" in workers.said())
        sleeper.send_signal(signal.SIGCONT)
        wait_until(lambda: "it begins anew" in workers.said())
        assert sleeper.poll() is None
        time.sleep(1.0)  # in which it could pay
        assert workers.wrong(count) == []
        assert set(workers.stop()) <= {0, -signal.SIGTERM}  # the latter while Python starts


def test_a_database_that_is_gone_for_a_while_is_waited_for(tmp_path: Path, dsn: str) -> None:
    count = 12
    with (
        sandbox_server("--seconds", "0.5,1", "--limit", "10") as server,
        crew(dsn, server, tmp_path, 2) as workers,
    ):
        assert workers.enqueue(scenes(count)).returncode == 0
        wait_until(lambda: len(server.report()["tasks"]) >= 5)
        postgres_server.stop("immediate")
        paid = len(server.report()["tasks"])
        time.sleep(1.5)
        assert len(server.report()["tasks"]) - paid <= 10  # Runs that were on their way
        postgres_server.start()
        assert workers.wait_all_stored(120), workers.said()
        assert workers.wrong(count) == []
        assert [worker.poll() for worker in workers.workers] == [None, None]


def test_a_restored_dump_does_not_pay_again_silently(tmp_path: Path, dsn: str) -> None:
    count = 12
    with sandbox_server("--seconds", "0.5,1", "--limit", "5") as server, postgres_server.database() as restored:
        with crew(dsn, server, tmp_path, 1) as workers:
            assert workers.enqueue(scenes(count)).returncode == 0
            wait_until(lambda: len(server.report()["tasks"]) >= 5)
            postgres_server.dump(dsn, tmp_path / "dump.sql")
            assert workers.wait_all_stored(60), workers.said()
            workers.stop()
        postgres_server.restore(tmp_path / "dump.sql", restored)
        with psycopg.connect(restored, autocommit=True) as link:
            link.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 day'")
        flags = ["--journal", restored, "--settle", "0.5", "--once"]
        stopped = in_process("worker", *flags, env=server.env)
        assert stopped.returncode == ExitCode.UNRESOLVED, stopped.stdout + stopped.stderr
        assert "--adopt" in stopped.stdout
        assert server.paid == count
        adopting = in_process("worker", *flags, "--adopt", env=server.env)
        assert adopting.returncode == 0, adopting.stdout + adopting.stderr
        known = report(DatabaseHome(restored, str((tmp_path / "out").resolve())))
        assert known is not None
        assert {result.state for result in known.results} == {"stored"}
        assert server.paid == count


@pytest.mark.parametrize("promoted", [True, False], ids=["replica", "snapshot"])
def test_a_database_that_lost_its_latest_commits_does_not_pay_again_silently(
    tmp_path: Path, dsn: str, promoted: bool
) -> None:
    count = 16
    with (
        sandbox_server("--seconds", "0.5,1", "--limit", "4") as server,
        crew(dsn, server, tmp_path, 2) as workers,
    ):
        assert workers.enqueue(scenes(count)).returncode == 0
        wait_until(lambda: len(server.report()["tasks"]) >= 3)
        postgres_server.copy_files(tmp_path / "copy")
        wait_until(lambda: len(server.report()["tasks"]) >= 10)
        postgres_server.fall_back(tmp_path / "copy", promoted=promoted)
        wait_until(lambda: "--adopt" in workers.said())
        workers.stop()
        adopting = in_process("worker", "--journal", dsn, *workers.flags, "--once", "--adopt", env=server.env)
        assert adopting.returncode == 0, adopting.stdout + adopting.stderr
        assert workers.wrong(count) == []
