"""Benchmarks of workers on one queue, beside one process that runs the same batch. `bench.py` prints the rows.

Each side has a sandbox of its own with the same seed, whose report says when each task was made and when its clip was
fetched. A makespan is the time from the first task to the last clip; the workers are up before the batch is enqueued:
so neither side's contains the start of Python. PostgreSQL's files are on the disk, and it syncs them.
"""

from __future__ import annotations

import re
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import postgres_server
import psycopg
from bench_batches import AT_ONCE, BATCH, ours, perfect, seconds_of, write_jobs
from bench_row import ROUNDS, Cost, Row, Started, cost_of, row
from servers import Server, sandbox_server

from wan_async.domain.exit_codes import ExitCode

WORKERS = 4
NAME = f"{BATCH} jobs, {AT_ONCE} at once, {WORKERS} workers"
SHORT, LONG = "2,4", "10,20"
"""How many seconds tasks take: those of `bench_batches`, and longer ones, for which a busy machine is fast enough."""
POLL_SECONDS = 0.2
LONGEST_SECONDS = 1_200.0
COMMAND = (sys.executable, "-m", "wan_async")
FLAGS = ("--clip-bytes", "2000000", "--limit", "1000", "--balance", "1000", "--seconds")


class Fleet:
    """Workers that wait for batches.

    Args:
        dsn: the database of the queue and the journals.
        server: the sandbox.
        count: how many workers.
        flags: further flags of each.
    """

    def __init__(self, dsn: str, server: Server, count: int, *flags: str) -> None:
        self.dsn = dsn
        self.server = server
        command = (*COMMAND, "worker", "--journal", dsn, "-q", *flags)
        self.workers = [Started(command, server.env) for _ in range(count)]
        with psycopg.connect(dsn, autocommit=True) as link:
            self._wait(lambda: _number(link, "procrastinate_workers", "true") == count)

    def render(self, batch: Path, output: Path, *flags: str) -> None:
        """Enqueue a batch, and wait until its jobs are stored."""
        self._wait_for("stored", batch, output, *flags)

    def fill(self, batch: Path, output: Path, *flags: str) -> None:
        """Enqueue a batch, and wait until each of its jobs has a task."""
        self._wait_for("accepted", batch, output, *flags)

    def _wait_for(self, state: str, batch: Path, output: Path, *flags: str) -> None:
        count = len(batch.read_text().splitlines())
        enqueue(self.dsn, self.server, batch, output, *flags)
        with psycopg.connect(self.dsn, autocommit=True) as link:
            self._wait(lambda: _number(link, "wan_async_1.attempts", f"state = '{state}'") == count)

    def _wait(self, is_true: Any) -> None:
        give_up_at = time.monotonic() + LONGEST_SECONDS
        while not is_true():
            if time.monotonic() > give_up_at or any(each.process.poll() is not None for each in self.workers):
                raise RuntimeError("a worker ended, or the workers took too long")
            time.sleep(POLL_SECONDS)

    def end(self) -> list[Cost]:
        """End the workers, which may leave work; their costs."""
        for worker in self.workers:
            worker.process.send_signal(signal.SIGTERM)
        return [worker.wait(allowed=(0, ExitCode.TERMINATED)) for worker in self.workers]


def _number(link: psycopg.Connection[Any], table: str, which: str) -> int:
    name = table.encode()
    if link.execute(b"SELECT to_regclass(%s)", (table,)).fetchone() == (None,):
        return 0
    found = link.execute(b"SELECT count(*) FROM " + name + b" WHERE " + which.encode()).fetchone()
    return 0 if found is None else int(found[0])


def enqueue(dsn: str, server: Server, batch: Path, output: Path, *flags: str) -> Cost:
    """Put a batch into the queue."""
    return cost_of([*COMMAND, "enqueue", batch, "--journal", dsn, "-o", output, *flags], server.env)


