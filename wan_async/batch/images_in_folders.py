"""Finds images in folders: all of a folder's, or those that match a pattern. Blocking.

An image is recognised by its bytes, whatever its name. Links to folders are not followed, so that a search always ends.
Hidden files, and folders that a file server or an operating system made, are ignored. Everything else that is left out
is listed in one notice; what can't be read does not end the search.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wan_async.batch.input_file import NOT_A_FILE, open_file
from wan_async.domain.text import nearest, shown
from wan_async.filetypes import sniff_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".heic", ".heif", ".avif", ".bmp", ".tif", ".tiff")
"""A file with such a name is taken as an image unread: if it is none, that is a problem of the batch."""
CAPTION_SUFFIXES = (".txt", ".caption")
METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
JOURNAL_FOLDER = ".wan_async"
EXAMINED_ENTRIES = 20_000
"""Entries of subfolders to examine at most in order to say what `--recursive` would take."""

_SHOWN_NAMES = 3
_SYSTEM_NAMES = frozenset(
    {
        "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "__macosx", ".thumbnails",
        "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini",
        "@__thumb",
    }
)  # fmt: skip
_SEPARATOR = re.compile(r"[\\/]" if os.name == "nt" else "/")
_MAGIC = re.compile(r"[*?\[]")
_NO_IMAGE = "not an image"
_UNREADABLE = "can't be read"
_DANGLING = "a broken link"
_LINK = "a link to a folder, which is not followed"

_Entry = os.DirEntry[str] | Path


@dataclass
class Found:
    """What a search found.

    Attributes:
        images: the paths, in no order.
        deeper: images in subfolders that were not searched.
        folders: how many subfolders hold them.
    """

    images: list[str] = field(default_factory=list)
    deeper: int = 0
    folders: int = 0
    _left: dict[str, dict[str, None]] = field(default_factory=dict)

    def leave(self, path: str, reason: str) -> None:
        """Notes that a file or folder is left out."""
        self._left.setdefault(reason, {})[str(Path(path))] = None

    def notice(self, what: str) -> str | None:
        """One line on what was left out, None if nothing was.

        Args:
            what: where it was searched.
        """
        texts = self._captions()
        groups = []
        total = 0
        for reason, paths in self._left.items():
            left = [path for path in paths if path not in texts]
            total += len(left)
            if left:
                names = ", ".join(shown(path, whole=True) for path in sorted(left)[:_SHOWN_NAMES])
                more = f" and {len(left) - _SHOWN_NAMES} more" if len(left) > _SHOWN_NAMES else ""
                groups.append(f"{names}{more} ({reason})")
        return f"{what}: {total} left out: {'; '.join(groups)}" if groups else None

    def _captions(self) -> set[str]:
        """Files that belong to an image that was found."""
        bases = {image.casefold() for image in self.images}
        bases |= {os.path.splitext(image)[0] for image in bases}  # noqa: PTH122 - text in, text out
        found = set()
        for path in self._left.get(_NO_IMAGE, ()):
            base, suffix = os.path.splitext(path)  # noqa: PTH122 - likewise
            is_text = suffix.lower() in CAPTION_SUFFIXES and base.casefold() in bases
            if is_text or os.path.basename(path) in METADATA_NAMES:  # noqa: PTH119 - likewise
                found.add(path)
        return found


def hint_at_similar(path: Path, is_wanted: Callable[[Path], bool]) -> str:
    """A hint at what a missing path's folder has under a similar name: ` (did you mean ...?)`, or nothing."""
    try:
        names = [each.name for each in path.parent.iterdir() if is_wanted(each)]
    except (OSError, ValueError):
        return ""
    near = nearest(path.name, names)
    return f" (did you mean {shown(str(path.with_name(near)), whole=True)}?)" if near is not None else ""


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def images_in(folder: Path, *, recursive: bool) -> Found:
    """The images of a folder.

    Args:
        folder: where to look.
        recursive: also in its subfolders, except output folders of runs.

    Raises:
        OSError: the folder itself can't be listed.
    """
    found = Found()
    with os.scandir(folder) as entries:
        waiting = _take_images(found, entries)
    if not recursive:
        _count_deeper(found, waiting)
        return found
    while waiting:
        path = waiting.pop()
        if not Path(path, JOURNAL_FOLDER).is_dir():
            waiting += _take_images(found, _listed(found, path))
    return found


