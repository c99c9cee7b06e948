"""Import rules of the packages, and restrictions of pure modules."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

import wan_async
import wan_async.sandbox
from wan_async.domain import events as domain_events
from wan_async.domain.events import Event

ROOT = Path(wan_async.__file__).parent
LARGEST_MODULE_LINES = 450
MOST_LEVELS = 9

GROUND = {"errors", "filesystem", "filetypes", "task_handles", "output_locations", "threads"}
BELOW_ENGINE = GROUND | {"domain", "http", "wiro", "journal", "batch", "outputs"}
PACKAGES: dict[str, set[str]] = {
    "task_handles": set(),
    "errors": {"task_handles"},
    "output_locations": set(),
    "filesystem": {"errors"},
    "filetypes": {"errors"},
    "threads": {"errors", "filesystem"},
    "domain": {"errors"},
    "http": {"errors", "threads"},
    "wiro": {"errors", "domain", "http"},
    "journal": {"errors", "filesystem", "output_locations", "threads", "domain"},
    "batch": {"errors", "filetypes", "output_locations", "threads", "domain", "journal"},
    "outputs": GROUND | {"domain", "http"},
    "engine": BELOW_ENGINE,
    "client": BELOW_ENGINE | {"engine"},
    "cluster": BELOW_ENGINE | {"engine"},
    "gallery": {"errors", "output_locations", "domain", "journal"},
    "cli": BELOW_ENGINE | {"engine", "client", "cluster", "gallery", "sandbox"},
    "sandbox": set(),
    "testing": BELOW_ENGINE | {"engine", "client", "sandbox"},
    "events": {"domain"},
    "__init__": {"errors", "domain", "wiro", "engine", "client", "task_handles", "events", "sandbox"},
    "__main__": {"cli"},
}
"""What each package (or module beside them) may import, besides itself."""

ENGINE: dict[str, set[str]] = {
    "active_job": set(),
    "concurrency": set(),
    "runs_in_flight": set(),
    "polling": set(),
    "task_listing": set(),
    "waiting_task": set(),
    "account_facts": {"task_listing"},
    "run_events": {"active_job"},
    "leases": {"concurrency"},
    "matching": {"task_listing"},
    "tracker": {"options", "polling", "waiting_task"},
    "task_hints": {"active_job", "run_events", "tracker"},
    "options": set(),
    "pricing": {"leases"},
    "shutdown": {"run_events", "leases"},
    "stale_journal_matching": {"matching", "task_listing"},
    "dependencies": set(),
    "environment": {
        "dependencies",
        "account_facts",
        "concurrency",
        "run_events",
        "runs_in_flight",
        "leases",
        "task_hints",
        "options",
        "pricing",
        "shutdown",
        "tracker",
    },
    "output_names": {"environment"},
    "take_names": {"environment"},
    "run_summary": {"options"},
    "account_check": {"environment"},
    "reconciler": {"environment", "matching", "shutdown", "task_listing"},
    "results_file": {"environment"},
    "stale_journal": {"environment", "matching", "stale_journal_matching", "task_listing"},
    "unassigned_clips": {"environment", "matching", "task_listing"},
    "uploads": {"active_job", "environment"},
    "delivery": {"active_job", "environment", "unassigned_clips"},
    "submission": {"active_job", "environment", "uploads"},
    "assignment": {
        "dependencies",
        "active_job",
        "delivery",
        "environment",
        "run_events",
        "options",
        "results_file",
        "unassigned_clips",
    },
    "missing_tasks": {"active_job", "delivery", "environment"},
    "shared_clips": {"active_job", "delivery", "environment", "output_names"},
    "worker": {
        "output_names",
        "shared_clips",
        "active_job",
        "delivery",
        "environment",
        "leases",
        "matching",
        "missing_tasks",
        "reconciler",
        "submission",
        "unassigned_clips",
        "uploads",
    },
    "job_source": {"active_job"},
    "scheduler": {
        "job_source",
        "shared_clips",
        "active_job",
        "delivery",
        "environment",
        "leases",
        "matching",
        "missing_tasks",
        "reconciler",
        "submission",
        "unassigned_clips",
        "uploads",
        "worker",
    },
    "run": {
        "take_names",
        "dependencies",
        "environment",
        "run_events",
        "account_check",
        "options",
        "results_file",
        "run_summary",
        "scheduler",
        "stale_journal",
    },
}
"""The same for the modules of the engine among themselves."""

PURE = ("domain", "batch.parser", "batch.syntax", "batch.format_json", "batch.format_csv", "batch.format_yaml",
        "batch.encoding", "batch.placeholders", "batch.prompts", "batch.expansion", "batch.field_names",
         "batch.labels", "batch.schema", "batch.detection", "batch.missing_values", "batch.row_problems",
         "batch.starter",
         "wiro.protocol", "wiro.answers", "wiro.error_codes",
        "wiro.schemas", "wiro.messages", "http.retry", "http.rate_limit", "engine.matching", "engine.task_listing",
        "engine.stale_journal_matching", "engine.polling", "engine.concurrency", "cli.statistics")  # fmt: skip
"""Packages and modules without I/O: time and randomness are arguments."""

FOR_THE_PACKAGE_ITSELF = {"begin", "end", "heard", "hint", "of_dependencies", "seen", "takeover_seconds"}
"""Members of public classes that only modules of this package use."""

IMPURE_MODULES = {
    "anyio", "asyncio", "trio", "httpx", "sqlite3", "socket", "subprocess", "threading", "time", "random", "secrets",
    "uuid", "tempfile", "shutil", "pathlib", "logging", "ssl", "urllib.request",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "exec", "eval"}
CLOCKS = {("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"), ("os", "urandom")}


def name_of(path: Path) -> str:
    """A module's name below `wan_async`: `engine.run`; a package's `__init__` has the package's own."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
