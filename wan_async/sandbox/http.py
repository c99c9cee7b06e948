"""HTTP requests and answers without a network: parsing of bodies, range requests, JSON and HTML answers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

HTML = b"<html><head><title>%s</title></head><body><center><h1>%s</h1></center></body></html>"
File = tuple[str, bytes]
"""A content type and the bytes."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request.

    Attributes:
        headers: names in lower case.
        base_url: scheme, host and port that it was sent to.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    base_url: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Attributes:
        cut_after: close the connection after this number of bytes of the body.
        drop: close the connection without an answer.
    """

    status: int
    headers: dict[str, str]
    body: bytes = b""
    cut_after: int | None = None
    drop: bool = False

    def truncated(self) -> Answer:
        """The same answer with the first two thirds of its body."""
        body = self.body[: len(self.body) * 2 // 3]
        return replace(self, body=body, headers=self.headers | {"content-length": str(len(body))})


class Refusal(Exception):
    """The service refuses a request, with an error code, a message, and an HTTP status."""

    def __init__(self, code: int, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.code: int = code
        self.message: str = message
        self.status: int = status


def json_answer(status: int, content: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with JSON."""
    body = json.dumps(content).encode()
    return Answer(
        status, {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}, body
    )


def html_answer(status: int, title: str) -> Answer:
    """Answer with an HTML page, as a proxy in front of the service does."""
    body = HTML % (title.encode(), title.encode())
    return Answer(status, {"content-type": "text/html", "content-length": str(len(body))}, body)


def read_body(request: Request) -> tuple[dict[str, str], dict[str, File]]:
    """Parse a body into its fields, and its files by the names of their parts.

    JSON is accepted whatever the Content-Type, because the model page's curl example sends it as multipart.

    Raises:
        Refusal: the body is malformed.
    """
    kind = request.headers.get("content-type", "")
    read = _READERS.get(kind.partition(";")[0].strip().lower())
    if read is not None and not request.body.lstrip().startswith(b"{"):
        try:
            return read(kind, request.body)
        except ValueError:
            raise Refusal(0, "Request body is not valid", 400) from None
    try:
        content = json.loads(request.body or b"{}")
    except (ValueError, RecursionError):
        raise Refusal(0, "Request body is not valid", 400) from None
    if not isinstance(content, dict):
        raise Refusal(0, "Request body is not valid", 400)
    return {name: "" if value is None else str(value) for name, value in content.items()}, {}


def _read_multipart(kind: str, body: bytes) -> tuple[dict[str, str], dict[str, File]]:
    from python_multipart.multipart import MultipartParser, parse_options_header

    boundary = parse_options_header(kind)[1].get(b"boundary", b"")
    form: dict[str, str] = {}
    files: dict[str, File] = {}
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


def _read_urlencoded(_: str, body: bytes) -> tuple[dict[str, str], dict[str, File]]:
    return dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict")), {}


_READERS = {"multipart/form-data": _read_multipart, "application/x-www-form-urlencoded": _read_urlencoded}


def serve_file(request: Request, file: File) -> Answer:
    """Answer with a file, or the requested range of it."""
    kind, data = file
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"content-type": kind, "etag": etag, "accept-ranges": "bytes", "content-length": str(len(data))}
    span = _range_of(request.headers.get("range", ""), len(data))
    if span is None or request.headers.get("if-range", etag) != etag:
        return Answer(200, headers, b"" if request.method == "HEAD" else data)
    first, last = span
    if first > last:
        return Answer(416, headers | {"content-range": f"bytes */{len(data)}", "content-length": "0"})
    headers |= {"content-range": f"bytes {first}-{last}/{len(data)}", "content-length": str(last - first + 1)}
    return Answer(206, headers, b"" if request.method == "HEAD" else data[first : last + 1])


def _range_of(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a single range, None without a valid one; first > last if it cannot be satisfied."""
    found = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header)
    if found is None or not any(found.groups()):
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size - 1
    first, last = int(found[1]), int(found[2] or size)
    return None if found[2] and last < first else (first, min(last, size - 1))
