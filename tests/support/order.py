"""The order in which trio runs the tasks that are ready at once."""

from __future__ import annotations

import hypothesis  # noqa: F401 - until it is imported trio only reverses the order, afterwards it shuffles
from trio._core import _run


def draw_order(seed: int) -> None:
    """Has trio draw the orders of the next runs from this seed."""
    _run._r.seed(seed)
