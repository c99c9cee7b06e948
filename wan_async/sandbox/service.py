"""A local Wiro without a network: a request in, an answer out. Server and in-process transport are shells of it."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import re
import struct
import time
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio

from wan_async.sandbox.account import STAGES, Account, Task
from wan_async.sandbox.faults import Faults
from wan_async.sandbox.store import Store

MODEL = "Wan-AI/Wan2.2-TI2V-5B-Image-to-Video-Fast"
RESOLUTIONS = ("480P", "580P", "720P")
ASPECTS = ("Default", "16:9", "9:16", "1:1")
DEFAULTS = {
    "inputImageUrl": "", "prompt": "", "negativePrompt": "", "resolution": "480P", "aspectRatio": "Default",
    "seed": "42",
}  # fmt: skip
UPLOAD_LIMIT = 100_000_000
NONCES_KEPT = 200_000
HTML = b"<html><head><title>%s</title></head><body><center><h1>%s</h1></center></body></html>"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came in. Header names are in lower case; `base` is the scheme, host and port it came to."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    base: str


@dataclass(slots=True)
class Answer:
    """What goes back. With `drop` nothing does; with `cut_after` the connection is cut after so many bytes of body."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    cut_after: int | None = None
    drop: bool = False


@dataclass(frozen=True, slots=True)
class ClipOrder:
    """What a clip is made from."""

    image: bytes | None
    prompt: str
    resolution: str
    aspect_ratio: str
    seed: str
    task_id: str


@dataclass(kw_only=True)
class Settings:
    """How this Wiro behaves.

    Attributes:
        seed: of everything that is drawn.
        api_secret: None makes the project one of the key-only kind.
        prices: USD by resolution (of a second, if `pricing` is `cps`).
        pricing: `cpr` per request, `cps` per second, `none`: no price is named.
        concurrency_limit: tasks at once; None for Wiro's own rule.
        limit_schedule: (seconds from the start, limit) pairs.
        task_seconds: how long tasks take, from and to.
        visible_after_seconds: how long a fresh task isn't found.
        echo: `faithful`, `empty` (`{}`), `rewritten` (the image's URL is the service's), `string` (JSON in a string).
        faults: probabilities by name, see `faults`.
        list_page_cap: tasks a page at most.
        clip_bytes: clips are padded to this length.
        url_seconds: how long an output's URL is good.
        now: unix seconds.
        sleep: lets time pass.
        clip: makes a clip; None for tiny ones.
        state: the folder that everything is kept in.
    """

    seed: int = 0
    api_key: str = "sandbox-key"
    api_secret: str | None = "sandbox-secret"  # noqa: S105 - everybody may know it
    balance_usd: float = 100.0
    prices: dict[str, float] = field(default_factory=lambda: {"480P": 0.05, "580P": 0.08, "720P": 0.12})
    pricing: str = "cpr"
    concurrency_limit: int | None = None
    limit_schedule: list[tuple[float, int]] = field(default_factory=list)
    task_seconds: tuple[float, float] = (2.0, 6.0)
    visible_after_seconds: float = 0.0
    echo: str = "faithful"
    faults: dict[str, float] = field(default_factory=dict)
    list_page_cap: int = 100
    latency_seconds: float = 0.0
    clip_bytes: int = 0
    url_seconds: float = 3600.0
    now: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    clip: Callable[[ClipOrder], bytes] | None = None
    state: Path | None = None


