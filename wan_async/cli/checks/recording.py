"""A recording of requests and answers, as JSON lines, without secrets.

Keys, signatures and tokens are replaced by names (`token-1`) that are the same wherever the same value stood, so that
a server can answer from the recording. Of URLs the scheme and host remain, and a hash of the rest. Of a clip's bytes
the length and the hash remain; of tasks that are not of this recording's job neither prompts nor URLs; of text in
fields that are not known the length alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TextIO
from urllib.parse import urlsplit

import httpx

from wan_async.domain.fields import parse_json_text
from wan_async.domain.model import WAN

ANSWER_HEADERS = ("content-type", "date", "retry-after", "server", "location")
OUTPUT_HEADERS = ("content-type", "content-length", "content-range", "accept-ranges", "etag", "date")
SHOWN_TEXT = 300

_SECRET_NAME = re.compile(r"token|secret|signature|accesskey|api_?key|password|uuid|projectid", re.IGNORECASE)
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}")
_URL = re.compile(r"https?://[^\s\"'<>\\]+")
_SHOWN = frozenset(
    {
        "id", "taskid", "status", "pexit", "type", "title", "label", "code", "message", "result", "starttime",
        "endtime", "elapsedseconds", "createtime", "canceltime", "assigntime", "accepttime", "preprocessstarttime",
        "preprocessendtime", "postprocessstarttime", "postprocessendtime", "cps", "totalcost", "total", "name",
        "contenttype", "parentid", "size", "addedtime", "modifiedtime", "url", "categories", "price", "priceMethod",
        "approximatelycost", "dynamicprice", "value", "required", "slugowner", "slugproject", "sort", "order",
        "start", "limit", "modelName", "text",
        *(each.wire for each in WAN.parameters), *(each.file_field for each in WAN.parameters if each.file_field),
    }
)  # fmt: skip
"""Fields whose text is kept; of others the length is."""
_STRUCTURED = ("parameters", "outputs", "categories", "dynamicprice", "inputs")
"""Fields that may hold JSON as text."""


class Recording:
    """Writes a recording.

    Args:
        file: takes the lines.
        prompt: the job's, by which its task is told from others of the account.
        base_url: the API's URL.
        secrets: texts that must not appear wherever they stand.
    """

    def __init__(self, file: TextIO, *, prompt: str, base_url: str, secrets: Sequence[str]) -> None:
        self._file = file
        self._prompt = prompt
        self._base_url = base_url
        self._names = {secret: f"secret-{number}" for number, secret in enumerate(secrets, 1) if secret}
        self._tokens = 0
        self._began = time.monotonic()
        self.lines: int = 0

    def wrapping(self, inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        """A transport that records what it sends and receives."""
        return _Recorded(inner, self)

    def note(self, **line: object) -> None:
        """Write a line."""
        self.lines += 1
        at = round(time.monotonic() - self._began, 3)
        self._file.write(json.dumps({"at": at, **line}) + "\n")
        self._file.flush()

    def api_exchange(self, request: httpx.Request, response: httpx.Response, body: bytes) -> None:
        """Write a request to the API and its answer."""
        answer = parse_json_text(body)
        if isinstance(answer, dict | list):
            shown: dict[str, object] = {"answer": self.redacted(answer)}
        else:
            shown = {"text": self._without_secrets(body[:SHOWN_TEXT].decode("utf-8", "replace")), "bytes": len(body)}
        self.note(
            kind="api",
            endpoint=str(request.url).removeprefix(self._base_url),
            request=self._request_body(request),
            status=response.status_code,
            headers=_chosen(response.headers, ANSWER_HEADERS),
            **shown,
        )

    def output_exchange(self, request: httpx.Request, response: httpx.Response, count: int, sha256: str) -> None:
        """Write a request for an output and its answer."""
        self.note(
            kind="output",
            method=request.method,
            url=self._url(str(request.url)),
            range=request.headers.get("range"),
            status=response.status_code,
            headers=_chosen(response.headers, OUTPUT_HEADERS),
            bytes=count,
            sha256=sha256,
        )

    def failure(self, request: httpx.Request, error: Exception) -> None:
        """Write a request that was not answered; of the error its type alone, since its text may quote anything."""
        is_api = str(request.url).startswith(f"{self._base_url}/")
        target = str(request.url).removeprefix(self._base_url) if is_api else self._url(str(request.url))
        self.note(kind="failure", target=target, error=type(error).__name__)

    def is_api(self, request: httpx.Request) -> bool:
        """Whether a request goes to the API, and not to a server of outputs."""
        return request.method == "POST" and str(request.url).startswith(f"{self._base_url}/")

    def redacted(self, value: object, name: str = "", *, foreign: bool = False) -> object:
        """A value without secrets.

        Args:
            value: of JSON.
            name: the field that it stands in.
            foreign: whether it is of another job's task.
        """
        match value:
            case dict():
                foreign = foreign or self._is_foreign(value)
                return {key: self.redacted(each, str(key), foreign=foreign) for key, each in value.items()}
            case list():
                return [self.redacted(each, name, foreign=foreign) for each in value]
            case str():
                return self._redacted_text(value, name, foreign=foreign)
            case int() | float() if not isinstance(value, bool) and _SECRET_NAME.search(name):
                return self._named(str(value))
        return value

    def _redacted_text(self, text: str, name: str, *, foreign: bool) -> str:
        if not text:
            return text
        if name in _STRUCTURED and isinstance(found := parse_json_text(text), dict | list):
            return json.dumps(self.redacted(found, name, foreign=foreign))
        if _SECRET_NAME.search(name):
            return self._named(text)
        is_ours = name in _SHOWN or name in ("debugoutput", "debugerror", "parameters", "categories")
        if (foreign and name in _PARAMETERS) or not is_ours or (foreign and name.startswith("debug")):
            return f"<{len(text)} characters>"
        return self._without_secrets(_URL.sub(lambda match: self._url(match[0]), text))

    def _is_foreign(self, value: Mapping[str, object]) -> bool:
        """Whether an object is a task of another job."""
        parameters = parse_json_text(value.get("parameters"))
        if "status" not in value or not isinstance(parameters, dict):
            return False
        return parameters.get(WAN.prompt.wire) not in (self._prompt, None)

    def _named(self, text: str) -> str:
        if text not in self._names:
            self._tokens += 1
            self._names[text] = f"token-{self._tokens}"
        return self._names[text]

    def _without_secrets(self, text: str) -> str:
        for secret, name in self._names.items():
            if len(secret) >= 4:  # a shorter one can't be told from other text
                text = text.replace(secret, name)
        return text

    def _url(self, text: str) -> str:
        try:
            parts = urlsplit(text)
            host = parts.netloc.rpartition("@")[2]
        except ValueError:
            return f"<{len(text)} characters>"
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        suffix = PurePosixPath(parts.path).suffix
        return f"{parts.scheme}://{host}/{digest}{suffix if _SUFFIX.fullmatch(suffix) else ''}"

    def _request_body(self, request: httpx.Request) -> object:
        kind = request.headers.get("content-type", "")
        if kind.startswith("application/json"):
            return self.redacted(json.loads(request.content or b"{}"))
        return {"content_type": kind.partition(";")[0], "bytes": request.headers.get("content-length")}


_PARAMETERS = frozenset(
    {*(each.wire for each in WAN.parameters), *(each.file_field for each in WAN.parameters), "url", "name"}
)


def _chosen(headers: httpx.Headers, names: Sequence[str]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


class _Recorded(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport, recording: Recording) -> None:
        self._inner, self._recording = inner, recording

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await self._inner.handle_async_request(request)
        except Exception as error:
            self._recording.failure(request, error)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        body = _RecordedBody(response.stream, request, response, self._recording)
        return httpx.Response(
            response.status_code, headers=response.headers, stream=body, extensions=response.extensions
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


class _RecordedBody(httpx.AsyncByteStream):
    """A body that is recorded when it is closed."""

    def __init__(
        self, inner: httpx.AsyncByteStream, request: httpx.Request, response: httpx.Response, recording: Recording
    ) -> None:
        self._inner, self._request, self._response, self._recording = inner, request, response, recording
        self._hash, self._count, self._closed = hashlib.sha256(), 0, False
        self._kept = bytearray()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        is_api = self._recording.is_api(self._request)
        async for part in self._inner:
            self._hash.update(part)
            self._count += len(part)
            if is_api:
                self._kept += part
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()
        if self._closed:
            return
        self._closed = True
        if self._recording.is_api(self._request):
            body = httpx.Response(200, headers=_coding(self._response), content=bytes(self._kept)).content
            self._recording.api_exchange(self._request, self._response, body)
        else:
            self._recording.output_exchange(self._request, self._response, self._count, self._hash.hexdigest())


def _coding(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name == "content-encoding"}
