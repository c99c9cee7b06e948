"""A local Wiro without a network: a request in, an answer out. Server and in-process transport are shells of it."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import Any
from urllib.parse import unquote

from wan_async.sandbox.account import Account, Task
from wan_async.sandbox.exchange import Answer, File, Refusal, Request, html_answer, json_answer, read_body, serve_file
from wan_async.sandbox.faults import Faults
from wan_async.sandbox.gate import Gate
from wan_async.sandbox.settings import (
    ASPECTS,
    DEFAULTS,
    MODEL,
    OWNER,
    PROJECT,
    RESOLUTIONS,
    ClipOrder,
    Settings,
    price_micros,
    tool,
)
from wan_async.sandbox.shelf import Shelf, padded, tiny
from wan_async.sandbox.shown import history, next_news, outputs_of, show
from wan_async.sandbox.store import Store

UPLOAD_LIMIT = 100_000_000
_NOT_FOUND = "There is no task yet."


@dataclass(frozen=True, slots=True)
class _Call:
    """A request that was let in, and read."""

    endpoint: str
    project: str
    form: dict[str, str]
    file: File | None
    base: str


class Sandbox:
    """A local Wiro.

    Attributes:
        account: balance and tasks.
        faults: what goes wrong.
        requests: how many requests each endpoint had; `cdn` for downloads.
        log: the latest requests: time, endpoint, task id.
        leaks: downloads that carried credentials.
        base: where it was last reached, for what is said without being asked.
        on_start: told of each task whose clip is to be made elsewhere; it is then held until `provide_clip`.
        changed: called when a task was made or ended, or its clip came.
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        self.settings = replace(settings or Settings(), **overrides)
        wanted = self.settings
        self._store = Store(wanted.state) if wanted.state is not None else None
        start = self._store.start if self._store is not None else 0
        self.faults = Faults(wanted.faults, wanted.seed, start)
        self.requests: Counter[str] = Counter()
        self.log: deque[tuple[float, str, str]] = deque(maxlen=10_000)
        self.leaks: list[str] = []
        self.base = "http://127.0.0.1"
        self.on_start: Callable[[ClipOrder], None] | None = None
        self.changed: Callable[[], None] = lambda: None
        self.account = Account(
            round(wanted.balance_usd * 1e6), wanted.now(), wanted.seed, wanted.concurrency_limit, wanted.limit_schedule
        )
        again = f"-{start}" * (start > 0)
        self._random = random.Random(f"service-{wanted.seed}{again}")  # noqa: S311 - seeded on purpose
        self._shelf = Shelf(self._store)
        self._gate = Gate(wanted, self._store)
        if self._store is not None:
            self._store.load(self.account)

    def close(self) -> None:
        """Closes the files of its folder."""
        if self._store is not None:
            self._store.close()

    def keep(self, *tasks: Task) -> None:
        """Keeps tasks and the account as they stand, if there is a folder for them."""
        if self._store is not None:
            self._store.put(self.account, *tasks)

    async def answer(self, request: Request) -> Answer:
        """The answer to a request."""
        if self.settings.latency_seconds:
            await self.settings.sleep(self.settings.latency_seconds)
        path = unquote(request.path)
        if request.method in ("GET", "HEAD"):
            if path.startswith("/cdn/"):
                return self._download(request, path)
            if path.startswith("/v1/File/"):
                return self._uploaded(request, path)
        endpoint = path.removeprefix("/v1/").strip("/")
        name = "Run" if endpoint.startswith("Run/") else endpoint
        if not path.startswith("/v1/") or name not in self._ENDPOINTS or request.method != "POST":
            return html_answer(404, "404 Not Found")
        self.requests[name] += 1
        self.base = request.base
        return await self._meet_faults(request, name, endpoint)

    async def _meet_faults(self, request: Request, name: str, endpoint: str) -> Answer:
        meets = self.faults.meets
        if meets("slow_answer", name):
            await self.settings.sleep(1.0 + 2 * self.faults.draw())
        if meets("drop_before", name):
            return Answer(0, {}, drop=True)
        if meets("http_500", name):
            return html_answer(500, "500 Internal Server Error")
        if meets("http_429", name):
            return json_answer(
                429, {"result": False, "errors": [{"code": 0, "message": "Too many requests"}]}, {"retry-after": "1"}
            )
        bad_gateway = meets("html_502", name)
        if bad_gateway and self.faults.draw() < 0.5:
            return html_answer(502, "502 Bad Gateway")
        try:
            content = self._process(request, name, endpoint)
            answer = json_answer(200, {"errors": [], **content, "result": True})
        except Refusal as refusal:
            errors = [{"code": refusal.code, "message": refusal.message}]
            answer = json_answer(refusal.status, {"errors": errors, "result": False})
        if bad_gateway:
            return html_answer(502, "502 Bad Gateway")
        if meets("drop_after", name):
            return Answer(0, {}, drop=True)
        if meets("cut_json", name):
            answer.body = answer.body[: len(answer.body) * 2 // 3]
            answer.headers["content-length"] = str(len(answer.body))
        return answer

    def _process(self, request: Request, name: str, endpoint: str) -> dict[str, Any]:
        project = self._gate.admit(request.headers)
        form, files = read_body(request)
        file = files.get("inputImage" if name == "Run" else "file")
        handler: Callable[[_Call], dict[str, Any]] = getattr(self, self._ENDPOINTS[name])
        return handler(_Call(endpoint, project, form, file, request.base))

    def _run(self, call: _Call) -> dict[str, Any]:
        if call.endpoint != f"Run/{MODEL}":
            raise Refusal(1, "tool-not-accessible")
        given = DEFAULTS | {name: value for name, value in call.form.items() if value != DEFAULTS.get(name)}
        _check_parameters(given)
        now, account = self.settings.now(), self.account
        low, high = self.settings.task_seconds
        seconds = low + (high - low) * self._random.random()
        price = price_micros(self.settings, given["resolution"], seconds)
        if (refusal := account.refusal(price, now)) is not None:
            raise Refusal(*refusal)
        image = self._image_of(given["inputImageUrl"]) if call.file is None else call.file[1]
        digest = None if image is None else hashlib.sha256(image).hexdigest()
        task = account.make(given, digest, price, seconds, now, call.project)
        if call.file is not None:
            task.parameters = given | {"inputImage": f"/v1/File/{task.token[:16]}/inputImage-{task.id}.png"}
            self._shelf.put(f"upload-{task.token[:16]}", call.file)
        if self.faults.meets("task_error", "Run"):
            task.ends, task.pexit, task.log = "task_error", "1", "CUDA error: out of memory"
        elif self.faults.meets("failed_render", "Run"):
            task.pexit, task.log = "1", "RuntimeError: the render failed"
        else:
            self._make_clip(task, _order(task, image))
        self.keep(task)
        self.log.append((now, "Run", task.id))
        self.changed()
        return {"taskid": task.id, "socketaccesstoken": task.token}

    def _make_clip(self, task: Task, order: ClipOrder) -> None:
        if self.on_start is not None:
            task.held = True
            self.on_start(order)
            return
        data = self.settings.clip(order) if self.settings.clip is not None else tiny(order)
        self._store_clip(task, data)

    def order_of(self, task: Task) -> ClipOrder:
        """What a task's clip is made from."""
        given = task.parameters
        return _order(task, self._image_of(given.get("inputImage") or given.get("inputImageUrl", "")))

    def tiny(self, order: ClipOrder) -> bytes:
        """A clip that only has the shape of one."""
        return tiny(order)

    def provide_clip(self, task_id: str, data: bytes | None) -> None:
        """A clip that was made elsewhere is there; None if it couldn't be made, which fails the task."""
        task = self.account.tasks[task_id]
        if data is None:
            task.pexit, task.log = "1", "ValueError: the input image can't be read"
        else:
            self._store_clip(task, data)
        self.account.release(task, self.settings.now())
        self.keep(task)
        self.changed()

    def _store_clip(self, task: Task, data: bytes) -> None:
        data = padded(data, self.settings.clip_bytes)
        task.size = len(data)
        if self.faults.meets("bad_size", "Run"):
            task.shown_size = len(data) + 1 + int(1000 * self.faults.draw())
        self._shelf.put(f"clip-{task.id}", ("video/mp4", data))

    def _image_of(self, url: str) -> bytes | None:
        file = self._upload_at(url)
        return None if file is None else file[1]

    def _upload_at(self, url: str) -> File | None:
        """An image of the service's own, whatever the host and port it was reached at."""
        found = re.match(r"(?:https?://[^/?#]*)?/v1/File/(\w+)/", url)
        return self._shelf.get(f"upload-{found[1]}") if found else None

    def _file_upload(self, call: _Call) -> dict[str, Any]:
        if call.file is None:
            raise Refusal(0, "Request files [file] required")
        kind, data = call.file
        if len(data) > UPLOAD_LIMIT:
            raise Refusal(0, "Request files [file] is too large")
        name = hashlib.sha256(data).hexdigest()[:24] + f"{len(self.log):x}{self._random.getrandbits(24):x}"
        self._shelf.put(f"upload-{name}", call.file)
        url = f"{call.base}/v1/File/{name}/input"
        return {"list": [{"id": name, "name": "input", "contenttype": kind, "size": str(len(data)), "url": url}]}

    def _task_of(self, call: _Call) -> Task:
        now, form = self.settings.now(), call.form
        task = self.account.find(form.get("taskid", ""), form.get("tasktoken") or form.get("socketaccesstoken", ""))
        if task is None or task.project != call.project or now < task.created + self.settings.visible_after_seconds:
            raise Refusal(1, _NOT_FOUND)
        self.account.settle(now)
        return task

    def _detail(self, call: _Call) -> dict[str, Any]:
        task = self._task_of(call)
        if self.faults.meets("vanish", "Task/Detail"):
            raise Refusal(1, _NOT_FOUND)
        self.log.append((self.settings.now(), "Task/Detail", task.id))
        return {"total": "1", "tasklist": [self.show(task, call.base)]}

    def _list(self, call: _Call) -> dict[str, Any]:
        now, form = self.settings.now(), call.form
        self.account.settle(now)
        start, limit = _whole(form, "start", 0), min(_whole(form, "limit", 20), self.settings.list_page_cap, 100)
        tasks = self.account.tasks
        if self.settings.projects:  # who has a single project doesn't pay for a copy
            tasks = {name: task for name, task in tasks.items() if task.project == call.project}
        newest = now - self.settings.visible_after_seconds
        hidden = sum(1 for _ in takewhile(lambda task: task.created > newest, reversed(tasks.values())))
        total = len(tasks) - hidden
        if form.get("modelName", MODEL) != MODEL or not total:
            raise Refusal(1, _NOT_FOUND)
        if form.get("order", "DESC").upper() == "ASC":
            page = list(islice(tasks.values(), start, min(total, start + limit)))
        else:
            page = list(islice(reversed(tasks.values()), hidden + start, hidden + start + limit))
        if page and self.faults.meets("vanish", "Task/List"):
            page.pop(int(self.faults.draw() * len(page)))
        return {"total": str(total), "tasklist": [self.show(task, call.base) for task in page]}

    def _cancel(self, call: _Call) -> dict[str, Any]:
        task = self._task_of(call)
        if task.status(self.settings.now()) != "task_queue":
            raise Refusal(1, "Task is not in a cancellable state.")
        return self.end(task, call.base)

    def _kill(self, call: _Call) -> dict[str, Any]:
        task = self._task_of(call)
        if task.is_over(self.settings.now()):
            raise Refusal(1, "Task is not in a killable state.")
        return self.end(task, call.base)

    def end(self, task: Task, base: str = "http://127.0.0.1") -> dict[str, Any]:
        """Cancels or kills a task, also from elsewhere.

        Raises:
            ValueError: it is over.
        """
        self.account.settle(self.settings.now())
        if task.is_over(self.settings.now()):
            raise ValueError(f"task {task.id} is over")
        self.account.cancel(task, self.settings.now())
        self.keep(task)
        self.changed()
        return {"tasklist": [self.show(task, base)]}

    def _delete(self, call: _Call) -> dict[str, Any]:
        task = self._task_of(call)
        if not task.is_over(self.settings.now()):
            raise Refusal(1, "Task is not in a terminal state.")
        task.deleted = True
        self.keep(task)
        for name in (f"clip-{task.id}", f"upload-{task.token[:16]}"):
            self._shelf.drop(name)
        return {}

    def _tool(self, call: _Call) -> dict[str, Any]:
        if (call.form.get("slugowner"), call.form.get("slugproject")) != (OWNER, PROJECT):
            raise Refusal(1, "tool-not-accessible")
        return {"tool": [tool(self.settings)]}

    _ENDPOINTS = {  # noqa: RUF012 - a table
        "Run": "_run",
        "Task/Detail": "_detail",
        "Task/List": "_list",
        "Task/Cancel": "_cancel",
        "Task/Kill": "_kill",
        "Task/InputOutputDelete": "_delete",
        "File/Upload": "_file_upload",
        "Tool/Detail": "_tool",
    }

    def show(self, task: Task, base: str) -> dict[str, Any]:
        """A task as Task/Detail shows it: numbers as text."""
        return show(task, self.settings.now(), base, self.settings.echo)

    def _download(self, request: Request, path: str) -> Answer:
        self.requests["cdn"] += 1
        if any(name in request.headers for name in ("x-api-key", "x-signature", "x-nonce", "authorization")):
            self.leaks.append(path)
        found = re.fullmatch(r"/cdn/(\d+)/(\d+)/0\.mp4", path)
        task = self.account.tasks.get(found[1]) if found else None
        now = self.settings.now()
        if found is None or task is None or not outputs_of(task, now, request.base):
            return html_answer(404, "404 Not Found")
        self.log.append((now, "cdn", task.id))
        if now > int(found[2]) + 1 + self.settings.url_seconds:
            return html_answer(403, "403 Forbidden")
        clip = self._shelf.get(f"clip-{task.id}")
        if clip is None:
            return html_answer(404, "404 Not Found")
        answer = serve_file(request, clip)
        if answer.body and answer.status in (200, 206) and self.faults.meets("cut_download", "cdn"):
            answer.cut_after = int(len(answer.body) * self.faults.draw())
        return answer

    def _uploaded(self, request: Request, path: str) -> Answer:
        upload = self._upload_at(path)
        return html_answer(404, "404 Not Found") if upload is None else serve_file(request, upload)

    def messages(self, token: str, after: int) -> tuple[list[dict[str, object]], float | None]:
        """What the socket has said of a task by now, from message `after` on, and when it says more."""
        task = self.account.tasks.get(self.account.by_token.get(token, ""))
        if task is None:
            return [], None
        now = self.settings.now()
        self.account.settle(now)
        return history(task, now, self.base)[after:], next_news(task, now)

    def callbacks_due(self) -> list[tuple[str, dict[str, Any]]]:
        """Callbacks of tasks that ended since the last call: URL and task."""
        now = self.settings.now()
        due = []
        for task in self.account.tasks.values():
            url = task.parameters.get("callbackUrl", "")
            if url and not task.called_back and task.is_over(now):
                task.called_back = True
                self.keep(task)
                due.append((url, self.show(task, self.base)))
        return due


def _check_parameters(given: dict[str, str]) -> None:
    if not given["prompt"].strip():
        raise Refusal(0, "Request parameter [prompt] required")
    if given["resolution"] not in RESOLUTIONS:
        raise Refusal(0, "Request parameter [resolution] is not valid")
    if given["aspectRatio"] not in ASPECTS:
        raise Refusal(0, "Request parameter [aspectRatio] is not valid")
    if not re.fullmatch(r"[+-]?[0-9]+", given["seed"]):
        raise Refusal(0, "Request parameter [seed] must be an integer")
    if (url := given["inputImageUrl"]) and not re.match(r"(?i)https?://", url):
        raise Refusal(0, "Request parameter [inputImageUrl] is not valid")


def _order(task: Task, image: bytes | None) -> ClipOrder:
    given = task.parameters
    return ClipOrder(image, given["prompt"], given["resolution"], given["aspectRatio"], given["seed"], task.id)


def _whole(form: dict[str, str], name: str, default: int) -> int:
    text = form.get(name, "")
    if not re.fullmatch(r"[0-9]{0,9}", text):
        raise Refusal(0, f"Request parameter [{name}] is not valid")
    return int(text) if text else default
