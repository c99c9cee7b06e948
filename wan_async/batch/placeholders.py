"""Placeholders in texts, such as `{caption}`, `{stem}` and `{index}`: filled in, or refused where misspelled."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

_BRACES = re.compile(r"\{([^{}]*)\}")
_PADDED = re.compile(r"index:0[1-9]")
_SEPARATORS = re.compile(r"[\s_-]+")


def fault_of_placeholders(template: str, fields: Collection[str]) -> str | None:
    """The first misspelled placeholder of a prompt, with what was probably meant; None if there is none."""
    for match in _BRACES.finditer(template):
        field = _field(match[1], fields)
        if field is None:
            if meant := _meant(match[1], fields):
                return f'"{match[0]}" is not a placeholder (did you mean "{{{meant}}}"?)'
            continue
        start, end = match.span()
        if template[start - 1 : start] == "$" or (template[start - 1 : start], template[end : end + 1]) == ("{", "}"):
            written = template[start - 1 : end + (template[start - 1] == "{")]
            return f'"{written}" is not a placeholder (did you mean "{match[0]}"?)'
    return None


def fields_in(template: str, fields: Collection[str]) -> set[str]:
    """The fields that a prompt asks for."""
    return {field for match in _BRACES.finditer(template) if (field := _field(match[1], fields))}


def others_in(text: str, fields: Collection[str]) -> Iterator[str]:
    """Texts in braces that are no placeholder; they are sent as they are."""
    return (match[0] for match in _BRACES.finditer(text) if _field(match[1], fields) is None)


def filled(template: str, fields: Collection[str], value_of: Callable[[str], str]) -> str:
    """The prompt with each field's value in its place; `{index:04}` pads it. Braces in the values are left alone."""

    def fill(match: re.Match[str]) -> str:
        field = _field(match[1], fields)
        if field is None:
            return match[0]
        width = match[1].partition(":")[2]
        return value_of(field).zfill(int(width or 0))

    return _BRACES.sub(fill, template)


def _field(content: str, fields: Collection[str]) -> str | None:
    if content in fields:
        return content
    return "index" if _PADDED.fullmatch(content) else None


def _meant(content: str, fields: Collection[str]) -> str | None:
    """The field that this misspells: in case, blanks or one letter (two in the longest name)."""
    word = _SEPARATORS.sub("", content.partition(":")[0]).casefold()
    for field in fields:
        slips = 0 if len(field) < 4 else 2 if len(field) > 5 else 1
        if abs(len(word) - len(field)) <= slips and _distance(word, field) <= slips:
            return field
    return None


def _distance(one: str, other: str) -> int:
    """The edit distance, with swaps of neighbours (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, 1):
        before, above, row = row, before, [at]
        for to, wanted in enumerate(other, 1):
            cost = min(before[to] + 1, row[to - 1] + 1, before[to - 1] + (letter != wanted))
            if at > 1 and to > 1 and letter == other[to - 2] and one[at - 2] == wanted:
                cost = min(cost, above[to - 2] + 1)
            row.append(cost)
    return row[-1]
