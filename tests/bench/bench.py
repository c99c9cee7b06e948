"""Benchmarks, as ratios of two measurements: `nox -s bench` prints them and writes bench.json.

Rounds are interleaved, and each figure is the median of at least three. No test depends on them: machines may be busy.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import cluster_bench
import httpx
import yaml
from bench_batches import batch_rows, drop_rows, fault_rows, many_rows, plan_memory_rows, size_rows
from bench_row import ROUNDS, Row
from servers import sandbox_server

from wan_async import errors
from wan_async.batch import reader
from wan_async.domain import batch, remote_task
from wan_async.engine.tracker import Tracker
from wan_async.http.transport import StackTransport, shared_ssl_context
from wan_async.outputs.downloader import Downloader
from wan_async.outputs.local import LocalStore
from wan_async.wiro import protocol, schemas
from wan_async.wiro.notification_messages import Hint

STARTS = 20


def median_of(measure: Callable[[], float], rounds: int = ROUNDS) -> float:
    return statistics.median(measure() for _ in range(rounds))


def interleaved(ours: Callable[[], float], baseline: Callable[[], float], rounds: int = ROUNDS) -> tuple[float, float]:
    pairs = [(ours(), baseline()) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def seconds_of(words: list[str], folder: Path) -> Callable[[], float]:
    """Return a function that times a Python process in seconds, with its bytecode cached in `folder`."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")

    def measure() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=env)
        return time.perf_counter() - began

    measure()
    return measure


def help_rows(folder: Path) -> Iterator[Row]:
    """The time of `run --help`, against a Python that does nothing."""
    ours, bare = interleaved(
        seconds_of(["-m", "wan_async", "run", "--help"], folder), seconds_of(["-c", "pass"], folder), STARTS
    )
    yield Row("run --help", "s", ours, "python -c pass", bare, ours / bare, "<= 8")


def import_rows(folder: Path) -> Iterator[Row]:
    """The import time of the client, against that of the libraries that it depends on."""
    ours, libraries = interleaved(
        seconds_of(["-c", "from wan_async import WanClient"], folder),
        seconds_of(["-c", "import httpx, pydantic"], folder),
        STARTS,
    )
    what, baseline = "from wan_async import WanClient", "import httpx, pydantic"
    yield Row(what, "s", ours, baseline, libraries, ours / libraries, "<= 1.3")


async def _post(client: httpx.AsyncBaseTransport, url: str, count: int, at_once: int) -> float:
    waiting = iter(range(count))

    async def work() -> None:
        for _ in waiting:
            request = httpx.Request("POST", url, json={"tasktoken": "x"}, extensions={"timeout": {"pool": 60.0}})
            response = await client.handle_async_request(request)
            await response.aread()

    began = time.process_time()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return 1e6 * (time.process_time() - began) / count


def request_rows(folder: Path) -> Iterator[Row]:
    """CPU per request with 1,000 in flight, against 10 in flight, on our transport."""

    def measure(at_once: int) -> Callable[[], float]:
        async def run() -> float:
            async with StackTransport(max_connections=1000) as transport:
                await _post(transport, url, at_once, at_once)
                return await _post(transport, url, 2000, at_once)

        return lambda: asyncio.run(run())

    with sandbox_server() as server:
        url = f"{server.info['base_url']}/Task/Detail"
        many, few = interleaved(measure(1000), measure(10))
    yield Row("a request, 1,000 at once", "us CPU", many, "10 at once", few, many / few, "<= 1.3")


