"""Four syntaxes of a batch: each yields rows of plain values, and finds the place of each value again.

YAML is read as events, in which every scalar is text, so that nobody's values are guessed at; JSON by its C decoder,
and once more, member by member, only for the places that are asked for.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NoReturn, Protocol

from wan_async.errors import InvalidBatch, Problem
from wan_async.jobs import FAULTS, shown, suggestion

Kind = Literal["yaml", "json", "jsonl", "csv"]
Path = tuple[str | int, ...]
Spot = tuple[int, int]

NESTING_LIMIT = 20
"""How deep a document may nest before it is no batch (of JSON, the decoder's own limit counts, unless keys repeat)."""
ALIAS_LIMIT = 10_000_000
"""How many values the aliases of a YAML document may stand for: defaults for each of a million jobs, but no bomb."""

ALIASES = {
    "inputImageUrl": "image",
    "inputImage": "image",
    "negativePrompt": "negative_prompt",
    "aspectRatio": "aspect_ratio",
    "callbackUrl": "callback_url",
}
"""The wire's own names, taken as well: people paste from the model's page."""

_BLANK = re.compile(r"[ \t\r\n]*")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:int"})


class Stop(Exception):
    """Reading on makes no sense."""


class Report:
    """Collects problems, wherever they are met, and gives them back in the order of the text."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: list[tuple[Spot, Problem]] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing is wrong so far."""
        return not self._found

    def add(self, spot: Spot, message: str, where: str = "") -> None:
        """Something is wrong at `spot`."""
        self._found.append((spot, Problem(where or f"{self.source}:{spot[0]}:{spot[1]}", message)))

    def stop(self, spot: Spot, message: str) -> NoReturn:
        """Something is so wrong at `spot` that nothing after it can be read."""
        self.add(spot, message)
        raise Stop

    def check(self) -> None:
        """Raises InvalidBatch with every problem, in the order of the text, if there is any."""
        if self._found:
            raise InvalidBatch([problem for _, problem in sorted(self._found, key=lambda found: found[0])])


@dataclass(slots=True)
class Row:
    """Values, where they begin, and what their syntax needs to find the place of one of them."""

    values: Any
    spot: Spot
    token: Any = None
    where: str = ""


class Syntax(Protocol):
    """What each syntax can do."""

    def envelope(self) -> Row | None:
        """The document around the jobs, None for a mere list of them."""
        ...

    def rows(self) -> Iterable[Row | None]:
        """The jobs; None where one could not be read, and was reported."""
        ...

    def spot(self, row: Row, path: Path) -> Spot:
        """The place of a value, or of the nearest thing around it."""
        ...


def not_a_batch(value: object) -> str:
    """Why a document of another shape is no batch."""
    return f"a batch is a mapping or a list of jobs, not {shown(value)}"


class _Text:
    """A text, and the line and column of each offset into it."""

    def __init__(self, text: str, report: Report) -> None:
        self._text = text
        self._report = report

    @cached_property
    def _ends(self) -> list[int]:
        return [match.end() - 1 for match in re.finditer("\r\n?|\n", self._text)]

    def _spot(self, offset: int) -> Spot:
        line = bisect_left(self._ends, offset)
        return line + 1, offset - (self._ends[line - 1] if line else -1)


class Json(_Text):
    """JSON: by the C decoder for the values, and once more, member by member, for the places that are asked for."""

    def __init__(self, text: str, report: Report) -> None:
        super().__init__(text, report)
        self._repeats = False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._mapping)
        start = _blank(text, 0)
        self._root = Row(self._decode(text, start, 0), self._spot(start), start)

    def envelope(self) -> Row | None:
        """The document around the jobs, None for a mere list of them."""
        if isinstance(self._root.values, list):
            return None
        if not isinstance(self._root.values, dict):
            self._report.stop(self._root.spot, not_a_batch(self._root.values))
        return self._root

    def rows(self) -> Iterator[Row | None]:
        """The jobs as they are written, None for one that can't be read."""
        start = self._root.token
        if isinstance(self._root.values, dict):
            if not isinstance(self._root.values.get("jobs"), list):
                return
            start = self._find(self._text, start, ("jobs",))
        for _, _, at, value in self._members(self._text, start):
            yield Row(value, self._spot(at), at)

    def spot(self, row: Row, path: Path) -> Spot:
        """Line and column of a value of the row."""
        return self._spot(self._find(self._text, row.token, path))

    def _mapping(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        self._repeats = self._repeats or len(values) != len(pairs)
        return values

    def _decode(self, text: str, start: int, offset: int) -> Any:
        """The value in `text`, which stands at `offset` of the whole; `Stop` if there is none."""
        self._repeats = False
        try:
            value, end = self._decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            self._report.stop(self._spot(offset + error.pos), f"not JSON: {error.msg[0].lower()}{error.msg[1:]}")
        except RecursionError:
            self._report.stop(self._spot(offset + start), "is nested too deep to be a batch")
        except ValueError:
            self._report.stop(self._spot(offset + start), "holds a number of thousands of digits")
        if end != len(text) and (end := _blank(text, end)) != len(text):
            self._report.stop(self._spot(offset + end), "not JSON: there is more after the end of the value")
        if self._repeats:
            self._report_repeats(text, start, offset)
        return value

    def _report_repeats(self, text: str, start: int, offset: int, depth: int = 0) -> None:
        if depth == NESTING_LIMIT:
            self._report.stop(self._spot(offset + start), "is nested too deep to be a batch")
        seen = set()
        for key, key_at, at, value in self._members(text, start):
            if key in seen:
                self._report.add(self._spot(offset + key_at), f"{shown(key)} stands here twice")
            seen.add(key)
            if isinstance(value, dict | list):
                self._report_repeats(text, at, offset, depth + 1)

    def _members(self, text: str, start: int) -> Iterator[tuple[str | int, int, int, Any]]:
        """Key or index, its place, the value's place and the value, of an object or array that is sound JSON."""
        at = _blank(text, start + 1)
        index = 0
        while text[at] not in "]}":
            key: str | int = index
            key_at = at
            if text[start] == "{":
                key, at = self._decoder.raw_decode(text, at)
                at = _blank(text, _blank(text, at) + 1)
            value, end = self._decoder.raw_decode(text, at)
            yield key, key_at, at, value
            at = _blank(text, end)
            if text[at] == ",":
                at = _blank(text, at + 1)
            index += 1

    def _find(self, text: str, start: int, path: Path) -> int:
        for step in path:
            # The last of several equal keys is the one that counts.
            places = {key: at for key, _, at, _ in self._members(text, start)} if text[start] in "{[" else {}
            if step not in places:
                break
            start = places[step]
        return start


class JsonLines(Json):
    """JSON Lines: a job a line. A bad line is a problem, the others are read all the same."""

    def __init__(self, text: str, report: Report) -> None:
        _Text.__init__(self, text, report)
        self._repeats = False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._mapping)

    def envelope(self) -> None:
        """The document around the jobs, None for a mere list of them."""
        return

    def rows(self) -> Iterator[Row | None]:
        """The jobs as they are written, None for one that can't be read."""
        start = 0
        while start < len(self._text):
            end = self._text.find("\n", start)
            end = len(self._text) if end < 0 else end
            line = self._text[start:end]
            first = 0 if line[:1] == "{" else _blank(line, 0)
            if first < len(line):
                try:
                    yield Row(self._decode(line, first, start), self._spot(start + first), start + first)
                except Stop:
                    yield None
            start = end + 1


