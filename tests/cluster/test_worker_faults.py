"""What workers do when the database or a file fails for a moment, or another worker takes over."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import psycopg
import pytest
from inner_workers import access_to, working
from journals import attempt_at
from pictures import png
from servers import Server, in_process, sandbox_server, write_batch

from wan_async import Job, WanClient, errors
from wan_async.cli import workers
from wan_async.cluster import cluster_worker, dead_workers, enqueuing, shared_run
from wan_async.cluster.cluster_worker import ClusterWorker
from wan_async.cluster.dead_workers import live_workers
from wan_async.cluster.job_queue import FetchedJob, JobQueue
from wan_async.cluster.job_rows import enlisted_of
from wan_async.cluster.progress_watch import Standing, standings
from wan_async.cluster.shared_journal import SharedJournal
from wan_async.cluster.slot_notifications import SlotNotifications
from wan_async.domain.attempt import Account
from wan_async.domain.exit_codes import ExitCode
from wan_async.http.rate_limit import TokenBucket
from wan_async.journal.base import DatabaseHome
from wan_async.journal.journal_location import name_of_output

ONCE = ("worker", "--once", "--journal")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sandbox_server() as running:
        yield running


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that could not be taken up are tried again at once."""
    monkeypatch.setattr(shared_run, "AGAIN_SECONDS", 0.0)


@pytest.fixture
def output(tmp_path: Path, dsn: str, server: Server) -> Path:
    """An output with one job in the queue, which has an image."""
    (tmp_path / "cat.png").write_bytes(png())
    batch = write_batch(tmp_path, [{"id": "cat", "prompt": f"it moves {tmp_path}", "image": "cat.png"}])
    enqueued = in_process("enqueue", batch, "-o", tmp_path / "out", "--journal", dsn, env=server.env)
    assert enqueued.returncode == 0, enqueued.stderr
    return tmp_path / "out"


