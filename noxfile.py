"""What is checked, and how: `nox` runs lint, types, tests and browser; `nox -l` lists the other sessions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "browser"]
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False  # only `tests-3.x` asks for one; it is skipped with a warning
PARALLEL = ("-n", "5", "--dist", "worksteal")
"""The suite often waits for processes: five workers keep two cores busy."""
MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - pytest's folder in it is readable by its user alone
"""A file system in memory, on Linux: the suite syncs some ten thousand files, which takes minutes on a disk."""
MEMORY_BYTES = 2 << 30
CODE = ("wan_async", "tests", "noxfile.py")
SUPPORTED = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

RENDER_DOCS = """
import pkgutil
from pathlib import Path

import pdoc
import wan_async
import wan_async.sandbox

for facade in (wan_async, wan_async.sandbox):
    for name in facade.__all__:  # resolved when first used; pdoc sees only names that are in the module's dictionary
        setattr(facade, name, getattr(facade, name))
modules = [name for _, name, _ in pkgutil.iter_modules(wan_async.__path__, "wan_async.") if "__main__" not in name]
pdoc.render.configure(docformat="google")
pdoc.pdoc("wan_async", *modules, output_directory=Path("docs"))
"""


def suite_env() -> dict[str, str]:
    """Variables for the suite: pytest's files in memory, if enough is free; compiled modules kept between processes."""
    enough = MEMORY_FOLDER.is_dir() and shutil.disk_usage(MEMORY_FOLDER).free > MEMORY_BYTES
    return {"PYTHONDONTWRITEBYTECODE": ""} | ({"PYTEST_DEBUG_TEMPROOT": str(MEMORY_FOLDER)} if enough else {})


def interpreter(version: str) -> str:
    """Which Python a session of this version asks for: pyenv's, which need not be on the path, or else any."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(root.glob(f"versions/{version}.*/bin/python"))
    return str(found[-1]) if found else version


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install("ruff>=0.8")
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, tests included."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def pyright(session: nox.Session) -> None:
    """Pyright, strict: a program that uses the whole public surface, and the completeness of the public types."""
    session.install("-e", ".[dev]", "pyright[nodejs]")
    session.run("pyright", "tests/typing")
    session.run("pyright", "--verifytypes", "wan_async", "--ignoreexternal")


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, on nox's own Python. Coverage is a session of its own: on 3.11 it doubles the time."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs, env=suite_env())


@nox.session
def slow(session: nox.Session) -> None:
    """What the suite shows by a few cases, with many: the tests marked `slow`, and hypothesis with new examples."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "pytest", *PARALLEL, "-m", "slow", *session.posargs, env=suite_env())
    random = ("-m", "hypothesis", "--hypothesis-profile", "random")
    session.run("python", "-m", "pytest", *PARALLEL, *random, *session.posargs, env=suite_env())


def tests_on(session: nox.Session) -> None:
    """The test suite on this Python; skipped if the machine has none."""
    tests.func(session)


for version in SUPPORTED:
    nox.session(name=f"tests-{version}", python=interpreter(version))(tests_on)


@nox.session
def browser(session: nox.Session) -> None:
    """The gallery's tests in the machine's own Chromium; left out if there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        session.skip(f"no Chromium on this machine ({', '.join(BROWSERS)}): the browser tests were left out")
    session.install("-e", ".[dev]")
    env = suite_env() | {"CHROMIUM": found}
    session.run("python", "-m", "pytest", "tests/gallery", *session.posargs, env=env)


@nox.session(python=interpreter("3.12"))
def coverage(session: nox.Session) -> None:
    """The suite with line and branch coverage, and an HTML report of what it does not reach.

    Not on 3.11, which tells no tracer that a cancelled coroutine goes on: the rest of its callers would be missing.
    """
    session.install("-e", ".[dev]")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *PARALLEL, *session.posargs, env=suite_env())
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "html", "--directory", session.create_tmp() + "/html")
    session.run("coverage", "report", "--fail-under=98")


@nox.session
def bench(session: nox.Session) -> None:
    """Figures as ratios, ours beside the alternatives in the same run; also written to bench.json."""
    session.install("-e", ".[dev]", "aiohttp")
    session.run("python", "tests/bench/bench.py", *session.posargs, env={"PYTHONPATH": "tests/support"})


@nox.session
def chaos(session: nox.Session) -> None:
    """Kills real processes at every step and at 200 random instants, while other faults are injected."""
    session.install("-e", ".[dev]")
    session.run("python", "tests/chaos/chaos.py", *session.posargs, env={"PYTHONPATH": "tests/support"})
    session.run("python", "tests/chaos/store_exits.py", env={"PYTHONPATH": "tests/support"})


@nox.session
def cluster(session: nox.Session) -> None:
    """1,000 jobs on 4 workers that are killed 60 times, while requests fail and PostgreSQL restarts twice."""
    session.install("-e", ".[dev]")
    session.run("python", "tests/chaos/cluster_chaos.py", *session.posargs, env={"PYTHONPATH": "tests/support"})


@nox.session
def docs(session: nox.Session) -> None:
    """HTML pages of the packages' docstrings, in docs/ (which git ignores), made by pdoc."""
    session.install("-e", ".[sandbox]", "pdoc>=15")
    session.run("python", "-c", RENDER_DOCS)


@nox.session
def minimums(session: nox.Session) -> None:
    """The suite with the oldest versions of the dependencies that pyproject.toml admits."""
    session.install("uv")
    requirements = session.create_tmp() + "/minimums.txt"
    session.run(
        "uv", "pip", "compile", "pyproject.toml", "--extra", "dev", "--resolution", "lowest-direct", "-o", requirements,
        "--quiet",
    )  # fmt: skip
    session.install("-r", requirements)
    session.install("--no-deps", "-e", ".")
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs, env=suite_env())
