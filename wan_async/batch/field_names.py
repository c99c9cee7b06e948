"""The fields of a job as batches spell them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from wan_async.batch.format_yaml import ALIASES
from wan_async.batch.syntax import Path
from wan_async.domain.text import shown, suggestion
from wan_async.domain.validation import FAULTS

PLAIN_FIELDS = frozenset(FAULTS)
"""The fields by their own names."""
JOB_FIELDS = (*FAULTS, "matrix")
"""What may be written in a job."""
SHARED_FIELDS = tuple(name for name in FAULTS if name != "id")
"""What may be written in the defaults and in a matrix."""
OPTIONAL_TEXTS = frozenset({"image", "prompt"})
"""Fields in which an empty text means that the field isn't given."""
TEMPLATES = ("prompt", "negative_prompt")
"""Fields in which placeholders are filled in."""


def canonical(
    values: dict[Any, Any], allowed: Collection[str], wrong: Callable[[Path, str], None]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Translates the keys of a mapping to the names of fields.

    Args:
        values: the mapping.
        allowed: the names that may stand in it.
        wrong: is called with the key of each problem and its message.

    Returns:
        The values that are given, by the name of the field, and how each name was spelled.
    """
    given: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for key, value in values.items():
        name = ALIASES.get(key, key)
        if name not in allowed:
            message = "is not allowed here" if name in JOB_FIELDS else f"unknown field{suggestion(key, allowed)}"
            wrong((key,), message)
        elif value is None or (value == "" and name in OPTIONAL_TEXTS):
            continue  # the samples of the model's page leave one of the two image fields empty
        elif name in given:
            wrong((key,), f"is given already, as {shown(spelled[name])}")
        else:
            given[name], spelled[name] = value, key
    return given, spelled


def braces_hint(value: object) -> str:
    """Advice for a value that YAML reads as a mapping although a placeholder was meant; empty for any other."""
    if isinstance(value, dict) and len(value) == 1 and None in value.values():
        return f' (in YAML, braces need quotes: "{{{next(iter(value))}}}")'
    return ""
