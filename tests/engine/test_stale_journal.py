"""Stale journals: restored, truncated, or copied from another folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from harness import Mortal, Send, World, intercepting, make_sandbox, text_jobs, virtually
from journals import become
from pictures import png

from wan_async.cli import main
from wan_async.domain import events
from wan_async.domain.attempt import Account
from wan_async.domain.job import Job
from wan_async.domain.model import WAN
from wan_async.domain.remote_task import TaskDetail
from wan_async.engine import matching, stale_journal, stale_journal_matching
from wan_async.engine.run import Run
from wan_async.journal import start_counter
from wan_async.journal.base import FILE, FOLDER
from wan_async.journal.reports import report
from wan_async.journal.sql_interface import Database
from wan_async.journal.sql_journal import SqlJournal
from wan_async.journal.sqlite import SqliteJournal

FORM = {
    "inputImageUrl": "", "prompt": "the cat yawns", "negativePrompt": "", "resolution": "480P",
    "aspectRatio": "Default", "seed": "42",
}  # fmt: skip
CAT, DOG = "sha256:cat", "url:https://x.example/dog.png"
URLS = {CAT: "https://cdn/cat", "sha256:cow": "https://cdn/cow"}


def task(task_id: str, *hidden: str, **shown: Any) -> TaskDetail:
    parameters = {name: value for name, value in (FORM | shown).items() if name not in hidden}
    return TaskDetail(id=task_id, socketaccesstoken=f"token-{task_id}", parameters=parameters, createtime=1000.0)


def wanted(key: str, image: str = "", *, chosen: bool = True, **form: str) -> stale_journal_matching.Wanted:
    return stale_journal_matching.Wanted(key, FORM | form, image, chosen)


def compared(
    tasks: Sequence[TaskDetail],
    *jobs: stale_journal_matching.Wanted,
    unanswered: Sequence[matching.Unanswered] = (),
    echoed: Sequence[str] = (),
) -> dict[str, list[Any]]:
    found = stale_journal_matching.unowned(WAN, tasks, jobs, unanswered, urls=URLS, echoed=echoed)
    return {
        "equal": [(task.id, key) for task, key in found.equal],
        "ambiguous": [(task.id, keys) for task, keys in found.ambiguous],
        "surplus": [(task.id, key) for task, key in found.surplus],
        "silent": [task.id for task in found.silent],
    }


def only(**found: list[Any]) -> dict[str, list[Any]]:
    return {"equal": [], "ambiguous": [], "surplus": [], "silent": []} | found


def test_of_tasks_that_equal_a_job_one_that_has_not_failed_is_taken() -> None:
    failed = task("5").model_copy(update={"status": "task_postprocess_end", "pexit": "1"})
    cancelled = task("6").model_copy(update={"status": "task_cancel"})
    running = task("7").model_copy(update={"status": "task_assign"})
    found = compared([failed, cancelled, running], wanted("cat"))
    assert found == only(equal=[("7", "cat")], surplus=[("5", "cat"), ("6", "cat")])
    assert compared([failed], wanted("cat")) == only(equal=[("5", "cat")])


@pytest.mark.parametrize(
    ("shown", "is_equal"),
    [
        ({}, True),
        ({"seed": 42}, True),
        ({"seed": "42.0"}, True),
        ({"seed": ""}, True),
        ({"seed": "7"}, False),
        ({"prompt": " the  cat\nyawns "}, True),
        ({"prompt": "the cat yawns."}, False),
        ({"negativePrompt": "rain"}, False),
        ({"resolution": "720P"}, False),
        ({"inputImageUrl": "https://cdn/cat"}, False),
        ({"inputImage": "https://elsewhere/1"}, False),
        ({"another field": "x"}, True),
    ],
)
def test_a_task_equals_a_job_if_every_echoed_field_does(shown: dict[str, Any], is_equal: bool) -> None:
    expected = only(equal=[("5", "a")]) if is_equal else only()
    assert compared([task("5", **shown)], wanted("a"), wanted("b", prompt="another")) == expected


def test_html_entities_and_hidden_fields_are_no_difference() -> None:
    job = wanted("a", prompt="salt & pepper é")
    assert compared([task("5", prompt="salt &amp; pepper e\u0301")], job) == only(equal=[("5", "a")])
    assert compared([task("5", "seed", "resolution")], wanted("a")) == only(equal=[("5", "a")])
    assert compared([task("5", *FORM)], wanted("a")) == only(silent=["5"])
    assert compared([task("5", prompt="")], wanted("a")) == only(silent=["5"])


@pytest.mark.parametrize(
    ("shown", "keys"),
    [
        ({"inputImageUrl": "https://cdn/cat"}, ["cat"]),
        ({"inputImageUrl": "https://x.example/dog.png"}, ["dog"]),
        ({"inputImageUrl": "https://cdn/cow"}, []),
        ({"inputImageUrl": "https://cdn/uploaded-anew"}, ["cat", "dog", "pig"]),
        ({"inputImage": "https://cdn/cat"}, ["cat"]),
        ({}, ["none", "cat", "dog", "pig"]),
    ],
)
def test_an_image_distinguishes_jobs_only_if_its_url_is_known(shown: dict[str, Any], keys: list[str]) -> None:
    jobs = [wanted("none"), wanted("cat", CAT), wanted("dog", DOG), wanted("pig", "sha256:pig")]
    expected = only(equal=[("5", keys[0])]) if len(keys) == 1 else only(ambiguous=[("5", keys)]) if keys else only()
    assert compared([task("5", **shown)], *jobs) == expected


def test_a_different_image_url_is_a_difference_if_urls_of_its_host_are_echoed_verbatim() -> None:
    shown = task("5", inputImageUrl="https://x.example/other.png")
    assert compared([shown], wanted("dog", DOG)) == only(equal=[("5", "dog")])
    assert compared([shown], wanted("dog", DOG), echoed=["inputImageUrl@x.example"]) == only()


def test_equal_jobs_get_one_task_each_oldest_first_and_selected_jobs_first() -> None:
    jobs = [wanted("unselected", chosen=False), wanted("a"), wanted("b")]
    tasks = [task("30"), task("9"), task("10"), task("200")]
    found = compared(tasks, *jobs)
    assert found == only(equal=[("9", "a"), ("10", "b"), ("30", "unselected")], surplus=[("200", "unselected")])


def test_a_task_that_may_be_that_of_an_unanswered_attempt_is_left_to_reconciliation() -> None:
    def unanswered(high_id: int, **form: str) -> matching.Unanswered:
        return matching.Unanswered(WAN, 1, FORM | form, "", high_id, 1e9, 0.0)

    tasks = [task("5"), task("6")]
    assert compared(tasks, wanted("a"), unanswered=[unanswered(4)]) == only(equal=[("6", "a")])
    assert compared(tasks, wanted("a"), unanswered=[unanswered(4), unanswered(4)]) == only()
    assert compared(tasks, wanted("a"), unanswered=[unanswered(5)]) == only(equal=[("5", "a")])
    assert compared(tasks, wanted("a"), unanswered=[unanswered(9)])["surplus"] == [("6", "a")]
    assert compared(tasks[:1], wanted("a"), unanswered=[unanswered(4, seed="1")]) == only(equal=[("5", "a")])
    silent = [task("5", *FORM), task("6", *FORM)]
    assert compared(silent, wanted("a"), unanswered=[unanswered(4)]) == only(silent=["6"])


def test_comparing_many_tasks_and_jobs_takes_linear_time() -> None:
    jobs = [wanted(f"job-{number}", f"sha256:{number}") for number in range(20_000)]
    tasks = [task(str(number), inputImageUrl=f"https://cdn/{number}") for number in range(2000)]
    urls = {f"sha256:{number}": f"https://cdn/{number}" for number in range(1000)}
    began = time.process_time()
    found = stale_journal_matching.unowned(WAN, tasks[:1000], jobs, [], urls=urls, echoed=())
    assert [key for _, key in found.equal] == [f"job-{number}" for number in range(1000)]
    assert time.process_time() - began < 5.0  # 0.3 s here; quadratic code takes minutes


FILES = (FILE, f"{FILE}-wal")


@dataclass
class RollingBack(World):
    """A world whose journal is saved at one commit, and whose process is killed at a later one."""

    save_at: int = 0
    kill_at: int = 0
    commits: int = 0
    listings: int = 0
    life: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def save(self) -> Path:
        """Folder of the saved files."""
        return self.folder / "save"

    @asynccontextmanager
    async def _open_journal(self, *args: Any, **options: Any) -> AsyncIterator[SqlJournal]:
        async with super()._open_journal(*args, **options) as journal:
            write = journal._write

            async def counted(change: Callable[[Database], Any]) -> Any:
                result = await write(change)
                self.commits += 1
                if self.commits == self.save_at and not self.save.exists():
                    self.save.mkdir()
                    for name in FILES:
                        shutil.copy(self.home / name, self.save / name)
                if self.commits == self.kill_at:
                    self.kill()
                await self.die()
                return result

            journal._write = counted
            yield journal

    def kill(self) -> None:
        self.dead = True
        self.life.cancel()

    async def run_mortal(self, batch: Sequence[Job], *, seconds: float = 60.0, **options: Any) -> bool:
        """Run until the process is killed; return whether it was."""

        async def kill(runner: Run) -> None:
            await anyio.sleep(seconds)
            self.kill()

        with anyio.CancelScope() as self.life:
            await self.run(batch, kill, **options)
        was_killed, self.dead, self.kill_at = self.dead, False, 0
        return was_killed

    async def run_and_roll_back(self, batch: Sequence[Job], *, seconds: float = 60.0, **options: Any) -> None:
        """Run until the process is killed, then replace the journal by the saved one."""
        await self.run_mortal(batch, seconds=seconds, **options)
        if not self.save.exists():
            return
        for path in self.home.glob(f"{FILE}*"):
            path.unlink()
        for name in FILES:
            shutil.copy(self.save / name, self.home / name)


class Counting(Mortal):
    """Counts the requests of the task list."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(self.world, RollingBack)
        self.world.listings += request.url.path.endswith("/Task/List")
        return await super().handle_async_request(request)


