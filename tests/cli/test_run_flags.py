"""Flags around a run: questions, pilots, waiting, hooks, hints."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pictures import png
from sample_events import accepted, failed, finished, submitting, unknown
from servers import Server, events_of, in_process, sandbox_server, write_batch

from wan_async import errors
from wan_async.cli import confirmation, resume_command, run_batch
from wan_async.cli.commands import generate
from wan_async.cli.resume_command import program
from wan_async.cli.resume_hint import ResumeHint
from wan_async.domain import events
from wan_async.journal.base import FILE, FOLDER
from wan_async.journal.sqlite import SqliteJournal
from wan_async.journal.sqlite_connection import _locked


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sandbox_server() as running:
        yield running


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    return write_batch(tmp_path, [{"id": f"scene-{n}", "prompt": f"scene {n}"} for n in range(5)])


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes a person of the test: the questions that are asked; each is answered by `y` unless it is emptied."""
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "y" if len(asked) < 10 else "n"

    monkeypatch.setattr(confirmation, "is_terminal", lambda: True)
    monkeypatch.setattr("builtins.input", answer)
    return asked


def clips(batch: Path) -> set[str]:
    return {clip.stem for clip in (batch.parent / "outputs" / "batch").glob("*.mp4")}


def test_a_terminal_is_asked_before_much_is_spent(server: Server, batch: Path, answers: list[str]) -> None:
    done = in_process("run", batch, "--confirm-above", "0.20", env=server.env)
    assert done.returncode == 0
    assert len(answers) == 1
    assert "new money for 5 jobs: $0.25" in done.stderr
    assert in_process("run", batch, "--confirm-above", "0", env=server.env).returncode == 0
    assert len(answers) == 1, "there is nothing to pay for"


def test_a_no_spends_nothing(server: Server, batch: Path, answers: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def decline(question: str) -> str:
        answers.append(question)
        return ""

    monkeypatch.setattr("builtins.input", decline)
    before = server.paid
    done = in_process("run", batch, "--confirm-above", "0.20", env=server.env)
    assert done.returncode == 130
    assert (len(answers), server.paid, clips(batch)) == (1, before, set())
    assert "nothing was spent" in done.stderr
    assert not (batch.parent / "outputs").exists()


@pytest.mark.parametrize(
    "flags",
    [("--yes",), ("--budget", "0.25"), ("--confirm-above", "0.25"), ("--json",), ("--limit", "2")],
)
def test_nobody_is_asked_without_need(flags: tuple[str, ...], server: Server, batch: Path, answers: list[str]) -> None:
    limit = [] if "--confirm-above" in flags else ["--confirm-above", "0.10"]
    assert in_process("run", batch, *limit, *flags, env=server.env).returncode == 0
    assert answers == []


def test_without_a_terminal_nobody_is_asked(
    server: Server, batch: Path, answers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirmation, "is_terminal", lambda: False)
    assert in_process("run", batch, "--confirm-above", "0", env=server.env).returncode == 0
    assert answers == []


def test_a_pilot_is_drawn_evenly_and_stops_without_a_terminal(server: Server, batch: Path) -> None:
    planned = in_process("plan", batch, "--pilot", "2", "--json", env=server.env)
    lines = events_of(planned.stdout)
    assert [line["job"] for line in lines if line.get("action") == "render"] == ["scene-1", "scene-3"]
    assert (lines[-1]["to_do"], lines[-1]["not_chosen"], lines[-1]["estimate_usd"]) == (2, 3, "0.10")
    done = in_process("run", batch, "--pilot", "2", env=server.env)
    assert (done.returncode, clips(batch)) == (0, {"scene-1", "scene-3"})
    assert "the pilot is done" in done.stderr
    assert f"run {batch}" in done.stderr
    assert "--pilot" not in done.stderr


def test_a_terminal_is_asked_after_a_pilot(server: Server, batch: Path, answers: list[str]) -> None:
    done = in_process("run", batch, "--pilot", "1", env=server.env)
    assert done.returncode == 0
    assert len(answers) == 1
    assert "new money for 4 jobs: $0.20" in done.stderr
    assert len(clips(batch)) == 5


def test_duplicates_are_paid_for_only_on_request(server: Server, tmp_path: Path) -> None:
    path = write_batch(tmp_path, [{"id": name, "prompt": "the same"} for name in "abc"])
    for flags, estimate, duplicates in (((), "0.05", 2), (("--render-duplicates",), "0.15", 0)):
        total = events_of(in_process("plan", path, *flags, "--json", env=server.env).stdout)[-1]
        assert (total["estimate_usd"], total["duplicates"]) == (estimate, duplicates)
    before = server.paid
    assert in_process("run", path, "--render-duplicates", env=server.env).returncode == 0
    assert server.paid == before + 3


def test_a_run_waits_for_the_folder_or_exits_with_7(
    server: Server, batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_batch, "WAIT_SECONDS", 0.05)
    home = batch.parent / "outputs" / "batch" / FOLDER
    home.mkdir(parents=True)
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with _locked(home):
            held.set()
            free.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        held.wait(10)
        refused = in_process("run", batch, "--sandbox", "-o", home.parent, "--json")
        assert (refused.returncode, events_of(refused.stdout)[-1]["exit_code"]) == (7, 7)
        threading.Timer(0.5, free.set).start()
        began = time.monotonic()
        done = in_process("run", batch, "--wait", env=server.env)
        assert done.returncode == 0
        assert time.monotonic() - began >= 0.4
        assert done.stderr.count("waiting") == 1
    finally:
        free.set()
        thread.join(10)


PYTHON = f'"{sys.executable}"'


def test_hooks_get_the_facts_in_their_environment(server: Server, batch: Path, tmp_path: Path) -> None:
    script = tmp_path / "hook.py"
    script.write_text(
        "import json, os, sys\n"
        "facts = {k: v for k, v in os.environ.items() if k.startswith('WAN_')}\n"
        "open(sys.argv[1] + facts.get('WAN_JOB', 'end') + '.json', 'w').write(json.dumps(facts))\n"
    )
    hook = f'{PYTHON} "{script}" "{tmp_path}/fact-"'
    done = in_process("run", batch, "--on-done", hook, "--on-end", hook, env=server.env)
    assert done.returncode == 0, done.stderr
    facts = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("fact-*.json")}
    assert set(facts) == {*(f"fact-scene-{n}" for n in range(5)), "fact-end"}
    one = facts["fact-scene-0"]
    assert Path(one["WAN_FILE"]).is_absolute()
    assert Path(one["WAN_FILE"]).exists()
    assert one["WAN_TASK_ID"] == json.loads(Path(one["WAN_SIDECAR"]).read_text())["task_id"]
    assert (one["WAN_COST_USD"], one["WAN_NAME"], one["WAN_EVENT"]) == ("0.05", "scene-0", "stored")
    assert (facts["fact-end"]["WAN_EXIT_CODE"], facts["fact-end"]["WAN_STORED"]) == ("0", "5")


