"""Cost of a task by the service's price rules."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from wan_async.domain.fields import Micros, Text, WireModel, read_mapping, read_sequence, read_text
from wan_async.domain.model import Parameters


class Price(WireModel):
    """An entry of a tool's price list, in USD; it applies where each of `inputs` equals the job's parameter."""

    inputs: Annotated[dict[str, Any], BeforeValidator(read_mapping)] = Field(default_factory=dict)
    price: Micros = None
    priceMethod: Text = ""  # noqa: N815 - the service's own name for it


class Tool(WireModel):
    """What the service says of a model: how it is priced. `cps` and `approximatelycost` are micro-dollars."""

    dynamicprice: Annotated[list[Price], BeforeValidator(read_sequence)] = Field(default_factory=list)
    cps: Micros = None
    approximatelycost: Micros = None

    def fixed(self, parameters: Parameters) -> int | None:
        """The price of one task in micro-dollars where it is known in advance: per request, or per output."""
        applying = self._applying(parameters)
        if not applying or any(price.priceMethod not in ("cpr", "cpo") for price in applying):
            return None
        found = [self._one(price, None) for price in applying]
        return max(known) if len(known := [cost for cost in found if cost is not None]) == len(found) else None

    def _applying(self, parameters: Parameters) -> list[Price]:
        return [p for p in self.dynamicprice if all(parameters.get(k) == read_text(v) for k, v in p.inputs.items())]

    def estimate(self, parameters: Parameters, processing_seconds: float | None = None) -> int | None:
        """Estimate what one task with these parameters costs.

        Several entries may apply: the dearest counts, since this guards a budget.

        Args:
            parameters: the job's, as sent.
            processing_seconds: how long such tasks take, if that is known; prices by the second need it, or else the
                service's own `approximatelycost`.

        Returns:
            Micro-dollars, rounded up; None if the price is unknown.
        """
        applying = self._applying(parameters)
        if self.dynamicprice and not applying:
            return self.approximatelycost
        if not applying:
            return _by_the_second(self.cps, processing_seconds, self.approximatelycost)
        found = [self._one(price, processing_seconds) for price in applying]
        return max(known) if len(known := [cost for cost in found if cost is not None]) == len(found) else None

    def _one(self, price: Price, processing_seconds: float | None) -> int | None:
        """The cost by one entry; None if the entry isn't understood, which is never 0."""
        if any((price.model_extra or {}).get(name) for name in ("priceExtra", "priceInput")):
            return None
        match price.priceMethod:
            case "cpr" | "cpo":  # a task has one output
                return price.price
            case "cps":
                return _by_the_second(price.price, processing_seconds, self.approximatelycost)
            case "cp-outputVideoLength":  # the clip's length isn't known here: the service estimates it
                return self.approximatelycost
        return None


def _by_the_second(per_second: int | None, seconds: float | None, otherwise: int | None) -> int | None:
    if per_second is None or seconds is None:
        return otherwise
    return int((Decimal(per_second) * Decimal(seconds)).to_integral_value(ROUND_CEILING))
