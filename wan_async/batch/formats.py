"""The formats of a batch, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from wan_async.batch.format_csv import Csv
from wan_async.batch.format_json import Json, JsonLines
from wan_async.batch.format_yaml import Yaml
from wan_async.batch.syntax import Kind, Report, Syntax

SYNTAXES: dict[Kind, Callable[[str, Report], Syntax]] = {
    "yaml": Yaml,
    "json": Json,
    "jsonl": JsonLines,
    "csv": Csv,
    "tsv": partial(Csv, separator="\t"),
}
