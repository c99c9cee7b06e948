"""The sandbox's only model: its parameters, and how Tool/Detail describes them and their prices."""

from __future__ import annotations

import json
import re
from typing import Any

from wan_async.sandbox.http import Refusal
from wan_async.sandbox.settings import PRICE_METHODS, Settings
from wan_async.sandbox.task_prices import price_micros

OWNER, PROJECT = "Wan-AI", "Wan2.2-TI2V-5B-Image-to-Video-Fast"
MODEL = f"{OWNER}/{PROJECT}"
RESOLUTIONS = ("480P", "580P", "720P")
ASPECT_RATIOS = ("Default", "16:9", "9:16", "1:1")
DEFAULTS = {
    "inputImageUrl": "", "prompt": "", "negativePrompt": "", "resolution": "480P", "aspectRatio": "Default",
    "seed": "42",
}  # fmt: skip


def check_parameters(form: dict[str, str]) -> None:
    """Check the form fields of a Run.

    Raises:
        Refusal: one of them is invalid; the message names it.
    """
    if not form["prompt"].strip():
        raise Refusal(0, "Request parameter [prompt] required")
    if form["resolution"] not in RESOLUTIONS:
        raise Refusal(0, "Request parameter [resolution] is not valid")
    if form["aspectRatio"] not in ASPECT_RATIOS:
        raise Refusal(0, "Request parameter [aspectRatio] is not valid")
    if not re.fullmatch(r"[+-]?[0-9]+", form["seed"]):
        raise Refusal(0, "Request parameter [seed] must be an integer")
    if (url := form["inputImageUrl"]) and not re.match(r"(?i)https?://", url):
        raise Refusal(0, "Request parameter [inputImageUrl] is not valid")


def describe_model(settings: Settings) -> dict[str, Any]:
    """The model as Tool/Detail shows it."""
    pricing = settings.pricing
    usual = price_micros(settings, DEFAULTS["resolution"], sum(settings.task_seconds) / 2)
    shown: dict[str, Any] = {
        "id": "1",
        "slugowner": OWNER,
        "slugproject": PROJECT,
        "title": MODEL,
        "parameters": _parameters(),
        "cps": f"{settings.prices.get('480P', 0.05):.12f}" if pricing in ("cps", "approximate") else None,
        "approximatelycost": f"{usual / 1e6:.12f}" if pricing != "none" else None,
    }
    if pricing in PRICE_METHODS:
        shown["dynamicprice"] = json.dumps(
            [
                {"inputs": {"resolution": name}, "price": price, "priceMethod": pricing}
                for name, price in settings.prices.items()
            ]
        )
    return shown


def _parameters() -> list[dict[str, Any]]:
    choices = {"resolution": RESOLUTIONS, "aspectRatio": ASPECT_RATIOS}
    shown: list[dict[str, Any]] = []
    for name, default in DEFAULTS.items():
        options = [{"value": each, "text": each} for each in choices.get(name, ())]
        shown.append(
            {
                "id": name,
                "type": "select" if options else "text",
                "label": name.lower(),
                "required": name == "prompt",
                "value": default,
                "options": options,
            }
        )
    return [{"title": "Input", "items": shown[:3]}, {"title": "Options", "items": shown[3:]}]