SUBPACKAGES = {name for name, path in PATHS.items() if path.stem == "__init__"}
CLIENT = [name for name in PATHS if not name.startswith("sandbox")]


def package_of(name: str) -> str:
    return name.partition(".")[0]


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(PATHS[name].read_text(encoding="utf-8"))


@cache
def nodes_of(name: str) -> list[ast.AST]:
    return list(ast.walk(tree_of(name)))


def imported_names(name: str) -> Iterator[str]:
    for node in nodes_of(name):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@cache
def imports_of(name: str) -> set[str]:
    """The modules of this package that a module imports."""
    found = set()
    for imported in imported_names(name):
        below = imported.removeprefix("wan_async.") if imported.startswith("wan_async.") else ""
        while below and below not in PATHS:
            below = below.rpartition(".")[0]
        if below and below != name and not (below in SUBPACKAGES and f"wan_async.{below}" == imported):
            found.add(below)
    return found


def levels(graph: Mapping[str, Iterable[str]]) -> int:
    """How many levels the graph has; fails if there is a cycle."""
    done: set[str] = set()
    count = 0
    while waiting := graph.keys() - done:
        free = {name for name in waiting if set(graph[name]) <= done}
        assert free, f"a cycle among {sorted(waiting)}"
        done |= free
        count += 1
    return count


def package_graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {package_of(name): set() for name in PATHS}
    for name in PATHS:
        graph[package_of(name)] |= {package_of(other) for other in imports_of(name)} - {package_of(name)}
    return graph


def test_every_package_is_in_the_table() -> None:
    assert {package_of(name) for name in PATHS} == set(PACKAGES)


def test_a_module_imports_only_what_the_table_allows() -> None:
    for name in PATHS:
        package = package_of(name)
        assert {package_of(other) for other in imports_of(name)} - {package} <= PACKAGES[package], name


def test_a_module_of_the_engine_imports_only_what_its_table_allows() -> None:
    found = {
        name.removeprefix("engine."): {
            other.removeprefix("engine.") for other in imports_of(name) if other.startswith("engine.")
        }
        for name in PATHS
        if name.startswith("engine.")
    }
    assert found.keys() == ENGINE.keys()
    for name, below in found.items():
        assert below <= ENGINE[name], name


def test_imports_only_go_down() -> None:
    assert levels(package_graph()) <= MOST_LEVELS
    levels({name: imports_of(name) for name in PATHS})


def test_module_names_are_unique() -> None:
    """Except `base`, which is a protocol in several packages, the commands, which may repeat a name, and `events`,
    through which `domain.events` is public.
    """
    stems = [
        path.stem
        for name, path in PATHS.items()
        if path.stem not in ("__init__", "__main__", "base")
        and name in CLIENT
        and name != "events"
        and not name.startswith("cli.commands.")
    ]
    assert sorted(stems) == sorted(set(stems))


def test_no_module_is_too_large() -> None:
    sizes = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in PATHS.items()}
    assert {name: size for name, size in sizes.items() if size > LARGEST_MODULE_LINES} == {}


def test_nothing_private_is_imported_across_packages() -> None:
    for name in CLIENT:
        for node in nodes_of(name):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wan_async."):
                package = package_of((node.module or "").removeprefix("wan_async."))
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert package == package_of(name) or not private, name


