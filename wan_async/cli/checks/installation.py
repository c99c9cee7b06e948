"""Checks of this machine: versions, extras, disk, limit of open files, and where each setting comes from."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from wan_async import __version__, errors
from wan_async.cli import settings_files
from wan_async.cli.api_settings import SETTINGS, settings
from wan_async.cli.arguments import commands_of, make_parser
from wan_async.cli.checks.base import Finding, Status, failed, ok, warning
from wan_async.cli.display_text import sanitise, size
from wan_async.http import descriptor_limit
from wan_async.journal.base import FOLDER

LEAST_PYTHON = (3, 11)
DEPENDENCIES = {
    "anyio": "4.16", "filelock": "4.2", "httpx": "0.28", "platformdirs": "4.2", "pydantic": "2.9",
    "python-dotenv": "1.0", "PyYAML": "6.0.2", "rich": "13.9", "rich-argparse": "1.6", "shtab": "1.7.1",
    "wsproto": "1.2",
}  # fmt: skip
"""The oldest version of each dependency that works."""
SHOWN_DEPENDENCIES = ("httpx", "anyio", "wsproto", "pydantic")
"""Those whose version matters most in a bug report."""
EXTRAS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "sandbox": (
        "--sandbox, and the sandbox command",
        {"av": "14", "pillow": "11", "python-multipart": "0.0.20", "starlette": "0.41", "uvicorn": "0.32"},
    ),
    "images": ("the inspection of images, and --prepare", {"pillow": "11", "pillow-heif": "0.21"}),
    "watch": ("the watch command", {"watchfiles": "1.0"}),
    "s3": ("clips in an object store", {"obstore": "0.12"}),
    "cluster": ("enqueue, worker, and a journal in PostgreSQL", {"procrastinate": "3.5", "psycopg": "3.2"}),
}
"""For each extra what needs it, and its packages as in `DEPENDENCIES`."""
LITTLE_DISK_BYTES = 1_000_000_000
LEAST_DISK_BYTES = 50_000_000
FEW_DESCRIPTORS = 512

Version = Callable[[str], str | None]


def installed_version(name: str) -> str | None:
    """The version of an installed package, None if it isn't installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_versions(version: Version = installed_version) -> list[Finding]:
    """Check Python, this package, its dependencies and its extras.

    Args:
        version: gives the version of a package by its name.
    """
    return [_check_python(), ok("package", f"wan-async {__version__}", version=__version__),
            _check_dependencies(version), _check_extras(version)]  # fmt: skip


def _check_python() -> Finding:
    found = platform.python_version()
    said = f"{platform.python_implementation()} {found} on {platform.system()} {platform.machine()}"
    if sys.version_info < LEAST_PYTHON:
        return failed("python", said, "install Python 3.11 or newer", version=found)
    return ok("python", said, version=found)


def _check_dependencies(version: Version) -> Finding:
    found = {name: version(name) for name in DEPENDENCIES}
    facts: dict[str, object] = {**found}
    wrong = _wrong(DEPENDENCIES, found)
    if wrong:
        advice = "install the package again: pip install -U wan-async"
        return Finding("dependencies", Status.FAILED, ", ".join(wrong), advice, facts=facts)
    shown = ", ".join(f"{name} {found[name]}" for name in SHOWN_DEPENDENCIES)
    return ok("dependencies", f"all {len(found)} are new enough ({shown})", **found)


def _check_extras(version: Version) -> Finding:
    said, old = [], []
    states: dict[str, object] = {}
    for extra, (use, packages) in EXTRAS.items():
        found = {name: version(name) for name in packages}
        wrong = _wrong(packages, found)
        states[extra] = not wrong
        if not wrong:
            said.append(f"{extra} is installed")
        elif any(found.values()) and any(found[name] and name in text for name in packages for text in wrong):
            old.append(extra)
            said.append(f"{extra} is too old ({', '.join(wrong)})")
        else:
            said.append(f"{extra} is not installed (for {use}: pip install 'wan-async[{extra}]')")
    if old:
        advice = f"pip install -U 'wan-async[{','.join(old)}]'"
        return warning("extras", "; ".join(said), advice, **states)
    return ok("extras", "; ".join(said), **states)


def _wrong(wanted: Mapping[str, str], found: Mapping[str, str | None]) -> list[str]:
    return [
        f"{name} {'is missing' if is_version is None else f'{is_version} is older than {least}'}"
        for name, least in wanted.items()
        if (is_version := found[name]) is None or _numbers(is_version) < _numbers(least)
    ]


