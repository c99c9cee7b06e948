"""Where the local images of jobs are, as the journal and sidecars record it: relative to the output folder.

A path in a batch is relative to the folder in which the command was typed, which later commands don't know. What is
relative to the output folder stays right also if a project is moved as a whole.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from wan_async.domain.job import AnyJob, local_image_of
from wan_async.output_locations import Location

COPY: re.Pattern[str] = re.compile(r"([0-9a-f]{64})-upright\.(?:jpg|png)")
"""The name of a converted copy; it has the hash of its original."""


class ImagePaths:
    """Paths as they are recorded. Those of one folder are computed once: a batch may have a hundred thousand.

    Args:
        output: the output folder; from the URL of an object store, paths are absolute.
        public: for files beside the clips, which others may read in an object store: there the name alone is recorded.
    """

    def __init__(self, output: Location, *, public: bool = False) -> None:
        self._is_name_alone = public and not isinstance(output, Path)
        # `resolve` would follow links
        self._output = os.path.abspath(output) if isinstance(output, Path) else None  # noqa: PTH100
        self._folders: dict[str, str] = {}

    def of_job(self, job: AnyJob) -> str | None:
        """The path of a job's local image from the output folder, with `/`; None if the job has none.

        Of an image that `--prepare` converted, and of one that the job held in memory, it is the file in the journal's
        folder. An image on another drive has its absolute path.
        """
        image = local_image_of(job)
        return None if image is None else self.of_file(image)

    def of_file(self, image: str) -> str:
        """The path of a local image, which is absolute or relative to the working folder."""
        folder, name = os.path.split(image)
        if self._is_name_alone:
            return name
        if folder not in self._folders:
            self._folders[folder] = self._relative(os.path.abspath(folder))  # noqa: PTH100 - likewise
        return f"{self._folders[folder]}{name}"

    def _relative(self, folder: str) -> str:
        try:
            path = folder if self._output is None else os.path.relpath(folder, self._output)
        except ValueError:  # there is no path from one drive of Windows to another
            path = folder
        return "" if path == "." else f"{Path(path).as_posix().rstrip('/')}/"


def image_path(output: Location, recorded: str) -> str:
    """The absolute path of an image that was recorded by `ImagePaths`."""
    if not isinstance(output, Path):
        return recorded
    return os.path.normpath(os.path.join(os.path.abspath(output), recorded))  # noqa: PTH100, PTH118 - as it was made
