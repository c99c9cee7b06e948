"""The `task` commands end to end, with a sandbox over HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from servers import Server, events_of, in_process, quick_own_sandbox, sandbox_server, write_batch

from wan_async import Job, WanClient
from wan_async.cli import local_sandbox
from wan_async.cli.commands.task import _when
from wan_async.cli.main import main


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sandbox_server() as running:
        yield running


@pytest.fixture(scope="module")
def output(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished batch of two jobs."""
    folder = tmp_path_factory.mktemp("batch")
    batch = write_batch(folder, [{"id": f"mine-{n}", "prompt": f"mine {n}"} for n in range(2)])
    assert in_process("run", batch, "-o", folder / "out", env=server.env).returncode == 0
    return folder / "out"


def submit(server: Server, prompt: str) -> Any:
    """Submit a task that is in no journal."""
    info = server.info

    async def send() -> Any:
        async with WanClient(info["api_key"], info["api_secret"], base_url=info["base_url"]) as client:
            return await client.submit(Job(prompt=prompt))

    return anyio.run(send)


def ended(server: Server, prompt: str) -> Any:
    """Submit such a task and wait for its end."""
    info, task = server.info, submit(server, prompt)

    async def wait() -> None:
        async with WanClient(info["api_key"], info["api_secret"], base_url=info["base_url"]) as client:
            await client.read(task)

    anyio.run(wait)
    return task


def test_the_tasks_of_a_trial_can_be_listed_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_sandbox, "sandbox", quick_own_sandbox)
    batch = write_batch(tmp_path, [{"id": "a", "prompt": "a trial"}])
    folder = tmp_path / "outputs" / "batch.sandbox"
    assert in_process("run", batch, "--sandbox").returncode == 0
    done = in_process("task", "list", "--sandbox", folder, "--json")
    (task,) = events_of(done.stdout)
    assert task["parameters"]["prompt"] == "a trial"
    assert "a trial" in in_process("task", "show", task["task_id"], "--sandbox", folder).stdout
    assert in_process("task", "list", "--orphans", folder, "--sandbox", folder).stdout == "no task without an owner\n"
    nothing = in_process("task", "list", "--sandbox", tmp_path)
    assert nothing.returncode == 6
    assert "OUT.sandbox" in nothing.stderr
    assert not (tmp_path / ".wan_async").exists()


def test_list_shows_the_newest_tasks_first(server: Server, output: Path) -> None:
    newest = submit(server, "the newest \u202e one")
    done = in_process("task", "list", env=server.env)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].split()[0] == newest.id
    assert "\u202e" not in done.stdout
    assert "the newest" in lines[0]
    assert any("mine 0" in line and "$0.05" in line for line in lines)
    assert newest.token not in done.stdout
    assert len(in_process("task", "list", "--limit", "1", env=server.env).stdout.splitlines()) == 1


def test_orphans_are_the_tasks_that_no_attempt_owns(server: Server, output: Path) -> None:
    orphan = ended(server, "an orphan")
    done = in_process("task", "list", "--orphans", output, "--json", env=server.env)
    assert done.returncode == 0
    tasks = {line["task_id"]: line for line in events_of(done.stdout)}
    assert orphan.id in tasks
    assert tasks[orphan.id]["parameters"]["prompt"] == "an orphan"
    assert not [task for task in tasks.values() if task["parameters"]["prompt"].startswith("mine")]
    assert "socketaccesstoken" not in done.stdout
    nowhere = in_process("task", "list", "--orphans", output / "nowhere", env=server.env)
    assert (nowhere.returncode, "no journal" in nowhere.stderr) == (6, True)


def test_a_folder_that_owns_every_task_has_no_orphans(tmp_path: Path) -> None:
    with sandbox_server() as server:
        assert in_process("task", "list", env=server.env).stdout == "no tasks\n"
        batch = write_batch(tmp_path, [{"prompt": "mine"}])
        assert in_process("run", batch, "-o", tmp_path / "out", env=server.env).returncode == 0
        done = in_process("task", "list", "--orphans", tmp_path / "out", env=server.env)
        assert (done.returncode, done.stdout) == (0, "no task without an owner\n")


def test_show_prints_a_task_by_id_and_by_token(server: Server) -> None:
    task = ended(server, "shown")
    by_id = in_process("task", "show", task.id, env=server.env)
    assert by_id.returncode == 0
    assert f"task_id: {task.id}" in by_id.stdout
    assert "prompt: shown" in by_id.stdout
    assert "output: video/mp4" in by_id.stdout
    by_token = in_process("task", "show", "--json", task.token, env=server.env)
    shown = json.loads(by_token.stdout)
    assert (shown["task_id"], shown["cost_usd"], shown["status"]) == (task.id, "0.05", "task_postprocess_end")
    assert task.token not in by_id.stdout + by_token.stdout + by_id.stderr + by_token.stderr


