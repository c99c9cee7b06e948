"""The pytest plugin: fixtures `wan_sandbox` and `wan_client`. Imports nothing heavy before a fixture is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from wan_async import WanClient
    from wan_async.sandbox import Sandbox


@pytest.fixture
def wan_sandbox() -> Sandbox:
    """A local Wiro in process, on the test's clock; its clips are `tiny_mp4`.

    `wan_sandbox.next("drop_after", "Run")` lets the next Run meet a fault; `wan_sandbox.account` is its account.
    """
    from wan_async.testing.clients import make_sandbox

    return make_sandbox()


@pytest.fixture
def wan_client(wan_sandbox: Sandbox) -> Iterator[WanClient]:
    """A client of `wan_sandbox`. From its first request on the time of the test's event loop is virtual."""
    from wan_async.testing.clients import make_client
    from wan_async.testing.virtual_clock import VirtualClock

    clock = VirtualClock()
    yield make_client(wan_sandbox, clock)
    clock.stop()
