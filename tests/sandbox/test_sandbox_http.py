"""Request bodies, range requests and answers of the sandbox."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wan_async.sandbox.http import Answer, Refusal, Request, html_answer, json_answer, read_body, serve_file

DATA = bytes(range(256)) * 4
FORM = {"content-type": "multipart/form-data; boundary=edge"}


def request(body: bytes = b"", method: str = "POST", **headers: str) -> Request:
    return Request(
        method, "/", "", {name.replace("_", "-"): value for name, value in headers.items()}, body, "http://x"
    )


def served(range_header: str | None, size: int = len(DATA), method: str = "GET", **headers: str) -> Answer:
    given = headers if range_header is None else {"range": range_header, **headers}
    return serve_file(request(b"", method, **given), ("video/mp4", DATA[:size]))


@pytest.mark.parametrize(
    ("range_header", "status", "span"),
    [
        (None, 200, None),
        ("bytes=0-", 206, (0, 1023)),
        ("bytes=1000-", 206, (1000, 1023)),
        ("bytes=0-0", 206, (0, 0)),
        ("bytes=1020-9999", 206, (1020, 1023)),
        ("bytes=-10", 206, (1014, 1023)),
        ("bytes=-9999", 206, (0, 1023)),
        ("bytes=-0", 416, None),
        ("bytes=1024-", 416, None),
        ("bytes=5000-6000", 416, None),
        ("bytes=6-5", 200, None),
        ("bytes=-", 200, None),
        ("bytes=0-1,5-6", 200, None),
        ("items=0-1", 200, None),
        ("bytes=²-", 200, None),
        ("bytes=" + "9" * 5000 + "-", 200, None),
    ],
)
def test_a_range_is_served_as_requested(range_header: str | None, status: int, span: tuple[int, int] | None) -> None:
    answer = served(range_header)
    assert answer.status == status
    if span is not None:
        assert answer.body == DATA[span[0] : span[1] + 1]
        assert answer.headers["content-range"] == f"bytes {span[0]}-{span[1]}/1024"
    else:
        assert answer.body == (DATA if status == 200 else b"")
        assert answer.headers.get("content-range") == (None if status == 200 else "bytes */1024")
    assert answer.headers["content-length"] == str(len(answer.body))


@given(st.integers(0, 1024), st.integers(0, 1100), st.integers(0, 1100))
def test_a_download_resumed_at_any_byte_is_identical(size: int, cut: int, last: int) -> None:
    whole = served(None, size)
    rest = served(f"bytes={cut}-", size, if_range=whole.headers["etag"])
    assert rest.status == (206 if cut < size else 416)
    assert whole.body[:cut] + rest.body == whole.body
    part = served(f"bytes={cut}-{last}", size)
    assert part.body == (whole.body if last < cut else whole.body[cut : last + 1])


def test_if_range_with_another_etag_returns_everything_and_head_has_no_body() -> None:
    whole = served(None)
    assert served("bytes=5-", if_range='"another"').body == DATA
    assert served("bytes=5-", if_range=whole.headers["etag"]).status == 206
    for range_header in (None, "bytes=5-9", "bytes=9999-"):
        head, got = served(range_header, method="HEAD"), served(range_header)
        assert (head.status, head.headers, head.body) == (got.status, got.headers, b"")


def test_etags_are_strong_and_depend_on_the_content() -> None:
    assert served(None).headers["etag"] == served(None, method="HEAD").headers["etag"]
    assert served(None).headers["etag"] != served(None, 1023).headers["etag"]
    assert served(None).headers["etag"][0] == served(None).headers["etag"][-1] == '"'


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (b"", {}),
        (
            b'{"seed": 42, "prompt": "\xc3\xa4", "x": null, "y": true}',
            {"seed": "42", "prompt": "ä", "x": "", "y": "True"},
        ),
    ],
)
def test_json_values_become_text(body: bytes, form: dict[str, str]) -> None:
    assert read_body(request(body)) == (form, {})


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"\xff", b'{"a": ' + b"[" * 100_000])
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read_body(request(body))
    assert (refused.value.status, refused.value.code) == (400, 0)


def test_parts_with_a_filename_are_files_with_their_type() -> None:
    body = (
        b'--edge\r\ncontent-disposition: form-data; name="prompt"\r\n\r\nein B\xc3\xa4r\r\n'
        b'--edge\r\nContent-Disposition: form-data; name="inputImage"; filename="a.png"\r\n\r\n\r\n--edg\r\n\r\n'
        b"--edge--\r\n"
    )
    form, files = read_body(Request("POST", "/", "", FORM, body, "http://x"))
    assert form == {"prompt": "ein Bär"}
    assert files == {"inputImage": ("application/octet-stream", b"\r\n--edg\r\n")}


def test_answers_have_a_content_length() -> None:
    for answer in (json_answer(200, {"a": "ä"}, {"retry-after": "1"}), html_answer(502, "502 Bad Gateway")):
        assert answer.headers["content-length"] == str(len(answer.body))
    assert json.loads(json_answer(200, {"a": "ä"}).body) == {"a": "ä"}
    assert b"<h1>502 Bad Gateway</h1>" in html_answer(502, "502 Bad Gateway").body


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--edge"),
        (FORM["content-type"], b"no--edge"),
        (FORM["content-type"], b'--edge\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\r\n--edge--\r\n'),
    ],
)
def test_a_malformed_multipart_body_is_refused(kind: str, body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read_body(request(body, content_type=kind))
    assert refused.value.status == 400
