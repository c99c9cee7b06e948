"""Commands on an output whose journal is in PostgreSQL: they work, or say that they don't."""

from __future__ import annotations

import gc
import json
import subprocess
import warnings
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import postgres_server
import psycopg
import pytest
from harness import World, make_sandbox, virtually
from inner_workers import worker_in_thread
from journals import become
from pictures import png
from reviews import PICK, REJECT, judge
from servers import Server, events_of, in_process, sandbox_server, write_batch

from wan_async import Job, WanClient
from wan_async.cluster.job_queue import open_queue
from wan_async.cluster.shared_journal import SharedJournal
from wan_async.domain.attempt import Account
from wan_async.domain.exit_codes import ExitCode
from wan_async.journal.base import DatabaseHome
from wan_async.journal.journal_location import name_of_output
from wan_async.journal.postgres import PostgresJournal
from wan_async.journal.reports import report
from wan_async.output_locations import OWNER


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sandbox_server() as found:
        yield found


def account_at(server: Server, key: str = "") -> Account:
    return Account(server.root, key or server.env["WIRO_API_KEY"])


def own(dsn: str, output: object, account: Account, task: str, key: str = "a") -> None:
    """Makes a task that of an attempt in the journal of an output."""

    async def accept() -> None:
        async with PostgresJournal.open(DatabaseHome(dsn, str(output)), account) as journal:
            await become(journal, key, "accepted", task=task)

    anyio.run(accept)


def submitted(server: Server, prompt: str) -> str:
    """The id of a task that no journal has."""
    info = server.info

    async def send() -> str:
        async with WanClient(info["api_key"], info["api_secret"], base_url=info["base_url"]) as client:
            return str((await client.submit(Job(prompt=prompt))).id)

    return anyio.run(send)


def test_orphans_are_the_tasks_that_no_output_of_the_account_in_the_database_owns(
    tmp_path: Path, dsn: str, server: Server
) -> None:
    mine, other, orphan, foreign = [submitted(server, name) for name in ("mine", "other", "orphan", "foreign")]
    account = account_at(server)
    own(dsn, tmp_path / "out", account, mine)
    own(dsn, "s3://bucket/clips", account, other)
    own(dsn, "s3://bucket/theirs", Account("http://127.0.0.1:1", "key"), foreign)  # an id of another service
    for output in ([], [tmp_path / "out"], ["s3://bucket/clips"]):
        done = in_process("task", "list", "--json", "--orphans", *output, "--journal", dsn, env=server.env)
        assert (done.returncode, done.stderr) == (0, "")
        listed = {line["task_id"] for line in events_of(done.stdout)}
        assert listed & {mine, other, orphan, foreign} == {orphan, foreign}


@pytest.mark.parametrize(
    ("words", "env", "code", "said"),
    [
        (["--orphans", "elsewhere"], {}, ExitCode.ENVIRONMENT, "no journal of elsewhere"),
        (["--orphans"], {"WIRO_API_KEY": "another"}, ExitCode.ENVIRONMENT, "the account of this API key"),
        ([], {}, ExitCode.INVALID, "--orphans"),
    ],
)
def test_orphans_of_another_account_or_an_unknown_output_are_refused(
    dsn: str, server: Server, words: list[str], env: dict[str, str], code: int, said: str
) -> None:
    own(dsn, "s3://bucket/clips", account_at(server), "1")
    refused = in_process("task", "list", *words, "--journal", dsn, env=server.env | env)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert said in refused.stderr


def test_a_database_that_has_no_journals_or_is_not_there_is_one_line(dsn: str, server: Server) -> None:
    gone = dsn.replace("/test_", "/gone_")
    for words in (["task", "list", "--orphans"], ["status"]):
        for place, said in ((dsn, "no journal in this database"), (gone, "does not exist"),
                            ("postgresql://u:s3cret@127.0.0.1:1/x", "Connection refused")):  # fmt: skip
            refused = in_process(*words, "--journal", place, env=server.env)
            assert refused.returncode == ExitCode.ENVIRONMENT
            assert said in refused.stderr
            assert (len(refused.stderr.splitlines()), "s3cret" in refused.stderr) == (1, False)


def test_the_gallery_of_workers_shows_their_clips_and_images(tmp_path: Path, dsn: str, server: Server) -> None:
    (tmp_path / "first.png").write_bytes(png())
    batch = write_batch(tmp_path, [{"id": "a", "prompt": "rain", "image": "first.png"}])
    output = tmp_path / "out"
    done = in_process("enqueue", batch, "--journal", dsn, "-o", output, env=server.env)
    assert done.returncode == 0, done.stderr
    worked = in_process("worker", "--once", "--journal", dsn, env=server.env)
    assert worked.returncode == 0, worked.stderr
    made = in_process("gallery", output, "--journal", dsn)
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout == f"{output / 'gallery.html'}\n"
    page = (output / "gallery.html").read_text()
    assert "a.mp4" in page
    assert f".wan_async/inputs/{sha256(png()).hexdigest()}.png" in page
    packing = in_process("gallery", output, "--journal", dsn, "--portable", tmp_path / "x.zip")
    assert (packing.returncode, (tmp_path / "x.zip").exists()) == (ExitCode.INVALID, False)


