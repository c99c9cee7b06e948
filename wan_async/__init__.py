"""Asyncio client and concurrent batch runner for Wiro's Wan2.2-TI2V-5B-Image-to-Video-Fast.

    from wan_async import Job, WanClient, open_batch

Importing the package does no I/O and installs no signal handlers; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wan_async.callback import callback_app
    from wan_async.client import Clip, Task, WanClient, open_batch
    from wan_async.context import Options
    from wan_async.errors import (
        Ambiguous,
        AtLimit,
        InvalidBatch,
        JobFailed,
        Missing,
        NotFound,
        OutOfFunds,
        StopBatch,
        TryLater,
        Unusable,
        WanError,
    )
    from wan_async.jobs import Job

__version__ = "0.1.0"

__all__ = [
    "Ambiguous",
    "AtLimit",
    "Clip",
    "InvalidBatch",
    "Job",
    "JobFailed",
    "Missing",
    "NotFound",
    "Options",
    "OutOfFunds",
    "StopBatch",
    "Task",
    "TryLater",
    "Unusable",
    "WanClient",
    "WanError",
    "callback_app",
    "open_batch",
]

_ROOMS = {
    "callback": ("callback_app",),
    "client": ("Clip", "Task", "WanClient", "open_batch"),
    "context": ("Options",),
    "jobs": ("Job",),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
