"""Checks of a job's fields."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import urlsplit

from wan_async.domain.model import ASPECT_RATIOS, RESOLUTIONS
from wan_async.domain.text import CONTROL, shown, suggestion

ID_LIMIT = 255
"""Characters in an `id`: it is shown on screens and in every event."""

SEED_LIMIT = 2**64
"""A seed lies strictly between the negative of this and this: random generators take 64 bits."""

_INTEGER = re.compile(r"[+-]?[0-9]+")
_URL = re.compile(r"https?://[^\s/?#]+[^\s]*", re.IGNORECASE)
_SCHEME = re.compile(r"(?:[a-z][a-z0-9+.-]+://|data:)", re.IGNORECASE)

_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Mn", "Me", "Zs", "Zl", "Zp"})
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and a symbol by category, yet nothing to see


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
    """What is wrong with a text that the model is to read, if anything."""
    if type(value) is str and value.isascii() and value.isprintable():
        return None
    if fault := fault_of_text(value):
        return fault
    text = str(value)
    if match := CONTROL.search(text):
        return f"holds the control character U+{ord(match[0]):04X}, which nobody can see"
    if not text.isascii() and not text.isspace() and all(_is_invisible(char) for char in text):
        return "holds nothing but invisible characters"
    return None


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) in _INVISIBLE or char in _BLANK or char in "\t\n\r"


def fault_of_path(path: str) -> str | None:
    """What is wrong with the path of a file that was found, if anything."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"{shown(path, whole=True)}: its name is not UTF-8; rename it"
    return None


def fault_of_seed(value: object) -> str | None:
    """What is wrong with a seed, if anything."""
    if type(value) is int:
        number = value
    elif isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        # Python refuses to read numbers of thousands of digits, and only these matter.
        number = int(value) if len(value) <= ID_LIMIT else SEED_LIMIT
    else:
        return f"{shown(value)} is not an integer{_meant(value)}"
    return None if abs(number) < SEED_LIMIT else "is out of range: a seed has 64 bits at most"


def _meant(value: object) -> str:
    if isinstance(value, bool | list | dict) or value is None:
        return ""
    text = str(value)[:ID_LIMIT].strip()
    for read in (lambda: int(text, 0), lambda: float(text)):
        try:
            number = read()
            if number == int(number):
                return f" (did you mean {int(number)}?)"
        except (ValueError, OverflowError):
            continue
    return ""


def _fault_of_choice(what: str, choices: tuple[str, ...]) -> Callable[[object], str | None]:
    def fault_of(value: object) -> str | None:
        if value in choices:
            return None
        return f"{shown(value)} is not {what}{suggestion(str(value), choices)}"

    return fault_of


def _fault_of_id(value: object) -> str | None:
    if fault := fault_of_text(value):
        return fault
    text = str(value)
    if not text.strip() or text != text.strip():
        return f"{shown(text)} is empty" if not text.strip() else f"{shown(text)} begins or ends with a space"
    if not text.isprintable():
        return f"{shown(text)} holds a character that can't be shown"
    return f"is longer than {ID_LIMIT} characters" if len(text) > ID_LIMIT else None


def _fault_of_image(value: object) -> str | None:
    if fault := fault_of_text(value):
        return fault
    text = str(value)
    if "\0" in text:
        return f"{shown(text)} is not a path"
    if _SCHEME.match(text) and not is_url(text):
        return f"{shown(text)} is neither a path nor an http(s) URL"
    return _fault_of_url(text) if is_url(text) else None


def _fault_of_callback(value: object) -> str | None:
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


FAULTS: dict[str, Callable[[Any], str | None]] = {
    "prompt": fault_of_prompt,
    "image": _fault_of_image,
    "negative_prompt": fault_of_prompt,
    "resolution": _fault_of_choice("a resolution", RESOLUTIONS),
    "aspect_ratio": _fault_of_choice("an aspect ratio", ASPECT_RATIOS),
    "seed": fault_of_seed,
    "id": _fault_of_id,
    "callback_url": _fault_of_callback,
}
"""For each field of a job, what tells the fault of a value, or None."""
