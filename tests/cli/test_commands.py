"""The commands end to end, with a sandbox over HTTP: exit codes, files and messages.

Most run in this process; signals, pipes, closed streams, encodings and concurrent runs need child processes.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from connections import loopback_tls
from harness import World, make_sandbox, text_jobs, virtually
from pictures import png
from sampling import sampled
from servers import Server, events_of, in_process, sandbox_server, start, start_forked, write_batch

from wan_async.cli.error_messages import say_notices
from wan_async.cli.local_sandbox import state_in
from wan_async.cli.main import main
from wan_async.cli.resume_command import resume_command
from wan_async.domain.batch import Enlisted, PlannedJob
from wan_async.domain.job import Job
from wan_async.engine import submission
from wan_async.errors import Unusable
from wan_async.journal.sqlite import SqliteJournal
from wan_async.wiro import protocol

FIELDS = {
    "started": {
        "output", "jobs", "done", "to_fetch", "duplicates", "to_do", "estimate_usd", "budget_usd", "concurrency",
        "left_out", "changed", "groups",
    },
    "uploaded": {"job", "attempt", "bytes", "url"},
    "submitting": {"job", "attempt", "price_usd"},
    "accepted": {"job", "attempt", "task_id", "adopted"},
    "progress": {"job", "attempt", "percent", "status"},
    "ended": {"job", "attempt", "task_id", "status", "pexit", "cost_usd"},
    "downloading": {"job", "attempt", "bytes", "total"},
    "stored": {"job", "attempt", "file", "bytes", "sha256", "cost_usd", "seconds"},
    "retrying": {"job", "attempt", "reason", "after_seconds"},
    "failed": {"job", "attempt", "kind", "message", "task_id", "billed_usd"},
    "limited": {"code", "after_seconds", "concurrency", "job"},
    "problem": {"where", "message"},
    "stopping": {"reason"},
    "finished": {
        "exit_code", "jobs", "stored", "skipped", "failed", "cancelled", "missing", "unknown", "unfinished",
        "run_usd",
        "spent_usd",
        "reserved_usd", "seconds", "resume", "choices",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sandbox_server() as running:
        yield running


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    (tmp_path / "cat.png").write_bytes(png(b"cat" * 50))
    jobs: list[dict[str, Any]] = [{"id": f"scene-{n}", "prompt": f"scene {n}"} for n in range(3)]
    return write_batch(tmp_path, [*jobs, {"id": "cat", "image": "cat.png", "prompt": "it yawns"}])


def test_a_run_stores_every_clip_and_a_second_run_sends_no_request(server: Server, batch: Path) -> None:
    first = in_process("run", batch, env=server.env)
    assert first.returncode == 0, first.stderr
    output = batch.parent / "outputs" / "batch"
    assert {clip.stem for clip in output.glob("*.mp4")} == {"scene-0", "scene-1", "scene-2", "cat"}
    assert "4 stored" in first.stdout
    requests = server.report()["requests"]
    second = in_process("run", batch, env=server.env)
    assert second.returncode == 0
    assert "4 done before" in second.stdout
    assert server.report()["requests"] == requests


def test_json_lines_have_exactly_the_documented_fields(server: Server, batch: Path) -> None:
    done = in_process("run", batch, "--json", env=server.env)
    assert done.returncode == 0, done.stderr
    lines = events_of(done.stdout)
    for line in lines:
        assert set(line) == FIELDS[line["event"]] | {"event", "at", "run"}
    assert lines[0]["event"] == "started"
    assert lines[-1]["event"] == "finished"
    assert lines[-1]["spent_usd"] == "0.20"
    assert {line["event"] for line in lines} >= {"uploaded", "submitting", "accepted", "ended", "stored"}
    assert done.stderr == ""


def test_an_invalid_batch_exits_with_2_and_reports_every_problem(server: Server, tmp_path: Path) -> None:
    path = write_batch(tmp_path, [{"prompt": "a", "resolution": "490P"}, {"prompt": "", "sed": 1}])
    done = in_process("run", path, "--json", env=server.env)
    assert done.returncode == 2
    lines = events_of(done.stdout)
    assert [line["event"] for line in lines[:-1]] == ["problem"] * (len(lines) - 1)
    assert len(lines) >= 3
    assert 'did you mean "480P"' in done.stderr
    assert lines[-1]["exit_code"] == 2
    assert "nothing was spent" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "nowhere.yaml"],
        ["run"],
        ["run", "x.yaml", "--concurrency", "0"],
        ["run", "x.yaml", "--budget", "-1"],
        ["run", "x.yaml", "--settle", "soon"],
        ["plan", "nowhere.yaml"],
        ["generate", "-p", "x", "--resolution", "8K"],
        ["generate", "-p", "x", "-i", "nowhere.png"],
        [],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], server: Server, tmp_path: Path) -> None:
    done = in_process(*arguments, env=server.env, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_missing_key_exits_with_4_and_names_the_variable_to_set(batch: Path) -> None:
    done = in_process("run", batch)
    assert done.returncode == 4
    assert "WIRO_API_KEY" in done.stderr


def test_a_wrong_key_exits_with_4_after_one_request(server: Server, batch: Path) -> None:
    before = sum(server.report()["requests"].values())
    done = in_process("run", batch, env=server.env | {"WIRO_API_KEY": "wrong-key"})
    assert done.returncode == 4
    assert "refuses the credentials" in done.stdout
    assert sum(server.report()["requests"].values()) == before + 1


def test_an_exhausted_budget_exits_with_3_and_prints_the_command_to_resume(server: Server, batch: Path) -> None:
    done = in_process("run", batch, "--budget", "0.11", env=server.env)
    assert done.returncode == 3
    assert "2 stored" in done.stdout
    assert "python -m wan_async run" in done.stdout


def test_plain_http_to_another_host_exits_with_2(batch: Path) -> None:
    done = in_process("run", batch, env={"WIRO_API_KEY": "k", "WIRO_BASE_URL": "http://example.com/v1"})
    assert done.returncode == 2
    assert "plain text" in done.stderr


def test_a_wrong_tls_or_proxy_configuration_exits_with_6_at_once_and_is_explained(batch: Path, tmp_path: Path) -> None:
    """An untrusted certificate, a proxy that requires a password, and two invalid proxy URLs."""
    ours, _ = loopback_tls(tmp_path)

    def secure(connection: socket.socket) -> None:
        ours.wrap_socket(connection, server_side=True).close()

    def require_password(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    account = {"WIRO_API_KEY": "k", "WIRO_BASE_URL": "https://api.example/v1"}
    with accepting(secure) as tls, accepting(require_password) as proxy:
        for env, message in (
            ({"WIRO_BASE_URL": f"https://127.0.0.1:{tls}/v1"}, "certificate is not trusted"),
            ({"HTTPS_PROXY": f"http://user:hunter2@127.0.0.1:{proxy}"}, "HTTP 407"),
            ({"HTTPS_PROXY": "socks4://user:hunter2@127.0.0.1"}, "proxy's URL can't be used"),
            ({"HTTPS_PROXY": "http://user:hunter2@127.0.0.1:port"}, "proxy's URL can't be used"),
        ):
            began = time.monotonic()
            done = in_process("run", batch, "--json", env=account | env)
            finished = events_of(done.stdout)[-1]
            assert (done.returncode, finished["exit_code"]) == (6, 6)
            assert message in done.stderr
            assert "hunter2" not in done.stderr + done.stdout
            assert finished["seconds"] < 3
            assert time.monotonic() - began < 30


@contextmanager
def accepting(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen on a local port, and serve and close each connection. Yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def test_a_folder_of_another_account_exits_with_6(server: Server, batch: Path) -> None:
    assert in_process("run", batch, env=server.env).returncode == 0
    with sandbox_server() as other:
        done = in_process("run", batch, env=other.env)
    assert done.returncode == 6
    assert "belongs to the account at" in done.stdout


def test_a_second_process_exits_with_6_and_prints_the_pid_of_the_first(server: Server, tmp_path: Path) -> None:
    with sandbox_server("--seconds", "30,30") as slow:
        path = write_batch(tmp_path, [{"id": "a", "prompt": "p"}])
        first = start_forked("run", path, "--json", env=slow.env)
        assert first.stdout is not None
        _read_until(first.stdout, "accepted")
        second = in_process("run", path, env=slow.env)
        assert second.returncode == 7
        assert str(first.pid) in second.stdout
        first.send_signal(signal.SIGINT)
        _read_until(first.stdout, "stopping")
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=30)


def test_failed_jobs_exit_with_1(batch: Path) -> None:
    with sandbox_server("--fault", "failed_render=1") as failing:
        done = in_process("run", batch, "--retries", "0", env=failing.env)
    assert done.returncode == 1
    assert "4 failed" in done.stdout


def _read_until(stream: Any, event: str) -> dict[str, Any]:
    for line in stream:
        parsed: dict[str, Any] = json.loads(line)
        if parsed["event"] == event:
            return parsed
    raise AssertionError(f"no {event}")


def test_ctrl_c_drains_running_tasks_and_exits_with_130(tmp_path: Path) -> None:
    with sandbox_server("--seconds", "2,2", "--limit", "2") as server:
        path = write_batch(tmp_path, [{"id": f"{n}", "prompt": f"p{n}"} for n in range(6)])
        running = start_forked("run", path, "--json", env=server.env)
        assert running.stdout is not None
        _read_until(running.stdout, "accepted")
        running.send_signal(signal.SIGINT)
        rest, _ = running.communicate(timeout=60)
        lines = events_of(rest)
        assert running.returncode == 130
        assert lines[-1]["exit_code"] == 130
        assert lines[-1]["stored"] >= 1
        assert "run" in lines[-1]["resume"]
        assert server.paid == lines[-1]["stored"]
        assert in_process("run", path, env=server.env).returncode == 0
        assert server.paid == 6


def test_a_second_ctrl_c_exits_at_once_and_the_next_run_resumes(tmp_path: Path) -> None:
    with sandbox_server("--seconds", "5,5") as server:
        path = write_batch(tmp_path, [{"id": f"{n}", "prompt": f"p{n}"} for n in range(3)])
        running = start_forked("run", path, "--json", env=server.env)
        assert running.stdout is not None
        _read_until(running.stdout, "accepted")
        running.send_signal(signal.SIGINT)
        _read_until(running.stdout, "stopping")
        running.send_signal(signal.SIGINT)
        rest, _ = running.communicate(timeout=60)
        assert running.returncode == 130
        assert events_of(rest)[-1]["stored"] == 0
        assert in_process("run", path, env=server.env).returncode == 0
        assert server.paid == 3


def test_sigterm_stops_with_a_deadline(tmp_path: Path) -> None:
    with sandbox_server("--seconds", "60,60") as server:
        path = write_batch(tmp_path, [{"id": "a", "prompt": "p"}])
        running = start_forked("run", path, "--json", env=server.env)
        assert running.stdout is not None
        _read_until(running.stdout, "accepted")
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)
        assert running.returncode == 143


def test_a_broken_pipe_on_stdout_loses_no_clip(tmp_path: Path) -> None:
    with sandbox_server("--seconds", "1,1") as server:
        path = write_batch(tmp_path, [{"id": f"{n}", "prompt": f"p{n}"} for n in range(3)])
        running = start("run", path, "--json", env=server.env)
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.wait(60) == 0
        assert running.stderr.read() == ""
        running.stderr.close()
        assert len(list((tmp_path / "outputs" / "batch").glob("*.mp4"))) == 3


def test_no_job_is_written_out_with_what_planning_returns_to_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio writes out a task's result when it takes its handler of SIGINT back: 320 MB for 100,000 jobs."""
    written = list[object]()

    def write(job: object) -> str:
        written.append(job)
        return ""

    for kind in (Job, PlannedJob, Enlisted):
        monkeypatch.setattr(kind, "__repr__", write)
    assert main(["plan", str(text_batch(tmp_path, 3))]) == 0
    assert written == []


