"""The settings of a sandbox, and their allowed values."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from wan_async.sandbox.faults import DENIALS, REFUSALS

PRICE_METHODS = ("cpr", "cps", "cpo", "cp-outputVideoLength")
CHOICES: dict[str, tuple[object, ...]] = {
    "denial": tuple(DENIALS),
    "echo": ("faithful", "empty", "rewritten", "string"),
    "pricing": (*PRICE_METHODS, "approximate", "none"),
    "refusal": (None, *REFUSALS),
    "show_projectid": (True, False),
    "socket_format": ("id", "token", "both"),
    "uploads": ("accept", "refuse"),
}
"""Allowed values of the settings that are chosen from a list."""


async def _sleep(seconds: float) -> None:
    import anyio  # the command line's help need not load it

    await anyio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class ClipOrder:
    """What a clip is rendered from.

    Attributes:
        image: the bytes of the input image.
        prompt: the prompt.
        resolution: `480P`, `580P` or `720P`.
        aspect_ratio: `Default` (that of the image), `16:9`, `9:16` or `1:1`.
        seed: an integer as text.
        task_id: the key of the task.
    """

    image: bytes | None
    prompt: str
    resolution: str
    aspect_ratio: str
    seed: str
    task_id: str


class Changes(TypedDict, total=False):
    """Settings that can be changed after the start; for the meaning of each see `Settings`."""

    api_secret: str | None
    denial: str
    echo: str
    refusal: str | None
    show_projectid: bool
    socket_format: str
    uploads: str


CHANGEABLE = tuple(Changes.__annotations__)
"""The names of these settings."""


class Overrides(Changes, total=False):
    """Settings as keyword arguments; for the meaning of each see `Settings`."""

    seed: int
    api_key: str
    projects: dict[str, str | None]
    balance_usd: float
    prices: dict[str, float]
    pricing: str
    concurrency_limit: int | None
    minimum_usd: float | None
    limit_schedule: list[tuple[float, int]]
    task_seconds: tuple[float, float]
    visible_after_seconds: float
    strict_nonce: bool
    first_task_id: int
    teammates: int
    faults: dict[str, float]
    task_error_seconds: float
    late_charge_seconds: float
    late_outputs_seconds: float
    late_cdn_seconds: float
    denied_seconds: float
    list_page_cap: int
    latency_seconds: float
    clip_bytes: int
    url_seconds: float
    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    clip: Callable[[ClipOrder], bytes] | None
    state: Path | None


@dataclass(kw_only=True)
class Settings:
    """How a sandbox behaves. Durations are seconds, amounts USD.

    Attributes:
        seed: of all random draws.
        api_key: key of the sandbox's own project.
        api_secret: its secret; None makes it a project without signatures.
        projects: keys and secrets of the account's other projects, which share its balance but see none of its tasks.
        balance_usd: initial balance.
        prices: price of a clip by resolution (of a second, if `pricing` is `cps`).
        pricing: one of `PRICE_METHODS`; `approximate`: the tool shows only `cps` and an estimate; `none`: no price.
        concurrency_limit: maximum of active tasks; None for the service's rule, a tenth of the balance in USD.
        minimum_usd: balance below which Runs are refused; None: the balance must cover all active tasks.
        limit_schedule: (seconds from the start, limit) pairs that override the limit.
        task_seconds: shortest and longest duration of a task.
        visible_after_seconds: delay from a Run until its task is found by other requests.
        echo: how tasks show their parameters: `faithful`, `empty` (`{}`), `rewritten` (the image's URL becomes one of
            the service's), `string` (JSON in a string).
        show_projectid: tasks show the id of the project that they are billed to.
        socket_format: what identifies the task in WebSocket messages: `id` (as documented), `token`, or `both`.
        uploads: `accept`, or `refuse` as the service does for some API keys.
        denial: answer for a task that does not exist, a key of `faults.DENIALS`.
        refusal: answer to every Run, a key of `faults.REFUSALS`; None accepts Runs.
        strict_nonce: refuse a repeated nonce also if it is a time in whole seconds.
        first_task_id: id of the first task.
        teammates: number of tasks that other projects of the workspace have at the start.
        faults: probabilities by name, see `faults.FAULTS`.
        task_error_seconds: duration of the fault `task_error`.
        late_charge_seconds: delay of the fault `late_charge`.
        late_outputs_seconds: delay of the fault `late_outputs`.
        late_cdn_seconds: delay of the fault `late_cdn`.
        denied_seconds: duration of the fault `denied`.
        list_page_cap: maximum of tasks in an answer of Task/List.
        latency_seconds: delay of every answer.
        clip_bytes: length in bytes to which clips are padded.
        url_seconds: how long an output's URL is valid.
        now: the clock, unix seconds.
        sleep: waits for some seconds.
        clip: renders a clip; None for files of some hundred bytes that only have the structure of an MP4.
        state: folder in which account, tasks and files are kept; None for memory.

    Example:
        >>> settings = Settings(balance_usd=5, task_seconds=(0.1, 0.2), faults={"drop_after@Run": 0.05})
    """

    seed: int = 0
    api_key: str = "sandbox-key"
    api_secret: str | None = "sandbox-secret"  # noqa: S105 - a public constant
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
    sleep: Callable[[float], Awaitable[None]] = _sleep
    clip: Callable[[ClipOrder], bytes] | None = None
    state: Path | None = None

    def check(self) -> None:
        """Check the settings that are chosen from a list.

        Raises:
            ValueError: a value is not allowed; the message names the allowed ones.
        """
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is one of {', '.join(map(str, choices))}")
