"""Batches in JSON and JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from wan_async.batch.syntax import NESTING_LIMIT, TOO_DEEP, Path, Report, Row, Spot, Stop, TextFormat, not_a_batch
from wan_async.domain.text import shown

_BLANK = re.compile(r"[ \t\r\n]*")


class Json(TextFormat):
    """JSON: decoded once for the values, and again, member by member, where a place is needed."""

    _by_line = False

    def __init__(self, text: str, report: Report) -> None:
        super().__init__(text, report)
        self._repeats = False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._mapping)
        start = skip_blank(text, 0)
        self._root = Row(self._decode(text, start, 0), self._spot(start), start)

    def envelope(self) -> Row | None:
        if isinstance(self._root.values, list):
            return None
        if not isinstance(self._root.values, dict):
            self._report.stop(self._root.spot, not_a_batch(self._root.values))
        return self._root

    def rows(self) -> Iterator[Row | None]:
        start = self._root.token
        if isinstance(self._root.values, dict):
            if not isinstance(self._root.values.get("jobs"), list):
                return
            start = self._find(self._text, start, ("jobs",))[1]
        for _, _, at, value in self._members(self._text, start):
            yield Row(value, self._spot(at), at)

    def spot(self, row: Row, path: Path) -> Spot:
        return self._spot(self._find(self._text, row.token, path)[1])

    def key_spot(self, row: Row, path: Path) -> Spot:
        return self._spot(self._find(self._text, row.token, path)[0])

    def _mapping(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        self._repeats = self._repeats or len(values) != len(pairs)
        return values

    def _decode(self, text: str, start: int, offset: int) -> Any:
        """The value in `text`, which begins at `offset` of the whole text; `Stop` if it is not JSON."""
        self._repeats = False
        try:
            value, end = self._decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            self._stop(offset + error.pos, f"not JSON: {error.msg[0].lower()}{error.msg[1:]}")
        except RecursionError:
            self._stop(offset + start, TOO_DEEP)
        except ValueError:
            self._stop(offset + start, "holds a number of thousands of digits")
        if end != len(text) and (end := skip_blank(text, end)) != len(text):
            self._stop(offset + end, "not JSON: more text follows the end of the value")
        if self._repeats:
            self._report_repeats(text, start, offset)
        return value

    def _stop(self, offset: int, message: str) -> NoReturn:
        self._report.stop(self._spot(offset), message, of_row=self._by_line)

    def _report_repeats(self, text: str, start: int, offset: int, depth: int = 0) -> None:
        if depth == NESTING_LIMIT:
            self._stop(offset + start, TOO_DEEP)
        seen = set()
        for key, key_at, at, value in self._members(text, start):
            if key in seen:
                message = f"{shown(key)} is given twice"
                self._report.add(self._spot(offset + key_at), message, of_row=self._by_line)
            seen.add(key)
            if isinstance(value, dict | list):
                self._report_repeats(text, at, offset, depth + 1)

    def _members(self, text: str, start: int) -> Iterator[tuple[str | int, int, int, Any]]:
        """Key or index, its place, the value's place and the value, of an object or array that is valid JSON."""
        at = skip_blank(text, start + 1)
        index = 0
        while text[at] not in "]}":
            key: str | int = index
            key_at = at
            if text[start] == "{":
                key, at = self._decoder.raw_decode(text, at)
                at = skip_blank(text, skip_blank(text, at) + 1)
            value, end = self._decoder.raw_decode(text, at)
            yield key, key_at, at, value
            at = skip_blank(text, end)
            if text[at] == ",":
                at = skip_blank(text, at + 1)
            index += 1

    def _find(self, text: str, start: int, path: Path) -> tuple[int, int]:
        """Where the key and the value at a path begin; of what isn't there, those of the nearest around it."""
        key_start = start
        for step in path:
            # The last of several equal keys is the one that counts.
            members = self._members(text, start) if text[start] in "{[" else ()
            places = {key: (key_at, at) for key, key_at, at, _ in members}
            if step not in places:
                break
            key_start, start = places[step]
        return key_start, start


class JsonLines(Json):
    """JSON Lines: a job a line. A bad line is reported, and the others are read."""

    _by_line = True

    def __init__(self, text: str, report: Report) -> None:
        TextFormat.__init__(self, text, report)
        self._repeats = False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._mapping)

    def envelope(self) -> None:
        return

    def rows(self) -> Iterator[Row | None]:
        start = number = 0
        is_plain = "\r" not in self._text
        while start < len(self._text):
            number += 1
            end = self._text.find("\n", start)
            end = len(self._text) if end < 0 else end
            line = self._text[start:end]
            first = 0 if line[:1] == "{" else skip_blank(line, 0)
            if first < len(line):
                spot = (number, first + 1) if is_plain else self._spot(start + first)
                try:
                    yield Row(self._decode(line, first, start), spot, start + first)
                except Stop:
                    yield None
            start = end + 1


def skip_blank(text: str, at: int) -> int:
    """The offset after the blanks that begin at `at`."""
    match = _BLANK.match(text, at)
    return match.end() if match else at
