"""The limit on open files and sockets, and that a run stays below it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers import events_of, sandbox_server, write_batch

from wan_async.http import descriptor_limit

resource = pytest.importorskip("resource", reason="this system has no such limit")


class Limits:
    """Replaces the limits of the system."""

    RLIMIT_NOFILE, RLIM_INFINITY = resource.RLIMIT_NOFILE, resource.RLIM_INFINITY

    def __init__(self, soft: int, hard: int, most: int | None = None) -> None:
        self.limits, self.most = (soft, hard), most

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert which == self.RLIMIT_NOFILE
        return self.limits

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        if self.most is not None and limits[0] > self.most:
            raise ValueError("not allowed to raise it that far")
        self.limits = limits


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [(256, 256, 256), (256, 4096, 4096), (1024, 1 << 20, 65_536), (1 << 17, 1 << 20, 1 << 17), (256, -1, 65_536)],
)
def test_the_soft_limit_is_raised_as_far_as_needed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int
) -> None:
    limits = Limits(soft, resource.RLIM_INFINITY if hard == -1 else hard)
    monkeypatch.setattr(descriptor_limit, "resource", limits)
    descriptor_limit.raise_limit()
    assert limits.limits[0] == raised
    assert descriptor_limit.soft_limit() == raised


def test_a_limit_that_cannot_be_raised_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(256, 1 << 20, most=10_240)
    monkeypatch.setattr(descriptor_limit, "resource", limits)
    descriptor_limit.raise_limit()
    assert limits.limits == (256, 1 << 20)


@pytest.mark.parametrize("limit", [64, 100, 256, 1024, 65_536])
@pytest.mark.parametrize("wanted", [1, 8, 64])
def test_connections_and_downloads_fit_together(monkeypatch: pytest.MonkeyPatch, limit: int, wanted: int) -> None:
    monkeypatch.setattr(descriptor_limit, "resource", Limits(limit, limit))
    downloads, connections = descriptor_limit.downloads(wanted), descriptor_limit.connections()
    assert 1 <= downloads <= wanted
    assert descriptor_limit.LEAST_CONNECTIONS <= connections <= descriptor_limit.MAX_CONNECTIONS
    if limit > 100:
        assert descriptor_limit.RESERVED + downloads * descriptor_limit.DOWNLOAD_DESCRIPTORS + connections <= limit
    if limit >= 1024:
        assert (downloads, connections) == (wanted, descriptor_limit.MAX_CONNECTIONS)


def test_without_a_limit_nothing_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    for system in (None, Limits(resource.RLIM_INFINITY, resource.RLIM_INFINITY)):
        monkeypatch.setattr(descriptor_limit, "resource", system)
        descriptor_limit.raise_limit()
        assert descriptor_limit.soft_limit() is None
        assert (descriptor_limit.downloads(64), descriptor_limit.connections()) == (
            64,
            descriptor_limit.MAX_CONNECTIONS,
        )


@pytest.mark.parametrize(("jobs", "most"), [(100, 96), pytest.param(260, 256, marks=pytest.mark.slow)])
def test_as_many_jobs_at_once_as_descriptors_fit_into_them(tmp_path: Path, jobs: int, most: int) -> None:
    batch = write_batch(tmp_path, [{"id": f"job-{number}", "prompt": f"scene {number}"} for number in range(jobs)])
    with sandbox_server("--limit", "300", "--balance", "100000") as server:
        limited = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most})); "
        limited += "os.execv(sys.executable, [sys.executable, '-m', 'wan_async', *sys.argv[1:]])"
        done = subprocess.run(
            [sys.executable, "-c", limited, "run", str(batch), "-o", str(tmp_path / "out"), "-c", str(most), "--json"],
            env=os.environ | server.env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        finished = events_of(done.stdout)[-1]
        assert (done.returncode, finished["exit_code"], finished["stored"]) == (0, 0, jobs), done.stderr
        assert server.paid == jobs
