# ruff: noqa: ASYNC110 - a test may read a small file, and may spin until a thread has begun
from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.stapled import MultiListener

from wan_async import download, errors
from wan_async import fetching as room
from wan_async.disk import Files, in_threads, inline
from wan_async.download import Downloader
from wan_async.fetching import Fetched, check_url

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def clip(length: int = 100) -> bytes:
    media = hashlib.shake_256(b"media").digest(length)
    return box(b"ftyp", b"isom\0\0\2\0") + box(b"moov", b"index") + box(b"mdat", media)


CLIP = clip()
BIG = clip(3 * 2**20)
URL = "https://cdn.example/clip"


@dataclass
class Order(Files):
    """A file layer that writes down what happens, and fails where it is told to."""

    log: list[str] = field(default_factory=list)
    failing: dict[str, int] = field(default_factory=dict)

    def note(self, name: str) -> None:
        self.log.append(name)
        if name in self.failing:
            raise OSError(self.failing[name], os.strerror(self.failing[name]))

    def open(self, path: Path) -> FileIO:
        self.note("open")
        return super().open(path)

    def write(self, file: FileIO, data: bytes) -> None:
        self.note("write")
        super().write(file, data)

    def fsync(self, file: FileIO) -> None:
        self.note("fsync")
        super().fsync(file)

    def link(self, source: Path, target: Path) -> None:
        self.note("link")
        super().link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        self.note("rename")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self.note("unlink")
        super().unlink(path)

    def fsync_folder(self, folder: Path) -> None:
        self.note("fsync folder")
        super().fsync_folder(folder)


class Cdn:
    """Answers by script, one step a request; remembers what it was asked."""

    def __init__(self, *steps: Callable[[httpx.Request], httpx.Response] | httpx.Response) -> None:
        self.steps = list(steps)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return step if isinstance(step, httpx.Response) else step(request)

    def ranges(self) -> list[str | None]:
        return [request.headers.get("range") for request in self.requests]


def answer(content: bytes = CLIP, *, status: int = 200, **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers={"content-length": str(len(content)), **given}, stream=Pieces(content))


class Pieces(httpx.AsyncByteStream):
    """A body in pieces, which may break off."""

    def __init__(self, content: bytes, broken: Exception | None = None, size: int = 2**16) -> None:
        self.content, self.broken, self.size = content, broken, size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.content), self.size):
            await anyio.lowlevel.checkpoint()
            yield self.content[at : at + self.size]
        if self.broken is not None:
            raise self.broken


def broken(content: bytes, total: int, **headers: str) -> httpx.Response:
    given = {"content-length": str(total), **headers}
    return httpx.Response(200, headers=given, stream=Pieces(content, httpx.ReadError("reset")))


@dataclass
class Fetching:
    """One part, its journal, and the CDN that it comes from."""

    part: Path
    cdn: Cdn
    files: Order = field(default_factory=Order)
    etag: str | None = None
    levels: list[tuple[int, int | None]] = field(default_factory=list)
    announced_bytes: int | None = None
    content_type: str = "video/mp4"
    max_bytes: int = download.MAX_BYTES
    allow_private: bool = False

    async def remember(self, etag: str) -> None:
        self.files.note("remember")
        self.etag = etag

    def downloader(self) -> Downloader:
        return Downloader(
            transport=httpx.MockTransport(self.cdn),
            files=self.files,
            max_bytes=self.max_bytes,
            allow_private=self.allow_private,
        )

    async def fetch(self, url: str = URL) -> Fetched:
        async with self.downloader() as downloader:
            return await downloader.fetch(
                url,
                self.part,
                announced_bytes=self.announced_bytes,
                content_type=self.content_type,
                etag=self.etag,
                remember=self.remember,
                progress=lambda there, total: self.levels.append((there, total)),
            )


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "clip.mp4.part"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_a_clip_arrives_whole_and_durable(part: Path) -> None:
    one = Fetching(part, Cdn(answer(BIG, etag='"a"')), announced_bytes=len(BIG))
    assert await one.fetch() == Fetched(len(BIG), digest(BIG), "video/mp4", '"a"')
    assert part.read_bytes() == BIG
    assert one.levels[-1] == (len(BIG), len(BIG))
    assert len(one.levels) > 3
    order = one.files.log
    assert order[:2] == ["open", "remember"]
    assert order[-1] == "fsync"
    assert set(order[2:-1]) == {"write"}


