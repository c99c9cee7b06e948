"""Runs of the command line whose clips go to an object store: from the first one to what may go wrong in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from object_stores import content, delete_bucket, environment, gateway, keys, new_bucket, request
from servers import Server, in_process, sandbox_server, start, untraced, write_batch

from wan_async import errors
from wan_async.domain.exit_codes import ExitCode
from wan_async.output_locations import OWNER
from wan_async.outputs.base import numbered
from wan_async.outputs.object_store import ObjectStore
from wan_async.outputs.output_owner import USED

JOBS = 6
KILLED_AFTER_PUT = """
import os, signal, sys
from wan_async.cli.main import main
from wan_async.outputs.obstore_client import ObstoreClient
plain = ObstoreClient.create
def create(self, name, *rest):
    plain(self, name, *rest)
    if name.endswith(".mp4"):
        os.kill(os.getpid(), signal.SIGKILL)
ObstoreClient.create = create
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sandbox_server() as server:
        yield server


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    return write_batch(tmp_path, [{"id": f"job-{n}", "prompt": f"{tmp_path} scene {n}"} for n in range(JOBS)])


@pytest.fixture
def bucket() -> str:
    return new_bucket()


def variables(server: Server, tmp_path: Path, endpoint: str | None = None) -> dict[str, str]:
    return server.env | environment(endpoint) | {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}


def paid(server: Server, batch: Path) -> int:
    """How many tasks this test's jobs have."""
    return sum(str(batch.parent) in task["parameters"]["prompt"] for task in server.report()["tasks"])


def results(bucket: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content(bucket, "clips/results.jsonl").splitlines()]


def assert_all_stored_once(server: Server, batch: Path, bucket: str) -> None:
    """Every job was paid once, and its clip is whole in the store, with its sidecar."""
    assert paid(server, batch) == JOBS
    found = results(bucket)
    assert [result["state"] for result in found] == ["stored"] * JOBS
    for result in found:
        assert sha256(content(bucket, f"clips/{result['file']}")).hexdigest() == result["sha256"]
        assert json.loads(content(bucket, f"clips/{result['job']}.json"))["sha256"] == result["sha256"]


def parts(tmp_path: Path) -> list[Path]:
    return list(tmp_path.rglob("*.part"))


def test_a_batch_is_stored_paid_once_and_nothing_is_left_to_do(
    server: Server, batch: Path, bucket: str, tmp_path: Path
) -> None:
    env, output = variables(server, tmp_path), f"s3://{bucket}/clips"
    first = in_process("run", batch, "-o", output, "--log-file", tmp_path / "log", env=env)
    assert first.returncode == 0, first.stderr
    assert_all_stored_once(server, batch, bucket)
    names = {f"job-{n}.{kind}" for n in range(JOBS) for kind in ("mp4", "json")}
    assert set(keys(bucket)) == {f"clips/{name}" for name in names | {"results.jsonl", "gallery.html", OWNER, USED}}
    assert first.stdout.endswith(f"look at them in {output}/gallery.html\n")
    assert b"job-0.mp4" in content(bucket, "clips/gallery.html")
    assert request("DELETE", f"{bucket}/clips/gallery.html").is_success
    plan = in_process("plan", batch, "-o", output, "--json", env=env)
    assert json.loads(plan.stdout.splitlines()[-1])["done"] == JOBS
    again = in_process("run", batch, "-o", output, env=env)
    assert (again.returncode, paid(server, batch)) == (0, JOBS)
    assert "nothing spent" in again.stdout
    gallery = in_process("gallery", output, env=env)
    assert gallery.stdout == f"{output}/gallery.html\n"
    assert b"job-0.mp4" in content(bucket, "clips/gallery.html")
    status = in_process("status", output, "--json", env=env)
    assert json.loads(status.stdout)["states"] == {"stored": JOBS}
    assert request("DELETE", f"{bucket}/clips/job-1.mp4").is_success
    status = in_process("status", output, "--json", env=env)
    assert json.loads(status.stdout)["gone"] == ["job-1"]
    unreachable = in_process("status", output, env=env | {"AWS_ALLOW_HTTP": "false"})
    assert (unreachable.returncode, "which clips are gone is not known" in unreachable.stderr) == (0, True)
    take = in_process("again", "job-0", "-o", output, env=env)
    assert (take.returncode, paid(server, batch)) == (0, JOBS + 1)
    assert {"clips/job-0-seed43.mp4", "clips/job-1.mp4"} <= set(keys(bucket))  # the other one is fetched again
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"moto-secret" in path.read_bytes()]


