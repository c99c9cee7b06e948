"""Defaults of flags from settings files and the environment.

Precedence: flag, environment (`WAN_ASYNC_CONCURRENCY=4`), `wan-async.toml` beside the batch, `config.toml` in the
user's configuration folder. `WAN_ASYNC_CONFIG` names another file for the latter; empty, there is none.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_async import errors
from wan_async.domain.text import shown, suggestion

PREFIX = "WAN_ASYNC_"
LOCAL_FILE = "wan-async.toml"
USER_FILE = "config.toml"
ONE_TIME = ("rerender", "resubmit_unknown", "ignore_unowned", "give_up", "dry_run", "help", "version")
"""Flags that are decisions about one run."""
COMMANDS = ("run", "plan", "again", "generate", "watch", "enqueue", "worker")
"""The commands whose flags may have such defaults."""
_CREDENTIALS = ("wiro_api_key", "wiro_api_secret", "wiro_base_url", "wiro_socket_url", "api_key", "api_secret",
                "key", "secret", "base_url", "socket_url")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """Where defaults of flags are from.

    Attributes:
        name: for messages and `doctor`: a file's path, or `environment`.
        values: by the flag's name with underscores.
    """

    name: str
    values: Mapping[str, Any]


def user_file() -> Path | None:
    """The user's file; None if `WAN_ASYNC_CONFIG` is empty."""
    if (named := os.environ.get(f"{PREFIX}CONFIG")) is not None:
        return Path(named) if named else None
    from platformdirs import user_config_path

    return user_config_path("wan-async", appauthor=False) / USER_FILE


def local_file(batch: str | None) -> Path:
    """The file beside a batch; in the working folder for a batch on standard input, and for commands without one."""
    return Path(LOCAL_FILE) if batch in (None, "-", "") else Path(str(batch)).absolute().parent / LOCAL_FILE


def sources(batch: str | None) -> list[Source]:
    """All sources of defaults that there are, the one that takes precedence first.

    Raises:
        errors.InvalidBatch: a file can't be read, or holds credentials.
    """
    environment = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and name != f"{PREFIX}CONFIG"
    }
    found = [Source("environment", environment)] if environment else []
    user = user_file()
    found += [_read(path) for path in (local_file(batch), user) if path is not None and path.is_file()]
    if user is not None and os.environ.get(f"{PREFIX}CONFIG") and not user.is_file():
        raise _invalid(f"{PREFIX}CONFIG", f"there is no file {user}")
    return found


def with_defaults(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with the defaults from all sources; `defaults_from` says where each is from.

    Raises:
        errors.InvalidBatch: a file can't be read, or has keys or values that are not allowed.
    """
    found = sources(getattr(args, "batch", None))
    if not found:
        return args
    from wan_async.cli.arguments import commands_of, make_parser

    parser = make_parser()
    commands = commands_of(parser)
    origin = apply(commands[args.command], {name: commands[name] for name in COMMANDS if name in commands}, found)
    return parser.parse_args(args.typed, argparse.Namespace(typed=args.typed, defaults_from=origin))


def apply(
    command: argparse.ArgumentParser, others: Mapping[str, argparse.ArgumentParser], found: list[Source]
) -> dict[str, str]:
    """Make the values of all sources the defaults of a command's flags.

    Args:
        command: the parser of the command; its defaults are changed.
        others: the parsers of all commands: their flags may be in a file as well, and are left alone.
        found: the sources, the one that takes precedence first.

    Returns:
        The name of the source of each default that was set, by the flag's name with underscores.

    Raises:
        errors.InvalidBatch: with every key that is unknown or not allowed, and every value that its flag refuses.
    """
    actions = dict(_settable(command))
    known = {name for parser in others.values() for name, _ in _settable(parser)} | actions.keys()
    problems: list[errors.Problem] = []
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source in reversed(found):
        for name, value in source.values.items():
            where = f"{PREFIX}{name.upper()}" if source.name == "environment" else f"{source.name}: {name}"
            if fault := _fault_of_key(name, known):
                problems.append(errors.Problem(where, fault))
            elif name in actions:
                try:
                    values[name] = _value(actions[name], value)
                    origin[name] = source.name
                except (argparse.ArgumentTypeError, ValueError) as error:
                    problems.append(errors.Problem(where, str(error)))
    if problems:
        raise errors.InvalidBatch(problems)
    for name, value in values.items():
        actions[name].default = value
    return origin


def _settable(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:  # argparse has no public list of them
        for option in action.option_strings:
            name = option.removeprefix("--").replace("-", "_")
            is_opposite = option.startswith("--no-") and f"--{option[5:]}" in action.option_strings
            if option.startswith("--") and name not in ONE_TIME and not is_opposite:
                yield name, action


def _fault_of_key(name: str, known: set[str]) -> str | None:
    if name in known:
        return None
    if name in _CREDENTIALS:
        return (
            "credentials and addresses of the service don't belong here: set WIRO_API_KEY, WIRO_API_SECRET, "
            "WIRO_BASE_URL and WIRO_SOCKET_URL in the environment or in .env"
        )
    if name in ONE_TIME:
        return "is a decision about one run: give it as a flag"
    return f"is no flag that can be set here{suggestion(name, sorted(known))}"


def _value(action: argparse.Action, value: Any) -> Any:
    """The value as the flag would have it.

    Raises:
        ValueError: the flag does not take it.
        argparse.ArgumentTypeError: likewise.
    """
    if action.nargs == 0:  # a switch, or a counter such as --verbose
        if isinstance(value, str):
            value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
        is_counter = isinstance(action.default, int) and not isinstance(action.default, bool)
        if isinstance(value, bool) or (is_counter and isinstance(value, int)):
            return int(value) if is_counter else value
        raise ValueError(f"{shown(value)} is not true or false")
    if isinstance(action.default, list) and callable(action.type):  # `[set]` is a table, or one NAME=VALUE
        given = [f"{name}={each}" for name, each in value.items()] if isinstance(value, dict) else [value]
        return [action.type(str(each)) for each in given]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise argparse.ArgumentTypeError(f"{shown(value)} is not a single value")
    text = str(value)
    if action.choices is not None and text not in action.choices:
        raise ValueError(f"{shown(text)} is not allowed{suggestion(text, map(str, action.choices))}")
    return action.type(text) if callable(action.type) else text


def _read(path: Path) -> Source:
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # not TOML, or not UTF-8
        raise _invalid(str(path), f"can't be read: {error}") from None
    return Source(str(path), {name.replace("-", "_"): value for name, value in content.items()})


def _invalid(where: str, message: str) -> errors.InvalidBatch:
    return errors.InvalidBatch([errors.Problem(where, message)])
