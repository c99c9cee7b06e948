"""A local Wiro with seeded faults: a test double that answers the real protocol, in process or over HTTP.

It imports nothing of the client, so that the two can't share a mistake.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wan_async.sandbox.in_process import transport
    from wan_async.sandbox.service import Sandbox
    from wan_async.sandbox.settings import ClipOrder, Settings

__all__ = ["ClipOrder", "Sandbox", "Settings", "transport"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"transport": "in_process", "Sandbox": "service"}.get(name, "settings")
    return getattr(import_module(f"{__name__}.{module}"), name)
