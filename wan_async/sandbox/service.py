"""A local Wiro without a network: a request in, an answer out. Server and in-process transport are shells of it."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import Any
from urllib.parse import unquote

from wan_async.sandbox.account import PROJECT_ID, Account, Task
from wan_async.sandbox.auth import Gate
from wan_async.sandbox.database import Store
from wan_async.sandbox.faults import DENIALS, REFUSALS, Faults
from wan_async.sandbox.files import Shelf, padded, tiny
from wan_async.sandbox.http import Answer, File, Refusal, Request, html_answer, json_answer, read_body, serve_file
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
from wan_async.sandbox.views import history, next_news, outputs_of, show

UPLOAD_LIMIT = 100_000_000
TEAMMATE = "800"
"""The project that teammates' tasks are billed to, unless another is named."""
CHANGEABLE = ("api_secret", "denial", "echo", "refusal", "show_projectid", "socket_format", "uploads")
"""The settings that can be changed while it runs."""
_CHOICES: dict[str, tuple[object, ...]] = {
    "denial": tuple(DENIALS),
    "refusal": (None, *REFUSALS),
    "show_projectid": (True, False),
    "socket_format": ("id", "token", "both"),
    "uploads": ("accept", "refuse"),
}
_PAGES = {"http_500": "500 Internal Server Error", "html_403": "403 Forbidden", "html_404": "404 Not Found"}
"""What a proxy answers instead of the service, by fault."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A request that was let in, and read."""

    endpoint: str
    project: str
    form: dict[str, str]
    file: File | None
    base: str


