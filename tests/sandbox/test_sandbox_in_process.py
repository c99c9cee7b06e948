"""The sandbox as an httpx transport, on asyncio and trio."""

from __future__ import annotations

import hashlib

import httpx
import pytest
from sandbox_client import PNG, RUN, Wiro, signed

from wan_async.sandbox import Sandbox, Settings, transport
from wan_async.sandbox.in_process import CHUNK

pytestmark = pytest.mark.anyio


async def test_answers_are_streamed_in_chunks() -> None:
    it = Wiro(clip_bytes=3 * CHUNK + 5)
    url = await it.clip_url()
    sandbox_transport = transport(it.sandbox)
    assert sandbox_transport.sandbox is it.sandbox
    async with httpx.AsyncClient(transport=sandbox_transport) as client:
        headers = {name.title(): value for name, value in signed().items()}
        answer = await client.post("https://any.example/v1/Task/List", json={}, headers=headers)
        assert answer.json()["result"] is True
        async with client.stream("GET", url) as response:
            sizes = [len(chunk) async for chunk in response.aiter_raw()]
    assert sizes == [CHUNK] * 3 + [5]


async def test_a_streamed_multipart_request_is_read() -> None:
    sandbox_transport = transport(api_secret=None)
    async with httpx.AsyncClient(transport=sandbox_transport, base_url="https://any.example/v1/") as client:
        answer = await client.post(
            RUN,
            data={"prompt": "x", "inputImageUrl": ""},
            files={"inputImage": ("a.png", PNG, "image/png")},
            headers={"x-api-key": "sandbox-key"},
        )
    assert answer.json()["result"] is True
    (task,) = sandbox_transport.sandbox.account.tasks.values()
    assert task.image == hashlib.sha256(PNG).hexdigest()


async def collect(response: httpx.Response, into: bytearray) -> None:
    async for chunk in response.aiter_bytes():
        into += chunk


async def test_closed_connections_raise_the_exceptions_of_httpx() -> None:
    it = Wiro(clip_bytes=200_000)
    url = await it.clip_url()
    async with httpx.AsyncClient(transport=transport(it.sandbox)) as client:
        it.sandbox.faults.next("drop_before")
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            await client.post("https://any.example/v1/Task/List", json={}, headers=signed())
        it.sandbox.faults.next("cut_download")
        got = bytearray()
        async with client.stream("GET", url) as response:
            with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
                await collect(response, got)
        assert int(response.headers["content-length"]) == 200_000
        rest = await client.get(url, headers={"range": f"bytes={len(got)}-", "if-range": response.headers["etag"]})
        assert (await client.get(url)).content == bytes(got) + rest.content


async def test_the_default_clock_and_sleep_are_the_real_ones() -> None:
    local = transport(Sandbox(Settings(latency_seconds=0.001)))
    async with httpx.AsyncClient(transport=local) as client:
        assert (await client.post("https://any.example/v1/Task/List", json={}, headers=signed())).status_code == 200
