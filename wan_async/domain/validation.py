"""Checks of values by kind: what is wrong with one, in words, or None."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from wan_async.domain.image_bytes import ImageBytes
from wan_async.domain.text import CONTROL, shown, suggestion

ID_LIMIT = 255
"""Characters in an `id`: it is shown on screens and in every event."""

DIGITS_LIMIT = 255
"""Digits of an integer in text: Python refuses to read thousands of them."""

_BETWEEN_DIGITS = re.compile(r"(?<=[0-9])[x\u00d7/](?=[0-9])")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_URL = re.compile(r"https?://[^\s/?#]+[^\s]*", re.IGNORECASE)
_SCHEME = re.compile(r"(?:[a-z][a-z0-9+.-]+://|data:)", re.IGNORECASE)

_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Mn", "Me", "Zs", "Zl", "Zp"})
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and a symbol by category, but rendered as blanks


def is_url(image: str) -> bool:
    """Whether an image is an http(s) URL rather than a path."""
    return image[:4].lower() == "http" and _URL.match(image) is not None


def fault_of_text(value: object) -> str | None:
    """What is wrong with a text, if anything."""
    if type(value) is not str:
        return f"must be text, not {shown(value)}"
    if value.isascii():
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"holds half of a surrogate pair, which is no character: {shown(value)}"
    return None


def fault_of_prompt(value: object) -> str | None:
    """What is wrong with a text for the model, if anything."""
    if type(value) is str and value.isascii() and value.isprintable():
        return None
    if fault := fault_of_text(value):
        return fault
    text = str(value)
    if match := CONTROL.search(text):
        return f"holds the control character U+{ord(match[0]):04X}, which is invisible"
    if not text.isascii() and not text.isspace() and all(_is_invisible(char) for char in text):
        return "holds nothing but invisible characters"
    return None


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) in _INVISIBLE or char in _BLANK or char in "\t\n\r"


def fault_of_path(path: str) -> str | None:
    """What is wrong with the path of an existing file, if anything."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"{shown(path, whole=True)}: its name is not UTF-8; rename it"
    return None


def fault_of_integer(value: object, limits: tuple[int, int] | None = None) -> str | None:
    """What is wrong with an integer, or the text of one, if anything.

    Args:
        value: any value.
        limits: the smallest and the largest value allowed.
    """
    if type(value) is int:
        number: int | None = value
    elif isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        number = int(value) if len(value) <= DIGITS_LIMIT else None
    else:
        return f"{shown(value)} is not an integer{_meant(value)}"
    if number is None:
        return "is out of range: it has too many digits"
    if limits is None or limits[0] <= number <= limits[1]:
        return None
    return f"is out of range: the smallest value is {limits[0]}, the largest {limits[1]}"


def _meant(value: object) -> str:
    if isinstance(value, bool | list | dict) or value is None:
        return ""
    text = str(value)[:DIGITS_LIMIT].strip()
    for read in (lambda: int(text, 0), lambda: float(text)):
        try:
            number = read()
            if number == int(number):
                return f" (did you mean {int(number)}?)"
        except (ValueError, OverflowError):
            continue
    return ""


def fault_of_choice(value: object, what: str, choices: Sequence[str]) -> str | None:
    """What is wrong with a value that must be one of `choices`, if anything.

    Args:
        value: any value.
        what: what a choice is, with its article: `a resolution`.
        choices: the values there are.
    """
    if choice_meant(value, choices) is not None:
        return None
    return f"{shown(value)} is not {what}{suggestion(str(value), choices)}"


def choice_meant(value: object, choices: Sequence[str]) -> str | None:
    """The choice that a value means: without case and blanks, and with `16x9` for `16:9`; None if there is none."""
    if value in choices:
        return str(value)
    if not isinstance(value, str):
        return None
    meant = [choice for choice in choices if _folded_choice(choice) == _folded_choice(value)]
    return meant[0] if len(meant) == 1 else None


def _folded_choice(value: str) -> str:
    return _BETWEEN_DIGITS.sub(":", "".join(value.split()).casefold())


def fault_of_id(value: object) -> str | None:
    """What is wrong with a job's `id`, if anything."""
    if fault := fault_of_text(value):
        return fault
    text = str(value)
    if not text.strip() or text != text.strip():
        return f"{shown(text)} is empty" if not text.strip() else f"{shown(text)} begins or ends with a space"
    if not text.isprintable():
        return f"{shown(text)} holds a character that can't be shown"
    return f"is longer than {ID_LIMIT} characters" if len(text) > ID_LIMIT else None


def fault_of_image(value: object) -> str | None:
    """What is wrong with an image's path, URL or bytes, if anything; whether it exists is not looked at."""
    if isinstance(value, ImageBytes):
        return None if value.data else "is empty, or no data URI that can be decoded"
    if fault := fault_of_text(value):
        return fault
    text = str(value)
    if "\0" in text:
        return f"{shown(text)} is not a path"
    if _SCHEME.match(text) and not is_url(text):
        return f"{shown(text)} is neither a path nor an http(s) URL"
    return _fault_of_url(text) if is_url(text) else None


def fault_of_callback(value: object) -> str | None:
    """What is wrong with a callback's URL, if anything; empty is none."""
    if fault := fault_of_text(value):
        return fault
    text = str(value)
    if text == "":
        return None
    return _fault_of_url(text) if is_url(text) else f"{shown(value)} is not an http(s) URL"


def _fault_of_url(url: str) -> str | None:
    """What is wrong with a text that begins as an http(s) URL, if anything."""
    if not _URL.fullmatch(url):
        return f"{shown(url)} is not a URL: it holds a space"
    if not url.isprintable():
        return f"{shown(url)} is not a URL: it holds a character that can't be shown"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        if "[" in parts.netloc or "]" in parts.netloc:  # Python's releases differ in what they refuse
            IPv6Address(host.partition("%")[0])
    except ValueError:
        return f"{shown(url)} is not a URL: its host or port is none (brackets are for IPv6 addresses)"
    return None if host and port != 0 else f"{shown(url)} is not a URL: it names no host and port"