def test_plan_shows_jobs_states_and_cost_and_spends_nothing(server: Server, batch: Path) -> None:
    tasks = len(server.report()["tasks"])
    planned = in_process("plan", batch, env=server.env)
    assert planned.returncode == 0
    assert "4 to render" in planned.stdout
    assert "$0.20" in planned.stdout
    assert "unknown (without an API key" in in_process("plan", batch).stdout.splitlines()[-1]
    assert not (batch.parent / "outputs").exists()
    lines = events_of(in_process("plan", batch, "--json", env=server.env).stdout)
    assert [line["event"] for line in lines] == ["job"] * 4 + ["plan"]
    assert lines[-1]["estimate_usd"] == "0.20"
    dry = in_process("run", batch, "--dry-run", env=server.env)
    assert dry.stdout == planned.stdout
    assert len(server.report()["tasks"]) == tasks
    in_process("run", batch, "--only", "cat", env=server.env)
    assert "1 done" in in_process("plan", batch, env=server.env).stdout


def test_generate_renders_one_clip_and_resumes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("mine")
    arguments: list[str | Path] = ["generate", "-p", "rain", "-o", tmp_path / "rain.mp4"]
    assert in_process(*arguments, env=server.env).returncode == 0
    assert (tmp_path / "rain.mp4").exists()
    assert (tmp_path / "rain.json").exists()
    assert (tmp_path / "results.jsonl").read_text() == "mine"
    paid = server.paid
    again = in_process(*arguments, env=server.env)
    assert (again.returncode, server.paid) == (0, paid)
    other = in_process("generate", "-p", "snow", "-o", tmp_path / "rain.mp4", env=server.env)
    assert (other.returncode, server.paid) == (0, paid + 1)
    assert (tmp_path / "rain.1.mp4").exists()