def test_a_worker_that_is_refused_says_why_at_once(dsn: str, server: Server) -> None:
    for place, said in ((dsn.replace("/test_", "/gone_"), "does not exist"), (f"{dsn}&bogus=1", "bogus")):
        refused = in_process("worker", "--once", "--journal", place, "--json", env=server.env)
        assert refused.returncode == ExitCode.ENVIRONMENT
        assert (said in refused.stderr, len(refused.stderr.splitlines())) == (True, 1)
        assert events_of(refused.stdout)[-1]["exit_code"] == ExitCode.ENVIRONMENT


@pytest.mark.parametrize("is_fetched", [True, False])
def test_a_task_is_assigned_beside_a_worker(tmp_path: Path, dsn: str, is_fetched: bool) -> None:
    output = tmp_path / "out"
    home = DatabaseHome(dsn, name_of_output(output))

    async def lose_an_answer() -> tuple[str, Account]:
        world = World(tmp_path, make_sandbox(echo="empty", task_seconds=(4.0, 4.0)), database=home)
        world.sandbox.faults.next("drop_after", endpoint="Run")
        if is_fetched:
            await world.run([Job(id="a", prompt="rain")], settle_seconds=5)
        else:
            await world.run_until(3.0, [Job(id="a", prompt="rain")], settle_seconds=1)
        return next(iter(world.sandbox.account.tasks)), Account(world.origin, world.key)

    async def assign(account: Account) -> subprocess.CompletedProcess[str]:
        words = ["assign", task, "a", "-o", str(output), "--journal", dsn]
        async with SharedJournal.open(home, account, exclusive=False, worker=1) as worker:
            await worker.take_up(["a"], retry_failed=False)
            return await anyio.to_thread.run_sync(partial(in_process, *words))

    task, account = virtually(lose_an_answer)
    shown = in_process("status", output, "--journal", dsn.replace("postgres:@", "postgres:s3cret@"))
    assert f"wan-async assign {task} a -o {output} --journal" in shown.stdout
    assert "s3cret" not in shown.stdout
    done = anyio.run(assign, account)
    assert (done.returncode, done.stderr) == (0, "")
    known = report(home)
    assert known is not None
    (result,) = known.results
    if is_fetched:
        assert (done.stdout, result.state) == (f"task {task} is the clip of job a: {output / 'a.mp4'}\n", "stored")
        assert sha256((output / "a.mp4").read_bytes()).hexdigest() == result.sha256
    else:
        assert (result.state, output.joinpath("a.mp4").exists()) == ("accepted", False)

        async def waiting() -> tuple[int, int]:
            async with open_queue(dsn) as queue:
                return await queue.counts(home.output)

        assert anyio.run(waiting) == (1, 0)
    wrong = in_process("assign", "77", "a", "-o", output, "--journal", dsn)
    assert (wrong.returncode, "TASK" in wrong.stderr) == (ExitCode.INVALID, True)


def test_picks_of_workers_are_listed_copied_and_rendered_again(tmp_path: Path, dsn: str) -> None:
    output = tmp_path / "out"

    async def run() -> None:
        world = World(tmp_path, make_sandbox(), database=DatabaseHome(dsn, name_of_output(output)))
        await world.run([Job(id="cat", prompt="it yawns"), Job(id="dog", prompt="it runs")])
        assert world.output == output

    virtually(run)
    unjudged = in_process("pick", output, "--journal", dsn)
    assert f"wan-async gallery {output} --journal" in unjudged.stderr
    judge(output, output / "verdicts.json", cat=PICK, dog=REJECT)
    done = in_process("pick", output, "--journal", dsn, "--copy", tmp_path / "best")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'best' / 'cat.mp4'}\n")
    again = in_process("pick", output, "--journal", dsn, "-o", tmp_path / "final.yaml", "--seeds", "2")
    assert (again.returncode, "it yawns" in (tmp_path / "final.yaml").read_text()) == (0, True)
    (output / "cat.mp4").unlink()
    gone = in_process("pick", output, "--journal", dsn)
    assert (gone.returncode, "enqueue the batch again" in gone.stderr) == (ExitCode.FAILURES, True)
    elsewhere = in_process("pick", tmp_path, "--journal", dsn)
    assert (elsewhere.returncode, "status --journal" in elsewhere.stderr) == (ExitCode.ENVIRONMENT, True)


