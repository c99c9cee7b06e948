"""The checks of `doctor`, one by one, against answers and faults that a whole `doctor` meets rarely."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from connections import loopback_tls, refusing
from fronts import Asked, Handle, Reply, front
from servers import events_of, in_process

from wan_async import errors
from wan_async.cli import api_settings
from wan_async.cli.api_settings import Access
from wan_async.cli.checks import account, conformance, installation, network, socket_connection
from wan_async.cli.checks.base import Finding, Status
from wan_async.cli.commands import doctor
from wan_async.domain.exit_codes import ExitCode
from wan_async.http import descriptor_limit

Found = dict[str, Finding]
LIST, WALLET = "/Task/List", "/Wallet/List"


def answering(answers: dict[str, Any], **headers: str) -> Handle:
    """Answers by the end of the path; what has no answer is not found."""

    def handle(asked: Asked) -> Reply:
        default = refusal("there is no such thing", 1)
        content = next((answer for end, answer in answers.items() if asked.path.endswith(end)), default)
        return Reply(200, json.dumps(content).encode(), {"content-type": "application/json", **headers})

    return handle


def refusal(message: str, code: int = 0) -> dict[str, Any]:
    return {"result": False, "errors": [{"code": code, "message": message}]}


def account_findings(handle: Handle, *, secret: str | None = None) -> Found:
    found: list[Finding] = []
    with front(handle) as url:
        access = Access(f"{url}/v1", "some-key", secret, url, None)
        anyio.run(partial(account.check_account, access, access.base_url, found.append, upload=False))
    return {each.check: each for each in found}


@pytest.mark.parametrize(
    ("answer", "failing", "advice", "code"),
    [
        (refusal("something odd", 5), "api", "documentation", ExitCode.ENVIRONMENT),
        (refusal("Your account has been suspended."), "credentials", "support", ExitCode.ENVIRONMENT),
        (refusal("IP is not allowed", 98), "credentials", "public address", ExitCode.AUTHENTICATION),
        (refusal("no access", 98), "credentials", "set WIRO_API_KEY", ExitCode.AUTHENTICATION),
    ],
)
def test_what_the_api_refuses_is_advised_upon(
    answer: dict[str, Any], failing: str, advice: str, code: ExitCode
) -> None:
    found = account_findings(answering({LIST: answer}))
    assert {name for name, each in found.items() if each.status == Status.FAILED} == {failing}
    assert advice in str(found[failing].advice)
    assert (found[failing].exit_code, found["account"].status) == (code, Status.SKIPPED)
    assert "tasks" not in found


def test_an_exhausted_rate_limit_is_a_warning() -> None:
    found = account_findings(lambda _: Reply(429, b"{}", {"retry-after": "0"}))
    assert found["api"].status == Status.WARNING
    assert "rate limit" in str(found["api"].advice)


def test_an_answer_without_a_date_a_model_or_a_balance_is_said_to_be_that() -> None:
    listed = {"result": True, "errors": [], "tasklist": [], "total": "0"}
    answers = {LIST: listed, WALLET: {"result": True, "errors": []}}
    found = account_findings(answering(answers, date="soon"), secret="some-secret")
    assert found["clock"].status == Status.SKIPPED
    assert found["credentials"].status == Status.WARNING  # the list was shown without a signature, too
    assert (found["model"].status, found["wallet"].status) == (Status.FAILED, Status.WARNING)


def test_a_project_whose_kind_cannot_be_asked_for_is_accepted_as_it_is() -> None:
    listed = {"result": True, "errors": [], "tasklist": []}
    lists = answering({LIST: listed})
    fails = answering({LIST: refusal("something odd", 5)})

    def handle(asked: Asked) -> Reply:
        return (fails if "x-signature" not in asked.headers else lists)(asked)

    found = account_findings(handle, secret="some-secret")
    assert (found["credentials"].status, found["credentials"].facts) == (Status.OK, {"kind": "signature"})


def way(base_url: str) -> tuple[bool, Found]:
    found: list[Finding] = []
    is_open = anyio.run(network.check_way, base_url, found.append)
    return is_open, {each.check: each for each in found}


def serve_once(listener: socket.socket, act: Callable[[socket.socket], None]) -> threading.Thread:
    def accept() -> None:
        connection, _ = listener.accept()
        with connection:
            act(connection)

    thread = threading.Thread(target=accept)
    thread.start()
    return thread


def test_a_trusted_server_is_shown_with_its_tls_version_and_the_end_of_its_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, pem = loopback_tls(tmp_path)
    monkeypatch.setattr(network, "shared_ssl_context", lambda: ssl.create_default_context(cafile=str(pem)))
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [(2, 1, 6, "", ("127.0.0.1", port))])
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def act(connection: socket.socket) -> None:
            # whoever leaves without reading the session tickets of TLS 1.3 resets the connection
            with suppress(ConnectionResetError), ours.wrap_socket(connection, server_side=True) as secured:
                secured.recv(1)

        thread = serve_once(listener, act)
        is_open, found = way(f"https://127.0.0.1:{listener.getsockname()[1]}/v1")
        thread.join(10)
    assert is_open
    assert found["tls"].message.startswith("TLSv1.3 with 127.0.0.1:")
    assert "valid until 2" in found["tls"].message


def test_a_name_is_shown_with_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(2, 1, 6, "", ("192.0.2.1", 443)), (2, 1, 6, "", ("192.0.2.2", 443)), (2, 1, 6, "", ("192.0.2.1", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    found = anyio.run(network.check_name, network.Peer("api.example", 443, True))
    assert (found.status, found.facts["addresses"]) == (Status.OK, ["192.0.2.1", "192.0.2.2"])


def test_certificates_that_cannot_be_read_are_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> ssl.SSLContext:
        raise errors.Unusable("the certificates of x can't be used")

    monkeypatch.setattr(network, "shared_ssl_context", refuse)
    is_open, found = way("https://127.0.0.1:1/v1")
    assert (is_open, found["tls"].message) == (False, "the certificates of x can't be used")


def test_a_server_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "CONNECT_SECONDS", 0.05)
    monkeypatch.setattr(socket_connection, "CONNECT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        is_open, found = way(f"https://{place}/v1")
        assert (is_open, found["tls"].status) == (False, Status.FAILED)
        assert "does not answer within" in found["tls"].message
        heard = anyio.run(socket_connection.check_socket, f"ws://{place}/v1")
    assert (heard.status, "does not answer within" in heard.message) == (Status.WARNING, True)


def test_a_proxy_without_a_host_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://:3128")
    monkeypatch.setenv("no_proxy", "")
    is_open, found = way("https://api.example/v1")
    assert (is_open, found["proxy"].status, list(found)) == (False, Status.FAILED, ["proxy"])


def test_a_socket_of_no_or_an_unknown_address_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = {url: anyio.run(socket_connection.check_socket, url) for url in ("https://x.example", "wss://x.example")}
    assert {each.status for each in found.values()} == {Status.WARNING}
    assert "WIRO_SOCKET_URL" in str(found["https://x.example"].advice)
    assert "polled" in str(found["wss://x.example"].advice)


def test_a_socket_that_closes_at_once_is_a_warning() -> None:
    def leave(connection: socket.socket) -> None:
        from wsproto import ConnectionType, WSConnection
        from wsproto.events import AcceptConnection, CloseConnection

        protocol = WSConnection(ConnectionType.SERVER)
        protocol.receive_data(connection.recv(4096))
        list(protocol.events())
        connection.sendall(protocol.send(AcceptConnection()) + protocol.send(CloseConnection(4000)))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = serve_once(listener, leave)
        found = anyio.run(socket_connection.check_socket, f"ws://127.0.0.1:{listener.getsockname()[1]}/v1")
        thread.join(10)
    assert (found.status, "closed with code 4000" in found.message) == (Status.WARNING, True)


def test_an_old_python_a_missing_package_and_no_limit_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installation.installed_version("no-such-package-of-ours") is None
    monkeypatch.setattr(installation, "LEAST_PYTHON", (99, 0))
    (python,) = [each for each in installation.check_versions() if each.check == "python"]
    assert (python.status, "Python 3.11" in str(python.advice)) == (Status.FAILED, True)
    monkeypatch.setattr(descriptor_limit, "soft_limit", lambda: None)
    assert installation.check_descriptors().facts == {"limit": None}


def test_a_folder_whose_disk_cannot_be_asked_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "disk_usage", refuse)
    found = installation.check_disk(tmp_path, is_output=True)
    assert (found.status, found.message) == (Status.FAILED, f"{tmp_path} can't be used: Input/output error")


def checked(cwd: Path, **env: str) -> tuple[int, dict[str, Any]]:
    done = in_process("doctor", "--json", env=env, cwd=cwd)
    return done.returncode, {line["check"]: line for line in events_of(done.stdout)[:-1]}


def test_an_unreadable_settings_file_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise errors.Unusable(".env can't be read: Permission denied")

    monkeypatch.setattr(api_settings, "from_environment", refuse)
    code, found = checked(tmp_path)
    assert (code, found["settings"]["status"], "dns" in found) == (6, "failed", False)


def test_without_a_key_and_a_network_both_are_said(tmp_path: Path) -> None:
    with refusing() as url:
        code, found = checked(tmp_path, WIRO_BASE_URL=f"{url}v1")
    assert (found["tls"]["status"], found["credentials"]["status"], found["account"]["status"]) == (
        "failed", "failed", "skipped",
    )  # fmt: skip
    assert code == 4


def test_a_disk_and_a_network_that_take_too_long_fail_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def wait(*_: object, **__: object) -> Finding:
        go_on.wait(30)
        raise AssertionError("waited for")

    monkeypatch.setattr(installation, "check_disk", wait)
    monkeypatch.setattr(doctor, "DISK_SECONDS", 0.05)
    try:
        with refusing() as url:
            _, found = checked(tmp_path, WIRO_API_KEY="k", WIRO_BASE_URL=f"{url}v1")
            assert found["disk"]["status"] == "failed"
            monkeypatch.setattr(doctor, "DISK_SECONDS", 30.0)
            monkeypatch.setattr(doctor, "TOTAL_SECONDS", 0.05)
            code, found = checked(tmp_path, WIRO_API_KEY="k", WIRO_BASE_URL=f"{url}v1")
    finally:
        go_on.set()
    assert (code, found["time"]["status"]) == (6, "failed")


def test_a_recording_that_cannot_be_written_or_a_run_that_cannot_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = Access("http://127.0.0.1:9/v1", "some-key", None, "http://127.0.0.1:9", None)
    (tmp_path / "file").write_text("in the way")
    found, code = conformance.render(access, tmp_path / "file" / "clips")
    assert (found.status, code) == (Status.FAILED, ExitCode.ENVIRONMENT)
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.5)
    output = tmp_path / "clips"
    (output / ".wan_async").mkdir(parents=True)
    (output / ".wan_async" / "journal.sqlite3").write_bytes(b"no database, but as long as the header of one " * 9)
    for _ in range(2):
        found, code = conformance.render(access, output)
        assert (found.status, code) == (Status.FAILED, ExitCode.ENVIRONMENT)
        assert "not rendered twice" in str(found.advice)
    assert len(list(output.glob("recording-*.jsonl"))) == 2
