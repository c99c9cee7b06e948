"""How a sandbox behaves, and what its one model takes and costs."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

OWNER, PROJECT = "Wan-AI", "Wan2.2-TI2V-5B-Image-to-Video-Fast"
MODEL = f"{OWNER}/{PROJECT}"
RESOLUTIONS = ("480P", "580P", "720P")
ASPECTS = ("Default", "16:9", "9:16", "1:1")
DEFAULTS = {
    "inputImageUrl": "", "prompt": "", "negativePrompt": "", "resolution": "480P", "aspectRatio": "Default",
    "seed": "42",
}  # fmt: skip
CLIP_SECONDS = 2.5
METHODS = ("cpr", "cps", "cpo", "cp-outputVideoLength")


@dataclass(frozen=True, slots=True)
class ClipOrder:
    """What a clip is made from."""

    image: bytes | None
    prompt: str
    resolution: str
    aspect_ratio: str
    seed: str
    task_id: str


@dataclass(kw_only=True)
class Settings:
    """How this Wiro behaves.

    Attributes:
        seed: of everything that is drawn.
        api_secret: None makes the project one of the key-only kind.
        projects: keys and secrets of the account's other projects: they share its money, and see none of its tasks.
        prices: USD by resolution (of a second, if `pricing` is `cps`).
        pricing: one of `METHODS`; `approximate`: the tool names no price but `cps` and an estimate; `none`: nothing.
        concurrency_limit: tasks at once; None for Wiro's own rule.
        minimum_usd: the balance below which Runs are refused; None where it must pay for all active tasks.
        limit_schedule: (seconds from the start, limit) pairs.
        task_seconds: how long tasks take, from and to.
        visible_after_seconds: how long a fresh task isn't found.
        echo: `faithful`, `empty` (`{}`), `rewritten` (the image's URL is the service's), `string` (JSON in a string).
        show_projectid: tasks name the project that they are billed to.
        socket_format: how the socket's messages name their task: by `id` (as documented), `token` (as once), or `both`.
        uploads: `accept`, or `refuse` as the service was seen to do with API keys.
        denial: how it is said that there is no task, one of `faults.DENIALS`.
        refusal: how every Run is refused, one of `faults.REFUSALS`; None if it isn't.
        strict_nonce: a nonce in whole seconds can't be used twice either.
        first_task_id: of the first task.
        teammates: tasks that others of the workspace have at the start.
        faults: probabilities by name, see `faults`.
        task_error_seconds: how long a task that meets that fault shows it; likewise the next four.
        late_charge_seconds: from the cancellation to the charge.
        late_outputs_seconds: from the end to the outputs.
        late_cdn_seconds: from the end to the files.
        denied_seconds: how long a task is denied.
        list_page_cap: tasks a page at most.
        clip_bytes: clips are padded to this length.
        url_seconds: how long an output's URL is good.
        now: unix seconds.
        sleep: lets time pass.
        clip: makes a clip; None for tiny ones.
        state: the folder that everything is kept in.
    """

    seed: int = 0
    api_key: str = "sandbox-key"
    api_secret: str | None = "sandbox-secret"  # noqa: S105 - everybody may know it
    projects: dict[str, str | None] = field(default_factory=dict)
    balance_usd: float = 100.0
    prices: dict[str, float] = field(default_factory=lambda: {"480P": 0.05, "580P": 0.08, "720P": 0.12})
    pricing: str = "cpr"
    concurrency_limit: int | None = None
    minimum_usd: float | None = None
    limit_schedule: list[tuple[float, int]] = field(default_factory=list)
    task_seconds: tuple[float, float] = (2.0, 6.0)
    visible_after_seconds: float = 0.0
    echo: str = "faithful"
    show_projectid: bool = True
    socket_format: str = "id"
    uploads: str = "accept"
    denial: str = "no-task"
    refusal: str | None = None
    strict_nonce: bool = False
    first_task_id: int = 500_001
    teammates: int = 0
    faults: dict[str, float] = field(default_factory=dict)
    task_error_seconds: float = 3.0
    late_charge_seconds: float = 30.0
    late_outputs_seconds: float = 3.0
    late_cdn_seconds: float = 3.0
    denied_seconds: float = 3.0
    list_page_cap: int = 100
    latency_seconds: float = 0.0
    clip_bytes: int = 0
    url_seconds: float = 3600.0
    now: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    clip: Callable[[ClipOrder], bytes] | None = None
    state: Path | None = None


def price_micros(settings: Settings, resolution: str, seconds: float) -> int:
    """What a successful render of so many seconds is billed."""
    name = "480P" if settings.pricing == "approximate" else resolution
    rate = settings.prices.get(name, 0.05) * 1e6
    units = {"cps": seconds, "approximate": seconds, "cp-outputVideoLength": CLIP_SECONDS}
    return round(round(rate) * units.get(settings.pricing, 1))


def tool(settings: Settings) -> dict[str, Any]:
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
    if pricing in METHODS:
        shown["dynamicprice"] = json.dumps(
            [
                {"inputs": {"resolution": name}, "price": price, "priceMethod": pricing}
                for name, price in settings.prices.items()
            ]
        )
    return shown


def _parameters() -> list[dict[str, Any]]:
    """The parameters in groups, as the documentation has them."""
    choices = {"resolution": RESOLUTIONS, "aspectRatio": ASPECTS}
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
