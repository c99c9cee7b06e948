"""What the parser of batches asks of the folder that a batch lies in."""

from __future__ import annotations

from typing import Protocol


class Folder(Protocol):
    """The folder of a batch: its images and their captions."""

    def glob(self, pattern: str) -> list[str]:
        """The images that match, in natural order, as paths that `resolve` would give."""
        ...

    def in_another_case(self, pattern: str) -> str | None:
        """Says which images match a pattern but for the case of letters; None if there are none."""
        ...

    def caption(self, image: str) -> str | None:
        """The caption of an image (a resolved path), stripped; None if it has none.

        Raises:
            ValueError: the caption can't be used; the message says why.
            InvalidBatch: a list of captions can't be read; with all problems in it.
        """
        ...

    def no_caption(self, image: str) -> str:
        """Says why an image has no caption."""
        ...

    def resolve(self, path: str) -> str:
        """A path as the batch writes it, from the working folder."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is anything at a resolved path; False for a text that can't be a path."""
        ...

    def notices(self) -> list[str]:
        """What its globs left out, and why."""
        ...

    def fault(self, image: str) -> str | None:
        """Why an image (a resolved path) can't be uploaded, None if it can."""
        ...