def rolling(folder: Path, *, save_at: int = 3, **settings: Any) -> RollingBack:
    """A world whose journal is saved before the first intent."""
    world = RollingBack(folder, make_sandbox(latency_seconds=0.1, **settings), save_at=save_at)
    world.wrap = lambda inner: Counting(inner, world)
    return world


def paid_twice(world: World) -> dict[str, int]:
    """Prompts with more than one task, and the number of tasks."""
    counts = Counter(task.parameters["prompt"] for task in world.sandbox.account.tasks.values())
    return {prompt: count for prompt, count in counts.items() if count > 1}


def warned(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")


def stop_of(world: World) -> str:
    (stopping,) = world.events_of(events.Stopping)
    return stopping.reason


@pytest.mark.virtual_time
async def test_tasks_unknown_to_a_restored_journal_stop_the_run_and_are_adopted_with_adopt(
    tmp_path: Path,
) -> None:
    world, batch = rolling(tmp_path), text_jobs(6)
    await world.run_and_roll_back(batch)
    assert world.tasks == len(world.clips) == 6
    finished = await world.run(batch)
    assert (finished.exit_code, world.tasks, finished.stored) == (5, 6, 0)
    assert finished.choices == ("--adopt", "--ignore-unowned")
    for task_id, task in world.sandbox.account.tasks.items():
        assert f"job job-{task.parameters['prompt'][-1]} (task {task_id})" in stop_of(world)
    assert "--adopt" in stop_of(world)
    assert world.events[-1] == finished
    assert (await world.run(batch)).exit_code == 5
    finished = await world.run(batch, adopt=True)
    assert (finished.exit_code, world.tasks, finished.stored, finished.choices) == (0, 6, 6, ())
    assert [event.adopted for event in world.events_of(events.Accepted)] == [True] * 6
    assert len(world.clips) == 6  # clips on disk are not downloaded again
    assert not world.events_of(events.Downloading)
    assert (await world.run(batch)).exit_code == 0
    assert world.tasks == 6


@pytest.mark.virtual_time
async def test_ignore_unowned_submits_the_jobs_anyway(tmp_path: Path) -> None:
    world, batch = rolling(tmp_path), text_jobs(3)
    await world.run_and_roll_back(batch, seconds=0.9)
    assert world.tasks == 3
    finished = await world.run(batch, ignore_unowned=True)
    assert (finished.exit_code, world.tasks) == (0, 6)
    assert (await world.run([*batch, Job(id="more", prompt="more")])).exit_code == 0
    assert world.tasks == 7


@pytest.mark.virtual_time
async def test_only_selected_jobs_stop_the_run_and_the_tasks_of_others_stay_recorded(tmp_path: Path) -> None:
    world, batch = rolling(tmp_path), [Job(id="new", prompt="new"), *text_jobs(3)]
    await world.run_and_roll_back(batch[1:], seconds=0.9)
    assert (await world.run(batch, only="new")).exit_code == 0
    assert world.tasks == 4
    assert (await world.run(batch, only="new")).exit_code == 0
    assert (await world.run(batch, only="job-2")).exit_code == 5
    assert (await world.run(batch, only="job-2", adopt=True)).stored == 1
    assert (await world.run(batch, limit=1)).exit_code == 5
    assert (await world.run(batch, adopt=True)).exit_code == 0
    assert (world.tasks, paid_twice(world)) == (4, {})


def showing(change: Callable[[dict[str, Any]], None]) -> Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport]:
    """Changes each task as the task list shows it."""

    async def handle(request: httpx.Request, send: Send) -> httpx.Response:
        response = await send(request)
        if not request.url.path.endswith("/Task/List"):
            return response
        answer = json.loads(await response.aread())
        for each in answer["tasklist"]:
            change(each)
        return httpx.Response(response.status_code, json=answer)

    return intercepting(handle)


