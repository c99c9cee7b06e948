"""The refusal of a batch whose text is wrong, with what can still be checked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wan_async.batch.base import Folder
from wan_async.domain.batch import Batch
from wan_async.errors import InvalidBatch, Problem


class BadImages(InvalidBatch):
    """Images of a batch can't be uploaded.

    Attributes:
        sound_jobs: how many jobs have nothing wrong with them.
        remarks: what is unusual about the other images, a line each.
    """

    def __init__(self, problems: Sequence[Problem], sound_jobs: int, remarks: Sequence[str]) -> None:
        super().__init__(problems)
        self.sound_jobs: int = sound_jobs
        self.remarks: tuple[str, ...] = tuple(remarks)


class Refused(InvalidBatch):
    """The text of a batch has problems; what is found later than in the text can be reported along with them.

    Attributes:
        batch: what could be read. Among its jobs are also those that something is wrong with, if the names of their
            clips are known; of these only names and images are meant.
        images: what is wrong with each image that it names (by path), None if nothing is known against it.
        is_placed: whether it is known where the clips go and what they are called.
        sound_jobs: how many jobs have nothing wrong with them; 0 if something is wrong with all alike.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        batch: Batch,
        images: Mapping[str, str | None],
        *,
        is_placed: bool,
        sound_jobs: int,
    ) -> None:
        super().__init__(problems)
        self.batch: Batch = batch
        self.images: Mapping[str, str | None] = images
        self.is_placed: bool = is_placed
        self.sound_jobs: int = sound_jobs


class FaultsOfImages:
    """What is wrong with images; each is looked at once.

    Attributes:
        found: by path.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.found: dict[str, str | None] = {}

    def of(self, image: str) -> str | None:
        """Why an image can't be uploaded, None if it can."""
        if image not in self.found:
            self.found[image] = self._folder.fault(image)
        return self.found[image]
