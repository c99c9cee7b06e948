"""Batches in YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from wan_async.batch.syntax import NESTING_LIMIT, TOO_DEEP, Path, Report, Row, Spot, TextFormat, not_a_batch
from wan_async.domain.text import shown

ALIAS_LIMIT = 10_000_000
"""Values that the aliases of a document may stand for: enough for the defaults of a million jobs, not for a bomb."""

_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_PLAIN_TAGS = {_NULL, _MERGE} | {
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "timestamp", "value", "map", "seq")
}
_ALIAS = re.compile(r"(?:[\s,:?\[-]|#[^\r\n]*)*(\*[^\s,\[\]{}]*)")
_ALIAS_NAME = re.compile(r"\*[^\s,\[\]{}]*")


class Yaml(TextFormat):
    """YAML, from the parser's nodes: each scalar is the text that was written, whatever type YAML 1.1 sees in it."""

    def __init__(self, text: str, report: Report) -> None:
        super().__init__(text, report)
        self._built: dict[int, tuple[Any, int]] = {}  # value and size by a node's id: an alias is its anchor's node
        # By a container's id: where the key of each of its values begins, and where the value does.
        self._offsets: dict[int, dict[Any, tuple[int, int]]] = {}
        self._values = self._aliased = 0
        node = self._composed()
        self._start = node.start_mark.index
        self._root = self._value(node, 0)

    def envelope(self) -> Row | None:
        if isinstance(self._root, list):
            return None
        if not isinstance(self._root, dict):
            self._report.stop(self._spot(self._start), not_a_batch(self._root))
        return Row(self._root, self._spot(self._start))

    def rows(self) -> Iterator[Row]:
        jobs = self._root.get("jobs") if isinstance(self._root, dict) else self._root
        if isinstance(jobs, list):
            for value, (_, offset) in zip(jobs, self._offsets[id(jobs)].values(), strict=True):
                yield Row(value, self._spot(offset))

    def spot(self, row: Row, path: Path) -> Spot:
        found = self._find(row, path)
        return self._spot(found[1]) if found else row.spot

    def key_spot(self, row: Row, path: Path) -> Spot:
        found = self._find(row, path)
        return self._spot(found[0]) if found else row.spot

    def _find(self, row: Row, path: Path) -> tuple[int, int] | None:
        """Where the key and the value at a path begin, or the nearest around it; None if that is the row itself."""
        value, found = row.values, None
        for step in path:
            offsets = self._offsets.get(id(value), {})
            if step not in offsets:
                break
            value, found = value[step], offsets[step]
        return found

    def _place(self, node: Any) -> Spot:
        return self._spot(node.start_mark.index)  # a mark's own line counts line ends that only YAML knows

    def _composed(self) -> Any:
        import yaml  # not needed for the other formats, and slow to import

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            composer = loader(self._text)
            try:
                root = composer.get_single_node()
            finally:
                composer.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._report.stop(
                self._spot(mark.index) if mark else (1, 1), self._message(error, mark.index if mark else 0)
            )
        except (yaml.reader.ReaderError, UnicodeEncodeError):
            match = yaml.reader.Reader.NON_PRINTABLE.search(self._text)
            at = match.start() if match else 0
            self._report.stop(self._spot(at), f"not YAML: it holds the character {self._text[at : at + 1]!a}")
        except RecursionError:
            self._report.stop((1, 1), TOO_DEEP)
        if root is None:
            self._report.stop((1, 1), "there are no jobs in it")
        return root

    def _message(self, error: Any, at: int) -> str:
        problem = str(error.problem)
        if problem.startswith("found undefined alias") and (match := _ALIAS_NAME.match(self._text, at)):
            return f"no &{match[0][1:]} is defined before {match[0]} (a text that begins with * needs quotes)"
        if problem == "second occurrence":
            return "this anchor's name is used already; give it another one"
        if problem == "but found another document":
            return "a second document begins here; a batch is one document"
        if "nesting" in problem:
            return TOO_DEEP
        hint = "texts that hold ': ' or ' #', or that begin with one of [ { * & ! | > % @ `, need quotes"
        if "tab " in problem or self._text[at : at + 1] == "\t":
            hint = "there is a tab here; indent with spaces"
        elif "escape" in problem or "hex" in problem:
            hint = "in double quotes a backslash begins an escape; use single quotes, or / in paths"
        return f"not YAML: {problem} ({hint})"

    def _value(self, node: Any, depth: int) -> Any:
        """The plain value of a node: text, None, a list or a dict; what several aliases share is shared in it."""
        self._values += 1
        if node.tag not in _PLAIN_TAGS and node.tag != "!":
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            self._report.add(self._place(node), f"tags such as {shown(tag)} have no meaning in a batch")
        if node.id == "scalar":
            return None if node.tag == _NULL else node.value
        if id(node) in self._built:
            value, size = self._built[id(node)]
            self._values += size - 1
            self._aliased += size
            if self._aliased > ALIAS_LIMIT:
                self._report.stop(self._place(node), f"aliases stand for more than {ALIAS_LIMIT:,} values")
            return value
        if depth == NESTING_LIMIT:  # also what ends an alias within its own anchor
            self._report.stop(self._place(node), TOO_DEEP)
        before = self._values - 1
        if node.id == "sequence":
            value = [self._value(item, depth + 1) for item in node.value]
            offsets = self._offsets[id(value)] = {}
            end = node.start_mark.index
            for index, item in enumerate(node.value):
                at, end = self._written_at(item, end)
                offsets[index] = at, at
        else:
            value = self._mapping(node, depth + 1)
        self._built[id(node)] = value, self._values - before
        return value

    def _written_at(self, node: Any, after: int) -> tuple[int, int]:
        """Where a value begins and ends that is written after an offset: of an alias, not where its anchor is."""
        if node.start_mark.index >= after:
            return node.start_mark.index, node.end_mark.index
        alias = _ALIAS.match(self._text, after)
        return (alias.start(1), alias.end()) if alias else (after, after)

    def _mapping(self, node: Any, depth: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        offsets = self._offsets[id(value)] = {}
        merges = []
        for key_node, item_node in node.value:
            key, item = self._value(key_node, depth), self._value(item_node, depth)
            if key_node.tag == _MERGE:
                merges += [(key_node, source) for source in (item if isinstance(item, list) else [item])]
            elif key_node.id != "scalar":
                self._report.add(self._place(key_node), f"a key must be text, not {shown(key)}")
            elif key_node.value in value:
                self._report.add(self._place(key_node), f"{shown(key_node.value)} is given twice")
            else:
                value[key_node.value] = item
                offsets[key_node.value] = (
                    key_node.start_mark.index,
                    self._written_at(item_node, key_node.end_mark.index)[0],
                )
        for key_node, source in merges:
            if isinstance(source, dict):
                for key in [key for key in source if key not in value]:
                    value[key], offsets[key] = source[key], self._offsets[id(source)][key]
            else:
                message = f"<< takes in a mapping or a list of them, not {shown(source)}"
                self._report.add(self._place(key_node), message)
        return value