class Csv(_Text):
    """CSV: a field a column, the first row names them. Commas, semicolons and tabs are told apart by that row."""

    def __init__(self, text: str, report: Report) -> None:
        super().__init__(text, report)
        header = re.split("[\r\n]", text.lstrip(" \r\n"), maxsplit=1)[0]
        separator = max(",;\t", key=header.count)
        self._cell = re.compile(
            rf'[ ]*+(?:"((?:[^"]|"")*+)"[ ]*|(?!")([^{separator}\r\n]*))(?:({separator})|\r?\n|\r|\Z)'
        )

    def envelope(self) -> None:
        """The document around the jobs, None for a mere list of them."""
        return

    def rows(self) -> Iterator[Row | None]:
        """The jobs as they are written, None for one that can't be read."""
        lines = self._lines()
        columns: list[str | None] = []
        names: list[str] = []
        for name, at in next(lines, []):
            known = ALIASES.get(name, name) in FAULTS
            if not known and name:
                hint = " (a matrix can't be written in CSV)" if name == "matrix" else suggestion(name, FAULTS)
                self._report.add(self._spot(at), f"unknown column {shown(name)}{hint}")
            elif name in columns:
                self._report.add(self._spot(at), f"the column {shown(name)} stands here twice")
            columns.append(name if known else None)
            names.append(name)
        least = max((number for number, name in enumerate(names, 1) if name), default=0)
        # The first column may be the index that a table program writes; behind the last name, a row may end.
        unnamed = [number for number, name in enumerate(names) if number and not name]
        for cells in lines:
            lost = next((at for text, at in (cells[n] for n in unnamed if n < len(cells)) if text), None)
            if lost is not None or not least <= len(cells) <= len(names):
                at = cells[min(len(cells), len(names) + 1) - 1][1] if lost is None else lost
                misfit = f"the header has {len(names)} columns, this row {len(cells)} cells"
                self._report.add(self._spot(at), f"{misfit}: quote texts that hold commas")
                yield None
                continue
            given = {name: cell for name, cell in zip(columns, cells, strict=False) if name and cell[0]}
            values = {name: text for name, (text, _) in given.items()}
            yield Row(values, self._spot(cells[0][1]), {name: at for name, (_, at) in given.items()})

    def spot(self, row: Row, path: Path) -> Spot:
        """Line and column of a value of the row."""
        return self._spot(row.token[path[0]]) if path and path[0] in row.token else row.spot

    def _lines(self) -> Iterator[list[tuple[str, int]]]:
        """The cells of each line that isn't blank, each with its place."""
        at = 0
        cells: list[tuple[str, int]] = []
        while at < len(self._text):
            match = self._cell.match(self._text, at)
            if match is None:
                spot = self._spot(at)
                self._report.stop(spot, "a quoted cell has no end, or goes on behind its closing quote")
            quoted = match[1]
            cells.append((match[2].strip() if quoted is None else quoted.replace('""', '"'), at))
            at = match.end()
            if match[3] is None:
                if any(text for text, _ in cells):
                    yield cells
                cells = []
        if any(text for text, _ in cells):
            yield [*cells, ("", at)]  # the text ends behind a separator


