"""Batches in YAML."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from wan_async.batch.syntax import NESTING_LIMIT, Path, Report, Row, Spot, TextFormat, not_a_batch
from wan_async.domain.text import shown

ALIAS_LIMIT = 10_000_000
"""How many values the aliases of a YAML document may stand for: defaults for each of a million jobs, but no bomb."""

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:int"})


class _Table(dict[str, Any]):
    """A mapping of YAML, with the places of its values in their order."""

    __slots__ = ("marks",)
    marks: list[Any]


class _Items(list[Any]):
    """A list of YAML, with the places of its items."""

    __slots__ = ("marks",)
    marks: list[Any]


class Yaml(TextFormat):
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
