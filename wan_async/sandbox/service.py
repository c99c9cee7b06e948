"""A local Wiro without a network: takes a request, returns an answer. Server and in-process transport wrap it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Unpack
from urllib.parse import unquote

from wan_async.sandbox.account import Account
from wan_async.sandbox.auth import Authenticator
from wan_async.sandbox.clip_orders import ClipOrders
from wan_async.sandbox.faults import Faults
from wan_async.sandbox.file_endpoints import FileEndpoints
from wan_async.sandbox.http import Answer, Refusal, Request, html_answer, json_answer, read_body
from wan_async.sandbox.model_description import OWNER, PROJECT, describe_model
from wan_async.sandbox.run_endpoint import TEAMMATE_PROJECT_ID, RunEndpoint
from wan_async.sandbox.settings import Changes, ClipOrder, Overrides, Settings
from wan_async.sandbox.state import Call, State
from wan_async.sandbox.task_endpoints import TaskEndpoints
from wan_async.sandbox.tasks import Task
from wan_async.sandbox.views import next_message_at, socket_messages

_ERROR_PAGES = {"http_500": "500 Internal Server Error", "html_403": "403 Forbidden", "html_404": "404 Not Found"}
"""Title of the page that a proxy answers instead of the service, by fault."""


class Sandbox:
    """A local Wiro with an account of its own.

    Args:
        settings: how it behaves; by default `Settings()`.
        overrides: single settings, by name.

    Raises:
        ValueError: a setting has a value that is not allowed, or there is no such fault.

    Attributes:
        settings: its own copy of the settings.
        account: balance (micro-dollars) and tasks.
        faults: injected faults.
        requests: number of requests by endpoint; `cdn` counts downloads.
        log: the latest requests: unix time, endpoint, task id.
        leaks: paths of downloads that were sent with credentials.

    Example:
        >>> sandbox = Sandbox(balance_usd=5, task_seconds=(0.1, 0.2))
        >>> sandbox.faults.next("drop_after", "Run")
    """

    def __init__(self, settings: Settings | None = None, **overrides: Unpack[Overrides]) -> None:
        self.settings: Settings = replace(settings or Settings(), **overrides)
        self._state = State(self.settings)
        self._authenticator = Authenticator(self.settings, self._state.database)
        self._clip_orders = ClipOrders(self._state)
        self._run = RunEndpoint(self._state, self._clip_orders)
        self._tasks = TaskEndpoints(self._state)
        self._files = FileEndpoints(self._state)
        self._base_url = "http://127.0.0.1"
        self._endpoints: dict[str, Callable[[Call], dict[str, object]]] = {
            "Run": self._run.run,
            "Task/Detail": self._tasks.detail,
            "Task/List": self._tasks.list,
            "Task/Cancel": self._tasks.cancel,
            "Task/Kill": self._tasks.kill,
            "Task/InputOutputDelete": self._tasks.delete,
            "File/Upload": self._files.upload,
            "Tool/Detail": self._tool,
            "Wallet/List": self._wallet,
        }
        self.requests: Counter[str] = Counter()
        if self._state.is_first_start:
            self.add_teammate_tasks(self.settings.teammates)

    @property
    def account(self) -> Account:
        """Balance and tasks."""
        return self._state.account

    @property
    def faults(self) -> Faults:
        """Injected faults."""
        return self._state.faults

    @property
    def log(self) -> deque[tuple[float, str, str]]:
        """The latest requests: unix time, endpoint, task id."""
        return self._state.log

    @property
    def leaks(self) -> list[str]:
        """Paths of downloads that were sent with credentials."""
        return self._files.leaks

    def close(self) -> None:
        """Close the database in the state folder, if there is one."""
        self._state.close()

    def save(self) -> None:
        """Store the account in the state folder, if there is one."""
        self._state.save()

    async def answer(self, request: Request) -> Answer:
        """Answer a request, or let it meet a fault."""
        if self.settings.latency_seconds:
            await self.settings.sleep(self.settings.latency_seconds)
        path = unquote(request.path)
        if request.method in ("GET", "HEAD"):
            if path.startswith("/cdn/"):
                self.requests["cdn"] += 1
                return self._files.serve_clip(request, path)
            if path.startswith("/v1/File/"):
                return self._files.serve_upload(request, path)
        endpoint = path.removeprefix("/v1/").strip("/")
        name = "Run" if endpoint.startswith("Run/") else endpoint
        if not path.startswith("/v1/") or name not in self._endpoints or request.method != "POST":
            return json_answer(404, {"errors": [{"code": 0, "message": "Error parsing url."}], "result": False})
        self.requests[name] += 1
        self._base_url = request.base_url
        return await self._answer_with_faults(request, name, endpoint)

    async def _answer_with_faults(self, request: Request, name: str, endpoint: str) -> Answer:
        meets = self.faults.meets
        if meets("slow_answer", name):
            await self.settings.sleep(1.0 + 2 * self.faults.draw())
        if meets("drop_before", name):
            return Answer(0, {}, drop=True)
        for fault, title in _ERROR_PAGES.items():
            if meets(fault, name):
                return html_answer(int(title[:3]), title)
        if meets("http_429", name):
            errors = [{"code": 0, "message": "Too many requests"}]
            return json_answer(429, {"result": False, "errors": errors}, {"retry-after": "1"})
        bad_gateway = meets("html_502", name)
        if bad_gateway and self.faults.draw() < 0.5:
            return html_answer(502, "502 Bad Gateway")
        answer = self._process(request, name, endpoint)
        if bad_gateway:
            return html_answer(502, "502 Bad Gateway")
        if meets("drop_after", name):
            return Answer(0, {}, drop=True)
        return answer.truncated() if meets("cut_json", name) else answer

    def _process(self, request: Request, name: str, endpoint: str) -> Answer:
        try:
            project = self._authenticator.authenticate(request.headers)
            form, files = read_body(request)
            file = files.get("inputImage" if name == "Run" else "file")
            content = self._endpoints[name](Call(endpoint, project, form, file, request.base_url))
        except Refusal as refusal:
            errors = [{"code": refusal.code, "message": refusal.message}]
            return json_answer(refusal.status, {"errors": errors, "result": False})
        return json_answer(200, {"errors": [], **content, "result": True})

    def _tool(self, call: Call) -> dict[str, object]:
        if (call.form.get("slugowner"), call.form.get("slugproject")) != (OWNER, PROJECT):
            raise Refusal(1, "tool-not-accessible")
        return {"tool": [describe_model(self.settings)]}

    def _wallet(self, _: Call) -> dict[str, object]:
        self.account.settle(self.settings.now())
        balance = f"{self.account.balance_micros / 1e6:.6f}"
        return {"list": [{"id": "1", "title": "Main wallet", "currency": "USD", "balance": balance}]}

    def next(self, fault: str, endpoint: str | None = None, times: int = 1) -> None:
        """Let the next requests that can meet a fault meet it; see `Faults.next`.

        Example:
            >>> Sandbox().next("drop_after", "Run")
        """
        self.faults.next(fault, endpoint, times)

    def change(self, **values: Unpack[Changes]) -> None:
        """Change settings after the start.

        Raises:
            ValueError: a setting is not in `settings.CHANGEABLE`, or the value is not allowed.

        Example:
            >>> Sandbox().change(uploads="refuse")
        """
        self._state.change(**values)

    def refuse_runs(self, code: int, message: str, times: int | None = None) -> None:
        """Refuse Runs with an error code and message.

        Args:
            code: error code of the service.
            message: its message.
            times: number of Runs; None refuses all from now on, 0 ends the refusal.
        """
        self._run.refuse(code, message, times)

    def restart_ids(self, first: int) -> None:
        """Give the next task this id, even if an earlier task has the same."""
        self.account.restart_ids(first)

    def add_teammate_tasks(
        self,
        count: int = 1,
        parameters: dict[str, str] | None = None,
        *,
        project_id: str = TEAMMATE_PROJECT_ID,
        seconds: float | None = None,
    ) -> list[Task]:
        """Create tasks of another project of the workspace, which are listed, counted and charged like the others.

        Args:
            count: number of tasks.
            parameters: form fields that differ from the model's defaults.
            project_id: id of the project that they are billed to.
            seconds: their duration; by default the longest in `Settings.task_seconds`.
        """
        return self._run.add_teammate_tasks(count, parameters, project_id, seconds)

    def end(self, task: Task) -> None:
        """Kill a task as if a teammate did.

        Raises:
            ValueError: it has ended.
        """
        self._tasks.end(task, self._base_url)

    def view(self, task: Task, base_url: str) -> dict[str, object]:
        """A task as Task/Detail shows it, with URLs that begin with `base_url`."""
        return self._tasks.view(task, base_url)

    def render_with(self, start: Callable[[ClipOrder], None] | None) -> None:
        """Hand the clips of new tasks to a renderer; the tasks are held until `deliver_clip`. None renders at once."""
        self._clip_orders.use(start)

    def order_of(self, task: Task) -> ClipOrder:
        """What a task's clip is rendered from."""
        return self._clip_orders.order_of(task)

    def deliver_clip(self, task_key: str, data: bytes | None) -> None:
        """Store a clip that was rendered elsewhere; None if it cannot be rendered, which fails the task."""
        self._clip_orders.deliver(task_key, data)

    def resume_rendering(self) -> None:
        """Order the clips that were being rendered when the previous process ended."""
        self._clip_orders.resume()

    def listen_at(self, base_url: str) -> None:
        """Set the scheme, host and port of URLs in messages that answer no request (WebSocket, callbacks)."""
        self._base_url = base_url

    def messages(self, token: str, after: int) -> tuple[list[dict[str, object]], float | None]:
        """WebSocket messages of a task.

        Args:
            token: the task's token.
            after: number of messages that were sent already.

        Returns:
            The messages due by now, and when there may be more (unix seconds; None for never).
        """
        task = self.account.tasks.get(self.account.by_token.get(token, ""))
        if task is None:
            return [], None
        now = self.settings.now()
        self.account.settle(now)
        sent = socket_messages(task, now, self._base_url, self.settings.socket_format)
        return sent[after:], next_message_at(task, now)

    def callbacks_due(self) -> list[tuple[str, dict[str, object]]]:
        """URL and content of the callbacks of tasks that have ended since the last call."""
        now = self.settings.now()
        due = []
        for task in self.account.tasks.values():
            url = task.parameters.get("callbackUrl", "")
            if url and not task.called_back and task.is_over(now):
                task.mark_called_back()
                self._state.save(task)
                due.append((url, self.view(task, self._base_url)))
        return due
