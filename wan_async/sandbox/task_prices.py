"""What the sandbox charges for a task."""

from __future__ import annotations

from wan_async.sandbox.settings import Settings

CLIP_SECONDS = 2.5


def price_micros(settings: Settings, resolution: str, seconds: float) -> int:
    """Price of a successful render, in micro-dollars.

    Args:
        settings: the prices, and how they are applied.
        resolution: of the clip.
        seconds: how long the task runs.
    """
    name = "480P" if settings.pricing == "approximate" else resolution
    rate = settings.prices.get(name, 0.05) * 1e6
    units = {"cps": seconds, "approximate": seconds, "cp-outputVideoLength": CLIP_SECONDS}
    return round(round(rate) * units.get(settings.pricing, 1))
