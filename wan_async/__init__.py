"""Asyncio client and concurrent batch runner for Wiro's Wan2.2-TI2V-5B-Image-to-Video-Fast.

    from wan_async import Job, WanClient, open_batch

Importing the package does no I/O and installs no signal handlers; each name is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wan_async import events as events
    from wan_async import sandbox as sandbox
    from wan_async.client.batches import BatchResult, BatchRun, JobResult, open_batch
    from wan_async.client.progress import TaskEvents
    from wan_async.client.sync import generate_sync
    from wan_async.client.wan_client import WanClient
    from wan_async.domain.image_bytes import ImageBytes
    from wan_async.domain.job import Job
    from wan_async.domain.remote_task import TaskDetail
    from wan_async.engine.options import Options
    from wan_async.errors import (
        Ambiguous,
        AtLimit,
        BatchFailed,
        Closed,
        InvalidBatch,
        JobFailed,
        Missing,
        NotFound,
        OutOfFunds,
        StopBatch,
        TimedOut,
        TryLater,
        Unusable,
        WanError,
    )
    from wan_async.task_handles import Clip, Task
    from wan_async.wiro.api import RequestReport
    from wan_async.wiro.webhook import callback_app

__version__ = "0.1.0"

__all__ = [
    "Ambiguous",
    "AtLimit",
    "BatchFailed",
    "BatchResult",
    "BatchRun",
    "Clip",
    "Closed",
    "ImageBytes",
    "InvalidBatch",
    "Job",
    "JobFailed",
    "JobResult",
    "Missing",
    "NotFound",
    "Options",
    "OutOfFunds",
    "RequestReport",
    "StopBatch",
    "Task",
    "TaskDetail",
    "TaskEvents",
    "TimedOut",
    "TryLater",
    "Unusable",
    "WanClient",
    "WanError",
    "callback_app",
    "generate_sync",
    "open_batch",
]

_MODULES = {
    "client.batches": ("BatchResult", "BatchRun", "JobResult", "open_batch"),
    "client.progress": ("TaskEvents",),
    "client.sync": ("generate_sync",),
    "client.wan_client": ("WanClient",),
    "domain.image_bytes": ("ImageBytes",),
    "domain.job": ("Job",),
    "domain.remote_task": ("TaskDetail",),
    "engine.options": ("Options",),
    "task_handles": ("Clip", "Task"),
    "wiro.api": ("RequestReport",),
    "wiro.webhook": ("callback_app",),
}
_SUBMODULES = ("events", "sandbox")
"""Public modules: `import wan_async` is enough for `wan_async.events`."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
