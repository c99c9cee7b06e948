"""The captions of images: a file beside each (`a.txt`, `a.png.txt`, `a.caption`), or a folder's list of them.

Blocking. A folder is listed once, however many of its images are asked about.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from wan_async.batch.caption_lists import read_lists
from wan_async.batch.encoding import Undecodable, decoded
from wan_async.batch.images_in_folders import CAPTION_SUFFIXES
from wan_async.batch.input_file import open_file
from wan_async.domain.text import shown
from wan_async.errors import InvalidBatch

LIMIT_BYTES = 64 * 1024
"""The size of a caption at most."""

_IGNORES_CASE = sys.platform in ("win32", "darwin")


class Captions:
    """The captions of images in or below a folder.

    Args:
        root: the topmost folder in which a list of captions counts.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._texts: dict[str, dict[tuple[str, str], str]] = {}
        self._lists: dict[str, dict[str, str] | InvalidBatch] = {}
        self._several = 0
        self._example = ""

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
        """Which captions were ignored because an image has several."""
        if not self._several:
            return []
        more = f", and so for {self._several - 1} more" if self._several > 1 else ""
        return [f"{self._example}{more}"]

    def _note(self, files: list[str], taken: str) -> None:
        if not self._several:
            others = ", ".join(shown(path, whole=True) for path in files if path != taken)
            self._example = f"{shown(taken, whole=True)} is used as the caption, not {others}"
        self._several += 1

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
        is_inside = path.is_relative_to(self._root)  # once: since Python 3.12 it makes a path of each folder
        for folder in path.parents:
            texts = self._list_of(str(folder))
            text = texts.get(path.relative_to(folder).as_posix()) if texts else None
            if text is not None:
                return text
            if folder == self._root or not is_inside:
                break
        return None

    def _list_of(self, folder: str) -> dict[str, str]:
        if folder not in self._lists:
            try:
                self._lists[folder] = read_lists(folder)
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
        return  # the images in it can't be read either, which is reported
    for name in names:
        base, suffix = os.path.splitext(name)  # noqa: PTH122 - text in, text out
        if base and suffix.lower() in CAPTION_SUFFIXES:
            yield (_folded(base), suffix.lower()), name


def _read(path: str) -> str:
    what = f"its caption {shown(path, whole=True)}"
    try:
        with open_file(path) as file:
            data = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{what} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{what} can't be read: {error}") from None
    if len(data) > LIMIT_BYTES:
        raise ValueError(f"{what} is larger than {LIMIT_BYTES >> 10} KiB")
    try:
        return decoded(data).strip()
    except Undecodable as error:
        raise ValueError(f"{what}: line {error.line}: {error}") from None
