"""Who may come in to the sandbox: several projects, and nonces that outlive the process."""

from __future__ import annotations

import hashlib
import hmac
from contextlib import closing
from pathlib import Path

import pytest

from wan_async.sandbox.auth import Authenticator
from wan_async.sandbox.database import Database
from wan_async.sandbox.http import Refusal
from wan_async.sandbox.settings import Settings


def signed(nonce: str, key: str = "sandbox-key", secret: str = "sandbox-secret") -> dict[str, str]:
    signature = hmac.new(key.encode(), (secret + nonce).encode(), hashlib.sha256).hexdigest()
    return {"x-api-key": key, "x-nonce": nonce, "x-signature": signature}


def refusal(authenticator: Authenticator, headers: dict[str, str]) -> str:
    with pytest.raises(Refusal) as refused:
        authenticator.authenticate(headers)
    assert refused.value.status == 401
    return refused.value.message


def test_each_project_has_its_own_secret_and_its_own_nonces() -> None:
    authenticator = Authenticator(Settings(projects={"other": "its secret", "plain": None}), None)
    assert authenticator.authenticate(signed("1")) == ""
    assert authenticator.authenticate(signed("1", "other", "its secret")) == "other"
    assert authenticator.authenticate({"x-api-key": "plain"}) == "plain"
    assert "Nonce" in refusal(authenticator, signed("1", "other", "its secret"))
    assert refusal(authenticator, signed("2", "other")) == "Project authorization is not valid."
    assert refusal(authenticator, {"x-api-key": "other"}).startswith("Project requires signature authentication")
    assert refusal(authenticator, signed("3", "nobody")) == "Project authorization is not founded."
    assert refusal(authenticator, {}) == "Project authorization is not founded."


def test_any_order_of_nonces_will_do_but_none_twice_also_after_a_restart(tmp_path: Path) -> None:
    used = ["5", "3", "9", "1", "007"]
    with closing(Database(tmp_path)) as database:
        authenticator = Authenticator(Settings(), database)
        for nonce in used:
            authenticator.authenticate(signed(nonce))
    with closing(Database(tmp_path)) as database:
        authenticator = Authenticator(Settings(), database)
        for nonce in [*used, "7", "05"]:
            assert "Nonce" in refusal(authenticator, signed(nonce))
        assert authenticator.authenticate(signed("4")) == ""


def test_a_request_that_was_refused_used_no_nonce_up() -> None:
    authenticator = Authenticator(Settings(), None)
    refusal(authenticator, signed("1", secret="another"))
    assert authenticator.authenticate(signed("1")) == ""


def test_nonces_are_forgotten_when_there_are_too_many_in_memory_and_on_disk_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wan_async.sandbox.auth.NONCES_KEPT", 3)
    with closing(Database(tmp_path)) as database:
        authenticator = Authenticator(Settings(), database)
        for number in range(6):
            authenticator.authenticate(signed(str(number)))
        assert database.nonces(100) == list(authenticator._nonces) == ["3", "4", "5"]
        authenticator.authenticate(signed("0"))
