"""Journals with damaged bytes, and links at their paths."""

from __future__ import annotations

import copy
import random
import sqlite3
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from harness import World, make_sandbox, text_jobs, virtually
from journals import become, enroll, opened

from wan_async.cli import main
from wan_async.domain import events
from wan_async.domain.job import Job
from wan_async.domain.lifecycle import State
from wan_async.engine.run import Run
from wan_async.errors import Unusable
from wan_async.journal import start_counter
from wan_async.journal.base import FILE, FOLDER
from wan_async.journal.integrity import LAYOUT
from wan_async.journal.reports import doubt, report
from wan_async.journal.sql_interface import Database
from wan_async.journal.sqlite_connection import peek
from wan_async.journal.tables import COLUMNS

LOG = f"{FILE}-wal"
KINDS = ("flip", "zero", "overwrite", "truncate")


def damaged(data: bytes, kind: str, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    while not data[at]:  # where the file has content
        at = rng.randrange(len(data))
    length = min(rng.choice([1, 1, 8, 64, 600, 5000]), len(data) - at)
    match kind:
        case "truncate":
            return data[:at]
        case "flip":
            return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        case "zero":
            return data[:at] + bytes(length) + data[at + length :]
    return data[:at] + rng.randbytes(length) + data[at + length :]


def restore(folder: Path, files: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def shown(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, str]:
    """The exit code and output of a command."""
    code = main.main(list(command))
    captured = capsys.readouterr()
    assert code == 0 or captured.err.splitlines()[-1].startswith("error: "), captured.err
    assert captured.err.count("\n") <= 2, captured.err  # one more if the journal may be an old copy
    return code, captured.out


@pytest.mark.parametrize("cases", [15, pytest.param(120, marks=pytest.mark.slow)])
def test_a_damaged_journal_gives_one_clear_message_and_no_second_payment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cases: int
) -> None:
    for name in ("WIRO_API_KEY", "WIRO_API_SECRET", "WIRO_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    # `plan` runs an event loop of its own, and virtual time starts no thread: this one is started before
    pool, run_loop = ThreadPoolExecutor(1), anyio.run
    pool.submit(int).result()
    monkeypatch.setattr(anyio, "run", lambda func, *args: pool.submit(run_loop, func, *args).result())
    batch = text_jobs(8)
    (tmp_path / "batch.jsonl").write_text("".join(f'{{"id": "{job.id}", "prompt": "{job.prompt}"}}\n' for job in batch))
    ends: Counter[str] = Counter()

    async def test() -> None:
        base = World(tmp_path / "base", make_sandbox(latency_seconds=0.1))
        base.sandbox.faults.next("failed_render", times=2)
        whole: dict[str, bytes] = {}

        async def kill(runner: Run) -> None:
            await anyio.sleep(6.0)
            base.dead = True
            whole.update({name: (base.home / name).read_bytes() for name in (FILE, LOG)})
            runner.leave()

        await base.run(batch, kill, concurrency=3, retries=0)
        base.dead = False
        known = report(base.home)
        assert known is not None
        truth = Counter(result.state for result in known.results)
        assert {"stored", "failed", "accepted", "planned"} <= set(truth), truth
        output = str(base.output)
        plan = ("plan", "batch.jsonl", "-o", output)
        right = {command[0]: shown(capsys, *command) for command in (("status", output), plan, ("gallery", output))}
        assert {code for code, _ in right.values()} == {0}
        merged = {FILE: (base.home / FILE).read_bytes()}
        assert whole[LOG]
        outputs = {path.name: path.read_bytes() for path in base.output.iterdir() if path.is_file()}

        for seed in range(cases):
            rng = random.Random(seed)
            files = dict(rng.choice([whole, merged, merged]))
            target = rng.choice(sorted(files))
            kind = KINDS[seed % len(KINDS)]
            files[target] = damaged(files[target], kind, rng)
            for name in (FILE, LOG, f"{FILE}-shm"):
                (base.home / name).unlink(missing_ok=True)
            for name, data in files.items():
                (base.home / name).write_bytes(data)
            start_counter.write(base.home, 1)
            restore(base.output, outputs)
            about = f"seed {seed}: {kind} in {target}"
            commands = [("status", output), plan, ("gallery", output)] if seed % 3 == 0 else [plan]
            found = {command[0]: shown(capsys, *command) for command in commands}
            in_log = LOG in files  # only its end can be lost
            for name, (code, printed) in found.items():
                assert code in (0, 6), about
                assert code == 6 or in_log or printed == right[name][1], f"{about}: {name} prints {printed}"
            world = World(base.folder, copy.deepcopy(base.sandbox))
            before = world.tasks
            if {code for code, _ in found.values()} == {6}:
                with pytest.raises(Unusable, match="is damaged"):
                    await world.run(batch, retries=0)
                assert world.tasks == before, about
                ends["refused"] += 1
                continue
            finished = await world.run(batch, retries=0)
            ends[f"exit {finished.exit_code}"] += 1
            counts = Counter(task.parameters["prompt"] for task in world.sandbox.account.tasks.values())
            if finished.exit_code == 5:
                assert world.events_of(events.Stopping), about
                assert world.tasks == before, about
            else:
                assert finished.exit_code == 1, (about, world.events[-2:])  # two renders failed
                assert finished.stored + finished.skipped == 6, about
                assert set(counts.values()) == {1}, (about, counts)

    virtually(test)
    assert ends["refused"] > 0.4 * cases, ends
    assert len(ends) == 3, ends


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def filled(home: Path) -> None:
    async with opened(home) as journal:
        jobs = await enroll(journal, *"abcd")
        for job, state in zip(jobs, ("stored", "accepted", "quarantined", "failed"), strict=True):
            await become(journal, job, state)
        await journal.claim("a", "a", "a")
        await journal.hashed({"cat.png": (1, 2, "5ha")})
        await journal.uploaded("5ha", "https://cdn/1", 1.0)
        await journal.echoed({"prompt": True})
        await journal.project_seen("7")


@pytest.mark.anyio
@pytest.mark.parametrize("table", [*COLUMNS, "money", "checksums"])
async def test_a_changed_row_is_damage(tmp_path: Path, table: str) -> None:
    await filled(tmp_path)
    column = {"money": "settled", "checksums": "total"}.get(table) or COLUMNS[table].split(", ")[1:][:1]
    name = column if isinstance(column, str) else "".join(column) or "id"
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as db:
        db.create_function("checksum_of", -1, zlib.crc32)
        if not db.execute(f"SELECT 1 FROM {table}").fetchone():
            columns = db.execute(f"PRAGMA table_info({table})").fetchall()
            db.execute(f"INSERT INTO {table} VALUES ({', '.join('1' * len(columns))})")
        peek(tmp_path / FILE, LAYOUT).close()
        triggers = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for trigger, _ in triggers:
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute(f"UPDATE {table} SET {name} = {name} || '7'")
        for _, sql in triggers:
            db.execute(sql)
    with pytest.raises(Unusable, match="is damaged"):
        peek(tmp_path / FILE, LAYOUT)


@pytest.mark.anyio
@pytest.mark.parametrize("table", ["attempts", "jobs", "clips"])
async def test_a_deleted_row_is_damage(tmp_path: Path, table: str) -> None:
    await filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for trigger, _ in triggers:
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute(f"DELETE FROM {table} WHERE rowid = 2" if table == "attempts" else f"DELETE FROM {table}")
        for _, sql in triggers:
            db.execute(sql)
    with pytest.raises(Unusable, match="is damaged"):
        peek(tmp_path / FILE, LAYOUT)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "index",
    ["attempts_job", "attempts_content", "attempts_open", "attempts_unanswered", "sqlite_autoindex_attempts_1"],
)
async def test_an_index_that_lacks_a_row_is_damage(tmp_path: Path, index: str) -> None:
    await filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (index,)).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    data = bytearray((tmp_path / FILE).read_bytes())
    at = (page - 1) * size
    data[at + 3 : at + 5] = (int.from_bytes(data[at + 3 : at + 5]) - 1).to_bytes(2)  # one entry fewer
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(Unusable, match="is damaged"):
        peek(tmp_path / FILE, LAYOUT)