def hide_seed(shown: dict[str, Any]) -> None:
    shown["parameters"].pop("seed")


SEEDS = [Job(id="a", prompt="p", seed=1), Job(id="b", prompt="p", seed=2), Job(id="c", prompt="q")]


@pytest.mark.virtual_time
async def test_tasks_that_may_be_of_several_jobs_are_never_adopted_and_block_each_of_these(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = rolling(tmp_path)
    await world.run_and_roll_back(SEEDS, seconds=0.9)
    world.wrap = showing(hide_seed)
    assert (await world.run(SEEDS)).exit_code == 5
    first, second = sorted(
        name for name, each in world.sandbox.account.tasks.items() if each.parameters["prompt"] == "p"
    )
    for job in "ab":
        assert f"job {job} (task {first}, {second})" in stop_of(world)
    finished = await world.run(SEEDS, adopt=True, only="c")
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 3)
    finished = await world.run(SEEDS, adopt=True)  # those of the others were not forgotten
    assert (finished.exit_code, finished.stored, world.tasks) == (5, 0, 3)
    assert finished.choices == ("--ignore-unowned",)
    assert f"could not be adopted: job a (task {first}, {second}), job b (task {first}, {second})" in warned(caplog)
    finished = await world.run(SEEDS, ignore_unowned=True)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 5)