def images_like(root: Path, pattern: str, *, ignore_case: bool = False) -> Found:
    """The images that match a pattern: `*`, `?` and `[...]` within a name, and `**` for any folders.

    Args:
        root: where a relative pattern begins.
        pattern: as a person wrote it. Folders that it names are entered even if they are links.
        ignore_case: whether names match in any case; folders that the pattern names, too.
    """
    found = Found()
    drive, rest = os.path.splitdrive(pattern)
    steps = [step for step in _SEPARATOR.split(rest) if step not in ("", ".")]
    waiting = [(f"{drive}{os.sep}" if _SEPARATOR.match(rest) else str(root), 0)]
    seen: set[tuple[str, int]] = set()

    def take(path: str, entry: _Entry) -> None:
        if _kind_of(found, path, entry) == "file":
            _take_if_image(found, path)

    while waiting:
        folder, at = waiting.pop()
        if (folder, at) in seen or at == len(steps):
            continue
        seen.add((folder, at))
        step, last = steps[at], at == len(steps) - 1
        if step == "**" or _MAGIC.search(step) or (ignore_case and step != ".."):
            matches = _matcher(step, str.casefold if ignore_case else os.path.normcase)
            if step == "**" and not last:
                waiting.append((folder, at + 1))
            for entry in _listed(found, folder):
                if not matches(entry.name):
                    continue
                path = os.path.join(folder, entry.name)  # noqa: PTH118 - quicker
                if last and not _is_folder(entry):
                    take(path, entry)
                elif (step == "**" or not last) and _may_enter(found, path, entry):
                    waiting.append((path, at if step == "**" else at + 1))
            continue
        path = os.path.join(folder, step)  # noqa: PTH118 - likewise
        if not last:
            if os.path.isdir(path):  # noqa: PTH112 - likewise
                waiting.append((path, at + 1))
        elif os.path.lexists(path):
            take(path, Path(path))
    return found


def _matcher(step: str, folded: Callable[[str], str]) -> Callable[[str], bool]:
    if step == "**":
        return lambda name: not name.startswith(".") and name.casefold() not in _SYSTEM_NAMES
    matches = re.compile(fnmatch.translate(folded(step))).match
    dotted = step.startswith(".")

    def match(name: str) -> bool:
        if name.startswith(".") != dotted or name.casefold() in _SYSTEM_NAMES:
            return False
        return matches(folded(name)) is not None

    return match


def _listed(found: Found, folder: str) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder; none, and a notice, if it can't be listed."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError):
        found.leave(folder, _UNREADABLE)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() and not entry.is_symlink()
    except OSError:
        return False


def _may_enter(found: Found, path: str, entry: os.DirEntry[str]) -> bool:
    """Whether this is a folder; a notice if it is one that is not entered."""
    try:
        return entry.is_dir() and _kind_of(found, path, entry) == "folder"
    except OSError:
        found.leave(path, _UNREADABLE)
        return False


def _kind_of(found: Found, path: str, entry: _Entry) -> str | None:
    """`folder` or `file`; None, and a notice, for what is neither or is not followed."""
    try:
        link = entry.is_symlink()
        if entry.is_dir():
            if not link:
                return "folder"
            found.leave(path, _LINK)
        elif entry.is_file():
            return "file"
        else:
            found.leave(path, _DANGLING if link and not os.path.exists(path) else NOT_A_FILE)  # noqa: PTH110 - no errors
    except OSError:
        found.leave(path, _UNREADABLE)
    return None


def _take_if_image(found: Found, path: str) -> None:
    """Takes a file if it is an image, else notes that it is left out."""
    try:
        if is_image_name(path):
            readable, image = os.access(path, os.R_OK), True
        elif path.lower().endswith(CAPTION_SUFFIXES):
            readable, image = True, False
        else:
            with open_file(path, buffering=0) as file:
                readable, image = True, sniff_image(file.read(32)) is not None
    except (OSError, ValueError):
        readable = image = False
    if readable and image:
        found.images.append(str(Path(path)))
    else:
        found.leave(path, _NO_IMAGE if readable else _UNREADABLE)


def _take_images(found: Found, entries: Iterator[os.DirEntry[str]]) -> list[str]:
    """Takes the images among the entries of a folder; returns its subfolders."""
    folders = []
    for entry in entries:
        if entry.name.startswith(".") or entry.name.casefold() in _SYSTEM_NAMES:
            continue
        kind = _kind_of(found, entry.path, entry)
        if kind == "folder":
            folders.append(entry.path)
        elif kind == "file":
            _take_if_image(found, entry.path)
    return folders


def _count_deeper(found: Found, waiting: list[str]) -> None:
    """Counts the images in subfolders, by their names alone, up to a limit of entries."""
    examined = 0
    ignored = Found()
    while waiting and examined < EXAMINED_ENTRIES:
        path = waiting.pop()
        if Path(path, JOURNAL_FOLDER).is_dir():
            continue
        images = 0
        for entry in _listed(ignored, path):
            examined += 1
            if entry.name.startswith(".") or entry.name.casefold() in _SYSTEM_NAMES:
                continue
            if _is_folder(entry):
                waiting.append(entry.path)
            elif is_image_name(entry.name):
                images += 1
        found.deeper += images
        found.folders += images > 0
