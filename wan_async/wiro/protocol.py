"""Requests to the service: paths and bodies. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wan_async.domain.model import CALLBACK_FIELD, Model, Parameters
from wan_async.domain.remote_task import TaskId, TaskToken

BASE_URL = "https://api.wiro.ai/v1"
SOCKET_URL = "wss://socket.wiro.ai/v1"

LIST_PAGE = 100
"""Task/List answers 100 tasks a page at most (Wiro's API documentation)."""


@dataclass(frozen=True, slots=True)
class Request:
    """One POST of the API: a path below the base URL, and a JSON body. A `safe` one may be repeated."""

    path: str
    body: Mapping[str, str] = field(repr=False)
    safe: bool = True


def run_request(model: Model, parameters: Parameters, callback_url: str = "") -> Request:
    """Run as JSON. It costs money and is not idempotent."""
    body = parameters | ({CALLBACK_FIELD: callback_url} if callback_url else {})
    return Request(f"/Run/{model.name}", body, safe=False)


def detail_request(task: TaskId | None, token: TaskToken | None) -> Request:
    """Task/Detail, by token where there is one (it needs no project), else by id."""
    return Request("/Task/Detail", {"tasktoken": token} if token else {"taskid": task or ""})


def list_request(model: Model, start: int = 0, limit: int = LIST_PAGE) -> Request:
    """Task/List: the workspace's tasks of a model, newest first."""
    body = {
        "type": "model",
        "sort": "id",
        "order": "DESC",
        "start": str(start),
        "limit": str(limit),
        "modelName": model.name,
    }
    return Request("/Task/List", body)


def cancel_request(task: TaskId) -> Request:
    """Task/Cancel, for a task that is still queued."""
    return Request("/Task/Cancel", {"taskid": task}, safe=False)


def kill_request(task: TaskId | None, token: TaskToken | None) -> Request:
    """Task/Kill, for a task that runs."""
    return Request("/Task/Kill", {"socketaccesstoken": token} if token else {"taskid": task or ""}, safe=False)


def delete_request(token: TaskToken) -> Request:
    """Task/InputOutputDelete: removes the files of a finished task; idempotent."""
    return Request("/Task/InputOutputDelete", {"tasktoken": token})


def tool_request(model: Model) -> Request:
    """Tool/Detail of a model: its parameters and prices."""
    return Request("/Tool/Detail", {"slugowner": model.owner, "slugproject": model.project})


def wallet_request() -> Request:
    """Wallet/List: the balances of the account, with a team's key those of the team."""
    return Request("/Wallet/List", {})


UPLOAD_PATH = "/File/Upload"