@pytest.mark.anyio
async def test_every_change_updates_the_checksums(tmp_path: Path) -> None:
    await filled(tmp_path)
    async with opened(tmp_path) as journal:
        await enroll(journal, "a", ("b", "new"), "e")
        await journal.job_failed("e", "image", "gone", sticky=True)
        await journal.claim("b", "b", "b")
        await journal.hashed({"cat.png": (3, 4, "other")})
        await journal.uploaded("5ha", "https://cdn/2", 2.0)
        await journal.forget_upload("5ha")
        await journal.remember("inline")
        await journal.renamed("a-1.mp4", "a.1.mp4")
        await journal.echoed({"prompt": False})
        for attempt in await journal.open_attempts():
            if attempt.state == "accepted":
                await journal.closed(attempt, State.MISSING, "\xe9 and \0 in it")
    peek(tmp_path / FILE, LAYOUT).close()


@pytest.mark.anyio
async def test_checking_a_large_journal_takes_linear_time(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:

        def fill(db: Database) -> None:
            db.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) "
                "INSERT INTO attempts (job, number, content, state, form, image, name, intent_at, task_id, token) "
                "SELECT 'job-' || i, 1, hex(randomblob(32)), 'stored', '{}', '', 'n', i, i, 'token-' || i FROM n"
            )

        await journal._write(fill)
    began = time.process_time()
    peek(tmp_path / FILE, LAYOUT).close()
    assert time.process_time() - began < 1.0  # 0.1 s here; quadratic time takes minutes


