"""Lists of captions: `metadata.jsonl` or `metadata.csv` in a folder of images, as data sets have them. Blocking."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator

from wan_async.batch.encoding import Undecodable, decoded
from wan_async.batch.format_csv import NotCsv, read_rows
from wan_async.batch.images_in_folders import METADATA_NAMES
from wan_async.batch.input_file import open_file
from wan_async.domain.text import shown
from wan_async.errors import InvalidBatch, Problem

LIST_LIMIT_BYTES = 64 * 1024 * 1024
"""The size of a list at most."""
TEXT_KEYS = ("text", "prompt", "caption")
"""What data sets call the text; the first that is there counts."""
NAME_KEY = "file_name"


def read_lists(folder: str) -> dict[str, str]:
    """The captions that a folder lists, by the path of the image from that folder.

    Raises:
        InvalidBatch: with all problems in the lists.
    """
    found: dict[str, tuple[str, str]] = {}
    problems: list[Problem] = []
    for name in METADATA_NAMES:
        path = os.path.join(folder, name)  # noqa: PTH118 - text in, text out
        if os.path.isfile(path):  # noqa: PTH113 - likewise
            _read_list(path, found, problems)
    if problems:
        raise InvalidBatch(problems)
    return {name: caption for name, (caption, _) in found.items()}


def _read_list(path: str, found: dict[str, tuple[str, str]], problems: list[Problem]) -> None:
    """Adds the captions of a list, each with its place."""
    try:
        with open_file(path) as file:
            data = file.read(LIST_LIMIT_BYTES + 1)
        if len(data) > LIST_LIMIT_BYTES:
            raise ValueError(f"is larger than {LIST_LIMIT_BYTES >> 20} MiB")
        content = decoded(data)
    except Undecodable as error:
        problems.append(Problem(f"{path}:{error.line}:{error.column}", str(error)))
        return
    except OSError as error:
        problems.append(Problem(path, f"can't be read: {error.strerror}"))
        return
    except ValueError as error:
        problems.append(Problem(path, str(error)))
        return
    read = _rows_of_csv if path.endswith(".csv") else _rows_of_jsonl
    for line, row in read(content, path, problems):
        name = row.get(NAME_KEY)
        text: object = next((row[key] for key in TEXT_KEYS if row.get(key) not in (None, "")), "")
        if not isinstance(name, str) or not isinstance(text, str):
            problems.append(Problem(f"{path}:{line}", f"{NAME_KEY} and {' or '.join(TEXT_KEYS)} must be text"))
        elif caption := text.strip():
            key = name.replace("\\", "/").removeprefix("./")
            first, place = found.setdefault(key, (caption, f"{path}:{line}"))
            if first != caption:
                fault = f"{shown(name)} has another text at {place}, and an image of a folder has one text: keep one of"
                way = f"the two, or run {shown(path, whole=True)} itself, a batch with a job for each row"
                problems.append(Problem(f"{path}:{line}", f"{fault} {way}"))


def _rows_of_jsonl(text: str, path: str, problems: list[Problem]) -> Iterator[tuple[int, dict[str, object]]]:
    """The lines; none if it is not a list of captions."""
    first = True
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            problems.append(Problem(f"{path}:{line}:{error.pos + 1}", f"not JSON: {error.msg}"))
            continue
        except (ValueError, RecursionError):
            problems.append(Problem(f"{path}:{line}", "not JSON that can be read"))
            continue
        if first and not (isinstance(row, dict) and _is_caption_list(row)):
            return
        first = False
        yield line, row if isinstance(row, dict) else {}


def _rows_of_csv(text: str, path: str, problems: list[Problem]) -> Iterator[tuple[int, dict[str, object]]]:
    """The rows; none if it is not a list of captions."""
    names: list[str] = []
    try:
        for line, cells in read_rows(text):
            if not names:
                names = cells
                if not _is_caption_list(names):
                    return
            elif len(cells) != len(names):
                fault = f"the header has {len(names)} columns, this row has {len(cells)} cells"
                problems.append(Problem(f"{path}:{line}", f"{fault}: put texts that hold commas in double quotes"))
            else:
                yield line, dict(zip(names, cells, strict=True))
    except NotCsv as error:
        problems.append(Problem(f"{path}:{error.line}", str(error)))


def _is_caption_list(names: Iterable[str]) -> bool:
    names = set(names)
    return NAME_KEY in names and not names.isdisjoint(TEXT_KEYS)
