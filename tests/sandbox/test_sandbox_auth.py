"""Authentication in the sandbox: several projects, signatures, and nonces across restarts."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from sandbox_client import signed

from wan_async.sandbox.auth import Authenticator
from wan_async.sandbox.database import Database
from wan_async.sandbox.http import Refusal
from wan_async.sandbox.settings import Settings


def refusal(authenticator: Authenticator, headers: dict[str, str]) -> str:
    with pytest.raises(Refusal) as refused:
        authenticator.authenticate(headers)
    assert refused.value.status == 401
    return refused.value.message


def test_each_project_has_its_own_secret_and_its_own_nonces() -> None:
    authenticator = Authenticator(Settings(projects={"other": "its secret", "plain": None}), None)
    assert authenticator.authenticate(signed(nonce="1")) == ""
    assert authenticator.authenticate(signed("other", "its secret", nonce="1")) == "other"
    assert authenticator.authenticate({"x-api-key": "plain"}) == "plain"
    assert "Nonce" in refusal(authenticator, signed("other", "its secret", nonce="1"))
    assert refusal(authenticator, signed("other", nonce="2")) == "Project authorization is not valid."
    assert refusal(authenticator, {"x-api-key": "other"}).startswith("Project requires signature authentication")
    assert refusal(authenticator, signed("nobody", nonce="3")) == "Project authorization is not founded."
    assert refusal(authenticator, {}) == "Project authorization is not founded."


def test_nonces_may_come_in_any_order_but_only_once_even_after_a_restart(tmp_path: Path) -> None:
    used = ["5", "3", "9", "1", "007"]
    with closing(Database(tmp_path)) as database:
        authenticator = Authenticator(Settings(), database)
        for nonce in used:
            authenticator.authenticate(signed(nonce=nonce))
    with closing(Database(tmp_path)) as database:
        authenticator = Authenticator(Settings(), database)
        for nonce in [*used, "7", "05"]:
            assert "Nonce" in refusal(authenticator, signed(nonce=nonce))
        assert authenticator.authenticate(signed(nonce="4")) == ""


def test_a_refused_request_does_not_use_its_nonce() -> None:
    authenticator = Authenticator(Settings(), None)
    refusal(authenticator, signed(secret="another", nonce="1"))
    assert authenticator.authenticate(signed(nonce="1")) == ""


def test_only_the_latest_nonces_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wan_async.sandbox.auth.NONCES_KEPT", 3)
    with closing(Database(tmp_path)) as database:
        authenticator = Authenticator(Settings(), database)
        for number in range(6):
            authenticator.authenticate(signed(nonce=str(number)))
        assert database.nonces(100) == list(authenticator._nonces) == ["3", "4", "5"]
        authenticator.authenticate(signed(nonce="0"))


@pytest.mark.parametrize(
    "headers",
    [{**signed(), "x-signature": "\xe9"}, signed(nonce="\xb2"), signed(nonce="9" * 400), signed(nonce="12ab")],
)
def test_malformed_nonces_and_signatures_are_refused(headers: dict[str, str]) -> None:
    assert refusal(Authenticator(Settings(), None), headers) == "Project authorization is not valid."


def test_nonces_that_are_equal_as_doubles_are_equal() -> None:
    authenticator = Authenticator(Settings(), None)
    authenticator.authenticate(signed(nonce="9007199254740993000"))
    assert "Nonce" in refusal(authenticator, signed(nonce="9007199254740993001"))