class _Table(dict[str, Any]):
    """A mapping of YAML, with the places of its values in their order."""

    __slots__ = ("marks",)
    marks: list[Any]


class _Items(list[Any]):
    """A list of YAML, with the places of its items."""

    __slots__ = ("marks",)
    marks: list[Any]


class Yaml(_Text):
    """YAML, built from the parser's events: no scalar is resolved, no tag constructs anything, no alias is copied."""

    def __init__(self, text: str, report: Report) -> None:
        import yaml  # not needed for the other syntaxes, and not cheap

        super().__init__(text, report)
        self._yaml = yaml
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0
        self._aliased = 0
        try:
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
            self._next: Callable[[], Any] = loader.get_event
            try:
                self._root, self._mark = self._document()
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            hint = "texts that hold ': ' or ' #', or that begin with one of [ { * & ! | > % @ `, need quotes"
            report.stop(self._place(mark) if mark else (1, 1), f"not YAML: {error.problem} ({hint})")
        except (yaml.reader.ReaderError, UnicodeEncodeError):
            match = yaml.reader.Reader.NON_PRINTABLE.search(text)
            at = match.start() if match else 0
            report.stop(self._spot(at), f"not YAML: it holds the character {text[at : at + 1]!a}")

    def envelope(self) -> Row | None:
        """The document around the jobs, None for a mere list of them."""
        if isinstance(self._root, _Items):
            return None
        if not isinstance(self._root, _Table):
            self._report.stop(self._place(self._mark), not_a_batch(self._root))
        return Row(self._root, self._place(self._mark))

    def rows(self) -> Iterator[Row]:
        """The jobs as they are written, None for one that can't be read."""
        jobs = self._root.get("jobs") if isinstance(self._root, _Table) else self._root
        if isinstance(jobs, _Items):
            for value, mark in zip(jobs, jobs.marks, strict=True):
                yield Row(value, self._place(mark))

    def spot(self, row: Row, path: Path) -> Spot:
        """Line and column of a value of the row."""
        value, spot = row.values, row.spot
        for step in path:
            if isinstance(value, _Table) and step in value:
                spot = self._place(value.marks[list(value).index(str(step))])
            elif isinstance(value, _Items) and isinstance(step, int) and step < len(value):
                spot = self._place(value.marks[step])
            else:
                break
            value = value[step]
        return spot

    def _place(self, mark: Any) -> Spot:
        return self._spot(mark.index)  # a mark's own line counts what only YAML takes for the end of one

    def _document(self) -> tuple[Any, Any]:
        yaml = self._yaml
        self._next()
        event = self._next()
        if type(event) is yaml.StreamEndEvent:
            self._report.stop((1, 1), "there are no jobs in it")
        event = self._next()
        root = self._node(event, 0)
        self._next()
        after = self._next()
        if type(after) is not yaml.StreamEndEvent:
            self._report.stop(self._place(after.start_mark), "a second document begins here; a batch is one")
        return root, event.start_mark

    def _node(self, event: Any, depth: int) -> Any:
        yaml = self._yaml
        kind = type(event)
        before = self._values
        self._values += 1
        value: Any
        if kind is yaml.ScalarEvent:
            value = None if event.implicit[0] and event.value in _NULLS else event.value
            if event.tag not in _TAGS:
                self._refuse(event)
        elif kind is yaml.AliasEvent:
            return self._alias(event)
        else:
            if depth == NESTING_LIMIT:
                self._report.stop(self._place(event.start_mark), "is nested too deep to be a batch")
            if event.tag not in _TAGS:
                self._refuse(event)
            value = self._table(depth) if kind is yaml.MappingStartEvent else self._items(depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self._values - before
        return value

    def _refuse(self, event: Any) -> None:
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        self._report.add(self._place(event.start_mark), f"tags such as {shown(tag)} have no meaning in a batch")

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            message = f"no &{event.anchor} stands before *{event.anchor} (a text that begins with * needs quotes)"
            self._report.stop(self._place(event.start_mark), message)
        value, size = self._anchors[event.anchor]
        self._values += size
        self._aliased += size
        if self._aliased > ALIAS_LIMIT:
            self._report.stop(self._place(event.start_mark), f"aliases stand for more than {ALIAS_LIMIT:,} values")
        return value

    def _items(self, depth: int) -> _Items:
        items = _Items()
        items.marks = marks = []
        event = self._next()
        while type(event) is not self._yaml.SequenceEndEvent:
            items.append(self._node(event, depth + 1))
            marks.append(event.start_mark)
            event = self._next()
        return items

    def _table(self, depth: int) -> _Table:
        yaml = self._yaml
        table = _Table()
        table.marks = marks = []
        merged: list[tuple[Any, Any]] = []
        event = self._next()
        while type(event) is not yaml.MappingEndEvent:
            mark = event.start_mark
            merges = type(event) is yaml.ScalarEvent and event.value == "<<" and event.implicit[0]
            key = self._node(event, depth + 1)
            if key is None and type(event) is yaml.ScalarEvent:
                key = event.value
            event = self._next()
            value = self._node(event, depth + 1)
            if merges:
                merged.append((value, mark))
            elif not isinstance(key, str):
                self._report.add(self._place(mark), f"a key must be text, not {shown(key)}")
            elif key in table:
                self._report.add(self._place(mark), f"{shown(key)} stands here twice")
            else:
                table[key] = value
                marks.append(event.start_mark)
            event = self._next()
        for value, mark in merged:
            for source in value if isinstance(value, _Items) else [value]:
                if not isinstance(source, _Table):
                    self._report.add(self._place(mark), f"<< takes in a mapping or a list of them, not {shown(source)}")
                    continue
                for (key, one), at in zip(source.items(), source.marks, strict=True):
                    if key not in table:
                        table[key] = one
                        marks.append(at)
        return table


class Images:
    """A folder's images, by their paths, in place of a text: a row each."""

    def __init__(self, images: list[str]) -> None:
        self._images = images

    def envelope(self) -> None:
        """The document around the jobs, None for a mere list of them."""
        return

    def rows(self) -> Iterator[Row]:
        """The jobs as they are written, None for one that can't be read."""
        for number, path in enumerate(self._images, 1):
            yield Row({"image": path}, (number, 1), where=path)

    def spot(self, row: Row, path: Path) -> Spot:
        """Line and column of a value of the row."""
        return row.spot


SYNTAXES: dict[Kind, Callable[[str, Report], Syntax]] = {
    "yaml": Yaml,
    "json": Json,
    "jsonl": JsonLines,
    "csv": Csv,
}


def _blank(text: str, at: int) -> int:
    """Where the blanks that begin at `at` end."""
    match = _BLANK.match(text, at)
    return match.end() if match else at