@pytest.mark.virtual_time
async def test_of_two_tasks_that_equal_a_job_one_is_adopted_and_the_other_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world, batch = rolling(tmp_path), text_jobs(1)
    await world.run_and_roll_back(batch, seconds=0.9)
    await world.run_and_roll_back(batch, seconds=0.9, ignore_unowned=True)
    first, second = sorted(world.sandbox.account.tasks)
    assert (await world.run(batch)).exit_code == 5
    assert f"job job-0 (task {first}, {second})" in stop_of(world)
    finished = await world.run(batch, adopt=True)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)
    assert f"task {second} equals job job-0, too, and no attempt owns it" in warned(caplog)


@pytest.mark.virtual_time
async def test_tasks_are_adopted_from_a_list_that_shows_one_token_for_all_but_not_from_one_without_ids(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world, batch = rolling(tmp_path), text_jobs(2)
    await world.run_and_roll_back(batch, seconds=0.9)
    world.wrap = showing(lambda shown: shown.pop("id"))
    finished = await world.run(batch, adopt=True)
    assert (finished.exit_code, finished.stored, world.tasks) == (5, 0, 2)
    assert "job job-1 (task without an id)" in warned(caplog)
    oldest = world.sandbox.account.tasks[min(world.sandbox.account.tasks)]
    world.wrap = showing(lambda shown: shown.update(socketaccesstoken=oldest.token))
    finished = await world.run(batch, adopt=True)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 2, 2)


@pytest.mark.virtual_time
async def test_the_clip_of_an_adopted_task_that_is_gone_is_downloaded_again(tmp_path: Path) -> None:
    world, batch = rolling(tmp_path), text_jobs(2)
    await world.run_and_roll_back(batch)
    (world.output / "job-0.mp4").unlink()
    finished = await world.run(batch, adopt=True)
    assert (finished.exit_code, finished.stored, world.tasks, len(world.clips)) == (0, 2, 2, 2)
    assert {event.job for event in world.events_of(events.Downloading)} == {"job-0"}