class Refusal(Exception):
    """The service says no: an error code and its words, or an HTTP status of its own."""

    def __init__(self, code: int, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class Sandbox:
    """A local Wiro.

    Attributes:
        account: balance and tasks.
        faults: what goes wrong.
        requests: how many requests each endpoint had; `cdn` for downloads.
        log: the latest requests: time, endpoint, task id.
        leaks: downloads that carried credentials.
        on_start: told of each task whose clip is to be made elsewhere; it is then held until `provide_clip`.
        changed: called when a task was made or ended, or its clip came.
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        self.settings = replace(settings or Settings(), **overrides)
        wanted = self.settings
        self.faults = Faults(wanted.faults, wanted.seed)
        self.requests: Counter[str] = Counter()
        self.log: deque[tuple[float, str, str]] = deque(maxlen=100_000)
        self.leaks: list[str] = []
        self.on_start: Callable[[ClipOrder], None] | None = None
        self.changed: Callable[[], None] = lambda: None
        self.account = Account(
            round(wanted.balance_usd * 1e6), wanted.now(), wanted.seed, wanted.concurrency_limit, wanted.limit_schedule
        )
        self._random = random.Random(f"service-{wanted.seed}")  # noqa: S311 - seeded on purpose
        self._clips: dict[str, bytes] = {}
        self._uploads: dict[str, tuple[str, bytes]] = {}
        self._nonces: dict[str, None] = {}
        self._base = "http://127.0.0.1"  # where it was last reached, for what is said without being asked
        self._store = Store(wanted.state) if wanted.state is not None else None
        if self._store is not None:
            self._store.load(self.account)

    def close(self) -> None:
        """Closes the files of its folder."""
        if self._store is not None:
            self._store.close()

    async def answer(self, request: Request) -> Answer:
        """The answer to a request."""
        if self.settings.latency_seconds:
            await self.settings.sleep(self.settings.latency_seconds)
        path = unquote(request.path)
        if path.startswith("/cdn/"):
            return self._download(request, path)
        if path.startswith("/v1/File/") and request.method in ("GET", "HEAD"):
            return self._uploaded(request, path)
        endpoint = path.removeprefix("/v1/").strip("/")
        name = "Run" if endpoint.startswith("Run/") else endpoint
        if not path.startswith("/v1/") or name not in self._ENDPOINTS or request.method != "POST":
            return _html(404, "404 Not Found")
        self.requests[name] += 1
        self._base = request.base
        return await self._meet_faults(request, name, endpoint)

    async def _meet_faults(self, request: Request, name: str, endpoint: str) -> Answer:
        meets = self.faults.meets
        if meets("slow_answer", name):
            await self.settings.sleep(1.0 + 2 * self.faults.draw())
        if meets("drop_before", name):
            return Answer(0, {}, drop=True)
        if meets("http_500", name):
            return _html(500, "500 Internal Server Error")
        if meets("http_429", name):
            return _json(
                429, {"result": False, "errors": [{"code": 0, "message": "Too many requests"}]}, {"retry-after": "1"}
            )
        bad_gateway = meets("html_502", name)
        if bad_gateway and self.faults.draw() < 0.5:
            return _html(502, "502 Bad Gateway")
        try:
            content = self._process(request, name, endpoint)
            answer = _json(200, {"errors": [], **content, "result": True})
        except Refusal as refusal:
            errors = [{"code": refusal.code, "message": refusal.message}]
            answer = _json(refusal.status, {"errors": errors, "result": False})
        if bad_gateway:
            return _html(502, "502 Bad Gateway")
        if meets("drop_after", name):
            return Answer(0, {}, drop=True)
        if meets("cut_json", name):
            answer.body = answer.body[: len(answer.body) * 2 // 3]
            answer.headers["content-length"] = str(len(answer.body))
        return answer

    def _process(self, request: Request, name: str, endpoint: str) -> dict[str, Any]:
        self._authenticate(request.headers)
        form, files = _parse_body(request)
        file = files.get("inputImage" if name == "Run" else "file")
        handler: Callable[[dict[str, str], tuple[str, bytes] | None, Request, str], dict[str, Any]]
        handler = getattr(self, self._ENDPOINTS[name])
        return handler(form, file, request, endpoint)

    def _authenticate(self, headers: Mapping[str, str]) -> None:
        key, secret = headers.get("x-api-key", ""), self.settings.api_secret
        if key != self.settings.api_key:
            raise Refusal(0, "Project authorization is not founded.", 401)
        if secret is None:
            return
        nonce, signature = headers.get("x-nonce", ""), headers.get("x-signature", "")
        if not nonce or not signature:
            raise Refusal(0, "Project requires signature authentication (x-nonce and x-signature).", 401)
        expected = hmac.new(key.encode(), f"{secret}{nonce}".encode(), hashlib.sha256).hexdigest()
        if not re.fullmatch(r"[0-9]{1,300}", nonce) or not hmac.compare_digest(signature.encode(), expected.encode()):
            raise Refusal(0, "Project authorization is not valid.", 401)
        rounded = str(int(float(nonce)))  # as a JavaScript server reads it
        if rounded in self._nonces:
            raise Refusal(0, "Project authorization is not valid. Nonce was used before.", 401)
        self._nonces[rounded] = None
        if len(self._nonces) > NONCES_KEPT:
            del self._nonces[next(iter(self._nonces))]

    def _run(
        self, form: dict[str, str], file: tuple[str, bytes] | None, request: Request, endpoint: str
    ) -> dict[str, Any]:
        if endpoint != f"Run/{MODEL}":
            raise Refusal(1, "tool-not-accessible")
        given = DEFAULTS | form
        if not given["prompt"].strip():
            raise Refusal(0, "Request parameter [prompt] required")
        if given["resolution"] not in RESOLUTIONS:
            raise Refusal(0, "Request parameter [resolution] is not valid")
        if given["aspectRatio"] not in ASPECTS:
            raise Refusal(0, "Request parameter [aspectRatio] is not valid")
        if not re.fullmatch(r"[+-]?\d+", given["seed"]):
            raise Refusal(0, "Request parameter [seed] must be an integer")
        url = given["inputImageUrl"]
        if url and urlsplit(url).scheme not in ("http", "https"):
            raise Refusal(0, "Request parameter [inputImageUrl] is not valid")
        now, account = self.settings.now(), self.account
        low, high = self.settings.task_seconds
        seconds = low + (high - low) * self._random.random()
        rate = round(self.settings.prices.get(given["resolution"], 0.05) * 1e6)
        price = rate if self.settings.pricing != "cps" else round(rate * seconds)
        if (refusal := account.refusal(price, now)) is not None:
            raise Refusal(*refusal)
        image = self._image_of(url, file)
        task = account.make(given, None if image is None else hashlib.sha256(image).hexdigest(), price, seconds, now)
        if file is not None:
            task.parameters = given | {"inputImage": f"/v1/File/{task.token[:16]}/inputImage-{task.id}.png"}
            self._keep_upload(task.token[:16], file)
        self._draw_fate(task)
        order = ClipOrder(image, given["prompt"], given["resolution"], given["aspectRatio"], given["seed"], task.id)
        if task.ends == "task_postprocess_end" and task.pexit == "0":
            self._make_clip(task, order)
        self._keep(task)
        self.log.append((now, "Run", task.id))
        self.changed()
        return {"taskid": task.id, "socketaccesstoken": task.token}

    def _draw_fate(self, task: Task) -> None:
        if self.faults.meets("task_error", "Run"):
            task.ends, task.pexit, task.log = "task_error", "1", "CUDA error: out of memory"
        elif self.faults.meets("failed_render", "Run"):
            task.pexit, task.log = "1", "RuntimeError: the render failed"

    def _make_clip(self, task: Task, order: ClipOrder) -> None:
        if self.on_start is not None:
            task.held = True
            self.on_start(order)
            return
        data = self.settings.clip(order) if self.settings.clip is not None else _tiny(order)
        self._store_clip(task, data)

    def order_of(self, task: Task) -> ClipOrder:
        """What a task's clip is made from."""
        given = task.parameters
        image = self._image_of(given.get("inputImage") or given.get("inputImageUrl", ""), None)
        return ClipOrder(image, given["prompt"], given["resolution"], given["aspectRatio"], given["seed"], task.id)

    def tiny(self, order: ClipOrder) -> bytes:
        """A clip that only has the shape of one."""
        return _tiny(order)

    def provide_clip(self, task_id: str, data: bytes | None) -> None:
        """A clip that was made elsewhere is there; None if it couldn't be made, which fails the task."""
        task = self.account.tasks[task_id]
        if data is None:
            task.pexit, task.log = "1", "ValueError: the input image can't be read"
        else:
            self._store_clip(task, data)
        self.account.release(task, self.settings.now())
        self._keep(task)
        self.changed()

    def _store_clip(self, task: Task, data: bytes) -> None:
        data = _padded(data, self.settings.clip_bytes)
        task.size = len(data)
        if self.faults.meets("bad_size", "Run"):
            task.shown_size = len(data) + 1 + int(1000 * self.faults.draw())
        if self._store is not None:
            self._store.put_file(f"clip-{task.id}", "video/mp4", data)
        else:
            self._clips[task.id] = data

    def _image_of(self, url: str, file: tuple[str, bytes] | None) -> bytes | None:
        if file is not None:
            return file[1]
        found = re.match(r"/v1/File/(\w+)/", urlsplit(url).path) if url else None
        upload = self._upload(found[1]) if found else None
        return upload[1] if upload is not None else None

    def _upload(self, name: str) -> tuple[str, bytes] | None:
        if name in self._uploads or self._store is None:
            return self._uploads.get(name)
        return self._store.get_file(f"upload-{name}")

    def _keep_upload(self, name: str, file: tuple[str, bytes]) -> None:
        if self._store is not None:
            self._store.put_file(f"upload-{name}", *file)
        else:
            self._uploads[name] = file

    def _file_upload(
        self, form: dict[str, str], file: tuple[str, bytes] | None, request: Request, endpoint: str
    ) -> dict[str, Any]:
        if file is None:
            raise Refusal(0, "Request files [file] required")
        kind, data = file
        if len(data) > UPLOAD_LIMIT:
            raise Refusal(0, "Request files [file] is too large")
        name = hashlib.sha256(data).hexdigest()[:24] + f"{len(self.log):x}{self._random.getrandbits(24):x}"
        self._keep_upload(name, file)
        url = f"{request.base}/v1/File/{name}/input"
        return {"list": [{"id": name, "name": "input", "contenttype": kind, "size": str(len(data)), "url": url}]}

    def _task_of(self, form: dict[str, str]) -> Task:
        now = self.settings.now()
        task = self.account.find(form.get("taskid", ""), form.get("tasktoken") or form.get("socketaccesstoken", ""))
        if task is None or now < task.created + self.settings.visible_after_seconds:
            raise Refusal(1, "There is no task yet.")
        self.account.settle(now)
        return task

    def _detail(self, form: dict[str, str], file: object, request: Request, endpoint: str) -> dict[str, Any]:
        task = self._task_of(form)
        if self.faults.meets("vanish", "Task/Detail"):
            raise Refusal(1, "There is no task yet.")
        self.log.append((self.settings.now(), "Task/Detail", task.id))
        return {"total": "1", "tasklist": [self.show(task, request.base)]}

    def _list(self, form: dict[str, str], file: object, request: Request, endpoint: str) -> dict[str, Any]:
        now = self.settings.now()
        self.account.settle(now)
        start, limit = _whole(form, "start", 0), min(_whole(form, "limit", 20), self.settings.list_page_cap, 100)
        tasks = self.account.tasks
        newest = now - self.settings.visible_after_seconds
        hidden = sum(1 for _ in takewhile(lambda task: task.created > newest, reversed(tasks.values())))
        total = len(tasks) - hidden
        if form.get("modelName", MODEL) != MODEL or not total:
            raise Refusal(1, "There is no task yet.")
        if form.get("order", "DESC").upper() == "ASC":
            page = list(islice(tasks.values(), start, min(total, start + limit)))
        else:
            page = list(islice(reversed(tasks.values()), hidden + start, hidden + start + limit))
        if page and self.faults.meets("vanish", "Task/List"):
            page.pop(int(self.faults.draw() * len(page)))
        return {"total": str(total), "tasklist": [self.show(task, request.base) for task in page]}

    def _cancel(self, form: dict[str, str], file: object, request: Request, endpoint: str) -> dict[str, Any]:
        task, now = self._task_of(form), self.settings.now()
        if task.status(now) != "task_queue":
            raise Refusal(1, "Task is not in a cancellable state.")
        return self.end(task, request.base)

    def _kill(self, form: dict[str, str], file: object, request: Request, endpoint: str) -> dict[str, Any]:
        task = self._task_of(form)
        if task.is_over(self.settings.now()):
            raise Refusal(1, "Task is not in a killable state.")
        return self.end(task, request.base)

    def end(self, task: Task, base: str = "http://127.0.0.1") -> dict[str, Any]:
        """Cancels or kills a task, also from elsewhere.

        Raises:
            ValueError: it is over.
        """
        self.account.settle(self.settings.now())
        if task.is_over(self.settings.now()):
            raise ValueError(f"task {task.id} is over")
        self.account.cancel(task, self.settings.now())
        self._keep(task)
        self.changed()
        return {"tasklist": [self.show(task, base)]}

    def _delete(self, form: dict[str, str], file: object, request: Request, endpoint: str) -> dict[str, Any]:
        task = self._task_of(form)
        if not task.is_over(self.settings.now()):
            raise Refusal(1, "Task is not in a terminal state.")
        task.deleted = True
        self._clips.pop(task.id, None)
        self._keep(task)
        return {}

    def _tool(self, form: dict[str, str], file: object, request: Request, endpoint: str) -> dict[str, Any]:
        if f"{form.get('slugowner')}/{form.get('slugproject')}" != MODEL:
            raise Refusal(1, "tool-not-accessible")
        tool: dict[str, Any] = {"id": "1", "slugowner": "Wan-AI", "title": MODEL, "parameters": [], "cps": None}
        if self.settings.pricing != "none":
            tool["dynamicprice"] = json.dumps(
                [
                    {"inputs": {"resolution": name}, "price": price, "priceMethod": self.settings.pricing}
                    for name, price in self.settings.prices.items()
                ]
            )
        return {"tool": [tool]}

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
        now = self.settings.now()
        status, over = task.status(now), task.is_over(now)

        def at(stage: int) -> str:
            began = task.end if stage == len(STAGES) - 1 else task.begins(stage)
            return str(int(began)) if task.stage(now) >= stage else "0"

        seconds = max(0.0, min(now, task.end) - task.begins(5))
        outputs = [self._output(task, base, now)] if task.succeeded(now) and not task.deleted else None
        return {
            "id": task.id,
            "uuid": _uuid(task),
            "name": "",
            "socketaccesstoken": task.token,
            "parameters": self._echo(task, base),
            "debugoutput": "",
            "debugerror": task.log if over else "",
            "starttime": at(5),
            "endtime": at(8),
            "elapsedseconds": f"{seconds:.4f}",
            "status": status,
            "cps": "0.000585000000",
            "totalcost": f"{(task.price if task.succeeded(now) else 0) / 1e6:.12f}",
            "guestid": None,
            "projectid": "699",
            "createtime": str(int(task.created)),
            "canceltime": str(int(task.cancelled)) if task.cancelled is not None else "0",
            "assigntime": at(4),
            "accepttime": at(1),
            "preprocessstarttime": at(2),
            "preprocessendtime": at(3),
            "postprocessstarttime": at(9),
            "postprocessendtime": at(10),
            "pexit": task.pexit if over and task.cancelled is None else None,
            "categories": '["image-to-video","quick-showcase"]',
            "outputs": outputs,
            "size": str(task.size if outputs else 0),
        }

    def _output(self, task: Task, base: str, now: float) -> dict[str, Any]:
        return {
            "id": hashlib.sha256(task.id.encode()).hexdigest()[:32],
            "name": "0.mp4",
            "contenttype": "video/mp4",
            "parentid": hashlib.sha256(task.token.encode()).hexdigest()[:32],
            "uuid": _uuid(task),
            "size": str(task.size if task.shown_size is None else task.shown_size),
            "addedtime": str(int(task.end)),
            "modifiedtime": str(int(task.end)),
            "accesskey": task.token[:16][::-1],
            "ispublic": 0,
            "expiretime": None,
            "url": f"{base}/cdn/{task.id}/{int(now)}/0.mp4",
        }

    def _echo(self, task: Task, base: str) -> object:
        given = dict(task.parameters)
        if "inputImage" in given:
            given["inputImage"] = base + given["inputImage"]
        match self.settings.echo:
            case "empty":
                return {}
            case "string":
                return json.dumps(given)
            case "rewritten" if task.image or task.parameters.get("inputImageUrl"):
                kept = {name: value for name, value in given.items() if name != "inputImageUrl"}
                return kept | {"inputImage": f"{base}/v1/File/{task.token[:16]}/inputImage-{task.id}.png"}
        return given

    def _download(self, request: Request, path: str) -> Answer:
        self.requests["cdn"] += 1
        if any(name in request.headers for name in ("x-api-key", "x-signature", "x-nonce", "authorization")):
            self.leaks.append(path)
        found = re.fullmatch(r"/cdn/(\d+)/(\d+)/0\.mp4", path)
        task = self.account.tasks.get(found[1]) if found else None
        now = self.settings.now()
        if found is None or task is None or task.deleted or not task.succeeded(now):
            return _html(404, "404 Not Found")
        self.log.append((now, "cdn", task.id))
        if now > int(found[2]) + 1 + self.settings.url_seconds:
            return _html(403, "403 Forbidden")
        data = self._clips.get(task.id)
        if data is None and self._store is not None and (kept := self._store.get_file(f"clip-{task.id}")):
            data = kept[1]
        answer = _serve(request, "video/mp4", data or b"")
        if answer.status in (200, 206) and self.faults.meets("cut_download", "cdn"):
            answer.cut_after = int(len(answer.body) * self.faults.draw())
        return answer

    def _uploaded(self, request: Request, path: str) -> Answer:
        found = re.match(r"/v1/File/(\w+)/", path)
        upload = self._upload(found[1]) if found else None
        return _html(404, "404 Not Found") if upload is None else _serve(request, *upload)

    def messages(self, token: str, after: int) -> tuple[list[dict[str, object]], float | None]:
        """What the socket has said of a task by now, from message `after` on, and when it says more."""
        task = self.account.tasks.get(self.account.by_token.get(token, ""))
        if task is None:
            return [], None
        now = self.settings.now()
        self.account.settle(now)
        reached = task.stage(now)
        until = now if task.cancelled is None else min(now, task.cancelled)
        said: list[dict[str, object]] = []
        for stage in range(min(reached, len(STAGES) - 2) + 1):
            said.append(_message(task, STAGES[stage], None))
            if stage == STAGES.index("task_output"):
                span = task.begins(stage + 1) - task.begins(stage)
                done = 10 if reached > stage or span <= 0 else int(10 * (until - task.begins(stage)) / span)
                said += [_message(task, "task_output", _progress(10 * step)) for step in range(1, done + 1)]
        if task.is_over(now):
            outputs = [self._output(task, self._base, now)] if task.succeeded(now) and not task.deleted else []
            said.append(_message(task, task.status(now), outputs))
            return said[after:], None
        if task.held and reached >= STAGES.index("task_output_full"):
            return said[after:], now + 0.25
        starts = [task.begins(stage) for stage in range(len(STAGES) - 1)] + [task.end]
        nexts = [at for at in starts if at > now]
        return said[after:], min([*nexts, now + 0.5]) if nexts else now + 0.1

    def callbacks_due(self) -> list[tuple[str, dict[str, Any]]]:
        """Callbacks of tasks that ended since the last call: URL and task."""
        now = self.settings.now()
        due = []
        for task in self.account.tasks.values():
            url = task.parameters.get("callbackUrl", "")
            if url and not task.called_back and task.is_over(now):
                task.called_back = True
                self._keep(task)
                due.append((url, self.show(task, self._base)))
        return due

    def _keep(self, task: Task) -> None:
        if self._store is not None:
            self._store.put_task(task, self.account)


def _message(task: Task, kind: str, message: object) -> dict[str, object]:
    return {"type": kind, "id": task.id, "tasktoken": task.token, "message": message, "result": True}


def _uuid(task: Task) -> str:
    return str(uuid.UUID(hashlib.sha256(task.token.encode()).hexdigest()[-32:]))


def _whole(form: Mapping[str, str], name: str, default: int) -> int:
    text = form.get(name, "")
    if not re.fullmatch(r"[0-9]{0,9}", text):
        raise Refusal(0, f"Request parameter [{name}] is not valid")
    return int(text) if text else default


def _progress(percent: int) -> dict[str, str]:
    return {
        "type": "progressGenerate", "task": "Generate", "percentage": str(percent), "stepCurrent": str(percent // 10),
        "stepTotal": "10", "speed": "1.25", "speedType": "it/s", "elapsedTime": "00:01", "remainingTime": "00:01",
    }  # fmt: skip


def _json(status: int, content: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Answer:
    body = json.dumps(content).encode()
    return Answer(
        status, {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}, body
    )


def _html(status: int, title: str) -> Answer:
    body = HTML % (title.encode(), title.encode())
    return Answer(status, {"content-type": "text/html", "content-length": str(len(body))}, body)


def _parse_body(request: Request) -> tuple[dict[str, str], dict[str, tuple[str, bytes]]]:
    """The fields of a body, and its files by the names of their parts.

    JSON under a multipart header is taken, as the model page's curl sends it.
    """
    kind = request.headers.get("content-type", "")
    if not request.body.lstrip().startswith(b"{") and kind.startswith("multipart/form-data"):
        try:
            return _parse_multipart(kind, request.body)
        except ValueError:
            raise Refusal(0, "Request body is not valid", 400) from None
    try:
        content = json.loads(request.body or b"{}")
    except ValueError:
        raise Refusal(0, "Request body is not valid", 400) from None
    if not isinstance(content, dict):
        raise Refusal(0, "Request body is not valid", 400)
    return {name: "" if value is None else str(value) for name, value in content.items()}, {}


def _parse_multipart(kind: str, body: bytes) -> tuple[dict[str, str], dict[str, tuple[str, bytes]]]:
    from python_multipart.multipart import MultipartParser, parse_options_header

    boundary = parse_options_header(kind)[1].get(b"boundary", b"")
    form: dict[str, str] = {}
    files: dict[str, tuple[str, bytes]] = {}
    headers: dict[str, str] = {}
    name, value, data = bytearray(), bytearray(), bytearray()

    def begin() -> None:
        headers.clear()
        data.clear()

    def end_header() -> None:
        headers[name.decode().lower()] = value.decode()
        name.clear()
        value.clear()

    def end() -> None:
        _, options = parse_options_header(headers.get("content-disposition", ""))
        part = options.get(b"name", b"").decode()
        if b"filename" in options:
            files[part] = (headers.get("content-type", "application/octet-stream"), bytes(data))
        else:
            form[part] = data.decode()

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": begin,
            "on_part_end": end,
            "on_part_data": lambda chunk, start, stop: data.extend(chunk[start:stop]),
            "on_header_field": lambda chunk, start, stop: name.extend(chunk[start:stop]),
            "on_header_value": lambda chunk, start, stop: value.extend(chunk[start:stop]),
            "on_header_end": end_header,
        },
    )
    parser.write(body)
    parser.finalize()
    return form, files


def _serve(request: Request, kind: str, data: bytes) -> Answer:
    """A file, or the range of it that was asked for."""
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"content-type": kind, "etag": etag, "accept-ranges": "bytes", "content-length": str(len(data))}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    backwards = asked is not None and asked[2] != "" and int(asked[2]) < int(asked[1])
    if asked and not backwards and request.headers.get("if-range", etag) == etag:
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if first >= len(data):
            return Answer(416, headers | {"content-range": f"bytes */{len(data)}", "content-length": "0"})
        part = data[first : last + 1]
        span = {"content-range": f"bytes {first}-{last}/{len(data)}", "content-length": str(len(part))}
        return Answer(206, headers | span, b"" if request.method == "HEAD" else part)
    return Answer(200, headers, b"" if request.method == "HEAD" else data)


def _box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data


def _tiny(order: ClipOrder) -> bytes:
    """Something that has the shape of an MP4, and differs from task to task."""
    content = hashlib.sha256(repr(order).encode()).digest() * 8
    return (
        _box(b"ftyp", b"isom\0\0\2\0isomiso2mp41") + _box(b"moov", _box(b"mvhd", bytes(100))) + _box(b"mdat", content)
    )


def _padded(data: bytes, size: int) -> bytes:
    missing = size - len(data)
    if missing < 8:
        return data
    return data + _box(b"free", (hashlib.sha256(data).digest() * (missing // 32 + 1))[: missing - 8])
