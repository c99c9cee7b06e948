"""A client belongs to the event loop of its first call."""

from __future__ import annotations

import anyio
import pytest

from wan_async import Job
from wan_async.testing import make_client, make_sandbox


@pytest.mark.parametrize("second", ["asyncio", "trio"])
def test_a_call_in_a_second_event_loop_is_refused_before_anything_is_paid(second: str) -> None:
    sandbox = make_sandbox(task_seconds=(0.05, 0.1))
    client = make_client(sandbox)
    task = anyio.run(client.submit, Job(prompt="rain"))
    with pytest.raises(RuntimeError, match="another event loop"):
        anyio.run(client.submit, Job(prompt="snow"), backend=second)
    with pytest.raises(RuntimeError, match="another event loop"):
        anyio.run(client.read, task, backend=second)
    anyio.run(client.aclose)
    assert sandbox.requests["Run"] == 1