def _numbers(version: str) -> list[int]:
    """The release of a version, such as [1, 2] of `1.2.0rc1`."""
    found = re.match(r"(?:\d+!)?(\d+(?:\.\d+)*)", version)
    numbers = [int(part) for part in found[1].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def check_descriptors() -> Finding:
    """Check how many files and sockets may be open at once. The soft limit is raised as `run` does."""
    descriptor_limit.raise_limit()
    limit = descriptor_limit.soft_limit()
    if limit is None:
        return ok("descriptors", "no limit of open files", limit=None)
    connections, downloads = descriptor_limit.connections(), descriptor_limit.downloads(8)
    effect = f"enough for {connections} connections and {downloads} download{'s' * (downloads != 1)} at once"
    said = f"{limit:,} files and sockets may be open: {effect}"
    if limit < FEW_DESCRIPTORS:
        advice = "raise the hard limit: `ulimit -Hn 4096` as an administrator, or LimitNOFILE= of a service"
        return warning("descriptors", said, advice, limit=limit)
    return ok("descriptors", said, limit=limit)


def check_disk(folder: Path, *, is_output: bool) -> Finding:
    """Check a folder's free space, and whether it can be written. Blocks; it leaves nothing behind.

    Args:
        folder: the output folder, which need not exist, or the working folder.
        is_output: whether it is the one that `-o` names; else nothing is written.
    """
    name = "output" if is_output else "disk"
    choose = "choose another output folder with -o"
    existing = folder.absolute()
    try:
        while not os.path.lexists(existing) and existing != existing.parent:
            existing = existing.parent
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return failed(name, f"{folder} can't be used: {error.strerror}", choose)
    if is_output and not existing.is_dir():
        return failed(name, f"{folder} can't be made: {existing} is no folder", choose)
    if is_output and (reason := _why_not_writable(existing)):
        advice = f"{choose}, or change its owner or mode"
        return failed(name, f"{folder} can't be written: {reason}", advice, free_bytes=free)
    said = f"{folder if is_output else existing}: {'writable, ' if is_output else ''}{size(free)} free"
    if free < LEAST_DISK_BYTES:
        return failed(name, said, f"free some space, or {choose}: a clip has some MB", free_bytes=free)
    if free < LITTLE_DISK_BYTES:
        return warning(name, said, "free some space: a clip has some MB, and a run stops on a full disk",
                       free_bytes=free)  # fmt: skip
    if is_output and not (existing / FOLDER).is_dir() and existing == folder.absolute():
        said += "; it has no journal yet"
    return ok(name, said, free_bytes=free)


def _why_not_writable(folder: Path) -> str | None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".wan-async-doctor-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def check_settings(environ: Mapping[str, str], dotenv: Mapping[str, str]) -> Finding:
    """Say where each setting of the account comes from, and which ones are ignored. Shows no secret.

    Args:
        environ: the process's environment.
        dotenv: the settings of `.env`.
    """
    chosen = settings(environ, dotenv)
    sources: dict[str, object] = {}
    ignored = []
    for name in SETTINGS:
        source = None if name not in chosen else "environment" if environ.get(name) else ".env"
        sources[name] = source
        if dotenv.get(name) and source != ".env" and dotenv[name] != chosen.get(name):
            ignored.append(name)
    said = ", ".join(f"{name} from {source}" if source else f"{name} not set" for name, source in sources.items())
    if ignored:
        names = " and ".join(ignored)
        advice = (
            "the environment wins, and a .env counts only as a whole: unset the variables, or remove these from .env"
        )
        return warning("settings", f"{said}; {names} of .env ignored", advice, **sources)
    return ok("settings", said, **sources)


def check_defaults() -> Finding:
    """Say which flags of `run` have another default, by which file or variable, for a batch in the working folder."""
    name, places = "defaults", [settings_files.local_file(None), settings_files.user_file()]
    commands = commands_of(make_parser())
    run = commands["run"]
    try:
        origin = settings_files.apply(
            run, {each: commands[each] for each in settings_files.COMMANDS}, settings_files.sources(None)
        )
    except errors.InvalidBatch as error:
        return failed(name, "; ".join(map(str, error.problems)), "correct it: no command will start")
    if not origin:
        files = " or ".join(str(place) for place in places if place is not None)
        return ok(name, f"no flag is set by WAN_ASYNC_* or by {files}")
    said = ", ".join(f"{flag} = {_plainly(run.get_default(flag))} from {source}" for flag, source in origin.items())
    return ok(name, f"{said}; a flag takes precedence", **origin)


def _plainly(value: object) -> str:
    if isinstance(value, list):
        return ", ".join("=".join(each) for each in value)
    return sanitise(str(value).lower() if isinstance(value, bool) else str(value))
