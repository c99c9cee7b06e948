"""A folder of images that grows while it is watched: which files are complete, and a batch of them.

Nothing tells when a program has finished to write a file. So a file counts as complete once its size, time and inode
have stayed the same for some seconds; an empty one never does. An image waits for the captions that belong to it. What
is wrong with an image holds that image alone back, until a file changes: in a folder that is watched nobody waits for
a message. Everything here blocks; a run of the batch is the caller's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from wan_async.batch import images_in_folders, output_check
from wan_async.batch.batch_folder import BatchFolder, natural
from wan_async.batch.images_in_folders import CAPTION_SUFFIXES, METADATA_NAMES
from wan_async.batch.parser import Defaults, from_images
from wan_async.batch.plan import Prepared, prepare
from wan_async.domain.batch import PlannedJob
from wan_async.domain.job import values_of
from wan_async.errors import InvalidBatch, Problem
from wan_async.journal.base import FOLDER

Version = tuple[int, int, int]
"""Size, time of the last change and inode of a file: if they are equal, it has not changed."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a folder holds.

    Attributes:
        images: the complete images with their versions, by path.
        captions: the same of captions and lists of captions.
        incomplete: how many files may still be written to.
    """

    images: Mapping[str, Version]
    captions: Mapping[str, Version]
    incomplete: int

    @property
    def versions(self) -> frozenset[tuple[str, Version]]:
        """All complete files with their versions."""
        return frozenset([*self.images.items(), *self.captions.items()])


class WatchedFolder:
    """A folder, and since when each of its files has been as it is.

    Args:
        folder: the folder.
        recursive: include its subfolders, except output folders of runs.
        stable_seconds: for how long a file must not have changed to count as complete.
    """

    def __init__(self, folder: Path, *, recursive: bool, stable_seconds: float) -> None:
        self._folder = folder
        self._recursive = recursive
        self._stable_seconds = stable_seconds
        self._since: dict[str, tuple[Version, float]] = {}

    def look(self, now: float) -> Look:
        """What is in the folder, and which of it is complete.

        Args:
            now: seconds of a clock that only goes forward.

        Raises:
            OSError: the folder can't be listed.
        """
        images = images_in_folders.images_in(self._folder, recursive=self._recursive).images
        captions = list(_captions_in({str(self._folder), *(os.path.dirname(image) for image in images)}))  # noqa: PTH120 - text in, text out
        seen: dict[str, tuple[Version, float]] = {}
        for path in (*images, *captions):
            version = _version_of(path)
            if version is not None:
                before = self._since.get(path)
                seen[path] = before if before is not None and before[0] == version else (version, now)
        self._since = seen
        complete = {
            path: version
            for path, (version, since) in seen.items()
            if version[0] > 0 and now - since >= self._stable_seconds
        }
        texts = {path for path in captions if path in seen and path not in complete}
        ready = {path: complete[path] for path in images if path in complete and not _awaited(path, texts)}
        return Look(ready, {path: complete[path] for path in captions if path in complete}, len(seen) - len(complete))


def _captions_in(paths: Iterable[str]) -> Iterable[str]:
    """Files in these folders that may be captions or lists of captions."""
    for folder in paths:
        try:
            names = os.listdir(folder or ".")  # noqa: PTH208 - names are all that is needed
        except OSError:
            continue  # it was removed meanwhile
        for name in names:
            if not name.startswith(".") and (name.lower().endswith(CAPTION_SUFFIXES) or name in METADATA_NAMES):
                yield os.path.join(folder, name)  # noqa: PTH118 - text in, text out


def _version_of(path: str) -> Version | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - likewise
    except OSError:
        return None  # it was removed meanwhile
    return status.st_size, status.st_mtime_ns, status.st_ino


def _awaited(image: str, texts: set[str]) -> bool:
    """Whether a caption that is still written to may be that of an image."""
    if not texts:
        return False
    bases = {image.casefold(), os.path.splitext(image)[0].casefold()}  # noqa: PTH122 - likewise
    return any(
        os.path.basename(text) in METADATA_NAMES  # noqa: PTH119 - likewise
        or os.path.splitext(text)[0].casefold() in bases  # noqa: PTH122 - likewise
        for text in texts
    )


@dataclass(frozen=True, slots=True)
class Ready:
    """A batch of complete images.

    Attributes:
        batch: the batch; None if no image is without problems.
        images: the images in it.
        held: what is wrong with each of the others, by path.
        notices: remarks that are not errors.
    """

    batch: Prepared | None
    images: tuple[str, ...] = ()
    held: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def read_ready(
    look: Look, folder: Path, output: Path, prompt: str | None, *, upright: bool | None = None, defaults: Defaults = ()
) -> Ready:
    """Make a batch of the complete images of a folder, as `run` makes one of a folder. Images are hashed.

    Args:
        look: what the folder holds.
        folder: the folder.
        output: the folder of the clips.
        prompt: serves images without a caption; with `{caption}` in it, it wraps captions.
        upright: as for `prepare`.
        defaults: as for `parse`.

    Raises:
        InvalidBatch: a problem that is not one image's own: of the prompt, a list of captions, the output folder.
        Unusable: the journal can't be read.
    """
    images, held = sorted(look.images, key=natural), dict[str, str]()
    while images:
        disk = BatchFolder(folder)
        try:
            batch = from_images(images, source=str(folder), folder=disk, prompt=prompt, defaults=defaults)
            batch = replace(batch, jobs=[_with_id(planned) for planned in batch.jobs])
            if problems := output_check.target_problems(batch.jobs, output, None):
                raise InvalidBatch(problems)
            prepared = prepare(batch, output / FOLDER, upright=upright)
            return Ready(prepared, tuple(images), held, (*batch.notices, *prepared.remarks))
        except InvalidBatch as error:
            faults = _by_image(error.problems, images)
            if not faults:
                raise
            held |= faults
            images = [image for image in images if image not in faults]
    return Ready(None, held=held)


def _with_id(planned: PlannedJob) -> PlannedJob:
    """The job with its label as its id, so that its key stays the same whichever files come and go.

    Jobs without an id are told apart by their content; of those with equal content the order decides.
    """
    job = planned.job
    if job.id is not None or job.model.checks["id"](planned.label):
        return planned
    made = type(job)(id=planned.label, callback_url=job.callback_url, **values_of(job))
    return replace(planned, job=made)


def _by_image(problems: Iterable[Problem], images: Iterable[str]) -> dict[str, str]:
    """The problems that are an image's own, by its path."""
    known = set(images)
    return {problem.where: problem.message for problem in problems if problem.where in known}
