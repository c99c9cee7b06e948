"""Tests of apps that use wan_async: a sandbox in process, a client of it, and a clock that costs nothing.

As a pytest plugin it brings the fixtures `wan_sandbox` and `wan_client`. On asyncio and trio a test takes milliseconds,
since time jumps to the next deadline whenever all tasks wait:

    async def test_the_bot_answers_with_a_clip(wan_client, wan_sandbox):
        wan_sandbox.next("http_429", "Run")
        clip = await wan_client.generate(Job(prompt="rain"), to="rain.mp4")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wan_async.testing.clients import make_client, make_sandbox
    from wan_async.testing.clip_files import tiny_mp4

__all__ = ["make_client", "make_sandbox", "tiny_mp4"]

_MODULE_OF = {"make_client": "clients", "make_sandbox": "clients", "tiny_mp4": "clip_files"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
