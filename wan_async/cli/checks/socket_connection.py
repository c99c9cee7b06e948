"""Check of the WebSocket: connect, and wait for its greeting."""

from __future__ import annotations

import time

import anyio
import httpx

from wan_async import errors
from wan_async.cli.checks.base import Finding, ok, warning
from wan_async.cli.checks.network import check_name, peer_of
from wan_async.http import urls
from wan_async.http.network_errors import explain
from wan_async.http.proxies import environment_proxy
from wan_async.http.transport import StackTransport

CONNECT_SECONDS = 4.0
GREETING_SECONDS = 1.0
ADVICE = (
    "a run works without it: tasks are polled, and their progress is not shown. Allow {host} in the firewall or proxy"
)


async def check_socket(url: str | None) -> Finding:
    """Connect to the socket, and wait a moment for its greeting.

    Args:
        url: where it is, None if no setting says so.
    """
    if url is None:
        said = "none is known for this API: tasks are polled"
        return warning("socket", said, "set WIRO_SOCKET_URL, if it has one")
    try:
        target = httpx.URL(urls.check_url(url, "WIRO_SOCKET_URL", ("wss", "ws")))
    except (errors.InvalidBatch, httpx.InvalidURL) as error:
        return warning("socket", str(error), "correct WIRO_SOCKET_URL")
    advice = ADVICE.format(host=target.host)
    if environment_proxy(target) is None and (found := await check_name(peer_of(target))).status == "failed":
        return warning("socket", found.message, advice)
    texts: list[str] = []
    began = time.monotonic()
    try:
        with anyio.fail_after(CONNECT_SECONDS):
            await _greeted(str(target), texts)
    except TimeoutError:
        return warning("socket", f"{target.host} does not answer within {CONNECT_SECONDS:.0f} s", advice)
    except Exception as error:  # noqa: BLE001 - three libraries raise here; each becomes a finding
        return warning("socket", f"can't connect to {target.host}: {_reason(error)}", advice)
    taken = time.monotonic() - began
    greeting = "greeted" if texts else f"connected; no greeting in {GREETING_SECONDS:.0f} s, which is allowed"
    return ok("socket", f"{target.host}: {greeting}", greeting=bool(texts), seconds=round(taken, 3))


async def _greeted(url: str, texts: list[str]) -> None:
    from wan_async.wiro.websocket_frames import connect

    heard = anyio.Event()

    def hear(text: str) -> None:
        texts.append(text)
        heard.set()

    timeout = httpx.Timeout(CONNECT_SECONDS)
    async with (
        httpx.AsyncClient(transport=StackTransport(), timeout=timeout, trust_env=False) as client,
        await connect(url, client, hear) as session,
        anyio.create_task_group() as group,
    ):
        group.start_soon(session.receive)
        with anyio.move_on_after(GREETING_SECONDS):
            await heard.wait()
        group.cancel_scope.cancel()


def _reason(error: BaseException) -> str:
    """Why connecting failed, without what the server sent."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if type(error).__name__ == "Disconnected":
        return str(error)
    return explain(error)[0] if isinstance(error, Exception) else type(error).__name__
