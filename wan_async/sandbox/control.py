"""Routes for tests: `GET /sandbox/account` reports the account, `POST /sandbox/control` changes the sandbox.

The body of a change is a JSON object with any of these keys:

    settings            object: settings to change, see `Sandbox.change`
    faults              object: all probabilities by name, see `Faults.set_probabilities`
    fault_next          object: arguments of `Faults.next`
    refuse_runs         object: arguments of `Sandbox.refuse_runs`
    teammates           object: arguments of `Sandbox.add_teammate_tasks`
    next_task_id        integer: see `Sandbox.restart_ids`
    concurrency_limit   integer or null: maximum of active tasks
    balance_usd         number: new balance
    cancel              string: key of the task to kill
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wan_async.sandbox.http import Answer, json_answer
from wan_async.sandbox.service import Sandbox

PREFIX = "/sandbox/"


def answer_control(
    sandbox: Sandbox, method: str, path: str, headers: Mapping[str, str], port: int, body: bytes
) -> Answer:
    """Answer a request to one of these routes.

    Args:
        sandbox: the sandbox.
        method: of the request.
        path: of the request.
        headers: names in lower case.
        port: at which the server listens.
        body: of the request.
    """
    if method not in ("GET", "HEAD") and not _is_same_origin(headers, port):
        return json_answer(403, {"error": "only requests from this address itself may change the sandbox"})
    if path == f"{PREFIX}control" and method == "POST":
        try:
            _apply(sandbox, json.loads(body))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return json_answer(400, {"error": str(error)})
    return json_answer(200, _report(sandbox))


def _report(sandbox: Sandbox) -> dict[str, Any]:
    now = sandbox.settings.now()
    sandbox.account.settle(now)
    fetched = {task: at for at, endpoint, task in reversed(sandbox.log) if endpoint == "cdn"}
    return {
        "balance_usd": sandbox.account.balance_micros / 1e6,
        "spent_usd": sandbox.account.spent_micros / 1e6,
        "requests": dict(sandbox.requests),
        "leaks": sandbox.leaks,
        "tasks": [
            {
                "id": task.id,
                "status": task.status(now),
                "succeeded": task.succeeded(now),
                "cost_usd": task.cost(now) / 1e6,
                "projectid": task.project_id,
                "created": task.created,
                "seconds": task.seconds,
                "fetched": fetched.get(task.id),
                "parameters": task.parameters,
            }
            for task in sandbox.account.tasks.values()
        ],
    }


def _apply(sandbox: Sandbox, wanted: object) -> None:
    if not isinstance(wanted, dict):
        raise TypeError("the body is not a JSON object")
    if "faults" in wanted:
        sandbox.faults.set_probabilities(wanted["faults"])
    if "settings" in wanted:
        sandbox.change(**wanted["settings"])
    if "refuse_runs" in wanted:
        sandbox.refuse_runs(**wanted["refuse_runs"])
    if "teammates" in wanted:
        sandbox.add_teammate_tasks(**wanted["teammates"])
    if "next_task_id" in wanted:
        sandbox.restart_ids(int(wanted["next_task_id"]))
    if "concurrency_limit" in wanted:
        sandbox.account.set_limit(wanted["concurrency_limit"])
    if "balance_usd" in wanted:
        sandbox.account.set_balance(round(wanted["balance_usd"] * 1e6), sandbox.settings.now())
        sandbox.save()
    if "cancel" in wanted:
        sandbox.end(sandbox.account.tasks[wanted["cancel"]])
    if "fault_next" in wanted:
        sandbox.faults.next(**wanted["fault_next"])


def _is_same_origin(headers: Mapping[str, str], port: int) -> bool:
    """Whether a request was sent to this server's own address, and not by a page of another origin."""
    host = headers.get("host", "").lower()
    own = f"http://{host}"
    # any other host name may have been rebound to this machine by DNS after its page was loaded
    known = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
    return host in known and headers.get("origin", own).lower() == own
