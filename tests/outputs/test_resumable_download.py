from __future__ import annotations

import errno
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import httpx
import idna
import pytest
from cdn import BIG, CLIP, Cdn, Fetching, Pieces, answer, broken, clip, digest
from hypothesis import given
from hypothesis import strategies as st

from wan_async import errors
from wan_async.http.transport import StackTransport
from wan_async.http.urls import MAX_REDIRECTS, check_output_url, check_peer
from wan_async.outputs import resumable_download
from wan_async.outputs.downloader import Downloader
from wan_async.outputs.resumable_download import Fetched
from wan_async.threads import inline

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["in the loop", "in a thread"])
def part(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test that fills a part does so in both ways."""
    monkeypatch.setattr(Fetching, "in_a_thread", request.param == "in a thread")
    return tmp_path / "clip.mp4.part"


async def test_a_clip_is_downloaded_completely_and_durably(part: Path) -> None:
    one = Fetching(part, Cdn(answer(BIG, etag='"a"')), announced_bytes=len(BIG))
    assert await one.fetch() == Fetched(len(BIG), digest(BIG), "video/mp4", '"a"')
    assert part.read_bytes() == BIG
    assert one.levels[-1] == (len(BIG), len(BIG))
    assert len(one.levels) > 3 or one.in_a_thread  # where they are sampled
    order = one.files.log
    assert order[:2] == ["open", "remember"]
    assert order[-1] == "fsync"
    assert set(order[2:-1]) == {"write"}


async def test_the_requests_contain_no_credentials(part: Path) -> None:
    cdn = Cdn(httpx.Response(302, headers={"location": "/x", "set-cookie": "a=b"}), answer())
    await Fetching(part, cdn).fetch()
    assert {name for request in cdn.requests for name in request.headers} == {
        "host", "user-agent", "accept", "accept-encoding",
    }  # fmt: skip
    assert cdn.requests[0].headers["accept-encoding"] == "identity"


async def test_an_interrupted_body_is_resumed(part: Path) -> None:
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


async def test_a_part_without_a_stored_etag_is_restarted(part: Path) -> None:
    part.write_bytes(CLIP[:50])
    one = Fetching(part, Cdn(answer(etag='W/"b"')), etag=None)
    assert (await one.fetch()).etag is None
    assert one.cdn.ranges() == [None]
    assert one.etag == ""
    assert part.read_bytes() == CLIP


def rest_of(content: bytes, first: int, **headers: str) -> httpx.Response:
    length = len(content)
    return answer(content[first:], status=206, content_range=f"bytes {first}-{length - 1}/{length}", **headers)


@pytest.mark.parametrize("etag", ["", 'W/"a"', '""', "a"])
async def test_without_a_strong_etag_the_range_overlaps_the_part(part: Path, etag: str) -> None:
    part.write_bytes(BIG[:1000])
    one = Fetching(part, Cdn(lambda _: rest_of(BIG, 744, etag='W/"a"')), etag=etag)
    assert (await one.fetch()).sha256 == digest(BIG)
    assert one.cdn.ranges() == ["bytes=744-"]
    assert "if-range" not in one.cdn.requests[0].headers
    assert one.files.log.count("remember") == 0


@pytest.mark.parametrize("etag", ["", '"a"'])
async def test_a_range_that_begins_elsewhere_is_appended_if_it_fits(part: Path, etag: str) -> None:
    part.write_bytes(BIG[:1000])
    one = Fetching(part, Cdn(lambda _: rest_of(BIG, 10, etag='"a"')), etag=etag)
    assert (await one.fetch()).sha256 == digest(BIG)
    assert part.read_bytes() == BIG


@pytest.mark.parametrize("announced", [None, len(BIG)])
async def test_another_content_of_the_same_length_is_detected_by_its_bytes(part: Path, announced: int | None) -> None:
    new = BIG[:100] + BIG[100:].translate(bytes(byte ^ 1 for byte in range(256)))
    part.write_bytes(BIG[:1000])
    one = Fetching(part, Cdn(lambda _: rest_of(new, 744), answer(new)), etag="", announced_bytes=announced)
    assert (await one.fetch()).sha256 == digest(new)
    assert one.cdn.ranges() == ["bytes=744-", None]


async def test_a_resumed_part_that_is_not_a_complete_clip_is_downloaded_again(part: Path) -> None:
    part.write_bytes(b"0" + BIG[1:1000])
    one = Fetching(part, Cdn(lambda _: rest_of(BIG, 744), answer(BIG)), etag="")
    assert (await one.fetch()).sha256 == digest(BIG)
    assert one.cdn.ranges() == ["bytes=744-", None]


@pytest.mark.parametrize("etag", ["", '"a"'])
async def test_a_server_that_limits_the_length_of_ranges_gets_several_requests(part: Path, etag: str) -> None:
    def piece(request: httpx.Request) -> httpx.Response:
        first = int(request.headers["range"][6:-1])
        content = BIG[first : first + 2**20]
        content_range = f"bytes {first}-{first + len(content) - 1}/{len(BIG)}"
        return answer(content, status=206, content_range=content_range, etag='"a"')

    part.write_bytes(BIG[:1000])
    one = Fetching(part, Cdn(piece), etag=etag)
    assert (await one.fetch()).sha256 == digest(BIG)
    assert len(one.cdn.requests) == 3


async def test_an_unknown_total_is_the_announced_length(part: Path) -> None:
    part.write_bytes(BIG[:1000])
    rest = answer(BIG[744:], status=206, content_range=f"bytes 744-{len(BIG) - 1}/*")
    one = Fetching(part, Cdn(rest), etag="", announced_bytes=len(BIG))
    assert (await one.fetch()).sha256 == digest(BIG)


@pytest.mark.parametrize("etag", ["", '"a"'])
async def test_ranges_that_never_continue_the_part_end_the_try(part: Path, etag: str) -> None:
    part.write_bytes(BIG[:1000])
    first = answer(BIG[:900], status=206, etag='"a"', content_range=f"bytes 0-899/{len(BIG)}")
    one = Fetching(part, Cdn(lambda _: answer(BIG[:900], status=206, **dict(first.headers))), etag=etag)
    with pytest.raises(errors.TryLater, match="fit together"):
        await one.fetch()
    assert len(one.cdn.requests) < 8


async def test_a_server_that_ignores_a_range_with_if_range_gets_a_request_without_it(part: Path) -> None:
    def ignores(request: httpx.Request) -> httpx.Response:
        if "if-range" in request.headers or "range" not in request.headers:
            return answer(BIG, etag='"a"')
        return rest_of(BIG, int(request.headers["range"][6:-1]), etag='"a"')

    part.write_bytes(BIG[:1000])
    one = Fetching(part, Cdn(ignores), etag='"a"')
    assert (await one.fetch()).sha256 == digest(BIG)
    assert one.cdn.ranges() == ["bytes=1000-", "bytes=744-"]
    assert one.files.log.count("remember") == 0


async def test_progress_is_reported_before_an_interruption_is_raised(part: Path) -> None:
    one = Fetching(part, Cdn(broken(BIG[: 2**20 + 777], len(BIG))))
    with pytest.raises(errors.TryLater):
        await one.fetch()
    assert one.levels[-1] == (2**20 + 777, len(BIG))
    assert part.stat().st_size == 2**20 + 777


async def test_a_block_of_zeros_written_by_this_process_is_not_taken_for_data_loss(part: Path) -> None:
    content = CLIP + (2**16).to_bytes(4, "big") + b"free" + bytes(2**16 - 8)
    one = Fetching(part, Cdn(broken(content[:40_000], len(content)), lambda _: rest_of(content, 40_000 - 256)))
    async with one.downloader() as downloader:
        with pytest.raises(errors.TryLater):
            await one.fetch_with(downloader)
        assert (await one.fetch_with(downloader)).sha256 == digest(content)
    assert one.cdn.ranges() == [None, "bytes=39744-"]


async def test_an_old_part_is_truncated_durably_before_another_etag_is_stored(part: Path) -> None:
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
async def test_a_response_that_does_not_continue_the_part_restarts_it(part: Path, refusal: httpx.Response) -> None:
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
    assert one.cdn.ranges()[0] == "bytes=5-"
    assert len(one.cdn.requests) == 2
    assert (one.etag, part.read_bytes()) == ('"c"', CLIP)


async def test_a_part_that_lost_data_in_a_power_cut_is_restarted(part: Path) -> None:
    part.write_bytes(BIG[:4096] + bytes(4096) + BIG[8192:10000])
    one = Fetching(part, Cdn(answer(BIG)), etag='"a"')
    assert (await one.fetch()).sha256 == digest(BIG)
    assert one.cdn.ranges() == [None]


@pytest.mark.parametrize("status", [206, 416])
async def test_a_range_that_was_not_requested_is_refused(part: Path, status: int) -> None:
    with pytest.raises(errors.JobFailed, match=str(status)):
        await Fetching(part, Cdn(answer(status=status))).fetch()


@pytest.mark.parametrize(("sent", "announced"), [(len(CLIP) - 5, len(CLIP)), (len(CLIP), len(CLIP) - 5)])
async def test_a_body_of_another_length_than_announced_is_retried(part: Path, sent: int, announced: int) -> None:
    with pytest.raises(errors.TryLater, match=f"after {sent} of {announced}"):
        await Fetching(part, Cdn(answer(CLIP[:sent], content_length=str(announced)))).fetch()


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_an_expired_url_is_not_found(part: Path, status: int) -> None:
    with pytest.raises(errors.NotFound) as caught:
        await Fetching(part, Cdn(answer(status=status))).fetch()
    assert caught.value.kind == "expired"


@pytest.mark.parametrize("status", [202, 204, 401, 407, 408, 409, 421, 425, 429, 500, 502, 503, 507, 599])
async def test_a_fault_of_the_server_is_retried(part: Path, status: int) -> None:
    with pytest.raises(errors.TryLater) as caught:
        await Fetching(part, Cdn(answer(status=status, retry_after="7"))).fetch()
    assert (caught.value.status, caught.value.after_seconds) == (status, 7)


@pytest.mark.parametrize("status", [205, 300, 304, 400, 402, 405, 451])
async def test_any_other_status_fails_the_job(part: Path, status: int) -> None:
    with pytest.raises(errors.JobFailed) as caught:
        await Fetching(part, Cdn(answer(b"", status=status))).fetch()
    assert caught.value.kind == "download"


@pytest.mark.parametrize("encoding", ["aws-chunked", "UTF-8", "gzip", "x-gzip", "deflate", "br", "gzip, aws-chunked"])
async def test_an_uncompressed_clip_is_accepted_regardless_of_its_content_encoding(part: Path, encoding: str) -> None:
    one = Fetching(part, Cdn(answer(content_encoding=encoding)), announced_bytes=len(CLIP))
    assert await one.fetch() == Fetched(len(CLIP), digest(CLIP), "video/mp4", None)
    assert one.levels[-1] == (len(CLIP), len(CLIP))


def gzip_in_two(content: bytes) -> bytes:
    return gzip.compress(content[:5000]) + gzip.compress(content[5000:]) + bytes(8)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("GZIP", gzip.compress), ("gzip", gzip_in_two), ("deflate", zlib.compress)],
)
@pytest.mark.parametrize("size", [70, 2**16])
async def test_a_compressed_body_is_decompressed(
    part: Path, encoding: str, pack: Callable[[bytes], bytes], size: int
) -> None:
    content = clip(20_000)
    packed = pack(content)
    headers = {"content-length": str(len(packed)), "content-encoding": encoding, "etag": '"a"'}
    one = Fetching(
        part, Cdn(httpx.Response(200, headers=headers, stream=Pieces(packed, size=size))), announced_bytes=len(content)
    )
    assert await one.fetch() == Fetched(len(content), digest(content), "video/mp4", None)
    assert one.etag == ""
    assert one.levels[-1] == (len(content), len(content))


async def test_an_interrupted_compressed_body_is_restarted(part: Path) -> None:
    packed = gzip.compress(BIG)
    whole = answer(packed, content_encoding="gzip", etag='"a"')
    cut = broken(packed[: 2**20], len(packed), **{"content-encoding": "gzip", "etag": '"a"'})
    one = Fetching(part, Cdn(cut, whole))
    async with one.downloader() as downloader:
        with pytest.raises(errors.TryLater):
            await one.fetch_with(downloader)
        assert (await one.fetch_with(downloader)).sha256 == digest(BIG)
    assert one.cdn.ranges() == [None, None]


async def test_a_compressed_body_is_not_resumed_by_another_process(part: Path) -> None:
    packed = gzip.compress(BIG)
    part.write_bytes(BIG[:1000])
    rest = rest_of(packed, 744, content_encoding="gzip", etag='"a"')
    one = Fetching(part, Cdn(lambda _: rest, answer(packed, content_encoding="gzip")), etag="")
    assert (await one.fetch()).sha256 == digest(BIG)


@pytest.mark.parametrize("damage", [lambda packed: packed[:-20], lambda packed: packed[:30] + bytes(40) + packed[70:]])
async def test_a_damaged_compressed_body_is_not_accepted(part: Path, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(errors.JobFailed) as caught:
        await Fetching(part, Cdn(answer(damage(gzip.compress(CLIP)), content_encoding="gzip"))).fetch()
    assert caught.value.kind == "content"
    assert not part.exists()


async def test_a_decompression_bomb_is_cut_off_at_the_limit(part: Path) -> None:
    bomb = gzip.compress(bytes(2**24))
    one = Fetching(part, Cdn(answer(bomb, content_encoding="gzip")), max_bytes=2**22)
    with pytest.raises(errors.JobFailed) as caught:
        await one.fetch()
    assert caught.value.kind == "size"
    assert not part.exists()
    assert one.levels == [] or one.levels[-1][0] <= 2**22


async def test_a_part_that_is_a_link_is_refused_and_its_target_not_modified(part: Path) -> None:
    target = part.with_name("precious")
    target.write_bytes(b"precious")
    part.symlink_to(target)
    with pytest.raises(errors.JobFailed, match=r"clip\.mp4\.part") as caught:
        await Fetching(part, Cdn(answer())).fetch()
    assert caught.value.kind == "target"
    assert (target.read_bytes(), part.is_symlink()) == (b"precious", True)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EAGAIN])
@pytest.mark.parametrize("step", ["open", "write", "fsync"])
async def test_a_lack_of_descriptors_is_retried(part: Path, code: int, step: str) -> None:
    one = Fetching(part, Cdn(answer()))
    one.files.failing = {step: code}
    with pytest.raises(errors.TryLater, match="right now"):
        await one.fetch()
    one.files.failing = {}
    one.cdn.steps = [answer()]
    assert (await one.fetch()).sha256 == digest(CLIP)


@pytest.mark.parametrize("length", ["unknown", "9" * 30])
async def test_an_endless_body_is_cut_off_at_the_limit(part: Path, length: str) -> None:
    one = Fetching(part, Cdn(answer(BIG, content_length=length)), max_bytes=2**20)
    with pytest.raises(errors.JobFailed) as caught:
        await one.fetch()
    assert caught.value.kind == "size"
    assert not part.exists()


async def test_a_body_with_a_length_above_the_limit_is_not_read(part: Path) -> None:
    one = Fetching(part, Cdn(answer(BIG)), max_bytes=2**20)
    with pytest.raises(errors.JobFailed, match="limit"):
        await one.fetch()
    assert "write" not in one.files.log


async def test_a_wrong_announced_length_is_accepted_if_two_downloads_are_equal(part: Path) -> None:
    one = Fetching(part, Cdn(answer(etag='"a"'), answer(etag='"a"')), announced_bytes=1)
    fetched = await one.fetch()
    assert (fetched.sha256, len(one.cdn.requests)) == (digest(CLIP), 2)
    assert "1 were announced" in fetched.warning


async def test_two_downloads_that_differ_are_refused(part: Path) -> None:
    with pytest.raises(errors.JobFailed) as caught:
        await Fetching(part, Cdn(answer(CLIP), answer(clip(101))), announced_bytes=1).fetch()
    assert caught.value.kind == "content"
    assert not part.exists()


async def test_the_bytes_and_not_the_announcement_decide_the_type(part: Path) -> None:
    fetched = await Fetching(part, Cdn(answer(CLIP)), content_type="application/octet-stream").fetch()
    assert fetched.content_type == "video/mp4"


@pytest.mark.parametrize("content", [b"", b"<!doctype html><title>Sorry", CLIP[:-1]])
async def test_the_part_of_an_incomplete_output_is_removed(part: Path, content: bytes) -> None:
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
    "http://LOCALHOST./", "http://a.localhost/", "http://[::127.0.0.1]/", "http://[::ffff:0:127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/", "http://[64:ff9b:1::7f00:1]/", "http://[64:ff9b:1:a00:1::]/", "http://[2002:a00:1::1]/",
    "http://[2001:0:808:808:0:0:80ff:fffe]/", "http://[fec0::1]/", "http://[100::1]/", "http://[5f00::1]/",
    "http://[3fff::1]/", "http://ip6-localhost/", "http://ip6-loopback/", "http://localhost4/", "http://router/",
    "http://localhost.localdomain/", "http://localhost4.localdomain4/", "http://localhost6.localdomain6./",
    "http://printer.local/", "http://metadata.google.internal/", "http://nas.home.arpa/", "http://198.18.0.1/",
]  # fmt: skip
REFUSED = [
    "file:///etc/passwd", "data:video/mp4;base64,AAAA", "ftp://cdn.example/x", "x.mp4", "/x.mp4", "", " \n", "//",
    "http://xn--12-.0.0.1/x", "http://xn--.com/", "http://cdn.example:99999999/", "http://cdn.example:65536/",
    "http://cdn.example:0/", "http://a..example/", "http://.example/", "http://" + "a" * 64 + ".example/",
    "http://" + "a." * 127 + "example/", "http://cdn example/", "http://cdn.example/\0x", "http://\ud800.example/",
    "http://cdn.exa\nmple/", "http://\u2460.example/", "https:///\\cdn.example/",
    "http:///x", "https://user:secret@cdn.example/x", "http://[/", "http://cdn.example:port/", "http://0177.0.0.1/", "http://%31%32%37.0.0.1/",
]  # fmt: skip


@pytest.mark.parametrize("url", PRIVATE)
def test_a_private_host_is_allowed_only_for_a_private_api(url: str) -> None:
    with pytest.raises(errors.JobFailed, match="private host"):
        check_output_url(url, allow_private=False)
    assert check_output_url(url, allow_private=True) == httpx.URL(url)


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_is_not_plain_http_is_refused(url: str) -> None:
    with pytest.raises(errors.JobFailed) as caught:
        check_output_url(url, allow_private=True)
    assert caught.value.kind == "download"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example/x", "http://93.184.216.34/", "http://[2606:2800:220:1::1]/", "http://[::ffff:8.8.8.8]/",
        "http://[64:ff9b::808:808]/", "http://xn--r8jz45g.jp/", "http://\u4f8b\u3048.jp/", "https://under_score.example./x",
        "https://cdn.example:65535/",
    ],
)  # fmt: skip
def test_a_public_host_is_allowed(url: str) -> None:
    assert check_output_url(url, allow_private=False) == httpx.URL(url)


API = "https://api.example/v1"


@pytest.mark.parametrize(
    ("url", "base_url", "expected"),
    [
        ("https://cdn.example/x\n", None, "https://cdn.example/x"),
        (" \t\r\nhttps://cdn.example/x \u00a0\ufeff", None, "https://cdn.example/x"),
        ("//cdn.example/x", None, "https://cdn.example/x"),
        ("//cdn.example/x", API, "https://cdn.example/x"),
        ("//127.0.0.1:8/x", "http://127.0.0.1:9/v1", "http://127.0.0.1:8/x"),
        ("/files/x.mp4", API, "https://api.example/files/x.mp4"),
        ("files/x.mp4?a=b", API, "https://api.example/v1/files/x.mp4?a=b"),
        ("https://cdn.example/x", API, "https://cdn.example/x"),
    ],
)
def test_a_url_may_be_relative_or_surrounded_by_white_space(url: str, base_url: str | None, expected: str) -> None:
    assert check_output_url(url, allow_private=base_url != API, base_url=base_url) == httpx.URL(expected)


async def test_a_relative_url_is_relative_to_the_api(part: Path) -> None:
    one = Fetching(part, Cdn(answer()), base_url=API)
    await one.fetch("/files/x.mp4\n")
    assert str(one.cdn.requests[0].url) == "https://api.example/files/x.mp4"


def test_the_apis_own_host_is_never_refused() -> None:
    for base_url in ("https://wiro.internal/v1", "https://wiro/v1"):
        check_output_url(f"{base_url}/x", allow_private=False, base_url=base_url)
        with pytest.raises(errors.JobFailed, match="private host"):
            check_output_url("https://other.internal/x", allow_private=False, base_url=base_url)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "::ffff:10.0.0.1"]
)
def test_an_address_that_is_not_public_is_refused_regardless_of_its_name(address: str) -> None:
    with pytest.raises(errors.JobFailed, match="private address") as caught:
        check_peer(address)
    assert caught.value.kind == "download"


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822", "198.18.0.7"])
def test_public_addresses_and_those_of_transparent_proxies_are_allowed(address: str) -> None:
    check_peer(address)


urls = st.one_of(
    st.text(),
    st.tuples(
        st.sampled_from(["http://", "https://", "//", "/", "", "HTTP:", "http:/", "ftp://"]),
        st.text("xn-.:@[]/%?#\\ \t\n0123456789abcdefghijkl\u00e4\u3002\u2460\uff11\ud800\0", max_size=30),
        st.sampled_from(["", ":80", ":99999", "/x", "/\ud800", ".example/x", "?\n"]),
    ).map("".join),
    st.from_regex(r"http://(xn--)?[a-z0-9.-]{0,70}(:[0-9]{0,8})?/?", fullmatch=True),
)


@given(urls, st.booleans(), st.sampled_from([None, API]), st.booleans())
def test_any_url_is_requested_or_refused(url: str, allow_private: bool, base_url: str | None, redirected: bool) -> None:
    """All but the connection is real, so that httpx, httpcore and idna check the URL."""
    requested: list[httpx.URL] = []

    class Real(StackTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if redirected and not requested:
                requested.append(request.url)
                return httpx.Response(302, headers=[(b"location", url.encode("utf-8", "surrogatepass"))])
            return await super().handle_async_request(request)

    async def fetch() -> None:
        folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        try:
            transport = Real(proxy="http://127.0.0.1:9")  # nothing listens there, and no name is resolved
            async with Downloader(
                transport=transport, allow_private=allow_private, base_url=base_url, offload=inline
            ) as downloader:
                with suppress(errors.JobFailed, errors.TryLater):
                    await downloader.fetch(
                        "https://cdn.example/" if redirected else url,
                        folder / "part",
                        announced_bytes=None,
                        content_type="",
                        etag=None,
                        remember=remember,
                        progress=lambda there, total: None,
                    )
        finally:
            shutil.rmtree(folder)

    async def remember(etag: str) -> None:
        """Not called: there is no response with an ETag."""

    anyio.run(fetch)


@pytest.mark.parametrize(
    "error",
    [UnicodeError("label too long"), ValueError("x"), OverflowError("port"), idna.IDNAError("x"), KeyError("x")],
)
async def test_an_exception_about_a_url_fails_only_its_job(part: Path, error: Exception) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    for steps in ([fail], [httpx.Response(302, headers={"location": "/y"}), fail]):
        with pytest.raises(errors.JobFailed) as caught:
            await Fetching(part, Cdn(*steps)).fetch()
        assert caught.value.kind == "download"


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "x"), RuntimeError("can't start new thread")])
async def test_a_lack_of_sockets_or_threads_is_retried(part: Path, error: Exception) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(errors.TryLater):
        await Fetching(part, Cdn(fail)).fetch()


async def test_redirects_are_followed_to_another_host_up_to_the_limit(part: Path) -> None:
    hops = [httpx.Response(302, headers={"location": f"https://b{n}.example/y"}) for n in range(MAX_REDIRECTS)]
    one = Fetching(part, Cdn(*hops, answer()))
    await one.fetch()
    assert one.cdn.requests[-1].url.host == f"b{MAX_REDIRECTS - 1}.example"
    with pytest.raises(errors.JobFailed, match="more than"):
        await Fetching(part, Cdn(httpx.Response(302, headers={"location": "/again"}))).fetch()


@pytest.mark.parametrize(
    "location",
    ["http://cdn.example/x", *PRIVATE[:3], "file:///etc/passwd", "https://a:b@cdn.example/", "//ip6-localhost/"],
)
async def test_a_redirect_to_a_forbidden_url_is_refused(part: Path, location: str) -> None:
    one = Fetching(part, Cdn(httpx.Response(302, headers={"location": location}), answer()))
    with pytest.raises(errors.JobFailed) as caught:
        await one.fetch()
    assert caught.value.kind == "download"
    assert len(one.cdn.requests) == 1


@pytest.mark.parametrize(
    "location",
    ["http://[", "https://cdn.example:port/", "https://xn--12-.0.0.1/", "https://x.example:99999/", "//a..b/"],
)
async def test_a_redirect_without_a_valid_url_fails(part: Path, location: str) -> None:
    with pytest.raises(errors.JobFailed) as caught:
        await Fetching(part, Cdn(httpx.Response(302, headers={"location": location}))).fetch()
    assert caught.value.kind == "download"


@pytest.mark.parametrize("step", ["open", "write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_disk_error_loses_nothing_and_the_message_has_the_remedy(part: Path, step: str, code: int) -> None:
    one = Fetching(part, Cdn(answer(BIG, etag='"a"')))
    one.files.failing = {step: code}
    with pytest.raises(errors.Unusable, match="free some space" if code == errno.ENOSPC else "fix that") as caught:
        await one.fetch()
    assert "run the same command again" in str(caught.value)
    one.files.failing = {}
    one.cdn.steps = [answer(BIG)]
    assert (await one.fetch()).sha256 == digest(BIG)


async def test_a_network_fault_is_retried(part: Path) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(errors.TryLater, match="ConnectError") as caught:
        await Fetching(part, Cdn(refuse)).fetch()
    assert caught.value.status is None


async def test_an_error_of_the_journal_ends_the_download_before_the_first_byte(part: Path) -> None:
    one = Fetching(part, Cdn(answer(etag='"a"')))
    one.files.failing = {"remember": errno.EIO}
    with pytest.raises(OSError, match=r"[Ee]rror"):
        await one.fetch()
    assert part.read_bytes() == b""


async def test_a_slow_body_is_written_each_second(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr(resumable_download, "monotonic", lambda: next(seconds))
    one = Fetching(part, Cdn(httpx.Response(200, stream=Pieces(CLIP, size=40))))
    await one.fetch()
    assert one.levels[-1][0] == len(CLIP)
    if one.in_a_thread:
        return
    assert [there for there, _ in one.levels] == [40, 80, 120, len(CLIP), len(CLIP)][-len(one.levels) :]
    assert len(one.levels) > 2