@dataclass(slots=True)
class _Refused:
    """How Runs are refused, and how many more of them; None for all."""

    code: int
    message: str
    times: int | None


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
        self.settings = _checked(replace(settings or Settings(), **overrides))
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
            round(wanted.balance_usd * 1e6), wanted.now(), wanted.seed, wanted.concurrency_limit, wanted.limit_schedule,
            next_id=wanted.first_task_id,
            minimum_micros=None if wanted.minimum_usd is None else round(wanted.minimum_usd * 1e6),
        )  # fmt: skip
        self._refused: _Refused | None = None
        self._denied: dict[str, float] = {}
        again = f"-{start}" * (start > 0)
        self._random = random.Random(f"service-{wanted.seed}{again}")  # noqa: S311 - seeded on purpose
        self._shelf = Shelf(self._store)
        self._gate = Gate(wanted, self._store)
        if self._store is not None:
            self._store.load(self.account)
        if not start:
            self.add_teammate_tasks(wanted.teammates)

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
            return json_answer(404, {"errors": [{"code": 0, "message": "Error parsing url."}], "result": False})
        self.requests[name] += 1
        self.base = request.base
        return await self._meet_faults(request, name, endpoint)

    async def _meet_faults(self, request: Request, name: str, endpoint: str) -> Answer:
        meets = self.faults.meets
        if meets("slow_answer", name):
            await self.settings.sleep(1.0 + 2 * self.faults.draw())
        if meets("drop_before", name):
            return Answer(0, {}, drop=True)
        for fault, title in _PAGES.items():
            if meets(fault, name):
                return html_answer(int(title[:3]), title)
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
        self._check_refusal()
        project_id = call.form.pop("projectid", "") or self._project_id(call.project)
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
        task = account.make(given, digest, price, seconds, now, call.project, project_id)
        if call.file is not None:
            task.parameters = given | {"inputImage": f"/v1/File/{task.token[:16]}/inputImage-{task.id}.png"}
            self._shelf.put(f"upload-{task.token[:16]}", call.file)
        self._trouble(task)
        if self.faults.meets("failed_render", "Run"):
            task.pexit, task.log = "1", "RuntimeError: the render failed"
        else:
            self._make_clip(task, _order(task, image))
        self.keep(task)
        self.log.append((now, "Run", task.id))
        self.changed()
        return {"taskid": task.id, "socketaccesstoken": task.token}

    def _check_refusal(self) -> None:
        if self.settings.refusal is not None:
            raise Refusal(*REFUSALS[self.settings.refusal])
        if (refused := self._refused) is None:
            return
        if refused.times is not None:
            refused.times -= 1
            if refused.times <= 0:
                self._refused = None
        raise Refusal(refused.code, refused.message)

    def _project_id(self, key: str) -> str:
        """The number of the project with this key."""
        return str(700 + list(self.settings.projects).index(key)) if key else PROJECT_ID

    def _trouble(self, task: Task) -> None:
        """What goes wrong with a task that is rendered all the same."""
        meets, settings = self.faults.meets, self.settings
        if meets("task_error", "Run"):
            task.error_seconds = settings.task_error_seconds
        if meets("task_error_stuck", "Run"):
            task.error_seconds = math.inf
        if meets("late_outputs", "Run"):
            task.outputs_after, task.pexit_lags = settings.late_outputs_seconds, self.faults.draw() < 0.5
        if meets("late_cdn", "Run"):
            task.files_after = settings.late_cdn_seconds

    def refuse_runs(self, code: int, message: str, times: int | None = None) -> None:
        """Every Run from now on is refused like this, or only the next `times`; 0 takes it back."""
        self._refused = None if times == 0 else _Refused(int(code), str(message), times)

    def restart_ids(self, first: int) -> None:
        """Ids begin again: the next task has this one, though another may have it, too."""
        self.account.next_id = first

    def add_teammate_tasks(
        self,
        count: int = 1,
        parameters: dict[str, str] | None = None,
        *,
        project_id: str = TEAMMATE,
        seconds: float | None = None,
    ) -> list[Task]:
        """Tasks of another project of this workspace begin: they are listed, counted and paid for like ours.

        Args:
            count: how many.
            parameters: what differs from the model's defaults.
            project_id: the number of their project.
            seconds: how long they take; as long as our longest ones by default.
        """
        given = DEFAULTS | {"prompt": "a clip of a teammate"} | (parameters or {})
        seconds = self.settings.task_seconds[1] if seconds is None else seconds
        price = price_micros(self.settings, given["resolution"], seconds)
        made = []
        for _ in range(count):
            task = self.account.make(dict(given), None, price, seconds, self.settings.now(), project_id=project_id)
            clip = padded(tiny(_order(task, None)), self.settings.clip_bytes)
            task.size = len(clip)
            self._shelf.put(f"clip-{task.key}", ("video/mp4", clip))
            made.append(task)
        self.keep(*made)
        self.changed()
        return made

    def change(self, **wanted: Any) -> None:
        """Changes settings while it runs.

        Raises:
            ValueError: a setting is none of `CHANGEABLE`, or can't have this value.
        """
        if strange := sorted(set(wanted) - set(CHANGEABLE)):
            raise ValueError(f"{', '.join(strange)} can't be changed, but {', '.join(CHANGEABLE)}")
        _checked(replace(self.settings, **wanted))
        for name, value in wanted.items():
            setattr(self.settings, name, value)

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
        self._shelf.put(f"clip-{task.key}", ("video/mp4", data))

    def _image_of(self, url: str) -> bytes | None:
        file = self._upload_at(url)
        return None if file is None else file[1]

    def _upload_at(self, url: str) -> File | None:
        """An image of the service's own, whatever the host and port it was reached at."""
        found = re.match(r"(?:https?://[^/?#]*)?/v1/File/(\w+)/", url)
        return self._shelf.get(f"upload-{found[1]}") if found else None

    def _file_upload(self, call: _Call) -> dict[str, Any]:
        if self.settings.uploads == "refuse":
            raise Refusal(0, "invalid-parameters")
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
            raise self._denial(call.endpoint)
        self.account.settle(now)
        return task

    def _denial(self, endpoint: str) -> Refusal:
        """There is no such task."""
        words = self.settings.denial
        if self.faults.meets("odd_denial", endpoint):
            words = "not-founded" if self.faults.draw() < 0.5 else "not-exist"
        return Refusal(*DENIALS[words])

    def _deny(self, task: Task) -> None:
        self._denied[task.key] = self.settings.now() + self.settings.denied_seconds

    def _detail(self, call: _Call) -> dict[str, Any]:
        task = self._task_of(call)
        self._forget_denials()
        if task.key not in self._denied and self.faults.meets("denied", "Task/Detail"):
            self._deny(task)
        if task.key in self._denied or self.faults.meets("vanish", "Task/Detail"):
            raise self._denial(call.endpoint)
        self.log.append((self.settings.now(), "Task/Detail", task.id))
        return {"total": "1", "tasklist": [self.show(task, call.base)]}

    def _list(self, call: _Call) -> dict[str, Any]:
        now, form = self.settings.now(), call.form
        self.account.settle(now)
        start, limit = _whole(form, "start", 0), min(_whole(form, "limit", 20), self.settings.list_page_cap, 100)
        tasks = self.account.tasks
        if self.settings.projects:  # who has a single project doesn't pay for a copy
            tasks = {key: task for key, task in tasks.items() if task.project == call.project}
        self._forget_denials()
        if self._denied:
            tasks = {key: task for key, task in tasks.items() if key not in self._denied}
        newest = now - self.settings.visible_after_seconds
        hidden = sum(1 for _ in takewhile(lambda task: task.created > newest, reversed(tasks.values())))
        total = len(tasks) - hidden
        if form.get("modelName", MODEL) != MODEL or not total:
            raise self._denial(call.endpoint)
        if form.get("order", "DESC").upper() == "ASC":
            page = list(islice(tasks.values(), start, min(total, start + limit)))
        else:
            page = list(islice(reversed(tasks.values()), hidden + start, hidden + start + limit))
        if page and self.faults.meets("vanish", "Task/List"):
            page.pop(int(self.faults.draw() * len(page)))
        if page and self.faults.meets("denied", "Task/List"):
            self._deny(page.pop(int(self.faults.draw() * len(page))))
        return {"total": str(total), "tasklist": [self.show(task, call.base) for task in page]}

    def _forget_denials(self) -> None:
        if self._denied:
            now = self.settings.now()
            self._denied = {key: until for key, until in self._denied.items() if now < until}

    def _cancel(self, call: _Call) -> dict[str, Any]:
        task = self._task_of(call)
        if task.status(self.settings.now()) != "task_queue":
            raise Refusal(1, "Task is not in a cancellable state.")
        return self.end(task, call.base, "Task/Cancel")

    def _kill(self, call: _Call) -> dict[str, Any]:
        task = self._task_of(call)
        if task.is_over(self.settings.now()):
            raise Refusal(1, "Task is not in a killable state.")
        return self.end(task, call.base)

    def end(self, task: Task, base: str = "http://127.0.0.1", endpoint: str = "Task/Kill") -> dict[str, Any]:
        """Cancels or kills a task, also from elsewhere.

        Raises:
            ValueError: it is over.
        """
        self.account.settle(self.settings.now())
        if task.is_over(self.settings.now()):
            raise ValueError(f"task {task.id} is over")
        now, meets = self.settings.now(), self.faults.meets
        runs = task.size > 0 and not task.is_in_error(now)
        task.kept = runs and endpoint == "Task/Kill" and meets("kept_outputs", endpoint)
        late = meets("late_charge", endpoint) and not task.kept
        self.account.cancel(task, now, now + self.settings.late_charge_seconds if late else None)
        self.keep(task)
        self.changed()
        return {"tasklist": [self.show(task, base)]}

    def _delete(self, call: _Call) -> dict[str, Any]:
        task = self._task_of(call)
        if not task.is_over(self.settings.now()):
            raise Refusal(1, "Task is not in a terminal state.")
        task.deleted = True
        self.keep(task)
        for name in (f"clip-{task.key}", f"upload-{task.token[:16]}"):
            self._shelf.drop(name)
        return {}

    def _tool(self, call: _Call) -> dict[str, Any]:
        if (call.form.get("slugowner"), call.form.get("slugproject")) != (OWNER, PROJECT):
            raise Refusal(1, "tool-not-accessible")
        return {"tool": [tool(self.settings)]}

    def _wallet(self, call: _Call) -> dict[str, Any]:
        self.account.settle(self.settings.now())
        balance = f"{self.account.balance_micros / 1e6:.6f}"
        return {"list": [{"id": "1", "title": "Main wallet", "currency": "USD", "balance": balance}]}

    _ENDPOINTS = {  # noqa: RUF012 - a table
        "Run": "_run",
        "Task/Detail": "_detail",
        "Task/List": "_list",
        "Task/Cancel": "_cancel",
        "Task/Kill": "_kill",
        "Task/InputOutputDelete": "_delete",
        "File/Upload": "_file_upload",
        "Tool/Detail": "_tool",
        "Wallet/List": "_wallet",
    }

    def show(self, task: Task, base: str) -> dict[str, Any]:
        """A task as Task/Detail shows it: numbers as text."""
        settings = self.settings
        return show(task, settings.now(), base, settings.echo, with_project=settings.show_projectid)

    def _download(self, request: Request, path: str) -> Answer:
        self.requests["cdn"] += 1
        if any(name in request.headers for name in ("x-api-key", "x-signature", "x-nonce", "authorization")):
            self.leaks.append(path)
        found = re.fullmatch(r"/cdn/(\d+(?:-\d+)?)/(\d+)/0\.mp4", path)
        task = self.account.tasks.get(found[1]) if found else None
        now = self.settings.now()
        if found is None or task is None or not outputs_of(task, now, request.base):
            return html_answer(404, "404 Not Found")
        self.log.append((now, "cdn", task.id))
        if now > int(found[2]) + 1 + self.settings.url_seconds:
            return html_answer(403, "403 Forbidden")
        if now < task.end + task.files_after:
            return html_answer(403, "403 Forbidden") if self.faults.draw() < 0.5 else html_answer(404, "404 Not Found")
        clip = self._shelf.get(f"clip-{task.key}")
        if clip is None:
            return html_answer(404, "404 Not Found")
        answer = self._serve_clip(request, clip)
        if answer.body and answer.status in (200, 206) and self.faults.meets("cut_download", "cdn"):
            answer.cut_after = int(len(answer.body) * self.faults.draw())
        return answer

    def _serve_clip(self, request: Request, clip: File) -> Answer:
        """A clip, as this CDN serves it: with a strong ETag and by ranges, unless a fault says otherwise."""
        meets, headers = self.faults.meets, dict(request.headers)
        if "range" in headers and meets("ignores_range", "cdn"):
            del headers["range"]
        if not meets("no_etag", "cdn"):
            return serve_file(replace(request, headers=headers), clip)
        if headers.pop("if-range", ""):
            headers.pop("range", None)  # no validator is equal to none, or to a weak one
        answer = serve_file(replace(request, headers=headers), clip)
        etag = answer.headers.pop("etag")
        if self.faults.draw() < 0.5:
            answer.headers["etag"] = f"W/{etag}"
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
        return history(task, now, self.base, self.settings.socket_format)[after:], next_news(task, now)

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


def _checked(settings: Settings) -> Settings:
    for name, choices in _CHOICES.items():
        if getattr(settings, name) not in choices:
            raise ValueError(f"{name} is one of {', '.join(map(str, choices))}")
    return settings


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
    return ClipOrder(image, given["prompt"], given["resolution"], given["aspectRatio"], given["seed"], task.key)


def _whole(form: dict[str, str], name: str, default: int) -> int:
    text = form.get(name, "")
    if not re.fullmatch(r"[0-9]{0,9}", text):
        raise Refusal(0, f"Request parameter [{name}] is not valid")
    return int(text) if text else default
