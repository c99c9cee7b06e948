"""Workers whose clips, and input images, are in an object store or a folder, and batches that are enqueued again."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from object_stores import content, environment, keys, new_bucket
from pictures import png
from servers import command_line, in_process, sandbox_server, start_forked, write_batch

from wan_async.domain.exit_codes import ExitCode
from wan_async.domain.lifecycle import State
from wan_async.journal.base import DatabaseHome
from wan_async.journal.reports import report


def test_workers_share_an_object_store_and_pay_once(tmp_path: Path, dsn: str) -> None:
    count = 8
    image = tmp_path / "first.png"
    image.write_bytes(png())
    jobs = [{"id": f"j{number}", "prompt": f"scene {number}", "image": "first.png"} for number in range(count)]
    batch = write_batch(tmp_path, jobs)
    bucket = new_bucket()
    output = f"s3://{bucket}/clips"
    with sandbox_server() as server:
        machines = [
            server.env | environment() | {"HOME": str(tmp_path / name), "XDG_STATE_HOME": str(tmp_path / name)}
            for name in ("first", "second", "third")
        ]
        enqueue = ("enqueue", batch, "--journal", dsn, "-o", output)
        done = in_process(*enqueue, env=machines[0])
        assert done.returncode == 0, done.stderr
        digest = sha256(image.read_bytes()).hexdigest()
        assert [name for name in keys(bucket) if name.endswith(".png")] == [f"clips/.wan_async/inputs/{digest}.png"]
        image.unlink()  # the other machines don't have it
        workers = [start_forked("worker", "--journal", dsn, "--once", env=env) for env in machines[1:]]
        for worker in workers:
            out, err = worker.communicate(timeout=60)
            assert worker.returncode == 0, out + err
        assert server.paid == count
        known = report(DatabaseHome(dsn, output))
        assert known is not None
        assert [result.state for result in known.results] == [State.STORED] * count
        for result in known.results:
            assert sha256(content(bucket, f"clips/{result.file}")).hexdigest() == result.sha256
            assert json.loads(content(bucket, f"clips/{result.job}.json"))["sha256"] == result.sha256
        image.write_bytes(png())
        again = in_process(*enqueue, env=machines[0])
        assert again.returncode == 0, again.stderr
        assert f"{count} done" in again.stderr
        worker_again = in_process("worker", "--journal", dsn, "--once", env=machines[1])
        assert worker_again.returncode == 0, worker_again.stderr
        assert (server.paid, len(server.report()["tasks"])) == (count, count)
        assert not list(tmp_path.rglob("*.part"))
        status = in_process("status", output, "--journal", dsn, "--json", env=machines[0])
        assert (json.loads(status.stdout)["gone"], status.stderr) == ([], "")
        lost = in_process("status", output, env=machines[2])
        assert (lost.returncode, "add --journal 'postgresql://" in lost.stderr) == (ExitCode.ENVIRONMENT, True)


def test_a_batch_that_grows_is_enqueued_again_and_its_clips_keep_their_names(tmp_path: Path, dsn: str) -> None:
    output = tmp_path / "out"
    prompts = ["new", "first", "second"]
    with sandbox_server() as server:
        for some in (prompts[1:], prompts):
            batch = tmp_path / "batch.json"
            batch.write_text(json.dumps({"name": "{index}", "jobs": [{"prompt": prompt} for prompt in some]}))
            done = in_process("enqueue", batch, "--journal", dsn, "-o", output, env=server.env)
            assert done.returncode == 0, done.stderr
            worked = in_process("worker", "--journal", dsn, "--once", env=server.env)
            assert worked.returncode == 0, worked.stderr
            assert server.paid == len(some)
    sidecars = [json.loads((output / f"{index}.json").read_text()) for index in (1, 2, 3)]
    assert [sidecar["parameters"]["prompt"] for sidecar in sidecars] == ["first", "second", "new"]


def test_files_of_the_user_are_not_overwritten_by_workers(tmp_path: Path, dsn: str) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "a.mp4").write_bytes(b"a film")
    batch = write_batch(tmp_path, [{"id": "a", "prompt": "rain"}])
    nowhere = {"WIRO_BASE_URL": "http://127.0.0.1:1/v1", "WIRO_API_KEY": "key"}
    refused = in_process("enqueue", batch, "--journal", dsn, "-o", output, env=nowhere)
    assert (refused.returncode, (output / "a.mp4").read_bytes()) == (2, b"a film")


def test_an_output_that_is_done_does_not_hold_back_the_others_of_its_worker(tmp_path: Path, dsn: str) -> None:
    lease = ("--lease", "2")
    with sandbox_server("--seconds", "0.5", "--limit", "1") as server:
        for name, count in (("long", 6), ("short", 1)):  # the worker opens the short one last
            (tmp_path / name).mkdir()
            batch = write_batch(tmp_path / name, [{"prompt": f"{name} {number}"} for number in range(count)])
            enqueue = ("enqueue", batch, "--journal", dsn, "-o", tmp_path / name / "out", *lease)
            done = in_process(*enqueue, env=server.env)
            assert done.returncode == 0, done.stderr
        worked = command_line("worker", "--journal", dsn, "--once", *lease, "-v", env=server.env)
        assert worked.returncode == 0, worked.stderr
        assert "held back" not in worked.stdout + worked.stderr
        assert server.paid == 7