async def test_the_requests_carry_nothing_but_the_plain(part: Path) -> None:
    cdn = Cdn(httpx.Response(302, headers={"location": "/x", "set-cookie": "a=b"}), answer())
    await Fetching(part, cdn).fetch()
    assert {name for request in cdn.requests for name in request.headers} == {
        "host", "user-agent", "accept", "accept-encoding",
    }  # fmt: skip
    assert cdn.requests[0].headers["accept-encoding"] == "identity"


async def test_a_body_that_breaks_off_is_resumed(part: Path) -> None:
    half = len(BIG) // 2
    rest = answer(BIG[half:], status=206, etag='"a"', content_range=f"bytes {half}-{len(BIG) - 1}/{len(BIG)}")
    one = Fetching(part, Cdn(broken(BIG[:half], len(BIG), etag='"a"'), rest))
    with pytest.raises(errors.TryLater, match="ReadError"):
        await one.fetch()
    assert part.read_bytes() == BIG[:half]
    assert (await one.fetch()).sha256 == digest(BIG)
    assert part.read_bytes() == BIG
    assert one.cdn.ranges() == [None, f"bytes={half}-"]
    assert one.cdn.requests[1].headers["if-range"] == '"a"'
    assert one.files.log.count("remember") == 1


@pytest.mark.parametrize("etag", ["", 'W/"a"', None, '""', "a"])
async def test_without_a_strong_etag_it_begins_anew(part: Path, etag: str | None) -> None:
    part.write_bytes(b"old")
    one = Fetching(part, Cdn(answer(etag='W/"b"')), etag=etag)
    assert (await one.fetch()).etag is None
    assert one.cdn.ranges() == [None]
    assert one.etag == ""
    assert part.read_bytes() == CLIP


async def test_an_old_part_is_emptied_durably_before_another_etag_is_remembered(part: Path) -> None:
    part.write_bytes(b"of another clip")
    one = Fetching(part, Cdn(answer(etag='"new"')), etag='"old"')
    await one.fetch()
    assert one.files.log == ["open", "fsync", "remember", "write", "fsync"]
    assert (one.etag, part.read_bytes()) == ('"new"', CLIP)


@pytest.mark.parametrize(
    "refusal",
    [
        answer(b"", status=416),
        answer(CLIP[5:], status=206, etag='"b"', content_range=f"bytes 5-{len(CLIP) - 1}/{len(CLIP)}"),
        answer(CLIP[4:], status=206, etag='"a"', content_range=f"bytes 4-{len(CLIP) - 1}/{len(CLIP)}"),
        answer(CLIP[5:9], status=206, etag='"a"', content_range=f"bytes 5-8/{len(CLIP)}"),
        answer(CLIP[5:], status=206, etag='"a"', content_range=f"bytes 5-{len(CLIP) - 1}/*"),
        answer(CLIP[5:], status=206, etag='"a"'),
    ],
)
async def test_an_answer_that_does_not_continue_the_part_makes_it_begin_anew(
    part: Path, refusal: httpx.Response
) -> None:
    part.write_bytes(CLIP[:5])
    one = Fetching(
        part,
        Cdn(
            lambda _: httpx.Response(refusal.status_code, headers=refusal.headers, stream=refusal.stream),
            answer(etag='"c"'),
        ),
        etag='"a"',
    )
    assert (await one.fetch()).sha256 == digest(CLIP)
    assert one.cdn.ranges() == ["bytes=5-", None]
    assert one.etag == '"c"'


async def test_a_part_that_lost_its_data_in_a_power_cut_is_begun_anew(part: Path) -> None:
    part.write_bytes(BIG[:4096] + bytes(4096) + BIG[8192:10000])
    one = Fetching(part, Cdn(answer(BIG)), etag='"a"')
    assert (await one.fetch()).sha256 == digest(BIG)
    assert one.cdn.ranges() == [None]


