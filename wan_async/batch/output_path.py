"""What may be written as the `output` of a batch."""

from __future__ import annotations

import re

from wan_async.domain.text import shown
from wan_async.output_locations import location_of

_VARIABLE = re.compile(r"\$(?:\w+|\{[^}]*\})|%\w+%")


def fault_of_output(path: str) -> str | None:
    """Why a path can't be where clips go, as it was written; None if it can."""
    try:
        location_of(path)
    except ValueError as error:
        return str(error)
    if match := _VARIABLE.search(path):
        return f"{shown(path)}: variables such as {match[0]} are not filled in; write the path itself, or use -o"
    return None
