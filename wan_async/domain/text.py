"""Rendering of untrusted text (of users, files and the service) in messages."""

from __future__ import annotations

import re
from collections.abc import Iterable

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def shown(value: object, *, whole: bool = False) -> str:
    """Render a value for a message: text in quotes, on one line, control and invisible characters escaped.

    Args:
        value: any value.
        whole: don't cut long text; for paths, of which every character matters.
    """
    if not isinstance(value, str):
        words: dict[object, str] = {True: "true", False: "false"}
        if isinstance(value, bool):
            return words[value]
        if isinstance(value, list | dict):
            return "a list" if isinstance(value, list) else "a mapping"
        return "nothing" if value is None else str(value)[:60]
    text = value if whole or len(value) <= 60 else f"{value[:57]}..."
    return f'"{"".join(map(_visible, text))}"'


def _visible(char: str) -> str:
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":  # a byte of a file name that is not valid UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The word that a misspelled one was probably meant to be, without case; None if none is close."""
    import difflib  # loaded only if there is an error to report

    known = {known.casefold(): known for known in words}
    written = word.casefold().strip()
    swapped = [each for each in known if sorted(each) == sorted(written)]  # which is a large part of a short word
    near = difflib.get_close_matches(written, known, n=1, cutoff=0.75) or swapped
    return known[near[0]] if near else None


def suggestion(word: str, words: Iterable[str]) -> str:
    """A hint for a misspelled word.

    Args:
        word: what was written.
        words: what is allowed.

    Returns:
        ` (did you mean "...")` with the closest word, or the list of all words if none is close.
    """
    words = list(words)
    near = nearest(word, words)
    return f' (did you mean "{near}"?)' if near is not None else f" (there are {', '.join(words)})"
