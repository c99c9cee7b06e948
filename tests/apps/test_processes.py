"""Programs of their own that use the library: a trio program, and workers that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from servers import Server, sandbox_server

FOLDER = Path(__file__).parent


def program(server: Server, name: str, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one of the programs beside this file, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / name), *map(str, arguments)],
        env=os.environ | server.env | env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_trio_program_makes_clips_at_once_and_finds_the_task_of_a_cancelled_call(tmp_path: Path) -> None:
    with sandbox_server() as server:
        done = program(server, "trio_program.py", tmp_path)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["same"], report["last"], report["unclaimed"]) == (True, "Ended", 0)
        assert report["bytes"] > 0
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number}.mp4" for number in range(4)]
        assert server.paid == 5


@pytest.mark.skipif(sys.platform == "win32", reason="it kills itself by SIGKILL")
@pytest.mark.parametrize(
    ("way", "step"),
    [
        ("task", "submitted"),
        ("journal", "answered"),
        pytest.param("journal", "submitted", marks=pytest.mark.slow),  # the kill matrix has this step, too
    ],
)
def test_a_worker_goes_on_with_the_job_of_one_that_was_killed(tmp_path: Path, way: str, step: str) -> None:
    with sandbox_server() as server:
        killed = program(server, "worker.py", way, tmp_path, KILL_AT=step)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(server.report()["tasks"]) == 1
        for _ in range(2 if way == "journal" else 1):  # with a journal, done is done
            continued = program(server, "worker.py", way, tmp_path)
            assert continued.returncode == 0, continued.stderr
            assert continued.stdout.split()[-1] == "rain.mp4"
        assert (tmp_path / "rain.mp4").stat().st_size > 0
        assert len(server.report()["tasks"]) == server.paid == 1