def failing_at_first(act: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """Raises an error at its first call."""
    failed = list[bool]()

    async def once(*args: Any, **arguments: Any) -> Any:
        if not failed:
            failed.append(True)
            raise error
        return await act(*args, **arguments)

    return once


def test_jobs_are_taken_up_again_after_the_journal_was_not_available(
    output: Path, dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = errors.TryLater("the database is gone")
    monkeypatch.setattr(SharedJournal, "take_up", failing_at_first(SharedJournal.take_up, gone))
    paid, worked = server.paid, in_process(*ONCE, dsn, env=server.env)
    assert (worked.returncode, server.paid, (output / "cat.mp4").exists()) == (0, paid + 1, True)
    assert "1 jobs could not be taken up: the database is gone" in worked.stderr


def test_a_job_whose_image_is_missing_in_the_store_waits_until_it_is_there(
    output: Path, dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = (output / ".wan_async" / "inputs").iterdir()
    image.unlink()
    put_back = JobQueue.put_back

    async def restore(*args: Any) -> None:
        image.write_bytes(png())
        await put_back(*args)

    monkeypatch.setattr(JobQueue, "put_back", restore)
    paid, worked = server.paid, in_process(*ONCE, dsn, env=server.env)
    assert (worked.returncode, server.paid) == (0, paid + 1)
    assert f"the input image {image.name} is missing in the store: enqueue the batch again" in worked.stderr


def test_workers_that_are_gone_are_looked_for_again_after_the_database_was_not_available(
    output: Path, dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, done = list[float](), anyio.Event()

    def take_over(_: str, lease_seconds: float) -> int:
        calls.append(lease_seconds)
        if len(calls) > 2 and (output / "cat.mp4").exists():
            anyio.from_thread.run_sync(done.set)
        raise psycopg.OperationalError("the database is gone")

    monkeypatch.setattr(cluster_worker, "take_over", take_over)

    async def work() -> None:
        async with working(dsn, access_to(server), 0.2):
            with anyio.fail_after(60):
                await done.wait()

    anyio.run(work)


def test_a_worker_that_was_taken_over_starts_the_same_command_as_a_new_process(
    output: Path, dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Replaced(BaseException):
        pass

    async def gone(*_: object) -> bool:
        return False

    def replace(program: str, words: list[str]) -> None:
        raise Replaced(program, words)

    monkeypatch.setattr(cluster_worker, "HEARTBEATS", 1000)
    monkeypatch.setattr(JobQueue, "beat", gone)
    monkeypatch.setattr(os, "execv", replace)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "wan_async", "worker", "--journal", dsn])
    with pytest.raises(Replaced) as raised:
        in_process("worker", "--journal", dsn, env=server.env)
    assert raised.value.args == (sys.executable, [sys.executable, "-m", "wan_async", "worker", "--journal", dsn])
    monkeypatch.undo()
    paid, worked = server.paid, in_process(*ONCE, dsn, env=server.env)
    assert (worked.returncode, server.paid <= paid + 1, (output / "cat.mp4").exists()) == (0, True, True)


@pytest.mark.parametrize("knows", [True, False])
def test_a_worker_that_lost_its_journal_takes_nothing_from_the_queue(
    output: Path, dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch, knows: bool
) -> None:
    """Regression: what it had seen stored left the queue, although the server had fallen back to before that."""
    outcome = ClusterWorker._outcome

    def lost(worker: ClusterWorker, fetched: FetchedJob, again: float | None) -> None:
        assert again is None
        if knows:
            worker._lose()
        else:
            with psycopg.connect(dsn, autocommit=True) as link:
                link.execute("UPDATE wan_async.holders SET commits = commits - 1")
                link.execute(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        outcome(worker, fetched, again)

    def replace(*_: object) -> None:
        raise RuntimeError("it begins anew")

    monkeypatch.setattr(ClusterWorker, "_outcome", lost)
    monkeypatch.setattr(os, "execv", replace)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "wan_async", "worker", "--journal", dsn])
    paid = server.paid
    with pytest.raises(RuntimeError, match="begins anew"):
        in_process(*ONCE, dsn, env=server.env)
    monkeypatch.undo()
    with psycopg.connect(dsn) as link:
        assert link.execute("SELECT count(*) FROM procrastinate_jobs").fetchone() == (1,)
    worked = in_process(*ONCE, dsn, *([] if knows else ["--lease", "1"]), env=server.env)
    assert (worked.returncode, server.paid, (output / "cat.mp4").exists()) == (0, paid + 1, True)


def test_a_journal_that_must_be_checked_is_opened_alone_whoever_seems_to_have_it(
    output: Path, dsn: str, server: Server
) -> None:
    """Regression: the row of a commit whose answer was lost let all wait for a worker that was not there."""
    with psycopg.connect(dsn, autocommit=True) as link:
        link.execute("INSERT INTO procrastinate_workers (id) OVERRIDING SYSTEM VALUE VALUES (7)")
        link.execute(
            "INSERT INTO wan_async.holders (journal, name, worker) SELECT id, 'orphan', 7 FROM wan_async.journals"
        )
        link.execute("INSERT INTO wan_async_1.meta VALUES ('fenced_at', '1')")
        worked = in_process(*ONCE, dsn, env=server.env)
        assert (worked.returncode, (output / "cat.mp4").exists()) == (0, True)
        assert link.execute("SELECT count(*) FROM wan_async_1.meta WHERE name = 'fenced_at'").fetchone() == (0,)


def test_a_worker_waits_for_a_database_that_is_gone_when_it_opens_a_journal(
    output: Path, dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it ended with a traceback."""
    tried = list[float]()

    def live(*args: Any) -> int:
        tried.append(args[-1])
        if len(tried) == 1:
            raise psycopg.OperationalError("the database is gone")
        return live_workers(*args)

    monkeypatch.setattr(dead_workers, "live_workers", live)
    monkeypatch.setattr(dead_workers, "PAUSE_SECONDS", 0.0)
    worked = in_process(*ONCE, dsn, env=server.env)
    assert (worked.returncode, len(tried), (output / "cat.mp4").exists()) == (0, 2, True)
    assert "waiting for the database: the database is gone" in worked.stderr
    assert "Traceback" not in worked.stderr


async def accept_of(dsn: str, output: Path, server: Server, key: str, *unowned: str) -> None:
    """Makes a task an attempt of a job, by a process that is gone, and further tasks that no attempt owns."""
    access = access_to(server)
    home, account = DatabaseHome(dsn, name_of_output(output)), Account(access.origin, access.key)
    async with WanClient(access.key, access.secret, base_url=access.base_url) as client:
        task = await client.submit(Job(prompt=f"{key} {output}"))
        for other in unowned:
            await client.submit(Job(prompt=f"{other} {output}"))
    async with SharedJournal.open(home, account, exclusive=False) as journal:
        (row,) = await journal.jobs_of([key])
        attempt = attempt_at(enlisted_of(row, output))
        await journal.intent(attempt, cap=None)
        await journal.accepted(attempt, task.id, task.token, b"", 1.0, adopted=False)


def enqueued_in(folder: Path, dsn: str, server: Server, *names: str) -> Path:
    """An output with these jobs in the queue."""
    output = folder / "out"
    batch = write_batch(folder, [{"id": name, "prompt": f"{name} {output}"} for name in names])
    done = in_process("enqueue", batch, "-o", output, "--journal", dsn, env=server.env)
    assert done.returncode == 0, done.stderr
    return output


def test_an_unfinished_attempt_whose_job_left_the_queue_is_taken_up(tmp_path: Path, dsn: str, server: Server) -> None:
    output = enqueued_in(tmp_path, dsn, server, "left", "queued")
    anyio.run(accept_of, dsn, output, server, "left")
    with psycopg.connect(dsn, autocommit=True) as link:
        link.execute("DELETE FROM procrastinate_jobs WHERE args ->> 'key' = 'left'")
    paid, worked = server.paid, in_process(*ONCE, dsn, env=server.env)
    assert (worked.returncode, server.paid <= paid + 2) == (0, True), worked.stderr
    assert {path.name for path in output.glob("*.mp4")} == {"left.mp4", "queued.mp4"}


def test_clips_of_an_output_that_waits_for_a_decision_are_fetched(tmp_path: Path, dsn: str, server: Server) -> None:
    output = enqueued_in(tmp_path, dsn, server, "begun", "doubtful", "new")
    anyio.run(accept_of, dsn, output, server, "begun", "doubtful")
    worked = in_process(*ONCE, dsn, env=server.env)
    assert (worked.returncode, "--adopt" in worked.stdout) == (ExitCode.UNRESOLVED, True)
    assert {path.name for path in output.glob("*.mp4")} == {"begun.mp4"}
    assert json.loads((output / "begun.json").read_bytes())["job"] == "begun"
    shown = in_process("status", "--journal", dsn, env=server.env)
    (command,) = re.findall(r"go on with `.*? -m wan_async (.*)` and the flag that fits", shown.stdout)
    worked = in_process(*shlex.split(command), "--adopt", env=server.env)
    assert worked.returncode == 0, worked.stdout
    prompts = [task["parameters"]["prompt"] for task in server.report()["tasks"]]
    assert sorted(prompt for prompt in prompts if prompt.endswith(str(output))) == [
        f"{name} {output}" for name in ("begun", "doubtful", "new")
    ]
    assert {path.name for path in output.glob("*.mp4")} == {"begun.mp4", "doubtful.mp4", "new.mp4"}


def test_a_rate_limit_that_a_worker_meets_is_told_to_all_workers(
    output: Path, dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, pause = list[float](), SlotNotifications.pause

    def note(self: SlotNotifications, seconds: float) -> None:
        told.append(seconds)
        pause(self, seconds)

    monkeypatch.setattr(SlotNotifications, "pause", note)
    monkeypatch.setattr(TokenBucket, "_STRAY", 0.0)
    server.control(fault_next={"name": "http_429", "endpoint": "Run", "times": 1})
    worked = in_process(*ONCE, dsn, env=server.env)
    assert (worked.returncode, (output / "cat.mp4").exists()) == (0, True)
    assert told
    assert all(seconds > 0 for seconds in told)


def test_a_journal_that_is_held_is_waited_for(
    tmp_path: Path, dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, batch = SharedJournal.open, write_batch(tmp_path, [{"prompt": str(tmp_path)}])
    for module, words in (
        (enqueuing, ("enqueue", batch, "-o", tmp_path / "out", "--journal", dsn)),
        (shared_run, (*ONCE, dsn)),
    ):
        tried = list[bool]()

        @asynccontextmanager
        async def open_later(*args: Any, tried: list[bool] = tried, **options: Any) -> AsyncIterator[SharedJournal]:
            tried.append(True)
            if len(tried) == 1:
                raise errors.Locked("another process has it")
            async with opened(*args, **options) as journal:
                yield journal

        with monkeypatch.context() as patch:
            patch.setattr(module, "LOCKED_SECONDS", 0.0)
            patch.setattr(SharedJournal, "open", open_later)
            done = in_process(*words, env=server.env)
        assert (done.returncode, len(tried)) == (0, 2), done.stderr
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 1


def test_an_output_folder_that_cannot_be_made_ends_the_worker_with_a_reason(
    output: Path, dsn: str, server: Server
) -> None:
    output.rename(output.with_name("moved"))
    output.write_text("in the way")
    paid, worked = server.paid, in_process(*ONCE, dsn, env=server.env)
    assert (worked.returncode, server.paid) == (ExitCode.ENVIRONMENT, paid), worked.stderr
    assert str(output) in worked.stderr


def test_a_no_puts_nothing_into_the_queue(
    tmp_path: Path, dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "confirmed", lambda *_: False)
    batch = write_batch(tmp_path, [{"prompt": "it moves"}])
    for command in ("enqueue", "run"):
        done = in_process(command, batch, "-o", tmp_path / "out", "--journal", dsn, env=server.env)
        assert (done.returncode, "nothing was put into the queue" in done.stderr) == (ExitCode.INTERRUPTED, True)
    assert not (tmp_path / "out").exists()
    assert live_workers(dsn, str(tmp_path / "out"), 60.0) == 0


def test_a_run_that_is_left_says_that_the_workers_go_on_and_its_jobs_are_rendered(
    tmp_path: Path, dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def left(*args: Any) -> AsyncIterator[Standing]:
        async for standing in standings(*args):
            yield replace(standing, workers=1)
            raise KeyboardInterrupt

    batch = write_batch(tmp_path, [{"id": "a", "prompt": str(tmp_path), "image": "https://example.com/cat.png"}])
    words = ("run", batch, "-o", tmp_path / "out", "--journal", dsn)
    with monkeypatch.context() as patch:
        patch.setattr(workers, "standings", left)
        done = in_process(*words, env=server.env)
    assert (done.returncode, done.stderr.count("the workers go on; `")) == (ExitCode.INTERRUPTED, 1)
    assert "no worker is alive" not in done.stderr
    assert in_process(*ONCE, dsn, env=server.env).returncode == 0
    done = in_process(*words, "--quiet", env=server.env)
    assert (done.returncode, done.stdout, (tmp_path / "out" / "a.mp4").exists()) == (0, "", True)
    shown = in_process("status", "nowhere", "--journal", dsn, env=server.env)
    assert (shown.returncode, "there is no journal of nowhere in this database" in shown.stderr) == (6, True)


@pytest.mark.parametrize("change", ["other", "gone"])
def test_an_image_that_changes_before_it_is_stored_is_refused(
    tmp_path: Path, dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    image, kept = tmp_path / "cat.png", SharedJournal.is_new

    async def meanwhile(journal: SharedJournal) -> bool:
        image.unlink() if change == "gone" else image.write_bytes(png(b"another"))
        return await kept(journal)

    image.write_bytes(png())
    monkeypatch.setattr(SharedJournal, "is_new", meanwhile)
    batch = write_batch(tmp_path, [{"prompt": "it moves", "image": "cat.png"}])
    refused = in_process("enqueue", batch, "-o", tmp_path / "out", "--journal", dsn, env=server.env)
    assert refused.returncode == ExitCode.ENVIRONMENT
    assert ("has changed" if change == "other" else "can't be copied") in refused.stderr
