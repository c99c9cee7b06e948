"""`watch`: a process that renders what is dropped into a folder."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import watchfiles
from pictures import jpeg, png
from servers import Command, Server, events_of, in_process, sandbox_server, start_forked

from wan_async import errors
from wan_async.batch.plan import Prepared
from wan_async.cli.commands import watch
from wan_async.domain.exit_codes import ExitCode

PNG = png()
STABLE = ("--stable", "1")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sandbox_server() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


class Watcher:
    """A running `watch --json`."""

    def __init__(self, process: Command) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []

    def until_stored(self, *names: str) -> None:
        """Read events until each of these clips was stored by a run that has ended."""
        wanted = set(names)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            (event,) = events_of(line)
            self.events.append(event)
            if event["event"] == "stored":
                wanted.discard(event["file"])
            if event["event"] == "finished" and not wanted:
                return
        raise AssertionError(f"it ended without {wanted}: {self.process.stderr and self.process.stderr.read()}")

    def stop(self) -> int:
        """Press Ctrl-C when it waits for files; returns the exit code."""
        assert self.process.stderr is not None
        runs = sum(event["event"] == "finished" for event in self.events)
        while runs:  # after each it says that it waits
            line = self.process.stderr.readline()
            assert line, "it has ended"
            runs -= "waiting for more" in line
        return self.interrupt()

    def interrupt(self) -> int:
        """Press Ctrl-C now; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=30)
        self.events += events_of(out)
        return self.process.wait()


@contextmanager
def watching(server: Server, folder: Path, *flags: str) -> Iterator[Watcher]:
    more = flags or ("--budget", "5", "-p", "it moves")
    process = start_forked("watch", folder, "--json", *STABLE, *more, env=server.env)
    try:
        assert process.stderr is not None
        assert "watching" in process.stderr.readline()
        yield Watcher(process)
    finally:
        process.kill()
        process.communicate()


def clips(folder: Path) -> set[str]:
    return {path.name for path in folder.with_name("in.clips").glob("*.mp4")}


