"""Who may come in: keys, signatures, and nonces that were used before."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping

from wan_async.sandbox.database import Store
from wan_async.sandbox.http import Refusal
from wan_async.sandbox.settings import Settings

NONCES_KEPT = 50_000


class Gate:
    """Admits the requests of the account's projects.

    Any integer may be a nonce, so the highest one alone would not do: the latest ones are kept, beyond the process
    if there is a store.
    """

    def __init__(self, settings: Settings, store: Store | None) -> None:
        self._settings = settings
        self._store = store
        self._nonces: dict[str, None] = {} if store is None else dict.fromkeys(store.nonces(NONCES_KEPT))

    def admit(self, headers: Mapping[str, str]) -> str:
        """The key of another project that asks, or nothing for the sandbox's own.

        Raises:
            Refusal: the credentials are not in order.
        """
        key = headers.get("x-api-key", "")
        known = {**self._settings.projects, self._settings.api_key: self._settings.api_secret}
        if key not in known:
            raise Refusal(0, "Project authorization is not founded.", 401)
        if (secret := known[key]) is not None:
            self._check(key, secret, headers.get("x-nonce", ""), headers.get("x-signature", ""))
        return "" if key == self._settings.api_key else key

    def _check(self, key: str, secret: str, nonce: str, signature: str) -> None:
        if not nonce or not signature:
            raise Refusal(0, "Project requires signature authentication (x-nonce and x-signature).", 401)
        expected = hmac.new(key.encode(), f"{secret}{nonce}".encode(), hashlib.sha256).hexdigest()
        if not re.fullmatch(r"[0-9]{1,300}", nonce) or not hmac.compare_digest(signature.encode(), expected.encode()):
            raise Refusal(0, "Project authorization is not valid.", 401)
        rounded = str(int(float(nonce)))  # as a JavaScript server reads it
        used = f"{key} {rounded}" if key != self._settings.api_key else rounded
        if used in self._nonces:
            if re.fullmatch(r"[0-9]{10}", nonce) and not self._settings.strict_nonce:
                return  # whole seconds, as the documentation's own examples send
            raise Refusal(0, "Project authorization is not valid. Nonce was used before.", 401)
        self._nonces[used] = None
        if len(self._nonces) > NONCES_KEPT:
            del self._nonces[next(iter(self._nonces))]
        if self._store is not None:
            self._store.put_nonce(used, NONCES_KEPT)
