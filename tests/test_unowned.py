"""Journals that are older than what their folder paid for: restored, cut, or copied from elsewhere."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from harness import Mortal, World, make_sandbox, text_jobs, virtually

from wan_async import events, starts, unowned
from wan_async.jobs import Job
from wan_async.journal import FILE, Journal
from wan_async.runner import Runner
from wan_async.snapshot import snapshot

FILES = (FILE, f"{FILE}-wal")


@dataclass
class Rolling(World):
    """A world whose journal is saved at one commit, and whose process is killed at a later one."""

    save_at: int = 0
    kill_at: int = 0
    commits: int = 0
    listings: int = 0
    life: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def save(self) -> Path:
        """Where the saved files are."""
        return self.folder / "save"

    @asynccontextmanager
    async def _open_journal(self, *args: Any, **options: Any) -> AsyncIterator[Journal]:
        async with super()._open_journal(*args, **options) as journal:
            write = journal._write

            async def counted(change: Callable[[sqlite3.Connection], Any]) -> Any:
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

            journal._write = counted  # type: ignore[method-assign] # as the harness does
            yield journal

    def kill(self) -> None:
        self.dead = True
        self.life.cancel()

    async def run_mortal(self, batch: Sequence[Job], *, seconds: float = 60.0, **options: Any) -> bool:
        """Runs until the process is killed; whether it was."""

        async def kill(runner: Runner) -> None:
            await anyio.sleep(seconds)
            self.kill()

        with anyio.CancelScope() as self.life:
            await self.run(batch, kill, **options)
        was_killed, self.dead, self.kill_at = self.dead, False, 0
        return was_killed

    async def run_and_roll_back(self, batch: Sequence[Job], *, seconds: float = 60.0, **options: Any) -> None:
        """Runs until the process is killed, and puts the journal that was saved in place of its own."""
        await self.run_mortal(batch, seconds=seconds, **options)
        if not self.save.exists():
            return
        for path in self.home.glob(f"{FILE}*"):
            path.unlink()
        for name in FILES:
            shutil.copy(self.save / name, self.home / name)


class Counting(Mortal):
    """Counts how often the task list is asked for."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(self.world, Rolling)
        self.world.listings += request.url.path.endswith("/Task/List")
        return await super().handle_async_request(request)


def rolling(folder: Path, *, save_at: int = 3, **settings: Any) -> Rolling:
    """A world in which the save is from before the first intent."""
    world = Rolling(folder, make_sandbox(latency_seconds=0.1, **settings), save_at=save_at)
    world.wrap = lambda wire: Counting(wire, world)
    return world


def paid_twice(world: World) -> dict[str, int]:
    """Prompts of which the service made more than one task."""
    counts = Counter(task.parameters["prompt"] for task in world.sandbox.account.tasks.values())
    return {prompt: count for prompt, count in counts.items() if count > 1}