@contextmanager
def fleet(server: Server, count: int, *flags: str) -> Iterator[Fleet]:
    """Workers on a new database; killed with the block, unless they have ended."""
    with postgres_server.database(durable=True) as dsn:
        made = Fleet(dsn, server, count, *flags)
        try:
            yield made
        finally:
            for worker in made.workers:
                if worker.process.returncode is None:
                    worker.process.kill()
                    worker.process.wait()


@dataclass(frozen=True)
class Admission:
    """How full a limit was, from the instant at which it was reached until the last task was made.

    Attributes:
        most: the most tasks that were active at once.
        mean: the mean number of active tasks.
        low: the part of the time in which fewer than 0.9 of the limit were active.
    """

    most: float
    mean: float
    low: float


def admission(report: dict[str, Any], limit: int) -> Admission:
    """How full a limit was."""
    made = [(task["created"], 1) for task in report["tasks"]]
    steps = sorted([*made, *((task["created"] + task["seconds"], -1) for task in report["tasks"])])
    last, active, most = max(made)[0], 0, 0
    full_at, area, low, before = 0.0, 0.0, 0.0, 0.0
    for at, step in steps:
        if full_at and at <= last:
            area += active * (at - before)
            low += (at - before) * (active < 0.9 * limit)
        active, before = active + step, at
        most = max(most, active)
        full_at = full_at or (at if active >= limit else 0.0)
    return Admission(most, area / (last - full_at), low / (last - full_at)) if full_at else Admission(most, 0.0, 1.0)


def makespan(report: dict[str, Any]) -> float:
    """The seconds from the first task to the last clip."""
    return float(max(task["fetched"] for task in report["tasks"]) - min(task["created"] for task in report["tasks"]))


@dataclass(frozen=True)
class Figures:
    """Of one batch: makespan and CPU, beside what a perfect client needs, and how full the limit was."""

    seconds: float
    ratio: float
    whole_seconds: float
    cpu_ms: float
    most: float
    mean: float
    low: float
    transactions: float


def _figures(report: dict[str, Any], whole_seconds: float, cpu: float, transactions: float) -> Figures:
    found = admission(report, AT_ONCE)
    seconds = makespan(report)
    return Figures(
        seconds, seconds / perfect(seconds_of(report), AT_ONCE), whole_seconds, 1000 * cpu / BATCH,
        found.most, found.mean / AT_ONCE, found.low, transactions,
    )  # fmt: skip


def _alone(folder: Path, batch: Path, number: int, seconds: str) -> Figures:
    with sandbox_server("--seed", f"{number}", *FLAGS, seconds) as server:
        cost = ours(server, batch, folder / f"alone-{number}", "-c", f"{AT_ONCE}")
        return _figures(server.report(), cost.seconds, cost.cpu, 0.0)


def _together(folder: Path, batch: Path, number: int, seconds: str) -> Figures:
    with sandbox_server("--seed", f"{number}", *FLAGS, seconds) as server, fleet(server, WORKERS) as workers:
        before, began = _transactions(workers.dsn), time.perf_counter()
        workers.render(batch, folder / f"together-{number}", "-c", f"{AT_ONCE}")
        whole, after = time.perf_counter() - began, _transactions(workers.dsn)
        cpu = sum(cost.cpu for cost in workers.end())
        return _figures(server.report(), whole, cpu, (after - before) / BATCH)


def _transactions(dsn: str) -> int:
    """How many transactions were committed in a database so far. The server adds them up once a second."""
    time.sleep(1.5)
    with psycopg.connect(dsn, autocommit=True) as link:
        query = b"SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        found = link.execute(query).fetchone()
    return 0 if found is None else int(found[0])


def _median(rounds: list[Figures]) -> Figures:
    columns = zip(*(vars(each).values() for each in rounds), strict=True)
    return Figures(*(statistics.median(column) for column in columns))


