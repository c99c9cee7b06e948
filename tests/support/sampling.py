"""Which cases of a long list the suite runs; the others are marked `slow`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

SLOW_STEPS = pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
"""A test that interrupts at each step: at every third one in the suite. Three, as many steps come in pairs."""


def sampled(cases: Iterable[Any], every: int) -> Sequence[Any]:
    """The arguments of a parametrisation: the last case and every n-th before it stay in the suite.

    With a product of lists, choose an `every` that divides the length of none of them, so that each element remains.

    Args:
        cases: a value, or a tuple of values, for each case.
        every: n.
    """
    listed = [case if isinstance(case, tuple) else (case,) for case in cases]
    last = len(listed) - 1
    return [
        pytest.param(*case, marks=() if (last - number) % every == 0 else pytest.mark.slow)
        for number, case in enumerate(listed)
    ]