@pytest.mark.parametrize("status", [206, 416])
async def test_a_range_that_was_not_asked_for_is_refused(part: Path, status: int) -> None:
    with pytest.raises(errors.JobFailed, match=str(status)):
        await Fetching(part, Cdn(answer(status=status))).fetch()


@pytest.mark.parametrize(("sent", "said"), [(len(CLIP) - 5, len(CLIP)), (len(CLIP), len(CLIP) - 5)])
async def test_a_body_of_another_length_than_it_said_is_tried_later(part: Path, sent: int, said: int) -> None:
    with pytest.raises(errors.TryLater, match=f"after {sent} of {said}"):
        await Fetching(part, Cdn(answer(CLIP[:sent], content_length=str(said)))).fetch()


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_a_link_that_is_no_longer_good_says_so(part: Path, status: int) -> None:
    with pytest.raises(errors.NotFound) as caught:
        await Fetching(part, Cdn(answer(status=status))).fetch()
    assert caught.value.kind == "expired"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
async def test_a_fault_of_the_server_is_tried_later(part: Path, status: int) -> None:
    with pytest.raises(errors.TryLater) as caught:
        await Fetching(part, Cdn(answer(status=status, retry_after="7"))).fetch()
    assert (caught.value.status, caught.value.after_seconds) == (status, 7)


@pytest.mark.parametrize("status", [204, 300, 304, 400, 401, 451])
async def test_any_other_status_is_definite(part: Path, status: int) -> None:
    with pytest.raises(errors.JobFailed) as caught:
        await Fetching(part, Cdn(answer(b"", status=status))).fetch()
    assert caught.value.kind == "download"


async def test_a_compressed_body_is_refused(part: Path) -> None:
    with pytest.raises(errors.JobFailed, match="compressed"):
        await Fetching(part, Cdn(answer(content_encoding="gzip"))).fetch()


@pytest.mark.parametrize("length", ["unknown", "9" * 30])
async def test_an_endless_body_is_cut_off_at_the_limit(part: Path, length: str) -> None:
    one = Fetching(part, Cdn(answer(BIG, content_length=length)), max_bytes=2**20)
    with pytest.raises(errors.JobFailed) as caught:
        await one.fetch()
    assert caught.value.kind == "size"
    assert not part.exists()


async def test_a_body_that_says_it_is_too_long_is_not_read(part: Path) -> None:
    one = Fetching(part, Cdn(answer(BIG)), max_bytes=2**20)
    with pytest.raises(errors.JobFailed, match="limit"):
        await one.fetch()
    assert "write" not in one.files.log


async def test_a_length_that_was_not_announced_is_believed_when_it_comes_twice(part: Path) -> None:
    one = Fetching(part, Cdn(answer(etag='"a"'), answer(etag='"a"')), announced_bytes=1)
    fetched = await one.fetch()
    assert (fetched.sha256, len(one.cdn.requests)) == (digest(CLIP), 2)
    assert "1 were announced" in fetched.warning


async def test_two_downloads_that_differ_are_not_believed(part: Path) -> None:
    with pytest.raises(errors.JobFailed) as caught:
        await Fetching(part, Cdn(answer(CLIP), answer(clip(101))), announced_bytes=1).fetch()
    assert caught.value.kind == "content"
    assert not part.exists()


async def test_the_bytes_say_what_they_are_not_the_announcement(part: Path) -> None:
    fetched = await Fetching(part, Cdn(answer(CLIP)), content_type="application/octet-stream").fetch()
    assert fetched.content_type == "video/mp4"


@pytest.mark.parametrize("content", [b"", b"<!doctype html><title>Sorry", CLIP[:-1]])
async def test_what_is_no_whole_output_leaves_no_part_behind(part: Path, content: bytes) -> None:
    with pytest.raises(errors.JobFailed) as caught:
        await Fetching(part, Cdn(answer(content)), content_type="video/mp4").fetch()
    assert caught.value.kind == "content"
    assert not part.exists()


