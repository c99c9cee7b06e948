"""The house: who may import whom, and what a pure room may not touch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wan_async

HOUSE = Path(wan_async.__file__).parent

PURE = {
    "errors": set(),
    "wire": {"errors"},
    "pacing": set(),
    "jobs": {"errors", "wire"},
    "decoding": set(),
    "placeholders": set(),
    "twins": {"jobs"},
    "syntaxes": {"errors", "jobs"},
    "batchfile": {"errors", "wire", "jobs", "syntaxes", "decoding", "placeholders", "twins"},
    "reconcile": {"errors", "wire"},
    "events": set(),
    "tally": {"events"},
}
GROUND = set(PURE)
FIRST: dict[str, set[str]] = {
    "disk": set(),
    "media": {"errors"},
    "stream": {"events"},
    "tree": GROUND,
    "captions": GROUND | {"tree"},
    "files": GROUND | {"tree", "captions"},
    "ledger": {"errors", "disk"},
    "starts": {"disk"},
    "journal": GROUND | {"ledger", "starts"},
    "snapshot": {"jobs", "journal", "ledger", "starts"},
    "targets": GROUND | {"journal", "snapshot", "starts"},
    "transport": {"errors"},
    "deadline": set(),
    "descriptors": set(),
    "api": GROUND | {"transport", "deadline", "descriptors"},
    "connect": set(),
    "blocking": {"transport", "disk", "connect"},
    "fetching": GROUND | {"disk", "media"},
    "download": GROUND | {"transport", "disk", "media", "blocking", "fetching"},
    "sidecar": {"disk"},
    "watch": GROUND | {"api"},
    "callback": GROUND,
    "listener": GROUND | {"transport"},
}
CONTEXT = GROUND | set(FIRST)
SECOND: dict[str, set[str]] = {
    "context": CONTEXT,
    "uploads": CONTEXT | {"context"},
    "inquiry": CONTEXT | {"context"},
    "unassigned": CONTEXT | {"context"},
    "keep": CONTEXT | {"context", "unassigned"},
    "carry": CONTEXT | {"context", "uploads", "inquiry", "keep", "unassigned"},
    "unowned": CONTEXT | {"context", "carry"},
    "runner": CONTEXT | {"context", "carry", "keep", "unowned"},
    "assign": CONTEXT | {"context", "unassigned", "keep", "runner"},
    "client": CONTEXT | {"context", "carry", "keep", "runner", "uploads"},
}
BELOW = CONTEXT | set(SECOND)
ROOF: dict[str, set[str]] = {
    "progress": {"events", "tally"},
    "gallery": GROUND | {"journal", "ledger", "snapshot"},
    "driver": BELOW | {"progress"},
    "access": BELOW | {"driver"},
    "tasks": BELOW | {"access", "progress"},
    "commands": BELOW | {"progress", "driver", "access", "tasks", "gallery", "sandbox"},
    "cli": {"commands", "sandbox"},
    "__init__": {"callback", "client", "context", "errors", "jobs"},
    "__main__": {"cli"},
}
TABLE: dict[str, set[str]] = {**PURE, **FIRST, **SECOND, **ROOF}
GARDEN: dict[str, set[str]] = {
    "account": set(),
    "clips": set(),
    "exchange": set(),
    "faults": set(),
    "settings": set(),
    "store": {"account"},
    "shown": {"account"},
    "shelf": {"exchange", "settings", "store"},
    "gate": {"exchange", "settings", "store"},
    "service": {"account", "exchange", "faults", "gate", "settings", "shelf", "shown", "store"},
    "inprocess": {"exchange", "service"},
    "server": {"clips", "exchange", "faults", "service", "settings"},
    "process": {"faults", "server", "service", "settings"},
    "__init__": {"inprocess", "service", "settings"},
    "__main__": {"process"},
}
"""The sandbox's own rooms."""

IMPURE_MODULES = {
    "anyio", "asyncio", "trio", "httpx", "sqlite3", "socket", "subprocess", "threading", "time", "random", "secrets",
    "uuid", "tempfile", "shutil", "pathlib", "logging", "ssl", "urllib.request",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "exec", "eval"}
CLOCKS = {("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"), ("os", "urandom")}


