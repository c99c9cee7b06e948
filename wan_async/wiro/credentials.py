"""Checks of the key, the secret and the base URL; nonces."""

from __future__ import annotations

import threading

import httpx
from pydantic import SecretStr

from wan_async import errors
from wan_async.http import urls
from wan_async.wiro import signing


class _Nonces:
    """No two requests of a process share a nonce, whichever client or thread they come from."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()
        self._number, self._of = 0, 1

    def share(self, number: int, of: int) -> None:
        """This process takes every `of`th nonce, so that no process of another number gets the same one."""
        self._number, self._of = number, of

    def take(self, now: float) -> int:
        with self._lock:
            self._last = signing.next_nonce(self._last, now, self._number, self._of)
            return self._last


NONCES = _Nonces()


def checked_url(url: str) -> str:
    """The base URL, without a slash at its end."""
    url = urls.check_url(url, "WIRO_BASE_URL")
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise errors.InvalidBatch([errors.Problem("WIRO_BASE_URL", f"{url!r} is not a URL: {error}")]) from None
    return url


def checked_key(key: SecretStr) -> SecretStr:
    """The key, if it can be sent as a header."""
    text = key.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or text != text.strip():
        problem = "it is empty, or holds spaces, line ends or letters that no key has"
        raise errors.InvalidBatch([errors.Problem("WIRO_API_KEY", problem)])
    return key


def checked_secret(secret: SecretStr | None) -> SecretStr | None:
    """The secret, if it is one."""
    if secret is None or not secret.get_secret_value():
        return None
    if not secret.get_secret_value().isprintable():
        problem = "it holds line ends or other characters that no secret has"
        raise errors.InvalidBatch([errors.Problem("WIRO_API_SECRET", problem)])
    return secret