PRIVATE = [
    "http://127.0.0.1/x", "http://127.1/x", "http://2130706433/", "http://0x7f000001/",
    "http://0/", "http://0.0.0.0/", "http://10.1.2.3/", "http://172.16.0.1/", "http://192.168.1.1./",
    "http://169.254.169.254/latest", "http://224.0.0.1/", "http://100.64.0.1/", "http://[::1]/", "http://[::]/",
    "http://[fe80::1]/", "http://[fc00::1]/", "http://[ff02::1]/", "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:a00:1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://localhost/",
    "http://LOCALHOST./", "http://a.localhost/",
]  # fmt: skip
REFUSED = [
    "file:///etc/passwd", "data:video/mp4;base64,AAAA", "ftp://cdn.example/x", "//cdn.example/x", "x.mp4", "",
    "http:///x", "https://user:secret@cdn.example/x", "http://[/", "http://cdn.example:port/", "http://0177.0.0.1/", "http://%31%32%37.0.0.1/",
]  # fmt: skip


@pytest.mark.parametrize("url", PRIVATE)
def test_a_private_host_is_asked_only_by_a_private_api(url: str) -> None:
    with pytest.raises(errors.JobFailed, match="private host"):
        check_url(url, allow_private=False)
    assert check_url(url, allow_private=True) == httpx.URL(url)


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_is_not_plain_http_is_refused(url: str) -> None:
    with pytest.raises(errors.JobFailed) as caught:
        check_url(url, allow_private=True)
    assert caught.value.kind == "download"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["https://cdn.example/x", "http://93.184.216.34/", "http://[2606:2800:220:1::1]/", "http://[::ffff:8.8.8.8]/"],
)
def test_a_public_host_is_asked(url: str) -> None:
    assert check_url(url, allow_private=False) == httpx.URL(url)


async def test_redirects_are_followed_to_another_host_and_no_further_than_the_limit(part: Path) -> None:
    hops = [httpx.Response(302, headers={"location": f"https://b{n}.example/y"}) for n in range(room.MAX_REDIRECTS)]
    one = Fetching(part, Cdn(*hops, answer()))
    await one.fetch()
    assert one.cdn.requests[-1].url.host == f"b{room.MAX_REDIRECTS - 1}.example"
    with pytest.raises(errors.JobFailed, match="more than"):
        await Fetching(part, Cdn(httpx.Response(302, headers={"location": "/again"}))).fetch()


@pytest.mark.parametrize(
    "location", ["http://cdn.example/x", *PRIVATE[:3], "file:///etc/passwd", "https://a:b@cdn.example/"]
)
async def test_a_redirect_to_where_it_must_not_lead_is_refused(part: Path, location: str) -> None:
    one = Fetching(part, Cdn(httpx.Response(302, headers={"location": location}), answer()))
    with pytest.raises(errors.JobFailed) as caught:
        await one.fetch()
    assert caught.value.kind == "download"
    assert len(one.cdn.requests) == 1


@pytest.mark.parametrize("location", ["http://[", "https://cdn.example:port/"])
async def test_a_redirect_to_no_url_at_all_fails(part: Path, location: str) -> None:
    with pytest.raises(errors.JobFailed) as caught:
        await Fetching(part, Cdn(httpx.Response(302, headers={"location": location}))).fetch()
    assert caught.value.kind == "download"


