"""Benchmarks of whole batches: against handwritten clients, and with account limits and faults."""

from __future__ import annotations

import heapq
import importlib.util
import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_row import ROUNDS, Cost, Row, cost_of, row
from servers import Server, sandbox_server

from wan_async.sandbox.faults import TRANSIENT

BATCH, AT_ONCE = 300, 50
NAME = f"{BATCH} jobs, {AT_ONCE} at once"


def write_jobs(folder: Path, count: int) -> Path:
    path = folder / f"jobs-{count}.jsonl"
    path.write_text("".join(json.dumps({"id": f"{n}", "prompt": f"scene {n}"}) + "\n" for n in range(count)))
    return path


def ours(server: Server, batch: Path, output: Path, *flags: str, allowed: Sequence[int] = (0,)) -> Cost:
    command: list[str | Path] = [sys.executable, "-m", "wan_async", "run", batch, "-o", output, "-q", *flags]
    return cost_of(command, server.env, allowed)


def seconds_of(report: dict[str, Any]) -> list[float]:
    """The durations of the successful tasks, in the order of their creation."""
    return [task["seconds"] for task in report["tasks"] if task["succeeded"]]


def perfect(seconds: Sequence[float], at_once: int) -> float:
    """The makespan in seconds of a client that starts a task at the instant at which another ends."""
    ends = [0.0] * at_once
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


@dataclass(frozen=True)
class Figures:
    """Of one batch: makespan / ideal, CPU and requests per job, and the time from a task's end to its download."""

    makespan: float
    cpu_ms: float
    requests: float
    details: float
    lag_seconds: float
    perfect: float


def figures_of(cost: Cost, server: Server) -> Figures:
    report = server.report()
    seconds = seconds_of(report)
    ideal = sum(seconds) / AT_ONCE
    requests = report["requests"]
    api = sum(count for name, count in requests.items() if name != "cdn")
    lags = [task["fetched"] - task["created"] - task["seconds"] for task in report["tasks"] if task["succeeded"]]
    return Figures(
        cost.seconds / ideal,
        1000 * cost.cpu / BATCH,
        api / BATCH,
        requests["Task/Detail"] / BATCH,
        statistics.median(lags),
        perfect(seconds, AT_ONCE) / ideal,
    )


def batch_rows(folder: Path) -> Iterator[Row]:
    """300 jobs, 50 at once, tasks of 2 to 4 s, clips of 2 MB; each client is a process."""
    batch = write_jobs(folder, BATCH)
    clients = ["socket", "poll", "httpx", *(["aiohttp"] if importlib.util.find_spec("aiohttp") else [])]
    found: dict[str, list[Figures]] = {client: [] for client in clients}
    flags = ("--clip-bytes", "2000000", "--limit", "1000", "--balance", "1000", "--seconds", "2,4")
    for number in range(ROUNDS):
        for client, rounds in found.items():
            output = folder / f"{client}-{number}"
            output.mkdir()
            with sandbox_server("--seed", f"{number}", *flags) as server:
                if client in ("socket", "poll"):
                    cost = ours(server, batch, output, "-c", f"{AT_ONCE}", "--track", client)
                else:
                    script = Path(__file__).with_name("handwritten_client.py")
                    address = json.dumps(server.info)
                    cost = cost_of([sys.executable, script, client, address, output, f"{BATCH}", f"{AT_ONCE}"], {})
                rounds.append(figures_of(cost, server))
    median = {
        client: Figures(*(statistics.median(column) for column in zip(*map(_values, rounds), strict=True)))
        for client, rounds in found.items()
    }
    socket, poll, hand = median["socket"], median["poll"], median["httpx"]
    yield row(f"{NAME}: makespan / ideal", "", socket.makespan, "httpx by hand", hand.makespan, "ours <= 1.08")
    yield row(f"{NAME}: makespan / ideal", "", socket.makespan, "a perfect client", socket.perfect, "")
    yield row(f"{NAME}, polled: makespan / ideal", "", poll.makespan, "httpx by hand", hand.makespan, "")
    yield row(f"{NAME}: end to download", "s", socket.lag_seconds, "httpx by hand", hand.lag_seconds, "ours <= 0.05")
    yield row(f"{NAME}, polled: end to download", "s", poll.lag_seconds, "httpx by hand", hand.lag_seconds, "<= 0.35")
    yield row(f"{NAME}, polled: Details a task", "", poll.details, "httpx by hand", hand.details, "ours <= 4")
    yield row(f"{NAME}: API requests a job", "", socket.requests, "httpx by hand", hand.requests, "ours <= 2.1")
    yield row(f"{NAME}: client CPU a job", "ms", socket.cpu_ms, "httpx by hand", hand.cpu_ms, "<= 0.6")
    if "aiohttp" in median:
        other = median["aiohttp"]
        yield row(f"{NAME}: client CPU a job", "ms", socket.cpu_ms, "aiohttp by hand", other.cpu_ms, "")
        yield row(f"{NAME}: makespan / ideal", "", socket.makespan, "aiohttp by hand", other.makespan, "")


