from __future__ import annotations

import errno
from pathlib import Path

import httpx
import pytest
from cdn import BIG, CLIP, Cdn, Fetching, Pieces, answer, broken, clip, digest

from wan_async import errors
from wan_async import fetching as room
from wan_async.fetching import Fetched, check_url

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["in the loop", "in a thread"])
def part(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test that fills a part does so in both ways."""
    monkeypatch.setattr(Fetching, "in_a_thread", request.param == "in a thread")
    return tmp_path / "clip.mp4.part"


async def test_a_clip_arrives_whole_and_durable(part: Path) -> None:
    one = Fetching(part, Cdn(answer(BIG, etag='"a"')), announced_bytes=len(BIG))
    assert await one.fetch() == Fetched(len(BIG), digest(BIG), "video/mp4", '"a"')
    assert part.read_bytes() == BIG
    assert one.levels[-1] == (len(BIG), len(BIG))
    assert len(one.levels) > 3 or one.in_a_thread  # where they are sampled
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


async def test_what_trickles_in_is_written_each_second(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr(room, "monotonic", lambda: next(seconds))
    one = Fetching(part, Cdn(httpx.Response(200, stream=Pieces(CLIP, size=40))))
    await one.fetch()
    assert one.levels[-1][0] == len(CLIP)
    if one.in_a_thread:
        return
    assert [there for there, _ in one.levels] == [40, 80, 120, len(CLIP), len(CLIP)][-len(one.levels) :]
    assert len(one.levels) > 2
