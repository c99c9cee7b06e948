"""Values in answers of the service."""

from __future__ import annotations

import pytest

from wan_async.domain.fields import find_number


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"balance": "12.5"}, 12.5),
        ({"wallet": [{"currency": "USD", "walletbalance": 7}]}, 7.0),
        ({"a": {"balance": "none"}, "b": [{"balance": 3}]}, 3.0),
        ({"balance": "nan", "b": ["balance", 5]}, None),
        ([], None),
        ("balance", None),
    ],
)
def test_the_first_finite_number_under_a_name_is_found(value: object, found: float | None) -> None:
    assert find_number(value, "balance") == found
