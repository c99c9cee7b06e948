"""Which format a batch is in, by its text: for standard input, which has no name."""

from __future__ import annotations

import json
import re

from wan_async.batch.field_names import FieldNames
from wan_async.batch.schema import ENVELOPE
from wan_async.batch.syntax import Kind
from wan_async.domain.model import Model

_LINE = re.compile(r"[^\r\n]*")
_KEY = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s:#,;"'{\[-][^:#\t]*):(?:\s|$)""")
_YAML_START = re.compile(r"(?:-(?:\s|$)|---|%YAML|#)")
_SEPARATORS = re.compile(r"[,;\t]")


class NoFormat(ValueError):
    """A text is in none of the formats, or may be in several; the message says which."""


def kind_of(text: str, model: Model) -> Kind:
    """The format of a batch.

    JSON begins with a bracket: a line that is an object of its own is JSON Lines, unless it is the only one and holds a
    list of jobs. A first line that is a list of names of fields is the header of CSV. All else is YAML if it begins as
    YAML does.

    Args:
        text: the batch.
        model: whose fields name the columns of CSV.

    Raises:
        NoFormat: it can't be told.
    """
    start = text.lstrip(" \t\r\n\ufeff")
    first = _LINE.match(start)
    line = first[0].rstrip() if first else ""
    rest = start[len(line) :].strip()
    if line.startswith("{"):
        return _kind_of_object(line, rest, start)
    if line.startswith("["):
        return "json" if _is_json(start) or not _is_flow(start) else "yaml"
    if line.casefold().lstrip('"').startswith("sep="):
        return "csv"
    names = FieldNames(model)
    cells = [cell.strip().strip('"').strip() for cell in _SEPARATORS.split(line)]
    known = sum(names.name_of(cell) not in (None, "matrix") for cell in cells)
    is_table = known > 0 and 2 * known >= len([cell for cell in cells if cell])
    is_yaml = bool(_YAML_START.match(line) or _KEY.match(line))
    if is_table and is_yaml:
        raise NoFormat("this may be CSV as well as YAML")
    if is_table:
        return "csv"
    if is_yaml:
        return "yaml"
    columns = f"a row of names such as {model.prompt.name},{model.image_name or 'seed'}"
    raise NoFormat(
        f"this is none of the formats of a batch: JSON begins with {{ or [, YAML with '- ', '{ENVELOPE[-1]}:' or the "
        f"name of a field, CSV with {columns}"
    )


def _kind_of_object(line: str, rest: str, text: str) -> Kind:
    found = _json_of(line)
    if isinstance(found, dict):
        return "jsonl" if rest or not found.keys() & {"jobs"} else "json"
    if rest.startswith(("{", "\n{")) and line.endswith("}") and '"' in line:
        return "jsonl"  # a line with a mistake, which is reported at its place
    return "yaml" if _is_flow(text) and not _is_json(text) and '"' not in line else "json"


def _json_of(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_json(text: str) -> bool:
    return _json_of(text) is not None


def _is_flow(text: str) -> bool:
    """Whether keys stand without quotes, as YAML allows within brackets."""
    return re.match(r"[\s\[{]*[A-Za-z_]+\s*:\s", text) is not None