@pytest.mark.virtual_time
async def test_submitted_jobs_are_drained_before_the_run_ends(tmp_path: Path) -> None:
    world, batch = rolling(tmp_path, save_at=12), text_jobs(4)
    await world.run_and_roll_back(batch, concurrency=2)
    known = report(world.home)
    assert known is not None
    assert [result.state for result in known.results] == ["ended", "ended", "planned", "planned"]
    finished = await world.run(batch)
    assert (finished.exit_code, finished.stored, finished.unfinished, world.tasks) == (5, 2, 2, 4)


@pytest.mark.virtual_time
@pytest.mark.parametrize("stale", [False, True])
async def test_tasks_without_an_echo_stop_the_run_only_if_the_journal_is_known_to_be_old(
    tmp_path: Path, stale: bool, caplog: pytest.LogCaptureFixture
) -> None:
    world, batch = rolling(tmp_path, echo="empty"), text_jobs(3)
    await world.run_and_roll_back(batch, seconds=0.9)
    start_counter.write(world.home, 2 if stale else 1)
    finished = await world.run(batch)
    assert (finished.exit_code, world.tasks) == ((5, 3) if stale else (0, 6))
    assert ("older than its folder" in warned(caplog)) == stale
    if stale:
        assert all(task in stop_of(world) for task in world.sandbox.account.tasks)
        assert (await world.run(batch, adopt=True)).exit_code == 5  # again, although the counts are equal now
        assert world.tasks == 3
        assert (await world.run(batch, ignore_unowned=True)).exit_code == 0
        assert (await world.run([*batch, Job(id="more", prompt="more")])).exit_code == 0


