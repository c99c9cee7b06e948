"""The connections of a client, from what its maker gives and the environment holds."""

from __future__ import annotations

import os
from collections.abc import Callable

import httpx
from pydantic import SecretStr

from wan_async import errors
from wan_async.domain.attempt import Account
from wan_async.engine.dependencies import Dependencies
from wan_async.http import urls
from wan_async.outputs.downloader import Downloader
from wan_async.wiro import protocol
from wan_async.wiro.api import Api, RequestReport


def connect(
    api_key: SecretStr | None,
    api_secret: SecretStr | None,
    *,
    base_url: str | None,
    socket_url: str | None,
    transport: httpx.AsyncBaseTransport | None,
    download_transport: httpx.AsyncBaseTransport | None,
    timeout: float | httpx.Timeout | None,
    on_request: Callable[[RequestReport], None] | None,
) -> tuple[Dependencies, Account]:
    """What a client works with, and whose account it uses; see `WanClient`."""
    key, secret = _credentials(api_key, api_secret)
    if isinstance(timeout, int | float):
        if not timeout > 0:
            raise errors.InvalidBatch([errors.Problem("", f"timeout: {timeout!r} is not above 0")])
        timeout = httpx.Timeout(timeout)
    api = Api(
        key,
        secret,
        base_url=base_url or os.environ.get("WIRO_BASE_URL") or protocol.BASE_URL,
        transport=transport,
        timeout=timeout,
        on_request=on_request,
    )
    downloader = Downloader(
        transport=_lent(transport) if download_transport in (None, transport) else download_transport,
        allow_private=urls.is_private(api.base_url),
        base_url=api.base_url,
    )
    if socket_url is None and transport is None:
        own = api.base_url == protocol.BASE_URL
        socket_url = os.environ.get("WIRO_SOCKET_URL") or (protocol.SOCKET_URL if own else None)
    return Dependencies(api, downloader, socket_url=socket_url), Account(
        urls.origin(api.base_url), key.get_secret_value()
    )


def secret_of(given: str | SecretStr | None) -> SecretStr | None:
    """What the caller gave, in a form that shows itself in no traceback."""
    return SecretStr(given) if isinstance(given, str) else given


def check_counts(**counts: tuple[object, int]) -> None:
    """Check arguments that are whole numbers, each with its least value.

    Raises:
        errors.InvalidBatch: with all problems.
    """
    problems = [
        errors.Problem("", f"{name}: {value!r} is not a whole number of at least {least}")
        for name, (value, least) in counts.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < least
    ]
    if problems:
        raise errors.InvalidBatch(problems)


def _credentials(key: SecretStr | None, secret: SecretStr | None) -> tuple[SecretStr, SecretStr | None]:
    """Key and secret, given or of the environment. No local variable holds them as text."""
    if key is None:
        key = SecretStr(os.environ.get("WIRO_API_KEY", ""))
        secret = SecretStr(os.environ.get("WIRO_API_SECRET", "")) if secret is None else secret
    if not key.get_secret_value():
        raise errors.StopBatch("there is no API key: set WIRO_API_KEY, or pass api_key", authentication=True)
    return key, secret if secret is not None and secret.get_secret_value() else None


class _Lent(httpx.AsyncBaseTransport):
    """A transport that is closed by its owner alone."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport.handle_async_request(request)


def _lent(transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncBaseTransport | None:
    return None if transport is None else _Lent(transport)
