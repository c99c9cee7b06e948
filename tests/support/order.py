"""The order in which trio runs tasks that are ready at the same time."""

from __future__ import annotations

import hypothesis  # noqa: F401 - once imported, it lets trio shuffle the order instead of reversing it
from trio._core import _run


def draw_order(seed: int) -> None:
    """Seed the generator from which trio draws the order."""
    _run._r.seed(seed)
