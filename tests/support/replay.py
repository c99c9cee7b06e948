"""A server that answers from a recording of `doctor --render`.

Requests are matched by their endpoint, in the order of the recording; the last answer to a read is repeated, since a
client may ask more often than the recorded one did. A Run is answered once. URLs of outputs lead to this server, which
sends an MP4 of the recorded length.
"""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fronts import Asked, Reply, front

from wan_async.sandbox import ClipOrder
from wan_async.sandbox.files import pad_clip, placeholder_clip

Line = dict[str, Any]
NO_ORDER = ClipOrder(None, "", "480P", "Default", "42", "")
JSON = {"content-type": "application/json"}


class Replay:
    """Answers requests from a recording.

    Attributes:
        lines: of the recording.
        runs: bodies of the Runs that were received.
        unexpected: endpoints that the recording doesn't have, or Runs too many.
        url: this server's, set when it listens.
    """

    def __init__(self, path: Path) -> None:
        self.lines: list[Line] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        self.runs: list[dict[str, str]] = []
        self.unexpected: list[str] = []
        self.url = ""
        self._api: dict[str, deque[Line]] = defaultdict(deque)
        self._outputs = {urlsplit(line["url"]).path: line for line in self.lines if line["kind"] == "output"}
        for line in self.lines:
            if line["kind"] == "api":
                self._api[line["endpoint"]].append(line)
        self._lock = threading.Lock()

    @property
    def run(self) -> Line:
        """The recorded Run."""
        (line,) = [line for line in self.lines if line.get("endpoint", "").startswith("/Run/")]
        return line

    def answer(self, asked: Asked) -> Reply:
        """The recorded answer to a request."""
        with self._lock:
            if asked.method == "GET":
                line = self._outputs.get(asked.path)
                return self._missing(asked.path) if line is None else _output(line)
            endpoint = asked.path.removeprefix("/v1")
            lines = self._api.get(endpoint)
            if not lines:
                return self._missing(endpoint)
            is_run = endpoint.startswith("/Run/")
            if is_run:
                self.runs.append(json.loads(asked.body))
            line = lines.popleft() if is_run or len(lines) > 1 else lines[0]
            body = json.dumps(line["answer"]) if "answer" in line else line["text"]
            return Reply(line["status"], self._led_here(body).encode(), JSON)

    def _missing(self, what: str) -> Reply:
        self.unexpected.append(what)
        return Reply(404, b"not in the recording")

    def _led_here(self, body: str) -> str:
        """The answer with every recorded URL's host replaced by this server's."""
        return re.sub(r"https?://[^/\s\"]+/([0-9a-f]{16}[.\w]*)", rf"{self.url}/\1", body)


def _output(line: Line) -> Reply:
    clip = pad_clip(placeholder_clip(NO_ORDER), line["bytes"])
    return Reply(200, clip, {"content-type": line["headers"]["content-type"]})


@contextmanager
def replaying(path: Path) -> Iterator[Replay]:
    """Serve a recording on loopback until the block ends."""
    replay = Replay(path)
    with front(replay.answer) as url:
        replay.url = url
        yield replay
