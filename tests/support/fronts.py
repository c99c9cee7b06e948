"""HTTP servers in a thread, whose answers are made by a function."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Handle = Callable[[Asked], Reply]


@contextmanager
def front(handle: Handle) -> Iterator[str]:
    """Serve on loopback until the block ends. Yields the server's URL, without a slash at its end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = handle(Asked(self.command, self.path, headers, self.rfile.read(length)))
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if "date" not in {name.lower() for name in reply.headers}:
                self.send_header("date", self.date_time_string())
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = _serve  # noqa: N815 - the names are http.server's

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(10)


def forwarding(root: str, change: Callable[[Asked, Reply], Reply]) -> Handle:
    """Send each request on to another server, and change its answers.

    Args:
        root: the other server's URL.
        change: makes the answer of the one that was received.
    """

    def handle(asked: Asked) -> Reply:
        kept = {name: value for name, value in asked.headers.items() if name.startswith("x-") or name == "content-type"}
        with httpx.Client(trust_env=False, verify=False) as client:
            got = client.request(asked.method, f"{root}{asked.path}", headers=kept, content=asked.body)
        headers = {name: got.headers[name] for name in ("content-type", "date", "etag") if name in got.headers}
        return change(asked, Reply(got.status_code, got.content, headers))

    return handle