def warned(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")


def stop_of(world: World) -> str:
    (stopping,) = world.told(events.Stopping)
    return stopping.reason


def test_tasks_that_a_restored_journal_does_not_know_stop_the_run_and_are_adopted_if_asked(tmp_path: Path) -> None:
    async def test() -> None:
        world, batch = rolling(tmp_path), text_jobs(6)
        await world.run_and_roll_back(batch)
        assert world.tasks == len(world.clips) == 6
        finished = await world.run(batch)
        assert (finished.exit_code, world.tasks, finished.stored) == (5, 6, 0)
        for task_id, task in world.sandbox.account.tasks.items():
            assert f"job job-{task.parameters['prompt'][-1]} (task {task_id})" in stop_of(world)
        assert "--adopt" in stop_of(world)
        assert world.events[-1] == finished
        assert (await world.run(batch)).exit_code == 5
        finished = await world.run(batch, adopt=True)
        assert (finished.exit_code, world.tasks, finished.stored) == (0, 6, 6)
        assert [event.adopted for event in world.told(events.Accepted)] == [True] * 6
        assert len(world.clips) == 6  # those that were there already are taken as they are
        assert not world.told(events.Downloading)
        assert (await world.run(batch)).exit_code == 0
        assert world.tasks == 6

    virtually(test)


def test_it_submits_all_the_same_if_asked(tmp_path: Path) -> None:
    async def test() -> None:
        world, batch = rolling(tmp_path), text_jobs(3)
        await world.run_and_roll_back(batch, seconds=0.9)
        assert world.tasks == 3
        finished = await world.run(batch, ignore_unowned=True)
        assert (finished.exit_code, world.tasks) == (0, 6)
        assert (await world.run([*batch, Job(id="more", prompt="more")])).exit_code == 0
        assert world.tasks == 7

    virtually(test)


def test_only_chosen_jobs_stop_the_run_and_the_tasks_of_the_others_are_not_forgotten(tmp_path: Path) -> None:
    async def test() -> None:
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

    virtually(test)


def test_what_was_submitted_is_seen_through_before_the_run_ends(tmp_path: Path) -> None:
    async def test() -> None:
        world, batch = rolling(tmp_path, save_at=12), text_jobs(4)
        await world.run_and_roll_back(batch, concurrency=2)
        known = snapshot(world.home)
        assert known is not None
        assert [result.state for result in known.results] == ["ended", "ended", "planned", "planned"]
        finished = await world.run(batch)
        assert (finished.exit_code, finished.stored, finished.unfinished, world.tasks) == (5, 2, 2, 4)

    virtually(test)


@pytest.mark.parametrize("stale", [False, True])
def test_tasks_that_show_nothing_stop_the_run_only_where_the_journal_is_known_to_be_old(
    tmp_path: Path, stale: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        world, batch = rolling(tmp_path, echo="empty"), text_jobs(3)
        await world.run_and_roll_back(batch, seconds=0.9)
        starts.write(world.home, 2 if stale else 1)
        finished = await world.run(batch)
        assert (finished.exit_code, world.tasks) == ((5, 3) if stale else (0, 6))
        assert ("older than its folder" in warned(caplog)) == stale
        if stale:
            assert all(task in stop_of(world) for task in world.sandbox.account.tasks)
            assert (await world.run(batch, adopt=True)).exit_code == 5  # also later, though the counts are equal now
            assert world.tasks == 3
            assert (await world.run(batch, ignore_unowned=True)).exit_code == 0
            assert (await world.run([*batch, Job(id="more", prompt="more")])).exit_code == 0

    virtually(test)


def test_a_finished_run_lists_nothing_more_and_a_resumed_one_only_what_is_new(tmp_path: Path) -> None:
    async def test() -> None:
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
        assert alone == other.listings  # the page of the first contact shows all that there is to see

    virtually(test)


def test_a_long_list_is_read_only_so_far_and_the_run_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unowned, "MAX_PAGES", 2)

    async def test() -> None:
        world = rolling(tmp_path, list_page_cap=10)
        await world.run_and_roll_back(text_jobs(40), seconds=0.9, concurrency=40)
        oldest = world.sandbox.account.tasks[min(world.sandbox.account.tasks, key=int)].parameters["prompt"]
        finished = await world.run([Job(prompt=oldest)])
        assert (finished.exit_code, world.tasks) == (0, 41)
        assert "only the account's newest 28 tasks were looked at" in warned(caplog)

    virtually(test)


def test_listing_is_as_patient_as_the_first_contact(tmp_path: Path) -> None:
    async def test() -> None:
        world, batch = rolling(tmp_path, list_page_cap=5), text_jobs(12)
        await world.run_and_roll_back(batch, seconds=0.9, concurrency=12)
        world.sandbox.faults.next("http_500", endpoint="Task/List", times=4)
        assert (await world.run(batch)).exit_code == 5
        assert world.tasks == 12

    virtually(test)


def test_the_journal_of_another_folder_does_not_pay_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
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

    virtually(test)


def test_an_adoption_that_is_broken_off_is_made_good_by_the_next_run(tmp_path: Path) -> None:
    async def test() -> None:
        for number in range(2, 10):  # from the first commit of the check to the last of the second adoption
            world, batch = rolling(tmp_path / str(number)), text_jobs(2)
            await world.run_and_roll_back(batch, seconds=0.9)
            world.commits, world.kill_at = 0, number
            assert await world.run_mortal(batch, adopt=True)
            finished = await world.run(batch, adopt=True)
            assert (finished.exit_code, world.tasks, len(world.clips)) == (0, 2, 2), number

    virtually(test)


def roll(folder: Path, seed: int) -> Iterator[str]:
    """A run is killed, an older journal put in its place, and the batch run again, first without any flag."""
    rng = random.Random(seed)
    image = folder.parent / "cat.png"
    batch = [
        Job(id=f"job-{number}", prompt=f"scene {number}", image=str(image) if rng.random() < 0.3 else None)
        for number in range(rng.randint(3, 5))
    ]
    kill_at = rng.randint(5, 7 * len(batch))
    kind = rng.choice(["with starts", "without starts", "cut log", "elsewhere"])

    async def test() -> str:
        world = rolling(folder, save_at=rng.randint(1, kill_at), seed=seed)
        world.kill_at = kill_at
        await world.run_and_roll_back(batch, concurrency=rng.choice([1, 2, 8]))
        again = world
        if kind == "without starts":
            (world.home / starts.FILE).unlink()
        elif kind == "cut log":
            log = world.home / f"{FILE}-wal"
            os.truncate(log, rng.randint(0, log.stat().st_size))
        elif kind == "elsewhere":
            again = Rolling(folder / "elsewhere", world.sandbox)
            again.home.parent.mkdir(parents=True)
            shutil.copytree(world.home, again.home)
        before = world.tasks
        finished = await again.run(batch)
        assert paid_twice(world) == {}, (seed, kind)
        assert finished.exit_code in (0, 5), (seed, kind, again.events)
        said = f"{finished.exit_code}, {'stopped' if again.told(events.Stopping) else 'went on'}"
        assert finished.exit_code == 0 or world.tasks == before or not again.told(events.Stopping)
        for _ in range(2):
            finished = await again.run(batch, adopt=True)
        assert finished.exit_code == 0, (seed, kind, again.events)
        assert {f"{job.id}.mp4" for job in batch} <= {clip.name for clip in again.clips}
        assert (world.tasks, paid_twice(world)) == (len(batch), {})
        return f"{kind}: {said}"

    yield virtually(test)


def test_whatever_older_journal_is_put_back_nothing_is_paid_twice(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    ends = Counter(end for seed in range(52) for end in roll(tmp_path / str(seed), seed))
    assert sum(count for end, count in ends.items() if "stopped" in end) > 10, ends
    assert len({end.split(":")[0] for end in ends}) == 4, ends