def _parsed(parse: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter()
        parse()
        return time.perf_counter() - began

    return measure


def _job(number: int) -> dict[str, object]:
    return {"id": f"job-{number}", "prompt": f"scene {number} " + "with a long prompt " * 8, "seed": number}


def plan_rows(folder: Path) -> Iterator[Row]:
    """The time to plan a batch, against parsing its text."""
    text = folder / "batch.jsonl"
    text.write_text("".join(json.dumps(_job(number)) + "\n" for number in range(100_000)))

    def plan_jsonl() -> object:
        return batch.enlist(reader.read_batch(text), {})

    def loads() -> object:
        return [json.loads(line) for line in text.read_text().splitlines()]

    ours, loading = interleaved(_parsed(plan_jsonl), _parsed(loads))
    yield Row("plan of 100,000 jobs, JSONL", "s", ours, "json.loads a line", loading, ours / loading, "<= 8")
    document = folder / "batch.yaml"
    document.write_text(
        "jobs:\n"
        + "".join(f"  - {{id: j{n}, prompt: {json.dumps(_job(n)['prompt'])}, seed: {n}}}\n" for n in range(10_000))
    )

    def plan_yaml() -> object:
        return batch.enlist(reader.read_batch(document), {})

    def load() -> object:
        return yaml.load(document.read_bytes(), Loader=yaml.CSafeLoader)  # the loader is the safe one

    ours, loading = interleaved(_parsed(plan_yaml), _parsed(load))
    yield Row("plan of 10,000 jobs, YAML", "s", ours, "yaml.load, C loader", loading, ours / loading, "<= 2")


CLIPS = 200
CLIP_BYTES = 8_000_000
DOWNLOADS = 8


def serve_clips() -> None:
    """Answer each GET with a clip, with a thread per connection and sendfile: as fast as a server in Python can be."""

    def box(kind: bytes, content: bytes) -> bytes:
        return (8 + len(content)).to_bytes(4, "big") + kind + content

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as requests, suppress(OSError):
            while requests.readline():
                while requests.readline() != b"\r\n":
                    pass
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % CLIP_BYTES)
                connection.sendfile(file, 0)

    start = box(b"ftyp", b"isom\0\0\2\0") + box(b"moov", b"index")
    with tempfile.NamedTemporaryFile() as file, socket.create_server(("127.0.0.1", 0)) as listener:
        file.write(start + box(b"mdat", os.urandom(CLIP_BYTES - len(start) - 8)))
        file.flush()
        print(listener.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()


@asynccontextmanager
async def longest_stall() -> AsyncIterator[list[float]]:
    """The longest time, in ms, for which this event loop did not run a task that is due every ms."""
    longest = [0.0]

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest[0], last = max(longest[0], 1000 * (now - last)), now

    ticking = asyncio.create_task(tick())
    try:
        yield longest
    finally:
        ticking.cancel()


async def _fetch_all(url: str, folder: Path) -> None:
    async def remember(_: str) -> None:
        pass

    numbers = iter(range(CLIPS))

    async def work(downloader: Downloader) -> None:
        for number in numbers:
            fetched = await downloader.fetch(
                f"{url}{number}",
                store.part_path(f"{number}.part"),
                announced_bytes=CLIP_BYTES,
                content_type="video/mp4",
                etag=None,
                remember=remember,
                progress=lambda there, total: None,
            )
            await store.publish(f"{number}.part", f"{number}.mp4", fetched.sha256)

    store = LocalStore(folder)
    async with Downloader(allow_private=True) as downloader:
        await asyncio.gather(*(work(downloader) for _ in range(DOWNLOADS)))


async def _curl_all(url: str, folder: Path) -> None:
    command = ["curl", "-sS", "--parallel", "--parallel-max", str(DOWNLOADS), "-o", f"{folder}/#1.mp4"]
    process = await asyncio.create_subprocess_exec(*command, f"{url}[1-{CLIPS}]", stderr=subprocess.DEVNULL)
    assert await process.wait() == 0


def download_rows(folder: Path) -> Iterator[Row]:
    """200 clips of 8 MB, 8 at once, fetched, checked, hashed, fsynced and published, against curl without checks.

    The event loop that waits for curl shows the stalls of an idle loop on this machine.
    """
    shared_ssl_context()  # as a run does, once, before its first clip
    importlib.import_module("httpcore")  # likewise: its first request to the API loads it
    gc.freeze()  # likewise: what is imported by then is never looked through for garbage

    def measure(fetch_all: Callable[[str, Path], Coroutine[None, None, None]], url: str) -> tuple[float, float]:
        async def run() -> tuple[float, float]:
            async with longest_stall() as stall:
                began = time.perf_counter()
                await fetch_all(url, Path(output))
                return CLIPS * CLIP_BYTES / 1e6 / (time.perf_counter() - began), stall[0]

        with tempfile.TemporaryDirectory(dir=folder) as output:
            figures = asyncio.run(run())
            assert sum(path.stat().st_size for path in Path(output).iterdir()) == CLIPS * CLIP_BYTES
        os.sync()
        return figures

    curl, ours, curl_rounds = shutil.which("curl"), [], []
    with subprocess.Popen([sys.executable, __file__, "--serve-clips"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/"
        try:
            for _ in range(ROUNDS):
                ours.append(measure(_fetch_all, url))
                curl_rounds.append(measure(_curl_all, url) if curl else (0.0, 0.0))
        finally:
            server.kill()
    (speed, _), (baseline_speed, _) = (
        map(statistics.median, zip(*rounds, strict=True)) for rounds in (ours, curl_rounds)
    )
    stall, baseline_stall = (max(stall for _, stall in rounds) for rounds in (ours, curl_rounds))
    name, baseline = f"{CLIPS} clips of 8 MB, {DOWNLOADS} at once", "curl" if curl else "curl, which is not installed"
    yield Row(name, "MB/s", speed, baseline, baseline_speed, speed / baseline_speed if curl else 0.0, ">= 0.8")
    yield Row(
        f"{name}: longest stall",
        "ms",
        stall,
        "idle loop",
        baseline_stall,
        stall / baseline_stall if curl else 0.0,
        "ours <= 50",
    )


WATCHED, ROUND_TRIP_SECONDS, HINT_SECONDS = 10_000, 0.05, 0.002


class _Answers:
    """Task/Detail with a simulated round trip; a task has ended once the socket reported it. Records each request."""

    def __init__(self) -> None:
        self.requested: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    async def detail(
        self, task_id: remote_task.TaskId | None = None, token: remote_task.TaskToken | None = None, *, tries: int = 5
    ) -> remote_task.TaskDetail:
        self.requested[task_id or ""] = time.perf_counter()
        await asyncio.sleep(ROUND_TRIP_SECONDS)
        status = "task_postprocess_end" if task_id in self.ended else "task_start"
        return remote_task.TaskDetail(id=task_id or "", status=status, pexit="0")

    async def list_tasks(self, start: int = 0, limit: int = protocol.LIST_PAGE, *, tries: int = 5) -> schemas.Answer:
        raise errors.TryLater("the socket reports the ends")


async def _lateness() -> list[float]:
    """The seconds from each end that a socket reports to its Task/Detail: 500 ends per second, 50 ms per answer."""
    answers = _Answers()
    tracker = Tracker(answers)
    tracker.connected(True)
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(tracker.serve())
    names = [remote_task.TaskId(str(number)) for number in range(WATCHED)]
    waiting = [asyncio.create_task(tracker.wait_ended(name, None, since=loop.time())) for name in names]
    await asyncio.sleep(0)
    began = loop.time()
    for number, name in enumerate(names):
        await asyncio.sleep(max(0.0, began + number * HINT_SECONDS - loop.time()))
        answers.ended[name] = time.perf_counter()
        tracker.hint(Hint(name, None, "task_postprocess_end", over=True))
    await asyncio.gather(*waiting)
    serving.cancel()
    return sorted(answers.requested[name] - answers.ended[name] for name in names)


def lateness_rows(folder: Path) -> Iterator[Row]:
    """The delay from an end that the socket reports to its Task/Detail, with 10,000 tasks in flight."""
    late = asyncio.run(_lateness())
    name = f"{WATCHED:,} tasks, 500 ends a second: hint to poll, 99 of 100"
    yield Row(name, "s", late[int(len(late) * 0.99)], "", 0.0, 0.0, "ours <= 1")


GROUPS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "help": help_rows,
    "import": import_rows,
    "request": request_rows,
    "plan": plan_rows,
    "memory": plan_memory_rows,
    "downloads": download_rows,
    "batch": batch_rows,
    "faults": fault_rows,
    "drop": drop_rows,
    "many": many_rows,
    "lateness": lateness_rows,
    "size": size_rows,
    **cluster_bench.GROUPS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(GROUPS), help="groups of figures, by default all: %(default)s")
    parser.add_argument("--serve-clips", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve_clips:
        serve_clips()
    groups: list[str] = args.only.split(",")
    if unknown := set(groups) - GROUPS.keys():
        parser.error(f"there is no group {', '.join(sorted(unknown))}")
    result, rows = Path("bench.json"), []
    if len(groups) == 1:
        with tempfile.TemporaryDirectory() as name:
            for each in GROUPS[groups[0]](Path(name)):
                rows.append(asdict(each))
                figures = f"{each.ours:10.3f} {each.baseline_value:10.3f}  {each.ratio:6.2f}"
                target = f"{each.target} missed" if each.misses else each.target
                print(f"{each.what:<48} {each.unit:<7} {figures}  {target:<20} baseline: {each.baseline}", flush=True)
    else:
        print(f"{'figure':<48} {'unit':<7} {'ours':>10} {'baseline':>10}  {'ratio':>6}  target", flush=True)
        for group in groups:  # each in a process of its own: on Linux a child's peak memory starts at its parent's
            subprocess.run([sys.executable, __file__, "--only", group], check=True)
            rows += json.loads(result.read_text())
    result.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
