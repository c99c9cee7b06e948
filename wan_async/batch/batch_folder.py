"""The folder of a batch on disk: its images, captions and paths. Blocking."""

from __future__ import annotations

import os
import re
from pathlib import Path

from wan_async.batch import images_in_folders
from wan_async.batch.base import Folder
from wan_async.batch.captions import Captions
from wan_async.batch.images import MOST_HINTS, check_image, hint_at_similar_image
from wan_async.domain.text import shown

_HOME = re.compile(r"~[\\/]" if os.name == "nt" else "~/")
_DIGITS = re.compile(r"(\d+)")


class BatchFolder(Folder):
    """A `Folder` on disk.

    Args:
        root: where relative paths begin.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._captions = Captions(root)
        self._notices: dict[str, None] = {}
        self._hints = 0

    def glob(self, pattern: str) -> list[str]:
        found = self._like(pattern, ignore_case=False)
        self.note(found.notice(shown(pattern, whole=True)))
        return sorted(found.images, key=natural)

    def in_another_case(self, pattern: str) -> str | None:
        images = sorted(self._like(pattern, ignore_case=True).images, key=natural)
        if not images:
            return None
        suffixes = {os.path.splitext(image)[1] for image in images}  # noqa: PTH122 - of many
        other = os.path.splitext(pattern)[0] + suffixes.pop()  # noqa: PTH122 - a pattern
        if not suffixes and len(self._like(other, ignore_case=False).images) == len(images):
            return f"{len(images)} match{'es' * (len(images) == 1)} {shown(other, whole=True)}: case counts"
        which = "1 does" if len(images) == 1 else f"{len(images)} do"
        return f"{which} in another case, such as {shown(images[0], whole=True)}"

    def _like(self, pattern: str, *, ignore_case: bool) -> images_in_folders.Found:
        root, rest = self._root, pattern
        if home := _HOME.match(pattern):  # the name of the home folder is not a pattern
            root, rest = Path(expand_home(home[0])), pattern[home.end() :]
        return images_in_folders.images_like(root, rest, ignore_case=ignore_case)

    def caption(self, image: str) -> str | None:
        return self._captions.of(image)

    def no_caption(self, image: str) -> str:
        return self._captions.why_none(image)

    def resolve(self, path: str) -> str:
        return str(self._root / expand_home(path))

    def exists(self, path: str) -> bool:
        return os.path.exists(path)  # noqa: PTH110 - no error, whatever the text

    def note(self, notice: str | None) -> None:
        """Adds a notice for the author of the batch, if there is one."""
        if notice is not None:
            self._notices[notice] = None

    def notices(self) -> list[str]:
        return [*self._notices, *self._captions.notices()]

    def fault(self, image: str) -> str | None:
        found = check_image(image)
        if found is None or self._hints == MOST_HINTS or self.exists(image):
            return found
        self._hints += 1
        return found + hint_at_similar_image(image)


def expand_home(path: str) -> str:
    """Replaces `~/` at the start of a path by the home folder; `~` in any other place is part of a name."""
    return os.path.expanduser(path) if _HOME.match(path) else path  # noqa: PTH111 - no error without a home


def natural(path: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key that puts `cat-2` before `cat-10` and ignores case."""
    parts = filter(None, _DIGITS.split(path.casefold()))
    steps = [(0, int(step), "") if step.isdecimal() else (1, 0, step) for step in parts]
    return steps, path
