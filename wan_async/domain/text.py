"""Text of users and of the service, shown in messages."""

from __future__ import annotations

import re
from collections.abc import Iterable

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def shown(value: object, *, whole: bool = False) -> str:
    """A value as a message shows it: text in quotes, on one line, without anything invisible.

    Args:
        value: any value.
        whole: keeps even a long text, as paths need it.
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
    if "\udc80" <= char <= "\udcff":  # a byte of a file's name that is no text
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def suggestion(word: str, words: Iterable[str]) -> str:
    """` (did you mean "480P"?)`, or the words there are if none comes near."""
    import difflib  # only wrong batches pay for it

    known = {known.casefold(): known for known in words}
    near = difflib.get_close_matches(word.casefold().strip(), known, n=1, cutoff=0.75)
    return f' (did you mean "{known[near[0]]}"?)' if near else f" (there are {', '.join(known.values())})"