def _values(figures: Figures) -> tuple[float, ...]:
    return tuple(vars(figures).values())


def fault_rows(folder: Path) -> Iterator[Row]:
    """An account limit of 20 that the client must discover, and 5 % of every transient fault."""
    batch, output = write_jobs(folder, BATCH), folder / "faults"
    faults = [word for name in TRANSIENT for word in ("--fault", f"{name}=0.05")]
    faults += ["--denied-seconds", "1.5"]  # less than a run waits between two listings
    with sandbox_server("--limit", "20", "--balance", "1000", "--seconds", "2,4", *faults) as server:
        cost = ours(server, batch, output, "--settle", "2", "--retries", "9", allowed=(0, 1, 5))
        report = server.report()
    paid = [task["parameters"]["prompt"] for task in report["tasks"] if task["succeeded"]]
    clips = len(list(output.glob("*.mp4")))
    name = f"{BATCH} jobs, limit 20, 5 % faults"
    yield row(f"{name}: paid twice", "", float(len(paid) - len(set(paid))), "", 0.0, "0")
    yield row(f"{name}: lost or failed", "", float(BATCH - clips), "", 0.0, "0")
    ideal = sum(task["seconds"] for task in report["tasks"]) / 20
    yield row(f"{name}: makespan", "s", cost.seconds, "ideal", ideal, "<= 1.25")


def drop_rows(folder: Path) -> Iterator[Row]:
    """The account's limit falls from 40 to 10 during a run."""
    batch, output = write_jobs(folder, BATCH), folder / "drop"
    with sandbox_server("--limit", "40", "--balance", "1000", "--seconds", "2,4") as server:

        def lower_limit() -> None:
            while len(server.report()["tasks"]) < BATCH / 2:
                time.sleep(0.2)
            server.control(concurrency_limit=10)

        lowering = threading.Thread(target=lower_limit)
        lowering.start()
        ours(server, batch, output)
        lowering.join()
        refused = server.report()["requests"]["Run"] - BATCH
    yield row("limit falls from 40 to 10: Runs answered 96 a job", "", refused / BATCH, "", 0.0, "ours <= 0.3")


def many_rows(folder: Path) -> Iterator[Row]:
    """CPU and memory of the client with 2,000 tasks in flight on polls, and 10,000 on a socket."""
    cases = [
        (2000, "poll", "60,120", "ours <= 35", "ours <= 150"),
        (10_000, "socket", "120,180", "", "ours <= 250"),
    ]
    for count, track, seconds, cpu, memory in cases:
        batch, output = write_jobs(folder, count), folder / f"many-{count}"
        flags = ("--limit", f"{count}", "--balance", "10000", "--seconds", seconds)
        with sandbox_server(*flags) as server:
            cost = ours(server, batch, output, "-c", f"{count}", "--max-concurrency", f"{count}", "--track", track)
            report = server.report()
        name = f"{count:,} tasks in flight, {track}"
        yield row(f"{name}: CPU, % of a core", "%", 100 * cost.cpu / cost.seconds, "", 0.0, cpu)
        yield row(f"{name}: peak memory", "MB", cost.peak_mb, "", 0.0, memory)
        lags = sorted(
            task["fetched"] - task["created"] - task["seconds"]
            for task in report["tasks"]
            if task["fetched"] is not None  # the sandbox keeps its latest 10,000 requests
        )
        late = lags[int(len(lags) * 0.99)]
        yield row(f"{name}: end to download, 99 of the latest 100", "s", late, "", 0.0, "")


def size_rows(folder: Path) -> Iterator[Row]:
    """100,000 jobs against 1,000 with the in-process sandbox: CPU per job, and memory including the sandbox's."""
    costs = {
        count: cost_of([sys.executable, Path(__file__).with_name("bench_in_process.py"), f"{count}", folder], {})
        for count in (1000, 100_000)
    }
    few, many = costs[1000], costs[100_000]
    name = "100,000 jobs in process"
    yield row(f"{name}: CPU a job", "ms", 1000 * many.cpu / 100_000, "1,000 jobs", few.cpu, "<= 1.15")
    yield row(f"{name}: peak memory", "MB", many.peak_mb, "1,000 jobs", few.peak_mb, "ours <= 300")


def plan_memory_rows(folder: Path) -> Iterator[Row]:
    """The memory of `plan` with 100,000 jobs."""
    batch = write_jobs(folder, 100_000)
    document = folder / "many.yaml"
    with document.open("w") as file:
        file.write("jobs:\n")
        file.writelines(f"  - {{id: j{n}, prompt: scene {n}, seed: {n}}}\n" for n in range(100_000))
    for path, target in ((batch, "ours <= 300"), (document, "ours <= 700")):
        cost = cost_of([sys.executable, "-m", "wan_async", "plan", path], {"WIRO_API_KEY": ""})
        yield row(f"plan of 100,000 jobs, {path.suffix[1:].upper()}: peak memory", "MB", cost.peak_mb, "", 0.0, target)
