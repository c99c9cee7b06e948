"""Conversion between US dollars and integer micro-dollars."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation


def micros(amount: object) -> int | None:
    """Convert US dollars to micro-dollars.

    Args:
        amount: dollars as the service writes them: `"0.003510000000"`, `0.05`.

    Returns:
        Micro-dollars, rounded half to even; None if the value isn't a finite amount below a billion dollars.
    """
    if amount is None or isinstance(amount, bool):
        return None
    try:
        value = Decimal(str(amount).strip())
    except (InvalidOperation, ValueError):
        return None
    if not value.is_finite() or value.adjusted() >= 9:
        return None
    return int((value * 1_000_000).to_integral_value(ROUND_HALF_EVEN))


def usd(amount: int) -> Decimal:
    """Convert micro-dollars to US dollars, exactly, with at least two decimals: 50000 is `0.05`, 3510 is `0.00351`."""
    value = Decimal(amount).scaleb(-6)
    return next(short for places in range(2, 7) if (short := value.quantize(Decimal(1).scaleb(-places))) == value)
