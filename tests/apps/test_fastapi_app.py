"""The web service of `fastapi_app.py` under uvicorn, in a process of its own, on a sandbox."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
from pictures import png
from servers import Server, sandbox_server

from wan_async import Task

APP = Path(__file__).with_name("fastapi_app.py")
PNG = png(b"cat" * 50)
CLIP_BYTES = 8_000_000

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it is ended by SIGTERM")


@dataclass
class App:
    """The running service."""

    url: str
    folder: Path
    process: subprocess.Popen[str]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def submit(self, prompt: str) -> str:
        with self.client() as client:
            answer = client.post("/jobs", files={"image": ("cat.png", PNG)}, data={"prompt": prompt})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job"])

    def ask_until(self, url: str, holds: Callable[[httpx.Response], bool]) -> None:
        """Repeat a request until something holds after it."""
        deadline = monotonic() + 20
        with self.client() as client:
            while not holds(client.get(url)):
                assert monotonic() < deadline

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    @property
    def tasks(self) -> dict[str, tuple[Task, str]]:
        """Task and state of each job."""
        with closing(sqlite3.connect(self.folder / "jobs.sqlite3")) as database:
            rows = database.execute("SELECT id, task, state FROM jobs").fetchall()
        return {job: (Task.loads(task), state) for job, task, state in rows}


@contextmanager
def serving(sandbox: Server, folder: Path, loop: str = "asyncio", *, socket: bool = True) -> Iterator[App]:
    """Start the service, which ends with the block."""
    (folder / "tmp").mkdir(exist_ok=True)
    env = os.environ | sandbox.env | {"TMPDIR": str(folder / "tmp")}
    if not socket:
        del env["WIRO_SOCKET_URL"]
    command = [sys.executable, str(APP), str(folder), "--loop", loop]
    with (folder / "log.txt").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
    with process:
        assert process.stdout is not None
        try:
            yield App(process.stdout.readline().strip(), folder, process)
        finally:
            process.terminate()
            process.wait(20)


def events_of(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The server-sent events of a response."""
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Server]:
    """A sandbox for tests that stop no app."""
    with sandbox_server("--seconds", "2,2.2", "--clip-bytes", str(CLIP_BYTES)) as found:
        yield found


