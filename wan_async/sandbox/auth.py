"""Authentication of requests: API keys, signatures, and nonces that must not be repeated."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping

from wan_async.sandbox.database import Database
from wan_async.sandbox.http import Refusal
from wan_async.sandbox.settings import Settings

NONCES_KEPT = 50_000


class Authenticator:
    """Authenticates the requests of the account's projects.

    Nonces need not increase, so the latest ones are all remembered; in the database, if there is one.
    """

    def __init__(self, settings: Settings, database: Database | None) -> None:
        self._settings = settings
        self._database = database
        self._nonces: dict[str, None] = {} if database is None else dict.fromkeys(database.nonces(NONCES_KEPT))

    def authenticate(self, headers: Mapping[str, str]) -> str:
        """Return the API key of the project that sent the request; an empty string for the sandbox's own project.

        Raises:
            Refusal: the key or the signature is wrong, or the nonce was used before.
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
        rounded = str(int(float(nonce)))  # a JavaScript server parses it as a double
        used = f"{key} {rounded}" if key != self._settings.api_key else rounded
        if used in self._nonces:
            if re.fullmatch(r"[0-9]{10}", nonce) and not self._settings.strict_nonce:
                return  # the documentation's examples send whole seconds, which may be repeated
            raise Refusal(0, "Project authorization is not valid. Nonce was used before.", 401)
        self._nonces[used] = None
        if len(self._nonces) > NONCES_KEPT:
            del self._nonces[next(iter(self._nonces))]
        if self._database is not None:
            self._database.put_nonce(used, NONCES_KEPT)
