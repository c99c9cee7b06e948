"""The types of arguments: what a text on the command line is turned into, or why it is refused."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a tenth of the time that --help takes
    from decimal import Decimal
    from pathlib import Path

    from wan_async.output_locations import Location


def _number(text: str, kind: type[int] | type[float], least: float, what: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = kind(least - 1)
    if not least <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def any_path(text: str) -> Path:
    """A path."""
    from pathlib import Path

    if "://" in text:
        raise argparse.ArgumentTypeError("this is a local path here, not a URL")
    return Path(text)


def any_location(text: str) -> Location:
    """A path, or the URL of an object store."""
    from wan_async.output_locations import location_of

    try:
        return location_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def location(text: str) -> Location:
    """A path that is not empty, or the URL of an object store."""
    return any_location(text) if "://" in text else path(text)


def path(text: str) -> Path:
    """A path that is not empty."""
    if not text:  # such as an unset shell variable; as a path it would mean the working folder
        raise argparse.ArgumentTypeError("the path is empty")
    return any_path(text)


DATABASES = ("postgresql://", "postgres://")


def database(text: str) -> str:
    """The address of a PostgreSQL database."""
    if not text.startswith(DATABASES):
        raise argparse.ArgumentTypeError("this is not postgresql://USER@HOST/DATABASE")  # it may hold a password
    return text


def journal_place(text: str) -> Path | str:
    """A folder, or the address of a PostgreSQL database."""
    return text if text.startswith(DATABASES) else path(text)


def is_database(journal: object) -> bool:
    """Whether `--journal` names a database rather than a folder."""
    return isinstance(journal, str)


def lease(text: str) -> Any:
    """A number of seconds of at least 1."""
    return _number(text, float, 1, "a number of seconds of at least 1")


def text(given: str) -> str:
    """A path as it was written, so that a slash at its end is not lost."""
    path(given)
    return given


def setting(text: str) -> tuple[str, str]:
    """A parameter and its value: `seed=7`."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value


def count(text: str) -> Any:
    """A whole number from 1 on."""
    return _number(text, int, 1, "a whole number from 1 on")


def whole(text: str) -> Any:
    """A whole number from 0 on."""
    return _number(text, int, 0, "a whole number from 0 on")


def integer(text: str) -> int:
    """A whole number, which may be negative."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def seconds(text: str) -> Any:
    """A finite number of seconds, not negative."""
    return _number(text, float, 0, "a number of seconds")


def concurrency(text: str) -> int | None:
    """A whole number from 1 on, or None for `auto`."""
    return None if text == "auto" else _number(text, int, 1, 'a whole number from 1 on, or "auto"')


def usd(text: str) -> Decimal:
    """An amount in USD."""
    from decimal import Decimal, InvalidOperation

    try:
        value = Decimal(text.removeprefix("$"))
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value < 0 or value.adjusted() >= 9:  # the limit of `money.micros`
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount in USD")
    return value