def test_plan_and_status_warn_that_a_journal_may_be_old(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        world = rolling(tmp_path)
        await world.run(text_jobs(1))

    virtually(test)
    (tmp_path / "batch.jsonl").write_text('{"id": "job-0", "prompt": "scene 0"}\n')
    out, batch = str(tmp_path / "out"), str(tmp_path / "batch.jsonl")
    for name in ("WIRO_API_KEY", "WIRO_API_SECRET", "WIRO_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    for command in (["plan", batch, "-o", out], ["status", out]):
        for count, message in ((1, ""), (5, "may not know all that it paid for: it is older")):
            start_counter.write(tmp_path / "out" / FOLDER, count)
            assert main.main(command) == 0
            assert message in capsys.readouterr().err
    (tmp_path / "out" / FOLDER / FILE).unlink()
    assert main.main(["status", out]) == 6
    assert "was moved" in capsys.readouterr().err


@pytest.mark.virtual_time
async def test_a_finished_run_lists_no_tasks_and_a_resumed_one_only_new_ones(tmp_path: Path) -> None:
    world = rolling(tmp_path)
    await world.run(text_jobs(30), concurrency=30)
    world.listings = 0
    await world.run(text_jobs(30))
    assert world.listings == 0
    await world.run(text_jobs(31), concurrency=1)
    assert world.tasks == 31
    alone, world.listings = world.listings, 0
    other = rolling(tmp_path / "other", save_at=0)
    await other.run(text_jobs(1), concurrency=1)
    assert alone == other.listings  # the page of the first contact has all new tasks


@pytest.mark.virtual_time
async def test_a_long_task_list_is_read_up_to_a_limit_that_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale_journal, "MAX_PAGES", 2)

    world = rolling(tmp_path, list_page_cap=10)
    await world.run_and_roll_back(text_jobs(40), seconds=0.9, concurrency=40)
    oldest = world.sandbox.account.tasks[min(world.sandbox.account.tasks, key=int)].parameters["prompt"]
    finished = await world.run([Job(prompt=oldest)])
    assert (finished.exit_code, world.tasks) == (0, 41)
    assert "only the account's newest 28 tasks were looked at" in warned(caplog)


@pytest.mark.virtual_time
async def test_a_failed_listing_is_retried(tmp_path: Path) -> None:
    world, batch = rolling(tmp_path, list_page_cap=5), text_jobs(12)
    await world.run_and_roll_back(batch, seconds=0.9, concurrency=12)
    world.sandbox.faults.next("http_500", endpoint="Task/List", times=4)
    assert (await world.run(batch)).exit_code == 5
    assert world.tasks == 12


@pytest.mark.virtual_time
@pytest.mark.parametrize(("project", "code"), [("699", 5), ("7", 0)])
async def test_a_teammates_task_is_ignored(tmp_path: Path, project: str, code: int) -> None:
    world, batch = rolling(tmp_path), text_jobs(2)
    await world.run_and_roll_back(batch, seconds=0.9)
    async with SqliteJournal.open(world.home, Account(world.origin, world.key), inline=True) as journal:
        await journal.project_seen(project)  # the sandbox's tasks show 699
    assert (await world.run(batch)).exit_code == code


@pytest.mark.virtual_time
async def test_the_candidates_of_a_quarantined_attempt_do_not_stop_a_run(tmp_path: Path) -> None:
    world, batch = rolling(tmp_path, echo="empty"), text_jobs(2)
    await world.run_and_roll_back(batch[:1], seconds=0.9)
    (task_id,) = world.sandbox.account.tasks
    async with SqliteJournal.open(world.home, Account(world.origin, world.key), inline=True) as journal:
        await become(journal, "an earlier job", "quarantined")
        await journal._execute("INSERT INTO candidates VALUES (?, 1)", (task_id,))
        await journal._execute("INSERT OR REPLACE INTO meta VALUES ('stale', '1')", ())
    assert (await world.run(batch[1:])).stored == 1
    assert world.tasks == 2


@pytest.mark.virtual_time
async def test_a_journal_copied_to_another_folder_does_not_pay_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world, batch = rolling(tmp_path / "a"), text_jobs(4)
    await world.run_and_roll_back(batch)
    other = World(tmp_path / "b", world.sandbox)
    other.home.mkdir(parents=True)
    for name in FILES:
        shutil.copy(world.save / name, other.home / name)
    finished = await other.run(batch)
    assert (finished.exit_code, world.tasks) == (5, 4)
    assert "is missing" in warned(caplog)
    assert (await other.run(batch, adopt=True)).exit_code == 0
    assert (world.tasks, len(other.clips)) == (4, 4)


@pytest.mark.virtual_time
async def test_an_interrupted_adoption_is_completed_by_the_next_run(tmp_path: Path) -> None:
    for number in range(2, 10):  # commits of the check and of both adoptions
        world, batch = rolling(tmp_path / str(number)), text_jobs(2)
        await world.run_and_roll_back(batch, seconds=0.9)
        world.commits, world.kill_at = 0, number
        assert await world.run_mortal(batch, adopt=True)
        finished = await world.run(batch, adopt=True)
        assert (finished.exit_code, world.tasks, len(world.clips)) == (0, 2, 2), number


def roll(folder: Path, seed: int) -> Iterator[str]:
    """Kill a run, restore an older journal, and run the batch again, first without flags; yield the outcome."""
    rng = random.Random(seed)
    image = folder.parent / "cat.png"
    batch = [
        Job(id=f"job-{number}", prompt=f"scene {number}", image=str(image) if rng.random() < 0.3 else None)
        for number in range(rng.randint(3, 5))
    ]
    kill_at = rng.randint(5, 7 * len(batch))
    kind = rng.choice(["with counter", "without counter", "truncated log", "copied"])

    async def test() -> str:
        world = rolling(folder, save_at=rng.randint(1, kill_at), seed=seed)
        world.kill_at = kill_at
        await world.run_and_roll_back(batch, concurrency=rng.choice([1, 2, 8]))
        again = world
        if kind == "without counter":
            (world.home / start_counter.FILE).unlink()
        elif kind == "truncated log":
            log = world.home / f"{FILE}-wal"
            os.truncate(log, rng.randint(0, log.stat().st_size))
        elif kind == "copied":
            again = RollingBack(folder / "copy", world.sandbox)
            again.home.parent.mkdir(parents=True)
            shutil.copytree(world.home, again.home)
        before = world.tasks
        finished = await again.run(batch)
        assert paid_twice(world) == {}, (seed, kind)
        assert finished.exit_code in (0, 5), (seed, kind, again.events)
        outcome = f"{finished.exit_code}, {'stopped' if again.events_of(events.Stopping) else 'continued'}"
        assert finished.exit_code == 0 or world.tasks == before or not again.events_of(events.Stopping)
        for _ in range(2):
            finished = await again.run(batch, adopt=True)
        assert finished.exit_code == 0, (seed, kind, again.events)
        assert {f"{job.id}.mp4" for job in batch} <= {clip.name for clip in again.clips}
        assert (world.tasks, paid_twice(world)) == (len(batch), {})
        return f"{kind}: {outcome}"

    yield virtually(test)


@pytest.mark.parametrize("rolls", [16, pytest.param(64, marks=pytest.mark.slow)])
def test_no_restored_journal_leads_to_a_second_payment(tmp_path: Path, rolls: int) -> None:
    (tmp_path / "cat.png").write_bytes(png(bytes(100)))
    ends = Counter(end for seed in range(rolls) for end in roll(tmp_path / str(seed), seed))
    assert sum(count for end, count in ends.items() if "stopped" in end) > rolls / 4, ends
    assert len({end.split(":")[0] for end in ends}) == 4, ends


@pytest.mark.virtual_time
async def test_ignore_unowned_concerns_only_the_selected_jobs(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox())
    await world.run(text_jobs(1))
    shutil.copytree(world.home, tmp_path / "backup")
    await world.run(text_jobs(3))
    shutil.rmtree(world.home)
    shutil.copytree(tmp_path / "backup", world.home)
    for name in ("job-1", "job-2"):
        (world.output / f"{name}.mp4").unlink()
        (world.output / f"{name}.json").unlink()
    assert (await world.run(text_jobs(3), only="job-1")).exit_code == 5
    assert (await world.run(text_jobs(3), only="job-1", ignore_unowned=True)).exit_code == 0
    assert world.tasks == 4
    assert (await world.run(text_jobs(3))).exit_code == 5
    assert world.tasks == 4


@pytest.mark.virtual_time
async def test_a_retry_unknown_to_a_stale_journal_is_not_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(5, 5)))
    world.sandbox.faults.next("failed_render")
    await world.run_until(1.0, text_jobs(1))
    shutil.copytree(world.home, tmp_path / "backup")
    await world.run_until(9.0, text_jobs(1))
    assert world.tasks == 2
    shutil.rmtree(world.home)
    shutil.copytree(tmp_path / "backup", world.home)
    finished = await world.run(text_jobs(1))
    assert (finished.exit_code, world.tasks) == (5, 2)
    assert "--adopt" in warned(caplog)


