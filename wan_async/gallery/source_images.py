"""Source images of jobs, as the page refers to them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wan_async.domain.model import WAN
from wan_async.domain.validation import is_url
from wan_async.journal.image_paths import image_path


@dataclass(frozen=True, slots=True)
class Source:
    """A job's image.

    Attributes:
        name: its name without folders; of a URL, without user, password and query (which may be signed).
        href: the local image relative to the page; empty if there is none.
        path: what a batch file in the page's folder calls it; empty if that would not find it.
    """

    name: str
    href: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Sources:
    """Finds the images of jobs.

    Args:
        folder: the folder of the page; None if local images can't be seen from where it will be.
        copies: copies of local images beside the page: paths relative to it, by the images' own paths. Other images
            are found where they are, if they exist.
        is_often_refused: whether a local image is of a kind that `--prepare` converts, since renderers may not read it.
    """

    folder: Path | None
    copies: Mapping[str, str] = field(default_factory=dict)
    is_often_refused: Callable[[str], bool] = lambda _: False

    def needs_prepare(self, image: str) -> bool:
        """Whether the render of an image (a path or a URL) that failed is tried again with `--prepare`."""
        return bool(image) and self.folder is not None and not is_url(image) and self.is_often_refused(image)

    def image_of(self, job: Mapping[str, Any]) -> str:
        """The path or URL of a job's image, as the journal describes the job; empty if it has none."""
        recorded = job.get("image_file")
        if recorded and self.folder is not None:
            return image_path(self.folder, str(recorded))
        return str(job.get(WAN.image_name) or "")

    def find(self, image: str) -> Source:
        """What the page shows of an image: a path or a URL."""
        if is_url(image):
            host_and_path = re.split(r"[?#]", image, maxsplit=1)[0].partition("://")[2]
            is_public = "@" not in host_and_path and not re.search(r"[?#]", image)
            return Source(_last(host_and_path.partition("/")[2]), path=image if is_public else "")
        if copy := self.copies.get(image):
            return Source(_last(image), href_of(copy), copy)
        try:
            if self.folder is None or not os.path.isfile(image):  # noqa: PTH113 - unlike pathlib's, it never raises, whatever the name is
                return Source(_last(image))
            near = Path(os.path.relpath(image, self.folder.resolve())).as_posix()
        except ValueError:  # on Windows, it is on another drive
            return Source(_last(image), Path(image).as_uri(), image)
        except OSError:
            return Source(_last(image))
        return Source(_last(image), href_of(near), near)


def href_of(path: str) -> str:
    """The URL of a file in the page's folder: a relative path whatever its name is, never a host or a scheme."""
    return f"./{quote(path)}"


def _last(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]
