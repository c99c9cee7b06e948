from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wan_async.cli.display_text import cells_of
from wan_async.cli.short_names import short_names


@given(st.lists(st.text("ab-1北", min_size=1, max_size=40), max_size=8), st.integers(4, 40))
def test_names_fit_their_column_exactly(names: list[str], width: int) -> None:
    assert {cells_of(text) for text in short_names(names, width).values()} <= {width}


def test_names_that_fit_are_whole() -> None:
    assert short_names(["koala", "bear"], 6) == {"koala": "koala ", "bear": "bear  "}


def test_a_long_name_is_cut_in_its_middle() -> None:
    assert short_names(["a" * 20 + "b" * 20], 11) == {"a" * 20 + "b" * 20: "aaaaa…bbbbb"}


@pytest.mark.parametrize("width", [14, 16, 24, 36])
def test_siblings_stay_distinguishable(width: int) -> None:
    names = [
        f"holiday-2026-beach-sunset-over-the-harbour-{number:04}-wide-angle-{resolution}-final"
        for number in range(500)
        for resolution in ("480P", "720P")
    ]
    short = short_names(names, width)
    assert len(set(short.values())) == len(names)
    assert all(short[name].startswith("hol") for name in names)


@pytest.mark.parametrize(
    "names",
    [
        ["x" * 60 + "1" + "y" * 60, "x" * 60 + "2" + "y" * 60],
        ["1" + "x" * 50, "2" + "x" * 50],
        ["the-same-start-a-b-and-the-same-end-of-it", "the-same-start-c-d-and-the-same-end-of-it"],
        ["北京" * 10 + "1" + "夜" * 10, "北京" * 10 + "2" + "夜" * 10],
    ],
)
def test_a_difference_anywhere_is_shown(names: list[str]) -> None:
    assert len(set(short_names(names, 16).values())) == len(names)
