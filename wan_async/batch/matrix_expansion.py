"""Globs and matrices: the images and values that a job of a batch stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from wan_async.batch.base import Folder
from wan_async.batch.field_names import FieldNames, braces_hint
from wan_async.batch.prompts import Prompts
from wan_async.batch.syntax import Path
from wan_async.domain.model import Model
from wan_async.domain.text import shown
from wan_async.domain.validation import is_url

_GLOB = re.compile(r"[*?\[]")
_SINGLE = re.compile(r"\[([^\]!])\]")
_CHOICE = re.compile(r"\[[^\]][^\]]+\]")  # brackets that match more than one character


class Expansion:
    """Expands globs and matrices.

    Args:
        folder: where relative paths begin.
        prompts: checks the values of fields.
        model: the model that the batch is for.
    """

    def __init__(self, folder: Folder, prompts: Prompts, model: Model) -> None:
        self._folder = folder
        self._prompts = prompts
        self._model = model
        self._names = FieldNames(model)
        self._patterns: dict[str, None] = {}

    def notices(self) -> list[str]:
        """Says which names of images were taken for patterns, though they might be names."""
        return [f"{shown(pattern, whole=True)} is taken for a pattern" for pattern in self._patterns]

    def images(self, image: str) -> list[str] | None:
        """The images that a glob matches; None if the text is not a glob."""
        # A file may be called `cat[1].png`.
        if not _GLOB.search(image) or is_url(image) or self._folder.exists(self._folder.resolve(image)):
            return None
        if "*" not in image and "?" not in image:
            if not _CHOICE.search(image):
                return []  # browsers name files so; a pattern that matches a single name is not meant as one
            self._patterns[image] = None
        return self._folder.glob(image)

    def resolved(self, image: str) -> str:
        """The path of an image from the working folder; a URL stays as it is."""
        return image if is_url(image) else self._folder.resolve(image)

    def axes(
        self,
        matrix: object,
        given: Collection[str],
        wrong: Callable[[Path, str], None],
        wrong_key: Callable[[Path, str], None],
        spelled_matrix: str,
    ) -> dict[str, list[Any]]:
        """The values of a matrix.

        Args:
            matrix: as it was written.
            given: the fields that the job has outside of it.
            wrong: is called with the path of each value at fault, and the message.
            wrong_key: the same for each key at fault.
            spelled_matrix: how the key of the matrix was written.

        Returns:
            The values of each field, in the order written.
        """
        axes: dict[str, list[Any]] = {}
        if not isinstance(matrix, dict):
            wrong((spelled_matrix,), f"must be a mapping of fields to lists of values, not {shown(matrix)}")
            return axes
        listed, spelled = self._names.canonical(
            matrix, self._names.shared, lambda path, message: wrong_key((spelled_matrix, *path), message)
        )
        for name, values in listed.items():
            path: Path = (spelled_matrix, spelled[name])
            if name in given:
                wrong(path, "is given outside of the matrix as well")
            elif not isinstance(values, list) or not values:
                wrong(path, f"must be a list of values, not {shown(values) if values != [] else 'an empty one'}")
            else:
                axes[name] = self._axis(name, values, path, wrong)
        return axes

    def _axis(self, name: str, values: list[Any], path: Path, wrong: Callable[[Path, str], None]) -> list[Any]:
        axis: dict[Any, None] = {}
        for index, value in enumerate(values):
            at = (*path, index)
            fault = self._prompts.fault_of(name, value)
            if fault or (name in self._names.optional_texts and not value.strip()):
                wrong(at, (fault or "is empty") + braces_hint(value))
                continue
            parameter = self._model.by_name.get(name)
            read: list[Any] = [value if parameter is None or parameter.kind == "image" else parameter.read(value)]
            if name == self._model.image_name:
                images = self.images(value)
                read = [self.resolved(value)] if images is None else images
                if not read:
                    wrong(at, self.no_match(value))
            for one in read:
                if one in axis:
                    wrong(at, f"{shown(one)} is given twice")
                axis[one] = None
        return list(axis)

    def no_match(self, pattern: str) -> str:
        """Says that a glob matches no image."""
        meant = _SINGLE.sub(r"\1", pattern)
        if meant != pattern and not _GLOB.search(meant):
            return (
                f"{shown(pattern, whole=True)} doesn't exist (as a pattern it matches {shown(meant)} alone; "
                "if that is meant, write it so)"
            )
        hint = self._folder.in_another_case(pattern)
        return f"{shown(pattern, whole=True)} matches no image" + (f" ({hint})" if hint else "")
