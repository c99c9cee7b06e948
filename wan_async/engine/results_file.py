"""`results.jsonl`: how each job of a batch stands."""

from __future__ import annotations

from collections.abc import Mapping

from wan_async import errors
from wan_async.domain.lifecycle import State
from wan_async.domain.money import usd
from wan_async.engine.environment import Environment
from wan_async.journal.base import Home
from wan_async.journal.reports import Result, read_results
from wan_async.outputs import sidecar


async def write_results(environment: Environment, home: Home, names: Mapping[str, str]) -> None:
    """`results.jsonl`: how each job of the batch stands, in batch order.

    Raises:
        errors.Unusable: the store refused.
    """
    lines = (_line(result, names.get(result.job)) for result in read_results(home))
    try:
        await environment.store.replace("results.jsonl", sidecar.json_lines(lines))
    except (errors.TryLater, errors.JobFailed) as error:
        raise errors.Unusable(error.message) from None


def _line(result: Result, name: str | None) -> dict[str, object]:
    return {
        "job": result.job,
        "name": name,
        "state": result.state,
        "file": result.file if result.state == State.STORED else None,
        "task_id": result.task_id,
        "cost_usd": None if result.cost is None else f"{usd(result.cost):f}",
        "sha256": result.sha256 if result.state == State.STORED else None,
        "error": result.error,
    }