@pytest.mark.virtual_time
async def test_a_retry_unknown_to_a_stale_journal_is_adopted_with_adopt(tmp_path: Path) -> None:
    world = World(tmp_path, make_sandbox(task_seconds=(5, 5)))
    world.sandbox.faults.next("failed_render")
    await world.run_until(1.0, text_jobs(1))
    shutil.copytree(world.home, tmp_path / "backup")
    await world.run_until(9.0, text_jobs(1))
    shutil.rmtree(world.home)
    shutil.copytree(tmp_path / "backup", world.home)
    finished = await world.run(text_jobs(1), adopt=True)
    assert (finished.exit_code, finished.stored, world.tasks) == (0, 1, 2)


@pytest.mark.virtual_time
@pytest.mark.parametrize("adopt", [False, True])
async def test_a_retry_of_an_unanswered_run_that_a_stale_journal_does_not_know_is_not_repeated(
    tmp_path: Path, adopt: bool
) -> None:
    """Regression: the task of the Run was adopted, it had failed, and the job was paid for once more."""
    world = World(tmp_path, make_sandbox(task_seconds=(5, 5)))
    world.sandbox.faults.next("failed_render")
    world.sandbox.faults.next("drop_after", "Run")
    await world.run_until(0.4, text_jobs(1))
    known = report(world.home)
    assert known is not None
    assert [result.state for result in known.results] == ["unknown"]
    shutil.copytree(world.home, tmp_path / "backup")
    await world.run_until(12.0, text_jobs(1))
    assert world.tasks == 2
    shutil.rmtree(world.home)
    shutil.copytree(tmp_path / "backup", world.home)
    finished = await world.run(text_jobs(1), adopt=adopt)
    assert (finished.exit_code, finished.stored, world.tasks) == ((0, 1, 2) if adopt else (5, 0, 2))
