"""A second model with parameters of its own, and a service that runs it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx

from wan_async.domain.job import AnyJob
from wan_async.domain.model import WAN, Model, Parameter

POSTER = Model(
    owner="Acme",
    project="Poster",
    parameters=(
        Parameter(wire="text", name="text", kind="text", required=True, aliases=("caption",)),
        Parameter(wire="posterStyle", name="style", kind="choice", choices=("flat", "oil"), default="flat",
                  selects_price=True),
        Parameter(wire="stepCount", name="steps", kind="integer", limits=(1, 50), default=20),
        Parameter(wire="pictureUrl", name="picture", kind="image", default=None, file_field="picture"),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, init=False)
class PosterJob(AnyJob):
    """A job of the second model."""

    model: ClassVar[Model] = POSTER

    text: str
    style: str
    steps: int
    picture: str | None
    id: str | None
    callback_url: str


_FIELDS = {
    "text": "prompt",
    "posterStyle": "resolution",
    "stepCount": "seed",
    "pictureUrl": "inputImageUrl",
    "picture": "inputImage",
}
_STYLES = {"flat": "480P", "oil": "720P"}


class PosterService(httpx.AsyncBaseTransport):
    """Offers the second model on top of the sandbox, by translating the names of both models.

    Args:
        inner: transport to the sandbox.
        runs: receives the body of each Run: the decoded JSON, or the raw multipart body.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, runs: list[Any]) -> None:
        self._inner = inner
        self._runs = runs

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Translate the request, send it to the sandbox, and translate the answer."""
        if request.method != "POST" or request.url.path.endswith("/File/Upload"):
            return await self._inner.handle_async_request(request)
        path, body = request.url.path, await request.aread()
        assert WAN.name not in path
        if request.headers["content-type"] == "application/json":
            sent = json.loads(body)
            assert WAN.name not in sent.values()
            if path.endswith(POSTER.name):
                self._runs.append(sent)
            body = json.dumps({_FIELDS.get(name, name): _ours(value) for name, value in sent.items()}).encode()
        else:
            self._runs.append(body)
            for name, ours in _FIELDS.items():
                body = body.replace(f'name="{name}"'.encode(), f'name="{ours}"'.encode())
            for style, resolution in _STYLES.items():
                body = body.replace(f"\r\n\r\n{style}\r\n".encode(), f"\r\n\r\n{resolution}\r\n".encode())
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        url = request.url.copy_with(path=path.replace(POSTER.name, WAN.name))
        answer = await self._inner.handle_async_request(httpx.Request("POST", url, headers=headers, content=body))
        text = (await answer.aread()).decode()
        return httpx.Response(answer.status_code, json=_theirs(json.loads(text)), request=request)


def _ours(value: str) -> str:
    return {POSTER.name: WAN.name, POSTER.owner: WAN.owner, POSTER.project: WAN.project, **_STYLES}.get(value, value)


def _theirs(value: Any, key: str = "") -> Any:
    """Translate an answer to the second model's names and values."""
    if key == "dynamicprice":
        return json.dumps(_theirs(json.loads(value)))
    if isinstance(value, list):
        return [_theirs(item) for item in value]
    if not isinstance(value, dict):
        return value
    if key in ("parameters", "inputs"):
        names, styles = {ours: name for name, ours in _FIELDS.items()}, {ours: name for name, ours in _STYLES.items()}
        return {names[name]: styles.get(item, item) for name, item in value.items() if name in names}
    return {name: _theirs(item, name) for name, item in value.items()}