def test_a_pure_module_does_no_io_and_uses_no_clock_or_randomness() -> None:
    for name in PATHS:
        if name not in PURE and package_of(name) not in PURE:
            continue
        assert {imported for imported in imported_names(name) if imported in IMPURE_MODULES} == set(), name
        for node in nodes_of(name):
            assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith), name
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in IMPURE_CALLS, name
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in CLOCKS, name


def test_the_sandbox_imports_nothing_of_the_client() -> None:
    for name in PATHS.keys() - set(CLIENT):
        for imported in imported_names(name):
            assert not imported.startswith("wan_async") or imported.startswith("wan_async.sandbox"), name


def test_every_name_in_all_is_importable() -> None:
    assert sorted(wan_async.__all__) == wan_async.__all__
    for name in wan_async.__all__:
        assert getattr(wan_async, name).__module__.startswith("wan_async.")
        assert name in dir(wan_async)
    with pytest.raises(AttributeError, match="nonesuch"):
        wan_async.nonesuch  # noqa: B018 - the access is the test


def test_the_public_modules_need_no_import_of_their_own() -> None:
    code = "import wan_async\nwan_async.events.Finished, wan_async.sandbox.transport\nassert 'events' in dir(wan_async)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_events_are_public_in_one_module() -> None:
    kinds = {name for name, each in vars(domain_events).items() if isinstance(each, type) and issubclass(each, Event)}
    union = {each.__name__ for each in get_args(domain_events.AnyEvent)}
    assert union == kinds - {"Event", "JobEvent"}
    assert kinds <= set(wan_async.events.__all__)
    assert all(getattr(wan_async.events, name) is getattr(domain_events, name) for name in wan_async.events.__all__)


def test_the_program_for_type_checkers_uses_every_public_name() -> None:
    program = ast.parse((Path(__file__).parent / "typing" / "public_surface.py").read_text(encoding="utf-8"))
    used: set[str | None] = set()
    for node in ast.walk(program):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.keyword(arg=name):
                used.add(name)
    inherited = {*dir(BaseModel), *dir(OSError)}
    names = {*wan_async.__all__, *wan_async.sandbox.__all__, *wan_async.events.__all__} - {"Event"}
    for each in (getattr(wan_async, name) for name in wan_async.__all__):
        if isinstance(each, type):
            names |= {member for member in dir(each) if not member.startswith("_")} - inherited
    assert names - used <= FOR_THE_PACKAGE_ITSELF


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has after this code, and had not before."""
    program = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    command = [sys.executable, "-c", program]
    return set(
        subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout.split()
    )


def test_importing_the_package_loads_no_heavy_module() -> None:
    assert not loaded_by("import wan_async") & {"httpx", "pydantic", "rich", "sqlite3", "yaml", "anyio", "asyncio"}


def test_importing_the_client_loads_neither_the_engine_nor_the_protocol() -> None:
    packages = [f"wan_async.{name}" for name in ("engine", "wiro", "journal", "outputs", "batch")]
    loaded = loaded_by("from wan_async import Job, Options, Task, WanClient")
    heavy = {name for name in loaded if name.startswith(tuple(packages))}
    assert heavy == {"wan_async.engine", "wan_async.engine.options"}


def test_help_loads_no_heavy_module() -> None:
    loaded = loaded_by("from wan_async.cli.arguments import make_parser\nmake_parser().format_help()")
    assert not loaded & {"httpx", "pydantic", "sqlite3", "yaml", "anyio", "asyncio"}


def test_the_sandbox_starts_without_what_only_some_of_its_settings_need() -> None:
    loaded = loaded_by(
        "from wan_async.sandbox.process import main\nassert main(['--clips', 'tiny', '--exit-with-stdin']) == 0"
    )
    assert "wan_async.sandbox.process" in loaded
    assert not loaded & {"httpx", "filelock", "av", "PIL"}


def is_setter(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(each, ast.Attribute) and each.attr == "setter" for each in node.decorator_list)


def public(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) or is_setter(inner):
                        continue
                    if not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner


def test_nothing_public_is_undocumented() -> None:
    for name in PATHS:
        assert ast.get_docstring(tree_of(name)), name
        for inner, node in public(tree_of(name)):
            assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            assert ast.get_docstring(node) or is_inherited(name, inner), f"{name}.{inner} has no docstring"


def is_inherited(name: str, inner: str) -> bool:
    """Whether a method has its docstring from the protocol that it implements."""
    of_class, _, method = inner.partition(".")
    found = getattr(importlib.import_module(f"wan_async.{name}"), of_class)
    return bool(method and inspect.getdoc(getattr(found, method)))