def test_an_unknown_task_is_an_error_and_the_others_are_still_shown(server: Server) -> None:
    task = submit(server, "there")
    done = in_process("task", "show", "1", "no-such-token", task.id, env=server.env)
    assert done.returncode == 1
    assert "error: task 1: There is no task yet." in done.stderr
    assert "error: task number 2: There is no task yet." in done.stderr
    assert "no-such-token" not in done.stderr
    assert f"task_id: {task.id}" in done.stdout


def test_cancel_and_kill_end_tasks(tmp_path: Path) -> None:
    with sandbox_server("--seconds", "1000") as server:  # a fiftieth of them in the queue
        queued, running = submit(server, "queued"), submit(server, "running")
        cancelled = in_process("task", "cancel", queued.token, env=server.env)
        assert (cancelled.returncode, cancelled.stdout) == (0, f"task {queued.id} is cancelled\n")
        again = in_process("task", "cancel", queued.id, env=server.env)
        assert (again.returncode, "not in a cancellable state" in again.stderr) == (1, True)
        killed = in_process("task", "kill", running.token, env=server.env)
        assert (killed.returncode, killed.stdout) == (0, f"task {running.id} is killed\n")
        assert {task["status"] for task in server.report()["tasks"]} == {"task_cancel"}
        again = in_process("task", "kill", running.id, env=server.env)
        assert (again.returncode, "killable" in again.stderr) == (1, True)


def test_download_fetches_the_outputs_of_ended_tasks_and_overwrites_nothing(server: Server, tmp_path: Path) -> None:
    first, second = ended(server, "fetch me"), ended(server, "fetch me, too")
    folder = tmp_path / "new" / "clips"
    done = in_process("task", "download", first.id, second.token, "-o", folder, env=server.env)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {f"task-{first.id}.mp4", f"task-{second.id}.mp4"}
    assert f"task-{first.id}.mp4" in done.stdout
    again = in_process("task", "download", first.id, "-o", folder, env=server.env)
    assert (again.returncode, "exists" in again.stderr) == (1, True)
    (tmp_path / "file").write_text("")
    refused = in_process("task", "download", first.id, "-o", tmp_path / "file", env=server.env)
    assert (refused.returncode, "can't be made" in refused.stderr) == (6, True)


def test_download_of_a_running_task_is_refused(tmp_path: Path) -> None:
    with sandbox_server("--seconds", "30") as server:
        task = submit(server, "long")
        done = in_process("task", "download", task.id, "-o", tmp_path, env=server.env)
        assert (done.returncode, "still runs" in done.stderr) == (6, True)
        assert not list(tmp_path.iterdir())


def test_missing_or_wrong_credentials_exit_with_4(server: Server) -> None:
    for env in ({}, server.env | {"WIRO_API_KEY": "wrong-key"}):
        done = in_process("task", "list", env=env)
        assert (done.returncode, done.stdout) == (4, "")
        assert "Traceback" not in done.stderr
    assert in_process("task", env=server.env).returncode == 2
    assert in_process("task", "show", env=server.env).returncode == 2


@pytest.fixture
def here(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The sandbox, for commands that run in this process."""
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return server


def test_a_list_as_json_has_every_field_of_a_task_except_its_token(
    here: Server, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = ended(here, "for machines")
    capsys.readouterr()
    assert main(["task", "list", "--limit", "2", "--json"]) == 0
    printed = capsys.readouterr().out
    first, second = events_of(printed)
    assert (first["event"], first["task_id"], first["cost_usd"]) == ("task", task.id, "0.05")
    assert first["ended_at"] >= first["started_at"] >= first["created_at"]
    assert first["run"] == second["run"]
    assert task.token not in printed


def test_a_printed_list_has_aligned_columns(here: Server, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["p" * 200, "short"]
    sent = [submit(here, prompt) for prompt in prompts]
    assert main(["task", "list", "--limit", "2"]) == 0
    short, long = capsys.readouterr().out.splitlines()
    assert [short.split()[0], long.split()[0]] == [sent[1].id, sent[0].id]
    assert short.endswith("short")
    assert long.endswith("p…")
    assert short.index("short") == long.index("ppp")


def test_invalid_times_are_not_shown() -> None:
    assert [_when(seconds) for seconds in (None, 0.0, 1e20, math.inf, math.nan)] == [""] * 5
    assert _when(1_790_000_000.0).startswith("2026-09-2")


def test_refused_credentials_stop_the_command_after_the_first_request(
    here: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WIRO_API_KEY", "wrong-key")
    before = sum(here.report()["requests"].values())
    assert main(["task", "show", "1", "2", "3"]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert "refuses the credentials" in captured.err
    assert sum(here.report()["requests"].values()) == before + 1