OWN = (FILE, LOG, f"{FILE}-shm", f"{FILE}-journal", "lock", "holder", start_counter.FILE, f"{start_counter.FILE}.tmp")


@pytest.mark.virtual_time
@pytest.mark.parametrize("is_dangling", [False, True])
@pytest.mark.parametrize("name", [*OWN, "", ".."])
async def test_files_of_a_journal_that_are_links_are_refused(
    tmp_path: Path, name: str, is_dangling: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    home = output / FOLDER / "generate" / "cat" if name == ".." else output / FOLDER
    world = World(tmp_path, make_sandbox())
    if name not in ("", ".."):
        async with opened(home):
            pass
    link = {"": home, "..": output / FOLDER}.get(name) or home / name
    victim = tmp_path / "victim"
    if not is_dangling:
        victim.mkdir() if name in ("", "..") else victim.write_bytes(b"mine")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(victim)
    with pytest.raises(Unusable, match=f"{link.name} is a symbolic link"):
        if name == "..":
            async with opened(home):
                pytest.fail("it was opened")
        else:
            finished = await world.run([Job(prompt="x")])
            assert finished.exit_code == 6
            (stopping,) = world.events_of(events.Stopping)
            raise Unusable(stopping.reason)
    assert world.tasks == 0
    if is_dangling:
        assert not victim.exists()
    elif victim.is_dir():
        assert not list(victim.iterdir())
    else:
        assert victim.read_bytes() == b"mine"
    if link.name in (FILE, LOG, FOLDER):
        assert main.main(["status", str(output)]) == 6
        assert "is a symbolic link" in capsys.readouterr().err


@pytest.mark.virtual_time
async def test_an_output_folder_may_be_a_link(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    (tmp_path / "elsewhere").mkdir()
    world.output.symlink_to(tmp_path / "elsewhere")
    assert (await world.run([Job(prompt="x")])).exit_code == 0
    assert doubt(world.home) is None