def test_a_batch_may_name_an_object_store_and_a_folder_for_its_journal(server: Server, tmp_path: Path) -> None:
    batch = tmp_path / "batch.yaml"
    batch.write_text(f"output: file://{tmp_path}/out/clips\njobs:\n- {{id: one, prompt: {tmp_path}}}\n")
    env = variables(server, tmp_path)
    for _ in range(2):
        plan = in_process("plan", batch, "--journal", tmp_path / "home", env=env)
        assert plan.returncode == 0, plan.stderr
        assert not (tmp_path / "out").exists()
    done = in_process("run", batch, "--journal", tmp_path / "home", env=env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "journal.sqlite3").is_file()
    assert not (tmp_path / "state").exists()
    assert {path.name for path in (tmp_path / "out" / "clips").iterdir()} == {
        "one.mp4", "one.json", "results.jsonl", "gallery.html", ".wan_async"
    }  # fmt: skip


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("kills", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_process_killed_between_the_put_and_the_row_is_resumed_without_another_payment(
    server: Server, batch: Path, bucket: str, tmp_path: Path, kills: int
) -> None:
    env, words = variables(server, tmp_path), ["run", str(batch), "-o", f"s3://{bucket}/clips", "-c", "1"]
    for count in range(1, kills + 1):
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_AFTER_PUT, *words],
            env=untraced({**os.environ, **env}), capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert sum(key.endswith(".mp4") for key in keys(bucket)) >= count
    done = in_process(*words, env=env)
    assert done.returncode == 0, done.stderr
    assert_all_stored_once(server, batch, bucket)
    assert not parts(tmp_path)


def test_credentials_that_expire_during_a_run_end_it_and_no_clip_is_lost(
    server: Server, batch: Path, bucket: str, tmp_path: Path
) -> None:
    with gateway() as store:

        def expire(count: int) -> None:
            store.refuse = 403 if count >= 2 else 0

        store.on_clip = expire
        env = variables(server, tmp_path, store.url)
        words = ["run", str(batch), "-o", f"s3://{bucket}/clips", "-c", "6"]
        ended = in_process(*words, "--json", env=env)
        assert ended.returncode == ExitCode.ENVIRONMENT
        assert "ExpiredToken" in ended.stdout + ended.stderr
        assert "renew the credentials" in ended.stdout + ended.stderr
        assert len(parts(tmp_path)) >= JOBS - 2  # complete, and waiting to be stored
        assert "downloading" in ended.stdout
        assert paid(server, batch) == JOBS
        store.refuse, store.on_clip = 0, lambda count: None
        resumed = in_process(*words, "--json", env=env)
        assert resumed.returncode == 0, resumed.stderr
        assert "downloading" not in resumed.stdout
    assert_all_stored_once(server, batch, bucket)
    assert not parts(tmp_path)


def test_a_bucket_that_disappears_during_a_run_ends_it_and_its_clips_are_stored_again(
    server: Server, batch: Path, bucket: str, tmp_path: Path
) -> None:
    with gateway() as store:

        def remove(count: int) -> None:
            if count == 2:
                delete_bucket(bucket)

        store.on_clip = remove
        env = variables(server, tmp_path, store.url)
        words = ["run", str(batch), "-o", f"s3://{bucket}/clips", "-c", "6"]
        ended = in_process(*words, env=env)
        assert ended.returncode == ExitCode.ENVIRONMENT
        assert "there is no such bucket" in ended.stdout + ended.stderr
        store.on_clip = lambda count: None
        refused = in_process(*words, env=env)
        assert (refused.returncode, paid(server, batch)) == (ExitCode.ENVIRONMENT, JOBS)
        assert request("PUT", bucket).is_success
        resumed = in_process(*words, env=env)
        assert resumed.returncode == 0, resumed.stderr
    assert_all_stored_once(server, batch, bucket)


def test_another_journal_is_refused_before_anything_is_spent(
    server: Server, batch: Path, bucket: str, tmp_path: Path
) -> None:
    env, output = variables(server, tmp_path), f"s3://{bucket}/clips"
    assert in_process("run", batch, "-o", output, env=env).returncode == 0
    for command in ("plan", "run"):
        refused = in_process(command, batch, "-o", output, "--journal", tmp_path / "other", env=env)
        assert refused.returncode == ExitCode.ENVIRONMENT
        assert "belong to another journal" in refused.stderr
    assert paid(server, batch) == JOBS


def test_a_lost_journal_is_noticed_and_its_tasks_are_adopted_with_their_clips(
    server: Server, batch: Path, bucket: str, tmp_path: Path
) -> None:
    env, home = variables(server, tmp_path), tmp_path / "j"
    words = ["run", str(batch), "-o", f"s3://{bucket}/clips", "--journal", str(home)]
    assert in_process(*words, env=env).returncode == 0
    (home / "journal.sqlite3").unlink()
    assert request("DELETE", f"{bucket}/clips/{OWNER}").is_success
    stopped = in_process(*words, env=env)
    assert (stopped.returncode, paid(server, batch)) == (ExitCode.UNRESOLVED, JOBS)
    adopted = in_process(*words, "--adopt", env=env)
    assert adopted.returncode == 0, adopted.stderr + adopted.stdout
    assert_all_stored_once(server, batch, bucket)