def test_each_content_is_rendered_once_however_it_comes_into_the_folder_and_across_a_restart(folder: Path) -> None:
    with sandbox_server() as server:
        (folder / "first.png").write_bytes(png(b"first"))
        with watching(server, folder) as watcher:
            watcher.until_stored("first.mp4")
            with (folder / "slow.png").open("wb", buffering=0) as file:  # copied slowly, and taken once it is whole
                whole = png(b"slow")
                for start in range(0, len(whole), len(whole) // 5):
                    file.write(whole[start : start + len(whole) // 5])
                    time.sleep(0.4)
            (folder.parent / "elsewhere.png").write_bytes(png(b"renamed"))
            (folder.parent / "elsewhere.png").rename(folder / "renamed.png")
            (folder / "short-lived.png").write_bytes(png(b"removed"))
            (folder / "short-lived.png").unlink()
            watcher.until_stored("slow.mp4", "renamed.mp4")
            (folder.parent / "new.png").write_bytes(png(b"replaced"))
            (folder.parent / "new.png").replace(folder / "first.png")
            shutil.copy(folder / "slow.png", folder / "a-copy.png")
            watcher.until_stored("first.mp4", "a-copy.mp4")
            assert watcher.stop() == 0
        assert server.paid == 4
        assert clips(folder) == {"first.mp4", "first.1.mp4", "slow.mp4", "renamed.mp4", "a-copy.mp4"}
        assert watcher.events[-1]["event"] == "finished"
        with watching(server, folder) as watcher:
            (folder / "last.png").write_bytes(png(b"last"))
            watcher.until_stored("last.mp4")
            assert watcher.stop() == 0
        assert server.paid == 5
        assert "first.2.mp4" not in clips(folder)


def test_files_that_come_during_a_run_are_rendered_by_the_next_and_ctrl_c_at_its_end_is_not_lost(folder: Path) -> None:
    with sandbox_server("--seconds", "1.5,1.5") as server:
        (folder / "first.png").write_bytes(png(b"first"))
        with watching(server, folder) as watcher:
            assert watcher.process.stdout is not None
            while events_of(watcher.process.stdout.readline())[0]["event"] != "accepted":
                assert watcher.process.poll() is None
            watcher.events.clear()
            (folder / "second.png").write_bytes(png(b"second"))
            watcher.until_stored("second.mp4")
            assert watcher.interrupt() in (0, 130)
        assert server.paid == 2


def test_an_image_without_a_caption_waits_for_one_and_the_removal_of_the_folder_ends_the_watch_with_6(
    server: Server, folder: Path
) -> None:
    paid = server.paid
    with watching(server, folder, "--budget", "5") as watcher:
        (folder / "cat.png").write_bytes(PNG)
        (folder / "dog.png").write_bytes(PNG)
        (folder / "dog.txt").write_text("it barks")
        watcher.until_stored("dog.mp4")
        (folder / "cat.txt").write_text("it yawns")
        watcher.until_stored("cat.mp4")
        shutil.rmtree(folder)
        assert watcher.process.wait(30) == 6
    assert server.paid == paid + 2
    (problem,) = [event for event in watcher.events if event["event"] == "problem"]
    assert Path(problem["where"]).name == "cat.png"


def test_ctrl_c_during_a_run_drains_it_and_ends_the_watch(folder: Path) -> None:
    with sandbox_server("--seconds", "1,1", "--limit", "1") as server:
        for number in range(3):
            (folder / f"{number}.png").write_bytes(png(str(number).encode()))
        with watching(server, folder) as watcher:
            assert watcher.process.stdout is not None
            while events_of(watcher.process.stdout.readline())[0]["event"] != "accepted":
                assert watcher.process.poll() is None
            assert watcher.interrupt() == 130
        assert watcher.events[-1]["exit_code"] == 130
        assert watcher.events[-1]["stored"] == server.paid >= 1
        with watching(server, folder) as watcher:
            watcher.until_stored()
            assert watcher.stop() == 0
        assert server.paid == 3


def test_an_exhausted_budget_ends_the_watch_with_3(server: Server, folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(str(number).encode()))
    done = in_process("watch", folder, "--stable", "0", "--budget", "0.12", "-p", "it moves", env=server.env)
    assert done.returncode == 3
    assert len(clips(folder)) == 2


def test_refused_credentials_end_the_watch_with_4(server: Server, folder: Path) -> None:
    (folder / "cat.png").write_bytes(PNG)
    env = server.env | {"WIRO_API_SECRET": "another-secret"}
    assert in_process("watch", folder, "--stable", "0", "--yes", "-p", "it moves", env=env).returncode == 4


@pytest.mark.parametrize("flags", [[], ["--budget", "nothing"], ["--yes", "--stable", "soon"]])
def test_a_watch_without_a_limit_of_money_is_refused(server: Server, folder: Path, flags: list[str]) -> None:
    done = in_process("watch", folder, "-p", "it moves", *flags, env=server.env)
    assert done.returncode == 2
    assert "--budget" in done.stderr or flags


def test_a_parameter_that_is_no_parameter_is_refused_before_anything_is_watched(server: Server, folder: Path) -> None:
    done = in_process("watch", folder, "--budget", "1", "--set", "seeed=3", "--skip-bad", env=server.env)
    assert (done.returncode, done.stdout) == (2, "")
    assert '--set: unknown parameter "seeed" (did you mean "seed"?)' in done.stderr


def test_parameters_set_for_a_watch_are_those_of_its_clips(server: Server, folder: Path) -> None:
    (folder / "a.png").write_bytes(png())
    flags = ("--stable", "0", "--budget", "0.12", "-p", "it moves", "--set", "resolution=720p")
    (folder / "b.png").write_bytes(png(b"b"))
    done = in_process("watch", folder, *flags, env=server.env)
    assert done.returncode == 3
    (clip,) = folder.with_name("in.clips").glob("*.json")
    assert '"resolution": "720P"' in clip.read_text()


@pytest.mark.parametrize("name", ["nowhere", "file.png", ""])
def test_what_is_no_folder_is_refused(server: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / "file.png").write_bytes(PNG)
    done = in_process("watch", tmp_path / name if name else "", "--yes", env=server.env)
    assert done.returncode == 2


def test_without_watchfiles_it_names_the_extra_and_exits_with_6(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    done = in_process("watch", folder, "--yes", env=server.env)
    assert done.returncode == 6
    assert "wan-async[watch]" in done.stderr


def test_a_run_that_only_circumstances_ended_is_tried_again_if_one_went_well_before(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[ExitCode | errors.Locked] = [
        ExitCode.SUCCESS,
        ExitCode.ENVIRONMENT,
        errors.Locked("another run has it"),
        ExitCode.FUNDS,
    ]
    batches: list[set[str]] = []

    def run(_: object, batch: Prepared, *__: object, **___: object) -> ExitCode:
        batches.append({job.planned.label for job in batch.jobs})
        if len(batches) == 1:
            (folder / "second.png").write_bytes(png(b"second"))
        end = ends.pop(0)
        if isinstance(end, errors.Locked):
            raise end
        return end

    monkeypatch.setattr(watch, "execute", run)
    monkeypatch.setattr(watch, "RETRY_SECONDS", 0.0)
    (folder / "first.jpg").write_bytes(jpeg(orientation=6))
    words = ("watch", folder, "--stable", "0", "--budget", "1", "-p", "it moves")
    done = in_process(*words, env=server.env)
    assert (done.returncode, ends) == (ExitCode.FUNDS, [])
    assert batches == [{"first"}, *[{"first", "second"}] * 3]
    assert done.stderr.count("the next run is in 0 s") == 2
    assert done.stderr.count("error: another run has it") == 1
    assert done.stderr.count("note: ") == 1, done.stderr  # the image is remarked upon once
    ends.append(errors.Locked("another run has it"))
    assert in_process(*words, env=server.env).returncode == ExitCode.LOCKED


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_folder_of_which_there_are_no_notifications_ends_the_watch_with_6(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch, has_begun: bool
) -> None:
    async def fail(*_: object, **__: object) -> AsyncIterator[set[object]]:
        if has_begun:
            yield set()
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr(watchfiles, "awatch", fail)
    monkeypatch.setattr(watch, "RESCAN_SECONDS", 0.01)
    done = in_process("watch", folder, "--budget", "1", "-p", "it moves", env=server.env)
    assert done.returncode == 6
    assert f"error: {folder} can't be watched: OS file watch limit reached" in done.stderr
