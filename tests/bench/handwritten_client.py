"""A simple handwritten client with httpx or aiohttp: a semaphore, and a poll per job every 2 s.

python tests/bench/handwritten_client.py httpx|aiohttp SERVER OUTPUT JOBS AT_ONCE

SERVER is JSON with `base_url`, `api_key` and `api_secret`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

MODEL = "Wan-AI/Wan2.2-TI2V-5B-Image-to-Video-Fast"
Post = Callable[[str, dict[str, str], dict[str, str]], Awaitable[dict[str, Any]]]
Get = Callable[[str], Awaitable[bytes]]


async def render_all(server: dict[str, Any], output: Path, count: int, at_once: int, post: Post, get: Get) -> None:
    slots, nonces = asyncio.Semaphore(at_once), itertools.count(int(time.time() * 1e6))

    async def call(path: str, body: dict[str, str]) -> dict[str, Any]:
        nonce = str(next(nonces))
        signature = hmac.new(server["api_key"].encode(), (server["api_secret"] + nonce).encode(), hashlib.sha256)
        headers = {"x-api-key": server["api_key"], "x-nonce": nonce, "x-signature": signature.hexdigest()}
        return await post(f"{server['base_url']}{path}", body, headers)

    async def one(number: int) -> None:
        async with slots:
            run = await call(f"/Run/{MODEL}", {"prompt": f"scene {number}"})
            while True:
                await asyncio.sleep(2)
                detail = await call("/Task/Detail", {"tasktoken": run["socketaccesstoken"]})
                task = detail["tasklist"][0]
                if task["status"] == "task_postprocess_end":
                    break
            clip = await get(task["outputs"][0]["url"])
            (output / f"{number}.mp4").write_bytes(clip)

    await asyncio.gather(*(one(number) for number in range(count)))


async def with_httpx(server: dict[str, Any], output: Path, count: int, at_once: int) -> None:
    import httpx

    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:

        async def post(url: str, body: dict[str, str], headers: dict[str, str]) -> dict[str, Any]:
            content: dict[str, Any] = (await client.post(url, json=body, headers=headers)).json()
            return content

        async def get(url: str) -> bytes:
            return (await client.get(url)).content

        await render_all(server, output, count, at_once, post, get)


async def with_aiohttp(server: dict[str, Any], output: Path, count: int, at_once: int) -> None:
    import aiohttp  # type: ignore[import-not-found,unused-ignore] # only the bench installs it

    async with aiohttp.ClientSession() as client:

        async def post(url: str, body: dict[str, str], headers: dict[str, str]) -> dict[str, Any]:
            async with client.post(url, json=body, headers=headers) as answer:
                content: dict[str, Any] = await answer.json()
                return content

        async def get(url: str) -> bytes:
            async with client.get(url) as answer:
                content: bytes = await answer.read()
                return content

        await render_all(server, output, count, at_once, post, get)


def main() -> None:
    render = {"httpx": with_httpx, "aiohttp": with_aiohttp}[sys.argv[1]]
    server, output, count, at_once = json.loads(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    asyncio.run(render(server, output, count, at_once))


if __name__ == "__main__":
    main()