def test_another_take_is_enqueued_with_the_image_of_the_store_and_the_options_of_the_batch(
    tmp_path: Path, dsn: str, server: Server
) -> None:
    (tmp_path / "first.png").write_bytes(png())
    jobs: list[dict[str, Any]] = [{"id": "a", "prompt": "a take", "image": "first.png", "seed": 5},
                                  {"id": "b", "prompt": "of two"}]  # fmt: skip
    output, batch = tmp_path / "out", write_batch(tmp_path, jobs)
    done = in_process("enqueue", batch, "--journal", dsn, "-o", output, "--budget", "3", env=server.env)
    assert done.returncode == 0, done.stderr
    (tmp_path / "first.png").unlink()
    for words, added in ((["a"], 1), (["a"], 0), (["a", "b", "--seed", "9", "-c", "2"], 2)):
        again = in_process("again", *words, "-o", output, "--journal", dsn, "--json", env=server.env)
        assert (again.returncode, json.loads(again.stdout)["added"]) == (0, added)
    worked = in_process("worker", "--once", "--journal", dsn, env=server.env)
    assert worked.returncode == 0, worked.stderr
    assert "budget $3.00" in worked.stdout
    assert {path.stem for path in output.glob("*.mp4")} == {"a", "b", "a-seed6", "a-seed9", "b-seed9"}
    assert json.loads((output / "a-seed9.json").read_text())["parameters"]["seed"] == "9"
    unknown = in_process("again", "c", "-o", output, "--journal", dsn, env=server.env)
    assert (unknown.returncode, "c: is no job" in unknown.stderr) == (ExitCode.INVALID, True)


def test_without_its_database_the_folder_of_workers_is_refused_and_the_flag_is_named(
    tmp_path: Path, dsn: str, server: Server
) -> None:
    output, batch = tmp_path / "out", write_batch(tmp_path, [{"id": "a", "prompt": "rain"}])
    with_password = dsn.replace("postgres:@", "postgres:s3cret@")
    done = in_process("enqueue", batch, "-o", output, "--journal", with_password, env=server.env)
    assert done.returncode == 0, done.stderr
    kept = (output / OWNER).read_text()
    assert ("s3cret" in kept, "postgresql://postgres@/" in kept) == (False, True)
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("run", batch, "-o", output), ("plan", batch, "-o", output), ("again", "a", "-o", output),
        ("assign", "1", "a", "-o", output), ("status", output), ("gallery", output), ("pick", output),
        ("task", "list", "--orphans", output),
    )  # fmt: skip
    for words in commands:
        refused = in_process(*words, env=server.env)
        assert (refused.returncode, refused.stdout) == (ExitCode.ENVIRONMENT, "")
        assert "add --journal 'postgresql://postgres@/" in refused.stderr
    assert {path.name for path in (output / OWNER).parent.iterdir()} == {"journal-id", "used"}
    with postgres_server.database() as another:
        for command in ("enqueue", "plan"):
            refused = in_process(command, batch, "-o", output, "--journal", another, env=server.env)
            assert (refused.returncode, "another journal" in refused.stderr) == (ExitCode.ENVIRONMENT, True)
        assert "no journal in this database" in in_process("status", "--journal", another).stderr
        (output / OWNER).unlink()
        assert "was lost" in in_process("plan", batch, "-o", output, "--journal", another, env=server.env).stderr


def test_a_folder_that_holds_its_own_journal_is_refused_to_workers(tmp_path: Path, dsn: str, server: Server) -> None:
    output, batch = tmp_path / "out", write_batch(tmp_path, [{"id": "a", "prompt": "rain"}])
    assert in_process("run", batch, "-o", output, env=server.env).returncode == 0
    for command in ("enqueue", "plan", "run"):
        refused = in_process(command, batch, "-o", output, "--journal", dsn, env=server.env)
        assert (refused.returncode, refused.stdout) == (ExitCode.ENVIRONMENT, "")
        assert "a journal of its own" in refused.stderr


def spent(server: Server) -> Decimal:
    """What all tasks of batches cost together, in USD."""
    tasks = [task for task in server.report()["tasks"] if task["parameters"]["prompt"] in ("rain", "snow", "fog")]
    return sum((Decimal(str(task["cost_usd"])) for task in tasks), Decimal(0))


