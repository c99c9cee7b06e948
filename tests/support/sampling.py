"""Which cases of a long list the suite runs; the others are marked `slow`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product
from typing import Any

import pytest

SLOW_STEPS = pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
"""For a test that interrupts at each step: at every third one in the suite. Three, as many steps come in pairs."""


def sampled(cases: Iterable[Any], every: int) -> list[Any]:
    """The arguments of a parametrisation: the last case and every n-th before it stay in the suite.

    Args:
        cases: a value, or a tuple of values, for each case.
        every: n.
    """
    listed = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [
        pytest.param(*case, marks=() if number % every == 0 else pytest.mark.slow)
        for number, case in reversed([*enumerate(reversed(listed))])
    ]


def sampled_product(every: int, *lists: Collection[Any]) -> list[Any]:
    """The same for all combinations of these lists.

    Raises:
        ValueError: an element of a list would not stay in the suite; choose another `every`.
    """
    cases = sampled(product(*lists), every)
    stay = [case.values for case in cases if not case.marks]
    for place, values in enumerate(lists):
        for value in values:
            if not any(case[place] is value for case in stay):
                raise ValueError(f"{value!r} would be in no case of the suite")
    return cases
