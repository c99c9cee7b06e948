"""A local S3 server (moto), and places in object stores for the conformance suite."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from urllib.parse import quote

import httpx
from store_conformance import Killed

from wan_async.filesystem import Files
from wan_async.outputs.base import Store
from wan_async.outputs.object_store import ObjectStore
from wan_async.outputs.obstore_client import ObstoreClient
from wan_async.threads import inline

_numbers = count()
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "moto-key", "AWS_SECRET_ACCESS_KEY": "moto-secret", "AWS_REGION": "us-east-1"}
_AUTHORIZATION = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request"
EXPIRED = b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"


@lru_cache(1)
def moto_url() -> str:
    """The URL of the one S3 server of this process; it is started by the first call, and ends with the process."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


def environment(endpoint: str | None = None) -> dict[str, str]:
    """The variables by which obstore finds a server: moto's, or what stands in front of it."""
    return {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint or moto_url(), "AWS_ALLOW_HTTP": "true"}


def new_bucket() -> str:
    """The name of a new, empty bucket."""
    name = f"bucket-{next(_numbers)}"
    request("PUT", name)
    return name


def request(method: str, path: str) -> httpx.Response:
    """A request to the server, as another program would send it."""
    headers = {"Authorization": _AUTHORIZATION}
    with httpx.Client(trust_env=False, verify=False) as client:  # loading the certificates takes 25 ms
        return client.request(method, f"{moto_url()}/{path}", headers=headers, timeout=30)


def keys(bucket: str) -> list[str]:
    """The names of all objects of a bucket."""
    return [unescape(key) for key in re.findall("<Key>([^<]*)</Key>", request("GET", f"{bucket}?list-type=2").text)]


def content(bucket: str, key: str) -> bytes:
    """The bytes of an object."""
    return request("GET", f"{bucket}/{quote(key)}").raise_for_status().content


def delete_bucket(bucket: str) -> None:
    """Removes a bucket with all that is in it."""
    for key in keys(bucket):
        request("DELETE", f"{bucket}/{quote(key)}")
    assert request("DELETE", bucket).status_code == 204


class DyingCalls(ObstoreClient):
    """Counts the calls that change something, and raises `Killed` instead of one of them."""

    step = -1
    log: list[str]

    def note(self, name: str) -> None:
        """A step: a call to the store, or a change to a local file."""
        if len(self.log) == self.step:
            raise Killed
        self.log.append(name)


def _counted(name: str) -> object:
    plain = getattr(ObstoreClient, name)

    def call(self: DyingCalls, *args: object) -> object:
        self.note(name)
        return plain(self, *args)

    return call


for _name in ("create", "replace", "copy", "delete"):
    setattr(DyingCalls, _name, _counted(_name))


@dataclass
class DyingFiles(Files):
    """Counts the removals of local files as steps of the same process."""

    calls: DyingCalls

    def unlink(self, path: Path) -> None:
        self.calls.note("unlink")
        super().unlink(path)


@dataclass
class ObjectPlace:
    """A folder of an object store as a `Place`."""

    url: str
    parts: Path
    calls: ObstoreClient = field(init=False)

    def __post_init__(self) -> None:
        self.calls = ObstoreClient(self.url)
        self.store: Store = ObjectStore(self.calls, self.parts)

    def dying(self, step: int) -> Store:
        calls = DyingCalls(self.url)
        calls.step, calls.log = step, []
        return ObjectStore(calls, self.parts, DyingFiles(calls), inline)

    def put(self, name: str, content: bytes) -> None:
        """Without the hash in its metadata, as another program would."""
        from obstore import put

        put(self.calls._store, name, content)

    def get(self, name: str) -> bytes | None:
        return self.calls.read(name)

    def names(self) -> set[str]:
        return set(self.calls.sizes())


@dataclass
class Gateway:
    """A server between obstore and moto.

    Attributes:
        url: its URL.
        refuse: the status of all its answers; 0 to pass requests on.
        body: of these answers.
        no_conditions: answer 501 to requests with If-None-Match.
        on_clip: called after the store took a clip, with the number of clips so far.
        clips: that number.
        authorization: the latest request's header.
    """

    url: str
    refuse: int = 0
    body: bytes = EXPIRED
    no_conditions: bool = False
    on_clip: Callable[[int], None] = lambda count: None
    clips: int = 0
    authorization: str = ""


@contextmanager
def gateway() -> Iterator[Gateway]:
    """A `Gateway` in front of moto; it passes on one request at a time."""
    target, lock = moto_url(), threading.Lock()
    client = httpx.Client(trust_env=False, verify=False)  # loading the certificates takes 25 ms a request

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            with lock:
                self._handle(body)

        def _handle(self, body: bytes) -> None:
            state.authorization = self.headers.get("authorization", "")
            if state.refuse:
                self._answer(state.refuse, {}, state.body)
                return
            if state.no_conditions and "if-none-match" in self.headers:
                self._answer(501, {}, b"<Code>NotImplemented</Code>")
                return
            kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
            answer = client.request(self.command, target + self.path, headers=kept, content=body, timeout=30)
            dropped = ("content-length", "transfer-encoding", "connection", "content-encoding", "date", "server")
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in dropped}
            if self.command == "HEAD" and "content-length" in answer.headers:
                headers["Content-Length"] = answer.headers["content-length"]
            if self.command == "PUT" and self.path.endswith(".mp4") and answer.is_success:
                state.clips += 1
                state.on_clip(state.clips)
            self._answer(answer.status_code, headers, answer.content)

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Gateway(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        client.close()