def batch_rows(folder: Path, task_seconds: str = SHORT, rounds: int = ROUNDS) -> Iterator[Row]:
    """300 jobs, 50 at once, clips of 2 MB: 4 workers, against one process."""
    batch, name = write_jobs(folder, BATCH), f"{NAME}, tasks of {task_seconds.replace(',', '-')} s"
    pairs = [
        (_together(folder, batch, number, task_seconds), _alone(folder, batch, number, task_seconds))
        for number in range(rounds)
    ]
    workers, alone = (_median([pair[place] for pair in pairs]) for place in (0, 1))
    yield row(f"{name}: makespan", "s", workers.seconds, "run", alone.seconds, "<= 1.08")
    yield row(f"{name}: makespan / a perfect client's", "", workers.ratio, "run", alone.ratio, "")
    yield row(f"{name}: enqueue to stored", "s", workers.whole_seconds, "run, whole", alone.whole_seconds, "")
    yield row(f"{name}: most active tasks", "", workers.most, "run", alone.most, f"ours <= {AT_ONCE}")
    yield row(f"{name}: mean active / limit", "", workers.mean, "run", alone.mean, "ours >= 0.9")
    yield row(f"{name}: time below 0.9 of the limit", "", workers.low, "run", alone.low, "")
    yield row(f"{name}: client CPU a job", "ms", workers.cpu_ms, "run", alone.cpu_ms, "")
    yield row(f"{name}: transactions a job", "", workers.transactions, "", 0.0, "")


def long_rows(folder: Path) -> Iterator[Row]:
    """The same with longer tasks, once."""
    return batch_rows(folder, LONG, 1)


def start_rows(folder: Path) -> Iterator[Row]:
    """The start of a worker without a job, against that of a command that does nothing."""
    with sandbox_server() as server, postgres_server.database() as dsn:
        costs = [cost_of([*COMMAND, "worker", "--journal", dsn, "--once", "-q"], server.env) for _ in range(ROUNDS + 1)]
    bare = statistics.median(cost_of([*COMMAND, "run", "--help"], {}).cpu for _ in range(ROUNDS))
    cpu = statistics.median(cost.cpu for cost in costs[1:])  # the first of them makes the tables
    yield row("start and end of a worker without a job: CPU", "s", cpu, "run --help", bare, "")


def statement_rows(folder: Path) -> Iterator[Row]:
    """Statements that PostgreSQL runs for a job, with 4 workers and with one; the start of workers, without a job."""
    batch = write_jobs(folder, BATCH)
    found = {}
    for count in (WORKERS, 1):
        with sandbox_server(*FLAGS, SHORT) as server, postgres_server.database(durable=True) as dsn:
            with psycopg.connect(dsn, autocommit=True) as link:
                link.execute(
                    b"ALTER DATABASE " + dsn.split("?")[0].rpartition("/")[2].encode() + b" SET log_statement = 'all'"
                )
            log: Path = postgres_server.durable_server().log
            workers = Fleet(dsn, server, count)
            before = log.stat().st_size
            workers.render(batch, folder / f"statements-{count}", "-c", f"{AT_ONCE}")
            text = log.read_bytes()[before:].decode(errors="replace")
            workers.end()
            found[count] = len(re.findall(r"LOG: +(?:statement|execute [^:]*):", text)) / BATCH
    yield row(f"{NAME}: PostgreSQL's statements a job", "", found[WORKERS], "one worker", found[1], "")


