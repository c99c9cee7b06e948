"""Asyncio client and concurrent batch runner for Wiro's Wan2.2-TI2V-5B-Image-to-Video-Fast.

    from wan_async import Job, WanClient, open_batch

Importing the package does no I/O and installs no signal handlers; each name is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wan_async.batches import open_batch
    from wan_async.client import WanClient
    from wan_async.domain.job import Job
    from wan_async.engine.options import Options
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
    from wan_async.handles import Clip, Task
    from wan_async.wiro.webhook import callback_app

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

_MODULES = {
    "batches": ("open_batch",),
    "client": ("WanClient",),
    "domain.job": ("Job",),
    "engine.options": ("Options",),
    "handles": ("Clip", "Task"),
    "wiro.webhook": ("callback_app",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