def rooms() -> list[str]:
    return sorted(path.stem for path in HOUSE.glob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def tree_of(room: str) -> ast.Module:
    return ast.parse((HOUSE / f"{room}.py").read_text(encoding="utf-8"))


def rooms_imported(room: str) -> set[str]:
    names = {name.split(".")[1] for name in imports(tree_of(room)) if name.startswith("wan_async.")}
    return names & (set(rooms()) | {"sandbox"})


def test_every_room_stands_in_the_table() -> None:
    assert set(rooms()) == set(TABLE)


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    assert rooms_imported(room) <= TABLE[room]


def test_the_stairs_only_go_down() -> None:
    done: set[str] = set()
    waiting = {room: rooms_imported(room) - {"sandbox"} for room in rooms()}
    while waiting:
        free = [room for room, below in waiting.items() if below <= done]
        assert free, f"a cycle among {sorted(waiting)}"
        done.update(free)
        for room in free:
            del waiting[room]


@pytest.mark.parametrize("room", sorted(PURE))
def test_a_pure_room_does_no_io_and_knows_no_clock_and_no_chance(room: str) -> None:
    tree = tree_of(room)
    assert {name for name in imports(tree) if name in IMPURE_MODULES} == set()
    for node in ast.walk(tree):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_CALLS
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in CLOCKS


def test_the_sandbox_shares_nothing_with_the_client() -> None:
    for path in (HOUSE / "sandbox").glob("*.py"):
        for name in imports(ast.parse(path.read_text(encoding="utf-8"))):
            assert not name.startswith("wan_async") or name.startswith("wan_async.sandbox"), f"{path.name}: {name}"
            assert name != "wan_async", path.name


def sandbox_tree(room: str) -> ast.Module:
    return ast.parse((HOUSE / "sandbox" / f"{room}.py").read_text(encoding="utf-8"))


def test_every_room_of_the_sandbox_stands_in_its_table() -> None:
    assert {path.stem for path in (HOUSE / "sandbox").glob("*.py")} == set(GARDEN)


@pytest.mark.parametrize("room", sorted(GARDEN))
def test_a_room_of_the_sandbox_imports_only_what_its_table_allows(room: str) -> None:
    found = {name.split(".")[2] for name in imports(sandbox_tree(room)) if name.startswith("wan_async.sandbox.")}
    assert found & set(GARDEN) <= GARDEN[room]


def test_the_stairs_of_the_sandbox_only_go_down() -> None:
    done: set[str] = set()
    while set(GARDEN) - done:
        free = {room for room, below in GARDEN.items() if room not in done and below <= done}
        assert free, f"a cycle among {sorted(set(GARDEN) - done)}"
        done |= free


@pytest.mark.parametrize("room", sorted(GARDEN))
def test_nothing_public_in_the_sandbox_is_undocumented(room: str) -> None:
    tree = sandbox_tree(room)
    assert ast.get_docstring(tree)
    for name, node in public(tree):
        assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(node), f"{room}.{name} has no docstring"


def test_the_facade_is_what_all_lists() -> None:
    assert sorted(wan_async.__all__) == wan_async.__all__
    for name in wan_async.__all__:
        assert getattr(wan_async, name).__module__.startswith("wan_async.")
        assert name in dir(wan_async)
    with pytest.raises(AttributeError, match="nonesuch"):
        wan_async.nonesuch  # noqa: B018 - the access is the test


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nimport wan_async\n"
        "heavy = {'httpx', 'pydantic', 'rich', 'sqlite3', 'yaml', 'anyio', 'asyncio'} & (set(sys.modules) - before)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_loads_nothing_that_it_does_not_show() -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nfrom wan_async.cli import make_parser\nmake_parser().format_help()\n"
        "heavy = {'httpx', 'pydantic', 'sqlite3', 'yaml', 'anyio', 'asyncio'} & (set(sys.modules) - before)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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


@pytest.mark.parametrize("room", rooms())
def test_nothing_public_is_undocumented(room: str) -> None:
    tree = tree_of(room)
    assert ast.get_docstring(tree)
    for name, node in public(tree):
        assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(node), f"{room}.{name} has no docstring"