@pytest.mark.parametrize("step", ["open", "write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_fails_says_what_to_do_and_loses_nothing(part: Path, step: str, code: int) -> None:
    one = Fetching(part, Cdn(answer(BIG, etag='"a"')))
    one.files.failing = {step: code}
    with pytest.raises(errors.Unusable, match="free some space" if code == errno.ENOSPC else "mend that") as caught:
        await one.fetch()
    assert "run the same command again" in str(caught.value)
    one.files.failing = {}
    one.cdn.steps = [answer(BIG)]
    assert (await one.fetch()).sha256 == digest(BIG)


async def test_a_network_fault_is_tried_later(part: Path) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(errors.TryLater, match="ConnectError") as caught:
        await Fetching(part, Cdn(refuse)).fetch()
    assert caught.value.status is None


async def test_a_journal_that_cannot_remember_stops_it_before_the_first_byte(part: Path) -> None:
    one = Fetching(part, Cdn(answer(etag='"a"')))
    one.files.failing = {"remember": errno.EIO}
    with pytest.raises(OSError, match=r"[Ee]rror"):
        await one.fetch()
    assert part.read_bytes() == b""


async def publish(part: Path, files: Files, content: bytes = CLIP) -> Path:
    target = part.with_suffix("")
    async with Downloader(files=files) as downloader:
        await downloader.publish(part, target, digest(content))
    return target


async def test_publishing_links_then_unlinks_then_makes_the_folder_durable(part: Path) -> None:
    part.write_bytes(CLIP)
    files = Order()
    target = await publish(part, files)
    assert files.log == ["link", "unlink", "fsync folder"]
    assert (target.read_bytes(), part.exists()) == (CLIP, False)


async def test_publishing_again_after_a_crash_at_any_step_ends_in_the_same(part: Path) -> None:
    for step in ("link", "unlink", "fsync folder"):
        part.write_bytes(CLIP)
        part.with_suffix("").unlink(missing_ok=True)
        with pytest.raises(errors.Unusable):
            await publish(part, Order(failing={step: errno.EIO}))
        target = await publish(part, Order())
        assert (target.read_bytes(), part.exists()) == (CLIP, False)


async def test_another_file_of_that_name_is_never_overwritten(part: Path) -> None:
    part.write_bytes(CLIP)
    part.with_suffix("").write_bytes(b"somebody's")
    for files in (Order(), Order(failing={"link": errno.EPERM})):
        with pytest.raises(errors.JobFailed) as caught:
            await publish(part, files)
        assert caught.value.kind == "target"
    assert (part.with_suffix("").read_bytes(), part.read_bytes()) == (b"somebody's", CLIP)


async def test_a_folder_of_that_name_is_never_overwritten(part: Path) -> None:
    part.write_bytes(CLIP)
    part.with_suffix("").mkdir()
    with pytest.raises(errors.JobFailed, match="exists"):
        await publish(part, Order())


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
async def test_where_links_are_missing_it_is_renamed(part: Path, code: int) -> None:
    part.write_bytes(CLIP)
    files = Order(failing={"link": code})
    target = await publish(part, files)
    assert files.log == ["link", "rename", "unlink", "fsync folder"]
    assert (target.read_bytes(), part.exists()) == (CLIP, False)
    part.write_bytes(CLIP)
    await publish(part, files)
    assert (target.read_bytes(), part.exists()) == (CLIP, False)


async def test_a_part_that_is_gone_must_be_fetched_again(part: Path) -> None:
    with pytest.raises(errors.TryLater, match="gone"):
        await publish(part, Order())


def test_a_folder_that_cannot_be_synced_is_left_at_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(code: int) -> None:
        def fsync(fd: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fsync)

    fail(errno.EINVAL)
    Files().fsync_folder(tmp_path)
    fail(errno.EIO)
    with pytest.raises(OSError, match=r"[Ee]rror"):
        Files().fsync_folder(tmp_path)
    monkeypatch.setattr("os.name", "nt")
    Files().fsync_folder(tmp_path)


def test_a_short_write_is_gone_on_with(tmp_path: Path) -> None:
    class Short(FileIO):
        def write(self, data: object) -> int:
            assert isinstance(data, memoryview)
            return super().write(data[:3])

    with Short(tmp_path / "x", "w") as file:
        Files().write(file, b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


class Counting(Files):
    """Knows how many calls are at work right now, and which files are open."""

    def __init__(self) -> None:
        self.at_work = 0
        self.opened: list[FileIO] = []
        self.lock = threading.Lock()

    def open(self, path: Path) -> FileIO:
        file = super().open(path)
        self.opened.append(file)
        return file

    def write(self, file: FileIO, data: bytes) -> None:
        with self.lock:
            self.at_work += 1
        try:
            super().write(file, data)
        finally:
            with self.lock:
                self.at_work -= 1


async def serve_big(stream: SocketStream) -> None:
    """A CDN with ranges, in pieces that leave room for a cancellation between them."""
    async with stream:
        data = b""
        while True:
            try:
                while b"\r\n\r\n" not in data:
                    data += await stream.receive()
                head, data = data.split(b"\r\n\r\n", 1)
                start = next(
                    (int(line[13:-1]) for line in head.split(b"\r\n") if line.lower().startswith(b"range:")), 0
                )
                status = f"206 P\r\nContent-Range: bytes {start}-{len(BIG) - 1}/{len(BIG)}" if start else "200 OK"
                text = f'HTTP/1.1 {status}\r\nContent-Length: {len(BIG) - start}\r\nETag: "a"\r\n\r\n'
                await stream.send(text.encode())
                for at in range(start, len(BIG), 2**18):
                    await stream.send(BIG[at : at + 2**18])
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return


@dataclass
class Real:
    """A download over a real socket, which can be cancelled and begun again."""

    part: Path
    files: Counting = field(default_factory=Counting)
    etag: str | None = None
    finished: bool = False
    resumed: bool = False

    async def remember(self, etag: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.etag = etag

    async def fetch(self, downloader: Downloader, port: int) -> None:
        fetched = await downloader.fetch(
            f"http://127.0.0.1:{port}/",
            self.part,
            announced_bytes=len(BIG),
            content_type="video/mp4",
            etag=self.etag,
            remember=self.remember,
            progress=lambda there, total: None,
        )
        assert fetched.sha256 == digest(BIG)
        self.finished = True

    def check(self) -> None:
        assert self.files.at_work == 0
        assert all(file.closed for file in self.files.opened)
        if self.part.exists():
            assert BIG.startswith(self.part.read_bytes())


async def listening() -> MultiListener[SocketStream]:
    return await anyio.create_tcp_listener(local_host="127.0.0.1")


STEPS = [*range(40), *range(40, 400, 12), *range(400, 100_000, 200)]


async def test_a_cancelled_scope_at_any_await_leaves_a_part_that_can_be_resumed(part: Path) -> None:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as serving,
    ):
        port = listener.extra(SocketAttribute.local_port)
        serving.start_soon(listener.serve, serve_big)
        for steps in STEPS:
            real = Real(part)
            async with Downloader(allow_private=True, files=real.files) as downloader:
                async with anyio.create_task_group() as group:
                    group.start_soon(real.fetch, downloader, port)
                    for _ in range(steps):
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()
                real.check()
                if real.finished:
                    break
                await real.fetch(downloader, port)
                real.check()
                part.unlink()
        else:
            pytest.fail("the download never ended")
        serving.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_native_cancellation_at_any_await_leaves_a_part_that_can_be_resumed(
    part: Path, anyio_backend: str
) -> None:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as serving,
    ):
        port = listener.extra(SocketAttribute.local_port)
        serving.start_soon(listener.serve, serve_big)
        for steps in STEPS:
            real = Real(part)
            async with Downloader(allow_private=True, files=real.files) as downloader:
                task = asyncio.create_task(real.fetch(downloader, port))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                real.check()
                if real.finished:
                    break
                assert task.cancelled()
                await real.fetch(downloader, port)
                real.check()
                part.unlink()
        else:
            pytest.fail("the download never ended")
        serving.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_native_cancellation_does_not_leave_a_thread_behind(anyio_backend: str) -> None:
    started, release, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(10)
        done.set()

    task = asyncio.create_task(in_threads(1)(work))
    while not started.is_set():
        await asyncio.sleep(0)
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    release.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert done.is_set()


async def test_in_line_or_in_threads_a_call_gives_what_it_returns_or_raises() -> None:
    for offload in (inline, in_threads(1)):
        assert await offload(int, "7") == 7
        with pytest.raises(ValueError, match="invalid literal"):
            await offload(int, "x")


async def test_without_a_loop_to_block_it_works_in_line(part: Path) -> None:
    cdn = Cdn(answer())
    async with Downloader(transport=httpx.MockTransport(cdn), offload=inline) as downloader:

        async def remember(etag: str) -> None:
            assert etag == ""

        fetched = await downloader.fetch(
            URL, part, announced_bytes=None, content_type="", etag=None, remember=remember, progress=print
        )
    assert fetched.sha256 == digest(CLIP)


async def test_what_trickles_in_is_written_each_second(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr(room, "monotonic", lambda: next(seconds))
    one = Fetching(part, Cdn(httpx.Response(200, stream=Pieces(CLIP, size=40))))
    await one.fetch()
    assert [there for there, _ in one.levels] == [40, 80, 120, len(CLIP), len(CLIP)][-len(one.levels) :]
    assert len(one.levels) > 2
