"""Authentication of requests: the signature, its nonce, and their headers. No I/O."""

from __future__ import annotations

import hashlib
import hmac


def signature(key: str, secret: str, nonce: str) -> str:
    """The `x-signature` header: lower-case hex HMAC-SHA256 of secret + nonce, keyed by the API key (Wiro's docs)."""
    return hmac.new(key.encode(), (secret + nonce).encode(), hashlib.sha256).hexdigest()


def auth_headers(key: str, secret: str | None, nonce: int) -> dict[str, str]:
    """Headers that authenticate one request; without a secret the project is of the key-only kind."""
    if secret is None:
        return {"x-api-key": key}
    text = str(nonce)
    return {"x-api-key": key, "x-nonce": text, "x-signature": signature(key, secret, text)}


def next_nonce(last: int, now: float, number: int = 0, of: int = 1) -> int:
    """A nonce above every earlier one: unix microseconds, or one more than the last if the clock did not advance.

    Microseconds stay below 2^53: a JavaScript server reads larger neighbouring integers as equal.

    Args:
        last: the last nonce.
        now: unix seconds.
        number: which of several processes with the same key this is; no two of them get the same nonce.
        of: how many such processes there may be.
    """
    least = max(last + 1, int(now * 1_000_000))
    return least + (number - least) % of