def test_what_plan_shows_of_a_database_is_what_the_workers_spend(tmp_path: Path, dsn: str, server: Server) -> None:
    def plan(*words: str) -> list[dict[str, Any]]:
        shown = in_process(*words, batch, "-o", output, "--journal", dsn, "--json", env=server.env)
        assert (shown.returncode, shown.stderr) == (0, "")
        return [line | {"at": 0, "run": ""} for line in events_of(shown.stdout)]

    def work(*flags: str) -> None:
        before = spent(server)
        expected = plan("plan", *flags)[-1]["estimate_usd"]
        done = in_process("enqueue", batch, "-o", output, "--journal", dsn, *flags, env=server.env)
        assert done.returncode == 0, done.stderr
        worked = in_process("worker", "--once", "--journal", dsn, env=server.env)
        assert worked.returncode == 0, worked.stderr
        assert spent(server) - before == Decimal(expected)

    output, at_first = tmp_path / "out", spent(server)
    jobs = [{"id": "a", "prompt": "rain"}, {"id": "b", "prompt": "snow", "resolution": "720P"},
            {"id": "same", "prompt": "rain"}]  # fmt: skip
    batch = write_batch(tmp_path, jobs)
    shown = plan("plan")
    assert [line.get("action") for line in shown] == ["render", "render", "duplicate", None]
    assert not output.exists()
    assert plan("enqueue", "--dry-run") == plan("run", "--dry-run") == shown
    work("--only", "b")
    work()
    batch = write_batch(tmp_path, [{"id": "a", "prompt": "fog"}, *jobs[1:]])
    (output / "b.mp4").unlink()
    shown = plan("plan")
    assert [line.get("action") for line in shown] == ["render", "fetch", "done", None]
    assert shown[-1]["gone"] == ["b"]
    assert Decimal(shown[-1]["spent_usd"]) == spent(server) - at_first
    work()
    assert plan("plan")[-1]["estimate_usd"] == "0.00"


def test_tasks_that_are_older_than_a_new_output_do_not_stop_its_workers(
    tmp_path: Path, dsn: str, server: Server
) -> None:
    batch, paid = write_batch(tmp_path, [{"id": "a", "prompt": "older"}]), server.paid
    assert in_process("run", batch, "-o", tmp_path / "before", env=server.env).returncode == 0
    done = in_process("enqueue", batch, "-o", tmp_path / "out", "--journal", dsn, env=server.env)
    assert done.returncode == 0, done.stderr
    worked = in_process("worker", "--once", "--journal", dsn, env=server.env)
    assert worked.returncode == 0, worked.stderr
    assert server.paid == paid + 2


def test_a_worker_in_a_process_that_goes_on_leaves_no_connection_open(tmp_path: Path, dsn: str, server: Server) -> None:
    batch = write_batch(tmp_path, [{"id": "a", "prompt": "left open"}])
    assert in_process("enqueue", batch, "-o", tmp_path / "out", "--journal", dsn, env=server.env).returncode == 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        worked = in_process("worker", "--once", "-q", "--journal", dsn, env=server.env)
        gc.collect()
    assert (worked.returncode, worked.stderr) == (0, "")
    assert [str(warning.message) for warning in caught] == []
    with psycopg.connect(dsn) as link:
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert link.execute(others).fetchone() == (0,)


def test_a_wrong_address_is_not_repeated_since_it_may_hold_a_password() -> None:
    refused = in_process("worker", "--journal", "mysql://u:s3cret@host/db")
    assert refused.returncode == ExitCode.INVALID
    assert ("postgresql://" in refused.stderr, "s3cret" in refused.stderr) == (True, False)


def test_a_run_by_workers_has_json_lines_and_the_exit_code_of_a_run(tmp_path: Path, dsn: str, server: Server) -> None:
    batch = write_batch(tmp_path, [{"id": name, "prompt": f"lines of {name}"} for name in "ab"])
    words = ("run", batch, "-o", tmp_path / "out", "--journal", dsn, "--json")
    with worker_in_thread(dsn, server):
        for flags, counts in ((["--limit", "1"], (1, 0, 1)), ([], (1, 1, 0))):
            done = in_process(*words, *flags, env=server.env)
            last = events_of(done.stdout)[-1]
            assert (done.returncode, last["event"], last["exit_code"], last["run_usd"]) == (0, "finished", 0, "0.05")
            assert (last["stored"], last["skipped"], last["unfinished"]) == counts
            assert "1 worker" in done.stderr


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("plan", ["--pilot=1", "--adopt"]),
        ("run", ["--sandbox", "--on-done=true"]),
        ("enqueue", ["--ignore-unowned"]),
        ("enqueue", ["--downloads=4"]),
        ("run", ["--track", "poll"]),
    ],
)
def test_flags_that_workers_know_nothing_of_are_refused(tmp_path: Path, command: str, flags: list[str]) -> None:
    batch = write_batch(tmp_path, [{"id": "a", "prompt": "rain"}])
    refused = in_process(command, batch, "--journal", "postgresql://127.0.0.1:1/db", *flags)
    assert refused.returncode == ExitCode.INVALID
    assert any(flag.partition("=")[0] in refused.stderr for flag in flags)