def test_a_clip_that_another_one_of_the_folder_equals_is_not_taken_for_a_task_that_the_journal_lost(
    server: Server, tmp_path: Path
) -> None:
    """Regression: each single clip has a journal of its own, and that of the first did not know the second's task."""
    for prompt, file in (("a dog of its own", "a.mp4"), ("a cow of its own", "b.mp4"), ("a cow of its own", "a.mp4")):
        done = in_process("generate", "-p", prompt, "-o", tmp_path / file, env=server.env)
        assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("*.mp4")} == {"a.mp4", "a.1.mp4", "b.mp4"}


def test_generate_never_overwrites_a_file_that_it_did_not_write(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.mp4").write_text("mine")
    paid = server.paid
    done = in_process("generate", "-p", "rain", "-o", tmp_path / "mine.mp4", env=server.env)
    assert (done.returncode, server.paid) == (1, paid)
    assert "was not written by wan_async" in done.stdout
    assert (tmp_path / "mine.mp4").read_text() == "mine"


def test_status_shows_what_the_journal_holds(server: Server, batch: Path) -> None:
    output = batch.parent / "outputs" / "batch"
    in_process("run", batch, "--limit", "2", env=server.env)
    shown = in_process("status", output)
    assert shown.returncode == 0
    assert "2  stored" in shown.stdout
    assert "spent $0.10" in shown.stdout
    (line,) = events_of(in_process("status", output, "--json").stdout)
    assert line["states"] == {"stored": 2, "planned": 2}
    nothing = in_process("status", batch.parent)
    assert nothing.returncode == 6
    assert "no journal" in nothing.stderr


def test_status_looks_at_the_disk_and_counts_earlier_takes(server: Server, tmp_path: Path) -> None:
    output = tmp_path / "outputs" / "batch"
    jobs = [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y"}]
    in_process("run", write_batch(tmp_path, jobs), env=server.env)
    edited = write_batch(tmp_path, [{"id": "a", "prompt": "z"}, jobs[1]])
    changed = in_process("plan", edited, env=server.env).stdout
    assert "changed since their last clip, which is kept beside the new one: a\n" in changed
    in_process("run", edited, env=server.env)
    (line,) = events_of(in_process("status", output, "--json").stdout)
    assert (line["states"], line["gone"], line["earlier_takes"]) == ({"stored": 2}, [], 1)
    (output / "a.1.mp4").unlink()
    (output / "b.mp4").unlink()
    (line,) = events_of(in_process("status", output, "--json").stdout)
    assert line["gone"] == ["b"]
    shown = in_process("status", output).stdout
    assert "1  earlier take, kept" in shown
    assert "1 clip is gone from the folder; the next run fetches them again for free: b\n" in shown
    (output / "a.mp4").write_bytes(b"cut")
    (line,) = events_of(in_process("status", output, "--json").stdout)
    assert sorted(line["gone"]) == ["a", "b"]
    assert "2 clips are gone" in in_process("plan", tmp_path / "batch.json", env=server.env).stdout


def test_gallery_makes_a_page(server: Server, batch: Path) -> None:
    in_process("run", batch, env=server.env)
    done = in_process("gallery", batch.parent / "outputs" / "batch")
    assert done.returncode == 0
    written = batch.parent / "outputs" / "batch" / "gallery.html"
    page = written.read_text()
    assert "cat.mp4" in page
    assert "scene 1" in page
    assert in_process("gallery", written.parent).returncode == 0
    assert in_process("run", batch, env=server.env).returncode == 0
    written.write_text("my own page")
    done = in_process("gallery", written.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{written}: exists and is not ours" in done.stderr
    assert written.read_text() == "my own page"


def test_clips_without_their_journal_are_not_overwritten(server: Server, batch: Path) -> None:
    in_process("run", batch, env=server.env)
    output, paid = batch.parent / "outputs" / "batch", server.paid
    (output / ".wan_async").rename(batch.parent / "away")
    done = in_process("run", batch, env=server.env)
    assert (done.returncode, server.paid) == (2, paid)
    for name in ("results.jsonl", "cat.mp4", "cat.json"):
        assert str(output / name) in done.stderr
    (batch.parent / "away").rename(output / ".wan_async")
    for name in ("results.jsonl.tmp", "cat.json.tmp", "cat.1.part"):  # as a killed process leaves them
        (output / name).write_text("")
    batch.write_text(batch.read_text().replace("it yawns", "it sleeps"))
    done = in_process("run", batch, env=server.env)
    assert (done.returncode, server.paid) == (0, paid + 1)


def test_schema_is_json() -> None:
    schema = json.loads(in_process("schema").stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")


def test_a_batch_from_standard_input_needs_an_output_folder(server: Server, tmp_path: Path) -> None:
    line = json.dumps({"id": "a", "prompt": "p"})
    assert in_process("run", "-", env=server.env, stdin=line).returncode == 2
    done = in_process("run", "-", "-o", tmp_path / "out", env=server.env, stdin=line)
    assert done.returncode == 0
    assert (tmp_path / "out" / "a.mp4").exists()


def test_a_run_with_its_own_sandbox_needs_no_account_and_has_a_separate_folder(batch: Path) -> None:
    done = in_process("run", batch, "--sandbox", "--limit", "1", env={"WIRO_API_KEY": "mine"})
    assert done.returncode == 0, done.stderr
    assert not (batch.parent / "outputs" / "batch").exists()
    clip = next((batch.parent / "outputs" / "batch.sandbox").glob("*.mp4"))
    assert clip.read_bytes()[4:8] == b"ftyp"
    again = in_process("run", batch, "--sandbox", "--limit", "1", "--only", "scene-0")
    assert (again.returncode, "1 done before" in again.stdout) == (0, True)


def test_a_key_only_project_works(tmp_path: Path) -> None:
    with sandbox_server("--key-only") as server:
        path = write_batch(tmp_path, [{"id": "a", "prompt": "p"}])
        assert in_process("run", path, env=server.env).returncode == 0


def test_completion_scripts_are_printed() -> None:
    assert "wan-async" in in_process("--print-completion", "bash").stdout


@pytest.fixture
def here(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The sandbox, for commands that run in this process."""
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_COLOR", "1")
    return server


def text_batch(folder: Path, count: int) -> Path:
    return write_batch(folder, [{"id": f"job-{n}", "prompt": f"scene {n}"} for n in range(count)])


def test_an_attempt_of_unknown_outcome_exits_with_5_and_is_resubmitted_only_on_request(tmp_path: Path) -> None:
    path = text_batch(tmp_path, 1)
    with sandbox_server("--echo", "empty", "--fault", "drop_after@Run=1") as server:
        for _ in range(2):
            done = in_process("run", path, "--settle", "0.1", env=server.env)
            assert (done.returncode, server.paid) == (5, 1)
            assert "1 unknown" in done.stdout
        server.control(faults={})
        done = in_process("run", path, "--settle", "0.1", "--resubmit-unknown", env=server.env)
        assert (done.returncode, server.paid) == (0, 2)


def test_a_plan_as_json_has_no_price_without_credentials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(text_batch(tmp_path, 2)), "--json"]) == 0
    *lines, total = events_of(capsys.readouterr().out)
    assert [(line["job"], line["state"], line["price_usd"]) for line in lines] == [
        ("job-0", "planned", None), ("job-1", "planned", None)
    ]  # fmt: skip
    assert (total["jobs"], total["done"], total["estimate_usd"]) == (2, 0, None)
    assert total["output"] == str(tmp_path / "outputs" / "batch")


def test_a_long_plan_is_truncated_with_the_number_of_omitted_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(text_batch(tmp_path, 23))]) == 0
    output = capsys.readouterr().out
    assert "job-19" in output
    assert "job-20" not in output
    assert "... and 3 more" in output


def test_a_run_without_a_key_makes_no_folder(tmp_path: Path) -> None:
    path = text_batch(tmp_path, 1)
    assert in_process("run", path, "--skip-bad", cwd=tmp_path).returncode == 4
    assert list(tmp_path.iterdir()) == [path]


def test_a_plan_with_its_own_sandbox_names_its_price_and_creates_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = text_batch(tmp_path, 1)
    assert main(["plan", str(path), "--sandbox"]) == 0
    output = capsys.readouterr().out
    assert f"1 job → {tmp_path / 'outputs' / 'batch.sandbox'}" in output
    assert output.splitlines()[-1] == "new money for 1 job: $0.05 (1 x 480P at $0.05)"
    assert list(tmp_path.iterdir()) == [path]


def test_a_plan_is_printed_even_if_the_price_is_unavailable(
    here: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WIRO_BASE_URL", f"{here.root}/elsewhere/v1")
    assert main(["plan", str(text_batch(tmp_path, 1))]) == 0
    captured = capsys.readouterr()
    assert "new money for 1 job: unknown (" in captured.out.splitlines()[-1]
    assert "is the base URL right?" in captured.out


def test_a_plan_into_a_closed_pipe_exits_with_0_and_prints_no_error(tmp_path: Path) -> None:
    running = start("plan", text_batch(tmp_path, 400), "--json")
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    assert running.wait(60) == 0
    assert running.stderr.read() == ""
    running.stderr.close()


def test_problems_after_the_fiftieth_are_only_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_batch(tmp_path, [{"prompt": f"{n}", "resolution": "8K"} for n in range(53)])
    assert main(["run", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("... and 3 more problems\nnothing was spent\n")


@pytest.mark.parametrize("stderr", ["closed", "none"])
def test_without_a_usable_stderr_the_exit_code_reports_the_error(
    tmp_path: Path, stderr: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", closed if stderr == "closed" else None)
    assert main(["run", str(text_batch(tmp_path, 1))]) == 4
    assert capsys.readouterr().out == ""


def test_ctrl_c_while_the_batch_is_read_exits_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Waiting(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Waiting()))
    assert main(["run", "-", "-o", str(tmp_path / "out")]) == 130
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_exits_with_6(
    here: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["run", str(text_batch(tmp_path, 1)), "-o", str(tmp_path / "file" / "out")]) == 6
    assert f"{tmp_path / 'file' / 'out'} can't be made: Not a directory" in capsys.readouterr().err


def test_with_json_a_fatal_error_is_also_printed_to_stderr(
    here: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WIRO_API_KEY", "wrong-key")
    assert main(["run", str(text_batch(tmp_path, 1)), "--json"]) == 4
    captured = capsys.readouterr()
    assert events_of(captured.out)[-1]["exit_code"] == 4
    assert "error: " in captured.err
    assert "refuses the credentials" in captured.err


def test_on_a_terminal_a_run_has_a_live_display(here: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    assert main(["run", str(text_batch(tmp_path, 1))]) == 0
    assert "1 stored" in terminal.getvalue()


def test_a_run_whose_stdout_is_a_broken_pipe_completes(
    here: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert main(["run", str(text_batch(tmp_path, 2)), "--json"]) == 0
        monkeypatch.undo()
    assert capsys.readouterr().err == ""
    assert len(list((tmp_path / "outputs" / "batch").glob("*.mp4"))) == 2


def test_paid_tasks_that_could_not_be_journaled_are_listed_and_recovered_by_the_next_run(
    here: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = 0

    async def accepted(journal: SqliteJournal, *args: object, **options: object) -> None:
        nonlocal refused
        refused += 1
        if refused in (2, 3):  # Ctrl-C, twice
            os.kill(os.getpid(), signal.SIGINT)
        raise Unusable("the disk is full: free some space and run the same command again")

    path, paid = text_batch(tmp_path, 1), len(here.report()["tasks"])
    with monkeypatch.context() as full:
        full.setattr(SqliteJournal, "accepted", accepted)
        full.setattr(submission, "UNSAVED_SECONDS", 0.05)
        assert main(["run", str(path)]) == 130
    (task,) = here.report()["tasks"][paid:]
    captured = capsys.readouterr()
    assert f"these tasks were paid for and could not be written down: {task['id']}" in captured.err
    assert main(["run", str(path), "--settle", "0.1"]) == 0
    assert len(here.report()["tasks"]) == paid + 1


def test_generate_with_its_own_sandbox_writes_only_to_the_sandbox_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "-p", "rain", "--sandbox", "--budget", "0"]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["outputs.sandbox"]
    assert "the budget does not allow another task" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="there is no sh")
@pytest.mark.parametrize("closed", sampled([">&-", "2>&-", ">&- 2>&-"], 3))
def test_a_run_without_stdout_or_stderr_completes(server: Server, batch: Path, closed: str) -> None:
    script = f'exec "$0" -m wan_async "$@" {closed}'
    command = ["sh", "-c", script, sys.executable, "run", str(batch), "--json"]
    done = subprocess.run(command, env=os.environ | server.env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert len(list((batch.parent / "outputs").rglob("*.mp4"))) == 4


def test_the_sandbox_prints_the_variables_to_set_and_ends_on_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = start("sandbox", "--key-only", "--clips", "tiny")
    assert running.stdout is not None
    lines = list(iter(running.stdout.readline, "# Ctrl-C ends it\n"))
    assert "unset WIRO_API_SECRET\n" in lines
    for line in lines:
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            monkeypatch.setenv(name, value)
    assert main(["task", "list"]) == 0
    assert capsys.readouterr().out == "no tasks\n"
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (0, "")


def test_a_base_url_that_is_no_api_exits_with_6(
    here: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WIRO_BASE_URL", f"{here.root}/elsewhere/v1")
    for argv in (
        ["task", "list"],
        ["run", str(text_batch(tmp_path, 1))],
        ["generate", "-p", "x", "-o", f"{tmp_path}/x"],
    ):
        assert main(argv) == 6
        captured = capsys.readouterr()
        assert "is the base URL right?" in captured.out + captured.err


def test_the_task_commands_require_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task", "list"]) == 4
    assert "WIRO_API_KEY" in capsys.readouterr().err


def test_status_lists_failed_jobs_with_their_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox())
        world.sandbox.faults.next("failed_render")
        await world.run(text_jobs(1), retries=0)
        for job in text_jobs(54)[1:]:
            (world.output / f"{job.id}.mp4").write_text("mine")
        assert (await world.run(text_jobs(54))).failed == 54

    virtually(test)
    assert main(["status", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert "54  failed" in output
    assert "(task " in output
    assert "the render failed with exit code 1" in output
    assert "was not written by wan_async" in output
    assert "... and 4 more; results.jsonl has all\n" in output
    assert output.endswith("try failed ones again with --retry-failed\n")
    assert main(["status", str(tmp_path / "out"), "--json"]) == 0
    (line,) = events_of(capsys.readouterr().out)
    assert len(line["failures"]) == 54
    assert line["failures"][0]["task_id"]
    assert line["failures"][0]["name"] == "job-0"


def test_status_counts_unfinished_attempts_of_jobs_removed_from_the_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test() -> None:
        world = World(tmp_path, make_sandbox(task_seconds=(100, 100)))
        await world.run_until(1.0, text_jobs(2))
        await world.run_until(1.0, [Job(id="other", prompt="another scene")])

    virtually(test)
    assert main(["status", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert "2  unfinished attempts of jobs that the batch no longer names" in output
    assert "unfinished 3" in output
    batch = tmp_path / "b.json"
    batch.write_text(json.dumps([{"id": "other", "prompt": "another scene"}, {"id": "wrong", "prompt": ""}]))
    assert main(["plan", str(batch), "-o", str(tmp_path / "out"), "--skip-bad"]) == 0
    output = capsys.readouterr().out
    assert "2 unfinished attempts of jobs that the batch no longer names: the run finishes them" in output
    assert "1 job left out, since something is wrong there (--skip-bad)" in output


def test_a_plan_counts_the_jobs_that_a_run_with_the_same_flags_would_submit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = text_batch(tmp_path, 4)

    def cost(*flags: str) -> str:
        assert main(["run", str(path), "--dry-run", *flags]) == 0
        return capsys.readouterr().out.splitlines()[-1]

    with sandbox_server("--fault", "failed_render@Run=1") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.env.items():
            patch.setenv(name, value)
        assert main(["run", str(path), "--only", "job-0", "--retries", "0"]) == 1
        server.control(faults={})
        assert main(["run", str(path), "--only", "job-1"]) == 1
        capsys.readouterr()
        assert cost() == "new money for 2 jobs: $0.10 (2 x 480P at $0.05)"
        assert cost("--retry-failed") == "new money for 3 jobs: $0.15 (3 x 480P at $0.05)"
        assert cost("--only", "job-2") == cost("--limit", "1") == "new money for 1 job: $0.05 (1 x 480P at $0.05)"
        assert main(["plan", str(path), "--json"]) == 0
        *_, total = events_of(capsys.readouterr().out)
        assert (total["jobs"], total["done"], total["todo"], total["estimate_usd"]) == (4, 1, 2, "0.10")


def test_a_plan_counts_a_quarantined_job_only_with_resubmit_unknown(tmp_path: Path) -> None:
    path = text_batch(tmp_path, 2)
    with sandbox_server("--echo", "empty", "--fault", "drop_after@Run=1") as server:
        first = in_process("run", path, "--limit", "1", "--settle", "0.1", env=server.env)
        *_, choice, resume = first.stdout.splitlines()
        assert (first.returncode, "--resubmit-unknown  " in choice, "may pay twice" in choice) == (5, True, True)
        assert "resume with" in resume
        assert "--resubmit-unknown" not in resume  # that is the user's decision
        server.control(faults={})
        last = in_process("plan", path, env=server.env).stdout.splitlines()[-1]
        assert last == "new money for 1 job: $0.05 (1 x 480P at $0.05)"
        last = in_process("run", path, "--dry-run", "--resubmit-unknown", env=server.env).stdout.splitlines()[-1]
        assert last == "new money for 2 jobs: $0.10 (2 x 480P at $0.05)"


def test_a_plan_pays_for_an_edited_or_left_out_quarantined_job_as_a_run_does(
    tmp_path: Path,
) -> None:
    path = text_batch(tmp_path, 2)
    with sandbox_server("--echo", "empty", "--fault", "drop_after@Run=1") as server:
        assert in_process("run", path, "--limit", "1", "--settle", "0.1", env=server.env).returncode == 5
        server.control(faults={})
        resubmitted = in_process("run", path, "--dry-run", "--resubmit-unknown", "--only", "job-1", env=server.env)
        assert resubmitted.stdout.splitlines()[-1] == "new money for 1 job: $0.05 (1 x 480P at $0.05)"
        jobs = json.loads(path.read_text())
        (jobs["jobs"] if isinstance(jobs, dict) else jobs)[0]["prompt"] = "another scene"
        path.write_text(json.dumps(jobs))
        edited = in_process("run", path, "--dry-run", "--resubmit-unknown", env=server.env)
        assert edited.stdout.splitlines()[-1] == "new money for 2 jobs: $0.10 (2 x 480P at $0.05)"
        service, *more = edited.stderr.splitlines()
        assert (service.startswith("service: "), more) == (True, [])
        starts = tmp_path / "outputs" / "batch" / ".wan_async" / "starts"
        starts.write_text("7\n")
        stale = in_process("plan", path, env=server.env)
        assert len(stale.stderr.splitlines()) == 2, "said once, about the folder's own journal, after the service"
        assert starts.read_text() == "7\n"


def test_names_that_the_terminal_cannot_encode_are_printed_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    assert main(["plan", str(write_batch(tmp_path, [{"id": "北京", "prompt": "ü"}]))]) == 0
    assert b"\\u5317\\u4eac" in shown.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("command", ["run", pytest.param("plan", marks=pytest.mark.slow), "schema"])
def test_a_full_output_device_causes_no_traceback(server: Server, tmp_path: Path, command: str) -> None:
    path = text_batch(tmp_path, 1)
    arguments = [command] if command == "schema" else [command, str(path), "-q"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "wan_async", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, env=os.environ | server.env, check=False,
        )  # fmt: skip
    assert "Traceback" not in done.stderr
    if command == "run":
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "outputs" / "batch" / "job-0.mp4").exists()
    else:
        assert (done.returncode, done.stderr) == (6, "error: the output can't be written: No space left on device\n")


@pytest.mark.parametrize("target", ["a file", "a link as journal", "a damaged journal"])
def test_a_run_that_cannot_start_still_ends_its_json_lines_with_finished(tmp_path: Path, target: str) -> None:
    batch, output = write_batch(tmp_path, [{"id": "a", "prompt": "x"}]), tmp_path / "out"
    home = output / ".wan_async"
    if target == "a file":
        output.write_text("mine")
    else:
        home.mkdir(parents=True)
        (tmp_path / "victim").write_bytes(b"not a database" * 99)
        if target == "a link as journal":
            (home / "journal.sqlite3").symlink_to(tmp_path / "victim")
        else:
            (home / "journal.sqlite3").write_bytes((tmp_path / "victim").read_bytes())
    for command in (("run", "--json"), ("plan",), ("status",)):
        source = (output,) if command[0] == "status" else (batch, "-o", output)
        done = in_process(command[0], *source, *command[1:], "--json", env={"WIRO_API_KEY": "k"})
        assert done.returncode in (2, 6), done.stderr
        assert "Traceback" not in done.stderr
        if command[0] == "run":
            assert events_of(done.stdout)[-1]["event"] == "finished"
            assert events_of(done.stdout)[-1]["exit_code"] == done.returncode


def test_an_empty_output_and_contradictory_flags_are_usage_errors(tmp_path: Path) -> None:
    batch = write_batch(tmp_path, [{"id": "a", "prompt": "x"}])
    for argv in (("-o", ""), ("-o", str(tmp_path / "o"), "--rerender", "--give-up")):
        assert in_process("run", batch, *argv, cwd=tmp_path).returncode == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch.json"]


def test_the_command_to_resume_omits_one_time_flags() -> None:
    typed = ["run", "b.yaml", "--rerender", "--budget", "5", "--resubmit-unknown", "--ignore-unowned", "--give-up"]
    assert resume_command(typed).endswith("run b.yaml --budget 5")


def test_jobs_of_the_same_image_are_shown_by_the_names_of_their_clips(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(png(b"cat" * 50))
    (tmp_path / "batch.yaml").write_text(
        'name: "{index}"\njobs:\n- {image: cat.png, prompt: one}\n- {image: cat.png, prompt: two}\n'
    )
    done = in_process("run", tmp_path / "batch.yaml", "-v", env=server.env)
    assert done.returncode == 0, done.stderr
    shown = {line.split()[2] for line in done.stdout.splitlines() if " accepted " in line}
    assert shown == {"1", "2"}


def test_an_output_that_only_a_trial_has_is_named(server: Server, tmp_path: Path) -> None:
    output = tmp_path / "outputs" / "batch"
    assert in_process("run", text_batch(tmp_path, 1), "-o", f"{output}.sandbox", env=server.env).returncode == 0
    hint = f"there is no journal in {output}: there is one in {output}.sandbox"
    assert hint in in_process("status", output).stderr
    assert hint in in_process("again", "job-0", "-o", output).stderr
    state_in(Path(f"{output}.sandbox")).mkdir()
    told = in_process("again", "job-0", "-o", f"{output}.sandbox")
    assert (told.returncode, "are those of a trial: add --sandbox" in told.stderr) == (4, True)
    trial = in_process("again", "job-0", "-o", output, "--sandbox")
    assert (
        "this folder's journal belongs to" in trial.stdout + trial.stderr
    )  # that of the trial, which has another account


def test_a_batch_of_a_similar_name_is_suggested(tmp_path: Path) -> None:
    text_batch(tmp_path, 1).rename(tmp_path / "photos.jsonl")
    assert '(did you mean "photos.jsonl"?)' in in_process("plan", "photos.json", cwd=tmp_path).stderr
    assert "did you mean" not in in_process("plan", "dogs.json", cwd=tmp_path).stderr


def test_plan_says_which_set_is_in_vain_and_leaves_out_what_only_excludes(tmp_path: Path) -> None:
    jobs: list[dict[str, Any]] = [
        {"id": "a", "prompt": "x", "seed": 1},
        {"id": "b", "prompt": "y", "matrix": {"seed": [1, 2]}},
    ]
    batch = write_batch(tmp_path, jobs)
    done = in_process("plan", batch, "--set", "seed=9", "--set", "resolution=720P", "--only", "b*")
    assert "note: --set seed=9 changes nothing: each job gives its own seed\n" in done.stderr
    assert "resolution" not in done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines[2:4]] == ["b-1", "b-2"]
    assert lines[4] == "  1 job outside of --only"
    write_batch(tmp_path, [*jobs, {"id": "c", "prompt": "z"}])
    assert "changes nothing" not in in_process("plan", batch, "--set", "seed=9").stderr


def test_generate_names_a_clip_that_it_rendered_before_and_how_to_get_another_take(
    server: Server, tmp_path: Path
) -> None:
    arguments = ("generate", "-p", "rain on a roof", "-o", f"{tmp_path}/rain.mp4")
    assert "another take" not in in_process(*arguments, env=server.env).stdout
    paid = server.paid
    last = in_process(*arguments, env=server.env).stdout.splitlines()[-1]
    assert last.startswith(f"{tmp_path}/rain.mp4 was rendered before; another take: ")
    words = shlex.split(last.partition("another take: ")[2])
    assert in_process(*words[words.index("again") :], env=server.env).returncode == 0
    assert (server.paid - paid, (tmp_path / "rain-seed43.mp4").exists()) == (1, True)


def test_a_plan_says_that_auto_may_be_more(tmp_path: Path) -> None:
    assert "8 at once (auto: more if the account allows it)" in in_process("plan", text_batch(tmp_path, 2)).stdout


def test_notes_on_a_terminal_are_broken_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = f"{'word ' * 30}end"
    say_notices([note])
    assert capsys.readouterr().err == f"note: {note}\n"
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    say_notices([note])
    lines = capsys.readouterr().err.splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert " ".join(" ".join(lines).split()) == f"note: {note}"


@pytest.mark.skipif(sys.platform != "linux", reason="there, such folders are")
def test_plan_refuses_a_folder_that_a_run_could_not_write_as_that_run_does(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = text_batch(tmp_path, 1)
    (tmp_path / "file").write_text("")

    def refused(out: str | Path) -> str:
        plan = in_process("plan", batch, "-o", out, env=server.env)
        assert plan.returncode == 6, plan.stderr
        assert plan.stdout == ""
        return plan.stderr

    for out in ("/proc/wan/out", tmp_path / "file" / "out"):
        run = in_process("run", batch, "-o", out, env=server.env)
        assert (run.returncode, f"{out} can't be made" in run.stderr) == (6, True)
        assert f"{out} can't be made" in refused(out)
    assert in_process("run", batch, "-o", tmp_path / "out", env=server.env).returncode == 0
    assert in_process("plan", batch, "-o", tmp_path / "new" / "out", env=server.env).returncode == 0
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anything
    assert "out can't be written: you may not" in refused(tmp_path / "out")
    assert f"can't be made: you may not write into {tmp_path}" in refused(tmp_path / "new" / "out")


def test_a_single_clip_is_paid_once_for_each_job_and_target(server: Server, tmp_path: Path) -> None:
    def paid(target: str, prompt: str) -> int:
        before = server.paid
        assert in_process("generate", "-p", prompt, "-o", target, env=server.env, cwd=tmp_path).returncode == 0
        return server.paid - before

    calls = [("a.mp4", "a dog"), ("a.mp4", "a dog"), ("a.mp4", "a cat"), ("a.mp4", "a dog"), ("b.mp4", "a dog")]
    assert [paid(*call) for call in calls] == [1, 0, 1, 0, 1]


def test_the_columns_of_a_plan_have_heads(tmp_path: Path) -> None:
    batch = tmp_path / "b.jsonl"
    batch.write_text('{"id": "a long id", "prompt": "a dog", "seed": 123456}\n{"id": "b", "prompt": "a cat"}\n')
    shown = in_process("plan", batch).stdout.splitlines()
    assert shown[1:4] == [
        "  #  clip       action  resolution  aspect ratio  seed    prompt",
        "  1  a long id  render  480P        Default       123456  a dog",
        "  2  b          render  480P        Default       42      a cat",
    ]


def test_a_service_that_is_not_wiros_own_is_named_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = text_batch(tmp_path, 1)
    local = {"WIRO_BASE_URL": "http://127.0.0.1:9/v1/"}
    named = "service: http://127.0.0.1:9/v1 (not Wiro's own)"

    def first_lines(*words: str, env: dict[str, str] = local) -> list[str]:
        return in_process(*words, env=env, cwd=tmp_path).stderr.splitlines()[:1]

    assert first_lines("plan", str(batch)) == first_lines("run", str(batch)) == [named]
    assert first_lines("generate", "-p", "a cat") == [named]
    for quiet in ("-q", "--json", "--sandbox"):
        assert named not in first_lines("plan", str(batch), quiet)
    assert named not in first_lines("plan", str(batch), env={"WIRO_BASE_URL": protocol.BASE_URL})
    assert named not in first_lines("plan", str(batch), env={})