@pytest.fixture(scope="module")
def app(sandbox: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The service for these tests."""
    with serving(sandbox, tmp_path_factory.mktemp("app")) as found:
        yield found


def test_an_image_is_uploaded_tracked_by_server_sent_events_and_delivered(sandbox: Server, app: App) -> None:
    paid, job = sandbox.paid, app.submit("the cat yawns")
    with app.client() as client:
        with client.stream("GET", f"/jobs/{job}/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = list(events_of(response.iter_lines()))
        clip = client.get(f"/jobs/{job}/clip")
        assert client.get(f"/jobs/{job}/result").json() == {"state": "stored"}
        assert client.get("/jobs/none/clip").status_code == 404
    percents = [event["percent"] for event in events if event["event"] == "Progress"]
    assert any(percent is not None for percent in percents)
    assert (events[-1]["event"], events[-1]["cost_usd"]) == ("Ended", "0.05")
    assert clip.headers["content-type"] == "video/mp4"
    assert clip.content == (app.folder / "clips" / f"{job}.mp4").read_bytes()
    assert sandbox.paid == paid + 1
    assert "Traceback" not in app.log


def test_a_job_that_is_invalid_or_fails_has_a_status_of_its_own(sandbox: Server, app: App) -> None:
    known = app.tasks
    with app.client() as client:
        refused = client.post("/jobs", files={"image": ("cat.txt", b"no image")}, data={"prompt": "a cat"})
        assert refused.status_code == 422
        assert "image" in refused.json()["detail"]
        assert app.tasks == known
        sandbox.control(fault_next={"name": "failed_render"})
        job = app.submit("a cat")
        assert client.get(f"/jobs/{job}/clip").status_code == 422
        assert client.get(f"/jobs/{job}/result").json()["state"].startswith("failed: ")


def test_clients_that_disconnect_in_the_middle_do_not_disturb_anything(sandbox: Server, app: App) -> None:
    paid, job = sandbox.paid, app.submit("the cat stretches")
    with app.client() as client:
        with client.stream("GET", f"/jobs/{job}/events") as response:  # closed before its end
            assert next(events_of(response.iter_lines()))["event"] == "Progress"
        with client.stream("GET", f"/jobs/{job}/clip") as response:
            assert next(response.iter_bytes(1000))
        with client.stream("GET", f"/jobs/{job}/events") as response:
            assert list(events_of(response.iter_lines()))[-1]["event"] == "Ended"
        assert len(client.get(f"/jobs/{job}/clip").content) == CLIP_BYTES
        assert client.get(f"/jobs/{job}/result").json() == {"state": "stored"}
    assert sandbox.paid == paid + 1
    assert "Traceback" not in app.log
    assert list((app.folder / "tmp").iterdir()) == []  # no part of a stream that was left


@pytest.mark.parametrize("loop", ["uvloop", pytest.param("asyncio", marks=pytest.mark.slow)])
def test_what_sigterm_interrupts_is_gone_on_with_by_the_next_start(tmp_path: Path, loop: str) -> None:
    """Jobs, that of a client that left while it was submitted among them, and a batch."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    prompts = ["rain", "snow", "fog"]
    with sandbox_server("--seconds", "8,8.5", "--latency", "0.3") as sandbox:
        with serving(sandbox, tmp_path, loop) as app, ThreadPoolExecutor(5) as pool, app.client() as client:
            with pytest.raises(httpx.ReadTimeout):
                client.post(
                    "/jobs", files={"image": ("cat.png", PNG)}, data={"prompt": "nobody waits for it"},
                    timeout=httpx.Timeout(10, read=0.05),
                )  # fmt: skip
            interrupted = pool.submit(client.post, "/batches/morning", json=prompts)
            jobs = list(pool.map(app.submit, ["one", "two", "three", "four"]))
            account = f"{sandbox.root}/sandbox/account"
            app.ask_until(account, lambda answer: len(answer.json()["tasks"]) == 8)
            with client.stream("GET", f"/jobs/{jobs[0]}/events") as response:
                assert next(events_of(response.iter_lines()))["event"] == "Progress"
                assert app.terminate() == -signal.SIGTERM
            assert isinstance(interrupted.exception(), httpx.TransportError) or interrupted.result().is_error
            assert sandbox.paid == 0
            (left,) = app.tasks.keys() - set(jobs)
            assert {state for _, state in app.tasks.values()} == {"submitted"}
            assert len(re.findall("is left to the next start", app.log)) == 5
        with serving(sandbox, tmp_path, loop) as app, app.client() as client:
            assert [client.get(f"/jobs/{job}/result").json() for job in (*jobs, left)] == [{"state": "stored"}] * 5
            clip = client.get(f"/jobs/{left}/clip").content
            assert clip == (tmp_path / "clips" / f"{left}.mp4").read_bytes()
            resumed = client.post("/batches/morning", json=prompts)
            assert resumed.json()["files"] == [f"morning-{number}.mp4" for number in range(3)]
        assert len(sandbox.report()["tasks"]) == sandbox.paid == 8
        assert sorted(path.stem for path in (tmp_path / "clips").iterdir()) == sorted([*jobs, left])


def test_without_a_socket_batches_run_side_by_side_and_the_webhook_tells_of_the_end_of_a_task(tmp_path: Path) -> None:
    with sandbox_server() as sandbox, serving(sandbox, tmp_path, socket=False) as app:

        def post(name: str) -> dict[str, Any]:
            with app.client() as client:
                answer: dict[str, Any] = client.post(f"/batches/{name}", json=["rain", "snow", "fog"]).json()
            return answer

        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(post, ["morning", "evening"]))
        assert results == [
            {"accepted": 3, "files": [f"{name}-{number}.mp4" for number in range(3)]} for name in ("morning", "evening")
        ]
        job = app.submit("the cat yawns")
        with app.client() as client:
            assert client.get(f"/jobs/{job}/result").json() == {"state": "stored"}
            assert client.post("/hooks/wiro/guessed").status_code == 404
        assert sandbox.paid == 7
        posted = '"POST /hooks/wiro/a-secret-of-this-installation HTTP/1.1" 204'
        app.ask_until(f"/jobs/{job}/result", lambda answer: posted in app.log)
        app.terminate()
        assert "Traceback" not in app.log