def test_a_failing_hook_is_a_warning(server: Server, batch: Path) -> None:
    hook = f"{PYTHON} -c \"import sys; sys.exit('no space on the NAS')\""
    done = in_process("run", batch, "--limit", "1", "--on-done", hook, "--on-end", "exit 3", env=server.env)
    assert done.returncode == 0
    assert "--on-done failed with exit code 1: no space on the NAS" in done.stderr
    assert "--on-end failed with exit code 3" in done.stderr


def test_what_a_hook_says_is_logged_and_one_that_cannot_be_run_is_a_warning(server: Server, batch: Path) -> None:
    done = in_process("run", batch, "--limit", "1", "-v", "--on-done", "echo said this", env=server.env)
    assert (done.returncode, "--on-done: said this" in done.stderr) == (0, True)
    done = in_process("run", batch, "--limit", "1", "--on-done", "x" * 200_000, env=server.env)
    assert (done.returncode, "--on-done can't be run: " in done.stderr) == (0, True)


def test_a_slow_hook_does_not_delay_the_run_and_is_killed_in_the_end(
    server: Server, batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wan_async.cli.hooks.DRAIN_SECONDS", 0.2)
    hook = f'{PYTHON} -c "import time; time.sleep(60)"'
    began = time.monotonic()
    done = in_process("run", batch, "--on-done", hook, "--on-end", hook, env=server.env)
    assert done.returncode == 0
    assert len(clips(batch)) == 5
    assert time.monotonic() - began < 30
    assert "is killed" in done.stderr
    assert "was killed" in done.stderr


def test_the_hint_after_an_exhausted_budget_names_one_that_is_enough(server: Server, batch: Path) -> None:
    done = in_process("run", batch, "--budget", "0.11", "--json", env=server.env)
    assert done.returncode == 3
    resume = events_of(done.stdout)[-1]["resume"]
    assert resume.endswith("--budget 0.25")
    assert "0.11" not in resume
    total = events_of(in_process("plan", batch, "--budget", "0.16", "--json", env=server.env).stdout)[-1]
    assert (total["estimate_usd"], total["beyond_budget"], total["estimate_without_budget_usd"]) == ("0.05", 2, "0.15")
    shown = in_process("plan", batch, "--budget", "0.16", env=server.env).stdout
    assert "the budget of $0.16 is not enough for everything: that takes $0.25 over all runs" in shown
    assert in_process("run", batch, "--budget", "0.25", env=server.env).returncode == 0


def test_resume_commands_name_the_program_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    def typed(argv0: str, *orig: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", [argv0, "run", "x"])
        monkeypatch.setattr(sys, "orig_argv", [*orig, "run", "x"])
        return program()

    module = "/somewhere/wan_async/__main__.py"
    assert typed(module, ".venv/bin/python", "-m", "wan_async") == [".venv/bin/python", "-m", "wan_async"]
    assert typed(module, "python3.12", "-X", "dev", "-m", "wan_async") == ["python3.12", "-X", "dev", "-m", "wan_async"]
    assert typed(module, "pytest") == ["python", "-m", "wan_async"]
    assert typed("wan-async", "python", "wan-async") == ["wan-async"]
    assert typed(".venv/bin/wan-async", "python", ".venv/bin/wan-async") == [".venv/bin/wan-async"]


def test_a_resume_command_leaves_out_what_is_for_one_run() -> None:
    words = ["run", "b.yaml", "--pilot", "3", "--rerender", "--budget=1", "-p", "--pilot"]
    assert resume_command.resume_command(words[:6]).endswith("run b.yaml --budget=1")
    assert resume_command.resume_command(words[:6], budget="2.50").endswith("run b.yaml --budget 2.50")


def test_at_the_end_of_the_input_nothing_is_spent(
    server: Server, batch: Path, answers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(_: str) -> str:
        raise EOFError

    paid = server.paid
    monkeypatch.setattr("builtins.input", end)
    done = in_process("run", batch, "--confirm-above", "0", env=server.env)
    assert (done.returncode, server.paid, answers) == (130, paid, [])
    assert "nothing was spent" in done.stderr


def test_a_run_whose_command_cannot_be_kept_and_whose_journal_is_opened_late_renders_all_the_same(
    server: Server, batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, opened = list[bool](), SqliteJournal.open

    @asynccontextmanager
    async def open_later(*args: Any, **options: Any) -> AsyncIterator[SqliteJournal]:
        tried.append(True)
        if len(tried) == 1:
            raise errors.Locked("another process was faster")
        async with opened(*args, **options) as journal:
            yield journal

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_batch, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(run_batch, "keep", refuse)
    monkeypatch.setattr(SqliteJournal, "open", open_later)
    done = in_process("run", batch, "--limit", "1", "--wait", env=server.env)
    assert (done.returncode, len(clips(batch)), len(tried)) == (0, 1, 2), done.stderr


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (None, (".", "cat")),
        ("clips/", ("clips", "cat")),
        ("there", ("there", "cat")),
        ("clips/dog.mp4", ("clips", "dog")),
        ("dog.webm", (".", "dog")),
        ("DOG.MOV", (".", "DOG")),
        ("v1.5", (".", "v1.5")),
    ],
)
def test_the_target_of_a_single_clip(
    output: str | None, expected: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    folder, name = generate.target(output, "cat")
    assert (str(folder), name) == expected


def test_generate_fills_placeholders_or_refuses_them(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(png(b"cat"))
    refused = in_process("generate", "-p", "{caption}", env=server.env, cwd=tmp_path)
    assert (refused.returncode, "{caption}" in refused.stderr) == (2, True)
    refused = in_process("generate", "-p", "{captoin}", "-i", "cat.png", env=server.env, cwd=tmp_path)
    assert (refused.returncode, "did you mean" in refused.stderr) == (2, True)
    (tmp_path / "cat.txt").write_text("a cat yawns")
    done = in_process("generate", "-p", "slowly, {caption}", "-i", "cat.png", "-o", "x/", env=server.env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "x" / "cat.json").read_text())["parameters"]["prompt"] == "slowly, a cat yawns"


def test_commands_without_a_flag_of_run_do_not_name_it_as_theirs(server: Server, batch: Path) -> None:
    output = batch.parent / "outputs" / "batch"
    assert in_process("run", batch, "--limit", "1", env=server.env).returncode == 0
    server.control(faults={"failed_render": 1})
    failed = in_process("again", "scene-0", "-o", output, "--retries", "0", env=server.env)
    server.control(faults={})
    (line,) = [line for line in failed.stdout.splitlines() if "--retry-failed" in line]
    assert line.endswith("with run BATCH --retry-failed")
    end = finished(exit_code=5, unknown=1, resume="x", choices=("--adopt", "--resubmit-unknown"))
    for command, choices in (("run", end.choices), ("generate", end.choices), ("again", ("--adopt",))):
        shown = ResumeHint([command, "x"], None, {}).observe(end)
        assert isinstance(shown, events.Finished)
        assert shown.choices == choices


def test_again_renders_with_another_seed(server: Server, batch: Path) -> None:
    output = batch.parent / "outputs" / "batch"
    assert in_process("run", batch, "--limit", "1", env=server.env).returncode == 0
    done = in_process("again", "scene-0", "-o", output, "--json", env=server.env)
    assert done.returncode == 0, done.stderr
    assert events_of(done.stdout)[-1]["resume"] is None, "the rest of the batch is not this command's"
    assert clips(batch) == {"scene-0", "scene-0-seed43"}
    assert in_process("again", "nonesuch", "-o", output, env=server.env).returncode == 2
    refused = in_process("again", "scene-0", "-o", output, "--seed", "x", env=server.env)
    assert (refused.returncode, "'x' is not a whole number" in refused.stderr) == (2, True)
    assert in_process("again", "x", "-o", batch.parent / "nowhere", env=server.env).returncode == 6


def test_orphans_leave_out_tasks_of_folders_beside_it(tmp_path: Path) -> None:
    damaged = tmp_path / "out" / "three" / FOLDER / FILE
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no database, but as long as the header of one " * 9)
    with sandbox_server() as server:
        for name in ("one", "two"):
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps([{"id": name, "prompt": name}]))
            assert in_process("run", path, "-o", tmp_path / "out" / name, env=server.env).returncode == 0
        done = in_process("task", "list", "--orphans", tmp_path / "out" / "one", env=server.env)
        assert done.stdout == "no task without an owner\n"
        first, second = done.stderr.splitlines()
        assert "left out, too: two" in first
        assert "can't be read, so their tasks are listed: three" in second
        assert in_process("task", "list", "--orphans", env=server.env).returncode == 2


def test_a_pattern_of_ids_that_selects_nothing_is_refused_once_with_a_suggestion(batch: Path) -> None:
    for command in ("run", "plan"):
        done = in_process(command, batch, "--only", "scenes-1", "--sandbox")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == '--only: no job is called "scenes-1" (did you mean "scene-1"?)\nnothing was spent\n'
        cased = in_process(command, batch, "--only", "SCENE-*", "--sandbox").stderr
        assert 'jobs match in another, such as "scene-0")' in cased
        assert 'there are "scene-0", "scene-1"' in in_process(command, batch, "--only", "zebra", "--sandbox").stderr
    assert not (batch.parent / "outputs").exists()


def test_the_resume_command_omits_a_pattern_all_of_whose_jobs_were_tried(server: Server, batch: Path) -> None:
    done = in_process("run", batch, "--only", "scene-1", "--json", env=server.env)
    assert events_of(done.stdout)[-1]["unfinished"] == 4
    assert "--only" not in events_of(done.stdout)[-1]["resume"]
    done = in_process("run", batch, "--only", "scene-[23]", "--budget", "0.10", "--json", env=server.env)
    assert done.returncode == 3
    assert "--only" in events_of(done.stdout)[-1]["resume"]
    assert resume_command.resume_command(["run", "x", "-p", "", "y"]).endswith("run x -p '' y")


def resume_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The arguments of the command that resumes a run."""
    return shlex.split(events_of(done.stdout)[-1]["resume"])[3:]


def test_the_resume_command_after_an_early_end_has_what_is_left_of_the_limit(server: Server, batch: Path) -> None:
    before = server.paid
    done = in_process("run", batch, "--limit", "4", "--budget", "0.11", "--json", env=server.env)
    assert (done.returncode, server.paid - before) == (3, 2)
    resume = resume_of(done)
    assert resume[-2:] == ["--limit", "2"]
    done = in_process(*resume, env=server.env)
    assert (done.returncode, server.paid - before) == (0, 4)
    assert resume_of(done)[-2:] == ["--limit", "2"], "all were submitted: the same command takes the next"
    done = in_process("run", batch, "--limit", "0", "--json", env=server.env)
    assert (done.returncode, server.paid - before) == (0, 4)
    assert "--limit" not in resume_of(done), "it would do nothing"


def test_a_pilot_is_part_of_the_limit(
    server: Server, batch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = server.paid
    arguments = ("run", batch, "--limit", "3", "--pilot", "1")
    done = in_process(*arguments, env=server.env)
    assert done.returncode == 0
    assert "--limit 2" in done.stderr
    assert "--limit 2" in done.stdout
    monkeypatch.setattr(run_batch, "may_ask", lambda _: True)
    monkeypatch.setattr(run_batch, "ask", lambda *_: True)
    assert in_process(*arguments, "--yes", env=server.env).returncode == 0
    assert server.paid - before == 1 + 3


def test_what_an_earlier_run_submitted_is_not_part_of_the_limit() -> None:
    hint = ResumeHint(["run", "b", "--limit=3"], 3, {"old": "accepted", "gone wrong": "failed"})
    for job in ("old", "gone wrong"):
        hint.observe(accepted(job))
    hint.observe(unknown("new"))
    assert hint.limit_left == 1
    hint.observe(submitting("new"))
    assert hint.limit_left == 2
    hint.observe(failed("new"))
    hint.observe(accepted("newer"))
    end = hint.observe(finished(exit_code=130, resume="x"))
    assert isinstance(end, events.Finished)
    assert str(end.resume).endswith("run b --limit 0")


def jobs_of(*arguments: str | Path) -> list[dict[str, object]]:
    done = in_process("plan", *arguments, "--json", "--sandbox")
    assert done.returncode == 0, done.stderr
    return [event for event in events_of(done.stdout) if event["event"] == "job"]


def test_parameters_are_set_for_all_jobs_that_do_not_give_them(server: Server, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(png())
    flags = ("-p", "x", "--set", "resolution=720p", "--set", "Negative Prompt=blurry", "--set", "seed=7")
    (job,) = jobs_of(photos, *flags)
    assert (job["resolution"], job["negative_prompt"], job["seed"]) == ("720P", "blurry", 7)
    batch = tmp_path / "b.yaml"
    batch.write_text("defaults: {seed: 1, resolution: 580P}\njobs: [{prompt: a}, {prompt: b, seed: 2}]\n")
    assert [(job["seed"], job["resolution"]) for job in jobs_of(batch, "--set", "seed=9")] == [(9, "580P"), (2, "580P")]
    done = in_process("run", photos, *flags, "--json", env=server.env)
    assert done.returncode == 0, done.stderr
    clip = json.loads((tmp_path / "photos.clips" / "a.json").read_text())
    assert clip["parameters"]["resolution"] == "720P"
    before = server.paid
    assert in_process("run", photos, *flags, env=server.env).returncode == 0
    assert server.paid == before, "the content is the same"
    assert in_process("run", photos, *flags[:-1], "seed=8", env=server.env).returncode == 0
    assert server.paid == before + 1


def test_every_fault_of_set_parameters_is_reported_at_once(batch: Path) -> None:
    flags = ("--set", "resoluton=720P", "--set", "seed=x", "--set", "prompt=y")
    done = in_process("plan", batch, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert 'unknown parameter "resoluton" (did you mean "resolution"?)' in done.stderr
    assert done.stderr.count("--set: ") == 3
    assert "did you mean --set resolution=VALUE?" in in_process("run", batch, "--resolution", "720P").stderr
    assert "'seed' is not NAME=VALUE" in in_process("run", batch, "--set", "seed").stderr


def test_parameters_may_be_set_in_a_settings_file(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = batch.parent / "wan-async.toml"
    settings.write_text('[set]\nseed = 5\nresolution = "580P"\n')
    assert {(job["seed"], job["resolution"]) for job in jobs_of(batch)} == {(5, "580P")}
    assert {(job["seed"], job["resolution"]) for job in jobs_of(batch, "--set", "seed=6")} == {(6, "580P")}
    monkeypatch.setenv("WAN_ASYNC_SET", "seed=8")
    assert {job["seed"] for job in jobs_of(batch)} == {8}
