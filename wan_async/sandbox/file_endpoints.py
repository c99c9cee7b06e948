"""`File/Upload`, the uploads that it stores, and the CDN that serves the clips."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Any

from wan_async.sandbox.files import clip_name, upload_name
from wan_async.sandbox.http import Answer, File, Refusal, Request, html_answer, serve_file
from wan_async.sandbox.state import Call, State
from wan_async.sandbox.views import outputs_of

MAX_UPLOAD_BYTES = 100_000_000
CREDENTIAL_HEADERS = ("x-api-key", "x-signature", "x-nonce", "authorization")


class FileEndpoints:
    """Stores uploads, serves uploads and clips.

    Attributes:
        leaks: paths of downloads that were sent with credentials, which a CDN must never see.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self.leaks: list[str] = []

    def upload(self, call: Call) -> dict[str, Any]:
        """Answer File/Upload."""
        if self._state.settings.uploads == "refuse":
            raise Refusal(0, "invalid-parameters")
        if call.file is None:
            raise Refusal(0, "Request files [file] required")
        kind, data = call.file
        if len(data) > MAX_UPLOAD_BYTES:
            raise Refusal(0, "Request files [file] is too large")
        random_part = f"{len(self._state.log):x}{self._state.random.getrandbits(24):x}"
        name = hashlib.sha256(data).hexdigest()[:24] + random_part
        self._state.files.put(upload_name(name), call.file)
        url = f"{call.base_url}/v1/File/{name}/input"
        return {"list": [{"id": name, "name": "input", "contenttype": kind, "size": str(len(data)), "url": url}]}

    def serve_upload(self, request: Request, path: str) -> Answer:
        """Answer a GET or HEAD of an upload."""
        upload = self._state.files.upload_at(path)
        return html_answer(404, "404 Not Found") if upload is None else serve_file(request, upload)

    def serve_clip(self, request: Request, path: str) -> Answer:
        """Answer a GET or HEAD of a clip: 404 before the task's end, 403 after the URL has expired."""
        state, faults = self._state, self._state.faults
        if any(name in request.headers for name in CREDENTIAL_HEADERS):
            self.leaks.append(path)
        found = re.fullmatch(r"/cdn/(\d+(?:-\d+)?)/(\d+)/0\.mp4", path)
        task = state.account.tasks.get(found[1]) if found else None
        now = state.now()
        if found is None or task is None or not outputs_of(task, now, request.base_url):
            return html_answer(404, "404 Not Found")
        state.record("cdn", task)
        if now > int(found[2]) + 1 + state.settings.url_seconds:
            return html_answer(403, "403 Forbidden")
        if now < task.end + task.files_after:
            return html_answer(403, "403 Forbidden") if faults.draw() < 0.5 else html_answer(404, "404 Not Found")
        clip = state.files.get(clip_name(task.key))
        if clip is None:
            return html_answer(404, "404 Not Found")
        answer = self._serve_with_faults(request, clip)
        if answer.body and answer.status in (200, 206) and faults.meets("cut_download", "cdn"):
            answer = replace(answer, cut_after=int(len(answer.body) * faults.draw()))
        return answer

    def _serve_with_faults(self, request: Request, clip: File) -> Answer:
        faults, headers = self._state.faults, dict(request.headers)
        if "range" in headers and faults.meets("ignores_range", "cdn"):
            del headers["range"]
        if not faults.meets("no_etag", "cdn"):
            return serve_file(replace(request, headers=headers), clip)
        if headers.pop("if-range", ""):
            headers.pop("range", None)  # If-Range matches neither a missing validator nor a weak one
        answer = serve_file(replace(request, headers=headers), clip)
        etag = answer.headers.pop("etag")
        if faults.draw() < 0.5:
            answer.headers["etag"] = f"W/{etag}"
        return answer
