"""The fields of a job as batches spell them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from wan_async.batch.syntax import Path
from wan_async.domain.model import Model
from wan_async.domain.text import nearest, shown, suggestion

DATA_SET_IMAGES = ("file", "file_name")
DATA_SET_TEXTS = ("text", "caption")
"""What data sets call the image and its text."""

_PART = 4
"""Letters of a name that make another one a part of it: `negative` is meant to be `negative_prompt`."""
_SEPARATORS = re.compile(r"[\s_-]+")


class FieldNames:
    """The names of the fields of one model's jobs.

    Args:
        model: the model that the batch is for.

    Attributes:
        plain: the fields by their own names.
        job: what may be written in a job.
        shared: what may be written in the defaults and in a matrix.
        optional_texts: fields in which an empty text means that the field isn't given.
    """

    def __init__(self, model: Model) -> None:
        self.plain: frozenset[str] = frozenset(model.checks)
        self.job: tuple[str, ...] = (*model.checks, "matrix")
        self.shared: tuple[str, ...] = tuple(name for name in model.checks if name != "id")
        self.optional_texts: frozenset[str] = frozenset({model.image_name, model.prompt.name})
        others = dict.fromkeys(DATA_SET_TEXTS, model.prompt.name)
        if model.image_name:
            others |= dict.fromkeys(DATA_SET_IMAGES, model.image_name)
        others |= model.aliases
        self._by_spelling = {_folded(other): name for other, name in others.items()}
        self._by_spelling |= {_folded(name): name for name in self.job}

    def name_of(self, key: str) -> str | None:
        """The field that a key means: by any of its names, without case, blanks, `_` and `-`; None if it means none."""
        return key if key in self.job else self._by_spelling.get(_folded(key))

    def near(self, key: str, given: Collection[str]) -> str | None:
        """The field that an unknown key was probably meant to be; None if it seems to be something else.

        Args:
            key: it means no field.
            given: the fields that are given under other keys: of one of these, a key may say something more.
        """
        words = {other: name for other, name in self._by_spelling.items() if name != "matrix"}
        folded = _folded(key)
        if (near := nearest(folded, words)) is not None:
            return words[near]
        parts = [
            other for other in words if min(len(folded), len(other)) >= _PART and (folded in other or other in folded)
        ]
        return next((words[part] for part in parts if words[part] not in given), None)

    def canonical(
        self, values: dict[Any, Any], allowed: Collection[str], wrong: Callable[[Path, str], None]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Translates the keys of a mapping to the names of fields.

        Args:
            values: the mapping.
            allowed: the names that may stand in it.
            wrong: is called with the key at fault and the message.

        Returns:
            The values that are given, by the name of the field, and how each name was spelled.
        """
        given: dict[str, Any] = {}
        spelled: dict[str, str] = {}
        for key, value in values.items():
            name = self.name_of(key)
            if name is None or name not in allowed:
                message = f"unknown field{suggestion(key, allowed)}" if name is None else "is not allowed here"
                wrong((key,), message)
            elif value is None or (value == "" and name in self.optional_texts):
                continue  # the samples of the model's page leave one of the two image fields empty
            elif name in given:
                wrong((key,), f"is given already, as {shown(spelled[name])}")
            else:
                given[name], spelled[name] = value, key
        return given, spelled


def _folded(key: str) -> str:
    return _SEPARATORS.sub("", key).casefold()


def braces_hint(value: object) -> str:
    """Advice for a value that YAML reads as a mapping although a placeholder was meant; empty for any other."""
    if isinstance(value, dict) and len(value) == 1 and None in value.values():
        return f' (in YAML, braces need quotes: "{{{next(iter(value))}}}")'
    return ""
