"""The texts that belong to images: a file beside each (`a.txt`, `a.png.txt`, `a.caption`), or a folder's list of them.

Blocking. A folder is listed once, however many of its images are asked about.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from wan_async.batch.encoding import Undecodable, decoded
from wan_async.batch.folders import CAPTION_SUFFIXES, METADATA_NAMES, open_file
from wan_async.batch.format_csv import NotCsv, read_rows
from wan_async.domain.text import shown
from wan_async.errors import InvalidBatch, Problem

LIMIT_BYTES = 64 * 1024
"""A text larger than this is no caption."""
METADATA_LIMIT_BYTES = 64 * 1024 * 1024
"""A list larger than this is no list of captions."""
TEXT_KEYS = ("text", "prompt", "caption")
"""What data sets call the text in `metadata.jsonl` and `metadata.csv`; the first that is there counts."""
NAME_KEY = "file_name"

_IGNORES_CASE = sys.platform in ("win32", "darwin")


class Captions:
    """The captions of images that lie in or below a folder.

    Args:
        root: the topmost folder in which a list of captions counts.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._texts: dict[str, dict[tuple[str, str], str]] = {}
        self._lists: dict[str, dict[str, str] | InvalidBatch] = {}
        self._rivals = 0
        self._rival = ""

    def of(self, image: str) -> str | None:
        """The stripped text of an image: of `a.png.txt`, else of `a.txt`, else in the list of a folder around it.

        Args:
            image: its path.

        Returns:
            The text, empty if the file is; None if there is none.

        Raises:
            ValueError: the text is too large, unreadable or in no encoding of Unicode.
            InvalidBatch: a list can't be read, with all that is wrong in it.
        """
        files = self._files_of(image)
        found: str | None = None
        for path in files:
            text = _read(path)
            if text:
                if len(files) > 1:
                    self._note(files, path)
                return text
            found = text
        listed = self._listed(image)
        return found if listed is None else listed

    def why_none(self, image: str) -> str:
        """Why `of` has no text for an image."""
        for path in self._files_of(image):
            return f"{shown(path, whole=True)} is empty"
        return f"{shown(image, whole=True)} has no caption beside it"

    def notices(self) -> list[str]:
        """What was passed over."""
        if not self._rivals:
            return []
        more = f", and so for {self._rivals - 1} more" if self._rivals > 1 else ""
        return [f"{self._rival}{more}"]

    def _note(self, files: list[str], taken: str) -> None:
        if not self._rivals:
            others = ", ".join(shown(path, whole=True) for path in files if path != taken)
            self._rival = f"{shown(taken, whole=True)} is taken for a caption, not {others}"
        self._rivals += 1

    def _files_of(self, image: str) -> list[str]:
        folder, name = os.path.split(image)
        if folder not in self._texts:
            self._texts[folder] = dict(_texts_in(folder))
        texts = self._texts[folder]
        stem = os.path.splitext(name)[0]  # noqa: PTH122 - text in, text out
        bases = (name, stem) if stem != name else (name,)
        found = [texts.get((_folded(base), suffix)) for base in bases for suffix in CAPTION_SUFFIXES]
        return [os.path.join(folder, file) for file in found if file is not None]  # noqa: PTH118 - likewise

    def _listed(self, image: str) -> str | None:
        path = Path(image)
        for folder in path.parents:
            texts = self._list_of(str(folder))
            text = texts.get(path.relative_to(folder).as_posix()) if texts else None
            if text is not None:
                return text
            if folder == self._root or not folder.is_relative_to(self._root):
                break
        return None

    def _list_of(self, folder: str) -> dict[str, str]:
        if folder not in self._lists:
            try:
                self._lists[folder] = _read_lists(folder)
            except InvalidBatch as error:
                self._lists[folder] = error
        found = self._lists[folder]
        if isinstance(found, InvalidBatch):
            raise found
        return found


def _folded(name: str) -> str:
    return name.casefold() if _IGNORES_CASE else name


def _texts_in(folder: str) -> Iterator[tuple[tuple[str, str], str]]:
    """What may be captions in a folder: (name without suffix, suffix) and name; of `a.TXT` and `a.txt` the latter."""
    try:
        names = sorted(os.listdir(folder or "."))  # noqa: PTH208 - names are all that is needed
    except (OSError, ValueError):
        return  # the images in it can't be read either, which is told
    for name in names:
        base, suffix = os.path.splitext(name)  # noqa: PTH122 - text in, text out
        if base and suffix.lower() in CAPTION_SUFFIXES:
            yield (_folded(base), suffix.lower()), name


def _read(path: str) -> str:
    said = f"its caption {shown(path, whole=True)}"
    try:
        with open_file(path) as file:
            data = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{said} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{said} can't be read: {error}") from None
    if len(data) > LIMIT_BYTES:
        raise ValueError(f"{said} is larger than {LIMIT_BYTES >> 10} KiB")
    try:
        return decoded(data).strip()
    except Undecodable as error:
        raise ValueError(f"{said}: line {error.line}: {error}") from None


def _read_lists(folder: str) -> dict[str, str]:
    found: dict[str, str] = {}
    problems: list[Problem] = []
    for name in METADATA_NAMES:
        path = os.path.join(folder, name)  # noqa: PTH118 - likewise
        if os.path.isfile(path):  # noqa: PTH113 - likewise
            _read_list(path, found, problems)
    if problems:
        raise InvalidBatch(problems)
    return found


def _read_list(path: str, found: dict[str, str], problems: list[Problem]) -> None:
    try:
        with open_file(path) as file:
            data = file.read(METADATA_LIMIT_BYTES + 1)
        if len(data) > METADATA_LIMIT_BYTES:
            raise ValueError(f"is larger than {METADATA_LIMIT_BYTES >> 20} MiB")
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
            problems.append(Problem(f"{path}:{line}", f"{NAME_KEY} and {' or '.join(TEXT_KEYS)} must be texts"))
        elif caption := text.strip():
            key = name.replace("\\", "/").removeprefix("./")
            if found.setdefault(key, caption) != caption:
                problems.append(Problem(f"{path}:{line}", f"{shown(name)} has another text already"))


def _rows_of_jsonl(text: str, path: str, problems: list[Problem]) -> Iterator[tuple[int, dict[str, object]]]:
    """The lines; none if the file turns out to serve another purpose."""
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
        if first and not (isinstance(row, dict) and _serves(row)):
            return
        first = False
        yield line, row if isinstance(row, dict) else {}


def _rows_of_csv(text: str, path: str, problems: list[Problem]) -> Iterator[tuple[int, dict[str, object]]]:
    """The rows; none if the file turns out to serve another purpose."""
    names: list[str] = []
    try:
        for line, cells in read_rows(text):
            if not names:
                names = cells
                if not _serves(names):
                    return
            elif len(cells) != len(names):
                fault = f"the header has {len(names)} columns, this row has {len(cells)} cells"
                problems.append(Problem(f"{path}:{line}", f"{fault}: put texts that hold commas in double quotes"))
            else:
                yield line, dict(zip(names, cells, strict=True))
    except NotCsv as error:
        problems.append(Problem(f"{path}:{error.line}", str(error)))


def _serves(names: Iterable[str]) -> bool:
    names = set(names)
    return NAME_KEY in names and not names.isdisjoint(TEXT_KEYS)
