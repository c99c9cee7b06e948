"""A local Wiro with seeded faults: a test double that speaks the service's protocol, in process or over HTTP.

It imports nothing from the rest of the package, so that client and sandbox cannot share a mistake.

Example:
    >>> from wan_async.sandbox import transport
    >>> local = transport(balance_usd=5, task_seconds=(0.1, 0.2), faults={"drop_after@Run": 0.05})
    >>> local.sandbox.account.balance_micros
    5000000
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
