"""`doctor` against the sandbox, and against broken environments."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from connections import loopback_tls, refusing
from fronts import Asked, Reply, forwarding, front
from servers import Server, events_of, in_process, sandbox_server

from wan_async.cli.checks import installation
from wan_async.cli.checks.base import Status
from wan_async.cli.checks.model_and_price import model_findings
from wan_async.domain.prices import Tool
from wan_async.sandbox.model_description import describe_model
from wan_async.sandbox.settings import Settings

ALLOWED_SECONDS = 10.0
ALL = [
    "python", "package", "dependencies", "extras", "descriptors", "disk", "settings", "defaults", "proxy", "dns", "tls",
    "api",
    "clock", "credentials", "tasks", "model", "price", "wallet", "socket",
]  # fmt: skip
Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sandbox_server() as running:
        yield running


def examine(*flags: str | Path, env: dict[str, str], cwd: Path) -> tuple[int, Found]:
    """Run `doctor` twice, for people and for programs; returns the exit code, and the findings by check."""
    secrets = [value for name, value in env.items() if name in ("WIRO_API_KEY", "WIRO_API_SECRET") and value]
    began = time.monotonic()
    done = in_process("doctor", "--json", *flags, env=env, cwd=cwd)
    assert time.monotonic() - began < ALLOWED_SECONDS
    lines = events_of(done.stdout)
    assert lines[-1]["event"] == "doctor"
    assert lines[-1]["exit_code"] == done.returncode
    found = {line["check"]: line for line in lines[:-1]}
    assert len(found) == len(lines) - 1
    for line in found.values():
        assert bool(line["advice"]) == (line["status"] in ("warning", "failed")), line
    for secret in [*secrets, "hunter2"]:
        assert secret not in done.stdout + done.stderr
    failed = any(line["status"] == "failed" for line in found.values())
    assert (done.returncode in (4, 6)) == failed
    assert done.returncode in (0, 4, 6)
    return done.returncode, found


def by_status(found: Found, *statuses: str) -> set[str]:
    return {name for name, line in found.items() if line["status"] in statuses}


def test_a_working_account_passes_every_check_and_spends_nothing(server: Server, tmp_path: Path) -> None:
    code, found = examine(env=server.env, cwd=tmp_path)
    assert (code, list(found)) == (0, ALL)
    assert by_status(found, "ok") == set(ALL)
    assert found["credentials"]["kind"] == "signature"
    assert found["price"]["prices"]["720P 16:9"] == "0.12"
    assert found["wallet"]["balance_usd"] == "100.00"
    assert found["wallet"]["concurrency_limit"] == 10
    assert found["settings"]["WIRO_API_KEY"] == "environment"
    assert found["socket"]["greeting"] is True
    assert server.report()["tasks"] == []
    assert list(tmp_path.iterdir()) == []


def test_every_check_is_a_line_that_says_what_was_found_and_what_to_do(server: Server, tmp_path: Path) -> None:
    env = server.env | {"WIRO_API_SECRET": "another-secret"}
    done = in_process("doctor", env=env, cwd=tmp_path)
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [line.split()[1] for line in lines[:-1]] == [*ALL[: ALL.index("tasks")], "account", "socket"]
    assert {line.split()[0] for line in lines[:-1]} == {"ok", "failed", "skipped"}
    (advice,) = [line for line in done.stdout.splitlines() if line.startswith(" ")]
    assert advice.strip().startswith("→")
    assert lines[-1].startswith("1 failed")


def test_a_wrong_secret_is_an_authentication_failure(server: Server, tmp_path: Path) -> None:
    code, found = examine(env=server.env | {"WIRO_API_SECRET": "another-secret"}, cwd=tmp_path)
    assert code == 4
    assert by_status(found, "failed") == {"credentials"}
    assert "secret does not belong to the key" in found["credentials"]["advice"]
    assert found["api"]["status"] == "ok"


def test_a_wrong_key_is_an_authentication_failure(server: Server, tmp_path: Path) -> None:
    code, found = examine(env=server.env | {"WIRO_API_KEY": "another-key"}, cwd=tmp_path)
    assert code == 4
    assert "the key is not known" in found["credentials"]["advice"]


@pytest.mark.parametrize("key", ["two words", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_an_authentication_failure(server: Server, tmp_path: Path, key: str) -> None:
    code, found = examine(env=server.env | {"WIRO_API_KEY": key}, cwd=tmp_path)
    assert code == 4
    assert by_status(found, "failed") == {"credentials"}


def test_no_key_is_an_authentication_failure_and_the_network_is_checked_all_the_same(
    server: Server, tmp_path: Path
) -> None:
    code, found = examine(env={"WIRO_BASE_URL": server.info["base_url"]}, cwd=tmp_path)
    assert code == 4
    assert by_status(found, "failed") == {"credentials"}
    assert "WIRO_API_KEY" in found["credentials"]["advice"]
    assert found["api"]["status"] == "ok"


def test_a_missing_secret_of_a_signature_based_project_is_an_authentication_failure(
    server: Server, tmp_path: Path
) -> None:
    env = {name: value for name, value in server.env.items() if name != "WIRO_API_SECRET"}
    code, found = examine(env=env, cwd=tmp_path)
    assert code == 4
    assert "set WIRO_API_SECRET" in found["credentials"]["advice"]


def test_a_key_only_project_is_recognised_with_and_without_a_secret(tmp_path: Path) -> None:
    with sandbox_server("--key-only") as server:
        code, found = examine(env=server.env, cwd=tmp_path)
        assert (code, found["credentials"]["kind"]) == (0, "key-only")
        assert by_status(found, "ok") == set(ALL)
        code, found = examine(env=server.env | {"WIRO_API_SECRET": "needless"}, cwd=tmp_path)
        assert (code, found["credentials"]["kind"]) == (0, "key-only")
        assert by_status(found, "warning") == {"credentials"}


@pytest.mark.parametrize(("ahead_seconds", "words"), [(3600, "ahead of"), (-3600, "behind")])
def test_a_clock_that_is_off_by_an_hour_is_a_warning(
    server: Server, tmp_path: Path, ahead_seconds: int, words: str
) -> None:
    def shift(_: Asked, reply: Reply) -> Reply:
        date = formatdate(time.time() - ahead_seconds, usegmt=True)
        return replace(reply, headers={**reply.headers, "date": date})

    with front(forwarding(server.root, shift)) as url:
        env = server.env | {"WIRO_BASE_URL": f"{url}/v1"}
        code, found = examine(env=env, cwd=tmp_path)
        assert (code, by_status(found, "warning")) == (0, {"clock"})
        assert words in found["clock"]["message"]
        assert abs(found["clock"]["skew_seconds"] - ahead_seconds) < 5
        code, found = examine(env=env | {"WIRO_API_SECRET": "another-secret"}, cwd=tmp_path)
        assert code == 4
        assert "set the clock" in found["credentials"]["advice"]


def test_an_untrusted_certificate_is_explained(tmp_path: Path) -> None:
    ours, _ = loopback_tls(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection, pytest.raises(OSError, match=r".*"):
                ours.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=accept)
        thread.start()
        env = {"WIRO_API_KEY": "some-key", "WIRO_BASE_URL": f"https://127.0.0.1:{listener.getsockname()[1]}/v1"}
        code, found = examine(env=env, cwd=tmp_path)
        thread.join(10)
    assert code == 6
    assert by_status(found, "failed") == {"tls"}
    assert "not trusted" in found["tls"]["message"]
    assert "SSL_CERT_FILE" in found["tls"]["advice"]


def test_a_socket_that_can_not_be_reached_is_a_warning(server: Server, tmp_path: Path) -> None:
    with refusing() as url:
        code, found = examine(env=server.env | {"WIRO_SOCKET_URL": url.replace("http", "ws")}, cwd=tmp_path)
    assert (code, by_status(found, "warning")) == (0, {"socket"})
    assert "polled" in found["socket"]["advice"]


def test_a_web_page_in_place_of_the_socket_is_a_warning(server: Server, tmp_path: Path) -> None:
    with front(lambda _: Reply(200, b"<html>sign in</html>")) as url:
        code, found = examine(env=server.env | {"WIRO_SOCKET_URL": url.replace("http", "ws")}, cwd=tmp_path)
    assert (code, by_status(found, "warning")) == (0, {"socket"})
    assert "HTTP 200" in found["socket"]["message"]


@pytest.mark.parametrize("place", ["/proc/clips", "file/clips", "file"])
def test_an_output_folder_that_can_not_be_written_fails(server: Server, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    if place.startswith("/") and not Path(place).parent.exists():
        place = "file/clips/deeper"
    code, found = examine("-o", tmp_path / place, env=server.env, cwd=tmp_path)
    assert (code, by_status(found, "failed")) == (6, {"output"})
    assert "-o" in found["output"]["advice"]


def test_a_read_only_output_folder_fails(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(options["dir"]))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)  # root may write everywhere
    code, found = examine("-o", tmp_path, env=server.env, cwd=tmp_path)
    assert (code, by_status(found, "failed")) == (6, {"output"})
    assert "Permission denied" in found["output"]["message"]
    assert "owner or mode" in found["output"]["advice"]


def test_a_writable_output_folder_is_left_as_it_was(server: Server, tmp_path: Path) -> None:
    code, found = examine("-o", tmp_path / "clips" / "new", env=server.env, cwd=tmp_path)
    assert (code, found["output"]["status"]) == (0, "ok")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_fails_and_a_small_one_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, status in ((10**6, Status.FAILED), (5 * 10**8, Status.WARNING), (10**12, Status.OK)):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        assert installation.check_disk(tmp_path, is_output=True).status == status


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_limit_of_64_open_files_is_a_warning_and_every_check_works_within_it(server: Server, tmp_path: Path) -> None:
    words = shlex.join([sys.executable, "-m", "wan_async", "doctor", "--json", "--upload"])
    done = subprocess.run(
        ["sh", "-c", f"ulimit -n 64; exec {words}"],
        env=dict(os.environ) | server.env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    found = {line["check"]: line for line in events_of(done.stdout)[:-1]}
    assert (done.returncode, by_status(found, "warning")) == (0, {"descriptors"}), done.stdout
    assert found["descriptors"]["limit"] == 64
    assert "ulimit" in found["descriptors"]["advice"]


@pytest.mark.parametrize("status", [200, 403, 404, 302])
def test_a_firewall_that_answers_with_a_page_is_recognised(tmp_path: Path, status: int) -> None:
    page = b"<html><head><title>Access denied by ACME</title></head></html>"
    with front(
        lambda _: Reply(status, page, {"content-type": "text/html", "location": "https://login.example/"})
    ) as url:
        env = {"WIRO_API_KEY": "some-key", "WIRO_API_SECRET": "some-secret", "WIRO_BASE_URL": f"{url}/v1"}
        code, found = examine(env=env, cwd=tmp_path)
    assert (code, by_status(found, "failed")) == (6, {"api"})
    if status != 302:
        assert "Access denied by ACME" in found["api"]["message"]
        assert "firewall" in found["api"]["advice"]
    assert "credentials" not in found


def test_an_address_without_the_api_is_recognised(server: Server, tmp_path: Path) -> None:
    env = server.env | {"WIRO_BASE_URL": f"{server.root}/v2"}
    code, found = examine(env=env, cwd=tmp_path)
    assert (code, by_status(found, "failed")) == (6, {"api"})
    assert "WIRO_BASE_URL" in found["api"]["advice"]


def test_no_network_fails_at_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    code, found = examine(env={"WIRO_API_KEY": "some-key", "WIRO_API_SECRET": "some-secret"}, cwd=tmp_path)
    assert (code, by_status(found, "failed")) == (6, {"dns"})
    assert by_status(found, "skipped") == {"tls", "account"}


def test_a_name_server_that_does_not_answer_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def wait(*_: Any, **__: Any) -> None:
        ended.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    try:
        code, found = examine(env={"WIRO_API_KEY": "some-key", "WIRO_API_SECRET": "some-secret"}, cwd=tmp_path)
    finally:
        ended.set()
    assert (code, by_status(found, "failed")) == (6, {"dns"})


def test_a_port_that_refuses_connections_fails(tmp_path: Path) -> None:
    with refusing() as url:
        code, found = examine(env={"WIRO_API_KEY": "some-key", "WIRO_BASE_URL": f"{url}v1"}, cwd=tmp_path)
    assert (code, by_status(found, "failed")) == (6, {"tls"})


def test_an_api_that_never_answers_fails_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {"WIRO_API_KEY": "some-key", "WIRO_BASE_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/v1"}
        code, found = examine(env=env, cwd=tmp_path)
    assert (code, by_status(found, "failed")) == (6, {"api"})


def test_requests_that_never_end_are_left_out_in_time(server: Server, tmp_path: Path) -> None:
    ended = threading.Event()

    def hold(asked: Asked, reply: Reply) -> Reply:
        if not asked.path.endswith("Task/List"):
            ended.wait(30)
        return reply

    with front(forwarding(server.root, hold)) as url:
        try:
            code, found = examine(env=server.env | {"WIRO_BASE_URL": f"{url}/v1"}, cwd=tmp_path)
        finally:
            ended.set()
    assert (code, by_status(found, "warning")) == (0, {"model", "wallet"})


def test_a_fault_of_the_service_is_said_to_be_one(tmp_path: Path) -> None:
    with front(lambda _: Reply(503, b"<html>busy</html>")) as url:
        code, found = examine(env={"WIRO_API_KEY": "some-key", "WIRO_BASE_URL": f"{url}/v1"}, cwd=tmp_path)
    assert (code, by_status(found, "failed")) == (6, {"api"})
    assert "later" in found["api"]["advice"]


def test_a_proxy_is_named_without_its_password(tmp_path: Path) -> None:
    with refusing() as url:
        proxy = url.replace("http://", "http://user:hunter2@").rstrip("/")
        for env, check in (
            ({"HTTPS_PROXY": proxy}, "api"),
            ({"HTTPS_PROXY": "http://user:hunter2@127.0.0.1:port"}, "proxy"),
            ({"HTTPS_PROXY": "http://user:hunter2@nowhere.invalid:3128"}, "dns"),
        ):
            account = {"WIRO_API_KEY": "some-key", "WIRO_BASE_URL": "https://api.example/v1", "no_proxy": ""}
            code, found = examine(env=account | env, cwd=tmp_path)
            assert (code, by_status(found, "failed")) == (6, {check})


def test_a_base_url_that_would_send_the_key_in_plain_text_fails(tmp_path: Path) -> None:
    env = {"WIRO_API_KEY": "some-key", "WIRO_BASE_URL": "http://api.example/v1"}
    code, found = examine(env=env, cwd=tmp_path)
    assert (code, by_status(found, "failed")) == (6, {"settings"})


def test_the_source_of_each_setting_is_shown_and_what_of_env_is_ignored(server: Server, tmp_path: Path) -> None:
    lines = [f"{name}={value}" for name, value in server.env.items()]
    (tmp_path / ".env").write_text("\n".join(lines))
    code, found = examine(env={}, cwd=tmp_path)
    assert (code, found["settings"]["WIRO_API_SECRET"], found["settings"]["status"]) == (0, ".env", "ok")
    code, found = examine(env=server.env | {"WIRO_API_KEY": "another-key"}, cwd=tmp_path)
    assert (code, found["settings"]["WIRO_API_KEY"]) == (4, "environment")
    assert by_status(found, "warning") == {"settings"}
    assert "WIRO_API_KEY of .env ignored" in found["settings"]["message"]


def test_a_balance_that_pays_for_nothing_fails(tmp_path: Path) -> None:
    with sandbox_server("--balance", "0.4") as server:
        code, found = examine(env=server.env, cwd=tmp_path)
    assert (code, by_status(found, "failed")) == (6, {"wallet"})


def test_an_upload_is_checked_only_when_that_is_asked_for(tmp_path: Path) -> None:
    with sandbox_server() as server:
        code, found = examine("--upload", env=server.env, cwd=tmp_path)
        assert (code, found["upload"]["status"]) == (0, "ok")
        assert server.report()["requests"]["File/Upload"] == 1
        server.control(settings={"uploads": "refuse"})
        code, found = examine("--upload", env=server.env, cwd=tmp_path)
        assert (code, by_status(found, "warning")) == (0, {"upload"})
        assert "inside" in found["upload"]["advice"]


def test_doctor_checks_a_sandbox_of_its_own(tmp_path: Path) -> None:
    code, found = examine("--sandbox", env={}, cwd=tmp_path)
    assert (code, by_status(found, "ok")) == (0, set(ALL) - {"settings", "defaults"})


def changed(**changes: Any) -> Tool:
    return Tool.model_validate(describe_model(Settings()) | changes)


def test_differences_of_the_model_are_named() -> None:
    def item(name: str, **fields: Any) -> dict[str, Any]:
        return {"id": name, **fields}

    items = [
        item("inputImage"), item("prompt"), item("negativePrompt"),
        item("resolution", options=[{"value": "480P"}, {"value": "1080P"}], value="1080P"),
        item("aspectRatio", options=[]), item("frames", required="true"), item("loop"), item("callbackUrl"),
    ]  # fmt: skip
    for parameters in ([{"title": "all", "items": items}], items, json.dumps([{"items": items}])):
        found, _ = model_findings(changed(parameters=parameters))
        assert found.status == Status.WARNING
        assert found.facts["differences"] == [
            "resolution no longer takes 580P, 720P", "resolution also takes 1080P",
            "resolution is 1080P by default, and here 480P", "it has no seed", "it requires frames",
            "it also takes loop",
        ]  # fmt: skip


@pytest.mark.parametrize("parameters", [None, [], "nonsense", [{"title": "x", "items": None}], 7])
def test_a_model_without_a_list_of_parameters_is_no_problem(parameters: object) -> None:
    found, price = model_findings(changed(parameters=parameters))
    assert (found.status, price.status) == (Status.OK, Status.OK)


def test_a_price_that_is_not_known_in_advance_is_a_warning() -> None:
    unknown = [{"inputs": {}, "price": 0.1, "priceMethod": "cp-pixel"}]
    _, found = model_findings(changed(dynamicprice=json.dumps(unknown)))
    assert found.status == Status.WARNING
    assert "cp-pixel" in found.message


def test_the_tables_of_packages_are_those_of_the_project() -> None:
    path = Path(installation.__file__).parents[3] / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]

    def table(lines: list[str]) -> dict[str, str]:
        return {
            line.partition(">=")[0].partition("[")[0].strip(): line.partition(">=")[2].partition(",")[0]
            for line in lines
        }

    assert table(project["dependencies"]) == installation.DEPENDENCIES
    extras = {name: table(lines) for name, lines in project["optional-dependencies"].items() if name != "dev"}
    assert extras == {name: packages for name, (_, packages) in installation.EXTRAS.items()}


def test_old_and_missing_packages_are_found() -> None:
    def version(name: str) -> str | None:
        return {"httpx": "0.27.2", "watchfiles": None, "av": "9.0"}.get(name, "999")

    findings = {found.check: found for found in installation.check_versions(version)}
    assert findings["dependencies"].status == Status.FAILED
    assert "httpx 0.27.2 is older than 0.28" in findings["dependencies"].message
    assert findings["extras"].status == Status.WARNING
    assert "pip install 'wan-async[watch]'" in findings["extras"].message
    assert findings["extras"].advice == "pip install -U 'wan-async[sandbox]'"


def test_doctor_says_where_the_defaults_of_flags_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    user = tmp_path / "user.toml"
    user.write_text("concurrency = 4\ndownloads = 2\n")
    monkeypatch.setenv("WAN_ASYNC_CONFIG", str(user))
    (tmp_path / "wan-async.toml").write_text("budget = 5\nconcurrency = 5\n[set]\nseed = 3\n")
    monkeypatch.setenv("WAN_ASYNC_PREPARE", "true")
    finding = installation.check_defaults()
    assert (finding.status, finding.facts) == (
        Status.OK,
        {
            "concurrency": "wan-async.toml", "downloads": str(user), "budget": "wan-async.toml",
            "set": "wan-async.toml",
            "prepare": "environment",
        },
    )  # fmt: skip
    for said in ("concurrency = 5 from wan-async.toml", "prepare = true from environment", "set = seed=3 from"):
        assert said in finding.message
    (tmp_path / "wan-async.toml").write_text("budge = 5\n")
    assert installation.check_defaults().status == Status.FAILED
    assert 'did you mean "budget"?' in installation.check_defaults().message