def drop_rows(folder: Path) -> Iterator[Row]:
    """The account's limit falls from 40 to 10 while 4 workers render: Runs answered 96, and how full the limit was."""
    batch = write_jobs(folder, BATCH)
    found = []
    for is_cluster in (True, False):
        with sandbox_server("--limit", "40", "--balance", "1000", "--seconds", "2,4") as server:
            fell_at: list[float] = []

            def lower_limit(server: Server = server, fell_at: list[float] = fell_at) -> None:
                while len(server.report()["tasks"]) < BATCH / 2:
                    time.sleep(0.2)
                server.control(concurrency_limit=10)
                fell_at.append(time.time())

            lowering = threading.Thread(target=lower_limit)
            lowering.start()
            if is_cluster:
                with fleet(server, WORKERS) as workers:
                    workers.render(batch, folder / "drop")
            else:
                ours(server, batch, folder / "drop-alone")
            lowering.join()
            report = server.report()
            refused = (report["requests"]["Run"] - BATCH) / BATCH
            parts = []
            for limit, is_before in ((40, True), (10, False)):
                tasks = [task for task in report["tasks"] if not is_before or task["created"] <= fell_at[0]]
                steady = fell_at[0] + 4.0  # the longest task of before has ended
                if not is_before:
                    tasks = [task for task in tasks if task["created"] + task["seconds"] > steady]
                parts.append(admission({"tasks": tasks}, limit))
            found.append((refused, *parts))
    (refused, high, low), (refused_alone, high_alone, low_alone) = found
    name = f"limit falls from 40 to 10, {WORKERS} workers"
    yield row(f"{name}: Runs answered 96 a job", "", refused, "run", refused_alone, "ours <= 0.3")
    yield row(f"{name}: mean active / limit before", "", high.mean / 40, "run", high_alone.mean / 40, "ours >= 0.9")
    yield row(f"{name}: mean active / limit after", "", low.mean / 10, "run", low_alone.mean / 10, "ours >= 0.9")


def enqueue_rows(folder: Path) -> Iterator[Row]:
    """100,000 jobs put into the queue."""
    batch = write_jobs(folder, 100_000)
    with sandbox_server("--balance", "100000") as server, postgres_server.database(durable=True) as dsn:
        cost = enqueue(dsn, server, batch, folder / "out")
    yield row("enqueue of 100,000 jobs", "s", cost.seconds, "its CPU", cost.cpu, "ours <= 60")
    yield row("enqueue of 100,000 jobs: peak memory", "MB", cost.peak_mb, "", 0.0, "ours <= 300")


def many_rows(folder: Path) -> Iterator[Row]:
    """10,000 tasks in flight at once over 4 workers, which are ended then: the tasks would take some minutes more."""
    count = 10_000
    batch = write_jobs(folder, count)
    flags = ("--limit", f"{count}", "--balance", "10000", "--seconds", "1500,1600")
    with sandbox_server(*flags) as server, fleet(server, WORKERS, "--drain", "1") as workers:
        began = time.perf_counter()
        workers.fill(batch, folder / "many", "-c", f"{count}", "--max-concurrency", f"{count}")
        seconds, report = time.perf_counter() - began, server.report()
        costs = workers.end()
    name = f"{count:,} tasks in flight, {WORKERS} workers"
    made = [task["created"] for task in report["tasks"]]
    active = sum(task["created"] + task["seconds"] > max(made) for task in report["tasks"])
    prompts = {task["parameters"]["prompt"] for task in report["tasks"]}
    yield row(f"{name}: at once", "", active, "", 0.0, "")
    yield row(f"{name}: tasks made", "", float(len(made)), "jobs of them", float(len(prompts)), "1")
    yield row(f"{name}: Runs a second", "", count / (max(made) - min(made)), "", 0.0, "")
    yield row(f"{name}: CPU of all, % of a core", "%", 100 * sum(c.cpu for c in costs) / seconds, "", 0.0, "")
    yield row(
        f"{name}: peak memory of one", "MB", max(c.peak_mb for c in costs), "all", sum(c.peak_mb for c in costs), ""
    )


GROUPS = {
    "cluster-batch": batch_rows,
    "cluster-long": long_rows,
    "cluster-start": start_rows,
    "cluster-statements": statement_rows,
    "cluster-drop": drop_rows,
    "cluster-enqueue": enqueue_rows,
    "cluster-many": many_rows,
}
