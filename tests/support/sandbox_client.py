"""A sandbox on a manual clock, and a minimal client that shares no code with wan_async's."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from collections.abc import Mapping
from typing import Any

import httpx

from wan_async.sandbox import ClipOrder, Sandbox
from wan_async.sandbox.files import placeholder_clip
from wan_async.sandbox.http import Answer, Request
from wan_async.sandbox.model_description import MODEL

BASE = "http://127.0.0.1:4711"
RUN = f"Run/{MODEL}"
JSON = {"content-type": "application/json"}
PNG = b"\x89PNG not really"
nonces = itertools.count(1_700_000_000_000_000)


def signed(key: str = "sandbox-key", secret: str = "sandbox-secret", nonce: str | None = None) -> dict[str, str]:
    nonce = nonce or str(next(nonces))
    signature = hmac.new(key.encode(), (secret + nonce).encode(), hashlib.sha256).hexdigest()
    return {"x-api-key": key, "x-nonce": nonce, "x-signature": signature}


def multipart(fields: Mapping[str, str], part: str | None = None, data: bytes = PNG) -> tuple[bytes, dict[str, str]]:
    body = b""
    for name, value in fields.items():
        body += f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    if part is not None:
        head = f'--edge\r\nContent-Disposition: form-data; name="{part}"; filename="a.png"\r\nContent-Type: image/png'
        body += head.encode() + b"\r\n\r\n" + data + b"\r\n"
    return body + b"--edge--\r\n", {"content-type": "multipart/form-data; boundary=edge"}


class Wiro:
    """A sandbox, its clock, and a client."""

    def __init__(self, **settings: Any) -> None:
        self.time = 1_734_513_807.0
        self.slept: list[float] = []
        self.orders: list[ClipOrder] = []
        usual: dict[str, Any] = {
            "task_seconds": (10.0, 10.0),
            "now": lambda: self.time,
            "sleep": self._sleep,
            "clip": self._render,
        }
        self.settings = usual | settings
        self.sandbox = Sandbox(**self.settings)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def _render(self, order: ClipOrder) -> bytes:
        self.orders.append(order)
        return placeholder_clip(order)

    def restart(self) -> None:
        """Replace the sandbox by a new one with the same state folder."""
        self.close()
        self.sandbox = Sandbox(**self.settings)

    def close(self) -> None:
        self.sandbox.close()

    async def ask(
        self, endpoint: str, body: bytes, headers: Mapping[str, str] = JSON, base_url: str = BASE, method: str = "POST"
    ) -> Answer:
        return await self.sandbox.answer(
            Request(method, f"/v1/{endpoint}", "", {**signed(), **headers}, body, base_url)
        )

    async def call(self, endpoint: str, /, **fields: object) -> dict[str, Any]:
        answer = await self.ask(endpoint, json.dumps(fields).encode())
        assert answer.status == 200, answer
        content: dict[str, Any] = json.loads(answer.body)
        return content

    async def run(self, **fields: object) -> dict[str, Any]:
        return await self.call(RUN, **{"prompt": "a koala", **fields})

    async def start(self, **fields: object) -> str:
        answer = await self.run(**fields)
        assert answer["result"] is True, answer
        return str(answer["taskid"])

    async def refused(self, endpoint: str, /, **fields: object) -> tuple[int, str]:
        answer = await self.call(endpoint, **fields)
        assert answer["result"] is False
        (error,) = answer["errors"]
        return error["code"], error["message"]

    async def detail(self, task_id: str) -> dict[str, Any]:
        answer = await self.call("Task/Detail", taskid=task_id)
        assert answer["result"] is True, answer
        task: dict[str, Any] = answer["tasklist"][0]
        return task

    async def finished(self, **fields: object) -> dict[str, Any]:
        task_id = await self.start(**fields)
        self.time += 10
        return await self.detail(task_id)

    async def get(self, url: str, method: str = "GET", **headers: str) -> Answer:
        path = httpx.URL(url).path
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.sandbox.answer(Request(method, path, "", given, b"", BASE))

    async def clip_url(self, **fields: object) -> str:
        """Run a task to its end; return the URL of its clip."""
        return str((await self.finished(**fields))["outputs"][0]["url"])

    async def send_file(self, endpoint: str, part: str, data: bytes = PNG, **fields: str) -> dict[str, Any]:
        """Send a multipart body with a file."""
        content: dict[str, Any] = json.loads((await self.ask(endpoint, *multipart(fields, part, data))).body)
        return content

    async def upload(self, data: bytes = PNG) -> dict[str, Any]:
        content = await self.send_file("File/Upload", "file", data)
        assert content["result"] is True, content
        listed: dict[str, Any] = content["list"][0]
        return listed
