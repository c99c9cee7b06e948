"""A row of the benchmarks' table, and the cost of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROUNDS = 3


@dataclass(frozen=True)
class Row:
    """One figure: what was measured, its unit, our value, the baseline and its value, the ratio, and the target."""

    what: str
    unit: str
    ours: float
    baseline: str
    baseline_value: float
    ratio: float
    target: str

    @property
    def misses(self) -> bool:
        """Whether our value (`ours <= 35`, `0`) or the ratio (`<= 8`) misses the target."""
        if not self.target:
            return False
        value = self.ours if self.target == "0" or self.target.startswith("ours") else self.ratio
        limit = float(self.target.split()[-1])
        return value < limit if ">=" in self.target else value > limit


def row(what: str, unit: str, ours: float, baseline: str, baseline_value: float, target: str) -> Row:
    """A row whose ratio is our value to that of the baseline."""
    return Row(what, unit, ours, baseline, baseline_value, ours / baseline_value if baseline_value else 0.0, target)


@dataclass(frozen=True)
class Cost:
    """The cost of a process: wall and CPU seconds, peak memory in MB."""

    seconds: float
    cpu: float
    peak_mb: float


class Started:
    """A command that runs."""

    def __init__(self, command: Sequence[str | Path], env: dict[str, str]) -> None:
        self._began = time.perf_counter()
        self.process: subprocess.Popen[Any] = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **env},  # else each process compiles all modules anew
            stdout=subprocess.DEVNULL,
        )

    def wait(self, allowed: Sequence[int] = (0,)) -> Cost:
        """Wait for its end, which must be with one of the allowed exit codes."""
        process = self.process
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - self._began
        if process.returncode not in allowed:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        megabytes = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1024)
        return Cost(seconds, usage.ru_utime + usage.ru_stime, megabytes)


def cost_of(command: Sequence[str | Path], env: dict[str, str], allowed: Sequence[int] = (0,)) -> Cost:
    """Run a command, which must end with one of the allowed exit codes."""
    return Started(command, env).wait(allowed)