def test_a_lost_machine_is_noticed_and_what_it_paid_for_is_adopted(
    server: Server, batch: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of the first journal but its object; the tasks it paid for are not in the store yet."""
    env, words = variables(server, tmp_path), ["run", str(batch), "-o", f"s3://{bucket}/clips"]
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "_publish", lambda *_: (_ for _ in ()).throw(errors.Unusable("the network is gone")))
        assert in_process(*words, env=env).returncode == ExitCode.ENVIRONMENT
    submitted = paid(server, batch)
    assert submitted > 0
    shutil.rmtree(tmp_path / "state")
    assert request("DELETE", f"{bucket}/clips/results.jsonl").is_success
    refused = in_process(*words, env=env)
    assert (refused.returncode, f"remove {OWNER} there" in refused.stderr) == (ExitCode.ENVIRONMENT, True)
    assert request("DELETE", f"{bucket}/clips/{OWNER}").is_success
    assert "was lost" in in_process("plan", *words[1:], env=env).stderr
    for _ in range(2):
        stopped = in_process(*words, env=env)
        assert (stopped.returncode, paid(server, batch)) == (ExitCode.UNRESOLVED, submitted)
    assert in_process(*words, "--adopt", env=env).returncode == 0
    assert_all_stored_once(server, batch, bucket)


def test_a_file_of_the_user_is_neither_overwritten_nor_paid_for(
    server: Server, batch: Path, bucket: str, tmp_path: Path
) -> None:
    assert request("PUT", f"{bucket}/clips/job-3.mp4").is_success
    env, output = variables(server, tmp_path), f"s3://{bucket}/clips"
    for command in ("plan", "run"):
        refused = in_process(command, batch, "-o", output, env=env)
        assert refused.returncode == ExitCode.INVALID
        assert f"{output}/job-3.mp4 exists and is not ours" in refused.stderr
    assert paid(server, batch) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "BATCH", "--journal", "x"], "a folder holds its own journal"),
        (["status", "out", "--journal", "x"], "a folder holds its own journal"),
        (["run", "BATCH", "-o", "s3://user:password@bucket/x"], "credentials come from the environment"),
        (["run", "BATCH", "-o", "ftp://host/x"], "not to ftp://"),
        (["run", "BATCH", "-o", "s3://bucket/$USER"], "variables are not filled in"),
        (["run", "BATCH", "-o", "s3://"], "the bucket is missing"),
        (["run", "BATCH", "-o", "file://out"], "three slashes"),
        (["generate", "-p", "x", "-o", "s3://bucket/x"], "a local path"),
        (["watch", ".", "--yes", "-o", "s3://bucket/x"], "watch writes to folders only"),
        (["pick", "s3://bucket/x"], "a local path"),
    ],
)
def test_what_can_not_work_is_refused_as_usage(batch: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    words = [str(batch) if word == "BATCH" else word for word in arguments]
    refused = in_process(*words, cwd=tmp_path, env={"WIRO_API_KEY": "key"})
    assert refused.returncode == ExitCode.INVALID
    assert said in refused.stderr
    assert "password" not in refused.stderr or "password or a port" in refused.stderr


def test_without_the_package_the_message_says_how_to_install_it(
    batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wan_async.outputs.stores.find_spec", lambda name: None)
    refused = in_process("plan", batch, "-o", "s3://bucket/x", cwd=tmp_path, env={"XDG_STATE_HOME": str(tmp_path)})
    assert refused.returncode == ExitCode.ENVIRONMENT
    assert "pip install 'wan-async[s3]'" in refused.stderr


@pytest.mark.parametrize("count", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_that_used_an_object_store_end_cleanly(
    server: Server, batch: Path, bucket: str, tmp_path: Path, count: int
) -> None:
    env = variables(server, tmp_path)
    outputs = [f"s3://{bucket}/{number}" for number in range(count)]
    started = [start("run", batch, "-o", output, "--limit", "1", "-q", env=env) for output in outputs]
    for process in started:
        said, problems = process.communicate(timeout=120)
        assert (process.returncode, problems) == (0, ""), said


def test_takes_with_equal_bytes_keep_a_file_each(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_numbered(store: ObjectStore, name: str) -> str | None:
        """What is found if all takes have the same bytes."""
        return numbered(name, 1) if store._calls.facts(numbered(name, 1)) is not None else None

    monkeypatch.setattr(ObjectStore, "_find_copy", first_numbered)
    env, output = variables(server, tmp_path), f"file://{tmp_path}/out"
    batch = tmp_path / "batch.json"
    for number in (0, 1, 2, 0):  # the last one undoes the edits: its clip gets the plain name back
        write_batch(tmp_path, [{"id": "cat", "prompt": f"{tmp_path} {number}"}])
        done = in_process("run", batch, "-o", output, env=env)
        assert (done.returncode, "still called" in done.stderr) == (0, False), done.stderr
    clips = sorted((tmp_path / "out").glob("*.mp4"))
    assert len(clips) == len({clip.read_bytes() for clip in clips}) == 3
    assert (tmp_path / "out" / "cat.mp4") in clips
    assert paid(server, batch) == 3
