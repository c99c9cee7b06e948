"""What is checked, and how: `nox` runs lint, types and tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True
PARALLEL = ("-n", "3", "--dist", "worksteal")
"""Much of the suite waits for processes: three workers keep two cores busy."""
MEMORY = Path("/dev/shm")  # noqa: S108 - pytest's folder in it is open to its user alone
"""Where files live in memory, on Linux: the suite syncs some ten thousand of them, for which a disk takes minutes."""
ROOM_BYTES = 2 << 30
CODE = ("wan_async", "tests", "noxfile.py")


def places() -> dict[str, str]:
    """The variable that has pytest keep its files in memory, if there is room."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    return {"PYTEST_DEBUG_TEMPROOT": str(MEMORY)} if roomy else {}


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, and its format."""
    session.install("ruff>=0.8")
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, tests included."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The suite. Coverage has a session of its own: on Python 3.11 it takes as long again."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs, env=places())


@nox.session
def coverage(session: nox.Session) -> None:
    """The suite with line and branch coverage, and an HTML report of what it does not reach."""
    session.install("-e", ".[dev]")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *PARALLEL, *session.posargs, env=places())
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "html", "--directory", session.create_tmp() + "/html")
    session.run("coverage", "report", "--fail-under=98")


@nox.session
def bench(session: nox.Session) -> None:
    """Figures as ratios, ours beside the alternatives in the same run; also written to bench.json."""
    session.install("-e", ".[dev]", "aiohttp")
    session.run("python", "tests/bench/bench.py", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Kills real processes, at every step and at 200 random instants, while everything else fails, too."""
    session.install("-e", ".[dev]")
    session.run("python", "tests/chaos/chaos.py", *session.posargs)


@nox.session
def minimums(session: nox.Session) -> None:
    """The suite with the oldest versions that pyproject.toml admits."""
    session.install("uv")
    requirements = session.create_tmp() + "/minimums.txt"
    session.run(
        "uv", "pip", "compile", "pyproject.toml", "--extra", "dev", "--resolution", "lowest-direct", "-o", requirements,
        "--quiet",
    )  # fmt: skip
    session.install("-r", requirements)
    session.install("--no-deps", "-e", ".")
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs, env=places())
