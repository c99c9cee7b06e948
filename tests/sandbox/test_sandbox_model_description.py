"""The sandbox's model: its parameters, and that Tool/Detail shows the prices that are charged."""

from __future__ import annotations

import json

import pytest

from wan_async.sandbox.model_description import PROJECT, RESOLUTIONS, describe_model
from wan_async.sandbox.settings import PRICE_METHODS, Settings
from wan_async.sandbox.task_prices import price_micros


@pytest.mark.parametrize(("pricing", "units"), [("cpr", 1), ("cps", 3), ("cpo", 1), ("cp-outputVideoLength", 2.5)])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_a_render_is_charged_its_price(pricing: str, units: float, resolution: str) -> None:
    settings = Settings(pricing=pricing)
    prices = {each["inputs"]["resolution"]: each for each in json.loads(describe_model(settings)["dynamicprice"])}
    assert prices[resolution]["priceMethod"] == pricing
    assert price_micros(settings, resolution, 3.0) == round(prices[resolution]["price"] * units * 1e6)


def test_a_tool_can_show_only_an_estimate() -> None:
    settings = Settings(pricing="approximate", task_seconds=(2.0, 4.0))
    shown = describe_model(settings)
    assert "dynamicprice" not in shown
    assert (float(shown["cps"]), float(shown["approximatelycost"])) == (0.05, 0.15)
    assert {price_micros(settings, resolution, 3.0) for resolution in RESOLUTIONS} == {150_000}


def test_a_tool_can_show_no_price() -> None:
    shown = describe_model(Settings(pricing="none"))
    assert (shown["cps"], shown["approximatelycost"], "dynamicprice" in shown) == (None, None, False)


@pytest.mark.parametrize("pricing", PRICE_METHODS)
def test_amounts_are_text_and_the_estimate_is_of_an_average_render(pricing: str) -> None:
    settings = Settings(pricing=pricing, task_seconds=(2.0, 4.0))
    shown = describe_model(settings)
    assert isinstance(shown["approximatelycost"], str)
    assert float(shown["approximatelycost"]) * 1e6 == pytest.approx(price_micros(settings, "480P", 3.0))
    assert shown["slugproject"] == PROJECT


def test_the_parameters_are_those_of_the_model_with_their_defaults_and_choices() -> None:
    groups = describe_model(Settings())["parameters"]
    assert all(group["title"] and group["items"] for group in groups)
    shown = {each["id"]: each for group in groups for each in group["items"]}
    assert {name for each in shown.values() for name in each} == {
        "id", "type", "label", "value", "options", "required"
    }  # fmt: skip
    assert {name: each["value"] for name, each in shown.items()} == {
        "inputImageUrl": "", "prompt": "", "negativePrompt": "", "resolution": "480P", "aspectRatio": "Default",
        "seed": "42",
    }  # fmt: skip
    assert [each["value"] for each in shown["resolution"]["options"]] == ["480P", "580P", "720P"]
    assert [each["value"] for each in shown["aspectRatio"]["options"]] == ["Default", "16:9", "9:16", "1:1"]
    assert [name for name, each in shown.items() if each["required"]] == ["prompt"]
