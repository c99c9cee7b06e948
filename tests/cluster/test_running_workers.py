"""What a worker does about what comes up while it runs: workers that are gone, batches that are enqueued again."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from inner_workers import access_to, worker_in_thread, working
from journals import attempt_at, become
from servers import Server, in_process, sandbox_server, start_forked, write_batch

from wan_async import Job, WanClient
from wan_async.cli.api_settings import Access
from wan_async.cluster.batch_options import kept_options
from wan_async.cluster.job_queue import open_queue
from wan_async.cluster.job_rows import enlisted_of
from wan_async.cluster.shared_journal import SharedJournal
from wan_async.cluster.worker_records import OPTIONS, PARKED
from wan_async.domain import events
from wan_async.domain.attempt import Account
from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.lifecycle import State
from wan_async.domain.remote_task import TaskDetail
from wan_async.engine.options import Options
from wan_async.journal.base import DatabaseHome
from wan_async.journal.journal_location import name_of_output
from wan_async.journal.reports import report


def wait_until(exists: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 60
    while not exists():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sandbox_server() as found:
        yield found


async def work_after_another(dsn: str, output: Path, access: Access) -> list[bool]:
    """Runs a worker that comes after one that has quarantined an attempt, and is never heard of again.

    Returns:
        Whether the clip of the task in question was there once the worker's own job was stored, and later.
    """
    account, home = Account(access.origin, access.key), DatabaseHome(dsn, name_of_output(output))
    async with WanClient(access.key, access.secret, base_url=access.base_url) as client:
        task = await client.submit(Job(prompt="whose"))
    clip, found = output / "unassigned" / f"task-{task.id}.mp4", list[bool]()
    async with open_queue(dsn) as queue:
        gone = await queue.register()
        async with SharedJournal.open(home, account, exclusive=False, worker=gone) as journal:
            attempt = await become(journal, "whose", "unknown")
            await journal.quarantined(attempt, "who knows", [TaskDetail(id=task.id, socketaccesstoken=task.token)], 1.0)
            async with working(dsn, access):
                await anyio.to_thread.run_sync(wait_until, (output / "own.mp4").exists)
                found.append(clip.exists())
                await anyio.to_thread.run_sync(wait_until, clip.exists)
                found.append(clip.exists())
    return found


async def enqueue_again(dsn: str, output: Path, access: Access, enqueue: Callable[..., None]) -> None:
    """Runs a worker, and enqueues the batch with --retry-failed once it has nothing left to do."""
    account, home = Account(access.origin, access.key), DatabaseHome(dsn, name_of_output(output))
    async with SharedJournal.open(home, account, exclusive=False) as journal:
        await journal.job_failed("refused", "refused", "no", sticky=True)
    async with working(dsn, access):
        await anyio.to_thread.run_sync(wait_until, (output / "own.mp4").exists)
        await anyio.to_thread.run_sync(enqueue, "--retry-failed")
        await anyio.to_thread.run_sync(wait_until, (output / "refused.mp4").exists)


async def raise_a_budget(dsn: str, outputs: dict[str, Path], access: Access, enqueue: Callable[..., Path]) -> None:
    """Runs a worker while the budget of an output is used up, another output is enqueued, and the budget is raised."""
    async with working(dsn, access) as stream:
        await anyio.to_thread.run_sync(wait_until, lambda: len(list(outputs["small"].glob("*.mp4"))) == 1)
        await anyio.to_thread.run_sync(enqueue, "other")
        await anyio.to_thread.run_sync(wait_until, lambda: len(list(outputs["other"].glob("*.mp4"))) == 3)
        await anyio.to_thread.run_sync(enqueue, "small", "--budget", "1")
        await anyio.to_thread.run_sync(wait_until, lambda: len(list(outputs["small"].glob("*.mp4"))) == 3)
    seen = [event async for event in stream]
    assert [event.where for event in seen if isinstance(event, events.Problem)] == [str(outputs["small"])]


def test_a_worker_tracks_unassigned_tasks_once_the_one_before_it_is_gone(
    tmp_path: Path, dsn: str, server: Server
) -> None:
    output, batch = tmp_path / "out", write_batch(tmp_path, [{"id": "own", "prompt": "own"}])
    enqueued = in_process("enqueue", batch, "-o", output, "--journal", dsn, env=server.env)
    assert enqueued.returncode == 0, enqueued.stderr
    assert anyio.run(work_after_another, dsn, output, access_to(server)) == [False, True]


def test_a_worker_that_runs_already_obeys_the_flags_of_the_latest_enqueue(
    tmp_path: Path, dsn: str, server: Server
) -> None:
    output, paid = tmp_path / "out", server.paid
    batch = write_batch(tmp_path, [{"id": name, "prompt": name} for name in ("own", "refused")])

    def enqueue(*flags: str) -> None:
        done = in_process("enqueue", batch, "-o", output, "--journal", dsn, *flags, env=server.env)
        assert done.returncode == 0, done.stderr

    enqueue()
    anyio.run(enqueue_again, dsn, output, access_to(server), enqueue)
    assert server.paid == paid + 2


def enqueuing(tmp_path: Path, dsn: str, server: Server, name: str, *flags: str) -> Path:
    """Enqueues three jobs for an output of this name, which is returned."""
    (tmp_path / name).mkdir(exist_ok=True)
    batch, output = write_batch(tmp_path / name, [{"prompt": f"{name} {n}"} for n in range(3)]), tmp_path / name / "out"
    done = in_process("enqueue", batch, "-o", output, "--journal", dsn, *flags, env=server.env)
    assert done.returncode == 0, done.stderr
    return output


def test_a_budget_that_is_used_up_ends_no_worker_and_its_jobs_go_on_once_it_is_raised(
    tmp_path: Path, dsn: str, server: Server
) -> None:
    paid, enqueue = server.paid, partial(enqueuing, tmp_path, dsn, server)
    outputs = {"small": enqueue("small", "--budget", "0.06"), "other": tmp_path / "other" / "out"}
    anyio.run(raise_a_budget, dsn, outputs, access_to(server), enqueue)
    assert server.paid == paid + 6


async def leave_missing(dsn: str, output: Path, access: Access) -> None:
    """Gives two jobs of an output attempts that are missing: `gone`, whose task there never was, and `back`."""
    account, home = Account(access.origin, access.key), DatabaseHome(dsn, name_of_output(output))
    async with WanClient(access.key, access.secret, base_url=access.base_url) as client:
        back = await client.submit(Job(prompt="back"))
        await client.wait_ended(back)
    tasks = {"gone": ("999999", "none"), "back": (back.id or "", back.token or "")}
    async with SharedJournal.open(home, account, exclusive=True) as journal:
        for job in [enlisted_of(row, output) for row in await journal.all_jobs()]:
            if job.key in tasks:
                attempt = attempt_at(job)
                await journal.intent(attempt, cap=None)
                await journal.accepted(attempt, *tasks[job.key], b"{}", 1002.0, adopted=False)
                await journal.closed(attempt, State.MISSING, "because")


@pytest.mark.parametrize(
    ("flags", "rendered", "states"),
    [
        ([], 1, {"stored": 2, "missing": 1}),
        (["--rerender"], 2, {"stored": 3}),
        (["--rerender", "--only", "other"], 1, {"stored": 2, "missing": 1}),
        (["--give-up"], 1, {"stored": 2, "given_up": 1}),
        (["--give-up", "--only", "o*"], 1, {"stored": 2, "missing": 1}),
    ],
)
def test_missing_clips_of_workers_are_asked_for_once_more_then_rendered_anew_or_given_up(
    tmp_path: Path, dsn: str, server: Server, flags: list[str], rendered: int, states: dict[str, int]
) -> None:
    output, names = tmp_path / "out", ("gone", "back", "other")
    batch = write_batch(tmp_path, [{"id": name, "prompt": name} for name in names])
    enqueue = partial(in_process, "enqueue", batch, "-o", output, "--journal", dsn, env=server.env)
    assert enqueue().returncode == 0
    anyio.run(leave_missing, dsn, output, access_to(server))
    paid, done = server.paid, enqueue(*flags)
    assert done.returncode == 0, done.stderr
    for _ in range(2):  # the second worker finds nothing that is left to do
        worked = in_process("worker", "--once", "--journal", dsn, env=server.env)
        assert worked.returncode == 0, worked.stderr
        assert server.paid == paid + rendered
    known = report(DatabaseHome(dsn, name_of_output(output)))
    assert known is not None
    assert Counter(result.state for result in known.results) == states
    assert (output / "back.mp4").exists()


async def quarantine(dsn: str, output: Path, access: Access) -> None:
    """Gives each job of an output a quarantined attempt."""
    account, home = Account(access.origin, access.key), DatabaseHome(dsn, name_of_output(output))
    async with SharedJournal.open(home, account, exclusive=True) as journal:
        for row in await journal.all_jobs():
            await become(journal, enlisted_of(row, output), "quarantined")


@pytest.mark.parametrize("is_later", [False, True])
def test_workers_submit_no_attempt_again_that_was_made_after_that_was_decided(
    tmp_path: Path, dsn: str, server: Server, is_later: bool
) -> None:
    output, batch = tmp_path / "out", write_batch(tmp_path, [{"id": "a", "prompt": "a"}])
    enqueue = partial(in_process, "enqueue", batch, "-o", output, "--journal", dsn, env=server.env)
    assert enqueue(*["--resubmit-unknown"] * is_later).returncode == 0
    anyio.run(quarantine, dsn, output, access_to(server))
    if not is_later:
        assert enqueue("--resubmit-unknown").returncode == 0
    paid, worked = server.paid, in_process("worker", "--once", "--journal", dsn, env=server.env)
    assert worked.returncode == 0, worked.stderr
    assert server.paid == paid + (not is_later)


async def submit(access: Access, prompt: str) -> None:
    """Submits a task that no journal has."""
    async with WanClient(access.key, access.secret, base_url=access.base_url) as client:
        await client.submit(Job(prompt=prompt))


@pytest.mark.parametrize(
    ("flags", "code", "clips", "said"),
    [
        (["--budget", "0.06"], ExitCode.FUNDS, 1, "the budget does not allow another task: its jobs wait"),
        ([], ExitCode.UNRESOLVED, 0, "its jobs wait"),
    ],
    ids=["budget", "unowned task"],
)
def test_an_output_that_can_not_go_on_leaves_others_alone_and_decides_the_exit_code(
    tmp_path: Path, dsn: str, server: Server, flags: list[str], code: ExitCode, clips: int, said: str
) -> None:
    held_up = enqueuing(tmp_path, dsn, server, "held up", *flags)
    if not flags:
        anyio.run(submit, access_to(server), "held up 0")
    other = enqueuing(tmp_path, dsn, server, "other")
    worked = in_process("worker", "--once", "--journal", dsn, env=server.env)
    assert worked.returncode == code, worked.stdout + worked.stderr
    assert [len(list(output.glob("*.mp4"))) for output in (held_up, other)] == [clips, 3]
    assert worked.stdout.count(said) == 1
    assert f" {clips + 3} stored · ${(clips + 3) * 0.05:.2f} spent" in worked.stdout
    assert "error:" not in worked.stderr
    status = in_process("status", held_up, "--journal", dsn, env=server.env)
    assert said.partition(":")[0] in status.stdout or not flags
    assert "workers: none alive" in status.stdout
    known = json.loads(in_process("status", held_up, "--journal", dsn, "--json", env=server.env).stdout)
    assert (known["workers"], known["budget_usd"]) == (0, "0.06" if flags else None)
    assert known["waiting_for"] in status.stdout
    again = in_process("worker", "--once", "--ignore-unowned", "--journal", dsn, env=server.env)
    assert again.returncode == (ExitCode.FUNDS if flags else ExitCode.SUCCESS), again.stdout + again.stderr
    assert len(list(held_up.glob("*.mp4"))) == (1 if flags else 3)


def test_a_run_whose_budget_is_used_up_ends_and_names_the_command_that_goes_on(
    tmp_path: Path, dsn: str, server: Server
) -> None:
    batch = write_batch(tmp_path, [{"prompt": f"little {n}"} for n in range(3)])
    words = ("run", batch, "-o", tmp_path / "out", "--journal", dsn)
    with worker_in_thread(dsn, server):
        first = in_process(*words, "--budget", "0.06", env=server.env)
        assert first.returncode == ExitCode.FUNDS, first.stdout + first.stderr
        assert "--budget 0.15 --journal" in first.stdout
        then = in_process(*words, "--budget", "0.15", env=server.env)
        assert then.returncode == 0, then.stdout + then.stderr
        assert "budget $0.06 -> $0.15" in then.stderr
        assert f"clips in {tmp_path / 'out'}" in then.stdout


def test_a_run_that_is_left_while_no_worker_is_alive_does_not_say_that_workers_go_on(
    tmp_path: Path, dsn: str, server: Server
) -> None:
    batch = write_batch(tmp_path, [{"prompt": "nobody is there"}])
    waiting = start_forked("run", batch, "-o", tmp_path / "out", "--journal", dsn, env=server.env)
    assert waiting.stderr is not None
    _, *said = [waiting.stderr.readline() for _ in range(4)]  # the first names the service
    waiting.send_signal(signal.SIGINT)
    _, left = waiting.communicate(timeout=30)
    assert waiting.returncode == ExitCode.INTERRUPTED
    assert said[1] == "1 job was put into the queue\n"
    for line in (said[2], left):
        assert line.startswith("no worker is alive")
        assert " worker --journal " in line


def test_a_budget_that_is_raised_while_the_run_of_the_output_ends_is_used_at_once(
    tmp_path: Path, dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = SharedJournal.keep

    async def keep_and_enqueue(journal: SharedJournal, name: str, value: str) -> None:
        await keep(journal, name, value)
        if name == PARKED and value:
            await keep(journal, OPTIONS, kept_options(Options(budget_micros=1_000_000), 0))
            await keep(journal, PARKED, "")

    async def work() -> None:
        async with working(dsn, access_to(server)):
            await anyio.to_thread.run_sync(wait_until, lambda: len(list(output.glob("*.mp4"))) == 3)

    output = enqueuing(tmp_path, dsn, server, "small", "--budget", "0.06")
    monkeypatch.setattr(SharedJournal, "keep", keep_and_enqueue)
    anyio.run(work)
