"""Comparison of the model as the service describes it with ours: parameters, options, defaults, prices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from wan_async.cli.checks.base import Finding, ok, warning
from wan_async.cli.display_text import truncate, usd
from wan_async.domain import money
from wan_async.domain.fields import read_sequence, read_text, read_truth
from wan_async.domain.job import Job, parameters_of
from wan_async.domain.model import CALLBACK_FIELD, WAN, Model, Parameter
from wan_async.domain.prices import Tool

UPDATE = "update this package: pip install -U wan-async; until then jobs are sent as before"


def model_findings(tool: Tool, model: Model = WAN) -> list[Finding]:
    """What differs between the service's description of the model and ours, and its prices."""
    return [_parameters(tool, model), _price(tool, model)]


def _parameters(tool: Tool, model: Model) -> Finding:
    items = dict(_items(tool))
    if not items:
        return ok("model", f"{model.name}: the service lists no parameters to compare", parameters=None)
    differences = [*_differences(items, model)]
    facts: dict[str, object] = {"parameters": sorted(items), "differences": differences}
    if differences:
        return warning("model", f"{model.name} differs from what this version knows: {'; '.join(differences)}",
                       UPDATE, **facts)  # fmt: skip
    return ok("model", f"{model.name}: its {len(items)} parameters are those that this version sends", **facts)


def _items(tool: Tool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parameters by id: a list of groups of items, or of items, also as JSON in a string."""
    for group in read_sequence((tool.model_extra or {}).get("parameters")):
        for item in read_sequence(group.get("items")) or [group]:
            if name := read_text(item.get("id")):
                yield truncate(name, 60), item


def _differences(items: Mapping[str, Mapping[str, Any]], model: Model) -> Iterator[str]:
    known = {each.wire: each for each in model.parameters}
    files = {each.file_field for each in model.parameters if each.file_field}
    for name, parameter in known.items():
        item = items.get(name, items.get(parameter.file_field) if parameter.file_field else None)
        if item is None:
            yield f"it has no {name}"
        elif parameter.kind == "choice":
            yield from _different_choices(name, parameter, item)
    for name, item in items.items():
        if name not in known and name not in files and name != CALLBACK_FIELD:
            yield f"it {'requires' if read_truth(item.get('required')) else 'also takes'} {name}"


def _different_choices(name: str, parameter: Parameter, item: Mapping[str, Any]) -> Iterator[str]:
    options = [read_text(each.get("value", each.get("id"))) for each in read_sequence(item.get("options"))]
    if options:
        gone = [choice for choice in parameter.choices if choice not in options]
        new = [truncate(option, 30) for option in options if option and option not in parameter.choices]
        if gone:
            yield f"{name} no longer takes {', '.join(gone)}"
        if new:
            yield f"{name} also takes {', '.join(new)}"
    default = read_text(item.get("value"))
    if default and default != str(parameter.default):
        yield f"{name} is {truncate(default, 30)} by default, and here {parameter.default}"


def _price(tool: Tool, model: Model) -> Finding:
    """The price of a clip by the choices that it depends on."""
    selecting = [each for each in model.parameters if each.selects_price and each.choices]
    usual = parameters_of(Job(prompt="x"), "")
    prices: dict[str, int | None] = {}
    for values in product(*(each.choices for each in selecting)):
        chosen = dict(zip((each.wire for each in selecting), values, strict=True))
        prices[" ".join(values)] = tool.estimate(usual | chosen)
    if any(price is None for price in prices.values()):
        methods = sorted({truncate(each.priceMethod or "none", 30) for each in tool.dynamicprice})
        said = "the service names no price that is known in advance" + (
            f" (priced by {', '.join(methods)})" if methods else ""
        )
        return warning("price", said, "nothing to do, but --budget can't be kept, and plan shows no cost", prices=None)
    return ok("price", f"a clip costs {_summary(prices, selecting)}",
              prices={name: f"{money.usd(price or 0):f}" for name, price in prices.items()})  # fmt: skip


def _summary(prices: Mapping[str, int | None], selecting: list[Parameter]) -> str:
    """The prices by the first parameter alone, where the others don't matter."""
    found: dict[str, set[int]] = {}
    for name, price in prices.items():
        found.setdefault(name.split(" ")[0] if selecting else name, set()).add(price or 0)
    return ", ".join(
        f"{'-'.join(usd(money.usd(each)) for each in (sorted(costs) if len(costs) == 1 else [min(costs), max(costs)]))}"
        f"{f' at {name}' if name else ''}"
        for name, costs in found.items()
    )
